"""Studies from Python, for notebooks: what the command line does, in a few lines.

`study = hyperlax.search("sac_mlp", "gymnax.pendulum", n_trials=12)` gives the same as, once it is on disk:

>>> import hyperlax
>>> study = hyperlax.open_study(directory)
>>> study.state, len(study.trials)
('finished', 12)
>>> study.trials["peak_performance"].idxmax() == study.best.number
True
>>> study.pareto == study.top(1) == [study.best]
True
>>> study.best.config["algorithm.hyperparam.tau"], "algorithm.hyperparam.tau" in study.best.params
(0.005, False)
>>> study.curve(study.best.number).returns.shape  # points, seeds
(6, 2)
>>> type(study.plot.history()).__name__
'Figure'
>>> study.report().name
'report.html'
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from functools import cached_property
from html import escape
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperlax.config.configurations import as_text
from hyperlax.config.option import HIDDEN, Given, Option, options_of
from hyperlax.config.options import SearchOptions, SweepOptions
from hyperlax.config.stored import SEARCH, SWEEP
from hyperlax.errors import STOPPED, HyperlaxError, OptionError, OptionFailure, UsageError, did_you_mean
from hyperlax.files import expanded, plain

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from hyperlax.agent import Agent
    from hyperlax.config.yaml_file import Entry
    from hyperlax.study.batch_files import LearningCurve
    from hyperlax.study.record import Confirmation, StudyRecord, TrialRecord
    from hyperlax.study.view import StudyView


def search(
    recipe: str | None = None,
    environment: str | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    **options: Any,
) -> Study:
    """Run `optuna-hp-search` to its end and return the study.

    Args:
      recipe: A name or the path of a .py file.
      environment: E.g. "gymnax.pendulum"; a task has none. With `resume_from=DIR`, leave out recipe and environment.
      space: Changes to the recipe's search space, as in a study's file, e.g. {"actor_lr": LogUniform(domain=(1e-4, 1e-2))}. A
        list is a choice, a value alone is fixed, {"low": 1e-4} changes one value of the recipe's entry, None leaves an entry out,
        and "only": True leaves out all that is not listed.
      options: The command's flags with underscores, as in the signature.

    Raises:
      TypeError: An option does not exist.
      UsageError: It was refused before anything ran.
      HyperlaxError: Too many trials failed. KeyboardInterrupt: It was interrupted; `resume_from` continues.
    """
    return _run(search, {"recipe": recipe, "environment": environment, **options}, space)


def sweep(recipe: str | None = None, environment: str | None = None, **options: Any) -> Study:
    """Run `sweep-hp-samples` to its end and return the study.

    Args:
      recipe: A name or the path of a .py file.
      environment: E.g. "gymnax.pendulum". With `resume_from=DIR`, leave out recipe and environment.
      options: The command's flags with underscores, as in the signature.

    Raises what `search` raises.
    """
    return _run(sweep, {"recipe": recipe, "environment": environment, **options})


def open_study(directory: str | Path) -> Study:
    """Open the study, or population, in a directory. Raises UsageError if it does not hold one."""
    return Study(Path(expanded(str(directory))))


def load_agent(path: str | Path, trial: int | None = None, seed: int | None = None) -> Agent:
    """Load a trained policy: `agent(observation)` gives the action, also for a batch of observations. It uses numpy only.

    path: a .safetensors file, or the directory of a study or of a single run. trial: of a study, by default its best. seed: one
    of the trial's seeds, by default the one with the best return. Raises UsageError if the agent does not exist.
    """
    from hyperlax.agent import load_agent as load
    from hyperlax.study.agents import find_agent

    with _told():
        return load(find_agent(Path(expanded(str(path))), trial, "load_agent"), seed)


class Study:
    """A study as its directory holds it when it is opened; `refresh` reads it again.

    directory: its path, absolute, so that it stays valid when the working directory changes.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self.refresh()

    def __repr__(self) -> str:
        return f"Study({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        """Return what `hyperlax show` prints, for a notebook."""
        from hyperlax.analysis.terminal import study_text

        opened = self._opened
        return f"<pre>{escape(study_text(opened.record, opened.state, opened.total, count=10))}</pre>"

    def refresh(self) -> None:
        """Read the directory again. Raises UsageError if it does not hold a study."""
        self._opened = self._load()
        vars(self).pop("record", None)

    @cached_property
    def record(self) -> StudyRecord:
        """Study as plain data, importances and confirmation included."""
        from hyperlax.study.view import with_confirmation

        return with_confirmation(self._load(with_importances=True).record)

    def _load(self, with_importances: bool = False) -> StudyView:
        _import_tqdm()
        from hyperlax.study.view import load_study

        with _told():
            return load_study(self.directory, "open_study", with_importances)

    @property
    def state(self) -> str:
        """State: running, finished or stopped."""
        return self._opened.state

    @property
    def best(self) -> TrialRecord:
        """Best trial. Raises HyperlaxError if there is none yet, and for several objectives, which have `pareto`."""
        if len(self._opened.record.objectives) > 1:
            raise HyperlaxError(f"{self.directory}: has several objectives, so no trial is the best. Use study.pareto.")
        best = self.pareto
        if not best:
            raise HyperlaxError(f"{self.directory}: has no best trial yet.")
        return best[0]

    @property
    def pareto(self) -> list[TrialRecord]:
        """Pareto front by number; with one objective the best trial alone."""
        from hyperlax.study.record import winners

        return winners(self._opened.record)

    def top(self, count: int = 5) -> list[TrialRecord]:
        """Return the best trials, best first; with several objectives the first of the Pareto front, by number."""
        from hyperlax.study.record import top

        return top(self._opened.record, count)

    def importances(self, objective: str | None = None) -> dict[str, float]:
        """Return how much of an objective's variation each hyperparameter explains: dotted name -> share, the largest first.

        objective: the first one by default. Raises HyperlaxError if the study does not have it, or has too few trials to tell.
        """
        from hyperlax.study.record import without_importances

        known = list(self._opened.record.objectives)
        name = known[0] if objective is None else objective
        if name not in known:
            hint = did_you_mean(name, known)
            raise HyperlaxError(f"{self.directory}: has no objective {name!r}. {hint}There are {', '.join(known)}.")
        shares = self.record.importances.get(name)
        if not shares:
            raise HyperlaxError(f"{self.directory}: {without_importances(self.record)}")
        return shares

    @property
    def sensitivity(self) -> pandas.DataFrame:
        """Table with one row per objective and hyperparameter of a sensitivity study, with the columns of `sensitivity.csv`.

        Raises HyperlaxError for another study.
        """
        import pandas

        from hyperlax.analysis.sensitivity import COLUMNS, effect_rows, is_sensitivity
        from hyperlax.analysis.study_data import StudyData

        record = self._opened.record
        if not is_sensitivity(record):
            raise HyperlaxError(
                f"{self.directory}: is not a sensitivity study. Train one with sweep(..., sampling_method='sensitivity')."
            )
        return pandas.DataFrame(effect_rows(StudyData(record).sensitivity), columns=list(COLUMNS))

    @property
    def trials(self) -> pandas.DataFrame:
        """Table with one row per trial, indexed by its number, with the columns of `trials.csv`; lists stay lists."""
        import pandas

        from hyperlax.analysis.tables import trial_rows

        header, rows = trial_rows(self._opened.record)
        return pandas.DataFrame(rows, columns=header).set_index("trial")

    @property
    def confirmation(self) -> Confirmation | None:
        """Results of the best on seeds that the search never saw, None without --confirm-top."""
        return self.record.confirmation

    def curve(self, trial: int) -> LearningCurve:
        """Return the learning curve of a trial. Raises HyperlaxError if the trial or its curve does not exist."""
        from hyperlax.analysis.study_data import read_curves

        with _told():
            record = self._opened.record.trial(trial)
        try:
            return read_curves([record])[trial]
        except ValueError as error:
            raise HyperlaxError(str(error)) from error

    @property
    def plot(self) -> Plots:
        """Plots of the report, as plotly figures."""
        return Plots(self)

    def report(self) -> Path:
        """Write `report.html` and the plots again from the current study. Return the path of the report."""
        from hyperlax.analysis.pages import write_study_pages
        from hyperlax.study.directory import REPORT

        self.refresh()
        write_study_pages(self.record)
        return self.directory / REPORT


class Plots:
    """The plots of the report, each a `plotly.graph_objects.Figure`. They raise HyperlaxError if there is no data to plot."""

    def __init__(self, study: Study):
        self._study = study

    def history(self) -> go.Figure:
        """Draw each COMPLETE trial's value, and the best so far."""
        return self.draw("optimization_history")

    def importances(self) -> go.Figure:
        """Draw how much of the objective's variation each hyperparameter explains."""
        return self.draw("param_importances")

    def learning_curves(self) -> go.Figure:
        """Draw the curves of the ten best trials, with the spread of their seeds."""
        return self.draw("learning_curves")

    def parallel_coordinate(self) -> go.Figure:
        """Draw one line per COMPLETE trial."""
        return self.draw("parallel_coordinate")

    def slice(self) -> go.Figure:
        """Draw each hyperparameter against the objective."""
        return self.draw("slice")

    def distributions(self) -> go.Figure:
        """Draw where all trials and the best quarter of them lie on each hyperparameter."""
        return self.draw("param_distributions")

    def contour(self) -> go.Figure:
        """Draw the objective over the two most important hyperparameters."""
        return self.draw("contour")

    def timeline(self) -> go.Figure:
        """Draw which trial each lane trained at what time."""
        return self.draw("timeline")

    def pareto_front(self) -> go.Figure:
        """Draw the trials in the plane of the objectives, with the Pareto front."""
        return self.draw("pareto_front")

    def hypervolume(self) -> go.Figure:
        """Draw the hypervolume that the trials so far dominate."""
        return self.draw("hypervolume_history")

    def confirmation(self) -> go.Figure:
        """Draw the best on new seeds."""
        return self.draw("confirmation")

    def sensitivity(self) -> go.Figure:
        """Draw each hyperparameter varied alone, with the spread over seeds."""
        return self.draw("sensitivity")

    def draw(self, name: str) -> go.Figure:
        """Draw any plot of the report by its file's name, e.g. `pbt_lineage`."""
        from hyperlax.analysis.plots import PLOTS
        from hyperlax.analysis.study_data import StudyData

        record, plots = self._study.record, {plot.name: plot for plot in PLOTS}
        if name not in plots:
            raise HyperlaxError(f"There is no plot {name!r}. There are {', '.join(plots)}.")
        if not plots[name].applies(record):
            raise HyperlaxError(f"{record.directory}: {plots[name].otherwise}")
        return plots[name].draw(StudyData(record))


_NAMES = {"algo_and_network_config": "recipe", "env_config": "environment"}
_COMMANDS = {search: SEARCH, sweep: SWEEP}
_PYTHON: dict[Callable[..., Study], dict[str, Option]] = {
    function: {
        _NAMES.get(name, option.key if option.is_switched_off else name): option
        for name, option in options_of(kind).items()
        if not option.has(HIDDEN) and name not in ("plan_only", "json")
    }
    for function, kind in ((search, SearchOptions), (sweep, SweepOptions))
}
"""Function that trains -> its keywords -> the option."""
_KEYWORDS = {option.name: keyword for own in _PYTHON.values() for keyword, option in own.items()}


def _run(function: Callable[..., Study], keywords: dict[str, Any], space: Any = None) -> Study:
    """Run the command of a function to its end and return the study. Raises what the function raises."""
    from hyperlax.studies import planned_study

    _import_tqdm()
    with _told(f"{function.__name__}(): "):
        given = _given(keywords, function)
        study = planned_study(_COMMANDS[function], given, _entries(space, is_new="resume_from" not in given))
        status = study.run()
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise HyperlaxError(f"{study.directory}: the {function.__name__} failed; see its output for the reason.")
    return Study(study.directory)


def _document(function: Any) -> None:
    """Set the signature and the arguments in the docstring of a function that trains, so that a notebook completes them."""
    more = [option for keyword, option in _PYTHON[function].items() if keyword not in ("recipe", "environment")]
    own = list(signature(function).parameters.values())[:-1]
    written = [
        Parameter(_KEYWORDS[o.name], Parameter.KEYWORD_ONLY, default=_default(o), annotation=_annotation(o))
        for o in more
    ]
    function.__signature__ = Signature([*own, *written], return_annotation="Study")
    lines = [f"  {_KEYWORDS[option.name]}: {option.help} ({option.default_text})" for option in more]
    everything = "  options: The command's flags with underscores, as in the signature."
    function.__doc__ = (getdoc(function) or "").replace(everything, "\n".join(lines))


def _default(option: Option) -> Any:
    """Return an option's default in Python, None if it is settled later."""
    return None if option.default is MISSING else False if option.type is bool else option.default


def _annotation(option: Option) -> Any:
    """Return the type of an option in Python."""
    one = option.type
    for word in option.words:
        one = one | Literal[word]
    kind = Sequence[one] if option.is_list else one
    return kind | None if _default(option) is None else kind


_document(search)
_document(sweep)


def _import_tqdm() -> None:
    """Import tqdm, which Optuna does, without its warning that a notebook has no widgets: Hyperlax shows none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401


@contextmanager
def _told(function: str = "") -> Iterator[None]:
    """Let an error of the block that names options begin with the function and name the keywords."""
    try:
        yield
    except OptionFailure as error:
        raise error.spelled(lambda name: _KEYWORDS.get(name, name), function) from error


def _given(keywords: dict[str, Any], function: Callable[..., Study] = search) -> Given:
    """Return the given values by option. Raises TypeError for an unknown keyword, OptionError for a value of another type."""
    known = _PYTHON[function]
    unknown = sorted(keywords.keys() - known.keys())
    if unknown:
        names = sorted({*known, *signature(function).parameters})
        hint = did_you_mean(unknown[0], names).strip()
        there_are = f"There are {', '.join(names)}."
        raise TypeError(f"{function.__name__}() has no argument {unknown[0]!r}. {hint or there_are}")
    if callable(keywords.get("recipe")):
        problem = "{algo_and_network_config} needs the name of a recipe or the path of a .py file, got a function."
        raise OptionError("algo_and_network_config", problem)
    given = {}
    for keyword, value in keywords.items():
        option = known[keyword]
        if value is None:
            continue
        read = option.read_given(_written(value))
        if option.type is not bool:
            given[option.name] = read
        elif read:
            given[option.name] = not option.is_switched_off
    return given


def _entries(space: Any, is_new: bool) -> dict[str, Entry]:
    """Return the entries of a search space. Raises UsageError if it is not a dictionary with names, or given on a resume."""
    from hyperlax.config.space_entries import entries_of

    if space is None:
        return {}
    if not is_new:
        raise UsageError("search(): a study keeps its search space. Leave `space` out to continue the study.")
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        example = '{"gamma": [0.98, 0.99]}'
        raise UsageError(f"search(): space needs a dictionary, e.g. {example}, got {space!r}.")
    return entries_of(space, "search(): space")


def _written(value: Any) -> Any:
    """Return a value as a file holds it. Configurations become JSON text; raises OptionError for what JSON cannot hold."""
    if isinstance(value, Path):
        return str(value)
    several = value if isinstance(value, (list, tuple)) else [value]
    if not any(isinstance(one, Mapping) for one in several):
        return plain(value)
    return as_text(value)
