"""Studies with one odd value, as somebody else could send them, and every command that only looks at them.

python -m tests.faults.foreign --inputs 500 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperlax.analysis.pages import write_pages
from hyperlax.backends.wire import AgentCard
from hyperlax.backends.work import WORK, Work
from hyperlax.cli import main as hyperlax
from tests.fake_backend import FakeBackend
from tests.made_up_studies import policy
from tests.study_cases import Case
from tests.test_population_runs import Run

SECONDS = 100
DEEP = json.loads("[" * 200 + "]" * 200)
ODD_JSON: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        10**30,
        "",
        "x",
        "\x1b[31mred\r",
        "../../outside",
        "/etc/passwd",
        "=1+1",
        "9" * 5000,
    ),
    *([], [[]], [None], {}, {"a": {"b": 1}}, DEEP),
]
ODD_CELLS = ["", "x", "-1", "nan", "inf", "1e999", "1e308", "=1+1", "\x1b[31m", "9" * 5000, "[1]", '"', "a,b\n"]
ODD_SQL: list[Any] = [
    *(
        None,
        -1,
        0,
        10**18,
        1.5,
        1e308,
        float("inf"),
        "",
        "x",
        "\x1b[31mred",
        "null",
        "[]",
        "{}",
        "NaN",
        '"x"',
        '"/etc"',
    ),
    *("[" * 3000, b"\x00\xff", "9" * 5000),
]
SCHEMAS = [
    "CREATE VIEW v AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
    "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM trial_params; END",
    "ALTER TABLE trial_values ADD COLUMN c AS (value + 1)",
    "DROP TABLE trial_params",
    "DROP TABLE studies",
    "ALTER TABLE trials RENAME COLUMN number TO n",
    "CREATE VIRTUAL TABLE f USING fts5(x)",
    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (1, 1, 2, 'FINITE')",
    "DELETE FROM trials WHERE number = 1",
    "UPDATE trial_params SET param_name = 'renamed' WHERE param_id = 2",
]
FILES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{"),
    "a directory": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    "a link outside": lambda path: path.symlink_to(
        path.parents[len(path.parts) - 1 - path.parts.index("received")] / "outside" / "precious"
    ),
    "sparse": lambda path: _sparse(path),
}


@dataclass(frozen=True)
class Input:
    """A change of a study: the file, what of it, and how."""

    file: str
    what: str
    apply: Callable[[Path], object]


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.unlink()
        make(path)

    return apply


def inputs(directory: Path) -> list[Input]:
    """Every change of a study."""
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix not in (".html", ".js")):
        file = path.relative_to(directory).as_posix()
        found += [Input(file, how, _replaced(make)) for how, make in FILES.items()]
        found.append(Input(file, "half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])))
        if path.suffix in (".json", ".jsonl"):
            found += _of_json(path, file)
        elif path.suffix == ".csv":
            found += _of_csv(path, file)
        elif path.name == "optuna_study.db":
            found += _of_sql(path, file)
    return found


def _of_json(path: Path, file: str) -> Iterator[Input]:
    for line, text in enumerate(path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]):
        for place in _places(json.loads(text)):
            for odd in (*ODD_JSON, ...):
                shown = f"line {line}, {'.'.join(map(str, place))} = {'gone' if odd is ... else repr(odd)[:40]}"
                yield Input(
                    file, shown, lambda path, line=line, place=place, odd=odd: _edit_json(path, line, place, odd)
                )


def _places(value: Any, below: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if below:
        yield below
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in items:
        yield from _places(one, (*below, name))


def _edit_json(path: Path, line: int, place: tuple[Any, ...], odd: Any) -> None:
    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    whole = node = json.loads(texts[line])
    for name in place[:-1]:
        node = node[name]
    if odd is ...:
        del node[place[-1]]
    else:
        node[place[-1]] = odd
    texts[line] = json.dumps(whole)
    path.write_text("\n".join(texts) + "\n")


def _of_csv(path: Path, file: str) -> Iterator[Input]:
    rows = list(csv.reader(path.read_text().splitlines()))
    for row in {0, 1, len(rows) - 1} & set(range(len(rows))):
        for column in range(len(rows[row])):
            for odd in ODD_CELLS:
                shown = f"row {row}, column {column} = {odd[:40]!r}"
                yield Input(
                    file, shown, lambda path, row=row, column=column, odd=odd: _edit_csv(path, row, column, odd)
                )


def _edit_csv(path: Path, row: int, column: int, odd: str) -> None:
    rows = list(csv.reader(path.read_text().splitlines()))
    rows[row][column] = odd
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _of_sql(path: Path, file: str) -> Iterator[Input]:
    for statement in SCHEMAS:
        yield Input(file, statement, lambda path, s=statement: _edit_sql(path, s))
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
            for row in rows if len(rows) < 12 else [*rows[:4], *rows[len(rows) // 2 :][:4], *rows[-4:]]:
                for column in columns:
                    for odd in ODD_SQL:
                        statement = f'UPDATE {table} SET "{column}" = ? WHERE rowid = {row}'
                        shown = f"{table}, row {row}, {column} = {odd!r:.40}"
                        yield Input(file, shown, lambda path, s=statement, odd=odd: _edit_sql(path, s, odd))


def _edit_sql(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)
        connection.commit()


def search(root: Path) -> Path:
    """Run a search with a failed trial, a confirmation and a trial that plain Optuna added. Return its directory."""
    given: dict[str, Any] = {"n_trials": 4, "optuna_study_batch_size": 2, "save_agents": "all"}
    confirmed = {"confirm_top": 1, "confirm_seeds": 2, "confirmer": FakeBackend().bind}
    case = Case(root, write_pages=write_pages, **given, **confirmed)
    assert case.start(FakeBackend(fail={3: "loss is nan"}, policy=policy())) == 0
    case.study().enqueue_trial(dict.fromkeys(case.space, 1))
    return case.directory


def population(root: Path) -> Path:
    """Run a population. Return its directory."""
    run = Run(root, population_size=3, num_intervals=2, total_timesteps=200)
    assert run.start() == 0
    return run.directory


KINDS = {"search": search, "population": population}


class Desk:
    """A received study, and beside it what no command may change."""

    def __init__(self, scratch: Path, kind: str = "search"):
        self.root, self.outside = scratch / "received", scratch / "outside"
        self.whole = KINDS[kind](scratch / "whole")
        (self.whole / WORK).mkdir(exist_ok=True)
        Work(self.whole).write_card("host-1-a", AgentCard("host", 1, "cpu", 1, "today", {"b": ([0], 1, 2)}))
        Work(self.whole).lead("engine")
        shutil.copytree(self.whole, self.outside / "other")
        (self.outside / "precious").write_text("precious")
        (self.outside / "here").mkdir()

    def inputs(self) -> list[Input]:
        return inputs(self.whole)

    def try_one(self, one: Input, commands: list[str]) -> list[str]:
        """Run commands on the study with a change. Return what was wrong, in a line each."""
        wrong = []
        for command in commands:
            shutil.rmtree(self.root, ignore_errors=True)
            directory = self.root / "study"
            shutil.copytree(self.whole, directory)
            one.apply(directory / one.file)
            wrong += [f"{one.file}: {one.what}: {command}: {fault}" for fault in self._faults(command, directory)]
        return wrong

    def _faults(self, command: str, directory: Path) -> Iterator[str]:
        words = {
            "list": ["list", self.root],
            "show": ["show", directory],
            "show 1": ["show", directory, 1],
            "watch": ["watch", directory],
            "report": ["report", directory],
            "export": ["export", directory, "--output", self.root / "out.csv"],
            "play": ["play", directory, "--trial", 1, "--episodes", 1, "--no-gif"],
            "export json": ["export", directory, "--format", "json", "--output", self.root / "out.json"],
            "compare": ["compare", directory, self.outside / "other", "--output", self.root / "out.html"],
        }[command]
        before, began = _state(self.outside), time.monotonic()
        inside = None if command == "report" else _state(directory)
        status, said = _run(list(map(str, words)), self.outside / "here")
        if time.monotonic() - began > SECONDS:
            yield f"took {time.monotonic() - began:.0f} s"
        if status not in (0, 1, 2):
            yield str(status)
        elif status and "hyperlax: " not in said:
            yield f"exit {status} without a sentence"
        if "\x1b" in said or "\r" in said:
            yield "printed a control character"
        if _state(self.outside) != before:
            yield "changed something outside"
        if inside is not None and _state(directory) != inside:
            yield "changed the study"


COMMANDS = ["list", "show", "show 1", "watch", "report", "export", "export json", "compare"]


def _run(words: list[str], here: Path) -> tuple[Any, str]:
    """Return the exit status of a command, or its exception, and all that it printed."""
    out, there = io.StringIO(), Path.cwd()

    def too_long(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS + 1)
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            return hyperlax(words), out.getvalue()
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = [f for f in traceback.extract_tb(error.__traceback__) if "/hyperlax/" in f.filename][-1:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (last, *own))
        return f"{type(error).__name__}: {str(error)[:150]!r} at {where}", out.getvalue()
    finally:
        os.chdir(there)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _state(directory: Path) -> dict[str, str]:
    """Every file below a directory -> what it is."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 2**28:
            found[str(path)] = "" if not path.is_symlink() else os.readlink(path)
        else:
            found[str(path)] = hashlib.md5(path.read_bytes()).hexdigest()
    return found


def attack(desk: Desk, count: int, seed: int, commands: int = 8, file: str = "") -> Iterator[str]:
    """Yield what was wrong with so many inputs, each with so many commands.

    They are drawn at random, more of a file with more of them, but not in proportion. file: the end of its name, of one file only.
    """
    draw, by_file = random.Random(seed), dict[str, list[Input]]()
    for one in desk.inputs():
        if one.file.endswith(file):
            by_file.setdefault(one.file, []).append(one)
    for ones in by_file.values():
        draw.shuffle(ones)
    for _ in range(min(count, sum(map(len, by_file.values())))):
        left = [ones for ones in by_file.values() if ones]
        (ones,) = draw.choices(left, [len(ones) ** 0.5 for ones in left])
        one = ones.pop()
        is_agent = one.file.startswith("agents/")
        yield from desk.try_one(one, ["play"] if is_agent else draw.sample(COMMANDS, commands))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, default="search")
    parser.add_argument("--commands", type=int, default=8)
    parser.add_argument("--file", default="", help="the end of the name of the only file to change")
    given = parser.parse_args()
    count = 0
    with tempfile.TemporaryDirectory() as scratch:
        desk = Desk(Path(scratch), given.kind)
        print(f"{len(desk.inputs())} inputs in all")
        for fault in attack(desk, given.inputs, given.seed, given.commands, given.file):
            print(fault, flush=True)
            count += 1
    print(f"{given.inputs} inputs with {given.commands} commands each: {count} faults.")
    sys.exit(bool(count))


if __name__ == "__main__":
    main()
