"""The commands of `hyperlax`: read the words, check, call one function.

Only what `--help` needs is imported here, so that it answers at once and starts no accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from hyperlax.cli import inspecting, joining, keeping, training
from hyperlax.cli.parsing import Command, parse
from hyperlax.config import command_options, options
from hyperlax.config.option import POSITIONAL, Metavar, OneOf, completed, flags_of
from hyperlax.errors import OptionFailure

STUDIES = ("optuna-hp-search", "tune", "run-study", "sweep-hp-samples", "pbt")
"""The commands that run a study on disk."""


@dataclass(frozen=True, kw_only=True)
class _CompletionOptions:
    """Print a shell's completion script for commands and flags."""

    shell: Annotated[str, "The shell.", OneOf(("bash", "zsh", "fish")), POSITIONAL, Metavar("{bash,zsh,fish}")]


def run(words: Sequence[str]) -> int:
    """Run the command that the words of a command line name, without the program's name. Return the exit status."""
    name, given = parse(GROUPS, words)
    command = COMMANDS[name]
    try:
        if not given.get("json"):
            return command.function(given)
        from hyperlax.study.reporters import json_on_stdout

        with json_on_stdout():
            return command.function(given)
    except OptionFailure as error:
        raise error.spelled(flags_of(command.kind)) from error


def _completion(options: _CompletionOptions) -> int:
    """Print the script for a shell to source."""
    from hyperlax.cli.completion import shell_script

    print(shell_script({name: command.kind for name, command in COMMANDS.items()}, options.shell), end="")
    return 0


def _at_once(function: Callable[[Any], int], example: str) -> Command:
    """Return the command of a function of `options`, which need nothing but their defaults to be complete."""
    kind = get_type_hints(function)["options"]
    return Command(kind, lambda given: function(completed(kind, given)), example)


_STUDY = "my_optuna_studies/sac_mlp/gymnax_pendulum"
_TRAINED = "--algo-and-network-config sac_mlp --env-config gymnax.pendulum"
_WHERE = ("--agents", "--engine", "--agent-resources", "--ray-address", "--in-flight")
_OF_SWEEPS = {"--in-flight": "no trial of a sweep is pruned, so as many train at once as there is room for"}


def _in_one_place(who: str) -> dict[str, str]:
    """Return the flags that say where trials train -> why a command has none of them."""
    device = f"{who} train together, on one device. CUDA_VISIBLE_DEVICES chooses a GPU"
    return {**dict.fromkeys(_WHERE, f"{who} train together, in one place"), "--devices": device}


_OF_MEMBERS, _OF_SEEDS = _in_one_place("the members of a population"), _in_one_place("its seeds")

GROUPS = {
    "search": {
        "optuna-hp-search": Command(
            options.SearchOptions, training.starting("optuna-hp-search"), f"{_TRAINED} --n-trials 32"
        ),
        "tune": Command(
            command_options.TuneOptions,
            training.tune,
            "--space lr=loguniform:1e-4:1e-1 batch_size=choice:32,64 --metric accuracy --n-trials 20 -- python train.py",
        ),
        "run-study": Command(options.RunStudyOptions, training.run_study, "studies/sac_pendulum.yaml --n-trials 8"),
        "sweep-hp-samples": Command(
            options.SweepOptions,
            training.starting("sweep-hp-samples"),
            f"{_TRAINED} --num-samples 64",
            _OF_SWEEPS,
        ),
        "pbt": Command(options.PbtOptions, training.starting("pbt"), f"{_TRAINED} --population-size 8", _OF_MEMBERS),
        "agent": _at_once(joining.agent, _STUDY),
    },
    "look": {
        "list": _at_once(inspecting.list_studies, "my_optuna_studies"),
        "show": _at_once(inspecting.show, f"{_STUDY} 3"),
        "watch": _at_once(inspecting.watch, _STUDY),
        "report": _at_once(inspecting.report, _STUDY),
        "compare": _at_once(inspecting.compare, f"{_STUDY} my_sweeps/sac_mlp/gymnax_pendulum"),
        "dashboard": _at_once(inspecting.dashboard, f"{_STUDY} --port 0"),
    },
    "train": {
        "run-single-hp": Command(
            options.SingleOptions,
            training.run_single_hp,
            f"{_TRAINED} --set algorithm.hyperparam.gamma=0.98",
            _OF_SEEDS,
        ),
        "train": Command(options.TrainOptions, training.train, f"--from {_STUDY} --num-seeds 10", _OF_SEEDS),
        "pbt-replay": Command(
            options.ReplayOptions,
            training.pbt_replay,
            "my_pbt_runs/sac_mlp/gymnax_pendulum/pbt_schedule.json",
            _OF_SEEDS,
        ),
        "play": _at_once(keeping.play, f"{_STUDY} --episodes 10"),
    },
    "files": {
        "recipes": _at_once(keeping.recipes, "copy sac_mlp"),
        "generate-hp-samples": Command(
            options.GenerateOptions,
            training.generate_hp_samples,
            "--algo-and-network-config sac_mlp --num-samples 100",
        ),
        "export": _at_once(keeping.export, f"{_STUDY} --format json --output -"),
    },
    "maintenance": {
        "repair": _at_once(keeping.repair, _STUDY),
        "invalidate": _at_once(keeping.invalidate, f"{_STUDY} 3 5 --reason 'a wrong environment'"),
        "delete": _at_once(keeping.delete, _STUDY),
        "completion": _at_once(_completion, "bash"),
    },
}
"""Group -> its commands by name, in the order of `hyperlax --help`."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
