"""An environment side by side with the library that it comes from, and in training."""

import chex
import jax
import numpy as np

import trpo_jax

TINY = trpo_jax.TRPOConfig(num_envs=2, num_steps=4, hidden_sizes=(8,), value_epochs=1)
HASTY = {"xla_backend_optimization_level": 0}  # compiles faster; these programs run few times


FUSED = {**HASTY, "xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else HASTY
"""As XLA fuses for users, whatever conftest.py tells it: equal expressions round alike."""


def follow(env, their_reset, their_step, choose, num_steps, options=HASTY):
    """Play `env` and the library with the same keys and actions; whatever differs fails.

    `their_reset(key) -> (state, obs)` and `their_step(key, state, action) -> (state, EnvStep)` call
    the library. `choose(rng, obs) -> (action, their action)`. After an end both begin anew.
    Returns the EnvSteps, as NumPy arrays.
    """
    begin = jax.jit(lambda key: (env.reset(key), their_reset(key)), compiler_options=options)
    advance = jax.jit(
        lambda key, state, action, their_state, their_action: (
            env.step(key, state, action),
            their_step(key, their_state, their_action),
        ),
        compiler_options=options,
    )
    rng, steps, done = np.random.default_rng(0), [], True
    for t in range(num_steps):
        key = jax.random.key(t)
        if done:
            (state, obs), (their_state, their_obs) = begin(key)
            chex.assert_trees_all_equal(obs, their_obs, strict=True)
        action, their_action = choose(rng, jax.tree.map(np.asarray, obs))
        (state, step), (their_state, theirs) = advance(
            key, state, action, their_state, their_action
        )
        chex.assert_trees_all_equal(step, theirs, strict=True)
        obs, done = step.obs, bool(step.terminated | step.truncated)
        steps.append(jax.tree.map(np.asarray, step))
    return steps


def any_allowed(num_actions, mask_of=None):
    """`choose` for a Discrete action: any that the mask allows, the same for both sides."""

    def choose(rng, obs):
        mask = np.ones(num_actions, bool) if mask_of is None else mask_of(obs)
        action = np.int32(rng.choice(np.flatnonzero(mask)))
        return action, action

    return choose


def ends(steps):
    """How many episodes terminated, and how many were truncated."""
    return sum(int(s.terminated) for s in steps), sum(int(s.truncated) for s in steps)


def train_twice(env):
    """Two updates of a tiny agent: both count in full, and move the policy."""
    agent = trpo_jax.make_trpo(env, TINY)
    state = jax.jit(agent.init, compiler_options=HASTY)(jax.random.key(0))
    update = jax.jit(agent.update, compiler_options=HASTY)
    begun = state.policy_params
    for _ in range(2):
        state, metrics = update(state)
        assert metrics.valid_fraction == 1
    for tree in (state.policy_params, state.value_params):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    assert metrics.accepted
    pairs = zip(jax.tree.leaves(begun), jax.tree.leaves(state.policy_params), strict=True)
    assert any(not np.array_equal(before, after) for before, after in pairs)
    return metrics
