"""One check for each row A1 … A19 of the checklist of algorithmic claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problems
from comparison import same_bits
from jax.flatten_util import ravel_pytree

import trpo_jax
from trpo_jax import HParams, StepStatus, TRPOConfig, cg_solve, hvp, line_search
from trpo_jax.learner.batch import prepare_batch

CONFIG = TRPOConfig(num_envs=4, num_steps=64, hidden_sizes=(8, 8))
STEP_CONFIG = TRPOConfig(cg_iterations=30)
HPARAMS = HParams(cg_tol=1e-7).as_arrays()


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)


@pytest.fixture(scope="module")
def run(agent):
    """(state before, state after the rollout, trajectory, state after learning, metrics)."""
    state = agent.init(jax.random.key(0))
    collected, trajectory = agent.rollout(state)
    learned, metrics = agent.learn(collected, trajectory, HParams())
    return state, collected, trajectory, learned, metrics


@pytest.fixture(scope="module")
def prepared(agent, run):
    _, state, trajectory, *_ = run
    prepare = jax.jit(functools.partial(prepare_batch, agent.parts))
    return prepare(state, trajectory, trajectory.reward, HPARAMS)


def step(objective, params, batch, hparams=HPARAMS, config=STEP_CONFIG):
    return tiny_problems.step(objective, params, batch, hparams, config)


def log_softmax(agent, params, obs):
    """log π(·|obs) in float64, by a forward pass in NumPy; [..., actions]."""
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
    x = np.asarray(obs, np.float64)
    for layer in (layers["body"]["Dense_0"], layers["body"]["Dense_1"]):
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    logits = x @ layers["head"]["Dense_0"]["kernel"] + layers["head"]["Dense_0"]["bias"]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def dense_curvature(problem):
    flat, unravel = ravel_pytree(problem.params)

    def mean_kl(vector):
        new = problem.policy.apply(unravel(vector), problem.batch.obs)
        return jnp.mean(problem.batch.distribution.kl(new))

    return np.asarray(jax.jit(jax.hessian(mean_kl))(flat), np.float64)


def gradient(problem):
    return np.asarray(ravel_pytree(surrogate_and_kl(problem, jax.grad)[0])[0], np.float64)


def surrogate_and_kl(problem, transform):
    """(L, D) or their gradients at θ_old, from the pieces of the objective."""

    def mean(piece, params):
        return jnp.mean(piece(problem.policy.apply(params, problem.batch.obs), problem.batch))

    pieces = (problem.objective.gain, problem.objective.divergence)
    return [jax.jit(transform(functools.partial(mean, f)))(problem.params) for f in pieces]


def moved(problem, params):
    return np.asarray(ravel_pytree(params)[0] - ravel_pytree(problem.params)[0], np.float64)


def cosine(left, right):
    return left @ right / np.linalg.norm(left) / np.linalg.norm(right)


def test_a01_surrogate_is_maximised_within_the_mean_kl(agent, run, prepared):
    _, collected, trajectory, learned, metrics = run
    old = log_softmax(agent, collected.policy_params, trajectory.obs)
    new = log_softmax(agent, learned.policy_params, trajectory.obs)
    kl = (np.exp(old) * (old - new)).sum(-1).mean()
    assert 0 < kl <= 0.01 * (1 + 1e-4)
    np.testing.assert_allclose(metrics.kl, kl, rtol=1e-3)
    action = np.asarray(trajectory.action)[..., None]
    ratio = np.exp(np.take_along_axis(new - old, action, -1)[..., 0]).T.reshape(-1)
    advantage = np.asarray(prepared.batch.advantage, np.float64)
    gain = (ratio * advantage).mean() - advantage.mean()
    assert gain > 0
    np.testing.assert_allclose(metrics.improvement, gain, rtol=1e-3)


def test_a02_max_kl_defaults_to_a_hundredth_and_is_tunable(make_problem):
    assert HParams().max_kl == 0.01
    problem = make_problem()
    for max_kl in (1e-4, 1e-3, 1e-2):
        hparams = HPARAMS.replace(max_kl=jnp.float32(max_kl))
        _, info = step(problem.objective, problem.params, problem.batch, hparams)
        assert 0.1 * max_kl < info.kl <= max_kl


def test_a03_kl_runs_from_the_old_policy_to_the_new(make_problem):
    problem = make_problem()
    params = jax.tree.map(lambda x: 3 * x, problem.params)
    old, new = (
        jax.nn.log_softmax(problem.policy.apply(p, problem.batch.obs).logits)
        for p in (problem.params, params)
    )
    forward = np.sum(np.exp(old) * (old - new), -1)
    backward = np.sum(np.exp(new) * (new - old), -1)
    assert abs(forward.mean() - backward.mean()) > 1e-3
    outputs = problem.policy.apply(params, problem.batch.obs)
    got = problem.objective.divergence(outputs, problem.batch)
    np.testing.assert_allclose(got, forward, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_a04_at_the_old_parameters(make_problem, kind):
    problem = make_problem(kind)
    gain, kl = surrogate_and_kl(problem, lambda f: f)
    np.testing.assert_allclose(gain, 0, atol=1e-7)
    np.testing.assert_allclose(kl, 0, atol=1e-12)
    # exactly zero where the outputs are those on record, bit for bit
    on_record = problem.objective.divergence(problem.batch.distribution, problem.batch)
    np.testing.assert_array_equal(on_record, 0)
    gain_gradient, kl_gradient = surrogate_and_kl(problem, jax.grad)
    np.testing.assert_allclose(ravel_pytree(kl_gradient)[0], 0, atol=1e-7)

    def policy_gradient(params):  # E[∇ log π · A]
        log_prob = problem.policy.apply(params, problem.batch.obs).log_prob(problem.batch.action)
        return jnp.mean(log_prob * problem.batch.advantage)

    expected = ravel_pytree(jax.jit(jax.grad(policy_gradient))(problem.params))[0]
    assert np.linalg.norm(expected) > 1e-2
    np.testing.assert_allclose(ravel_pytree(gain_gradient)[0], expected, rtol=1e-4, atol=1e-6)


def test_a05_step_length_and_multiplier(make_problem):
    problem = make_problem()
    damped = dense_curvature(problem) + 0.1 * np.eye(len(gradient(problem)))
    x = np.linalg.solve(damped, gradient(problem))
    multiplier = np.sqrt(x @ damped @ x / (2 * 0.01))
    params, info = step(problem.objective, problem.params, problem.batch)
    np.testing.assert_allclose(info.multiplier, multiplier, rtol=1e-3)
    expected = float(info.step_fraction) * x / multiplier
    np.testing.assert_allclose(moved(problem, params), expected, rtol=1e-2, atol=1e-5)


def test_a06_natural_policy_gradient_is_the_case_without_line_search(make_problem):
    problem = make_problem("gaussian")
    hparams = HPARAMS.replace(max_kl=jnp.float32(0.5), cg_damping=jnp.float32(0.01))
    config = STEP_CONFIG.replace(line_search=False)
    with_search, searched = step(problem.objective, problem.params, problem.batch, hparams)
    natural, info = step(problem.objective, problem.params, problem.batch, hparams, config)
    assert searched.num_backtracks > 0
    assert info.kl > 0.5  # nothing held it back
    full_step = moved(problem, with_search) / float(searched.step_fraction)
    np.testing.assert_allclose(moved(problem, natural), full_step, rtol=1e-2, atol=1e-4)


def _largest_array(jaxpr):
    sizes = [var.aval.size for eqn in jaxpr.eqns for var in eqn.outvars]
    for eqn in jaxpr.eqns:
        for leaf in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
        ):
            inner = getattr(leaf, "jaxpr", leaf)
            if hasattr(inner, "eqns"):
                sizes.append(_largest_array(inner))
    return max(sizes, default=0)


@pytest.mark.parametrize("curvature", ["hvp", "gauss_newton"])
def test_a07_the_hessian_is_never_formed(make_problem, curvature):
    problem = make_problem(batch_size=8, hidden=(16,))
    config = STEP_CONFIG.replace(curvature=curvature)
    run_step = functools.partial(step, problem.objective, config=config)
    count = ravel_pytree(problem.params)[0].size
    assert _largest_array(jax.make_jaxpr(run_step)(problem.params, problem.batch).jaxpr) < count**2
    # the detector sees a Hessian where there is one
    square = lambda x: jnp.sum(x**2 * x[0])  # noqa: E731
    flat = jnp.ones(count)
    assert _largest_array(jax.make_jaxpr(jax.hessian(square))(flat).jaxpr) >= count**2
    # and the products are those of the dense matrix
    small = make_problem()
    flat, unravel = ravel_pytree(small.params)
    mean_kl = lambda p: jnp.mean(  # noqa: E731
        small.batch.distribution.kl(small.policy.apply(p, small.batch.obs))
    )
    product = jax.jit(lambda v: ravel_pytree(hvp(mean_kl, small.params, unravel(v)))[0])
    vector = jnp.cos(jnp.arange(flat.size, dtype=jnp.float32))
    np.testing.assert_allclose(product(vector), dense_curvature(small) @ vector, atol=1e-5)


def test_a08_conjugate_gradients_start_from_zero_and_stop(make_problem):
    assert 10 <= TRPOConfig().cg_iterations <= 20
    diagonal, b = jnp.array([1.0, 2.0, 5.0]), jnp.array([1.0, -1.0, 2.0])
    solve = lambda iters, tol: cg_solve(lambda v: diagonal * v, b, max_iters=iters, tol=tol)  # noqa: E731
    one = solve(1, 0.0)
    np.testing.assert_allclose(one.residual_norms[0], np.linalg.norm(b), rtol=1e-6)
    np.testing.assert_allclose(one.x, (b @ b) / (b @ (diagonal * b)) * b, rtol=1e-6)
    assert solve(10, 0.5).num_iters < solve(10, 1e-3).num_iters <= 3
    problem = make_problem()
    first = step(problem.objective, problem.params, problem.batch)
    assert same_bits(first, step(problem.objective, problem.params, problem.batch))
    norms = first[1].cg_residual_norms
    np.testing.assert_allclose(norms[0], np.linalg.norm(gradient(problem)), rtol=1e-4)
    assert norms[-1] <= 1e-5 * norms[0]


def test_a09_curvature_is_damped(make_problem):
    problem = make_problem()
    dense, g = dense_curvature(problem), gradient(problem)
    for damping in (1e-2, 1.0, 1e4):
        hparams = HPARAMS.replace(cg_damping=jnp.float32(damping))
        params, info = step(problem.objective, problem.params, problem.batch, hparams)
        x = np.linalg.solve(dense + damping * np.eye(len(g)), g)
        assert info.accepted
        assert cosine(moved(problem, params), x) > 0.9999
    assert cosine(np.linalg.solve(dense + 1e-2 * np.eye(len(g)), g), g) < 0.9
    assert cosine(moved(problem, params), g) > 0.9999  # huge damping: the plain gradient


def test_a10_float64_on_request_and_cast_back(make_problem):
    problem = make_problem(batch_size=16)
    hparams = HPARAMS.replace(cg_damping=jnp.float32(1e-6), cg_tol=jnp.float32(0))
    residual = {}
    for dtype in ("float32", "float64"):
        config = STEP_CONFIG.replace(solver_dtype=dtype, cg_iterations=60)
        params, info = step(problem.objective, problem.params, problem.batch, hparams, config)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        assert info.cg_residual_norms.dtype == jnp.float32
        residual[dtype] = float(info.cg_residual_norms[-1] / info.cg_residual_norms[0])
    assert residual["float64"] < 0.1 * residual["float32"]


def test_a11_no_gradient_passes_through_conjugate_gradients():
    solve = lambda a, b: jnp.sum(cg_solve(lambda v: a * v, b, max_iters=5, tol=1e-6).x)  # noqa: E731
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)
    assert solve(a, b) > 1
    for derivative in jax.grad(solve, argnums=(0, 1))(a, b):
        np.testing.assert_array_equal(derivative, 0)


def test_a12_micro_batches_bound_the_memory(make_problem):
    problem = make_problem(batch_size=8192, hidden=(64,))

    def temporary_bytes(**changes):
        config = TRPOConfig(**changes)
        arguments = problem.objective, problem.params, problem.batch, HPARAMS, config
        compiled = tiny_problems.step.lower(*arguments)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    for curvature in ("gauss_newton", "hvp"):
        whole = temporary_bytes(curvature=curvature)
        chunked = temporary_bytes(curvature=curvature, chunk_size=512)
        assert chunked < 0.5 * whole


def test_a13_backtracking_from_the_full_step():
    assert HParams().backtrack_factor in (0.5, 0.8)
    for factor in (0.5, 0.8):
        tried = []

        def evaluate(candidate, tried=tried):
            jax.debug.callback(lambda x: tried.append(float(x)), candidate)
            return candidate * (1 - candidate), candidate**2

        result = line_search(
            evaluate, jnp.float32(0), jnp.float32(1), max_kl=0.3, backtrack_factor=factor
        )
        jax.effects_barrier()
        fractions = factor ** np.arange(11)
        good = (fractions**2 <= 0.3) & (fractions * (1 - fractions) > 0)
        np.testing.assert_allclose(result.params, fractions[good][0], rtol=1e-6)
        np.testing.assert_allclose(tried, fractions[: int(np.argmax(good)) + 1], rtol=1e-6)


def test_a14_without_an_acceptable_step_the_old_policy_stays(agent, run):
    _, collected, trajectory, *_ = run
    learned, metrics = agent.learn(collected, trajectory, HParams(max_kl=1e-38))
    assert not metrics.accepted
    assert metrics.status in (StepStatus.LINE_SEARCH_FAILED, StepStatus.NOT_FINITE)
    assert metrics.kl == 0
    assert same_bits(learned.policy_params, collected.policy_params)
    assert not same_bits(learned.value_params, collected.value_params)


def test_a15_gradient_curvature_and_line_search_share_the_batch(make_problem):
    problem = make_problem()
    seen = {"gain": [], "divergence": [], "fisher_product": [], "advantage": []}

    def spy(name, function):
        def spied(outputs, other):
            seen[name].append(jax.tree.leaves(outputs)[0].shape[0])
            if name == "gain":
                seen["advantage"].append(other.advantage)
            return function(outputs, other)

        return spied

    objective = problem.objective._replace(
        gain=spy("gain", problem.objective.gain),
        divergence=spy("divergence", problem.objective.divergence),
        fisher_product=spy("fisher_product", problem.objective.fisher_product),
    )
    tiny_problems.step.__wrapped__(objective, problem.params, problem.batch, HPARAMS, STEP_CONFIG)
    for name in ("gain", "divergence", "fisher_product"):
        assert seen[name], name
        assert set(seen[name]) == {48}, name
    assert len(seen["advantage"]) >= 2  # gradient and line search
    assert all(advantage is problem.batch.advantage for advantage in seen["advantage"])


def test_a16_generalised_advantages_normalised(agent, run, prepared):
    assert (HParams().gae_lambda, HParams().gamma) == (0.95, 0.99)
    assert TRPOConfig().normalize_advantages
    _, collected, trajectory, _, metrics = run
    value, next_value = (
        np.asarray(agent.critic.apply(collected.value_params, obs), np.float64)
        for obs in (trajectory.obs, trajectory.next_obs)
    )
    reward, terminated, truncated = (
        np.asarray(x, np.float64)
        for x in (trajectory.reward, trajectory.terminated, trajectory.truncated)
    )
    assert terminated.any()
    delta = reward + 0.99 * (1 - terminated) * next_value - value
    alive = np.concatenate([np.ones((1, 4)), 1 - np.maximum(terminated, truncated)])
    expected = np.zeros_like(delta)
    for t in range(64):
        for s in range(t, 64):
            expected[t] += (0.99 * 0.95) ** (s - t) * delta[s] * alive[t + 1 : s + 1].prod(0)
    raw = np.asarray(prepared.raw_advantage).reshape(4, 64).T
    np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(metrics.advantage_mean, expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics.advantage_std, expected.std(), rtol=1e-4)
    normalised = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(
        np.asarray(prepared.batch.advantage).reshape(4, 64).T, normalised, rtol=1e-3, atol=1e-3
    )


def test_a17_value_regression_on_returns(agent, run, prepared):
    # Fewer and longer steps than the source's 10–20 epochs: benchmarks/results/defaults.md.
    assert (TRPOConfig().value_epochs, HParams().value_learning_rate) == (5, 3e-3)
    _, collected, _, learned, metrics = run
    batch = prepared.batch
    np.testing.assert_allclose(
        batch.value_target, prepared.raw_advantage + batch.value, rtol=1e-4, atol=1e-4
    )
    for params, loss in (
        (collected.value_params, metrics.value_loss_before),
        (learned.value_params, metrics.value_loss),
    ):
        values = np.asarray(agent.critic.apply(params, batch.obs), np.float64)
        np.testing.assert_allclose(loss, np.mean((values - batch.value_target) ** 2), rtol=1e-3)
    assert metrics.value_loss < metrics.value_loss_before
    steps = CONFIG.value_epochs * CONFIG.batch_size // CONFIG.minibatch_size
    assert learned.value_opt_state.count == steps


def test_a18_tanh_by_default_leaky_relu_and_relu_allowed_and_watched(run):
    assert TRPOConfig().activation == "tanh"
    assert run[4].inactive_units.shape == (2,)
    env = trpo_jax.make_env("CartPole-v1")
    for activation in ("leaky_relu", "relu"):
        other = trpo_jax.make_trpo(env, CONFIG.replace(activation=activation))
        params = other.policy.init(jax.random.key(0), jnp.zeros(4))
        _, units = other.policy.apply_with_units(params, jnp.ones((5, 4)))
        smallest = min(float(layer.min()) for layer in units)
        assert (smallest == 0) if activation == "relu" else (-0.5 < smallest < 0)


def test_a19_data_of_another_policy_version_is_refused(agent, run):
    _, _, trajectory, learned, metrics = run
    assert metrics.accepted
    assert metrics.on_policy_gap < 1e-5
    assert not metrics.alarms.off_policy
    after, stale = agent.learn(learned, trajectory, HParams())
    assert stale.alarms.off_policy
    assert stale.status == StepStatus.OFF_POLICY
    assert not stale.accepted
    assert stale.kl == 0
    assert same_bits(after.policy_params, learned.policy_params)
    # the same with a batch of two versions mixed
    _, fresh = agent.rollout(learned)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:60], b[60:]]), fresh, trajectory)
    after, stale = agent.learn(learned, mixed, HParams())
    assert stale.alarms.off_policy
    assert same_bits(after.policy_params, learned.policy_params)
