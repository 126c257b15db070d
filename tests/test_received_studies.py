"""A study received from somebody else: what runs, what is written and what is printed when a command opens it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hyperlax.backends.wire import Item
from hyperlax.backends.work import Work
from hyperlax.cli import main
from hyperlax.config import trusted
from hyperlax.errors import UsageError
from hyperlax.files import quoted, read_csv, unquoted
from hyperlax.seals import is_sealed, seal
from hyperlax.study.directory import TRACKING
from tests.fake_backend import FakeBackend, train_with_fakes
from tests.study_cases import Case

ROOT = Path(__file__).parents[1]
CARD = '{"host": "host", "process": 1, "device": "cpu", "slots": 1, "began": "today", "batches": {}}'
SEARCH = shlex.split(
    "optuna-hp-search --algo-and-network-config mine.py --env-config gymnax.pendulum --n-trials 4 --output-root out "
    "--optuna-study-batch-size 2 --total-timesteps 5000 --num-evaluations 5 --num-eval-episodes 2 --num-seeds 2"
)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / "optuna_study.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a user's own recipe, and the directory that both are in."""
    desk = tmp_path_factory.mktemp("desk")
    text = (ROOT / "recipes" / "sac_mlp.py").read_text()
    (desk / "mine.py").write_text(f"{text}\nfrom pathlib import Path\nPath('ran').touch()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        train_with_fakes(patch, pages=False, fail={3: "loss is nan"})
        assert main(SEARCH) == 0
    return desk


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, relative to the working directory. Whether a recipe was loaded there, a file `ran` says."""
    shutil.copytree(made / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    train_with_fakes(monkeypatch, pages=False)
    return Path("out", "mine", "gymnax_pendulum")


def resume(study: Path, *more: str) -> int:
    return main(["optuna-hp-search", "--resume-from", str(study), *more])


def commands(study: Path) -> list[list[str]]:
    """The commands that load a study's recipe."""
    resumed = ["optuna-hp-search", "--resume-from", str(study)]
    return [resumed, [*resumed, "--plan-only"], ["repair", str(study)], ["invalidate", str(study), "1"]]


def test_the_recipe_of_ones_own_study_is_loaded_as_ever(study, made):
    for command in commands(study):
        Path("ran").unlink(missing_ok=True)
        assert main(command) == 0 and Path("ran").exists()
    recipe = made / "mine.py"
    before = recipe.read_text()
    try:
        recipe.write_text(before + "# a remark\n")
        assert resume(study, "--n-trials", "5") == 0
    finally:
        recipe.write_text(before)


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_recipe_of_a_received_study_is_not_loaded(study, made, tmp_path, capsys, place):
    recipe = (study if place == "inside" else tmp_path) / "evil.py"
    recipe.write_text((made / "mine.py").read_text())
    edit(study / "study.json", lambda stored: stored["recipe"].update(path=str(recipe.resolve())))
    for command in commands(study):
        assert main(command) == 2 and not Path("ran").exists()
        assert f"names the recipe {recipe.resolve()}, " in capsys.readouterr().err


def test_a_recipe_in_the_study_is_not_loaded_even_if_it_is_sealed(study, made, capsys):
    recipe = (study / "mine.py").resolve()
    recipe.write_text((made / "mine.py").read_text())
    code = {"path": str(recipe)}
    edit(study / "study.json", lambda stored: stored["recipe"].update(code, seal=seal(code)))
    assert resume(study) == 2 and "in the study's own directory" in capsys.readouterr().err and not Path("ran").exists()


def test_a_recipe_that_the_user_names_is_loaded_and_is_the_users_own_then(study, made):
    edit(study / "study.json", lambda stored: stored["recipe"].update(path="/their/mine.py", seal="theirs"))
    recipe = str(made / "mine.py")
    for command in (["repair", str(study)], ["invalidate", str(study), "1"], ["agent", str(study)]):
        assert main(command) == 2
        assert main([*command, "--algo-and-network-config", recipe]) == 0
    assert resume(study) == 2
    assert resume(study, "--algo-and-network-config", recipe) == 0
    assert all(main(command) == 0 for command in commands(study))


def test_a_shipped_recipe_needs_no_mark(study):
    kept = {"path": "/their/site-packages/hyperlax/shipped/recipes/sac_mlp.py"}
    own = str(ROOT / "recipes" / "sac_mlp.py")
    Path("recipes").mkdir()
    shutil.copy(own, "recipes")
    assert trusted.recipe_file(kept, "sac_mlp", study, "study.json") == own


@pytest.mark.parametrize("code", ["function", "command"])
def test_code_beside_the_name_of_a_flow_is_not_run(tmp_path, code):
    trusted.check_source({"source": {"flow": "Theirs"}}, "study.json", tmp_path, is_sweep=False)
    with pytest.raises(UsageError, match="no run of yours wrote that"):
        trusted.check_source({"source": {"flow": "Theirs", code: "evil"}}, "study.json", tmp_path, is_sweep=False)


def test_a_mark_is_of_this_user_and_of_this_content(tmp_path, monkeypatch):
    content = {"path": "mine.py", "source": None}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "me"))
    mine = seal(content)
    assert is_sealed(content, mine) and (tmp_path / "me/hyperlax/key").stat().st_mode & 0o777 == 0o600
    assert not is_sealed({**content, "path": "other.py"}, mine)
    assert not any(is_sealed(content, odd) for odd in ("", None, 1, [], "é"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not is_sealed(content, mine)
    (tmp_path / "other/hyperlax/key").chmod(0o644)
    assert seal(content) == "" and not is_sealed(content, ""), "a key that others can read is none"
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert seal(content) == "" and not is_sealed(content, "")


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_not_written_through(study, capsys):
    Path("precious").write_text("precious")
    for make in (
        lambda lock: lock.symlink_to(Path("precious").resolve()),
        os.mkfifo,
        lambda lock: lock.symlink_to("gone"),
    ):
        (study / ".lock").unlink(missing_ok=True)
        make(study / ".lock")
        for command in (["list", "out"], ["show", str(study)], commands(study)[0], commands(study)[3]):
            assert main(command) in (1, 2) and "/.lock: cannot be read (it is " in capsys.readouterr().err
    assert Path("precious").read_text() == "precious" and not Path("gone").exists()


@pytest.mark.parametrize(
    "name", ["analysis_plots", "optuna_exec_batch_0002", "optuna_exec_batch_0000/samples", "checkpoints"]
)
def test_nothing_is_written_or_removed_through_a_link(study, capsys, name):
    elsewhere = Path("elsewhere").resolve()
    (elsewhere / "samples" / "batch_00007").mkdir(parents=True)
    (elsewhere / "trial_00000.npz").touch()
    shutil.rmtree(study / name, ignore_errors=True)
    (study / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    for command in (
        ["report", str(study)],
        ["invalidate", str(study), "1"],
        ["optuna-hp-search", "--resume-from", str(study)],
    ):
        assert main(command) == 2 and f"{name}: is a link" in capsys.readouterr().err
    assert sorted(elsewhere.rglob("*")) == before


def test_a_journal_that_is_a_link_is_not_written_through(study, capsys):
    shutil.copy(study / "journal.jsonl", "theirs")
    before = Path("theirs").read_text()
    (study / "journal.jsonl").unlink()
    (study / "journal.jsonl").symlink_to(Path("theirs").resolve())
    assert resume(study, "--n-trials", "6") == 1 and "journal.jsonl: it is a link" in capsys.readouterr().err
    assert Path("theirs").read_text() == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM trial_params; END",
        "CREATE VIEW v AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
        "ALTER TABLE trials ADD COLUMN c AS (number + 1)",
    ],
)
def test_a_database_with_more_than_tables_is_refused_and_repaired(study, capsys, statement):
    change(study, statement)
    for command in (
        ["show", str(study)],
        ["invalidate", str(study), "1"],
        ["optuna-hp-search", "--resume-from", str(study)],
    ):
        assert main(command) == 2 and "is damaged (it" in capsys.readouterr().err
    (study / "optuna_study.db.backup").unlink(missing_ok=True)
    assert main(["repair", str(study)]) == 0 and main(["show", str(study)]) == 0


def test_a_journal_of_sqlite_that_names_another_file_is_not_rolled_back(study, capsys):
    Path("precious").write_text("precious")
    name = str(Path("precious").resolve()).encode()
    tail = name + len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
    (study / "optuna_study.db-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504) + tail)
    assert main(["show", str(study)]) == 2 and "names another file" in capsys.readouterr().err
    assert Path("precious").exists()


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.parent / "real"),
        lambda path: (path.touch(), os.truncate(path, 2**40)),
        lambda path: path.write_text("[" * 10**6),
    ],
    ids=["a pipe", "an endless device", "a link", "sparse", "deep"],
)
def test_what_lies_in_work_is_read_only_if_it_is_a_small_file(study, capsys, make):
    work, engine, result = Work(study), f"engine-{0:012x}.json", f"b00000-{0:012x}.result"
    work.root.mkdir()
    (work.root / "real").write_text(CARD)
    for name in ("x-1-a.agent", "leader.json", "b00000-000000000000.ticket"):
        make(work.root / name)
    assert (work.cards(), work.heard(), work.engine_now()) == ({}, {}, "")
    with pytest.raises((OSError, UsageError)):
        work.read(Item(f"b00000-{0:012x}", "", "ticket"))
    if make is os.mkfifo:
        for name in (engine, result):
            make(work.root / name)
        assert work.engine(f"{0:012x}") is None
        with pytest.raises(OSError, match="not a regular file"):
            work.result(Item(f"b00000-{0:012x}", "", "result"))
    for command in ("list", "show", "report"):
        assert main([command, str(study.parent if command == "list" else study)]) == 0, capsys.readouterr().err
    assert "x-1-a" not in capsys.readouterr().out


def test_a_study_that_cannot_be_read_is_one_sentence_and_the_others_are_listed(study, capsys):
    shutil.copytree("out", "more/sound")
    shutil.copytree("out", "more/odd")
    change(Path("more/odd/mine/gymnax_pendulum"), "UPDATE study_directions SET direction = 'up'")
    assert main(["list", "more"]) == 1
    said = capsys.readouterr()
    assert "sound/mine/gymnax_pendulum  finished" in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("hyperlax: more/odd/mine/gymnax_pendulum/optuna_study.db: is damaged (")


def test_control_characters_are_printed_written_out(study, capsys):
    change(study, r"""UPDATE trial_user_attributes SET value_json = '"\u001b[31mred\r\u009b"' WHERE key = 'reason'""")
    assert main(["show", str(study), "3"]) == 0
    assert r"(\x1b[31mred\r\x9b)" in capsys.readouterr().out
    assert main(["show", "no\x1b[31msuch"]) == 2
    assert r"no\x1b[31msuch" in capsys.readouterr().err


def test_a_formula_is_a_text_in_an_exported_csv(study):
    change(study, """UPDATE trial_user_attributes SET value_json = '"=HYPERLINK(1)"' WHERE key = 'reason'""")
    assert main(["export", str(study), "--output", "out.csv"]) == 0
    assert [row["reason"] for row in read_csv(Path("out.csv"))][3] == "'=HYPERLINK(1)"
    assert [unquoted(quoted(text)) for text in ("=1", "'", "-", "tanh", "'x")] == ["=1", "'", "-", "tanh", "'x"]


def test_tracking_resumes_only_where_the_user_says(study, capsys, monkeypatch):
    pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')
    for variable in ("MLFLOW_TRACKING_URI", "HYPERLAX_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(0.1)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        (study / TRACKING).write_text(json.dumps({"uri": uri, "experiment": "theirs", "study": "theirs"}))
        assert resume(study, "--n-trials", "5") == 2
        assert "mlflow.json: no run of yours wrote this address." in capsys.readouterr().err
        mirror = study / "mirror.json"
        mirror.write_text(json.dumps({"storage": uri.replace("http", "mysql+pymysql"), "mark": "theirs"}))
        assert resume(study, "--n-trials", "5", "--track", "none") == 2
        assert "mirror.json: no run of yours wrote this address." in capsys.readouterr().err
        assert resume(study, "--n-trials", "5", "--track", "none", "--mirror", "none") == 0
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_dead_server_costs_seconds(tmp_path, caplog):
    pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')
    from hyperlax.tracking.mlflow import MlflowWriter
    from tests.mlflow_store import tracker

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
    writer = tracker(uri, "dead", tmp_path)
    assert isinstance(writer, MlflowWriter)
    case = Case(tmp_path, n_trials=4, tracker=writer)
    assert case.start(FakeBackend()) == 0
    assert f"{uri} does not answer" in caplog.text


def test_aliases_of_a_yaml_file_have_a_limit(tmp_path, capsys):
    lines = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(["a: &a [1, 2]", *lines]))
    assert main(["run-study", str(path)]) == 2 and "its aliases stand for more than" in capsys.readouterr().err
