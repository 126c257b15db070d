"""The decorators of steps. They stand above `@step` and keep its attributes and source, from which Metaflow reads the graph."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Literal

import grpc
import optuna
from metaflow import current  # pyright: ignore[reportPrivateImportUsage]
from optuna.trial import FixedTrial, Trial, TrialState

from hyperlax.errors import UsageError, did_you_mean
from hyperlax.files import escaped
from hyperlax.metaflow.coordinator import Coordinator
from hyperlax.metaflow.rendezvous import OUTPUT_ROOT, REASON, SAMPLERS, StudyOverError, add_trial, live_trial
from hyperlax.metaflow.results import TrialConfig, TrialResult, be_quiet
from hyperlax.samplers.registry import SAMPLERS as SAMPLER_ROWS
from hyperlax.tasks import Direction
from hyperlax.user_code import with_line

_Step = Callable[..., None]
_Tell = Callable[[TrialResult], TrialResult]
_MARK = "hyperlax_trials"
"""The attribute of a step that trains trials: its objective and direction."""


def optuna_coordinator(
    direction: Direction = "minimize",
    sampler: str = "tpe",
    port: int | None = None,
    timeout: float = 7200,
    *,
    host: str = "localhost",
    seed: int = 42,
    output_root: str | None = OUTPUT_ROOT,
) -> Callable[[_Step], _Step]:
    """Hold the study in this step until all trials of its run have ended. The step's `self.study` is the Optuna study then.

    It runs beside the trials, and needs `self.coordinator_id`, the run's id, and `self.n_trials_int`, their number. Whoever reaches
    its port can read and change the study: leave `host` as it is, or use a network where you trust everybody.

    Args:
      direction: "minimize" or "maximize".
      sampler: "tpe", "random", "cmaes" or "qmc".
      port: Where it listens; None chooses a free one.
      timeout: Seconds to wait for all trials.
      host: The address that it listens on: localhost, or 0.0.0.0 for trials on other machines.
      seed: For the sampler. Suggestions also depend on which trials have ended.
      output_root: Write the study as a directory of Hyperlax below this one; None writes nothing.
    """
    _check_direction("@optuna_coordinator", direction)
    if sampler not in SAMPLERS:
        hint = did_you_mean(sampler, SAMPLERS)
        raise UsageError(f"@optuna_coordinator: no sampler {sampler!r}. {hint}There are {', '.join(SAMPLERS)}.")
    if (package := SAMPLER_ROWS[sampler].package) and find_spec(package) is None:
        raise UsageError(f"@optuna_coordinator: {sampler} needs {package}: pip install 'hyperlax[{sampler}]'.")

    def decorate(step: _Step) -> _Step:
        @functools.wraps(step)
        def coordinating(flow: Any) -> None:
            step(flow)
            for name in ("coordinator_id", "n_trials_int"):
                if not hasattr(flow, name):
                    raise UsageError(
                        f"@optuna_coordinator: self.{name} is missing. Set self.coordinator_id = current.run_id and "
                        "self.n_trials_int to the number of trials in a step before."
                    )
            coordinator = Coordinator(flow, _trials_of(flow), direction, sampler, seed)
            flow.study = coordinator.run(host, port, timeout, output_root)

        return coordinating

    return decorate


def hyperparam(
    objective: str,
    direction: Direction = "minimize",
    suppress_logs: bool = True,
    mode: Literal["adaptive", "batch"] = "adaptive",
) -> Callable[[_Step], _Step]:
    """Train one trial in this step, a `foreach` over the trials. Its `self.trial` suggests, and the step sets `self.<objective>`.

    The step's `self.trial_result` says how it ended. An exception fails the trial, and the run continues.

    Args:
      objective: Name of the attribute that the step sets to a number.
      direction: "minimize" or "maximize"; with a coordinator its own counts.
      suppress_logs: Whether to leave out Optuna's messages.
      mode: "adaptive": a coordinator suggests. "batch": the `foreach` is over `create_study_inputs`.
    """
    _check_direction("@hyperparam", direction)
    if mode not in ("adaptive", "batch"):
        raise UsageError(f"@hyperparam: mode is {mode!r}. Use adaptive or batch.")
    asked = _asked if mode == "adaptive" else _given

    def decorate(step: _Step) -> _Step:
        @functools.wraps(step)
        def training(flow: Any) -> None:
            if suppress_logs:
                be_quiet()
            began = datetime.now()
            try:
                with asked(flow) as (trial, tell):
                    result = tell(TrialResult.of(trial, began, *_train(flow, step, objective, trial)))
            except StudyOverError as error:
                result = TrialResult.of(None, began, TrialState.FAIL, None, str(error))
            flow.trial_result = result
            if result.reason:
                print(f"Trial {result.trial_number} failed: {result.reason}.")
            if flow._transition is None:  # the step has not reached its self.next(), which Metaflow demands
                flow._transition = (flow._graph[current.step_name].out_funcs, None)

        setattr(training, _MARK, (objective, direction))
        return training

    return decorate


def _train(flow: Any, step: _Step, objective: str, trial: Trial | FixedTrial) -> tuple[TrialState, float | None, str]:
    """Run a step with a trial, which is gone when Metaflow keeps the step's attributes. Return state, value and reason."""
    flow.trial = trial
    try:
        step(flow)
        if objective not in vars(flow):
            return TrialState.FAIL, None, f"the step has not set self.{objective}"
        value = float(vars(flow)[objective])
        is_finite = math.isfinite(value)
        return (TrialState.COMPLETE, value, "") if is_finite else (TrialState.FAIL, None, f"{objective} is {value}")
    except optuna.TrialPruned:
        return TrialState.PRUNED, None, ""
    except (Exception, SystemExit) as error:  # a user's step may raise anything
        return TrialState.FAIL, None, escaped(with_line(error))
    finally:
        del flow.trial


@contextmanager
def _asked(flow: Any) -> Iterator[tuple[Trial, _Tell]]:
    """Yield a new trial of the coordinator, and how to end it."""
    coordinator_id, address = getattr(flow, "coordinator_id", None), getattr(flow, "coordinator_url", None)
    if coordinator_id is None and address is None:
        raise UsageError(
            "@hyperparam: self.coordinator_id is missing. Set it to current.run_id in a step before, or use mode='batch'."
        )
    task = current.task_id or ""
    place = _place(current.step_name or "", flow.foreach_stack())
    with live_trial(coordinator_id, address, *place, task=task) as (study, trial):

        def tell(result: TrialResult) -> TrialResult:
            try:
                if result.reason:
                    trial.set_user_attr(REASON, result.reason)
                ended = study.tell(trial, result.value, result.optuna_state)
            except grpc.RpcError:  # the coordinator is gone; one that was started again does not know this trial
                return replace(result, trial_number=add_trial(coordinator_id, address, result.frozen(task)))
            except ValueError:  # Optuna refuses a trial that has been given up
                return replace(result, state="failed", value=None, reason=result.reason or "its result came too late")
            return replace(result, value=ended.value, intermediate_values=ended.intermediate_values)

        yield trial, tell


@contextmanager
def _given(flow: Any) -> Iterator[tuple[FixedTrial, _Tell]]:
    """Yield the trial that this task was given, and how to end it: there is nobody to tell."""
    config = flow.input
    if not isinstance(config, TrialConfig):
        raise UsageError(
            "@hyperparam: in batch mode the step is a foreach over what create_study_inputs returns, "
            f"and this task's input is {type(config).__name__}."
        )
    yield FixedTrial(config.params, config.trial_number), lambda result: result


def _place(step: str, stack: Sequence[tuple[Any, ...]] | None) -> tuple[int, ...]:
    """Return numbers that no other task of a run has. stack: its index in each `foreach`, the inner one last."""
    return zlib.crc32(step.encode()), *(index for index, *_ in stack or ())


def _trials_of(flow: Any) -> dict[str, tuple[str, str]]:
    """Return the steps of a flow that train trials, with their objective and direction."""
    steps = ((node.name, getattr(type(flow), node.name)) for node in flow._graph)
    return {name: getattr(step, _MARK) for name, step in steps if hasattr(step, _MARK)}


def _check_direction(decorator: str, direction: str) -> None:
    if direction not in ("minimize", "maximize"):
        raise UsageError(f"{decorator}: direction is {direction!r}. Use minimize or maximize.")
