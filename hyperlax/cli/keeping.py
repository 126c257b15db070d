"""The commands that maintain studies or use their results. Only what `--help` needs is imported at the top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hyperlax.cli.inspecting import Directory
from hyperlax.config.option import POSITIONAL, By, Metavar, Offered, OneOf, Range
from hyperlax.config.options import COUNT, LARGEST, TrialNumber
from hyperlax.errors import OptionError, UsageError, counted, format_number

if TYPE_CHECKING:
    from hyperlax.agent import Agent
    from hyperlax.envs import Environment
    from hyperlax.shipped import Shipped


_Recipe = Annotated[
    str | None,
    "Recipe of a study that you received, by name or path.",
    Metavar("RECIPE"),
    By("the study's, if it is your own"),
]


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    """Export a study's trials as CSV, JSON, Parquet or an Optuna journal."""

    directory: Directory
    format: Annotated[str, "Format of the file.", OneOf(("csv", "json", "parquet", "optuna-journal"))] = "csv"
    output: Annotated[
        str | None,
        "The file to write; it must not exist. - is standard output.",
        Metavar("FILE"),
        By("<study name>.<format> in the working directory"),
    ] = None


def _shipped_names() -> list[str]:
    from hyperlax.shipped import shipped

    return [one.name for kind in ("recipes", "studies") for one in shipped(kind)]


@dataclass(frozen=True, kw_only=True)
class _RecipesOptions:
    """List, show or copy the recipes and study files that come with Hyperlax."""

    action: Annotated[str, "list, show or copy.", POSITIONAL, OneOf(("list", "show", "copy")), Metavar("[ACTION]")] = (
        "list"
    )
    name: Annotated[
        str | None, "Recipe or study, as the list names it.", POSITIONAL, Metavar("[NAME]"), Offered(_shipped_names)
    ] = None
    to: Annotated[
        str | None,
        "File or directory to copy it to. The file must not exist.",
        POSITIONAL,
        Metavar("[TO]"),
        By("recipes/NAME.py, where it is found by name, or studies/NAME.yaml"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _DeleteOptions:
    """Delete a study: the files that Hyperlax wrote, and nothing else; also what it left in MLflow and in its mirror."""

    directory: Directory
    yes: Annotated[bool, "Do not ask for confirmation.", By("ask")] = False
    keep_tracking: Annotated[
        bool, "Leave the study's runs in MLflow and its copy in the mirror.", By("they are deleted, too")
    ] = False


@dataclass(frozen=True, kw_only=True)
class _RepairOptions:
    """Rebuild a study's damaged or missing database from its backup and the batches on disk."""

    directory: Directory
    algo_and_network_config: _Recipe = None


@dataclass(frozen=True, kw_only=True)
class _InvalidateOptions:
    """Remove trials from a study's ranking, but keep their results."""

    directory: Directory
    trials: Annotated[tuple[int, ...], "Numbers of COMPLETE trials.", POSITIONAL, Metavar("TRIAL [TRIAL ...]")]
    reason: Annotated[str | None, "Reason, stored with each trial.", By("none")] = None
    algo_and_network_config: _Recipe = None


@dataclass(frozen=True, kw_only=True)
class _PlayOptions:
    """Play new episodes with a trained agent: print its return and film one as an animated GIF."""

    path: Annotated[
        str,
        "Directory of a study or a single run, or an agent's .safetensors file.",
        POSITIONAL,
        Metavar("PATH"),
    ]
    trial: Annotated[TrialNumber, "Trial of the study.", By("the best")] = None
    training_seed: Annotated[int | None, "Seed of the trial.", By("the one with the best return")] = None
    episodes: Annotated[int, "Number of episodes.", COUNT] = 100
    seed: Annotated[int, "Seed of the episodes.", Range(0, LARGEST)] = 0
    gif: Annotated[
        str | None,
        "File for the GIF; only classic-control environments can be rendered.",
        Metavar("FILE"),
        By("<agent>.gif next to the agent, if it can be rendered"),
    ] = None
    no_gif: Annotated[bool, "Write no GIF.", By("write one if possible")] = False
    algo_and_network_config: _Recipe = None


def export(options: _ExportOptions) -> int:
    """Write the trials to a file."""
    from hyperlax.analysis.tables import default_path, write_export
    from hyperlax.config.stored import named_directory
    from hyperlax.files import STDOUT, new_file, printed_if_stdout
    from hyperlax.study.io_errors import writing
    from hyperlax.study.view import load_study

    directory = named_directory(options.directory, "export")
    record = load_study(directory, "export").record
    name = default_path(record, options.format) if options.output is None else options.output
    path = Path(name)
    with writing(path):
        new_file(name)
        with printed_if_stdout(path) as place:
            if options.format == "optuna-journal":
                from hyperlax.study.maintenance import write_journal

                write_journal(directory, place, record.study_name)
            else:
                write_export(record, options.format, place)
    if path != STDOUT:
        print(f"Written: {path}")
    return 0


def recipes(options: _RecipesOptions) -> int:
    """List, print or copy what comes with Hyperlax."""
    from hyperlax.shipped import shipped, shipped_file

    if options.action == "list":
        if options.name is not None:
            raise UsageError(f"recipes list takes no name. To see one: hyperlax recipes show {options.name}.")
        for kind in ("recipes", "studies"):
            found = shipped(kind)
            width = max(len(one.name) for one in found) + 2
            print(f"{kind}:", *(f"  {one.name:{width}}{one.line}" for one in found), sep="\n")
        print("\nTo edit one: hyperlax recipes copy NAME.")
        return 0
    if options.name is None:
        raise OptionError("name", "recipes {0} needs {name}. See hyperlax recipes.", options.action)
    one = shipped_file(options.name)
    if options.action == "copy":
        return _copy(one, options.to)
    if options.to is not None:
        raise OptionError(
            "to", "recipes show prints a file, and {to} is {0!r}. To copy it: hyperlax recipes copy.", options.to
        )
    print(one.path.read_text(encoding="utf-8"), end="")
    return 0


def _copy(one: Shipped, to: str | None) -> int:
    """Copy a shipped file to a new one, and print how it is used."""
    from hyperlax.files import new_file, write_text
    from hyperlax.study.io_errors import writing

    own = Path(one.kind)
    target = own if to is None else Path(to)
    if to != "" and own in (target, target.parent):
        with writing(own):
            own.mkdir(exist_ok=True)
    path = target / one.path.name if target.is_dir() and to != "" else target
    files = {path: one.path}
    if one.kind == "studies" and one.path.with_suffix(".py").is_file():
        files[path.with_suffix(".py")] = one.path.with_suffix(".py")
    with writing(path):
        for file in files:
            new_file("" if to == "" else str(file), option="to")
        for file, source in files.items():
            write_text(file, source.read_text(encoding="utf-8"))
    name = path.stem if one.kind == "recipes" and path.parent == Path("recipes") else path
    use = f"hyperlax run-study {path}" if one.kind == "studies" else f"--algo-and-network-config {name}"
    print(f"Copied: {path}. To use it: {use}")
    return 0


def delete(options: _DeleteOptions) -> int:
    """Delete the files of a study."""
    from hyperlax.analysis.plots import PLOTS
    from hyperlax.config.stored import named_directory
    from hyperlax.study.maintenance import delete as remove
    from hyperlax.tracking.leftovers import leftovers

    pages = [f"{plot.name}.html" for plot in PLOTS]
    directory = named_directory(options.directory, "delete")
    return remove(directory, options.yes, pages, [] if options.keep_tracking else leftovers(directory))


def repair(options: _RepairOptions) -> int:
    """Build a study's database again."""
    from hyperlax.config.stored import named_directory
    from hyperlax.studies import study_in
    from hyperlax.study.maintenance import repair as repair_study

    directory = named_directory(options.directory, "repair")
    study, recipe = study_in(directory, "repair", options.algo_and_network_config)
    return repair_study(study, recipe, directory)


def invalidate(options: _InvalidateOptions) -> int:
    """Take trials out of a study's ranking."""
    from hyperlax.analysis.pages import write_pages
    from hyperlax.config.stored import named_directory
    from hyperlax.studies import study_in
    from hyperlax.study.maintenance import invalidate as invalidate_trials

    directory = named_directory(options.directory, "invalidate")
    study, recipe = study_in(directory, "invalidate", options.algo_and_network_config)
    return invalidate_trials(study, recipe, directory, options.trials, options.reason, write_pages)


def play(options: _PlayOptions) -> int:
    """Evaluate a trained agent, and film it."""
    from hyperlax.agent import load_agent
    from hyperlax.config.stored import named_directory
    from hyperlax.study.agents import environment_of, find_agent

    if options.gif is not None and options.no_gif:
        raise OptionError("gif", "{gif} and {no_gif} cannot be combined. Leave one of them out.")
    where = named_directory(options.path, "play")
    path = find_agent(where, options.trial, "play")
    agent = load_agent(path, options.training_seed)
    name = environment_of(agent.about, where, options.algo_and_network_config)
    wanted = _gif_file(options, path)
    from hyperlax.cli.playing import can_film, evaluate_agent
    from hyperlax.engine.device import prepare_jax
    from hyperlax.envs import make

    why = None if options.no_gif else can_film(name)
    if why and options.gif is not None:
        raise OptionError("gif", "{gif} {0}: {1}.", options.gif, why)
    prepare_jax(compilation_cache=True)
    environment = make(name)
    if environment.observation_size != agent.about["observation_size"]:
        raise UsageError(
            f"an observation of {name} has {counted(environment.observation_size, 'number')}, the agent in {path} was trained "
            f"on {agent.about['observation_size']}. It cannot play there."
        )
    found = evaluate_agent(agent, environment, options.episodes, options.seed)
    trial = agent.about["trial"]
    mean, low, high, std, length = (
        format_number(float(value)) for value in (found.mean, found.min, found.max, found.std, found.length)
    )
    print(
        f"{name}, trial {trial}, training seed {agent.seed}: mean return {mean} over "
        f"{counted(options.episodes, 'episode')} (from {low} to {high}, standard deviation {std}), {length} steps on average."
    )
    if why:
        print(f"No GIF: {why}.")
    elif not options.no_gif:
        _film(agent, environment, options.seed, wanted)
    return 0


def _gif_file(options: _PlayOptions, agent: Path) -> Path:
    """Return the file for the GIF of an agent. Raises OptionError for one that cannot be written there."""
    from hyperlax.files import new_file
    from hyperlax.study.io_errors import writing

    if options.gif is not None:
        with writing(Path(options.gif)):
            return new_file(options.gif, option="gif")
    if not options.no_gif and agent.parent.is_symlink():
        problem = "{0}: is a link, which nothing is written through. Name a file with {gif}."
        raise OptionError("gif", problem, agent.parent)
    return agent.with_name(agent.name + ".gif")


def _film(agent: Agent, environment: Environment, seed: int, path: Path) -> None:
    """Write one episode as a GIF, and print where it is."""
    from hyperlax.cli.playing import film
    from hyperlax.study.io_errors import ending_on_io_error

    elsewhere = "Name another file with --gif, or write no GIF with --no-gif."
    with ending_on_io_error(path, lambda remedy: elsewhere):
        steps, total = film(agent, environment, seed, path)
    print(f"GIF: {path}, one episode of {counted(steps, 'step')}, return {format_number(total)}.")
