"""Environments by name."""

import contextlib
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from trpo_jax.envs.base import Environment

_SUITES = ("gymnax", "brax")


def make_env(env: Any, /, **kwargs) -> Environment:
    """An environment from an id, a function or an object.

    `env` is an id such as "CartPole-v1", "hopper", "gymnax/CartPole-v1" or "brax/hopper";
    "package.module:name", your own function that returns anything in this list; a gymnax-style
    object (set its parameters with `env_params=…`); a brax-style object (`episode_length=…`); or an
    `Environment`, which is returned unchanged. Keywords: `env_params` (gymnax; may be a dict of
    fields), `episode_length`, `action_repeat`, `backend` (brax), and whatever the class takes.
    The same id with the same hashable keywords returns the same object, so nothing compiles twice.
    With a dict or an object among the arguments, every call makes a new one: keep it.
    Raises `ValueError` for an unknown id, and names near matches.
    """
    if isinstance(env, Environment):
        if kwargs:
            raise ValueError(f"{env.name} is made already and takes no keywords: {kwargs}")
        return env
    if not isinstance(env, str):
        return _adapt(env, kwargs)
    try:
        made = _make_once(env, **kwargs)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        made = _make_once.__wrapped__(env, **kwargs)
    object.__setattr__(made, "recipe", (env, kwargs))  # also of a frozen dataclass
    return made


def list_environments() -> list[str]:
    """Full ids, "suite/name", of all environments that can be trained."""
    return [f"{suite}/{name}" for suite in _SUITES for name in _suite(suite).list_ids()]


@functools.cache
def _make_once(env_id: str, **kwargs) -> Environment:
    if ":" in env_id:
        return _from_function(env_id, kwargs)
    prefix, _, rest = env_id.rpartition("/")
    if prefix in _SUITES:
        if not _knows(prefix, rest):
            raise _unknown(env_id, _suite(prefix).list_ids())
        return _suite(prefix).make(rest, **kwargs)
    if not prefix:
        for suite in _SUITES:
            if _knows(suite, rest):
                return _suite(suite).make(rest, **kwargs)
    raise _unknown(env_id, [full_id.partition("/")[2] for full_id in list_environments()])


def _from_function(path: str, kwargs: dict[str, Any]) -> Environment:
    """The environment made by the user's function "package.module:name"."""
    module_name, _, name = path.partition(":")
    try:
        with _working_directory_importable():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"env={path!r}: {module_name} cannot be imported: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"env={path!r}: {module_name} has no function {name!r}")
    try:
        return make_env(function(**kwargs))
    except TypeError as error:
        raise ValueError(f"env={path!r} does not take {kwargs}: {error}") from None


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Import from the working directory, as `python -m` does and a console script does not."""
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _suite(name: str):
    """The adapter module of a suite, imported only when needed."""
    return importlib.import_module(f"trpo_jax.envs.{name}")


def _knows(suite: str, name: str) -> bool:
    """Whether the suite knows this name: as an environment, or as one it refuses."""
    adapter = _suite(suite)
    return name in adapter.list_ids() or name in getattr(adapter, "REFUSED", ())


def _unknown(env_id: str, known: list[str]) -> ValueError:
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(env_id.rpartition("/")[2].lower(), folded, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(folded[name] for name in near)}?" if near else ""
    return ValueError(f"unknown environment {env_id!r}; {hint or 'see trpo-jax envs'}")


def _adapt(env: Any, kwargs: dict[str, Any]) -> Environment:
    adapter: Callable[..., Environment]
    if isinstance(env, type):
        raise ValueError(f"{env!r} is a class; pass an instance: make_env({env.__name__}())")
    if hasattr(type(env), "action_size") or "action_size" in getattr(env, "__dict__", ()):
        adapter, allowed = _suite("brax").BraxEnvironment, {"episode_length", "action_repeat"}
    elif all(hasattr(env, name) for name in ("reset", "step", "action_space", "observation_space")):
        adapter, allowed = _suite("gymnax").GymnaxEnvironment, {"env_params"}
    else:
        is_pair = isinstance(env, tuple) and len(env) == 2
        remedy = (
            "unpack gymnax's pair: make_env(env, env_params=params)"
            if is_pair
            else "see trpo_jax.Environment for how to write one"
        )
        raise ValueError(
            f"{env!r} is neither an environment id nor a gymnax- or brax-style object; {remedy}"
        )
    if unknown := kwargs.keys() - allowed:
        raise ValueError(
            f"{', '.join(sorted(unknown))} cannot be set for {type(env).__name__}; "
            f"use {' or '.join(sorted(allowed))}"
        )
    return adapter(env, **kwargs)
