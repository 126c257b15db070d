"""The `hyperlax` command: its words, its output and its exit status.

The commands are imported inside `main`, so that Ctrl-C is an interrupt while that takes its time, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hyperlax.errors import HyperlaxError, UsageError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `argv` without the program's name, default sys.argv. Returns the exit status.

    0: done. 1: it could not be completed. 2: refused before anything ran. 130, 143: interrupted. Any other exception is a
    bug and keeps its traceback.
    """
    try:
        words = sys.argv[1:] if argv is None else argv
        _refuse_other_encodings(words)
        from hyperlax.commands import obey

        return obey(words)
    except HyperlaxError as error:
        print(f"hyperlax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("hyperlax: interrupted.", file=sys.stderr)
        return INTERRUPTED


def _refuse_other_encodings(words: Sequence[str]) -> None:
    """UsageError for a word that is not UTF-8: no file of a study could hold it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the argument {word!r} is not UTF-8. Give it in UTF-8.") from error


if __name__ == "__main__":
    sys.exit(main())
