"""Files that are either whole or absent, numbers that read back exactly, and JSON read into types.

Every write goes to a temporary name in the same directory, is flushed to disk and renamed: after `kill -9` or on a full disk a
reader finds the old file or the new one, never half of one.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import msgspec

from hyperlax.errors import OptionError, UsageError, counted

T = TypeVar("T")

PUT_BACK = "It was changed or damaged; put back the file that Hyperlax wrote."
"""The fix for a file that only Hyperlax writes."""
STDOUT = Path("-")
"""The path that stands for standard output."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
TO_READ, TO_WRITE = os.O_RDONLY | _NO_LINK, os.O_RDWR | _NO_LINK
"""Flags of `open_regular`, which then opens no link."""
_MOST_BYTES = 2**28
"""Size above which a file of a study is not read."""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_MOST_OF_A_NAME = 100
"""Bytes of a file's name that its temporary file keeps. Optuna adds 48 to that name for a lock."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STAYING: list[Staying] = []
_HELD = threading.local()
"""`paths`: the files of this thread that become durable together, None for each by itself."""


def new_file(given: str, replaces: bool | None = None, option: str = "output") -> Path:
    """Return a path where an option may write. An option `output` may also name `STDOUT`.

    replaces: the command's `--force`; None without one.

    Raises OptionError for an empty or too long name, for a file that may not be replaced, and for a missing directory.
    """
    path = Path(given)
    if path == STDOUT:
        if option != "output":
            raise OptionError(option, f"{{{option}}} -: cannot be standard output. Name a file.")
        return path
    if not given.strip():
        problem = f"{{{option}}} {{0!r}}: names no file. Name one, or leave {{{option}}} out."
        raise OptionError(option, problem, given)
    if is_too_long(path):
        raise OptionError(
            option, f"{{0}}: is longer than the system allows. Choose a shorter name with {{{option}}}.", path
        )
    if path.exists() and not (replaces and path.is_file()):
        way = "Remove it" if replaces is None or not path.is_file() else "Replace it with {force}"
        problem = f"{{0}}: exists already. {way}, or choose another name with {{{option}}}."
        raise OptionError(option, problem, path)
    if not path.absolute().parent.is_dir():
        problem = f"{{0}}: {{1}} is not a directory. Make it, or choose another {{{option}}}."
        raise OptionError(option, problem, path, path.absolute().parent)
    return path


def expanded(path: str) -> str:
    """Return a path with a home directory for `~` and `~user` and values for `$NAME` and `${NAME}`.

    Raises UsageError for a variable that is not set, a user who does not exist, and a null character.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise UsageError(f"{path}: the variable {name} is not set. Set it, or write the path in full.")
        return os.environ[name]

    if "\0" in path:
        raise UsageError(f"{path!r}: holds a null character, which no path can. Leave it out.")
    home, *rest = _VARIABLE.sub(value, path).partition("/")
    if home.startswith("~"):
        user, home = home, os.path.expanduser(home)
        if home == user:
            raise UsageError(
                f"{path}: {user} is not the home directory of a user. Write the path in full, or ./{user}."
            )
    return home + "".join(rest)


def state_directory() -> Path:
    """Return the directory of what this user's runs keep for later ones. Raises RuntimeError if the home directory is not known."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hyperlax"


@contextmanager
def printed_if_stdout(path: Path) -> Iterator[Path]:
    """Yield a path for the block to write; for `STDOUT` a temporary one, whose content is then printed."""
    if path != STDOUT:
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield (temporary := Path(scratch) / "output")
        sys.stdout.flush()
        content = temporary.read_bytes()
        if sys.stdout.isatty():  # which would obey control characters
            sys.stdout.write(content.decode(errors="backslashreplace"))
        else:
            sys.stdout.buffer.write(content)


_LONGEST_NAME = 255
"""Bytes of a file's name, which the system does not compare if the directory does not exist either."""


def is_too_long(path: Path) -> bool:
    """Return whether a path, or a name in it, is longer than the system allows, so that no such file can exist."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG or any(len(os.fsencode(name)) > _LONGEST_NAME for name in path.parts)
    return False


def write_text(path: Path, text: str, is_durable: bool = True) -> None:
    """Replace `path` by `text` in UTF-8, atomically; missing parent directories are made.

    is_durable: whether to wait until it is on the disk. A file that is not may be empty after a loss of power.
    """
    with replacing(path, is_durable) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def escaped(text: str) -> str:
    r"""Return a text that UTF-8 can hold. File names that are not UTF-8 contain lone surrogates, which it cannot.

    >>> escaped("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def cut(name: str, most: int) -> str:
    """Return the beginning of a name, in whole letters and at most `most` bytes. File systems allow 255.

    >>> cut("trials", 4), cut("äöü", 5)
    ('tria', 'äö')
    """
    return os.fsencode(name)[:most].decode("utf-8", "ignore")


@contextmanager
def replacing(path: Path, is_durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`. The file written there replaces `path`, or is removed if the block raises.

    Missing parent directories are made. An OSError of the block names `path`. is_durable: see `write_text`.
    """
    temporary = path.with_name(f".{cut(path.name, _MOST_OF_A_NAME)}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with naming(path):
            make_directories(path.parent)
            yield temporary
            held: list[Path] | None = getattr(_HELD, "paths", None)
            if is_durable and held is None:
                _sync_file(temporary)
            os.replace(temporary, path)
            if held is not None:
                held += [path] if is_durable else []
            elif is_durable:
                _sync_directory(path.parent)
    except BaseException:
        for left in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            with suppress(OSError):
                left.unlink()
        raise


@dataclass(eq=False)
class Staying:
    """A directory of `staying`, as it was `before`. is_lost: whether nothing may be written there any more."""

    directory: Path
    before: os.stat_result
    is_lost: bool = False


@contextmanager
def staying(directory: Path) -> Iterator[Staying]:
    """Let nothing be written below a directory that is moved or removed while the block runs: that would make it again."""
    entry = Staying(directory, directory.stat())
    _STAYING.append(entry)
    try:
        yield entry
    finally:
        _STAYING.remove(entry)


def refuse_moved(path: Path) -> Path | None:
    """Return the directory of `staying` that a path is in, if any.

    Raises FileNotFoundError if that was moved or removed, OSError if another process has taken it.
    """
    for one in tuple(_STAYING):
        if path == one.directory or one.directory in path.parents:
            if one.is_lost:
                raise OSError(errno.ESTALE, "another process has taken the study", str(one.directory))
            with suppress(OSError):
                if os.path.samestat(one.directory.stat(), one.before):
                    return one.directory
            raise FileNotFoundError(errno.ENOENT, "the directory was moved or removed", str(one.directory))
    return None


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises OSError if it is below a directory of `staying` that another process has taken."""
    with suppress(FileNotFoundError):  # also where that directory was moved or removed
        refuse_moved(path)
        path.unlink()


def make_directories(path: Path) -> None:
    """Make a directory and those above it, except a directory of `staying` and those above that."""
    root = refuse_moved(path)
    if root is None:
        path.mkdir(parents=True, exist_ok=True)
    elif path != root and not path.is_dir():
        make_directories(path.parent)
        path.mkdir(exist_ok=True)


@contextmanager
def durable_together() -> Iterator[None]:
    """Wait once, at the end of the block, until all files that it writes are on the disk: faster than for each by itself.

    Until then they have their names, and may be empty after a loss of power.
    """
    _HELD.paths = paths = list[Path]()
    try:
        yield
    finally:
        _HELD.paths = None
    for path in paths:
        with naming(path):
            _sync_file(path)
    for directory in dict.fromkeys(path.parent for path in paths):
        with naming(directory):
            _sync_directory(directory)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name `path`. Otherwise it names no file if the file is open, or a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by indented JSON. Raises ValueError for nan and inf, TypeError for a value that JSON cannot hold."""
    write_text(path, json_text(value))


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return a value as `write_json` writes it, in one line if `indent` is None. Raises the same errors."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False, default=_json_default) + "\n"


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a file that may come from somebody else, for reading or with flags such as `TO_WRITE`.

    Raises OSError, naming `path`, also for a pipe or a device, which may have no end, and for a link if the flags forbid it.
    """
    if flags & os.O_RDWR:
        refuse_moved(path)
    with naming(path):
        if flags & _NO_LINK and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644)  # a pipe would wait for its writer
        try:
            if stat.S_ISDIR(mode := os.fstat(descriptor).st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
        except OSError:
            os.close(descriptor)
            raise
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb")


def read_bytes(path: Path, most: int = _MOST_BYTES, flags: int = os.O_RDONLY) -> bytes:
    """Return the content of a regular file, or of one in /dev, which only a user names: a shell's <(...).

    flags: see `open_regular`. Raises OSError, naming the file, also if it has more than `most` bytes.
    """
    with path.open("rb") if path.is_relative_to("/dev") else open_regular(path, flags) as file, naming(path):
        content = file.read(most + 1)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB")
        return content


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a regular file. Raises OSError as `read_bytes` does, UnicodeDecodeError."""
    return read_bytes(path).decode(encoding)


def decode(path: Path, kind: type[T], fix: str = PUT_BACK) -> T:
    """Read a JSON file into a type, for example a dataclass or `dict[str, int]`.

    Args:
      path: The file; it may begin with a byte order mark.
      kind: Type of the content. `object` takes every JSON.
      fix: Advice to the user if the file holds something else, in a sentence.

    Raises:
      UsageError: It cannot be read, is not JSON (NaN and Infinity are not), has a name twice, or is not of this type.
    """
    try:
        value = read_json(read_text(path, "utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}.") from error
    return convert(value, kind, str(path), fix)


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError or RecursionError if it is not JSON, or has a name twice."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_each_once)


def convert(value: Any, kind: type[T], where: str, fix: str = PUT_BACK) -> T:
    """Return a value that was read from JSON as a type. Whole numbers serve as floats; nothing else is converted.

    Raises:
      UsageError: Beginning with `where`, if it is not of this type.

    >>> convert([1, 2], tuple[float, ...], "study.json")
    (1.0, 2.0)
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: cannot be read ({error}). {fix}") from error
    except RecursionError as error:
        raise UsageError(f"{where}: cannot be read (nested too deeply). {fix}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the entries of an object of JSON. Raises ValueError for a name that it has twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"`{twice}` is there twice")
    return found


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace `path` by a CSV: floats as their repr, booleans as True and False, lists as JSON text, None as nothing.

    Raises ValueError for a row whose length is not the header's, TypeError for a value of another kind.
    """
    lines = [header, *rows]
    for row in lines:
        if len(row) != len(header):
            raise ValueError(f"{path}: a row has {counted(len(row), 'cell')}, the header {len(header)}: {list(row)}")
    write_text(path, csv_text(lines))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows in the form of `write_csv`."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return buffer.getvalue()


class CsvError(ValueError):
    """A CSV whose rows do not fit together. line: its number, if one is at fault. finding: the problem, without the file."""

    def __init__(self, path: Path, problem: str, line: int | None = None):
        self.finding = problem if line is None else f"line {line}: {problem}"
        super().__init__(f"{path}{':' if line is None else ','} {self.finding}")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV as header name -> text. A byte order mark and blank last lines, as spreadsheets write, are ignored.

    Raises CsvError for a row whose length is not the header's, and for a name that the header has twice.
    """
    reader = csv.reader(io.StringIO(read_text(path, "utf-8-sig"), newline=""))
    header = next(reader, None)
    if header is None:
        raise CsvError(path, "is empty; a CSV needs at least its header.")
    for place, name in enumerate(header):
        if name in header[:place]:
            raise CsvError(path, f"two columns are named `{name}`.")
    lines = [(reader.line_num, cells) for cells in reader]
    while lines and not "".join(lines[-1][1]).strip():
        lines.pop()
    for line, cells in lines:
        if len(cells) != len(header):
            raise CsvError(path, f"{counted(len(cells), 'cell')}, the header has {len(header)}.", line)
    return [dict(zip(header, cells, strict=True)) for _, cells in lines]


def cell(value: Any) -> str:
    """Return a value as `write_csv` writes it."""
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return json.dumps(value, allow_nan=False)
    raise TypeError(f"A CSV cell is text, a number, a boolean, a list or None, not {type(value).__name__}: {value!r}")


def quoted(value: Any) -> Any:
    """Return a text with an apostrophe before it if a spreadsheet would take it for a formula, any other value unchanged.

    >>> quoted("=1+1"), quoted("tanh"), quoted(-1.0)
    ("'=1+1", 'tanh', -1.0)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def unquoted(text: str) -> str:
    """Return the text that `quoted` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def plain(value: Any) -> Any:
    """Return numpy scalars and arrays, also in a list, as Python's own: JSON and databases keep only those; tuples as lists."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _json_default(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return plain(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}")


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; on Windows a directory cannot be opened, and the rename is durable without."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
