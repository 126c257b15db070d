"""The commands that train one configuration. Only what `--help` needs is imported here, see `hyperlax.commands`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.command_parts import log_from, recipe_name
from hyperlax.errors import UsageError
from hyperlax.single_flags import PlayFlags, SingleFlags, TrainFlags

if TYPE_CHECKING:
    from hyperlax.recipe import Recipe


def run_single_hp(flags: SingleFlags) -> int:
    """Train one configuration."""
    from hyperlax.recipe import load

    return _run(flags, load(recipe_name(flags)))


def _run(flags: SingleFlags, recipe: Recipe) -> int:
    from hyperlax.acting import check_acts
    from hyperlax.single_arguments import configured, resolve_single

    arguments = resolve_single(flags, recipe)
    check_acts(recipe, arguments.env_config)
    algorithm = configured(arguments, recipe)
    log_from(arguments.log_level)
    from hyperlax.study.single import run_single

    return run_single(arguments, recipe, algorithm)


def train(flags: TrainFlags) -> int:
    """Train a study's winner, or another of its trials, once more: as the study did where the flags say nothing else.

    Its recipe is loaded only for an environment of the user's own: study.json keeps the rest of it.
    """
    from hyperlax.config.options import RUN_LENGTH
    from hyperlax.config.resume import named_directory
    from hyperlax.study.opened import open_study, recipe_as_it_was
    from hyperlax.study.ranking import the_best

    directory = named_directory(flags.from_, "--from")
    record = open_study(directory, "--from").record
    if record.lineage:
        raise UsageError(
            f"--from {directory}: holds a population. Train along its schedule:\n  {record.lineage.replay}"
        )
    trial = the_best(record, "--from") if flags.trial is None else record.trial(flags.trial)
    shared = ("seed", "num_seeds", "aggregate", *RUN_LENGTH)
    given = {name: record.arguments[name] if getattr(flags, name) is None else getattr(flags, name) for name in shared}
    recipe = recipe_as_it_was(record)
    again = SingleFlags(
        algo_and_network_config=str(recipe.path),
        env_config=_environment(flags.env_config, record.environment, recipe.path, f"--from {directory}"),
        assignments=tuple(f"{name}={json.dumps(value)}" for name, value in trial.params.items()),
        output_root=flags.output_root,
        log_level=flags.log_level,
        no_compilation_cache=flags.no_compilation_cache,
        **given,
    )
    return _run(again, recipe)


def _environment(given: str | None, of_study: str, recipe: Path, where: str) -> str:
    """The environment to train in: the study's, or another that its recipe may register. UsageError as `registered`."""
    from hyperlax.envs import is_known
    from hyperlax.own_environments import registered
    from hyperlax.recipe import load

    if given is None:
        return registered(of_study, str(recipe), where)
    if not is_known(given) and recipe.is_file():
        load(str(recipe))
    return given


def play(flags: PlayFlags) -> int:
    """Evaluate a trained agent, and film it."""
    from hyperlax.agent import load_agent
    from hyperlax.argument_checks import LARGEST_SEED
    from hyperlax.config.resume import named_directory
    from hyperlax.files import new_file
    from hyperlax.study.agents import environment_of, find_agent
    from hyperlax.study.refusals import ending_on_refusal, writing

    for name, least, given in (("--episodes", 1, flags.episodes), ("--seed", 0, flags.seed)):
        if not least <= given <= LARGEST_SEED:
            raise UsageError(f"{name} needs a number from {least} to {LARGEST_SEED}, got {given}.")
    if flags.gif is not None and flags.no_gif:
        raise UsageError("--gif names a film, and --no-gif makes none. Leave one of them out.")
    given = named_directory(flags.path, "play")
    path = find_agent(given, flags.trial, "play")
    agent = load_agent(path, flags.training_seed)
    name = environment_of(agent.about, given)
    wanted = path.with_name(path.name + ".gif") if flags.gif is None else Path(flags.gif)
    if flags.gif is not None:
        with writing(wanted):
            new_file(flags.gif, flag="--gif")
    from hyperlax.engine.device import prepare_jax
    from hyperlax.envs import make
    from hyperlax.playing import can_film, evaluate_agent, film

    why = None if flags.no_gif else can_film(name)
    if why and flags.gif is not None:
        raise UsageError(f"--gif {flags.gif}: {why}.")
    prepare_jax(compilation_cache=True)
    environment = make(name)
    if environment.observation_size != agent.about["observation_size"]:
        raise UsageError(
            f"{name} shows {environment.observation_size} numbers, and the agent in {path} was trained to see "
            f"{agent.about['observation_size']}. It cannot play there."
        )
    found = evaluate_agent(agent, environment, flags.episodes, flags.seed)
    trial = agent.about["trial"]
    print(
        f"{name}, trial {trial}, training seed {agent.seed}: mean return {found.mean:.6g} over {flags.episodes} episodes "
        f"(from {found.min:.6g} to {found.max:.6g}, standard deviation {found.std:.3g}), {found.length:.6g} steps on average."
    )
    if why:
        print(f"No film: {why}.")
    elif not flags.no_gif:
        elsewhere = "Name another file with --gif, or make no film with --no-gif."
        with ending_on_refusal(wanted, lambda refusal: elsewhere):
            steps, total = film(agent, environment, flags.seed, wanted)
        print(f"Film: {wanted}, one episode of {steps} steps, return {total:.6g}.")
    return 0
