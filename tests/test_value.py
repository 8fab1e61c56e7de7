"""`fit_value` against Adam by hand, L-BFGS against least squares, on a linear critic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax import fit_value, fit_value_lbfgs
from trpo_jax.learner.value import init_value_optimizer

BATCH, RATE = 32, 0.05
RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(BATCH, 3)).astype(np.float32)
TARGET = (OBS @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32)
WEIGHT = np.ones(BATCH, np.float32)
PARAMS = {"b": jnp.float32(0.1), "w": jnp.array([0.2, 0.0, -0.3])}


def apply(params, obs):
    return obs @ params["w"] + params["b"]


def fit(target=TARGET, weight=WEIGHT, epochs=1, minibatch=BATCH, obs=OBS, params=PARAMS, key=0):
    return _fit(key, params, obs, target, weight, epochs, minibatch)


def _run(key, params, obs, target, weight, epochs, minibatch):
    return fit_value(
        jax.random.key(key),
        params,
        init_value_optimizer(params),
        apply=apply,
        obs=jnp.asarray(obs),
        target=jnp.asarray(target),
        weight=jnp.asarray(weight),
        learning_rate=RATE,
        num_epochs=epochs,
        minibatch_size=minibatch,
    )


_fit = jax.jit(_run, static_argnums=(5, 6))


def adam_by_hand(steps, weight=WEIGHT):
    """Kingma & Ba 2015, algorithm 1, with the gradient of Σ w (v − t)² / Σ w written out.

    In float32 the bias correction 1 − 0.999ᵗ alone is off by 6e-5, hence the tolerances below.
    """
    b, w = 0.1, np.array([0.2, 0.0, -0.3])
    theta, m, v = np.array([b, *w]), np.zeros(4), np.zeros(4)
    features = np.concatenate([np.ones((BATCH, 1)), OBS.astype(np.float64)], 1)
    for t in range(1, steps + 1):
        g = 2 * features.T @ (weight * (features @ theta - TARGET)) / weight.sum()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta


def mse(theta, weight=WEIGHT, target=TARGET):
    errors = theta[0] + OBS @ theta[1:] - target
    return (weight * errors**2).sum() / weight.sum()


@pytest.mark.parametrize("epochs", [1, 5])
def test_full_batch_steps_are_adam(epochs):
    params, _, info = fit(epochs=epochs)
    expected = adam_by_hand(epochs)
    np.testing.assert_allclose([params["b"], *params["w"]], expected, rtol=1e-4)
    np.testing.assert_allclose(info.loss_before, mse(adam_by_hand(0)), rtol=1e-5)
    np.testing.assert_allclose(info.loss_after, mse(expected), rtol=1e-4)
    assert info.accepted


def test_the_optimiser_goes_on_from_fit_to_fit():
    kwargs = {"apply": apply, "learning_rate": RATE, "num_epochs": 1, "minibatch_size": BATCH}
    data = {"obs": jnp.asarray(OBS), "target": jnp.asarray(TARGET), "weight": jnp.asarray(WEIGHT)}
    params, opt_state = PARAMS, init_value_optimizer(PARAMS)
    run = jax.jit(lambda key, p, s: fit_value(key, p, s, **data, **kwargs))
    for i in range(3):
        params, opt_state, _ = run(jax.random.key(i), params, opt_state)
    np.testing.assert_allclose([params["b"], *params["w"]], adam_by_hand(3), rtol=1e-4)


def test_minibatches_reach_a_lower_loss():
    _, _, info = fit(epochs=200, minibatch=8)
    assert info.loss_after < 1e-3 * info.loss_before


def test_every_example_is_used_once_per_epoch():
    """With one-hot observations and Adam, an example moves exactly its own weight."""
    params = {"b": jnp.float32(0), "w": jnp.zeros(BATCH)}
    eye, ones = np.eye(BATCH, dtype=np.float32), np.ones(BATCH, np.float32)
    fitted, opt_state, _ = fit(ones, obs=eye, params=params, minibatch=4)
    assert (fitted["w"] > 0).all()
    assert opt_state.count == BATCH // 4
    others = fit(ones, obs=eye, params=params, minibatch=4, key=1)[0]
    assert not np.array_equal(fitted["w"], others["w"])  # the order is random


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_not_finite_changes_nothing(bad):
    target = TARGET.copy()
    target[5] = bad
    params, opt_state, info = fit(target, epochs=3, minibatch=8)
    assert not info.accepted
    unchanged = (PARAMS, init_value_optimizer(PARAMS))
    for after, before in zip(
        jax.tree.leaves((params, opt_state)), jax.tree.leaves(unchanged), strict=True
    ):
        assert np.asarray(after).tobytes() == np.asarray(before).tobytes()
    np.testing.assert_array_equal(info.loss_after, info.loss_before)


def test_examples_of_weight_zero_do_not_count():
    weight = np.where(np.arange(BATCH) < 20, 1, 0).astype(np.float32)
    target = np.where(weight > 0, TARGET, 1e6).astype(np.float32)
    params, _, info = fit(target, weight, epochs=4)
    np.testing.assert_allclose([params["b"], *params["w"]], adam_by_hand(4, weight), rtol=1e-4)
    np.testing.assert_allclose(info.loss_after, mse(adam_by_hand(4, weight), weight), rtol=1e-4)


def test_no_weight_at_all_changes_nothing_of_a_warm_optimiser():
    """Its momentum alone would move the parameters."""
    kwargs = {"apply": apply, "learning_rate": RATE, "num_epochs": 3, "minibatch_size": BATCH}
    run = jax.jit(
        lambda params, state, weight: fit_value(
            jax.random.key(0), params, state, obs=jnp.asarray(OBS), target=jnp.asarray(TARGET),
            weight=weight, **kwargs,
        )
    )  # fmt: skip
    warm = run(PARAMS, init_value_optimizer(PARAMS), jnp.asarray(WEIGHT))[:2]
    *after, info = run(*warm, jnp.zeros(BATCH))
    assert not info.accepted
    assert np.isfinite(info.loss_after)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(warm), strict=True):
        np.testing.assert_array_equal(new, old)


def test_zero_epochs_change_nothing():
    params, _, info = fit(epochs=0)
    np.testing.assert_array_equal(params["w"], PARAMS["w"])
    assert info.loss_after == info.loss_before


def test_minibatches_must_divide_the_batch():
    with pytest.raises(ValueError, match="minibatch_size=5 does not divide the batch 32"):
        _run(0, PARAMS, OBS, TARGET, WEIGHT, 1, 5)


def lbfgs(params, target=TARGET, weight=WEIGHT, num_iterations=12):
    data = {"obs": jnp.asarray(OBS), "target": jnp.asarray(target), "weight": jnp.asarray(weight)}
    return fit_value_lbfgs(params, apply=apply, **data, num_iterations=num_iterations)


@pytest.mark.parametrize("lanes", [False, True], ids=["one", "vmap"])
def test_lbfgs_reaches_weighted_least_squares(lanes):
    rng = np.random.default_rng(1)
    noisy = (TARGET + rng.normal(size=BATCH)).astype(np.float32)
    weight = rng.uniform(0.2, 2.0, BATCH).astype(np.float32)
    root = np.sqrt(weight.astype(np.float64))
    features = root[:, None] * np.concatenate([np.ones((BATCH, 1)), OBS], 1)
    expected = np.linalg.lstsq(features, root * noisy, rcond=None)[0]

    def run(params):
        return lbfgs(params, noisy, weight)

    if lanes:
        pair = jax.tree.map(lambda leaf: jnp.stack([3 * leaf, leaf]), PARAMS)
        params, info = jax.tree.map(lambda leaf: leaf[1], jax.jit(jax.vmap(run))(pair))
    else:
        params, info = jax.jit(run)(PARAMS)
    np.testing.assert_allclose([params["b"], *params["w"]], expected, rtol=1e-4)
    np.testing.assert_allclose(info.loss_before, mse(adam_by_hand(0), weight, noisy), rtol=1e-5)
    np.testing.assert_allclose(info.loss_after, mse(expected, weight, noisy), rtol=1e-4)
    assert info.accepted


@pytest.mark.parametrize("spoil", ["target", "weight", "iterations"])
def test_lbfgs_without_anything_to_fit_changes_nothing(spoil):
    target, weight = TARGET.copy(), WEIGHT
    target[5] = np.nan if spoil == "target" else target[5]
    weight = 0 * weight if spoil == "weight" else weight
    params, info = lbfgs(PARAMS, target, weight, 0 if spoil == "iterations" else 3)
    assert bool(info.accepted) == (spoil == "iterations")
    for after, before in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        assert np.asarray(after).tobytes() == np.asarray(before).tobytes()
    np.testing.assert_array_equal(info.loss_after, info.loss_before)
