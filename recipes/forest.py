"""A random forest of scikit-learn on its breast cancer data, as an example of a Python function that is tuned.

Each trial fits a forest to 5 folds, one after another, and reports the mean accuracy over the folds so far, so that
--pruner can stop it after the first ones. Needs scikit-learn: pip install "hyperlax[sklearn]"

    hyperlax optuna-hp-search --algo-and-network-config forest --n-trials 12 --pruner asha

The fixed hyperparameter `data` chooses "breast_cancer" or "wine". To tune your own function, copy this file to recipes/ in
your working directory and edit the copy.
"""

import importlib.util
from functools import cache
from typing import Any

from hyperlax.errors import UsageError
from hyperlax.space import Categorical, Distribution, LogUniformDiscrete, UniformContinuous, UniformDiscrete
from hyperlax.tasks import Function, Measure, Report

FOLDS = 5


def train(params: dict[str, Any], report: Report, seed: int) -> None:
    """Fit and score a forest on each fold. seed: of the folds and of the forests."""
    from sklearn.ensemble import RandomForestClassifier  # here, since only the worker processes need it
    from sklearn.model_selection import StratifiedKFold

    params = dict(params)
    inputs, classes = data(params.pop("data"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    accuracies: list[float] = []
    for fold, (fitted, held_out) in enumerate(folds.split(inputs, classes), 1):
        forest = RandomForestClassifier(**params, random_state=seed)
        forest.fit(inputs[fitted], classes[fitted])
        accuracies.append(float(forest.score(inputs[held_out], classes[held_out])))
        report(fold, accuracy=sum(accuracies) / fold)


@cache
def data(name: str) -> tuple[Any, Any]:
    """Return inputs and classes of "breast_cancer" (569 rows, 2 classes) or "wine" (178 rows, 3 classes)."""
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


def get_task() -> Function:
    """Return what is trained. low: what the most frequent class alone scores on the breast cancer data."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError('the forest needs scikit-learn: pip install "hyperlax[sklearn]"')
    measure = Measure("accuracy", "maximize", low=0.627, high=1.0)
    return Function(train, measure, budget=FOLDS, evaluations=FOLDS, cores=1)


def get_base_params() -> dict[str, Any]:
    """Return the value of every hyperparameter that the search space below leaves out, and of the default trial."""
    return {
        "data": "breast_cancer",
        "n_estimators": 100,
        "criterion": "gini",
        "max_depth": 12,
        "max_features": 0.2,
        "min_samples_leaf": 1,
    }


def get_base_hyperparam_distributions() -> dict[str, Distribution]:
    """Return the search space."""
    return {
        "n_estimators": UniformDiscrete(domain=(20, 200)),
        "criterion": Categorical(values=["gini", "entropy"]),
        "max_depth": UniformDiscrete(domain=(2, 16)),
        "max_features": UniformContinuous(domain=(0.05, 1.0)),
        "min_samples_leaf": LogUniformDiscrete(domain=(1, 32)),
    }
