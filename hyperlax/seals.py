"""Marks that tell this user's own studies from received ones: only the own decide which code runs and where results go.

A mark is a keyed digest. The key is a file that only the user can read, outside of every study, so a study that somebody else
wrote or changed has no mark that holds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperlax.files import TO_READ, open_regular, state_directory

_KEY = "key"
_BYTES = 32


def seal(content: Any) -> str:
    """Return this user's mark of a content, which JSON can hold; "" if the user's key can be neither read nor made."""
    key = _key()
    text = json.dumps(content, sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() if key else ""


def is_sealed(content: Any, mark: object) -> bool:
    """Return whether a mark is this user's own of a content."""
    own = seal(content)
    return bool(own) and isinstance(mark, str) and hmac.compare_digest(own, mark.encode("ascii", "replace").decode())


def _key() -> bytes | None:
    """Return the user's key, which is made if there is none; None if that is not possible."""
    with suppress(OSError, RuntimeError):  # RuntimeError: the home directory is not known
        path = state_directory() / _KEY
        if (found := _read(path)) is None:
            _make(path)
            found = _read(path)
        return found
    return None


def _read(path: Path) -> bytes | None:
    """Return the key in a file; None if it is missing, not whole, or could be another user's."""
    try:
        with open_regular(path, TO_READ) as file:
            state = os.fstat(file.fileno())
            is_own = not hasattr(os, "geteuid") or (state.st_uid == os.geteuid() and not state.st_mode & 0o077)
            key = file.read(_BYTES + 1)
    except FileNotFoundError:
        return None
    return key if is_own and len(key) == _BYTES else None


def _make(path: Path) -> None:
    """Write a new key, unless another process does: then that one stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{_KEY}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_BYTES))
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
