"""The examples in docstrings say what is so."""

import doctest
import importlib
from pathlib import Path

import pytest

import hyperlax
from tests.study_cases import Case

SOURCE = Path(hyperlax.__file__).parent
MODULES = [
    ".".join(("hyperlax", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study of 12 trials."""
    case = Case(tmp_path_factory.mktemp("studies"), n_trials=12)
    assert case.start() == 0
    return case.directory


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_come_out_as_written(name, study):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"directory": study} if name == "hyperlax.api" else {})
    assert result.attempted > 0 and result.failed == 0
    assert all(
        "+SKIP" not in example.source for test in doctest.DocTestFinder().find(module) for example in test.examples
    )
