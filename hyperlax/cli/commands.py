"""The commands of `hyperlax`: read the words, check, call one function.

Only what `--help` needs is imported here, so that it answers at once and starts no accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from hyperlax.cli import inspecting, keeping, training
from hyperlax.cli.parsing import parse
from hyperlax.config import options
from hyperlax.config.option import POSITIONAL, Given, Metavar, OneOf, completed, flags_of
from hyperlax.errors import OptionError, UsageError

STUDIES = ("optuna-hp-search", "run-study", "sweep-hp-samples", "pbt")
"""The commands that run a study on disk."""


@dataclass(frozen=True, kw_only=True)
class _CompletionOptions:
    """Print a shell's completion script for commands and flags."""

    shell: Annotated[str, "The shell.", OneOf(("bash", "zsh", "fish")), POSITIONAL, Metavar("{bash,zsh,fish}")]


def run(words: Sequence[str]) -> int:
    """Run the command that the words of a command line name, without the program's name. Return the exit status."""
    command, given = parse(KINDS, words)
    kind, function = COMMANDS[command]
    try:
        if not given.get("json"):
            return function(given)
        from hyperlax.study.reporters import json_on_stdout

        with json_on_stdout():
            return function(given)
    except OptionError as error:
        raise UsageError(error.told(flags_of(kind))) from error


def completion(given: Given) -> int:
    """Print the script for a shell to source."""
    from hyperlax.cli.completion import shell_script

    print(shell_script(KINDS, completed(_CompletionOptions, given).shell), end="")
    return 0


COMMANDS: dict[str, tuple[type, Callable[[Given], int]]] = {
    "optuna-hp-search": (options.SearchOptions, training.starting("optuna-hp-search")),
    "run-study": (options.RunStudyOptions, training.run_study),
    "run-single-hp": (options.SingleOptions, training.run_single_hp),
    "train": (options.TrainOptions, training.train),
    "play": (keeping.PlayOptions, keeping.play),
    "generate-hp-samples": (options.GenerateOptions, training.generate_hp_samples),
    "sweep-hp-samples": (options.SweepOptions, training.starting("sweep-hp-samples")),
    "pbt": (options.PbtOptions, training.starting("pbt")),
    "pbt-replay": (options.ReplayOptions, training.pbt_replay),
    "repair": (keeping.RepairOptions, keeping.repair),
    "invalidate": (keeping.InvalidateOptions, keeping.invalidate),
    "list": (inspecting.ListOptions, inspecting.list_studies),
    "show": (inspecting.ShowOptions, inspecting.show),
    "watch": (inspecting.WatchOptions, inspecting.watch),
    "report": (inspecting.ReportOptions, inspecting.report),
    "compare": (inspecting.CompareOptions, inspecting.compare),
    "export": (keeping.ExportOptions, keeping.export),
    "delete": (keeping.DeleteOptions, keeping.delete),
    "dashboard": (inspecting.DashboardOptions, inspecting.dashboard),
    "completion": (_CompletionOptions, completion),
}
KINDS = {name: kind for name, (kind, _) in COMMANDS.items()}
"""Command -> the class that declares its options."""
