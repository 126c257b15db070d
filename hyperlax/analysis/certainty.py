"""Sentences on how certain a study's best is: luck, rivals, the default configuration and new seeds."""

from __future__ import annotations

from hyperlax.config.option import shell_command
from hyperlax.config.stored import SEARCH, command_of
from hyperlax.errors import counted, format_number
from hyperlax.study.manifest import train_command
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.study.statistics import in_short, instead_of_winner

EXACT = ("num_parameters",)
"""Objectives that do not depend on luck."""
_RETURNS = ("peak_performance", "final_performance")
"""Objectives that `seed_spread` can be compared with."""


def how_certain(record: StudyRecord) -> tuple[list[str], str]:
    """Return sentences on how certain the winner or the Pareto front is, and the shell command that follows from them.

    The command confirms the best, or trains the trial to take instead of the winner; "" if there is nothing to do, or if the
    command that made the study cannot confirm. The study needs a winner or a front. Objectives that do not depend on luck get
    no sentence.
    """
    if all(name in EXACT for name in record.objectives):
        return [], ""
    if record.confirmation and record.confirmation.best:
        instead = instead_of_winner(record.confirmation)
        command = "" if instead is None else train_command(record.directory, instead)
        return in_short(record.confirmation), command
    sentences = [_of_luck(record)]
    if len(record.objectives) == 1:
        sentences += [*_of_rivals(record), *_of_default(record)]
    if command_of(record.arguments) != SEARCH:  # only a search can confirm
        return sentences, ""
    sentences.append("Its performance on new seeds is not known. This finds out:")
    return sentences, shell_command(SEARCH, "--resume-from", record.directory, "--confirm-top", 3)


def _of_luck(record: StudyRecord) -> str:
    seeds, pruned = record.arguments["num_seeds"], sum(trial.state == "PRUNED" for trial in record.trials)
    compared = len(record.complete) + pruned
    on = "one seed" if seeds == 1 else counted(seeds, "seed")
    trials = f"{counted(compared, 'trial')} on {on}" + (f", {pruned} of them pruned" if pruned else "")
    if compared == 1:
        return f"It is the only COMPLETE trial, trained on {on}."
    if len(record.objectives) > 1:
        return (
            f"The front is that of {trials}. A trial is on it partly by luck: the values are probably too good, and other seeds "
            "would give another front."
        )
    return f"It is the best of {trials}. The larger a search, the more of its best value is luck: the value is probably too good."


def _of_rivals(record: StudyRecord) -> list[str]:
    """Name the second-best trial, and count the trials that are closer to the best than the spread over seeds."""
    best, *others = record.ranked
    if not others:
        return []
    ((name, _),) = record.objectives.items()
    equal = sum(trial.values[name] == best.values[name] for trial in others)
    also = "has the same value"
    if equal > 1:
        also += ", as does 1 other" if equal == 2 else f", as do {equal - 1} others"
    value = format_number(others[0].values[name])
    sentences = [f"Trial {others[0].number} {also}." if equal else f"Next comes trial {others[0].number} with {value}."]
    spread = best.metrics.get("seed_spread")
    if record.arguments["num_seeds"] > 1 and name in _RETURNS and spread is not None:
        close = sum(abs(best.values[name] - trial.values[name]) <= spread for trial in others)
        sentences.append(
            f"The final performance of its seeds has a standard deviation of {format_number(spread)}. Other trials within that "
            f"distance of the best: {close} of {len(others)}."
        )
    return sentences


def ahead_of_default(record: StudyRecord) -> tuple[TrialRecord, float] | None:
    """Return the recipe's default configuration and by how much the winner is better than it in the search.

    None if the default configuration is not a COMPLETE trial, or there is no single winner.
    """
    best = record.winners
    own = next((trial for trial in record.complete if record.is_the_recipes_own(trial)), None)
    if own is None or not best or len(record.objectives) > 1 or record.lineage:
        return None
    ((name, direction),) = record.objectives.items()
    ahead = best[0].values[name] - own.values[name]
    return own, -ahead if direction == "minimize" else ahead


def _of_default(record: StudyRecord) -> list[str]:
    """Compare the winner with the default configuration as the search measured both."""
    found = ahead_of_default(record)
    if found is None or found[0] is record.winners[0]:
        return []
    default, ahead = found
    value = format_number(default.values[next(iter(record.objectives))])
    words = f"better by {format_number(ahead)} on the search's own seeds, without an interval" if ahead else "no better"
    return [f"The default configuration, trial {default.number}, has {value}: the winner is {words}."]
