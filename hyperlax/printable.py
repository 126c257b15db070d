"""Text for a terminal: its control characters, which a received study may have in any name, are written out and not obeyed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and newline, and those that change the direction of writing."""


def printable(text: str) -> str:
    r"""Return a text with its control characters written out.

    >>> printable("red \x1b[31m"), printable("two\nlines")
    ('red \\x1b[31m', 'two\nlines')
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_breaks(text: str) -> str:
    r"""Return a text with its control characters written out, also tab and newline.

    >>> without_breaks("two\nlines")
    'two\\nlines'
    """
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


class _Printable:
    """A text stream to which everything is written `printable`. unescaped: the stream behind it."""

    def __init__(self, stream: TextIO):
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self.unescaped.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def unescaped(stream: TextIO) -> TextIO:
    """Return the stream to write control codes to that are meant."""
    return getattr(stream, "unescaped", stream)


@contextmanager
def escaping_control_characters() -> Iterator[None]:
    """Write everything that the block prints `printable`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Printable(unescaped(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
