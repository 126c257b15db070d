"""Plots and pages of made-up studies, checked against what went in."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyperlax.analysis import plots
from hyperlax.analysis.labels import short_names
from hyperlax.analysis.pages import write_study_pages
from hyperlax.analysis.plots import contour, draw_all, param_distributions, slice
from hyperlax.analysis.plots.base import SERIES, Plot, coordinates
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData, read_curves
from hyperlax.api import Plots
from hyperlax.errors import HyperlaxError
from hyperlax.pareto import hypervolume
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES, Lineage, StudyRecord
from tests.made_up_studies import ARGUMENTS, CRITIC_SIZES, SIZES, SPACE, study

ALL_PLOTS = [
    "learning_curves", "optimization_history", "param_importances", "parallel_coordinate", "slice", "param_distributions",
    "contour", "timeline",
]  # fmt: skip
RATE, GAMMA = "algorithm.hyperparam.actor_lr", "algorithm.hyperparam.gamma"
ACTIVATION = "algorithm.network.actor_network.pre_torso.activation"


def traces_of(record: StudyRecord) -> dict[str, list[dict[str, Any]]]:
    """The traces of every plot that is drawn, by its name."""
    return {drawn.name: json.loads(drawn.figure)["data"] for drawn in draw_all(StudyData(record)) if drawn.figure}


def test_every_page_is_written_and_loads_nothing_from_the_network(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    record = study(tmp_path, np.random.default_rng(1).normal(size=(9, 2)), objectives, failed={4})
    write_study_pages(record)
    pages = [tmp_path / "analysis_plots" / f"{name}.html" for name in [*ALL_PLOTS, "pareto_front"]]
    for path in [*pages, tmp_path / "report.html"]:
        text = path.read_text()
        assert 'class="error"' not in text
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", text)
        upload = 'showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud"], plotlyServerURL: ""'
        assert upload in text, "no chart is offered to be uploaded"
    assert (tmp_path / "analysis_plots" / "plotly.min.js").stat().st_size > 1_000_000


def test_every_plot_is_one_that_plotly_accepts(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize", "seed_spread": "minimize"}
    record = study(tmp_path, np.random.default_rng(1).normal(size=(9, 3)), objectives, failed={4})
    figures = {plot.name: plot.draw(StudyData(record)) for plot in plots.PLOTS if plot.applies(record)}
    assert {*ALL_PLOTS, "pareto_front", "hypervolume_history"} == {*figures}
    assert all(figure.data for figure in figures.values())


def test_a_super_batch_shares_the_one_plotly_script(tmp_path):
    into = tmp_path / "optuna_exec_batch_0000" / "analysis"
    write_study_pages(study(tmp_path, [1.0, 2.0]), into)
    assert sorted(path.name for path in into.iterdir()) == sorted(
        ["best_optuna_params.json", "trials.csv", *(f"{name}.html" for name in ALL_PLOTS)]
    )
    source = re.search(r'<script src="([^"]+)">', (into / "slice.html").read_text())
    assert source is not None
    assert (into / source.group(1)).resolve() == tmp_path / "analysis_plots" / "plotly.min.js"
    assert (tmp_path / "analysis_plots" / "plotly.min.js").exists()


def test_failed_trials_are_in_no_plot(tmp_path):
    record = study(tmp_path, [1.0, 2.0, 3.0], failed={1})
    drawings = traces_of(record)
    assert all(trace["x"] == [0, 2] for trace in drawings["optimization_history"])
    assert all(len(trace["y"]) == 2 for trace in drawings["slice"])
    assert all(len(axis["values"]) == 2 for axis in drawings["parallel_coordinate"][0]["dimensions"])
    assert not any("trial 1" in trace.get("name", "") for trace in drawings["learning_curves"])


def test_the_best_so_far_follows_the_direction(tmp_path):
    objectives = {"peak_performance": "maximize", "seed_spread": "minimize"}
    record = study(tmp_path, [[1, 5], [3, 7], [2, 4]], objectives)
    traces = traces_of(record)["optimization_history"]
    lines = [trace["y"] for trace in traces if trace["mode"] == "lines"]
    assert lines == [[1, 3, 3], [5, 5, 4]]


def test_learning_curves_show_the_ten_best_as_means_over_seeds(tmp_path):
    record = study(tmp_path, np.arange(14.0))
    traces = json.loads(draw_all(StudyData(record))[0].figure)["data"]
    means = {trace["name"]: trace["y"] for trace in traces if trace.get("name", "").startswith("trial ")}
    assert sorted(means) == sorted(f"trial {number}: {number}" for number in range(4, 14))
    curve = read_curves([record.trials[13]])[13]
    assert curve.returns.shape == (11, 3)
    assert means["trial 13: 13"] == curve.returns.mean(axis=1).tolist()


def test_learning_curves_show_the_aggregate_that_the_study_asked_for_and_say_so(tmp_path):
    record = replace(study(tmp_path, np.arange(2.0)), arguments={**ARGUMENTS, "aggregate": "worst"})
    write_study_pages(record)
    traces = json.loads(draw_all(StudyData(record))[0].figure)["data"]
    (line,) = (trace["y"] for trace in traces if trace.get("name", "").startswith("trial 1: "))
    assert line == read_curves([record.trials[1]])[1].returns.min(axis=1).tolist()
    assert "Line: lowest over seeds." in (tmp_path / "report.html").read_text()


def test_a_plot_that_compares_trials_is_no_section_of_a_report_on_one_trial(tmp_path):
    write_study_pages(replace(study(tmp_path, [1.0]), importances={}))
    page = (tmp_path / "report.html").read_text()
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert not {"Optimization history", "Slices", "Parallel coordinates", "Failed trials"} & {*titles}
    section = page.partition("<h2>Not shown</h2>")[2].partition("</section>")[0]
    assert "<b>Optimization history, Parallel coordinates, Slices.</b> The plot needs 2 COMPLETE trials" in section
    assert f"need at least {FEWEST_FOR_IMPORTANCES} COMPLETE trials" in section
    plots = tmp_path / "analysis_plots"
    assert "The study has 1 COMPLETE" in (plots / "param_importances.html").read_text()
    assert "two most important hyperparameters are not known" in (plots / "contour.html").read_text()


def test_the_distributions_count_every_complete_trial_and_the_best_quarter_once(tmp_path):
    record = study(tmp_path, np.random.default_rng(3).normal(size=21), failed={4})
    figure: Any = param_distributions.PLOT.draw(StudyData(record))
    for place, name in enumerate(SPACE):
        every, best = figure.data[2 * place : 2 * place + 2]
        assert (sum(every.y), sum(best.y)) == (20, 5)
        axis = coordinates(SPACE)[name]
        positions = [axis.position(trial.params[name]) for trial in record.ranked[:5]]
        for middle, width, count in zip(best.x, best.width, best.y, strict=True):
            assert sum(abs(position - middle) < width / 2 for position in positions) == count


def test_the_panels_of_a_narrow_page_are_those_of_a_wide_one_two_side_by_side(tmp_path):
    record = study(tmp_path, np.ones((9, 2)), {"peak_performance": "maximize", "seed_spread": "minimize"})
    for plot in (slice.PLOT, param_distributions.PLOT):
        layout = json.loads(plot.drawing(StudyData(record)).figure)["layout"]
        narrow = layout["meta"]["narrow"]
        axes = {key for key in layout if re.fullmatch("[xy]axis[0-9]*", key)}
        assert axes == {key for key in narrow if re.fullmatch("[xy]axis[0-9]*", key)}
        assert len({tuple(narrow[key]["domain"]) for key in axes if key.startswith("x")}) == 2
        assert len({tuple(layout[key]["domain"]) for key in axes if key.startswith("x")}) == 4


def test_a_metric_over_one_hyperparameter_has_its_own_values_on_the_axis(tmp_path):
    record = study(tmp_path, np.arange(6.0), failed={2})
    complete = [trial for trial in record.trials if trial.state == "COMPLETE"]

    def drawn(*given: str) -> Any:
        return Plots(SimpleNamespace(record=record, directory=tmp_path)).metric_vs_param(*given)  # pyright: ignore

    rate, epochs, sizes = (
        drawn("actor_lr"),
        drawn("epochs", "seed_spread"),
        drawn("actor_network.pre_torso.layer_sizes"),
    )
    assert [figure.layout.xaxis.type for figure in (rate, epochs, sizes)] == ["log", "linear", "category"]
    assert list(rate.data[0].x) == [trial.params[RATE] for trial in complete] and list(rate.data[0].y) == [
        0,
        1,
        3,
        4,
        5,
    ]
    assert list(epochs.data[0].y) == [trial.metrics["seed_spread"] for trial in complete]
    assert list(sizes.data[0].x) == [str(trial.params[SIZES]) for trial in complete]
    with pytest.raises(
        HyperlaxError, match="no hyperparameter named `lr`. Did you mean `algorithm.hyperparam.actor_lr`"
    ):
        drawn("lr")
    with pytest.raises(HyperlaxError, match=r"metric_vs_param\(\): no metric 'spread'"):
        drawn("gamma", "spread")


def test_logarithmic_axes_lie_in_powers_of_ten():
    axis = coordinates({"lr": {"type": "LogUniform", "domain": [1e-6, 1e-2]}})["lr"]
    assert axis.range() == [-6.0, -2.0]
    assert axis.ticks() == ([-6, -5, -4, -3, -2], ["1e-6", "1e-5", "1e-4", "1e-3", "0.01"])


def test_a_choice_that_is_a_list_has_its_own_place():
    axis = coordinates(SPACE)[SIZES]
    assert [axis.position(value) for value in SPACE[SIZES]["values"]] == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="not one of its choices"):
        axis.position([1, 2])


def test_short_names_tell_equal_endings_apart():
    short = short_names(SPACE)
    assert short["algorithm.hyperparam.gamma"] == "gamma"
    assert (short[SIZES], short[CRITIC_SIZES]) == ("actor_network.layer_sizes", "critic_network.layer_sizes")


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_is_the_share_of_a_grid_that_points_dominate(objectives):
    rng = np.random.default_rng(objectives)
    points = rng.integers(0, 7, size=(9, objectives)) / 6
    cells = np.stack(np.meshgrid(*[(np.arange(6) + 0.5) / 6] * objectives), axis=-1).reshape(-1, objectives)
    below = np.all(points[None] >= cells[:, None], axis=2)
    dominated = np.mean(np.any(below, axis=1))
    assert hypervolume(points, np.zeros(objectives)) == pytest.approx(dominated)
    assert hypervolume(points - 2, np.zeros(objectives)) == 0.0


def test_the_hypervolume_history_rises_to_that_of_the_front(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    record = study(tmp_path, [[1, 5], [0, 9], [4, 7], [2, 1], [3, 8]], objectives, failed={4})
    (trace,) = traces_of(record)["hypervolume_history"]
    box = (4 - 0) * (9 - 1)
    assert trace["x"] == [0, 1, 2, 3]
    assert trace["y"] == pytest.approx([1 * 4 / box, 1 * 4 / box, (4 * 2 + 1 * 2) / box, (4 * 2 + 2 * 6) / box])


def test_the_contour_is_over_the_two_most_important_hyperparameters(tmp_path):
    record = study(tmp_path, np.arange(12.0), failed={3})
    shares = dict.fromkeys(SPACE, 0.02) | {SIZES: 0.5, "algorithm.hyperparam.actor_lr": 0.4}
    record = replace(record, importances={"peak_performance": shares})
    figure: Any = contour.PLOT.draw(StudyData(record))
    areas, points = figure.data
    complete = [trial for trial in record.trials if trial.state == "COMPLETE"]
    assert list(points.y) == pytest.approx([np.log10(t.params["algorithm.hyperparam.actor_lr"]) for t in complete])
    assert list(points.x) == [SPACE[SIZES]["values"].index(trial.params[SIZES]) for trial in complete]
    assert np.shape(areas.z) == (40, 3) and len(areas.x) == 4 and len(areas.y) == 41


def test_an_area_of_the_contour_is_a_mean_of_the_trials_near_it():
    rate, kind = (coordinates(SPACE)[name] for name in (RATE, ACTIVATION))
    positions, values = np.array([[-6.0, -2.0, -2.0], [0.0, 0.0, 1.0]]), np.array([1.0, 5.0, 9.0])
    areas = contour.surface((rate, kind), positions, values)
    assert areas.shape == (2, 40)
    known = areas[np.isfinite(areas)]
    assert known.min() >= 1.0 and known.max() <= 9.0
    assert areas[0, 0] == pytest.approx(1.0, abs=0.2) and areas[0, -1] == pytest.approx(5.0, abs=0.5)
    assert areas[0, 0] < areas[0, 20] < areas[0, -1] < areas[1, -1]


def test_where_no_trial_is_near_the_contour_is_empty():
    axes = (coordinates(SPACE)[RATE], coordinates(SPACE)[GAMMA])
    positions = np.stack([np.full(500, -5.9), np.linspace(0.9, 0.999, 500)])
    areas = contour.surface(axes, positions, np.ones(500))
    assert np.all(areas[:, :2] == 1.0) and np.all(np.isnan(areas[:, 20:]))


@pytest.fixture
def toy():
    def figure(study: StudyData) -> Figure:
        drawn = Figure()
        drawn.add(kind="bar", y=[len(study.record.trials)])
        return drawn

    plot = Plot("toy", "A toy", "How many trials there are.", figure, applies=lambda record: record.lineage is None)
    plots.PLOTS.append(plot)
    yield plot
    plots.PLOTS.remove(plot)


@pytest.mark.usefixtures("toy")
def test_a_plot_is_one_row_that_every_page_and_python_read(tmp_path):
    record = study(tmp_path, [1.0, 2.0])
    into = tmp_path / "optuna_exec_batch_0000" / "analysis"
    write_study_pages(record, into)
    for path in (tmp_path / "report.html", tmp_path / "analysis_plots" / "toy.html", into / "toy.html"):
        page = path.read_text()
        assert (
            "A toy" in page and "How many trials there are." in page and '"type":"bar","y":[2]' in page.replace(" ", "")
        )
    drawn: Any = Plots(SimpleNamespace(record=record)).draw("toy")  # pyright: ignore[reportArgumentType]
    assert drawn.data[0].y == (2,) and drawn.layout.template.layout.colorway == tuple(SERIES)
    write_study_pages(replace(record, lineage=Lineage(2, {}, None, "")))
    assert not (tmp_path / "analysis_plots" / "toy.html").exists()


def test_every_file_of_plots_is_in_the_registry():
    files = {path.stem for path in Path(plots.__file__).parent.glob("*.py")} - {"__init__", "base", "figure", "panels"}
    assert [plot.name for plot in plots.PLOTS if plot.name not in files] == [] and len(plots.PLOTS) == len(files)
