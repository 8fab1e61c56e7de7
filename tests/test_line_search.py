"""`line_search` against its inequalities, tried one by one in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_jax import line_search

PARAMS, STEP = jnp.array([0.3, -1.0]), jnp.array([2.0, 1.0])
MAX_BACKTRACKS = 6


def distance(params):
    """How far along the step a candidate is: 1 at the full step."""
    return (params[0] - PARAMS[0]) / STEP[0]


def search(improvement, kl, params=PARAMS, **settings):
    settings = {"max_kl": 0.01, "max_backtracks": MAX_BACKTRACKS, **settings}
    return line_search(
        lambda p: (improvement(distance(p)), kl(distance(p))), params, STEP, **settings
    )


def assert_nothing_moved(result):
    assert not result.accepted
    assert result.params.tobytes() == np.asarray(PARAMS).tobytes()
    assert result.kl == 0
    assert result.improvement == 0
    assert result.step_fraction == 0
    assert result.num_backtracks == MAX_BACKTRACKS


@jax.jit
def quadratic_search(slope, bend, steepness, ratio, factor):
    return search(
        lambda t: slope * t - bend * t**2,
        lambda t: steepness * t**2,
        expected_improvement=slope,
        accept_ratio=ratio,
        backtrack_factor=factor,
    )


@settings(deadline=None, max_examples=60)
@given(
    slope=st.floats(0.1, 2),
    bend=st.floats(0, 4),
    steepness=st.floats(1e-3, 1),
    ratio=st.floats(0, 1),
    factor=st.floats(0.3, 0.9),
)
def test_takes_the_first_candidate_that_satisfies_both_inequalities(
    slope, bend, steepness, ratio, factor
):
    result = quadratic_search(slope, bend, steepness, ratio, factor)
    fractions = factor ** np.arange(MAX_BACKTRACKS + 1)
    gain, kl = slope * fractions - bend * fractions**2, steepness * fractions**2
    margins = [0.01 - kl, gain, gain - ratio * fractions * slope]
    if min(np.abs(margin).min() for margin in margins) < 1e-4:
        return  # too close to call in float32
    good = np.all(np.stack(margins) > 0, axis=0)
    assert bool(result.accepted) == good.any()
    if not good.any():
        assert_nothing_moved(result)
        return
    first = int(np.argmax(good))
    assert result.num_backtracks == first
    np.testing.assert_allclose(result.step_fraction, fractions[first], rtol=1e-5)
    np.testing.assert_allclose(result.params, PARAMS + fractions[first] * STEP, rtol=1e-5)
    np.testing.assert_allclose(result.kl, kl[first], rtol=1e-4)
    np.testing.assert_allclose(result.improvement, gain[first], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.candidate_kls[: first + 1], kl[: first + 1], rtol=1e-4)
    np.testing.assert_array_equal(result.candidate_kls[first + 1 :], -1)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("improvement", "kl"),
    [
        (lambda t: t * jnp.nan, lambda t: t * 0),
        (lambda t: t, lambda t: t * jnp.nan),
        (lambda t: t + jnp.inf, lambda t: t * 0),
        (lambda t: t, lambda t: t + jnp.inf),
        (lambda t: -t, lambda t: t * 0),
        (lambda t: t * 0, lambda t: t * 0),
        (lambda t: t, lambda t: t * 0 + 0.011),
    ],
    ids=["nan gain", "nan kl", "inf gain", "inf kl", "loss", "no gain", "kl too large"],
)
def test_bad_candidates_lose(transform, improvement, kl):
    assert_nothing_moved(transform(lambda p: search(improvement, kl, p))(PARAMS))


def test_a_bound_met_exactly_is_met():
    assert search(lambda t: t, lambda t: t * 0 + 0.01, max_kl=jnp.float32(0.01)).accepted


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_candidates_with_parameters_that_are_not_finite_lose(bad):
    result = line_search(
        lambda p: (jnp.float32(1), jnp.float32(0)), PARAMS, STEP * jnp.array([1.0, bad]), max_kl=1.0
    )
    assert not result.accepted
    assert result.params.tobytes() == np.asarray(PARAMS).tobytes()


def test_recovers_after_a_candidate_that_is_not_a_number():
    nan_far_out = lambda t: jnp.where(t > 0.6, jnp.nan, t)  # noqa: E731
    result = search(nan_far_out, lambda t: nan_far_out(t) * 0, backtrack_factor=0.5)
    assert result.accepted
    assert result.step_fraction == 0.5
    assert np.isnan(result.candidate_kls[0])


def test_the_ratio_test_uses_the_fraction_once():
    # gain = 0.3 · t, expected 1 · t: below a ratio of 0.5 at every fraction. Multiplying by the
    # fraction anew at each try would let the second candidate pass.
    result = search(
        lambda t: 0.3 * t, lambda t: 0 * t, expected_improvement=1.0, accept_ratio=0.5,
        backtrack_factor=0.5,
    )  # fmt: skip
    assert_nothing_moved(result)


def test_zero_backtracks_try_the_full_step_only():
    good = search(lambda t: t, lambda t: t * 0, max_backtracks=0)
    assert good.accepted
    assert good.step_fraction == 1
    bad = search(lambda t: t, lambda t: t, max_backtracks=0)
    assert not bad.accepted
    assert bad.num_backtracks == 0
    assert bad.candidate_kls.shape == (1,)


def test_lanes_of_vmap_stop_on_their_own():
    steepness = jnp.array([0.001, 0.02, 0.03, 1e6])
    run = lambda s: search(lambda t: t, lambda t: s * t**2)  # noqa: E731
    together = jax.vmap(run)(steepness)
    assert len(set(together.num_backtracks.tolist())) == 4
    assert together.accepted.tolist() == [True, True, True, False]
    for lane, s in enumerate(steepness):
        jax.tree.map(
            lambda many, one, lane=lane: np.testing.assert_allclose(many[lane], one, rtol=1e-6),
            together,
            run(s),
        )


def test_trees_keep_structure_and_dtype():
    params = {"a": jnp.ones(2), "b": (jnp.zeros((2, 2)),)}
    step = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
    result = line_search(lambda p: (jnp.sum(p["a"]), 0.0 * p["a"][0]), params, step, max_kl=1.0)
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    np.testing.assert_array_equal(result.params["a"], 1.5)
    np.testing.assert_array_equal(result.params["b"][0], 0.5)


def test_max_backtracks_is_checked():
    with pytest.raises(ValueError, match="max_backtracks=-1"):
        search(lambda t: t, lambda t: t, max_backtracks=-1)
