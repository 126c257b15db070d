"""Where a tracked study is written: from the flags, MLflow's variable and what was kept; never a password."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.backends.wire import Engine
from hyperlax.errors import UsageError
from hyperlax.study import search as runs
from hyperlax.study.directory import TRACKING
from hyperlax.tracking import mlflow
from hyperlax.tracking import place as places
from hyperlax.tracking.background import BackgroundObserver
from hyperlax.tracking.place import Place, place_of, with_address
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

SEARCH = ["optuna-hp-search", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]


@pytest.fixture
def installed(monkeypatch, elsewhere):
    """As if MLflow were installed, in a working directory of its own, without MLflow's variable."""
    monkeypatch.setattr(places, "find_spec", lambda name: SimpleNamespace(origin=name))
    monkeypatch.delenv(places.VARIABLE, raising=False)
    return elsewhere


def at(root: Path, track: str | None = "mlflow", uri: str | None = None, name: str | None = None, is_new: bool = True):
    place = place_of(track, uri, name, "a study", root, is_new)
    assert place is not None
    return place


def test_the_store_is_mlflows_own_default_unless_something_else_is_said(installed, monkeypatch):
    default = at(installed)
    assert (default.uri, default.experiment) == (f"sqlite:///{installed}/mlflow.db", "a study")
    assert default.database == installed / "mlflow.db"
    monkeypatch.setenv(places.VARIABLE, "http://tracking:5000")
    assert at(installed).uri == "http://tracking:5000" and at(installed).database is None
    assert at(installed, uri="sqlite:///other.db").uri == f"sqlite:///{installed}/other.db"
    assert at(installed, uri="mlruns").uri == f"{installed}/mlruns"
    assert at(installed, name="pendulum").experiment == "pendulum"


def test_a_local_store_that_mlflow_refuses_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')

    def refuse(place):
        raise RuntimeError("The filesystem tracking backend is in maintenance mode. Please migrate.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "connect", refuse)
    Path("text.db").write_text("this is not a database" * 50)
    for uri in ("file:./mlruns", "mlruns", f"file://{tmp_path}/mlruns", "sqlite:///text.db"):
        assert cli.main([*SEARCH, "--track", "mlflow", "--tracking-uri", uri]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert re.search(r"maintenance mode\. Give|file is not a database\. Give", said), said
        assert "Give --tracking-uri sqlite:///FILE" in said
    assert sorted(Path().iterdir()) == [Path("text.db")]


@pytest.mark.parametrize("letters", ["with spaces", "50%", "is it?", "ü"])
def test_a_directory_may_have_any_letters(installed, monkeypatch, letters):
    from sqlalchemy import make_url

    (installed / letters).mkdir()
    monkeypatch.chdir(installed / letters)
    place = at(installed)
    assert place.database == installed / letters / "mlflow.db"
    assert Path(str(make_url(place.uri).database)) == place.database


def test_a_study_that_goes_on_is_tracked_where_it_was(installed, monkeypatch):
    assert place_of(None, None, None, "a study", installed, False) is None
    before = at(installed, uri="sqlite:///before.db", name="pendulum")
    before.write()
    monkeypatch.chdir("/")
    assert at(installed, track=None, is_new=False) == before
    assert place_of("none", None, None, "a study", installed, False) is None
    moved = at(installed, track=None, uri="http://tracking:5000", is_new=False)
    assert (moved.uri, moved.experiment, moved.study) == ("http://tracking:5000", "pendulum", before.study)
    assert at(installed).study != before.study, "a new study is not the one that was there"


def test_a_new_study_keeps_its_place_over_what_another_left_and_one_that_goes_on_keeps_that_of_before(installed):
    for left in (None, "{", '{"uri": null, "experiment": "x", "study": "y"}'):
        if left is not None:
            (installed / TRACKING).write_text(left)
        new = at(installed, uri="sqlite:///new.db")
        new.write_if_new()
        assert at(installed, track=None, is_new=False) == new
        at(installed, uri="sqlite:///moved.db", is_new=False).write_if_new()
        assert at(installed, track=None, is_new=False) == new


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:pa/secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:pa@secret@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:pa?secret#@host/db?charset=utf8", "mysql+pymysql://me:***@host/db?charset=utf8"),
        ("postgresql://:12/secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://me:pa@host/db?sslpassword=secret&x=1", "postgresql://me:***@host/db?sslpassword=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://me:se/secret@host:5000", "http://me:***@host:5000"),
        ("https://host/mlflow?access_token=secret", "https://host/mlflow?access_token=***"),
    ],
)
def test_a_password_is_not_kept(installed, monkeypatch, uri, shown):
    monkeypatch.setenv(places.VARIABLE, uri)
    place = at(installed)
    place.write()
    assert "secret" not in (installed / TRACKING).read_text() and place.shown == shown
    assert place.hidden(f"API request to {uri} failed") == f"API request to {shown} failed"
    assert at(installed, track=None, is_new=False) == place
    monkeypatch.delenv(places.VARIABLE)
    with pytest.raises(UsageError, match="was not stored. Set MLFLOW_TRACKING_URI again"):
        at(installed, track=None, is_new=False)
    with pytest.raises(UsageError, match="--tracking-uri holds a password, which would be stored") as refused:
        at(installed, uri=uri)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me@host:5432/db", "http://host:5000/a@b", "https://host:5000", "mysql+pymysql://me:@host/db?charset=utf8",
        "postgresql://host/db?passfile=/home/me/.pgpass", "databricks://profile", "file:///a:b@c",
    ],
)  # fmt: skip
def test_an_address_without_a_password_is_kept_as_it_is(installed, uri):
    place = at(installed, uri=uri)
    place.write()
    assert place.shown == uri and at(installed, track=None, is_new=False).uri == uri


@pytest.mark.parametrize("name", ["a:b@c", "a:b", "it is@home:8"])
def test_a_file_may_be_named_like_a_password(installed, name):
    (installed / name).mkdir()
    assert at(installed, uri=f"sqlite:///{name}/x.db").shown == f"sqlite:///{installed}/{name}/x.db"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("sqlite:///mf", "is a directory. Name a file, as sqlite:////.*/mf/mlflow.db."),
        ("sqlite:///m%66", "is a directory"),
        ("sqlite:///mf?timeout=3", "is a directory"),
        ("sqlite:///" + "x" * 300, "is longer than the system allows. Choose a shorter name."),
        ("sqlite:///" + "x" * 300 + "/mlflow.db", "is longer than the system allows"),
    ],
)
def test_what_can_be_no_database_is_refused_and_not_waited_for(installed, monkeypatch, capsys, uri, why):
    (installed / "mf").mkdir()
    monkeypatch.setattr(mlflow, "import_module", lambda name: None)
    monkeypatch.setattr(runs, "run_study", lambda *args, **more: 0)
    assert cli.main([*SEARCH, "--track", "mlflow", "--tracking-uri", uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^hyperlax: --tracking-uri {re.escape(uri)}: {why}", line)


def test_a_study_whose_name_is_too_long_for_an_experiment_needs_one_of_its_own(installed):
    assert place_of("mlflow", None, None, "x" * 500, installed, True) is not None
    with pytest.raises(
        UsageError, match=r"has 501 characters; MLflow allows 500. Give a shorter name with --tracking-exp"
    ):
        place_of("mlflow", None, None, "x" * 501, installed, True)
    place = place_of("mlflow", None, "short", "x" * 501, installed, True)
    assert place is not None and place.experiment == "short"
    place.write()
    assert place_of(None, None, None, "x" * 501, installed, False) == place


@pytest.mark.parametrize("text", ["{", "[]", '{"uri": 3, "experiment": "x", "study": "y"}', '{"uri": null}'])
def test_a_damaged_file_is_refused(installed, text):
    (installed / TRACKING).write_text(text)
    with pytest.raises(UsageError, match=TRACKING):
        at(installed, track=None, is_new=False)


def test_without_mlflow_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*SEARCH, "--track", "mlflow"]) == 2
    assert (
        capsys.readouterr().err == 'hyperlax: --track mlflow needs the package mlflow: pip install "hyperlax[mlflow]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_the_flags_reach_the_study(installed, monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(mlflow, "import_module", lambda name: None)
    monkeypatch.setattr(runs, "run_study", lambda *args, **more: given.append(more["observers"]) or 0)
    assert cli.main([*SEARCH, "--track", "mlflow", "--tracking-experiment", "pendulum"]) == 0
    assert cli.main(SEARCH) == 0
    sweep = ["sweep-hp-samples", *SEARCH[1:], "--num-samples", "4", "--track", "mlflow"]
    assert cli.main(sweep) == 0
    tracked = [any(isinstance(observer, BackgroundObserver) for observer in observers) for observers in given]
    assert tracked == [True, False, True]
    assert list(installed.iterdir()) == [], "a tracker writes nothing before the study runs"


def test_an_agent_finds_the_address_and_it_does_not_travel(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(places, "_WRITTEN_SECONDS", 0.0)
    monkeypatch.delenv(places.VARIABLE, raising=False)
    backend, root = FakeBackend(), tmp_path / "study"
    Case(tmp_path / "case", n_trials=1).start(backend)
    root.mkdir()
    secret, stored = "postgresql://me:secret@host/db", Place("http://host:5000", "e", "tag", root / TRACKING)
    led = replace(backend.config, mlflow={"uri": secret, "experiment": "7"})
    wire = Engine.of(led, {}, "cpu", 60.0)
    assert "secret" not in wire.to_json() and wire.digest == Engine.of(backend.config, {}, "cpu", 60.0).digest
    config = wire.config_for(Case(tmp_path).recipe)
    assert config.mlflow == {"experiment": "7"} and with_address(backend.config, root) == backend.config
    for place, uri, words in (
        (None, None, "was not written by a run of yours. Set MLFLOW_TRACKING_URI."),
        (stored, "http://host:5000", ""),
        (replace(stored, uri=secret), None, "holds a password and was not stored. Set MLFLOW_TRACKING_URI."),
        (replace(stored, uri=f"sqlite:///{tmp_path}/gone.db"), None, "gone.db does not exist on this machine. Track"),
    ):
        caplog.clear()
        if place:
            place.write()
        found = with_address(config, root).mlflow
        assert found == ({"uri": uri, "experiment": "7"} if uri else None)
        assert words in caplog.text and bool(words) == ("Commands get no run in MLflow: " in caplog.text)
    assert with_address(config, places.address_to_send(led)).mlflow is None
    assert with_address(config, f"sqlite:///{tmp_path}/gone.db").mlflow is None
    assert with_address(config, "http://host:5000").mlflow == {"uri": "http://host:5000", "experiment": "7"}
    replace(stored, uri=secret).write()
    monkeypatch.setenv(places.VARIABLE, secret)
    for found in (root, places.address_to_send(led)):
        assert with_address(config, found).mlflow == {"uri": secret, "experiment": "7"}
