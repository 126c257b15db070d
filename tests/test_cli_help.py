"""The command line: help starts nothing, refusals exit with 2, and a resume needs no other argument."""

import json
import os
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from hyperlax import __version__, cli
from hyperlax.cli.commands import COMMANDS, GROUPS
from hyperlax.cli.parsing import parse
from hyperlax.config.options import GenerateOptions
from hyperlax.config.settling import settled
from hyperlax.errors import HyperlaxError, OptionFailure
from hyperlax.recipe import load
from tests.desk import ROOT, python

HEAVY = ("jax", "numpy", "optuna", "plotly", "gymnax", "flax")
STUDY = ["optuna-hp-search", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]
SINGLE = ["run-single-hp", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What the commands hand on, instead of running it."""
    monkeypatch.chdir(tmp_path)
    received = []
    for name, function in (("search", "run_study"), ("single", "run_single")):
        module = types.ModuleType(f"hyperlax.study.{name}")
        setattr(module, function, lambda *given, **more: received.append((*given, *more.values())) or 0)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return received


def test_help_exits_with_0_and_imports_nothing_heavy():
    script = f"""
import sys
from hyperlax.cli import main
for words in [[], *([name] for name in {list(COMMANDS)})]:
    try:
        status = main([*words, "--help"])
    except SystemExit as ended:
        status = ended.code
    print("ended:", *words, status, [name for name in {HEAVY} if name in sys.modules])
"""
    run = python("-c", script)
    assert run.returncode == 0, run.stderr
    ends = [line.removeprefix("ended: ") for line in run.stdout.splitlines() if line.startswith("ended: ")]
    assert ends == ["0 []", *(f"{name} 0 []" for name in COMMANDS)]
    assert run.stdout.count("usage: hyperlax") == len(ends) and "None" not in run.stdout


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    return " ".join(capsys.readouterr().out.replace("│", "").split())


def test_the_commands_are_grouped_and_the_version_is_listed(capsys):
    said = help_of([], capsys)
    places = [said.index(f" {title}: {next(iter(commands))} ") for title, commands in GROUPS.items()]
    assert list(GROUPS) == ["search", "look", "train", "files", "maintenance"] and places == sorted(places)
    assert "--version Print the version." in said


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        ("show", "usage: hyperlax show [-h] DIR [TRIAL]", "[TRIAL] Number of one trial. (required)"),
        ("list", "usage: hyperlax list [-h] [ROOT]", "(required)"),
        ("run-study", "gymnax.Pendulum-v1. (required, in the file or here)", "gymnax.Pendulum-v1. (required)"),
        ("optuna-hp-search", "(required, except with --resume-from)", "(required)"),
        ("pbt", "(required, except with --resume-from)", "(required)"),
        ("run-single-hp", "gymnax.Pendulum-v1. (required)", "--resume-from"),
    ],
)
def test_what_is_required_is_told_as_such(command, shown, hidden, capsys):
    said = help_of([command], capsys)
    assert shown in said and hidden not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_ends_with_an_example_that_can_be_typed(name, capsys):
    example = help_of([name], capsys).partition(" example: ")[2]
    assert example == f"hyperlax {name} {COMMANDS[name].example}"
    _, given = parse(GROUPS, shlex.split(example)[1:])
    if "algo_and_network_config" in given and COMMANDS[name].kind is not GenerateOptions:
        settled(COMMANDS[name].kind, [given], load(given["algo_and_network_config"]))


def test_the_version_is_told(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hyperlax {__version__}\n"


def test_closed_streams_take_nothing_from_a_command():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f'"{sys.executable}" -m hyperlax.cli'
    for words, status in (("--version >&-", 0), ("list /nowhere >&- 2>&-", 2), ("frob 2>&-", 2)):
        run = subprocess.run(["bash", "-c", f"{script} {words}"], check=False, env=environment)
        assert run.returncode == status, words


@pytest.mark.parametrize(
    "start",
    ["from hyperlax.cli import main; sys.exit(main())", "runpy.run_module('hyperlax.cli', run_name='__main__')"],
    ids=["script", "module"],
)
def test_an_interrupt_while_it_imports_is_one_line(start):
    script = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tyro':\n            raise KeyboardInterrupt\n"
        f"sys.meta_path.insert(0, Interrupted())\n{start}\n"
    )
    run = python("-c", script, "--help")
    assert (run.returncode, run.stderr) == (130, "hyperlax: interrupted.\n")


def test_a_resume_needs_no_other_argument(calls):
    assert cli.main([*STUDY, "--runner-hparam-batch-size", "auto"]) == 0
    Path("study").mkdir()
    Path("study/study.json").write_text(json.dumps({"arguments": calls[0][0].to_json()}))
    assert cli.main(["optuna-hp-search", "--resume-from", "study"]) == 0
    assert calls[1][0].to_json() == calls[0][0].to_json() and calls[1][2] == Path("study")


def test_every_flag_of_a_single_run_reaches_it(calls):
    flags = "--num-seeds 3 --seed 7 --run-length-modifier quick --set algorithm.hyperparam.gamma=0.9"
    assert cli.main([*SINGLE, *flags.split(), "--set", "algorithm.hyperparam.epochs=2"]) == 0
    [(arguments, _, algorithm, *_)] = calls
    assert (arguments.num_seeds, arguments.seed, arguments.total_timesteps) == (3, 7, 4000)
    assert (algorithm.hyperparam.gamma, algorithm.hyperparam.epochs) == (0.9, 2)


def test_a_recipe_that_searches_nothing_is_refused(calls, capsys):
    Path("recipes").mkdir()
    text = (ROOT / "recipes" / "sac_mlp.py").read_text().replace("    return {\n", "    return {}\n    return {\n")
    Path("recipes/sac_mlp.py").write_text(text)
    assert cli.main(STUDY) == 2
    assert "there is nothing to search" in capsys.readouterr().err
    assert cli.main(SINGLE) == 0


def test_a_window_is_as_wide_after_a_refusal_as_before(calls, monkeypatch):
    for columns in ("77", None):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        assert cli.main([*STUDY, "--n-trials", "ten"]) == 2
        assert os.environ.get("COLUMNS") == columns


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (HyperlaxError("the disk is full"), 1, "the disk is full"),
        (OptionFailure("constraints", "Lower {constraints} {0}.", "here"), 1, "Lower --constraint here."),
        (KeyboardInterrupt(), 130, "interrupted."),
        (ZeroDivisionError(), None, None),
    ],
)
def test_what_ends_a_run_has_its_exit_status_and_a_bug_its_traceback(calls, capsys, monkeypatch, error, status, said):
    def run_study(*_, **__):
        raise error

    monkeypatch.setattr(sys.modules["hyperlax.study.search"], "run_study", run_study)
    if not said:
        with pytest.raises(type(error)):
            cli.main(STUDY)
        return
    assert cli.main(STUDY) == status
    assert capsys.readouterr().err == f"hyperlax: {said}\n"
