"""Arguments are resolved and checked before anything runs; a resume agrees with its study."""

import json
import re
from dataclasses import MISSING, replace
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from hyperlax.cli.commands import COMMANDS, GROUPS
from hyperlax.cli.parsing import Command, parse
from hyperlax.config.checks import checked
from hyperlax.config.configurations import configured
from hyperlax.config.option import HIDDEN, By, command_line, flags_of, from_json, options_of
from hyperlax.config.options import (
    AGGREGATES,
    PbtOptions,
    SearchOptions,
    SingleOptions,
    SweepOptions,
    TrainOptions,
)
from hyperlax.config.settling import resumed, settled
from hyperlax.config.stored import SEARCH, read_stored
from hyperlax.config.study_file import in_full
from hyperlax.errors import OptionError, UsageError
from hyperlax.fields import dotted
from hyperlax.file_studies import planned_studies
from hyperlax.metrics import AGGREGATES as FUNCTIONS
from hyperlax.recipe import load
from hyperlax.samplers.registry import SAMPLERS
from hyperlax.studies import planned_study

pytestmark = pytest.mark.usefixtures("elsewhere")
RECIPE = load("sac_mlp")
GAMMA = "algorithm.hyperparam.gamma"
LAYERS = "algorithm.network.actor_network.pre_torso.layer_sizes"


GIVEN = {"algo_and_network_config": "sac_mlp", "env_config": "gymnax.pendulum"}


def read(given, kind: type = SearchOptions):
    return {name: options_of(kind)[name].read(value) for name, value in given.items()}


def resolved(**given):
    return checked(settled(SearchOptions, [read({**GIVEN, **given})], RECIPE))


def continued(stored, **given):
    return checked(resumed(stored, read(given), RECIPE))


def refused(message, **flags):
    with pytest.raises(UsageError, match=re.escape(message)):
        resolved(**flags)


def test_recipe_environment_and_objectives_settle_what_has_no_default():
    length = RECIPE.config.run_lengths["default"]
    assert resolved() == SearchOptions(
        algo_and_network_config="sac_mlp",
        env_config="gymnax.pendulum",
        study_name="sac_mlp_gymnax_pendulum",
        objective_directions=("maximize",),
        total_timesteps=length.total_timesteps,
        num_evaluations=length.num_evaluations,
        num_eval_episodes=length.num_eval_episodes,
    )


def test_every_declaration_is_whole():
    """A help without a default of its own hand, a default that the option accepts, and a type that can be read."""
    for kind in (SearchOptions, SweepOptions, SingleOptions, TrainOptions, PbtOptions):
        for option in options_of(kind).values():
            assert option.has(HIDDEN) or option.help().endswith(".")
            if option.default is not MISSING and not option.has(HIDDEN):
                assert option.read(option.default) == option.default
    assert tuple(FUNCTIONS) == AGGREGATES


def test_a_help_names_other_options_in_braces():
    """So that Python says it with keywords."""
    declared = [option for command in COMMANDS.values() for option in options_of(command.kind).values()]
    known = {name for option in declared for name in (option.name, option.key)}
    for option in declared:
        by = option.mark(By)
        for text in (option.mark(str) or "", by.text if by else ""):
            assert "--" not in text.replace("after --", ""), text
            assert {name for _, name, _, _ in Formatter().parse(text) if name} <= known, text


@pytest.mark.parametrize("kind", [SearchOptions, SweepOptions, SingleOptions, PbtOptions])
def test_a_printed_command_line_gives_the_same_options(kind):
    options = settled(kind, [read(GIVEN, kind), {"seed": 5, "compilation_cache": False}], RECIPE)
    _, given = parse({"": {"x": Command(kind, lambda given: 0, "")}}, ["x", *command_line(options)])
    assert settled(kind, [given], RECIPE) == options


OTHER: dict[str, Any] = {
    "algo_and_network_config": "ppo_mlp", "env_config": "gymnax.cartpole", "study_name": "1e-5", "n_trials": 9,
    "objective_names": ("seed_spread", "num_parameters"), "objective_directions": ("minimize", "maximize"),
    "sampler": "nsgaii", "default_trial": False, "enqueue": "first.json", "constraints": ("num_parameters <= 20000",),
    "pruner": "percentile", "pruner_min_segments": 2, "pruner_reduction_factor": 4, "pruner_percentile": 30.0,
    "optuna_study_batch_size": 8, "in_flight": 3, "agents": 2, "runner_hparam_batch_size": 4, "packing": "pad",
    "output_root": "yes", "log_level": "WARNING", "seed": 5, "num_seeds": 2, "aggregate": "worst", "seed_schedule": "racing",
    "total_timesteps": 200_000, "num_evaluations": 4, "num_eval_episodes": 3, "confirm_top": 2, "confirm_seeds": 4,
    "save_agents": "all", "timeout": 60.0, "max_failure_rate": 0.25, "checkpoint_seconds": 7.0, "compilation_cache": False,
    "engine": "ray", "agent_resources": "cpu=2,gpu=1",
}  # fmt: skip


def test_every_option_of_a_study_can_be_given_by_the_command_line_and_by_a_file():
    """Each with another value than its default; those of a sweep are hidden."""
    Path("first.json").write_text(json.dumps([{"gamma": 0.95}]))
    options, default = SearchOptions(**OTHER), resolved().to_json()
    same = {name for name, value in options.to_json().items() if value == default[name]}
    # slots and trial_timeout are options of tasks
    assert same == {"sampling_method", "load_hyperparams", "slots", "trial_timeout"}
    _, given = parse(GROUPS, [SEARCH, *command_line(options)])
    assert planned_study(SEARCH, given).options == options
    Path("s.yaml").write_text(in_full(options, load("ppo_mlp")), encoding="utf-8")
    (study,) = planned_studies(["s.yaml"], {})
    assert study.options == options


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("n_trials", "100_000", 100_000),
        ("n_trials", "1e5", 100_000),
        ("n_trials", "4.0", 4),
        ("timeout", "60", 60.0),
        ("log_level", "warning", "WARNING"),
        ("runner_hparam_batch_size", "auto", "auto"),
        ("devices", "0,1", (0, 1)),
    ],
)
def test_a_value_may_be_written_in_several_ways(name, written, value):
    found = options_of(SearchOptions)[name].read_words([written])
    assert found == value and type(found) is type(value)


def test_a_flag_that_is_given_again_replaces_the_one_before():
    words = "optuna-hp-search --seed 1 --quiet --objective-names peak_performance --seed=2 --objective-names final_performance"
    wanted = {"seed": 2, "quiet": True, "objective_names": ("final_performance",)}
    assert parse(GROUPS, words.split()) == ("optuna-hp-search", wanted)


def test_json_reads_back_as_the_same_arguments():
    for arguments in (resolved(), resolved(timeout=1.5, runner_hparam_batch_size=4, compilation_cache=False)):
        assert from_json(type(arguments), json.loads(json.dumps(arguments.to_json())), "study.json") == arguments


def test_json_of_another_version_is_refused():
    stored = resolved().to_json()
    with pytest.raises(UsageError, match="study.json: lacks argument seed"):
        from_json(SearchOptions, {name: value for name, value in stored.items() if name != "seed"}, "study.json")
    with pytest.raises(UsageError, match="study.json: has the unknown argument colour"):
        from_json(SearchOptions, {**stored, "colour": "red"}, "study.json")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"study_name": " "}, "--study-name is empty"),
        ({"objective_names": ()}, "--objective-names is empty"),
        ({"objective_directions": ("maximize", "minimize")}, "Give one direction per objective"),
        ({"output_root": "a_file/below"}, "a_file is a file."),
    ],
)
def test_what_cannot_run_is_refused_by_flag(flags, message):
    """The words of a command line are in `bad_input/`; these cannot be typed there."""
    Path("a_file").write_text("")
    refused(message, **flags)


def test_every_sampler_but_cmaes_and_gp_takes_several_objectives():
    for sampler in set(SAMPLERS) - {"cmaes", "gp"}:
        assert resolved(sampler=sampler, objective_names=("peak_performance", "num_parameters")).sampler == sampler


def test_a_resume_without_arguments_has_those_of_the_study_but_for_the_time_limit_of_one_run():
    stored = resolved(n_trials=7, seed=3, compilation_cache=False, timeout=60.0)
    assert continued(stored) == replace(stored, timeout=None)


def test_a_resume_may_change_four_arguments():
    changed = {"n_trials": 9, "timeout": 5.0, "log_level": "ERROR", "runner_hparam_batch_size": 2}
    stored = resolved()
    assert continued(stored, **changed) == replace(stored, **changed)


def test_a_resume_that_repeats_the_arguments_of_its_study_agrees():
    stored = resolved(run_length_modifier="quick", objective_names=("peak_performance", "seed_spread"))
    again = {"run_length_modifier": "quick", "objective_names": ("peak_performance", "seed_spread")}
    assert continued(stored, **GIVEN, **again) == stored
    elsewhere = str(Path("my_optuna_studies").absolute())
    assert continued(stored, env_config="gymnax.Pendulum-v1", output_root=elsewhere) == stored


def test_a_resume_that_contradicts_its_study_is_refused_with_all_that_differs():
    with pytest.raises(OptionError) as caught:
        continued(resolved(), seed=4, sampler="qmc", n_trials=50, compilation_cache=False)
    message = caught.value.told(flags_of(SearchOptions))
    assert "--seed: study has 0, given 4" in message
    assert "--sampler: study has tpe, given qmc" in message
    assert "--no-compilation-cache: " in message
    assert "n-trials: study" not in message


def test_a_run_length_on_resume_is_compared_with_the_three_flags():
    with pytest.raises(OptionError) as caught:
        continued(resolved(), run_length_modifier="quick")
    assert "--total-timesteps: study has 20000, given 4000" in str(caught.value)
    assert "--num-evaluations" not in str(caught.value)


def test_a_resume_is_checked_too():
    with pytest.raises(UsageError, match="--n-trials needs"):
        continued(resolved(), n_trials=0)


def test_the_arguments_of_a_study_are_read_from_its_directory():
    directory = Path("study")
    directory.mkdir()
    for text, said in (("{", r"study/study\.json: cannot be read as JSON"), ("[]", "has no `arguments`")):
        (directory / "study.json").write_text(text)
        with pytest.raises(UsageError, match=said):
            read_stored(directory, "--resume-from")
    (directory / "study.json").write_text(json.dumps({"arguments": resolved().to_json()}))
    assert read_stored(directory, "--resume-from") == resolved()


def single(**given):
    """Return the options and the dotted configuration of run-single-hp."""
    options = checked(settled(SingleOptions, [read({**GIVEN, **given}, SingleOptions)], RECIPE))
    return options, dotted(configured(options, RECIPE))


def test_a_set_value_is_json_or_else_a_string_and_wins_over_the_file():
    Path("best.json").write_text(json.dumps({"trial": 3, "params": {GAMMA: 0.9, LAYERS: [32, 32, 32]}}))
    activation = "algorithm.network.actor_network.pre_torso.activation"
    texts = (
        f"{GAMMA}=0.91",
        f"{activation}=elu",
        "algorithm.hyperparam.autotune = False",
        "algorithm.hyperparam.epochs=1_0.0",
    )
    _, values = single(params="best.json", assignments=texts)
    assert values[GAMMA] == 0.91
    assert values[LAYERS] == [32, 32, 32]
    assert values[activation] == "elu"
    assert values["algorithm.hyperparam.autotune"] is False
    assert values["algorithm.hyperparam.epochs"] == 10 and type(values["algorithm.hyperparam.epochs"]) is int


def test_a_trial_of_a_pareto_file_or_a_table_is_chosen_by_number():
    entries = [{"trial": n, "params": {GAMMA: 0.9 + n / 1000}} for n in (3, 8)]
    Path("pareto.json").write_text(json.dumps(entries))
    Path("rows.csv").write_text("trial,state,gamma,peak_performance\n3,COMPLETE,0.903,-1.0\n8,COMPLETE,0.908,-2.0\n")
    for file in ("pareto.json", "rows.csv"):
        assert single(params=file, trial=8)[1][GAMMA] == 0.908
        for trial, message in ((None, "holds 2 trials (3, 8). Choose one with --trial."), (4, "holds no trial 4.")):
            with pytest.raises(UsageError, match=re.escape(message)):
                single(params=file, trial=trial)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"assignments": (f"{GAMMA}={'[' * 100_000}",)}, "--set: algorithm.hyperparam.gamma needs a finite number"),
        (
            {"assignments": (f"{GAMMA}=0.9", f"{GAMMA}=0.8")},
            "--set: algorithm.hyperparam.gamma is given more than once.",
        ),
        ({"params": "other.json"}, "other.json: holds no trial with its params."),
        ({"params": "wrong.json"}, "wrong.json: algorithm.hyperparam.gamma needs"),
        ({"params": "wrong.json", "trial": 1}, "wrong.json: holds no trial 1. It holds 0."),
    ],
)
def test_a_single_run_refuses_what_it_cannot_train(flags, message):
    Path("other.json").write_text("{}")
    Path("wrong.json").write_text(json.dumps({"trial": 0, "params": {GAMMA: "high"}}))
    with pytest.raises(UsageError) as refused:
        single(**flags)
    error = refused.value
    assert message in (error.told(flags_of(SingleOptions)) if isinstance(error, OptionError) else str(error))
