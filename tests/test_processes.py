"""Functions train in worker processes that stay alive, and what goes wrong in one concerns its trial only."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.backends.base import EngineConfig
from hyperlax.backends.processes import make_backend
from hyperlax.backends.runs import environments
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import HyperlaxError, OptionError, UsageError
from hyperlax.hyperparams import Params
from hyperlax.recipe import RunLength, load
from hyperlax.study.failures import cause_of_error, problem_of
from hyperlax.tasks import Command, Function, Measure, Task
from hyperlax.trial import SegmentResult, Trial
from tests.waiting import eventually

RECIPE = """
import os, signal, subprocess, sys, time
from hyperlax.tasks import Function, Measure

def train(params, report, seed):
    exec(params["code"], {**globals(), "report": report, "seed": seed, "params": params})

def get_task():
    return Function(train, Measure("accuracy", "maximize"), [Measure("loss", "minimize")], budget=10, evaluations=5)

def get_base_params():
    return {"code": "report(1, accuracy=0.5)"}

def get_base_hyperparam_distributions():
    return {}
"""
"""A function that does what its only hyperparameter says."""
NUMBERS = itertools.count()


def trial(code: str) -> Trial:
    return Trial(next(NUMBERS), Params({"code": textwrap.dedent(code)}))


def write(folder: Path) -> Path:
    path = folder / "coded.py"
    path.write_text(RECIPE)
    return path


def making(folder: Path, task: Task | None = None, **changes: Any) -> Any:
    """A backend of a task, by default of the recipe in a folder, and of closed batches on two slots."""
    task = task or load(str(write(folder))).task
    own = {"base": Params({"code": ""}), "space": {}, "environment": "", "run_length": RunLength(10, 5, 1), "seed": 3}
    sizes = {"num_seeds": 1, "num_trials": 100, "super_batch": None, "slots": 2}
    config = EngineConfig(**{**own, **sizes, "task": task, **changes})
    return make_backend(config, CheckpointManager(folder / "checkpoints", 60.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[Any]:
    """Processes that many tests use."""
    backend = making(folder)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def refilled(folder: Path) -> Iterator[Any]:
    """Processes whose functions wait for decisions."""
    backend = making(folder, kind="refilled", trial_seeds=1)
    yield backend
    backend.close()


def trained(backend: Any, *codes: str | Trial) -> list[SegmentResult | Exception]:
    """What became of a trial per code, or of trials. Those that lose their process begin again, as in a study."""
    trials = {one.number: one for one in (one if isinstance(one, Trial) else trial(one) for one in codes)}
    ended: dict[int, SegmentResult | Exception] = {}
    backend.enter(list(trials.values()))
    while len(ended) < len(codes):
        results, evicted = backend.advance()
        assert results or evicted
        for result in results:
            assert problem_of(result, result.curve.mean.shape[1]) is None
            if result.is_done:
                ended[result.number] = result
                backend.leave(result.number)
        for one in evicted:
            (number,) = one.numbers
            if one.error:
                ended[number] = one.error
            else:
                backend.enter([trials[number]])
    return [ended[number] for number in trials]


def sound(found: SegmentResult | Exception) -> SegmentResult:
    assert isinstance(found, SegmentResult) and found.fault_step is None, found
    return found


def values(found: SegmentResult | Exception) -> list[float]:
    return sound(found).curve.mean[:, 0].tolist()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_reports_become_a_curve(closed: Any) -> None:
    (found,) = trained(closed, "report(2, accuracy=0.25, loss=3)\nreport(4, accuracy=0.1 + 0.2)")
    curve = sound(found).curve
    assert curve.steps.tolist() == [2, 4] and not curve.has_start and curve.budget == 10
    assert curve.mean.tolist() == curve.min.tolist() == curve.max.tolist() == [[0.25], [0.1 + 0.2]]
    np.testing.assert_array_equal(curve.others["loss"], [[3.0], [np.nan]])
    assert sound(found).segments == 2 and sound(found).lane is None
    (interval,) = sound(found).intervals
    assert interval.slot in (0, 1) and interval.ended >= interval.began


def test_processes_stay_alive_and_are_as_many_as_slots(closed: Any) -> None:
    found = [values(one)[0] for one in trained(closed, *["report(1, accuracy=os.getpid())"] * 6)]
    assert 1 <= len(set(found)) <= 2 and os.getpid() not in found


@pytest.mark.parametrize("slots", [1, 3])
def test_results_do_not_depend_on_the_number_of_slots(slots: int, closed: Any, tmp_path: Path) -> None:
    codes = [f"import random\nrandom.seed(seed + {n})\nreport(1, accuracy=random.random())" for n in range(6)]
    other = making(tmp_path, slots=slots)
    try:
        assert list(map(values, trained(other, *codes))) == list(map(values, trained(closed, *codes)))
    finally:
        other.close()


def test_seeds_train_one_after_another_and_a_confirmation_has_others(tmp_path: Path) -> None:
    backend = making(tmp_path, slots=1, num_seeds=2, is_confirmation=True)
    same = "report(1, accuracy=seed)\nreport(2, accuracy=0)"
    codes = [same, same + "\nif seed == 1_000_003: report(3, accuracy=0)", "report(seed - 1_000_000, accuracy=0)"]
    try:
        found = trained(backend, *codes)
        assert sound(found[0]).curve.mean.tolist() == [[1_000_003, 1_000_004], [0, 0]]
        assert [one.fault for one in found[1:] if isinstance(one, SegmentResult)] == [
            "seed 0 reported at steps 1, 2, 3 and seed 1 at 1, 2; all seeds of a trial must report at the same steps",
            "seed 0 reported at steps 3 and seed 1 at 4; all seeds of a trial must report at the same steps",
        ]
    finally:
        backend.close()


@pytest.mark.parametrize(
    ("code", "fault", "step"),
    [
        ("pass", "returned without a report. Call report(step, accuracy=...)", 0),
        ("report(1, accuracy=1)\nreport(2, accuracy=float('nan'))", "accuracy is nan; report a finite number", 1),
        ("report(1, loss=1)", "a report without accuracy, the leading measure", 0),
        (
            "try: report(1, accuracy='high')\nexcept BaseException: pass",
            "accuracy is 'high'; report a finite number",
            0,
        ),
        ("for _ in range(6): report(_, accuracy=1)", "more reports than the task's 5 evaluations; ", 4),
    ],
)
def test_a_bad_report_fails_its_trial(code: str, fault: str, step: int, closed: Any) -> None:
    (found,) = trained(closed, code)
    assert isinstance(found, SegmentResult) and found.fault.startswith(fault) and found.fault_step == step
    assert np.isfinite(found.curve.mean).all()


def test_an_exception_fails_its_trial_with_its_traceback(closed: Any) -> None:
    long, left, own = trained(
        closed,
        "report(1, accuracy=1)\nraise ValueError('not\\n  so')",
        "sys.exit(4)",
        "class Own(Exception):\n    def __str__(self): raise KeyError\nraise Own",
    )
    assert isinstance(long, Exception) and isinstance(left, Exception) and isinstance(own, Exception)
    assert cause_of_error(long) == "ValueError: not so"
    assert "in train" in str(long) and "coded.py" in str(long) and "worker.py" not in str(long)
    assert cause_of_error(left) == "SystemExit: 4" and cause_of_error(own) == "Own"


def test_an_exception_that_is_raised_after_the_end_of_a_trial_is_in_its_output(closed: Any, folder: Path) -> None:
    (found,) = trained(closed, "try: report(1, accuracy='high')\nfinally: raise KeyError('on the way out')")
    assert isinstance(found, SegmentResult) and "'high'" in found.fault
    output = (folder / "trials" / f"trial_{found.number:05d}" / "output.txt").read_text()
    assert output.endswith("KeyError: 'on the way out'\n") and "coded.py" in output


def test_commands_without_a_run_in_mlflow_train_and_one_line_says_so(tmp_path: Path, caplog: Any) -> None:
    pytest.importorskip("mlflow")
    command = Command(["echo", "hyperlax: accuracy={x}"], Measure("accuracy", "maximize"), budget=1, evaluations=1)
    backend = making(
        tmp_path, task=command, base=Params({"x": 1}), slots=1, mlflow={"uri": "nowhere://", "experiment": "0"}
    )
    try:
        found = trained(backend, *(Trial(number, Params({"x": number})) for number in (1, 2)))
    finally:
        backend.close()
    assert list(map(values, found)) == [[1.0], [2.0]]
    (line,) = caplog.messages
    assert line.startswith("MLflow cannot be reached (") and line.endswith(
        "): commands train without a run there until it can."
    )


def test_a_trial_that_loses_its_process_runs_again_up_to_three_times(closed: Any, caplog: Any) -> None:
    once = "mark = report.directory / 'mark'\nif not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\n"
    found = trained(
        closed, once + "report(1, accuracy=1)", "report(1, accuracy=1)\nos._exit(3)", "report(1, accuracy=2)"
    )
    assert values(found[0]) == [1.0] and values(found[2]) == [2.0]
    lost = found[1]
    assert isinstance(lost, SegmentResult) and lost.is_done and lost.fault_step == 1
    assert lost.fault == "lost three times, the last time because its process exited with status 3"
    told = [record.getMessage() for record in caplog.records]
    killed = [
        line for line in told if line.endswith("was killed by SIGKILL, as happens when memory runs out. It runs again.")
    ]
    assert len(killed) == 1 and len(told) == 3


def test_a_crash_of_its_own_code_fails_a_trial_at_once(closed: Any, folder: Path, caplog: Any) -> None:
    (found,) = trained(closed, "report(1, accuracy=1)\nos.abort()")
    assert isinstance(found, SegmentResult) and found.fault_step == 1 and not caplog.records
    assert found.fault == "its process crashed with SIGABRT, in its own code or in a library"
    output = (folder / "trials" / f"trial_{found.number:05d}" / "output.txt").read_text()
    assert output.startswith("Fatal Python error: Aborted") and "in train" in output


def test_a_process_that_dies_between_trials_is_replaced(closed: Any, caplog: Any, tmp_path: Path) -> None:
    code = f"""
    import threading
    def die():
        while not os.path.exists({str(tmp_path / "now")!r}):
            time.sleep(0.01)
        os._exit(1)
    threading.Thread(target=die, daemon=True).start()
    report(1, accuracy=os.getpid())
    """
    pids = [int(values(one)[0]) for one in trained(closed, code, code)]
    threads = [worker.thread for worker in closed._workers.values() if worker.child.pid in pids]
    (tmp_path / "now").touch()
    eventually(lambda: not any(thread.is_alive() for thread in threads))
    assert values(trained(closed, "report(1, accuracy=3)")[0]) == [3.0]
    assert caplog.records == []


def test_files_and_reports_survive_a_loss(closed: Any, folder: Path) -> None:
    code = """
    kept = report.directory / "step"
    first = int(kept.read_text()) + 1 if kept.exists() else 1
    print("from", first)
    subprocess.run(["echo", "a program"])
    for step in range(first, 5):
        kept.write_text(str(step))
        report(step, accuracy=step / 10)
        if step == 2 and first == 1:
            os.kill(os.getpid(), 9)
    """
    found = sound(trained(closed, code)[0])
    assert found.curve.steps.tolist() == [1, 2, 3, 4]
    directory = folder / "trials" / f"trial_{found.number:05d}"
    assert (directory / "seed_0" / "step").read_text() == "4"
    assert (directory / "output.txt").read_text() == "from 1\na program\nfrom 3\na program\n"


def test_a_finished_function_that_starts_again_need_not_report_again(closed: Any) -> None:
    code = """
    mark = report.directory / "mark"
    if not mark.exists():
        mark.touch()
        report(3, accuracy=0.75)
        os.kill(os.getpid(), 9)
    """
    assert values(trained(closed, code)[0]) == [0.75]


def test_nothing_is_printed_on_the_terminal(closed: Any, capfd: Any) -> None:
    code = "print('out', chr(0xdcff))\nprint('error', file=sys.stderr)\nos.write(1, b'raw')\nreport(1, accuracy=1)"
    trained(closed, code)
    assert capfd.readouterr() == ("", "")


def test_what_a_function_does_to_its_streams_ends_with_its_trial(closed: Any, folder: Path) -> None:
    breaks = ["sys.stdout = None; sys.stderr = 3", "sys.stdout.close(); os.close(2)"]
    assert [values(one) for one in trained(closed, *(f"report(1, accuracy=1); {code}" for code in breaks))] == [
        [1],
        [1],
    ]
    again = trained(closed, *["print('heard'); report(1, accuracy=2)"] * 2)
    assert [(folder / f"trials/trial_{sound(one).number:05d}/output.txt").read_text() for one in again] == [
        "heard\n"
    ] * 2


def test_a_function_waits_for_the_decision_about_its_report(refilled: Any, folder: Path) -> None:
    mark = folder / "waited"
    code = f"""
    try:
        try:
            report(1, accuracy=1)
            report(2, accuracy=1)
            open({str(mark)!r}, "a").write("after ")
        except Exception:
            open({str(mark)!r}, "a").write("caught ")
    finally:
        open({str(mark)!r}, "a").write("finally")
    """
    pruned = trial(code)
    refilled.enter([pruned])
    (first,), _ = refilled.advance()
    assert first.segments == 1 and not first.is_done
    time.sleep(0.05)
    assert not mark.exists()
    (second,), _ = refilled.advance()  # it was allowed to continue
    assert second.segments == 2
    refilled.leave(pruned.number)
    assert refilled.occupied == 0
    assert values(trained(refilled, "report(1, accuracy=2)")[0]) == [2.0]
    eventually(mark.exists)
    assert mark.read_text() == "finally"


def test_a_trial_enters_while_the_one_before_still_ends(refilled: Any) -> None:
    slow = [trial("try: report(1, accuracy=1)\nfinally: time.sleep(0.3)") for _ in range(2)]
    assert len(refilled.enter([*slow, trial("")])) == 2  # there are two slots
    seen: set[int] = set()
    while len(seen) < 2:
        seen |= {result.number for result in refilled.advance()[0]}
    for one in slow:
        refilled.leave(one.number)
    assert values(trained(refilled, "report(1, accuracy=3)")[0]) == [3.0]


def test_a_trial_that_has_not_left_is_not_taken_again(refilled: Any) -> None:
    again = trial("report(1, accuracy=4)")
    assert refilled.enter([again]) == [again.number]
    assert refilled.enter([again], repetition=1) == []
    refilled.leave(again.number)
    assert refilled.enter([again], repetition=1) == [again.number]
    refilled.leave(again.number)


def test_a_function_that_returns_has_ended_its_trial(refilled: Any) -> None:
    assert values(trained(refilled, "for n in range(3): report(n, accuracy=n)")[0]) == [0.0, 1.0, 2.0]


def test_seeds_that_race_need_all_reports(tmp_path: Path) -> None:
    backend = making(tmp_path, kind="refilled", trial_seeds=3, slots=1)
    try:
        (short,), (whole,) = (
            trained(backend, code) for code in ("report(1, accuracy=1)", "for n in range(5): report(n, accuracy=seed)")
        )
        assert isinstance(short, SegmentResult)
        assert short.fault == "returned after 1 report; where seeds race, all need evaluations=5"
        again = trial("for n in range(5): report(n, accuracy=seed)")
        backend.enter([again], repetition=2)
        while not (found := backend.advance()[0][0]).is_done:
            pass
        assert values(whole) == [3.0] * 5 and values(found) == [5.0] * 5 and found.repetition == 2
    finally:
        backend.close()


FAMILY = """
child = subprocess.Popen(["sleep", "100"])
(report.directory / "pids").write_text(f"{os.getpid()} {child.pid}")
"""


def family(folder: Path, number: int) -> list[int]:
    """The processes of a trial, once it has begun."""
    pids = folder / "trials" / f"trial_{number:05d}" / "seed_0" / "pids"
    eventually(lambda: pids.exists() and pids.read_text())
    return list(map(int, pids.read_text().split()))


def test_a_study_that_stops_ends_functions_at_their_report(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hyperlax.backends.processes.GRACE_SECONDS", 1e6)
    backend = making(tmp_path)
    ends = trial(FAMILY + "while True:\n    report(report.step + 1, accuracy=1)\n    time.sleep(0.5)")
    late, done = trial("time.sleep(1)\nreport(1, accuracy=1)"), trial("")
    backend.enter([ends, late, done])
    backend.begin()
    pids = family(tmp_path, ends.number)
    backend.stop()
    backend.advance()  # returns at once
    backend.save()
    assert not any(worker.run for worker in backend._workers.values()), "none is left to be killed"
    results, evicted = backend.advance()
    backend.close()
    assert evicted == [] and not any(result.is_done for result in results)
    assert not any(map(is_alive, pids))


def test_a_function_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    backend = making(tmp_path, slots=1, trial_timeout=3.0)
    try:
        slow, fast = trained(backend, FAMILY + "report(1, accuracy=1)\ntime.sleep(100)", "report(1, accuracy=2)")
        assert isinstance(slow, SegmentResult) and slow.fault == "took longer than the trial timeout of 3 s"
        assert values(fast) == [2.0]
        assert not any(map(is_alive, family(tmp_path, slow.number)))
    finally:
        backend.close()


def test_a_pruned_function_that_does_not_end_frees_its_slot_after_the_trial_timeout(tmp_path: Path) -> None:
    backend = making(tmp_path, slots=1, trial_timeout=3.0, kind="refilled", trial_seeds=1)
    try:
        stays = trial("try: report(1, accuracy=1)\nfinally: time.sleep(100)")
        backend.enter([stays])
        backend.advance()
        backend.leave(stays.number)
        assert values(trained(backend, "report(1, accuracy=2)")[0]) == [2.0]
    finally:
        backend.close()


def test_processes_that_do_not_end_are_killed_with_their_children(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hyperlax.backends.child.GRACE_SECONDS", 0.3)
    monkeypatch.setattr("hyperlax.backends.processes.GRACE_SECONDS", 0.1)
    backend = making(tmp_path)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY.replace(
        '["sleep", "100"]', '"trap \\"\\" TERM; sleep 100", shell=True'
    )
    ordinary = FAMILY + "time.sleep(100)"
    trials = [trial(deaf + "time.sleep(100)"), trial(ordinary)]
    backend.enter(trials)
    backend.begin()
    pids = [pid for one in trials for pid in family(tmp_path, one.number)]
    backend.stop()
    backend.save()
    backend.close()
    assert not any(map(is_alive, pids))


def test_nothing_outlives_a_study_that_was_killed(tmp_path: Path) -> None:
    code = FAMILY + "time.sleep(100)"
    script = f"""
    import sys, time, os
    sys.path.insert(0, {str(Path(__file__).parents[1])!r})
    from pathlib import Path
    from tests.test_processes import making, trial
    backend = making(Path({str(tmp_path)!r}))
    backend.enter([trial({code!r}), trial("report(1, accuracy=1)")])
    backend.advance()
    time.sleep(100)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    pids = family(tmp_path, 0)
    process.kill()
    process.wait()
    eventually(lambda: not any(map(is_alive, pids)))


def test_a_recipe_that_a_process_cannot_load_ends_the_study(tmp_path: Path) -> None:
    backend = making(tmp_path)
    (tmp_path / "coded.py").write_text("import no_such_package")
    backend.enter([trial("")])
    with pytest.raises(HyperlaxError, match=r"coded.py:1: ModuleNotFoundError: No module named 'no_such_package'"):
        backend.advance()
    backend.close()


def test_a_population_of_functions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a population copies what its best members have learned"):
        making(tmp_path, kind="population")


def task(**changes: Any) -> Function:
    return Function(lambda params, report, seed: 1, Measure("loss", "minimize"), budget=1, evaluations=1, **changes)


def test_slots_follow_from_cores_and_gpus(monkeypatch: Any) -> None:
    monkeypatch.setattr("hyperlax.backends.runs.cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    made = environments(task(cores=3), None)
    assert [(own["OMP_NUM_THREADS"], own["MKL_NUM_THREADS"]) for own in made] == [("3", "7")] * 2
    assert len(environments(task(cores=8), None)) == 1 and len(environments(task(), 20)) == 20
    with pytest.raises(UsageError, match="a trial needs 9 cores, and this process may use 8. Lower the cores"):
        environments(task(cores=9), None)

    def gpus(amount: float, asked: int | None = None) -> list[str]:
        return [own["CUDA_VISIBLE_DEVICES"] for own in environments(task(resources={"gpu": amount}), asked)]

    assert gpus(1) == ["0", "1", "5"] and gpus(2) == ["0,1"] and gpus(0.5) == ["0", "1", "5"] * 2
    assert gpus(1, asked=2) == ["0", "1"]
    with pytest.raises(OptionError, match="--slots 4: the GPUs of this machine are enough for 3"):
        gpus(1, asked=4)
    with pytest.raises(UsageError, match="a trial needs 4 GPUs, and this machine has 3"):
        gpus(4)
    with pytest.raises(UsageError, match="the task needs tpu, and here resources can only be gpu"):
        environments(task(resources={"tpu": 1}), None)


def test_neither_side_imports_jax() -> None:
    code = "import sys, hyperlax.tasks, hyperlax.backends.processes, hyperlax.backends.worker; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
