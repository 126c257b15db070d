"""The shipped environments as data: the kind of their actions and their reference returns. No jax.

`lo` is the mean return of uniformly random actions, measured by `benchmarks/reference_returns.py --episodes 4096 --seed 0`.
`hi` is a solved task's return, undiscounted. `source` says where each is from, and calls `hi`

  published   a number that others have printed,
  derived     from the definition of the environment,
  scripted    what a policy written by hand reaches (`benchmarks/reference_returns.py --scripted`),
  chosen      where none of those exists, or several do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyperlax.metrics import ReferenceReturns

ActionKind = Literal["discrete", "continuous"]

_MEASURED = "lo: measured, random actions, 4096 episodes. hi: "
_REGISTRY = "the reward threshold of Gymnasium's registry for "
_README = "in the README of gymnax 1.0.1, its own baseline in this implementation"


@dataclass(frozen=True)
class Entry:
    """One environment of gymnax: its id there, the kind of its actions, and its reference returns."""

    gymnax_id: str
    action: ActionKind
    reference: ReferenceReturns


def _discrete(gymnax_id: str, lo: float, hi: float, source: str) -> Entry:
    return Entry(gymnax_id, "discrete", ReferenceReturns(lo, hi, _MEASURED + source))


def _continuous(gymnax_id: str, lo: float, hi: float, source: str) -> Entry:
    return Entry(gymnax_id, "continuous", ReferenceReturns(lo, hi, _MEASURED + source))


CATALOG: dict[str, Entry] = {
    "gymnax.cartpole": _discrete(
        "CartPole-v1", 22.2, 500.0,
        "derived, 1 a step for the 500 steps an episode may last; Gymnasium's reward threshold is 475.",
    ),
    "gymnax.pendulum": _continuous(
        "Pendulum-v1", -1227.2, -150.0,
        "chosen, there is no threshold; rl-baselines3-zoo's benchmark.md prints -152 (TD3, DDPG), -157 (SAC) and -172 (PPO).",
    ),
    "gymnax.acrobot": _discrete("Acrobot-v1", -498.6, -100.0, f"published, {_REGISTRY}Acrobot-v1."),
    "gymnax.mountain_car": _discrete("MountainCar-v0", -200.0, -110.0, f"published, {_REGISTRY}MountainCar-v0."),
    "gymnax.mountain_car_continuous": _continuous(
        "MountainCarContinuous-v0", -33.1, 90.0, f"published, {_REGISTRY}MountainCarContinuous-v0."
    ),
    "gymnax.asterix": _discrete("Asterix-MinAtar", 0.517, 15.0, f"published, PPO {_README}."),
    "gymnax.breakout": _discrete("Breakout-MinAtar", 0.394, 28.0, f"published, PPO {_README}."),
    "gymnax.freeway": _discrete("Freeway-MinAtar", 0.404, 58.0, f"published, PPO {_README}."),
    "gymnax.seaquest": _discrete(
        "Seaquest-MinAtar", 0.0977, 20.0,
        "chosen, no number is published for this implementation; an enemy shot is worth 1.",
    ),
    "gymnax.space_invaders": _discrete("SpaceInvaders-MinAtar", 4.12, 131.0, f"published, PPO {_README}."),
    "gymnax.catch": _discrete(
        "Catch-bsuite", -0.603, 1.0,
        "derived, 1 for the one ball of an episode, which a paddle that starts in the middle of 5 columns always reaches.",
    ),
    "gymnax.deep_sea": _discrete(
        "DeepSea-bsuite", -0.0019, 0.99, "derived, 1 at the end of the chain less 8 moves right at 0.01 / 8 each."
    ),
    "gymnax.memory_chain": _discrete(
        "MemoryChain-bsuite", -0.0137, 1.0,
        "derived, 1 for naming the bit seen 5 steps earlier, -1 for the other. It needs memory: a policy of the observation "
        "alone expects 0.",
    ),
    "gymnax.umbrella_chain": _discrete(
        "UmbrellaChain-bsuite", 0.0654, 1.0,
        "derived, 1 at the end of the chain for the right first action; the rewards between are fair coins of mean 0.",
    ),
    "gymnax.discounting_chain": _discrete(
        "DiscountingChain-bsuite", 1.02, 1.1, "derived, the best of the five first actions pays 1.1, the others 1."
    ),
    "gymnax.simple_bandit": _discrete(
        "SimpleBandit-bsuite", 0.5, 1.0,
        "derived, the best of 11 arms pays 1. gymnax draws new arms for each episode of one step and shows nothing of "
        "them, so every policy expects 0.5.",
    ),
    "gymnax.four_rooms": _discrete("FourRooms-misc", 0.451, 1.0, "derived, 1 at the goal, which ends the episode."),
    "gymnax.meta_maze": _discrete("MetaMaze-misc", 7.88, 32.0, f"published, evolution strategies {_README}."),
    "gymnax.point_robot": _continuous("PointRobot-misc", 0.189, 10.0, f"published, evolution strategies {_README}."),
    "gymnax.bernoulli_bandit": _discrete(
        "BernoulliBandit-misc", 50.1, 90.0,
        "derived, 100 pulls of the arm that pays with probability 0.9, known from the start; gymnax's README prints 90 too.",
    ),
    "gymnax.gaussian_bandit": _discrete(
        "GaussianBandit-misc", -51.1, 8.33,
        "derived, 100 pulls of the better arm, known from the start: 100 E[max(0, mu)] with mu ~ N(-1, 1), that is "
        "100 (pdf(1) - cdf(-1)). Always pulling the safe arm gives 0.",
    ),
    "gymnax.reacher": _continuous(
        "Reacher-misc", 15.6, 70.9, "scripted, both joints turned to the goal along the braking curve."
    ),
    "gymnax.swimmer": _continuous(
        "Swimmer-misc", 84.5, 436.3, "scripted, straight to the goal along the braking curve, blind to the urchins."
    ),
    "gymnax.pong": _discrete(
        "Pong-misc", 86.1, 1000.0,
        "derived, 1 a step for the 1000 steps an episode may last; scripted, a paddle left still reaches it.",
    ),
    "gymnax.frozen_lake": _discrete("FrozenLake-misc", 0.0115, 0.7, f"published, {_REGISTRY}FrozenLake-v1 (optimum 0.74)."),
}  # fmt: skip
"""Every environment of the gymnax suite, in gymnax's order."""

UNAVAILABLE: dict[str, str] = {
    "gymnax.mnist_bandit": "its images are a download that gymnax 1.0 does not ship. `gymnax.simple_bandit` is the bandit "
    "without images.",
}
"""Names that gymnax has and Hyperlax has not, each with the reason."""

ALIASES: dict[str, str] = {
    **{f"gymnax.{entry.gymnax_id}": name for name, entry in CATALOG.items()},
    "gymnax.MNISTBandit-bsuite": "gymnax.mnist_bandit",
}
"""gymnax's own ids, behind the suite's name."""

_PROBE_STEMS = (
    "constant_reward",
    "observation_reward",
    "delayed_reward",
    "action_reward",
    "observation_action_reward",
    "truncation",
    "final_observation",
    "termination",
)

PROBES: dict[str, ActionKind] = {
    f"probe.{stem}_{kind}": kind for stem in _PROBE_STEMS for kind in ("discrete", "continuous")
}  # pyright: ignore[reportAssignmentType]
"""The probe environments of `hyperlax.envs.probes`, which are for tests."""
