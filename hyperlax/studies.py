"""Studies from given options, for the command line and for Python: checked here, then run.

`given` holds the explicitly given options by name. The study, file or recipe settles the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hyperlax.config.checks import check_levels, check_searched, checked
from hyperlax.config.kinds import kind_of
from hyperlax.config.option import Given
from hyperlax.config.options import LEVELS, SENSITIVITY, PbtOptions, SearchOptions, SweepOptions
from hyperlax.config.settling import resumed, settled
from hyperlax.config.speech import resuming_with
from hyperlax.config.stored import (
    MANIFEST,
    RESUMED,
    SEARCH,
    SWEEP,
    check_command,
    named_directory,
    read_study,
)
from hyperlax.errors import STOPPED, HyperlaxError, OptionError, OptionFailure
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe, available, load
from hyperlax.xla import refuse_fork

if TYPE_CHECKING:
    from hyperlax.backends.base import EngineConfig
    from hyperlax.config.yaml_file import Entry


@dataclass(frozen=True)
class PlannedStudy:
    """A study that can start or continue.

    directory: its directory, existing or not. file: its YAML, empty without one. refusal: returns an error about an option with
    its line in the file. existing: a sentence about the study of a file that exists, else empty. note: one about names in the file.
    takes_over: whether this process has trained for a leader that has ended.
    """

    options: SearchOptions | PbtOptions
    recipe: Recipe
    directory: Path
    is_new: bool = True
    file: str = ""
    refusal: Callable[[OptionFailure], HyperlaxError] | None = None
    existing: str = ""
    note: str = ""
    takes_over: bool = False

    def run(self) -> int:
        """Run the study to its end, or print its plan. Returns the exit status."""
        if isinstance(self.options, SearchOptions):
            return _run_search(self.options, self)
        from hyperlax.analysis.pages import write_pages
        from hyperlax.study.observer import Pages
        from hyperlax.study.population import run_population

        log_from(self.options.log_level)
        existing = None if self.is_new else self.directory
        return run_population(self.options, self.recipe, existing, observers=[Pages(write_pages)])


def planned_study(
    command: str, given: Given, space: Mapping[str, Entry] = MappingProxyType({}), recipe: Recipe | None = None
) -> PlannedStudy:
    """Return the study that a command (`stored.SEARCH`, `SWEEP` or `PBT`) starts, or continues if `resume_from` is given.

    space: changes to the recipe's search space, which `hyperlax.search` takes for a new study. recipe: instead of the one that
    `given` names, or that the study began with.
    """
    refuse_fork()
    check_flags(given)
    if "resume_from" in given:
        return _resumed(command, given, recipe)
    if command == SWEEP:
        return new_sweep(given, recipe)
    return _new(SearchOptions if command == SEARCH else PbtOptions, given, space, recipe)


def load_recipe(given: Given) -> Recipe:
    """Return the given recipe. Raises OptionError if none is given."""
    name = given.get("algo_and_network_config")
    if not name:
        raise OptionError(
            "algo_and_network_config",
            "{algo_and_network_config} is required: a recipe ({0}) or a path to a .py file.",
            ", ".join(available()),
        )
    return load(name)


def study_in(
    directory: Path, asked_by: str, named: str | None = None, recipe: Recipe | None = None
) -> tuple[SearchOptions | PbtOptions, Recipe]:
    """Return the options and the recipe of the study in a directory. The recipe of a sweep has its samples.

    named, recipe: as for `read_study`.
    """
    options, recipe = read_study(directory, asked_by, named, recipe)
    if isinstance(options, PbtOptions) or not options.is_sweep:
        return options, recipe
    from hyperlax.samplers.fixed import stored
    from hyperlax.study.directory import SAMPLES

    return options, stored(recipe, directory / SAMPLES)


def log_from(level: str, is_quiet: bool = False) -> None:
    """Print Hyperlax's log messages from this level on, or only warnings. Other packages' warnings stay as they are."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hyperlax").setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING * is_quiet))
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # its traceback is in the batch's timing.json


def check_flags(given: Given) -> None:
    """Raise OptionError for options that contradict each other."""
    if given.get("json") and given.get("plan_only"):
        raise OptionError("json", "{json} follows a search, and {plan_only} runs none. Leave one of them out.")
    if given.get("retry_failed") and "resume_from" not in given:
        raise OptionError("retry_failed", "{retry_failed} continues a study: give {resume_from} DIR as well.")
    if given.get("retry_failed") and given.get("plan_only"):
        raise OptionError(
            "retry_failed", "{retry_failed} runs trials, and {plan_only} runs none. Leave one of them out."
        )


def _new(
    kind: type[SearchOptions] | type[PbtOptions], given: Given, space: Mapping[str, Entry], recipe: Recipe | None
) -> PlannedStudy:
    from hyperlax.config.space_entries import searched

    recipe = recipe or load_recipe(given)
    if space:
        recipe = searched(space, {}, recipe, "search(): space")
    options = checked(settled(kind, [given], recipe), kind_of(recipe).table)
    return _planned(options, recipe)


def _planned(
    options: SearchOptions | PbtOptions,
    recipe: Recipe,
    existing: Path | None = None,
    rows: Sequence[Config] | None = None,
) -> PlannedStudy:
    """Return a study whose options are checked. existing: the directory of one that continues. rows: those of a new sweep."""
    from hyperlax.study.directory import study_directory

    if isinstance(options, SearchOptions) and not options.load_hyperparams:
        check_searched(recipe.path, recipe.space)
    kind_of(recipe).check_options(options, recipe)
    if existing is None:
        kind_of(recipe).check_study(options, recipe, rows)
    return PlannedStudy(options, recipe, existing or study_directory(options, recipe).root, is_new=existing is None)


def new_sweep(given: Given, recipe: Recipe | None) -> PlannedStudy:
    """Return a sweep whose recipe has the configurations to train."""
    from hyperlax.config.configurations import read_samples
    from hyperlax.samplers.fixed import draw, presampled, sensitivity_rows

    _check_source(given)
    recipe, file = recipe or load_recipe(given), given.get("load_hyperparams")
    kind = kind_of(recipe)
    rows, read = (), {}
    if file is None:
        check_searched(recipe.path, recipe.space)
    else:
        rows = read_samples(Path(file), recipe.config.algorithm, kind.table.rows)
        read = {"n_trials": len(rows), "sampling_method": "file"}
    if given.get("sampling_method") == SENSITIVITY:
        rows = sensitivity_rows(recipe, given)
        read = {"n_trials": len(rows), "num_levels": given.get("num_levels", LEVELS)}
    options = checked(settled(SweepOptions, [given, read], recipe), kind.table)
    rows = rows or draw(recipe, str(options.sampling_method), options.n_trials, options.seed)
    return _planned(options, presampled(recipe, rows, file or str(recipe.path)), rows=rows)


def _check_source(given: Given) -> None:
    """Raise OptionError if configurations are both loaded and drawn, or neither, or if an option is for another method."""
    check_levels(given)
    if "load_hyperparams" not in given:
        if given.get("sampling_method") == "file":
            raise OptionError("sampling_method", "{sampling_method} file needs {load_hyperparams} FILE.")
        return
    for name in ("n_trials", "sampling_method"):
        if name in given:
            raise OptionError(
                "load_hyperparams",
                f"{{load_hyperparams}} trains every row of its file; {{{name}}} draws others. Leave one of the two out.",
            )


def _resumed(command: str, given: Given, recipe: Recipe | None) -> PlannedStudy:
    directory = named_directory(given["resume_from"], RESUMED)
    check_command(directory, command)
    stored, recipe = study_in(directory, RESUMED, given.get("algo_and_network_config"), recipe)
    try:
        options = checked(resumed(stored, given, recipe), kind_of(recipe).table)
        return _planned(options, recipe, directory)
    except OptionError as error:
        if any(name in given for name in error.mentioned):
            raise
        raise error.spelled(str, f"{directory / MANIFEST}: ") from error


def _run_search(options: SearchOptions, study: PlannedStudy) -> int:
    """Run a search or a sweep to its end, or print its plan, with the reporter of its options. Returns the exit status."""
    log_from(options.log_level, options.quiet)
    if options.devices:
        from hyperlax.engine.device import local_devices

        local_devices(options.devices)  # one that does not exist is refused before anything is written
    existing = None if study.is_new else study.directory
    if options.plan_only:
        from hyperlax.study.search import print_plan

        return print_plan(options, study.recipe, existing)
    from hyperlax.analysis.pages import write_pages
    from hyperlax.backends.work import Work
    from hyperlax.study.observer import Observer, Pages
    from hyperlax.study.reporters import reporter, run_in_json
    from hyperlax.study.search import run_study
    from hyperlax.tracking.mirror import mirror_observers
    from hyperlax.tracking.mlflow import mlflow_observers, with_runs
    from hyperlax.tracking.place import place_of

    asked = (options.track, options.tracking_uri, options.tracking_experiment, options.study_name)
    place = place_of(*asked, study.directory, study.is_new)
    mirrored = mirror_observers(options.mirror, options.study_name, study.directory, study.is_new)
    tracking = [*mlflow_observers(place), *mirrored]

    def run(*shown: Observer) -> int:
        observers = [*shown, Pages(write_pages), *tracking]
        keywords: dict[str, Any] = {"observers": observers, "retry_failed": options.retry_failed}
        train = partial(run_study, options, study.recipe, existing, **keywords)
        status = _run_where_it_trains(study, partial(with_runs, place), train)
        with suppress(OSError):  # agents that wait for a leader end only then
            if (work := Work(study.directory)).root.is_dir():
                work.set_ended(status not in STOPPED)
        return status

    if options.json:
        return run_in_json(run, study.directory)
    return run() if options.quiet else run(reporter())


def train_on_ray(actor: Any, about: Mapping[str, Any]) -> str:
    """Train as an agent on Ray; see `ray_study.train`."""
    from hyperlax.study.ray_study import train
    from hyperlax.tracking.place import with_address

    return train(actor, about, with_address)


def _run_where_it_trains(
    study: PlannedStudy, tracked: Callable[[EngineConfig], EngineConfig], run: Callable[..., int]
) -> int:
    """Run a study with the backend of this machine, or with agents. Returns the exit status.

    tracked: returns a backend's configuration with the place where it tracks what it trains.
    """
    assert isinstance(study.options, SearchOptions)
    if study.options.engine == "ray":
        from hyperlax.study.ray_study import run_on_ray
        from hyperlax.tracking.place import address_to_send

        def address(config: EngineConfig) -> tuple[EngineConfig, str]:
            return (led := tracked(config)), address_to_send(led)

        main = f"{__name__}:{train_on_ray.__name__}"
        again = {"ray_address": study.options.ray_address} if study.options.ray_address else {}
        with resuming_with(**again):
            return run_on_ray(study.options, study.recipe, study.directory, main, address, run)
    if study.options.agents == "none":
        from hyperlax.study.study_run import local_backend

        return run(make_backend=lambda config, checkpoints: local_backend(tracked(config), checkpoints))
    from hyperlax.config.sent_recipes import check_in_file
    from hyperlax.study.leading import run_with_agents

    check_in_file(study.recipe)
    begun = "The leader has ended. This process leads now." if study.takes_over else ""
    return run_with_agents(study.directory, study.options.agents, tracked, run, begun)
