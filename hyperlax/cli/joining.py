"""The command `agent`. Only what `--help` needs is imported at the top, see `hyperlax.cli.commands`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hyperlax.cli.inspecting import Directory
from hyperlax.config.option import By, Metavar, OneOf, Range
from hyperlax.config.options import Devices, PbtOptions, SearchOptions
from hyperlax.errors import UsageError

if TYPE_CHECKING:
    from hyperlax.backends.base import Backend, EngineConfig
    from hyperlax.engine.checkpoint import CheckpointManager
    from hyperlax.recipe import Recipe
    from hyperlax.study.study_run import MakeBackend


@dataclass(frozen=True, kw_only=True)
class _AgentOptions:
    """Train trials of a study that another process leads with --agents, on this machine's devices, until the study ends."""

    directory: Directory
    idle_timeout: Annotated[
        float | None,
        "End after this time without anything to train.",
        Range(0, unit="seconds"),
        Metavar("SECONDS"),
        By("wait until the study ends"),
    ] = None
    algo_and_network_config: Annotated[
        str | None, "Recipe, by name or path.", Metavar("RECIPE"), By("the study's, if it is your own")
    ] = None
    devices: Devices = ()
    slots: Annotated[
        int | None, "Batches that train here at once.", Range(1), By("as many as there are cores or devices for")
    ] = None
    any_device: Annotated[
        bool,
        "Train also on another kind of device than the study's. Results then differ in their last bits from those of one machine.",
        By("another kind is refused"),
    ] = False
    sbatch: Annotated[bool, "Print a command that starts agents as an array of SLURM's, and exit.", By("train")] = False
    log_level: Annotated[
        str, "Lowest level of messages to print.", OneOf(("DEBUG", "INFO", "WARNING", "ERROR"), str.upper)
    ] = "INFO"


def _sbatch(study: Path, is_on_gpu: bool) -> str:
    """Return the command. Two minutes before the end of its job, an agent is asked to hand back what it trains."""
    from hyperlax.config.option import shell_command

    agent = shell_command("agent", study, "--idle-timeout", 600)
    device = ["--gres", "gpu:1"] if is_on_gpu else ["--cpus-per-task", "4"]
    words = ["--array", "0-7", *device, "--time", "4:00:00", "--requeue", "--signal", "B:TERM@120"]
    return shlex.join(["sbatch", *words, "--wrap", f"exec {agent}"])


def _backend_here(options: _AgentOptions, study: Path) -> MakeBackend:
    """Return the function that makes the backend of this machine."""
    from hyperlax.study.study_run import local_backend
    from hyperlax.tracking.place import with_address

    def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        own = replace(config, devices=options.devices, slots=options.slots or config.slots)
        return local_backend(with_address(own, study), checkpoints)

    return make_backend


def agent(options: _AgentOptions) -> int:
    """Train batches of a study until it has ended."""
    from hyperlax.config.kinds import check_foreign
    from hyperlax.config.option import shell_command
    from hyperlax.config.stored import PBT, command_of, named_directory, read_arguments
    from hyperlax.studies import log_from, study_in
    from hyperlax.study.directory import StudyDirectory
    from hyperlax.study.leading import join
    from hyperlax.study.manifest import check_recipe, content_of

    log_from(options.log_level)
    directory = StudyDirectory(named_directory(options.directory, "agent"))
    if command_of(read_arguments(directory.root, "agent")) == PBT:
        again = shell_command(PBT, "--resume-from", directory.root)
        problem = "holds a population, whose members train together in one place. To continue it there"
        raise UsageError(f"agent {directory.root}: {problem}:\n  {again}")

    def load() -> tuple[SearchOptions | PbtOptions, Recipe]:
        found = study_in(directory.root, "agent", options.algo_and_network_config)
        check_recipe(directory.manifest, found[1])
        return found

    study, recipe = load()
    assert isinstance(study, SearchOptions)
    if options.sbatch:
        print(_sbatch(directory.root.absolute(), is_on_gpu="(gpu)" in content_of(directory.manifest).device))
        return 0
    check_foreign(options, recipe)
    if options.devices:
        from hyperlax.engine.device import local_devices

        local_devices(options.devices)  # one that does not exist is refused before the study has work

    return join(
        directory,
        recipe,
        lambda: load()[1],
        study.checkpoint_seconds,
        _backend_here(options, directory.root),
        any_device=options.any_device,
        idle_timeout=options.idle_timeout,
    )
