"""From the words of a command line to flags; what cannot be read becomes one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tyro

from hyperlax.errors import UsageError

DESCRIPTION = "Trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."


def parse(commands: Mapping[str, type], argv: Sequence[str] | None) -> Any:
    """The flags of the command that was asked for. `--help` prints and raises SystemExit(0).

    Raises:
      UsageError: there is no such command or flag, or a value is not of its kind.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return _parse(commands, argv)
    except SystemExit as end:
        if not end.code:
            raise
    said = io.StringIO()
    with _wide_window(), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        _parse(commands, argv)
    command = argv[0] if argv and argv[0] in commands else None
    raise UsageError(sentence(said.getvalue(), command))


def completion_script(commands: Mapping[str, type], shell: str) -> str:
    """tyro's script for "bash", "zsh" or "fish"."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        _parse(commands, ["--tyro-print-completion", shell])
    return said.getvalue()


def sentence(said: str, command: str | None = None) -> str:
    """What tyro said of a command in a box of many lines, in one; its own words where they are none of those known here.

    >>> sentence("Unrecognized options: --n-trails, 3\\nPerhaps you meant:\\n    --n-trials INT")
    'no option --n-trails. Did you mean --n-trials? See hyperlax --help.'
    """
    lines = [line.strip(" \t│|") for line in said.splitlines() if re.search(r"\w", line)]
    text = "\n".join(lines)
    for pattern, words in _SENTENCES.items():
        if found := re.search(pattern, text):
            return f"{words(found)} See hyperlax {command + ' ' if command else ''}--help."
    return " ".join(text.split())


_SENTENCES: dict[str, Callable[[re.Match[str]], str]] = {
    r"Error parsing (--\S+): .* from \['(.*)'\][\s\S]*?\n\1 (.*)": lambda m: f"{m[1]} takes {m[3]}, got {m[2]}.",
    r"Error parsing (--\S+): (?:invalid literal|could not convert).* '(.*)'": lambda m: (
        f"{m[1]} takes a number, got {m[2]}."
    ),
    r"Error parsing ([A-Z]+): no type matching .*INT.* from \['(.*)'\]": lambda m: (
        f"{m[1]} takes a whole number, got {m[2]}."
    ),
    r"Error parsing ([A-Z]+) \[.*for arguments: \['(.*)'\]": lambda m: f"{m[1]} takes whole numbers, got {m[2]}.",
    r"invalid choice '(.*)' for argument '(\S+)'.*\((.*)\)": lambda m: f"{m[2]} takes {_choices(m[3])}, got {m[1]}.",
    r"Missing value for argument '(\S+)'": lambda m: f"{m[1]} needs a value.",
    r"Unrecognized options: ([^,\n]+).*\nPerhaps you meant:\n(\S+)": lambda m: (
        f"no option {m[1]}. Did you mean {m[2]}?"
    ),
    r"Unrecognized options: ([^,\n]+).*\nAvailable subcommands: (.*)": lambda m: (
        f"no command {m[1]}. There are {m[2]}."
    ),
    r"Unrecognized options: (.*)": lambda m: f"nothing takes {m[1]}.",
    r"misplaced options:\n(\S+) \(applied to hyperlax (\S+)\)": lambda m: f"{m[2]} has no option {m[1]}.",
    r"Expected one of \{(.*)\}": lambda m: f"a command is needed: {m[1]}.",
    r"Missing from hyperlax (\S+):\n(.*)\n(.*) \(required\)": lambda m: f"{m[1]} needs {m[2]}. {m[3]}",
}
"""tyro's words -> ours."""


@contextlib.contextmanager
def _wide_window() -> Iterator[None]:
    """A window so wide that no line of a message is broken."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _choices(listed: str) -> str:
    return ", ".join(sorted(set(re.findall(r"'([\w-]+)'", listed)) - {"None"}))


def _parse(commands: Mapping[str, type], argv: Sequence[str] | None) -> Any:
    return tyro.extras.subcommand_cli_from_dict(dict(commands), prog="hyperlax", description=DESCRIPTION, args=argv)
