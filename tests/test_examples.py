"""The examples in docstrings say what is so."""

import doctest
import importlib
from pathlib import Path

import pytest

import hyperlax

SOURCE = Path(hyperlax.__file__).parent
MODULES = [
    ".".join(("hyperlax", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_come_out_as_written(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0
