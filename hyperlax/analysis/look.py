"""The look of every page: one style sheet and one script, both inline, so that a page works without a network."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7fa; --card: #ffffff; --ink: #232936; --soft: #667085; --line: #e1e5ed; --accent: #c9431b; --wash: #fdf0eb;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #12161f; --card: #1b2130; --ink: #d9deea; --soft: #939db2; --line: #2c3446; --accent: #ff8a66; --wash: #2b2223; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 4px; }
h3 { font-size: .95rem; margin: 20px 0 6px; }
p { margin: 0 0 12px; }
.soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 12px; }
.tile b { display: block; font-size: 1.2rem; line-height: 1.3; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .84rem; }
.tile.first { border-color: var(--accent); background: var(--wash); }
.scroll { overflow-x: auto; }
.sortable th { cursor: pointer; }
.sortable th[aria-sort]::after { content: " ▲"; }
.sortable th[aria-sort="descending"]::after { content: " ▼"; }
.filter { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line); border-radius: 8px;
  padding: 6px 10px; margin-bottom: 12px; width: min(100%, 360px); }
.tall { max-height: 560px; overflow-y: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall th { position: sticky; top: 0; background: var(--card); }
table { border-collapse: collapse; min-width: 40%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap; }
th, td { padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td, th.number { text-align: right; white-space: nowrap; }
td.short, td.reason, td.long { text-align: left; }
td.reason { min-width: 280px; white-space: normal; overflow-wrap: anywhere; }
td.long { min-width: 150px; white-space: normal; overflow-wrap: anywhere; }
.columns { display: grid; gap: 8px 28px; }
@media (min-width: 1000px) { .columns { grid-template-columns: 7fr 5fr; } }
.columns table { width: 100%; }
.columns > * { min-width: 0; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 8px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .83rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
.error { border-left: 4px solid var(--accent); background: var(--wash); padding: 10px 14px; border-radius: 6px; overflow-wrap: anywhere; }
a { color: var(--accent); }
pre + .scroll, pre + .columns { margin-top: 14px; }
@media print {
  .filter, .filter + output, .modebar { display: none; }
  :root { --page: #ffffff; --card: #ffffff; --ink: #232936; --soft: #667085; --line: #e1e5ed; --accent: #c9431b; --wash: #fdf0eb; }
  main { padding: 0; }
  .tall { max-height: none; }
  .scroll { overflow: visible; }
  .plot { min-width: 0 !important; }
  .scroll table { font-size: .72rem; }
  .tall table { font-size: .34rem; }
  .scroll th, .scroll td { padding: 2px 4px; min-width: 0; }
  .tall th { white-space: normal; overflow-wrap: anywhere; }
  .tall th { position: static; }
  section:has(.tall) { break-inside: auto; }
  section { break-inside: avoid-page; }
}
"""

SCRIPT = """
const templates = TEMPLATES;
const dark = matchMedia("(prefers-color-scheme: dark)");
const template = () => templates[dark.matches ? "dark" : "light"];
// plotly 7 offers by default to upload a chart to its cloud: a report stays where it is.
const config = {responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud"], plotlyServerURL: ""};
const shared = JSON.parse(document.getElementById("shared").textContent);
const texts = shared.texts.map(text => text.replaceAll("\\n", "<br>"));
const revive = (name, value) => value?.shared === undefined ? value : shared.lists[value.shared].slice();
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const fail = error => {
    const words = document.createElement("p");
    words.className = "error";
    words.textContent = `The browser could not draw this plot. ${error}`;
    plot.replaceWith(words);
  };
  try {
    const figure = JSON.parse(plot.nextElementSibling.textContent, revive);
    for (const trace of figure.data)
      if (Array.isArray(trace.hovertext)) trace.hovertext = trace.hovertext.map(text => typeof text === "number" ? texts[text] : text);
    figure.layout.template = template();
    Plotly.newPlot(plot, figure.data, figure.layout, config).catch(fail);
  } catch (error) {
    fail(error);
  }
}
const again = change => plots.filter(plot => plot.isConnected).forEach(plot => Plotly.relayout(plot, change(plot)));
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, place) => row.cells[place].title || row.cells[place].textContent;
  const sort = (head, place) => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
    body.append(...[...body.rows].sort((one, other) => {
      const [x, y] = [value(one, place), value(other, place)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return down * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    }));
  };
  heads.forEach((head, place) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head, place));
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head, place); });
  });
  const filter = table.closest("section").querySelector("input.filter");
  const rows = [...body.rows], count = filter.nextElementSibling;
  const tell = () => { count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`; };
  tell();
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\\s+/).filter(word => word);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
    tell();
  });
}
dark.addEventListener("change", () => again(() => ({template: template()})));
// Paper is narrow and white, whatever the window is.
const PAPER = 680;
addEventListener("beforeprint", () => again(() => ({width: PAPER, template: templates.light})));
addEventListener("afterprint", () => again(() => ({width: null, autosize: true, template: template()})));
"""
