"""Somebody who wants only the solver: functions and numbers in, a step out, and no RL anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax import (
    Objective,
    StepStatus,
    cg_solve,
    line_search,
    local_model,
    natural_step,
    trust_region_step,
)

DIM = 6


def _spd(seed=0, dim=DIM, condition=10.0):
    """A random symmetric positive definite matrix, float64."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (basis * np.geomspace(1, condition, dim)) @ basis.T


MATRIX = _spd()
SLOPE = np.random.default_rng(1).normal(size=DIM)
CENTRE = np.linspace(-1, 1, DIM)  # θ where a step begins


def _like(array, other):
    """A constant in the precision that its surroundings have at the moment."""
    return jnp.asarray(array, other.dtype)


def _half_square(delta):
    """½ ΔᵀAΔ, row by row."""
    return 0.5 * jnp.sum(delta * (delta @ _like(MATRIX, delta)), axis=-1)


def _quadratic(**changes):
    """L = gᵀΔ and D = ½ ΔᵀAΔ with Δ = θ − CENTRE; every one of the examples says the same."""

    def predict(params, batch):
        delta = params["x"] - _like(CENTRE, params["x"])
        return jnp.broadcast_to(delta, (batch.shape[0], DIM))

    parts = {
        "predict": predict,
        "gain": lambda delta, batch: delta @ _like(SLOPE, delta),
        "divergence": lambda delta, batch: _half_square(delta),
        "fisher_product": lambda delta, tangent: tangent @ _like(MATRIX, delta),
    }
    return Objective(**{**parts, **changes})


def _closed_form(max_kl):
    """√(2δ / gᵀA⁻¹g) · A⁻¹g."""
    direction = np.linalg.solve(MATRIX, SLOPE)
    return np.sqrt(2 * max_kl / (SLOPE @ direction)) * direction


def _step(objective=None, x64=True, **settings):
    """One step from CENTRE; its parameters as a NumPy vector."""
    with jax.enable_x64(x64):
        params = {"x": jnp.asarray(CENTRE, jnp.float64 if x64 else jnp.float32)}
        chosen = {"max_kl": 0.02, "damping": 0.0, "cg_iterations": 3 * DIM, "cg_tol": 1e-12}
        step = functools.partial(
            trust_region_step, objective or _quadratic(), batch=jnp.zeros(3), **chosen | settings
        )
        new, info = jax.jit(step)(params)
        return np.asarray(new["x"]), jax.tree.map(np.asarray, info)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hvp"])
@pytest.mark.parametrize("max_kl", [1e-4, 0.3])
def test_linear_gain_and_quadratic_divergence_give_the_closed_form(curvature, max_kl):
    shrunk = max_kl * (1 - 1e-12)  # on the boundary itself rounding decides
    full = natural_step_in_float64(max_kl, curvature)
    np.testing.assert_allclose(full, _closed_form(max_kl), rtol=1e-6)
    new, info = _step(max_kl=max_kl, curvature=curvature)
    assert info.accepted
    np.testing.assert_allclose(
        new - CENTRE, info.step_fraction * _closed_form(shrunk), rtol=1e-6, atol=1e-12
    )
    np.testing.assert_allclose(info.improvement, SLOPE @ (new - CENTRE), rtol=1e-6)
    np.testing.assert_allclose(info.multiplier, np.sqrt(
        SLOPE @ np.linalg.solve(MATRIX, SLOPE) / (2 * max_kl)), rtol=1e-6)  # fmt: skip


def natural_step_in_float64(max_kl, curvature):
    @jax.jit
    def propose(params):
        model = local_model(_quadratic(), params, jnp.zeros(3), curvature=curvature)
        return natural_step(model, max_kl=max_kl, damping=0.0, cg_iterations=3 * DIM, cg_tol=1e-12)

    with jax.enable_x64(True):
        return np.asarray(propose({"x": jnp.asarray(CENTRE)}).step)


def test_float64_conjugate_gradients_in_a_float32_program():
    new, info = _step(x64=False, dtype="float64")
    assert new.dtype == np.float32
    np.testing.assert_allclose(
        new - CENTRE, info.step_fraction * _closed_form(0.02), rtol=1e-4, atol=1e-6
    )


# Constrained logistic regression.

ROWS = 200
_RNG = np.random.default_rng(3)
FEATURES = _RNG.normal(size=(ROWS, 3))
LABELS = (_RNG.random(ROWS) < 1 / (1 + np.exp(-FEATURES @ [2.0, -1.0, 0.5]))).astype(float)


def _logistic():
    """Gain: log-likelihood ratio against the old parameters; divergence: KL of Bernoulli."""

    def log_likelihood(z, label):
        return label * z - jnp.logaddexp(0, z)

    def divergence(z, batch):
        old = batch["old"]
        return jax.nn.sigmoid(old) * (old - z) + jnp.logaddexp(0, z) - jnp.logaddexp(0, old)

    return Objective(
        predict=lambda params, batch: batch["x"] @ params["w"] + params["b"],
        gain=lambda z, b: log_likelihood(z, b["y"]) - log_likelihood(b["old"], b["y"]),
        divergence=divergence,
        fisher_product=lambda z, u: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * u,
    )


def _bernoulli_kl(old, new):
    """NumPy, from probabilities."""
    p, q = (1 / (1 + np.exp(-np.asarray(z, np.float64))) for z in (old, new))
    return np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def _mean_log_likelihood(logits):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return np.mean(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))


@functools.cache
def _logistic_step():
    objective = _logistic()

    @jax.jit
    def step(params, max_kl):
        logits = jnp.asarray(FEATURES) @ params["w"] + params["b"]
        batch = {"x": jnp.asarray(FEATURES), "y": jnp.asarray(LABELS), "old": logits}
        return trust_region_step(
            objective, params, batch, max_kl=max_kl, damping=1e-9, accept_ratio=0.1
        )

    return step


def test_logistic_regression_by_repeated_steps_stays_feasible():
    max_kl = 0.01
    with jax.enable_x64(True):
        params, step = {"w": jnp.zeros(3), "b": jnp.zeros(())}, _logistic_step()
        likelihoods = [_mean_log_likelihood(np.zeros(ROWS))]
        for _ in range(25):
            old = FEATURES @ np.asarray(params["w"]) + float(params["b"])
            params, info = step(params, max_kl)
            new = FEATURES @ np.asarray(params["w"]) + float(params["b"])
            assert info.accepted == (info.status == StepStatus.ACCEPTED)
            assert _bernoulli_kl(old, new) <= max_kl * (1 + 1e-9)
            np.testing.assert_allclose(info.kl, _bernoulli_kl(old, new), rtol=1e-6, atol=1e-12)
            likelihoods.append(_mean_log_likelihood(new))
            assert likelihoods[-1] >= likelihoods[-2]
    best = _mean_log_likelihood(FEATURES @ _logistic_maximum()[:3] + _logistic_maximum()[3])
    assert likelihoods[-1] > likelihoods[0] + 0.9 * (best - likelihoods[0])


@functools.cache
def _logistic_maximum():
    """Newton's method in NumPy; the last of the four is the intercept."""
    design, weights = np.column_stack([FEATURES, np.ones(ROWS)]), np.zeros(4)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None])
        weights += np.linalg.solve(hessian, design.T @ (LABELS - p))
    return weights


def test_achieved_over_predicted_gain_tends_to_one_as_the_region_shrinks():
    with jax.enable_x64(True):
        ratios = []
        for max_kl in (1e-1, 1e-3, 1e-5, 1e-7):
            params = {"w": jnp.asarray([0.3, 0.1, -0.2]), "b": jnp.zeros(())}
            _, info = _logistic_step()(params, max_kl)
            assert info.accepted
            ratios.append(float(info.improvement / info.predicted_improvement))
    gaps = np.abs(1 - np.array(ratios))
    assert (np.diff(gaps) < 0).all(), ratios
    assert gaps[-1] < 1e-3, ratios
    assert gaps[0] > 0.05, ratios  # far away the linear model is wrong


# An objective without a Fisher product.


def test_without_fisher_product_hvp_works_and_gauss_newton_is_refused():
    bare = _quadratic(fisher_product=None)
    once = {
        "max_backtracks": 1,
        "backtrack_factor": 0.5,
        "accept": lambda i, kl, part, *_: part < 1,
    }
    (with_it, _), (without, info) = _step(**once), _step(bare, curvature="hvp", **once)
    assert info.accepted
    np.testing.assert_allclose(with_it, without, rtol=1e-9)
    with pytest.raises(ValueError, match=r"fisher_product.*use curvature='hvp'"):
        _step(bare, curvature="gauss_newton")
    with pytest.raises(ValueError, match="newton"):
        _step(curvature="newton")


# Acceptance rules.


def always(improvement, kl, step_fraction, *rest):
    return True


def never(improvement, kl, step_fraction, *rest):
    return jnp.bool_(False)


def test_a_rule_replaces_the_test_of_the_improvement():
    """A gain that falls: the usual rule refuses it, a rule that always says yes takes it."""
    flipped = _quadratic(gain=lambda d, batch: d @ _like(SLOPE, d) - 50 * jnp.sum(d**2, -1))
    _, usual = _step(flipped, max_kl=10.0, max_backtracks=1, backtrack_factor=0.5)
    assert not usual.accepted
    # One backtrack: on the boundary itself rounding decides.
    new, info = _step(flipped, max_kl=10.0, max_backtracks=1, backtrack_factor=0.5, accept=always)
    assert info.accepted
    assert info.improvement < 0
    assert not np.allclose(new, CENTRE)
    unmoved, info = _step(accept=never)
    assert info.status == StepStatus.LINE_SEARCH_FAILED
    np.testing.assert_array_equal(unmoved, CENTRE)


def test_a_rule_that_always_says_yes_does_not_pass_the_bound_on_the_kl():
    """The divergence is three times what its curvature says, so that the full step is too long."""

    def divergence(delta, batch):
        quadratic = _half_square(delta)
        return quadratic + 2 * quadratic**2 / 0.02  # 3 times as much at D = 0.02

    steep = _quadratic(divergence=divergence)
    new, info = _step(steep, accept=always)
    delta = new - CENTRE
    quadratic = 0.5 * delta @ MATRIX @ delta
    assert info.accepted
    assert info.num_backtracks >= 1
    assert quadratic + 2 * quadratic**2 / 0.02 <= 0.02
    _, info = _step(steep, accept=always, max_backtracks=0)
    assert not info.accepted


@pytest.mark.parametrize("part", ["gain", "divergence"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_rule_that_always_says_yes_does_not_take_what_is_not_finite(part, value):
    """Not finite away from the beginning only, so that gradient and curvature are sound."""
    sound = getattr(_quadratic(), part)

    def spoilt(delta, batch):
        return jnp.where(jnp.abs(delta).max() > 1e-9, value, sound(delta, batch))

    new, info = _step(_quadratic(**{part: spoilt}), accept=always)
    assert info.status == StepStatus.LINE_SEARCH_FAILED
    assert info.gradient_norm > 0
    np.testing.assert_array_equal(new, CENTRE)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"gain": lambda d, batch: 0 * d[:, 0]}, StepStatus.ZERO_GRADIENT),
        ({"gain": lambda d, batch: jnp.nan * d[:, 0]}, StepStatus.NOT_FINITE),
        ({"fisher_product": lambda d, u: -u}, StepStatus.BAD_CURVATURE),
    ],
)
@pytest.mark.parametrize("search", [True, False])
def test_a_blocked_step_is_never_accepted(changes, status, search):
    rule = always if search else None
    new, info = _step(_quadratic(**changes), accept=rule, search=search)
    assert info.status == status
    assert not info.accepted
    assert info.step_fraction == 0
    np.testing.assert_array_equal(new, CENTRE)


def test_a_rule_without_a_search_is_refused():
    with pytest.raises(ValueError, match=r"accept.*search"):
        _step(accept=always, search=False)


def test_constraints_reach_the_rule_as_weighted_means():
    """A cost may rise by 0.01 at most; the direction it looks in is known."""
    cost = np.array([0, 0, 0, 1.0, 0, 0])
    weights = np.array([1.0, 0, 3])

    def constraints(delta, batch):
        return {"cost": (1 + batch) * (delta @ _like(cost, delta)), "count": jnp.ones_like(batch)}

    def within(improvement, kl, step_fraction, costs):
        assert costs["count"].shape == ()
        return (jnp.abs(costs["cost"]) <= 0.01) & (costs["count"] == 1)

    objective = _quadratic(constraints=constraints, weight=lambda batch: _like(weights, batch))
    with jax.enable_x64(True):
        batch, params = jnp.asarray([0.0, 100, 4]), {"x": jnp.asarray(CENTRE)}
        step = functools.partial(
            trust_region_step, objective, max_kl=0.02, damping=0.0, max_backtracks=40
        )
        new, info = jax.jit(functools.partial(step, accept=within))(params, batch)
        free, _ = jax.jit(step)(params, batch)
    moved, unbounded = (np.asarray(x["x"]) - CENTRE for x in (new, free))
    mean_factor = (1 * (1 + 0) + 3 * (1 + 4)) / 4
    assert info.accepted
    assert abs(mean_factor * moved[3]) <= 0.01 < abs(mean_factor * unbounded[3])
    # The first candidate within the cost, not a later one.
    assert abs(mean_factor * moved[3]) > 0.01 * 0.8 * (1 - 1e-9)


def test_line_search_alone_hands_on_everything_that_evaluate_returns():
    seen = []

    def rule(improvement, kl, step_fraction, cost, flag):
        seen.append((cost.shape, sorted(flag)))
        return cost <= 2

    found = line_search(
        lambda x: (-jnp.sum(x), 0.0 * x[0], jnp.sum(x), {"a": x, "b": x}),
        jnp.zeros(2),
        jnp.full(2, 4.0),
        max_kl=1.0,
        accept=rule,
        backtrack_factor=0.5,
    )
    assert seen[0] == ((), ["a", "b"])
    assert found.accepted
    np.testing.assert_allclose(found.params, [1, 1])  # sums 8, 4, 2
    assert found.num_backtracks == 2


# Preconditioning.

ILL = np.diag(np.geomspace(1, 1e4, 12)) @ (np.eye(12) + 0.02) @ np.diag(np.geomspace(1, 1e4, 12))
RIGHT = np.random.default_rng(5).normal(size=12)


def _solve(preconditioner=None, matrix=ILL, right=RIGHT, **settings):
    chosen = {"max_iters": 60, "tol": 1e-9, **settings}
    with jax.enable_x64(True):
        matrix = jnp.asarray(matrix)
        solve = functools.partial(
            cg_solve, lambda v: matrix @ v, preconditioner=preconditioner, **chosen
        )
        return jax.tree.map(np.asarray, jax.jit(solve)(jnp.asarray(right)))


def test_the_exact_inverse_solves_in_one_iteration():
    inverse = np.linalg.inv(_spd(condition=100))
    result = _solve(lambda v: jnp.asarray(inverse) @ v, _spd(condition=100), SLOPE)
    assert result.num_iters == 1
    np.testing.assert_allclose(result.x, inverse @ SLOPE, rtol=1e-9)


def test_residual_norms_are_those_of_the_true_residual():
    inverse = np.diag(1 / np.diag(MATRIX))
    for iterations in range(4):
        result = _solve(
            lambda v: jnp.asarray(inverse) @ v, MATRIX, SLOPE, max_iters=iterations or 1, tol=0.0
        )
        norms = result.residual_norms
        np.testing.assert_allclose(norms[0], np.linalg.norm(SLOPE), rtol=1e-12)
        true = np.linalg.norm(SLOPE - MATRIX @ result.x)
        np.testing.assert_allclose(norms[-1], true, rtol=1e-9)
    # The tolerance is the true residual's too: a preconditioner that only scales changes nothing.
    plain, scaled = _solve(matrix=MATRIX, right=SLOPE, tol=1e-3), _solve(
        lambda v: 1e6 * v, MATRIX, SLOPE, tol=1e-3
    )  # fmt: skip
    assert plain.num_iters == scaled.num_iters
    np.testing.assert_allclose(plain.residual_norms, scaled.residual_norms, rtol=1e-6, atol=1e-12)


def test_jacobi_needs_fewer_iterations_where_the_matrix_is_ill_scaled():
    diagonal = np.diag(ILL)
    plain, jacobi = _solve(), _solve(lambda v: v / jnp.asarray(diagonal))
    assert jacobi.num_iters <= 4 < plain.num_iters
    assert not jacobi.breakdown
    error = np.linalg.norm(RIGHT - ILL @ jacobi.x)
    assert error <= 1e-8 * np.linalg.norm(RIGHT)
    np.testing.assert_allclose(jacobi.x, np.linalg.solve(ILL, RIGHT), rtol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 0.0, np.nan])
def test_a_preconditioner_that_is_not_positive_definite_is_a_breakdown(sign):
    result = _solve(lambda v: sign * v)
    assert result.breakdown
    assert result.num_iters == 0
    np.testing.assert_array_equal(result.x, 0)
    np.testing.assert_allclose(result.residual_norms, np.linalg.norm(RIGHT))


def test_an_indefinite_preconditioner_keeps_the_last_good_iterate():
    """diag(1, −1/20, …): rᵀP⁻¹r is positive at first, not for ever."""
    signs = np.array([1.0, -0.05, -0.05, -0.05, -0.05, -0.05])
    right = np.array([1.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    result = _solve(lambda v: jnp.asarray(signs) * v, MATRIX, right)
    assert result.breakdown
    assert result.num_iters < 60
    assert np.isfinite(result.x).all()
    np.testing.assert_allclose(
        result.residual_norms[-1], np.linalg.norm(right - MATRIX @ result.x), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_preconditioning_under_jit_and_vmap(dtype):
    """Lanes of their own matrix and preconditioner; NumPy solves them one by one."""
    matrices = np.stack([_spd(seed, condition=5.0 + 40 * seed) for seed in range(3)])
    with jax.enable_x64(dtype == "float64"):

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None))
        def solve(matrix, right):
            return cg_solve(
                lambda v: matrix @ v,
                right,
                max_iters=30,
                tol=3e-3,
                preconditioner=lambda v: v / jnp.diag(matrix),
            )

        result = solve(jnp.asarray(matrices, dtype), jnp.asarray(SLOPE, dtype))
    assert result.x.dtype == dtype
    assert not result.breakdown.any()
    exact = np.stack([np.linalg.solve(matrix, SLOPE) for matrix in matrices])
    np.testing.assert_allclose(result.x, exact, rtol=1e-2, atol=5e-3)
    assert len(set(np.asarray(result.num_iters).tolist())) > 1  # each lane stops on its own


def test_a_preconditioner_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="preconditioner"):
        _solve(lambda v: v[:-1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_preconditioned_step_is_the_same_step(dtype):
    """Exact in one iteration, so that a whole solve without it is matched by a single one."""
    asked = []

    def exact(model, damping):
        asked.append(model.curvature)
        dtype = model.params["x"].dtype
        matrix = jnp.asarray(MATRIX, dtype) + damping * jnp.eye(DIM, dtype=dtype)
        return lambda v: {"x": jnp.linalg.solve(matrix, v["x"])}

    settings = {"x64": dtype == "float64", "dtype": dtype, "damping": 0.05, "cg_tol": 1e-4}
    plain, slow = _step(**settings)
    fast, info = _step(preconditioner=exact, **settings)
    assert asked == ["gauss_newton"]
    assert info.cg_iterations == 1 < slow.cg_iterations
    assert info.step_fraction == slow.step_fraction
    tolerance = 1e-3 if dtype == "float32" else 1e-4  # that of the solves
    np.testing.assert_allclose(fast - CENTRE, plain - CENTRE, rtol=tolerance, atol=1e-5)
