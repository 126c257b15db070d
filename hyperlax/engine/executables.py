"""Compiled verbs on disk, found by what they compute: loading one takes tenths of a second, and nothing is traced for it.

JAX's persistent cache is asked with a lowered program, so a hit there costs seconds of tracing. Here a verb of a shipped program
has two names. A link is named by everything that decides what is compiled: the program, this package's source, the versions of the
libraries, JAX's configuration and the device. It points to a file that is named by the lowered text, so that a change to the source
that leaves a verb as it was costs its tracing once, and no compilation.

The code of a user's own environment or algorithm is not in those names: such programs use JAX's cache only.

A file holds a pickle, and loading it may run any code, as with JAX's own cache. So the directory and the files in it are used only
if they belong to the user and nobody else can write to them. A file begins with a digest of its name and content; one that is
damaged is not loaded.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
import platform
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable

from hyperlax.engine.costs import fingerprint, tell_not_kept
from hyperlax.errors import in_one_line
from hyperlax.files import replacing

log = logging.getLogger(__name__)

FOLDER = "executables"
"""Name of the directory in that of the compiled programs."""
_LIBRARIES = ("jax", "jaxlib", "numpy", "flax", "optax", "gymnax")
_MOST_BYTES = 2**30
_KEPT_SECONDS = 60 * 24 * 3600.0
_WRITING_SECONDS = 3600.0
"""Age of a temporary file from which on its writer must have died."""
_IRRELEVANT = ("cache", "log_", "logging", "dump", "traceback", "jax_platforms")
"""Parts of the names of JAX's options that change nothing that is computed."""
_DIGEST = hashlib.sha256().digest_size
_PACKAGE = Path(__file__).parents[1]
_IMPORTED = time.time()
"""Time at which this process began to import what trains."""


class Executable(NamedTuple):
    """A verb made executable.

    text: digest of its lowered text. needed: bytes of its arguments, results and temporaries. cached: it was loaded, not compiled.
    """

    call: Any
    text: str
    needed: int
    cached: bool


@dataclass(frozen=True)
class Executables:
    """The compiled verbs of shipped programs in a directory. Safe to use from several threads and processes at once.

    identity: the properties of this machine that decide the bits of a program's results.
    """

    directory: Path
    identity: Mapping[str, Any]

    def key(self, device: Any, *parts: Any) -> str:
        """Return a name for a program on a device: the same where the same would be compiled. parts: their texts say what.

        Return "" if this package's source was changed after it was imported: its text does not say then what is compiled.
        """
        source = _source()
        return fingerprint(self._place(device), source, *map(version, _LIBRARIES), *parts) if source else ""

    def load(self, name: str, device: Any) -> Executable | None:
        """Return the verb that was kept under this name, None if there is none. A file that is damaged is removed."""
        path = target = self.directory / name
        try:
            if path.is_symlink():
                target = self.directory / path.readlink().name
            found = _read(target, device)
        except FileNotFoundError:
            return None
        except OSError as error:
            tell_not_kept(self.directory.parent, error.strerror or str(error), is_read=True)
            return None
        except Exception as error:  # a damaged pickle, or one of another version, can raise anything
            reason = in_one_line(error)[:200]
            log.warning("%s: cannot be read (%s). It is removed, and the program is compiled again.", target, reason)
            _remove(target, path)
            return None
        with suppress(OSError):
            for used in (target, path):
                os.utime(used, follow_symlinks=False)
        return found

    def make(self, name: str, plain: str, lowered: Any, options: Mapping[str, Any] | None, device: Any) -> Executable:
        """Return a lowered verb made executable: loaded if one of the same text was kept, else compiled. Keep it as `name`.

        The lowered function has that name, instead of the `plain` one that its text is kept under. So JAX's cache does not know it,
        and it is really compiled: JAX loads programs from its cache without some of their code, and they cannot be kept then.
        """
        text = _digest_of(lowered, name, plain)
        shapes = (lowered.args_info, lowered.out_info)  # the text lacks arguments that the verb does not read
        target = f"{plain}-{fingerprint(self._place(device), text, *shapes, sorted((options or {}).items()))}"
        found = self.load(target, device)
        if found is None:
            found = compiled(lowered, options, text)
            if not found.cached:
                self._keep(target, found)
        if (self.directory / target).exists():
            self._link(name, target)
        elif not found.cached:
            return found
        if cache := jax.config.values["jax_compilation_cache_dir"]:
            _remove(
                *Path(cache).glob(f"*{name}-*")
            )  # the same once more, or what a process left that was killed before `_keep`
        return found

    def _keep(self, target: str, made: Executable) -> None:
        try:
            with replacing(self.directory / target) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(_sealed(target, _content(made)))
            self._prune()
        except OSError as error:
            tell_not_kept(self.directory.parent, error.strerror or str(error))
        except Exception as error:
            # JAX cannot serialize every program of every backend. Such a program is compiled each time.
            log.debug("%s is not kept: %s", target, error)

    def _link(self, name: str, target: str) -> None:
        """Let `name` point to a file."""
        with suppress(OSError):
            (self.directory / name).unlink(missing_ok=True)
            (self.directory / name).symlink_to(target)

    def _prune(self) -> None:
        """Remove what was not used for long, the least recently used beyond the largest size, and what is of no use."""
        room, oldest = _MOST_BYTES, time.time() - _KEPT_SECONDS
        for used, size, path in sorted(_files(self.directory), reverse=True):
            room -= size
            is_useless = path.name.startswith(".") or not path.exists()
            if room < 0 or used < oldest or is_useless:
                _remove(path)

    def _place(self, device: Any) -> str:
        """Return everything besides the program that decides what the compiler makes of it."""
        options = {
            name: value for name, value in jax.config.values.items() if not any(part in name for part in _IRRELEVANT)
        }
        own = (
            device.platform,
            device.device_kind,
            device.id,
            device.client.platform_version,
            cpu_info("flags", "Features"),  # a virtual machine may hide some
        )
        return fingerprint(self.identity, *own, platform.python_version(), options)


def open_executables(directory: Path, identity: Mapping[str, Any]) -> Executables | None:
    """Return the executables in a directory, which is made if needed; None, after one sentence, if it cannot be used."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        tell_not_kept(directory.parent, error.strerror or str(error))
        return None
    if not _is_own(found):
        _tell_unsafe(directory)
        return None
    return Executables(directory, identity)


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file or directory belongs to this user and nobody else can write to it."""
    return not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)


@functools.cache
def _tell_unsafe(directory: Path) -> None:
    log.warning(
        "%s is not used: it belongs to another user, or others can write to it, and what is loaded from it can run any code. "
        "Set HYPERLAX_CACHE_DIR to a directory of your own.",
        directory,
    )


class _CacheHits(threading.local):
    """A count of the calling thread's hits in the persistent cache. JAX reports a hit in the thread that compiles."""

    count = 0

    def listen(self, event: str, **_: Any) -> None:
        self.count += event == "/jax/compilation_cache/cache_hits"


_cache_hits = _CacheHits()
jax.monitoring.register_event_listener(_cache_hits.listen)


def compiled(lowered: Any, options: Any = None, text: str = "") -> Executable:
    """Return a lowered verb made executable by JAX. text: its digest, if that is known."""
    hits = _cache_hits.count
    call = lowered.compile(compiler_options=options)
    return Executable(call, text or _digest_of(lowered), _total_bytes(call), _cache_hits.count > hits)


def _digest_of(lowered: Any, name: str = "", verb: str = "") -> str:
    """Return the digest of a lowered text; `name` stands for the verb in it."""
    text = lowered.as_text()
    return hashlib.sha256((text.replace(name, verb) if name else text).encode()).hexdigest()


def _total_bytes(executable: Any) -> int:
    memory = executable.memory_analysis()
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return sum(parts) - memory.alias_size_in_bytes


def _content(made: Executable) -> bytes:
    """Return a verb as bytes: what JAX makes of it, the structures of its arguments and results, and plain data about it."""
    serialized, *trees = serialize_executable.serialize(made.call)
    return pickle.dumps((made.text, made.needed, serialized, trees))


def _sealed(name: str, content: bytes) -> bytes:
    """Return a content after a digest of it and of the file's name."""
    return hashlib.sha256(name.encode() + content).digest() + content


def _read(path: Path, device: Any) -> Executable:
    """Return the verb in a file. Raises ValueError if the file is not as it was written."""
    found = path.lstat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ValueError("it is not a file")
    if not _is_own(found):
        raise ValueError("it belongs to another user, or others can write to it")
    whole = path.read_bytes()
    if whole != _sealed(path.name, whole[_DIGEST:]):
        raise ValueError("it is damaged")
    text, needed, serialized, trees = pickle.loads(whole[_DIGEST:])
    client = device.client
    call = serialize_executable.deserialize_and_load(serialized, *trees, backend=client, execution_devices=[device])
    return Executable(call, text, needed, cached=True)


def _files(directory: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each file and link was last used, its size, and its path; not what others are writing."""
    for path in directory.iterdir():
        with suppress(OSError):
            found = path.lstat()
            if not (path.name.startswith(".") and found.st_mtime > time.time() - _WRITING_SECONDS):
                yield found.st_mtime, found.st_size, path


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _source() -> str:
    """Return a digest of this package's source, "" if a file was changed or replaced since it was imported."""
    paths = sorted(_PACKAGE.rglob("*.py"))
    if any(max(found.st_mtime, found.st_ctime) > _IMPORTED for found in (path.stat() for path in paths)):
        return ""
    return _digest_of_files(tuple(paths))


@functools.cache
def _digest_of_files(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def cpu_info(*names: str) -> str:
    """Return the first entry of these names that Linux has about the CPU; elsewhere the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(names))
    return next(found, platform.processor() or platform.machine())
