"""The studies of files: all of them checked, then run one after another."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hyperlax.config.checks import check_space, checked
from hyperlax.config.kinds import kind_of
from hyperlax.config.option import HIDDEN, Given, exponent, flags_of, options_of
from hyperlax.config.options import RunStudyOptions, SearchOptions, SweepOptions
from hyperlax.config.settling import explicit, resumed, settled
from hyperlax.config.stored import read_stored
from hyperlax.errors import STOPPED, HyperlaxError, OptionError, OptionFailure, UsageError
from hyperlax.recipe import Recipe
from hyperlax.studies import PlannedStudy, check_flags, load_recipe, log_from, new_sweep
from hyperlax.study.reporters import safe

if TYPE_CHECKING:
    from hyperlax.config.study_file import StudyFile
    from hyperlax.study.directory import StudyDirectory


def run_files(files: Sequence[str], given: Given) -> int:
    """Run the studies of files, or print their plans, one after another. Returns the worst exit status."""
    check_flags(given)
    if given.get("join"):
        return _lead_or_join(files, {name: value for name, value in given.items() if name != "join"})
    return _in_turn(planned_studies(files, given), sys.stderr if given.get("json") else sys.stdout)


def _lead_or_join(files: Sequence[str], given: Given) -> int:
    """Run the study of one file in agents, or train for the process that runs it. Returns the exit status."""
    from hyperlax.backends.local_agents import Share
    from hyperlax.study.joining import lead_or_join

    if len(files) != 1 or given.get("plan_only"):
        raise OptionError("join", "{join} runs the study of one file. Give one, without {plan_only}.")
    level = "WARNING" if given.get("quiet") else given.get("log_level", "INFO")
    log_from(level)

    def plan(takes_over: bool) -> tuple[Path, Callable[[], int]]:
        (study,) = planned_studies(files, given)
        study = replace(study, takes_over=takes_over)
        assert isinstance(study.options, SearchOptions)
        log_from(study.options.log_level, study.options.quiet)
        if study.options.engine == "ray":
            raise OptionError(
                "join", "{join} is for machines that see one directory, which {engine} ray does not need. Leave it out."
            )
        if study.options.agents == "none":
            study = replace(study, options=checked(replace(study.options, agents=1), kind_of(study.recipe).table))
        return study.directory, study.run

    devices, slots = ",".join(map(str, given.get("devices", ()))), given.get("slots")
    words = [*(("--devices", devices) if devices else ()), *(("--slots", str(slots)) if slots else ())]
    return lead_or_join(plan, Share(tuple(words)), level)


def planned_studies(files: Sequence[str], given: Given) -> list[PlannedStudy]:
    """Return the studies of files. Given options replace those of the files, `assignments` single values of them.

    A study that exists is resumed. Raises UsageError, naming file and line, for a study that cannot run, or exists with other
    options, and for two with the same directory.
    """
    if not files:
        raise UsageError("run-study needs files: hyperlax run-study FILE [FILE ...].")
    from hyperlax.config.study_file import read_study_file

    of_files = {name: given[name] for name in ("assignments", "space") if name in given}
    rest = {name: value for name, value in given.items() if name not in of_files}
    planned: dict[Path, PlannedStudy] = {}
    for path in files:
        names = {one.directory: one.options.study_name for one in planned.values()}
        file = read_study_file(path, given)
        own = {name: value for name, value in rest.items() if name != "preset"} if file.has_preset else rest
        study = _of_file(file, own, names)
        where = study.directory.resolve()
        if where in planned:
            raise UsageError(
                f"{path}: its study goes to {study.directory}, as that of {planned[where].file} does. "
                "Give one of them another output_root."
            )
        planned[where] = study
    return list(planned.values())


def _in_turn(studies: Sequence[PlannedStudy], stream: TextIO) -> int:
    """Run studies one after another, even if some fail, until one is interrupted. Returns the worst exit status.

    stream: gets the last line, which lists how several studies ended.
    """
    ended: dict[str, int] = {}
    stream = safe(stream)
    for number, study in enumerate(studies, start=1):
        if len(studies) > 1:
            print(f"Study {number} of {len(studies)}: {study.file}, in {study.directory}.", file=stream, flush=True)
        for sentence in filter(None, (study.note, study.existing)):
            print(f"{study.file}: {sentence}", file=stream, flush=True)
        ended[study.file] = _status(study)
        if ended[study.file] in STOPPED:
            break
    if len(studies) > 1:
        print(_summary([study.file for study in studies], ended), file=stream)
    return max(ended.values())


def _of_file(file: StudyFile, given: Given, planned: Mapping[Path, str]) -> PlannedStudy:
    """Return the study of a file, checked. planned: the names of the studies of the files before it, by directory."""
    from hyperlax.config.configurations import first_trials
    from hyperlax.study.directory import study_directory

    recipe, note = _recipe_of_file(file, given)
    if "sampling_method" in file.given:
        return _sensitivity_of_file(file, given, recipe)
    layers = [_whole_grid(file, given, recipe), file.given, given]
    if file.has_spaces and recipe.task is None and not {**file.given, **given}.get("env_config"):
        example = f"{flags_of(RunStudyOptions)('env_config')} gymnax.pendulum"
        raise UsageError(f"{file.path}: env_config is required, as a line of the file or as {example}.")
    with _told(file, given, "env_config"):
        options = checked(settled(SearchOptions, layers, recipe), kind_of(recipe).table)
        kind_of(recipe).check_options(options, recipe)
    with _told(file, given, ""):
        kind_of(recipe).check_study(options, recipe, None)
    with _told(file, given, "sampler"):
        check_space(options, recipe.space)
    with _told(file, given, "enqueue"):
        first_trials(options, recipe)
    with _told(file, given, "output_root"):
        directory = study_directory(options, recipe, planned)
        options, existing = _continued(directory, options, recipe, explicit(options, layers))
    refusal = partial(file.refusal, on_command_line=given, about="")
    return PlannedStudy(options, recipe, directory.root, not existing, file.path, refusal, existing, note)


def _recipe_of_file(file: StudyFile, given: Given) -> tuple[Recipe, str]:
    """Return the recipe of a file with the file's search space, or that of its command, and a sentence about its names."""
    from hyperlax.config.own_recipes import command_of, command_recipe
    from hyperlax.config.search_spaces import in_our_names
    from hyperlax.config.space_entries import searched
    from hyperlax.config.yaml_file import plain_value

    where = file.places.get("space", file.path)
    if not file.command:
        with _told(file, given, "algo_and_network_config"):
            recipe = load_recipe({**file.given, **given})
        space, note = in_our_names(file.space, recipe) if file.has_spaces else (file.space, "")
        return searched(space, file.params, recipe, where), note
    if "algo_and_network_config" in given:
        problem = "{algo_and_network_config} {0}: {1} trains a command. Leave the option out."
        raise OptionError("algo_and_network_config", problem, given["algo_and_network_config"], file.path)
    params = {name: exponent(plain_value(entry.value)) for name, entry in file.params.items()}
    words = file.command["command"]
    with _told(file, given, "command"):
        task = command_of({**file.command, "command": words[0] if len(words) == 1 else words})
    if not file.space:
        raise UsageError(f"{file.path}: space is missing. Write below it what is searched, an entry a line.")
    task.check_params({**params, **file.space}, file.places["command"])
    name = {"study_name": Path(file.path).stem, **file.given, **given}["study_name"]
    return command_recipe(task, name, params, file.space, where), ""


def _whole_grid(file: StudyFile, given: Given, recipe: Recipe) -> Given:
    """Return the number of trials of a sweep file whose algorithm is grid: all configurations, unless a number is given."""
    sizes = [distribution.size() for distribution in recipe.space.values()]
    if not file.is_sweep or {**file.given, **given}.get("sampler") != "grid" or None in sizes:
        return {}
    return {"n_trials": math.prod(size for size in sizes if size)}


def _sensitivity_of_file(file: StudyFile, given: Given, recipe: Recipe) -> PlannedStudy:
    """Return the study of a sweep file whose algorithm is sensitivity."""
    from hyperlax.study.directory import StudyDirectory

    every, known = {**file.given, **given}, options_of(SweepOptions)
    with _told(file, given, "sampling_method"):
        for name in every:
            if known[name].has(HIDDEN):
                problem = f"{{{name}}} does not go with algorithm: sensitivity. Leave one of the two out."
                raise OptionError(name, problem)
        study = new_sweep(every, recipe)
        assert isinstance(study.options, SearchOptions)
        options = study.options
        directory, own = StudyDirectory(study.directory), explicit(options, [file.given, given])
        options, existing = _continued(directory, options, study.recipe, own)
    refusal = partial(file.refusal, on_command_line=given, about="")
    return replace(study, options=options, is_new=not existing, file=file.path, refusal=refusal, existing=existing)


def _continued(
    directory: StudyDirectory, options: SearchOptions, recipe: Recipe, given: Given
) -> tuple[SearchOptions, str]:
    """Return the options with which the study of a file begins or continues, and a sentence about one that exists, else "".

    options: those of the file. Raises UsageError if another command began it, if the file gives other options or another space,
    or if another process runs it.
    """
    from hyperlax.samplers.distributions import SearchSpace
    from hyperlax.study.lock import refuse_running
    from hyperlax.study.manifest import check_recipe
    from hyperlax.study.projection import finished_trials
    from hyperlax.study.study_run import refuse_existing

    if not directory.manifest.exists():
        refuse_running(directory.root)
    if not directory.holds_a_study():
        return options, ""
    stored = read_stored(directory.root, "run-study")
    if type(stored) is not type(options):
        refuse_existing(directory)
    assert isinstance(stored, SearchOptions)
    options = checked(resumed(stored, given, recipe), kind_of(recipe).table)
    check_recipe(directory.manifest, recipe)
    refuse_running(directory.root)  # after what a process that joins has to know
    directory.check_database(options.study_name)
    finished = len(finished_trials(directory, options, SearchSpace(recipe.space)))
    if finished < options.n_trials:
        return options, f"the study in {directory.root} exists and is resumed."
    return replace(options, n_trials=finished), f"the study in {directory.root} is finished."


@contextmanager
def _told(file: StudyFile, given: Collection[str], about: str) -> Iterator[None]:
    """Let an OptionError of the block name the line of the file."""
    try:
        yield
    except UsageError as error:
        raise file.refusal(error, given, about) from error


def _status(study: PlannedStudy) -> int:
    """Return the exit status of a study. Prints the error of one that cannot be completed, so that the next one runs."""
    try:
        return study.run()
    except HyperlaxError as error:
        told = study.refusal(error) if study.refusal and isinstance(error, OptionFailure) else error
        place = f"{study.file}: " if told is error else ""
        print(f"hyperlax: {place}{told}", file=safe(sys.stderr))
        return error.exit_code


def _summary(files: Sequence[str], ended: dict[str, int]) -> str:
    """Return a sentence with the studies by how they ended.

    >>> _summary(["a.yaml", "b.yaml", "c.yaml"], {"a.yaml": 0, "b.yaml": 1, "c.yaml": 0})
    'Ended without an error: a.yaml, c.yaml. Failed: b.yaml.'
    """
    words = {
        "Ended without an error": [file for file, status in ended.items() if status == 0],
        "Failed": [file for file, status in ended.items() if status not in (0, *STOPPED)],
        "Interrupted": [file for file, status in ended.items() if status in STOPPED],
        "Not started": [file for file in files if file not in ended],
    }
    return " ".join(f"{how}: {', '.join(which)}." for how, which in words.items() if which)
