"""Whole studies of a Python function, by the command."""

from __future__ import annotations

import json
import shlex
import signal
import textwrap
from pathlib import Path
from typing import Any

import optuna
import pytest

from hyperlax import cli
from tests.desk import optuna_trials, popen, results, rows
from tests.test_processes import is_alive
from tests.waiting import eventually

RECIPE = """
import os, signal, time
from hyperlax.space import UniformContinuous
from hyperlax.tasks import Function, Measure

def train(params, report, seed):
    BODY

def get_task():
    return Function(train, Measure("accuracy", "maximize", low=0.0, high=1.0), budget=9, evaluations=9)

def get_base_params():
    return {"x": 0.5}

def get_base_hyperparam_distributions():
    return {"x": UniformContinuous(domain=(0.0, 1.0))}
"""
CLIMBS = """
for step in range(1, 10):
    report(step, accuracy=params["x"] * step / 9)
"""
STUDY = Path("studies", "made")
pytestmark = pytest.mark.usefixtures("elsewhere")


def write(body: str) -> None:
    body = textwrap.indent(textwrap.dedent(body).strip(), " " * 4).strip()
    Path("made.py").write_text(RECIPE.replace("BODY", body))


WORDS = "optuna-hp-search --algo-and-network-config made.py --sampler random --output-root studies --log-level WARNING"


def search(more: str = "") -> int:
    return cli.main(shlex.split(f"{WORDS} {more}"))


def trials(study: Path = STUDY) -> list[optuna.trial.FrozenTrial]:
    return optuna_trials(study)


def reasons(study: Path = STUDY) -> dict[int, str]:
    return {trial.number: trial.user_attrs["reason"] for trial in trials(study) if trial.state.name == "FAIL"}


def test_asha_stops_functions_at_their_reports_the_same_on_any_number_of_slots() -> None:
    write(CLIMBS)
    more = "--n-trials 12 --pruner asha --pruner-min-segments 1 --optuna-study-batch-size 3"
    for slots in (1, 2, 3):
        assert search(f"{more} --slots {slots} --output-root slots_{slots}") == 0
    one, two, three = (Path(f"slots_{slots}", "made") for slots in (1, 2, 3))
    assert results(one) == results(two) == results(three)
    found = trials(two)
    states = [trial.state.name for trial in found]
    assert set(states) == {"COMPLETE", "PRUNED"} and len(states) == 12
    best = max(found, key=lambda trial: trial.params["x"])
    assert best.state.name == "COMPLETE" and best.values == pytest.approx([best.params["x"]])
    pruned = [trial for trial in found if trial.state.name == "PRUNED"]
    assert {len(trial.intermediate_values) for trial in pruned} <= {1, 3}
    intervals = [row for path in two.rglob("timeline.csv") for row in rows(path)]
    assert {row["slot"] for row in intervals} == {"0", "1"}


def test_what_a_super_batch_is_suggested_from_does_not_depend_on_when_a_function_returns() -> None:
    write(f"{CLIMBS}    if params['x'] > 0.6 and step == 7: break\nif LINGERS and params['x'] < 0.6: time.sleep(0.3)")
    body, ended = Path("made.py").read_text(), []
    for lingers in (False, True):
        Path("made.py").write_text(f"LINGERS = {lingers}\n{body}")
        more = f"--n-trials 10 --sampler tpe --pruner asha --pruner-min-segments 1 --slots 2 --output-root lingers_{lingers}"
        assert search(more) == 0
        (journal,) = Path(f"lingers_{lingers}").rglob("journal.jsonl")
        ended.append([json.loads(line)["ended"] for line in journal.read_text().splitlines()])
    assert ended[0] == ended[1]


def test_a_retried_trial_does_not_begin_with_the_reports_of_its_failed_try() -> None:
    write(
        """
        if not os.path.exists("fixed"):
            report(3, accuracy=0.9)
            raise ValueError("broken")
        if params["x"] != 0.5:
            report(4, accuracy=0.1)
        """
    )
    assert search("--n-trials 2 --slots 1 --max-failure-rate 1") == 1
    Path("fixed").touch()
    assert cli.main(["optuna-hp-search", "--resume-from", str(STUDY), "--retry-failed"]) == 0
    assert reasons()[0].startswith("returned without a report")
    assert trials()[1].intermediate_values == {4: 0.1}


def test_with_one_evaluation_only_the_last_report_counts() -> None:
    write("for step in (5, 3, 800): report(step, accuracy=step)\nreport(report.step, accuracy=params['x'])")
    Path("made.py").write_text(Path("made.py").read_text().replace("evaluations=9", "evaluations=1"))
    assert search("--n-trials 2 --slots 1") == 0
    assert [trial.intermediate_values for trial in trials()] == [{9: trial.params["x"]} for trial in trials()]


def test_failures_are_the_trials_own_and_say_why() -> None:
    write(
        """
        number = int(report.directory.parent.name[-1])
        if number == 1:
            raise ValueError("not like that")
        report(1, accuracy=float("nan") if number == 2 else number)
        if number == 3:
            os.kill(os.getpid(), 9)
        """
    )
    assert search("--n-trials 5 --slots 2 --max-failure-rate 1") == 0
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    found = reasons()
    assert found[1].startswith("ValueError: not like that (x=")
    assert found[2].startswith("accuracy is nan; report a finite number (x=")
    assert found[3].startswith("lost three times, the last time because its process was killed by SIGKILL, as happens")
    (timing,) = [path for path in STUDY.rglob("timing.json") if "not like that" in path.read_text()]
    assert "made.py" in timing.read_text() and "in train" in timing.read_text()


def test_seeds_of_a_trial_are_calls_and_may_race() -> None:
    write("for step in range(1, 10): report(step, accuracy=params['x'] + seed)")
    assert search("--n-trials 6 --num-seeds 3 --seed 7 --slots 2") == 0
    assert [trial.values[0] - trial.params["x"] for trial in trials()] == pytest.approx([8.0] * 6)
    assert search("--n-trials 6 --num-seeds 3 --seed 7 --slots 2 --seed-schedule racing --output-root raced") == 0
    raced = trials(Path("raced", "made"))
    assert {trial.state.name for trial in raced} == {"COMPLETE", "PRUNED"}
    assert {round(trial.values[0] - trial.params["x"], 9) for trial in raced if trial.values} == {8.0}


def test_ctrl_c_ends_all_processes_and_a_resume_continues_from_the_functions_own_files(elsewhere: Path) -> None:
    write(
        """
        kept = report.directory / "step"
        (report.directory / f"pid_{os.getpid()}").touch()
        first = int(kept.read_text()) + 1 if kept.exists() else 1
        for step in range(first, 10):
            kept.write_text(str(step))
            report(step, accuracy=params["x"] * step / 9)
            time.sleep(0.05 if os.path.exists("resumed") else 0.5)
        """
    )
    with popen(elsewhere, *WORDS.split(), "--n-trials", "4", "--slots", "2") as process:
        eventually(lambda: len(list(STUDY.glob("trials/*/seed_0/pid_*"))) == 2)
        eventually(lambda: any(int(path.read_text() or 0) > 1 for path in STUDY.glob("trials/*/seed_0/step")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Stopping at the next evaluation" in err and "Traceback" not in err
    assert not any(is_alive(int(path.name[4:])) for path in STUDY.glob("trials/*/seed_0/pid_*"))
    assert [trial.state.name for trial in trials()] == ["WAITING"] * 4
    reached = [int(path.read_text()) for path in STUDY.glob("trials/*/seed_0/step")]
    assert len(reached) == 2 and max(reached) > 1
    Path("resumed").touch()
    assert cli.main(["optuna-hp-search", "--resume-from", str(STUDY)]) == 0
    assert [trial.values for trial in trials()] == [pytest.approx([trial.params["x"]]) for trial in trials()]
    assert [list(trial.intermediate_values) for trial in trials()] == [list(range(1, 10))] * 4


def test_a_study_that_is_deleted_takes_the_files_of_its_trials_along(capsys: Any) -> None:
    write("(report.directory / 'model.bin').write_text('x')\nreport(1, accuracy=params['x'])")
    assert search("--n-trials 2 --confirm-top 1 --confirm-seeds 2") == 0
    assert (STUDY / "trials" / "trial_00001" / "seed_0" / "model.bin").exists()
    assert (STUDY / "confirmation" / "trials").is_dir()
    assert cli.main(["delete", str(STUDY), "--yes"]) == 0
    assert not STUDY.exists()


def test_a_single_run_keeps_the_files_of_its_function(capsys: Any) -> None:
    write("(report.directory / 'model.bin').write_text('x')\nprint('hello')\nreport(1, accuracy=params['x'])")
    words = "run-single-hp --algo-and-network-config made.py --num-seeds 1 --output-root single"
    assert cli.main(words.split()) == 0
    (directory,) = Path("single").rglob("single_0000")
    assert (directory / "trials" / "trial_00000" / "seed_0" / "model.bin").exists()
    assert (directory / "trials" / "trial_00000" / "output.txt").read_text() == "hello\n"
    assert list(Path("single").rglob(".single_*")) == []
