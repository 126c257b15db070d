"""The parser of command lines. tyro reads the words and writes the help; each error is a single sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from hyperlax.config.option import HIDDEN, LAST, MAY_CHANGE, POSITIONAL, REPEATED, Given, Option, flags_of, options_of
from hyperlax.errors import OptionError, UsageError, did_you_mean
from hyperlax.printable import unescaped

DESCRIPTION = "Trains many reinforcement-learning configurations at once, as lanes of one compiled JAX program."


@dataclass(frozen=True)
class Command:
    """A command.

    kind: declares its options. function: runs it, returns the exit status. example: words to type after its name. lacks: flags of
    other commands -> why it has none of that name.
    """

    kind: type
    function: Callable[[Given], int]
    example: str
    lacks: Mapping[str, str] = field(default_factory=dict)


def parse(groups: Mapping[str, Mapping[str, Command]], words: Sequence[str]) -> tuple[str, Given]:
    """Return the command's name and its given options. `--help` prints and raises SystemExit(0).

    groups: title -> the group's commands by name.

    Raises:
      UsageError: The command or option does not exist, or a value is not of its kind.
    """
    if words and words[0] in ("-h", "--help"):
        print(_overview(groups))
        raise SystemExit(0)
    commands = {name: command for group in groups.values() for name, command in group.items()}
    known = f"There are {', '.join(commands)}. See hyperlax --help."
    if not words:
        raise UsageError(f"a command is needed. {known}")
    name, *rest = words
    if name not in commands:
        raise UsageError(f"no command {name}. {did_you_mean(name, commands)}{known}")
    command = commands[name]
    try:
        return name, _given(name, command, rest)
    except OptionError as error:
        raise error.spelled(flags_of(command.kind)) from error


def typed_options(kind: type) -> dict[str, Option]:
    """Return the options of a command that can be typed, without the words that follow `--`."""
    return {
        name: option for name, option in options_of(kind).items() if not option.has(HIDDEN) and not option.has(LAST)
    }


def _given(name: str, command: Command, words: Sequence[str]) -> Given:
    options, see = typed_options(command.kind), f"See hyperlax {name} --help."
    last = next((option for option in options_of(command.kind).values() if option.has(LAST)), None)
    after = list(words[words.index("--") + 1 :]) if last and "--" in words else []
    words = words[: words.index("--")] if after else words
    words = _one_value_each(options, words)
    _check_values(options, words)
    try:
        with contextlib.redirect_stdout(unescaped(sys.stdout)), contextlib.redirect_stderr(io.StringIO()):
            found, unknown = tyro.cli(
                _parsed_kind(command.kind), prog=f"hyperlax {name}", args=list(words), return_unknown_args=True
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(f"hyperlax {name}: its options cannot be read. {see}") from end
        print(f"\nexample:\n  hyperlax {name} {command.example}")
        raise
    if unknown:
        raise UsageError(f"{_refused(name, unknown[0], options, command.lacks)}{see}")
    given = {
        name: option.read_words(typed)
        for name, option in options.items()
        if (typed := _typed(option, getattr(found, name))) is not None
    }
    return {**given, **({last.name: last.read_words(after)} if last and after else {})}


def _refused(name: str, word: str, options: Mapping[str, Option], lacks: Mapping[str, str]) -> str:
    """Return what is wrong with a word that a command does not know. lacks: see `Command`."""
    flags = [option.flag for option in options.values()]
    given = word.partition("=")[0].replace("_", "-")
    if given in flags:
        return f"{word} follows --, after which no option is read. Put it before. "
    if why := lacks.get(given):
        return f"{name} has no option {given}: {why}. "
    return (
        f"{name} has no option {word}. {_nearest(word, flags)}"
        if word.startswith("-")
        else f"unexpected argument {word}. "
    )


def _nearest(word: str, flags: Sequence[str]) -> str:
    """Propose the flags that begin with a word, or else the one that is spelled most like it."""
    begin = [flag for flag in flags if flag.startswith(word)] if word.strip("-") else []
    if begin:
        return did_you_mean(word, begin, count=3, cutoff=0.0)
    return did_you_mean(word.lstrip("-"), [flag.lstrip("-") for flag in flags], spell="--{}".format)


def _typed(option: Option, value: Any) -> Sequence[str] | None:
    """Return the words that were typed for an option; None if it was not given."""
    if option.type is bool:
        return () if value else None
    if option.has(POSITIONAL) or option.has(REPEATED):
        return [word for word in value or () if isinstance(word, str)] or None
    return value


def _one_value_each(options: Mapping[str, Option], words: Sequence[str]) -> list[str]:
    """Return the words with the flag before each of several values `NAME=VALUE` of a flag that may be repeated."""
    repeated = {option.flag for option in options.values() if option.has(REPEATED)}
    found: list[str] = []
    flag = ""
    for before, word in zip(("", *words), words, strict=False):
        is_value = "=" in word and not word.startswith("-")
        flag = (
            word.partition("=")[0] if word.partition("=")[0] in repeated else flag if is_value or before == flag else ""
        )
        found += [flag, word] if flag and is_value and before != flag else [word]
    return found


def _check_values(options: Mapping[str, Option], words: Sequence[str]) -> None:
    """Raise OptionError for an option without its value, and for a switch with one."""
    by_flag = {option.flag: option for option in options.values() if not option.has(POSITIONAL)}
    for word, after in zip_longest(words, words[1:]):
        if word == "--":
            return
        spelled, equals, value = word.partition("=")
        option = by_flag.get(spelled.replace("_", "-"))
        if option is None:
            continue
        if option.type is bool and equals:
            raise OptionError(option.name, f"{{{option.name}}} takes no value, got {{0}}.", value)
        is_followed = after not in (None, "--", "-h", "--help") and after.partition("=")[0] not in by_flag
        if option.type is not bool and not equals and not is_followed:
            raise OptionError(option.name, f"{{{option.name}}} needs a value.")


def _parsed_kind(kind: type) -> type:
    """Return a class for tyro whose fields hold the typed words of each option; None for options without any."""
    options = typed_options(kind)
    flags = ", ".join(option.flag for option in options.values() if option.has(MAY_CHANGE))
    fields = [
        (
            name,
            Annotated[
                _parsed_type(option),
                *_details(option, option.help().replace("options that may change", flags), options),
            ],
            dataclasses.field(default=False if option.type is bool else () if option.has(REPEATED) else None),
        )
        for name, option in options.items()
    ]
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _parsed_type(option: Option) -> Any:
    return bool if option.type is bool else tuple[str, ...] if option.has(REPEATED) else Any


def _default_text(option: Option, options: Mapping[str, Option]) -> str:
    """Return an option's default as the help shows it, and where else a required one may come from."""
    text = option.default_text()
    is_required = text == "required" and not option.has(POSITIONAL)
    if is_required and "files" in options:
        return "required, in the file or here"
    return "required, except with --resume-from" if is_required and "resume_from" in options else text


def _details(option: Option, text: str, options: Mapping[str, Option]) -> list[Any]:
    """Return tyro's settings of an option: its name, its help, and that its words are taken literally."""
    name = None if option.has(POSITIONAL) else option.key.replace("_", "-")
    metavar = None if option.type is bool else option.metavar
    told: list[Any] = [
        tyro.conf.arg(name=name, metavar=metavar, help=text, help_behavior_hint=f"({_default_text(option, options)})")
    ]
    if option.has(POSITIONAL):
        told.append(tyro.conf.Positional)
    if option.type is bool:
        told.append(tyro.conf.FlagCreatePairsOff)
    elif option.has(REPEATED):
        told.append(tyro.conf.UseAppendAction)
    else:
        told.append(_AS_TYPED(nargs="*" if option.is_list else 1, metavar=option.metavar))
    return told


_AS_TYPED = partial(
    PrimitiveConstructorSpec,
    instance_from_str=lambda words: words,
    is_instance=lambda value: True,
    str_from_instance=lambda value: list(value or ()),
)


def _overview(groups: Mapping[str, Mapping[str, Command]]) -> str:
    width = max(len(name) for commands in groups.values() for name in commands) + 2
    lines = ["usage: hyperlax [-h] [--version] COMMAND [OPTION ...]", "", DESCRIPTION]
    for title, commands in groups.items():
        told = [(name, (command.kind.__doc__ or "").splitlines()[0]) for name, command in commands.items()]
        lines += ["", f"{title}:", *(f"  {name:{width}}{text}" for name, text in told)]
    lines += [
        "",
        "options:",
        f"  {'-h, --help':{width}}Print this help, or that of a command: hyperlax COMMAND --help.",
    ]
    return "\n".join((*lines, f"  {'--version':{width}}Print the version."))
