"""The plots of a study. Each has its own file, which ends with its row of the registry."""

from hyperlax.analysis.plots import (
    confirmation,
    contour,
    hypervolume_history,
    learning_curves,
    optimization_history,
    parallel_coordinate,
    param_distributions,
    param_importances,
    pareto_front,
    pbt_lineage,
    pbt_winner,
    sensitivity,
    slice,
    timeline,
)
from hyperlax.analysis.plots.base import Drawing, Plot
from hyperlax.analysis.study_data import StudyData

PLOTS: list[Plot] = [
    confirmation.PLOT,
    sensitivity.PLOT,
    pbt_lineage.PLOT,
    pbt_winner.PLOT,
    pareto_front.PLOT,
    hypervolume_history.PLOT,
    learning_curves.PLOT,
    optimization_history.PLOT,
    param_importances.PLOT,
    parallel_coordinate.PLOT,
    slice.PLOT,
    param_distributions.PLOT,
    contour.PLOT,
    timeline.PLOT,
]
"""Plots in the order of the report."""


def draw_all(study: StudyData) -> list[Drawing]:
    """Draw every plot that applies to a study."""
    return [plot.drawing(study) for plot in PLOTS if plot.applies(study.record)]
