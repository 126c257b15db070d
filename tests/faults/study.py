"""A study as a process of its own, for the harness to kill: a fake backend, but real files, a real database and real pages."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from hyperlax.analysis.pages import write_pages
from hyperlax.backends.base import Evicted
from hyperlax.study.observer import Pages
from hyperlax.study.search import run_study
from hyperlax.trial import SegmentResult
from tests.fake_backend import FakeBackend
from tests.study_cases import MIXED, Case, arguments_of, recipe_of

ARGUMENTS: dict[str, Any] = {"n_trials": 16, "sampler": "tpe", "optuna_study_batch_size": 8}
PRUNED: dict[str, Any] = {
    "pruner": "hyperband",
    "pruner_min_segments": 1,
    "pruner_reduction_factor": 2,
    "checkpoint_seconds": 0.0,
}
IMPORTED_ONCE = [__name__, "hyperlax.analysis.pages", "alembic.command"]


class Slow(FakeBackend):
    """Takes long enough to be killed in the middle of it."""

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        time.sleep(0.05)
        return super().advance()


def run_toy(root: Path, patience: float, **changes: Any) -> tuple[int, str]:
    """Start or resume a study of the fake, and kill it after so many seconds; its exit code and its errors.

    changes: to its arguments.

    It is forked from a process that has imported all it needs: to kill an import shows nothing.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTED_ONCE)
    errors = root.with_suffix(".err")
    process = forks.Process(target=_start_or_resume, args=(root, errors, {**ARGUMENTS, **changes}))
    process.start()
    process.join(patience)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, errors.read_text() if errors.exists() else ""


def _start_or_resume(root: Path, errors: Path, given: dict[str, Any]) -> None:
    for descriptor, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    case = Case(root, **given)
    resume_from = case.directory if (case.directory / "study.json").exists() else None
    arguments, pages = arguments_of(case.root, **given), Pages(write_pages)
    sys.exit(run_study(arguments, recipe_of(MIXED), resume_from, make_backend=Slow().bind, observers=[pages]))
