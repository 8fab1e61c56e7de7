"""Running statistics against NumPy over everything seen so far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_jax.learner.normalization import (
    RunningStatistics,
    discounted_returns,
    init_statistics,
    normalize,
    scale_by_deviation,
    update_statistics,
    weighted_mean_and_deviation,
)

_update = jax.jit(update_statistics)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), offset=st.floats(-50, 50), scale=st.floats(0.1, 100))
def test_merging_equals_statistics_of_the_concatenation(seed, offset, scale):
    rng = np.random.default_rng(seed)
    values = (offset + scale * rng.normal(size=(3, 6, 2, 4))).astype(np.float32)
    weights = rng.integers(0, 2, size=(3, 6, 2)).astype(np.float32)
    weights[0, 0, 0] = 1
    statistics = init_statistics((4,))
    for value, weight in zip(values, weights, strict=True):
        statistics = _update(statistics, value, weight)
    seen = values.astype(np.float64)[weights > 0]
    assert statistics.count == len(seen)
    tolerance = 1e-5 * (abs(offset) + scale)
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(statistics.variance, seen.var(0), rtol=1e-3, atol=tolerance * scale)


def test_scalars():
    values = np.array([1.0, 2.0, 6.0], np.float32)
    statistics = _update(init_statistics(()), values, np.ones(3, np.float32))
    np.testing.assert_allclose(statistics.mean, 3)
    np.testing.assert_allclose(statistics.variance, np.var(values), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_merge_that_is_not_finite_is_rejected(bad):
    before = _update(init_statistics((2,)), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    after = _update(before, np.array([[1, bad]], np.float32), np.ones(1, np.float32))
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(new, old)


def test_nothing_merged_changes_nothing():
    before = _update(init_statistics((2,)), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    after = _update(before, np.full((3, 2), 7, np.float32), np.zeros(3, np.float32))
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(new, old)


def test_normalize_and_scale():
    statistics = RunningStatistics(jnp.float32(9), jnp.array([1.0, -2.0]), jnp.array([4.0, 0.25]))
    values = jnp.array([[3.0, -2.5], [1e6, -1e6]])
    np.testing.assert_allclose(normalize(statistics, values), [[1, -1], [10, -10]], rtol=1e-5)
    np.testing.assert_allclose(
        scale_by_deviation(statistics, values), [[1.5, -5], [10, -10]], rtol=1e-5
    )


def test_statistics_of_nothing_change_nothing():
    values = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(normalize(init_statistics((2,)), values), values, rtol=1e-6)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_discounted_returns_against_a_loop(transform):
    rng = np.random.default_rng(0)
    reward, done = rng.normal(size=(9, 3)).astype(np.float32), rng.random((9, 3)) < 0.3
    carried = rng.normal(size=3).astype(np.float32)
    end, returns = transform(lambda *a: discounted_returns(*a, 0.9))(carried, reward, done)
    assert done.any()
    for n in range(3):
        running = float(carried[n])
        for t in range(9):
            running = reward[t, n] + 0.9 * running
            np.testing.assert_allclose(returns[t, n], running, rtol=1e-4, atol=1e-5)
            running = 0.0 if done[t, n] else running
        np.testing.assert_allclose(end[n], running, rtol=1e-4, atol=1e-5)


def test_weighted_mean_and_deviation():
    values, weight = np.array([1.0, 5.0, 1e9], np.float32), np.array([3.0, 1.0, 0.0], np.float32)
    mean, deviation = weighted_mean_and_deviation(jnp.asarray(values), jnp.asarray(weight))
    repeated = np.array([1.0, 1.0, 1.0, 5.0])
    np.testing.assert_allclose(mean, repeated.mean(), rtol=1e-6)
    np.testing.assert_allclose(deviation, repeated.std(), rtol=1e-6)
    nothing = weighted_mean_and_deviation(jnp.asarray(values), jnp.zeros(3))
    np.testing.assert_array_equal(nothing, 0)
