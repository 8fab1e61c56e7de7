"""Micro-batches: the same results, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax.common.batches import in_chunks, map_chunks, micro_batch
from trpo_jax.solver.objective import curvature_product

CONFIG = trpo_jax.TRPOConfig(
    num_envs=8,
    num_steps=128,
    hidden_sizes=(64, 64),
    cg_iterations=5,
    value_epochs=1,
    value_minibatch_size=64,
)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 5, 10, 11])
def test_maps_keep_rows_and_give_a_summary_of_each_part(chunk_size):
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
    rows, tops = map_chunks(lambda chunk: (2 * chunk, jnp.max(chunk, axis=0)), batch, chunk_size)
    np.testing.assert_array_equal(rows, 2 * np.asarray(batch))
    size = chunk_size or 10
    parts = [np.asarray(batch)[i : i + size].max(axis=0) for i in range(0, 10, size)]
    np.testing.assert_array_equal(tops, parts)
    scaled = in_chunks(lambda scale, inputs: scale * inputs[:, 0], chunk_size)(3.0, batch)
    np.testing.assert_allclose(scaled, 3 * np.asarray(batch)[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("chunk_size", "size"), [(None, None), (1, 1), (47, 47), (48, None), (100, None)]
)
@pytest.mark.parametrize("curvature", ["gauss_newton", "hvp"])
def test_a_chunk_of_the_whole_batch_is_no_chunk(make_problem, curvature, chunk_size, size):
    """Then the network is linearised once, however many products follow."""
    assert micro_batch(chunk_size, 48) == size
    problem, passes = make_problem(batch_size=48), []

    def predict(params, batch):
        passes.append(batch.obs.shape[0])
        return problem.objective.predict(params, batch)

    def products(params):
        product = curvature_product(
            problem.objective._replace(predict=predict),
            params,
            problem.batch,
            curvature=curvature,
            chunk_size=chunk_size,
        )
        return product(params), product(params), product(params)

    jax.eval_shape(products, problem.params)
    assert set(passes) == {size or 48}
    linearised_once = size is None or curvature == "hvp"  # whose products differentiate a scan
    assert (len(passes) == 1) == linearised_once


def test_an_update_in_chunks_is_the_same_update_in_less_memory():
    env = trpo_jax.make_env("CartPole-v1")
    whole = trpo_jax.make_trpo(env, CONFIG)
    parts = trpo_jax.make_trpo(env, CONFIG.replace(chunk_size=48))  # 1024 = 21 · 48 + 16
    state, trajectory = whole.rollout(whole.init(jax.random.key(0)))
    # With the default damping five iterations in float32 amplify the order of a sum to 0.3 % of the
    # step (seeds 1 and 3 did so with the batch in any order); this is about the sums themselves.
    hparams = trpo_jax.HParams(cg_damping=1.0)
    outcomes, peaks = [], []
    for agent in (whole, parts):
        learn = lambda s, t, a=agent: a.learn(s, t, hparams)  # noqa: E731
        program = jax.jit(learn).lower(state, trajectory).compile()
        peaks.append(program.memory_analysis().temp_size_in_bytes)
        after, metrics = program(state, trajectory)
        outcomes.append((after.policy_params, after.value_params, metrics))
    for got, expected in zip(*map(jax.tree.leaves, outcomes), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-5)
    batch_of_units = 4 * CONFIG.batch_size * 64  # one hidden layer's activations
    assert peaks[0] > 2 * batch_of_units
    assert peaks[1] < 2 * batch_of_units
