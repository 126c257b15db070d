"""What cannot run is refused in one line, with exit status 2, before anything is written.

The tables in `bad_input/` hold the exact words: what was typed, then what is said; LINE stands for a line's number.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.envs import make
from hyperlax.errors import counted
from hyperlax.recipe import load
from tests.desk import ROOT

TABLES = Path(__file__).parent / "bad_input"
WORDS: dict[str, str] = {
    "SEARCH": "optuna-hp-search --algo-and-network-config sac_mlp --env-config gymnax.pendulum",
    "SWEEP": "sweep-hp-samples --algo-and-network-config sac_mlp --env-config gymnax.pendulum",
    "SINGLE": "run-single-hp --algo-and-network-config sac_mlp --env-config gymnax.pendulum",
    "LONG": "x" * 300,
    "LATIN": "caf\udce9",
    "NOTHING": "",
    "CODE": "optuna-hp-search --algo-and-network-config own_code.py",
    "LANES": "optuna-hp-search --algo-and-network-config own_lanes.py",
}
EDITED: dict[str, tuple[Path, str, str]] = {
    "edits": (
        ROOT / "recipes" / "sac_mlp.py",
        "recipes/edited.py",
        "optuna-hp-search --algo-and-network-config edited --env-config gymnax.pendulum",
    ),
    "environments": (
        TABLES / "tanks.py",
        "tanks.py",
        "optuna-hp-search --algo-and-network-config tanks.py --env-config lab.tanks",
    ),
    "own_code": (TABLES / "own_code.py", "own_code.py", WORDS["CODE"]),
    "own_lanes": (TABLES / "own_lanes.py", "own_lanes.py", WORDS["LANES"]),
    "search_spaces": (TABLES / "spaces.yaml", "spaces.yaml", "run-study spaces.yaml --space ppo --preset quick_test"),
    "sweep_files": (TABLES / "sweep.yaml", "sweep.yaml", "run-study sweep.yaml --quiet"),
}
"""Table of edits -> the file that they edit, its name here, and the command that reads it."""


def table(name: str) -> list[tuple[str, ...]]:
    """The cases of a table: their lines, cases separated by an empty one."""
    text = (TABLES / f"{name}.txt").read_text(encoding="utf-8")
    return [tuple(case.splitlines()) for case in text.strip().split("\n\n")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory to work in that holds an empty file, a script and recipes of tasks."""
    monkeypatch.chdir(tmp_path)
    for name in ("a_file", "train.py"):
        Path(name).write_text("")
    for name in ("own_code.py", "own_lanes.py"):
        shutil.copy(TABLES / name, name)


def refused(words: Sequence[str], capsys: Any) -> str:
    """The one line that a command is refused with; nothing is written."""
    before = sorted(Path().rglob("*"))
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("hyperlax: ") and said.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return said.err.removeprefix("hyperlax: ").removesuffix("\n")


def texts_of_refusals(node: ast.AST) -> Iterator[str]:
    """The texts below a node, without the words of command lines."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "shell_command":
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for below in ast.iter_child_nodes(node):
        yield from texts_of_refusals(below)


def test_no_refusal_spells_an_option():
    """Options are named as data, so that a file and Python see their own names of them."""
    spelled = []
    for path in sorted((ROOT / "hyperlax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "OptionFailure")):
                texts = [text for text in texts_of_refusals(node) if re.search(r"--(?!help)[a-z]", text)]
                spelled += [(str(path.relative_to(ROOT)), node.lineno, text) for text in texts]
    assert spelled == []


PLURAL = (
    "(trials|batches|seeds|evaluations|copies|rollouts|lanes|members|rows|configurations|intervals|points|slots|cells)"
)


def test_every_number_has_its_noun_from_one_function():
    """`errors.counted` puts a number into words, so that 1 is followed by no plural."""
    written = []
    for path in sorted((ROOT / "hyperlax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.JoinedStr, ast.Constant)):
                text = ast.unparse(node)
                if re.search(rf"(?<!/){{[^{{}}]+}} {PLURAL}\b" if text.startswith("f") else rf"%d {PLURAL}\b", text):
                    written.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert written == []
    assert [counted(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


@pytest.mark.parametrize(("typed", "said"), table("commands"), ids=lambda value: value[:60])
def test_a_command_is_refused(capsys, typed: str, said: str):
    assert refused(
        shlex.split(
            " ".join(re.sub("[A-Z]{4,}", lambda found: WORDS.get(found[0], found[0]), word) for word in typed.split())
        ),
        capsys,
    ) == said.replace("ROOT", str(ROOT))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("gymnax.pendulm", "gymnax.pendulum"),
        ("pendulum", "gymnax.pendulum"),
        ("gymnax.CartPole", "gymnax.CartPole-v1"),
        ("probe.truncation", "probe.truncation_discrete"),
    ],
)
def test_an_unknown_environment_is_refused_with_the_nearest_and_the_list(capsys, name, nearest):
    said = refused(f"optuna-hp-search --algo-and-network-config sac_mlp --env-config {name}".split(), capsys)
    assert said.startswith(f"no environment named `{name}`. Did you mean ")
    assert f"`{nearest}`" in said.partition("There are: ")[0]
    assert "There are: gymnax.cartpole, gymnax.pendulum, " in said


@pytest.mark.parametrize("root", ["", " "])
def test_an_empty_output_root_is_refused(capsys, root):
    said = refused([*WORDS["SEARCH"].split(), "--output-root", root], capsys)
    assert said == "--output-root is empty. Name a directory, or leave it out."


@pytest.mark.parametrize(("entry", "said"), table("entries"), ids=lambda value: value[:60])
def test_an_entry_of_a_search_space_is_refused(capsys, entry, said):
    text = (ROOT / "recipes" / "sac_mlp.py").read_text()
    old = next(line for line in text.splitlines(keepends=True) if '"algorithm.hyperparam.gamma": ' in line)
    check_edit("edits", old, f'"algorithm.hyperparam.gamma": {entry},\n', said, capsys)


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [(name, *case) for name in EDITED for case in table(name)],
    ids=lambda value: value[:60],
)
def test_an_edit_of_a_file_is_refused(capsys, tmp_path, name, old, new, said):
    check_edit(name, old, new.replace("\\n", "\n"), said.replace("HERE", str(tmp_path)), capsys)


def check_edit(name: str, old: str, new: str, said: str, capsys: Any) -> None:
    """Check what the command of a table is refused with when its file is edited."""
    file, here, command = EDITED[name]
    text = file.read_text(encoding="utf-8")
    assert old in text
    Path(here).parent.mkdir(exist_ok=True)
    Path(here).write_text(text.replace(old, new, 1), encoding="utf-8")
    found = refused(command.split(), capsys)
    assert (re.sub(r"(\.py):\d+", r"\1:LINE", found) if "LINE" in said else found) == said


@pytest.mark.usefixtures("empty_registry")
def test_the_environment_that_the_table_edits_is_accepted():
    load(str(TABLES / "tanks.py"))
    assert make("lab.tanks").observation_size == 2
