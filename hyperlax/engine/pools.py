"""The pools of all slots: a pool of lanes for every program and slot that trials need, each at its own pace."""

from __future__ import annotations

import itertools
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from hyperlax.checkpoints import Checkpoints, Head
from hyperlax.engine import device
from hyperlax.engine.batch import schedule_of
from hyperlax.engine.compilation import NoRoom, Preparation
from hyperlax.engine.identity import identity_of
from hyperlax.engine.pool import Occupant, Pool
from hyperlax.engine.registry import Registry
from hyperlax.engine.workload import Workload
from hyperlax.pooling import OPEN, SUMMED, Advance, Dropped
from hyperlax.trial import Trial

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Place:
    """A pool, and for whom it is. slot: its index. running: its segment under way. leaving: whose lanes are free after that."""

    algorithm: Any
    slot: int
    cohort: int
    pool: Pool
    running: Future[list[Advance]] | None = None
    leaving: set[int] = field(default_factory=set)


class LanePools:
    """`hyperlax.pooling.Pools` over the lanes of compiled programs.

    A program has at most one pool a slot for trials of the open cohort. As many pools train at once as there are slots, and none
    waits for another: a slow one would let the others idle.
    """

    def __init__(
        self,
        workload: Workload,
        registry: Registry,
        slots: Sequence[Any],
        *,
        seed: int,
        repetitions: int,
        prepared: Callable[[Any, int, Preparation], None] = lambda algorithm, lanes, made: None,
    ):
        self._workload, self._registry, self._slots = workload, registry, slots
        self._seed, self._repetitions, self._prepared = seed, repetitions, prepared
        self._places: list[_Place] = []
        self._spent: Counter[Any] = Counter()
        self._began = time.perf_counter()
        self._threads = ThreadPoolExecutor(len(slots), thread_name_prefix="slot")

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        return sum(place.pool.occupied for place in tuple(self._places))

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is not executable yet."""
        return sum(place.pool.occupied for place in tuple(self._places) if not place.pool.program.is_ready)

    def enter(self, trial: Trial, repetition: int = 0, cohort: int = OPEN) -> bool:
        """Let a trial begin with the next segment; see `Pools`. It goes where most lanes are free."""
        algorithm = self._workload.program(trial)
        resting = [p for p in self._places if p.running is None and p.pool.free]
        places = [p for p in resting if (p.algorithm, p.cohort) == (algorithm, cohort)]
        place = max(places, key=lambda place: place.pool.free, default=None)
        slot = self._slot_to_open(algorithm, cohort, place)
        if slot is not None:
            place = self._open(algorithm, slot, cohort)
        if place is None:
            return False
        place.pool.enter(self._occupant(trial, repetition))
        return True

    def leave(self, number: int) -> None:
        """Free the lane of a trial."""
        place = next(p for p in self._places if any(trial.number == number for trial in p.pool.trials))
        if place.running is not None:
            place.leaving.add(number)
            return
        place.pool.leave(number)
        if place.cohort != OPEN and not place.pool.trials:
            self._close(place)

    def begin(self) -> None:
        """Let every pool that has trials train a segment in the background."""
        for place in self._places:
            if place.running is None and place.pool.trials:
                place.running = self._threads.submit(self._advance, place)

    def advance(self) -> tuple[list[Advance], list[Dropped]]:
        """Train on until a pool or more are at the end of a segment; see `Pools`."""
        self.begin()
        running = {place.running: place for place in self._places if place.running is not None}
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        advances: list[Advance] = []
        dropped: list[Dropped] = []
        for future in done:
            place, running[future].running = running[future], None
            leaving, place.leaving = place.leaving, set()
            try:
                advances += [advance for advance in future.result() if advance.number not in leaving]
            except Exception as error:
                dropped.append(self._drop(place, error, leaving))
                continue
            for number in leaving:
                self.leave(number)
        return sorted(advances, key=lambda advance: advance.number), [drop for drop in dropped if drop.numbers]

    def save(self, checkpoints: Checkpoints) -> None:
        """Save all lanes, in place of what was saved."""
        running = [place.running for place in self._places if place.running is not None]
        broken = [future for future in wait(running).done if future.exception()]
        states = []
        for place in self._places:
            if (trials := place.pool.begun) and place.running not in broken:
                identity = {**self._identity(place, trials), "code": place.pool.program.code()}
                watch, numbers = place.pool.watch, tuple(trial.number for trial in trials)
                states.append((Head(numbers, identity, watch.segments, watch.timing()), place.pool.save()))
        checkpoints.save_pools(states)

    def restore(
        self, checkpoints: Checkpoints, trials: Mapping[int, Trial], unfinished: Collection[int]
    ) -> list[Advance]:
        """Go on from what was saved; see `Pools`."""
        standings: list[Advance] = []
        restored: set[int] = set()
        for head, arrays in checkpoints.pools():
            wanted = [number for number in head.trials if number in unfinished and number not in restored]
            if not wanted or not set(head.trials) <= trials.keys():
                continue
            place = self._restored([trials[n] for n in head.trials], wanted, head, arrays)
            if place is not None:
                standings += place.pool.standings()
                restored |= set(wanted)
        return sorted(standings, key=lambda advance: advance.number)

    def timing(self) -> dict[str, Any]:
        """What all of it has cost in this process; see `Pools`."""
        spent = self._spent.copy()
        for place in self._places:
            spent.update(_spent(place.pool))
        lanes = sum(place.pool.program.lanes for place in self._places if place.cohort == OPEN)
        memory = device.peak_memory_bytes(self._slots[0])
        seconds = time.perf_counter() - self._began
        sums = {**{name: spent[name] for name in SUMMED}, "wall_seconds": seconds}
        return {**sums, "peak_memory_bytes": memory, "lanes": lanes}

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown()

    def _slot_to_open(self, algorithm: Any, cohort: int, best: _Place | None) -> int | None:
        """Where a new pool is better than the `best` there is: on a slot without one, if that has trials already.

        A cohort other than the open one has a single pool.
        """
        used = [place.slot for place in self._places if (place.algorithm, place.cohort) == (algorithm, cohort)]
        if cohort != OPEN:
            return None if used else 0
        unused = [slot for slot in range(len(self._slots)) if slot not in used]
        return unused[0] if unused and (best is None or best.pool.trials) else None

    def _open(self, algorithm: Any, slot: int, cohort: int) -> _Place:
        for idle in [place for place in self._places if place.algorithm != algorithm and not place.pool.trials]:
            self._close(idle)
        lanes = self._registry.lanes_of(algorithm)
        pool = Pool(
            self._registry.program(algorithm, self._slots[slot], lanes),
            schedule_of(self._workload.run_length, algorithm.steps_per_iteration),
            self._workload.policy,
            seed=self._seed,
            episodes=self._workload.run_length.num_eval_episodes,
            repetitions=self._repetitions,
            place=(slot, self._number_on(slot)),
        )
        place = _Place(algorithm, slot, cohort, pool)
        self._places.append(place)
        return place

    def _number_on(self, slot: int) -> int:
        """The lowest number that no pool of a slot has."""
        used = {place.pool.place[1] for place in self._places if place.slot == slot}
        return next(number for number in itertools.count() if number not in used)

    def _close(self, place: _Place) -> None:
        self._spent.update(_spent(place.pool))
        self._places.remove(place)

    def _advance(self, place: _Place) -> list[Advance]:
        known = place.pool.watch.preparation
        found = place.pool.advance()
        if place.pool.watch.preparation is not known:
            self._prepared(place.algorithm, place.pool.program.lanes, place.pool.watch.preparation)
        self._registry.settle(place.algorithm, place.pool.program.lanes)
        return found

    def _drop(self, place: _Place, error: Exception, leaving: Collection[int] = ()) -> Dropped:
        """Close a pool that broke. Where memory was short its program has fewer lanes from now on, and its trials begin anew."""
        numbers = tuple(sorted({trial.number for trial in place.pool.trials}.difference(leaving)))
        lanes = place.pool.program.lanes
        traceback.clear_frames(error.__traceback__)  # they hold the arrays that filled the memory
        self._close(place)
        if isinstance(error, NoRoom):
            made = error.preparation
            self._spent.update({"programs_compiled": int(not made.cached), "compile_seconds": made.seconds})
        if not device.is_out_of_memory(error) or lanes == 1:
            return Dropped(numbers, error)
        self._registry.shrink(place.algorithm, lanes, max(1, error.lanes) if isinstance(error, NoRoom) else lanes // 2)
        return Dropped(numbers, None)

    def _restored(
        self, trials: Sequence[Trial], wanted: Sequence[int], head: Head, arrays: Mapping[str, Any]
    ) -> _Place | None:
        """The pool that was saved with these trials, going on with the wanted ones; None, which is logged, where it cannot."""
        place = self._open(self._workload.program(trials[0]), self._next_slot(trials[0]), OPEN)
        try:
            place.pool.prepare(self._occupant(trials[0]))
            if head.goes_on({**self._identity(place, trials), "code": place.pool.program.code()}):
                known = {trial.number: self._occupant(trial) for trial in trials if trial.number in wanted}
                place.pool.restore(arrays, known)
                return place
            self._close(place)
        except Exception as error:
            self._drop(place, error)
            cause = " ".join(str(error).split()) or type(error).__name__
            log.warning("Trials %s begin anew: they cannot be restored (%s).", ", ".join(map(str, wanted)), cause)
        return None

    def _occupant(self, trial: Trial, repetition: int = 0) -> Occupant:
        return Occupant(trial, self._workload.lane(trial), self._workload.num_parameters(trial), repetition)

    def _next_slot(self, trial: Trial) -> int:
        """The slot with fewest pools of a trial's program."""
        used = Counter(place.slot for place in self._places if place.algorithm == self._workload.program(trial))
        return min(range(len(self._slots)), key=lambda slot: used[slot])

    def _identity(self, place: _Place, trials: Sequence[Trial]) -> dict[str, Any]:
        program = place.pool.program
        return identity_of(
            self._workload, trials, place.algorithm, lanes=program.lanes, seeds=program.seeds, seed=self._seed
        )


def _spent(pool: Pool) -> dict[str, float]:
    """What a pool has cost, to be summed over pools."""
    timing = pool.watch.timing()
    del timing["wall_seconds"]
    return {**timing, "steps": pool.steps, "lane_segments": pool.watch.segments * pool.program.lanes}
