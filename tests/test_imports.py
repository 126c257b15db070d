"""Imports point downward: no cycle, inside functions and for types included, and each heavy package in its own rooms."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hyperlax"
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
HEAVY = {
    "optuna": (
        "hyperlax.samplers",
        "hyperlax.study",
        "hyperlax.tracking.mirror",
        "hyperlax.tracking.mirror_place",
        "hyperlax.metaflow",
    ),
    "plotly": ("hyperlax.analysis", "hyperlax.api"),
    "jinja2": ("hyperlax.analysis",),
    "mlflow": ("hyperlax.tracking", "hyperlax.backends.mlflow_runs"),
    "metaflow": ("hyperlax.metaflow",),
    "grpc": ("hyperlax.metaflow",),
    "tyro": ("hyperlax.cli",),
    "sklearn": ("hyperlax.schedulers.pb2",),
}
"""Package -> the rooms that may import it."""
ROOMS = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Rooms")[2]
ORDER = {
    name: place
    for place, row in enumerate(re.findall(r"^\| (`.+?) \|", ROOMS.partition("\n## ")[0], re.M))
    for name in re.findall(r"`(\w+)`", row)
}
"""Room -> its row in the table of `architecture.md`."""
STRANGERS = [("analysis", "tracking"), ("engine", "algorithms"), ("api", "cli")]
"""A room, and one in its own row or above that it does not know."""


def imported(name: str) -> set[str]:
    """The modules that a module imports: at load, in functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= modules or {node.module}
    return found


GRAPH = {name: imported(name) for name in FILES}


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def test_no_module_imports_itself_over_others() -> None:
    own = {name: {other for other in others if other in FILES and other != name} for name, others in GRAPH.items()}
    assert len(list(TopologicalSorter(own).static_order())) == len(FILES)  # CycleError names a cycle


def test_imports_follow_the_table_of_rooms() -> None:
    rooms = {name: name.split(".")[1] for name in FILES if name != "hyperlax"}
    assert set(rooms.values()) == set(ORDER)
    against = [
        (name, other)
        for name, room in rooms.items()
        for other in GRAPH[name] & rooms.keys()
        if not other.endswith(".registry") and (ORDER[rooms[other]] > ORDER[room] or (room, rooms[other]) in STRANGERS)
    ]
    assert against == []


def test_a_heavy_package_is_imported_in_its_rooms_only() -> None:
    elsewhere = [
        (name, heavy)
        for heavy, rooms in HEAVY.items()
        for name, others in GRAPH.items()
        if any(is_in(other, heavy) for other in others) and not any(is_in(name, room) for room in rooms)
    ]
    assert elsewhere == []
