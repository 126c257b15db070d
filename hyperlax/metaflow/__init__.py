"""Searches whose trials are tasks of a Metaflow flow: one coordinator suggests, in the step beside the trials', or all beforehand.

The interface is that of metaflow-optuna, so that its flows run with only their import line changed.
"""

from importlib.util import find_spec

if find_spec("metaflow") is None or find_spec("grpc") is None:
    raise ImportError("hyperlax.metaflow needs Metaflow and gRPC. Install them: pip install 'hyperlax[metaflow]'")

from hyperlax.metaflow.cards import render_study_card, render_study_html
from hyperlax.metaflow.decorators import hyperparam, optuna_coordinator
from hyperlax.metaflow.results import TrialConfig, TrialResult, create_study_inputs, rebuild_study

__all__ = [
    "TrialConfig",
    "TrialResult",
    "create_study_inputs",
    "hyperparam",
    "optuna_coordinator",
    "rebuild_study",
    "render_study_card",
    "render_study_html",
]
