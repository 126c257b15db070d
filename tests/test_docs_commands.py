"""Every command in README and docs runs, where what it speaks of is there; what trains is a fake."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from hyperlax.agent import save_agent
from hyperlax.cli import main, playing
from hyperlax.study import dashboard
from hyperlax.study.agents import agent_path
from tests.desk import ROOT
from tests.fake_backend import train_with_fakes
from tests.made_up_studies import policy
from tests.test_docs import PAGES, commands, python_of, typed

pytestmark = pytest.mark.slow
SEARCH = "optuna-hp-search --algo-and-network-config {recipe}_mlp --env-config gymnax.{environment}"
STUDIES = Path("my_optuna_studies/ppo_mlp")
BEGUN = (
    f"{SEARCH.format(recipe='ppo', environment='cartpole')} --n-trials 16",
    f"{SEARCH.format(recipe='ppo', environment='acrobot')} --n-trials 16 --total-timesteps 50000 --objective-names normalized_auc",
    f"{SEARCH.format(recipe='dqn', environment='cartpole')} --n-trials 4",
    "run-study studies/sac_pendulum.yaml",
    "pbt --algo-and-network-config ppo_mlp --env-config gymnax.pendulum --population-size 4",
    "sweep-hp-samples --algo-and-network-config sac_mlp --env-config gymnax.pendulum --num-samples 4 --output-root my_sweeps",
    "generate-hp-samples --algo-and-network-config sac_mlp --num-samples 4 --output mine.csv",
    "optuna-hp-search --algo-and-network-config tank --n-trials 2",
)
"""What the pages take for done."""
ELSEWHERE = {"--devices 1": "there is no device 1", "--ray-address auto": "This machine is not in a Ray cluster"}
"""Words of a command for a machine that this one is not, and what it says here."""
LINES = [
    pytest.param(line, id=f"{page.stem}: {' '.join(line.split())[:90]}")
    for page in PAGES
    for line in dict.fromkeys(commands(page))
    if "--help" not in line
]


@pytest.fixture(scope="module")
def faked() -> Iterator[pytest.MonkeyPatch]:
    """Nothing is trained, filmed or served; a question is answered with yes."""
    with pytest.MonkeyPatch.context() as patch:
        train_with_fakes(patch)
        patch.setattr(playing, "film", lambda agent, environment, seed, path: (path.write_bytes(b"GIF") and 1, 1.0))
        patch.setattr(dashboard, "serve", lambda *given: 0)
        patch.setattr("builtins.input", lambda question: "y")
        patch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        yield patch


@pytest.fixture(scope="module")
def begun(faked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the pages' studies are there."""
    desk = tmp_path_factory.mktemp("begun")
    new_desk(desk)
    before = Path.cwd()
    os.chdir(desk)
    try:
        for line in BEGUN:
            assert main(shlex.split(line)) == 0, line
        single_run = Path("my_single_runs/ppo_mlp/gymnax_cartpole/single_0000")
        single_run.mkdir(parents=True)
        save_agent(single_run / "agent", CARTPOLE, {"trial": 0, "seed": 0})
        for study, agent in (("gymnax_cartpole", CARTPOLE), ("gymnax_acrobot", ACROBOT)):
            for number in range(16):
                save_agent(agent_path(STUDIES / study, number), agent, {"trial": number, "seed": 0})
        shutil.copytree("my_optuna_studies", "received")
    finally:
        os.chdir(before)
    return desk


CARTPOLE, ACROBOT = policy("gymnax.cartpole", 4, {"n": 2}), policy("gymnax.acrobot", 6, {"n": 3})


def new_desk(path: Path) -> None:
    """The repository's recipes and studies, and the recipes and the files that pages have."""
    for folder in ("recipes", "studies"):
        shutil.copytree(ROOT / folder, path / folder, dirs_exist_ok=True)
    page = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
    (path / "recipes" / "tank.py").write_text(page.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    (sine,) = (block for block in python_of(ROOT / "docs" / "own-code.md") if "Lanes(" in block)
    (path / "recipes" / "sine.py").write_text(sine, encoding="utf-8")
    scripts = (text.partition("```")[0] for text in page.split("```python\n")[1:])
    command, sweep = (indent(text, "    ") for text in scripts if "hyperlax: step=" in text)
    (path / "train.py").write_text(f"import sys\nif 'batch_size' in ' '.join(sys.argv):\n{command}else:\n{sweep}")
    for name, of, first in (
        ("sweep", "own-code", "experiment:"),
        ("spaces", "studies", "env_config: gymnax.cartpole\nsearch"),
    ):
        text = (ROOT / "docs" / f"{of}.md").read_text(encoding="utf-8").partition(f"```yaml\n{first}")[2]
        (path / f"{name}.yaml").write_text(first + text.partition("```")[0], encoding="utf-8")


@pytest.mark.parametrize("line", LINES)
@pytest.mark.usefixtures("faked")
def test_a_documented_command_runs(line, begun, tmp_path, monkeypatch, capsys):
    words = typed(line)
    if "--track" in words or "sweep.yaml" in words:
        pytest.importorskip("mlflow")
    spoken_of = [word for before, word in itertools.pairwise(words) if before not in ("--output-root", "--output")]
    if any(word.startswith(("my_", "mine", "received")) and (begun / word).exists() for word in spoken_of):
        shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    else:
        new_desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    if "ppo_small" in words:
        shutil.copy("recipes/ppo_mlp.py", "recipes/ppo_small.py")
    status, refused = main(words), [said for spoken, said in ELSEWHERE.items() if spoken in line]
    assert status == 0 if not refused else status and refused[0] in capsys.readouterr().err
