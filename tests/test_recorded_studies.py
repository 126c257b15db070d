"""Studies come out as they were recorded: the same trials, curves and best files, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import recording

RECORDED = json.loads(recording.RECORDING.read_text())


@pytest.mark.parametrize("name", recording.STUDIES)
def test_a_study_comes_out_as_it_was_recorded(desk: Path, name: str) -> None:
    if recording.machine() != RECORDED["machine"]:
        pytest.skip(f"recorded on another machine: {RECORDED['machine']}")
    found, recorded = recording.run(desk, name), RECORDED[name]
    assert found["trials"] == recorded["trials"]
    assert found["curves"] == recorded["curves"]
    assert found["best"] == recorded["best"]
