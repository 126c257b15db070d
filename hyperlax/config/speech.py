"""How a run names options and commands to its user: flags and command lines, or in Python keywords and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperlax.config.option import shell_command
from hyperlax.errors import flag


@dataclass(frozen=True)
class Speech:
    """A way to name things. option: returns what a user writes for an option. command: the same for a command with options."""

    option: Callable[[str], str]
    command: Callable[[str, Mapping[str, Any]], str]


def _command_line(command: str, options: Mapping[str, Any]) -> str:
    return shell_command(command, *(word for name, value in options.items() for word in (flag(name), value)))


def python_call(function: str, options: Mapping[str, Any], *first: str) -> str:
    """Return the call of a function of Hyperlax. first: its positional arguments, as code."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return f"hyperlax.{function}({', '.join([*first, *(f'{name}={value!r}' for name, value in values.items())])})"


SHELL = Speech(flag, _command_line)
_NOW: ContextVar[Speech] = ContextVar("speech", default=SHELL)


@contextmanager
def speaking(speech: Speech) -> Iterator[None]:
    """Have the messages of the block, on its thread, name things in this way."""
    token = _NOW.set(speech)
    try:
        yield
    finally:
        _NOW.reset(token)


@contextmanager
def resuming_with(**options: Any) -> Iterator[None]:
    """Have the commands of the block that resume a study give these options, too."""
    speech = _NOW.get()

    def command(name: str, own: Mapping[str, Any]) -> str:
        return speech.command(name, {**own, **options} if "resume_from" in own else own)

    with speaking(replace(speech, command=command)):
        yield


def spoken(option: str) -> str:
    """Return what the user writes for an option."""
    return _NOW.get().option(option)


def command_to(command: str, **options: Any) -> str:
    """Return what the user runs for a command with options."""
    return _NOW.get().command(command, options)
