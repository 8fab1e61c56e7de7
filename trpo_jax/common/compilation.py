"""How the library's own programs are compiled, and where they are kept."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

LASTING = {"xla_backend_optimization_level": 1}
"""XLA's options for programs that run often. On CPUs they take an eighth (CartPole) to a quarter
(brax) off the compilation, and nothing off the speed of the program."""
RUN_ONCE = {**LASTING, "xla_cpu_use_fusion_emitters": False}
"""For programs that run once or twice: half the time to compile, for a somewhat slower program."""

_SHORTEST = 0.1
"""Seconds of compilation from which a program is kept."""


def keep_programs() -> None:
    """Keep compiled programs on disk, so that the same program starts faster the next time.

    They are kept in ~/.cache/trpo_jax (or under `XDG_CACHE_HOME`). A directory of the user's own,
    `JAX_COMPILATION_CACHE_DIR`, stays; so does JAX's switch: nothing is kept with
    `JAX_ENABLE_COMPILATION_CACHE=0`.
    """
    if not _setting("jax_enable_compilation_cache") or _setting("jax_compilation_cache_dir"):
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(root / "trpo_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def _setting(name: str) -> Any:
    """A setting of JAX."""
    return jax.config.values[name]


def options(wanted: dict[str, Any] = LASTING) -> dict[str, Any] | None:
    """XLA's options for this process: none off the CPU, or if JAX is told not to optimise."""
    if _setting("jax_disable_most_optimizations") or jax.default_backend() != "cpu":
        return None
    return {name: value for name, value in wanted.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    """Whether this version of XLA has an option; a program with one that it has not fails."""
    try:
        jax.jit(lambda: jnp.int32(0), compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def program(
    function: Callable[..., Any],
    *,
    static_argnames: Sequence[str] = (),
    wanted: dict[str, Any] = LASTING,
) -> Callable[..., Any]:
    """`jax.jit(function)` with XLA's options where it is called alone.

    They hold for whole programs, so within another transformation this is `jit` without them.
    """
    inner = jax.jit(function, static_argnames=static_argnames)

    @functools.cache
    def alone() -> Callable[..., Any]:
        chosen = options(wanted)
        if chosen is None:
            return inner
        return jax.jit(function, static_argnames=static_argnames, compiler_options=chosen)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (inner if _is_part_of_a_program(args, kwargs) else alone())(*args, **kwargs)

    return call


def _is_part_of_a_program(*arguments: Any) -> bool:
    """Whether a transformation is tracing: an argument is traced, or any new array would be."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
    return traced or isinstance(jnp.zeros(()), jax.core.Tracer)
