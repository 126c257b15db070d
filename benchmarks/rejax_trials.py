"""Train PPO on CartPole with rejax: the other side of `speed.py rejax`, in an environment of its own.

    python rejax_trials.py each|vmap TRIALS STEPS EVALUATIONS EPISODES SEED

each: a jit per trial, whose hyperparameters are constants. vmap: one program with the trials as an axis and their hyperparameters
as arguments. SEED decides the hyperparameters.
Sizes and settings are those of the recipe `ppo_mlp`; rejax has no decay of learning rates, and one rate for both networks.

    python -m venv rejax && rejax/bin/pip install rejax==0.1.3 gymnax==0.0.9 jax==0.10.2
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from rejax import PPO  # pyright: ignore[reportMissingImports]
from rejax.evaluate import evaluate  # pyright: ignore[reportMissingImports]


def main() -> None:
    how, *numbers = sys.argv[1:]
    trials, steps, evaluations, episodes, seed = map(int, numbers)
    draws = np.random.default_rng(seed)
    space = {
        "learning_rate": np.exp(draws.uniform(np.log(2e-4), np.log(3e-3), trials)),
        "gamma": draws.uniform(0.94, 0.995, trials),
        "gae_lambda": draws.uniform(0.8, 0.99, trials),
        "clip_eps": draws.uniform(0.1, 0.4, trials),
        "ent_coef": draws.uniform(0.0, 0.01, trials),
    }

    def scores(algorithm, state, key):
        act, limit = algorithm.make_act(state), algorithm.env_params.max_steps_in_episode
        return evaluate(act, key, algorithm.env, algorithm.env_params, episodes, limit)

    base = PPO.create(
        env="CartPole-v1",
        num_envs=8,
        num_steps=128,
        num_epochs=6,
        num_minibatches=16,
        max_grad_norm=0.5,
        normalize_observations=True,
        total_timesteps=steps,
        eval_freq=-(-steps // evaluations),
        agent_kwargs={"activation": "tanh"},
    ).replace(eval_callback=scores)
    keys = jax.random.split(jax.random.key(0), trials)
    if how == "vmap":
        arrays = {name: jnp.asarray(values, jnp.float32) for name, values in space.items()}
        trained = jax.jit(jax.vmap(lambda key, own: base.replace(**own).train(key)))(keys, arrays)
        returns = np.asarray(trained[1][1]).mean(-1)[:, -1]
    else:
        returns = []
        for trial, key in enumerate(keys):
            own = base.replace(**{name: float(values[trial]) for name, values in space.items()})
            returns.append(float(jax.jit(lambda key, own=own: own.train(key))(key)[1][1][-1].mean()))
    print(f"final returns: {', '.join(f'{value:.0f}' for value in returns)}")


if __name__ == "__main__":
    main()
