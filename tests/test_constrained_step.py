"""The linear objective with a linear constraint in a trust region, against scipy's optimisers."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from trpo_jax import (
    CGResult,
    ConstraintCase,
    Objective,
    StepStatus,
    cg_solve,
    constrained_optimum,
    constrained_step,
    trust_region_step,
)

SEEDS = int(os.environ.get("TRPO_JAX_ORACLE_SEEDS", 60))
"""Cases of each kind; 2000 were tried once."""
KINDS = ("generic", "near_c2_2ds", "on_c2_2ds", "near_parallel", "parallel", "opposite", "inactive")


def draw(seed, kind, dim=None, dtype=np.float64):
    """(M, g, b, c, δ) of a random case; boundary cases are those named."""
    rng = np.random.default_rng(seed)
    dim = dim or int(rng.integers(2, 7))
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    matrix = (basis * np.exp(rng.uniform(-2, 2, dim))) @ basis.T
    gradient, slope = rng.normal(size=(2, dim)) * np.exp(rng.uniform(-2, 2, (2, 1)))
    delta = float(np.exp(rng.uniform(-6, -1)))
    if kind in ("parallel", "opposite", "near_parallel"):
        slope = gradient * rng.uniform(0.2, 3) * (-1 if kind == "opposite" else 1)
    if kind == "near_parallel":
        slope = slope + 10.0 ** rng.uniform(-9, -1) * rng.normal(size=dim)
    reach = np.sqrt(2 * delta * slope @ np.linalg.solve(matrix, slope))
    violation = reach * rng.uniform(-1.5, 1.5)
    if kind == "on_c2_2ds":
        violation = reach * rng.choice([-1, 1])
    if kind == "near_c2_2ds":
        violation = (
            reach * rng.choice([-1, 1]) * (1 + 10.0 ** rng.uniform(-12, -3) * rng.choice([-1, 1]))
        )
    if kind == "inactive":
        violation = -3 * reach
    return tuple(np.asarray(x, dtype) for x in (matrix, gradient, slope, violation, delta))


def result(matrix, x, right_side):
    """A solution of M x = right side, as conjugate gradients would report it."""
    norms = jnp.zeros(1)
    return CGResult(
        x, right_side - matrix @ x, norms, jnp.int32(0), jnp.bool_(False), jnp.bool_(True)
    )


@jax.jit
def closed_form(matrix, gradient, slope, violation, delta, *solved):
    both = [result(matrix, *pair) for pair in zip(solved, (gradient, slope), strict=True)]
    return constrained_optimum(gradient, slope, *both, violation=violation, max_kl=delta)


def solve(case, dtype=np.float64):
    """The optimum of a case; the linear systems are solved by NumPy."""
    solved = (np.linalg.solve(case[0], vector) for vector in case[1:3])
    return jax.device_get(closed_form(*(jnp.asarray(x, dtype) for x in (*case, *solved))))


def scipys_optimum(matrix, gradient, slope, violation, delta):
    """(x, whether a feasible x exists), by SLSQP on the whitened, scaled problem."""
    root = np.linalg.cholesky(matrix)  # x = √2δ root⁻ᵀ y, so that ‖y‖ ≤ 1
    scale = np.sqrt(2 * delta)
    g, b = np.linalg.solve(root, gradient), np.linalg.solve(root, slope)
    g, b, c = g / np.linalg.norm(g), b / np.linalg.norm(b), violation / scale / np.linalg.norm(b)
    ball = {"type": "ineq", "fun": lambda y: 1 - y @ y, "jac": lambda y: -2 * y}
    line = {"type": "ineq", "fun": lambda y: -c - b @ y, "jac": lambda y: -b}
    feasible = c < 1
    target, constraints = (-g, [ball, line]) if feasible else (b, [ball])
    best = None
    for start in (-0.9 * max(c, 0) * b + 0.1 * g, -0.99 * b):
        found = minimize(
            lambda y: target @ y, start, jac=lambda y: target, constraints=constraints,
            method="SLSQP", options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        y = found.x / max(1, np.linalg.norm(found.x))
        broken = feasible and c + b @ y > 1e-7
        if not broken and (best is None or target @ y < target @ best):
            best = y
    assert best is not None
    return scale * np.linalg.solve(root.T, best), feasible


def objective_and_excess(x, matrix, gradient, slope, violation, delta):
    """gᵀx over √(2δq), and c + bᵀx over √(2δs): both pure numbers."""
    q, s = (v @ np.linalg.solve(matrix, v) for v in (gradient, slope))
    return gradient @ x / np.sqrt(2 * delta * q), (violation + slope @ x) / np.sqrt(2 * delta * s)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-5), (np.float32, 1e-3)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_scipys_optimum(kind, dtype, tolerance):
    """Objective and violation, relative to what the trust region allows."""
    with jax.enable_x64(dtype is np.float64):
        for seed in range(SEEDS if dtype is np.float64 else SEEDS // 4):
            case = draw(seed, kind)
            found = solve(case, dtype)
            ours = objective_and_excess(found.step.astype(float), *case)
            wanted, feasible = scipys_optimum(*case)
            gain, excess = objective_and_excess(wanted, *case)
            assert np.isfinite(found.step).all()
            length = found.step.astype(float) @ case[0] @ found.step / (2 * case[4])
            assert length <= 1 + 5 * tolerance
            if feasible:
                assert ours[1] <= tolerance, (kind, seed)
                degenerate = abs(case[3]) > (1 - 1e-4) * np.sqrt(
                    2 * case[4] * case[2] @ np.linalg.solve(case[0], case[2])
                )
                # Directions closer than √(16 ε) count as parallel, and what lies between is lost.
                lost = np.sqrt(16 * np.finfo(dtype).eps) if kind == "near_parallel" else 0
                allowed = 0.02 if degenerate else tolerance + lost
                assert ours[0] >= gain - allowed, (kind, seed)
            else:
                assert ours[1] == pytest.approx(excess, abs=tolerance), (kind, seed)


def test_the_closed_form_as_it_is_written():
    """The formulas of the docstring, where nothing is degenerate."""
    for seed in range(300):
        compare_with_the_formulas(seed)


def compare_with_the_formulas(seed):
    case = draw(seed, "generic")
    matrix, gradient, slope, violation, delta = case
    x_g, x_b = (np.linalg.solve(matrix, v) for v in (gradient, slope))
    q, r, s = gradient @ x_g, gradient @ x_b, slope @ x_b
    straight = np.sqrt(2 * delta / q) * x_g
    with jax.enable_x64(True):
        found = solve(case)
    if violation + slope @ straight <= 0:
        wanted, kind = straight, ConstraintCase.INACTIVE
    elif violation > 0 and violation**2 >= 2 * delta * s:
        wanted, kind = -np.sqrt(2 * delta / s) * x_b, ConstraintCase.RECOVERY
    else:
        multiplier = np.sqrt((q - r**2 / s) / (2 * delta - violation**2 / s))
        nu = (multiplier * violation + r) / s
        wanted, kind = (x_g - nu * x_b) / multiplier, ConstraintCase.ACTIVE
        np.testing.assert_allclose(found.multiplier, multiplier, rtol=1e-6)
        np.testing.assert_allclose(found.constraint_multiplier, nu, rtol=1e-6, atol=1e-9)
    assert found.case == kind
    np.testing.assert_allclose(found.step, wanted, rtol=1e-6, atol=1e-9)


def test_the_other_sign_of_the_multiplier_breaks_the_constraint():
    """(λc − r)/s with an ascent gradient, as one library has it."""
    broken = active = 0
    for seed in range(1000):
        matrix, gradient, slope, violation, delta = draw(seed, "generic")
        x_g, x_b = (np.linalg.solve(matrix, v) for v in (gradient, slope))
        q, r, s = gradient @ x_g, gradient @ x_b, slope @ x_b
        if violation + slope @ x_g * np.sqrt(2 * delta / q) <= 0 or violation**2 >= 2 * delta * s:
            continue
        multiplier = np.sqrt((q - r**2 / s) / (2 * delta - violation**2 / s))
        wrong = (x_g - max((multiplier * violation - r) / s, 0) * x_b) / multiplier
        active += 1
        broken += violation + slope @ wrong > 1e-6 * np.sqrt(2 * delta * s)
    assert broken > 0.2 * active > 50


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 2e-3)])
def test_a_hundred_thousand_cases_under_vmap(dtype, tolerance):
    """Feasible wherever something is, inside the trust region, and free of NaN with derivatives."""
    number, dim = 100_000, 4
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(number, dim, dim))
    matrix = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(dim)
    gradient, slope = rng.normal(size=(2, number, dim)) * np.exp(rng.uniform(-4, 4, (2, number, 1)))
    share = rng.choice([0, 0, 1e-7, 1e-3, 1], (number, 1))
    parallel = rng.random((number, 1)) < 0.3
    slope = np.where(parallel, gradient * rng.choice([-1, 1], (number, 1)) + share * slope, slope)
    slope[rng.random(number) < 0.01] = 0
    gradient[rng.random(number) < 0.01] = 0
    delta = np.exp(rng.uniform(-8, 0, number))
    s = np.einsum("ni,ni->n", slope, np.linalg.solve(matrix, slope[..., None])[..., 0])
    reach = np.sqrt(2 * delta * s)
    violation = reach * rng.choice([-2, -1, 0, 1, 2, *rng.uniform(-1, 1, 6)], number)
    solved = [np.linalg.solve(matrix, each[..., None])[..., 0] for each in (gradient, slope)]
    case = matrix, gradient, slope, violation, delta, *solved

    def gain_and_slope(*arrays):
        found = closed_form(*arrays)
        return jnp.sum(found.step), found

    with jax.enable_x64(dtype is np.float64):
        arrays = [jnp.asarray(x, dtype) for x in case]
        program = jax.jit(jax.vmap(jax.grad(gain_and_slope, argnums=(1, 2, 3, 4), has_aux=True)))
        derivatives, found = jax.device_get(program(*arrays))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((derivatives, found)))
    step = found.step.astype(float)
    # M itself is rounded, so that the case is another one in float32; conditions go to 10³.
    length = np.einsum("ni,nij,nj->n", step, matrix, step) / (2 * delta)
    assert np.quantile(length, 0.9999) <= 1 + tolerance
    exists = s > 0
    excess = np.where(exists, violation + np.einsum("ni,ni->n", slope, step), 0)
    excess = excess / np.where(exists, reach, 1)
    feasible = (violation < reach) & exists
    assert np.quantile(excess[feasible], 0.9999) <= tolerance
    none = exists & (violation > reach * (1 + tolerance))
    np.testing.assert_allclose(
        excess[none], (violation / np.where(exists, reach, 1) - 1)[none], atol=10 * tolerance
    )
    assert (found.case[~exists] == ConstraintCase.UNCONSTRAINED).all()


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_truncated_solutions_obey_the_linear_model(iterations):
    """With few conjugate gradient iterations the formulas fail; the span's optimum does not."""
    formulas_fail = False
    with jax.enable_x64(True):
        few = functools.partial(cg_solve, max_iters=iterations, tol=0.0)

        @jax.jit
        def truncated(matrix, gradient, slope, violation, delta):
            solved = [few(lambda v: matrix @ v, v) for v in (gradient, slope)]
            found = constrained_optimum(gradient, slope, *solved, violation=violation, max_kl=delta)
            return found, solved[0].x, solved[1].x

        for seed in range(200):
            case = draw(seed, "generic", dim=12)
            matrix, gradient, slope, violation, delta = case
            found, x_g, x_b = jax.device_get(truncated(*map(jnp.asarray, case)))
            step = found.step
            assert step @ matrix @ step <= 2 * delta * (1 + 1e-9)
            best_of_b = np.sqrt(2 * delta / (x_b @ matrix @ x_b)) * (slope @ x_b)
            if violation < best_of_b:  # something in the span is feasible
                assert violation + slope @ step <= 1e-9 * best_of_b
                q, r, s = gradient @ x_g, gradient @ x_b, slope @ x_b
                room = 2 * delta - violation**2 / s
                if found.case == ConstraintCase.ACTIVE and room > 0 and q > r**2 / s:
                    multiplier = np.sqrt((q - r**2 / s) / room)
                    x = (x_g - (multiplier * violation + r) / s * x_b) / multiplier
                    formulas_fail |= violation + slope @ x > 1e-3 * best_of_b
    assert formulas_fail or iterations == 4


DIM = 5
MATRIX = np.diag(np.linspace(0.5, 2, DIM)) + 0.1
SLOPES = np.random.default_rng(3).normal(size=(2, DIM))


def quadratic(slope=SLOPES[1]):
    """L = gᵀΔ, C = bᵀΔ, D = ½ ΔᵀMΔ, the same for every example; θ begins at 0."""
    like = lambda array, other: jnp.asarray(array, other.dtype)  # noqa: E731
    return Objective(
        predict=lambda params, batch: jnp.broadcast_to(params["x"], (batch.shape[0], DIM)),
        gain=lambda delta, batch: delta @ like(SLOPES[0], delta),
        divergence=lambda delta, batch: 0.5 * jnp.sum(
            delta * (delta @ like(MATRIX, delta)), axis=-1
        ),
        fisher_product=lambda delta, tangent: tangent @ like(MATRIX, delta),
        constraints=lambda delta, batch: delta @ like(slope, delta),
    )  # fmt: skip


START = {"x": np.zeros(DIM, np.float32)}
BATCH = np.zeros((3, 1), np.float32)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def take(objective, violation, dtype="float32", chunk_size=None):
    return constrained_step(
        objective, START, BATCH, violation=violation, max_kl=0.01, damping=0.0, cg_iterations=20,
        dtype=dtype, chunk_size=chunk_size,
    )  # fmt: skip


QUADRATIC = quadratic()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_whole_step(dtype, chunk_size):
    """Gradients, both solves and the line search: against the quadratic programme by scipy."""
    for violation in (-0.5, -0.05, 0.0, 0.05, 0.5):
        params, info = take(QUADRATIC, violation, dtype, chunk_size)
        x = np.asarray(params["x"], float)
        wanted, _ = scipys_optimum(MATRIX, *SLOPES, violation, 0.01)
        assert info.accepted
        # The first candidate may exceed δ by rounding; then the step is shrunk once.
        np.testing.assert_allclose(x, wanted * info.step_fraction, rtol=2e-3, atol=2e-4)
        constraint = info.constraint
        assert constraint.violation == np.float32(violation)
        np.testing.assert_allclose(constraint.change, SLOPES[1] @ x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(constraint.predicted_change, SLOPES[1] @ x, rtol=1e-4, atol=1e-6)


def test_without_a_binding_constraint_it_is_trpos_step():
    params, info = take(QUADRATIC, -5.0)
    wanted, _ = jax.jit(
        lambda: trust_region_step(
            QUADRATIC, START, BATCH, max_kl=0.01, damping=0.0, cg_iterations=20
        )
    )()
    assert info.constraint.case == ConstraintCase.INACTIVE
    assert info.constraint.multiplier == 0
    np.testing.assert_allclose(params["x"], wanted["x"], rtol=1e-5)


@pytest.mark.parametrize(
    ("slope", "violation", "status", "case"),
    [
        (0 * SLOPES[1], -1.0, StepStatus.ACCEPTED, ConstraintCase.UNCONSTRAINED),
        (0 * SLOPES[1], 1.0, StepStatus.ACCEPTED, ConstraintCase.UNCONSTRAINED),
        (SLOPES[0], 0.02, StepStatus.ACCEPTED, ConstraintCase.PARALLEL),
        (SLOPES[0], 9.0, StepStatus.ACCEPTED, ConstraintCase.RECOVERY),
        (-SLOPES[0], 0.0, StepStatus.ACCEPTED, ConstraintCase.INACTIVE),
        (np.nan * SLOPES[1], 0.0, StepStatus.NOT_FINITE, None),
        (SLOPES[1], np.nan, StepStatus.NOT_FINITE, None),
    ],
)
def test_degenerate_cases_say_what_they_are(slope, violation, status, case):
    params, info = take(quadratic(slope), violation)
    assert info.status == status
    assert np.isfinite(params["x"]).all()
    if case is None:
        np.testing.assert_array_equal(params["x"], START["x"])
    else:
        assert info.constraint.case == case
    if case in (ConstraintCase.PARALLEL, ConstraintCase.RECOVERY):
        assert info.constraint.change < 0


def test_a_bend_in_the_constraint_is_found_by_the_line_search():
    """C rises quadratically beyond its linear model, so the step is shrunk until it holds."""
    bent = QUADRATIC._replace(
        constraints=lambda delta, batch: (
            delta @ jnp.asarray(SLOPES[1], delta.dtype) + 3.0 * jnp.sum(delta**2, axis=-1)
        )
    )
    _, info = take(bent, -0.02)
    assert info.accepted
    assert info.num_backtracks > 0
    assert info.constraint.change <= 0.02
    _, info = take(bent, 0.01)
    assert info.accepted
    assert info.constraint.change < 0


def test_its_arguments_are_checked():
    with pytest.raises(ValueError, match="constraints=None"):
        take(QUADRATIC._replace(constraints=None), 0.0)
    two = QUADRATIC._replace(constraints=lambda delta, batch: {"a": delta[:, 0], "b": delta[:, 1]})
    with pytest.raises(ValueError, match="one array"):
        take(two, 0.0)
