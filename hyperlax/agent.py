"""A trained policy as plain arrays in a file, and the agent that acts with it. Needs numpy and safetensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.errors import UsageError, counted
from hyperlax.files import PUT_BACK, decode, read_bytes, replacing, write_json

_FORMAT = "hyperlax agent 1"
ARRAYS, ABOUT = ".safetensors", ".json"
_GELU_SCALE = (2.0 / np.pi) ** 0.5
_NEEDED = ("format", "environment", "observation_size", "action", "activation", "output", "seed", "trial")


@dataclass(frozen=True)
class Policy:
    """A policy network, at its own size, of every seed of a trial.

    description: the properties of the network that `act` needs.
    arrays: name -> float32[seeds, ...]. For each layer `dense_0.kernel` [seeds, inputs, features] and `dense_0.bias`, and with
    layer norm `norm_0.scale` and `norm_0.bias`; then `head.kernel` and `head.bias`. With normalized observations also
    `observation.mean` and `observation.variance`.
    """

    description: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def joined(policies: Sequence[Policy]) -> Policy:
    """Return one policy with the seeds of several policies of one trial."""
    names = policies[0].arrays
    return replace(
        policies[0], arrays={name: np.concatenate([policy.arrays[name] for policy in policies]) for name in names}
    )


def act(description: Mapping[str, Any], arrays: Mapping[str, Any], observation: Any, xp: Any = np) -> Any:
    """Return the actions of one seed's policy for float32[..., observation_size]: int[...], or float32[..., action] in its box.

    arrays: those of one seed, without the leading axis. xp: numpy or jax.numpy.
    """
    x = observation
    if "observation.mean" in arrays:
        clip = description["observation_clip"]
        deviation = xp.sqrt(arrays["observation.variance"] + description["observation_epsilon"])
        x = xp.clip((x - arrays["observation.mean"]) / deviation, -clip, clip)
    layer = 0
    while f"dense_{layer}.kernel" in arrays:
        x = x @ arrays[f"dense_{layer}.kernel"] + arrays[f"dense_{layer}.bias"]
        if f"norm_{layer}.scale" in arrays:
            centered = x - xp.mean(x, axis=-1, keepdims=True)
            variance = xp.mean(centered**2, axis=-1, keepdims=True)
            x = centered / xp.sqrt(variance + description["layer_norm_epsilon"])
            x = x * arrays[f"norm_{layer}.scale"] + arrays[f"norm_{layer}.bias"]
        x = _activate(description["activation"], x, xp)
        layer += 1
    out = x @ arrays["head.kernel"] + arrays["head.bias"]
    if description["output"] == "argmax":
        return xp.argmax(out, axis=-1)
    unit = xp.tanh(out) if description["output"] == "tanh" else xp.clip(out, -1.0, 1.0)
    low, high = (xp.asarray(description["action"][name], np.float32) for name in ("low", "high"))
    return (high + low) / 2 + (high - low) / 2 * unit


class Agent:
    """A trained policy: call it with an observation, or with a batch of them.

    about: the JSON beside its arrays: environment, trial, hyperparameters, returns. seed: the chosen seed of the trial.
    """

    def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], seed: int):
        self.about, self.seed = about, seed
        self.arrays = {name: array[seed] for name, array in arrays.items()}

    def __repr__(self) -> str:
        return f"Agent({self.about['environment']}, trial {self.about.get('trial')}, seed {self.seed})"

    def __call__(self, observation: Any) -> Any:
        """Return the actions for observations [size] or [n, size]: a number or [n] if discrete, else float32[..., action].

        Raises:
          ValueError: The last axis does not have the size of the environment's observation.
        """
        seen, size = np.asarray(observation, np.float32), self.about["observation_size"]
        if seen.shape[-1:] != (size,):
            raise ValueError(
                f"an observation of {self.about['environment']} has {counted(size, 'number')}, got an array of shape {seen.shape}."
            )
        return act(self.about, self.arrays, seen)


def agent_files(path: Path) -> tuple[Path, Path]:
    """Return the two files of an agent at a path without suffix: its arrays and its description."""
    return path.with_name(path.name + ARRAYS), path.with_name(path.name + ABOUT)


def save_agent(path: Path, policy: Policy, about: Mapping[str, Any]) -> None:
    """Write `path`.safetensors and, after it, `path`.json. about: entries of the JSON besides the policy's description."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in policy.arrays.items()}
    file, description = agent_files(path)
    with replacing(file) as temporary:
        temporary.write_bytes(save(arrays))
    write_json(description, {"format": _FORMAT, **about, **policy.description})


def load_agent(path: Path, seed: int | None = None) -> Agent:
    """Return the agent in a .safetensors file and the .json beside it. seed: one of the trial's seeds, by default the best.

    Raises UsageError if it does not exist, has no such seed, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file, description = agent_files(path.with_suffix("") if path.suffix in (ARRAYS, ABOUT) else path)
    about = decode(description, dict[str, Any])
    if about.get("format") != _FORMAT or not all(name in about for name in _NEEDED):
        raise UsageError(f"{description}: does not describe an agent. {PUT_BACK}")
    try:
        arrays = load(read_bytes(file))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}).") from error
    except SafetensorError as error:
        raise UsageError(f"{file}: is not a safetensors file ({error}). {PUT_BACK}") from error
    if "head.kernel" not in arrays:
        raise UsageError(f"{file}: holds no policy. {PUT_BACK}")
    problem = f"{description}: does not describe the agent in {file.name}"
    try:
        if not _fit(about, arrays):
            raise UsageError(f"{problem}. {PUT_BACK}")
        agent = Agent(about, arrays, _chosen(about["seed"] if seed is None else seed, len(arrays["head.kernel"]), file))
        agent(np.zeros(about["observation_size"], np.float32))
    except UsageError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise UsageError(f"{problem} ({error}). {PUT_BACK}") from error
    return agent


def _chosen(seed: Any, seeds: int, file: Path) -> int:
    """Return the number of a seed. Raises UsageError if a file with so many seeds does not have it."""
    if not isinstance(seed, int) or not 0 <= seed < seeds:
        raise UsageError(f"{file}: has the seeds 0 to {seeds - 1}, not {seed}.")
    return seed


def _fit(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether a description has the entries that `act` needs for these arrays."""
    first = arrays.get("dense_0.kernel", arrays["head.kernel"])
    action, outputs = about["action"], arrays["head.kernel"].shape[-1]
    needed = {
        "observation.mean": ("observation_clip", "observation_epsilon"),
        "norm_0.scale": ("layer_norm_epsilon",),
    }
    return (
        isinstance(about["environment"], str)
        and about["observation_size"] == first.shape[-2]
        and isinstance(action, dict)
        and (action.get("n") == outputs or all(_are_numbers(action.get(name), outputs) for name in ("low", "high")))
        and all(name in about for array, names in needed.items() if array in arrays for name in names)
    )


def _are_numbers(values: Any, count: int) -> bool:
    """Return whether these are so many numbers. numpy would take None for nan."""
    return np.size(values) == count and np.asarray(values).dtype.kind in "if"


def _activate(name: str, x: Any, xp: Any) -> Any:
    """Return flax's tanh, relu, silu, gelu (approximated by tanh) or elu of the values."""
    if name == "tanh":
        return xp.tanh(x)
    if name == "relu":
        return xp.maximum(x, 0.0)
    if name == "silu":
        return x * 0.5 * (1.0 + xp.tanh(x / 2))
    if name == "gelu":
        return 0.5 * x * (1.0 + xp.tanh(_GELU_SCALE * (x + 0.044715 * x**3)))
    if name == "elu":
        return xp.where(x > 0, x, xp.expm1(xp.minimum(x, 0.0)))
    raise UsageError(f"an agent's activation is {name!r}, which this version does not know.")
