"""Files are whole or absent, and numbers read back exactly."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from hyperlax import files
from hyperlax.errors import UsageError
from hyperlax.files import decode, durable_together, read_csv, write_csv, write_json, write_text


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
    with pytest.raises(ValueError, match="a row has 1 cell, the header 2"):
        write_csv(tmp_path / "a.csv", ["a", "b"], [[1]])
    (tmp_path / "b.csv").write_text("a,b\n1\n")
    with pytest.raises(ValueError, match="line 2: 1 cell, the header has 2"):
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


def test_files_that_become_durable_together_are_on_disk_when_the_block_ends(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    with durable_together():
        for name in "ab":
            write_text(tmp_path / name, "text")
        assert done == []
    assert done == [path.stat().st_ino for path in (tmp_path / "a", tmp_path / "b", tmp_path)]
    write_text(tmp_path / "c", "text", is_durable=False)
    assert len(done) == 3


@dataclass(frozen=True)
class Saved:
    name: str
    sizes: tuple[int, ...]
    rate: float | None = None


def test_json_is_read_into_a_type(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"name": "a", "sizes": [64, 32], "rate": 1, "more": true}\n\n')
    assert decode(path, Saved) == Saved("a", (64, 32), 1.0)
    assert decode(path, dict[str, object])["sizes"] == [64, 32]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file or directory)."),
        ("", "cannot be read as JSON: Expecting value: line 1 column 1 (char 0)."),
        ('{"name": NaN}', "cannot be read as JSON: NaN is not a number of JSON."),
        ('{"a": 1, "b": 2, "a": 3}', "cannot be read as JSON: `a` is there twice."),
        ("[" * 100_000, "cannot be read as JSON: maximum recursion depth exceeded"),
        ("1" * 5000, "cannot be read as JSON: Exceeds the limit"),
        ("[]", "cannot be read (Expected `object`, got `array`). Put it back."),
        ('{"name": "a"}', "cannot be read (Object missing required field `sizes`). Put it back."),
        (
            '{"name": "a", "sizes": [true]}',
            "cannot be read (Expected `int`, got `bool` - at `$.sizes[0]`). Put it back.",
        ),
    ],
)
def test_a_damaged_json_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as refused:
        decode(path, Saved, "Put it back.")
    assert str(refused.value).startswith(f"{path}: {message}") and "\n" not in str(refused.value)
