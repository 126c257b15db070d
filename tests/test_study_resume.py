"""Law 2: nothing told is lost, nothing is told twice. A resumed study equals an uninterrupted one."""

import json
import os
import re
from typing import Any

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.files import read_csv
from hyperlax.study import batch_files
from hyperlax.study import trials as study_trials
from hyperlax.study.batch_files import read_trial_results
from hyperlax.study.database import StudyDatabase
from tests.desk import python
from tests.fake_backend import FakeBackend
from tests.study_cases import TWO, Case, Killed, killing


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a study that nothing interrupts tells, by its arguments; each is run once."""
    known = {}

    def tell(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in known:
            case = Case(tmp_path_factory.mktemp("whole"), **arguments)
            assert case.start() == 0
            known[key] = case.told()
        return known[key]

    return tell


@pytest.mark.parametrize(("sampler", "middle"), [("tpe", 20), ("tpe", 16), ("nsgaii", 20), ("qmc", 20), ("random", 20)])
def test_a_study_in_two_parts_equals_one_in_one(tmp_path, uninterrupted, sampler, middle):
    arguments: dict[str, Any] = {"sampler": sampler, **(TWO if sampler == "nsgaii" else {})}
    whole = uninterrupted(n_trials=32, **arguments)
    case = Case(tmp_path / "parts", **arguments)
    assert case.start(n_trials=middle) == 0
    assert len(case.study().trials) == middle
    assert case.resume(FakeBackend(lanes=2), n_trials=32) == 0
    assert case.told() == whole
    params = [tuple(trial[2].items()) for trial in case.told()]
    assert len(set(params)) == 32


def test_failures_do_not_part_a_resumed_study_from_an_uninterrupted_one(tmp_path):
    fail: dict[int, str] = dict.fromkeys((0, 3, 9, 17, 18), "diverged")
    whole, case = (Case(tmp_path / name, sampler="nsgaii", **TWO) for name in ("whole", "parts"))
    whole.start(FakeBackend(fail=fail), n_trials=32)
    case.start(FakeBackend(fail=fail), n_trials=11)
    case.resume(FakeBackend(fail=fail), n_trials=32)
    assert case.told() == whole.told()


MOMENTS = [
    (study_trials, "write_batch"),
    (batch_files, "write_json"),
    (batch_files, "mark_complete"),
    (StudyDatabase, "start"),
    (StudyDatabase, "finish"),
]


@pytest.mark.parametrize(
    ("owner", "name", "at"), [(StudyDatabase, "__init__", 0), *((*moment, at) for moment in MOMENTS for at in (0, 3))]
)
def test_after_dying_anywhere_a_resume_gives_what_an_uninterrupted_study_gives(
    tmp_path, monkeypatch, uninterrupted, owner, name, at
):
    whole = uninterrupted(sampler="tpe")
    case = Case(tmp_path / "killed", sampler="tpe")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), at))
        with pytest.raises(Killed):
            case.start()
    complete = {
        end.number for path in case.directory.glob("*/samples/*/success.txt") for end in read_trial_results(path.parent)
    }
    trained = FakeBackend()
    assert case.resume(trained) == 0
    assert case.told() == whole
    assert len(trained.trained) == len(set(trained.trained)) and not complete & set(trained.trained)
    batches = list(case.directory.glob("*/samples/*"))
    assert all((path / "success.txt").exists() for path in batches)
    numbers = [end.number for path in batches for end in read_trial_results(path)]
    assert sorted(numbers) == list(range(12))


def test_a_process_killed_with_sigkill_leaves_a_study_that_resumes(tmp_path, uninterrupted):
    whole = uninterrupted(sampler="tpe")
    case = Case(tmp_path / "killed", sampler="tpe")
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.fake_backend import FakeBackend\n"
        "from tests.study_cases import Case\n"
        "die = lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == 3 else None\n"
        "Case(Path(sys.argv[1]), sampler='tpe').start(FakeBackend(slots=2, after_batch=die))\n"
    )
    assert python("-c", script, str(case.root)).returncode == -9
    assert case.resume() == 0
    assert case.told() == whole


def test_plan_only_counts_what_is_on_disk_and_leaves_the_study_as_it_is(tmp_path, monkeypatch, capsys):
    case, before = Case(tmp_path, n_trials=8), Case(tmp_path / "never")
    assert before.plan() == 0
    assert capsys.readouterr().out == "8 trials -> 1 program (1 known), 3 batches\n"
    assert not before.root.exists()
    monkeypatch.setattr(StudyDatabase, "finish", killing(StudyDatabase.finish, 1))
    with pytest.raises(Killed):
        case.start()
    monkeypatch.undo()
    files = {path: path.read_bytes() for path in case.root.rglob("*") if path.is_file()}
    assert case.plan(resume=True) == 0
    assert capsys.readouterr().out == "2 trials -> 1 program (1 known), 1 batch\n"
    assert files == {path: path.read_bytes() for path in case.root.rglob("*") if path.is_file()}
    assert case.resume() == 0 and case.plan(resume=True) == 0
    assert capsys.readouterr().out.endswith("Nothing is left to run.\n")


def test_an_interrupt_returns_130_keeps_what_is_finished_and_resumes(tmp_path, uninterrupted, capsys):
    whole = uninterrupted()
    case = Case(tmp_path / "interrupted")
    assert case.start(FakeBackend(raises={4: KeyboardInterrupt()})) == 130
    assert case.states() == ["COMPLETE"] * 3 + ["WAITING"] * 5
    assert f"--resume-from {case.directory}" in capsys.readouterr().out
    assert case.pages == []
    assert case.resume() == 0
    assert case.told() == whole


def test_after_the_timeout_no_batch_starts_and_a_resume_goes_on(tmp_path, uninterrupted, capsys):
    whole = uninterrupted()
    case = Case(tmp_path / "late")
    assert case.start(timeout=1e-9) == 0
    assert "Out of time with 12 trials to go" in capsys.readouterr().out
    assert case.resume() == 0
    assert case.told() == whole


def test_out_of_time_in_a_super_batch_leaves_its_other_trials_waiting(tmp_path, monkeypatch):
    case = Case(tmp_path)
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    late = FakeBackend(after_batch=lambda count: clock.update(now=clock["now"] + 10))
    assert case.start(late, timeout=15.0) == 0
    assert case.states() == ["COMPLETE"] * 6 + ["WAITING"] * 2


def test_a_complete_study_is_not_run_again_and_its_pages_are_renewed(tmp_path):
    case = Case(tmp_path)
    case.start()
    before, runner = case.told(), FakeBackend()
    case.pages.clear()
    assert case.resume(runner) == 0
    assert runner.trained == [] and case.told() == before
    assert [len(record.trials) for record, _ in case.pages] == [12]


def test_a_resume_of_a_finished_study_writes_no_page_again_unless_something_changed(tmp_path):
    case = Case(tmp_path, n_trials=4, write_pages=write_pages)
    assert case.start() == 0
    report, curves = case.directory / "report.html", case.batch_of(0) / "curves.csv"

    def is_written_again() -> bool:
        os.utime(report, (1, 1))
        assert case.resume() == 0
        return report.stat().st_mtime != 1

    assert not is_written_again()
    (case.directory / "analysis_plots" / "slice.html").unlink()
    assert is_written_again() and not is_written_again()
    os.utime(curves, (1, 1))
    assert is_written_again() and not is_written_again()
    report.write_text(re.sub("<!-- .* -->", f"<!-- {'0' * 64} -->", report.read_text()))
    assert is_written_again(), "somebody else's mark"


def test_fewer_trials_than_were_asked_run_the_lowest_numbers_first(tmp_path):
    case = Case(tmp_path)
    case.start(FakeBackend(raises={0: KeyboardInterrupt()}))
    assert case.resume(n_trials=5) == 0
    assert case.states() == ["COMPLETE"] * 5 + ["WAITING"] * 3


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_a_super_batch_that_is_filled_up_has_its_pages_renewed(tmp_path, pruner):
    case = Case(tmp_path, n_trials=4, optuna_study_batch_size=8, pruner=pruner, write_pages=write_pages)
    assert case.start() == 0
    assert case.resume(n_trials=6) == 0
    assert len(read_csv(case.directory / "trials.csv")) == 6
    assert (
        json.loads((case.directory / "best_optuna_params.json").read_text())["trial"] == case.study().best_trial.number
    )
