"""Studies that never ran, with their batches on disk, for the analysis to read; and policies that nobody trained."""

from __future__ import annotations

import itertools

import numpy as np

from hyperlax.agent import Policy
from hyperlax.files import write_csv, write_json
from hyperlax.metrics import METRICS, ReferenceReturns
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.trial import TIMELINE, LaneInterval

SIZES = "algorithm.network.actor_network.pre_torso.layer_sizes"
CRITIC_SIZES = "algorithm.network.critic_network.pre_torso.layer_sizes"
SPACE = {
    "algorithm.hyperparam.actor_lr": {"type": "LogUniform", "domain": [1e-6, 1e-2]},
    "algorithm.hyperparam.gamma": {"type": "UniformContinuous", "domain": [0.9, 0.999]},
    "algorithm.hyperparam.epochs": {"type": "UniformDiscrete", "domain": [1, 16]},
    "algorithm.hyperparam.autotune": {"type": "Categorical", "values": [True, False]},
    "algorithm.network.actor_network.pre_torso.activation": {"type": "Categorical", "values": ["tanh", "relu"]},
    SIZES: {"type": "Categorical", "values": [[64, 64], [256, 256], [512, 512]]},
    CRITIC_SIZES: {"type": "Categorical", "values": [[64, 64], [256, 256]]},
}
ARGUMENTS = {
    "algo_and_network_config": "sac_mlp",
    "env_config": "gymnax.pendulum",
    "total_timesteps": 20000,
    "num_evaluations": 10,
    "num_eval_episodes": 16,
    "num_seeds": 3,
    "seed": 7,
    "aggregate": "mean",
}


def study(directory, values, objectives=None, failed=(), space=None, name="a study"):
    """A study with one trial per row of `values`; the numbers in `failed` are FAIL. Batches of four, files included."""
    objectives = objectives or {"peak_performance": "maximize"}
    space = SPACE if space is None else space
    rng = np.random.default_rng(0)
    trials = [
        trial(directory, number, np.atleast_1d(row), objectives, number in failed, space, rng)
        for number, row in enumerate(values)
    ]
    write_batches(trials, rng)
    importances = {objective: {name: 1 / len(space) for name in space} for objective in objectives}
    return StudyRecord(
        directory=directory,
        study_name=name,
        recipe="sac_mlp",
        environment="gymnax.pendulum",
        objectives=objectives,
        arguments=ARGUMENTS,
        command="hyperlax optuna-hp-search --study-name 'a study'",
        versions={"jax": "0.10.2", "optuna": "5.0.0"},
        device="cpu, 2 slots",
        space=space,
        scale=ReferenceReturns(-1200.0, -150.0, "measured"),
        trials=trials,
        importances=importances,
        runs=[{"began": "2023-11-14T22:13:19.000+00:00", "commit": "0123456789abcdef0123456789abcdef01234567"}],
    )


def trial(directory, number, row, objectives, failed, space, rng):
    batch = directory / f"optuna_exec_batch_{number // 16:04d}" / "samples" / f"batch_{number % 16 // 4:05d}"
    values = {} if failed else dict(zip(objectives, map(float, row), strict=True))
    metrics = {} if failed else {name: values.get(name, float(rng.normal())) for name in METRICS}
    params = {name: draw(distribution, rng) for name, distribution in space.items()}
    state, reason = ("FAIL", "loss is nan at step 3200") if failed else ("COMPLETE", "")
    return TrialRecord(number, state, reason, params, values, metrics, batch, number // 16)


def draw(distribution, rng):
    if distribution["type"] == "Categorical":
        return distribution["values"][rng.integers(len(distribution["values"]))]
    low, high = distribution["domain"]
    if distribution["type"] == "UniformDiscrete":
        return int(rng.integers(low, high + 1))
    if distribution["type"] == "LogUniform":
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def write_batches(trials, rng):
    """Batches take turns on two slots; each trains for 2.5 s, and the next begins half a second later."""
    header = ["trial", "seed", "step", "mean", "std", "min", "max", "length", "episodes"]
    for place, directory in enumerate(sorted({trial.batch_directory for trial in trials})):
        mates = [mate for mate in trials if mate.batch_directory == directory]
        rows = [
            [mate.number, seed, step, -1200 + step / 20 + float(rng.normal(0, 60)), 1.0, 0.0, 2.0, 200.0, 16]
            for mate in mates
            for seed in range(3)
            for step in range(0, 20001, 2000)
        ]
        write_csv(directory / "curves.csv", header, rows)
        timing = {"compile_seconds": 3.5, "train_seconds": 2.0, "evaluate_seconds": 0.5, "wall_seconds": 6.25}
        write_json(directory / "timing.json", timing | {"steps": 240000, "peak_memory_bytes": None})
        began = 3.5 + 3.0 * (place // 2)
        intervals = [LaneInterval(place % 2, 0, lane, 1.7e9, began, began + 2.5) for lane in range(len(mates))]
        write_timeline(directory, mates, intervals)


def write_timeline(directory, trials, intervals):
    rows = [[trial.number, trial.state, *interval] for trial, interval in zip(trials, intervals, strict=True)]
    write_csv(directory / TIMELINE, ["trial", "state", *LaneInterval._fields], rows)


def large_study(directory, trials=500, objectives=1):
    """As large as a report has to bear: ten hyperparameters, trials that failed, one or more objectives."""
    more = {
        f"algorithm.hyperparam.made_up_{place}": {"type": "LogUniform", "domain": [1e-5, 1.0]} for place in range(3)
    }
    every = {"peak_performance": "maximize", "num_parameters": "minimize", "normalized_auc": "maximize"}
    names = dict(itertools.islice(every.items(), objectives))
    values = np.random.default_rng(1).normal(size=(trials, objectives)) * 100
    return study(directory, values, names, failed={7, 77, 177}, space={**SPACE, **more})


BOX = {"low": (-2.0,), "high": (2.0,)}


def policy(
    environment="gymnax.pendulum", sees=3, action=BOX, seeds=2, normalized=False, layer_norm=False, activation="tanh"
):
    """A policy of one hidden layer. sees: the numbers of an observation. action: a box, or {"n": number of actions}."""
    draw, outputs = np.random.default_rng(1).normal, action.get("n", 1)
    shapes = {"dense_0.kernel": (sees, 4), "dense_0.bias": (4,), "head.kernel": (4, outputs), "head.bias": (outputs,)}
    if layer_norm:
        shapes |= {"norm_0.scale": (4,), "norm_0.bias": (4,)}
    arrays = {name: draw(size=(seeds, *shape)).astype(np.float32) for name, shape in shapes.items()}
    if normalized:
        arrays["observation.mean"] = np.ones((seeds, sees), np.float32)
        arrays["observation.variance"] = np.full((seeds, sees), 4.0, np.float32)
    description = {
        "algorithm": "SAC",
        "environment": environment,
        "observation_size": sees,
        "action": action,
        "activation": activation,
        "output": "argmax" if "n" in action else "tanh",
        "layer_norm_epsilon": 1e-6,
        "observation_clip": 10.0,
        "observation_epsilon": 1e-8,
    }
    return Policy(description, arrays)
