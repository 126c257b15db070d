"""The recipes and studies that come with Hyperlax: found by name, described in a line, copied to be edited."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from hyperlax.errors import UsageError, did_you_mean

_PACKAGE = Path(__file__).parent
_ENDINGS = {"recipes": ".py", "studies": ".yaml"}


@dataclass(frozen=True)
class Shipped:
    """A file that comes with Hyperlax. kind: "recipes" or "studies", also the folder where it is looked up."""

    name: str
    kind: str
    path: Path

    @property
    def line(self) -> str:
        """The first line of its description."""
        text = self.path.read_text(encoding="utf-8")
        told = (ast.get_docstring(ast.parse(text)) or "") if self.kind == "recipes" else text.lstrip("# ")
        return told.partition("\n")[0]


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped "recipes" or "studies": in the package of a wheel, or else in the clone."""
    installed = _PACKAGE / "shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def shipped(kind: str) -> list[Shipped]:
    """Return the shipped "recipes" or "studies", by name."""
    paths = sorted(shipped_folder(kind).glob(f"[!_]*{_ENDINGS[kind]}"))
    return [Shipped(path.stem, kind, path) for path in paths]


def shipped_file(name: str) -> Shipped:
    """Return a shipped recipe or study by name, with or without its ending. Raises UsageError if there is none."""
    known = {one.name: one for kind in _ENDINGS for one in shipped(kind)}
    stem = name.removesuffix(".py").removesuffix(".yaml")
    if stem not in known:
        raise UsageError(
            f"no shipped recipe or study named `{name}`. {did_you_mean(stem.lower(), known)}See hyperlax recipes."
        )
    return known[stem]
