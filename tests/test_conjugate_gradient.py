"""`cg_solve` against numpy.linalg.solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_jax import cg_solve

N = 8


def spd(seed=0, condition=10.0, size=N):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return (q * np.geomspace(1, condition, size)) @ q.T, rng.normal(size=size)


def solve(a, b, max_iters=30, tol=1e-6):
    a = jnp.asarray(a, jnp.result_type(b))
    return cg_solve(lambda v: a @ v, b, max_iters=max_iters, tol=tol)


def iterates(a, b, count):
    """x_0 … x_count as minimisers of ½xᵀAx − bᵀx over Krylov spaces: no recurrence at all."""
    found = [np.zeros_like(b)]
    for k in range(1, count + 1):
        krylov = np.stack([np.linalg.matrix_power(a, j) @ b for j in range(k)], 1)
        basis, _ = np.linalg.qr(krylov)
        found.append(basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b))
    return found


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(1, 100))
def test_solves_symmetric_positive_definite_systems(seed, condition):
    a, b = spd(seed, condition)
    result = _jitted(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    expected = np.linalg.solve(a, b)
    assert np.linalg.norm(result.x - expected) <= 1e-4 * np.linalg.norm(expected)
    assert not result.breakdown


_jitted = jax.jit(lambda a, b: solve(a, b, max_iters=40))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_float64(transform):
    with jax.enable_x64(True):
        a, b = spd(1, 1e4)
        result = transform(lambda b: solve(a, b, max_iters=60, tol=1e-14))(jnp.asarray(b))
        assert result.x.dtype == jnp.float64
        np.testing.assert_allclose(result.x, np.linalg.solve(a, b), rtol=1e-9)


def test_trees():
    a, b = spd(2)
    split = lambda v: {"w": v[:6].reshape(2, 3), "b": (v[6:],)}  # noqa: E731
    join = lambda t: jnp.concatenate([t["w"].reshape(-1), t["b"][0]])  # noqa: E731
    matrix = jnp.asarray(a, jnp.float32)
    tree = split(jnp.asarray(b, jnp.float32))
    result = cg_solve(lambda t: split(matrix @ join(t)), tree, max_iters=30, tol=1e-6)
    assert jax.tree.structure(result.x) == jax.tree.structure(tree)
    np.testing.assert_allclose(join(result.x), np.linalg.solve(a, b), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(join(result.residual), b - a @ join(result.x), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
def test_the_tolerance_is_relative(scale):
    a, b = spd(3, 20)
    plain = solve(a, jnp.asarray(b, jnp.float32), tol=0.03)
    scaled = solve(a, jnp.asarray(b * scale, jnp.float32), tol=0.03)
    assert 0 < plain.num_iters < N
    assert scaled.num_iters == plain.num_iters
    np.testing.assert_allclose(scaled.x / scale, plain.x, rtol=1e-3)


def test_stops_at_the_first_iterate_within_tolerance():
    a, b = spd(4, 30)
    result = solve(a, jnp.asarray(b, jnp.float32), tol=0.05)
    true_norms = [np.linalg.norm(b - a @ x) for x in iterates(a, b, N)]
    first = next(k for k, norm in enumerate(true_norms) if norm <= 0.05 * np.linalg.norm(b))
    assert result.num_iters == first > 0


def test_residual_norms_are_those_of_the_iterates():
    a, b = spd(5, 20)
    with jax.enable_x64(True):
        result = solve(a, jnp.asarray(b), max_iters=5, tol=0.0)
    expected = [np.linalg.norm(b - a @ x) for x in iterates(a, b, 5)]
    assert result.residual_norms.shape == (6,)
    np.testing.assert_allclose(result.residual_norms, expected, rtol=1e-8)
    np.testing.assert_allclose(result.x, iterates(a, b, 5)[-1], rtol=1e-8)


def test_residual_norms_repeat_the_last_one():
    result = solve(np.eye(N) * 2, jnp.arange(1.0, N + 1), max_iters=7)
    assert result.num_iters == 1
    assert result.residual_norms.shape == (8,)
    np.testing.assert_allclose(result.residual_norms[0], np.linalg.norm(np.arange(1, N + 1)))
    np.testing.assert_array_equal(result.residual_norms[1:], result.residual_norms[1])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_zero_right_hand_side(transform):
    result = transform(lambda b: solve(spd()[0], b))(jnp.zeros(N))
    np.testing.assert_array_equal(result.x, 0)
    np.testing.assert_array_equal(result.residual_norms, 0)
    assert result.num_iters == 0
    assert not result.breakdown


def test_negative_curvature_keeps_the_last_good_iterate():
    # b meets the negative eigenvalue in the second direction only.
    a, b = np.diag([1.0, 2.0, -4.0]), np.array([1.0, 1.0, 0.1])
    first = (b @ b) / (b @ a @ b) * b
    result = solve(a, jnp.asarray(b, jnp.float32))
    assert result.breakdown
    assert result.num_iters == 1
    np.testing.assert_allclose(result.x, first, rtol=1e-5)
    np.testing.assert_allclose(result.residual_norms[1:], np.linalg.norm(b - a @ first), rtol=1e-5)


def test_negative_curvature_at_once():
    result = solve(-np.eye(3), jnp.ones(3))
    assert result.breakdown
    np.testing.assert_array_equal(result.x, 0)
    assert result.num_iters == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite(bad):
    result = jax.jit(lambda b: cg_solve(lambda v: v * bad, b, max_iters=5, tol=1e-6))(jnp.ones(3))
    assert result.breakdown
    np.testing.assert_array_equal(result.x, 0)


def test_a_product_that_turns_bad_midway():
    a, b = spd(6, 20)
    matrix, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)

    def product(v):  # the first direction is b itself, later ones are not
        return jnp.where(jnp.all(v == b), matrix @ v, jnp.nan)

    result = cg_solve(product, b, max_iters=5, tol=1e-6)
    assert result.breakdown
    assert result.num_iters == 1
    np.testing.assert_allclose(result.x, iterates(a, np.asarray(b, float), 1)[1], rtol=1e-4)


def test_a_right_hand_side_that_is_not_finite():
    result = solve(np.eye(3), jnp.array([1.0, jnp.nan, 0.0]))
    assert result.breakdown
    assert np.isfinite(result.x).all()


def test_lanes_of_vmap_stop_on_their_own():
    systems = [spd(7, 1.0), spd(8, 5.0), spd(9, 300.0), (-np.eye(N), np.ones(N))]
    a = jnp.asarray(np.stack([s[0] for s in systems]), jnp.float32)
    b = jnp.asarray(np.stack([s[1] for s in systems]), jnp.float32)
    together = jax.vmap(lambda a, b: solve(a, b, max_iters=6, tol=1e-3))(a, b)
    assert len(set(together.num_iters.tolist())) >= 3
    assert together.breakdown.tolist() == [False, False, False, True]
    for lane in range(len(systems)):
        alone = solve(a[lane], b[lane], max_iters=6, tol=1e-3)
        assert together.num_iters[lane] == alone.num_iters
        np.testing.assert_allclose(together.x[lane], alone.x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            together.residual_norms[lane], alone.residual_norms, rtol=1e-3, atol=1e-6
        )


def test_no_gradient_is_recorded():
    def total(b, diagonal):
        return jnp.sum(cg_solve(lambda v: diagonal * v, b, max_iters=5, tol=1e-6).x)

    for gradient in jax.grad(total, argnums=(0, 1))(jnp.ones(3), jnp.array([1.0, 2.0, 3.0])):
        np.testing.assert_array_equal(gradient, 0)


def test_max_iters_is_checked():
    with pytest.raises(ValueError, match="max_iters=0"):
        solve(np.eye(3), jnp.ones(3), max_iters=0)
