"""Imports point downward: no cycle, inside functions and for types included, and each heavy package in its own rooms."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hyperlax"
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
HEAVY = {
    "optuna": ("hyperlax.samplers", "hyperlax.study"),
    "plotly": ("hyperlax.analysis", "hyperlax.api"),
    "jinja2": ("hyperlax.analysis",),
    "mlflow": ("hyperlax.tracking",),
    "tyro": ("hyperlax.cli",),
    "sklearn": ("hyperlax.schedulers.pb2",),
}
"""Package -> the rooms that may import it."""
UPWARD = [
    ("hyperlax.study", "hyperlax.analysis"),
    ("hyperlax.study", "hyperlax.tracking"),
    ("hyperlax.analysis", "hyperlax.tracking"),
    ("hyperlax.engine", "hyperlax.algorithms"),
    ("hyperlax.api", "hyperlax.cli"),
]
"""A room, and one that it does not know."""


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


def test_rooms_do_not_know_those_above_them() -> None:
    known = [
        (name, other)
        for name, others in GRAPH.items()
        for lower, upper in UPWARD
        if is_in(name, lower)
        for other in others
        if is_in(other, upper)
    ]
    assert known == []


def test_a_heavy_package_is_imported_in_its_rooms_only() -> None:
    elsewhere = [
        (name, heavy)
        for heavy, rooms in HEAVY.items()
        for name, others in GRAPH.items()
        if any(is_in(other, heavy) for other in others) and not any(is_in(name, room) for room in rooms)
    ]
    assert elsewhere == []
