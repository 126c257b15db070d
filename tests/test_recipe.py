"""Recipes: the shipped ones load, an edited one is followed, a wrong one is refused by file and field."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hyperlax.errors import UsageError
from hyperlax.fields import apply, dotted
from hyperlax.hyperparams import DQN, PPO, SAC
from hyperlax.recipe import RunLength, available, load
from hyperlax.space import Categorical, LogUniform, UniformDiscrete

SHIPPED = Path(__file__).parent.parent / "recipes"
HYPERPARAM = "algorithm.hyperparam."
ACTOR_TORSO = "algorithm.network.actor_network.pre_torso."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with an empty recipes/."""
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipes"


def edit(folder, *replacements, name="sac_mlp", into=None):
    """The shipped recipe in `folder`, each (old, new) replaced."""
    text = (SHIPPED / f"{name}.py").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{into or name}.py").write_text(text)


def refused(message, name="sac_mlp"):
    with pytest.raises(UsageError, match=re.escape(message)):
        load(name)


@pytest.mark.parametrize("name", ["ppo_mlp", "sac_mlp", "dqn_mlp"])
def test_a_shipped_recipe_searches_8_to_12_dimensions_around_its_defaults(name):
    recipe = load(name)
    assert recipe.name == name and name in available()
    assert type(recipe.config.algorithm).__name__.lower() == name.split("_")[0]
    assert 8 <= len(recipe.space) <= 12
    values = dotted(recipe.config.algorithm)
    for field, distribution in recipe.space.items():
        assert distribution.contains(values[field]), field


@pytest.mark.parametrize("name", ["ppo_mlp", "sac_mlp", "dqn_mlp"])
def test_a_shipped_recipe_compiles_one_program(name):
    static = {"total_num_envs", "rollout_length"}
    assert not static & {field.rsplit(".", 1)[-1] for field in load(name).space}


def test_a_recipe_of_the_working_directory_comes_first(folder):
    edit(folder, ("gamma=0.98", "gamma=0.5"))
    recipe = load("sac_mlp")
    assert recipe.path == Path("recipes/sac_mlp.py")
    assert dotted(recipe.config.algorithm)[HYPERPARAM + "gamma"] == 0.5


def test_shipped_recipes_are_found_from_any_directory(folder):
    edit(folder, into="mine")
    assert available() == ["digits", "dqn_mlp", "forest", "mine", "ppo_mlp", "sac_mlp"]
    assert load("ppo_mlp").name == "ppo_mlp"


def test_a_path_to_a_file_is_a_recipe(folder):
    edit(folder, into="elsewhere")
    assert load("recipes/elsewhere.py").name == "elsewhere"
    refused("recipes/nowhere.py: no such recipe file", "recipes/nowhere.py")


def test_an_edited_recipe_is_followed(folder):
    edit(
        folder,
        ('actor_lr": LogUniform(domain=(2e-4, 5e-3))', 'actor_lr": LogUniform(domain=(1e-6, 1e-1))'),
        ("[[64], [32, 32]", "[[512, 256, 128], [64], [32, 32]"),
        ('        "algorithm.hyperparam.tau": LogUniform(domain=(2e-3, 5e-2)),\n', ""),
    )
    edited, shipped = load("sac_mlp").space, load(str(SHIPPED / "sac_mlp.py")).space
    assert edited[HYPERPARAM + "actor_lr"] == LogUniform(domain=(1e-6, 1e-1))
    sizes = edited[ACTOR_TORSO + "layer_sizes"]
    assert isinstance(sizes, Categorical) and [512, 256, 128] in sizes.values
    assert set(shipped) - set(edited) == {HYPERPARAM + "tau"}


def test_an_edit_within_the_same_second_is_seen(folder):
    for gamma in ("0.91", "0.92", "0.93"):
        edit(folder, ("gamma=0.98", f"gamma={gamma}"))
        assert dotted(load("sac_mlp").config.algorithm)[HYPERPARAM + "gamma"] == float(gamma)
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    "entry, message",
    [
        ("LogUniform(\n            domain=(2, 1),\n        )", "LogUniform needs 0 < low < high, got low=2, high=1"),
        ("LogUniform(domain=(1e-4, ten))", "NameError: name 'ten' is not defined"),
    ],
)
def test_a_bad_distribution_is_refused_by_file_line_and_field(folder, entry, message):
    edit(folder, ('q_lr": LogUniform(domain=(2e-4, 5e-3))', f'q_lr": {entry}'))
    text = (folder / "sac_mlp.py").read_text()
    line = text[: text.index('hyperparam.q_lr"')].count("\n") + 1
    with pytest.raises(UsageError) as caught:
        load("sac_mlp")
    found = re.fullmatch(r"recipes/sac_mlp\.py:(\d+): algorithm\.hyperparam\.q_lr: (.*)", str(caught.value), re.DOTALL)
    assert found and line <= int(found[1]) <= line + 1 and message in found[2]


@pytest.mark.parametrize(
    "field, entry, message",
    [
        (
            "gamma",
            "UniformContinuous(domain=(0.9, 1.5))",
            "needs a finite number from 0 to 1, got 1.5 from UniformContinuous",
        ),
        (
            "actor_lr",
            "UniformContinuous(domain=(0, 1))",
            "needs a finite number above 0, got 0.0 from UniformContinuous",
        ),
        ("epochs", "LogUniform(domain=(1, 8))", "Use UniformDiscrete or Categorical"),
        ("epochs", "UniformDiscrete(domain=(0, 8))", "needs a whole number from 1 to 2147483647, got 0"),
        ("epochs", "Categorical(values=[1, 2.5])", "needs a whole number from 1 to 2147483647, got 2.5"),
        ("autotune", "UniformDiscrete(domain=(0, 1))", "Use Categorical(values=[False, True])"),
        ("autotune", "Categorical(values=[0, 1])", "needs true or false, got 0"),
        ("tau", "Categorical(values=[True, 0.5])", "needs a finite number above 0 and at most 1, got True"),
        ("tau", "0.01", "needs a distribution (LogUniform, "),
        ("tau", "(1e-3, 1e-2)", "needs a distribution (LogUniform, "),
    ],
)
def test_a_distribution_that_leaves_its_field_is_refused(folder, field, entry, message):
    edit(
        folder, ("return {\n", "return {**ENTRY, **{\n"), ("[False, True]),\n    }", "[False, True]),\n    }, **ENTRY}")
    )
    text = (folder / "sac_mlp.py").read_text()
    (folder / "sac_mlp.py").write_text(text + f'\n\nENTRY = {{"{HYPERPARAM}{field}": {entry}}}\n')
    with pytest.raises(UsageError) as caught:
        load("sac_mlp")
    assert str(caught.value).startswith(f"recipes/sac_mlp.py: {HYPERPARAM}{field} ")
    assert message in str(caught.value)


def test_values_have_the_type_of_their_field(folder):
    edit(
        folder,
        ("import Categorical,", "import Categorical, QUniform,"),
        (
            f'"{HYPERPARAM}epochs": UniformDiscrete(domain=(2, 8))',
            f'"{HYPERPARAM}epochs": QUniform(domain=(2, 8), q=2)',
        ),
        ("[[64], [32, 32]", "[[64.0], [32, 32]"),
    )
    space = load("sac_mlp").space
    assert space[f"{HYPERPARAM}epochs"] == UniformDiscrete(domain=(2, 8), step=2)
    assert space[f"{ACTOR_TORSO}layer_sizes"].to_json()["values"][0] == [64]


@pytest.mark.parametrize("choice", ["[]", "[0]", "[64.5]", "[True]", "64", '"64"'])
def test_layer_sizes_are_lists_of_widths(folder, choice):
    edit(folder, ("[[64], [32, 32]", f"[{choice}, [32, 32]"))
    refused(f"{ACTOR_TORSO}layer_sizes needs a non-empty list of layer widths")


def test_a_default_that_its_field_does_not_accept_is_refused(folder):
    edit(folder, ("tau=0.02", "tau=1.5"))
    refused("recipes/sac_mlp.py: algorithm.hyperparam.tau needs a finite number above 0 and at most 1, got 1.5.")
    edit(folder, ("epochs=4", "epochs=4.5"))
    refused("recipes/sac_mlp.py: algorithm.hyperparam.epochs needs a whole number")


def test_a_part_of_the_wrong_class_is_refused(folder):
    edit(folder, ("critic_network=Network(Torso(", "critic_network=(Torso("))
    refused("recipes/sac_mlp.py: algorithm.network.critic_network must be a Network")


def test_minibatches_must_divide_the_rollout(folder):
    edit(folder, ("num_minibatches=16", "num_minibatches=7"), name="ppo_mlp")
    refused("total_num_envs=8, rollout_length=128, num_minibatches=7", "ppo_mlp")


def test_a_combination_that_the_space_can_produce_and_that_does_not_divide_is_refused(folder):
    entries = (
        f'        "{HYPERPARAM}num_minibatches": Categorical(values=[2, 4, 8]),\n'
        f'        "{HYPERPARAM}rollout_length": %s,\n'
        f'        "{HYPERPARAM}gamma"'
    )
    edit(folder, (f'        "{HYPERPARAM}gamma"', entries % "UniformDiscrete(domain=(1, 10**9))"), name="ppo_mlp")
    assert len(load("ppo_mlp").space) == 14
    edit(
        folder,
        (f'        "{HYPERPARAM}gamma"', entries % "Categorical(values=[32, 33])"),
        ("total_num_envs=8", "total_num_envs=4"),
        name="ppo_mlp",
    )
    refused("total_num_envs=4, rollout_length=33, num_minibatches=8", "ppo_mlp")


def test_a_recipe_that_raises_leaves_no_module(folder):
    before = set(sys.modules)
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    refused("recipes/broken.py:2: ZeroDivisionError: division by zero", "broken")
    assert not {name for name in set(sys.modules) - before if "broken" in name}


def test_a_recipe_whose_functions_return_something_else_is_refused(folder):
    (folder / "empty.py").write_text("get_base_config = dict\nget_base_hyperparam_distributions = dict\n")
    refused("get_base_config() must return an ExperimentConfig, got dict", "empty")


def test_run_lengths_are_checked(folder):
    edit(folder, ('"quick"', '"fast"'))
    refused("run_lengths needs a RunLength for each of quick, default, long, got None for quick")
    edit(folder, ("total_timesteps=4_000", "total_timesteps=0"))
    refused("RunLength needs total_timesteps to be a whole number of at least 1, got 0")
    with pytest.raises(UsageError, match="at least one step per evaluation"):
        RunLength(total_timesteps=5, num_evaluations=10, num_eval_episodes=1)


@pytest.mark.parametrize("config", [PPO(), SAC(), DQN()], ids=lambda config: type(config).__name__)
def test_applying_a_configuration_to_another_reproduces_it(config):
    assert apply(type(config)(), dotted(config), "here") == config


def test_values_are_set_as_they_are_and_nothing_else_changes():
    wanted = {
        HYPERPARAM + "gamma": 1,
        HYPERPARAM + "epochs": 3,
        HYPERPARAM + "autotune": False,
        ACTOR_TORSO + "layer_sizes": [32],
        ACTOR_TORSO + "activation": "elu",
    }
    before, after = dotted(SAC()), dotted(apply(SAC(), wanted, "here"))
    assert {name for name in after if after[name] != before[name]} == set(wanted)
    assert isinstance(after[HYPERPARAM + "gamma"], float)


@pytest.mark.parametrize("value", [np.float32(3), np.int64(3), 3.0])
def test_a_whole_number_is_one_however_it_is_written(value):
    found = apply(SAC(), {HYPERPARAM + "epochs": value}, "here").hyperparam.epochs
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("field", "needed", "values"),
    [
        ("epochs", "a whole number", [3.5, math.nan, 1e300, True, "3", None, [3], 2**31, 0]),
        ("target_entropy_scale", "a finite number, got", [math.nan, math.inf, True, "0.5", None]),
    ],
)
def test_no_value_is_rounded_or_reinterpreted(field, needed, values):
    for value in values:
        with pytest.raises(UsageError, match=rf"here: algorithm\.hyperparam\.{field} needs {needed}"):
            apply(SAC(), {HYPERPARAM + field: value}, "here")
