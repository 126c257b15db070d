"""A real search of a desk's small PPO recipe, started or resumed as the case is.

python -m tests.faults.search DESK OUTPUT_ROOT [OPTION ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hyperlax.cli import main
from tests.desk import search, study_of

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    directory = study_of(Path(), "ppo_mlp", sys.argv[2])
    more = ["--n-trials", "12", "--checkpoint-seconds", "0", *sys.argv[3:]]
    if (directory / "study.json").exists():
        sys.exit(main(["optuna-hp-search", "--resume-from", str(directory), *more]))
    sys.exit(main([*search("ppo_mlp", sys.argv[2]), *more]))
