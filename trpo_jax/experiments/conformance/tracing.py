"""The promise of `jit` and `vmap`: compiled and batched calls give what plain calls give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import Environment, some_action
from trpo_jax.experiments.conformance.comparing import first_difference
from trpo_jax.experiments.conformance.evidence import Evidence
from trpo_jax.experiments.conformance.playing import (
    HASTY,
    CompiledSimulators,
    RandomActions,
    reset_key,
    step_key,
)
from trpo_jax.experiments.conformance.promises import Findings

_STEPS = 3
_MAX_OPERATIONS = 1500
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4


def jit_and_vmap(evidence: Evidence, found: Findings) -> None:
    """Compiled, batched calls give what plain calls give, but for rounding; three steps."""
    if evidence.programs is None:
        found.skipped.append("it steps on the host")
        return
    env = evidence.env
    reset, step = env.reset, env.step
    key = reset_key(0, 0)
    operations = _num_operations(env, key)
    if operations > _MAX_OPERATIONS:
        reset, step = (jax.jit(each, compiler_options=HASTY) for each in (reset, step))
        found.notes.append(
            f"with its {operations} operations it is too slow uncompiled: vmap is compared with "
            "compiled calls of one environment"
        )
    num_envs = evidence.play.reward.shape[1]
    simulators = CompiledSimulators(evidence.programs, np.arange(num_envs))
    choose = RandomActions(env.action_space, 0)
    obs = simulators.reset()
    difference = _difference(reset(key)[1], obs)
    if difference:
        found.broken.append(f"reset{difference}")
        return
    for number in range(_STEPS):
        state = jax.tree.map(lambda leaf: leaf[0], simulators.states)
        actions = choose(jax.tree.map(np.asarray, obs), num_envs)
        batched = simulators.step(actions)
        _, plain = step(step_key(0, number), state, jnp.asarray(actions[0]))
        fields = ("obs", "reward", "terminated", "truncated")
        for field in fields:
            difference = _difference(getattr(plain, field), getattr(batched, field))
            if difference:
                found.broken.append(f"step {number}: {field}{difference}")
                return
        obs = batched.obs


def _difference(plain: Any, batched: Any) -> str | None:
    row = jax.tree.map(lambda leaf: np.asarray(leaf)[0], batched)
    plain = jax.tree.map(np.asarray, plain)
    difference = first_difference(plain, row, (), _RELATIVE, _ABSOLUTE)
    return f"{difference} (plain and under jit and vmap)" if difference else None


def _num_operations(env: Environment, key: jax.Array) -> int:
    """Operations of one reset and one step."""

    def both(key: jax.Array) -> Any:
        state, obs = env.reset(key)
        copy = jax.tree.map(jnp.asarray, state)  # brax's step writes into what it is given
        return obs, env.step(key, copy, some_action(env.action_space))[1].obs

    return _count(jax.make_jaxpr(both)(key).jaxpr)


def _count(jaxpr: Any) -> int:
    inner = jax.core.jaxprs_in_params
    return sum(1 + sum(map(_count, inner(equation.params))) for equation in jaxpr.eqns)
