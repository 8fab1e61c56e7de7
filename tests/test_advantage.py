"""`gae` against its definition as an explicit double sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_jax import gae

T, N = 13, 4


def double_sum(reward, value, next_value, terminated, truncated, gamma, lam):
    """A_t = Σ_k (γλ)^k δ_{t+k}, summed to the end of the episode; float64, one column at a time."""
    advantage = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(len(reward) - t):
            s = t + k
            delta = reward[s] - value[s] + (0 if terminated[s] else gamma * next_value[s])
            advantage[t] += (gamma * lam) ** k * delta
            if terminated[s] or truncated[s]:
                break
    return advantage


def random_steps(seed, shape):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, *shape))
    terminated = rng.random(shape) < 0.2
    truncated = rng.random(shape) < 0.2
    return reward, value, next_value, terminated, truncated


def to_jax(steps):
    return [jnp.asarray(x if x.dtype == bool else x.astype(np.float32)) for x in steps]


def plain(*arguments):
    *steps, gamma, lam = arguments
    return gae(*steps, gamma=gamma, gae_lambda=lam)


_jitted = jax.jit(plain)


@pytest.mark.parametrize("function", [plain, _jitted], ids=["plain", "jit"])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_matches_the_double_sum(function, gamma, lam):
    steps = random_steps(3, (T, N))
    advantage, target = function(*to_jax(steps), gamma, lam)
    columns = [double_sum(*(x[:, n] for x in steps), gamma, lam) for n in range(N)]
    expected = np.stack(columns, 1)
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(target, expected + steps[1], rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_one_environment_without_an_axis(seed, gamma, lam):
    steps = random_steps(seed, (T,))
    advantage, _ = _jitted(*to_jax(steps), gamma, lam)
    np.testing.assert_allclose(advantage, double_sum(*steps, gamma, lam), rtol=1e-4, atol=1e-5)


def test_lambda_zero_is_the_temporal_difference():
    steps = random_steps(0, (T, N))
    reward, value, next_value, terminated, _ = steps
    advantage, _ = gae(*to_jax(steps), gamma=0.9, gae_lambda=0.0)
    expected = reward + 0.9 * np.where(terminated, 0, next_value) - value
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", ["terminated", "truncated", "horizon"])
def test_lambda_one_is_the_discounted_return_with_bootstrap(end):
    reward, value, next_value, _, _ = random_steps(1, (T,))
    for t in range(T - 1):
        next_value[t] = value[t + 1]
    flags = {name: np.zeros(T, bool) for name in ("terminated", "truncated")}
    if end != "horizon":
        flags[end][-1] = True
    steps = (reward, value, next_value, flags["terminated"], flags["truncated"])
    _, target = gae(*to_jax(steps), gamma=0.9, gae_lambda=1.0)
    bootstrap = 0 if end == "terminated" else 0.9**T * next_value[-1]
    expected = sum(0.9**t * reward[t] for t in range(T)) + bootstrap
    np.testing.assert_allclose(target[0], expected, rtol=1e-5)


def test_batched_settings_equal_single_ones():
    steps = to_jax(random_steps(5, (T, N)))
    gammas, lams = jnp.array([0.5, 0.99]), jnp.array([0.0, 0.9])
    both = jax.vmap(lambda g, lam: gae(*steps, gamma=g, gae_lambda=lam)[0])(gammas, lams)
    for i in range(2):
        single, _ = gae(*steps, gamma=gammas[i], gae_lambda=lams[i])
        np.testing.assert_allclose(both[i], single, rtol=1e-6, atol=1e-6)


def test_unequal_shapes_are_refused():
    steps = to_jax(random_steps(5, (T, N)))
    with pytest.raises(ValueError, match="has shape"):
        gae(steps[0][:-1], *steps[1:], gamma=0.9, gae_lambda=0.9)
