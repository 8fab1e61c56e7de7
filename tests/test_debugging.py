"""A healthy run under JAX's own switches for debugging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax

CONFIG = trpo_jax.TRPOConfig(
    num_envs=2, num_steps=4, hidden_sizes=(4,), cg_iterations=2, max_backtracks=2, value_epochs=1
)
SWITCHES = {
    "debug_nans": jax.debug_nans,
    "check_tracer_leaks": lambda on: jax.checking_leaks(),
    "enable_x64": jax.enable_x64,
    "disable_jit": jax.disable_jit,
    "rank_promotion": lambda on: jax.numpy_rank_promotion("raise" if on else "allow"),
}
AGENTS = {
    "discrete": ("CartPole-v1", {}),
    "continuous": ("Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
    "exact curvature": ("Pendulum-v1", {"curvature": "hvp"}),
    "lbfgs": ("CartPole-v1", {"value_optimizer": "lbfgs", "value_iterations": 2}),
    "float64 solver": ("CartPole-v1", {"solver_dtype": "float64"}),
    "chunks": ("CartPole-v1", {"chunk_size": 2}),
    "memory": ("CartPole-v1", {"memory": "gru", "memory_size": 4}),
}
USUAL = ("discrete", "continuous")


def train(env_id: str, changes: dict):
    """Two updates of a fresh agent, an evaluation and an action."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), CONFIG.replace(**changes))
    state = agent.init(jax.random.key(0))
    state, history = agent.train(state, trpo_jax.HParams(), num_updates=2)
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=2, max_steps=4)
    agent.act(state, jax.random.key(2), state.actor.obs, carry=agent.initial_carry(2))
    return state, history, stats


@pytest.mark.parametrize(
    ("case", "switch"),
    [
        *((case, "debug_nans") for case in AGENTS),
        *((case, switch) for case in USUAL for switch in SWITCHES if switch != "debug_nans"),
        ("float64 solver", "check_tracer_leaks"),
        ("memory", "enable_x64"),
        ("memory", "rank_promotion"),
    ],
)
def test_a_healthy_run_raises_nothing(case, switch):
    jax.clear_caches()  # else what another test has compiled would be run
    with SWITCHES[switch](True):
        state, history, stats = train(*AGENTS[case])
    leaves = jax.tree.leaves(state.policy_params)
    assert all(np.isfinite(leaf).all() and leaf.dtype == jnp.float32 for leaf in leaves)
    assert history.accepted.all()
    assert np.isfinite(stats.returns).all()
