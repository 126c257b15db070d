"""The commands that look at studies, keep them in order, or play their agents, each with its options.

Only what `--help` needs is imported at the top, see `hyperlax.cli.commands`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hyperlax.config.option import POSITIONAL, By, Given, Metavar, OneOf, Range, completed
from hyperlax.config.options import COUNT, LARGEST, TrialNumber
from hyperlax.errors import UsageError

CLEAR = "\x1b[H\x1b[2J"
"""To an empty terminal, from its upper left corner."""
OF_MLFLOW = ("mlartifacts", "mlruns")
"""Directories in which MLflow keeps copies of a study's files."""


Directory = Annotated[str, "The study's directory.", POSITIONAL, Metavar("DIR")]
Top = Annotated[int, "How many of the best are shown.", Range(1)]


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the studies below a directory: how far each is, and its best."""

    root: Annotated[str, "Where to look.", POSITIONAL, Metavar("ROOT")] = "my_optuna_studies"


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Show a study's best trials with their learning curves, or all about one trial."""

    directory: Directory
    trial: Annotated[int | None, "Its number.", POSITIONAL, Metavar("TRIAL"), By("the best ones")] = None
    top: Top = 10


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Follow a study that another process runs, until that ends."""

    directory: Directory
    top: Top = 10
    seconds: Annotated[float, "Seconds between two looks.", Range(0.1, 3600), Metavar("SECONDS")] = 2.0


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write a study's report and plots again, as of now; also of one that runs, or that another machine made."""

    directory: Directory


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Put studies side by side on one page: their best, confirmed on new seeds where that is known, and their curves."""

    directories: Annotated[tuple[str, ...], "The studies' directories.", POSITIONAL, Metavar("DIR DIR [DIR ...]")]
    output: Annotated[str, "The page.", Metavar("FILE")] = "comparison.html"
    force: Annotated[bool, "Replace FILE.", By("it must not exist")] = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a study's trials for another program to read."""

    directory: Directory
    format: Annotated[str, "The file's format.", OneOf(("csv", "json", "parquet", "optuna-journal"))] = "csv"
    output: Annotated[
        str | None,
        "The file; it must not exist.",
        Metavar("FILE"),
        By("<study name>.<format> in the working directory"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """Delete a study: what Hyperlax wrote into its directory, and nothing else."""

    directory: Directory
    yes: Annotated[bool, "Do not ask.", By("it asks")] = False


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """Serve optuna-dashboard on a study's database, for a browser; also while the study runs."""

    directory: Directory
    host: Annotated[str, "The address that it listens at.", Metavar("HOST"), By("127.0.0.1, this machine alone")] = (
        "127.0.0.1"
    )
    port: Annotated[int, "The port; 0 takes a free one.", Range(0, 65535)] = 8080


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """Build the damaged or lost database of a study again, from its backup and the batches on disk."""

    directory: Directory


@dataclass(frozen=True, kw_only=True)
class InvalidateOptions:
    """Take trials out of a study's ranking, keeping their record, and choose the best again."""

    directory: Directory
    trials: Annotated[tuple[int, ...], "Numbers of COMPLETE trials.", POSITIONAL, Metavar("TRIAL [TRIAL ...]")]
    reason: Annotated[str | None, "Why; kept with each of them.", By("the reason is just `invalidated`")] = None


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Watch a trained agent: its return over new episodes, and one of them as an animated GIF."""

    path: Annotated[
        str,
        "The directory of a study or of a single run, or an agent's .safetensors file.",
        POSITIONAL,
        Metavar("PATH"),
    ]
    trial: Annotated[TrialNumber, "Of a study, another of its trials.", By("the best")] = None
    training_seed: Annotated[int | None, "Which of the trial's seeds.", By("the one with the best return")] = None
    episodes: Annotated[int, "How many it plays.", COUNT] = 100
    seed: Annotated[int, "The episodes' beginnings follow from it.", Range(0, LARGEST)] = 0
    gif: Annotated[
        str | None,
        "The film; gymnax's classic-control environments can be drawn.",
        Metavar("FILE"),
        By("<agent>.gif beside the agent, if one can be made"),
    ] = None
    no_gif: Annotated[bool, "Make no film.", By("one if it can be made")] = False


def list_studies(given: Given) -> int:
    """A line a study below a directory. 1 if one of them cannot be read, which is said; the others are listed."""
    from hyperlax.analysis.terminal import aligned, best_in_words, counts
    from hyperlax.study.opened import open_study

    options = completed(ListOptions, given)
    root = _root_of_studies(options.root)
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


def show(given: Given) -> int:
    """A study, or one of its trials."""
    from hyperlax.analysis.terminal import study_text, trial_text
    from hyperlax.config.stored import named_directory
    from hyperlax.study.opened import open_study

    options = completed(ShowOptions, given)
    opened = open_study(named_directory(options.directory, "show"), "show")
    record = opened.record
    if options.trial is None:
        print(study_text(record, opened.state, opened.total, options.top))
        return 0
    trials = {trial.number: trial for trial in record.trials}
    if options.trial not in trials:
        there = f"0 to {max(trials)}" if trials else "none yet"
        raise UsageError(f"show {options.directory} {options.trial}: there is no such trial. Its trials are {there}.")
    print(trial_text(record, trials[options.trial]))
    return 0


def watch(given: Given) -> int:
    """What `show` says of a study, again and again on a terminal, else a line where something changed; until nobody runs it."""
    from hyperlax.analysis.terminal import best_in_words, counts, study_text
    from hyperlax.config.stored import named_directory
    from hyperlax.study.opened import open_study

    options = completed(WatchOptions, given)
    directory, said = named_directory(options.directory, "watch"), ""
    while True:
        opened = open_study(directory, "watch")
        if sys.stdout.isatty():
            text = study_text(opened.record, opened.state, opened.total, options.top)
            print(f"{CLEAR}{text}", flush=True)
        else:
            line = f"{counts(opened.record, opened.total)}  best: {best_in_words(opened.record)}  {opened.state}"
            if line != said:
                print(line, flush=True)
            said = line
        if not opened.is_running:
            return 0
        time.sleep(options.seconds)


def report(given: Given) -> int:
    """The pages at the study's root."""
    from hyperlax.analysis import write_study_pages
    from hyperlax.config.stored import named_directory
    from hyperlax.study.directory import StudyDirectory, check_writable
    from hyperlax.study.opened import open_study, with_confirmation
    from hyperlax.study.refusals import ending_on_refusal, run_again

    options = completed(ReportOptions, given)
    directory = StudyDirectory(named_directory(options.directory, "report"))
    with ending_on_refusal(directory.database, run_again):
        opened = open_study(directory.root, "report", with_importances=True)
        check_writable(directory)
        write_study_pages(with_confirmation(opened.record))
    print(f"Report: {directory.report}")
    return 0


def compare(given: Given) -> int:
    """A page about several studies."""
    from hyperlax.analysis.comparison import Compared, comparison, names_of
    from hyperlax.config.stored import named_directory
    from hyperlax.files import new_file, write_text
    from hyperlax.study.opened import open_study, with_confirmation
    from hyperlax.study.refusals import writing

    options = completed(CompareOptions, given)
    directories = [named_directory(directory, "compare") for directory in options.directories]
    _check_different(options.directories)
    with writing(Path(options.output)):
        path = new_file(options.output, replaces=options.force)
    opened = [open_study(directory, "compare") for directory in directories]
    names = names_of(options.directories)
    studies = [
        Compared(name, with_confirmation(one.record), one.state) for name, one in zip(names, opened, strict=True)
    ]
    page = comparison(studies)
    with writing(path):
        write_text(path, page)
    print(f"Compared: {path}")
    return 0


def export(given: Given) -> int:
    """The trials in a file."""
    from hyperlax.analysis.export import default_path, write_export
    from hyperlax.config.stored import named_directory
    from hyperlax.files import new_file
    from hyperlax.study.opened import open_study
    from hyperlax.study.refusals import writing

    options = completed(ExportOptions, given)
    directory = named_directory(options.directory, "export")
    record = open_study(directory, "export").record
    name = default_path(record, options.format) if options.output is None else options.output
    path = Path(name)
    with writing(path):
        new_file(name)
        if options.format == "optuna-journal":
            from hyperlax.study.journal import write_journal

            write_journal(directory, path, record.study_name)
        else:
            write_export(record, options.format, path)
    print(f"Written: {path}")
    return 0


def delete(given: Given) -> int:
    """The files of a study."""
    from hyperlax.config.stored import named_directory
    from hyperlax.study.deletion import delete as remove

    options = completed(DeleteOptions, given)
    return remove(named_directory(options.directory, "delete"), options.yes)


def dashboard(given: Given) -> int:
    """A study in a browser, until Ctrl-C."""
    from hyperlax.config.stored import named_directory
    from hyperlax.study.dashboard import serve

    options = completed(DashboardOptions, given)
    return serve(named_directory(options.directory, "dashboard"), options.host, options.port)


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


def repair(given: Given) -> int:
    """Build a study's database again."""
    from hyperlax.config.stored import named_directory
    from hyperlax.studies import study_in
    from hyperlax.study.repair import repair as repair_study

    directory = named_directory(completed(RepairOptions, given).directory, "repair")
    options, recipe = study_in(directory, "repair")
    return repair_study(options, recipe, directory)


def invalidate(given: Given) -> int:
    """Take trials out of a study's ranking."""
    from hyperlax.config.stored import named_directory
    from hyperlax.studies import study_in
    from hyperlax.study.invalidate import invalidate as invalidate_trials

    options = completed(InvalidateOptions, given)
    directory = named_directory(options.directory, "invalidate")
    study, recipe = study_in(directory, "invalidate")
    return invalidate_trials(study, recipe, directory, options.trials, options.reason)


def play(given: Given) -> int:
    """Evaluate a trained agent, and film it."""
    from hyperlax.agent import load_agent
    from hyperlax.config.stored import named_directory
    from hyperlax.files import new_file
    from hyperlax.study.agents import environment_of, find_agent
    from hyperlax.study.refusals import ending_on_refusal, writing

    options = completed(PlayOptions, given)
    if options.gif is not None and options.no_gif:
        raise UsageError("--gif names a film, and --no-gif makes none. Leave one of them out.")
    where = named_directory(options.path, "play")
    path = find_agent(where, options.trial, "play")
    agent = load_agent(path, options.training_seed)
    name = environment_of(agent.about, where)
    wanted = path.with_name(path.name + ".gif") if options.gif is None else Path(options.gif)
    if options.gif is not None:
        with writing(wanted):
            new_file(options.gif, flag="--gif")
    from hyperlax.cli.playing import can_film, evaluate_agent, film
    from hyperlax.engine.device import prepare_jax
    from hyperlax.envs import make

    why = None if options.no_gif else can_film(name)
    if why and options.gif is not None:
        raise UsageError(f"--gif {options.gif}: {why}.")
    prepare_jax(compilation_cache=True)
    environment = make(name)
    if environment.observation_size != agent.about["observation_size"]:
        raise UsageError(
            f"{name} shows {environment.observation_size} numbers, and the agent in {path} was trained to see "
            f"{agent.about['observation_size']}. It cannot play there."
        )
    found = evaluate_agent(agent, environment, options.episodes, options.seed)
    trial = agent.about["trial"]
    print(
        f"{name}, trial {trial}, training seed {agent.seed}: mean return {found.mean:.6g} over {options.episodes} episodes "
        f"(from {found.min:.6g} to {found.max:.6g}, standard deviation {found.std:.3g}), {found.length:.6g} steps on average."
    )
    if why:
        print(f"No film: {why}.")
    elif not options.no_gif:
        elsewhere = "Name another file with --gif, or make no film with --no-gif."
        with ending_on_refusal(wanted, lambda refusal: elsewhere):
            steps, total = film(agent, environment, options.seed, wanted)
        print(f"Film: {wanted}, one episode of {steps} steps, return {total:.6g}.")
    return 0
