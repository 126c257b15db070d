"""The journal: what a study was asked and what was changed, and what becomes of it when it is torn or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from hyperlax.errors import UsageError
from hyperlax.samplers.registry import SAMPLERS, SamplerRow
from hyperlax.space import UniformContinuous
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

ASKED: dict[str, Any] = {"n_trials": 24, "sampler": "tpe"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("whole"), **ASKED)
    assert case.start() == 0
    return case


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A study that was interrupted in its second super-batch."""
    case = Case(tmp_path_factory.mktemp("stopped"), **ASKED)
    assert case.start(FakeBackend(raises={12: KeyboardInterrupt()})) == 130
    return case


@pytest.fixture
def case(stopped: Case, tmp_path: Path) -> Case:
    return stopped.copy(tmp_path / "copy")


def journal(case: Case) -> Path:
    return case.directory / "journal.jsonl"


def test_a_study_without_its_database_ends_as_if_it_had_not_been_interrupted(case: Case, whole: Case) -> None:
    case.lose_database()
    assert case.repair() == case.resume() == 0
    assert case.told() == whole.told()
    assert journal(case).read_bytes() == journal(whole).read_bytes()


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_ignored_and_written_again(case: Case, whole: Case, kept: int) -> None:
    """As a process leaves it that is killed while it writes what it will ask: the database does not have those trials either."""
    lines = journal(case).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    journal(case).write_bytes(lines[0] + lines[1][:kept])
    shutil.rmtree(case.directory / "optuna_exec_batch_0001")
    case.lose_database()
    assert case.repair() == 0 and len(case.states()) == 8
    assert case.resume() == 0
    assert case.told() == whole.told()
    assert journal(case).read_bytes() == journal(whole).read_bytes()


def test_what_is_in_the_journal_and_not_in_the_database_is_inserted(case: Case, whole: Case) -> None:
    first = Case(case.root.parent / "first", **ASKED)
    assert first.start(n_trials=8) == 0
    lines = journal(whole).read_bytes().splitlines(keepends=True)
    journal(first).write_bytes(b"".join(lines[:2]))
    assert first.resume() == 0
    assert first.told() == whole.told()


@pytest.mark.parametrize(
    ("line", "content", "said"),
    [
        (0, "{", "line 1: is damaged"),
        (0, "{}", "line 1: is damaged"),
        (0, "[3]", "line 1: is damaged"),
        (0, "\xff", "line 1: is damaged"),
        (1, '{"event": "retried"}', "line 2: is damaged"),
        (1, '{"event": "seen", "trials": []}', "line 2: is damaged"),
        (1, '{"event": "asked", "first": 9, "trials": []}', "begins with trial 9, and 8 were asked before"),
        (1, '{"event": "invalidated", "trials": [8], "reason": ""}', "refers to trial 8, which was never asked"),
    ],
)
def test_any_other_damage_is_refused_with_the_line(case: Case, line: int, content: str, said: str) -> None:
    lines = journal(case).read_text().splitlines()
    lines[line] = content
    journal(case).write_text("\n".join([*lines, ""]), encoding="latin-1")
    for command in (case.resume, case.repair, lambda: case.plan(resume=True)):
        with pytest.raises(UsageError) as refused:
            command()
        assert str(refused.value).startswith(f"{journal(case)}, line {line + 1}: is damaged (") and said in str(
            refused.value
        )
        assert str(refused.value).endswith("Put back the file that Hyperlax wrote.")


def test_blank_lines_of_an_editor_are_ignored(case: Case, whole: Case) -> None:
    lines = journal(case).read_text()
    journal(case).write_text(lines.replace("\n", "\n\n") + " \n")
    assert case.repair() == case.resume() == 0
    assert case.told() == whole.told()


@pytest.mark.parametrize(
    "state", [{"a": 1}, {"start": "0", "random": []}, {"start": 8, "random": [["zz", 0, 0, 0.0]] * 2}, {"start": 8}]
)
def test_a_damaged_state_of_the_sampler_is_refused(tmp_path: Path, state: dict) -> None:
    case = Case(tmp_path, sampler="tpe")
    assert case.start(n_trials=16) == 0
    *before, last = journal(case).read_text().splitlines()
    journal(case).write_text("\n".join([*before, json.dumps({**json.loads(last), "sampler": state}), ""]))
    with pytest.raises(
        UsageError, match=r"journal\.jsonl: the state of the sampler is damaged \(.+\)\. Put back the file"
    ):
        case.resume(n_trials=17)


def test_a_journal_that_lacks_what_the_database_has_is_refused(case: Case) -> None:
    journal(case).unlink()
    for command in (case.resume, case.repair):
        with pytest.raises(
            UsageError, match=r"journal\.jsonl: lacks trial 0, which .+optuna_study\.db has\. Put back the file"
        ):
            command()


def test_the_journal_says_what_was_asked(whole: Case) -> None:
    events = whole.events()
    assert [(event["event"], event["first"], event["ended"]) for event in events] == [
        ("asked", first, None) for first in (0, 8, 16)
    ]
    params = [trial["params"] for event in events for trial in event["trials"]]
    assert params == [trial.params for trial in whole.study().trials]


def test_a_sampler_of_a_row_of_its_own_runs_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns: the middle of the range, then halfway from the best trial to the upper bound."""

    class Upward(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                return distribution.choices[0]
            complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
            best = max((t.params[name] for t in complete), default=distribution.low)
            value = (best + distribution.high) / 2 * (1 - 1e-3 * (trial.number % 8))
            return distribution.to_external_repr(max(distribution.low, value))

    monkeypatch.setitem(
        SAMPLERS, "upward", SamplerRow("upward", "Halfway up.", lambda space, seed, super_batch: Upward())
    )
    space: Any = {"algorithm.hyperparam.gamma": UniformContinuous(domain=(0.9, 0.999))}
    whole, parts = (Case(tmp_path / name, space, n_trials=16, sampler="upward") for name in ("whole", "parts"))
    assert whole.start() == 0
    assert parts.start(n_trials=11) == 0 and parts.resume(n_trials=16) == 0
    assert parts.told() == whole.told()
    gammas = [trial.params["algorithm.hyperparam.gamma"] for trial in whole.study().trials]
    assert max(gammas[:8]) == pytest.approx(0.9495) and max(gammas[8:]) == pytest.approx((0.9495 + 0.999) / 2)
