"""JAX's persistent cache of compiled programs, with entries that are whole or absent.

JAX writes into an entry in place and never replaces it: one that a kill or a full disk has cut short would cost its compilation at
every run. JAX 0.10 and 0.11 have no option for another writer, so the class of their cache is replaced.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from jax._src import compilation_cache
from jax._src.lru_cache import LRUCache

from hyperlax.engine.costs import tell_not_kept
from hyperlax.files import replacing

log = logging.getLogger(__name__)


class _WholeEntries(LRUCache):
    """JAX's cache in a directory. An entry that cannot be read is removed, after one sentence."""

    def get(self, key: str) -> bytes | None:
        """Return an entry, None if there is none that is whole."""
        try:
            value = super().get(key)
        except OSError as error:
            tell_not_kept(Path(self.path), error.strerror or str(error), is_read=True)
            return None
        if value is None or _is_whole(value):
            return value
        entry = self._entry(key)
        log.warning("%s: a compiled program is damaged. It is removed, and compiled again.", entry)
        with suppress(OSError):
            entry.unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, unless it exists."""
        try:
            if self.eviction_enabled:
                super().put(key, value)
            elif not (entry := self._entry(key)).exists():
                with replacing(entry, is_durable=False) as temporary:
                    temporary.write_bytes(value)
        except OSError as error:
            tell_not_kept(Path(self.path), error.strerror or str(error))

    def _entry(self, key: str) -> Path:
        return Path(self.path) / f"{key}-cache"


def write_whole_entries() -> None:
    """Let JAX use this cache from now on."""
    compilation_cache.LRUCache = _WholeEntries  # pyright: ignore[reportPrivateImportUsage]


def _is_whole(value: bytes) -> bool:
    """Return whether an entry can be decompressed, which compares its checksum or its size."""
    try:
        compilation_cache.decompress_executable(value)
    except Exception:  # zlib's and zstd's errors have no class in common
        return False
    return True
