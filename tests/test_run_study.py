"""`run-study` with several files: in what order they run, what the last line says; and the files that ship."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.cli.commands import GROUPS
from hyperlax.cli.parsing import parse
from hyperlax.errors import HyperlaxError, OptionError, UsageError
from hyperlax.file_studies import planned_studies
from hyperlax.study import search as runs
from tests.desk import ROOT
from tests.test_cli_output import Left

pytestmark = pytest.mark.usefixtures("elsewhere")
BASE = "algo_and_network_config: sac_mlp\nenv_config: gymnax.pendulum\n"
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


class Several:
    """Three files of studies, whose runs end as `ends` says: with a status, or by raising."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.ends: dict[str, int | Exception] = {}
        self.begun: list[str] = []
        for name in "abc":
            Path(f"{name}.yaml").write_text(f"{BASE}study_name: {name}\noutput_root: out/{name}\n")
        monkeypatch.setattr(runs, "run_study", self._run)

    def _run(self, arguments: Any, *rest: Any, **more: Any) -> int:
        self.begun.append(arguments.study_name)
        end = self.ends.get(arguments.study_name, 0)
        if isinstance(end, Exception):
            raise end
        return end


@pytest.fixture
def several(monkeypatch):
    return Several(monkeypatch)


FILES = ["a.yaml", "b.yaml", "c.yaml"]


def test_several_files_run_in_turn_and_the_last_line_tells_which_failed(several, capsys):
    several.ends = {"a": 1, "b": UsageError("b: cannot be.")}
    assert cli.main(["run-study", *FILES]) == 2
    said = capsys.readouterr()
    assert several.begun == ["a", "b", "c"]
    assert said.out.splitlines()[-1] == "Ended without an error: c.yaml. Failed: a.yaml, b.yaml."
    assert said.err == "hyperlax: b.yaml: b: cannot be.\n"


def test_what_is_refused_as_a_study_begins_names_the_line(several, capsys):
    Path("b.yaml").write_text(f"{BASE}study_name: b\noutput_root: out/b\ntotal_timesteps: 2000\n")
    short = "{total_timesteps} is too short. Raise it, or lower {num_evaluations}."
    several.ends = dict.fromkeys("abc", OptionError("total_timesteps", short))
    assert cli.main(["run-study", *FILES]) == 2
    said = "total_timesteps is too short. Raise it, or lower num_evaluations."
    places = ("a.yaml", "b.yaml:5", "c.yaml")
    assert capsys.readouterr().err == "".join(f"hyperlax: {place}: {said}\n" for place in places)


def test_an_interrupt_ends_them_all(several, capsys):
    several.ends = {"b": 130}
    assert cli.main(["run-study", *FILES]) == 130
    assert several.begun == ["a", "b"]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Ended without an error: a.yaml. Interrupted: b.yaml. Not started: c.yaml."
    )


def test_in_json_only_objects_are_on_standard_output(several, capsys):
    assert cli.main(["run-study", *FILES, "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["event"] for line in said.out.splitlines()] == ["end"] * 3
    assert said.err.splitlines()[-1] == "Ended without an error: a.yaml, b.yaml, c.yaml."


def test_in_json_each_study_has_its_end_also_one_that_raises(several, capsys):
    several.ends = {"a": HyperlaxError("the disk is full."), "b": 1, "c": UsageError("c: cannot be.")}
    assert cli.main(["run-study", *FILES, "--json"]) == 2
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [(event["event"], event["exit"]) for event in events] == [("end", 1), ("end", 1), ("end", 2)]
    assert "hyperlax: a.yaml: the disk is full.\n" in said.err


def test_a_reader_who_has_left_ends_none_of_several_studies(several, monkeypatch):
    for more in ([], ["--json"]):
        several.begun = []
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout", Left())
            assert cli.main(["run-study", *FILES, *more]) == 0
        assert several.begun == ["a", "b", "c"]


def test_all_files_are_checked_before_the_first_one_runs(several, capsys):
    Path("c.yaml").write_text(BASE + "n_trials: none\n")
    assert cli.main(["run-study", *FILES]) == 2
    assert capsys.readouterr().err == 'hyperlax: c.yaml:3: n_trials needs a whole number of at least 1, got "none".\n'
    assert several.begun == []


def test_two_files_of_one_study_are_refused(several, capsys):
    assert cli.main(["run-study", *FILES, "--output-root", "out", "--study-name", "s"]) == 2
    assert "b.yaml: its study goes to out/sac_mlp/gymnax_pendulum, as that of a.yaml does." in capsys.readouterr().err
    assert several.begun == []


def test_studies_of_other_names_have_directories_of_their_own(several, capsys):
    assert cli.main(["run-study", *FILES, "--output-root", "out"]) == 0
    places = [
        line.removesuffix(".").split(", in ")[1] for line in capsys.readouterr().out.splitlines() if ", in " in line
    ]
    assert places == [f"out/sac_mlp/gymnax_pendulum{name}" for name in ("", "@b", "@c")]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_can_run_and_says_what_came_of_it(monkeypatch, path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("shutil.which", lambda name: name)
    (study,) = planned_studies([str(path)], {})
    if path.stem == "first":  # whose directory the README names
        assert study.directory == Path("my_optuna_studies/ppo_mlp/gymnax_acrobot")
    else:
        assert study.options.study_name == path.stem == Path(study.options.output_root).name
    header = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    library = "numpy" if study.recipe.source else "scikit-learn" if study.recipe.task else "jax"
    assert header and all(word in header[0] for word in ("2 cores", library, "commit", "trials", "est"))
    commands = re.findall(r"^# {5}(hyperlax .*)$", header[0], flags=re.MULTILINE)
    assert commands == [f"hyperlax run-study studies/{path.name}"]
    assert parse(GROUPS, shlex.split(commands[0])[1:])[1]["files"]
