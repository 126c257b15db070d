"""The source of an exception in a user's code: the line, and in a recipe the entry of its search space."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

from hyperlax.errors import UsageError, type_and_message


@contextmanager
def located(path: Path, where: str) -> Iterator[None]:
    """Turn an exception of the recipe's own code into a UsageError with file, line and, if there is one, field."""
    try:
        yield
    except SyntaxError as error:
        place = where if error.lineno is None else f"{where}:{error.lineno}"
        raise UsageError(f"{place}: {type(error).__name__}: {error.msg}.") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code may raise anything, also SystemExit
        positions = _positions(error.__traceback__, str(path.resolve()))
        place = f"{where}:{positions[0][0]}" if positions else where
        entry = next((name for position in positions if (name := _entry(path, position))), None)
        message = str(error) if isinstance(error, UsageError) else type_and_message(error)
        raise UsageError(": ".join(part for part in (place, entry, message) if part)) from error


def with_line(error: BaseException) -> str:
    """Return an exception's type, the first line of its message, and the line of the user's own code."""
    message = next(iter(str(error).strip().splitlines()), "").removesuffix(".")
    return f"{type(error).__name__}: {message}{line_of(error)}"


def line_of(error: BaseException) -> str:
    """Return the line of the user's own code in which an exception arose, as ` (file.py:7)`; "" if there is none."""
    frames = [frame for frame in extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _is_users(file: str) -> bool:
    """Return whether code is a user's: neither Hyperlax's nor an installed package's."""
    return "site-packages" not in file and not Path(file).is_relative_to(Path(__file__).parent)


def _positions(traceback: TracebackType | None, file: str) -> list[tuple[int, int]]:
    """Return line and column of each call in `file` on the traceback, innermost first."""
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename == file:
            line, _, column, _ = list(code.co_positions())[traceback.tb_lasti // 2]
            found.append((line or traceback.tb_lineno, column or 0))
        traceback = traceback.tb_next
    return found[::-1]


def _entry(path: Path, position: tuple[int, int]) -> str | None:
    """Return the string key of the innermost dictionary entry whose value is at this position of the source."""
    found = None
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            begin = (value.lineno, value.col_offset)
            end = (value.end_lineno or value.lineno, value.end_col_offset or 0)
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and begin <= position < end:
                found = key.value
    return found
