"""A random forest on the breast cancer data, each trial a task of Metaflow, suggested from the trials that have ended.

`python forest_flow.py run --n_trials 20` trains 20 of them.
"""

from metaflow import FlowSpec, Parameter, card, current, step

from hyperlax.metaflow import hyperparam, optuna_coordinator, render_study_card, render_study_html
from hyperlax.metaflow.rendezvous import await_coordinator


class ForestFlow(FlowSpec):
    """One branch holds the study, the other trains its trials."""

    n_trials = Parameter("n_trials", default=20, type=int, help="Number of trials.")

    @step
    def start(self):
        self.coordinator_id = current.run_id
        self.n_trials_int = self.n_trials
        self.next(self.coordinate, self.begin)

    @optuna_coordinator(direction="maximize", sampler="tpe")
    @step
    def coordinate(self):
        self.next(self.report)

    @step
    def begin(self):
        self.coordinator_url = await_coordinator(self.coordinator_id)
        self.trials = list(range(self.n_trials_int))
        self.next(self.train, foreach="trials")

    @hyperparam(objective="accuracy", direction="maximize")
    @step
    def train(self):
        from sklearn.datasets import load_breast_cancer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import cross_val_score

        forest = RandomForestClassifier(
            n_estimators=self.trial.suggest_int("n_estimators", 10, 200, log=True),
            max_depth=self.trial.suggest_int("max_depth", 2, 12),
            max_features=self.trial.suggest_categorical("max_features", ["sqrt", "log2", None]),
            random_state=0,
        )
        self.accuracy = cross_val_score(forest, *load_breast_cancer(return_X_y=True), cv=3).mean()
        self.next(self.collect)

    @step
    def collect(self, inputs):
        self.results = [task.trial_result for task in inputs if hasattr(task, "trial_result")]
        self.next(self.report)

    @card(type="blank")
    @step
    def report(self, inputs):
        self.study = inputs.coordinate.study
        self.page = render_study_html(self.study)
        render_study_card(self.study)
        self.next(self.end)

    @step
    def end(self):
        if any(trial.state.name == "COMPLETE" for trial in self.study.trials):
            print(f"Best accuracy: {self.study.best_value:.3f} with {self.study.best_params}")
        else:
            print("No trial is complete.")


if __name__ == "__main__":
    ForestFlow()
