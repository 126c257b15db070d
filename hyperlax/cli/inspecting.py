"""The commands that look at studies, each with its options. Only what `--help` needs is imported at the top."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hyperlax.config.option import POSITIONAL, By, Metavar, Range
from hyperlax.errors import OptionError, UsageError
from hyperlax.printable import unescaped

CLEAR = "\x1b[H\x1b[2J"
"""Control codes that clear the terminal and move to its upper left corner."""
_OF_MLFLOW = ("mlartifacts", "mlruns")
"""Directories in which MLflow keeps copies of a study's files."""


Directory = Annotated[str, "The study's directory.", POSITIONAL, Metavar("DIR")]
_Top = Annotated[int, "Number of best trials to show.", Range(1)]


@dataclass(frozen=True, kw_only=True)
class _ListOptions:
    """List the studies below a directory with their progress and best trial."""

    root: Annotated[str, "The directory.", POSITIONAL, Metavar("[ROOT]")] = "my_optuna_studies"


@dataclass(frozen=True, kw_only=True)
class _ShowOptions:
    """Show a study's best trials with their learning curves, or one trial in full."""

    directory: Directory
    trial: Annotated[int | None, "Number of one trial.", POSITIONAL, Metavar("[TRIAL]"), By("the best ones")] = None
    top: _Top = 10


@dataclass(frozen=True, kw_only=True)
class _WatchOptions:
    """Follow a running study until it ends."""

    directory: Directory
    top: _Top = 10
    seconds: Annotated[float, "Seconds between refreshes.", Range(0.1, 3600), Metavar("SECONDS")] = 2.0


@dataclass(frozen=True, kw_only=True)
class _ReportOptions:
    """Rewrite a study's report and plots, also while the study runs."""

    directory: Directory


@dataclass(frozen=True, kw_only=True)
class _CompareOptions:
    """Compare studies on one page: their best trials, progress and learning curves."""

    directories: Annotated[tuple[str, ...], "The studies' directories.", POSITIONAL, Metavar("DIR DIR [DIR ...]")]
    output: Annotated[str, "The HTML page to write; - is standard output.", Metavar("FILE")] = "comparison.html"
    force: Annotated[bool, "Replace FILE.", By("it must not exist")] = False


@dataclass(frozen=True, kw_only=True)
class _DashboardOptions:
    """Open a study in optuna-dashboard, also while the study runs."""

    directory: Directory
    host: Annotated[str, "Address to listen on.", Metavar("HOST"), By("127.0.0.1, this machine only")] = "127.0.0.1"
    port: Annotated[int, "Port to listen on; 0 picks a free one.", Range(0, 65535)] = 8080


def list_studies(options: _ListOptions) -> int:
    """List studies, a line each. Return 1 if one of them cannot be read; the others are still listed."""
    from hyperlax.analysis.terminal import aligned, best_in_words, counts
    from hyperlax.study.view import load_study

    root = _root_of_studies(options.root)
    rows, damaged = [], []
    for manifest in sorted(_manifests(root)):
        try:
            opened = load_study(manifest.parent, "list")
        except UsageError as error:
            damaged.append(f"hyperlax: {error}")
            continue
        record = opened.record
        where = str(manifest.parent.relative_to(root))
        rows.append([where, opened.state, counts(record, record.total, is_cell=True), best_in_words(record)])
    if rows:
        print(aligned(["study", "state", "trials", "best"], rows))
    elif not damaged:
        print(f"No study below {root}.")
    for line in damaged:
        print(line, file=sys.stderr)
    return 1 if damaged else 0


def _root_of_studies(given: str) -> Path:
    """Return the directory as typed. Raise UsageError if it is not one. (`Path` takes an empty name for the working directory.)"""
    from hyperlax.files import is_too_long

    root = Path(given)
    is_long = is_too_long(root)
    if given.strip() and not is_long and root.is_dir():
        return root
    found = "is longer than the system allows" if is_long else "is not a directory"
    problem = "list {0}: {1}. Give the {output_root} of studies."
    raise OptionError("output_root", problem, given if given.strip() else repr(given), found)


def _manifests(root: Path) -> Iterator[Path]:
    """Yield every study.json below a directory, except MLflow's copies and those in hidden directories."""
    from hyperlax.config.stored import MANIFEST

    for directory, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _OF_MLFLOW and not name.startswith(".")]
        if MANIFEST in files:
            yield Path(directory) / MANIFEST


def show(options: _ShowOptions) -> int:
    """Print a study, or one of its trials."""
    from hyperlax.analysis.terminal import study_text, trial_text
    from hyperlax.config.stored import named_directory
    from hyperlax.study.view import load_study

    opened = load_study(named_directory(options.directory, "show"), "show")
    record = opened.record
    if options.trial is None:
        print(study_text(record, opened.state, record.total, options.top, opened.agents))
        return 0
    print(trial_text(record, record.trial(options.trial)))
    return 0


def watch(options: _WatchOptions) -> int:
    """Repeat the output of `show` on a terminal, or else print a line per change, until no process runs the study."""
    from hyperlax.analysis.terminal import best_in_words, counts, study_text
    from hyperlax.config.stored import named_directory
    from hyperlax.study.view import load_study

    directory, said = named_directory(options.directory, "watch"), ""
    while True:
        opened = load_study(directory, "watch")
        if sys.stdout.isatty():
            text = study_text(opened.record, opened.state, opened.record.total, options.top, opened.agents)
            print(CLEAR, end="", file=unescaped(sys.stdout))
            print(text, flush=True)
        else:
            line = f"{counts(opened.record, opened.record.total)}  best: {best_in_words(opened.record)}  {opened.state}"
            if line != said:
                print(line, flush=True)
            said = line
        if not opened.is_running:
            return 0
        time.sleep(options.seconds)


def report(options: _ReportOptions) -> int:
    """Write the pages at the study's root."""
    from hyperlax.analysis.pages import write_study_pages
    from hyperlax.config.stored import named_directory
    from hyperlax.study.directory import StudyDirectory, check_writable
    from hyperlax.study.io_errors import ending_on_io_error
    from hyperlax.study.view import load_study, with_confirmation

    directory = StudyDirectory(named_directory(options.directory, "report"))
    with ending_on_io_error(directory.database):
        opened = load_study(directory.root, "report")
        check_writable(directory)
        write_study_pages(with_confirmation(opened.record))
    print(f"Report: {directory.report}")
    return 0


def compare(options: _CompareOptions) -> int:
    """Write a page about several studies."""
    from hyperlax.analysis.comparison import Compared, comparison, names_of
    from hyperlax.config.stored import named_directory
    from hyperlax.files import STDOUT, new_file, printed_if_stdout, write_text
    from hyperlax.study.io_errors import writing
    from hyperlax.study.view import load_study, with_confirmation

    directories = [named_directory(directory, "compare") for directory in options.directories]
    _check_different(options.directories)
    with writing(Path(options.output)):
        path = new_file(options.output, replaces=options.force)
    opened = [load_study(directory, "compare") for directory in directories]
    names = names_of(options.directories)
    studies = [
        Compared(name, with_confirmation(one.record), one.state) for name, one in zip(names, opened, strict=True)
    ]
    page = comparison(studies)
    with writing(path), printed_if_stdout(path) as place:
        write_text(place, page)
    if path != STDOUT:
        print(f"Compared: {path}")
    return 0


def dashboard(options: _DashboardOptions) -> int:
    """Serve a study to a browser, until Ctrl-C."""
    from hyperlax.config.stored import named_directory
    from hyperlax.study.dashboard import serve

    return serve(named_directory(options.directory, "dashboard"), options.host, options.port)


def _check_different(directories: Sequence[str]) -> None:
    """Raise UsageError for fewer than two studies, and for one that is named twice, even by different paths."""
    first: dict[Path, str] = {}
    for directory in directories:
        first.setdefault(Path(directory).resolve(), directory)
    if len(first) < 2:
        raise UsageError("compare needs two different directories or more: hyperlax compare DIR DIR [DIR ...].")
    for directory in directories:
        if first.pop(Path(directory).resolve(), None) is None:
            raise UsageError(f"compare {directory}: this study is named more than once. Name each once.")
