"""README and docs: their commands exist, their links lead somewhere, their tables are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperlax.cli.commands import COMMANDS, GROUPS
from hyperlax.cli.parsing import parse
from hyperlax.config.option import HIDDEN, options_of
from hyperlax.config.options import SearchOptions
from hyperlax.hyperparams import DQNHyperparams, PPOHyperparams, SACHyperparams, rules

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, ROOT / "benchmarks" / "README.md"]


def python_of(page: Path) -> list[str]:
    """The blocks of Python in a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    """The command lines of `hyperlax` in a page's shell blocks and indented lines, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    indented = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    blocks = [*re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL), indented]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(\S*/)?hyperlax |python3? -m hyperlax\.cli ", line)]


def typed(line: str) -> list[str]:
    """The words of a command line that hyperlax gets."""
    words = shlex.split(line, comments=True)
    words = words[3:] if words[1] == "-m" else words[1:]
    return words[: words.index(">")] if ">" in words else words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_read_as_it_stands(page):
    for line in commands(page):
        words = typed(line)
        if words == ["--help"]:
            continue
        assert parse(GROUPS, words)[0] == words[0]


def test_there_are_commands_to_read():
    assert sum(len(commands(page)) for page in PAGES) >= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_a_page_begins_with_its_job_and_a_command(page):
    title, job, *_ = page.read_text(encoding="utf-8").split("\n\n")
    assert title.startswith("# ") and job[0].isalpha()
    head = "\n".join(page.read_text(encoding="utf-8").splitlines()[:14])
    assert re.search(r"^( {4})?(\S*/)?(hyperlax|python3?|pytest) |^`pytest", head, flags=re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES[:-1] if page.stem != "words"], ids=lambda page: page.stem)
def test_every_page_links_to_the_words(page):
    assert re.search(r"\]\((docs/)?words\.md", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_readme_links_to_every_page(page):
    assert f"](docs/{page.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_options_has_every_option_with_its_default():
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    rows = {
        flag: default.replace("`", "") for flag, default in re.findall(r"^\| `(--\S+)` \|.*\| (.*) \|$", text, re.M)
    }
    options = [option for option in options_of(SearchOptions).values() if not option.has(HIDDEN)]
    assert rows == {option.flag: option.default_text().removeprefix("default: ") for option in options}


def test_the_way_of_a_value_can_be_read():
    """The parts that `architecture.md` lists exist, and are about as many lines as it says."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## One value, there and back")[2].partition("\n## ")[0]
    about = int(re.findall(r"about ([\d,]+) lines", section)[0].replace(",", ""))
    lines: set[tuple[str, int]] = set()
    for file, names in re.findall(r"^\| `(\S+\.py)` \| (.+?) \|", section, re.M):
        tree = ast.parse((ROOT / "hyperlax" / file).read_text(encoding="utf-8"))
        for name in re.findall(r"`(\S+)`", names):
            part = _part(tree, name)
            assert part, f"{file} has no {name}"
            lines |= {(file, line) for line in range(part.lineno, (part.end_lineno or 0) + 1)}
    assert len(lines) == pytest.approx(about, abs=100)


def _part(tree: ast.Module, name: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The class or function of a name, `Class.name` or `name`; a method may lack its class."""
    named = (ast.ClassDef, ast.FunctionDef)
    top = [node for node in tree.body if isinstance(node, named)]
    known = {node.name: node for node in top}
    for node in top:
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, named):
                known |= {f"{node.name}.{inner.name}": inner} | ({} if inner.name in known else {inner.name: inner})
    return known.get(name)


def test_two_hyperparameters_cannot_differ_inside_a_batch():
    """As the README says of every algorithm."""
    for bag in (PPOHyperparams, SACHyperparams, DQNHyperparams):
        static = {name for name, rule in rules(bag).items() if rule.kind == "static"}
        assert static == {"total_num_envs", "rollout_length"}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_ignores_what_the_commands_write_by_default(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    places = {
        option.default
        for command in COMMANDS.values()
        for name, option in options_of(command.kind).items()
        if name in ("output_root", "output") and isinstance(option.default, str)
    }
    assert {"my_optuna_studies", "my_pbt_runs", "comparison.html"} <= places
    written = [place if "." in place else f"{place}/a/b/report.html" for place in sorted(places)]
    written += ["sac_mlp_samples.csv", "ppo_mlp_gymnax_cartpole.journal.log", "mlflow.db"]
    checked = ["git", "-C", tmp_path, "check-ignore", *written]
    ignored = subprocess.run(checked, capture_output=True, text=True).stdout.split()
    assert ignored == written
