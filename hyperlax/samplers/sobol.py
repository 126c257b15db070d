"""A Sobol sequence with one point per trial number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class SobolByNumber(QMCSampler):
    """The scrambled Sobol sequence of a study: ask number i of this object gets point i.

    Optuna's QMC sampler counts in the study's attributes instead, and draws the first trial of a study at random.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        self._next = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        self._next += 1
        return self._next - 1
