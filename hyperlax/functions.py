"""A user's function outside of a recipe: where it is, and how a worker process gets it.

Its place is a text: `path/to/file.py:name`, or the path of a file that ends in .pickle. That file is of one run of a study only.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperlax.errors import UsageError, type_and_message
from hyperlax.report import Report
from hyperlax.user_code import located

_PICKLE = ".pickle"
_LOADED = "hyperlax_function_"


@dataclass(frozen=True)
class OneReport:
    """A function of the hyperparameters alone, as one that reports: what it returns is its one report, of step 1.

    It returns the leading measure, or all measures by name.
    """

    function: Callable[[dict[str, Any]], Any]

    def __call__(self, params: dict[str, Any], report: Report, seed: int) -> None:
        """Call the function and report what it returns."""
        found = self.function(params)
        if found is None:
            report.end(
                f"returned None. Return the {report.leading}, or take (params, report, seed) and call report",
                is_fault=True,
            )
        report(1, **(found if isinstance(found, Mapping) else {report.leading: found}))


@dataclass(frozen=True)
class Placed:
    """A function and its place. call: takes `(params, report, seed)`."""

    call: Callable[..., Any]
    place: str


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Return whether a function can be called with `count` arguments, True if that is not known."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _reporting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function if it takes `(params, report, seed)`, else one that reports what it returns."""
    return OneReport(function) if not accepts(function, 3) and accepts(function, 1) else function


def stored_place(place: str) -> str | None:
    """Return a place as a study keeps it, None if only this run can load the function."""
    return None if place.endswith(_PICKLE) else place


def file_of(place: str) -> Path:
    """Return the file that messages about a function name: its own, or a path of its name."""
    return Path(Path(place).stem if place.endswith(_PICKLE) else place.rpartition(":")[0])


def name_of(function: Callable[..., Any]) -> str:
    """Return a name for a function that can also name a directory."""
    function = function.function if isinstance(function, OneReport) else function
    return getattr(function, "__name__", type(function).__name__).strip("<>")


@contextmanager
def placed(function: Callable[..., Any], where: str) -> Iterator[Placed]:
    """Yield a function with its place for the block: in its own file, else pickled by value with cloudpickle.

    Raises UsageError, beginning with `where`, if neither works, or if loading its file would start the study again.
    """
    if place := _own_place(function):
        _check_guard(place, where)
        yield Placed(_reporting(function), place)
        return
    content = _pickled(function, where)
    with tempfile.TemporaryDirectory(prefix="hyperlax-") as directory:
        path = Path(directory) / f"{name_of(function)}{_PICKLE}"
        path.write_bytes(content)
        yield Placed(_reporting(function), str(path))


def load(place: str) -> Placed:
    """Return the function of a place. Raises UsageError if it cannot be loaded."""
    if place.endswith(_PICKLE):
        return Placed(_reporting(pickle.loads(Path(place).read_bytes())), place)
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{file}: no such file, and {name}() is in it. Put the file back.")
    with located(path, file):
        module = _imported(path)
    try:
        return Placed(_reporting(attrgetter(name)(module)), place)
    except AttributeError as error:
        raise UsageError(f"{file}: defines no function {name}(). Put it back.") from error


def _own_place(function: Callable[..., Any]) -> str | None:
    """Return the file and the name under which a function can be loaded, None if there is no such place."""
    name, module = getattr(function, "__qualname__", "<>"), sys.modules.get(getattr(function, "__module__", None) or "")
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = getattr(module, "__file__", None)
    if "<" in name or not file or not file.endswith(".py") or not Path(file).is_file() or code is None:
        return None
    try:
        is_there = attrgetter(name)(module) is function and Path(code.co_filename).is_file()
    except AttributeError:
        return None
    return f"{Path(file).resolve()}:{name}" if is_there else None


def _check_guard(place: str, where: str) -> None:
    """Raise UsageError if this call is made while the function's file is run, where it would be made again in a worker process."""
    file, _, name = place.rpartition(":")
    frame = inspect.currentframe()
    while frame:
        code = frame.f_code
        is_of_file = code.co_name == "<module>" and Path(code.co_filename).resolve() == Path(file)
        if is_of_file and not _is_guarded(Path(file), frame.f_lineno):
            raise UsageError(
                f"{where}: {file}:{frame.f_lineno} makes this call whenever the file is loaded, and worker processes load it to "
                f'get {name}(). Put the call below `if __name__ == "__main__":`.'
            )
        frame = frame.f_back


def _is_guarded(path: Path, line: int) -> bool:
    """Return whether a line of a file is below an `if` about `__name__`."""
    return any(
        isinstance(node, ast.If)
        and node.lineno <= line <= (node.end_lineno or line)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        for node in ast.parse(path.read_bytes()).body
    )


def _pickled(function: Callable[..., Any], where: str) -> bytes:
    """Return a function by value. Raises UsageError without cloudpickle, and for one that holds what cannot be pickled."""
    name = name_of(function)
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError as error:
        raise UsageError(
            f"{where}: {name} is not at the top level of a file, from which worker processes could load it. Move it there, or "
            "install cloudpickle: pip install 'hyperlax[notebook]'."
        ) from error
    try:
        return cloudpickle.dumps(function)
    except Exception as error:  # what it refers to may raise anything
        raise UsageError(
            f"{where}: {name} cannot be sent to worker processes ({type_and_message(error)}). Make what it uses inside of "
            "it, or move it to the top level of a file."
        ) from error


def _imported(path: Path) -> ModuleType:
    """Return the module of a file, under the name that its packages give it, and with their folder where imports are looked up.

    A file that is not found under that name gets another one.
    """
    parts, root = ([] if path.stem == "__init__" else [path.stem]), path.parent
    while (root / "__init__.py").is_file():
        parts, root = [root.name, *parts], root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    name = ".".join(parts)
    found = importlib.util.find_spec(name)
    if found and found.origin and Path(found.origin).resolve() == path.resolve():
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"{_LOADED}{path.stem}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
