"""Studies in the places where people compare experiments: MLflow. Written after the study's own commit, from its record."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.tracking.place import place_of

if TYPE_CHECKING:
    from hyperlax.config.options import SearchOptions
    from hyperlax.study.tracking import Tracker


def tracker_of(options: SearchOptions, root: Path, is_new: bool) -> Tracker | None:
    """What tracks the study in a directory, None where nothing does; nothing is written yet.

    UsageError for what cannot be tracked so, or if a package that it needs is not installed.
    """
    place = place_of(options.track, options.tracking_uri, options.tracking_experiment, options.study_name, root, is_new)
    if place is None:
        return None
    from hyperlax.tracking.mlflow_tracker import MlflowTracker

    _import_mlflow()
    return MlflowTracker(place)


def _import_mlflow() -> None:
    """Import it, and pandas, while there is one thread: plotly takes a pandas that another thread is importing for a whole one."""
    import_module("pandas")
    import_module("mlflow.entities")
