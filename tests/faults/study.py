"""A study as a process of its own, for the harness to kill: the toy runner, but real files, a real database and real pages.

python -m tests.faults.study ROOT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from hyperlax.study.launcher import run_study
from hyperlax.trial import BatchResult
from tests.fake_runner import FakeRunner
from tests.study_cases import MIXED, Case, arguments_of, recipe_of

ARGUMENTS: dict[str, Any] = {"n_trials": 16, "sampler": "tpe", "optuna_study_batch_size": 8}


class Slow(FakeRunner):
    """Takes long enough to be killed in the middle of it."""

    def run(self, *args: Any, **kwargs: Any) -> BatchResult:
        time.sleep(0.05)
        return super().run(*args, **kwargs)


def main() -> int:
    case = Case(Path(sys.argv[1]), **ARGUMENTS)
    resume_from = case.directory if (case.directory / "study.json").exists() else None
    return run_study(arguments_of(case.root, **ARGUMENTS), recipe_of(MIXED), resume_from, Slow())


if __name__ == "__main__":
    sys.exit(main())
