"""What a shell completes: commands, flags, the words that a flag takes, and files everywhere else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hyperlax.envs.catalog import CATALOG
from hyperlax.metrics import METRICS
from hyperlax.parsing import completion_script
from hyperlax.recipe import available

KNOWN = {
    "RECIPE": tuple(available()),
    "SUITE.NAME": tuple(CATALOG),
    "NAME [NAME ...]": tuple(METRICS),
    "DIRECTION [DIRECTION ...]": ("maximize", "minimize"),
}
"""Metavar -> the words to offer. Those of `{a,b}` say themselves what they take."""

FILES = "__TYRO_COMPLETE_FILES__"
_CHANGES = {
    r"(    completions = get_completions\(words, current_index, COMPLETION_SPEC\).*\n)": r"\1"
    '    typed = (words[current_index:] or [""])[0]\n'
    '    offered = [c for c in completions if typed.startswith("-") or not c.startswith(("-", "None"))]\n'
    f'    completions = offered or ["{FILES}"]\n',
    r'COMPREPLY=\(\$\(compgen -f -- "\$cur"\)\)': "COMPREPLY=()",
    r"complete -F": "complete -o default -F",
}
"""What is changed in tyro's scripts, of which the last two are in bash's only. tyro offers all flags where a DIR is to be typed,
and no file there; bash itself completes files where a script leaves it to the default."""


def shell_script(commands: Mapping[str, type], shell: str) -> str:
    """The script that "bash", "zsh" or "fish" sources."""
    script = completion_script({name: with_words(kind) for name, kind in commands.items()}, shell)
    for found, instead in _CHANGES.items():
        script = re.sub(found, instead, script)
    return script


def with_words(kind: type) -> type:
    """The same flags, of which those that take certain words have a type that lists them, so that they can be completed."""
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        (field.name, _listing(hints[field.name]), dataclasses.field(default=field.default))
        for field in dataclasses.fields(kind)
    ]
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _listing(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return hint
    kind, *details = get_args(hint)
    metavar = next((detail.metavar for detail in details if getattr(detail, "metavar", None)), "")
    listed = re.fullmatch(r"\{(.*)\}", metavar)
    words = tuple(listed[1].split(",")) if listed else KNOWN.get(metavar)
    if words is None:
        return hint
    one = Literal[words]  # pyright: ignore[reportInvalidTypeForm]
    several = any(get_origin(part) is tuple for part in (kind, *get_args(kind)))
    return Annotated[(tuple[one, ...] if several else one) | None, *details]
