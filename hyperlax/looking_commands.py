"""The commands that look at studies. Only what `--help` needs is imported here, see `hyperlax.commands`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperlax.errors import UsageError
from hyperlax.looking_flags import (
    CompareFlags,
    DashboardFlags,
    DeleteFlags,
    ExportFlags,
    ListFlags,
    ReportFlags,
    ShowFlags,
    WatchFlags,
)

CLEAR = "\x1b[H\x1b[2J"
"""To an empty terminal, from its upper left corner."""


OF_MLFLOW = ("mlartifacts", "mlruns")
"""Directories in which MLflow keeps copies of a study's files."""


def list_studies(flags: ListFlags) -> int:
    """A line a study below a directory. 1 if one of them cannot be read, which is said; the others are listed."""
    from hyperlax.analysis.terminal import aligned, best_in_words, counts
    from hyperlax.study.opened import open_study

    root = _root_of_studies(flags.root)
    rows, damaged = [], []
    for manifest in sorted(_manifests(root)):
        try:
            opened = open_study(manifest.parent, "list")
        except UsageError as error:
            damaged.append(f"hyperlax: {error}")
            continue
        record = opened.record
        where = str(manifest.parent.relative_to(root))
        rows.append([where, opened.state, counts(record, opened.total).replace(" trials", ""), best_in_words(record)])
    if rows:
        print(aligned(["study", "state", "trials", "best"], rows))
    elif not damaged:
        print(f"No study below {root}.")
    for line in damaged:
        print(line, file=sys.stderr)
    return 1 if damaged else 0


def _root_of_studies(given: str) -> Path:
    """A directory, as typed. UsageError if it is none; `Path` takes an empty name for the working directory."""
    from hyperlax.files import is_too_long

    root, advice = Path(given), "Give the --output-root of studies."
    if not given.strip():
        raise UsageError(f"list {given!r}: is not a directory. {advice}")
    if is_too_long(root):
        raise UsageError(f"list {given}: is longer than the system takes. {advice}")
    if not root.is_dir():
        raise UsageError(f"list {given}: is not a directory. {advice}")
    return root


def _manifests(root: Path) -> Iterator[Path]:
    """Every study.json below a directory, but not the copies that MLflow keeps, nor what is hidden."""
    for directory, below, files in os.walk(root):
        below[:] = [name for name in below if name not in OF_MLFLOW and not name.startswith(".")]
        if "study.json" in files:
            yield Path(directory) / "study.json"


def show(flags: ShowFlags) -> int:
    """A study, or one of its trials."""
    from hyperlax.analysis.terminal import study_text, trial_text
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.opened import open_study

    _check_top(flags.top)
    opened = open_study(named_directory(flags.directory, "show"), "show")
    record = opened.record
    if flags.trial is None:
        print(study_text(record, opened.state, opened.total, flags.top))
        return 0
    trials = {trial.number: trial for trial in record.trials}
    if flags.trial not in trials:
        there = f"0 to {max(trials)}" if trials else "none yet"
        raise UsageError(f"show {flags.directory} {flags.trial}: there is no such trial. Its trials are {there}.")
    print(trial_text(record, trials[flags.trial]))
    return 0


def watch(flags: WatchFlags) -> int:
    """What `show` says of a study, again and again on a terminal, else a line where something changed; until nobody runs it."""
    from hyperlax.analysis.terminal import best_in_words, counts, study_text
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.opened import open_study

    _check_top(flags.top)
    if not 0.1 <= flags.seconds <= 3600:
        raise UsageError(f"--seconds must be from 0.1 to 3600, got {flags.seconds:g}.")
    directory, said = named_directory(flags.directory, "watch"), ""
    while True:
        opened = open_study(directory, "watch")
        if sys.stdout.isatty():
            text = study_text(opened.record, opened.state, opened.total, flags.top)
            print(f"{CLEAR}{text}", flush=True)
        else:
            line = f"{counts(opened.record, opened.total)}  best: {best_in_words(opened.record)}  {opened.state}"
            if line != said:
                print(line, flush=True)
            said = line
        if not opened.is_running:
            return 0
        time.sleep(flags.seconds)


def report(flags: ReportFlags) -> int:
    """The pages at the study's root."""
    from hyperlax.analysis.pages import write_study_pages
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.directory import StudyDirectory, check_writable
    from hyperlax.study.opened import open_study, with_confirmation
    from hyperlax.study.refusals import ending_on_refusal, run_again

    directory = StudyDirectory(named_directory(flags.directory, "report"))
    with ending_on_refusal(directory.database, run_again):
        opened = open_study(directory.root, "report", with_importances=True)
        check_writable(directory)
        write_study_pages(with_confirmation(opened.record))
    print(f"Report: {directory.report}")
    return 0


def compare(flags: CompareFlags) -> int:
    """A page about several studies."""
    from hyperlax.analysis.comparison import Compared, comparison, names_of
    from hyperlax.files import new_file, write_text
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.opened import open_study, with_confirmation
    from hyperlax.study.refusals import writing

    directories = [named_directory(directory, "compare") for directory in flags.directories]
    _check_different(flags.directories)
    with writing(Path(flags.output)):
        path = new_file(flags.output, replaces=flags.force)
    opened = [open_study(directory, "compare") for directory in directories]
    names = names_of(flags.directories)
    studies = [
        Compared(name, with_confirmation(one.record), one.state) for name, one in zip(names, opened, strict=True)
    ]
    page = comparison(studies)
    with writing(path):
        write_text(path, page)
    print(f"Compared: {path}")
    return 0


def export(flags: ExportFlags) -> int:
    """The trials in a file."""
    from hyperlax.analysis.export import default_path, write_export
    from hyperlax.files import new_file
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.opened import open_study
    from hyperlax.study.refusals import writing

    directory = named_directory(flags.directory, "export")
    record = open_study(directory, "export").record
    given = default_path(record, flags.format) if flags.output is None else flags.output
    path = Path(given)
    with writing(path):
        new_file(given)
        if flags.format == "optuna-journal":
            from hyperlax.study.export import write_journal

            write_journal(directory, path, record.study_name)
        else:
            write_export(record, flags.format, path)
    print(f"Written: {path}")
    return 0


def delete(flags: DeleteFlags) -> int:
    """The files of a study."""
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.deletion import delete as remove

    return remove(named_directory(flags.directory, "delete"), flags.yes)


def dashboard(flags: DashboardFlags) -> int:
    """A study in a browser, until Ctrl-C."""
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.dashboard import serve

    return serve(named_directory(flags.directory, "dashboard"), flags.host, flags.port)


def _check_different(directories: Sequence[str]) -> None:
    """Refuse fewer than two studies, and one that is named twice, by whichever of its paths."""
    first: dict[Path, str] = {}
    for directory in directories:
        first.setdefault(Path(directory).resolve(), directory)
    if len(first) < 2:
        raise UsageError("compare needs two different directories or more: hyperlax compare DIR DIR [DIR ...].")
    for directory in directories:
        if first.pop(Path(directory).resolve(), None) is None:
            raise UsageError(f"compare {directory}: this study is named more than once. Name each once.")


def _check_top(top: int) -> None:
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}.")
