"""Open lanes: trials wait for a decision after every segment, leave, are replaced by others, or continue as copies."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperlax.backends.base import SHARED, SUMMED, Evicted, timing_of
from hyperlax.backends.lanes import Lanes, LanesBackend, final_error
from hyperlax.engine import device
from hyperlax.engine.checkpoint import Metadata, log_restart
from hyperlax.engine.lanes import NoRoom
from hyperlax.engine.session import LaneSession
from hyperlax.errors import counted, in_one_line
from hyperlax.trial import SegmentResult, Trial


@dataclass(eq=False, kw_only=True)
class _Pool(Lanes):
    """A session for the trials of one group. copies: pairs of a source's number and the trial that continues from it."""

    group: int
    session: LaneSession
    copies: list[tuple[int, Trial]] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The trials in its lanes, from the next segment on."""
        return [trial.number for trial in ([trial for _, trial in self.copies] or self.session.trials)]


class OpenLanes(LanesBackend):
    """A backend whose trials wait for a decision after every segment.

    A program has at most one session per slot for trials of the shared group, and a single session for each other group. As many
    sessions train at once as there are slots. None waits for another, because a slow one would leave the others idle.
    """

    def __init__(self, *args: Any, may_shrink: bool = True, **kwargs: Any):
        """Make a backend; see `LanesBackend`. may_shrink: a program that runs out of memory gets fewer lanes. That of a
        population cannot: the population fails.
        """
        super().__init__(*args, **kwargs)
        self._may_shrink = may_shrink
        self._spent, self._told = Counter[str](), Counter[str]()
        self._began = time.perf_counter()

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        """Let trials begin with the next segment, in the session with the most free lanes. Return the numbers that got a lane."""
        return [trial.number for trial in trials if self._enter(trial, repetition, group)]

    def leave(self, number: int) -> None:
        """Free the lane of a trial once its current segment has ended."""
        pool = self._pool_of(number)
        if pool.training is not None:
            pool.leaving.add(number)
            return
        pool.session.leave(number)
        if pool.group != SHARED and not pool.session.trials:
            self._close(pool)

    def copy(self, source: int, into: Trial) -> None:
        """Let a new trial continue from the state of trial `source`, from the next segment on.

        The copies made between two segments replace all trials that were in lanes. By number, the first gets lane 0, and so on.
        """
        pool = next(p for p in self._used if any(trial.number == source for trial in p.session.trials))
        pool.copies.append((source, into))
        pool.copies.sort(key=lambda pair: pair[1].number)

    def begin(self) -> None:
        """Train a segment of every session that has trials, in the background."""
        for pool in self._used:
            if pool.training is None and pool.numbers:
                self._start(pool)

    def save(self) -> None:
        """Save all lanes at the ends of their segments, replacing the last save.

        The last save of a population is kept when it ends: its last interval may not be recorded yet.
        """
        self._wait()
        sound = [pool for pool in self._used if pool.session.begun and not pool.is_broken]
        if self._checkpoints and (sound or self._may_shrink):
            self._checkpoints.save_pools([pool.session.save() for pool in sound])

    def restore(self, trials: Mapping[int, Trial], unfinished: Collection[int]) -> Sequence[SegmentResult]:
        """Continue the unfinished trials from the last save, and return their results so far.

        Call this while no trial is in a lane. trials: at least the unfinished ones, by number.
        """
        results: list[SegmentResult] = []
        restored: set[int] = set()
        for idle in list(self._used):
            self._close(idle)
        for metadata, arrays in self._checkpoints.pools() if self._checkpoints else ():
            wanted = [number for number in metadata.trials if number in unfinished and number not in restored]
            if not wanted:
                continue
            pool = self._restored([trials[number] for number in wanted], metadata, arrays)
            if pool is not None:
                results += pool.session.results()
                restored |= set(wanted)
        return sorted(results, key=lambda result: result.number)

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return the cost of all sessions since the last call, by the names of `timing.json`.

        lane_segments: segments of all lanes, occupied or not.
        """
        total = self._spent.copy()
        for pool in self._used:
            total.update(_spent(pool.session))
        total.update({"wall_seconds": time.perf_counter() - self._began})
        spent = {name: total[name] - self._told[name] for name in SUMMED}
        self._told = total
        lanes = sum(pool.session.program.lanes for pool in self._used if pool.group == SHARED)
        return timing_of(spent, lanes, max(map(device.peak_memory_bytes, set(self._devices))))

    def _enter(self, trial: Trial, repetition: int, group: int) -> bool:
        if any(trial.number in pool.numbers for pool in self._used):
            return False  # its lane from before is still leaving
        algorithm = self._task.program(trial)
        pools = [p for p in self._used if p.training is None and (p.algorithm, p.group) == (algorithm, group)]
        best = max(pools, key=_free, default=None)
        slot = self._slot_to_open(algorithm, group, best if best and _free(best) else None)
        if slot is not None:
            best = self._open(algorithm, slot, group)
        if best is None or not _free(best):
            return False
        best.session.enter(trial, repetition)
        return True

    def _slot_to_open(self, algorithm: Any, group: int, best: _Pool | None) -> int | None:
        """Return the slot for a new session; None to use `best`, or to wait if that is None.

        A new session is opened on a slot without one if `best` is None or has trials already.
        """
        used = [pool.slot for pool in self._used if (pool.algorithm, pool.group) == (algorithm, group)]
        if group != SHARED:
            return None if used else 0
        unused = [slot for slot in range(self.slots) if slot not in used]
        return unused[0] if unused and (best is None or best.session.trials) else None

    def _open(self, algorithm: Any, slot: int, group: int) -> _Pool:
        for idle in [pool for pool in self._used if pool.algorithm != algorithm and not pool.session.trials]:
            self._close(idle)
        taken = {pool.session.place[1] for pool in self._used if pool.slot == slot}
        index = next(index for index in itertools.count() if index not in taken)
        session = self._session(algorithm, slot, self._programs.lanes_of(algorithm), index)
        pool = _Pool(algorithm, slot, group=group, session=session)
        self._used.append(pool)
        return pool

    def _close(self, pool: _Pool) -> None:
        self._spent.update(_spent(pool.session))
        self._used.remove(pool)

    def _pool_of(self, number: int) -> _Pool:
        return next(pool for pool in self._used if number in pool.numbers)

    def _train(self, lanes: _Pool) -> Iterator[tuple[Sequence[SegmentResult], bool]]:
        session = lanes.session
        if lanes.copies:
            session.branch(lanes.copies)
            lanes.copies = []
        self._prepare(session)
        results = session.advance()
        self._programs.settle(lanes.algorithm, session.program.lanes)
        yield results, True

    def _take(self, event: Any) -> Sequence[SegmentResult]:
        pool: _Pool = event.lanes
        leaving, pool.leaving = pool.leaving, set()
        for number in leaving:
            self.leave(number)
        return [result for result in event.results if result.number not in leaving]

    def _drop(self, lanes: _Pool, error: Exception) -> Sequence[Evicted]:
        """Close a session that broke. If memory ran out, its trials restart in a program with fewer lanes."""
        numbers = tuple(sorted(set(lanes.numbers) - lanes.leaving))
        size = lanes.session.program.lanes
        self._close(lanes)
        if isinstance(error, NoRoom):
            made = error.preparation
            self._spent.update({"programs_compiled": int(not made.cached), "compile_seconds": made.seconds})
        if not self._may_shrink and device.is_out_of_memory(error):
            memory = MemoryError(f"not enough memory for {counted(size, 'trial')} at once")
            memory.__cause__ = error
            return [Evicted(numbers, memory)]
        return [Evicted(numbers, None if self._shrink(lanes.algorithm, size, error) else final_error(error))]

    def _restored(self, trials: Sequence[Trial], metadata: Metadata, arrays: Mapping[str, Any]) -> _Pool | None:
        """Return the pool with which these trials were saved, with them in lanes; log the reason and return None if impossible.

        A slot gets one of each program: agents may have saved more than there is memory for here.
        """
        wanted = [trial.number for trial in trials]
        algorithm = self._task.program(trials[0])
        used = Counter(pool.slot for pool in self._used if pool.algorithm == algorithm)
        if len(used) == self.slots:
            log_restart(wanted, "more lanes were saved than this machine has")
            return None
        pool = self._open(algorithm, min(range(self.slots), key=lambda slot: used[slot]), SHARED)
        try:
            pool.session.prepare(trials[0])
            if metadata.only(wanted).is_compatible(pool.session.identity(trials)):
                pool.session.restore(metadata, arrays, {trial.number: trial for trial in trials})
                return pool
            self._close(pool)
        except Exception as error:  # a user's algorithm, a damaged file and a device may raise anything
            self._drop(pool, error)
            log_restart(wanted, f"restoring raised {in_one_line(error)}")
        return None


def _free(pool: _Pool) -> int:
    return pool.session.program.lanes - len(pool.numbers)


def _spent(session: LaneSession) -> dict[str, float]:
    """Return the cost of a session, to be summed over sessions."""
    timing = session.watch.timing()
    del timing["wall_seconds"]
    return {**timing, "steps": session.steps, "lane_segments": session.watch.segments * session.program.lanes}
