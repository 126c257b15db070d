"""`hyperlax delete`: what Hyperlax wrote of a study, gone; what else a user keeps beside it stays."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hyperlax.errors import UsageError
from hyperlax.resumed_arguments import read_arguments
from hyperlax.study.directory import LOCK, only_one_process

WRITTEN = (
    "study.json", "study.yaml", "optuna_study.db", "optuna_study.db.backup", "optuna_study.db-journal", "samples.csv",
    "amendments.json", "agents", "mlflow.json", "checkpoints", "confirmation", "confirmation.csv", "report.html", "trials.csv",
    "best_optuna_params.json", "pareto_front_params.json", "analysis_plots", "pbt_schedule.json", "optuna_exec_batch_*",
)  # fmt: skip
"""Names, with wildcards, at a study's root."""


def delete(root: Path, is_sure: bool) -> int:
    """Delete the study in a directory, and the directory if nothing else is in it. Asks unless `is_sure`.

    Returns 0, or 1 where the answer was no. UsageError if there is no study, if a process is at it, or if nobody can be asked.
    """
    read_arguments(root, "delete")
    with only_one_process(root):
        found = [path for name in WRITTEN for path in sorted(root.glob(name))]
        if not is_sure and not _agrees(root, found):
            print("Nothing was deleted.")
            return 1
        for path in sorted(found, key=lambda path: path.name == "study.json"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / LOCK).unlink(missing_ok=True)
    rest = sorted(path.name for path in root.iterdir())
    if rest:
        print(f"The study is deleted. What else was in {root} is kept: {', '.join(rest)}.")
        return 0
    root.rmdir()
    print(f"{root} is deleted.")
    return 0


def _agrees(root: Path, found: list[Path]) -> bool:
    """Whether a user at a terminal says yes."""
    if not sys.stdin.isatty():
        raise UsageError(f"delete {root}: nobody is there to ask. Add --yes to delete it.")
    size = sum(
        file.stat().st_size
        for path in found
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )
    answer = input(f"Delete the study in {root} ({size / 2**20:,.1f} MiB)? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
