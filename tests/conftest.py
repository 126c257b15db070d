"""All tests share one persistent cache of compiled programs, and jax is set up as the engine sets it up.

Programs are compiled at LLVM's first optimization level: the tests' shapes are tiny and their time is compiling.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()

import hyperlax  # noqa: F401  (sets the XLA flag before jax is imported)

os.environ.setdefault("HYPERLAX_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))

import pytest


@pytest.fixture(scope="session", autouse=True)
def _jax_as_the_engine_sets_it_up() -> None:
    from hyperlax.engine.device import prepare_jax

    prepare_jax(compilation_cache=True)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to work in as a user does, with small recipes; a finished study serves several tests and none changes it."""
    from tests.desk import write_small_recipes

    path = tmp_path_factory.mktemp("desk")
    write_small_recipes(path)
    return path


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
