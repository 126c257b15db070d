"""What several commands share. Only what `--help` needs is imported here, see `hyperlax.commands`."""

from __future__ import annotations

import logging
from typing import Any


def recipe_name(flags: Any) -> str:
    """The recipe of a command's flags. UsageError where none is given."""
    from hyperlax.argument_checks import required
    from hyperlax.recipe import available

    what = f"a recipe ({', '.join(available())}) or a path to a .py file"
    return required(flags.algo_and_network_config, "--algo-and-network-config", what)


def log_from(level: str, is_quiet: bool = False) -> None:
    """Print what Hyperlax logs from this level on, or only warnings; other packages' warnings stay as they are."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hyperlax").setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING * is_quiet))
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # its traceback is in the batch's timing.json
