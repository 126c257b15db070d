"""The report's own words and measures: how sure the winner is, what it cost, how large the page is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.analysis.certainty import how_certain
from hyperlax.analysis.pages import write_study_pages
from hyperlax.analysis.plots import timeline
from hyperlax.analysis.study_data import BEST_DRAWN, MOST_DRAWN, StudyData
from hyperlax.config.option import PROCESSES_ONLY, options_of
from hyperlax.config.options import SearchOptions
from hyperlax.config.settling import settled
from hyperlax.errors import format_number
from hyperlax.files import read_csv, write_json
from hyperlax.recipe import load
from hyperlax.study.batch_files import UNKNOWN_AFTER_AN_ERROR
from hyperlax.study.record import Confirmation, Confirmed, StudyRecord
from hyperlax.trial import LaneInterval
from tests.made_up_studies import ARGUMENTS, large_study, study, write_timeline

LARGEST = 6_000_000


@pytest.mark.parametrize("objectives", [1, 3])
def test_the_report_of_500_trials_is_not_larger_than_6_mb(tmp_path, objectives):
    write_study_pages(large_study(tmp_path, 500, objectives))
    page = tmp_path / "report.html"
    assert 4_000_000 < page.stat().st_size <= LARGEST
    assert 'class="error"' not in page.read_text()


def test_the_report_of_5000_trials_is_not_larger_than_8_mb(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.made_up_studies.write_batches", lambda *parts: None)  # whose plots are as large as ever
    write_study_pages(large_study(tmp_path, 5000, 3))
    assert 4_000_000 < (tmp_path / "report.html").stat().st_size <= 8_000_000


def test_of_too_many_trials_the_best_and_some_others_are_drawn_and_the_captions_say_so(tmp_path):
    record = large_study(tmp_path, 1200)
    write_study_pages(record)
    page, best = (tmp_path / "report.html").read_text(), {trial.number for trial in record.ranked[:BEST_DRAWN]}
    figures = figures_of(page)
    history, line = next(
        figure["data"]
        for figure in figures
        if [trace.get("name") for trace in figure["data"]] == ["trial", "best so far"]
    )
    assert len(history["x"]) == MOST_DRAWN and best < set(history["x"])
    assert len(line["x"]) == 1197 and max(history["y"]) == line["y"][-1]
    (lines,) = (trace for figure in figures for trace in figure["data"] if trace["type"] == "parcoords")
    assert all(len(axis["values"]) == MOST_DRAWN for axis in lines["dimensions"])
    assert page.count("Of 1,197 COMPLETE trials 1,000 are drawn: the 100 best, and others evenly spaced.") == 4
    table = page.partition("<h2>The 1,000 best of 1,200 trials</h2>")[2].partition("</section>")[0]
    shown = [int(number) for number in re.findall(r'/batch_\d+/">([\d,]+)</a>', table.replace(",", ""))]
    assert shown == [trial.number for trial in record.ranked[:MOST_DRAWN]]
    assert len(read_csv(tmp_path / "trials.csv")) == 1200


def test_bars_of_a_large_study_are_joined_where_nothing_is_between_them(tmp_path):
    record = study(tmp_path, np.arange(1200.0), failed={601})
    lane = sorted(record.trials, key=lambda trial: trial.number)
    for directory in {trial.batch_directory for trial in lane}:
        mates = [trial for trial in lane if trial.batch_directory == directory]
        begins = [trial.number + 50.0 * (trial.number >= 300) for trial in mates]
        write_timeline(directory, mates, [LaneInterval(0, 0, 0, 1.7e9, began, began + 1) for began in begins])
    bars = json.loads(timeline.PLOT.drawing(StudyData(record)).figure)["data"]
    spans = {(x, x + length) for trace in bars for x, length in zip(trace["base"], trace["x"], strict=True)}
    texts = [text for trace in bars for text in trace["hovertext"]]
    assert len(spans) < 700 and sum(end - begin for begin, end in spans) == 1200
    assert not any(begin < 325 < end for begin, end in spans), "a lane that waits is seen waiting"
    assert (651.0, 652.0) in spans and any("trial 601</b>: FAIL" in text for text in texts)
    assert any(text.startswith("<b>2 trials, 0 to 1</b>: COMPLETE") for text in texts)


def test_what_points_say_is_on_the_page_once(tmp_path):
    """In the separate plots it stays where the points are."""
    write_study_pages(study(tmp_path, np.arange(9.0)))
    page = (tmp_path / "report.html").read_text()
    assert page.count("trial 3\\u003c/b>\\npeak_performance") == 1
    assert "trial 3\\u003c" in (tmp_path / "analysis_plots" / "contour.html").read_text()
    said = shared_of(page)["texts"]
    traces = [trace for figure in figures_of(page) for trace in figure["data"] if "hovertext" in trace]
    history = next(trace for trace in traces if trace.get("name") == "trial")
    assert [said[place].split("\n")[0] for place in history["hovertext"]] == [f"<b>trial {n}</b>" for n in range(9)]


def test_long_lists_are_on_the_page_once_and_come_back_as_they_were(tmp_path):
    record = study(tmp_path, np.arange(40.0) / 7)
    write_study_pages(record)
    page = (tmp_path / "report.html").read_text()
    numbers = [float(f"{value:.7g}") for value in np.arange(40.0) / 7]
    as_text = json.dumps(numbers, separators=(",", ":"))
    assert page.count(as_text) == 1 and numbers in shared_of(page)["lists"]
    slices = next(figure for figure in figures_of(page) if len(figure["data"]) == len(record.space) > 1)
    assert all(trace["y"] == numbers for trace in slices["data"])
    assert [trace["marker"]["color"] for trace in slices["data"]] == [list(range(40))] * len(record.space)


def shared_of(page: str) -> dict[str, list]:
    return json.loads(re.findall(r'id="shared">(.*?)</script>', page)[0])


def figures_of(page: str) -> list[dict[str, Any]]:
    """The figures on a page, as its script revives them."""
    lists = shared_of(page)["lists"]

    def revived(value: dict[str, Any]) -> Any:
        return lists[value["shared"]] if "shared" in value else value

    data = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(figure, object_hook=revived) for figure in data]


def test_that_the_recipes_own_configuration_wins_is_said(tmp_path):
    record = study(tmp_path, [3.0, 20.0, 1.0])
    for winner, is_said in ((1, True), (0, False)):
        write_study_pages(replace(record, base={**record.trials[winner].params, "algorithm.hyperparam.fixed": 3}))
        assert ("the recipe&#39;s default configuration" in (tmp_path / "report.html").read_text()) == is_said


def words(record: Any) -> str:
    return " ".join(how_certain(record)[0])


def test_without_confirmation_the_winner_is_said_to_be_lucky_in_part(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0, 4.0], failed={3})
    said, command = how_certain(replace(record, arguments={**ARGUMENTS, "num_seeds": 1}))
    assert said[0].startswith("It is the best of 3 trials on one seed. ")
    assert "probably too good" in said[0] and said[1] == "Next comes trial 0 with 3."
    assert command == f"hyperlax optuna-hp-search --resume-from {tmp_path} --confirm-top 3"
    write_study_pages(record)
    page = (tmp_path / "report.html").read_text()
    assert "How sure is that?" in page and command in page


def test_what_finds_out_more_follows_from_what_a_study_is_and_not_from_the_command_that_made_it(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0])
    of_a_file = replace(record, command="hyperlax run-study my_optuna_studies/study.yaml")
    said, command = how_certain(of_a_file)
    assert said[-1].endswith("This finds out:")
    assert command == f"hyperlax optuna-hp-search --resume-from {tmp_path} --confirm-top 3"
    for own in ({"sampling_method": "sobol"}, {"population_size": 4}):
        said, command = how_certain(replace(record, arguments={**ARGUMENTS, **own}))
        assert command == "" and "This finds out" not in " ".join(said)


def test_without_confirmation_the_gain_over_the_default_is_that_of_the_search_and_says_so(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.25])
    record = replace(record, base=dict(record.trials[1].params))
    assert "The default configuration, trial 1, has 1: the winner is better by 19.25 on the search's own" in words(
        record
    )
    write_study_pages(record)
    assert (
        "<b>+19.25</b><span>gain over the default in the search, not confirmed"
        in (tmp_path / "report.html").read_text()
    )
    fewer = replace(record, objectives={"peak_performance": "minimize"}, base=dict(record.trials[2].params))
    assert "the winner is better by 19.25" in words(fewer)
    assert "The default" not in words(replace(record, base={}))


def test_what_was_run_begins_with_what_differs_from_the_defaults(tmp_path):
    options = settled(
        SearchOptions, [{"env_config": "gymnax.pendulum", "n_trials": 7, "pruner": "asha"}], load("sac_mlp")
    )
    record = replace(study(tmp_path, [3.0, 1.0]), arguments=options.to_json())
    write_study_pages(record)
    section = (tmp_path / "report.html").read_text().partition("<h2>What was run</h2>")[2]
    first, _, rest = section.partition("<details>")
    rows = [
        [re.sub("<.*?>", "", cell) for cell in re.findall("<td[^>]*>(.*?)</td>", row)] for row in first.split("<tr>")
    ]
    assert rows[2:4] == [["n_trials", "7", "100"], ["pruner", "asha", "none"]]
    assert ["total_timesteps", format_number(options.total_timesteps), "by --run-length-modifier"] in rows
    shown = {row[0] for row in rows if len(row) == 3} | set(
        re.findall(r'class="long">([a-z_]+)<', rest.replace("<wbr>", ""))
    )
    assert shown == {
        option.key
        for name, option in options_of(SearchOptions).items()
        if option.is_offered and not option.has(PROCESSES_ONLY)
    }


def test_the_spread_over_seeds_says_how_many_others_are_as_close(tmp_path):
    record = study(tmp_path, [3.0, 19.0, 20.0, 18.0])
    best = record.trials[2]
    record.trials[2] = replace(best, metrics={**best.metrics, "seed_spread": 1.5})
    assert "best of 4 trials on 3 seeds." in words(record)
    assert "standard deviation of 1.5. Other trials within that distance of the best: 1 of 3." in words(record)


def test_a_confirmed_winner_is_said_to_be_what_new_seeds_say(tmp_path):
    seeds = {"peak_performance": [10.0, 11.0, 12.0]}
    confirmed = Confirmed(trial=2, is_default=False, claimed=20.0, state="COMPLETE", reason="", per_seed=seeds)
    confirmation = Confirmation("peak_performance", "maximize", "peak_performance", 3, [confirmed])
    record = replace(study(tmp_path, [3.0, 1.0, 20.0]), confirmation=confirmation)
    said, command = how_certain(record)
    assert said[0].startswith("On 3 new seeds, trial 2 has a mean peak_performance of 11")
    assert "The search had claimed 20, which did not hold" in said[0] and command == ""


def test_a_winner_that_another_trial_beats_on_new_seeds_is_still_reported_first(tmp_path):
    winner, other = [
        Confirmed(trial, False, claimed, "COMPLETE", "", {"peak_performance": seeds})
        for trial, claimed, seeds in ((2, 20.0, [5.0, 5.0]), (0, 3.0, [9.0, 9.0]))
    ]
    confirmation = Confirmation("peak_performance", "maximize", "peak_performance", 2, [winner, other], winner=2)
    sentences, command = how_certain(replace(study(tmp_path, [3.0, 1.0, 20.0]), confirmation=confirmation))
    said = " ".join(sentences)
    assert said.startswith(
        "On 2 new seeds, trial 2 has a mean peak_performance of 5 [5, 5]. The search had claimed 20,"
    )
    assert "Take trial 0." in said and command == f"hyperlax train --from {tmp_path} --trial 0"
    assert "trial 0 is the best of 2 with a mean peak_performance of 9" in said


def test_a_front_is_said_to_be_lucky_in_part_and_the_number_of_parameters_is_not(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    said, _ = how_certain(study(tmp_path / "two", [[1, 5], [2, 9]], objectives))
    assert said[0].startswith("The front is that of 2 trials on 3 seeds.") and not any(
        "Next comes" in one for one in said
    )
    assert how_certain(study(tmp_path / "one", [5.0, 9.0], {"num_parameters": "minimize"})) == ([], "")


def test_the_report_says_how_long_it_took_and_what_was_spent_on_what(tmp_path):
    write_study_pages(study(tmp_path, np.arange(9.0)))
    _, _, section = (tmp_path / "report.html").read_text().partition("<h2>Cost</h2>")
    rows = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", section.partition("</section>")[0])
    cost = dict(rows)
    assert cost["from the first lane&#39;s start to the last one&#39;s end (s)"] == "5.5"
    assert cost["wall time, from each start of the command to its last result (s)"] == "10", "a second before 0 to 9"
    assert (cost["compiling (s)"], cost["training (s)"], cost["evaluating (s)"]) == ("10.5", "6", "1.5")


def break_batches(record: StudyRecord, count: int) -> None:
    """Have the first batches say what those say that raised."""
    for directory in sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})[:count]:
        timing = {**dict.fromkeys(UNKNOWN_AFTER_AN_ERROR), "wall_seconds": 6.25, "error": "no luck", "traceback": []}
        write_json(directory / "timing.json", timing)


def cost_of(directory: Path) -> str:
    """The report's section on the cost."""
    return (directory / "report.html").read_text().partition("<h2>Cost</h2>")[2].partition("</section>")[0]


def test_what_no_batch_knows_of_the_cost_is_left_empty(tmp_path):
    record = study(tmp_path, np.arange(9.0))
    break_batches(record, 3)
    write_study_pages(record)
    section, page = cost_of(tmp_path), (tmp_path / "report.html").read_text()
    for empty in ("training (s)", "compiling (s)", "evaluating (s)", "environment steps per second of training"):
        assert f"<td>{empty}</td><td></td>" in re.sub(r"<td[^>]*>", "<td>", section)
    assert "18.75" in section and "without 3 batches that failed" in section
    tiles = page.partition('<div class="tiles">')[2].partition("<section>")[0]
    assert "training second" not in tiles and "environment steps" not in tiles
    cost = StudyData(record).cost
    assert (cost.steps, cost.train_seconds, cost.steps_per_train_second, cost.broken) == (None, None, None, 3)


def test_what_some_batches_know_of_the_cost_is_summed_without_the_others(tmp_path):
    record = study(tmp_path, np.arange(9.0))
    break_batches(record, 1)
    write_study_pages(record)
    assert "without 1 batch that failed" in cost_of(tmp_path)
    cost = StudyData(record).cost
    assert (cost.steps, cost.train_seconds, cost.steps_per_train_second, cost.broken) == (480000, 4.0, 120000.0, 1)


def test_pruned_trials_count_among_those_that_the_winner_is_the_best_of(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0], failed={1})
    record.trials[1] = replace(record.trials[1], state="PRUNED")
    assert words(record).startswith("It is the best of 3 trials on 3 seeds, 1 of them pruned.")


def test_trials_that_are_as_good_as_the_winner_are_told(tmp_path):
    assert "Trial 3 has the same value, as does 1 other." in words(study(tmp_path, [3.0, 500.0, 20.0, 500.0, 500.0]))
