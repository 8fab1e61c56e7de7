"""The suites of environments: what each needs, and which of them an object belongs to."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from trpo_jax.envs.ids import ROBOTS, names_of

PACKAGES = {
    "gymnax": "gymnax",
    "brax": "brax",
    "playground": "mujoco_playground",
    "gymnasium": "gymnasium",
    "envpool": "envpool",
    "craftax": "craftax",
    "jumanji": "jumanji",
    "navix": "navix",
    "xminigrid": "xminigrid",
    "pgx": "pgx",
}
"""The package of each suite. Ids are looked up in this order."""

SUITES = tuple(PACKAGES)

_ADAPTERS = {package: suite for suite, package in PACKAGES.items()} | {"jaxnasium": "jaxnasium"}
"""The adapter of a package's objects."""

_REFUSED = {
    "gym": "gym is no longer maintained; make the environment with gymnasium, its successor",
    "envelope": "objects of jax-envelope are not supported; pass the environment that it wraps",
    "pettingzoo": "it is for several agents; one agent is supported",
    "jaxmarl": "it is for several agents; one agent is supported",
}
"""Packages whose objects cannot be trained, and why."""

_MODELS = "external_deps/mujoco_menagerie"
_FETCH_ROBOTS = (
    "python -c 'from mujoco_playground._src import mjx_env; mjx_env.ensure_menagerie_exists()'"
)


def adapter(name: str) -> Any:
    """The module that adapts a suite, imported when it is needed.

    Raises `ValueError` with the extra to install if a package is missing.
    """
    try:
        return importlib.import_module(f"trpo_jax.envs.{name}")
    except ImportError as error:
        remedy = f'pip install "trpo-jax[{name}]"'
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise ValueError(f"{name} needs {error.name}, which is missing: {remedy}") from None
        raise ValueError(f"{name} cannot be imported: {error}; try {remedy}") from error


def knows(suite: str, name: str) -> bool:
    """Whether a suite knows a name: as an environment, or as one it refuses."""
    if name in names_of(suite):
        return True
    module = adapter(suite)
    if suite == "gymnasium" and ("/" in name or ":" in name):
        return True  # of a package that registers its ids when it is imported
    return name in module.list_ids() or name in getattr(module, "REFUSED", ())


def lacks(suite: str) -> dict[str, str]:
    """For each name of a suite that cannot be made here: what to install or fetch.

    Imports nothing.
    """
    if importlib.util.find_spec(PACKAGES[suite]) is None:
        return dict.fromkeys(names_of(suite), f'pip install "trpo-jax[{suite}]"')
    if suite == "playground" and not _has_robots():
        return dict.fromkeys(names_of(ROBOTS), _FETCH_ROBOTS)
    return {}


def _has_robots() -> bool:
    package = importlib.util.find_spec(PACKAGES["playground"])
    folders = (package.submodule_search_locations or ()) if package else ()
    return any((Path(folder) / _MODELS).is_dir() for folder in folders)


def suite_of(thing: Any) -> str | None:
    """The name of an object's adapter, recognised by the packages of its class and their bases.

    None if it belongs to no known package. Raises `ValueError` for those that are refused.
    """
    for kind in type(thing).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _REFUSED:
            raise ValueError(
                f"{type(thing).__name__} is an object of {package}: {_REFUSED[package]}"
            )
        if package in _ADAPTERS:
            return _ADAPTERS[package]
    return None


def is_gymnasium_class(kind: type) -> bool:
    """Whether a class is one of Gymnasium's environments: calling it makes one."""
    return any(base.__module__.partition(".")[0] == "gymnasium" for base in kind.__mro__)
