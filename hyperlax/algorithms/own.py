"""Programs of a recipe's own JAX functions: from a trial's configuration to its program and its lane there.

A traced field of the recipe's hyperparameters is a scalar of the lane, a static one belongs to the program. A padded one is a
`Padded` inside the functions: the program's size, and the lane's own below it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms.lane import SCALARS, register_as_pytree
from hyperlax.algorithms.padding import draw_from
from hyperlax.fields import extremes, filled
from hyperlax.files import convert
from hyperlax.hyperparams import Config, Params
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.tasks import Lanes
from hyperlax.trial import Trial

_FINITE = "finite"
_MOST_SIZES = 8
"""The most sizes of a field that programs are chosen for one by one."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padded:
    """A size of a lane inside the functions of a JAX program.

    size: That of the program's arrays, a Python number, at least as large as `live`. live: int32[], the lane's own.
    """

    live: Array
    size: int = field(metadata={"static": True})

    @property
    def mask(self) -> Array:
        """float32[size]: 1 for the lane's own entries, then 0."""
        return (jnp.arange(self.size) < self.live).astype(jnp.float32)


class State(NamedTuple):
    """The training state of a lane. own: what the functions return."""

    key: Array
    own: Any


@dataclass(frozen=True)
class LanesProgram:
    """A program of a recipe's functions.

    name: the recipe's. static: values of the static fields. sizes: those of the program's padded fields.
    """

    name: str
    static: tuple[tuple[str, Any], ...]
    sizes: tuple[tuple[str, int], ...]
    task: Lanes = field(repr=False, compare=False)
    steps_per_iteration: int = field(default=1, init=False, repr=False)

    def hypers(self, lane: Mapping[str, Any]) -> Any:
        """Return the hyperparameters as the functions get them. lane: values of the traced and the padded fields."""
        sizes = dict(self.sizes)
        own = {name: Padded(value, sizes[name]) if name in sizes else value for name, value in lane.items()}
        hypers = copy.copy(self.task.hypers)
        for name, value in {**dict(self.static), **own}.items():
            object.__setattr__(hypers, name, value)
        return hypers

    def init(self, key: Array, lane: Any) -> State:
        """Return the state before training."""
        key, own = jax.random.split(key)
        return State(key, jax.tree.map(array, self.task.init(own, self.hypers(lane))))

    def step(self, state: State, lane: Any, iteration: Array) -> State:
        """Train one step. Its random numbers do not depend on when the trial entered."""
        key, own = jax.random.split(state.key)
        return State(key, jax.tree.map(array, self.task.step(state.own, self.hypers(lane), own)))

    def evaluate(self, state: State, lane: Any, key: Array) -> dict[str, Array]:
        """Return the measures, and whether all of them are finite."""
        found = self.task.evaluate(state.own, self.hypers(lane), key)
        scores = {one.name: jnp.asarray(found[one.name], jnp.float32) for one in self.task.all_measures}
        return {**scores, _FINITE: jnp.all(jnp.isfinite(jnp.stack(list(scores.values()))))}

    def policy_params(self, state: State) -> tuple[()]:
        """Return nothing: there is no policy."""
        return ()

    def reset(self, old: State, fresh: State) -> State:
        """Return the state of a lane that a new trial takes over."""
        return fresh

    def with_key(self, state: State, key: Array) -> State:
        """Return the same state with its random numbers following from `key` from now on."""
        return state._replace(key=key)


@dataclass(frozen=True)
class Sizes:
    """Sizes of padded fields, in the order of the fields: those that trials need, or those of a program."""

    of: tuple[tuple[str, int], ...]

    def __or__(self, other: Sizes) -> Sizes:
        return Sizes(tuple((name, max(a, b)) for (name, a), (_, b) in zip(self.of, other.of, strict=True)))

    def holds(self, other: Sizes) -> bool:
        """Return whether a trial of those sizes fits."""
        return all(a >= b for (_, a), (_, b) in zip(self.of, other.of, strict=True))

    def to_json(self) -> dict[str, int]:
        """Return the sizes as JSON."""
        return dict(self.of)


class LanesTask:
    """The training task of a recipe's JAX program, the same for all trials of a study.

    A trial runs in the smallest program that holds its padded fields, as an RL algorithm's does (`program.AlgorithmTask`). A trial
    that fits into none runs in a program of its exact size.

    Args:
      task: The recipe's task.
      base: The default configuration.
      space: The search space.
      run_length: The budget of a trial.
      paddings: The sizes of the programs; None for one program into which every trial of the space fits.
      weights: The numbers in a state of each program, as far as they are known.
    """

    exact_sizes = is_shipped = False

    def __init__(
        self,
        task: Lanes,
        base: Config,
        space: Mapping[str, Distribution],
        run_length: RunLength,
        paddings: Sequence[Sizes] | None = None,
        weights: dict[LanesProgram, float] | None = None,
    ):
        self._task, self._base, self._space, self.run_length = task, base, space, run_length
        self.measures = tuple(measure.name for measure in task.all_measures)
        self.kind = f"{type(task).__name__} {task.path.stem}"
        self._weights = {} if weights is None else weights
        register_as_pytree(type(task.hypers))
        paddings = [self.structure()] if paddings is None else paddings
        self._paddings = sorted(paddings, key=self.size)

    def padded(self, paddings: Sequence[Sizes], others: Sequence[Config] = ()) -> LanesTask:
        """Return the same task with programs of these sizes."""
        return LanesTask(self._task, self._base, self._space, self.run_length, paddings, self._weights)

    def sample(self, size: int) -> list[Any]:
        """Return configurations that differ in what decides a program, sampled as by random search, the same in every process."""
        draw = random.Random(0)
        searched = [name for name in sorted(self._space) if name in (*self._fields("static"), *self._fields("padded"))]
        return [
            filled(self._base, {name: draw_from(self._space[name], draw) for name in searched}) for _ in range(size)
        ]

    def structure(self) -> Sizes:
        """Return the sizes that the space needs."""
        values = _values(self._base)
        return Sizes(tuple((n, extremes(values[n], self._space.get(n))[1]) for n in self._fields("padded")))

    def group(self, config: Config, whole: Sizes) -> Sizes:
        """Return the sizes of a configuration. Of more than a few that a field can have, neighbours share a power of two."""
        own = []
        for (name, size), (_, largest) in zip(self._sizes(config).of, whole.of, strict=True):
            choices = self._space[name].size() if name in self._space else 1
            is_rounded = choices is None or choices > _MOST_SIZES
            own.append((name, min(largest, 1 << (size - 1).bit_length()) if is_rounded else size))
        return Sizes(tuple(own))

    def padding(self, structure: Sizes) -> Sizes:
        """Return the sizes of the smallest program into which every trial of a structure fits."""
        return structure

    def stored_padding(self, stored: Mapping[str, Any]) -> Sizes:
        """Return a padding that study.json stores. Raise UsageError if it is malformed."""
        sizes = convert(stored, dict[str, int], "study.json: `packing`")
        return Sizes(tuple((name, sizes.get(name, 0)) for name in self._fields("padded")))

    def shape(self, config: Config, padding: Sizes) -> LanesProgram:
        """Return the program of a configuration's static fields at these sizes."""
        values = _values(config)
        static = tuple((name, _hashable(values[name])) for name in self._fields("static"))
        return LanesProgram(self._task.path.stem, static, padding.of, self._task)

    def program(self, trial: Trial) -> LanesProgram:
        """Return the program that this trial needs, equal for trials that can share one."""
        own = self._sizes(trial.config)
        fitting = (padding for padding in self._paddings if padding.holds(own))
        return self.shape(trial.config, next(fitting, own))

    def lane(self, trial: Trial) -> dict[str, Any]:
        """Return the trial's own numbers: numpy scalars of its traced and padded fields."""
        values, kinds = _values(trial.config), self._task.defaults
        names = (*self._fields("traced"), *self._fields("padded"))
        return {name: SCALARS[type(kinds[name])](values[name]) for name in names}

    def size(self, padding: Sizes) -> float:
        """Return the numbers in a state of the default in a program of these sizes, to compare programs."""
        return self.flops(self._base, padding)

    def flops(self, config: Config, padding: Sizes) -> float:
        """Return the numbers in a state, which stand for the multiplications of one step."""
        program = self.shape(config, padding)
        if program not in self._weights:
            self._weights[program] = _numbers_in(program, self.lane(Trial(0, config)))
        return self._weights[program]

    def flops_of(self, trial: Trial) -> float:
        """Return the numbers in a state of the trial, in its program."""
        return self.flops(trial.config, Sizes(self.program(trial).sizes))

    def longest_iteration(self) -> int:
        """Return the steps of the longest iteration: each is one step."""
        return 1

    def num_parameters(self, trial: Trial) -> int:
        """Return 0: there is no policy."""
        return 0

    def policy(self, trial: Trial, params: Any) -> None:
        """Return None: there is no policy."""

    def _fields(self, kind: str) -> list[str]:
        return [name for name, rule in self._task.rules.items() if rule.kind == kind]

    def _sizes(self, config: Config) -> Sizes:
        return Sizes(tuple((name, _values(config)[name]) for name in self._fields("padded")))


def _values(config: Config) -> Mapping[str, Any]:
    assert isinstance(config, Params)
    return config.values


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def array(leaf: Any) -> Any:
    """Return a leaf of a state as an array whose type does not give way to others'."""
    leaf = jnp.asarray(leaf)
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(leaf, leaf.dtype)


def _numbers_in(program: LanesProgram, lane: Any) -> float:
    """Return how many numbers a state has; 1.0 if it cannot be made, which its trials will say."""
    try:
        state = jax.eval_shape(program.init, jax.eval_shape(lambda: jax.random.key(0)), lane)
    except Exception:
        return 1.0
    return float(max(1, sum(leaf.size for leaf in jax.tree.leaves(state.own))))
