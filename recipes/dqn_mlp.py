"""DQN with a multilayer perceptron, for discrete actions.

Deep Q-learning (Mnih et al., 2015, https://doi.org/10.1038/nature14236) with double Q-learning (van Hasselt et al.,
2016, https://arxiv.org/abs/1509.06461) as a flag and a target network that is updated by a moving average instead of
periodic copies. The defaults suit classic control: several environments, one gradient update per four environment steps.

    hyperlax optuna-hp-search --algo-and-network-config dqn_mlp --env-config gymnax.cartpole --n-trials 32

To change the search, edit a copy: `hyperlax recipes copy dqn_mlp recipes/mine.py`. total_num_envs and rollout_length can be
searched too, at the cost of one compiled program per value.

Layer norm is what keeps seeds consistent. Measured returns of the defaults below: benchmarks/README.md
(`python benchmarks/learning.py`).
"""

from hyperlax.hyperparams import DQN, DQNHyperparams, Network, QNetworks, Torso
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import Categorical, Distribution, LogUniform, UniformContinuous

LAYER_SIZES = [[64], [32, 32], [64, 32], [64, 64]]
ACTIVATIONS = ["tanh", "relu", "silu"]


def get_base_config() -> ExperimentConfig:
    """Return the values of every field that the search space below leaves out."""
    return ExperimentConfig(
        algorithm=DQN(
            hyperparam=DQNHyperparams(
                critic_lr=1e-3,
                gamma=0.99,
                tau=0.02,
                max_grad_norm=1.0,
                training_epsilon=0.1,
                exploration_fraction=0.2,
                evaluation_epsilon=0.0,
                huber_loss_parameter=0.0,  # squared error
                use_double_q=True,
                decay_learning_rates=True,
                normalize_observations=False,
                total_num_envs=8,
                rollout_length=4,
                warmup_rollout_length=128,
                epochs=8,
                total_buffer_size=10_000,
                total_batch_size=128,
            ),
            network=QNetworks(
                critic_network=Network(Torso(layer_sizes=(64, 64), activation="relu", use_layer_norm=True))
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
        "algorithm.hyperparam.critic_lr": LogUniform(domain=(3e-4, 3e-3)),
        "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.96, 0.995)),
        "algorithm.hyperparam.tau": LogUniform(domain=(5e-3, 5e-2)),
        "algorithm.hyperparam.max_grad_norm": LogUniform(domain=(0.5, 10.0)),
        "algorithm.hyperparam.training_epsilon": LogUniform(domain=(0.02, 0.2)),
        "algorithm.hyperparam.exploration_fraction": UniformContinuous(domain=(0.1, 0.4)),
        "algorithm.hyperparam.huber_loss_parameter": Categorical(values=[0.0, 1.0, 5.0]),
        "algorithm.hyperparam.use_double_q": Categorical(values=[False, True]),
        "algorithm.hyperparam.total_buffer_size": Categorical(values=[5_000, 10_000, 20_000]),
        "algorithm.network.critic_network.pre_torso.layer_sizes": Categorical(values=LAYER_SIZES),
        "algorithm.network.critic_network.pre_torso.activation": Categorical(values=ACTIVATIONS),
        "algorithm.network.critic_network.pre_torso.use_layer_norm": Categorical(values=[False, True]),
    }
