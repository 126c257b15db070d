"""A study received from somebody else is safe to look at, whatever is in it, and to continue."""

from __future__ import annotations

import pytest

from tests.faults.foreign import Desk, attack


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("received"))


def test_odd_values_end_in_a_sentence(desk):
    assert list(attack(desk, 20, seed=0, commands=2)) == []


@pytest.mark.slow
def test_many_odd_values_end_in_a_sentence(desk):
    assert list(attack(desk, 100, seed=1)) == []
