"""What a study may not be resumed with, nor beside: another recipe, fewer trials, a second process."""

import os
import socket
import threading
from dataclasses import replace

import pytest

from hyperlax.errors import UsageError
from hyperlax.hyperparams import SAC
from hyperlax.recipe import apply
from hyperlax.space import Categorical, LogUniform
from hyperlax.study.directory import only_one_process
from tests.study_cases import MIXED, Case

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def case(finished, tmp_path):
    """A finished study of 12 trials."""
    return finished(tmp_path / "study")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"algorithm.hyperparam.gamma": LogUniform(domain=(0.9, 0.999))}, "algorithm.hyperparam.gamma"),
        ({"algorithm.hyperparam.tau": Categorical(values=[0.1])}, "algorithm.hyperparam.tau"),
    ],
)
def test_a_changed_search_space_is_refused_naming_the_entry(case, change, named):
    case.space = {**MIXED, **change}
    with pytest.raises(UsageError, match=named):
        case.resume(n_trials=20)
    assert len(case.study().trials) == 12


def test_fewer_trials_than_the_study_holds_are_refused_and_nothing_is_written(case):
    before = contents(case.directory)
    said = "--n-trials 5: the study already holds 12 finished trials. Give 12 to leave it as it is, more to continue."
    with pytest.raises(UsageError) as refusal:
        case.resume(n_trials=5)
    assert str(refusal.value) == said
    assert contents(case.directory) == before
    assert case.resume(n_trials=12) == 0 and len(case.states()) == 12


def contents(directory):
    """Every file but the lock, which says who holds it."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_finished_trials_that_only_the_batches_on_disk_know_count_too(tmp_path):
    case = Case(tmp_path)
    case.start(n_trials=8)
    database = (case.directory / "optuna_study.db").read_bytes()
    case.resume(n_trials=12)
    (case.directory / "optuna_study.db").write_bytes(database)
    with pytest.raises(UsageError, match="--n-trials 9: the study already holds 12 finished trials"):
        case.resume(n_trials=9)


def test_a_changed_base_value_is_refused_naming_it(case):
    algorithm = apply(SAC(), {"algorithm.hyperparam.tau": 0.01}, "test")
    case.given_recipe = replace(case.recipe, config=replace(case.recipe.config, algorithm=algorithm))
    with pytest.raises(UsageError, match="algorithm.hyperparam.tau = 0.005, now it is 0.01"):
        case.resume(n_trials=20)


def test_a_study_that_another_process_runs_is_refused(case):
    holder = f"process {os.getpid()} on {socket.gethostname()} is running this study"
    with only_one_process(case.directory), pytest.raises(UsageError, match=holder):
        case.resume(n_trials=20)
    with only_one_process(case.directory), pytest.raises(UsageError, match=holder):
        case.start()
    with pytest.raises(UsageError, match="already holds a study"):
        case.start()


def test_what_a_dead_process_left_is_taken_over(case):
    (case.directory / ".lock").write_text("process 999999 on elsewhere\n")
    assert case.resume(n_trials=20) == 0


def test_without_locks_a_living_process_that_is_named_is_believed(case, monkeypatch):
    monkeypatch.setattr("fcntl.flock", unavailable)
    (case.directory / ".lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        case.resume(n_trials=20)
    (case.directory / ".lock").write_text(f"process 999999 on {socket.gethostname()}\n")
    assert case.resume(n_trials=20) == 0


def unavailable(descriptor, operation):
    raise OSError("no locks available")


@pytest.fixture
def looking(tmp_path):
    """Holds a directory as `list`, `show` and `watch` do for a moment, until it is closed."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def test_a_process_that_looks_does_not_keep_a_study_from_starting(tmp_path, looking):
    leaves = threading.Timer(0.3, looking.close)
    leaves.start()
    with only_one_process(tmp_path):
        assert not leaves.is_alive()


def test_one_that_looks_for_long_is_waited_for_only_so_long(tmp_path, looking, monkeypatch):
    monkeypatch.setattr("hyperlax.study.directory.LOOK_SECONDS", 0.1)
    with pytest.raises(UsageError, match="another process is running this study"), only_one_process(tmp_path):
        pass


def test_a_study_that_runs_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlax.study.directory.LOOK_SECONDS", 1e9)
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass


def test_a_lock_that_was_deleted_meanwhile_locks_nobody_out_and_lets_nobody_in(tmp_path, looking):
    def deleted() -> None:
        (tmp_path / ".lock").unlink()
        looking.close()

    threading.Timer(0.2, deleted).start()
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass
