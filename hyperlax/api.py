"""Studies on disk from Python, for notebooks: what the command line shows of them, in a few lines.

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
>>> study.plot.metric_vs_param("actor_lr").layout.xaxis.type
'log'
>>> study.report().name
'report.html'
>>> study.html()[:15]
'<!DOCTYPE html>'
"""

from __future__ import annotations

import warnings
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.errors import HyperlaxError, did_you_mean, spelling
from hyperlax.files import expanded

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from hyperlax.agent import Agent
    from hyperlax.analysis.plots.base import Plot
    from hyperlax.study.batch_files import LearningCurve
    from hyperlax.study.record import Confirmation, StudyRecord, TrialRecord
    from hyperlax.study.view import StudyView


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

    with spelling(str):
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
        return f"<pre>{escape(study_text(opened.record, opened.state, opened.record.total, count=10))}</pre>"

    def refresh(self) -> None:
        """Read the directory again. Raises UsageError if it does not hold a study."""
        self._opened = self._load()
        vars(self).pop("record", None)

    @cached_property
    def record(self) -> StudyRecord:
        """Study as plain data, importances and confirmation included."""
        from hyperlax.study.view import with_confirmation

        return with_confirmation(self._opened.record)

    def _load(self) -> StudyView:
        import_tqdm()
        from hyperlax.study.view import load_study

        with spelling(str):
            return load_study(self.directory, "open_study")

    @property
    def state(self) -> str:
        """State: running or confirming, and with how many agents if it has any, finished or stopped."""
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
        return self._opened.record.winners.copy()

    def top(self, count: int = 5) -> list[TrialRecord]:
        """Return the best trials, best first; with several objectives the first of the Pareto front, by number."""
        return self._opened.record.top(count)

    def importances(self, objective: str | None = None) -> dict[str, float]:
        """Return how much of an objective's variation each hyperparameter explains: dotted name -> share, the largest first.

        objective: the first one by default. Raises HyperlaxError if the study does not have it, or has too few trials to tell.
        """
        known = list(self._opened.record.objectives)
        name = known[0] if objective is None else objective
        if name not in known:
            hint = did_you_mean(name, known)
            raise HyperlaxError(f"{self.directory}: has no objective {name!r}. {hint}There are {', '.join(known)}.")
        shares = self.record.importances.get(name)
        if not shares:
            raise HyperlaxError(f"{self.directory}: {self.record.without_importances()}")
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

        with spelling(str):
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

    def html(self) -> str:
        """Return the report as one page of HTML that needs no network, for a notebook or a card. Nothing is written."""
        from hyperlax.analysis.pages import report_page

        return report_page(self.record)


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

    def metric_vs_param(self, name: str, metric: str | None = None) -> go.Figure:
        """Draw one point per COMPLETE trial over a searched hyperparameter, on a logarithmic axis if it is searched on one.

        name: dotted or short. metric: any metric of the trials, by default the first objective.
        """
        from hyperlax.analysis.plots import slice
        from hyperlax.analysis.plots.base import as_plotly
        from hyperlax.analysis.study_data import StudyData
        from hyperlax.fields import full_name

        record, where = self._study.record, f"{self._study.directory}: metric_vs_param()"
        if not record.space:
            raise HyperlaxError(f"{where}: the study searches no hyperparameter.")
        metric = next(iter(record.objectives)) if metric is None else metric
        if metric not in record.scale.table.rows:
            known = record.scale.table.rows
            raise HyperlaxError(
                f"{where}: no metric {metric!r}. {did_you_mean(metric, known)}There are {', '.join(known)}."
            )
        return as_plotly(slice.metric_vs_param(StudyData(record), full_name(name, record.space, where), metric))

    def param_distributions(self) -> go.Figure:
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
        from hyperlax.analysis.study_data import StudyData

        return self._named(name).draw(StudyData(self._study.record))

    def html(self, name: str) -> str:
        """Return the page of any plot, by its file's name, as HTML that needs no network."""
        from hyperlax.analysis.pages import plot_page

        return plot_page(self._study.record, self._named(name))

    def _named(self, name: str) -> Plot:
        from hyperlax.analysis.plots import PLOTS

        record, plots = self._study.record, {plot.name: plot for plot in PLOTS}
        if name not in plots:
            raise HyperlaxError(f"There is no plot {name!r}. {did_you_mean(name, plots)}There are {', '.join(plots)}.")
        if not plots[name].applies(record):
            raise HyperlaxError(f"{record.directory}: {plots[name].otherwise}")
        return plots[name]


def import_tqdm() -> None:
    """Import tqdm, which Optuna does, without its warning that a notebook has no widgets: Hyperlax shows none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401
