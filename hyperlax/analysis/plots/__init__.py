"""The plots of a study, each in its own file, drawn so that one that fails costs no other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from hyperlax.analysis.labels import AGGREGATE_WORDS
from hyperlax.analysis.lost import LostFile, warn_once
from hyperlax.analysis.plots.confirmation import confirmation_plot
from hyperlax.analysis.plots.contour import contour
from hyperlax.analysis.plots.hypervolume_history import hypervolume_history
from hyperlax.analysis.plots.learning_curves import learning_curves
from hyperlax.analysis.plots.nothing import NothingToShow
from hyperlax.analysis.plots.optimization_history import optimization_history
from hyperlax.analysis.plots.parallel_coordinate import parallel_coordinate
from hyperlax.analysis.plots.param_importances import param_importances
from hyperlax.analysis.plots.pareto_front import pareto_plot
from hyperlax.analysis.plots.pbt_lineage import pbt_lineage
from hyperlax.analysis.plots.pbt_winner import pbt_winner
from hyperlax.analysis.plots.slice import slice_plot
from hyperlax.analysis.plots.timeline import timeline
from hyperlax.study.record import StudyRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plot:
    """A plot's file name without `.html`, its heading, one sentence on how to read it, its function, its least width in px.

    In the sentence, {aggregate} stands for what of the seeds' returns is the trial's.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[StudyRecord], go.Figure]
    min_width: int = 0


@dataclass(frozen=True)
class Drawing:
    """A plot that was drawn: exactly one of `figure` (plotly's JSON), `words` (nothing to show) and `error` is not empty."""

    plot: Plot
    figure: str = ""
    words: str = ""
    error: str = ""


PARETO = Plot(
    "pareto_front",
    "Pareto front",
    "No trial is better than a highlighted one in every objective. Hover for its hyperparameters.",
    pareto_plot,
    min_width=520,
)

HYPERVOLUME = Plot(
    "hypervolume_history",
    "Hypervolume",
    "How much of the box between the worst and the best values of any trial the trials so far dominate; 1 is all of it.",
    hypervolume_history,
    min_width=520,
)

CONFIRMATION = Plot(
    "confirmation",
    "Confirmation on new seeds",
    "Small points: seeds that the search never saw. Large points: their mean, with its 95 % bootstrap interval. "
    "Diamonds: what the search had claimed.",
    confirmation_plot,
    min_width=620,
)

OF_A_POPULATION = (
    Plot(
        "pbt_lineage",
        "Lineage",
        "Each point is a member at the end of an interval; a line leads to it from whom it goes on from. Hover for its "
        "hyperparameters.",
        pbt_lineage,
        min_width=680,
    ),
    Plot(
        "pbt_winner",
        "The schedule that won",
        "What the best member at the end, and those it descends from, trained with in each interval.",
        pbt_winner,
        min_width=520,
    ),
)

PLOTS = (
    Plot(
        "learning_curves",
        "Learning curves",
        "The ten best trials by the first objective, a Pareto front before the others. Line: {aggregate} over seeds. "
        "Band: lowest to highest seed.",
        learning_curves,
        min_width=680,
    ),
    Plot(
        "optimization_history",
        "Optimization history",
        "Each COMPLETE trial's value, and the best value found up to it.",
        optimization_history,
        min_width=520,
    ),
    Plot(
        "param_importances",
        "Hyperparameter importances",
        "How much of the objective's variation each searched hyperparameter explains. Rough below some 50 trials.",
        param_importances,
        min_width=520,
    ),
    Plot(
        "parallel_coordinate",
        "Parallel coordinates",
        "Each line is a COMPLETE trial. Drag along an axis to keep only the lines that cross there.",
        parallel_coordinate,
        min_width=1000,
    ),
    Plot(
        "slice",
        "Slices",
        "Each hyperparameter on its own against the objective; brighter points are later trials.",
        slice_plot,
        min_width=900,
    ),
    Plot(
        "contour",
        "The two most important hyperparameters",
        "Each point is a COMPLETE trial. The areas around them are a weighted mean of the trials nearby, an estimate; where no "
        "trial is near they are empty. Hover for a trial's hyperparameters.",
        contour,
        min_width=520,
    ),
    Plot(
        "timeline",
        "Timeline of lanes",
        "A row a lane of the compiled programs; a bar a trial in it, until its last evaluation there. Where a row is empty, its "
        "lane waited: for a program, for other lanes or for trials. Dotted: another process went on.",
        timeline,
        min_width=680,
    ),
)


def draw_all(record: StudyRecord) -> list[Drawing]:
    """Every plot of a study, the Pareto front first where there are several objectives, the lineage where there is one."""
    if record.lineage:
        plots = (*OF_A_POPULATION, *PLOTS)
    else:
        plots = (PARETO, HYPERVOLUME, *PLOTS) if len(record.objectives) > 1 else PLOTS
    words = AGGREGATE_WORDS[record.arguments["aggregate"]]
    return [draw(replace(plot, caption=plot.caption.format(aggregate=words)), record) for plot in plots]


def draw(plot: Plot, record: StudyRecord) -> Drawing:
    """One plot of a study."""
    try:
        figure = plot.draw(record)
        return Drawing(plot, figure=str(figure.to_json()))
    except NothingToShow as nothing:
        return Drawing(plot, words=str(nothing))
    except LostFile as lost:
        warn_once(f"{plot.name} could not be drawn: {lost}")
        return Drawing(plot, error=str(lost))
    except Exception as error:  # a broken plot must not cost the others; its page and the log show why
        log.exception("%s could not be drawn", plot.name)
        return Drawing(plot, error=f"{type(error).__name__}: {error}")
