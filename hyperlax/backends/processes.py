"""Functions and commands in worker processes of this machine. A slot is a process that lives as long as the study; see `worker`.

Everything happens in the caller's thread. A thread per process only passes on what the process says.
"""

from __future__ import annotations

import logging
import queue
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

from hyperlax.backends.base import MOST_LOSSES, SHARED, Backend, EngineConfig, Evicted, LostError
from hyperlax.backends.child import GRACE_SECONDS, end, wait_for
from hyperlax.backends.runs import FunctionError, Run, Worker, environments, timing_of_runs
from hyperlax.engine.assignment import PROCESS, seconds
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import HyperlaxError, UsageError, counted
from hyperlax.fields import dotted
from hyperlax.tasks import Command, Task
from hyperlax.trial import LaneInterval, Plan, SegmentResult, Trial

log = logging.getLogger(__name__)

_FIRST_CONFIRMATION_SEED = 1_000_000
"""The first seed of a confirmation, above the study's own."""


class Processes(Backend):
    """A backend that trains a task in worker processes. A trial has one, and trains its seeds one after another in it."""

    lanes = 1

    def __init__(self, config: EngineConfig, task: Task, checkpoints: CheckpointManager):
        """Make a backend. No process is started before a trial needs it. checkpoints: names the directories of trials."""
        self._config, self._task, self._checkpoints = config, task, checkpoints
        self._environments = environments(task, config.slots)
        self.slots = len(self._environments)
        self.device = counted(self.slots, "worker process")
        self.packing = {"super_batch": config.width(self.slots), "slots": self.slots, **(config.chosen or {})}
        self._is_refilled = config.kind == "refilled"
        self._races = self._is_refilled and (config.trial_seeds or 1) > config.num_seeds
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._dead: list[Worker] = []
        self._queue: list[Run] = []
        self._changed: dict[int, Run] = {}
        self._ended: dict[int, Run] = {}
        self._evicted: list[Evicted] = []
        self._losses: Counter[int] = Counter()
        self._spent: Counter[str] = Counter()
        self._runs, self._since, self._is_stopping, self._is_woken = 0, seconds(), False, False
        self._is_untracked = False
        self._source = task.source() or {"recipe": str(task.path)}

    @property
    def occupied(self) -> int:
        """Trials that train or wait for a process."""
        return len(self._queue) + sum(worker.current is not None for worker in tuple(self._workers.values()))

    @property
    def preparing(self) -> int:
        """Trials whose process is starting."""
        return sum(not worker.is_loaded for worker in tuple(self._workers.values()) if worker.current)

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Return a batch per trial."""
        return Plan(tuple((trial,) for trial in trials), 0, 0, None)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        """Queue trials for the processes. Return the numbers of those that are taken: all, unless the slots are full.

        A trial that has not left is not taken again.
        """
        entered = []
        for trial in trials:
            if self._is_refilled and self.occupied >= max(self.slots, self.packing["slots"]):
                break
            if trial.number in self._numbers():
                continue
            self._runs += 1
            self._queue.append(Run(trial, repetition, self._runs, self._seeds(repetition)))
            entered.append(trial.number)
        return entered

    def begin(self) -> None:
        """Let functions that wait for a decision continue, and start queued trials on free slots."""
        if self._is_stopping:
            return
        for worker in self._workers.values():
            if worker.is_waiting:
                worker.decide(stop=False)
        while not self._events.empty():  # among them the deaths of idle processes
            self._handle(self._events.get())
        for slot in sorted(range(self.slots), key=lambda slot: slot not in self._workers):
            if not self._queue:
                return
            worker = self._workers.get(slot)
            if worker is None:
                worker = self._workers[slot] = Worker(slot, self._environments[slot], self._events)
            if worker.run is None:
                self._start(worker, self._queue.pop(0))

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Block until a trial has reported, has ended, or has lost its process. Return at once if the study is to end."""
        while not self._has_news():
            self.begin()
            if not self._has_news():
                self._wait()
        self._is_woken = False
        changed, self._changed = self._changed, {}
        evicted, self._evicted = self._evicted, []
        budget = self._config.run_length.total_timesteps
        return [changed[number].result(self._task, budget) for number in sorted(changed)], evicted

    def leave(self, number: int) -> None:
        """Let the function of a trial end at its current or next report, and report nothing more about the trial."""
        self._queue = [run for run in self._queue if run.trial.number != number]
        self._changed.pop(number, None)
        self._ended.pop(number, None)
        for worker in self._workers.values():
            if (run := worker.current) and run.trial.number == number:
                run.is_leaving = True
                worker.decide(stop=True)

    def stop(self) -> None:
        """Start no more trials, and let `advance` return."""
        self._is_stopping = True
        self._events.put(None)

    def wake(self) -> None:
        """Let `advance` return soon."""
        self._events.put(None)

    def save(self) -> None:
        """When the study is to end, let functions end at their next report, for some seconds. They keep their own checkpoints."""
        if not self._is_stopping:
            return
        for worker in self._workers.values():
            worker.decide(stop=True)
        until = seconds() + GRACE_SECONDS + 1  # that of a command, and a little for its process to say so
        while any(worker.run for worker in self._workers.values()) and (left := until - seconds()) > 0:
            with suppress(queue.Empty):
                self._handle(self._events.get(timeout=left))

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return the cost of a closed batch, or of everything since the last call."""
        if not self._is_refilled:
            return self._ended[next(iter(numbers))].timing()
        spent, self._spent = self._spent, Counter()
        since, self._since = self._since, seconds()
        wall = self._since - since
        return timing_of_runs(spent["seconds"], spent["steps"], wall, lane_segments=int(spent["segments"]))

    def close(self) -> None:
        """End all processes with what they have started: those that are idle by themselves, the others by TERM, then KILL."""
        self._is_stopping = True
        workers = list(self._workers.values())
        idle = [worker for worker in workers if worker.run is None]
        for worker in idle:
            worker.hang_up()
        end([worker.child for worker in workers if worker.run is not None])
        if not wait_for([worker.child for worker in idle], GRACE_SECONDS):
            end([worker.child for worker in idle])
        for worker in (*workers, *self._dead):
            worker.thread.join()

    def _numbers(self) -> set[int]:
        """Return the trials that train or wait for a process."""
        running = [run for worker in tuple(self._workers.values()) if (run := worker.current)]
        return {run.trial.number for run in (*self._queue, *running)}

    def _seeds(self, repetition: int) -> list[tuple[int, int]]:
        """Return the index and the value of each seed of a run."""
        first = self._config.seed + (_FIRST_CONFIRMATION_SEED if self._config.is_confirmation else 0)
        return [(index, (first + index) % 2**32) for index in range(repetition, repetition + self._config.num_seeds)]

    def _start(self, worker: Worker, run: Run) -> None:
        began = seconds()
        worker.run, run.interval = run, LaneInterval(worker.slot, 0, 0, PROCESS, began, began)
        length = self._config.run_length
        worker.say(
            run=run.id,
            task=self._source,
            trial=run.trial.number,
            params=dotted(run.trial.config),
            seeds=run.seeds,
            directory=str(self._checkpoints.own_directory(run.trial.number).absolute()),
            budget=length.total_timesteps,
            evaluations=length.num_evaluations,
            waits=self._is_refilled,
            mlflow=self._config.mlflow,
        )

    def _wait(self) -> None:
        """Wait until a process says something, or a trial has taken too long."""
        limit, left = self._config.trial_timeout, None
        running = [(one, run, run.started) for one in self._workers.values() if (run := one.run) and run.started]
        if limit is not None and running:
            left = max(0.0, min(started for *_, started in running) + limit - seconds())
        try:
            self._handle(self._events.get(timeout=left))
        except queue.Empty:
            for worker, run, started in running:
                if limit is not None and seconds() - started >= limit:
                    if not run.is_leaving:
                        self._finish(run, f"took longer than the trial timeout of {limit:g} s")
                    self._stop(worker, run)

    def _stop(self, worker: Worker, run: Run) -> None:
        """End a run that is not at a report, or does not end after it: a command, or else the whole process."""
        run.is_leaving, run.started = True, None
        if isinstance(self._task, Command):
            worker.decide(stop=True)
        else:
            Thread(target=end, args=([worker.child],), daemon=True).start()

    def _handle(self, event: tuple[Worker, Any] | None) -> None:
        """Note what a process has said, or how it has died. None only wakes `advance`."""
        if event is None:
            self._is_woken = True
            return
        worker, news = event
        run = worker.run
        if isinstance(news, str):
            worker.clean_up()
            self._dead.append(self._workers.pop(worker.slot))
        elif news["kind"] == "group":
            worker.group = news["group"]
            return
        elif news["kind"] == "untracked":
            self._tell_untracked(news["why"])
            return
        if run is None:
            return
        assert run.interval is not None
        run.interval = run.interval._replace(ended=seconds())
        if isinstance(news, str) and worker.child.has_crashed and not (run.is_leaving or self._is_stopping):
            self._finish(run, f"its process {news}, in its own code or in a library")
        elif isinstance(news, str):
            self._lose(run, news)
        elif news["kind"] == "loaded":
            worker.is_loaded, run.started = True, seconds()
        elif news["kind"] == "points":
            self._add(worker, run, news)
        else:
            worker.run, worker.is_waiting = None, False
            if news["kind"] == "lost":
                self._lose(run, news["how"])
            else:
                self._end(run, news)

    def _tell_untracked(self, why: str) -> None:
        """Warn that commands have no run in MLflow, once."""
        if not self._is_untracked:
            log.warning("MLflow cannot be reached (%s): commands train without a run there until it can.", why)
        self._is_untracked = True

    def _add(self, worker: Worker, run: Run, news: dict[str, Any]) -> None:
        """Note reports of a seed."""
        index, segments, steps = news["seed"], run.segments, run.steps
        run.points.setdefault(index, []).extend((step, values) for step, values in news["points"])
        self._spent["seconds"] += news["seconds"] - run.seconds.get(index, 0.0)
        self._spent["segments"] += run.segments - segments
        self._spent["steps"] += run.steps - steps
        run.seconds[index] = news["seconds"]
        if run.is_leaving:
            return
        if problem := run.mismatch():
            self._finish(run, problem)
            run.is_leaving = True
            worker.decide(stop=True)
        elif run.segments > segments:
            self._changed[run.trial.number] = run
            worker.is_waiting = self._is_refilled

    def _end(self, run: Run, news: dict[str, Any]) -> None:
        """Note the end of a run."""
        kind, evaluations = news["kind"], self._config.run_length.num_evaluations
        if kind == "stopped" or run.is_leaving:
            return
        if kind == "unloadable":
            raise HyperlaxError(f"{news['text']} The recipe could be loaded before, but not in a worker process.")
        if kind == "raised":
            self._changed.pop(run.trial.number, None)
            self._evicted.append(Evicted((run.trial.number,), FunctionError(news["text"])))
            return
        run.is_done = True
        problem = news["words"] if kind == "fault" else run.mismatch()
        if problem is None and self._races and run.segments != evaluations:
            problem = f"returned after {counted(run.segments, 'report')}; where seeds race, all need evaluations={evaluations}"
        self._finish(run, problem)

    def _lose(self, run: Run, how: str) -> None:
        """Let a trial whose process has died start again, unless that has happened too often."""
        number = run.trial.number
        if run.is_leaving or self._is_stopping:
            return
        self._losses[number] += 1
        how = f"its process {how}" + (", as happens when memory runs out" if how.endswith("SIGKILL") else "")
        if self._losses[number] == MOST_LOSSES:
            self._finish(run, str(LostError(how)))
            return
        log.warning("Trial %d was lost: %s. It runs again.", number, how)
        self._changed.pop(number, None)
        self._evicted.append(Evicted((number,), None))

    def _finish(self, run: Run, fault: str | None) -> None:
        """Note that a trial has ended, and why if it has failed."""
        run.is_done, run.fault = True, fault
        self._changed[run.trial.number] = run
        if not self._is_refilled:
            self._ended[run.trial.number] = run

    def _has_news(self) -> bool:
        """Return whether `advance` has something to return, or nothing to wait for."""
        return bool(self._changed or self._evicted) or self._is_stopping or self._is_woken or not self.occupied


def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Processes:
    """Return a backend for the task of a configuration, in processes of this machine.

    Raises:
      UsageError: it is for a population; the machine lacks what a trial needs.
    """
    if config.kind == "population":
        raise UsageError(
            "a population copies what its best members have learned, and the state of a Function is its own. Use "
            "optuna-hp-search, with a pruner to stop bad trials early."
        )
    assert config.task is not None and checkpoints is not None
    return Processes(config, config.task, checkpoints)
