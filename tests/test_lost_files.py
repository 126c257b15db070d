"""Files of a batch that were removed or damaged after it was told: what needs them says so, the rest is as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hyperlax.study.launcher import write_pages
from tests.fake_runner import FakeRunner
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(120)
PAGES = ("optimization_history", "param_importances", "parallel_coordinate", "slice")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A finished study with its pages."""
    case = Case(tmp_path, analyse=write_pages)
    assert case.start() == 0
    return case


def read(case: Case, page: str) -> str:
    return (case.directory / page).read_text()


def test_files_that_are_gone_are_named_in_a_line_each_and_the_rest_is_drawn(case, caplog):
    before = {page: read(case, f"analysis_plots/{page}.html") for page in PAGES}
    told, table, best = case.told(), read(case, "trials.csv"), read(case, "best_optuna_params.json")
    shutil.rmtree(case.directory / "optuna_exec_batch_0000")
    runner = FakeRunner()
    assert case.resume(runner) == 0 and runner.trained == []
    samples = case.directory / "optuna_exec_batch_0000" / "samples"
    warnings = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert sorted(record.getMessage() for record in warnings) == [
        f"learning_curves could not be drawn: {samples}/batch_00001/curves.csv: No such file or directory.",
        f"the cost could not be summed: {samples}/batch_00000/timing.json: No such file or directory.",
    ]
    assert not any(record.exc_info for record in warnings)
    lost = "This plot could not be drawn. "
    assert lost + f"{samples}/batch_00001/curves.csv" in read(case, "analysis_plots/learning_curves.html")
    report = read(case, "report.html")
    assert report.count(lost) == 1
    assert f"The cost could not be summed. {samples}/batch_00000/timing.json" in report
    assert {page: read(case, f"analysis_plots/{page}.html") for page in PAGES} == before
    assert (case.told(), read(case, "trials.csv"), read(case, "best_optuna_params.json")) == (told, table, best)


def test_files_that_are_damaged_cost_a_page_too_and_the_log_shows_where(case, caplog):
    for path in case.directory.glob("optuna_exec_batch_*/samples/batch_*"):
        (path / "curves.csv").write_text("trial,mean\n1\n")
        (path / "timing.json").write_text("[")
    assert case.resume() == 0
    assert "This plot could not be drawn. ValueError: " in read(case, "analysis_plots/learning_curves.html")
    assert "The cost could not be summed. JSONDecodeError: " in read(case, "report.html")
    said = {record.getMessage() for record in caplog.records if record.exc_info}
    assert said == {"learning_curves could not be drawn", "the cost could not be summed"}
