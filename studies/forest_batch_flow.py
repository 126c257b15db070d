"""A random forest on the breast cancer data, each trial a task of Metaflow, all suggested before the first one trains.

`python forest_batch_flow.py run --n_trials 20` trains 20 of them.
"""

from metaflow import FlowSpec, Parameter, card, step

from hyperlax.metaflow import create_study_inputs, hyperparam, rebuild_study, render_study_card


def space(trial):
    """Ask a trial for its hyperparameters, and return them."""
    return {
        "n_estimators": trial.suggest_int("n_estimators", 10, 200, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 12),
    }


class ForestBatchFlow(FlowSpec):
    """No coordinator: every task gets the configuration that it trains."""

    n_trials = Parameter("n_trials", default=20, type=int, help="Number of trials.")

    @step
    def start(self):
        self.configs = create_study_inputs(space, self.n_trials, direction="maximize")
        self.next(self.train, foreach="configs")

    @hyperparam(objective="accuracy", direction="maximize", mode="batch")
    @step
    def train(self):
        from sklearn.datasets import load_breast_cancer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import cross_val_score

        forest = RandomForestClassifier(**space(self.trial), random_state=0)
        self.accuracy = cross_val_score(forest, *load_breast_cancer(return_X_y=True), cv=3).mean()
        self.next(self.report)

    @card(type="blank")
    @step
    def report(self, inputs):
        self.study = rebuild_study(inputs, objective="accuracy", direction="maximize")
        render_study_card(self.study)
        self.next(self.end)

    @step
    def end(self):
        if any(trial.state.name == "COMPLETE" for trial in self.study.trials):
            print(f"Best accuracy: {self.study.best_value:.3f} with {self.study.best_params}")
        else:
            print("No trial is complete.")


if __name__ == "__main__":
    ForestBatchFlow()
