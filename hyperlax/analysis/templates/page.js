const dark = matchMedia("(prefers-color-scheme: dark)");
const template = () => templates[dark.matches ? "dark" : "light"];
// plotly 7 offers by default to upload a chart to its cloud: a report stays where it is.
const config = {responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud"], plotlyServerURL: ""};
const shared = JSON.parse(document.getElementById("shared").textContent);
const texts = shared.texts.map(text => text.replaceAll("\n", "<br>"));
const revive = (name, value) => value?.shared === undefined ? value : shared.lists[value.shared].slice();
// On a narrow page: the layout that a figure brings for it, legends below, and of parallel coordinates the axes that fit.
const NARROW = 600, AXIS = 75;
const wrap = text => text.split("<br>").flatMap(line => line.match(/.{1,26}(?: |$)|\S+ ?/g)).join("<br>");
const narrow = innerWidth <= NARROW;
if (narrow) config.displayModeBar = false;
const fit = (figure, plot) => {
  const layout = {...figure.layout, ...figure.layout.meta?.narrow};
  layout.margin = {...layout.margin, l: 44, r: 8};
  for (const [name, axis] of Object.entries(layout).filter(([name, axis]) => name.startsWith("xaxis") && axis.title?.text))
    layout[name] = {...axis, title: {...axis.title, text: wrap(axis.title.text)}};
  const named = figure.data.filter(trace => trace.showlegend !== false && trace.name);
  if (named.length > 1) {
    const title = {...layout.legend?.title, side: "top"};
    layout.legend = {...layout.legend, title, orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom"};
    layout.margin = {...layout.margin, b: 80 + 20 * named.length};
    layout.height += 20 * named.length;
  }
  for (const trace of figure.data.filter(trace => trace.type === "parcoords")) {
    const all = trace.dimensions.length, count = Math.max(2, Math.floor(plot.clientWidth / AXIS));
    layout.margin = {...layout.margin, r: 30};
    if (all <= count) continue;
    trace.dimensions = trace.dimensions.slice(0, count);
    trace.line.showscale = false;
    const words = document.createElement("p");
    words.className = "soft";
    words.textContent = `The first ${count} of ${all} axes; a wider window shows all.`;
    plot.before(words);
  }
  if (layout.coloraxis) layout.coloraxis = {...layout.coloraxis, showscale: false};
  figure.layout = layout;
};
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
    if (narrow) fit(figure, plot);
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
    const words = filter.value.toLowerCase().split(/\s+/).filter(word => word);
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
