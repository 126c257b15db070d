"""Hyperparameters of each algorithm, to set and search in a recipe: every field once, with its kind and its valid range.

A field is *traced* (one scalar per lane of a compiled program: lanes of one batch may differ) or *static* (part of the
program's structure: trials that differ in it run in different programs). A size is *padded*: lanes differ below the program's
size, as `network` architectures do. The classes double as the pytrees that the algorithms receive, see `hyperlax.algorithms.lane`.
A recipe declares the fields of its own JAX program in the same way.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from hyperlax.errors import UsageError
from hyperlax.report import shown

ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "elu")


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, both allowed unless `above` or `below`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is within the bounds and finite."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under and abs(value) <= sys.float_info.max

    def words(self) -> str:
        """Return the bounds as they follow the unit."""
        if not (self.above or self.below) and math.isfinite(self.low) and math.isfinite(self.high):
            return f" from {self.low:g} to {self.high:.10g}"
        low = "" if self.low == -math.inf else f" {'above' if self.above else 'of at least'} {self.low:g}"
        high = "" if self.high == math.inf else f" {'below' if self.below else 'at most'} {self.high:.10g}"
        return low + (" and" if low and high else "") + high


@dataclass(frozen=True)
class Rule(Bounds):
    """The valid values of a field. kind: "traced", "static" or "padded"."""

    kind: str = field(kw_only=True)


def traced(default: Any, low: float = -math.inf, high: float = math.inf, *, above: float | None = None) -> Any:
    """Declare a field that may differ from lane to lane of one program. `above` is an excluded lower bound."""
    rule = Rule(low if above is None else above, high, above is not None, kind="traced")
    return field(default=default, metadata={"rule": rule})


def static(default: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """Declare a field with one compiled program per value."""
    return field(default=default, metadata={"rule": Rule(low, high, kind="static")})


def padded(default: int, low: int = 1, high: float = math.inf) -> Any:
    """Declare a size that may differ from lane to lane of one program, below the program's size."""
    return field(default=default, metadata={"rule": Rule(low, high, kind="padded")})


def rules(bag: type) -> dict[str, Rule]:
    """Return field name -> rule of a hyperparameter class."""
    return {f.name: f.metadata["rule"] for f in fields(bag)}


def check_declared(hypers: Any) -> None:
    """Raise UsageError unless the hyperparameters of a recipe's own program are a frozen dataclass of declared fields."""
    example = "@dataclass(frozen=True) class Hypers: lr: float = traced(1e-3, above=0)"
    if isinstance(hypers, type) and is_dataclass(hypers):
        raise UsageError(
            f"Lanes needs the values of its hyperparameters, got the class {hypers.__name__}. Write {hypers.__name__}()."
        )
    if not is_dataclass(hypers) or not type(hypers).__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise UsageError(f"Lanes needs an instance of a frozen dataclass first, got {shown(hypers)}. Write {example}.")
    name = type(hypers).__name__
    if not fields(hypers):
        raise UsageError(f"{name} has no fields. Declare at least one hyperparameter: {example}.")
    for f in fields(hypers):
        rule, value = f.metadata.get("rule"), getattr(hypers, f.name)
        if not isinstance(rule, Rule):
            raise UsageError(
                f"{name}.{f.name} is declared by neither traced, padded nor static. Write {f.name} = traced({value!r}), or static."
            )
        if rule.kind == "traced" and not isinstance(value, (bool, int, float)):
            raise UsageError(
                f"{name}.{f.name} is traced and {shown(value)}; a traced field is a number, True or False. Make it static."
            )
        if rule.kind == "padded" and (not isinstance(value, int) or isinstance(value, bool)):
            raise UsageError(f"{name}.{f.name} is padded and {shown(value)}; a padded field is a size, a whole number.")


@dataclass(frozen=True)
class PPOHyperparams:
    """Proximal policy optimization (Schulman et al., 2017)."""

    actor_lr: float = traced(3e-4, above=0)  # Adam step size of the policy
    critic_lr: float = traced(3e-4, above=0)  # Adam step size of the value network
    gamma: float = traced(0.99, 0, 1)  # discount factor
    gae_lambda: float = traced(0.95, 0, 1)  # lambda of generalized advantage estimation
    clip_eps: float = traced(0.2, above=0)  # probability ratios are clipped to 1 - clip_eps and 1 + clip_eps
    ent_coef: float = traced(0.0, 0)  # weight of the entropy in the policy's loss
    vf_coef: float = traced(0.5, 0)  # the value network has its own optimizer: this acts through max_grad_norm
    max_grad_norm: float = traced(0.5, above=0)  # bound on the global norm of each network's gradient
    standardize_advantages: bool = traced(True)  # within each minibatch
    decay_learning_rates: bool = traced(False)  # linearly to 0 over the budget
    normalize_observations: bool = traced(False)  # by their running mean and variance
    total_num_envs: int = static(8, 1)  # environments of one seed
    rollout_length: int = static(128, 1)  # steps of each environment per iteration
    epochs: int = traced(4, 1)  # passes over each rollout
    num_minibatches: int = traced(4, 1)  # minibatches of one pass


@dataclass(frozen=True)
class SACHyperparams:
    """Soft actor-critic with twin critics and a learned temperature (Haarnoja et al., 2018b)."""

    actor_lr: float = traced(3e-4, above=0)  # Adam step size of the policy
    q_lr: float = traced(3e-4, above=0)  # Adam step size of the critics
    alpha_lr: float = traced(3e-4, above=0)  # Adam step size of the temperature
    gamma: float = traced(0.99, 0, 1)  # discount factor
    tau: float = traced(0.005, high=1, above=0)  # share by which a target network moves to the trained one per update
    max_grad_norm: float = traced(10.0, above=0)  # bound on the global norm of each network's gradient
    target_entropy_scale: float = traced(1.0)  # the target entropy is minus this, times the number of action entries
    init_alpha: float = traced(1.0, above=0)  # temperature at the start
    autotune: bool = traced(True)  # learn the temperature
    normalize_observations: bool = traced(False)  # by their running mean and variance
    total_num_envs: int = static(1, 1)  # environments of one seed
    rollout_length: int = static(1, 1)  # steps of each environment per iteration
    warmup_rollout_length: int = traced(1000, 0)  # random steps of each environment before the first update
    epochs: int = traced(1, 1)  # updates after each rollout
    total_buffer_size: int = traced(100_000, 1)  # transitions in the replay buffer
    total_batch_size: int = traced(256, 1)  # transitions of one update


@dataclass(frozen=True)
class DQNHyperparams:
    """Deep Q-learning (Mnih et al., 2015), with double Q-learning (van Hasselt et al., 2016) as a flag."""

    critic_lr: float = traced(3e-4, above=0)  # Adam step size of the Q-network
    gamma: float = traced(0.99, 0, 1)  # discount factor
    tau: float = traced(0.005, high=1, above=0)  # share by which a target network moves to the trained one per update
    max_grad_norm: float = traced(10.0, above=0)  # bound on the global norm of each network's gradient
    training_epsilon: float = traced(0.05, 0, 1)  # share of random actions once exploration has decayed
    exploration_fraction: float = traced(0.5, 0, 1)  # share of the budget over which that share falls from 1
    evaluation_epsilon: float = traced(0.0, 0, 1)  # share of random actions in evaluations
    huber_loss_parameter: float = traced(1.0, 0)  # where the loss turns linear; 0: nowhere, squared error
    use_double_q: bool = traced(True)  # the trained network chooses the next action, the target network rates it
    decay_learning_rates: bool = traced(False)  # linearly to 0 over the budget
    normalize_observations: bool = traced(False)  # by their running mean and variance
    total_num_envs: int = static(8, 1)  # environments of one seed
    rollout_length: int = static(4, 1)  # steps of each environment per iteration
    warmup_rollout_length: int = traced(128, 0)  # random steps of each environment before the first update
    epochs: int = traced(4, 1)  # updates after each rollout
    total_buffer_size: int = traced(50_000, 1)  # transitions in the replay buffer
    total_batch_size: int = traced(128, 1)  # transitions of one update


@dataclass(frozen=True)
class Torso:
    """A multilayer perceptron: the widths of its hidden layers, the activation after each, and whether layer norm precedes it."""

    layer_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    use_layer_norm: bool = False


@dataclass(frozen=True)
class Network:
    """A torso; the head behind it follows from the algorithm and the environment."""

    pre_torso: Torso = Torso()


@dataclass(frozen=True)
class ActorCriticNetworks:
    """PPO: policy and value. SAC: policy, and the architecture of each of the two Q-networks."""

    actor_network: Network = Network()
    critic_network: Network = Network()


@dataclass(frozen=True)
class QNetworks:
    """DQN: the Q-network, which is also the policy that acts."""

    critic_network: Network = Network()


@dataclass(frozen=True)
class Params:
    """Configuration of a task: its fields are the keys of `values`. A field's type is that of its value.

    rules: the valid values of the fields that have a rule.
    """

    values: Mapping[str, Any]
    rules: Mapping[str, Rule] = field(default_factory=dict)


@dataclass(frozen=True)
class AlgorithmConfig:
    """Configuration of an algorithm, which declares both fields with their own classes and defaults.

    action_kinds: the actions that it can choose, "discrete" or "continuous" or both. policy_network: the network that acts.
    warm_up: the hyperparameter that counts the steps of each environment before the first update; None if it has none.
    """

    action_kinds: ClassVar[tuple[str, ...]]
    policy_network: ClassVar[str]
    warm_up: ClassVar[str | None] = None

    hyperparam: Any = None
    network: Any = None


Config = AlgorithmConfig | Params
"""Configuration of a trial. `hyperlax.fields` reads and sets its fields."""


def of_algorithm(config: Config) -> AlgorithmConfig:
    """Return a configuration that is known to be an algorithm's as such."""
    assert isinstance(config, AlgorithmConfig)
    return config


@dataclass(frozen=True)
class PPO(AlgorithmConfig):
    """Configuration of PPO."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    policy_network: ClassVar[str] = "actor_network"

    hyperparam: PPOHyperparams = PPOHyperparams()
    network: ActorCriticNetworks = ActorCriticNetworks()


@dataclass(frozen=True)
class SAC(AlgorithmConfig):
    """Configuration of SAC."""

    action_kinds: ClassVar[tuple[str, ...]] = ("continuous",)
    policy_network: ClassVar[str] = "actor_network"
    warm_up: ClassVar[str | None] = "warmup_rollout_length"

    hyperparam: SACHyperparams = SACHyperparams()
    network: ActorCriticNetworks = ActorCriticNetworks()


@dataclass(frozen=True)
class DQN(AlgorithmConfig):
    """Configuration of DQN."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    policy_network: ClassVar[str] = "critic_network"
    warm_up: ClassVar[str | None] = "warmup_rollout_length"

    hyperparam: DQNHyperparams = DQNHyperparams()
    network: QNetworks = QNetworks()
