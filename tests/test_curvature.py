"""Curvature products against dense matrices, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from trpo_jax import Categorical, DiagonalGaussian, gauss_newton_product, hvp, linearized_hvp

OBS, HIDDEN, BATCH = 3, 4, 10
KINDS = ("categorical", "gaussian")
PRECISIONS = ((False, 1e-5), (True, 1e-10))


def make_case(kind, dtype, seed=0):
    """(params, predict, mean KL from the outputs at params), plain jnp: a one-hidden-layer MLP."""
    rng = np.random.default_rng(seed)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    outputs = 3 if kind == "categorical" else 2
    obs = array(BATCH, OBS)
    params = {"w1": array(OBS, HIDDEN), "b1": array(HIDDEN), "w2": array(HIDDEN, outputs)}
    if kind == "gaussian":
        params["log_std"] = array(outputs) * 0.3

    def predict(params):
        out = jnp.tanh(obs @ params["w1"] + params["b1"]) @ params["w2"]
        if kind == "categorical":
            return Categorical(out)
        return DiagonalGaussian(out, jnp.broadcast_to(params["log_std"], out.shape))

    old = predict(params)
    return params, predict, lambda params: jnp.mean(old.kl(predict(params)))


def numpy_fisher(kind, params):
    """Σ Jᵀ F J / B in float64, J by central differences of a NumPy forward pass."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(BATCH, OBS))
    if params["w1"].dtype == jnp.float32:
        obs = obs.astype(np.float32).astype(np.float64)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    flat, unravel = np.concatenate([params[k].ravel() for k in sorted(params)]), {}

    def predict(vector):
        start = 0
        for name in sorted(params):
            size = params[name].size
            unravel[name] = vector[start : start + size].reshape(params[name].shape)
            start += size
        out = np.tanh(obs @ unravel["w1"] + unravel["b1"]) @ unravel["w2"]
        if kind == "categorical":
            return out
        return np.concatenate([out, np.broadcast_to(unravel["log_std"], out.shape)], -1)

    basis = np.eye(flat.size) * 1e-5
    jacobian = np.stack([(predict(flat + e) - predict(flat - e)) / 2e-5 for e in basis], -1)
    out = predict(flat)
    if kind == "categorical":
        p = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
        fisher = np.einsum("bi,ij->bij", p, np.eye(3)) - p[:, :, None] * p[:, None, :]
    else:
        fisher = [np.diag([*np.exp(-2 * row[2:]), 2.0, 2.0]) for row in out]
    return np.einsum("bip,bij,bjq->pq", jacobian, fisher, jacobian) / BATCH


def products(kind, dtype):
    """The three products at θ_old, jitted, and a random direction."""
    params, predict, kl = make_case(kind, dtype)
    vector = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=dtype)).reshape(x.shape), params
    )

    def output_product(outputs, tangent):
        return jax.tree.map(lambda x: x / BATCH, outputs.fisher_product(tangent))

    functions = {
        "hvp": lambda v: hvp(kl, params, v),
        "linearized_hvp": lambda v: linearized_hvp(kl, params)(v),
        "gauss_newton": lambda v: gauss_newton_product(predict, output_product, params)(v),
    }
    return params, kl, vector, {name: jax.jit(f) for name, f in functions.items()}


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("x64", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_products_equal_the_dense_hessian(kind, x64, tolerance):
    with jax.enable_x64(x64):
        params, kl, vector, functions = products(kind, jnp.float64 if x64 else jnp.float32)
        flat, unravel = ravel_pytree(params)
        dense = jax.jit(jax.hessian(lambda flat: kl(unravel(flat))))(flat)
        expected = np.asarray(dense, np.float64) @ np.asarray(ravel_pytree(vector)[0], np.float64)
        for name, function in functions.items():
            product = function(vector)
            assert jax.tree.structure(product) == jax.tree.structure(params), name
            flat_product = np.asarray(ravel_pytree(product)[0])
            assert flat_product.dtype == flat.dtype, name
            assert relative_error(flat_product, expected) <= tolerance, name


@pytest.mark.parametrize("kind", KINDS)
def test_products_equal_a_numpy_fisher_matrix_column_by_column(kind):
    params, _, _, functions = products(kind, jnp.float32)
    flat, unravel = ravel_pytree(params)
    expected = numpy_fisher(kind, params)
    for name, function in functions.items():
        columns = jax.jit(jax.vmap(lambda e, f=function: ravel_pytree(f(unravel(e)))[0]))(
            jnp.eye(flat.size)
        )
        assert relative_error(np.asarray(columns, np.float64), expected) <= 1e-5, name


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_hvp_away_from_a_minimum(transform):
    # f = x² y + y³ has the Hessian [[2y, 2x], [2x, 6y]].
    fn = lambda p: p["x"] ** 2 * p["y"] + p["y"] ** 3  # noqa: E731
    params, vector = {"x": 2.0, "y": -1.0}, {"x": 0.5, "y": 3.0}
    for product in (
        transform(lambda p, v: hvp(fn, p, v))(params, vector),
        transform(lambda p, v: linearized_hvp(fn, p)(v))(params, vector),
    ):
        np.testing.assert_allclose(product["x"], 2 * -1 * 0.5 + 2 * 2 * 3.0, rtol=1e-6)
        np.testing.assert_allclose(product["y"], 2 * 2 * 0.5 + 6 * -1 * 3.0, rtol=1e-6)


def test_batched_directions_equal_single_ones():
    *_, vector, functions = products("categorical", jnp.float32)
    vectors = jax.tree.map(lambda x: jnp.stack([x, 2 * x + 1]), vector)
    for name, function in functions.items():
        together = jax.vmap(function)(vectors)
        alone = function(jax.tree.map(lambda x: x[1], vectors))
        flat = ravel_pytree(jax.tree.map(lambda x: x[1], together))[0]
        assert relative_error(flat, ravel_pytree(alone)[0]) <= 1e-5, name


def test_matrix_products_run_at_the_highest_precision():
    *_, vector, functions = products("gaussian", jnp.float32)
    for name, function in functions.items():
        dots = [line for line in str(jax.make_jaxpr(function)(vector)).split("dot_general")][1:]
        assert dots, name
        assert all("HIGHEST" in dot.split("] ")[0] for dot in dots), name
