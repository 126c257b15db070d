"""Studies from Python, for notebooks: what the command line does, in a few lines.

`study = hyperlax.search("sac_mlp", "gymnax.pendulum", n_trials=12)` gives the same as, once it is on disk:

>>> import hyperlax
>>> study = hyperlax.open_study(directory)
>>> study.state, len(study.trials)
('finished', 12)
>>> study.trials["peak_performance"].idxmax() == study.best.number
True
>>> study.pareto == [study.best]
True
>>> study.curve(study.best.number).returns.shape  # points, seeds
(6, 2)
>>> type(study.plot.history()).__name__
'Figure'
>>> study.report().name
'report.html'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from hyperlax.errors import HyperlaxError
from hyperlax.flags import SearchFlags

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from hyperlax.agent import Agent
    from hyperlax.analysis.curves import LearningCurve
    from hyperlax.study.record import Confirmation, StudyRecord, TrialRecord

INTERRUPTED = (130, 143)


def search(recipe: str | None = None, environment: str | None = None, **arguments: Any) -> Study:
    """Run `optuna-hp-search` to its end and give the study.

    recipe: a name or the path of a .py file. environment: e.g. "gymnax.pendulum". arguments: the command's flags with underscores,
    e.g. `n_trials=32`, `objective_names=["peak_performance", "num_parameters"]`; with `resume_from=DIR` neither of the first two.

    Raises:
      TypeError: there is no such argument.
      UsageError: refused before anything ran.
      HyperlaxError: too many trials failed. KeyboardInterrupt: it was interrupted; `resume_from` goes on.
    """
    from hyperlax.commands import search as run

    status, directory = run(_flags(arguments, recipe, environment))
    if status in INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise HyperlaxError(f"{directory}: the search failed; what it printed says why.")
    return Study(directory)


def open_study(directory: str | Path) -> Study:
    """The study, or population, in a directory. UsageError if there is none."""
    return Study(Path(directory))


def load_agent(path: str | Path, trial: int | None = None, seed: int | None = None) -> Agent:
    """A trained policy: `agent(observation)` gives the action, also for a batch of observations. Nothing but numpy acts in it.

    path: a .safetensors file, or the directory of a study or of a single run. trial: of a study, by default its best. seed: of
    the trial's, by default the one with the best return. UsageError if there is no such agent.
    """
    from hyperlax.agent import load_agent as load
    from hyperlax.study.agents import find_agent

    return load(find_agent(Path(path), trial, "load_agent"), seed)


class Study:
    """A study as its directory holds it when it is first asked for anything; `refresh` looks again."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.refresh()

    def __repr__(self) -> str:
        return f"Study({str(self.directory)!r})"

    def refresh(self) -> None:
        """Read the directory again. UsageError if it holds no study."""
        from hyperlax.study.opened import open_study as opened

        self._opened = opened(self.directory, "open_study")
        vars(self).pop("record", None)

    @cached_property
    def record(self) -> StudyRecord:
        """Everything that is known, importances and confirmation included."""
        from hyperlax.study.opened import open_study as opened
        from hyperlax.study.opened import with_confirmation

        return with_confirmation(opened(self.directory, "open_study", with_importances=True).record)

    @property
    def state(self) -> str:
        """running, finished or stopped."""
        return self._opened.state

    @property
    def best(self) -> TrialRecord:
        """The best trial. HyperlaxError where there is none yet, or where there are several objectives: see `pareto`."""
        if len(self._opened.record.objectives) > 1:
            raise HyperlaxError(f"{self.directory}: has several objectives, so no trial is the best. Use study.pareto.")
        best = self.pareto
        if not best:
            raise HyperlaxError(f"{self.directory}: no trial can win yet.")
        return best[0]

    @property
    def pareto(self) -> list[TrialRecord]:
        """The Pareto front by number; with one objective the best trial alone."""
        from hyperlax.study.ranking import winners

        return winners(self._opened.record)

    @property
    def trials(self) -> pandas.DataFrame:
        """A row a trial, indexed by its number, with the columns of `trials.csv`; lists stay lists."""
        import pandas

        from hyperlax.analysis.tables import trial_rows

        header, rows = trial_rows(self._opened.record)
        return pandas.DataFrame(rows, columns=header).set_index("trial")

    @property
    def confirmation(self) -> Confirmation | None:
        """The best on seeds that the search never saw, None where that was not asked for."""
        return self.record.confirmation

    def curve(self, trial: int) -> LearningCurve:
        """The learning curve of a trial. HyperlaxError if there is no such trial, or nothing of it on disk."""
        from hyperlax.analysis.curves import read_curves

        record = next((one for one in self._opened.record.trials if one.number == trial), None)
        if record is None:
            raise HyperlaxError(f"{self.directory}: there is no trial {trial}.")
        try:
            return read_curves([record])[trial]
        except ValueError as error:
            raise HyperlaxError(str(error)) from error

    @property
    def plot(self) -> Plots:
        """Its plots, as figures of plotly."""
        return Plots(self)

    def report(self) -> Path:
        """Write `report.html` and the plots again, as of now; where it is."""
        from hyperlax.analysis.pages import write_study_pages

        self.refresh()
        write_study_pages(self.record)
        return self.directory / "report.html"


class Plots:
    """The plots of the report, each a `plotly.graph_objects.Figure`. NothingToShow, in words, where there is no data for one."""

    def __init__(self, study: Study):
        self._study = study

    def history(self) -> go.Figure:
        """Each COMPLETE trial's value, and the best until then."""
        return self.draw("optimization_history")

    def importances(self) -> go.Figure:
        """How much of the objective's variation each hyperparameter explains."""
        return self.draw("param_importances")

    def learning_curves(self) -> go.Figure:
        """The ten best trials, with the spread of their seeds."""
        return self.draw("learning_curves")

    def parallel_coordinate(self) -> go.Figure:
        """A line a COMPLETE trial."""
        return self.draw("parallel_coordinate")

    def slice(self) -> go.Figure:
        """Each hyperparameter on its own against the objective."""
        return self.draw("slice")

    def contour(self) -> go.Figure:
        """The two most important hyperparameters together."""
        return self.draw("contour")

    def timeline(self) -> go.Figure:
        """What each lane trained when."""
        return self.draw("timeline")

    def pareto_front(self) -> go.Figure:
        """The trials of several objectives."""
        return self.draw("pareto_front")

    def hypervolume(self) -> go.Figure:
        """What the trials so far of several objectives dominate."""
        return self.draw("hypervolume_history")

    def confirmation(self) -> go.Figure:
        """The best on new seeds."""
        return self.draw("confirmation")

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


def _flags(arguments: dict[str, Any], recipe: str | None, environment: str | None) -> SearchFlags:
    """As the command line would give them. UsageError for a value of another type."""
    known = {field.name for field in fields(SearchFlags)} - {
        "plan_only",
        "json",
        "algo_and_network_config",
        "env_config",
    }
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise TypeError(f"search() has no argument {unknown[0]!r}. There are {', '.join(sorted(known))}.")
    from hyperlax.study_files import typed
    from hyperlax.yaml_file import Entry

    hints = get_type_hints(SearchFlags)
    names = {"algo_and_network_config": "recipe", "env_config": "environment"}
    given = {
        name: typed(names.get(name, name), Entry("search()", _plain(value)), hints[name])
        for name, value in {"algo_and_network_config": recipe, "env_config": environment, **arguments}.items()
        if value is not None
    }
    return SearchFlags(**given)


def _plain(value: Any) -> Any:
    """A value as a file would hold it: sequences are lists, paths text, numpy's numbers Python's."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    item = getattr(value, "item", None)
    return item() if item else value
