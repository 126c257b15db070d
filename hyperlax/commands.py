"""The commands of `hyperlax`: parse, check, call one function.

Only what `--help` needs is imported here, so that it answers at once and starts no accelerator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.command_parts import log_from, recipe_name
from hyperlax.errors import UsageError
from hyperlax.flags import InvalidateFlags, RepairFlags, SearchFlags
from hyperlax.looking_commands import compare, dashboard, delete, export, list_studies, report, show, watch
from hyperlax.looking_flags import (
    CompareFlags,
    CompletionFlags,
    DashboardFlags,
    DeleteFlags,
    ExportFlags,
    ListFlags,
    ReportFlags,
    ShowFlags,
    WatchFlags,
)
from hyperlax.parsing import parse
from hyperlax.pbt_commands import pbt, pbt_replay
from hyperlax.pbt_flags import PopulationFlags, ReplayFlags
from hyperlax.run_study_flags import RunStudyFlags
from hyperlax.single_commands import play, run_single_hp, train
from hyperlax.single_flags import PlayFlags, SingleFlags, TrainFlags
from hyperlax.sweep_flags import GenerateFlags, SweepFlags

if TYPE_CHECKING:
    from hyperlax.arguments import StudyArguments
    from hyperlax.recipe import Recipe


def obey(words: Sequence[str]) -> int:
    """Do what the words of a command line ask for; without the program's name. Returns the exit status."""
    flags = parse(_kinds(), words)
    run = next(run for kind, run in COMMANDS.values() if type(flags) is kind)
    if not getattr(flags, "json", False):
        return run(flags)
    from hyperlax.study.shown import lines_apart

    with lines_apart():
        return run(flags)


def optuna_hp_search(flags: SearchFlags) -> int:
    """Start a study, or go on with the one of --resume-from."""
    return search(flags)[0]


def search(flags: SearchFlags) -> tuple[int, Path]:
    """The exit status of `optuna-hp-search` and the directory of its study."""
    from hyperlax.acting import check_acts
    from hyperlax.arguments import resolve
    from hyperlax.recipe import load
    from hyperlax.resumed_arguments import (
        SEARCH,
        check_command,
        load_recipe_of,
        named_directory,
        read_stored,
        resolve_resumed,
    )

    _check_output(flags)
    if flags.retry_failed and (flags.resume_from is None or flags.plan_only):
        raise UsageError("--retry-failed goes on with a study: give --resume-from DIR, and not --plan-only.")
    if flags.resume_from is None:
        directory = None
        recipe = load(recipe_name(flags))
        arguments = resolve(flags, recipe)
    else:
        directory = named_directory(flags.resume_from, "--resume-from")
        stored = read_stored(directory, "--resume-from")
        check_command(directory, stored, SEARCH)
        recipe = load_recipe_of(directory, stored)
        arguments = resolve_resumed(flags, stored, recipe)
    _check_searched(recipe)
    check_acts(recipe, arguments.env_config)
    log_from(arguments.log_level, flags.quiet)
    from hyperlax.study.directory import study_directory

    where = directory or study_directory(arguments, recipe).root
    if flags.plan_only:
        from hyperlax.study.run import print_plan

        return print_plan(arguments, recipe, directory), where
    return _run(flags, arguments, recipe, directory), where


def run_study_files(flags: RunStudyFlags) -> int:
    """Run the studies of files, or print their plans, one after another."""
    from hyperlax.planned_studies import PlannedStudy, in_turn, planned_studies

    _check_output(flags)

    def run(study: PlannedStudy) -> int:
        log_from(study.arguments.log_level, flags.quiet)
        if not flags.plan_only:
            return _run(flags, study.arguments, study.recipe, None)
        from hyperlax.study.run import print_plan

        return print_plan(study.arguments, study.recipe, None)

    return in_turn(planned_studies(flags.files, flags.search), run, sys.stderr if flags.json else sys.stdout)


def generate_hp_samples(flags: GenerateFlags) -> int:
    """Draw configurations into a file."""
    from hyperlax.recipe import load
    from hyperlax.sweep_arguments import resolve_generate

    recipe = load(recipe_name(flags))
    arguments = resolve_generate(flags, recipe)
    _check_searched(recipe)
    from hyperlax import samples
    from hyperlax.samplers.fixed import draw
    from hyperlax.study.refusals import writing

    drawn = draw(recipe, arguments.sampling_method, arguments.num_samples, arguments.seed)
    with writing(arguments.output):
        samples.write(arguments.output, drawn)
    print(f"{len(drawn)} configurations of {recipe.name} ({arguments.sampling_method}): {arguments.output}")
    return 0


def sweep_hp_samples(flags: SweepFlags) -> int:
    """Start a sweep, or go on with the one of --resume-from."""
    from hyperlax.acting import check_acts

    if flags.retry_failed and flags.resume_from is None:
        raise UsageError("--retry-failed goes on with a sweep: give --resume-from DIR.")
    directory = None
    if flags.resume_from is None:
        arguments, recipe = _new_sweep(flags)
    else:
        from hyperlax.resumed_arguments import SWEEP, check_command, named_directory, read_stored
        from hyperlax.sweep_arguments import resolve_resumed_sweep

        directory = named_directory(flags.resume_from, "--resume-from")
        check_command(directory, read_stored(directory, "--resume-from"), SWEEP)
        stored, recipe = _study_in(directory, "--resume-from")
        arguments = resolve_resumed_sweep(flags, stored, recipe)
    check_acts(recipe, arguments.env_config)
    log_from(arguments.log_level, flags.quiet)
    return _run(flags, arguments, recipe, directory)


def repair(flags: RepairFlags) -> int:
    """Build a study's database again."""
    from hyperlax.resumed_arguments import named_directory

    directory = named_directory(flags.directory, "repair")
    arguments, recipe = _study_in(directory, "repair")
    from hyperlax.study.maintenance import repair as repair_study

    return repair_study(arguments, recipe, directory)


def invalidate(flags: InvalidateFlags) -> int:
    """Take trials out of a study's ranking."""
    from hyperlax.resumed_arguments import named_directory

    directory = named_directory(flags.directory, "invalidate")
    arguments, recipe = _study_in(directory, "invalidate")
    from hyperlax.analysis.pages import write_pages
    from hyperlax.study.maintenance import invalidate as invalidate_trials

    return invalidate_trials(arguments, recipe, directory, flags.trials, flags.reason, write_pages)


def completion(flags: CompletionFlags) -> int:
    """What a shell sources."""
    from hyperlax.completion import shell_script

    print(shell_script(_kinds(), flags.shell))
    return 0


COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "optuna-hp-search": (SearchFlags, optuna_hp_search),
    "run-study": (RunStudyFlags, run_study_files),
    "run-single-hp": (SingleFlags, run_single_hp),
    "train": (TrainFlags, train),
    "play": (PlayFlags, play),
    "generate-hp-samples": (GenerateFlags, generate_hp_samples),
    "sweep-hp-samples": (SweepFlags, sweep_hp_samples),
    "pbt": (PopulationFlags, pbt),
    "pbt-replay": (ReplayFlags, pbt_replay),
    "repair": (RepairFlags, repair),
    "invalidate": (InvalidateFlags, invalidate),
    "list": (ListFlags, list_studies),
    "show": (ShowFlags, show),
    "watch": (WatchFlags, watch),
    "report": (ReportFlags, report),
    "compare": (CompareFlags, compare),
    "export": (ExportFlags, export),
    "delete": (DeleteFlags, delete),
    "dashboard": (DashboardFlags, dashboard),
    "completion": (CompletionFlags, completion),
}

STUDIES = ("optuna-hp-search", "run-study", "sweep-hp-samples", "pbt")
"""The commands whose work is a study on disk; what they print is about it."""


def _kinds() -> dict[str, type]:
    return {name: kind for name, (kind, _) in COMMANDS.items()}


def _new_sweep(flags: SweepFlags) -> tuple[StudyArguments, Recipe]:
    """The arguments of a new sweep, and its recipe with the configurations to train."""
    from hyperlax import samples
    from hyperlax.recipe import load
    from hyperlax.sweep_arguments import check_source, resolve_sweep

    check_source(flags)
    recipe = load(recipe_name(flags))
    loaded = ()
    if flags.load_hyperparams is not None:
        loaded = samples.read(Path(flags.load_hyperparams), recipe.config.algorithm)
    arguments = resolve_sweep(flags, recipe, len(loaded))
    if not loaded:
        _check_searched(recipe)
    from hyperlax.samplers.fixed import draw, presampled

    found = loaded or draw(recipe, arguments.sampling_method or "", arguments.n_trials, arguments.seed)
    return arguments, presampled(recipe, found, flags.load_hyperparams or str(recipe.path))


def _study_in(directory: Path, asked_by: str) -> tuple[StudyArguments, Recipe]:
    """The arguments of the study in a directory and its recipe, that of a sweep with its samples."""
    from hyperlax.resumed_arguments import load_recipe_of, read_stored

    arguments = read_stored(directory, asked_by)
    recipe = load_recipe_of(directory, arguments)
    if not arguments.is_sweep:
        return arguments, recipe
    from hyperlax.samplers.fixed import stored
    from hyperlax.study.directory import SAMPLES

    return arguments, stored(recipe, directory / SAMPLES)


def _run(flags: SearchFlags | SweepFlags, arguments: StudyArguments, recipe: Recipe, directory: Path | None) -> int:
    """A study to its end, shown as the flags say; `directory` of one that goes on. Returns the exit status."""
    from hyperlax.analysis.pages import write_pages
    from hyperlax.study.directory import study_directory
    from hyperlax.study.observer import Pages
    from hyperlax.study.progress import Progress, ProgressLine
    from hyperlax.study.run import run_study
    from hyperlax.study.shown import Silent, in_json
    from hyperlax.study.stopping import Stop
    from hyperlax.study.tracking import Tracking
    from hyperlax.tracking import tracker_of

    where = directory or study_directory(arguments, recipe).root
    tracker = tracker_of(flags, arguments.study_name, where, is_new=directory is None)

    stop = Stop()

    def run(show: Callable[..., Progress]) -> int:
        tracking = Tracking(tracker, where, stop)
        observers = [ProgressLine(show), Pages(tracking.after(write_pages)), tracking]
        return run_study(arguments, recipe, directory, observers=observers, retry_failed=flags.retry_failed, stop=stop)

    if flags.json:
        return in_json(run, where)
    return run(Silent if flags.quiet else Progress)


def _check_output(flags: SearchFlags) -> None:
    if flags.json and flags.plan_only:
        raise UsageError("--json follows a search, and --plan-only runs none. Leave one of them out.")


def _check_searched(recipe: Recipe) -> None:
    """Refuse a recipe of which nothing is to be drawn."""
    if not recipe.space:
        raise UsageError(
            f"{recipe.path}: get_base_hyperparam_distributions() is empty, there is nothing to search. "
            "Add an entry, or train its defaults with run-single-hp."
        )
