"""The `hyperlax` command: its words, its output and its exit status.

The commands are imported inside `main`, so that Ctrl-C is an interrupt while that takes its time, too.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from hyperlax.errors import HyperlaxError, UsageError

FAILED, INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `argv` without the program's name, default sys.argv. Returns the exit status.

    0: done. 1: it could not be completed, or nobody reads the output any more. 2: refused before anything ran. 130, 143:
    interrupted. Any other exception is a bug and keeps its traceback.
    """
    _escape_what_cannot_be_encoded()
    try:
        return _obey(argv)
    except HyperlaxError as error:
        print(f"hyperlax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("hyperlax: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED


def _obey(argv: Sequence[str] | None) -> int:
    """Run a command and write out what it printed."""
    try:
        words = sys.argv[1:] if argv is None else argv
        _refuse_other_encodings(words)
        from hyperlax.commands import obey

        return obey(words)
    finally:
        _write_out()


def _write_out() -> None:
    """Flush what was printed. What cannot be written is dropped: else Python would try again at its end, with a traceback.

    See "Note on SIGPIPE" in the documentation of Python's `signal`.
    """
    try:
        print(end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise HyperlaxError(f"The output cannot be written: {error.strerror}.") from error


def _escape_what_cannot_be_encoded() -> None:
    """Have a terminal that lacks a letter of a path get its number instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_other_encodings(words: Sequence[str]) -> None:
    """UsageError for a word that is not UTF-8: no file of a study could hold it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the argument {word!r} is not UTF-8. Give it in UTF-8.") from error


if __name__ == "__main__":
    sys.exit(main())
