"""Several devices of a machine: two forced CPU devices train as one does, alone and divided among agents; GPUs are made up."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from hyperlax import cli
from hyperlax.backends.local_agents import Share, shares
from hyperlax.engine import device
from hyperlax.errors import OptionError
from hyperlax.files import decode
from hyperlax.study import leading
from tests.desk import results
from tests.fake_backend import FakeBackend
from tests.study_cases import Case
from tests.test_bad_input import TABLES

SEARCH = (
    f"optuna-hp-search --algo-and-network-config {TABLES / 'own_lanes.py'} --seed 3 --n-trials 4 --optuna-study-batch-size 4 "
    "--quiet"
)
TWO = "--xla_force_host_platform_device_count=2"


def on_two_devices(command: str) -> None:
    """A command in a process that has two devices."""
    words, environment = [sys.executable, "-m", "hyperlax.cli", *shlex.split(command)], {**os.environ, "XLA_FLAGS": TWO}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("more", ["", pytest.param("--agents 2", marks=pytest.mark.slow)])
def test_results_do_not_depend_on_the_number_of_devices(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: str
) -> None:
    assert cli.main(shlex.split(f"{SEARCH} --output-root {tmp_path / 'one'}")) == 0
    on_two_devices(f"{SEARCH} --output-root {tmp_path / 'two'} {more}")
    one, two = (tmp_path / name / "own_lanes" for name in ("one", "two"))
    assert results(one) == results(two)
    used = max(2, device.cores())
    assert more or decode(two / "study.json", dict[str, Any])["device"] == f"cpu, 2 devices, {used} slots"


@pytest.mark.parametrize("command", ["optuna-hp-search", "agent", "a file"])
def test_a_device_that_does_not_exist_is_refused_before_anything_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"{SEARCH} --devices 0,7"
    if command == "agent":
        assert cli.main(shlex.split(SEARCH)) == 0
        words = "agent my_optuna_studies/own_lanes --devices 0,7"
    elif command == "a file":
        Path("s.yaml").write_text(f"algo_and_network_config: {TABLES / 'own_lanes.py'}\n")
        words = "run-study s.yaml --devices 0,7"
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(shlex.split(words)) == 2
    there = "0,7: there is no device 7. JAX has 1 device here: 0 (cpu). Name some of these, or leave "
    assert f"devices {there}" in capsys.readouterr().err
    assert cli.main(shlex.split(words.replace("0,7", "0,0"))) == 2
    assert "devices 0,0: names a device twice. Name each once." in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_trains_in_processes_has_no_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = (
        f"optuna-hp-search --algo-and-network-config {TABLES / 'own_code.py'} --n-trials 1 --output-root {tmp_path}"
    )
    assert cli.main(shlex.split(f"{search} --devices 0")) == 2
    said = "its processes see the GPUs that CUDA_VISIBLE_DEVICES names. Set that."
    assert f"--devices: own_code trains a function, and {said}" in capsys.readouterr().err
    assert cli.main(shlex.split(search)) == 0
    assert cli.main(["agent", str(tmp_path / "own_code"), "--devices", "0"]) == 2
    assert f"--devices: own_code trains a function, and {said}" in capsys.readouterr().err


def test_one_that_joins_trains_on_the_devices_of_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "s.yaml").write_text("algo_and_network_config: ppo_mlp\n")
    found: list[Share] = []
    monkeypatch.setattr("hyperlax.study.joining.lead_or_join", lambda plan, share, level: found.append(share) or 0)
    assert cli.main(["run-study", str(file), "--join", "--devices", "0,1"]) == 0
    assert found == [Share(("--devices", "0,1"))]


def test_a_resume_may_train_on_another_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(shlex.split(f"{SEARCH} --output-root {tmp_path} --devices 0")) == 0
    resumed = shlex.split(f"optuna-hp-search --resume-from {tmp_path / 'own_lanes'} --n-trials 5")
    assert cli.main([*resumed, "--devices", "1"]) == 2
    assert "--devices 1: there is no device 1" in capsys.readouterr().err
    assert cli.main(resumed) == 0
    assert "devices" not in decode(tmp_path / "own_lanes" / "study.json", dict[str, Any])["arguments"]


def made_up(monkeypatch: pytest.MonkeyPatch, platform: str, count: int) -> list[Any]:
    """Devices of a machine that is not this one."""
    kind = "cpu" if platform == "cpu" else "a GPU"
    made = [SimpleNamespace(platform=platform, device_kind=kind, id=index) for index in range(count)]
    monkeypatch.setattr(jax, "local_devices", lambda: made)
    monkeypatch.setattr(device, "cores", lambda: 4)
    return made


@pytest.mark.parametrize(
    ("platform", "count", "slots"),
    [("cpu", 1, [0, 0, 0, 0]), ("cpu", 2, [0, 1, 0, 1]), ("cpu", 6, [0, 1, 2, 3, 4, 5]), ("gpu", 3, [0, 1, 2])],
)
def test_slots_are_spread_over_devices(
    monkeypatch: pytest.MonkeyPatch, platform: str, count: int, slots: list[int]
) -> None:
    made = made_up(monkeypatch, platform, count)
    assert [made.index(one) for one in device.slot_devices()] == slots
    assert [made.index(one) for one in device.slot_devices(at_most=2)] == slots[:2]
    assert {made.index(one) for one in device.slot_devices([count - 1])} == {count - 1}


def test_a_gpu_that_is_not_chosen_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "backend_started", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    made = made_up(monkeypatch, "gpu", 2)
    try:
        assert device.local_devices([2, 0]) == {0: made[0], 2: made[1]}
        assert jax.config.values["jax_cuda_visible_devices"] == "0,2"
        monkeypatch.setattr(device, "backend_started", lambda: True)
        assert device.local_devices([2]) == {2: made[1]}
        with pytest.raises(
            OptionError, match=r"1: there is no device 1. JAX has 2 devices here: 0 \(a GPU\), 2 \(a GPU\)"
        ):
            device.local_devices([1])
        made_up(monkeypatch, "gpu", 3)
        with pytest.raises(ValueError, match="longer"):  # JAX has more than were asked for
            device.local_devices()
    finally:
        jax.config.update("jax_cuda_visible_devices", "all")


def test_agents_get_the_gpus_of_their_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    Case(tmp_path, n_trials=1).start(backend)
    made_up(monkeypatch, "gpu", 3)
    monkeypatch.setattr(leading, "gpus", lambda: ["4", "5", "7"])
    for chosen, visible in (((), ["4,7", "5"]), ((2, 1), ["7", "5"]), ((1,), ["5", "5"])):
        found = leading._shares(2, 3, replace(backend.config, devices=chosen))
        assert [share.variables["CUDA_VISIBLE_DEVICES"] for share in found] == visible
        assert not any("--devices" in share.words for share in found)
    monkeypatch.setattr(leading, "gpus", list)
    named = leading._shares(2, 3, backend.config)
    assert [share.words[-1] for share in named] == ["0,2", "1"] and not any(share.variables for share in named)


def test_agents_divide_a_machine() -> None:
    def words(*arguments: Any, **more: Any) -> list[str]:
        return [" ".join(share.words) for share in shares(*arguments, **more)]

    assert words(1, 2) == ["--slots 2"] and words(3, 2) == ["--slots 1"] * 3
    assert words(2, 4, devices=[0, 1]) == ["--slots 2 --devices 0", "--slots 2 --devices 1"]
    assert words(2, 3, devices=[0, 2, 3]) == ["--slots 2 --devices 0,3", "--slots 1 --devices 2"]
    several = shares(3, 2, ["4", "7"])
    assert [share.variables["CUDA_VISIBLE_DEVICES"] for share in several] == ["4", "7", "4"]
    assert {share.variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] for share in several} == {"0.375"}
    assert shares(1, 2, ["4", "7"])[0].variables == {"CUDA_VISIBLE_DEVICES": "4,7"}
