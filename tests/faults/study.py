"""Studies as processes of their own, for the harness to kill: mostly a fake backend, but real files, database and pages."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperlax import cli
from hyperlax.analysis.pages import write_pages
from hyperlax.backends.base import Evicted
from hyperlax.study.observer import Pages
from hyperlax.study.population import run_population
from hyperlax.trial import SegmentResult
from tests.fake_backend import STEPS_PER_INTERVAL, FakeBackend
from tests.mlflow_store import tracker
from tests.study_cases import Case
from tests.test_population_runs import Run as Population
from tests.test_sweeps import case_of as sweep_of

ARGUMENTS: dict[str, Any] = {"n_trials": 16, "sampler": "tpe", "optuna_study_batch_size": 8}
PRUNED: dict[str, Any] = {
    "pruner": "hyperband",
    "pruner_min_segments": 1,
    "pruner_reduction_factor": 2,
    "checkpoint_seconds": 0.0,
}
IMPORTED_ONCE = [__name__, "hyperlax.analysis.pages", "alembic.command"]
FUNCTION = 'Function(train, Measure("accuracy", "maximize"), budget=9, evaluations=9)'
COMMAND = 'Command(["sh", "-c", "sleep 0.2; echo hyperlax: accuracy={x}"], Measure("accuracy", "maximize"))'
PROCESSES = """
import time
from hyperlax.space import UniformContinuous
from hyperlax.tasks import Command, Function, Measure

def train(params, report, seed):
    for step in range(1, 10):
        time.sleep(0.02)
        report(step, accuracy=params["x"] * step)

def get_task():
    return TASK

def get_base_params():
    return {"x": 0.5}

def get_base_hyperparam_distributions():
    return {"x": UniformContinuous(domain=(0.0, 1.0))}
"""


class Slow(FakeBackend):
    """Takes long enough to be killed in the middle of it."""

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        time.sleep(0.05)
        return super().advance()


def killed_after(start: Callable[[Path], int], root: Path, patience: float) -> tuple[int, str]:
    """Start or resume the study of an output root by `start`, and kill it after so many seconds; its exit code and its errors.

    It is forked from a process that has imported all it needs: to kill an import shows nothing.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTED_ONCE)
    errors = root.with_suffix(".err")
    process = forks.Process(target=_run, args=(start, root, errors))
    process.start()
    process.join(patience)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, errors.read_text() if errors.exists() else ""


def _run(start: Callable[[Path], int], root: Path, errors: Path) -> None:
    root.mkdir(exist_ok=True)
    os.chdir(root)
    for descriptor, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.exit(start(root))


def search(root: Path, **changes: Any) -> int:
    """Start or resume a search. changes: to its arguments."""
    return start_or_resume(Case(root, write_pages=write_pages, confirmer=Slow().bind, **{**ARGUMENTS, **changes}))


def sweep(root: Path) -> int:
    """Start or resume a sweep of 12 configurations."""
    case = sweep_of(root)
    case.write_pages = write_pages
    return start_or_resume(case)


def tracked(root: Path) -> int:
    """Start or resume a search that is tracked in the MLflow beside the output root, in an experiment of its name."""
    case = Case(root, write_pages=write_pages, **ARGUMENTS)
    is_new = not (case.directory / "study.json").exists()
    case.tracker = tracker(store_beside(root), root.name, case.directory, is_new)
    return start_or_resume(case)


def store_beside(root: Path) -> str:
    """The address of MLflow's store."""
    return f"sqlite:///{root.with_name('mlflow.db')}"


def population(root: Path) -> int:
    """Start or resume a population."""
    of = Population(root, num_intervals=8, total_timesteps=8 * STEPS_PER_INTERVAL)
    resume_from = of.directory if (of.directory / "study.json").exists() else None
    pages = [Pages(write_pages)]
    return run_population(of.options, of.recipe, resume_from, make_backend=Slow().bind, observers=pages)


def processes(root: Path, task: str) -> int:
    """Start or resume a search whose trials are real processes. task: what `get_task` of its recipe returns."""
    recipe = root / "made.py"
    if not recipe.exists():
        recipe.write_text(PROCESSES.replace("TASK", task))
    if Path("studies/made/study.json").exists():
        return cli.main(["optuna-hp-search", "--resume-from", "studies/made"])
    words = "--n-trials 6 --sampler random --optuna-study-batch-size 3 --slots 2 --output-root studies"
    return cli.main(["optuna-hp-search", "--algo-and-network-config", "made.py", *words.split()])


def start_or_resume(case: Case) -> int:
    """Start the study, or resume it if it exists."""
    run = case.resume if (case.directory / "study.json").exists() else case.start
    return run(Slow())
