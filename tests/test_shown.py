"""What a search shows: nothing with --quiet, an object a line with --json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperlax.cli import main
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.study import search as runs
from tests.desk import ROOT
from tests.fake_backend import train_with_fakes


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search of 8 trials without jax, with more flags."""
    train_with_fakes(monkeypatch, pages=False, fail={5: "loss is nan"}, lanes=2)
    words = "optuna-hp-search --algo-and-network-config sac_mlp --env-config gymnax.pendulum --n-trials 8 --num-seeds 2"
    words += " --total-timesteps 5000 --num-evaluations 5 --output-root"
    return lambda *more: main([*words.split(), str(tmp_path), *more])


def directory(tmp_path: Path) -> Path:
    return tmp_path / "sac_mlp" / "gymnax_pendulum"


def test_json_lines_tell_every_trial_and_the_end_and_nothing_else_is_on_standard_output(search, tmp_path, capsys):
    assert search("--json") == 0
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    trials = [event for event in events if event["event"] == "trial"]
    assert sorted(event["trial"] for event in trials) == list(range(8))
    assert [event["state"] for event in trials].count("FAIL") == 1
    assert all((event["value"] is None) == (event["state"] == "FAIL") for event in trials)
    last, end = events[-2:]
    assert (last["event"], last["finished"], last["total"], last["failed"]) == ("progress", 8, 8, 1)
    assert last["best"] == max(event["value"] for event in trials if event["value"] is not None)
    assert end == {"event": "end", "exit": 0, "directory": str(directory(tmp_path))}
    assert "8 trials finished" in said.err


def events_of(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HyperlaxError("the disk is full"), 1),
        (UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (ValueError("a bug"), 1),
    ],
    ids=["failed", "refused", "interrupted", "a bug"],
)
def test_the_last_json_line_is_the_end_also_of_a_run_that_raises(search, tmp_path, capsys, monkeypatch, error, status):
    def broken(*parts: Any) -> None:
        raise error

    monkeypatch.setattr("hyperlax.study.trials.write_batch", broken)
    if isinstance(error, ValueError) and not isinstance(error, UsageError):
        with pytest.raises(ValueError, match="a bug"):
            search("--json")
    else:
        assert search("--json") == status
    end = {"event": "end", "exit": status, "directory": str(directory(tmp_path))}
    assert events_of(capsys.readouterr().out)[-1] == end


def test_a_search_that_is_refused_before_it_begins_leaves_standard_output_empty(search, capsys):
    for more in (["--n-trials", "none"], ["--sampler", "nothing"], ["--json", "--plan-only"]):
        assert search("--json", *more) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("hyperlax: ")


def test_an_interrupt_while_a_search_starts_is_the_end(search, capsys, monkeypatch):
    def interrupted(*parts: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "study_directory", interrupted)
    assert search("--json") == 130
    said = capsys.readouterr()
    assert [(event["event"], event["exit"]) for event in events_of(said.out)] == [("end", 130)]
    assert said.err == "hyperlax: interrupted.\n"


def test_what_a_recipe_prints_is_not_among_the_json_lines(search, tmp_path, capsys):
    text = (ROOT / "recipes" / "sac_mlp.py").read_text()
    recipe = tmp_path / "talkative.py"
    recipe.write_text(text + '\n\nprint("I am loaded")\n')
    assert search("--json", "--algo-and-network-config", str(recipe)) == 0
    said = capsys.readouterr()
    assert events_of(said.out)[-1]["event"] == "end" and "I am loaded\n" in said.err


def test_quiet_prints_the_end_is_not_remembered_and_a_resume_tells_only_of_its_own_trials(search, tmp_path, capsys):
    assert search("--quiet") == 0
    said = capsys.readouterr()
    assert "steps/s" not in said.err and "batches" not in said.err
    assert "8 trials finished: 7 COMPLETE, 1 FAIL." in said.out
    stored = json.loads((directory(tmp_path) / "study.json").read_text())["arguments"]
    assert not {"quiet", "json"} & stored.keys()
    assert main(["optuna-hp-search", "--resume-from", str(directory(tmp_path)), "--n-trials", "10", "--json"]) == 0
    events = events_of(capsys.readouterr().out)
    assert [event["trial"] for event in events if event["event"] == "trial"] == [8, 9]
    assert [event["finished"] for event in events if event["event"] == "progress"][-1] == 10
