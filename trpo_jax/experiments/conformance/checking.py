"""Check an environment: gather the evidence, then try one promise after the other."""

from collections.abc import Callable
from typing import Any

import jax

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import Environment
from trpo_jax.envs.checks import check_is_environment, require_promises
from trpo_jax.envs.host import EnvironmentFailed
from trpo_jax.envs.registry import make_env
from trpo_jax.experiments.conformance import promises
from trpo_jax.experiments.conformance.evidence import Evidence, gather
from trpo_jax.experiments.conformance.promises import Findings
from trpo_jax.experiments.conformance.report import CheckedPromise, EnvironmentReport
from trpo_jax.experiments.conformance.tracing import jit_and_vmap

_SHAPES, _TRACED, _ACTIONS = "shapes and types", "jit and vmap", "actions"
PROMISES: dict[str, Callable[[Evidence, Findings], None]] = {
    _SHAPES: promises.shapes_and_types,
    _TRACED: jit_and_vmap,
    _ACTIONS: promises.actions,
    "same key, same episode": promises.same_key,
    "ends": promises.ends,
    "final observation": promises.final_observation,
    "fresh episodes": promises.fresh_episodes,
    "time limit": promises.time_limit,
    "record": promises.record,
    "masks": promises.masks,
    "finite": promises.finite,
    "compiled once": promises.compiled_once,
}
"""The promises by name, in the order of the report."""

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.UnexpectedTracerError,
)


def check_environment(
    env: Any,
    /,
    *,
    num_envs: int = 4,
    num_steps: int = 1001,
    max_seconds: float = 20.0,
    seed: int = 0,
) -> EnvironmentReport:
    """Try an environment with random actions, and report which promises it keeps.

    `env` is an `Environment`, or anything that `make_env` takes. `num_envs` environments take up to
    `num_steps` steps, for about `max_seconds`, so that ends and time limits are seen; `reset` and
    `step` are compiled once each, and a small agent records a few steps. An environment that steps
    on the host is played through its simulators; promises about compilation are skipped. `seed`
    determines actions and initial states.

    The report has `.ok`, `.failures`, `.skipped` and `.notes`, and prints as a table. What is wrong
    with the environment is in the report; `ValueError` is for what is no environment at all.
    """
    require_whole_number("num_envs", num_envs, 2)
    require_whole_number("num_steps", num_steps, 2)
    env = make_env(env)
    name = str(getattr(env, "name", type(env).__name__))
    broken = _cannot_be_played(env)
    if broken is not None:
        return EnvironmentReport(name, _alone(broken))
    try:
        evidence = gather(
            env, num_envs=num_envs, num_steps=num_steps, max_seconds=max_seconds, seed=seed
        )
    except EnvironmentFailed as error:
        return EnvironmentReport(name, _alone(CheckedPromise(_ACTIONS, "broken", str(error))))
    return EnvironmentReport(name, tuple(_try(each, evidence) for each in PROMISES))


def _cannot_be_played(env: Environment) -> CheckedPromise | None:
    """The promise that has to be kept before anything can run, if it is broken."""
    try:
        check_is_environment(env)
        require_promises(env)
    except _NOT_TRACEABLE as error:
        return CheckedPromise(_TRACED, "broken", f"it cannot be traced: {_first_line(error)}")
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return CheckedPromise(_SHAPES, "broken", kind + _first_line(error))
    return None


def _alone(broken: CheckedPromise) -> tuple[CheckedPromise, ...]:
    """A report of one broken promise, without which the others cannot be tried."""
    reason = f'needs "{broken.promise}"'
    return tuple(
        broken if name == broken.promise else CheckedPromise(name, "skipped", reason)
        for name in PROMISES
    )


def _try(name: str, evidence: Evidence) -> CheckedPromise:
    failed = evidence.play.error is not None
    if failed and name != _ACTIONS and (name == _TRACED or not evidence.play.num_steps):
        return CheckedPromise(name, "skipped", f'needs "{_ACTIONS}"')
    found = Findings()
    PROMISES[name](evidence, found)
    notes = tuple(found.notes)
    if found.broken:
        return CheckedPromise(name, "broken", "; ".join(found.broken), notes)
    if found.skipped:
        return CheckedPromise(name, "skipped", "; ".join(found.skipped), notes)
    return CheckedPromise(name, "kept", "", notes)


def _first_line(error: Exception) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
