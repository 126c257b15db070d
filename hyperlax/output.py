"""Output that may find nobody: a reader who has left, a full disk."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

log = logging.getLogger(__name__)


class Heard:
    """A text stream that falls silent, instead of raising, once it cannot be written.

    What is written is for whoever watches; the work goes on without them. A full disk is logged, a reader who has left is not.
    """

    def __init__(self, stream: TextIO):
        self._stream, self._is_open = stream, True

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """Have it written, as far as anybody reads it."""
        self._do("flush")

    def _do(self, verb: str, *arguments: str) -> None:
        if not self._is_open:
            return
        try:
            getattr(self._stream, verb)(*arguments)
        except OSError as error:
            self._is_open = False
            if not isinstance(error, BrokenPipeError):
                log.warning("The output cannot be written (%s). The run goes on without it.", error.strerror)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def heard(stream: TextIO) -> TextIO:
    """The stream as one that falls silent."""
    return stream if isinstance(stream, Heard) else cast(TextIO, Heard(stream))


@contextmanager
def printing_to_whoever_listens() -> Iterator[None]:
    """Let nothing that the block prints end it."""
    with redirect_stdout(heard(sys.stdout)):
        yield
