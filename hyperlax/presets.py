"""What `preset:` of a study's file stands for: trials, seeds, pruner and budget. The file and the command line win over it."""

from __future__ import annotations

from hyperlax.flags import SearchFlags

PRESETS = {
    "quick_test": SearchFlags(n_trials=5, num_seeds=1, pruner="none", run_length_modifier="quick"),
    "standard": SearchFlags(n_trials=50, num_seeds=1, pruner="asha", run_length_modifier="default"),
    "extensive": SearchFlags(n_trials=200, num_seeds=3, pruner="hyperband", run_length_modifier="default"),
    "production": SearchFlags(
        n_trials=100, num_seeds=5, pruner="asha", run_length_modifier="long", confirm_top=3, confirm_seeds=10
    ),
}
