"""Modules whose loading is put off until somebody reads from them."""

import subprocess
import sys

import pytest

from hyperlax.envs.gymnax_suite import deferring

NAME = "deferred_for_this_test"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module on the path, not loaded yet."""
    (tmp_path / f"{NAME}.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield
    sys.modules.pop(NAME, None)


def test_what_is_imported_in_the_block_is_loaded_when_it_is_read(module):
    with deferring(NAME):
        import deferred_for_this_test as held  # pyright: ignore[reportMissingImports]
    assert NAME not in sys.modules
    assert held.value == 7 and NAME in sys.modules
    with pytest.raises(AttributeError):
        _ = held.missing


def test_reading_inside_the_block_loads_at_once(module):
    with deferring(NAME):
        from deferred_for_this_test import value  # pyright: ignore[reportMissingImports]
    assert value == 7 and sys.modules[NAME].value == 7


def test_a_module_that_is_loaded_already_is_left_alone():
    with deferring("json"):
        import json
    assert json.loads("7") == 7 and sys.modules["json"] is json


def test_an_environment_of_gymnax_loads_nothing_that_draws():
    code = (
        "import sys, hyperlax.envs as e; e.make('gymnax.cartpole'); print({'seaborn', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"
