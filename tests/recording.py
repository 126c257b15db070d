"""Four tiny studies and what came of them, kept in `recorded_studies.json`: plain, pruned, racing seeds, population.

The recording was made before the study loop, the drivers of lanes and the options were each made one. As long as it stands, a
change to any of them has to give the same trials, curves and best files, to the bit. To record again, after a change that is
meant to change results: `python -m tests.recording`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax

from tests.desk import ENVIRONMENTS, curves, hyperlax, optuna_trials, study_of, write_small_recipes

RECORDING = Path(__file__).with_name("recorded_studies.json")
SEARCH = (
    "optuna-hp-search --algo-and-network-config {recipe} --env-config {environment} --seed 1 --n-trials 8 "
    "--optuna-study-batch-size 4 --packing pad --total-timesteps 1100 --num-evaluations 4 --num-eval-episodes 2 "
)
STUDIES = {
    "plain": ("sac_mlp", SEARCH + "--runner-hparam-batch-size 2 --objective-names peak_performance num_parameters "
              "--sampler nsgaii --num-seeds 2 --total-timesteps 256 --num-evaluations 2"),
    "pruned": ("ppo_mlp", SEARCH + "--runner-hparam-batch-size 4 --pruner asha --pruner-min-segments 1 "
               "--pruner-reduction-factor 2"),
    "racing": ("ppo_mlp", SEARCH + "--runner-hparam-batch-size 4 --pruner median --pruner-min-segments 1 --num-seeds 2 "
               "--seed-schedule racing --objective-names normalized_auc"),
    "population": ("ppo_mlp", "pbt --algo-and-network-config {recipe} --env-config {environment} --seed 1 "
                   "--population-size 4 --num-intervals 3 --total-timesteps 1100 --num-eval-episodes 2"),
}  # fmt: skip
"""Name -> recipe and command line."""


def machine() -> dict[str, str]:
    """What decides the bits beside the code: jax and the kind of processor."""
    named = [line for line in _cpuinfo() if line.startswith(("cpu family", "model", "flags"))]
    return {"jax": jax.__version__, "processor": _digest(sorted(set(named)) or platform.processor())}


def run(desk: Path, name: str) -> dict[str, Any]:
    """Run a study in a directory with the small recipes, and return what it gave."""
    recipe, words = STUDIES[name]
    command = words.format(recipe=recipe, environment=ENVIRONMENTS[recipe]).split()
    ended = hyperlax(desk, *command, "--output-root", name)
    assert ended.returncode == 0, ended.stderr
    return result(study_of(desk, recipe, name))


def result(directory: Path) -> dict[str, Any]:
    """Return what must not change of a study: states and values of its trials, digests of parameters, curves and best file."""
    told = [[t.number, t.state.name, t.values, _digest(t.params)] for t in optuna_trials(directory)]
    files = [directory / "best_optuna_params.json", directory / "pareto_front_params.json"]
    best = [_digest(_without_times(json.loads(file.read_text()))) for file in files if file.exists()]
    lines = {number: _digest(own) for number, own in curves(directory).items()}
    return json.loads(json.dumps({"trials": told, "curves": lines, "best": best}))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _without_times(found: Any) -> Any:
    if isinstance(found, list):
        return [_without_times(one) for one in found]
    metrics = {name: value for name, value in found["metrics"].items() if name != "train_seconds"}
    return {"trial": found["trial"], "values": found["values"], "params": found["params"], "metrics": metrics}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Record all studies on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        write_small_recipes(Path(scratch))
        found = {name: run(Path(scratch), name) for name in STUDIES}
    studies = ",\n".join(f'"{name}": {json.dumps(one)}' for name, one in found.items())
    RECORDING.write_text(f'{{"machine": {json.dumps(machine())},\n{studies}\n}}\n')


if __name__ == "__main__":
    main()
