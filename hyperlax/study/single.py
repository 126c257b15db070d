"""`run-single-hp`: one configuration, trained without a study."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hyperlax.agent import save_agent
from hyperlax.arguments import SingleArguments
from hyperlax.envs import canonical, slug
from hyperlax.errors import HyperlaxError
from hyperlax.files import write_json
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.metrics import METRICS
from hyperlax.recipe import Recipe, dotted
from hyperlax.study.agents import about_recipe, about_training
from hyperlax.study.batch_files import TrialEnd, failed_batch, mark_complete, write_tables
from hyperlax.study.directory import make_directory
from hyperlax.study.manifest import installed_versions
from hyperlax.study.reasons import cause_of_error
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.study.refusals import ending_on_refusal
from hyperlax.study.results import problem_of
from hyperlax.study.stopping import Stop, stopping_on_signals
from hyperlax.study.training import SingleRunner, reference_returns, runner_of_single
from hyperlax.trial import BatchResult, HparamBatch, Interrupted, Trial

log = logging.getLogger(__name__)

LEADING = "peak_performance"


def run_single(
    arguments: SingleArguments,
    recipe: Recipe,
    algorithm: AlgorithmConfig,
    runner: SingleRunner | None = None,
    kind: str = "single",
    beside: Mapping[str, Any] | None = None,
) -> int:
    """Train one configuration, write its files, print its metrics. Returns the exit status.

    0: done. 1: the training failed, the reason is printed. 130 or 143: interrupted, nothing is written. UsageError before anything
    runs for what cannot. runner: what trains, by default the engine. kind: what the directory is named after. beside: name ->
    content of further JSON files.
    """
    from hyperlax.analysis.pages import write_learning_curve

    runner = runner or runner_of_single(arguments, algorithm)
    reference = reference_returns(arguments.env_config)
    parent = Path(arguments.output_root) / recipe.name / slug(arguments.env_config)
    with _ending_on_refusal(parent):
        make_directory(parent)
    plan = runner.plan([Trial(0, algorithm)])
    (batch,) = plan.batches
    log.info("%s", plan.sentence())
    stop = Stop()
    with stopping_on_signals(stop):
        try:
            result = _trained(runner, batch, arguments.num_seeds, stop)
        except Interrupted:
            print("Interrupted; nothing is written.")
            return stop.exit_status
    with _ending_on_refusal(parent):
        directory = new_directory(parent, kind)
        for name, content in (beside or {}).items():
            write_json(directory / name, content)
        (outcome,) = result.outcomes
        if outcome.policy is not None:
            about = {**about_recipe(recipe), **about_training(batch.trials[0], outcome)}
            save_agent(directory / "agent", outcome.policy, about)
        (end,) = ends = write_tables(directory, batch, result, reference, searched=(), aggregate=arguments.aggregate)
        record = StudyRecord(
            directory=directory,
            study_name=directory.name,
            recipe=recipe.name,
            environment=canonical(arguments.env_config),
            objectives={LEADING: METRICS[LEADING].direction},
            arguments=arguments.to_json(),
            command="",
            versions=installed_versions(),
            device=runner.device,
            space={},
            reference=reference,
            trials=[_record(end, algorithm, directory)],
            importances={},
        )
        write_learning_curve(record, directory / "learning_curve.html")
        mark_complete(directory, ends)
    return _print_end(end, directory)


def _trained(runner: SingleRunner, batch: HparamBatch, seeds: int, stop: Stop) -> BatchResult:
    """What the runner gives. Where it raises, or gives what is no result, the training has failed.

    Raises:
      Interrupted: the training was stopped.
      HyperlaxError: it cannot run here, or not with the memory there is.
    """
    began, error = time.monotonic(), None
    try:
        result = runner.run(batch, should_stop=stop.is_set, report=lambda steps: None)
        cause = problem_of(batch, result, seeds)
        if cause is None:
            return result
    except (Interrupted, HyperlaxError):
        raise
    except MemoryError as short:
        raise HyperlaxError(f"{short}. Make networks, batches, replay or --num-seeds smaller.") from short
    except Exception as raised:
        error, cause = raised, cause_of_error(raised)
    return failed_batch(batch, cause, seeds, time.monotonic() - began, error)


def new_directory(parent: Path, kind: str) -> Path:
    """Make the next free `<kind>_NNNN`; two processes never get the same."""
    names = [path.name.removeprefix(f"{kind}_") for path in parent.glob(f"{kind}_*")]
    taken = [int(name) for name in names if name.isascii() and name.isdigit()]
    number = max(taken, default=-1) + 1
    while True:
        path = parent / f"{kind}_{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _ending_on_refusal(parent: Path) -> AbstractContextManager[None]:
    return ending_on_refusal(
        parent, lambda refusal: f"The training is not kept. {refusal.remedy}, then run the command again."
    )


def _record(end: TrialEnd, algorithm: AlgorithmConfig, directory: Path) -> TrialRecord:
    return TrialRecord(
        number=end.number,
        state=end.state,
        reason=end.reason,
        params=dotted(algorithm),
        values={LEADING: end.metrics[LEADING]} if end.metrics else {},
        metrics=end.metrics,
        batch_directory=directory,
        exec_batch=None,
    )


def _print_end(end: TrialEnd, directory: Path) -> int:
    if end.state == "COMPLETE":
        for name, value in end.metrics.items():
            print(f"{name:<20} {value:.6g}")
        print(f"Learning curve: {directory / 'learning_curve.html'}")
        if (directory / "agent.json").exists():
            print(f"Agent: {directory / 'agent.safetensors'}, to watch: hyperlax play {directory}")
        return 0
    print(f"The training failed: {end.reason}\nIts files: {directory}")
    return 1
