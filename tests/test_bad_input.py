"""What cannot run is refused in one line, with exit status 2, before anything is written.

The tables in `bad_input/` hold the exact words: what was typed, then what is said; LINE stands for a line's number.
"""

from __future__ import annotations

import ast
import re
import shlex
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
}


def table(name: str) -> list[tuple[str, ...]]:
    """The cases of a table: their lines, cases separated by an empty one."""
    text = (TABLES / f"{name}.txt").read_text(encoding="utf-8")
    return [tuple(case.splitlines()) for case in text.strip().split("\n\n")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory to work in that holds nothing but a file."""
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("")


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


def test_there_are_many_cases():
    assert sum(len(table(name)) for name in ("commands", "entries", "edits")) >= 80


@pytest.mark.parametrize(("typed", "said"), table("commands"), ids=lambda value: value[:60])
def test_a_command_is_refused(capsys, typed: str, said: str):
    assert refused(
        shlex.split(
            " ".join(re.sub("[A-Z]{4,}", lambda found: WORDS.get(found[0], found[0]), word) for word in typed.split())
        ),
        capsys,
    ) == said.replace("ROOT", str(ROOT))


@pytest.mark.parametrize("name", ["gymnax.pendulm", "pendulum"])
def test_an_unknown_environment_is_refused_with_the_nearest_and_the_list(capsys, name):
    said = refused(f"optuna-hp-search --algo-and-network-config sac_mlp --env-config {name}".split(), capsys)
    assert said.startswith(f"no environment named `{name}`. Did you mean `gymnax.pendulum` or ")
    assert "There are: gymnax.cartpole, gymnax.pendulum, " in said


@pytest.mark.parametrize("root", ["", " "])
def test_an_empty_output_root_is_refused(capsys, root):
    said = refused([*WORDS["SEARCH"].split(), "--output-root", root], capsys)
    assert said == "--output-root is empty. Name a directory, or leave it out."


def said_of_recipe(text: str, capsys: Any) -> str:
    Path("recipes").mkdir()
    Path("recipes/edited.py").write_text(text, encoding="utf-8")
    words = "optuna-hp-search --algo-and-network-config edited --env-config gymnax.pendulum"
    return re.sub(r"^recipes/edited\.py:\d+:", "recipes/edited.py:LINE:", refused(words.split(), capsys))


@pytest.mark.parametrize(("entry", "said"), table("entries"), ids=lambda value: value[:60])
def test_an_entry_of_a_search_space_is_refused(capsys, entry, said):
    text = (ROOT / "recipes" / "sac_mlp.py").read_text()
    text, count = re.subn(r'("algorithm.hyperparam.gamma": ).*\n', lambda found: f"{found[1]}{entry},\n", text)
    assert count == 1
    assert said_of_recipe(text, capsys) == said


@pytest.mark.parametrize(("old", "new", "said"), table("edits"), ids=lambda value: value[:60])
def test_an_edit_of_a_recipe_is_refused(capsys, old, new, said):
    text = (ROOT / "recipes" / "sac_mlp.py").read_text()
    assert old in text
    assert said_of_recipe(text.replace(old, new.replace("\\n", "\n"), 1), capsys) == said


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize(("old", "new", "said"), table("environments"), ids=lambda value: value[:60])
def test_an_edit_of_a_users_own_environment_is_refused(capsys, old, new, said):
    text = (TABLES / "tanks.py").read_text()
    assert text.count(old) == 1
    Path("tanks.py").write_text(text.replace(old, new))
    words = "optuna-hp-search --algo-and-network-config tanks.py --env-config lab.tanks"
    assert refused(words.split(), capsys) == f"environment `lab.tanks`: {said}"


@pytest.mark.usefixtures("empty_registry")
def test_the_environment_that_the_table_edits_is_accepted():
    load(str(TABLES / "tanks.py"))
    assert make("lab.tanks").observation_size == 2
