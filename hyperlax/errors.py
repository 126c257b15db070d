"""The errors of a command that are not bugs, and words for messages: suggestions for misspelled names, counted nouns, numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from string import Formatter

FAILED, _REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143
STOPPED = (INTERRUPTED, TERMINATED)
"""The exit statuses of a process besides 0: could not be completed, refused before anything ran, SIGINT, SIGTERM."""


class HyperlaxError(Exception):
    """A run that could not be completed; the command exits with 1."""

    exit_code = FAILED


class UsageError(HyperlaxError, ValueError):
    """Bad input, found before anything ran: where, what was found, what would work. Exits with 2."""

    exit_code = _REFUSED


def flag(name: str) -> str:
    """Return an option's flag, unless its command spells it otherwise."""
    return "--" + name.rstrip("_").replace("_", "-")


class SpelledError(HyperlaxError):
    """An error about things that are named differently in different places, such as options and distributions.

    Args:
      spell: Spells the names when the error is converted to text; `told` takes another spelling.
      problem: The finding and the fix. {name} stands for such a name, {0}, {1}, ... for `values`.
    """

    def __init__(self, spell: Callable[[str], str], problem: str, *values: object):
        self._problem, self._values = problem, values
        super().__init__(self.told(spell))

    def told(self, spell: Callable[[str], str]) -> str:
        """Return the message with every name spelled by `spell`."""
        return named(self._problem, spell, self._values)

    def spelled(self, spell: Callable[[str], str], before: str = "") -> HyperlaxError:
        """Return a plain error of the same exit status, with every name spelled by `spell`. before: its first words."""
        kind = UsageError if isinstance(self, UsageError) else HyperlaxError
        return kind(before + self.told(spell))


class OptionFailure(SpelledError):
    """A run that could not be completed, and an option that helps. Its text names flags; `told` uses the names of another place."""

    def __init__(self, option: str, problem: str, *values: object):
        self.option = option
        super().__init__(flag, problem, *values)

    @property
    def mentioned(self) -> list[str]:
        """Options that the message is about: `option`, then the others in the order of the message."""
        names = [name for _, name, _, _ in Formatter().parse(self._problem) if name and not name.isdecimal()]
        return list(dict.fromkeys((self.option, *names)))


class OptionError(OptionFailure, UsageError):
    """An invalid value of an option, found before anything ran."""


@contextmanager
def spelling(spell: Callable[[str], str], before: str = "") -> Iterator[None]:
    """Let an error of the block that names options spell them by `spell`. before: its first words."""
    try:
        yield
    except OptionFailure as error:
        raise error.spelled(spell, before) from error


def named(text: str, spell: Callable[[str], str], values: Sequence[object] = ()) -> str:
    """Return a text in which {name} stands for what `spell` makes of the name, and {0}, {1}, ... for `values`."""
    return Formatter().vformat(text, values, _Spelled(spell))


class _Spelled(dict[str, str]):
    def __init__(self, spell: Callable[[str], str]):
        super().__init__()
        self._spell = spell

    def __missing__(self, name: str) -> str:
        return self._spell(name)


def did_you_mean(
    name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6, spell: Callable[[str], str] = str
) -> str:
    """Return a sentence that proposes the nearest names as `spell` writes them, then a space; "" if none is close."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f"Did you mean {' or '.join(f'`{spell(match)}`' for match in near)}? " if near else ""


def counted(number: int, one: str) -> str:
    """Return a number with its noun, which is given in the singular.

    >>> counted(1, "trial"), counted(2, "batch"), counted(0, "copy")
    ('1 trial', '2 batches', '0 copies')
    """
    return f"{number} {noun(number, one)}"


def noun(number: int, one: str) -> str:
    """Return the noun that follows a number, given in the singular."""
    if number == 1:
        return one
    return f"{one[:-1]}ies" if one.endswith("y") else f"{one}{'es' if one.endswith(('ch', 's')) else 's'}"


NOT_A_TRIAL = 2**31 - 1
"""Number under which the recipe's default configuration is trained where no trial of the study has it."""


def numbered(trials: Collection[int], verb: str = "") -> str:
    """Return trials by their numbers, with a verb if one is given.

    >>> numbered([3]), numbered([3, 5], "continue"), numbered([3], "have")
    ('trial 3', 'trials 3, 5 continue', 'trial 3 has')
    >>> numbered([3, NOT_A_TRIAL])
    'trial 3 and the default configuration'
    """
    is_one, own = len(trials) == 1, [str(number) for number in trials if number != NOT_A_TRIAL]
    parts = [f"{noun(len(own), 'trial')} {', '.join(own)}"] if own else []
    names = " and ".join([*parts, "the default configuration"] if len(own) < len(trials) else parts)
    verb = {"have": "has", "": ""}.get(verb, f"{verb}s") if is_one else verb
    return f"{names} {verb}".rstrip()


def spans(numbers: Collection[int]) -> str:
    """Return numbers in order, consecutive ones as a span.

    >>> spans([0, 1, 2, 4, 6, 7])
    '0-2, 4, 6-7'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def message_of(error: BaseException) -> str:
    """Return what an exception says; "" if its `__str__` raises, which may be a user's code."""
    try:
        return str(error)
    except Exception:
        return ""


def in_one_line(said: str | BaseException) -> str:
    r"""Return a text in one line, with one space between words; of an exception its message, or its type if it has none.

    >>> in_one_line("two\n  lines"), in_one_line(ValueError("two\nlines")), in_one_line(ValueError())
    ('two lines', 'two lines', 'ValueError')
    """
    text = " ".join((message_of(said) if isinstance(said, BaseException) else said).split())
    return text or (type(said).__name__ if isinstance(said, BaseException) else "")


def type_and_message(error: BaseException) -> str:
    r"""Return an exception in one line, as Python writes it below a traceback.

    >>> type_and_message(ValueError("two\nlines")), type_and_message(ValueError())
    ('ValueError: two lines', 'ValueError')
    """
    name, message = type(error).__name__, in_one_line(error)
    return name if message == name else f"{name}: {message}"


def in_sentence(words: str) -> str:
    """Return words as the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def in_lower(words: str) -> str:
    """Return a sentence as it follows a colon.

    >>> in_lower("The directory."), in_lower("YAML files.")
    ('the directory.', 'YAML files.')
    """
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]


def format_number(value: float) -> str:
    """Write a number with four significant digits, no digit before the point lost; commas between thousands.

    >>> format_number(0.00012345678), format_number(100000), format_number(-151.25), format_number(14791.5)
    ('0.0001235', '100,000', '-151.2', '14,792')
    >>> format_number(1.5e-6), format_number(2e20), format_number(500.0), format_number(float("nan"))
    ('1.5e-6', '2e20', '500', 'nan')
    """
    if isinstance(value, int) or 1000 <= abs(value) < 1e15 or (float(value).is_integer() and abs(value) < 1e15):
        return f"{round(value):,}"
    digits, _, power = f"{value:.4g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def format_time(time: str) -> str:
    """Return a time in ISO 8601 with its offset from UTC as people read it.

    >>> [format_time("2026-11-30T15:30:10+00:00"), format_time("2026-11-30T15:30:10.123+01:00")]
    ['2026-11-30 15:30 UTC', '2026-11-30 15:30 UTC+01:00']
    """
    day, _, clock = time.partition("T")
    return f"{day} {clock[:5]} UTC{clock[-6:].removeprefix('+00:00')}"
