"""The arguments of `pbt` and `pbt-replay`, resolved and checked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hyperlax.argument_checks import at_least, check_run, required
from hyperlax.arguments import SingleArguments, arguments_from_json
from hyperlax.errors import UsageError
from hyperlax.schedulers.registry import EXPLORERS

if TYPE_CHECKING:
    from hyperlax.pbt_flags import PopulationFlags, ReplayFlags
    from hyperlax.recipe import Recipe
    from hyperlax.study.pbt_schedule import Schedule

OBJECTIVE = "final_performance"
MAY_CHANGE_ON_RESUME = ("log_level",)


@dataclass(frozen=True)
class PopulationArguments:
    """Every argument of `pbt`, none left open."""

    algo_and_network_config: str
    env_config: str
    population_size: int
    num_intervals: int
    explore: str
    quantile: float
    output_root: str
    log_level: str
    seed: int
    num_seeds: int
    aggregate: str
    total_timesteps: int
    num_eval_episodes: int
    compilation_cache: bool

    confirm_top: ClassVar[int] = 0

    @property
    def num_evaluations(self) -> int:
        """One at the end of every interval."""
        return self.num_intervals

    @property
    def study_name(self) -> str:
        """Of the Optuna study that keeps the run."""
        from hyperlax.envs import slug

        return f"{Path(self.algo_and_network_config).stem}_{slug(self.env_config)}_pbt"

    @property
    def objectives(self) -> dict[str, str]:
        """The return at an interval's end, of which a trial's curve has no other."""
        return {OBJECTIVE: "maximize"}

    def to_json(self) -> dict[str, Any]:
        """What `study.json` keeps under `arguments`."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> PopulationArguments:
        """What `to_json` wrote. UsageError, beginning with `where`, for anything else."""
        if "population_size" not in stored:
            raise UsageError(f"{where}: is of no population. Go on with it by hyperlax optuna-hp-search --resume-from.")
        return arguments_from_json(cls, stored, where)


def resolve(flags: PopulationFlags, recipe: Recipe) -> PopulationArguments:
    """The arguments of a new run. UsageError for what cannot run."""
    given = given_arguments(flags, recipe)
    length = recipe.config.run_lengths["default"]
    defaults = PopulationArguments(
        algo_and_network_config=recipe.name,
        env_config=required(flags.env_config, "--env-config", "an environment such as gymnax.pendulum"),
        population_size=16,
        num_intervals=length.num_evaluations,
        explore="perturb",
        quantile=0.25,
        output_root="my_pbt_runs",
        log_level="INFO",
        seed=0,
        num_seeds=1,
        aggregate="mean",
        total_timesteps=length.total_timesteps,
        num_eval_episodes=length.num_eval_episodes,
        compilation_cache=True,
    )
    return checked(replace(defaults, **given))


def resolve_resumed(flags: PopulationFlags, stored: PopulationArguments, recipe: Recipe) -> PopulationArguments:
    """The arguments of a run that goes on. UsageError if given ones contradict it."""
    from hyperlax.resumed_arguments import check_agreement

    given = given_arguments(flags, recipe)
    check_agreement(stored, given, MAY_CHANGE_ON_RESUME)
    return checked(replace(stored, **{name: given[name] for name in MAY_CHANGE_ON_RESUME if name in given}))


def given_arguments(flags: PopulationFlags, recipe: Recipe) -> dict[str, Any]:
    """Argument name -> value of what was given, the run length's name resolved to what it stands for."""
    given = {f.name: getattr(flags, f.name) for f in fields(flags)}
    given.pop("resume_from")
    modifier, uncached = given.pop("run_length_modifier"), given.pop("no_compilation_cache")
    given = {name: value for name, value in given.items() if value is not None}
    if modifier:
        length = asdict(recipe.config.run_lengths[modifier])
        given = {"num_intervals": length.pop("num_evaluations"), **length, **given}
    if uncached:
        given["compilation_cache"] = False
    if "log_level" in given:
        given["log_level"] = given["log_level"].upper()
    if given.get("algo_and_network_config", "").endswith(".py"):
        given["algo_and_network_config"] = str(Path(given["algo_and_network_config"]).resolve())
    return given


def checked(arguments: PopulationArguments) -> PopulationArguments:
    """The same arguments. UsageError for any that cannot run, alone or together."""
    at_least(arguments.population_size, 2, "population_size")
    at_least(arguments.num_intervals, 2, "num_intervals")
    if 1 <= arguments.total_timesteps < arguments.num_intervals:
        raise UsageError(
            f"--total-timesteps {arguments.total_timesteps} is less than one step for each of --num-intervals "
            f"{arguments.num_intervals}. Raise the first or lower the second."
        )
    check_run(arguments)
    if not 0 < arguments.quantile <= 0.5:
        raise UsageError(
            f"--quantile needs a share above 0 and at most 0.5, got {arguments.quantile}: no member may be among the worst "
            "and the best at once."
        )
    if arguments.explore not in EXPLORERS:
        raise UsageError(f"--explore: nothing named {arguments.explore!r}. Use {', '.join(EXPLORERS)}.")
    if arguments.explore == "pb2" and importlib.util.find_spec("sklearn") is None:
        raise UsageError(
            '--explore pb2 needs scikit-learn, which is not installed: pip install "hyperlax[pb2]". Or use perturb.'
        )
    return arguments


def resolve_replay(flags: ReplayFlags, schedule: Schedule) -> SingleArguments:
    """The arguments of a replay, as those of one training whose `params` is the schedule's file. UsageError for what cannot run."""
    arguments = SingleArguments(
        algo_and_network_config=schedule.algo_and_network_config,
        env_config=schedule.env_config,
        params=flags.schedule,
        trial=None,
        assignments=(),
        output_root=flags.output_root or "my_pbt_replays",
        log_level=(flags.log_level or "INFO").upper(),
        seed=schedule.seed + 1 if flags.seed is None else flags.seed,
        num_seeds=5 if flags.num_seeds is None else flags.num_seeds,
        aggregate=flags.aggregate or "mean",
        total_timesteps=schedule.total_timesteps,
        num_evaluations=len(schedule.schedule),
        num_eval_episodes=schedule.num_eval_episodes if flags.num_eval_episodes is None else flags.num_eval_episodes,
        compilation_cache=not flags.no_compilation_cache,
    )
    check_run(arguments)
    return arguments
