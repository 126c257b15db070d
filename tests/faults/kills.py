"""Kills studies of every kind with SIGKILL at random moments, and says what was lost.

python -m tests.faults.kills --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from tests.desk import rows
from tests.faults import study
from tests.faults.agents import kill_leaders_and_agents
from tests.faults.harness import TOY, Differences, check_files, differences, kill_often
from tests.faults.study import PRUNED, killed_after
from tests.mlflow_store import Seen


@dataclass(frozen=True)
class Mode:
    """A kind of study. kills: of 200 in all.

    start: starts or resumes the one of an output root. below: where it is in there. more: all else that two runs of it must
    agree on, made of an output root.
    """

    start: Callable[[Path], int]
    kills: int
    below: Path = TOY
    more: Callable[[Path], Any] = lambda root: None


def confirmed(root: Path) -> list[dict[str, str]]:
    """The confirmation, without times."""
    return [
        {name: value for name, value in row.items() if "seconds" not in name}
        for row in rows(root / TOY / "confirmation.csv")
    ]


def in_mlflow(root: Path) -> Any:
    """All that MLflow holds of a study, without times and batches."""
    seen = Seen(study.store_beside(root), root.name)
    assert seen.numbers == list(range(len(seen.numbers))) and len(seen.parents) == 1
    return {
        number: (status, params, {name: tag for name, tag in tags.items() if "batch" not in name}, histories)
        for number, (status, params, tags, histories) in seen.told().items()
    }


RACING: dict[str, Any] = {**PRUNED, "seed_schedule": "racing", "num_seeds": 3}
MODES: dict[str, Mode] = {
    "search": Mode(study.search, 20),
    "hyperband": Mode(partial(study.search, **PRUNED), 30),
    "hyperband, racing seeds": Mode(partial(study.search, **RACING), 30),
    "`--confirm-top`": Mode(partial(study.search, n_trials=8, confirm_top=3, confirm_seeds=4), 30, more=confirmed),
    "sweep": Mode(study.sweep, 20),
    "population": Mode(study.population, 20),
    "`--track mlflow`": Mode(study.tracked, 10, more=in_mlflow),
    "function": Mode(partial(study.processes, task=study.FUNCTION), 5, Path("studies/made")),
    "command": Mode(partial(study.processes, task=study.COMMAND), 5, Path("studies/made")),
}
AGENTS: dict[str, dict[str, Any]] = {
    "agents": {},
    "agents, hyperband": PRUNED,
    "agents, racing seeds": {"seed_schedule": "racing", "num_seeds": 3},
}
"""Kinds of studies whose leaders and agents are killed -> changes to their arguments. They get 10 kills of 200 each."""


def kill_mode(name: str, scratch: Path, kills: int, seed: int) -> list[Differences]:
    """Kill studies of a kind so many times; how each differs from an undisturbed one."""
    scratch.mkdir()
    if name in AGENTS:
        return _kill_agents(scratch, kills, seed, AGENTS[name])
    mode = MODES[name]
    found = kill_often(partial(killed_after, mode.start), mode.below, scratch, kills, seed)
    whole = mode.more(scratch / "whole")
    same = [mode.more(scratch / f"killed_{number}") == whole for number in range(len(found))]
    return [one if is_same else one._replace(unequal=one.trials) for one, is_same in zip(found, same, strict=True)]


def _kill_agents(scratch: Path, kills: int, seed: int, changes: dict[str, Any]) -> list[Differences]:
    died, found = 0, list[Differences]()
    status, errors = killed_after(partial(study.search, **changes), scratch / "whole", 600)
    assert status == 0, errors
    while died < kills:
        root = scratch / f"killed_{len(found)}"
        died += kill_leaders_and_agents(root, kills - died, seed=seed + len(found), **changes)
        check_files(root / TOY)
        found.append(differences(root / TOY, scratch / "whole" / TOY))
    return found


def main(words: Sequence[str] | None = None) -> bool:
    """Print a table of what was killed and lost; whether nothing was lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modes", nargs="+", choices=[*MODES, *AGENTS], default=[*MODES, *AGENTS])
    given = parser.parse_args(words)
    shares = {name: MODES[name].kills if name in MODES else 10 for name in given.modes}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began, total = time.monotonic(), [0] * 6
    print(
        "| mode | kills | studies | trials | lost | recorded twice | unequal |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        for place, (name, share) in enumerate(shares.items()):
            kills = max(1, round(given.kills * share / sum(shares.values())))
            found = kill_mode(name, Path(scratch, str(place)), kills, given.seed)
            row = [kills, len(found), *map(sum, zip(*found, strict=True))]
            total = [before + now for before, now in zip(total, row, strict=True)]
            print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
    print(f"| all | {' | '.join(map(str, total))} |\n\n{time.monotonic() - began:.0f} s")
    return not any(total[3:])


if __name__ == "__main__":
    sys.exit(not main())
