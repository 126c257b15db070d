"""The study of a flow as a directory of Hyperlax: a sweep over the configurations that the flow's trials chose.

Each time all files are written into a directory beside it, and then take the place of those before.
"""

from __future__ import annotations

import copy
import math
import re
import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax import space as spaces
from hyperlax.analysis.pages import write_study_pages
from hyperlax.config.configurations import write_samples
from hyperlax.config.options import SweepOptions
from hyperlax.config.settling import settled
from hyperlax.errors import UsageError
from hyperlax.fields import dotted, filled
from hyperlax.files import escaped
from hyperlax.measures import RESERVED
from hyperlax.metaflow.rendezvous import ABOUT, OUTPUT_ROOT, REASON
from hyperlax.recipe import of_task
from hyperlax.samplers.fixed import Presampled
from hyperlax.space import Distribution
from hyperlax.study import manifest as manifests
from hyperlax.study.batch_files import UNKNOWN_AFTER_AN_ERROR, write_batch
from hyperlax.study.directory import StudyDirectory, study_directory
from hyperlax.study.scoring import Scoring
from hyperlax.study.state import StudyState
from hyperlax.study.view import load_study
from hyperlax.tasks import Measure, Task
from hyperlax.trial import BatchResult, Curve, Outcome

_UNUSED = "not used"
"""The choice of a trial that did not ask for a hyperparameter."""
_LAST_STEP = 2**62
"""Reports of later steps are left out."""


@dataclass(frozen=True)
class _FlowTask(Task):
    """The task whose trials a flow trained. flow: its file."""

    noun: ClassVar[str] = "a step of a Metaflow flow"

    flow: str
    measure: Measure
    measures: Sequence[Measure] = ()
    budget: int = 1
    evaluations: int = 1
    cores: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None

    def source(self) -> dict[str, Any]:
        return {"flow": self.flow, **self.lengths()}


def write_study(study: optuna.Study, output_root: str = OUTPUT_ROOT, has_pages: bool = True) -> Path:
    """Write an Optuna study with one objective as a study of Hyperlax. Return its directory, which replaces that of the same run.

    has_pages: whether to write the report and the plots, too.

    Raises:
      UsageError: The study has no trials.
    """
    if not study.get_trials(deepcopy=False):
        raise UsageError("the study has no trials yet.")
    root = write_data(study, output_root)
    study.set_user_attr(ABOUT, {**study.user_attrs.get(ABOUT, {}), "directory": str(root.absolute())})
    if has_pages:
        write_study_pages(load_study(root, "write_study").record)
    return root


def write_data(study: optuna.Study, output_root: str) -> Path:
    """Write a study without its pages; see `write_study`. The study is not changed."""
    trials = study.get_trials(deepcopy=False)
    about = _about(study)
    objective = _usable(about["objective"], RESERVED)
    trials = _with_usable_names(trials, objective)
    recipe = _recipe(study, trials, objective)
    total = max(1, len(trials), about["n_trials"])
    given = {
        "study_name": f"run_{about['run']}",
        "n_trials": total,
        "optuna_study_batch_size": total,
        "output_root": output_root,
        "sampling_method": "file",
    }
    options = settled(SweepOptions, [given], recipe)
    root = study_directory(options, recipe).root
    new = root.with_name(f".{root.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        _write(StudyDirectory(new), options, recipe, trials)
        _replace(root, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return root


def _about(study: optuna.Study) -> dict[str, Any]:
    """Return what is known of a study, also of one that no flow has made."""
    unknown = {"objective": "value", "n_trials": 0, "flow": "flow", "file": "flow.py", "run": study.study_name}
    return {**unknown, **study.user_attrs.get(ABOUT, {})}


def _replace(root: Path, new: Path) -> None:
    """Move what is in a directory into `root`, in place of what has the same names there. Other files of a user stay."""
    root.mkdir(exist_ok=True)
    for path in new.iterdir():
        if path.is_dir():
            shutil.rmtree(root / path.name, ignore_errors=True)
        path.replace(root / path.name)


def _write(directory: StudyDirectory, options: SweepOptions, recipe: Presampled, trials: Sequence[FrozenTrial]) -> None:
    """Write everything but the pages."""
    if recipe.samples:
        write_samples(directory.samples, recipe.samples)
    place: Any = SimpleNamespace(device="tasks of Metaflow", lanes=1, slots=1, packing={})
    manifest = manifests.describe(options, recipe, [], place).running(recipe)
    manifest = replace(manifest, command=shlex.join(["python", str(recipe.path), "run"]))
    manifest.write(directory.manifest)
    scoring = Scoring(manifest.scale, recipe.space.keys(), leading=manifest.scale.name)
    with closing(StudyState(options, recipe, directory, manifest)) as state:
        state.database.describe({"recipe": recipe.name, "versions": manifest.versions, "search_space": manifest.space})
        state.ask(options.n_trials)
        ended = [trial for trial in trials if trial.state.is_finished()]
        if ended:
            _write_batch(state, directory, scoring, ended)


def _write_batch(state: StudyState, directory: StudyDirectory, scoring: Scoring, ended: Sequence[FrozenTrial]) -> None:
    outcomes = tuple(_outcome(trial, state, scoring) for trial in ended)
    seconds = sum(outcome.train_seconds for outcome in outcomes)
    times = [time for trial in ended for time in (trial.datetime_start, trial.datetime_complete) if time]
    wall = (max(times) - min(times)).total_seconds() if times else 0.0
    timing = {**dict.fromkeys(UNKNOWN_AFTER_AN_ERROR), "wall_seconds": wall, "train_seconds": seconds}
    batch = BatchResult(outcomes, timing)
    results, path = scoring.results(batch), state.new_batch(0)
    write_batch(path, directory.root, batch, results, scoring.scale, (scoring.leading,))
    state.record(results, path)


def _outcome(trial: FrozenTrial, state: StudyState, scoring: Scoring) -> Outcome:
    """Return the outcome of a trial that has ended: its reports, and last what it reached."""
    points = _points(trial)
    steps, values = np.array(list(points), np.int64), np.array(list(points.values()), np.float64)[:, None]
    curve = Curve.of_measures(steps, {scoring.scale.name: values}, budget=max(points, default=1))
    name = trial.state.name if points or trial.state != TrialState.PRUNED else TrialState.FAIL.name
    reason = escaped(str(trial.user_attrs.get(REASON, ""))) if name != TrialState.COMPLETE.name else ""
    if name == TrialState.FAIL.name:
        config, reason = dotted(state.trial(trial.number).config), reason or "its task failed"
        if others := [name for name, value in config.items() if name not in trial.params and value != _UNUSED]:
            reason += f". It had not chosen {', '.join(others)}: the middle of the range stands there"
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return Outcome(state.trial(trial.number), name, reason, curve, 0, seconds)


def _points(trial: FrozenTrial) -> dict[int, float]:
    """Return what a trial has reported by its step, and last what it reached, a step later unless it has reported that."""
    reports = sorted(trial.intermediate_values.items())
    points = {step: value for step, value in reports if 0 < step < _LAST_STEP and math.isfinite(value)}
    if trial.value is not None and list(points.values())[-1:] != [trial.value]:
        points[max(points, default=0) + 1] = trial.value
    return points


def _with_usable_names(trials: Sequence[FrozenTrial], objective: str) -> list[FrozenTrial]:
    """Return the trials with hyperparameters of names that a study's files can have."""
    names: dict[str, str] = {}
    for name in (name for trial in trials for name in trial.distributions):
        if name not in names:
            names[name] = _usable(name, {*RESERVED - {"seed"}, objective, *names.values()})
    found = [copy.copy(trial) for trial in trials]
    for trial in found:
        trial.params = {names[name]: value for name, value in trial.params.items()}
        trial.distributions = {names[name]: distribution for name, distribution in trial.distributions.items()}
    return found


def _usable(name: str, taken: Collection[str]) -> str:
    """Return a name, changed only if a study's files cannot have it. taken: names that they use for something else."""
    found = re.sub(r"[^\w./-]", "_", name)
    while not re.match("[A-Za-z_]", found) or found in taken or found.startswith("objective."):
        found = f"my_{found}"
    return found


def _recipe(study: optuna.Study, trials: Sequence[FrozenTrial], objective: str) -> Presampled:
    """Return the flow as a recipe with the configurations of its trials."""
    about = _about(study)
    name, file = about["flow"], Path(about["file"])
    direction: Any = study.direction.name.lower()
    measure = Measure(objective, direction)
    columns = _columns(trials)
    space = {name: distribution for name, (distribution, _) in columns.items()}
    middle = {name: distribution.middle() for name, distribution in space.items()}
    points = [_points(trial) for trial in trials]
    budget, evaluations = max(map(max, filter(None, points)), default=1), max(map(len, points), default=1)
    task = _FlowTask(str(file), measure, budget=budget, evaluations=max(1, evaluations))
    base = of_task(name, file, task, middle, space, f"{name}: the study of run {about['run']}")
    rows = tuple(
        filled(base.config.algorithm, {name: values[place] for name, (_, values) in columns.items() if place in values})
        for place in range(len(trials))
    )
    return Presampled(base.name, base.path, base.config, base.space, rows, task=task, source=base.source)


def _columns(trials: Sequence[FrozenTrial]) -> dict[str, tuple[Distribution, dict[int, Any]]]:
    """Return each hyperparameter's distribution, and its values by the number of the trial.

    A flow may ask for a hyperparameter in some trials only. Then it is a list of the values that were chosen.
    """
    names = dict.fromkeys(name for trial in trials for name in trial.distributions)
    columns: dict[str, tuple[Distribution, dict[int, Any]]] = {}
    for name in names:
        found = [trial.distributions[name] for trial in trials if name in trial.distributions]
        values = {trial.number: trial.params[name] for trial in trials if name in trial.params}
        if any(trial.state == TrialState.COMPLETE and name not in trial.params for trial in trials):
            values = {trial.number: trial.params.get(name, _UNUSED) for trial in trials}
            columns[name] = _choices(list(values.values()), values)
        elif isinstance(found[0], CategoricalDistribution):
            columns[name] = _choices(found[0].choices, values)
        else:
            columns[name] = _range(found, list(values.values())), values
    return columns or {"hyperparameter": _choices([_UNUSED], {})}


def _choices(choices: Sequence[Any], values: Mapping[int, Any]) -> tuple[Distribution, dict[int, Any]]:
    """Return a list of choices and the values, as texts unless all are of one type that a study can hold."""
    kinds = {type(choice) for choice in choices}
    is_kept = kinds in ({bool}, {int}) or (kinds == {float} and all(map(math.isfinite, choices)))
    keep = (lambda value: value) if is_kept else lambda value: escaped(str(value))
    distinct = tuple(dict.fromkeys(keep(choice) for choice in choices))
    return spaces.Categorical(values=distinct), {number: keep(value) for number, value in values.items()}


def _range(found: Sequence[BaseDistribution], values: Sequence[float]) -> Distribution:
    """Return the range that holds those of all trials, and their values: one that was enqueued may lie outside."""
    ranges = [one for one in found if isinstance(one, (IntDistribution, FloatDistribution))]
    low, high = domain = min([*(one.low for one in ranges), *values]), max([*(one.high for one in ranges), *values])
    step = ranges[0].step if len(set(found)) == 1 and all(map(ranges[0]._contains, values)) else None
    is_log = all(one.log for one in ranges) and low > 0
    if low == high:
        return spaces.Categorical(values=(low,))
    if all(isinstance(one, IntDistribution) for one in ranges):
        if is_log:
            return spaces.LogUniformDiscrete(domain=domain)
        return spaces.UniformDiscrete(domain=domain, step=int(step or 1))
    if is_log:
        return spaces.LogUniform(domain=domain)
    return spaces.QUniform(domain=domain, q=step) if step else spaces.UniformContinuous(domain=domain)
