"""What `list` takes for a study, and when it calls one finished."""

from __future__ import annotations

import json
import shutil

import pytest

from hyperlax.cli import main
from hyperlax.study.view import load_study
from tests.study_cases import FINITE, Case

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A finished study of 12 trials."""
    case = Case(tmp_path_factory.mktemp("studies"))
    assert case.start() == 0
    return case


@pytest.mark.parametrize("inside", ["mlartifacts/1/2/artifacts", "mlruns/1/2/artifacts", ".trash", "deep/.git/x"])
def test_copies_of_a_study_json_in_other_programs_directories_are_not_listed(case, tmp_path, capsys, inside):
    (tmp_path / inside).mkdir(parents=True)
    shutil.copy(case.directory / "study.json", tmp_path / inside)
    capsys.readouterr()
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No study below {tmp_path}.\n"


def test_a_root_that_is_hidden_is_listed_where_it_is_named(case, tmp_path, capsys):
    shutil.copytree(case.directory, tmp_path / ".studies")
    capsys.readouterr()
    assert main(["list", str(tmp_path / ".studies")]) == 0
    assert "12/12" in capsys.readouterr().out


@pytest.mark.parametrize("more", [{}, {"pruner": "median", "pruner_min_segments": 1}], ids=["plain", "pruned"])
def test_a_study_whose_space_is_used_up_is_finished(tmp_path, more):
    case = Case(tmp_path, FINITE, n_trials=100, **more)
    assert case.start(timeout=1e-9) == 0
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.finished, opened.total) == ("stopped", 0, 15)
    assert case.resume() == 0
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.finished, opened.total) == ("finished", 15, 15)


def test_a_sweep_may_repeat_a_configuration_of_a_finite_space(tmp_path):
    case = Case(tmp_path, FINITE, n_trials=4)
    case.start()
    stored = json.loads((case.directory / "study.json").read_text())
    stored["arguments"] |= {"sampling_method": "random", "n_trials": 20}
    (case.directory / "study.json").write_text(json.dumps(stored))
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.total) == ("stopped", 20)
