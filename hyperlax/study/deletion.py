"""`hyperlax delete`: what Hyperlax wrote of a study, gone; what else a user keeps in its directories stays."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hyperlax.config.stored import read_arguments
from hyperlax.errors import UsageError
from hyperlax.study.directory import LOCK, TEMPORARY, only_one_process
from hyperlax.study.refusals import ending_on_refusal, run_again

PLOTS = (
    "pareto_front", "hypervolume_history", "confirmation", "pbt_lineage", "pbt_winner", "learning_curves",
    "optimization_history", "param_importances", "parallel_coordinate", "slice", "contour", "timeline",
)  # fmt: skip
MOST_NAMED = 10
"""Of what is kept, so that the line stays one."""

_EXEC = r"optuna_exec_batch_\d+"
_BATCH = rf"({_EXEC}/samples|confirmation)/batch_\d+"
_CHECKPOINTS = r"(confirmation/)?checkpoints"
_BEST = r"(best_optuna_params|pareto_front_params)\.json"
_PLOT = rf"({'|'.join(PLOTS)})\.html"
_DIRECTORY = re.compile(
    rf"agents|analysis_plots|confirmation|{_CHECKPOINTS}|{_EXEC}|{_EXEC}/(samples|analysis)|{_BATCH}"
)
"""The directories of a study, below its own."""
_FILE = re.compile(
    "|".join(
        (
            r"study\.(json|yaml)|samples\.csv|journal\.jsonl|mlflow\.json|pbt_schedule\.json",
            rf"report\.html|trials\.csv|confirmation\.csv|{_BEST}",
            r"optuna_study\.db(\.backup|\.damaged\d*)?(-journal|-wal|-shm)?",
            r"agents/trial_\d+\.(safetensors|json|gif)",
            rf"{_CHECKPOINTS}/((trial|pool)_\d+|population)\.npz",
            rf"analysis_plots/({_PLOT}|plotly\.min\.js)",
            rf"{_EXEC}/(success\.txt|analysis/({_PLOT}|trials\.csv|{_BEST}))",
            rf"{_BATCH}/((hyperparams|curves|summary|timeline|intermediate)\.csv|timing\.json|success\.txt)",
            rf"(({_DIRECTORY.pattern})/)?{TEMPORARY.pattern}",
        )
    )
)
"""The files of a study, and what a process that died while it wrote one has left of it."""


def delete(given: Path, is_sure: bool) -> int:
    """Delete the study in a directory, and the directory if nothing else is in it. Asks unless `is_sure`.

    The directory itself stays where it is a link's, the working directory, or in a directory that may not be written; that is said.

    Returns 0, or 1 where the answer was no. UsageError if there is no study, if a process is at it, or if nobody can be asked;
    HyperlaxError for a file that the system does not let go: the same command then goes on with the rest.
    """
    read_arguments(given, "delete")
    root = given.resolve()
    with ending_on_refusal(root, run_again):
        with only_one_process(root, is_named=False):
            found = sorted(_written(root, root), key=lambda path: path == root / "study.json")
            if not is_sure and not _agrees(given, found):
                print("Nothing was deleted.")
                return 1
            for path in found:
                _remove(path)
            (root / LOCK).unlink(missing_ok=True)
        print(_end(given, root))
    return 0


def _written(directory: Path, root: Path) -> Iterator[Path]:
    """What Hyperlax wrote in a directory, each before the directory that it is in. Of a link, the link and not its content."""
    for path in sorted(directory.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            if _DIRECTORY.fullmatch(name):
                yield from _written(path, root)
                yield path
        elif _FILE.fullmatch(name) or (path.is_symlink() and _DIRECTORY.fullmatch(name)):
            yield path


def _remove(path: Path) -> None:
    """A directory only if it is empty."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()


def _end(given: Path, root: Path) -> str:
    """In words, what became of the directory. It is removed if it is empty and can be."""
    named = list(islice(_kept(root, root), MOST_NAMED + 1))
    if named:
        more = ", and more" if len(named) > MOST_NAMED else ""
        return f"The study is deleted. What else was in {given} is kept: {', '.join(named[:MOST_NAMED])}{more}."
    why = _why_it_stays(given, root)
    return f"The study is deleted. The empty directory {given} is kept: {why}." if why else f"{given} is deleted."


def _kept(directory: Path, root: Path) -> Iterator[str]:
    """What is there, of the study's own directories what is in them."""
    for path in sorted(directory.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink() and _DIRECTORY.fullmatch(name):
            yield from _kept(path, root)
        else:
            yield name


def _why_it_stays(given: Path, root: Path) -> str | None:
    """Remove an empty directory. Why it is still there, None if it is gone."""
    if given.is_symlink():
        return f"{given} is a link to it"
    try:
        if root.samefile("."):
            return "it is the working directory"
        root.rmdir()
    except OSError as error:
        return error.strerror
    return None


def _agrees(given: Path, found: list[Path]) -> bool:
    """Whether a user at a terminal says yes. The end of the input is no."""
    if not sys.stdin.isatty():
        raise UsageError(f"delete {given}: nobody is there to ask. Add --yes to delete it.")
    size = sum(path.lstat().st_size for path in found if path.is_symlink() or not path.is_dir())
    try:
        answer = input(f"Delete the study in {given} ({size / 2**20:,.1f} MiB)? [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
