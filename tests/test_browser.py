"""The report in a real browser: nothing on its console, no wider than its window, and tables that sort and filter."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hyperlax.analysis import write_study_pages
from tests.made_up_studies import study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the report with"),
]
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    write_study_pages(study(directory, [3.0, 1.0, 20.0, 4.0, 5.0, 100.0, 7.5, 8.0, 0.5, 12.0], failed={1}))
    return directory / "report.html"


def look(page: Path, script: str, window: tuple[int, int] = WIDE, dark: bool = False) -> Any:
    """What a script, an expression, gives on the loaded page. AssertionError if the page wrote anything to the console.

    The page is in a frame of the window's size: the browser's own windows are at least 500 pixels wide.
    """
    asked = f"<script>parent.document.body.dataset.found = JSON.stringify({script});</script></body>"
    probe = html.escape(page.read_text(encoding="utf-8").replace("</body>", asked))
    frame = f'<iframe style="border: 0" width="{window[0]}" height="{window[1]}" srcdoc="{probe}"></iframe>'
    around = page.with_name("probe.html")
    around.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">{frame}</body>', encoding="utf-8")
    said, shown = _browse(around, ["--dump-dom"], WIDE, dark)
    console = [line for line in said.splitlines() if ":CONSOLE" in line and "WebGL" not in line]
    assert not console
    found = re.search(r'<body[^>]* data-found="([^"]*)"', shown)
    assert found, "the script did not run to its end"
    return json.loads(html.unescape(found[1]))


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
    run = subprocess.run([*words, *options, page.as_uri()], check=True, capture_output=True, text=True, timeout=300)
    return run.stderr, run.stdout


@pytest.mark.parametrize(("window", "dark"), [(WIDE, False), (NARROW, True)], ids=["1280-light", "390-dark"])
def test_the_report_fits_its_window_and_the_console_stays_empty(page, window, dark):
    width, plots, drawn, background = look(
        page,
        "[document.documentElement.scrollWidth, document.querySelectorAll('.plot').length, "
        "document.querySelectorAll('.plot .main-svg').length > 0, getComputedStyle(document.body).backgroundColor]",
        window,
        dark,
    )
    assert width <= window[0]
    assert plots >= 4 and drawn
    assert background == ("rgb(18, 22, 31)" if dark else "rgb(246, 247, 250)")


def test_a_screenshot_of_the_report_is_taken(page, tmp_path):
    picture = tmp_path / "report.png"
    _browse(page, [f"--screenshot={picture}"], WIDE, dark=False)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


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
  return {up, down, way: heads[place].getAttribute("aria-sort"), left, links};
})()"""


def test_the_table_of_trials_sorts_filters_and_leads_to_files(page):
    """Numbers sort as numbers, empty cells stay last; words leave the rows that hold them."""
    found = look(page, TABLE)
    numbers = [float(cell) for cell in found["up"] if cell]
    assert len(numbers) == 9 and numbers == sorted(numbers)
    assert [float(cell) for cell in found["down"] if cell] == numbers[::-1]
    assert found["up"][-1] == found["down"][-1] == ""
    assert found["way"] == "descending"
    assert found["left"] == ["1"]
    assert len(found["links"]) == 10
    assert all((page.parent / link / "curves.csv").exists() for link in found["links"])
