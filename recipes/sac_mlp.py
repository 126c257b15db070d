"""SAC with multilayer perceptrons, for continuous actions.

Soft actor-critic with twin critics and a learned temperature (Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905).
The defaults suit short budgets: small networks, one gradient update per environment step, learning rates higher than
the paper's.

    hyperlax optuna-hp-search --algo-and-network-config sac_mlp --env-config gymnax.pendulum --n-trials 32

To change the search, edit a copy: `hyperlax recipes copy sac_mlp recipes/mine.py`. total_num_envs and rollout_length can be
searched too, at the cost of one compiled program per value.

Measured returns of the defaults below: benchmarks/README.md (`python benchmarks/learning.py`, and with `--study`).
"""

from hyperlax.hyperparams import SAC, ActorCriticNetworks, Network, SACHyperparams, Torso
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import Categorical, Distribution, LogUniform, UniformContinuous, UniformDiscrete

LAYER_SIZES = [[64], [32, 32], [64, 32], [64, 64]]
ACTIVATIONS = ["tanh", "relu", "silu"]


def get_base_config() -> ExperimentConfig:
    """Return the values of every field that the search space below leaves out."""
    return ExperimentConfig(
        algorithm=SAC(
            hyperparam=SACHyperparams(
                actor_lr=1e-3,
                q_lr=2e-3,
                alpha_lr=1e-3,
                gamma=0.98,
                tau=0.02,
                max_grad_norm=10.0,
                target_entropy_scale=0.5,
                init_alpha=0.3,
                autotune=True,
                normalize_observations=False,
                total_num_envs=4,
                rollout_length=2,
                warmup_rollout_length=250,
                epochs=4,
                total_buffer_size=50_000,
                total_batch_size=128,
            ),
            network=ActorCriticNetworks(
                actor_network=Network(Torso(layer_sizes=(64, 64), activation="relu", use_layer_norm=False)),
                critic_network=Network(Torso(layer_sizes=(64, 64), activation="relu", use_layer_norm=False)),
            ),
        ),
        run_lengths={
            "quick": RunLength(total_timesteps=4_000, num_evaluations=10, num_eval_episodes=16),
            "default": RunLength(total_timesteps=20_000, num_evaluations=10, num_eval_episodes=16),
            "long": RunLength(total_timesteps=100_000, num_evaluations=10, num_eval_episodes=16),
        },
    )


def get_base_hyperparam_distributions() -> dict[str, Distribution]:
    """Return the search space: a distribution for any field of the configuration, by its dotted name."""
    return {
        "algorithm.hyperparam.actor_lr": LogUniform(domain=(2e-4, 5e-3)),
        "algorithm.hyperparam.q_lr": LogUniform(domain=(2e-4, 5e-3)),
        "algorithm.hyperparam.alpha_lr": LogUniform(domain=(1e-4, 1e-2)),
        "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.95, 0.995)),
        "algorithm.hyperparam.tau": LogUniform(domain=(2e-3, 5e-2)),
        "algorithm.hyperparam.target_entropy_scale": UniformContinuous(domain=(0.25, 1.25)),
        "algorithm.hyperparam.epochs": UniformDiscrete(domain=(2, 8)),
        "algorithm.network.actor_network.pre_torso.layer_sizes": Categorical(values=LAYER_SIZES),
        "algorithm.network.actor_network.pre_torso.activation": Categorical(values=ACTIVATIONS),
        "algorithm.network.critic_network.pre_torso.layer_sizes": Categorical(values=LAYER_SIZES),
        "algorithm.network.critic_network.pre_torso.activation": Categorical(values=ACTIVATIONS),
        "algorithm.network.critic_network.pre_torso.use_layer_norm": Categorical(values=[False, True]),
    }
