"""One process runs a study at a time: on this machine, and on others whose locks the system does not see."""

import errno
import os
import socket
import threading
import time

import pytest

from hyperlax.errors import UsageError
from hyperlax.files import write_text
from hyperlax.study import lock
from hyperlax.study.lock import StudyRunning, holder_of, only_one_process

pytestmark = pytest.mark.timeout(60)

OTHER = "process 7 on elsewhere (since 2026-01-01 00:00:00)"


@pytest.fixture
def case(finished, tmp_path):
    """A finished study of 12 trials."""
    return finished(tmp_path / "study")


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOTSUP], ids=["no effect", "ENOLCK", "ENOTSUP"])
def without_locks(request, monkeypatch):
    """A file system whose locks do nothing, or are refused."""

    def flock(file, operation):
        if request.param:
            raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.4)


def on(monkeypatch, host):
    monkeypatch.setattr(socket, "gethostname", lambda: host)


def test_a_study_that_another_process_runs_is_refused(case):
    holder = rf"process {os.getpid()} on {socket.gethostname()} \(since 20\S+ \S+\) is running this study"
    with only_one_process(case.directory), pytest.raises(UsageError, match=holder):
        case.resume(n_trials=20)
    with only_one_process(case.directory), pytest.raises(UsageError, match=holder):
        case.start()
    with pytest.raises(UsageError, match="already holds a study"):
        case.start()


def test_a_study_that_runs_on_another_machine_is_refused_without_locks_too(case, monkeypatch, without_locks):
    on(monkeypatch, "elsewhere")
    with only_one_process(case.directory):
        on(monkeypatch, "here")
        with pytest.raises(StudyRunning, match=rf"process {os.getpid()} on elsewhere \(since .*\) is running"):
            case.resume(n_trials=20)
        time.sleep(2 * lock.LEASE_SECONDS)
        assert holder_of(case.directory), "it is renewed"
    assert holder_of(case.directory) is None
    assert case.resume(n_trials=20) == 0


def test_what_a_process_of_another_machine_left_is_taken_over_when_it_was_not_renewed(case, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    (case.directory / ".lock").write_text(f"{OTHER}\n")
    began = time.monotonic()
    assert holder_of(case.directory) == OTHER and time.monotonic() - began < 0.2, "one that looks does not wait"
    assert case.resume(n_trials=20) == 0
    assert time.monotonic() - began > 0.3


def test_what_a_dead_process_of_this_machine_left_is_taken_over_at_once(case, without_locks, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1e9)
    (case.directory / ".lock").write_text(f"process 999999 on {socket.gethostname()} (since 2026-01-01 00:00:00)\n")
    assert case.resume(n_trials=20) == 0


def test_one_of_those_that_start_at_the_same_time_runs(tmp_path, monkeypatch, without_locks):
    monkeypatch.setattr(socket, "gethostname", lambda: threading.current_thread().name)
    begin, ended, ran = threading.Barrier(3), threading.Barrier(4), []

    def start():
        begin.wait()
        try:
            with only_one_process(tmp_path):
                ran.append(threading.current_thread().name)
                ended.wait()
        except StudyRunning:
            ended.wait()

    threads = [threading.Thread(target=start, name=f"host-{number}") for number in range(3)]
    for thread in threads:
        thread.start()
    ended.wait()
    for thread in threads:
        thread.join()
    assert len(ran) == 1


def test_a_process_that_was_not_heard_of_is_told_that_another_has_the_study(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    lost = threading.Event()
    with only_one_process(tmp_path, lost=lost.set):
        (tmp_path / ".lock").write_text(f"{OTHER}\n")
        assert lost.wait(10)
        with pytest.raises(OSError, match="another process has taken the study"):
            write_text(tmp_path / "a" / "file", "")
    assert caplog.messages == [f"{tmp_path}: {OTHER} has taken this study, since it did not hear of this process."]
    assert (tmp_path / ".lock").read_text() == f"{OTHER}\n"


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
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 0.1)
    with pytest.raises(UsageError, match="another process is running this study"), only_one_process(tmp_path):
        pass


def test_a_study_that_runs_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 1e9)
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass


def test_a_lock_that_was_deleted_meanwhile_locks_nobody_out_and_lets_nobody_in(tmp_path, looking):
    def deleted() -> None:
        (tmp_path / ".lock").unlink()
        looking.close()

    threading.Timer(0.2, deleted).start()
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass
