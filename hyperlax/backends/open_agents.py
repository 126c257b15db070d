"""A backend whose lanes are refilled, and are those of agents: a ticket is a trial, and agents tell of every segment.

Agents do not wait for decisions. A trial that an agent has lost begins again on another one, to the same bits, so nothing that was
decided about it changes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from hyperlax.backends.agents import Agents, Batch
from hyperlax.backends.base import MOST_LOSSES, SHARED, SUMMED, Backend, EngineConfig, Evicted, LostError, timing_of
from hyperlax.backends.local_agents import StartedAgents
from hyperlax.backends.wire import ALONE, LEASE_SECONDS, NEWS, BatchDone, Item, read_done
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import in_one_line
from hyperlax.trial import WHERE, Plan, Trial


class OpenAgents(Agents):
    """A backend whose trials wait for a decision after every segment, while agents train on."""

    def __init__(self, *args: Any, checkpoints: CheckpointManager | None, **kwargs: Any):
        """Make a backend; see `Agents`. checkpoints: where agents save trials."""
        super().__init__(*args, **kwargs)
        self._checkpoints = checkpoints
        self._heard: list[Item] = []
        self._newest: dict[str, str] = {}
        self._suspects: set[int] = set()
        self._where: dict[int, tuple[str, ...]] = {}
        self._spent: Counter[str] = Counter()
        self._lanes_of: dict[str, int] = {}
        self._peak: int | None = None
        self._since = time.perf_counter()

    @property
    def occupied(self) -> int:
        """Trials that agents train, or that wait for one."""
        return len(self._batches)

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Return the planner's batches."""
        return self._planner.plan(trials)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        """Let trials wait for lanes of agents. Return all their numbers."""
        for trial in trials:
            name = self._name([trial], repetition)
            if trial.number in self._suspects:
                name = f"{ALONE}{name[1:]}"
            self._hand_out(Batch(name, (trial,), repetition, group))
        return [trial.number for trial in trials]

    def begin(self) -> None:
        """Start the agents of this machine. Let those continue that have told something, since it is decided about now."""
        super().begin()
        heard, self._heard = self._heard, []
        for item in heard:
            self._desk.remove(item)

    def leave(self, number: int) -> None:
        """Take a trial back from its agent, which frees its lane once the current segment has ended."""
        self._end(self._batch_of()[number])

    def save(self) -> None:
        """If the study is to end, have agents save what they train, and hand it back. Otherwise they save by themselves."""
        if self._is_stopping:
            super().save()

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return what agents have spent since the last call, and where these trials trained."""
        spent, self._spent = self._spent, Counter()
        since, self._since = self._since, time.perf_counter()
        places = dict.fromkeys(self._where[number] for number in sorted(numbers) if number in self._where)
        where = {name: "; ".join(place[at] for place in places) for at, name in enumerate(WHERE)}
        cost = {name: spent[name] for name in (*SUMMED, "told_before")} | {"wall_seconds": self._since - since}
        return {**timing_of(cost, sum(self._lanes_of.values()), self._peak), **where}

    def close(self) -> None:
        """Take back everything. Remove what agents have saved, unless it is needed to continue."""
        if not self._batches and self._checkpoints:
            self._checkpoints.save_pools([])
        super().close()

    def _batch_of(self) -> dict[int, Batch]:
        return {batch.trials[0].number: batch for batch in self._batches.values()}

    def _drop(self, item: Item) -> None:
        """Read news. Remove the item of a trial that has left, so that its agent frees the lane."""
        if item.kind == NEWS:
            self._hear(item)
        else:
            self._desk.remove(item)

    def _hear(self, item: Item) -> None:
        """Read news, each once."""
        if item in self._heard:
            return
        content = self._desk.result(item)
        if content is None:
            return
        self._heard.append(item)
        if item.batch <= self._newest.get(item.agent, ""):
            return
        self._newest[item.agent] = item.batch
        try:
            done = read_done(content)
        except ValueError as error:
            lost = [batch for batch in self._batches.values() if batch.agent == item.agent]
            self._lose(lost, f"what its agent told cannot be read ({in_one_line(error)})")
            return
        self._local.have_trained()
        if done.results:
            self._note(done)
            return
        if evicted := [self._batches[name] for name in done.batches if name in self._batches]:
            self._evict(evicted, done.error)

    def _note(self, done: BatchDone) -> None:
        """Note results that are newer than those known. Results of other batches are from another leader, or come late."""
        timing = done.timing or {}
        self._spent.update({name: timing.get(name, 0) for name in SUMMED})
        self._lanes_of[done.agent] = timing.get("lanes", 0)
        self._peak = max(filter(None, (self._peak, timing.get("peak_memory_bytes"))), default=None)
        trained = dict(zip(done.batches, done.trained, strict=False))
        for name, result in zip(done.batches, done.results, strict=False):
            batch = self._batches.get(name)
            reached = result.segments, result.is_done, result.fault_step is not None
            if batch is None or reached <= batch.reached or result.number not in batch.numbers:
                continue
            self._spent["told_before"] += max(0, result.segments - batch.reached[0] - trained.get(name, 0))
            batch.reached = reached
            self._where[result.number] = tuple(timing.get(name, "") for name in WHERE)
            self._done[result.number] = self._placed(result, done)

    def _evict(self, batches: Sequence[Batch], error: Exception | None) -> None:
        numbers = tuple(sorted(batch.trials[0].number for batch in batches))
        for batch in batches:
            self._end(batch)
            self._done.pop(batch.trials[0].number, None)
        self._evicted.append(Evicted(numbers, error))

    def _lose(self, batches: Sequence[Batch], how: str) -> None:
        """Let trials that an agent has lost wait for another one.

        If one of them was lost too often, any of them may be at fault. So from then on an agent trains trials of one group only.
        """
        for batch in batches:
            batch.losses += 1
        if any(batch.losses == MOST_LOSSES for batch in batches):
            self._suspects |= {batch.trials[0].number for batch in batches}
            self._evict(batches, LostError(how))
            return
        for batch in batches:
            self._offer_again(batch, how)

    def _look_at_agents(self) -> None:
        super()._look_at_agents()
        self._lanes_of = {agent: lanes for agent, lanes in self._lanes_of.items() if agent in self._agents}
        if self._checkpoints:
            self._checkpoints.prune_pools(self._agents.keys(), self._batch_of().keys())


def make_agents(
    desk: Work,
    planner: Backend,
    config: EngineConfig,
    device_kind: str,
    local: StartedAgents,
    checkpoints: CheckpointManager | None,
    lease: float = LEASE_SECONDS,
) -> Agents:
    """Return the backend of a leader; see `Agents` and `OpenAgents`."""
    parts = desk, planner, config, device_kind, local, lease
    return OpenAgents(*parts, checkpoints=checkpoints) if config.kind == "refilled" else Agents(*parts)
