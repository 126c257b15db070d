"""All tests share one persistent cache of compiled programs, and jax is set up as the engine sets it up.

Also what is no program of the engine's is compiled at LLVM's first optimization level: its time is compiling.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()

import hyperlax  # noqa: F401  (sets the XLA flag before jax is imported)

os.environ.setdefault("HYPERLAX_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))
os.environ.setdefault("XDG_STATE_HOME", str(Path(__file__).parents[1] / ".pytest_cache" / "state"))

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.study_cases import Finished

settings.register_profile("no deadline", deadline=None)  # on a busy machine any example may take long
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def _jax_as_the_engine_sets_it_up() -> None:
    from hyperlax.engine.device import prepare_jax

    prepare_jax(compilation_cache=True)


@pytest.fixture(scope="session", autouse=True)
def _optuna_reads_its_migrations_once() -> Iterator[None]:
    """Reading them takes half of the time of a small study, and most of a look at one."""
    from optuna.storages import RDBStorage

    with pytest.MonkeyPatch.context() as patch:
        manager = RDBStorage("sqlite://")._version_manager
        script = manager._create_alembic_script()
        patch.setattr(type(manager), "_create_alembic_script", lambda self: script)
        yield


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """Some 60 files of a small study are flushed to the disk one by one. Tests read them back before the machine fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _no_earlier_command_says_what_is_logged() -> None:
    """A command sets the level of this process's log, which would then hold for the tests after it."""
    logging.getLogger("hyperlax").setLevel(logging.NOTSET)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment is registered, as in a fresh process."""
    from tests.desk import forget_environments

    forget_environments(monkeypatch)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to work in as a user does, with small recipes, one for all workers.

    A finished study serves several tests and none changes it.
    """
    from tests.desk import one_at_a_time, write_small_recipes

    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "desk"
    with one_at_a_time(path):
        if not path.exists():
            write_small_recipes(path)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Makes finished studies of fakes, by their arguments."""
    from tests.study_cases import Finished

    return Finished(lambda: tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's SQLite store for all tests, each with experiments of its own: to make its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def store(mlflow_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of MLflow's store, in a working directory of its own, without MLflow's variable."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return mlflow_database
