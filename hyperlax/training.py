"""Training from Python: the commands that train as functions, whose arguments are the commands' options.

`training.pyi` has the same signatures written out, for editors and type checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperlax.api import Study, import_tqdm
from hyperlax.config.command_options import TuneOptions
from hyperlax.config.configurations import as_text
from hyperlax.config.option import HIDDEN, Given, OneOf, Option, options_of, shown
from hyperlax.config.options import SearchOptions, SweepOptions
from hyperlax.config.speech import SHELL, Speech, python_call, speaking
from hyperlax.config.stored import SEARCH, SWEEP, TUNE
from hyperlax.errors import STOPPED, HyperlaxError, OptionError, UsageError, did_you_mean, spelling
from hyperlax.files import plain
from hyperlax.functions import placed
from hyperlax.tasks import Measure
from hyperlax.tuning import Tuning, check_function

if TYPE_CHECKING:
    from hyperlax.config.yaml_file import Entry
    from hyperlax.recipe import Recipe


def search(
    recipe: str | Path | None = None,
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
      options: The options of the command with underscores, as in the signature.

    Raises:
      TypeError: An option does not exist.
      UsageError: It was refused before anything ran.
      HyperlaxError: Too many trials failed. KeyboardInterrupt: It was interrupted; `resume_from` continues.
    """
    return _run(search, {"recipe": recipe, "environment": environment, **options}, space)


def sweep(recipe: str | Path | None = None, environment: str | None = None, **options: Any) -> Study:
    """Run `sweep-hp-samples` to its end and return the study.

    Args:
      recipe: A name or the path of a .py file.
      environment: E.g. "gymnax.pendulum". With `resume_from=DIR`, leave out recipe and environment.
      options: The options of the command with underscores, as in the signature.

    Raises what `search` raises.
    """
    return _run(sweep, {"recipe": recipe, "environment": environment, **options})


def tune(
    function: Callable[..., Any],
    *,
    space: Mapping[str, Any] | None = None,
    metric: str | Measure | Sequence[str | Measure] | None = None,
    mode: Literal["max", "min"] | Sequence[Literal["max", "min"]] | None = None,
    params: Mapping[str, Any] | None = None,
    budget: int | None = None,
    evaluations: int | None = None,
    resources: Mapping[str, float] | None = None,
    **options: Any,
) -> Study:
    """Search the hyperparameters of a Python function, in worker processes, and return the study.

    Args:
      function: `function(params)`, which returns the metric, or all measures by name; or `function(params, report, seed)`, which
        reports them as `report(step, accuracy=0.9)`, so that a pruner can stop it. Worker processes load it from its file, so a
        script calls `tune` below `if __name__ == "__main__":`. A lambda, or a function of a notebook, needs cloudpickle.
      space: Its hyperparameters: a distribution, a list of choices, or a fixed value by each name.
      metric: What it reaches, by name or as a `Measure`: several in a list, of which the first one is optimized.
      mode: Whether larger or smaller is better, one per metric. (default: max)
      params: Values with which the search starts. Without one it is the middle of a range, the first of a list.
      budget: The last step that it reports; without it only its last report counts, and no pruner can stop it. evaluations: How
        often it reports, by default at every step.
      resources: What a trial needs: {"cpu": 2, "gpu": 0.5}. The default is one core.
      options: The options of the command with underscores, as in the signature.

    With `resume_from=DIR`, leave out all of these but the function, or give them as before. Raises what `search` raises.
    """
    own = Tuning(space, metric, mode, params, budget, evaluations, resources)
    check_function(function)
    with placed(function, "tune()") as found:
        return _run(tune, options, recipe=lambda given: own.recipe(found, given))


_NAMES = {"algo_and_network_config": "recipe", "env_config": "environment"}
_COMMANDS = {search: SEARCH, sweep: SWEEP, tune: SEARCH}
_KINDS = {search: SearchOptions, sweep: SweepOptions, tune: TuneOptions}
_NOT_IN_PYTHON = {"plan_only", "json", *(options_of(TuneOptions).keys() - options_of(SearchOptions).keys())}
"""Options that are for the command line. `tune` has arguments of its own for the function and its space."""


def _options(function: Callable[..., Study]) -> dict[str, Option]:
    """Return the options of a function that trains by their keywords."""
    return {
        _NAMES.get(name, option.key if option.is_switched_off else name): option
        for name, option in options_of(_KINDS[function]).items()
        if not option.has(HIDDEN) and name not in _NOT_IN_PYTHON
    }


_PYTHON = {function: _options(function) for function in _COMMANDS}
"""Function that trains -> its keywords -> the option."""
_KEYWORDS = {
    word: keyword for own in _PYTHON.values() for keyword, option in own.items() for word in (option.key, option.name)
}
_KEYWORDS["set"] = "params"
"""Name of an option, also that of its flag -> its keyword."""


_OTHER_WORDS = {
    "direction": "mode", "num_samples": "n_trials", "n_jobs": "slots", "max_concurrent_trials": "slots", "config": "space",
    "param_space": "space", "points_to_evaluate": "enqueue", "name": "study_name", "storage_path": "output_root",
}  # fmt: skip
"""Words of other tools that do the same -> ours."""


def _keyword(name: str) -> str:
    return _KEYWORDS.get(name, name)


def _call(command: str, options: Mapping[str, Any]) -> str:
    """Return the call for a command, the command line for one that has no function."""
    command = SEARCH if command == TUNE else command
    name = next((function.__name__ for function, own in _COMMANDS.items() if own == command), None)
    if name is None:
        return SHELL.command(command, options)
    return python_call(name, {_keyword(key): value for key, value in options.items()})


_SPEECH = Speech(_keyword, _call)


def _run(
    function: Callable[..., Study],
    keywords: dict[str, Any],
    space: Any = None,
    recipe: Callable[[Given], Recipe | None] = lambda given: None,
) -> Study:
    """Run the command of a function to its end and return the study. Raises what the function raises."""
    from hyperlax.studies import planned_study

    import_tqdm()
    with spelling(_keyword, f"{function.__name__}(): "), speaking(_SPEECH):
        given = _given(keywords, function)
        entries = _entries(space, is_new="resume_from" not in given)
        study = planned_study(_COMMANDS[function], given, entries, recipe(given))
        status = study.run()
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise HyperlaxError(f"{study.directory}: {function.__name__}() failed; see its output for the reason.")
    return Study(study.directory)


def _document(function: Any) -> None:
    """Set the signature and the arguments in the docstring of a function that trains, so that a notebook completes them."""
    own = list(signature(function, eval_str=True).parameters.values())[:-1]
    taken = {parameter.name for parameter in own}
    more = {keyword: option for keyword, option in _PYTHON[function].items() if keyword not in taken}
    written = [
        Parameter(keyword, Parameter.KEYWORD_ONLY, default=_default(option), annotation=_annotation(option))
        for keyword, option in more.items()
    ]
    function.__signature__ = Signature([*own, *written], return_annotation=Study)
    lines = [f"  {word}: {option.help(_keyword)} ({option.default_text(_keyword)})" for word, option in more.items()]
    everything = "  options: The options of the command with underscores, as in the signature."
    function.__doc__ = (getdoc(function) or "").replace(everything, "\n".join(lines))


def _default(option: Option) -> Any:
    """Return an option's default in Python, None if it is settled later."""
    return None if option.default is MISSING else False if option.type is bool else option.default


def _annotation(option: Option) -> Any:
    """Return the type of an option in Python."""
    choices = option.mark(OneOf)
    one: Any = Literal[choices.words] if choices else option.type
    for word in option.words:
        one = one | Literal[word]
    if option.is_path:
        one = one | Path
    if option.name == "enqueue":
        one = one | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    if option.is_list:
        one = one | Sequence[one]
    return one | None if _default(option) is None else one


for _function in _COMMANDS:
    _document(_function)


def _given(keywords: dict[str, Any], function: Callable[..., Study] = search) -> Given:
    """Return the given values by option. Raises TypeError for an unknown keyword, OptionError for a value of another type."""
    known = _PYTHON[function]
    unknown = sorted(keywords.keys() - known.keys())
    if unknown:
        names = sorted({*known, *signature(function).parameters})
        ours = _OTHER_WORDS.get(unknown[0])
        hint = did_you_mean(ours if ours in names else unknown[0], names).strip()
        there_are = f"There are {', '.join(names)}."
        raise TypeError(f"{function.__name__}() has no argument {unknown[0]!r}. {hint or there_are}")
    if callable(keywords.get("recipe")):
        problem = "{algo_and_network_config} needs the name of a recipe or the path of a .py file, got a function. "
        problem += "Give that to hyperlax.tune."
        raise OptionError("algo_and_network_config", problem)
    given = {}
    for keyword, value in keywords.items():
        option = known[keyword]
        if value is None:
            continue
        read = option.read_given(_first_trials(value) if option.name == "enqueue" else _written(value))
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
    example = '{"gamma": [0.98, 0.99]}'
    if not isinstance(space, Mapping):
        raise UsageError(f"search(): space needs a dictionary, e.g. {example}, got {space!r}.")
    if wrong := [name for name in space if not isinstance(name, str)]:
        raise UsageError(f"search(): space needs names that are texts, e.g. {example}, got the name {wrong[0]!r}.")
    return entries_of(space, "search(): space")


def _written(value: Any) -> Any:
    """Return a value as a file holds it."""
    return str(value) if isinstance(value, Path) else plain(value)


def _first_trials(value: Any) -> str:
    """Return configurations as JSON text, and the path of a file as it is. Raises OptionError for anything else."""
    if isinstance(value, (str, Path)):
        return str(value)
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(one, Mapping) for one in several):
        problem = "{enqueue} needs a dictionary or a list of them, e.g. {0}, or the path of a JSON file, got {1}."
        raise OptionError("enqueue", problem, '[{"gamma": 0.98}]', shown(plain(value)))
    return as_text([dict(one) for one in several])
