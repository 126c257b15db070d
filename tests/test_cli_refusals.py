"""What cannot run is refused before anything is written, with exit status 2 and words that help."""

from __future__ import annotations

import pytest

from tests.desk import hyperlax

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--env-config", "gymnax.cartpole"], "Recipes that can: dqn_mlp, ppo_mlp."),
        (["--env-config", "gymnax.pendulm"], "Did you mean `gymnax.pendulum`"),
        (["--env-config", "gymnax.mnist_bandit"], "is not available"),
        (["--algo-and-network-config", "sac_mpl"], "Did you mean `sac_mlp`?"),
        (["--objective-names", "peak_performence"], "Did you mean `peak_performance`?"),
        (["--objective-names", "peak_performance", "num_parameters"], "Give one direction per objective"),
        (["--sampler", "cmaes"], "searches numbers only"),
        (["--total-timesteps", "4", "--num-evaluations", "3"], "Raise --total-timesteps to at least"),
        (["--runner-hparam-batch-size", "64"], "or use auto"),
        (["--n-trials", "many"], "many"),
        (["--n-trail", "4"], "--n-trials"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_refused_before_anything_is_written(desk, changes, message):
    words = ["optuna-hp-search", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]
    words += ["--objective-directions", "maximize", "--output-root", "refused", *changes]
    run = hyperlax(desk, *words)
    assert run.returncode == 2, run.stderr
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr
    assert not (desk / "refused").exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "hyperparam.tau",
            "hyperparam.taus",
            "recipes/edited.py: no hyperparameter named `algorithm.hyperparam.taus`.",
        ),
        (
            "LogUniform(domain=(5e-3, ",
            "LogUniform(domain=(0, ",
            "LogUniform needs 0 < low < high, got low=0, high=0.05.",
        ),
    ],
)
def test_a_wrong_edit_of_a_recipe_is_refused_by_file_and_name(desk, old, new, message):
    text = (desk / "recipes" / "dqn_mlp.py").read_text()
    assert old in text
    (desk / "recipes" / "edited.py").write_text(text.replace(old, new))
    words = ["--algo-and-network-config", "edited", "--env-config", "gymnax.cartpole", "--output-root", "refused"]
    run = hyperlax(desk, "optuna-hp-search", *words)
    (desk / "recipes" / "edited.py").unlink()
    assert run.returncode == 2
    assert "recipes/edited.py" in run.stderr and message in run.stderr
    assert not (desk / "refused").exists()
