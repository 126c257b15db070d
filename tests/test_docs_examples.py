"""The Python in the documentation's pages runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hyperlax.envs import make, registry

PAGE = Path(__file__).parents[1] / "docs" / "environments.md"


@pytest.mark.parametrize(("name", "size"), [("lab.tank", 1), ("lab.heavy_pole", 4)])
def test_an_environment_of_ones_own_is_what_the_protocol_asks_for(monkeypatch, name, size):
    (block,) = (
        text
        for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
        if f'register("{name}"' in text
    )
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(block, names)  # noqa: S102
    environment = make(name)
    assert (environment.name, environment.observation_size) == (name, size)
