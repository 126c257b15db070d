"""Files of a batch that were removed or damaged after it was told: what needs them says so, the rest is as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import hyperlax
from hyperlax.analysis.pages import write_pages
from hyperlax.cli import main
from hyperlax.errors import HyperlaxError
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

PAGES = ("optimization_history", "param_importances", "parallel_coordinate", "slice")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A finished study with its pages."""
    case = Case(tmp_path, write_pages=write_pages)
    assert case.start() == 0
    return case


def read(case: Case, page: str) -> str:
    return (case.directory / page).read_text()


def test_files_that_are_gone_are_named_in_a_line_each_and_the_rest_is_drawn(case, caplog):
    before = {page: read(case, f"analysis_plots/{page}.html") for page in PAGES}
    told, table, best = case.told(), read(case, "trials.csv"), read(case, "best_optuna_params.json")
    shutil.rmtree(case.directory / "optuna_exec_batch_0000")
    runner = FakeBackend()
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


def test_a_resume_keeps_the_report_and_writes_a_damaged_one_again(case):
    report, whole = case.directory / "report.html", read(case, "report.html")
    written = report.stat().st_mtime_ns
    assert case.resume() == 0 and report.stat().st_mtime_ns == written
    report.write_text(whole.replace("<h2>", "<h2>Damaged ", 1))
    assert case.resume() == 0 and "<h2>Damaged " not in read(case, "report.html")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A finished study that no test changes."""
    case = Case(tmp_path_factory.mktemp("whole"))
    assert case.start() == 0
    return case


def damage(directory: Path, name: str, content: bytes) -> None:
    """The same content in this file of every batch."""
    for path in directory.glob(f"optuna_exec_batch_*/samples/batch_*/{name}"):
        path.write_bytes(content)


def test_files_that_are_damaged_are_named_in_a_line_each_too(case, caplog):
    damage(case.directory, "curves.csv", b"trial,mean\n1\n")
    damage(case.directory, "timing.json", b"[")
    assert case.resume() == 0
    batches = case.directory / "optuna_exec_batch_0000" / "samples"
    page = read(case, "analysis_plots/learning_curves.html")
    assert "/curves.csv: is damaged (line 2: 1 cell, the header has 2)." in page
    why = f"{batches}/batch_00000/timing.json: is damaged (Expecting value: line 1 column 2 (char 1))."
    assert f"The cost could not be summed. {why}" in read(case, "report.html")
    warnings = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert not any(record.exc_info for record in warnings) and len(warnings) == 2


HEADER = b"trial,seed,step,mean\n"
DAMAGES = [
    ("curves.csv", b""),
    ("curves.csv", b"seed,step,mean\n0,0,1.0\n"),
    ("curves.csv", HEADER),
    ("curves.csv", HEADER + b"".join(b"%d,0,zero,1.0\n" % trial for trial in range(12))),
    ("timing.json", b"["),
    ("timing.json", b"{}"),
    ("timing.json", b'{"train_seconds": "long"}'),
    ("timeline.csv", b"trial,slot\n1,2\n"),
]


@pytest.mark.parametrize(("name", "content"), DAMAGES, ids=[f"{name} {content[:20]!r}" for name, content in DAMAGES])
def test_a_study_with_damaged_files_is_shown_and_compared_without_them(whole, tmp_path, capsys, name, content):
    study = shutil.copytree(whole.directory, tmp_path / "study")
    damage(study, name, content)
    best = whole.study().best_trial.number
    for words in (
        ["show", str(study)],
        ["show", str(study), str(best)],
        ["compare", str(study), str(whole.directory), "--output", str(tmp_path / "page.html")],
    ):
        capsys.readouterr()
        assert main(words) == 0
        said = capsys.readouterr()
        assert not said.err and ("gone" in said.out) == (name == "curves.csv" and words[0] == "show")
    if name == "curves.csv":
        with pytest.raises(HyperlaxError, match="curves.csv: (is damaged|holds nothing)"):
            hyperlax.open_study(study).curve(best)
