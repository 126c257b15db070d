# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false
"""A flow with a coordinator, whose trials are quick. `LOST` is the index of one whose process is killed, unless `again` exists."""

import os
import signal
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, catch, current, step

from hyperlax.metaflow import hyperparam, optuna_coordinator
from hyperlax.metaflow.rendezvous import await_coordinator

guarded = catch(var="failure") if os.environ.get("CAUGHT") else lambda function: function


class TuningFlow(FlowSpec):
    n_trials = Parameter("n_trials", default=3, type=int)

    @step
    def start(self):
        self.coordinator_id, self.n_trials_int = current.run_id, self.n_trials
        self.next(self.coordinate, self.begin)

    @optuna_coordinator(direction="minimize", sampler="random")
    @step
    def coordinate(self):
        self.next(self.join)

    @step
    def begin(self):
        self.coordinator_url = await_coordinator(self.coordinator_id)
        self.trials = list(range(self.n_trials_int))
        self.next(self.train, foreach="trials")

    @guarded
    @hyperparam(objective="loss")
    @step
    def train(self):
        rate = self.trial.suggest_float("rate", 1e-3, 1.0, log=True)
        is_first = not Path("again").exists() and not current.retry_count
        if str(self.index) == os.environ.get("LOST") and is_first:
            while sum(one.state.is_finished() for one in self.trial.study.trials) < len(self.trials) - 1:
                time.sleep(0.5)
            time.sleep(6)  # until the study is written with the others
            os.kill(os.getpid(), signal.SIGKILL)
        if self.index == 2:
            raise ArithmeticError("too steep")
        self.loss = rate + self.trial.suggest_int("layers", 1, 4)
        self.next(self.collect)

    @step
    def collect(self, inputs):
        self.states = [task.trial_result.state for task in inputs if hasattr(task, "trial_result")]
        self.leftovers = [name for task in inputs for name in ("trial",) if hasattr(task, name)]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.study = inputs.coordinate.study
        self.states, self.leftovers = inputs.collect.states, inputs.collect.leftovers
        self.next(self.end)

    @step
    def end(self):
        print("states", sorted(self.states), "left", self.leftovers)


if __name__ == "__main__":
    TuningFlow()
