"""PPO with multilayer perceptrons, for discrete and continuous actions.

Proximal policy optimization (Schulman et al., 2017, https://arxiv.org/abs/1707.06347) with generalized advantage
estimation. Policy and value are separate networks. The defaults suit classic control: short rollouts of several
environments, several epochs over each, learning rates that decay over the budget.

    hyperlax optuna-hp-search --algo-and-network-config ppo_mlp --env-config gymnax.cartpole --n-trials 16

To change the search, edit a copy: `hyperlax recipes copy ppo_mlp recipes/mine.py`. total_num_envs and rollout_length can be
searched too, at the cost of one compiled program per value.

Measured returns of the defaults below: benchmarks/README.md (`python benchmarks/learning.py`).
"""

from hyperlax.hyperparams import PPO, ActorCriticNetworks, Network, PPOHyperparams, Torso
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import Categorical, Distribution, LogUniform, UniformContinuous, UniformDiscrete

LAYER_SIZES = [[64], [32, 32], [64, 32], [64, 64]]
ACTIVATIONS = ["tanh", "relu", "silu"]


def get_base_config() -> ExperimentConfig:
    """Return the values of every field that the search space below leaves out."""
    return ExperimentConfig(
        algorithm=PPO(
            hyperparam=PPOHyperparams(
                actor_lr=1e-3,
                critic_lr=3e-3,
                gamma=0.98,
                gae_lambda=0.95,
                clip_eps=0.2,
                ent_coef=0.0,
                vf_coef=0.5,
                max_grad_norm=0.5,
                standardize_advantages=True,
                decay_learning_rates=True,
                normalize_observations=True,
                total_num_envs=8,
                rollout_length=128,
                epochs=6,
                num_minibatches=16,
            ),
            network=ActorCriticNetworks(
                actor_network=Network(Torso(layer_sizes=(64, 64), activation="tanh", use_layer_norm=False)),
                critic_network=Network(Torso(layer_sizes=(64, 64), activation="tanh", use_layer_norm=False)),
            ),
        ),
        run_lengths={
            "quick": RunLength(total_timesteps=20_000, num_evaluations=10, num_eval_episodes=16),
            "default": RunLength(total_timesteps=100_000, num_evaluations=10, num_eval_episodes=16),
            "long": RunLength(total_timesteps=500_000, num_evaluations=10, num_eval_episodes=16),
        },
    )


def get_base_hyperparam_distributions() -> dict[str, Distribution]:
    """Return the search space: a distribution for any field of the configuration, by its dotted name."""
    return {
        "algorithm.hyperparam.actor_lr": LogUniform(domain=(2e-4, 3e-3)),
        "algorithm.hyperparam.critic_lr": LogUniform(domain=(5e-4, 1e-2)),
        "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.94, 0.995)),
        "algorithm.hyperparam.gae_lambda": UniformContinuous(domain=(0.8, 0.99)),
        "algorithm.hyperparam.clip_eps": UniformContinuous(domain=(0.1, 0.4)),
        "algorithm.hyperparam.ent_coef": UniformContinuous(domain=(0.0, 0.01)),
        "algorithm.hyperparam.epochs": UniformDiscrete(domain=(3, 8)),
        "algorithm.hyperparam.normalize_observations": Categorical(values=[False, True]),
        "algorithm.network.actor_network.pre_torso.layer_sizes": Categorical(values=LAYER_SIZES),
        "algorithm.network.actor_network.pre_torso.activation": Categorical(values=ACTIVATIONS),
        "algorithm.network.actor_network.pre_torso.use_layer_norm": Categorical(values=[False, True]),
        "algorithm.network.critic_network.pre_torso.layer_sizes": Categorical(values=LAYER_SIZES),
    }
