"""The registry of environments. Everything but `make` works without jax."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable

from hyperlax.envs.catalog import ALIASES, CATALOG, PROBES, UNAVAILABLE, ActionKind
from hyperlax.envs.protocol import Continuous, Environment
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.user_code import with_line

_NAME = re.compile(r"[a-z][a-z0-9]*\.[a-z][a-z0-9_]*")

_factories: dict[str, Callable[[], Environment]] = {}
_made: dict[str, Environment] = {}
_lock = threading.RLock()


def names() -> list[str]:
    """Return the names of the shipped environments, then of the registered ones, without the probes, which are for tests."""
    return [*CATALOG, *_factories]


def unaliased(name: str) -> str:
    """Return the canonical name of a gymnax environment; any other name unchanged, known or not."""
    return ALIASES.get(name, name)


def is_known(name: str) -> bool:
    """Return whether `make` has an environment of that name. A user's own is known once its recipe has been loaded."""
    name = unaliased(name)
    return is_shipped(name) or name in _factories


def is_shipped(name: str) -> bool:
    """Return whether an environment of this canonical name belongs to this package, and is not a user's own."""
    return name in CATALOG or name in PROBES


def canonical(name: str) -> str:
    """Return the canonical name of an environment that may have several: "gymnax.Pendulum-v1" -> "gymnax.pendulum".

    Raises:
      UsageError: The name is unknown (names the nearest ones), or not available (names the reason).
    """
    name = unaliased(name)
    if name in UNAVAILABLE:
        raise UsageError(f"environment `{name}` is not available: {UNAVAILABLE[name]}")
    if is_known(name):
        return name
    suite, dot, _ = name.partition(".")
    suites = sorted({known.partition(".")[0] for known in names()})
    if dot and not did_you_mean(suite, (*suites, "probe")):
        raise UsageError(
            f"no environment named `{name}`: suite `{suite}` is not known; known: {', '.join(suites)}. A recipe can register "
            "environments of its own."
        )
    hint = did_you_mean(name, [*names(), *PROBES, *ALIASES], count=3, cutoff=0.5)
    raise UsageError(f"no environment named `{name}`. {hint}There are: {', '.join(names())}.")


def make(name: str) -> Environment:
    """Return the environment of that name, the same object every time.

    Raises:
      UsageError: As `canonical`; or a user's factory fails, or makes an environment that breaks the protocol.
    """
    name = canonical(name)
    with _lock:
        if name not in _made:
            _made[name] = _build(name)
        return _made[name]


def register(name: str, factory: Callable[[], Environment]) -> None:
    """Register an environment under "<suite>.<name>"; `factory` is called once, when it is first made.

    Registering the same name again replaces it, so that a recipe which registers may be loaded twice.

    Raises:
      UsageError: The name has another form, or Hyperlax ships an environment of that name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"cannot register environment `{name}`: a name is <suite>.<name> in lower case, the suite of letters and digits, "
            "for example `lab.two_tanks`."
        )
    if is_shipped(name) or name in UNAVAILABLE:
        raise UsageError(
            f"cannot register environment `{name}`: Hyperlax ships one of that name. Choose another suite."
        )
    with _lock:
        _factories[name] = factory
        _made.pop(name, None)


def slug(name: str) -> str:
    """Return the environment's name in paths: "gymnax.Pendulum-v1" -> "gymnax_pendulum". Raises UsageError as `canonical` does."""
    return canonical(name).replace(".", "_")


def action_kind(name: str) -> ActionKind:
    """Return "discrete" or "continuous". Makes the environment only if it is a user's own."""
    name = canonical(name)
    if name in CATALOG:
        return CATALOG[name].action
    if name in PROBES:
        return PROBES[name]
    return "continuous" if isinstance(make(name).action, Continuous) else "discrete"


def _build(name: str) -> Environment:
    if name in CATALOG:
        return importlib.import_module("hyperlax.envs.gymnax_suite").make(name)
    if name in PROBES:
        return importlib.import_module("hyperlax.envs.probes").make(name)
    return _own(name, _factories[name])


def _own(name: str, factory: Callable[[], Environment]) -> Environment:
    """Make and check a user's environment. Raise UsageError, in one line, for anything wrong with it."""
    try:
        environment = factory()
    except UsageError as error:
        raise UsageError(f"environment `{name}`: {error}") from error
    except Exception as error:  # a user's code may raise anything
        raise UsageError(f"environment `{name}`: its factory raised {with_line(error)}.") from error
    if not isinstance(environment, Environment):
        raise UsageError(f"environment `{name}`: its factory returned {environment!r}; an Environment is needed.")
    if environment.name != name:
        raise UsageError(
            f"environment `{name}`: its factory made one named `{environment.name}`. Give both the same name."
        )
    importlib.import_module("hyperlax.envs.conformance").check(environment)
    return environment
