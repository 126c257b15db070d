"""Files are whole or absent, and numbers read back exactly."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from hyperlax import files
from hyperlax.files import read_csv, write_csv, write_json, write_text


def test_every_float_reads_back_exactly(tmp_path):
    values = [0.1 + 0.2, 1e-300, -0.0, 5e-324, 1.7976931348623157e308, np.float64(1 / 3), np.float32(0.1)]
    write_csv(tmp_path / "a.csv", ["value"], [[value] for value in values])
    assert [float(row["value"]) for row in read_csv(tmp_path / "a.csv")] == [float(value) for value in values]


def test_cells_keep_their_kind(tmp_path):
    row = [True, np.bool_(False), 3, np.int64(4), [64, 64], np.array([1.5]), None, 'a "quoted", text\nof two lines']
    write_csv(tmp_path / "a.csv", list("abcdefgh"), [row])
    cells = list(read_csv(tmp_path / "a.csv")[0].values())
    assert cells == ["True", "False", "3", "4", "[64, 64]", "[1.5]", "", 'a "quoted", text\nof two lines']


def test_a_row_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a row has 1 cells, the header 2"):
        write_csv(tmp_path / "a.csv", ["a", "b"], [[1]])
    (tmp_path / "b.csv").write_text("a,b\n1\n")
    with pytest.raises(ValueError, match="line 2: 1 cells, the header has 2"):
        read_csv(tmp_path / "b.csv")


def test_a_cell_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not dict"):
        write_csv(tmp_path / "a.csv", ["a"], [[{}]])


def test_json_refuses_nan_and_takes_numpy(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    write_json(tmp_path / "a.json", {"sizes": np.array([64, 64]), "steps": np.int64(5)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"sizes": [64, 64], "steps": 5}


def test_missing_directories_are_made_and_no_temporary_name_stays(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.txt"]


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def die(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", die)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_before_the_write_returns(tmp_path, monkeypatch):
    done = []

    def sync(descriptor):
        done.append(os.fstat(descriptor).st_ino)

    def rename(temporary, path):
        done.append("renamed")
        renamed(temporary, path)

    renamed = os.replace
    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", rename)
    path = tmp_path / "a.txt"
    write_text(path, "text")
    assert done == [path.stat().st_ino, "renamed", tmp_path.stat().st_ino]
