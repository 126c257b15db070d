"""Processes and functions timed in turn, and Markdown rows of their ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperlax.files import read_csv

Sample = Mapping[str, float]
"""Seconds of one case in one round, by quantity: "wall", "CPU" and others."""


@dataclass(frozen=True)
class Row:
    """A row of a table: one quantity of two cases.

    base, own: the cases; a base that was not measured leaves its cells empty. mark: the ratio base / own to reach. limit: the
    seconds that own may take. steps: show speeds for this many steps, not seconds.
    """

    name: str
    quantity: str
    base: str
    own: str
    mark: float | None = None
    limit: float | None = None
    steps: float | None = None


@dataclass(frozen=True)
class Version:
    """A checkout of Hyperlax, and the Python that runs it."""

    name: str
    root: Path
    python: Path

    def search(self, words: str, cache: Path, limit: float | None = None) -> Sample:
        """Run a whole `optuna-hp-search` in its own process and return its seconds.

        Besides the quantities of `process`: "start", from the start of the process until the first trial is in a lane of a loaded
        program; "end", from the last finished batch to the end of the process; "programs", the number compiled; "steps", the
        environment steps trained, in millions.
        """
        with tempfile.TemporaryDirectory() as scratch:
            command = [str(self.python), "-P", "-m", "hyperlax.cli", "optuna-hp-search", *words.split()]
            environment = {"PYTHONPATH": str(self.root), "HYPERLAX_CACHE_DIR": str(cache)}
            began = time.time()
            sample = process([*command, "--output-root", scratch], environment, limit)
            return {**sample, **_left_behind(Path(scratch), began, began + sample["wall"])}


def _left_behind(study: Path, began: float, ended: float) -> Sample:
    """Return what the files of a study say about its run. Both versions write these files.

    Raises:
      SystemExit: a batch failed, which would make the seconds meaningless.
    """
    timings = [json.loads(path.read_text()) for path in study.rglob("timing.json")]
    if errors := [timing["traceback"] for timing in timings if timing.get("error")]:
        raise SystemExit(f"a batch failed:\n{errors[0]}")
    intervals = [row for path in study.rglob("timeline.csv") for row in read_csv(path)]
    first = min(float(row["process"]) + float(row["began"]) for row in intervals)
    last = max(path.stat().st_mtime for path in study.rglob("samples/*/success.txt"))
    curves = [row for path in study.rglob("curves.csv") for row in read_csv(path)]
    trained = {(row["trial"], row["seed"]): int(row["step"]) for row in curves}  # the last row of each
    return {
        "start": first - began,
        "end": ended - last,
        "programs": sum(timing["programs_compiled"] for timing in timings),
        "steps": sum(trained.values()) / 1e6,
    }


def process(command: Sequence[str], environment: Mapping[str, str], limit: float | None = None) -> Sample:
    """Run a command and return its seconds of wall time and of CPU time, children included.

    Raises:
      TimeoutError: it was stopped after `limit` seconds.
      SystemExit: it failed; its messages are shown.
    """
    environment = {**os.environ, **environment}
    with tempfile.TemporaryFile("w+") as messages:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages, env=environment)
        watchdog = threading.Timer(limit or threading.TIMEOUT_MAX, child.kill)
        watchdog.start()
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        watchdog.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if limit and wall >= limit:
            raise TimeoutError(f"stopped after {limit:.0f} s")
        if child.returncode:
            messages.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{messages.read()[-4000:]}")
    return {"wall": wall, "CPU": used.ru_utime + used.ru_stime}


def in_turn(cases: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Return a sample per round of each case. Every second round runs them in reverse order."""
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name in list(cases)[:: -1 if turn % 2 else 1]:
            samples[name].append(cases[name]())
            shown = ", ".join(f"{quantity} {value:.2f}" for quantity, value in samples[name][-1].items())
            print(f"round {turn + 1} of {rounds}, {name}: {shown}", file=sys.stderr, flush=True)
    return samples


def print_table(rows: Sequence[Row], samples: Mapping[str, Sequence[Sample]]) -> None:
    """Print the medians of both cases, the median of their paired ratios with the least and the greatest one, and the mark."""
    bases, owns = (" / ".join(dict.fromkeys(names)) for names in ([r.base for r in rows], [r.own for r in rows]))
    print(f"| | time | {bases} | {owns} | ratio | mark |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(cells(row, samples))} |", flush=True)


def cells(row: Row, samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return the cells of a row."""
    base, own = ([sample[row.quantity] for sample in samples.get(name, ())] for name in (row.base, row.own))
    ratios = [theirs / ours for theirs, ours in zip(base, own, strict=True)] if base else []
    mark = ""
    if row.mark is not None:
        mark = f"{row.mark:g}" + (", missed" if ratios and statistics.median(ratios) < row.mark else "")
    elif row.limit is not None:
        mark = f"{row.limit:g} s" + (", missed" if statistics.median(own) > row.limit else "")
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    return [row.name, row.quantity, _shown(base, row.steps), _shown(own, row.steps), spread, mark]


def _shown(seconds: Sequence[float], steps: float | None) -> str:
    if not seconds:
        return ""
    middle = statistics.median(seconds)
    return f"{steps / middle:,.0f} steps/s" if steps else f"{middle:.1f} s"
