"""The commands in README and docs are commands that there are, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hyperlax.cli.commands import GROUPS
from hyperlax.cli.parsing import parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


def commands(page: Path) -> list[str]:
    """The command lines of `hyperlax` in a page's shell blocks and indented lines, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    indented = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    blocks = [*re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL), indented]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(\S*/)?hyperlax |python3? -m hyperlax\.cli ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_read_as_it_stands(page):
    for line in commands(page):
        words = shlex.split(line, comments=True)
        words = words[3:] if words[1] == "-m" else words[1:]
        words = words[: words.index(">")] if ">" in words else words
        if words == ["--help"]:
            continue
        assert parse(GROUPS, words)[0] == words[0]


def test_there_are_commands_to_read():
    assert sum(len(commands(page)) for page in PAGES) >= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link
