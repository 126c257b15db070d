"""The journal of a study, `journal.jsonl`: the trials that were asked and the user's changes, one line of JSON per event.

A line is on disk before the database has the event. Results are not in the journal but in the batches, whose `success.txt` is
written last, also before the database. Journal and batches are the truth; the database follows from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hyperlax.errors import UsageError
from hyperlax.files import TO_WRITE, naming, open_regular, read_bytes, write_text
from hyperlax.samplers.base import AskedTrial


class Asked(msgspec.Struct, frozen=True, tag="asked", tag_field="event", forbid_unknown_fields=True):
    """The event that trials were asked.

    Args:
      first: Number of the first trial; the others follow.
      ended: The earlier trials whose results the suggestions follow from; None for all earlier trials.
      sampler: State of the sampler before the super-batch, where it has changed; see `Sampler.state`.
    """

    first: int
    trials: list[AskedTrial]
    ended: list[int] | None = None
    sampler: dict[str, Any] | None = None


class Retried(msgspec.Struct, frozen=True, tag="retried", tag_field="event", forbid_unknown_fields=True):
    """The event that failed trials are to be run again. trials: number and batch; the result in that batch no longer counts."""

    trials: list[tuple[int, str]]


class Invalidated(msgspec.Struct, frozen=True, tag="invalidated", tag_field="event", forbid_unknown_fields=True):
    """The event that trials were taken out of the ranking, which is final."""

    trials: list[int]
    reason: str


Event = Asked | Retried | Invalidated


@dataclass(frozen=True)
class Change:
    """A change of a trial's result by the user. asked: how many trials had been asked by then."""

    trial: int
    is_retry: bool
    asked: int


class Journal:
    """The events of one study, and what follows from them.

    asked: every trial by number. ended: first trial of a super-batch -> `Asked.ended`. sampler: the latest state of the sampler.
    retried: (trial, batch) pairs that no longer count. invalidated: trial -> reason. changes: in their order.
    """

    def __init__(self, path: Path, is_dry: bool = False):
        """Read the journal at `path`, which may not exist yet. is_dry: append in memory only.

        Blank lines and an unfinished last line, left by a killed process, are ignored. Raises UsageError for any other damage.
        """
        self.path, self._is_dry = path, is_dry
        self.asked: list[AskedTrial] = []
        self.ended: dict[int, frozenset[int]] = {}
        self.sampler: dict[str, Any] | None = None
        self.retried: set[tuple[int, str]] = set()
        self.invalidated: dict[int, str] = {}
        self.changes: list[Change] = []
        content = self._read()
        self._size = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._size].splitlines(), 1):
            if not line.strip():
                continue
            try:
                self._fold(msgspec.convert(json.loads(line), Event))
            except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                raise UsageError(
                    f"{path}, line {number}: is damaged ({error}). Put back the file that Hyperlax wrote."
                ) from error

    def append(self, event: Event) -> None:
        """Add an event, which is on disk when this returns. After an OSError, which names the journal, nothing is added."""
        line = json.dumps(msgspec.to_builtins(event)) + "\n"
        if not self._is_dry:
            self._write(line)
        self._fold(event)

    def change_after(self, trial: int, start: int) -> Change | None:
        """Return the first change of a trial after the super-batch that begins with trial `start` was first asked."""
        return next((change for change in self.changes if change.trial == trial and change.asked > start), None)

    def _read(self) -> bytes:
        try:
            return read_bytes(self.path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror}).") from error

    def _write(self, line: str) -> None:
        if not self._size:
            write_text(self.path, line)
        else:
            with naming(self.path), open_regular(self.path, TO_WRITE) as file:
                file.truncate(self._size)
                file.seek(self._size)
                try:
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
                except BaseException:
                    with suppress(OSError):
                        file.truncate(self._size)
                    raise
        self._size += len(line)

    def _fold(self, event: Event) -> None:
        if isinstance(event, Asked):
            if event.first != len(self.asked):
                raise ValueError(f"begins with trial {event.first}, and {len(self.asked)} were asked before")
            self.asked += event.trials
            if event.ended is not None:
                self.ended[event.first] = frozenset(event.ended)
            self.sampler = event.sampler or self.sampler
            return
        numbers = [number for number, _ in event.trials] if isinstance(event, Retried) else event.trials
        self._check_asked(numbers)
        if isinstance(event, Retried):
            self.retried.update(event.trials)
        else:
            self.invalidated.update(dict.fromkeys(numbers, event.reason))
        self.changes += [Change(number, isinstance(event, Retried), len(self.asked)) for number in numbers]

    def _check_asked(self, numbers: Sequence[int]) -> None:
        unknown = [number for number in numbers if not 0 <= number < len(self.asked)]
        if unknown:
            raise ValueError(f"refers to trial {unknown[0]}, which was never asked")
