"""One process runs a study at a time: on this machine, and on others whose locks the system does not see."""

import errno
import itertools
import os
import re
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from hyperlax.backends.wire import Ticket
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import UsageError
from hyperlax.files import staying, write_text
from hyperlax.samplers.base import AskedTrial
from hyperlax.study import lock
from hyperlax.study.database import StudyDatabase
from hyperlax.study.lock import StudyRunning, holder_of, only_one_process
from tests.waiting import eventually

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
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 2.0)


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
        seen = {(case.directory / ".lock").stat().st_mtime_ns}
        eventually(lambda: seen.add((case.directory / ".lock").stat().st_mtime_ns) or len(seen) > 3)
        assert holder_of(case.directory), "it is renewed"
    assert holder_of(case.directory) is None
    assert case.resume(n_trials=20) == 0


def test_what_a_process_of_another_machine_left_is_taken_over_when_it_was_not_renewed(case, monkeypatch):
    (case.directory / ".lock").write_text(f"{OTHER}\n")
    waits, sleep = list[float](), time.sleep
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: waits.append(seconds) or sleep(seconds))
    assert holder_of(case.directory) == OTHER and not waits
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    assert case.resume(n_trials=20) == 0
    assert waits.count(0.003) > 1, "it looks until the lease is over"


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
        assert lost.wait(240)
        with pytest.raises(OSError, match="another process has taken the study"):
            write_text(tmp_path / "a" / "file", "")
    assert caplog.messages == [f"{tmp_path}: {OTHER} has taken this study, since it did not hear of this process."]
    assert (tmp_path / ".lock").read_text() == f"{OTHER}\n"


def test_one_that_has_lost_the_study_neither_writes_the_database_nor_removes_files(tmp_path):
    with closing(StudyDatabase(tmp_path / "study.db", "study", {"value": "maximize"})) as database:
        database.insert([AskedTrial(params={}, user_attrs={}, system_attrs={})], {})
        database.start([0])
        work, saved = Work(tmp_path), CheckpointManager(tmp_path / "checkpoints", 1.0)
        work.offer("b00003-0123456789ab", Ticket("e", [(3, {})]))
        work.put_engine("0" * 12, "{}")
        for name in ("trial_00003.npz", "pool_000.npz", ".trial_00004.npz.tmp"):
            write_text(tmp_path / "checkpoints" / name, "")
        before = sorted(tmp_path.rglob("*"))
        with staying(tmp_path) as place:
            place.is_lost = True
            for write in (lambda: database.requeue([0]), work.clear, lambda: saved.forget([3])):
                with pytest.raises(OSError, match="another process has taken the study"):
                    write()
            saved.save_pools([])
            saved.tidy()
        assert database.trials()[0].state.name == "RUNNING"
    assert sorted(tmp_path.rglob("*")) == before


def test_one_that_ends_leaves_the_name_of_another(tmp_path, monkeypatch):
    read = lock._text_in
    with only_one_process(tmp_path):
        own = (tmp_path / ".lock").read_text().strip()
        (tmp_path / ".lock").write_text(f"{OTHER}\n")
        monkeypatch.setattr(lock, "_text_in", lambda file: own if file.writable() else read(file))  # an old copy
    assert (tmp_path / ".lock").read_text() == f"{OTHER}\n"


def test_a_name_that_was_erased_is_written_again_unless_the_lease_has_run_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 5.0)
    file, lost = tmp_path / ".lock", threading.Event()
    with only_one_process(tmp_path, lost=lost.set):
        text = file.read_text()
        file.write_text("")
        eventually(lambda: file.read_text() == text)
        assert not lost.is_set()
        now, suspended = time.time, itertools.count(60, 60)

        def erase():
            then = next(suspended)
            monkeypatch.setattr(time, "time", lambda: now() + then)
            file.write_text("")
            return lost.wait(3)

        eventually(erase)
    assert caplog.messages == [
        f"{tmp_path}: another process has taken this study, since it did not hear of this process."
    ]


def test_a_lock_that_cannot_be_read_is_said_once(tmp_path, monkeypatch, caplog):
    refused = []

    def refuse(path, flags):
        refused.append(path)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    with only_one_process(tmp_path):
        monkeypatch.setattr(lock, "open_regular", refuse)
        eventually(lambda: len(refused) > 3)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: the lock cannot be renewed. Another process may take the study. ")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process began")
def test_the_number_of_a_dead_process_may_be_that_of_another_one(tmp_path, monkeypatch, without_locks):
    with only_one_process(tmp_path):
        text = (tmp_path / ".lock").read_text()
        assert holder_of(tmp_path)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1e9)
    (tmp_path / ".lock").write_text(
        re.sub(r"began \d+", "began 1", text)
    )  # as of a container before, with process 1 too
    assert holder_of(tmp_path) is None
    with only_one_process(tmp_path):
        pass


@pytest.fixture
def looking(tmp_path):
    """Holds a directory as `list`, `show` and `watch` do for a moment, until it is closed."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def test_a_process_that_looks_does_not_keep_a_study_from_starting(tmp_path, looking, monkeypatch):
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 240.0)
    threading.Timer(0.3, looking.close).start()
    with only_one_process(tmp_path):
        assert looking.closed


def test_one_that_looks_for_long_is_waited_for_only_so_long(tmp_path, looking, monkeypatch):
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 0.1)
    with pytest.raises(UsageError, match="another process is running this study"), only_one_process(tmp_path):
        pass


def test_a_study_that_runs_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 1e9)
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass


def test_a_lock_that_was_deleted_meanwhile_locks_nobody_out_and_lets_nobody_in(tmp_path, looking, monkeypatch):
    monkeypatch.setattr("hyperlax.study.lock.LOOK_SECONDS", 240.0)

    def deleted() -> None:
        (tmp_path / ".lock").unlink()
        looking.close()

    threading.Timer(0.2, deleted).start()
    with only_one_process(tmp_path), pytest.raises(UsageError, match="is running"), only_one_process(tmp_path):
        pass
