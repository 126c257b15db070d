"""The report in a real browser: nothing on its console, no wider than its window, every plot drawn, tables that sort and filter."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.analysis.pages import write_study_pages
from tests.made_up_studies import study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the report with"),
]
WIDE, MIDDLE, NARROW = (1280, 900), (1024, 768), (390, 844)
PLOTS = {
    "Learning curves", "Optimization history", "Hyperparameter importances", "Parallel coordinates", "Slices",
    "Parameter distributions",
    "The two most important hyperparameters", "Timeline of lanes",
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    write_study_pages(study(directory, [3.0, 1.0, 20.0, 4.0, 5.0, 100.0, 7.5, 8.0, 0.5, 12.0], failed={1}))
    return directory / "report.html"


@pytest.fixture(scope="module")
def page_of_two(tmp_path_factory) -> Path:
    """Of a study with two objectives."""
    directory = tmp_path_factory.mktemp("study")
    values = np.random.default_rng(1).normal(size=(40, 2)) * 100
    write_study_pages(study(directory, values, {"peak_performance": "maximize", "num_parameters": "minimize"}))
    return directory / "report.html"


def framed(page: Path, window: tuple[int, int], script: str = "") -> Path:
    """A page around the page, in a frame of the window's size: the browser's own windows are at least 500 pixels wide."""
    inner = html.escape(page.read_text(encoding="utf-8").replace("</body>", f"{script}</body>"))
    frame = f'<iframe style="border: 0" width="{window[0]}" height="{window[1]}" srcdoc="{inner}"></iframe>'
    around = page.with_name("probe.html")
    around.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">{frame}</body>', encoding="utf-8")
    return around


def look(page: Path, script: str, window: tuple[int, int] = WIDE, dark: bool = False) -> Any:
    """What a script, an expression, gives on the page once it is drawn. AssertionError if the page wrote to the console."""
    found = f"parent.document.body.dataset.found = JSON.stringify({script})"
    asked = f'<script>addEventListener("load", () => setTimeout(() => {{ {found}; }}, 500));</script>'
    said, shown = _browse(framed(page, window, asked), ["--dump-dom"], WIDE, dark)
    console = [line for line in said.splitlines() if ":CONSOLE" in line and "WebGL" not in line]
    assert not console
    answer = re.search(r'<body[^>]* data-found="([^"]*)"', shown)
    assert answer, "the script did not run to its end"
    return json.loads(html.unescape(answer[1]))


def _browse(page: Path, options: list[str], window: tuple[int, int], dark: bool) -> tuple[str, str]:
    """What the browser wrote on standard error, and on standard output."""
    words = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    words += [
        f"--window-size={window[0]},{window[1]}",
        "--virtual-time-budget=8000",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    words += ["--blink-settings=preferredColorScheme=0"] if dark else []
    run = subprocess.run([*words, *options, page.as_uri()], check=True, capture_output=True, text=True)
    return run.stderr, run.stdout


DRAWN = """[...document.querySelectorAll(".plot")].map(plot => [
  plot.closest("section").querySelector("h2").textContent,
  plot.querySelectorAll(".points path, .js-line, .heatmaplayer image, .parcoords .y-axis").length,
])"""
"""Of every plot its heading, and how many marks it shows; of parallel coordinates, which are drawn on a canvas, the axes."""


CUT = """[...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).map(
  box => (box.querySelector(".plot, table")).className)"""
"""Script: the elements that are wider than their box, so that a reader would have to scroll."""
BEYOND = """[...document.querySelectorAll(".plot")].flatMap(plot => [...plot.querySelectorAll(".xtitle")].filter(title => {
  const [text, box] = [title.getBoundingClientRect(), plot.getBoundingClientRect()];
  return text.left < box.left || text.right > box.right;
}).map(title => title.textContent))"""
"""Script: the titles of horizontal axes that leave their plot, where they are cut off."""


@pytest.mark.parametrize(
    ("window", "dark", "scrolled"),
    [(WIDE, False, {"sortable"}), (MIDDLE, False, {"sortable", "plot"}), (NARROW, True, set())],
    ids=["1280-light", "1024-light", "390-dark"],
)
def test_the_report_fits_its_window_and_the_console_stays_empty(page, window, dark, scrolled):
    """scrolled: what may be wider than its box, the table of all trials and parallel coordinates."""
    width, drawn, areas, bars, background, cut, beyond = look(
        page,
        f"[document.documentElement.scrollWidth, {DRAWN}, document.querySelectorAll('.heatmaplayer image').length, "
        f"document.querySelectorAll('.barlayer .point').length, getComputedStyle(document.body).backgroundColor, {CUT}, {BEYOND}]",
        window,
        dark,
    )
    assert width <= window[0]
    assert {title for title, _ in drawn} == PLOTS and all(count for _, count in drawn)
    assert areas == 1 and bars > 10 + 7 and beyond == []
    assert {name.split()[0] for name in cut} <= scrolled
    assert background == ("rgb(18, 22, 31)" if dark else "rgb(246, 247, 250)")


def test_a_report_of_two_objectives_has_its_front_and_its_hypervolume(page_of_two):
    drawn = look(page_of_two, DRAWN, NARROW)
    assert {title for title, _ in drawn} == PLOTS | {"Pareto front", "Hypervolume"}
    assert all(count for _, count in drawn)


def test_a_plot_that_the_browser_cannot_draw_says_so_in_its_place_and_the_others_are_drawn(page, tmp_path):
    broken = tmp_path / "report.html"
    broken.write_text(page.read_text(encoding="utf-8").replace('{"data":[', '{"data":[[[', 1), encoding="utf-8")
    drawn, said = look(broken, f"[{DRAWN}, [...document.querySelectorAll('.error')].map(one => one.textContent)]")
    assert {title for title, _ in drawn} == PLOTS - {"Learning curves"} and all(count for _, count in drawn)
    (words,) = said
    assert words.startswith("The browser could not draw this plot. SyntaxError")


TABLE = """(() => {
  const table = document.querySelector("table.sortable"), field = document.querySelector("input.filter");
  const heads = [...table.tHead.rows[0].cells];
  const place = heads.findIndex(head => head.textContent === "peak_performance");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[place].title || row.cells[place].textContent);
  heads[place].click(); const up = column();
  heads[place].click(); const down = column();
  field.value = "fail"; field.dispatchEvent(new Event("input"));
  const left = [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
  const links = [...table.querySelectorAll("a")].map(link => link.getAttribute("href"));
  const count = field.nextElementSibling.textContent;
  return {up, down, count, way: heads[place].getAttribute("aria-sort"), left, links};
})()"""


def test_the_table_of_trials_sorts_filters_and_leads_to_files(page):
    """Numbers sort as numbers, empty cells stay last; words leave the rows that hold them."""
    found = look(page, TABLE)
    numbers = [float(cell) for cell in found["up"] if cell]
    assert len(numbers) == 9 and numbers == sorted(numbers)
    assert [float(cell) for cell in found["down"] if cell] == numbers[::-1]
    assert found["up"][-1] == found["down"][-1] == ""
    assert found["way"] == "descending"
    assert found["left"] == ["1"] and found["count"] == "1 of 10"
    assert len(found["links"]) == 10
    assert all((page.parent / link / "curves.csv").exists() for link in found["links"])
