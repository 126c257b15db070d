"""Evaluation of a trained agent over many episodes, and a GIF of one if Gymnasium can render its environment."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperlax.agent import Agent, act
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.envs import Environment
from hyperlax.envs.catalog import CATALOG
from hyperlax.files import replacing

_FRAMES_A_SECOND = 25
"""Maximum frames per second. Browsers show at most 50, and half of that is enough."""


def evaluate_agent(agent: Agent, environment: Environment, episodes: int, seed: int) -> Evaluation:
    """Return the undiscounted returns of `episodes` episodes, whose random numbers follow from the seed."""
    arrays = {name: jnp.asarray(array) for name, array in agent.arrays.items()}

    def play(key: jax.Array) -> Evaluation:
        return evaluate(environment, lambda seen, _: act(agent.about, arrays, seen, jnp), key, episodes, arrays)

    return jax.tree.map(np.asarray, jax.jit(play)(jax.random.key(seed)))


def can_film(environment: str) -> str | None:
    """Return the reason why an environment cannot be filmed; None if it can."""
    from gymnax.visualize.vis_gym import SUPPORTED_GYM_ENVS

    entry = CATALOG.get(environment)
    if entry is None or entry.gymnax_id not in SUPPORTED_GYM_ENVS:
        drawn = [name for name, known in CATALOG.items() if known.gymnax_id in SUPPORTED_GYM_ENVS]
        return f"{environment} cannot be rendered; {', '.join(drawn)} can"
    if importlib.util.find_spec("pygame") is None:
        return 'rendering needs pygame; install it with pip install "hyperlax[play]"'
    return None


def film(agent: Agent, environment: Environment, seed: int, path: Path) -> tuple[int, float]:
    """Write one episode of an environment that can be filmed as an animated GIF. Return its steps and its return."""
    states, rewards = _episode(agent, environment, seed)
    frames, a_second = _frames(CATALOG[environment.name].gymnax_id, states, len(rewards))
    with replacing(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=round(1000 / a_second), loop=0
        )
    return len(rewards), float(np.sum(rewards))


def _episode(agent: Agent, environment: Environment, seed: int) -> tuple[Any, np.ndarray]:
    """Return the states before each step of one episode, [steps, ...], and the rewards, float32[steps]."""
    arrays = {name: jnp.asarray(array) for name, array in agent.arrays.items()}
    reset_key, *keys = jax.random.split(jax.random.key(seed), environment.max_episode_steps + 1)

    def play(carry: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], Any]:
        state, observation = carry
        after, step = environment.step(key, state, act(agent.about, arrays, observation, jnp))
        return (after, step.observation), (state, step.reward, step.terminated | step.truncated)

    _, found = jax.jit(lambda start, keys: jax.lax.scan(play, start, keys))(
        environment.reset(reset_key), jnp.stack(keys)
    )
    states, rewards, ended = jax.tree.map(np.asarray, found)
    steps = int(np.argmax(ended)) + 1 if ended.any() else len(ended)
    return jax.tree.map(lambda x: x[:steps], states), rewards[:steps]


def _frames(name: str, states: Any, steps: int) -> tuple[list[Any], float]:
    """Return frames of states [steps, ...] by Gymnasium's own renderer, at half size, and the frames per second."""
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")  # pictures need neither a window nor a loudspeaker
    import gymnasium
    from gymnax import make
    from gymnax.visualize import vis_gym
    from PIL import Image

    _, params = make(name)
    env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
    try:
        env.reset(seed=0)
        drawn: Any = env.unwrapped
        vis_gym.set_gym_params(drawn, name, params)
        natural = env.metadata["render_fps"]
        stride = math.ceil(natural / _FRAMES_A_SECOND)
        frames = []
        for step in range(0, steps, stride):
            state = jax.tree.map(lambda x: x[step], states)  # noqa: B023
            drawn.state = vis_gym.get_gym_state(state, name)
            if name == "Pendulum-v1":
                drawn.last_u = float(state.last_u)
            frames.append(Image.fromarray(np.asarray(drawn.render())).reduce(2))
    finally:
        env.close()
    return frames, natural / stride
