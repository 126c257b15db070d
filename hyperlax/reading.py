"""JSON that somebody may have changed: read it, and check values against the types they should have."""

from __future__ import annotations

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hyperlax.errors import UsageError

DAMAGED = "It was changed or damaged; put back the file that Hyperlax wrote."


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON, its lists made tuples, has an annotated type."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return value in options
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, option) for option in options)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(entry, options[0]) for entry in value)
    if get_origin(hint) is dict and isinstance(value, dict):
        return all(isinstance(key, str) and fits(entry, options[1]) for key, entry in value.items())
    if get_origin(hint) is list and isinstance(value, list):
        return all(fits(entry, options[0]) for entry in value)
    if hint is Any:
        return True
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def read_json(path: Path) -> Any:
    """The content of a JSON file. UsageError if it cannot be read as one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}.") from error
