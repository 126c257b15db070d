"""Options as the fields of a dataclass declare them: one declaration gives the flag, its help, its checks and its key in a file.

>>> @dataclass(frozen=True, kw_only=True)
... class Example:
...     n_trials: Annotated[int, "Total number of finished trials.", Range(1), MAY_CHANGE] = 100
>>> option = options_of(Example)["n_trials"]
>>> option.flag, option.read(1e2), option.wanted()
('--n-trials', 100, 'a whole number of at least 1')
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum, auto
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from hyperlax.errors import OptionError, UsageError, did_you_mean, in_lower, in_one_line, named
from hyperlax.errors import flag as flag_of
from hyperlax.files import PUT_BACK, expanded
from hyperlax.hyperparams import Bounds

T = TypeVar("T")
Given = Mapping[str, Any]
"""Option -> its value, for the options that were given."""


class Mark(Enum):
    """Properties of an option.

    MAY_CHANGE: a resume may change it. THIS_RUN: it belongs to one run, not to the study. SHORTHAND: it stands for other options,
    which are kept. HIDDEN: it has no flag. POSITIONAL: it is given without a name. REPEATED: a flag with one
    value that may be given several times. FILE: a file to read. RL_ONLY: only RL algorithms have it. PROGRAMS_ONLY,
    PROCESSES_ONLY: only what trains in compiled programs has it, or only what trains in processes. LAST: the words that
    follow `--`.
    """

    MAY_CHANGE = auto()
    THIS_RUN = auto()
    SHORTHAND = auto()
    HIDDEN = auto()
    POSITIONAL = auto()
    REPEATED = auto()
    FILE = auto()
    RL_ONLY = auto()
    PROGRAMS_ONLY = auto()
    PROCESSES_ONLY = auto()
    LAST = auto()


MAY_CHANGE, THIS_RUN, SHORTHAND, HIDDEN, POSITIONAL, REPEATED, FILE, RL_ONLY, PROGRAMS_ONLY, PROCESSES_ONLY, LAST = Mark


@dataclass(frozen=True)
class Range(Bounds):
    """Valid values of a number. note: a sentence that follows a refusal."""

    unit: str = "a number"
    note: str = ""


@dataclass(frozen=True)
class OneOf:
    """The words that an option accepts. fold: returns the right spelling of a word in another case."""

    words: tuple[str, ...]
    fold: Callable[[str], str] = str


@dataclass(frozen=True)
class Offered:
    """Words that a shell completes and that are checked elsewhere. words: returns them."""

    words: Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Spelled:
    """Another name on the command line and in files."""

    word: str


@dataclass(frozen=True)
class Metavar:
    """The placeholder of the value in the help. DIR, FILE, PATH, ROOT and RECIPE stand for paths, which are expanded."""

    text: str


@dataclass(frozen=True)
class By:
    """The origin of the default, for the help."""

    text: str


@dataclass(frozen=True)
class Option:
    """An option of a command.

    type: int, float, str or bool, that of each entry if `is_list`. words: further values, such as auto. default: MISSING if it
    must be given, or if the recipe and other options settle it.
    """

    name: str
    type: Any
    is_list: bool
    words: tuple[str, ...]
    is_optional: bool
    default: Any
    marks: tuple[Any, ...]

    def mark(self, kind: type[T]) -> T | None:
        """Return the last mark of a kind, that of the most derived class."""
        return next((mark for mark in reversed(self.marks) if isinstance(mark, kind)), None)

    def has(self, mark: Mark) -> bool:
        return mark in self.marks

    def is_foreign(self, is_rl: bool, has_programs: bool) -> bool:
        """Return whether a study does not have it. is_rl, has_programs: whether it trains RL, and in compiled programs."""
        return (self.has(RL_ONLY) and not is_rl) or self.has(PROCESSES_ONLY if has_programs else PROGRAMS_ONLY)

    @property
    def is_kept(self) -> bool:
        """True if study.json has it."""
        return not (self.has(THIS_RUN) or self.has(SHORTHAND))

    @property
    def is_offered(self) -> bool:
        """True if study.json has it and it has a flag."""
        return self.is_kept and not self.has(HIDDEN)

    @property
    def has_fixed_default(self) -> bool:
        """True unless it must be given, or the recipe and other options settle it."""
        return self.default is not MISSING

    @property
    def is_path(self) -> bool:
        """True if its value is a path, or several."""
        return bool(_PATH.search(self.metavar))

    def help(self, spell: Callable[[str], str] = flag_of) -> str:
        """Return the help, with other options as `spell` names them."""
        return named(self.mark(str) or "", spell)

    @property
    def is_switched_off(self) -> bool:
        """True if it is on unless its flag turns it off."""
        return self.type is bool and self.default is True

    @property
    def key(self) -> str:
        """Name in a file and in Python: that of its flag, with underscores."""
        spelled = self.mark(Spelled)
        return spelled.word if spelled else f"no_{self.name}" if self.is_switched_off else self.name

    @property
    def flag(self) -> str:
        return self.metavar.split()[0].strip("[]") if self.has(POSITIONAL) else "--" + self.key.replace("_", "-")

    @property
    def metavar(self) -> str:
        if given := self.mark(Metavar):
            return given.text
        if choices := self.mark(OneOf):
            return "{" + ",".join(choices.words) + "}"
        name = {int: "INT", float: "NUMBER", str: "TEXT", bool: ""}[self.type]
        return "|".join((name, *self.words))

    def default_text(self, spell: Callable[[str], str] = flag_of) -> str:
        """Return the default as the help shows it, with other options as `spell` names them."""
        if by := self.mark(By):
            return f"default: {named(by.text, spell)}"
        if self.default is MISSING:
            return "required"
        if self.default is None or self.default == ():
            return "default: none"
        value = self.default
        return f"default: {f'{value:g}' if isinstance(value, float) else self.in_words(value)}"

    def offered(self) -> tuple[str, ...]:
        """Return the words that can be completed."""
        choices, offered = self.mark(OneOf), self.mark(Offered)
        return choices.words if choices else tuple(offered.words()) if offered else self.words

    def in_words(self, value: Any) -> str:
        """Return a value as a sentence shows it."""
        if self.type is bool:
            return f"{'' if value else 'no '}{self.name.replace('_', ' ')}"
        return " ".join(value) if isinstance(value, tuple) else str(value)

    def wanted(self) -> str:
        """Return its accepted values, in words."""
        if choices := self.mark(OneOf):
            return f"one of {', '.join(choices.words)}"
        if self.is_list:
            return "whole numbers" if self.type is int else "a text or a list of texts"
        limits = self.mark(Range)
        names = {
            int: "a whole number",
            float: limits.unit if limits else "a number",
            str: "a text",
            bool: "true or false",
        }
        return " or ".join((names[self.type] + (limits.words() if limits else ""), *self.words))

    def read_words(self, words: Sequence[str]) -> Any:
        """Return the value of words of a command line. Raises OptionError if it does not accept them."""
        if self.type is bool:
            return self.default is not True
        values = [_number(word) if self.type in (int, float) else word for word in words]
        return self.read_given(values if self.is_list else values[0])

    def read_given(self, value: Any) -> Any:
        """Return a value that a user gave as the option keeps it: `~` and `$NAME` of a path are expanded. Raises like `read`."""
        found = self.read(value)
        if found is None or not self.is_path:
            return found
        try:
            return tuple(map(expanded, found)) if self.is_list else expanded(found)
        except UsageError as error:
            raise OptionError(self.name, f"{{{self.name}}} {{0}}", error) from error

    def read(self, value: Any) -> Any:
        """Return a value as the option keeps it. Raises OptionError if it does not accept the value."""
        if self.is_list:
            several = value if isinstance(value, (list, tuple)) else [value]
            if self.type is int:
                several = [_number(part) for one in several for part in str(one).split(",")]
            return tuple(map(self._read_one, several))
        if value is None and self.is_optional:
            return None
        return self._read_one(value)

    def _read_one(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.words:
            return value
        choices, limits = self.mark(OneOf), self.mark(Range)
        found: Any = self._as_type(value)
        if found is None:
            raise self.refusal(value, self._advice(value))
        if self.has(FILE) and not found.strip():
            or_not = "." if self.default is MISSING else ", or leave it out."
            raise OptionError(self.name, f"{{{self.name}}} is empty. Name a file{or_not}")
        if choices:
            found = choices.fold(str(found))
            if found not in choices.words:
                raise self.refusal(value, did_you_mean(found, choices.words).strip())
        if limits and not limits.holds(found):
            raise self.refusal(value, limits.note)
        return found

    def _as_type(self, value: Any) -> Any:
        """Return a value in the option's type, None if it is of another one."""
        if self.type in (int, float):
            value = exponent(value)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return None
            if self.type is int:
                return int(value) if value == value // 1 else None
            return float(value) if abs(value) <= sys.float_info.max else math.inf if value == value else math.nan
        is_bad_text = isinstance(value, str) and _UNSTORABLE.search(value)
        return value if isinstance(value, self.type) and not is_bad_text else None

    def _advice(self, value: Any) -> str:
        if self.type is str and isinstance(value, str):
            return "It holds a null character, or half of a character. Leave that out."
        is_plain = isinstance(value, (int, float))
        return "Put it in quotes." if self.type is str and is_plain and not self.mark(OneOf) else ""

    def refusal(self, value: Any, advice: str = "") -> OptionError:
        """Return the error for a value that it does not accept."""
        problem = f"{{{self.name}}} needs {{0}}, got {{1}}.{{2}}"
        return OptionError(self.name, problem, self.wanted(), shown(value), f" {advice}" if advice else "")


@cache
def options_of(kind: type) -> Mapping[str, Option]:
    """Return the options that a dataclass declares, by name, in its order. Those that it names as `fixed` are hidden."""
    hints = get_type_hints(kind, include_extras=True)
    found = {f.name: _option(f.name, hints[f.name], f.default) for f in fields(kind)}
    for name in getattr(kind, "fixed", ()):
        kept = tuple(mark for mark in (THIS_RUN, SHORTHAND) if found[name].has(mark))
        found[name] = replace(found[name], marks=(HIDDEN, *kept))
    return found


def flags_of(kind: type) -> Callable[[str], str]:
    """Return the flags of options by name."""
    known = options_of(kind)
    return lambda name: known[name].flag if name in known else flag_of(name)


def keys_of(kind: type) -> Callable[[str], str]:
    """Return the names in files and in Python of options by name."""
    known = options_of(kind)
    return lambda name: known[name].key if name in known else name


def completed(kind: type[T], given: Given) -> T:
    """Return the options of a command, completed with defaults. Raises OptionError if a required one is missing."""
    for name, option in options_of(kind).items():
        if option.default is MISSING and name not in given:
            raise OptionError(name, f"{{{name}}} is required: {{0}}", in_lower(option.help()))
    return kind(**given)


def to_json(options: Any) -> dict[str, Any]:
    """Return the options that describe the run, as JSON keeps them."""
    stored = {n: getattr(options, n) for n, option in options_of(type(options)).items() if option.is_kept}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}


def from_json(kind: type[T], stored: Mapping[str, Any], where: str) -> T:
    """Return the options that `to_json` wrote. Raises UsageError, beginning with `where`, for other content."""
    known = {name: option for name, option in options_of(kind).items() if option.is_kept}
    for wrong, what in ((known.keys() - stored.keys(), "lacks"), (stored.keys() - known.keys(), "has the unknown")):
        if wrong:
            raise UsageError(
                f"{where}: {what} argument {', '.join(sorted(wrong))}. "
                "It was written by another version of Hyperlax; resume it with that one."
            )
    values = {}
    for name, value in stored.items():
        try:
            values[name] = known[name].read(value)
        except OptionError as error:
            raise UsageError(f"{where}: {error.told(str)} {PUT_BACK}") from error
    return kind(**values)


def command_line(options: Any, left_out: Collection[str] = ()) -> list[str]:
    """Return the words of a command line with all of these options except those left out."""
    words = []
    for name, option in options_of(type(options)).items():
        value = getattr(options, name)
        if (
            name in left_out
            or not option.is_kept
            or option.has(HIDDEN)
            or option.has(POSITIONAL)
            or value in (None, (), "")
        ):
            continue
        if option.type is bool:
            words += [] if value == option.default else [option.flag]
        else:
            words += [option.flag, *(map(str, value) if option.is_list else [str(value)])]
    return words


def shell_command(command: str, *words: object) -> str:
    """Return a command line of Hyperlax, quoted for a POSIX shell."""
    return shlex.join(["hyperlax", command, *map(str, words)])


def shown(value: Any) -> str:
    """Return a value as a file writes it, in one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    except TypeError:
        return in_one_line(repr(value))


_EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that a path, or a file in UTF-8, cannot hold."""
_PATH = re.compile(r"\b(DIR|FILE|PATH|ROOT|RECIPE)\b")
_WHOLE = re.compile(r"[-+]?[0-9](_?[0-9])*")


def exponent(value: Any) -> Any:
    """Return a text such as 1e-3, which YAML 1.1 does not read as a number, as that number, and anything else unchanged."""
    return float(value.replace("_", "")) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def parted(text: str, example: str) -> tuple[str, str]:
    """Return name and value of a text `NAME=VALUE`. Raises OptionError for another text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        problem = "{assignments} needs NAME=VALUE, got {0!r}. Write {assignments} {1}."
        raise OptionError("assignments", problem, text, example)
    return name, value


def value_of(text: str) -> Any:
    """Return the value that a text spells: a number, true or false in any case, or JSON; the text itself if it is none of them.

    >>> value_of("1_000"), value_of("TRUE"), value_of("[4, 4]"), value_of("tanh")
    (1000, True, [4, 4], 'tanh')
    """
    number = _number(text)
    if not isinstance(number, str):
        return number
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return text


def _number(word: str) -> Any:
    """Return the number that a word spells, or the word."""
    try:
        return int(word) if _WHOLE.fullmatch(word) else float(word)
    except ValueError:
        return word


def _option(name: str, hint: Any, default: Any) -> Option:
    declared, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    kinds = [kind for kind in get_args(declared) or (declared,) if get_origin(declared) is not tuple] or [declared]
    words = tuple(word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))
    (main,) = (kind for kind in kinds if kind is not NoneType and get_origin(kind) is not Literal)
    is_list = get_origin(main) is tuple
    kind = get_args(main)[0] if is_list else main
    return Option(name, kind, is_list, words, NoneType in kinds, default, tuple(cast(Any, marks)))
