"""The command `agent`. Only what `--help` needs is imported at the top, see `hyperlax.cli.commands`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hyperlax.cli.inspecting import Directory
from hyperlax.config.option import By, Given, Metavar, OneOf, Range, completed
from hyperlax.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Train trials of a study that another process leads with --agents, on this machine's devices, until the study ends."""

    directory: Directory
    idle_timeout: Annotated[
        float | None,
        "End after this time without anything to train.",
        Range(0, unit="seconds"),
        Metavar("SECONDS"),
        By("wait until the study ends"),
    ] = None
    any_device: Annotated[
        bool,
        "Train also on another kind of device than the leader's. Results then differ in their last bits from those of one machine.",
        By("another kind is refused"),
    ] = False
    log_level: Annotated[
        str, "Lowest level of messages to print.", OneOf(("DEBUG", "INFO", "WARNING", "ERROR"), str.upper)
    ] = "INFO"


def agent(given: Given) -> int:
    """Train batches of a study until it has ended."""
    from hyperlax.config.options import PbtOptions
    from hyperlax.config.stored import named_directory
    from hyperlax.studies import log_from, study_in
    from hyperlax.study.directory import StudyDirectory
    from hyperlax.study.leading import join
    from hyperlax.study.manifest import check_recipe, content_of

    options = completed(AgentOptions, given)
    log_from(options.log_level)
    directory = StudyDirectory(named_directory(options.directory, "agent"))
    study, recipe = study_in(directory.root, "agent")
    if isinstance(study, PbtOptions):
        raise UsageError(f"agent {directory.root}: holds a population, whose members train together in one place.")
    check_recipe(content_of(directory.manifest), directory.manifest, recipe)
    return join(
        directory,
        recipe,
        study.n_trials,
        study.checkpoint_seconds,
        any_device=options.any_device,
        idle_timeout=options.idle_timeout,
    )
