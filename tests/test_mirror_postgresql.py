"""A mirror in PostgreSQL: where its programs are installed, a server in a temporary directory, with a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hyperlax import cli
from tests.test_function_studies import CLIMBS, STUDY, WORDS, write

pytest.importorskip("psycopg")
PASSWORD = "s3cr3t"


def _programs() -> Path | None:
    """The directory of initdb and pg_ctl, None if they are not installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, default=None) or (Path(path).parent if (path := shutil.which("initdb")) else None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Host, port and name of a database. initdb refuses to run as root, so root runs it as the user postgres."""
    programs, is_root = _programs(), os.getuid() == 0
    if programs is None or (is_root and shutil.which("su") is None):
        pytest.skip("PostgreSQL is not installed")
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="postgresql-") as directory:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        Path(directory, "password").write_text(PASSWORD)
        if is_root:
            for path in (directory, Path(directory, "password")):
                shutil.chown(path, "postgres")
        free.close()

        def run(line: str) -> None:
            words = ["su", "postgres", "-c", line] if is_root else ["sh", "-c", line]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/")

        run(f"{programs}/initdb -D {directory}/data -A scram-sha-256 -U me --pwfile {directory}/password")
        options = f"-p {port} -h 127.0.0.1 -k {directory}"
        run(f"{programs}/pg_ctl -D {directory}/data -l {directory}/log -o '{options}' -w start")
        yield f"127.0.0.1:{port}/postgres"
        run(f"{programs}/pg_ctl -D {directory}/data -m immediate -w stop")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_mirrored_resumed_and_deleted_and_the_password_is_nowhere(
    server: str, folder: Path, monkeypatch: Any, capfd: Any
) -> None:
    address = f"postgresql+psycopg://me:{PASSWORD}@{server}"
    write(CLIMBS)
    assert (
        cli.main([*WORDS.split(), "--n-trials", "2", "--slots", "2", "--mirror", address, "--log-level", "DEBUG"]) == 0
    )
    resume = ["optuna-hp-search", "--resume-from", str(STUDY), "--n-trials", "3"]
    assert cli.main(resume) == 2
    monkeypatch.setenv("HYPERLAX_MIRROR", address)
    assert cli.main(resume) == 0
    trials = optuna.load_study(study_name="made", storage=address).trials
    assert [trial.number for trial in trials] == [trial.user_attrs["trial"] for trial in trials] == [0, 1, 2]
    copy = shutil.copytree(STUDY, "copy")
    assert not any(PASSWORD.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert cli.main(["delete", str(STUDY), "--yes", "--keep-tracking"]) == 0
    assert optuna.get_all_study_names(address) == ["made"]
    assert cli.main(["delete", str(copy), "--yes"]) == 0 and optuna.get_all_study_names(address) == []
    assert PASSWORD not in "".join(capfd.readouterr())


def test_a_wrong_password_and_a_server_that_is_away_are_refused(server: str, capsys: Any) -> None:
    write(CLIMBS)
    for place, reason in ((server, "password authentication failed"), ("127.0.0.1:1/postgres", "Connection refused")):
        assert cli.main([*WORDS.split(), "--mirror", f"postgresql+psycopg://me:wr0ng@{place}"]) == 2
        said = capsys.readouterr().err
        assert f"--mirror postgresql+psycopg://me:***@{place}: cannot be used (" in said and reason in said
        assert "wr0ng" not in said and not STUDY.exists()
