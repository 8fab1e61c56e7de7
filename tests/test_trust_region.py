"""`trust_region_step` against a derivation in float64 NumPy that shares no code with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problems

from trpo_jax import HParams, StepStatus, TRPOConfig

CONFIG = TRPOConfig(cg_iterations=40)
HPARAMS = HParams(cg_tol=1e-7).as_arrays()
KINDS = ("categorical", "gaussian")


def step(objective, params, batch, hparams=HPARAMS, config=CONFIG):
    return tiny_problems.step(objective, params, batch, hparams, config)


class NumPyStep:
    """Everything by definition: forward pass, finite differences, dense matrices."""

    def __init__(self, problem, hparams=HPARAMS, max_backtracks=10, entropy_coef=0.0):
        tree = jax.tree.map(lambda x: np.asarray(x, np.float64), problem.params)["params"]
        names = [("body", "Dense_0", "kernel"), ("body", "Dense_0", "bias")]
        names += [("head", "Dense_0", "kernel"), ("head", "Dense_0", "bias")]
        names += [("head", "log_std")] if "log_std" in tree["head"] else []
        leaves = [functools.reduce(lambda t, n: t[n], name, tree) for name in names]
        self.names, self.shapes = names, [leaf.shape for leaf in leaves]
        self.theta = np.concatenate([leaf.ravel() for leaf in leaves])
        self.gaussian = len(names) == 5
        self.entropy_coef = entropy_coef
        batch = problem.batch
        self.obs, self.advantage, self.weight = (
            np.asarray(x, np.float64) for x in (batch.obs, batch.advantage, batch.weight)
        )
        self.action = np.asarray(batch.action)
        self.solve({k: float(v) for k, v in vars(hparams).items()}, max_backtracks)

    def split(self, theta):
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(theta, ends)
        return [p.reshape(shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def outputs(self, theta):
        """[B, k]: log-probabilities, or means and log σ side by side."""
        w1, b1, w2, b2, *log_std = self.split(theta)
        out = np.tanh(self.obs @ w1 + b1) @ w2 + b2
        if self.gaussian:
            return np.concatenate([out, np.broadcast_to(log_std[0], out.shape)], -1)
        return out

    def log_prob(self, out):
        if not self.gaussian:
            log_p = out - np.log(np.exp(out).sum(-1, keepdims=True))
            return log_p[np.arange(len(out)), self.action]
        mean, log_std = np.split(out, 2, -1)
        z = (self.action - mean) / np.exp(log_std)
        return (-(z**2) / 2 - log_std - np.log(2 * np.pi) / 2).sum(-1)

    def kl_and_entropy(self, old, new):
        if not self.gaussian:
            p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (old, new))
            return (p * np.log(p / q)).sum(-1), -(q * np.log(q)).sum(-1)
        (m0, s0), (m1, s1) = np.split(old, 2, -1), np.split(new, 2, -1)
        kl = s1 - s0 + (np.exp(2 * s0) + (m0 - m1) ** 2) / (2 * np.exp(2 * s1)) - 0.5
        return kl.sum(-1), (s1 + np.log(2 * np.pi * np.e) / 2).sum(-1)

    def mean(self, per_example):
        return (self.weight * per_example).sum() / self.weight.sum()

    def surrogate(self, theta):
        old, new = self.outputs(self.theta), self.outputs(theta)
        ratio = np.exp(self.log_prob(new) - self.log_prob(old))
        bonus = self.kl_and_entropy(old, new)[1] - self.kl_and_entropy(old, old)[1]
        return self.mean((ratio - 1) * self.advantage + self.entropy_coef * bonus)

    def kl(self, theta):
        return self.mean(self.kl_and_entropy(self.outputs(self.theta), self.outputs(theta))[0])

    def fisher(self, h=1e-5):
        basis = np.eye(self.theta.size) * h
        jacobian = np.stack(
            [
                (self.outputs(self.theta + e) - self.outputs(self.theta - e)) / (2 * h)
                for e in basis
            ],
            -1,
        )
        out = self.outputs(self.theta)
        if self.gaussian:
            n = out.shape[-1] // 2
            blocks = np.stack([np.diag([*np.exp(-2 * row[n:]), *[2.0] * n]) for row in out])
        else:
            p = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
            blocks = np.stack([np.diag(row) - np.outer(row, row) for row in p])
        per_example = np.einsum("bip,bij,bjq->bpq", jacobian, blocks, jacobian)
        return np.einsum("b,bpq->pq", self.weight, per_example) / self.weight.sum()

    def solve(self, hparams, max_backtracks):
        basis = np.eye(self.theta.size) * 1e-6
        self.gradient = np.array(
            [
                (self.surrogate(self.theta + e) - self.surrogate(self.theta - e)) / 2e-6
                for e in basis
            ]
        )
        damped = self.fisher() + hparams["cg_damping"] * np.eye(self.theta.size)
        x = np.linalg.solve(damped, self.gradient)
        self.multiplier = np.sqrt(x @ damped @ x / (2 * hparams["max_kl"]))
        self.full_step = x / self.multiplier
        self.predicted = self.gradient @ self.full_step
        for tries in range(max_backtracks + 1):
            fraction = hparams["backtrack_factor"] ** tries
            new = self.theta + fraction * self.full_step
            gain, kl = self.surrogate(new), self.kl(new)
            enough = hparams["accept_ratio"] * fraction * self.predicted
            if kl <= hparams["max_kl"] and gain > 0 and gain >= enough:
                self.accepted, self.fraction, self.tries = True, fraction, tries
                self.new, self.new_gain, self.new_kl = new, gain, kl
                return
        self.accepted, self.fraction, self.tries, self.new = False, 0.0, tries, self.theta

    def flat(self, params):
        tree = params["params"]
        leaves = [functools.reduce(lambda t, n: t[n], name, tree) for name in self.names]
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def distance(reference, params):
    """How far the parameters are from those of the derivation, in units of the step."""
    moved = np.linalg.norm(reference.new - reference.theta)
    return np.linalg.norm(reference.flat(params) - reference.new) / moved


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_derivation(make_problem, kind, seed, entropy_coef):
    problem = make_problem(kind, seed=seed, entropy_coef=entropy_coef)
    reference = NumPyStep(problem, entropy_coef=entropy_coef)
    params, info = step(problem.objective, problem.params, problem.batch)
    assert info.accepted == reference.accepted
    assert info.status == StepStatus.ACCEPTED
    assert info.num_backtracks == reference.tries
    assert distance(reference, params) < 2e-4
    for got, expected in (
        (info.kl, reference.new_kl),
        (info.improvement, reference.new_gain),
        (info.predicted_improvement, reference.fraction * reference.predicted),
        (info.step_fraction, reference.fraction),
        (info.gradient_norm, np.linalg.norm(reference.gradient)),
        (info.step_norm, np.linalg.norm(reference.full_step)),
        (info.multiplier, reference.multiplier),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_backtracks_as_the_derivation_does(make_problem, kind):
    """A large trust region and a strict ratio: the quadratic model no longer holds."""
    problem = make_problem(kind, batch_size=12)
    hparams = HPARAMS.replace(max_kl=0.5, accept_ratio=0.6, backtrack_factor=0.7, cg_damping=1e-3)
    hparams = hparams.as_arrays()
    reference = NumPyStep(problem, hparams)
    config = CONFIG.replace(solver_dtype="float64", cg_iterations=200)  # ill-conditioned
    params, info = step(problem.objective, problem.params, problem.batch, hparams, config)
    assert reference.tries > 0
    assert info.num_backtracks == reference.tries
    assert info.accepted
    assert reference.accepted
    assert distance(reference, params) < 2e-2
    np.testing.assert_allclose(info.kl, reference.new_kl, rtol=2e-2)


VARIANTS = {
    "hvp": ({"curvature": "hvp"}, 1e-4),
    "float64": ({"solver_dtype": "float64"}, 1e-4),
    "hvp float64": ({"solver_dtype": "float64", "curvature": "hvp"}, 1e-4),
    "chunks that divide": ({"chunk_size": 16}, 1e-4),
    "chunks that do not": ({"chunk_size": 13}, 1e-4),
    "chunks larger than the batch": ({"chunk_size": 100}, 1e-6),
    "hvp in chunks": ({"chunk_size": 13, "curvature": "hvp"}, 1e-4),
    "float64 in chunks": ({"chunk_size": 13, "solver_dtype": "float64"}, 1e-4),
}


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("categorical", variant) for variant in VARIANTS]
    + [("gaussian", variant) for variant in ("hvp", "float64", "chunks that do not")],
)
def test_variants_give_the_same_step(make_problem, kind, variant):
    changes, tolerance = VARIANTS[variant]
    problem = make_problem(kind)
    params, info = step(problem.objective, problem.params, problem.batch)
    other, other_info = step(
        problem.objective, problem.params, problem.batch, HPARAMS, CONFIG.replace(**changes)
    )
    for got, expected, start in zip(
        *map(jax.tree.leaves, (other, params, problem.params)), strict=True
    ):
        assert got.dtype == jnp.float32
        assert np.abs(got - expected).max() <= tolerance * np.abs(expected - start).max() + 1e-7
    for got, expected in zip(jax.tree.leaves(other_info), jax.tree.leaves(info), strict=True):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
    np.testing.assert_allclose(other_info.kl, info.kl, rtol=1e-3)
    np.testing.assert_allclose(other_info.multiplier, info.multiplier, rtol=1e-4)


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_examples_of_weight_zero_do_not_count(make_problem, chunk_size):
    config = CONFIG.replace(chunk_size=chunk_size)
    problem = make_problem()
    pad = lambda x: jnp.concatenate([x, (3 + 2 * x[:10]).astype(x.dtype)])  # noqa: E731
    padded = jax.tree.map(pad, problem.batch)
    padded = padded.replace(action=padded.action % 3, weight=padded.weight.at[-10:].set(0))
    params, info = step(problem.objective, problem.params, problem.batch)
    other, other_info = step(problem.objective, problem.params, padded, HPARAMS, config)
    for got, expected in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(other_info.kl, info.kl, rtol=1e-3)
    np.testing.assert_allclose(other_info.improvement, info.improvement, rtol=1e-3)


def test_weights_are_multiplicities(make_problem):
    problem = make_problem()
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[:10]]), problem.batch)
    weighted = problem.batch.replace(weight=problem.batch.weight.at[:10].set(2))
    params, _ = step(problem.objective, problem.params, twice)
    other, _ = step(problem.objective, problem.params, weighted)
    for got, expected in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("solver_dtype", ["float32", "float64"])
def test_works_under_jit_of_vmap_of_scan(make_problem, solver_dtype):
    problem = make_problem()
    config = CONFIG.replace(solver_dtype=solver_dtype, cg_iterations=10)

    def two_steps(hparams):
        def body(params, _):
            old = problem.policy.apply(params, problem.batch.obs)
            batch = problem.batch.replace(
                distribution=old, log_prob=old.log_prob(problem.batch.action), entropy=old.entropy()
            )
            return tiny_problems.step(problem.objective, params, batch, hparams, config)

        return jax.lax.scan(body, problem.params, length=2)

    grid = [HPARAMS.replace(max_kl=0.01), HPARAMS.replace(max_kl=0.1, cg_damping=0.01)]
    params, infos = jax.jit(jax.vmap(two_steps))(HParams.stack(grid))
    single = jax.jit(two_steps)
    for lane, hparams in enumerate(grid):
        alone, alone_infos = single(hparams.as_arrays())
        for got, expected in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got[lane], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(infos.kl[lane], alone_infos.kl, rtol=1e-2)


def assert_refused(problem, params, info, status):
    assert info.status == status
    assert not info.accepted
    for got, expected in zip(jax.tree.leaves(params), jax.tree.leaves(problem.params), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()
    assert info.kl == 0
    assert info.improvement == 0
    assert info.step_fraction == 0


@pytest.mark.parametrize("line_search", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_advantages_that_are_not_finite(make_problem, bad, line_search):
    problem = make_problem()
    batch = problem.batch.replace(advantage=problem.batch.advantage.at[3].set(bad))
    config = CONFIG.replace(line_search=line_search)
    params, info = step(problem.objective, problem.params, batch, HPARAMS, config)
    assert_refused(problem, params, info, StepStatus.NOT_FINITE)


def test_zero_gradient(make_problem):
    problem = make_problem()
    batch = problem.batch.replace(advantage=jnp.zeros_like(problem.batch.advantage))
    params, info = step(problem.objective, problem.params, batch)
    assert_refused(problem, params, info, StepStatus.ZERO_GRADIENT)


@pytest.mark.parametrize("curvature", ["hvp", "gauss_newton"])
def test_negative_curvature(make_problem, curvature):
    problem = make_problem()
    objective = problem.objective._replace(
        divergence=lambda outputs, batch: -100 * batch.distribution.kl(outputs),
        fisher_product=lambda outputs, u: jax.tree.map(
            lambda x: -100 * x, outputs.fisher_product(u)
        ),
    )
    config = CONFIG.replace(curvature=curvature)
    params, info = step(objective, problem.params, problem.batch, HPARAMS, config)
    assert_refused(problem, params, info, StepStatus.BAD_CURVATURE)
    assert info.cg_breakdown


def test_no_candidate_improves(make_problem):
    """The gradient is honest, the values are not: every candidate is a loss."""
    problem = make_problem()

    def gain(outputs, batch):
        honest = problem.objective.gain(outputs, batch)
        return honest - jax.lax.stop_gradient(honest) - 1.0

    objective = problem.objective._replace(gain=gain)
    params, info = step(objective, problem.params, problem.batch)
    assert_refused(problem, params, info, StepStatus.LINE_SEARCH_FAILED)
    assert info.num_backtracks == CONFIG.max_backtracks
    assert (np.asarray(info.candidate_kls) > 0).all()


def test_the_natural_gradient_takes_the_full_step(make_problem):
    problem = make_problem()
    hparams = HPARAMS.replace(max_kl=0.5).as_arrays()
    reference = NumPyStep(problem, hparams)
    config = CONFIG.replace(line_search=False)
    params, info = step(problem.objective, problem.params, problem.batch, hparams, config)
    expected = reference.theta + reference.full_step
    assert np.linalg.norm(reference.flat(params) - expected) < 2e-4 * info.step_norm
    np.testing.assert_allclose(info.kl, reference.kl(expected), rtol=1e-3)
    assert info.step_fraction == 1
