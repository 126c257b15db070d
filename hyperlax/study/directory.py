"""The directory of a study: its paths, its own files and its complete batches."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from hyperlax.backends.work import FILES, WORK
from hyperlax.config.kinds import place_of
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.config.stored import MANIFEST, read_stored
from hyperlax.engine.checkpoint import FILES as SAVED
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import is_too_long, read_csv, refuse_moved, remove, write_text
from hyperlax.outputs import KEPT_OUTPUT, OWN_FILES
from hyperlax.recipe import Recipe
from hyperlax.study import database_file
from hyperlax.study.io_errors import FULL, refusing_forbidden
from hyperlax.trial import TIMELINE

log = logging.getLogger(__name__)

_STUDY_FILE, _DATABASE, REPORT = "study.yaml", "optuna_study.db", "report.html"
SAMPLES, _JOURNAL, TRIALS, CONFIRMED = "samples.csv", "journal.jsonl", "trials.csv", "confirmation.csv"
SENSITIVITY_CSV = "sensitivity.csv"
SCHEDULE, TRACKING, MIRROR = "pbt_schedule.json", "mlflow.json", "mirror.json"
BEST_FILE, PARETO_FILE = "best_optuna_params.json", "pareto_front_params.json"
AGENTS, PLOTS_DIRECTORY, PLOTLY_FILE, CHECKPOINTS, CONFIRMATION, _ANALYSIS = (
    "agents", "analysis_plots", "plotly.min.js", "checkpoints", "confirmation", "analysis",
)  # fmt: skip
SUCCESS = "success.txt"
HYPERPARAMS_CSV, CURVES_CSV, SUMMARY_CSV = "hyperparams.csv", "curves.csv", "summary.csv"
INTERMEDIATE_CSV, TIMING_JSON = "intermediate.csv", "timing.json"
TEMPORARY = re.compile(r"\.[^/]+\.\d+\.\d+\.tmp(-journal)?")
"""A name that `files.replacing` writes to first."""
_WRITTEN_LAST = TRIALS
_EXEC_BATCH = re.compile(r"optuna_exec_batch_\d+")
_BATCH = re.compile(r"batch_\d+")


def _one_of(*names: str) -> str:
    return "|".join(map(re.escape, names))


_EXEC = _EXEC_BATCH.pattern
_OWN: dict[str, str] = {
    "": _one_of(
        MANIFEST,
        _STUDY_FILE,
        REPORT,
        SAMPLES,
        _JOURNAL,
        TRIALS,
        CONFIRMED,
        SENSITIVITY_CSV,
        SCHEDULE,
        TRACKING,
        MIRROR,
        BEST_FILE,
        PARETO_FILE,
    )
    + rf"|{re.escape(_DATABASE)}(\.backup|\.damaged\d*)?(-journal|-wal|-shm)?",
    AGENTS: r"trial_\d+\.(safetensors|json|gif)",
    PLOTS_DIRECTORY: _one_of(PLOTLY_FILE),
    rf"({CONFIRMATION}/)?{CHECKPOINTS}": SAVED,
    rf"({CONFIRMATION}/)?{OWN_FILES}": "",
    rf"({CONFIRMATION}/)?{OWN_FILES}/trial_\d+(/.*)?": r".*",
    CONFIRMATION: "",
    WORK: FILES,
    _EXEC: _one_of(SUCCESS),
    f"{_EXEC}/{_ANALYSIS}": _one_of(TRIALS, BEST_FILE, PARETO_FILE),
    f"{_EXEC}/samples": "",
    f"({_EXEC}/samples|{CONFIRMATION})/{_BATCH.pattern}": _one_of(
        HYPERPARAMS_CSV, CURVES_CSV, SUMMARY_CSV, INTERMEDIATE_CSV, TIMELINE, TIMING_JSON, SUCCESS
    )
    + rf"|{KEPT_OUTPUT}",
}
"""Directory that Hyperlax makes -> the names of the files that it writes there, besides plots; all as patterns."""


class StudyDirectory:
    """The paths of a study below its root; see `study_directory`."""

    def __init__(self, root: Path):
        self.root = root
        self.manifest = root / MANIFEST
        self.file = root / _STUDY_FILE
        self.database = root / _DATABASE
        self.backup = root / f"{_DATABASE}.backup"
        self.samples = root / SAMPLES
        self.journal = root / _JOURNAL
        self.checkpoints = root / CHECKPOINTS
        self.confirmation = root / CONFIRMATION
        self.report = root / REPORT

    def holds_a_study(self) -> bool:
        return self.manifest.exists() or self.database.exists()

    def check_database(self, study_name: str) -> None:
        """Raise an error for a database that is damaged, gone, or of something else; see `database_file.check`."""
        database_file.check(self.database, study_name, any(complete_batches(samples) for samples in self._samples()))

    def exec_batch(self, super_batch: int) -> Path:
        return self.root / f"optuna_exec_batch_{super_batch:04d}"

    def analysis(self, super_batch: int) -> Path:
        return self.exec_batch(super_batch) / _ANALYSIS

    def close_super_batch(self, super_batch: int) -> None:
        """Mark a super-batch whose last trial has ended."""
        mark = self.exec_batch(super_batch) / SUCCESS
        if not mark.exists():
            write_text(mark, "every trial has ended and is on disk\n")

    def has_analysis(self, super_batch: int) -> bool:
        """Return whether a super-batch's analysis is whole. Its `trials.csv` is written last."""
        return (self.analysis(super_batch) / _WRITTEN_LAST).exists()

    def analysed(self) -> int:
        """Return how many super-batches there are up to the last that was ever analysed."""
        analysed = (path.name for path in self._exec_batches() if (path / _ANALYSIS).exists())
        return max((int(name.removeprefix("optuna_exec_batch_")) + 1 for name in analysed), default=0)

    def outdate_analyses(self, since: int) -> None:
        """Mark the analyses of super-batch `since` and all later ones as missing."""
        for super_batch in range(since, self.analysed()):
            remove(self.analysis(super_batch) / _WRITTEN_LAST)
            remove(self.exec_batch(super_batch) / SUCCESS)

    def name(self, batch: Path) -> str:
        """Return a batch's name, as it is in a trial's attribute `batch`."""
        return batch.relative_to(self.root).as_posix()

    def next_batch(self, super_batch: int, named: Collection[str]) -> Path:
        """Return the first free `samples/batch_NNNNN` of a super-batch, after all that exist or are `named`. It is not made.

        Raises FileNotFoundError if the study was moved or removed: writing would make its directory again.
        """
        refuse_moved(self.root)
        return next_batch(self.exec_batch(super_batch) / "samples", [self.root / name for name in named])

    def complete_batches(self) -> list[Path]:
        """Return every batch of the search whose files are all on disk, in order."""
        return [batch for samples in self._samples() for batch in complete_batches(samples)]

    def ended(self) -> int:
        """Return how many trials have ended, by the files of complete batches."""
        return _trials_in(self.complete_batches())

    def confirmed(self) -> int:
        """Return how many trials of the confirmation have ended."""
        return _trials_in(complete_batches(self.confirmation))

    def discard_incomplete(self, named: Collection[str]) -> None:
        """Remove temporary files and incomplete batches that a killed process left. The trials of those batches are run again.

        named: batches that the database has. They were complete once, so they stay.
        """
        for path in (path for folder in (*self._samples(), self.confirmation) for path in _batches(folder)):
            if not _is_complete(path) and self.name(path) not in named:
                log.info("%s was not complete; its trials are run again.", path)
                shutil.rmtree(path)
        for path in self.root.rglob(".*.tmp*"):
            if TEMPORARY.fullmatch(path.name):
                remove(path)

    def links(self) -> Iterator[Path]:
        """Yield the study's own directories that are links, without looking into the directories of a task's trials."""
        for directory, below, _ in os.walk(self.root):
            inside = os.path.relpath(directory, self.root)
            names = {name: os.path.normpath(os.path.join(inside, name)) for name in below}
            yield from (
                self.root / path
                for name, path in names.items()
                if os.path.islink(os.path.join(directory, name)) and _is_own_directory(path)
            )
            if os.path.basename(inside) == OWN_FILES:
                below.clear()

    def own(self, directory: Path, plots: Collection[str]) -> tuple[list[Path], list[Path]]:
        """Return the files and the directories that Hyperlax wrote in one of the study's own directories.

        A link counts as a file, and so does a temporary file that a killed process left. plots: the names of the plots' pages.
        """
        inside = "" if directory == self.root else directory.relative_to(self.root).as_posix()
        names = next(names for pattern, names in _OWN.items() if re.fullmatch(pattern, inside))
        files, directories = [], []
        for path in sorted(directory.iterdir()):
            is_own = _is_own_directory(path.relative_to(self.root).as_posix())
            if path.is_dir() and not path.is_symlink():
                directories += [path] if is_own else []
            elif (
                re.fullmatch(rf"{names}|{TEMPORARY.pattern}", path.name)
                or (is_own and path.is_symlink())
                or (path.name in plots and directory.name in (PLOTS_DIRECTORY, _ANALYSIS))
            ):
                files.append(path)
        return files, directories

    def _exec_batches(self) -> list[Path]:
        """Return the directories of super-batches, in order."""
        return sorted(path for path in self.root.glob("optuna_exec_batch_*") if _EXEC_BATCH.fullmatch(path.name))

    def _samples(self) -> list[Path]:
        """Return the directories that hold the batches of super-batches, in order."""
        return [path / "samples" for path in self._exec_batches()]


def _trials_in(batches: Iterable[Path]) -> int:
    return len({row["trial"] for batch in batches for row in read_csv(batch / SUMMARY_CSV)})


def complete_batches(folder: Path) -> list[Path]:
    """Return the batches in a directory whose files are all on disk, in order."""
    return [path for path in _batches(folder) if _is_complete(path)]


def next_batch(folder: Path, named: Collection[Path] = ()) -> Path:
    """Return the first free `batch_NNNNN` in a directory, after all that exist or are `named`. It is not made."""
    taken = [*_batches(folder), *(path for path in named if path.parent == folder)]
    numbers = [int(path.name.removeprefix("batch_")) for path in taken]
    return folder / f"batch_{max(numbers, default=-1) + 1:05d}"


def _batches(folder: Path) -> list[Path]:
    """Return the batches in a directory by name, without other files that a user keeps there."""
    return sorted(path for path in folder.glob("batch_*") if _BATCH.fullmatch(path.name))


def _is_complete(batch: Path) -> bool:
    return (batch / SUCCESS).exists()


def _is_own_directory(name: str) -> bool:
    """Return whether Hyperlax makes a directory of this name, a path relative to the study's directory."""
    return any(re.fullmatch(pattern, name) for pattern in _OWN if pattern)


def study_directory(
    options: SearchOptions | PbtOptions, recipe: Recipe, planned: Mapping[Path, str] | None = None
) -> StudyDirectory:
    """Return the directory of the study of this name, existing or not.

    It is `<output root>/<recipe>/<environment>`, or `<environment>@<study name>` beside that if another study is there. A task has
    no environment: its study is in `<output root>/<recipe>`.

    planned: the names of studies that do not exist yet, by their directories.
    """
    first = place_of(options, recipe)
    named = first.with_name(f"{first.name}@{options.study_name.replace('/', '_')}")
    holder = (planned or {}).get(first) or _name_of(first)
    is_own = holder in (None, options.study_name) and (is_too_long(named) or not StudyDirectory(named).holds_a_study())
    found = first if is_own else named
    if is_too_long(found):
        problem = "{study_name}: the directory {0} is longer than the system allows. Choose a shorter name."
        raise OptionError("study_name", problem, found)
    return StudyDirectory(found)


def _name_of(root: Path) -> str | None:
    """Return the name of the study in a directory; None if there is none, or it cannot be read."""
    try:
        return read_stored(root, "").study_name
    except UsageError:
        return None


def check_writable(directory: StudyDirectory) -> None:
    """Raise UsageError, before anything runs, if the directory or the database of a study may not be written.

    Nor may one of its directories be a link: what is written or removed there would be somewhere else.
    """
    for path in directory.links():
        raise UsageError(
            f"{path}: is a link, which a study does not write through. Replace it by the directory, or remove it."
        )
    with refusing_forbidden(directory.root), tempfile.TemporaryFile(dir=directory.root):
        pass
    database_file.check_writable(directory.database)


def make_directory(path: Path) -> None:
    """Make a directory for results. Raises UsageError if the system refuses it there, OSError if the disk is full."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        problem = "{output_root}: {0} cannot be made ({1}). Choose another directory."
        raise OptionError("output_root", problem, path, error.strerror) from error
