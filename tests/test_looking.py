"""Looking at studies that are there: what is listed, shown, written again, exported and deleted."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from hyperlax.analysis.tables import EXTENSIONS, default_path
from hyperlax.analysis.terminal import PLAIN, sparkline, study_text
from hyperlax.cli import main
from hyperlax.errors import format_number
from hyperlax.files import read_csv
from hyperlax.study.lock import only_one_process
from hyperlax.study.view import load_study
from tests.fake_backend import FakeBackend
from tests.study_cases import FINITE, TWO, Case
from tests.test_population_runs import Run

LONG = "x" * 300


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """12 trials, of which trial 5 has failed."""
    case = Case(tmp_path_factory.mktemp("studies"), n_trials=12)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    return case


def test_a_study_opens_as_the_analysis_got_it(case, tmp_path):
    record, _ = case.pages[-1]
    assert load_study(case.directory, "show").record == record


def test_a_study_of_several_objectives_opens_too(tmp_path, capsys):
    case = Case(tmp_path, **TWO, n_trials=8)
    case.start()
    record, _ = case.pages[-1]
    assert load_study(case.directory, "show").record == record
    capsys.readouterr()
    assert main(["show", str(case.directory)]) == 0
    shown = capsys.readouterr().out
    assert "Best: Pareto front of " in shown and "peak_performance  num_parameters  learning curve" in shown


def test_a_population_opens_with_its_lineage(tmp_path, capsys):
    run = Run(tmp_path)
    assert run.start() == 0
    opened = load_study(run.directory, "show")
    assert (opened.record, opened.state) == (run.records[-1], "finished")
    assert main(["agent", str(run.directory)]) == 2
    assert capsys.readouterr().err.endswith(f"To continue it there:\n  hyperlax pbt --resume-from {run.directory}\n")


def test_studies_are_listed_with_how_far_they_are(case, tmp_path, capsys):
    stopped = Case(case.root / "more", n_trials=8)
    stopped.start(timeout=1e-9)
    capsys.readouterr()
    assert main(["list", str(case.root)]) == 0
    header, *lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert header[0] == "study"
    assert [[cell.strip() for cell in line if cell] for line in lines][1][:3] == [
        "sac_test/gymnax_pendulum", "finished", "12/12 (1 failed)",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[0] if cell] == [
        "more/sac_test/gymnax_pendulum", "stopped", "0/8", "nothing yet",
    ]  # fmt: skip


def reads(monkeypatch, words: list[str]) -> tuple[int, int]:
    """The queries and the opened files of a command that looks."""
    queries, files, connect, opened = [], [], sqlite3.connect, os.open

    def traced(*parts: Any, **more: Any) -> sqlite3.Connection:
        connection = connect(*parts, **more)
        connection.set_trace_callback(queries.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        patch.setattr(os, "open", lambda path, *parts, **more: files.append(path) or opened(path, *parts, **more))
        assert main(words) == 0
    return len(queries), len(files)


def test_a_look_at_ten_times_the_trials_takes_as_many_queries_and_files(finished, tmp_path, monkeypatch, capsys):
    width = {"optuna_study_batch_size": 10, "runner_hparam_batch_size": 10}
    few, many = (finished(tmp_path / str(size), n_trials=size, **width) for size in (10, 100))
    assert reads(monkeypatch, ["list", str(few.root)]) == reads(monkeypatch, ["list", str(many.root)])
    assert reads(monkeypatch, ["show", str(few.directory), "--top", "1"]) == reads(
        monkeypatch, ["show", str(many.directory), "--top", "1"]
    )
    first, second = (reads(monkeypatch, ["show", str(one.directory), "--top", "10"]) for one in (few, many))
    assert first[0] == second[0] and second[1] - first[1] < 10, "a file with curves is read once"


@pytest.mark.parametrize("inside", ["mlartifacts/1/2/artifacts", "mlruns/1/2/artifacts", ".trash", "deep/.git/x"])
def test_copies_of_a_study_json_in_other_programs_directories_are_not_listed(case, tmp_path, capsys, inside):
    (tmp_path / inside).mkdir(parents=True)
    shutil.copy(case.directory / "study.json", tmp_path / inside)
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No study below {tmp_path}.\n"


def test_a_root_that_is_hidden_is_listed_where_it_is_named(case, tmp_path, capsys):
    shutil.copytree(case.directory, tmp_path / ".studies")
    capsys.readouterr()
    assert main(["list", str(tmp_path / ".studies")]) == 0
    assert "12/12" in capsys.readouterr().out


@pytest.mark.parametrize("more", [{}, {"pruner": "median", "pruner_min_segments": 1}], ids=["plain", "pruned"])
def test_a_study_whose_space_is_used_up_is_finished(tmp_path, more):
    case = Case(tmp_path, FINITE, n_trials=100, **more)
    assert case.start(timeout=1e-9) == 0
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.record.finished, opened.record.total) == ("stopped", 0, 15)
    assert case.resume() == 0
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.record.finished, opened.record.total) == ("finished", 15, 15)


def test_a_sweep_may_repeat_a_configuration_of_a_finite_space(tmp_path):
    case = Case(tmp_path, FINITE, n_trials=4)
    case.start()
    stored = case.stored()
    stored["arguments"] |= {"sampling_method": "random", "num_levels": 5, "n_trials": 20}
    (case.directory / "study.json").write_text(json.dumps(stored))
    opened = load_study(case.directory, "list")
    assert (opened.state, opened.record.total) == ("stopped", 20)


def test_a_study_that_a_process_holds_is_running_and_can_be_looked_at(case):
    with only_one_process(case.directory):
        assert load_study(case.directory, "show").state == "running"
    assert load_study(case.directory, "show").state == "finished"


def test_a_finished_search_that_a_process_holds_is_being_confirmed(case, tmp_path):
    case = case.copy(tmp_path / "copy")
    stored = case.stored()
    stored["arguments"]["confirm_top"] = 1
    (case.directory / "study.json").write_text(json.dumps(stored))
    with only_one_process(case.directory):
        assert load_study(case.directory, "show").state == "confirming"
    assert load_study(case.directory, "show").state == "finished"


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path, capsys):
    case = Case(tmp_path / "good", n_trials=8)
    case.start()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "study.json").write_text("{")
    capsys.readouterr()
    assert main(["list", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "good/sac_test/gymnax_pendulum" in said.out and "bad" not in said.out
    assert str(tmp_path / "bad" / "study.json") in said.err


def test_the_best_are_shown_with_their_curves_on_one_scale(case, capsys):
    capsys.readouterr()
    assert main(["show", str(case.directory), "--top", "3"]) == 0
    shown = capsys.readouterr().out.splitlines()
    best = sorted(
        (trial for trial in case.study().trials if trial.values), key=lambda trial: (-trial.values[0], trial.number)
    )
    assert [int(line.split()[0]) for line in shown[-3:]] == [trial.number for trial in best[:3]]
    assert shown[1].startswith("finished, 12/12 trials (1 failed); maximize peak_performance")
    points = len(read_csv(case.batch_of(best[0].number) / "curves.csv")) // 8
    assert all(len(line.split()[-1]) >= points for line in shown[-3:])


def test_a_value_is_not_shown_as_a_curve(case, tmp_path, capsys):
    record = load_study(case.copy(tmp_path / "copy").directory, "show").record
    assert "learning curve" in study_text(record, "finished", 12, 3)
    for path in record.directory.rglob("curves.csv"):
        header, *rows = path.read_text().splitlines()
        kept = [row for row in rows if row.split(",")[2] == rows[0].split(",")[2]]
        path.write_text("\n".join([header, *kept, ""]))
    shown = study_text(load_study(record.directory, "show").record, "finished", 12, 3)
    assert "learning curve" not in shown and len(shown.splitlines()[-1].split()) == 2


def test_one_trial_is_shown_whole(case, capsys):
    capsys.readouterr()
    assert main(["show", str(case.directory), "2"]) == 0
    shown, trial = capsys.readouterr().out, case.study().trials[2]
    assert shown.startswith("Trial 2 of test_study: COMPLETE")
    assert format_number(trial.values[0]) in shown and "gamma" in shown
    assert str(case.directory / trial.user_attrs["batch"]) in shown
    assert main(["show", str(case.directory), "5"]) == 0
    assert "FAIL (" in capsys.readouterr().out


def test_a_study_is_watched_until_nobody_runs_it(case, capsys, monkeypatch):
    looks = []

    def look(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            holding.close()

    monkeypatch.setattr("hyperlax.cli.inspecting.time.sleep", look)
    holding = ExitStack()
    holding.enter_context(only_one_process(case.directory))
    capsys.readouterr()
    assert main(["watch", str(case.directory), "--seconds", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert looks == [5.0] * 3
    assert [line.split()[-1] for line in lines] == ["running", "finished"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["watch", str(case.directory), "--top", "2"]) == 0
    assert "learning curve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["watch", "{study}", "--seconds", "0"], "--seconds needs a number from 0.1 to 3600, got 0."),
        (["watch", "{nowhere}"], "is not a directory"),
        (["show", "{study}", "99"], "TRIAL 99: {study} has no such trial. Its trials are 0 to 11."),
        (["show", "{study}", "--top", "0"], "--top needs a whole number of at least 1, got 0."),
        (["show", "{nowhere}"], "is not a directory. Give the directory of a study"),
        (["list", "{nowhere}"], "is not a directory"),
        (["export", "{study}", "--output", "{nowhere}/trials.csv"], "is not a directory. Make it"),
        (["export", "{study}", "--output", "{study}/study.json"], "exists already"),
        (["delete", "{nowhere}", "--yes"], "is not a directory"),
        (["compare", "{study}", "{study}"], "compare needs two different directories"),
        (["compare", "{study}", "{study}/"], "compare needs two different directories"),
        (["compare", "{study}", "{study}/../gymnax_pendulum"], "compare needs two different directories"),
        (
            ["compare", "{study}", "{other}", "{study}/"],
            "compare {study}/: this study is named more than once. Name each once.",
        ),
        (["compare", "{study}", "{nowhere}"], "is not a directory"),
        (["delete", "{study}"], "cannot ask for confirmation without a terminal. Add --yes"),
        (["list", ""], "list '': is not a directory. Give the --output-root of studies."),
        (["list", " "], "list ' ': is not a directory"),
        (["list", LONG], f"list {LONG}: is longer than the system allows. Give the --output-root"),
        (["export", "{study}", "--output", ""], "--output '': names no file. Name one, or leave --output out."),
        (
            ["export", "{study}", "--output", LONG],
            f"{LONG}: is longer than the system allows. Choose a shorter name with",
        ),
        (["compare", "{study}", "{other}", "--output", ""], "--output '': names no file"),
        (["compare", "{study}", "{other}", "--output", LONG], f"{LONG}: is longer than the system allows"),
        (["compare", "{study}", LONG], f"compare {LONG}: is longer than the system allows"),
    ],
)
def test_what_cannot_be_done_is_one_line(case, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    names = {"study": case.directory, "nowhere": tmp_path / "nowhere", "other": tmp_path}
    assert main([word.format(**names) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(**names) in line


NAMED = [
    "show", "watch", "report", "export", "delete --yes", "dashboard", "play", "repair", "invalidate 1",
    "optuna-hp-search --resume-from", "sweep-hp-samples --resume-from", "pbt --resume-from", "train --from",
]  # fmt: skip


LONG_ONES = {"name": LONG, "path": "/".join(["x" * 100] * 45), "file": "x" * 251 + ".json"}


@pytest.mark.parametrize(("words", "kind"), [*((words, "path") for words in NAMED), ("show", "name"), ("show", "file")])
def test_a_directory_with_a_name_that_is_too_long_is_one_line(tmp_path, monkeypatch, capsys, words, kind):
    monkeypatch.chdir(tmp_path)
    given, (command, *more) = LONG_ONES[kind], words.split()
    places = [*more, given] if words.endswith(("from", "yes")) else [given, *more]
    assert main([command, *places]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert given in line and (
        "is longer than the system allows. Give the directory of a study" in line or "File name" in line
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("team/x", "team_x"),
        ("../x", ".._x"),
        ("/etc/x", "_etc_x"),
        ("C:\\x", "C__x"),
        ("x" * 300, "x" * 200),
        ("ä" * 300, "ä" * 100),
        ("x" + "ä" * 300, "x" + "ä" * 99),
        ("the best, of 3.5", "the best, of 3.5"),
    ],
)
def test_an_export_stays_in_the_working_directory_whatever_the_studys_name(case, name, stem):
    record = replace(case.pages[-1][0], study_name=name)
    assert [default_path(record, kind) for kind in EXTENSIONS] == [f"{stem}.{end}" for end in EXTENSIONS.values()]


@pytest.mark.parametrize("kind", ["csv", "json", "optuna-journal"])
def test_an_export_may_have_the_longest_name_that_there_is(case, tmp_path, kind):
    assert main(["export", str(case.directory), "--format", kind, "--output", str(tmp_path / ("x" * 255))]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_report_is_written_again_from_the_directory_alone(case, capsys):
    (case.directory / "report.html").unlink(missing_ok=True)
    assert main(["report", str(case.directory)]) == 0
    assert f"Report: {case.directory / 'report.html'}" in capsys.readouterr().out
    assert "test_study" in (case.directory / "report.html").read_text()
    assert len(read_csv(case.directory / "trials.csv")) == 12


def test_studies_are_compared_on_one_page(case, tmp_path, capsys):
    other = Case(tmp_path, n_trials=8, seed=5)
    other.start()
    directories = [str(case.directory), str(other.directory)]
    assert main(["compare", *directories, "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    for study in (case.study(), other.study()):
        assert f'title="{study.best_value!r}"' in page
    assert "https://" not in page.partition("<script>")[0]
    assert main(["compare", *directories, "--output", str(tmp_path / "page.html")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["compare", *directories, "--output", str(tmp_path / "page.html"), "--force"]) == 0
    objectives: Any = {"objective_names": ("num_parameters",), "objective_directions": ("minimize",)}
    different = Case(tmp_path / "different", n_trials=8, **objectives)
    different.start()
    capsys.readouterr()
    assert main(["compare", str(case.directory), str(different.directory), "--output", str(tmp_path / "x.html")]) == 2
    assert "has the first objective num_parameters (minimize)" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    "words",
    [
        *(["export", "{study}", "--format", kind] for kind in ("csv", "json", "optuna-journal")),
        ["compare", "{study}", "{other}"],
        ["generate-hp-samples", "--algo-and-network-config", "sac_mlp", "--num-samples", "3"],
    ],
    ids=lambda words: "-".join(words[::3]),
)
def test_an_output_of_a_hyphen_is_printed_and_nothing_else(case, tmp_path, monkeypatch, capsysbinary, words):
    other = shutil.copytree(case.directory, tmp_path / "other")
    words = [word.format(study=case.directory, other=other) for word in words]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*words, "--output", "x"]) == 0
    capsysbinary.readouterr()
    assert main([*words, "--output", "-"]) == 0
    printed = capsysbinary.readouterr().out
    if words[0] == "compare":
        assert printed.startswith(b"<!DOCTYPE html>") and printed.count(b"<html") == 1
    else:  # a journal has the id of its writer
        assert re.sub(rb'"worker_id": ?"[^"]*"', b"", printed) == re.sub(
            rb'"worker_id": ?"[^"]*"', b"", Path("x").read_bytes()
        )
    assert [path.name for path in Path().iterdir()] == ["x"]


@pytest.mark.usefixtures("elsewhere")
def test_exported_trials_read_back(case):
    trials, kinds = case.study().trials, ("csv", "json", "optuna-journal")
    assert [main(["export", str(case.directory), "--format", kind]) for kind in kinds] == [0, 0, 0]
    table, text, log = (Path(default_path(case.pages[-1][0], kind)) for kind in kinds)
    rows = read_csv(table)
    assert [row["objective.peak_performance"] for row in rows] == [
        repr(t.values[0]) if t.values else "" for t in trials
    ]
    entries = json.loads(text.read_text())
    assert [entry["values"].get("peak_performance") for entry in entries] == [t.values and t.values[0] for t in trials]
    backend = JournalFileBackend(str(log))
    copied = optuna.load_study(study_name="test_study", storage=optuna.storages.JournalStorage(backend))
    assert [(t.params, t.values, t.state) for t in copied.trials] == [(t.params, t.values, t.state) for t in trials]


def test_a_parquet_file_holds_the_columns_of_trials_csv(case, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["export", str(case.directory), "--format", "parquet", "--output", str(tmp_path / "x.parquet")]) == 0
    table = parquet.read_table(tmp_path / "x.parquet")
    assert main(["export", str(case.directory), "--output", str(tmp_path / "x.csv")]) == 0
    assert table.column_names == list(read_csv(tmp_path / "x.csv")[0])
    assert table.num_rows == 12


def test_without_pyarrow_parquet_is_refused_with_the_line_to_install_it(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", str(case.directory), "--format", "parquet", "--output", str(tmp_path / "x")]) == 2
    assert 'pip install "hyperlax[parquet]"' in capsys.readouterr().err


def test_a_sparkline_covers_its_range_and_leaves_out_what_is_not_finite():
    values = [0.0, 1.0, np.nan, 7.99, 8.0, 9.0, -1.0]
    assert sparkline(values, 0.0, 8.0) == "▁▂ █" + "██▁"
    assert sparkline([3.0, 3.0], 3.0, 3.0) == "▁▁"
    assert sparkline([0.0, 8.0], 0.0, 8.0, PLAIN) == "_#"
