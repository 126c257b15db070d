"""The words of a command: split as a shell would, and with the values of a trial's hyperparameters in them.

>>> filled(split("python 'my train.py' --lr={lr}"), {"lr": 0.001, "batch_size": 32})
['python', 'my train.py', '--lr=0.001', 'batch_size=32']
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperlax.errors import UsageError, did_you_mean

_PLACE = re.compile(r"\{\{([A-Za-z_][\w./-]*)\}\}|\{([A-Za-z_][\w./-]*)\}")
"""`{{name}}`, which stands for the text `{name}`, or `{name}`, which stands for a value. Other braces are themselves."""
_OF_A_SHELL = re.compile(r"(\|\|?|&&?|;|\d?(>>?|<)(&\d)?|\d?>.+|.*;)$|[^{]*\$([A-Za-z_{(])|`")
"""Words of a text that redirect, join commands, or name a variable."""
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_SCRIPT = re.compile(r"[^=-][^=]*\.(py|sh|R|jl|pl|js|rb)")
"""A word that names a script."""


def split(command: Any) -> tuple[str, ...]:
    """Return the words of a command: of a text as a shell would split it, or those of a list.

    Raises UsageError, also for a text that needs a shell.
    """
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            reason = str(error).lower().removesuffix(".")
            raise UsageError(
                f"the command {command!r} cannot be split into words: {reason}. Close the quotes, or give a list."
            ) from error
        _check_no_shell(words)
    elif isinstance(command, (list, tuple)) and all(isinstance(word, str) for word in command):
        words = list(command)
    else:
        raise UsageError(f"a command needs to be a text or a list of texts, got {command!r}.")
    if not words or not words[0]:
        raise UsageError("the command is empty. Give a program and its words, e.g. python train.py.")
    if any("\0" in word for word in words):
        raise UsageError("the command holds a null character. Leave that out.")
    return tuple(words)


def _check_no_shell(words: Sequence[str]) -> None:
    """Raise UsageError for words that only a shell understands, unless one is started."""
    found = None if "-c" in words else next(filter(_OF_A_SHELL.match, words), None)
    found = words[0] if words and _ASSIGNMENT.match(words[0]) else found
    if found is not None:
        raise UsageError(
            f"the command has {found}, which only a shell understands, and none runs. Write sh -c '...', begin with env to set "
            "variables, or give a list of words, which are taken as they are."
        )


def check_places(words: Sequence[str], params: Collection[str], where: str) -> None:
    """Raise UsageError for a `{name}` without a hyperparameter of this name."""
    for word in words:
        for found in _PLACE.finditer(word):
            if (name := found[2]) and name not in params:
                hint = did_you_mean(name, params) or f"There are {', '.join(params)}. "
                raise UsageError(
                    f"{where}: no hyperparameter named `{name}` for {{{name}}} in the command. {hint}"
                    f"For the text itself, write {{{{{name}}}}}."
                )


def missing_file(words: Sequence[str], directory: str | None) -> str | None:
    """Return why a command cannot be started, and what to do: its program, or the script after it, is not there; else None.

    directory: where it is started; None for the working directory.
    """
    program, here = words[0], Path(directory or ".")
    if _PLACE.search(program):
        return None
    if os.sep in program:
        path = here / program
        if not path.is_file():
            return f"there is no program {path.absolute()}. Correct the command"
        if not os.access(path, os.X_OK):
            return f"{path.absolute()} is not executable. Run chmod +x on it, or begin with its interpreter: python {program}"
    elif shutil.which(program) is None:
        hint = f"Did you mean ./{program}? " if (here / program).is_file() else ""
        return f"there is no program {program} in {os.environ.get('PATH', os.defpath)}. {hint}Correct the command"
    script = next((word for word in words[1:] if _SCRIPT.fullmatch(word)), None)
    if script and not _PLACE.search(script) and not (here / script).is_file():
        return f"there is no file {(here / script).absolute()}. Correct the command, or start in another directory"
    return None


def filled(words: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """Return the words with values in place of `{name}`; those of names that no word has are appended as `name=value`."""
    texts, used = {name: _text_of(value) for name, value in params.items()}, set()

    def put(found: re.Match[str]) -> str:
        if found[1]:
            return f"{{{found[1]}}}"
        used.add(found[2])
        return texts[found[2]]

    placed = [_PLACE.sub(put, word) for word in words]
    return placed + [f"{name}={text}" for name, text in texts.items() if name not in used]


def _text_of(value: Any) -> str:
    """Return a hyperparameter's value as a command gets it.

    >>> [_text_of(value) for value in (1e-05, True, "relu", [64, 64])]
    ['1e-05', 'true', 'relu', '[64,64]']
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
