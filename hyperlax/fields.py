"""Fields of a trial's configuration by name: their valid values, and setting them. Those of an algorithm have dotted names.

>>> from hyperlax.hyperparams import SAC
>>> apply(SAC(), {"algorithm.hyperparam.gamma": 0.98}, "--set").hyperparam.gamma
0.98
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from hyperlax.errors import UsageError, did_you_mean
from hyperlax.hyperparams import ACTIVATIONS, Config, Params, Rule
from hyperlax.space import Categorical, Distribution, DistributionError, Numeric, QUniform, is_integer

T = TypeVar("T")
C = TypeVar("C", bound=Config)
PREFIX = "algorithm"
HYPERPARAM = f"{PREFIX}.hyperparam."

_LEARNING_RATES = ("actor_lr", "critic_lr", "q_lr")
ALIASES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("learning_rate", "lr", "step_size"), _LEARNING_RATES),
    **dict.fromkeys(("policy_lr", "pi_lr", "actor_learning_rate", "policy_learning_rate"), _LEARNING_RATES[:1]),
    **dict.fromkeys(("value_lr", "vf_lr", "critic_learning_rate", "value_learning_rate"), _LEARNING_RATES[1:]),
    **dict.fromkeys(
        ("entropy", "entropy_coef", "entropy_coefficient", "entropy_cost"),
        ("ent_coef", "init_alpha", "target_entropy_scale"),
    ),
    **dict.fromkeys(("alpha", "temperature"), ("init_alpha", "alpha_lr")),
    "target_entropy": ("target_entropy_scale",),
    **dict.fromkeys(("discount", "discount_factor"), ("gamma",)),
    **dict.fromkeys(("lambda", "lam", "gae"), ("gae_lambda",)),
    **dict.fromkeys(("clip", "clip_range", "clip_ratio", "clip_coef", "clip_epsilon"), ("clip_eps",)),
    **dict.fromkeys(("value_coef", "value_loss_coef", "vf_coeff"), ("vf_coef",)),
    **dict.fromkeys(("polyak", "soft_update", "target_update"), ("tau",)),
    **dict.fromkeys(("epsilon", "exploration", "exploration_eps"), ("training_epsilon", "exploration_fraction")),
    **dict.fromkeys(("exploration_final_eps", "final_epsilon"), ("training_epsilon",)),
    **dict.fromkeys(("grad_clip", "clip_grad_norm", "gradient_clip"), ("max_grad_norm",)),
    **dict.fromkeys(("n_minibatches", "nminibatches"), ("num_minibatches",)),
    **dict.fromkeys(("n_epochs", "num_epochs", "update_epochs", "gradient_steps"), ("epochs",)),
    **dict.fromkeys(("batch_size", "minibatch_size"), ("total_batch_size", "num_minibatches")),
    **dict.fromkeys(("buffer_size", "replay_size", "memory_size"), ("total_buffer_size",)),
    **dict.fromkeys(("n_envs", "num_envs"), ("total_num_envs",)),
    **dict.fromkeys(("n_steps", "num_steps", "horizon"), ("rollout_length",)),
    **dict.fromkeys(("learning_starts", "warmup", "warmup_steps", "start_steps"), ("warmup_rollout_length",)),
    **dict.fromkeys(("hidden_size", "hidden_sizes", "hidden_dim", "hidden_layers", "net_arch"), ("layer_sizes",)),
    **dict.fromkeys(("activation_fn", "nonlinearity"), ("activation",)),
    **dict.fromkeys(("swish", "sigmoid_linear_unit"), ("silu",)),
    "rectifier": ("relu",),
}
"""Word of the field -> what it is called here, a hyperparameter's last name or an activation."""


class TogetherError(UsageError):
    """Values that are valid alone and not together. names: their dotted names."""

    def __init__(self, where: str, names: Sequence[str], problem: str):
        self.names, self.problem = names, problem
        super().__init__(f"{where}: {problem}")


_LARGEST_INTEGER = 2**31 - 1  # integers are int32 on the device
_WIDEST_LAYER = 65_536
_NAME = re.compile(r"[A-Za-z_][\w./-]*")
_SMALLEST_FLOAT, _LARGEST_FLOAT = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127  # and floats normal float32


@dataclass(frozen=True)
class Field:
    """A field by its valid values. type: "float", "int", "bool", "str" (an activation) or "sizes" (of layers)."""

    type: str
    rule: Rule | None

    def problem(self, value: Any) -> str | None:
        """Return the reason why a value is not valid, as `needs ..., got ...`; None if it is valid."""
        if self._accepts(value):
            return None
        if self.type == "float" and (limit := self._limit_of_float32(value)):
            return f"needs {limit}, got {value!r}"
        if self.type == "str" and isinstance(value, str):
            (meant,) = ALIASES.get(value.lower(), (value.lower(),))
            near = did_you_mean(meant, ACTIVATIONS).strip().replace("Did", "did")
            return f"needs {self.wanted()}, got {value!r}{f' ({near})' if near else ''}"
        return f"needs {self.wanted()}, got {value!r}"

    def plain(self, value: Any) -> Any:
        """Return a number in the field's own type if it has the same value there: 4.0 as 4. Return anything else unchanged."""
        value = value.tolist() if hasattr(value, "tolist") else value
        if self.type == "sizes" and isinstance(value, (list, tuple)):
            return [_whole(width) for width in value]
        if self.type == "float" and is_integer(value) and abs(value) <= _LARGEST_FLOAT:
            return float(value)
        return _whole(value) if self.type == "int" else value

    def convert(self, value: Any) -> Any:
        """Return a valid value in the form that the configuration keeps."""
        if self.type == "float":
            return float(value)
        return tuple(value) if self.type == "sizes" else value

    def wanted(self) -> str:
        """Return the valid values in words."""
        if self.type == "bool":
            return "true or false"
        if self.type == "str":
            return f"one of {', '.join(ACTIVATIONS)}"
        if self.type == "sizes":
            return f"a non-empty list of layer widths, each a whole number from 1 to {_WIDEST_LAYER}"
        return ("a whole number" if self.type == "int" else "a finite number") + self._range()

    def _range(self) -> str:
        if self.rule is None:
            return ""
        high = min(self.rule.high, _LARGEST_INTEGER) if self.type == "int" else self.rule.high
        return replace(self.rule, high=high).words()

    def _limit_of_float32(self, value: Any) -> str:
        """Return the limit of float32 that a number is beyond, in words; "" if that is not why it is not valid."""
        size = abs(value) if is_integer(value) or (isinstance(value, float) and math.isfinite(value)) else 0
        limit = _SMALLEST_FLOAT if size < _SMALLEST_FLOAT else _LARGEST_FLOAT
        if not size or not self._accepts(math.copysign(limit, value)):
            return ""
        if size > _LARGEST_FLOAT:
            return f"at most {_LARGEST_FLOAT:.8g} in size, the largest number of float32"
        zero = "0 or " if self._accepts(0.0) else ""
        return f"{zero}at least {_SMALLEST_FLOAT:.8g} in size, the smallest normal number of float32"

    def _accepts(self, value: Any) -> bool:
        if self.type == "bool":
            return isinstance(value, bool)
        if self.type == "str":
            return isinstance(value, str) and value in ACTIVATIONS
        if self.type == "sizes":
            return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_width(w) for w in value)
        if not (is_integer(value) or (self.type == "float" and isinstance(value, float))):
            return False
        return self._within(value)

    def _within(self, value: float) -> bool:
        if not abs(value) <= _LARGEST_FLOAT or (self.type == "int" and value > _LARGEST_INTEGER):
            return False
        if self.type == "float" and value and not _SMALLEST_FLOAT <= abs(value) <= _LARGEST_FLOAT:
            return False
        return self.rule is None or self.rule.holds(value)


@dataclass(frozen=True)
class _OwnField(Field):
    """A field of a task by the type of its value: "float", "int", "bool", "str" or "list". Python's numbers, not a device's."""

    def plain(self, value: Any) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        if self.type == "list" and isinstance(value, tuple):
            return list(value)
        return float(value) if self.type == "float" and is_integer(value) else super().plain(value)

    def convert(self, value: Any) -> Any:
        return value

    def wanted(self) -> str:
        words = {"str": "a text", "list": "a list of numbers, texts, true or false"}
        return words.get(self.type) or super().wanted()

    def problem(self, value: Any) -> str | None:
        return None if self._accepts(value) else f"needs {self.wanted()}, got {value!r}"

    def _accepts(self, value: Any) -> bool:
        return _type_of(value) == self.type


def _own_field(value: Any, rule: Rule | None) -> Field:
    """Return the field of a task with this value. With a rule, numbers are a device's."""
    kind = _type_of(value) or "str"
    return Field(kind, rule) if rule and kind in ("float", "int", "bool") else _OwnField(kind, None)


def _type_of(value: Any) -> str | None:
    """Return the type of a task's field with this value; None if no field can have it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float" if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        kinds = {_type_of(one) for one in value}
        return None if kinds & {None, "list"} else "list"
    return "int" if is_integer(value) else "str" if isinstance(value, str) else None


def check_params(params: Params, where: str) -> None:
    """Raise UsageError for a name or a value that a task's configuration cannot have."""
    if not params.values:
        raise UsageError(f"{where} is empty. Return the value of every hyperparameter by its name.")
    for name, value in params.values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{where} has the name {name!r}. Use letters, digits, `_`, `-`, `.` and `/`, as in learning_rate."
            )
        if _type_of(value) is None:
            raise UsageError(
                f"{where} has {name} = {value!r}. Give a finite number, a text, true or false, or a list of them."
            )


def dotted(config: Config) -> dict[str, Any]:
    """Return name -> value of every field, in the order of the classes; layer sizes as a list."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value, _ in _leaves(config, PREFIX)}


def fields_of(config: Config) -> dict[str, Field]:
    """Return name -> field."""
    return {name: field for name, _, field in _leaves(config, PREFIX)}


def apply(config: C, values: Mapping[str, Any], where: str) -> C:
    """Return the configuration with these values set.

    Names may be short, see `full_name`. Whole numbers are converted between int and float; nothing else is.

    Raises:
      UsageError: A name is unknown, a field does not accept its value, or values do not fit together. Begins with `where`.
    """
    known = fields_of(config)
    values = full_names(values, known, where)
    plain = {name: known[name].plain(value) for name, value in values.items()}
    _check_values(config, plain, where, values)
    config = filled(config, plain)
    check_together(config, {}, where)
    return config


def check(config: Config, where: str) -> None:
    """Raise UsageError if a field does not accept its value, or values do not fit together."""
    values = dotted(config)
    _check_values(config, values, where, values)
    check_together(config, {}, where)


def filled(config: C, values: Mapping[str, Any]) -> C:
    """Return the configuration with these values set, without checks."""
    known = fields_of(config)
    if isinstance(config, Params):
        return replace(config, values={**config.values, **{n: known[n].convert(v) for n, v in values.items()}})
    for name, value in values.items():
        config = _set(config, name.split(".")[1:], known[name].convert(value))
    return config


def check_name(name: str, known: Iterable[str], where: str) -> None:
    """Raise UsageError for an unknown name, and suggest the nearest known one."""
    known = list(known)
    if name in known:
        return
    hint = _hint(name, known).strip() or f"There are {', '.join(known)}."
    raise UsageError(f"{where}: no hyperparameter named `{name}`. {hint}")


def full_name(name: str, known: Iterable[str], where: str) -> str:
    """Return the dotted name that a name stands for: itself, or the only one that ends in it. Raises UsageError otherwise.

    >>> from hyperlax.hyperparams import SAC
    >>> full_name("gamma", fields_of(SAC()), "--set")
    'algorithm.hyperparam.gamma'
    """
    known = list(known)
    ending = [candidate for candidate in known if candidate.endswith(f".{name}")]
    if name not in known and len(ending) == 1:
        return ending[0]
    check_name(name, known, where)
    return name


def full_names(values: Mapping[str, T], known: Iterable[str], where: str) -> dict[str, T]:
    """Return the values by their dotted names. Raises UsageError for an unknown name and for one that is given twice."""
    known, found = list(known), {}
    for name, value in values.items():
        full = full_name(name, known, where)
        if full in found:
            raise UsageError(f"{where}: {full} is given twice, in full and as a short name. Keep one of the two.")
        found[full] = value
    return found


def fitted(
    name: str, field: Field, distribution: Distribution, where: str, write: Callable[[Distribution], str] | None = None
) -> Distribution:
    """Return a distribution with its values in the field's type: 4.0 as 4, steps of whole numbers as integers.

    Raises UsageError for a value that the field does not accept. write: formats a distribution, by default as in a recipe.
    """
    write = write or written
    if field.type == "int" and isinstance(distribution, QUniform):
        distribution = distribution.in_whole_numbers() or distribution
    if isinstance(distribution, Categorical):
        if field.type in ("int", "sizes") or isinstance(field, _OwnField):
            distribution = Categorical(values=[field.plain(value) for value in distribution.values])
        produced = list(distribution.values)
    else:
        _check_kind(name, field, distribution, where, write)
        produced = list(distribution.domain)
    for value in produced:
        problem = field.problem(value)
        if problem:
            raise DistributionError("{0}: {1} {2} from {3}.", where, name, problem, write(distribution))
    return distribution


def check_together(config: Config, space: Mapping[str, Distribution], where: str) -> None:
    """Raise TogetherError if any combination of the space has values that are valid alone but not together.

    If the algorithm has num_minibatches, they must divide the steps of a rollout, total_num_envs * rollout_length. If it has
    a replay buffer, that must hold a batch.
    """
    values = dotted(config)
    _check_replay(values, space, where)
    names = [HYPERPARAM + name for name in ("total_num_envs", "rollout_length", "num_minibatches")]
    if names[-1] not in values:
        return
    envs, rollout, minibatches = (candidates(values[name], space.get(name)) for name in names)
    for parts in minibatches:
        for steps_of_env in _residues(rollout, parts):
            for count in _residues(envs, parts):
                if count * steps_of_env % parts:
                    raise TogetherError(
                        where,
                        names,
                        "total_num_envs * rollout_length must be a multiple of num_minibatches, got "
                        f"total_num_envs={count}, rollout_length={steps_of_env}, num_minibatches={parts}. "
                        "Choose values of which every combination divides, powers of two for instance.",
                    )


def _check_replay(values: Mapping[str, Any], space: Mapping[str, Distribution], where: str) -> None:
    names = [HYPERPARAM + name for name in ("total_buffer_size", "total_batch_size")]
    if not all(name in values for name in names):
        return
    smallest, largest = (
        extremes(values[names[0]], space.get(names[0]))[0],
        extremes(values[names[1]], space.get(names[1]))[1],
    )
    if smallest < largest:
        raise TogetherError(
            where,
            names,
            f"total_buffer_size must be at least total_batch_size, got total_buffer_size={smallest}, "
            f"total_batch_size={largest}. Raise total_buffer_size to at least {largest}, or lower total_batch_size to at most "
            f"{smallest}.",
        )


def _check_values(config: Config, values: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that its field does not accept. given: the values as errors show them."""
    known = fields_of(config)
    for name, value in values.items():
        if known[name].problem(value):
            raise UsageError(f"{where}: {name} {known[name].problem(given[name])}.")


def _check_kind(
    name: str, field: Field, distribution: Numeric, where: str, write: Callable[[Distribution], str]
) -> None:
    if field.type in ("float", "int") and (field.type == "float" or distribution.integral):
        return
    hint = {"int": "{UniformDiscrete} or {Categorical()}", "bool": "{booleans}"}.get(field.type, "{Categorical()}")
    problem = f"{{0}}: {{1}} needs {{2}}, got {{3}}. Use {hint}."
    raise DistributionError(problem, where, name, field.wanted(), write(distribution))


def written(distribution: Distribution) -> str:
    """Return a distribution as a recipe writes it."""
    arguments = dict(distribution.to_json())
    kind = arguments.pop("type")
    return f"{kind}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def candidates(fixed: int, distribution: Distribution | None) -> Iterable[int]:
    """Return the values that an integer field can have: those of its distribution, else the fixed one."""
    if distribution is None:
        return [fixed]
    if isinstance(distribution, Categorical):
        return list(distribution.values)
    low, high = distribution.domain
    return range(int(low), int(high) + 1, int(distribution.spacing() or 1))


def extremes(fixed: int, distribution: Distribution | None) -> tuple[int, int]:
    """Return the smallest and the largest value that an integer field can have."""
    if isinstance(distribution, Numeric):
        low, high = distribution.domain
        return int(low), int(high)
    values = candidates(fixed, distribution)
    return min(values), max(values)


def _residues(values: Iterable[int], modulus: int) -> list[int]:
    """Return values with the same remainders as the given ones, which suffice to test divisibility."""
    if isinstance(values, range):
        return list(values[:modulus])
    return list({value % modulus: value for value in values}.values())


def _leaves(node: Any, prefix: str) -> list[tuple[str, Any, Field]]:
    if isinstance(node, Params):
        return [(name, value, _own_field(value, node.rules.get(name))) for name, value in node.values.items()]
    found = []
    for f in fields(node):
        name, value = f"{prefix}.{f.name}", getattr(node, f.name)
        if is_dataclass(value):
            found += _leaves(value, name)
        else:
            kind = "sizes" if str(f.type).startswith("tuple") else str(f.type)
            found.append((name, value, Field(kind, f.metadata.get("rule"))))
    return found


def _set(node: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _set(getattr(node, path[0]), path[1:], value)
    return replace(node, **{path[0]: value})


def _hint(name: str, known: list[str]) -> str:
    """Propose the known names that a name most likely stands for: it may lack its prefix, or be another word of the field."""
    last = name.rsplit(".", 1)[-1]
    same = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == last]
    if same:
        return did_you_mean(name, same, count=1 if "." in name else len(same), cutoff=0.0)
    alias = ALIASES.get(last.lower(), ())
    meant = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] in alias]
    if meant:
        return did_you_mean(name, meant, count=len(meant), cutoff=0.0)
    if "." in name:
        return did_you_mean(name, known, cutoff=0.8)
    shorts = {candidate.rsplit(".", 1)[-1]: candidate for candidate in reversed(known)}
    return did_you_mean(last, shorts, spell=shorts.__getitem__)


def _whole(value: Any) -> Any:
    """Return a float without a fraction as an int, anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_width(value: Any) -> bool:
    return is_integer(value) and 1 <= value <= _WIDEST_LAYER
