"""JSON that somebody may have changed: `files.decode` by an older name, until its last users have moved there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperlax.errors import UsageError
from hyperlax.files import PUT_BACK, convert, decode

DAMAGED = PUT_BACK


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value read from JSON has an annotated type."""
    try:
        convert(value, hint, "")
    except UsageError:
        return False
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file. UsageError if it cannot be read as one."""
    return decode(path, object)
