"""Distributions against scipy, dense formulas and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trpo_jax import Categorical, DiagonalGaussian, MultiCategorical

SIZES = (2, 3)
KINDS = ("categorical", "multi_categorical", "gaussian")
RNG = np.random.default_rng(0)

# Compiled whole: operation by operation every shape would cost a dozen small programs.
_kl = jax.jit(lambda p, q: p.kl(q))
_numbers_of = jax.jit(lambda p, q, action: (p.log_prob(action), p.entropy(), p.kl(q)))


def make(kind, first, second=None):
    """A distribution from arrays [..., 5] (and log σ [..., 5] for the Gaussian)."""
    if kind == "categorical":
        return Categorical(first)
    if kind == "multi_categorical":
        return MultiCategorical(first, SIZES)
    return DiagonalGaussian(first, jnp.zeros_like(first) if second is None else second)


def random(kind, *shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return make(kind, *(jnp.asarray(rng.normal(size=(*shape, 5)), dtype) for _ in range(2)))


def log_p(logits):
    logits = np.asarray(logits, np.float64)
    return logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True)


def parts(kind, distribution):
    """Log-probabilities of each dimension, float64."""
    logits = np.asarray(distribution.logits)
    ends = [SIZES[0]] if kind == "multi_categorical" else []
    return [log_p(part) for part in np.split(logits, ends, axis=-1)]


def reference_kl(kind, p, q):
    if kind == "gaussian":
        mp, sp, mq, sq = (np.asarray(x, np.float64) for x in (p.mean, p.log_std, q.mean, q.log_std))
        per_dimension = sq - sp + (np.exp(2 * sp) + (mp - mq) ** 2) / (2 * np.exp(2 * sq)) - 0.5
        return per_dimension.sum(-1)
    pairs = zip(parts(kind, p), parts(kind, q), strict=True)
    return sum((np.exp(a) * (a - b)).sum(-1) for a, b in pairs)


def test_categorical_against_scipy():
    p = random("categorical")
    probabilities = np.exp(log_p(p.logits))
    np.testing.assert_allclose(
        p.log_prob(jnp.arange(5)[:, None].squeeze()), np.log(probabilities), rtol=1e-5
    )
    np.testing.assert_allclose(p.entropy(), scipy.stats.entropy(probabilities), rtol=1e-5)
    q = random("categorical", seed=1)
    expected = scipy.stats.entropy(probabilities, np.exp(log_p(q.logits)))
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-5)


def test_multi_categorical_sums_over_dimensions():
    p, q = random("multi_categorical", 7), random("multi_categorical", 7, seed=1)
    (a, b), (c, d) = parts("multi_categorical", p), parts("multi_categorical", q)
    action = jnp.asarray(np.stack([RNG.integers(0, n, 7) for n in SIZES], -1))
    rows = np.arange(7)
    expected = a[rows, action[:, 0]] + b[rows, action[:, 1]]
    np.testing.assert_allclose(p.log_prob(action), expected, rtol=1e-5)
    entropy = scipy.stats.entropy(np.exp(a), axis=-1) + scipy.stats.entropy(np.exp(b), axis=-1)
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-5)
    kl = sum(scipy.stats.entropy(np.exp(x), np.exp(y), axis=-1) for x, y in ((a, c), (b, d)))
    np.testing.assert_allclose(p.kl(q), kl, rtol=1e-4)


def test_gaussian_log_prob_and_entropy_against_scipy():
    p = random("gaussian", 7)
    action = jnp.asarray(RNG.normal(size=(7, 5)), jnp.float32)
    dense = scipy.stats.norm(np.asarray(p.mean), np.exp(np.asarray(p.log_std, np.float64)))
    np.testing.assert_allclose(p.log_prob(action), dense.logpdf(action).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(p.entropy(), dense.entropy().sum(-1), rtol=1e-5)


def test_gaussian_kl_and_entropy_by_quadrature():
    p, q = scipy.stats.norm(0.3, 0.7), scipy.stats.norm(-0.4, 1.2)
    kl = scipy.integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8)[0]
    entropy = scipy.integrate.quad(lambda x: -p.pdf(x) * p.logpdf(x), -8, 8)[0]
    ours = DiagonalGaussian(jnp.full(3, 0.3), jnp.full(3, np.log(0.7)))
    other = DiagonalGaussian(jnp.full(3, -0.4), jnp.full(3, np.log(1.2)))
    np.testing.assert_allclose(ours.kl(other), 3 * kl, rtol=1e-5)
    np.testing.assert_allclose(ours.entropy(), 3 * entropy, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_not_symmetric_and_runs_from_self_to_other(kind):
    p, q = random(kind, 6), random(kind, 6, seed=1)
    forward, backward = reference_kl(kind, p, q), reference_kl(kind, q, p)
    assert (np.abs(forward - backward) > 1e-3 * forward).all()
    np.testing.assert_allclose(_kl(p, q), forward, rtol=1e-4)
    np.testing.assert_allclose(_kl(q, p), backward, rtol=1e-4)


_numbers = arrays(np.float32, (2, 4, 5), elements=st.floats(-5, 5, width=32))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(numbers=_numbers, other=_numbers, exponent=st.integers(-8, 0))
def test_kl_is_never_negative_and_zero_at_itself(kind, numbers, other, exponent):
    p = make(kind, *jnp.asarray(numbers))
    q = make(kind, *jnp.asarray(numbers + other * np.float32(10.0**exponent)))
    np.testing.assert_array_equal(_kl(p, p), 0)
    assert (np.asarray(_kl(p, q)) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_exactly_zero_at_itself_however_it_is_compiled(kind):
    p = random(kind, 50)
    np.testing.assert_array_equal(p.kl(p), 0)
    np.testing.assert_array_equal(jax.vmap(lambda p: p.kl(p))(p), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_kls_are_accurate_in_float32(kind):
    p = random(kind, 100)
    q = jax.tree.map(lambda x, d: x + 3e-4 * d, p, random(kind, 100, seed=1))
    expected = reference_kl(kind, p, q)
    assert 1e-8 < np.median(expected) < 1e-5
    np.testing.assert_allclose(np.mean(_kl(p, q)), expected.mean(), rtol=1e-3)
    np.testing.assert_allclose(_kl(p, q), expected, rtol=2e-2, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_float64(kind):
    with jax.enable_x64(True):
        p, q = random(kind, 6, dtype=np.float64), random(kind, 6, seed=1, dtype=np.float64)
        kl = _kl(p, q)
        assert kl.dtype == jnp.float64
        np.testing.assert_allclose(kl, reference_kl(kind, p, q), rtol=1e-12)


@pytest.mark.parametrize("gap", [20.0, 60.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", ["categorical", "multi_categorical"])
def test_kl_of_nearly_deterministic_policies_is_right(kind, gap):
    sharp = make(kind, jnp.asarray([gap, 0, gap, 0, 0], jnp.float32))
    soft = make(kind, jnp.asarray([0.5, 0, 0, 0, 0], jnp.float32))
    np.testing.assert_allclose(_kl(sharp, soft), reference_kl(kind, sharp, soft), rtol=1e-5)
    np.testing.assert_allclose(_kl(soft, sharp), reference_kl(kind, soft, sharp), rtol=1e-5)


@pytest.mark.parametrize("gap", [20.0, 100.0, 1000.0])
def test_entropy_and_log_prob_of_nearly_deterministic_policies_are_finite(gap):
    p = Categorical(jnp.asarray([gap, 0.0, 0.0]))
    np.testing.assert_allclose(p.entropy(), scipy.stats.entropy(np.exp(log_p(p.logits))), atol=1e-6)
    np.testing.assert_allclose(p.log_prob(jnp.int32(1)), -gap, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_product_is_the_hessian_of_the_kl(kind):
    p = random(kind)
    leaves, structure = jax.tree.flatten(p)
    tangent = random(kind, seed=2)
    sizes = [leaf.size for leaf in leaves]

    def kl_at(vector):  # the reference formula, by finite differences in float64
        split = np.split(vector, np.cumsum(sizes)[:-1])
        return float(reference_kl(kind, p, structure.unflatten(split)))

    at = np.concatenate([np.asarray(leaf, np.float64) for leaf in leaves])
    h, n = 1e-4, sum(sizes)
    basis = np.eye(n) * h
    plus_minus = lambda a, b: kl_at(at + a + b) - kl_at(at + a - b)  # noqa: E731
    dense = np.array(
        [[(plus_minus(a, b) - plus_minus(-a, b)) / (4 * h * h) for b in basis] for a in basis]
    )
    flat_tangent = np.concatenate([np.asarray(x, np.float64) for x in jax.tree.leaves(tangent)])
    product = np.concatenate([np.asarray(x) for x in jax.tree.leaves(p.fisher_product(tangent))])
    np.testing.assert_allclose(product, dense @ flat_tangent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_product_is_the_variance_of_the_score(kind):
    p, tangent = random(kind), random(kind, seed=3)
    samples = jax.vmap(p.sample)(jax.random.split(jax.random.key(0), 200_000))
    score = jax.jit(jax.vmap(lambda a: jax.jvp(lambda d: d.log_prob(a), (p,), (tangent,))[1]))
    product = p.fisher_product(tangent)
    pairs = zip(jax.tree.leaves(product), jax.tree.leaves(tangent), strict=True)
    quadratic = sum(float(jnp.sum(a * b)) for a, b in pairs)
    np.testing.assert_allclose(np.var(np.asarray(score(samples), np.float64)), quadratic, rtol=0.02)


@pytest.mark.parametrize("kind", ["categorical", "multi_categorical"])
def test_sample_frequencies(kind):
    p = random(kind)
    samples = np.asarray(jax.vmap(p.sample)(jax.random.split(jax.random.key(1), 20_000)))
    assert samples.dtype == np.int32
    columns = samples[:, None] if kind == "categorical" else samples
    for column, log_probability in zip(columns.T, parts(kind, p), strict=True):
        expected = np.exp(log_probability) * len(column)
        counts = np.bincount(column, minlength=len(expected))
        assert scipy.stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_sampled_dimensions_are_independent():
    p = MultiCategorical(jnp.zeros(4), (2, 2))
    samples = np.asarray(jax.vmap(p.sample)(jax.random.split(jax.random.key(2), 20_000)))
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.03


def test_sample_moments_of_a_gaussian():
    p = random("gaussian")
    samples = np.asarray(jax.vmap(p.sample)(jax.random.split(jax.random.key(3), 20_000)))
    std = np.exp(np.asarray(p.log_std))
    np.testing.assert_allclose(samples.mean(0), p.mean, atol=0.04 * std.max())
    np.testing.assert_allclose(samples.std(0), std, rtol=0.03)
    standard = (samples - np.asarray(p.mean)) / std
    assert scipy.stats.kstest(standard.ravel(), "norm").pvalue > 1e-3


def test_mode():
    logits = jnp.asarray([[0.0, 3.0, 1.0, 0.0, 2.0], [9.0, 3.0, 1.0, 5.0, 2.0]])
    np.testing.assert_array_equal(Categorical(logits).mode(), [1, 0])
    np.testing.assert_array_equal(MultiCategorical(logits, SIZES).mode(), [[1, 2], [0, 1]])
    np.testing.assert_array_equal(DiagonalGaussian(logits, logits).mode(), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes(kind):
    p, q = random(kind, 2, 3), random(kind, 2, 3, seed=1)
    action = p.sample(jax.random.key(0))
    assert action.shape == {"categorical": (2, 3), "multi_categorical": (2, 3, 2)}.get(
        kind, (2, 3, 5)
    )
    assert p.mode().shape == action.shape
    one = [jax.tree.map(lambda x: np.asarray(x)[1, 2], tree) for tree in (p, q, action)]
    for many, single in zip(_numbers_of(p, q, action), _numbers_of(*one), strict=True):
        assert many.shape == (2, 3)
        np.testing.assert_allclose(many[1, 2], single, rtol=1e-5)
    product = p.fisher_product(q)
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(jnp.shape, p)
