"""What the commands that look at studies accept, as typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from hyperlax.flags import flag

Directory = Annotated[str, Positional, arg(metavar="DIR", help="The study's directory.")]


@dataclass(frozen=True)
class ListFlags:
    """List the studies below a directory: how far each is, and its best."""

    root: Annotated[
        str, Positional, arg(metavar="ROOT", help="Where to look.", help_behavior_hint="(default: my_optuna_studies)")
    ] = "my_optuna_studies"


@dataclass(frozen=True)
class ShowFlags:
    """Show a study's best trials with their learning curves, or one trial whole."""

    directory: Directory
    trial: Annotated[
        int | None, Positional, arg(metavar="TRIAL", help="Its number.", help_behavior_hint="(default: the best ones)")
    ] = None
    top: Annotated[int, flag("INT", "How many of the best are shown.", "default: 10")] = 10


@dataclass(frozen=True)
class WatchFlags:
    """Follow a study that another process runs, until that ends."""

    directory: Directory
    top: Annotated[int, flag("INT", "How many of the best are shown.", "default: 10")] = 10
    seconds: Annotated[float, flag("SECONDS", "Between two looks.", "default: 2")] = 2.0


@dataclass(frozen=True)
class ReportFlags:
    """Write a study's report and plots again, as of now; also of one that runs, or that another machine made."""

    directory: Directory


@dataclass(frozen=True)
class CompareFlags:
    """Put studies side by side on one page: their best, confirmed on new seeds where that is known, and their curves."""

    directories: Annotated[
        tuple[str, ...],
        Positional,
        arg(metavar="DIR DIR [DIR ...]", help="The studies' directories.", help_behavior_hint="(required)"),
    ]
    output: Annotated[str, flag("FILE", "The page.", "default: comparison.html")] = "comparison.html"


@dataclass(frozen=True)
class ExportFlags:
    """Write a study's trials for another program to read."""

    directory: Directory
    format: Annotated[
        Literal["csv", "json", "parquet", "optuna-journal"],
        flag("{csv,json,parquet,optuna-journal}", "Of the file.", "default: csv"),
    ] = "csv"
    output: Annotated[
        str | None,
        flag("FILE", "Where to; it must not exist.", "default: <study name>.<format> in the working directory"),
    ] = None


@dataclass(frozen=True)
class CompletionFlags:
    """Print a script that completes commands and flags in a shell."""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional, arg(metavar="{bash,zsh,fish}", help="Which shell.")]


@dataclass(frozen=True)
class DeleteFlags:
    """Delete a study: what Hyperlax wrote into its directory, and nothing else."""

    directory: Directory
    yes: Annotated[bool, FlagCreatePairsOff, flag(None, "Do not ask.", "default: it asks")] = False


@dataclass(frozen=True)
class DashboardFlags:
    """Serve optuna-dashboard on a study's database, for a browser to look at; also while the study runs."""

    directory: Directory
    host: Annotated[str, flag("HOST", "The address that it listens at.", "default: 127.0.0.1, this machine alone")] = (
        "127.0.0.1"
    )
    port: Annotated[int, flag("INT", "The port; 0 takes a free one.", "default: 8080")] = 8080
