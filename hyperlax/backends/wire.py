"""What lies on the desk between a leader and its agents: configurations and trials as JSON, results as MessagePack.

A batch waits as a `TICKET`, is trained by the agent that has its `CLAIM`, and has a `RESULT` once it is trained. Where lanes are
refilled, a batch is one trial. Its agent puts `NEWS` on the desk after every segment and keeps the claim until the leader removes
it. `work` keeps a desk in a directory. An array in a result is in numpy's own format, without pickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from traceback import format_exception
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.lib.format import read_array, write_array

from hyperlax.backends.base import EngineConfig
from hyperlax.engine.machine import installed
from hyperlax.errors import message_of, type_and_message
from hyperlax.fields import dotted, filled
from hyperlax.files import convert, json_text
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe, RunLength
from hyperlax.trial import SegmentResult, Trial

LEASE_SECONDS = 60.0
"""Seconds after which an agent that did not renew its claim has lost it."""
TICKET, CLAIM, RESULT, NEWS = "ticket", "claim", "result", "news"
ALONE = "a"
"""First letter of a batch, usually b, whose agent may train only batches of its group at the same time."""
_DECIDING = ("hyperlax", "jax", "jaxlib")
"""The packages whose version decides the bits of a result."""
_OF_RECIPE = ("space", "task")
_NOT_JSON = ("base", "run_length", "trials", "configs", "devices", "mlflow")
_NOT_DECIDING = ("num_trials", "super_batch", "slots", "lanes", "compilation_cache", "mlflow")
"""Fields of a configuration, and entries of its choice of programs, that plan a study and decide no result."""


class Item(NamedTuple):
    """A batch on the desk, or news, which have a number in its place. kind: `TICKET`, `CLAIM`, `RESULT` or `NEWS`.

    agent: the claim's or that of the news, else "".
    """

    batch: str
    agent: str
    kind: str


@dataclass(frozen=True)
class Ticket:
    """The content of a ticket, and of the claim that it becomes.

    engine: the configuration that the agent needs. trials: number and values of each. group: as in `Backend.enter`. losses: how
    often an agent has lost it.
    """

    engine: str
    trials: list[tuple[int, dict[str, Any]]]
    repetition: int = 0
    group: int = 0
    losses: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(number for number, _ in self.trials)


@dataclass(frozen=True)
class AgentCard:
    """An agent's description of itself.

    batches: batch -> its trials and how many evaluations of how many are done. engine: the configuration that it is ready for.
    device, slots, lanes, packing: those of its backend then. device_kind: see `Engine`. beginning: see `child`. is_confirmation:
    whether it confirms the batches.
    """

    host: str
    process: int
    device: str
    slots: int
    began: str
    batches: dict[str, tuple[list[int], int, int]]
    engine: str = ""
    device_kind: str = ""
    lanes: int = 1
    packing: dict[str, Any] = field(default_factory=dict)
    beginning: str = ""
    is_confirmation: bool = False


def name_of_agent() -> str:
    """Return a name for this process that no other process has, on any host."""
    return f"{agents_of_process(os.getpid())}{os.urandom(2).hex()}"


def agents_of_process(pid: int) -> str:
    """Return the beginning of the names of a process's agents, on this host."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '-', socket.gethostname())[:40]}-{pid}-"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The configuration of a backend as JSON.

    config: the fields of `EngineConfig` that are JSON. Its `mlflow` has no address, which may hold a password. base: the values of
    the base configuration. trials: number and values of each. The recipe has the rest.
    versions, device_kind: what agents have to have: the packages and the kind of device by which the bits of results differ; any
    device if it is "". lease: see `work`.
    """

    config: dict[str, Any]
    run_length: RunLength
    base: dict[str, Any]
    trials: list[tuple[int, dict[str, Any]]]
    versions: dict[str, str]
    device_kind: str
    lease: float

    @classmethod
    def of(cls, config: EngineConfig, chosen: Mapping[str, Any] | None, device_kind: str, lease: float) -> Engine:
        """Return the configuration of a leader. chosen: its choice of programs, None if agents are to choose."""
        own = {name: value for name, value in vars(config).items() if name not in (*_OF_RECIPE, *_NOT_JSON)}
        experiment = {"experiment": config.mlflow["experiment"]} if config.mlflow else None
        return cls(
            config={**own, "chosen": None if chosen is None else dict(chosen), "mlflow": experiment},
            run_length=config.run_length,
            base=dotted(config.base),
            trials=[(trial.number, dotted(trial.config)) for trial in config.trials],
            versions=installed(_DECIDING),
            device_kind=device_kind,
            lease=lease,
        )

    @property
    def is_confirmation(self) -> bool:
        """True if it is that of a confirmation."""
        return self.config["is_confirmation"]

    @property
    def digest(self) -> str:
        """A short name for everything here that decides results, and, where agents are to choose, their choice."""
        config = self.config
        if (chosen := config["chosen"]) is not None:
            config = _deciding({**config, "chosen": _deciding(chosen)})
        return digest_of(asdict(replace(self, config=config, lease=0.0)))

    def to_json(self) -> str:
        """Return the text that `read_engine` takes."""
        return json_text(asdict(self))

    def config_for(self, recipe: Recipe) -> EngineConfig:
        """Return the configuration for this process."""
        return EngineConfig(
            base=filled(recipe.config.algorithm, self.base),
            space=recipe.space,
            run_length=self.run_length,
            trials=trials_of(self.trials, recipe.config.algorithm),
            task=recipe.task,
            **self.config,
        )


def read_engine(text: str) -> Engine:
    """Return a configuration from its text. Raises UsageError or ValueError if it is damaged."""
    return convert(json.loads(text), Engine, "a configuration")


def digest_of(value: Any) -> str:
    """Return a short name for a value that JSON can hold."""
    return hashlib.sha256(json_text(value, indent=None).encode()).hexdigest()[:12]


def _deciding(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name not in _NOT_DECIDING}


def trials_of(stored: Sequence[tuple[int, Mapping[str, Any]]], base: Config) -> tuple[Trial, ...]:
    """Return trials from their numbers and values. base: a configuration of their kind."""
    return tuple(Trial(number, filled(base, values)) for number, values in stored)


def refusal(engine: Engine, device_kind: str, any_device: bool) -> str | None:
    """Return why a machine would not give the study's results to the bit, None if it would. device_kind: its own.

    any_device: whether another kind of device is accepted.
    """
    here = installed(_DECIDING)
    for package in sorted({*here, *engine.versions}):
        there = engine.versions.get(package, "none")
        if here.get(package, "none") != there:
            return (
                f"its leader has {package} {there}, this agent {here.get(package, 'none')}. Install the same version."
            )
    if engine.device_kind not in ("", device_kind) and not any_device:
        return (
            f"it trains on {engine.device_kind}, and this machine has {device_kind}, where results differ in their last bits. "
            "Use agents with that kind of device; only `hyperlax agent --any-device` takes another."
        )
    return None


@dataclass(frozen=True)
class BatchDone:
    """The end of a batch on an agent: the results of its trials and their `timing.json`, or the error of its program.

    Where lanes are refilled, batches: the names of those that its results, or its error, are of, trained: how many segments of each
    result the agent has trained since it told of that trial before, which `timing` is about.
    """

    numbers: tuple[int, ...]
    agent: str
    results: tuple[SegmentResult, ...] = ()
    timing: Mapping[str, Any] | None = None
    error: Exception | None = None
    batches: tuple[str, ...] = ()
    trained: tuple[int, ...] = ()


def pack_done(done: BatchDone) -> bytes:
    """Return the content that `read_done` takes."""
    return msgspec.msgpack.encode(done, enc_hook=_to_plain)


def read_done(content: bytes) -> BatchDone:
    """Return the end of a batch. Raises ValueError if it is damaged."""
    try:
        return msgspec.msgpack.decode(content, type=BatchDone, dec_hook=_from_plain)
    except Exception as error:  # numpy, too, may raise anything
        raise ValueError(type_and_message(error)) from error


def _to_plain(value: Any) -> Any:
    """Return what stands for an exception, a number of numpy, or an array."""
    if isinstance(value, Exception):
        return _error_to_plain(value)
    if isinstance(value, np.generic):
        return value.item()
    write_array(content := io.BytesIO(), np.asarray(value), allow_pickle=False)
    return content.getvalue()


def _from_plain(kind: type, plain: Any) -> Any:
    """Return the array or the exception that `_to_plain` took."""
    return read_array(io.BytesIO(plain), allow_pickle=False) if kind is np.ndarray else _error_from_plain(plain)


def _error_to_plain(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "text": message_of(error), "traceback": "".join(format_exception(error))}


def _error_from_plain(entry: Mapping[str, str]) -> Exception:
    """Return an exception with the type's name and the text of one on an agent. Its traceback there is a note."""
    error = type(entry["type"], (Exception,), {})(entry["text"])
    error.add_note(f"On the agent:\n{entry['traceback']}")
    return error
