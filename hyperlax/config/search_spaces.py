"""Search spaces and presets of a file as other tools write them: `search_spaces` by algorithm, `experiments` by preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hyperlax.config.option import Given, shown
from hyperlax.config.options import PRESETS
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import OptionError, UsageError, did_you_mean
from hyperlax.fields import ALIASES, fields_of
from hyperlax.recipe import Recipe, available

SPACES, EXPERIMENTS = "search_spaces", "experiments"
_IGNORED = ("description", "comment")

_OPTIONS: dict[str, tuple[str, ...]] = {
    "total_timesteps": ("timesteps", "steps", "total_steps", "max_timesteps", "training_steps", "n_timesteps"),
    "n_trials": ("trials", "num_trials"),
    "num_seeds": ("seeds", "n_seeds"),
    "num_evaluations": ("evaluations", "n_evaluations", "num_evals", "n_evals"),
    "num_eval_episodes": ("eval_episodes", "n_eval_episodes"),
    "env_config": ("env", "environment", "env_id", "env_name"),
    "algo_and_network_config": ("recipe",),
    "objective_names": ("objectives", "objective", "metric"),
    "study_name": ("name",),
}
"""Option -> what a preset may call it as well."""
_PARTS = {
    "type": ("distribution", "dist"),
    "low": ("min", "lower", "minimum"),
    "high": ("max", "upper", "maximum"),
    "values": ("choices", "options", "categories"),
}
"""Part of an entry -> what else it is called."""
_TYPES: dict[str, tuple[str, ...]] = {
    "uniform": ("uniform", "float", "real", "continuous", "uniform_float", "float_uniform"),
    "loguniform": (
        "loguniform",
        "log_uniform",
        "log_uniform_values",
        "log_float",
        "float_log",
        "loguniform_float",
        "log",
    ),
    "randint": ("randint", "int", "integer", "uniform_int", "int_uniform"),
    "lograndint": ("lograndint", "log_int", "int_log", "logint", "loguniform_int", "int_loguniform"),
    "quniform": ("quniform", "q_uniform", "discrete_uniform"),
    "choice": ("choice", "categorical", "choices", "enum"),
    "bool": ("bool", "boolean"),
    "fixed": ("fixed", "constant"),
}
"""Type -> its spellings. lograndint, bool and fixed become a type of a study's file with other parts."""

_DIFFERS: dict[str, tuple[tuple[str, ...], str]] = {
    "num_minibatches": (
        ("batch_size", "minibatch_size"),
        "num_minibatches says it here: a minibatch has total_num_envs * rollout_length / num_minibatches steps",
    ),
    "warmup_rollout_length": (
        ("learning_starts", "warmup", "warmup_steps", "start_steps"),
        "warmup_rollout_length says it here, in steps of each environment: divide by total_num_envs",
    ),
    "tau": (("polyak", "target_update"), "tau says it here: the share by which a target network moves, 1 - polyak"),
    "layer_sizes": (("hidden_size", "hidden_dim"), "hidden_sizes lists the layers here, as [[64, 64], [256, 256]]"),
    "init_alpha": (
        ("alpha", "temperature", "entropy", "entropy_coef", "entropy_coefficient", "entropy_cost"),
        "the temperature is learned here: init_alpha is where it starts, alpha_lr how fast it changes",
    ),
    "target_entropy_scale": (
        ("target_entropy",),
        "target_entropy_scale says it here, as a share of the action entries",
    ),
    "epochs": (("gradient_steps",), "epochs says it here: updates after each rollout of rollout_length steps"),
    "training_epsilon": (
        ("epsilon", "exploration", "exploration_eps"),
        "training_epsilon and exploration_fraction say it here",
    ),
}
"""Last name here -> names elsewhere that mean it by other values, and what to write instead."""


def choose(entries: Mapping[str, Entry], path: str, given: Given) -> tuple[dict[str, Entry], bool]:
    """Return the entries of a file with the chosen space and preset in place of all, and whether the preset was one of the file.

    given: the options of the command line, of which a preset replaces what else the file says. Raises UsageError, naming file and
    line.
    """
    space, preset = given.get("space"), given.get("preset")
    found = {name: entry for name, entry in entries.items() if name not in (SPACES, EXPERIMENTS)}
    presets = _named(entries.get(EXPERIMENTS), "quick_test: {n_trials: 5}")
    is_given = preset is not None and preset in presets
    name = preset if preset is not None else found["preset"].value if "preset" in found else None
    if isinstance(name, str) and name in presets:
        found.pop("preset", None)
        options = _options(presets[name])
        space = _own_space(options) if space is None else space
        found = {**found, **options} if is_given else {**options, **found}
    elif preset is not None and preset not in PRESETS:
        known = tuple(dict.fromkeys((*presets, *PRESETS)))
        hint = did_you_mean(preset, known).strip()
        problem = "{preset} needs one of {0}, got {1}." + (f" {hint}" if hint else "")
        raise OptionError("preset", problem, ", ".join(known), shown(preset))
    spaces = _named(entries.get(SPACES), "ppo: {gamma: [0.98, 0.99]}")
    if not spaces:
        if space is not None:
            raise OptionError("space", "{space} {0}: {1} has no {2}. Leave it out.", space, path, SPACES)
        return found, is_given
    if "space" in found:
        raise found["space"].refusal(f"space and {SPACES} cannot be combined. Keep one of the two.")
    chosen = _chosen(spaces, space, path)
    if "algo_and_network_config" not in {**given, **found}:
        found["algo_and_network_config"] = Entry(spaces[chosen].where, _recipe(chosen, spaces[chosen].where))
    searched = _mapping(spaces[chosen], f"{SPACES}.{chosen}", "gamma: [0.98, 0.99]")
    own = {name: entry_in_our_words(entry) for name, entry in searched.items() if name not in _IGNORED}
    found["space"] = Entry(spaces[chosen].where, {"only": Entry(spaces[chosen].where, True), **own})
    return found, is_given


def in_our_names(space: Mapping[str, Entry], recipe: Recipe) -> tuple[dict[str, Entry], str]:
    """Return the entries of a chosen space by dotted names, and a sentence about names of other tools; "" without any.

    Raises UsageError, naming file and line, for a name that means something else here. Unknown names stay.
    """
    known, found, said = fields_of(recipe.config.algorithm), dict[str, Entry](), []
    for name, entry in space.items():
        names = [full for full in known if full == name or full.endswith(f".{name}")] if recipe.task is None else []
        if not names and recipe.task is None:
            names = [full for full in known if full.rpartition(".")[2] in ALIASES.get(name, ())]
            for full in names:
                others, instead = _DIFFERS.get(full.rpartition(".")[2], ((), ""))
                if name in others:
                    raise entry.refusal(f"{recipe.name} has no `{name}`; {instead}.")
        for full in names or [name]:
            if full in found:
                raise entry.refusal(f"{full} is given twice, also by its other name. Keep one of the two.")
            found[full] = entry
        if names and (len(names) > 1 or names[0].rpartition(".")[2] != name):
            said.append(f"{name} is {_in_short(names)}")
    each = " Where a name is several here, each is searched by itself." if any(" and " in one for one in said) else ""
    return found, f"{', '.join(said)}.{each}" if said else ""


def _in_short(names: Sequence[str]) -> str:
    """Return hyperparameters in a few words: those of several networks by their last name."""
    last = [name.rpartition(".")[2] for name in names]
    if len(set(last)) == len(last):
        return " and ".join(last)
    return f"{last[0]} of {' and '.join(name.split('.')[2] for name in names)}"


def _chosen(spaces: Mapping[str, Entry], space: str | None, path: str) -> str:
    """Return the name of the chosen space: the only one, or the one that is given."""
    there = ", ".join(spaces)
    if space is None and len(spaces) > 1:
        raise OptionError("space", "{0}: has the search spaces {1}. Choose one with {space}.", path, there)
    if space is not None and space not in spaces:
        hint = did_you_mean(space, spaces)
        raise OptionError(
            "space", "{space} {0}: {1} has no such search space. {2}There are {3}.", space, path, hint, there
        )
    return space or next(iter(spaces))


def _recipe(space: str, where: str) -> str:
    """Return the recipe that a space is for, by its name."""
    names = available()
    for name in (space, f"{space.lower()}_mlp"):
        if name in names:
            return name
    raise UsageError(
        f"{where}: no recipe is named {space} or {space.lower()}_mlp. Name one of {', '.join(names)} as algo_and_network_config."
    )


def _named(entry: Entry | None, example: str) -> Mapping[str, Entry]:
    return {} if entry is None else _mapping(entry, "it", example)


def _mapping(entry: Entry, what: str, example: str) -> Mapping[str, Entry]:
    if not isinstance(entry.value, dict) or not entry.value:
        raise entry.refusal(f"{what} needs names and what belongs to them, as {example}, got {shown(entry.value)}.")
    return entry.value


def _options(preset: Entry) -> dict[str, Entry]:
    """Return the options of a preset, by our names."""
    given = _mapping(preset, "a preset", "n_trials: 5")
    return _renamed({name: entry for name, entry in given.items() if name not in _IGNORED}, _OPTIONS)


def _own_space(options: dict[str, Entry]) -> str | None:
    """Take the space that a preset chooses out of its options, and return its name."""
    entry = options.pop("space", options.pop("algorithm", None))
    if entry is not None and not isinstance(entry.value, str):
        raise entry.refusal(f"needs the name of a search space, got {shown(entry.value)}.")
    return None if entry is None else entry.value


def entry_in_our_words(entry: Entry) -> Entry:
    """Return an entry of a space with the words of a study's file."""
    if not isinstance(entry.value, dict):
        return entry
    parts = _renamed({name: part for name, part in entry.value.items() if name not in _IGNORED}, _PARTS)
    for name in ("range", "bounds"):
        if name in parts:
            ends = parts.pop(name)
            if not isinstance(ends.value, list) or len(ends.value) != 2:
                raise ends.refusal(f"{name} needs two numbers, as [0, 1], got {shown(ends.value)}.")
            parts["low"], parts["high"] = (Entry(ends.where, end) for end in ends.value)
    if parts.keys() == {"value"}:
        return Entry(entry.where, parts["value"].value)
    if "type" not in parts:
        return Entry(entry.where, parts | ({"type": Entry(entry.where, "choice")} if "values" in parts else {}))
    return _typed(entry, parts)


def _typed(entry: Entry, parts: dict[str, Entry]) -> Entry:
    given = parts.pop("type")
    word = str(given.value).lower().replace("-", "_").replace(" ", "_")
    kind = next((kind for kind, words in _TYPES.items() if word in words), None)
    if kind is None:
        there = ", ".join(_TYPES)
        hint = did_you_mean(word, [word for words in _TYPES.values() for word in words])
        raise given.refusal(f"no type {shown(given.value)}. {hint}There are {there}.")
    is_log = "log" in parts and parts["log"].value is True
    if kind in ("uniform", "loguniform") and "log" in parts and isinstance(parts["log"].value, bool):
        del parts["log"]
        kind = "loguniform" if is_log else kind
    if kind in ("uniform", "quniform") and "step" in parts:
        kind, parts["q"] = "quniform", parts.pop("step")
    if kind == "lograndint":
        kind, parts["log"] = "randint", Entry(given.where, True)
    if kind == "randint" and "q" in parts:
        parts["step"] = parts.pop("q")
    if kind == "bool":
        kind, parts["values"] = "choice", Entry(given.where, [False, True])
    if kind == "fixed":
        if "value" not in parts:
            raise entry.refusal("needs `value`, or write the value alone.")
        return Entry(entry.where, parts["value"].value)
    return Entry(entry.where, {"type": Entry(given.where, kind), **parts})


def _renamed(given: Mapping[str, Entry], names: Mapping[str, Sequence[str]]) -> dict[str, Entry]:
    """Return entries by our names. Raises UsageError for one that is given under two names."""
    ours = {other: name for name, others in names.items() for other in others}
    found: dict[str, Entry] = {}
    for name, entry in given.items():
        name = name.replace("-", "_")
        mine = ours.get(name, name)
        if mine in found:
            raise entry.refusal(f"{mine} is given twice, also by its other name. Keep one of the two.")
        found[mine] = entry
    return found
