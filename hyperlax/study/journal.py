"""The journal of a study, `journal.jsonl`: the trials that were asked and the user's changes, one line of JSON per event.

A line is on disk before the database has the event. Results are not in the journal but in the batches, whose `success.txt` is
written last, also before the database. Journal and batches are the truth; the database follows from them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
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


_Event = Asked | Retried | Invalidated


class Journal:
    """The events of one study, and what follows from them.

    asked: every trial by number. ended: first trial of a super-batch -> `Asked.ended`. sampler: the latest state of the sampler.
    retried: (trial, batch) pairs that no longer count. invalidated: trial -> reason.
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
        # how many trials had been asked by then, trial, whether it is a retry
        self._changes: list[tuple[int, int, bool]] = []
        content = self._read()
        self._size = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._size].splitlines(), 1):
            if not line.strip():
                continue
            try:
                self._fold(msgspec.convert(json.loads(line), _Event))
            except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                raise UsageError(
                    f"{path}, line {number}: is damaged ({error}). Put back the file that Hyperlax wrote."
                ) from error

    def append(self, event: _Event) -> None:
        """Add an event, which is on disk when this returns. After an OSError, which names the journal, nothing is added."""
        line = json.dumps(msgspec.to_builtins(event)) + "\n"
        if not self._is_dry:
            self._write(line)
        self._fold(event)

    def changed_after(self, start: int) -> dict[int, bool]:
        """Return the trials below `start` that the user changed after the super-batch that begins there was first asked.

        The value says whether the first change was a retry; otherwise it took the trial out of the ranking.
        """
        return {trial: is_retry for asked, trial, is_retry in reversed(self._changes) if trial < start < asked}

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

    def _fold(self, event: _Event) -> None:
        if isinstance(event, Asked):
            if event.first != len(self.asked):
                raise ValueError(f"begins with trial {event.first}, and {len(self.asked)} were asked before")
            self.asked += event.trials
            if event.ended is not None:
                self.ended[event.first] = frozenset(event.ended)
            self.sampler = event.sampler or self.sampler
            return
        is_retry = isinstance(event, Retried)
        numbers = [number for number, _ in event.trials] if is_retry else event.trials
        if unknown := [number for number in numbers if not 0 <= number < len(self.asked)]:
            raise ValueError(f"refers to trial {unknown[0]}, which was never asked")
        if is_retry:
            self.retried.update(event.trials)
        else:
            self.invalidated.update(dict.fromkeys(numbers, event.reason))
        self._changes += [(len(self.asked), number, is_retry) for number in numbers]
