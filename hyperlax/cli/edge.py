"""The edge of the `hyperlax` command: its words, its output and its exit status.

The commands are imported inside `main`, so that Ctrl-C during these slow imports is an interrupt, too.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from hyperlax.errors import FAILED, INTERRUPTED, HyperlaxError, UsageError
from hyperlax.printable import escaping_control_characters


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. `argv` lacks the program's name; by default it is sys.argv. Return the exit status.

    0: done. 1: not completed, or nobody reads the output any more (a study keeps its own status then). 2: refused before anything
    ran. 130, 143: interrupted. Any other exception is a bug and keeps its traceback.
    """
    _collect_garbage_rarely()
    _open_what_is_closed()
    _escape_what_cannot_be_encoded()
    with escaping_control_characters():
        try:
            return _run(argv)
        except HyperlaxError as error:
            _say(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            _say("interrupted.")
            return INTERRUPTED
        except BrokenPipeError:
            return FAILED
        finally:
            _flush(sys.stderr)


def _collect_garbage_rarely() -> None:
    """Look for cyclic garbage after 100,000 new objects, not at exit: imports take a sixth less time, the exit a fifth."""
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)


def _run(argv: Sequence[str] | None) -> int:
    """Run a command and flush its output."""
    words = sys.argv[1:] if argv is None else argv
    try:
        _refuse_other_encodings(words)
        if list(words) == ["--version"]:
            return _tell_version()
        from hyperlax.cli.commands import STUDIES, run

        status = run(words)
    except (HyperlaxError, KeyboardInterrupt):
        _flush(sys.stdout)
        raise
    except BaseException:
        _write_out()
        raise
    _write_out(is_study=words[0] in STUDIES)
    return status


def _tell_version() -> int:
    from hyperlax import __version__

    print(f"hyperlax {__version__}")
    _write_out()
    return 0


def _write_out(is_study: bool = False) -> None:
    """Flush the output. A study is on disk in any case, so for it an error is only printed, e.g. that the disk is full.

    Raises:
      BrokenPipeError: nobody reads any more.
      HyperlaxError: it cannot be written.
    """
    lost = _flush(sys.stdout)
    if isinstance(lost, BrokenPipeError) and not is_study:
        raise lost
    if lost is None or isinstance(lost, BrokenPipeError):
        return
    sentence = f"The output cannot be written: {lost.strerror}."
    if not is_study:
        raise HyperlaxError(sentence) from lost
    _say(sentence)


def _say(sentence: str) -> None:
    """Print a sentence to standard error."""
    with suppress(OSError):
        print(f"hyperlax: {sentence}", file=sys.stderr)


def _flush(stream: TextIO) -> OSError | None:
    """Flush the output, and drop it if it cannot be written: otherwise Python would try again at exit, with a traceback.

    See "Note on SIGPIPE" in the documentation of Python's `signal`.
    """
    try:
        print(end="", file=stream, flush=True)
    except OSError as error:
        with suppress(io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _open_what_is_closed() -> None:
    """Point standard streams that were closed before Python began, and are None, to the null device."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _escape_what_cannot_be_encoded() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_other_encodings(words: Sequence[str]) -> None:
    """Raise UsageError for a word that is not UTF-8, because no file of a study could store it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the argument {word!r} is not UTF-8. Give it in UTF-8.") from error
