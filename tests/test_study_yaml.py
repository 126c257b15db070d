"""A study as a file: what it says becomes the study, who wins where several say something, and how mistakes are told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.cli.commands import GROUPS
from hyperlax.cli.parsing import parse
from hyperlax.config.configurations import first_trials
from hyperlax.config.options import SearchOptions
from hyperlax.config.space_entries import searched
from hyperlax.config.stored import read_study
from hyperlax.config.study_file import in_full, read_study_file
from hyperlax.errors import UsageError
from hyperlax.fields import dotted
from hyperlax.file_studies import planned_studies
from hyperlax.recipe import load
from hyperlax.space import Categorical, LogUniform, LogUniformDiscrete, UniformDiscrete
from hyperlax.studies import PlannedStudy
from hyperlax.study import single
from tests.desk import ROOT, optuna_trials
from tests.fake_backend import train_with_fakes
from tests.study_cases import MIXED, arguments_of, recipe_of
from tests.test_bad_input import refused, table

pytestmark = pytest.mark.usefixtures("elsewhere")
BASE = "algo_and_network_config: sac_mlp\nenv_config: gymnax.pendulum\n"
LENGTH = "num_seeds: 2\ntotal_timesteps: 5000\nnum_evaluations: 5\nnum_eval_episodes: 4\n"
CHANGED = """
n_trials: 4
optuna_study_batch_size: 4
params:
  lr: algorithm.hyperparam.actor_lr
  tau: algorithm.hyperparam.tau
space:
  lr: {type: loguniform, low: 1e-5, high: 1e-4}
  tau: null
  algorithm.hyperparam.gamma: 0.9
  algorithm.hyperparam.total_batch_size: {type: randint, low: 8, high: 64, log: true}
  algorithm.hyperparam.epochs: {type: randint, low: 2, high: 8, step: 2}
"""
LR, TAU, GAMMA, BATCH, EPOCHS, Q_LR = (
    f"algorithm.hyperparam.{name}" for name in ("actor_lr", "tau", "gamma", "total_batch_size", "epochs", "q_lr")
)
ENV = ("--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum")
SHORT = ["--num-seeds", "2", "--total-timesteps", "5000", "--num-evaluations", "5", "--num-eval-episodes", "4"]
DIRECTORY = Path("my_optuna_studies/sac_mlp/gymnax_pendulum")


@pytest.fixture
def trained(monkeypatch):
    """Studies are trained by a fake, and make no pages."""
    train_with_fakes(monkeypatch, pages=False)


def planned(text: str, *words: str, base: str = BASE) -> PlannedStudy:
    """What a file and words of the command line come to."""
    Path("s.yaml").write_text(base + text, encoding="utf-8")
    _, given = parse(GROUPS, ["run-study", *words])
    (study,) = planned_studies(["s.yaml"], given)
    return study


def options_in(text: str, *words: str, base: str = BASE) -> SearchOptions:
    options = planned(text, *words, base=base).options
    assert isinstance(options, SearchOptions)
    return options


def told(directory: Path) -> list[tuple[Any, ...]]:
    """What must be equal in two runs of one study."""
    return [(trial.state, trial.params, trial.values) for trial in optuna_trials(directory)]


@pytest.mark.parametrize("case", table("studies"), ids=lambda case: case[-1][:60])
def test_a_mistake_is_told_by_file_and_line(capsys, case):
    *lines, said = case
    Path("s.yaml").write_text(BASE + "\n".join(lines) + "\n", encoding="utf-8")
    assert refused(["run-study", "s.yaml"], capsys) == said.replace("ROOT", str(ROOT))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "s.yaml:1: holds no `name: value`. Begin with algo_and_network_config: sac_mlp."),
        ("- seed", "s.yaml:1: holds no `name: value`. Begin with algo_and_network_config: sac_mlp."),
        (
            "seed: 3",
            "s.yaml: algo_and_network_config is required: a recipe (digits, dqn_mlp, forest, ppo_mlp, sac_mlp) or a path to a .py "
            "file.",
        ),
        (
            "algo_and_network_config: sac_mlp",
            "s.yaml: env_config is required: an environment such as gymnax.pendulum.",
        ),
        (
            "seed: 3\nalgo_and_network_config: sac",
            "s.yaml:2: no recipe named `sac` in ./recipes or among those shipped. Did you mean `sac_mlp`? There are digits, "
            "dqn_mlp, forest, ppo_mlp, sac_mlp, which hyperlax recipes describes; a path to a .py file works too.",
        ),
        (
            "env_config: gymnax.cartpole\nalgo_and_network_config: sac_mlp",
            "s.yaml:1: sac_mlp: SAC takes continuous actions only, those of gymnax.cartpole are discrete. Recipes that can: "
            "dqn_mlp, ppo_mlp.",
        ),
        ("seed: \x07", "s.yaml:1: holds a character that cannot be printed. Remove it."),
    ],
)
def test_a_file_that_names_no_study_is_refused(capsys, text, said):
    Path("s.yaml").write_text(text, encoding="utf-8")
    assert refused(["run-study", "s.yaml"], capsys) == said.replace("ROOT", str(ROOT))


def test_ppo_values_that_do_not_divide_are_refused_at_their_entry():
    base = "algo_and_network_config: ppo_mlp\nenv_config: gymnax.cartpole\n"
    text = "seed: 1\nspace:\n  algorithm.hyperparam.num_minibatches: {type: choice, values: [3, 4]}\n"
    with pytest.raises(UsageError, match=r"^s\.yaml:5: total_num_envs \* rollout_length must be a multiple"):
        planned(text, base=base)


def test_a_file_that_cannot_be_read_is_refused(capsys):
    Path("latin.yaml").write_bytes(b"study_name: caf\xe9\n")
    assert refused(["run-study", "nowhere.yaml"], capsys) == "nowhere.yaml: cannot be read (No such file or directory)."
    assert refused(["run-study", "latin.yaml"], capsys) == "latin.yaml: is not UTF-8. Save it in UTF-8."
    assert refused(["run-study"], capsys).startswith("run-study needs ")


def test_what_the_command_line_has_wrong_is_told_as_of_the_command_line(capsys):
    Path("s.yaml").write_text(BASE + "n_trials: 3\n")
    words = ["run-study", "s.yaml", "--n-trials", "0"]
    assert refused(words, capsys) == "--n-trials needs a whole number of at least 1, got 0."


@pytest.mark.parametrize(
    ("text", "words", "name", "value"),
    [
        ("", "", "total_timesteps", 20_000),
        ("preset: quick_test", "", "total_timesteps", 4_000),
        ("preset: quick_test", "", "n_trials", 5),
        ("run_length_modifier: long", "", "total_timesteps", 100_000),
        ("", "--run-length-modifier long", "total_timesteps", 100_000),
        ("preset: quick_test\nn_trials: 7", "", "n_trials", 7),
        ("preset: quick_test\nrun_length_modifier: long", "", "total_timesteps", 100_000),
        ("preset: quick_test\ntotal_timesteps: 9000", "", "total_timesteps", 9000),
        ("preset: production", "--num-seeds 4", "num_seeds", 4),
        ("preset: production", "--run-length-modifier quick", "total_timesteps", 4_000),
        ("preset: production", "--pruner none", "pruner", "none"),
        ("n_trials: 7", "--n-trials 9", "n_trials", 9),
        ("total_timesteps: 9000", "--run-length-modifier quick", "total_timesteps", 4_000),
        ("total_timesteps: 9000", "--num-evaluations 3", "total_timesteps", 9000),
        ("preset: quick_test\nn_trials: 7", "--n-trials 9", "n_trials", 9),
        ("preset: production\nn_trials: 7", "--preset quick_test", "n_trials", 5),
        ("preset: production", "--preset quick_test --n-trials 9", "n_trials", 9),
        ("n_trials: 7", "--set n_trials=8", "n_trials", 8),
        ("n_trials: 7", "--set n-trials=8 seed=3", "seed", 3),
        ("n_trials: 7", "--set n_trials=8 --n-trials 9", "n_trials", 9),
        ("", "--set total_timesteps=1e5", "total_timesteps", 100_000),
        ("output_root: ${HERE}/x", "", "output_root", "there/x"),
        ("", "--output-root=$HERE/x", "output_root", "there/x"),
        ("objective_names: num_parameters", "", "objective_directions", ("minimize",)),
        (
            "objective_names: num_parameters",
            "--objective-names final_performance",
            "objective_directions",
            ("maximize",),
        ),
    ],
)
def test_command_line_over_file_over_preset_over_recipe(text, words, name, value, monkeypatch):
    monkeypatch.setenv("HERE", "there")
    assert getattr(options_in(text, *words.split()), name) == value


def test_directions_belong_to_the_names_beside_them():
    text = "objective_names: [peak_performance, num_parameters]\nobjective_directions: [minimize, maximize]"
    assert options_in(text).objectives == {"peak_performance": "minimize", "num_parameters": "maximize"}
    assert options_in(text, "--objective-names", "num_parameters").objectives == {"num_parameters": "minimize"}


def test_a_recipe_and_an_environment_of_the_command_line_win():
    study = planned("", "--algo-and-network-config", "ppo_mlp", "--env-config", "gymnax.cartpole")
    assert (study.recipe.name, study.directory.as_posix()) == ("ppo_mlp", "my_optuna_studies/ppo_mlp/gymnax_cartpole")


def test_the_space_of_a_file_takes_the_place_of_the_recipes():
    own, space = load("sac_mlp").space, planned(CHANGED).recipe.space
    assert space[LR] == LogUniform(domain=(1e-5, 1e-4))
    assert space[GAMMA] == Categorical(values=[0.9])
    assert space[BATCH] == LogUniformDiscrete(domain=(8, 64))
    assert list(space) == [*(name for name in own if name != TAU), BATCH]
    assert space[EPOCHS] == UniformDiscrete(domain=(2, 8), step=2)
    assert {name for name in own if space.get(name) != own[name]} == {LR, GAMMA, TAU, EPOCHS}


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("gamma: [9e-1, 0.99]", Categorical(values=[0.9, 0.99])),
        ("layer_sizes: [32, 32]", Categorical(values=[[32, 32]])),
        ("layer_sizes: [[32, 32.0], [64]]", Categorical(values=[[32, 32], [64]])),
        ("use_layer_norm: [true, false]", Categorical(values=[True, False])),
        ("epochs: {type: choice, values: [4.0, 1e1]}", Categorical(values=[4, 10])),
        ("epochs: {type: randint, low: 2, high: 1e1}", UniformDiscrete(domain=(2, 10))),
        ("epochs: {type: randint, low: 2, high: 8, step: 2}", UniformDiscrete(domain=(2, 8), step=2)),
        ("epochs: {type: quniform, low: 2, high: 8, q: 2}", UniformDiscrete(domain=(2, 8), step=2)),
    ],
)
def test_an_entry_alone_is_all_that_is_searched(entry, wanted):
    short = entry.partition(":")[0]
    name = next(name for name in dotted(load("sac_mlp").config.algorithm) if name.endswith(f".{short}"))
    text = f"params:\n  {short}: {name}\nspace:\n  only: true\n  {entry}"
    assert planned(text).recipe.space == {name: wanted}


@pytest.mark.parametrize(
    ("word", "name", "wanted"),
    [
        ("space.lr.low=2e-5", LR, LogUniform(domain=(2e-5, 1e-4))),
        (f"space.{GAMMA}=[0.9, 0.95]", GAMMA, Categorical(values=[0.9, 0.95])),
        ("space.gamma={type: choice, values: [0.9]}", GAMMA, Categorical(values=[0.9])),
        ("space.total_batch_size.low=16", BATCH, LogUniformDiscrete(domain=(16, 64))),
        ("space.actor_lr.low=2e-5", LR, LogUniform(domain=(2e-5, 1e-4))),
        ("space.q_lr.high=2e-3", Q_LR, LogUniform(domain=(2e-4, 2e-3))),
    ],
)
def test_one_value_of_a_file_is_replaced(word, name, wanted):
    assert planned(CHANGED, "--set", word).recipe.space[name] == wanted


def test_an_entry_without_a_type_changes_values_of_the_recipes():
    text = "space:\n  q_lr: {high: 2e-3}"
    for words in ([], ["--set", "space.q_lr.low=1e-4", "space.q_lr.high=3e-3"]):
        low, high = (1e-4, 3e-3) if words else (2e-4, 2e-3)
        space = planned(text, *words).recipe.space
        assert space[Q_LR] == LogUniform(domain=(low, high))
        assert space.keys() == load("sac_mlp").space.keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enqueue:\n  - {gamma: 0.95, tau: 1e-2}\n  - gamma: 0.97", []),
        ("enqueue: first.json", []),
        ("", ["--set", "enqueue=[{gamma: 0.95, tau: 1e-2}, {gamma: 0.97}]"]),
    ],
)
def test_first_trials_may_be_written_out(text, words):
    Path("first.json").write_text(json.dumps([{"gamma": 0.95, "tau": "1e-2"}, {"gamma": 0.97}]))
    study = planned(text, *words)
    assert isinstance(study.options, SearchOptions)
    first = first_trials(study.options, study.recipe)
    assert [(one[GAMMA], one[TAU]) for one in first[1:]] == [(0.95, 0.01), (0.97, first[0][TAU])]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("n_trials", "--set needs NAME=VALUE, got 'n_trials'. Write --set space.gamma.low=0.95."),
        ("n_trials=x", '--set n_trials=x: n_trials needs a whole number of at least 1, got "x".'),
        ("n_trails=3", "--set n_trails=3: nothing named `n_trails`. Did you mean `n_trials`?"),
        ("space.lr.low=1", f"s.yaml:10 with --set space.lr.low=1: {LR}: loguniform needs 0 < low < high, got low=1, high=0.0001. "
            "Swap the two."),
        ("space.lr.lw=1", f"--set space.lr.lw=1: {LR}: nothing named `lw`. There are low, high."),
        ("space.rl.low=1", "--set space.rl.low=1: no hyperparameter named `rl`."),
        ("space.rollout_length.low=1", "--set space.rollout_length.low=1: sac_mlp does not search "
            "algorithm.hyperparam.rollout_length, so it needs a `type`."),
        ("params.rl.low=1", "--set params.rl.low=1: rl.low needs"),
        ("space.gamma.low=0", "--set space.gamma.low=0: gamma has no `low` in the file. Replace it as a "
            "whole: space.gamma=VALUE."),
        ("spice.lr.low=1", "--set spice.lr.low=1: only params and space have entries with a dot. Did you mean `space`?"),
        ("seed=[", "--set seed=[: the value is not valid YAML."),
    ],
)  # fmt: skip
def test_a_replacement_is_refused_by_its_flag(capsys, word, said):
    Path("s.yaml").write_text(BASE + CHANGED)
    assert refused(["run-study", "s.yaml", "--set", word], capsys).startswith(said)


def test_what_the_recipe_says_itself_is_no_change():
    own = in_full(options_in(""), load("sac_mlp"))
    assert planned(own, base="").recipe.changes == {}


def test_what_is_left_without_a_space_is_refused():
    nothing = "".join(f"  {name}: null\n" for name in load("sac_mlp").space)
    with pytest.raises(UsageError, match=r"^s\.yaml:3: nothing is left to search\."):
        planned(f"space:\n{nothing}")


def test_every_distribution_reads_back_as_it_was_written():
    Path("s.yaml").write_text(in_full(arguments_of(Path("out")), recipe_of(MIXED)), encoding="utf-8")
    read = searched(read_study_file("s.yaml").space, {}, recipe_of({}), "s.yaml")
    assert list(read.space.items()) == list(MIXED.items())


@pytest.mark.usefixtures("trained")
def test_the_saved_file_gives_the_same_study_elsewhere():
    Path("s.yaml").write_text(BASE + LENGTH + CHANGED)
    assert cli.main(["run-study", "s.yaml", "--seed", "7"]) == 0
    saved = DIRECTORY / "study.yaml"
    assert cli.main(["run-study", str(saved), "--output-root", "again"]) == 0
    again = Path("again/sac_mlp/gymnax_pendulum")
    assert told(again) == told(DIRECTORY) and len(told(again)) == 4
    assert "high: 8, step: 2}" in saved.read_text()
    assert saved.read_text().replace("my_optuna_studies", "again") == (again / "study.yaml").read_text()
    first, second = (json.loads((where / "study.json").read_text()) for where in (DIRECTORY, again))
    assert first["recipe"] == second["recipe"] and first["space"] == second["space"]
    assert first["command"] == f"hyperlax run-study {saved}"


@pytest.mark.usefixtures("trained")
def test_a_plain_search_leaves_a_file_that_gives_it_again():
    assert cli.main(["optuna-hp-search", *ENV, *SHORT, "--n-trials", "3", "--no-default-trial"]) == 0
    assert cli.main(["run-study", str(DIRECTORY / "study.yaml"), "--output-root", "again"]) == 0
    again = Path("again/sac_mlp/gymnax_pendulum")
    assert told(again) == told(DIRECTORY)
    assert json.loads((again / "study.json").read_text())["recipe"]["changes"] == {}


@pytest.mark.usefixtures("trained")
def test_a_study_with_a_space_of_its_own_goes_on_without_its_file(monkeypatch):
    Path("s.yaml").write_text(BASE + LENGTH + CHANGED)
    assert cli.main(["run-study", "s.yaml", "--n-trials", "12", "--output-root", "whole"]) == 0
    assert cli.main(["run-study", "s.yaml"]) == 0
    Path("s.yaml").unlink()
    assert cli.main(["optuna-hp-search", "--resume-from", str(DIRECTORY), "--n-trials", "12"]) == 0
    assert told(DIRECTORY) == told(Path("whole/sac_mlp/gymnax_pendulum"))
    steps = [params[EPOCHS] for _, params, _ in told(DIRECTORY)]
    assert {2, 4, 6, 8} >= set(steps) and {type(value) for value in steps} == {int}
    assert "n_trials: 12\n" in (DIRECTORY / "study.yaml").read_text()
    assert read_study(DIRECTORY, "test")[1].space == planned(CHANGED, "--output-root", "new").recipe.space

    assert cli.main(["show", str(DIRECTORY)]) == 0
    assert cli.main(["invalidate", str(DIRECTORY), "3"]) == 0
    assert cli.main(["repair", str(DIRECTORY)]) == 0
    received: list[Any] = []
    monkeypatch.setattr(single, "run_single", lambda *given, **_: received.append(given[:3]) or 0)
    assert cli.main(["train", "--from", str(DIRECTORY)]) == 0
    values = dotted(received[0][2])
    assert values[GAMMA] == 0.9 and values[TAU] == dotted(load("sac_mlp").config.algorithm)[TAU]
    assert 1e-5 <= values[LR] <= 1e-4 and 8 <= values[BATCH] <= 64


def _refusal(words: list[str], capsys) -> str:
    """Return the message of a refused command, of any number of lines."""
    capsys.readouterr()
    assert cli.main(words) == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("trained")
def test_a_file_whose_study_exists_resumes_it(capsys, monkeypatch):
    Path("s.yaml").write_text(BASE + LENGTH + CHANGED)
    assert cli.main(["run-study", "s.yaml", "--output-root", "whole", "--n-trials", "9"]) == 0
    assert cli.main(["run-study", "s.yaml"]) == 0
    assert "exists" not in capsys.readouterr().out
    assert cli.main(["run-study", "s.yaml", "--n-trials", "9"]) == 0
    assert capsys.readouterr().out.startswith(f"s.yaml: the study in {DIRECTORY} exists and is resumed.\n")
    assert told(DIRECTORY) == told(Path("whole/sac_mlp/gymnax_pendulum"))
    for _ in range(2):
        assert cli.main(["run-study", "s.yaml"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"s.yaml: the study in {DIRECTORY} is finished.\n") and "9 trials finished" in said
    assert told(DIRECTORY) == told(Path("whole/sac_mlp/gymnax_pendulum"))

    assert _refusal(["run-study", "s.yaml", "--seed", "4"], capsys).startswith(
        "hyperlax: these options differ from those of the study to resume:\n  --seed: study has 0, given 4\n"
    )
    Path("s.yaml").write_text(BASE + LENGTH.replace("5000", "6000") + CHANGED)
    assert _refusal(["run-study", "s.yaml"], capsys).startswith(
        "hyperlax: s.yaml:4: these options differ from those of the study to resume:\n"
        "  total_timesteps: study has 5000, given 6000\n"
    )
    Path("s.yaml").write_text(BASE + LENGTH + CHANGED.replace("1.0e-4", "2.0e-4").replace("1e-4", "2e-4"))
    assert "searches algorithm.hyperparam.actor_lr = " in _refusal(["run-study", "s.yaml"], capsys)
    capsys.readouterr()


@pytest.mark.usefixtures("trained")
def test_a_study_of_another_command_is_not_resumed_by_a_file(capsys):
    words = "--output-root my_optuna_studies --num-samples 2 --sampling-method random"
    assert cli.main(["sweep-hp-samples", *ENV, *words.split(), *SHORT]) == 0
    Path("s.yaml").write_text(BASE)
    assert _refusal(["run-study", "s.yaml"], capsys) == (
        f"hyperlax: s.yaml: {DIRECTORY} already holds a study. To continue it:\n"
        f"  hyperlax sweep-hp-samples --resume-from {DIRECTORY}\nFor a new one, choose another study_name or output_root.\n"
    )


@pytest.mark.usefixtures("trained")
def test_another_study_name_has_a_directory_of_its_own(capsys, caplog):
    words = [*ENV, *SHORT, "--output-root", "my_optuna_studies"]
    other = DIRECTORY.with_name("gymnax_pendulum@b")
    for command, number in (("optuna-hp-search", "--n-trials"), ("sweep-hp-samples", "--num-samples")):
        for name, place in (("a", DIRECTORY), ("b", other)):
            caplog.clear()
            assert cli.main([command, *words, number, "2", "--study-name", name]) == 0
            assert caplog.messages[0] == f"Study {name} in {place}."
            assert _refusal([command, *words, "--study-name", name], capsys).startswith(
                f"hyperlax: {place} already holds a study. To continue it:\n  hyperlax {command} --resume-from {place}\n"
            )
        assert cli.main(["list", "my_optuna_studies"]) == 0
        assert "sac_mlp/gymnax_pendulum@b  " in capsys.readouterr().out
        assert cli.main([command, "--resume-from", str(other)]) == 0
        assert json.loads((other / "study.json").read_text())["arguments"]["study_name"] == "b"
        shutil.rmtree(DIRECTORY)
        assert "gymnax_pendulum@b already holds a study" in _refusal([command, *words, "--study-name", "b"], capsys)
        shutil.rmtree(other)
    assert "'a/b' has a /, so it cannot name a directory" in _refusal(
        ["optuna-hp-search", *words, "--study-name", "a/b"], capsys
    )
    assert cli.main(["optuna-hp-search", *words, "--n-trials", "2", "--study-name", "x" * 300]) == 0
    assert "is longer than the system allows" in _refusal(
        ["optuna-hp-search", *words, "--study-name", "y" * 300], capsys
    )


@pytest.mark.parametrize(
    "changes", [3, {"algorithm.hyperparam.gamma": 3}, {"algorithm.hyperparam.gamma": {"type": "Uniform"}}]
)
@pytest.mark.usefixtures("trained")
def test_changes_that_somebody_damaged_are_refused(capsys, changes):
    Path("s.yaml").write_text(BASE + LENGTH + CHANGED)
    assert cli.main(["run-study", "s.yaml"]) == 0
    path = DIRECTORY / "study.json"
    stored = json.loads(path.read_text())
    stored["recipe"]["changes"] = changes
    path.write_text(json.dumps(stored))
    capsys.readouterr()
    assert cli.main(["optuna-hp-search", "--resume-from", str(DIRECTORY)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"hyperlax: {path}: ") and "It was changed or damaged" in said


def test_the_example_of_the_documentation_can_run():
    text, _ = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    options = options_in(text, base="")
    assert (options.n_trials, options.pruner) == (40, "asha")
    assert TAU not in planned(text, base="").recipe.space
