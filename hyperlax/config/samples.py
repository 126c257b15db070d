"""Sampled configurations in a CSV file: one row per configuration, as in a study's `hyperparams.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from hyperlax.config.option import value_of
from hyperlax.errors import UsageError
from hyperlax.fields import apply, check_name, dotted, fields_of
from hyperlax.files import read_csv, write_csv
from hyperlax.hyperparams import AlgorithmConfig

TRIAL = "trial"


def write(path: Path, configurations: Sequence[AlgorithmConfig]) -> None:
    """Replace `path`: a header, then the number and every hyperparameter of each configuration."""
    header = (TRIAL, *dotted(configurations[0]))
    write_csv(path, header, ([number, *dotted(one).values()] for number, one in enumerate(configurations)))


def read(path: Path, base: AlgorithmConfig) -> tuple[AlgorithmConfig, ...]:
    """Return the configurations of a file, in the order of its rows.

    A field without a column has its value in `base`. A column `trial` is ignored.

    Raises UsageError, naming file, line and column, for an unknown name, a value that its field does not accept, values that
    do not go together, and a file without rows.
    """
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path}: holds no row. It needs one for every configuration to train.")
    known = fields_of(base)
    columns = [name for name in rows[0] if name != TRIAL]
    for name in columns:
        check_name(name, known, str(path))
    configurations = []
    for line, row in enumerate(rows, start=2):
        where = f"{path}, line {line}"
        for name in columns:
            if not row[name].strip():
                raise UsageError(f"{where}: {name} is empty. Give a value, or drop the column to have the recipe's.")
        texts = {name: row[name].strip() for name in columns}
        values = {name: text if known[name].type == "str" else value_of(text) for name, text in texts.items()}
        configurations.append(apply(base, values, where))
    return tuple(configurations)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        return read_csv(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8, so it cannot be read as CSV.") from error
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: {str(error).removeprefix(str(path)).lstrip(':, ')}") from error
