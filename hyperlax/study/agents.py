"""The policies of a study's trials in its `agents` directory: writing, removing and finding them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hyperlax.agent import ABOUT, ARRAYS, agent_files, save_agent
from hyperlax.config.option import shell_command
from hyperlax.config.trusted import code_of, recipe_file
from hyperlax.envs import is_known
from hyperlax.envs.recipes import registered
from hyperlax.errors import OptionError, UsageError
from hyperlax.fields import dotted
from hyperlax.files import durable_together, is_too_long, remove
from hyperlax.recipe import Recipe, load
from hyperlax.study.directory import AGENTS
from hyperlax.study.record import StudyRecord
from hyperlax.study.view import load_study
from hyperlax.trial import STATES, BatchResult, Outcome

_FILE = re.compile(rf"trial_(\d+)({re.escape(ARRAYS)}|{re.escape(ABOUT)})")


def agent_path(directory: Path, number: int) -> Path:
    """Return the path of a trial's agent below a study's directory, without suffix."""
    return directory / AGENTS / f"trial_{number:05d}"


def write_agents(directory: Path, about: Mapping[str, Any], result: BatchResult, complete: Collection[int]) -> None:
    """Write the policies of a batch's `complete` trials. about: the entries that all trials of the study share."""
    with durable_together():
        for outcome in result.outcomes:
            if outcome.number in complete and outcome.policy is not None:
                save_agent(agent_path(directory, outcome.number), outcome.policy, {**about, **about_training(outcome)})


def about_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the entries of an agent's file about its recipe. A user's own environment is registered by that recipe."""
    return {"recipe": recipe.name, **{f"recipe_{name}": value for name, value in code_of(recipe).items()}}


def about_training(outcome: Outcome) -> dict[str, Any]:
    """Return the entries of an agent's file about its training.

    returns: of the last evaluation, one per seed. seed: the one with the best return.
    """
    returns = outcome.curve.mean[-1].tolist()
    return {
        "trial": outcome.number,
        "steps": int(outcome.curve.steps[-1]),
        "returns": returns,
        "seed": returns.index(max(returns)),
        "params": dotted(outcome.trial.config),
    }


def keep_only_the_best(record: StudyRecord) -> None:
    """Remove the agents of trials that neither win nor are to be confirmed, where a study keeps only the best.

    Agents of trials that have not ended in the record stay.
    """
    if record.arguments.get("save_agents") != "best":
        return
    best = record.winners
    if len(record.objectives) == 1:
        best = [*best, *record.ranked[: record.arguments["confirm_top"]]]
    beaten = {trial.number for trial in record.trials if trial.state in STATES} - {trial.number for trial in best}
    for path in (record.directory / AGENTS).glob("trial_*"):
        found = _FILE.fullmatch(path.name)
        if found and int(found[1]) in beaten:
            remove(path)


def environment_of(about: Mapping[str, Any], given: Path, named: str | None) -> str:
    """Return the environment that an agent was trained in. A user's own is registered by the recipe that the agent names.

    given: the path that the user gave, for messages. named: a recipe that the user names instead.

    Raises:
      UsageError: The environment is unknown, and the recipe is gone, does not register it, or may not be loaded.
    """
    name = about["environment"]
    if is_known(name):
        return registered(name, None, str(given))
    kept = {name: about.get(f"recipe_{name}") for name in ("path", "seal")}
    path = kept["path"]
    if named:
        path = str(load(named).path)
    elif isinstance(path, str) and Path(path).is_file():
        study = given if given.is_dir() else given.parent.parent if given.parent.name == AGENTS else None
        recipe_file(kept, "", study, str(given))
    return registered(name, path if isinstance(path, str) else None, str(given))


def find_agent(given: Path, number: int | None, asked_by: str) -> Path:
    """Return the path, without suffix, of an agent in a file, in the directory of a single run, or in that of a study.

    number: the trial of a study, by default the best. Raises UsageError, with the way to get one, if the agent does not exist.
    """
    run = given / f"agent{ABOUT}"
    is_file, is_run = given.suffix in (ARRAYS, ABOUT), not is_too_long(run) and run.exists()
    if is_file or is_run:
        if number is not None:
            problem = "{trial} {0}: {1} holds one agent. Leave {trial} out, or give a study's directory."
            raise OptionError("trial", problem, number, given)
        return given.with_suffix("") if is_file else given / "agent"
    record = load_study(given, asked_by).record
    if not record.environment:
        raise UsageError(f"{asked_by} {given}: is a study of a task, whose trials leave no agents.")
    if number is not None:
        trial = record.trial(number)
    elif record.lineage and record.lineage.final is not None:
        trial = record.trial(record.lineage.final)
    else:
        trial = record.the_best(asked_by)
    path = agent_path(given, trial.number)
    if not all(file.exists() for file in agent_files(path)):
        if record.lineage:
            raise UsageError(
                f"{asked_by} {given}: the agent of trial {trial.number} is not kept. A population keeps that of its best member at "
                f"the end of its training. To train one along its schedule:\n  {record.lineage.replay}"
            )
        again = shell_command("train", "--from", given, "--trial", trial.number)
        raise OptionError(
            "save_agents",
            f"{asked_by} {{0}}: the agent of trial {{1}}, which is {{2}}, is not kept (see {{save_agents}}). To train it "
            "again:\n  {3}",
            given,
            trial.number,
            trial.state,
            again,
        )
    return path
