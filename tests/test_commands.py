"""Commands: what they say becomes reports, what goes wrong in one concerns its trial only, and nothing outlives its trial."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.hyperparams import Params
from hyperlax.outputs import directory_of, moving_outputs, said_last
from hyperlax.placeholders import filled, split
from hyperlax.tasks import Command, Measure
from hyperlax.trial import SegmentResult, Trial
from tests.desk import ROOT, popen, results
from tests.test_bad_input import refused, table
from tests.test_function_studies import reasons, trials
from tests.test_processes import is_alive, making, sound, trained, values
from tests.waiting import eventually

TASK = Command(
    ["sh", "-c", "{code}"], Measure("val/accuracy", "maximize"), [Measure("loss", "minimize")], budget=10, evaluations=5
)
"""A command that does what its only hyperparameter says."""
SAYS = "hyperlax: step=1 val/accuracy=0.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[Any]:
    backend = making(folder, TASK)
    yield backend
    backend.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path, found: Any, name: str) -> str:
    return (folder / "trials" / f"trial_{found.number:05d}" / f"seed_0.{name}.txt").read_text()


def test_words_and_values() -> None:
    params = {"lr": 1e-05, "flag": True, "sizes": [64, 64], "a.b/c": "x y"}
    command = split("python 'my train.py' --lr={lr} {{lr}} '{\"a\": 1}' {a.b/c}")
    assert filled(command, params) == [
        *("python", "my train.py", "--lr=1e-05", "{lr}", '{"a": 1}', "x y", "flag=true", "sizes=[64,64]"),
    ]
    assert TASK.source() == json.loads(json.dumps(TASK.source()))


@pytest.mark.parametrize(
    "code",
    [
        f"echo {SAYS}; echo hyperlax: step=4, val/accuracy=0.25, loss=3",
        f"printf '{SAYS}\\nhyperlax: step=4 val/accuracy=0.25 loss=3'",
        """echo '{"step": 1, "val/accuracy": 0.5}' >> $HYPERLAX_REPORT
        printf '{"step": 4, "val/accuracy": 0.25, "loss": 3}' >> $HYPERLAX_REPORT""",
        f"echo progress; printf '50%%\\r{SAYS}\\r\\n'; echo hyperlax, is it; echo hyperlax: step=4 val/accuracy=0.25 loss=3",
    ],
    ids=["lines", "no newline at the end", "file", "among other output"],
)
def test_what_a_command_says_becomes_a_curve(closed: Any, code: str) -> None:
    (found,) = trained(closed, code)
    curve = sound(found).curve
    assert curve.steps.tolist() == [1, 4] and values(found) == [0.5, 0.25]
    assert curve.others["loss"][1].tolist() == [3.0]


def test_steps_may_be_left_out(closed: Any) -> None:
    (found,) = trained(closed, "for i in 5 6 7; do echo hyperlax: val/accuracy=$i; done")
    assert values(found) == [5.0, 6.0, 7.0] and sound(found).curve.steps.tolist() == [1, 2, 3]


def test_it_finds_its_place_in_its_environment(closed: Any) -> None:
    code = """mkdir -p $HYPERLAX_DIRECTORY; echo kept > $HYPERLAX_DIRECTORY/model
    echo hyperlax: val/accuracy=$HYPERLAX_TRIAL loss=$HYPERLAX_SEED; cat"""
    (found,) = trained(closed, code)
    assert values(found) == [sound(found).number] and sound(found).curve.others["loss"].tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("exit 0", "exit status 0 without a report. Print a line such as hyperlax: val/accuracy=0.9"),
        (f"echo {SAYS} >&2", "exit status 0 without a report. Print a line such as hyperlax: val/accuracy=0.9"),
        ("echo one >&2; echo 'oh no\r' >&2; echo >&2; exit 3", "exit status 3: oh no"),
        (f"echo {SAYS}; exit 1", "exit status 1"),
        (
            "printf 'hyperlax: step=3 val/acc'",
            "its report 'hyperlax: step=3 val/acc' is not of the form hyperlax: step=3 val",
        ),
        ("echo hyperlax:", "its report 'hyperlax:' is not of the form hyperlax: step=3 val/accuracy=0.91"),
        ("printf 'hyperlax: \\377\\n'", "its report 'hyperlax: \ufffd' is not of the form"),
        (
            "printf '{\"step\": 1, ' > $HYPERLAX_REPORT",
            "its report '{\"step\": 1,' is not a JSON object on a line of its own",
        ),
        ("echo hyperlax: val/accuracy=nan", "val/accuracy is nan; report a finite number"),
        ("echo hyperlax: val/accuracy=high", "val/accuracy is 'high'; report a finite number"),
        (
            "echo hyperlax: val/acuracy=1",
            "no measure named `val/acuracy`. Did you mean `val/accuracy`? The task declares val",
        ),
        ("echo hyperlax: genauigkeit_für_später=1", "no measure named `genauigkeit_für_später`. The task declares val"),
        ("echo hyperlax: loss=1", "a report without val/accuracy, the leading measure"),
        (f"echo {SAYS}; echo {SAYS}; sleep 60", "step 1 was reported after step 1; steps must increase"),
        ("for i in 1 2 3 4 5 6; do echo hyperlax: val/accuracy=$i; done", "more reports than the task's 5 evaluations"),
    ],
)
def test_a_fault_of_a_command_fails_its_trial(closed: Any, code: str, fault: str) -> None:
    (found,) = trained(closed, code)
    assert isinstance(found, SegmentResult) and fault in found.fault


def test_output_is_kept_and_a_flood_only_at_both_ends(closed: Any, folder: Path) -> None:
    code = f"echo first; yes 'a line' | head -c 9100000; echo {SAYS}; echo wörter >&2; echo last"
    (found,) = trained(closed, code)
    out = files(folder, sound(found), "out")
    assert out.startswith("first\na line\n") and out.endswith(f"{SAYS}\nlast\n") and len(out) < 4_200_000
    (left_out,) = re.findall(r"\n\.\.\. ([\d,]+) bytes are left out here \.\.\.\n", out)
    assert 5_000_000 < int(left_out.replace(",", "")) < 5_200_000
    assert files(folder, sound(found), "err") == "wörter\n"
    (found,) = trained(closed, f"head -c 300000 /dev/zero; echo; echo {SAYS}")
    assert values(found) == [0.5]


def test_a_killed_command_is_lost_and_runs_again(closed: Any, folder: Path, caplog: Any) -> None:
    once = f"mark=$HYPERLAX_DIRECTORY/mark; echo {SAYS}; if [ ! -e $mark ]; then touch $mark; kill -9 $$; fi"
    first, second = trained(closed, once, "kill -9 $$")
    assert values(first) == [0.5]
    assert isinstance(second, SegmentResult) and second.fault.startswith("lost three times, the last time because")
    assert "was killed by SIGKILL" in second.fault and len(caplog.records) == 3


@pytest.mark.parametrize(
    ("code", "losses"),
    [
        ("if [ -e $pid ]; then echo SAYS; else echo $$ > $pid; sleep 0.5; kill -9 $PPID; sleep 100; fi", 1),
        ("sleep 100 & echo $! > $pid; echo SAYS", 0),
        ("(setsid sh -c 'echo $$ > $0; exec sleep 100' $pid &); echo SAYS; until [ -s $pid ]; do sleep 0.05; done", 0),
    ],
    ids=["itself when its worker dies", "what it leaves behind", "a daemon that has left its group"],
)
def test_no_process_of_a_command_outlives_its_trial(
    closed: Any, folder: Path, caplog: Any, code: str, losses: int
) -> None:
    (found,) = trained(closed, f"pid=$HYPERLAX_DIRECTORY/pid; {code.replace('SAYS', SAYS)}")
    assert values(found) == [0.5] and len(caplog.records) == losses
    pid = int((folder / "trials" / f"trial_{sound(found).number:05d}" / "seed_0" / "pid").read_text())
    if losses:
        eventually(lambda: not is_alive(pid))
    assert not is_alive(pid)


def test_a_crash_of_a_command_is_its_own_failure(closed: Any, caplog: Any) -> None:
    (found,) = trained(closed, "echo oh no >&2; kill -SEGV $$")
    assert isinstance(found, SegmentResult) and found.fault == "crashed with SIGSEGV: oh no" and not caplog.records


def test_it_continues_while_a_decision_is_awaited_and_is_ended_when_it_is_pruned(folder: Path) -> None:
    backend, mark = making(folder, TASK, kind="refilled", trial_seeds=1, slots=1), folder / "later"
    code = f"for i in 1 2 3; do echo hyperlax: step=$i val/accuracy=$i; done; echo $$ > {mark}; exec sleep 1000"
    pruned = Trial(10_000, Params({"code": code}))
    try:
        backend.enter([pruned])
        (found,), _ = backend.advance()
        assert found.segments == 1
        eventually(lambda: mark.exists() and mark.read_text())
        (found,), _ = backend.advance()
        assert found.segments == 2 and values(found) == [1.0, 2.0]
        backend.leave(pruned.number)
        assert values(trained(backend, f"echo {SAYS}")[0]) == [0.5]
        assert not is_alive(int(mark.read_text()))
    finally:
        backend.close()


def test_a_trial_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    backend = making(tmp_path, TASK, trial_timeout=3.0)
    try:
        slow, fast = trained(backend, f"echo {SAYS}; exec sleep 300", f"sleep 0.1; echo {SAYS}")
        assert isinstance(slow, SegmentResult) and slow.fault == "took longer than the trial timeout of 3 s"
        assert slow.curve.mean.tolist() == [[0.5]] and values(fast) == [0.5]
    finally:
        backend.close()


def test_the_pages_example_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
    page = page.partition("## A sweep file")[0]
    _, script, recipe = re.findall(r"```python\n(.*?)```", page, re.S)
    (study,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (words,) = re.findall(r"^hyperlax (tune .*)$", page, re.M)
    (desk / "bin").mkdir()
    (desk / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{desk / 'bin'}:/bin")
    Path("train.py").write_text(script)
    assert cli.main([*shlex.split(words.replace("--", "--quiet --", 1))]) == 0
    assert {trial.state.name for trial in trials(Path("my_optuna_studies/train"))} == {"COMPLETE", "PRUNED"}
    Path("study.yaml").write_text(study.replace("--lr={lr}", "lr={lr}"))
    assert cli.main(["run-study", "study.yaml", "--n-trials", "2", "--quiet"]) == 0
    Path("own.py").write_text(
        f"from hyperlax.space import UniformContinuous\nfrom hyperlax.tasks import Command, Measure\n{recipe}"
        "def get_base_params(): return {'lr': 0.01, 'batch_size': 32}\n"
        "def get_base_hyperparam_distributions(): return {'lr': UniformContinuous(domain=(0, 0.1))}\n"
    )
    words = "optuna-hp-search --algo-and-network-config own.py --objective-names normalized_auc --n-trials 2 --quiet"
    assert cli.main(words.split()) == 0


TUNE = "tune --space x=uniform:0:1 --metric accuracy --sampler random --output-root studies --quiet"
CLIMBS = "i=0; while [ $i -lt 9 ]; do i=$((i+1)); echo hyperlax: step=$i accuracy=0.$i; sleep ${1:-0}; done"


def tune(more: str, code: str) -> int:
    return cli.main([*shlex.split(f"{TUNE} --study-name s {more}"), "--", "sh", "-c", code, "{x}"])


def test_tune_resumes_and_trains_again(desk: Path, capsys: Any) -> None:
    assert tune("--n-trials 3 --slots 2 --constraint 'accuracy >= 0'", "echo hyperlax: accuracy=$0") == 0
    found = trials(Path("studies/s"))
    assert [one.values for one in found] == [pytest.approx([one.params["x"]]) for one in found]
    assert found[0].params["x"] == 0.5
    capsys.readouterr()
    assert cli.main(["tune", "--resume-from", "studies/s", "--n-trials", "5", "--quiet"]) == 0
    assert len(trials(Path("studies/s"))) == 5
    assert cli.main(["run-study", "studies/s/study.yaml", "--n-trials", "6", "--quiet"]) == 0
    assert cli.main(["train", "--from", "studies/s", "--output-root", "single"]) == 0
    assert tune("--n-trials 3", "echo hyperlax: accuracy=$0") == 2
    assert "hyperlax tune --resume-from studies/s" in capsys.readouterr().err


def test_a_command_that_no_own_run_recorded_runs_when_it_is_given_again(
    desk: Path, monkeypatch: Any, capsys: Any
) -> None:
    code, again = "echo hyperlax: accuracy=$0", "tune --resume-from studies/s --quiet"
    given = ["--", "sh", "-c", code, "{x}"]
    assert tune("--n-trials 1", code) == 0
    here = desk / "here"
    capsys.readouterr()
    for count, words in ((2, given), (4, [*shlex.split(TUNE)[1:], *given])):
        monkeypatch.setenv("XDG_STATE_HOME", str(desk / f"state{count}"))
        for command in (again, "train --from studies/s"):
            assert cli.main(shlex.split(command)) == 2
            assert "no run of yours wrote that. If you trust it, name it again" in capsys.readouterr().err
        assert "now it is ['sh', '-c', 'true', '{x}']" in refused(
            [*again.split(), "--", "sh", "-c", "true", "{x}"], capsys
        )
        assert cli.main([*again.split(), "--n-trials", str(count), *words]) == 0
        assert cli.main([*again.split(), "--n-trials", str(count + 1)]) == 0
        capsys.readouterr()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_STATE_HOME", str(desk / "c"))
    assert cli.main(["tune", "--resume-from", "../studies/s", "--quiet", *given]) == 0
    source = json.loads((desk / "studies/s/study.json").read_text())["recipe"]["source"]
    assert source["directory"] == str(here), "the place of a command is code, too"


def test_a_pruned_study_of_commands_does_not_depend_on_their_speed(desk: Path) -> None:
    for name, pause in (("fast", 0), ("slow", 0.02)):
        more = "--n-trials 9 --pruner asha --pruner-min-segments 1 --budget 9 --slots 2 --optuna-study-batch-size 3"
        code = CLIMBS.replace("0.$i", "$0").replace("${1:-0}", str(pause))
        assert tune(f"{more} --output-root {name}", code) == 0
    one, other = (results(Path(name, "s")) for name in ("fast", "slow"))
    assert one == other and {"PRUNED", "COMPLETE"} <= {state for _, state, *_ in one}


def test_failed_trials_show_their_last_lines(desk: Path, capsys: Any) -> None:
    assert (
        tune(
            "--n-trials 2 --trial-timeout 60",
            "[ $0 = 0.5 ] && echo hyperlax: accuracy=1 && exit; echo '<b> one' >&2; echo two >&2; exit 3",
        )
        == 0
    )
    assert reasons(Path("studies/s"))[1].startswith("exit status 3: two (x=")
    capsys.readouterr()
    assert cli.main(["show", "studies/s", "1"]) == 0
    assert "It wrote last:\n  <b> one\n  two\n" in capsys.readouterr().out
    assert "<pre>&lt;b&gt; one\ntwo</pre>" in Path("studies/s/report.html").read_text()


def test_a_name_is_not_said_twice(desk: Path, capsys: Any) -> None:
    assert tune("--n-trials 1", "echo hyperlax: accuracy=$0") == 0
    assert '<h1>s</h1><p class="soft"> maximize accuracy.' in " ".join(
        Path("studies/s/report.html").read_text().split()
    )
    capsys.readouterr()
    assert cli.main(["show", "studies/s"]) == 0 and capsys.readouterr().out.startswith("s\nfinished, ")


def test_progress_says_how_many_of_all_slots_train(desk: Path, capsys: Any) -> None:
    more = f"{TUNE.removesuffix(' --quiet')} --n-trials 4 --slots 2 --study-name s"
    code = "[ $HYPERLAX_TRIAL = 3 ] && sleep 3; echo hyperlax: accuracy=$0"  # the others end long before
    assert cli.main([*shlex.split(more), "--", "sh", "-c", code, "{x}"]) == 0
    third = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("3/4 trials"))
    assert "  1/2 slots  " in third


def outputs(study: str) -> list[tuple[str, str]]:
    """Return the outputs of a study's trials in the order of its batches, each with its name."""
    return [(path.name, path.read_text()) for path in sorted(Path(study).rglob("batch_*/trial_*.txt"))]


def test_the_output_of_a_trial_is_in_its_batch_and_outlives_a_retry(desk: Path, capsys: Any) -> None:
    code = "echo $HYPERLAX_TRIAL; [ -e works ] && echo hyperlax: accuracy=1 && exit; echo no >&2; exit 3"
    assert tune("--n-trials 1", code) == 1
    first = [("trial_00000.seed_0.err.txt", "no\n"), ("trial_00000.seed_0.out.txt", "0\n")]
    assert outputs("studies/s") == first
    Path("works").touch()
    assert cli.main(["tune", "--resume-from", "studies/s", "--retry-failed", "--confirm-top", "1", "--quiet"]) == 0
    names = [name for name, _ in first]
    said = [(names[0], ""), (names[1], "0\nhyperlax: accuracy=1\n")]
    assert [*Path("studies/s").rglob("seed_*.jsonl")] == []
    assert sorted(outputs("studies/s/optuna_exec_batch_0000")) == sorted([*first, *said])
    confirmed = Path("studies/s/confirmation/batch_00000")
    assert "hyperlax: accuracy=1\n" in (confirmed / names[1]).read_text()
    assert [*Path("studies/s").rglob("trials/trial_*/*.txt")] == []
    assert cli.main(["delete", "studies/s", "--yes"]) == 0 and not Path("studies/s").exists()


def test_output_that_an_interruption_left_is_still_shown(tmp_path: Path) -> None:
    own, batch = directory_of(tmp_path, 3), tmp_path / "batch_00000"
    for directory in (own, batch):
        directory.mkdir(parents=True)
    (own / "output.txt").write_text("first\nlast\n")
    with suppress(KeyboardInterrupt), moving_outputs(tmp_path, [3], batch):
        raise KeyboardInterrupt
    assert (own / "output.txt").exists()
    for where in (None, batch):
        assert said_last(tmp_path, 3, where) == ["first", "last"]


@pytest.mark.parametrize(
    ("how", "status"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_no_command_outlives_its_study(desk: Path, how: signal.Signals, status: int) -> None:
    ignores = "trap '' TERM; " if how == signal.SIGINT else ""
    code = f"{ignores}sleep 100 & echo $$ $! > $HYPERLAX_DIRECTORY/pids; wait"
    words = [*shlex.split(f"{TUNE} --study-name s --n-trials 4 --slots 2"), "--", "sh", "-c", code]
    with popen(desk, *words) as process:
        eventually(lambda: sum(bool(path.read_text()) for path in desk.glob("studies/s/trials/*/seed_0/pids")) == 2)
        pids = [int(pid) for path in desk.glob("studies/s/trials/*/seed_0/pids") for pid in path.read_text().split()]
        process.send_signal(how)
        _, err = process.communicate()
    assert process.returncode == status and "Traceback" not in err, err
    eventually(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(("typed", "said"), table("tune"), ids=lambda value: value[:60])
def test_a_tune_is_refused(desk: Path, monkeypatch: Any, capsys: Any, typed: str, said: str) -> None:
    monkeypatch.setenv("PATH", "/bin")
    for name in ("a_file", "train.py"):
        Path(name).write_text("")
    words = typed.replace("TUNE", "tune --space lr=loguniform:1e-4:1e-1 --metric accuracy").replace(
        "RUN", "-- sh train.py"
    )
    assert refused(shlex.split(words), capsys).replace(str(desk), "HERE") == said


@pytest.mark.parametrize("case", table("tune_files"), ids=lambda case: " ".join(case)[:60])
def test_a_file_with_a_command_is_refused(desk: Path, monkeypatch: Any, capsys: Any, case: tuple[str, ...]) -> None:
    monkeypatch.setenv("PATH", "/bin")
    *lines, said = case
    whole = {"command": "sh train.py", "metric": "accuracy", "space": "{lr: {type: uniform, low: 0, high: 1}}"}
    given = {line.partition(":")[0] for line in lines}
    rest = [f"{key}: {value}" for key, value in whole.items() if key not in given and f"no {key}" not in lines]
    for name in ("train.py", "a_file"):
        Path(name).write_text("")
    Path("s.yaml").write_text("\n".join([*(line for line in lines if not line.startswith("no ")), *rest]) + "\n")
    assert refused(["run-study", "s.yaml"], capsys).replace(str(desk), "HERE") == said


def test_a_changed_command_does_not_continue_a_study(desk: Path, capsys: Any) -> None:
    text = "command: [sh, -c, '{0}echo hyperlax: accuracy=$0', '{{x}}']\nmetric: accuracy\nn_trials: 2\nspace: {{x: [1, 2]}}\n"
    Path("s.yaml").write_text(text.format(""))
    assert cli.main(["run-study", "s.yaml", "--quiet"]) == 0
    Path("s.yaml").write_text(text.format("true; "))
    capsys.readouterr()
    assert cli.main(["run-study", "s.yaml", "--quiet"]) == 2
    assert "runs the command = ['sh', '-c', 'echo hyperlax: accuracy=$0', '{x}'], now it is" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["", pytest.param("--agents 1", marks=pytest.mark.slow)])
def test_the_metric_of_its_run_in_mlflow_is_its_report(desk: Path, where: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    Path("log.py").write_text(
        "import os, sys\nfrom mlflow import MlflowClient\nclient, run = MlflowClient(), os.environ['MLFLOW_RUN_ID']\n"
        "for step in range(3): client.log_metric(run, 'accuracy', float(sys.argv[1].split('=')[1]) * step, step=step)\n"
        "client.log_param(run, 'x', sys.argv[1].split('=')[1])\n"
    )
    words = f"{TUNE} --study-name s --n-trials 1 --slots 1 --track mlflow --budget 3 --set x=0.25 {where}"
    assert cli.main([*words.split(), "--", sys.executable, "log.py"]) == 0
    (trial,) = trials(Path("studies/s"))
    assert trial.values == [0.5] and trial.intermediate_values == {0: 0.0, 1: 0.25, 2: 0.5}
    client = mlflow.MlflowClient(f"sqlite:///{desk / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "s"]
    child_run, parent = sorted(
        client.search_runs([experiment.experiment_id]), key=lambda run: run.data.tags["mlflow.runName"] == "s"
    )
    assert parent.info.status == child_run.info.status == "FINISHED" and child_run.data.metrics["accuracy"] == 0.5
    assert (
        child_run.data.tags["mlflow.parentRunId"] == parent.info.run_id and child_run.data.tags["hyperlax.trial"] == "0"
    )
