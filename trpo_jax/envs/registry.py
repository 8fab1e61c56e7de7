"""Environments by name, as objects, or from functions."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs import suites
from trpo_jax.envs.base import Environment
from trpo_jax.envs.functions import import_function, one_line
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.envs.ids import names_of
from trpo_jax.envs.suites import SUITES
from trpo_jax.envs.velocity import LIMITS, with_velocity_costs
from trpo_jax.envs.wrappers import transformed

_CHANGES = (
    "episode_length",
    "action_repeat",
    "observe",
    "reward_scale",
    "frame_stack",
    "velocity_limit",
    "speed_limit",
    "randomize",
)
"""Keywords that every environment takes."""
_OF_THE_SUITE = ("episode_length", "action_repeat")
"""Changes that a suite makes by itself if it can."""


def make_env(
    env: Any,
    /,
    *,
    episode_length: int | None = None,
    action_repeat: int = 1,
    observe: Any = None,
    reward_scale: float = 1.0,
    frame_stack: int = 1,
    velocity_limit: float | None = None,
    speed_limit: float | None = None,
    randomize: Any = None,
    **kwargs,
) -> Environment:
    """An environment from an id, an object or a function.

    `env` is an id such as "CartPole-v1" or "playground/CartpoleBalance", split at the first slash
    into suite and name (`trpo-jax envs` lists them); an object of one of the suites, or in the
    style of gymnax or brax; a function that makes one; "package.module:name", such a function of
    yours; or an `Environment`, which is returned unchanged if no keyword is given.

    Keywords for every environment:
      episode_length: steps after which an episode is truncated, counted before repetition.
      action_repeat: steps of the environment for which each action is repeated; rewards are summed.
      observe: indices of the coordinates that are observed.
      reward_scale: factor of the rewards.
      frame_stack: number of the last observations that are shown side by side.
      velocity_limit: adds a cost, 1 for every step of the environment with a forward velocity above
        the limit (the suite's metric `x_velocity`); summed over repeated actions.
      speed_limit: likewise for the horizontal speed, √(x² + y²).
      randomize: `fn(key, parameters) -> parameters`, which changes the suite's parameters at each
        reset, or "package.module:name" of such a function.
    All others (`kwargs`) go to the suite, such as `env_params` (gymnax; may be a dict of fields),
    `backend` (brax), `impl` (playground), or to the function. A function gets one of the above only
    if its signature names it; otherwise the change is made to what it returns.

    The same id with the same hashable keywords returns the same object, so nothing compiles twice.
    With a dict or an object among the arguments, every call makes a new one: keep it.
    Raises `ValueError` for an unknown id, with near matches, and for a missing package, with the
    extra to install.
    """
    for name, value in (("action_repeat", action_repeat), ("frame_stack", frame_stack)):
        require_whole_number(name, value)
    if episode_length is not None:
        require_whole_number("episode_length", episode_length)
        episode_length = int(episode_length)
    changes = {
        "episode_length": episode_length,
        "action_repeat": None if action_repeat == 1 else int(action_repeat),
        "observe": tuple(observe) if isinstance(observe, list) else observe,
        "reward_scale": None if _is_one(reward_scale) else reward_scale,
        "frame_stack": None if frame_stack == 1 else int(frame_stack),
        "velocity_limit": velocity_limit,
        "speed_limit": speed_limit,
        "randomize": randomize,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if isinstance(env, Environment):
        if kwargs:
            raise ValueError(f"{env.name} is made already and takes no keywords: {kwargs}")
        return _changed(env, changes)
    if isinstance(env, str):
        return _by_id(env, changes | kwargs)
    return _from_object(env, kwargs, changes)


def list_environments() -> list[str]:
    """Full ids, "suite/name", of the environments that can be made with what is installed."""
    lacking = {suite: suites.lacks(suite) for suite in SUITES}
    return [
        f"{suite}/{name}"
        for suite in SUITES
        for name in names_of(suite)
        if name not in lacking[suite]
    ]


def _is_one(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 1


def _by_id(env_id: str, kwargs: dict[str, Any]) -> Environment:
    try:
        made = _make_once(env_id, **kwargs)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        made = _make_once.__wrapped__(env_id, **kwargs)
    plain = {name: list(x) if isinstance(x, tuple) else x for name, x in kwargs.items()}
    object.__setattr__(made, "recipe", (env_id, plain))  # also of a frozen dataclass
    return made


@functools.lru_cache(maxsize=None, typed=True)  # 1 is not True
def _make_once(env_id: str, /, **kwargs) -> Environment:
    changes = {name: kwargs.pop(name) for name in _CHANGES if name in kwargs}
    suite, name = _suite_and_name(env_id)
    if suite is None:
        function = import_function(name, "env")
        return _from_function(function, f"env={env_id!r}", kwargs, changes)
    return _adapted(suites.adapter(suite).make, env_id, (name,), kwargs, changes)


def _suite_and_name(env_id: str) -> tuple[str | None, str]:
    """Suite and name of an id; no suite for "package.module:name". Raises `ValueError`."""
    prefix, slash, name = env_id.partition("/")
    if slash and prefix in SUITES:
        if not suites.knows(prefix, name):
            raise _unknown(env_id, name, (prefix,))
        return prefix, name
    if ":" in env_id:
        return None, env_id
    found = [suite for suite in SUITES if env_id in names_of(suite)]
    if found and found[0] not in ("gymnax", "brax") and len(found) > 1:
        raise ValueError(
            f"env={env_id!r} is in several suites; use "
            + " or ".join(f"{suite}/{env_id}" for suite in found)
        )
    if not found:
        found = [suite for suite in ("gymnax", "brax") if suites.knows(suite, env_id)]
    if not found:
        raise _unknown(env_id, env_id.rpartition("/")[2], SUITES)
    return found[0], env_id


def _unknown(env_id: str, name: str, where: tuple[str, ...]) -> ValueError:
    """The mistake of an unknown id, with near matches: in the suite it names, or else in all."""
    tries = [(place, cutoff) for cutoff in (0.6, 0.4) for place in (where, SUITES)]
    near = next(filter(None, (_near(name, place, cutoff) for place, cutoff in tries)), [])
    hint = f"did you mean {' or '.join(near)}?" if near else "see trpo-jax envs"
    return ValueError(f"unknown environment {env_id!r}; {hint}")


def _near(name: str, where: tuple[str, ...], cutoff: float) -> list[str]:
    """At most four full ids whose names resemble `name`, the nearest first."""
    folded: dict[str, list[str]] = {}
    for suite in where:
        for known in names_of(suite):
            folded.setdefault(known.lower(), []).append(f"{suite}/{known}")
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=cutoff)
    return [full_id for match in near for full_id in folded[match]][:4]


def _from_object(thing: Any, kwargs: dict[str, Any], changes: dict[str, Any]) -> Environment:
    if isinstance(thing, type):
        if suites.is_gymnasium_class(thing):
            return _from_function(thing, thing.__name__, kwargs, changes)
        raise ValueError(f"{thing!r} is a class; pass an instance: make_env({thing.__name__}())")
    suite = suites.suite_of(thing) or _suite_by_style(thing)
    if suite is not None:
        make = suites.adapter(suite).from_object
        return _adapted(make, type(thing).__name__, (thing,), kwargs, changes)
    if callable(thing):
        label = getattr(thing, "__qualname__", repr(thing))
        return _from_function(thing, label, kwargs, changes)
    if isinstance(thing, tuple) and len(thing) == 2:
        remedy = "unpack gymnax's pair: make_env(env, env_params=params)"
    else:
        remedy = "see trpo_jax.Environment for how to write one"
    raise ValueError(
        f"{thing!r} is neither an environment id, nor an object of {', '.join(SUITES)} or "
        "jaxnasium, nor in the style of gymnax (reset, step, action_space, observation_space) or "
        f"brax (reset, step, action_size), nor a function that makes one; {remedy}"
    )


def _suite_by_style(thing: Any) -> str | None:
    if hasattr(type(thing), "action_size") or "action_size" in getattr(thing, "__dict__", ()):
        return "brax"
    parts = ("reset", "step", "action_space", "observation_space")
    return "gymnax" if all(hasattr(thing, name) for name in parts) else None


def _from_function(
    function: Callable, label: str, kwargs: dict[str, Any], changes: dict[str, Any]
) -> Environment:
    """The environment that a user's function makes, from any of the styles known."""
    signature = _signature(function, label)
    named = {
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    own = {name: value for name, value in changes.items() if name in named}
    rest = {name: value for name, value in changes.items() if name not in named}
    given = kwargs | own
    reported = {}
    if "metrics" in given and "metrics" not in named:
        reported["metrics"] = given.pop("metrics")  # the names of entries in Gymnasium's info
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(f"{label} does not take {given}: {error}") from None
    try:
        made = function(**given)
    except Exception as error:
        if isinstance(error, ValueError) and "\n" not in str(error):
            raise  # such as make_env's own
        if isinstance(error, TypeError) and given:  # it passed them on to what does not take them
            raise ValueError(f"{label} does not take {given}: {one_line(error)}") from error
        raise ValueError(f"{label} raised {one_line(error)}") from error
    suite = None if isinstance(made, str | Environment) else suites.suite_of(made)
    if suite == "gymnasium":
        made.close()
        make_one = functools.partial(function, **given)
        return _adapted(suites.adapter(suite).from_function, label, (make_one,), reported, rest)
    if reported:
        raise ValueError(
            f"metrics={reported['metrics']!r} does not reach {label}, which makes no environment "
            "of Gymnasium's by itself; give the function a parameter of that name, or leave it out"
        )
    if isinstance(made, Environment):
        return _changed(made, rest)
    if callable(made) and suite is None and _suite_by_style(made) is None:
        raise ValueError(f"{label} returns {made!r}; it must return an environment")
    return make_env(made, **rest)


def _signature(function: Callable, label: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        raise ValueError(
            f"{label} is {function!r}, whose parameters cannot be read; pass a function of your "
            "own that makes an environment, such as lambda: MyEnvironment()"
        ) from None


def _adapted(
    make: Callable[..., Environment],
    label: str,
    arguments: tuple,
    kwargs: dict[str, Any],
    changes: dict[str, Any],
) -> Environment:
    """Call a function of an adapter, with those changes that it makes itself; make the others."""
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        allowed = [*parameters][len(arguments) :]
        if unknown := kwargs.keys() - set(allowed):
            remedy = f"use {' or '.join(sorted(allowed))}" if allowed else "it takes none"
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be set for {label}; {remedy}")
    own = {name: changes[name] for name in _OF_THE_SUITE if name in changes and name in parameters}
    if LIMITS.keys() & changes.keys():
        own.pop("action_repeat", None)  # costs count the steps within a repetition
    rest = {name: value for name, value in changes.items() if name not in own}
    try:
        inspect.signature(make).bind(*arguments, **kwargs, **own)
    except TypeError as error:
        raise ValueError(f"{label} does not take {kwargs}: {error}") from None
    try:
        made = make(*arguments, **kwargs, **own)
    except ImportError as error:
        raise ValueError(f"{label} cannot be made: {error}") from None
    return _changed(made, rest)


def _changed(env: Environment, changes: dict[str, Any]) -> Environment:
    """The environment with a time limit, repeated actions and so on, as far as these are asked."""
    changes = dict(changes)
    randomize = changes.pop("randomize", None)
    if randomize is not None and isinstance(env, HostEnvironment):
        raise ValueError(
            f"randomize={randomize!r}: {env.name} steps on the host, where no parameters can be "
            "drawn at each reset; use a suite that steps in JAX, or draw them in its own reset"
        )
    limits = {name: changes.pop(name) for name in LIMITS if name in changes}
    if limits:
        env = with_velocity_costs(env, limits)
    env = transformed(env, **changes)
    if randomize is None:
        return env
    from trpo_jax.envs.randomization import randomized

    function = import_function(randomize, "randomize") if isinstance(randomize, str) else randomize
    return randomized(env, function)
