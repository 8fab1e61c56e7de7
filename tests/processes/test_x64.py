"""JAX_ENABLE_X64=1 from the beginning: the learner's own numbers stay as wide as they are."""

from runs import run_program

TRAIN = """
import jax, jax.numpy as jnp, numpy as np, trpo_jax
assert jnp.ones(()).dtype == jnp.float64
for env_id, dtype in (("Pendulum-v1", "float64"), ("CartPole-v1", "float32")):
    config = trpo_jax.TRPOConfig(
        num_envs=4, num_steps=16, hidden_sizes=(16,), value_epochs=1, solver_dtype=dtype,
        normalize_observations=True, normalize_rewards=True)
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), config)
    state = agent.init(jax.random.key(0))
    after, history = agent.train(state, trpo_jax.HParams(), num_updates=2)
    types = lambda tree: jax.tree.map(lambda x: (x.dtype, x.shape), tree)
    assert types(state) == types(after), env_id
    ours = after.replace(actor=after.actor.replace(env_state=()), key=())
    wide = [jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_flatten_with_path((ours, history))[0]
            if leaf.dtype in (jnp.float64, jnp.int64)]
    assert not wide, (env_id, wide)
    assert np.asarray(history.accepted).all(), history.status
    assert (np.asarray(history.kl) <= 0.01).all()
"""


def test_everything_works_with_x64_enabled():
    run_program(TRAIN, JAX_ENABLE_X64="1")
