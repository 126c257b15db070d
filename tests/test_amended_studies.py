"""Studies whose trials are run again or taken out, when something else happens to them: lost files, an interruption, a repair."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.study.batch_files import trials_of
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Finished

BOOM = {"raises": {3: ValueError("boom"), 12: ValueError("boom")}}


@pytest.fixture
def case(finished: Finished, tmp_path: Path) -> Case:
    """A study of 16 trials of which 3 and 12 failed, each alone in its batch."""
    return finished(tmp_path / "failed", BOOM, n_trials=16)


@pytest.fixture
def whole(finished: Finished, tmp_path: Path) -> Case:
    """A study of 16 trials."""
    return finished(tmp_path / "whole", n_trials=16)


def interrupted_retry(case: Case, before: int) -> None:
    """Begin to run the failed trials again, and stop before that one."""
    assert case.resume(FakeBackend(raises={before: KeyboardInterrupt()}), retry_failed=True) == 130


def test_the_batch_that_a_trial_failed_in_is_not_needed_once_it_is_run_again(case, whole):
    failed = case.batch_of(3)
    assert trials_of(failed) == [3] and case.resume(FakeBackend(), retry_failed=True) == 0
    (failed / "summary.csv").unlink()
    runner = FakeBackend()
    assert case.resume(runner) == 0 and runner.trained == []
    assert case.told() == whole.told()


def test_no_batch_gets_the_name_of_one_that_is_gone(case):
    failed = case.batch_of(3)
    shutil.rmtree(failed)
    assert case.resume(FakeBackend(), retry_failed=True) == 0
    assert case.batch_of(3) != failed and not failed.exists()
    told = case.told()
    case.lose_database()
    assert case.repair() == 0
    assert case.told() == told


@pytest.mark.parametrize(("sampler", "before"), [("tpe", 3), ("nsgaii", 12)])
def test_a_database_that_is_lost_while_trials_wait_to_be_run_again_is_repaired(
    tmp_path, finished, sampler, before, capsys
):
    case = finished(tmp_path / "failed", BOOM, n_trials=16, sampler=sampler)
    interrupted_retry(case, before)
    told = case.told()
    case.lose_database()
    assert case.repair() == 0
    left = 2 if before == 3 else 1
    restored = f"Restored 0 finished trials from no backup and {16 - left} from the batches; to be run: {left}."
    assert restored in capsys.readouterr().out
    assert [trial[2] for trial in case.told()] == [trial[2] for trial in told]
    assert case.resume(FakeBackend()) == 0 and set(case.states()) == {"COMPLETE"}


def test_trials_that_wait_to_be_run_again_are_not_counted_as_finished(case):
    interrupted_retry(case, 3)
    with pytest.raises(UsageError, match="--n-trials 13: the study already holds 14 finished trials"):
        case.resume(n_trials=13)
    assert case.resume(n_trials=15) == 0
    assert case.states().count("COMPLETE") == 15


def test_a_failure_that_another_program_told_can_be_run_again(tmp_path, whole):
    case = Case(tmp_path / "told", n_trials=16)
    assert case.start(FakeBackend(raises={3: KeyboardInterrupt()})) == 130
    study = case.study()
    study._storage.set_trial_state_values(study.trials[3]._trial_id, TrialState.RUNNING)
    study.tell(3, state=TrialState.FAIL)
    runner = FakeBackend()
    assert case.resume(runner, retry_failed=True) == 0
    assert 3 in runner.trained and case.told() == whole.told()


def test_pages_tell_of_an_invalidation_while_trials_wait_to_be_run_again(case):
    interrupted_retry(case, 3)
    case.pages.clear()
    assert case.invalidate(6) == 0
    record, directory = case.pages[-1]
    assert directory.parent.name == "optuna_exec_batch_0001"
    assert [trial.state for trial in record.trials] == [
        {3: "RUNNING", 6: "FAIL", 12: "RUNNING"}.get(number, "COMPLETE") for number in range(16)
    ]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "with an interruption"])
def test_the_pages_of_every_super_batch_that_knew_a_failure_are_written_again(case, at_once):
    if not at_once:
        interrupted_retry(case, 12)
    assert case.resume(FakeBackend(), retry_failed=at_once) == 0
    last = {directory.parent.name: record for record, directory in case.pages}
    assert sorted(last) == ["optuna_exec_batch_0000", "optuna_exec_batch_0001"]
    assert {trial.state for record in last.values() for trial in record.trials} == {"COMPLETE"}
    assert [len(record.trials) for _, record in sorted(last.items())] == [8, 16]
    assert len(case.pages[-1][0].trials) == 16


def test_when_all_are_invalidated_that_is_said(whole, capsys):
    assert whole.invalidate(*range(16)) == 0
    assert capsys.readouterr().out.endswith("No trial is left in the ranking.\n")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"trials 77: complete and on disk\n", None], ids=repr)
def test_a_batch_that_was_told_is_kept_without_reading_its_success_txt(whole, content):
    case, runner = whole, FakeBackend()
    path, told = case.batch_of(0), case.told()
    (path / "success.txt").unlink() if content is None else (path / "success.txt").write_bytes(content)
    assert case.resume(runner) == 0 and runner.trained == [] and case.told() == told
    assert (path / "curves.csv").exists()
    assert case.resume(FakeBackend(), n_trials=18) == 0 and case.told()[:16] == told


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"trials 77: complete and on disk\n"], ids=repr)
def test_a_damaged_success_txt_of_a_batch_that_was_not_told_is_refused_in_one_line(whole, content):
    path = whole.batch_of(0) / "success.txt"
    whole.lose_database()
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"success\.txt.*The database does not have this batch yet"):
        whole.repair()


def test_a_database_that_lacks_trials_of_the_batches_is_brought_up_to_date_by_a_repair(tmp_path, capsys):
    case = Case(tmp_path, n_trials=8)
    assert case.start() == 0
    database = case.directory / "optuna_study.db"
    older = database.read_bytes()
    assert case.resume(FakeBackend(), n_trials=16) == 0
    told = case.told()
    database.write_bytes(older)
    with pytest.raises(HyperlaxError, match=r"holds trial 8, which .+ does not know\. .+`hyperlax repair "):
        case.resume(n_trials=16)
    capsys.readouterr()
    assert case.repair() == 0
    assert "optuna_study.db: does not know trial 8, which is in " in capsys.readouterr().out
    repaired = database.read_bytes()
    assert case.told() == told and case.repair() == 0
    assert "is sound; nothing to repair." in capsys.readouterr().out and database.read_bytes() == repaired
