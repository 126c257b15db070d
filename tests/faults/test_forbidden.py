"""A study that may not be written or read is refused in one line, with exit status 2, before anything runs."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperlax.config.stored import read_stored
from hyperlax.errors import UsageError
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or (os.geteuid() == 0 and sys.platform != "linux"),
    reason="permissions are those of POSIX, and only Linux can make root obey them",
)
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
MAY_PASS_BY_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def as_a_user() -> Iterator[None]:
    """Let permissions bind this thread: root writes and reads where no one may."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, found = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    bound = (ctypes.c_uint32 * 6)()

    def call(function: str, capabilities: ctypes.Array[ctypes.c_uint32]) -> None:
        if getattr(libc, function)(header, capabilities) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    call("capget", found)
    bound[:] = [found[0] & ~MAY_PASS_BY_PERMISSIONS, *found[1:]]
    call("capset", bound)
    try:
        yield
    finally:
        call("capset", found)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory that can be removed again, whatever became of its permissions."""
    yield tmp_path
    for directory in (tmp_path, *(found for found in tmp_path.rglob("*") if found.is_dir())):
        directory.chmod(0o755)


@pytest.fixture
def case(root: Path) -> Case:
    """A study that has more to run, resumed once so that all that it imports is there."""
    case = Case(root, n_trials=3)
    assert case.start() == 0 and case.resume() == 0
    return case


def test_a_resume_in_a_directory_that_cannot_be_written_is_refused(case):
    before, runner = case.told(), FakeBackend()
    case.directory.chmod(0o555)
    with as_a_user(), pytest.raises(UsageError) as refused:
        case.resume(runner, n_trials=6)
    words = "cannot be opened for writing (Permission denied). Make it writable, or use another directory."
    assert str(refused.value) == f"{case.directory}: {words}"
    assert runner.trained == [] and case.told() == before


def test_a_resume_with_a_database_that_cannot_be_written_is_refused(case):
    before, runner, path = case.told(), FakeBackend(), case.directory / "optuna_study.db"
    path.chmod(0o444)
    with as_a_user(), pytest.raises(UsageError) as refused:
        case.resume(runner, n_trials=6)
    assert str(refused.value).startswith(
        f"{path}: cannot be opened for writing (attempt to write a readonly database)."
    )
    assert runner.trained == [] and case.told() == before


def test_a_database_that_cannot_be_read_is_refused_and_not_called_damaged(case):
    path = case.directory / "optuna_study.db"
    path.chmod(0)
    with as_a_user(), pytest.raises(UsageError) as refused:
        case.resume(n_trials=6)
    assert str(refused.value).startswith(f"{path}: cannot be opened for writing (unable to open database file).")


@pytest.mark.parametrize(("mode", "named"), [(0o444, "study.json"), (0, "study.json")])
def test_a_study_json_that_cannot_be_written_is_replaced_and_one_that_cannot_be_read_is_refused(case, mode, named):
    path = case.directory / named
    path.chmod(mode)
    with as_a_user():
        if mode:
            assert read_stored(case.directory, "--resume-from").n_trials == 3
            assert case.resume(n_trials=6) == 0
            return
        for command in (case.resume, lambda: read_stored(case.directory, "--resume-from")):
            with pytest.raises(UsageError) as refused:
                command()
            assert str(refused.value) == f"{path}: cannot be read (Permission denied)."


def test_a_study_directory_that_cannot_be_read_is_refused(case):
    case.directory.chmod(0)
    with as_a_user():
        with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)\."):
            read_stored(case.directory, "--resume-from")
        with pytest.raises(UsageError, match=r"Permission denied"):
            case.start()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_new_study_where_nothing_can_be_written_is_refused_and_leaves_nothing(case, depth):
    fresh = Case(case.root / "fresh")
    directory = (fresh.root, fresh.directory.parent, fresh.directory)[depth]
    directory.mkdir(parents=True)
    directory.chmod(0o555)
    runner = FakeBackend()
    with as_a_user(), pytest.raises(UsageError, match=r"\(Permission denied\)\. (Choose|Make)"):
        fresh.start(runner)
    assert runner.trained == [] and list(directory.iterdir()) == []


@pytest.mark.parametrize("command", ["start", "resume"])
def test_a_file_system_that_is_read_only_is_refused(case, monkeypatch, command):
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *args, **kwargs)

    fresh, runner = Case(case.root / "fresh"), FakeBackend()
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(UsageError, match=r"cannot be opened for writing \(Read-only file system\)\."):
        fresh.start(runner) if command == "start" else case.resume(runner, n_trials=6)
    assert runner.trained == []
