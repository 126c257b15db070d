"""Files of a batch that are gone or damaged: a part of the pages cannot be made without them, and the rest can."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hyperlax.errors import HyperlaxError

log = logging.getLogger(__name__)


class LostFile(HyperlaxError):
    """A batch's file cannot be read: which one, and the reason. What the database says of the batch still holds."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise LostFile if the system does not let the block read `path`, or what the block makes of its content raises."""
    try:
        yield
    except OSError as error:
        raise LostFile(f"{path}: {error.strerror}.") from error
    except KeyError as error:
        raise LostFile(f"{path}: is damaged (lacks {error}).") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        why = " ".join(str(error).split()).removeprefix(f"{path}, ").removesuffix(".")
        raise LostFile(f"{path}: is damaged ({why}).") from error


@cache
def warn_once(text: str) -> None:
    """Log a warning the first time that a process has it: pages are made anew after every super-batch."""
    log.warning("%s", text)
