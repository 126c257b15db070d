"""The presets of a study: trials, seeds, pruner and budget. Its file and the command line win over them."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "quick_test": {"n_trials": 5, "num_seeds": 1, "pruner": "none", "run_length_modifier": "quick"},
    "standard": {"n_trials": 50, "num_seeds": 1, "pruner": "asha", "run_length_modifier": "default"},
    "extensive": {"n_trials": 200, "num_seeds": 3, "pruner": "hyperband", "run_length_modifier": "default"},
    "production": {
        "n_trials": 100,
        "num_seeds": 5,
        "pruner": "asha",
        "run_length_modifier": "long",
        "confirm_top": 3,
        "confirm_seeds": 10,
    },
}
