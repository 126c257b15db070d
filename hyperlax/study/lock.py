"""The lock of a study's directory: one process runs a study at a time, on whatever machine.

A process locks `.lock`, writes its name into it and changes its modification time as long as it lives. Where the system's locks
reach every machine, they decide. Some network file systems lock on each machine by itself, or not at all. There the name counts:
of a process on this machine that has died, not at all, of any other as long as the modification time is seen to change. No clock of
one machine is compared with that of another. Below the name is when the process began, since the system gives its number to
another one later.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hyperlax.backends.child import beginning, has_died
from hyperlax.config.option import shell_command
from hyperlax.config.stored import read_arguments
from hyperlax.errors import UsageError
from hyperlax.files import TO_READ, TO_WRITE, naming, open_regular, staying
from hyperlax.leases import Leases
from hyperlax.study.directory import make_directory
from hyperlax.study.io_errors import refusing_forbidden

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

LOCK = ".lock"
LOOK_SECONDS = 1.0
"""Seconds that a starting process waits for processes that only check whether the study runs."""
LEASE_SECONDS = 30.0
"""Seconds after which a process whose lock file does not change has lost it, where locks do not reach it."""
_SETTLE_SECONDS = 0.2
"""Seconds in which another process that starts at the same time writes its name, where the system does not lock."""
_MOST_OF_A_TEXT = 400
"""Bytes of a lock that are read: the name of the process that holds it, and when that began."""


class _Look(NamedTuple):
    """A lock and what a process wrote into it. is_locked: whether the system says that it lives. renewed: modification time."""

    text: str
    is_locked: bool
    renewed: int

    @property
    def name(self) -> str:
        return self.text.partition("\n")[0]


_LEASES = Leases[Path]()
"""Of directories: their locks as they were last seen."""


class Held:
    """A directory that this process holds. file: its lock, which stays the same file wherever the directory is moved."""

    def __init__(self, root: Path, file: BinaryIO | None):
        self.root, self._file = root, file

    def renew(self) -> None:
        """Change the lock's modification time, which others watch."""
        if self._file is not None:
            os.utime(self._file.fileno())

    def moved_to(self) -> Path | None:
        """Return where the directory is now, None if it was removed or that is not known."""
        if self._file is None or not os.fstat(self._file.fileno()).st_nlink:
            return None
        try:
            path = Path(os.readlink(f"/proc/self/fd/{self._file.fileno()}"))
        except OSError:
            get_path = getattr(fcntl, "F_GETPATH", None)  # macOS
            if get_path is None:
                return None
            path = Path(os.fsdecode(fcntl.fcntl(self._file, get_path, bytes(1024)).rstrip(b"\0")))
        return path.parent

    def is_in_place(self) -> bool:
        """Return whether the directory still has its name."""
        if self._file is None:
            return self.root.is_dir()
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._file.fileno()), (self.root / LOCK).stat())
        return False


@contextmanager
def only_one_process(root: Path, is_named: bool = True, lost: Callable[[], None] = lambda: None) -> Iterator[Held]:
    """Hold the directory for this process.

    The system releases the lock when a process dies. Windows has no such lock.

    Args:
      root: The directory; it is made if it is missing.
      is_named: Whether to write this process's name into the lock's file, which needs room on the disk.
      lost: Called in another thread if a process that did not see this one has taken the directory. From then on neither the
        study's files nor its database are written, and nothing is removed: see `files.refuse_moved`.

    Raises:
      UsageError: Another process holds the directory (the message names it), or it may not be written.
    """
    make_directory(root)
    if sys.platform == "win32":
        with staying(root):
            yield Held(root, None)
        return
    with _locked(root) as file, staying(root) as place:
        if not is_named:
            yield Held(root, file)
            return
        text, held, ended = _write_name(root, file), Held(root, file), threading.Event()

        def end() -> None:
            place.is_lost = True
            lost()

        renewing = threading.Thread(target=_renew, args=(held, file, text, ended, end), daemon=True, name="lock")
        renewing.start()
        try:
            yield held
        finally:
            ended.set()
            renewing.join()
            with suppress(OSError, UsageError):
                if not place.is_lost and _text_now(held, file) == text:
                    file.truncate(0)


def _write_name(root: Path, file: BinaryIO) -> str:
    """Write this process's name, and when it began, into the lock's file. Return what was written."""
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    name = f"process {os.getpid()} on {socket.gethostname()} (since {since})"
    text = f"{name}\n{beginning(os.getpid())}".strip()
    _write(root, file, text)
    if not ((look := _look(root)) and look.is_locked):
        time.sleep(_SETTLE_SECONDS)
        if (look := _look(root)) and look.text != text:
            raise StudyRunning(root, look.name)
    return text


def _write(root: Path, file: BinaryIO, text: str) -> None:
    with naming(root / LOCK):
        file.truncate(0)
        os.pwrite(file.fileno(), f"{text}\n".encode(), 0)


def _renew(held: Held, file: BinaryIO, text: str, ended: threading.Event, lost: Callable[[], None]) -> None:
    """Renew the lease until the process ends, or another one has taken the directory.

    An empty lock gets the name again, unless the lease has run out: another process may have run and ended since.
    """
    renewed, has_warned = time.time(), False
    while not ended.wait(LEASE_SECONDS / 6):
        try:
            now = _text_now(held, file)
            if now != text and (now or time.time() - renewed > LEASE_SECONDS):
                taker = now.partition("\n")[0] or "another process"
                log.error("%s: %s has taken this study, since it did not hear of this process.", held.root, taker)
                lost()
                return
            if not now:
                _write(held.root, file, text)
            held.renew()
            renewed, has_warned = time.time(), False
        except (OSError, UsageError) as error:  # the disk may be away for a while
            if not has_warned:
                log.warning("%s: the lock cannot be renewed. Another process may take the study. %s", held.root, error)
            has_warned = True


def _text_now(held: Held, file: BinaryIO) -> str:
    """Return what is in the lock. The file is opened, so that no old copy of it is read, unless the directory was moved."""
    if not held.is_in_place():
        return _text_in(file)
    look = _read(held.root)
    return look.text if look else ""


def _locked(root: Path) -> BinaryIO:
    """Return the open file of a directory's lock, locked if the system can. Waits for processes that only check the lock.

    `flock` by hand and not a package for locks: those know only exclusive locks, and truncate the file with the holder's name.
    """
    path, until = root / LOCK, time.monotonic() + LOOK_SECONDS
    while True:
        refuse_running(root)
        with refusing_forbidden(path):
            file = open_regular(path, TO_WRITE | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                file.close()
                raise StudyRunning(root, "") from error
        except OSError as error:
            log.debug("%s cannot be locked (%s). Other processes see that this one changes it.", path, error)
            return file
        else:
            with suppress(FileNotFoundError):  # a process that deleted the study removed the file that was opened here
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        file.close()
        time.sleep(0.01)


def refuse_running(root: Path) -> None:
    """Raise UsageError, naming the process, if another one holds the directory. Writes nothing.

    Waits up to `LEASE_SECONDS` where a name is in the lock and the system does not say whether that process lives.
    """
    first: _Look | None = None
    while (look := _look(root)) is not None:
        if look.is_locked or (first and look != first):
            raise StudyRunning(root, look.name)
        if _LEASES.age(root, look) > LEASE_SECONDS:
            return
        if first is None:
            log.info("Waiting up to %.0f s to see whether %s still runs %s.", LEASE_SECONDS, look.name, root)
        first = look
        time.sleep(LEASE_SECONDS / 100)


def holder_of(root: Path) -> str | None:
    """Return the description of the process that holds the directory, None if it is free. Writes nothing and does not wait.

    Where the system does not lock, the process that is named there counts until no change was seen for `LEASE_SECONDS`.
    """
    look = _look(root)
    if look is None or (not look.is_locked and _LEASES.age(root, look) > LEASE_SECONDS):
        return None
    return look.name


def _look(root: Path) -> _Look | None:
    """Return a directory's lock, None if nobody holds it."""
    look = _read(root)
    return look if look and (look.is_locked or _may_live(look.text)) else None


def _read(root: Path) -> _Look | None:
    """Return a directory's lock, None if there is none. Raises UsageError if it cannot be read."""
    if sys.platform == "win32":
        return None
    try:
        with refusing_forbidden(root / LOCK), open_regular(root / LOCK, TO_READ) as file:
            is_locked = False
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                is_locked = True
            except OSError:
                pass  # the system cannot lock here
            return _Look(_text_in(file), is_locked, os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"{root / LOCK}: cannot be read ({error.strerror}). Remove it if no process runs this study."
        ) from error


def _text_in(lock: BinaryIO) -> str:
    return os.pread(lock.fileno(), _MOST_OF_A_TEXT, 0).decode(errors="replace").strip()


class StudyRunning(UsageError):
    """A study that another process holds. root: its directory."""

    def __init__(self, root: Path, holder: str):
        self.root = root
        has_agents = False
        with suppress(UsageError):
            arguments = read_arguments(root, "")
            has_agents = arguments.get("agents", "none") != "none" and arguments.get("engine") == "local"
        advice = f"Train for it: {shell_command('agent', root)}. Or wait" if has_agents else "Wait"
        problem = f"{root}: {holder or 'another process'} is running this study."
        super().__init__(f"{problem} {advice} for it, or stop it and resume.")


def _may_live(text: str) -> bool:
    """Return whether the text of a lock names a process, unless one on this machine that has died."""
    found = re.fullmatch(r"process (\d+) on (.+) \(since .*\)(?:\n(.*))?", text)
    if not found or found[2] != socket.gethostname():
        return found is not None
    return not has_died(int(found[1]), found[3] or "")
