"""One test for each mistake found in other implementations of TRPO."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problems
from comparison import same_bits
from jax.flatten_util import ravel_pytree
from runs import with_devices

import trpo_jax
from trpo_jax import HParams, StepStatus, TRPOConfig, line_search
from trpo_jax.learner.batch import prepare_batch

CONFIG = TRPOConfig(num_envs=4, num_steps=64, hidden_sizes=(8, 8))
STEP_CONFIG = TRPOConfig(cg_iterations=30)
HPARAMS = HParams(cg_tol=1e-6).as_arrays()


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)


@pytest.fixture(scope="module")
def collected(agent):
    return agent.rollout(agent.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def prepare(agent):
    """(state, trajectory, reward, hparams) -> `PreparedBatch`."""
    return jax.jit(functools.partial(prepare_batch, agent.parts))


def solve(problem, hparams=HPARAMS, **changes):
    config = STEP_CONFIG.replace(**changes)
    return tiny_problems.step(problem.objective, problem.params, problem.batch, hparams, config)


def moved(problem, params):
    return np.asarray(ravel_pytree(params)[0] - ravel_pytree(problem.params)[0])


def mean_kl(left, right):
    """D(left‖right) of categorical logits, in float64 NumPy."""
    p, q = (np.asarray(x, np.float64) for x in (left, right))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return (np.exp(p) * (p - q)).sum(-1).mean()


def with_gain(problem, gain):
    return problem._replace(objective=problem.objective._replace(gain=gain))


def always_losing(problem):
    """The gradient points somewhere, but no candidate is better than the old parameters."""

    def gain(outputs, batch):
        honest = problem.objective.gain(outputs, batch)
        return honest - jax.lax.stop_gradient(honest) - 1.0

    return with_gain(problem, gain)


def test_mistake_01_a_failed_line_search_leaves_the_old_parameters(make_problem):
    problem = always_losing(make_problem())
    params, info = solve(problem)
    assert info.status == StepStatus.LINE_SEARCH_FAILED
    assert info.step_norm > 0
    assert same_bits(params, problem.params)


def test_mistake_02_the_line_search_tests_the_kl_from_old_to_new(make_problem):
    result = line_search(
        lambda p: (jnp.float32(1), p**2), jnp.float32(0), jnp.float32(1), max_kl=0.3
    )
    assert result.kl <= 0.3
    assert result.num_backtracks == 3  # 0.8⁶ ≤ 0.3
    problem = make_problem()
    params, info = solve(problem, HPARAMS.replace(max_kl=jnp.float32(0.3)))
    old, new = (problem.policy.apply(p, problem.batch.obs).logits for p in (problem.params, params))
    forward, backward = mean_kl(old, new), mean_kl(new, old)
    assert abs(forward - backward) > 0.02 * forward
    np.testing.assert_allclose(info.kl, forward, rtol=1e-3)
    assert forward <= 0.3


def test_mistake_03_log_std_is_optimised(make_problem):
    problem = make_problem("gaussian")
    params, info = solve(problem)
    assert info.accepted
    before, after = (p["params"]["head"]["log_std"] for p in (problem.params, params))
    assert (np.abs(after - before) > 1e-4).all()


def test_mistake_04_standardised_advantages_are_used_and_finite(agent, collected, prepare):
    state, trajectory = collected
    state = state.replace(value_params=jax.tree.map(jnp.zeros_like, state.value_params))
    hparams = HParams(gamma=0.0).as_arrays()

    def advantages(reward):
        return prepare(state, trajectory, reward, hparams).batch.advantage

    noise = jnp.asarray(np.random.default_rng(0).normal(size=trajectory.reward.shape), jnp.float32)
    for scale in (0.01, 1.0, 100.0):
        advantage = advantages(7 + scale * noise)
        np.testing.assert_allclose(np.std(advantage), 1, rtol=1e-3)  # not 1 / scale
        np.testing.assert_allclose(np.mean(advantage), 0, atol=1e-3)
    small, _ = agent.learn(state, trajectory.replace(reward=noise), HParams(gamma=0.0))
    large, _ = agent.learn(state, trajectory.replace(reward=64 * noise), HParams(gamma=0.0))
    for a, b in zip(*map(jax.tree.leaves, (small.policy_params, large.policy_params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # used: the scale of the reward is gone
    assert not same_bits(small.policy_params, state.policy_params)
    for constant in (0.0, 1.0, 0.1):
        level = trajectory.replace(reward=jnp.full_like(noise, constant))
        np.testing.assert_array_equal(advantages(level.reward), 0)
    after, metrics = agent.learn(state, level, HParams(gamma=0.0))
    assert metrics.status == StepStatus.ZERO_GRADIENT
    assert same_bits(after.policy_params, state.policy_params)


@pytest.mark.parametrize(
    ("curvature", "line_search"),
    [("gauss_newton", True), ("gauss_newton", False), ("hvp", True), ("hvp", False)],
)
def test_mistake_05_bad_curvature_does_not_leak(make_problem, curvature, line_search):
    """The factor that spoils it comes with the batch, so that one program serves them all."""
    problem = make_problem()
    policy, honest = problem.policy, problem.objective

    def predict(params, batch):
        return policy.apply(params, batch.obs), batch.value

    objective = honest._replace(
        predict=predict,
        gain=lambda outputs, batch: honest.gain(outputs[0], batch),
        divergence=lambda outputs, batch: batch.value * batch.distribution.kl(outputs[0]),
        fisher_product=lambda outputs, u: (
            jax.tree.map(lambda x: outputs[1][:, None] * x, outputs[0].fisher_product(u[0])),
            jnp.zeros_like(u[1]),
        ),
    )
    for factor in (-100.0, np.nan, np.inf):
        batch = problem.batch.replace(value=jnp.full(48, factor, jnp.float32))
        spoilt = problem._replace(objective=objective, batch=batch)
        params, info = solve(spoilt, curvature=curvature, line_search=line_search)
        assert not info.accepted
        assert info.cg_breakdown
        assert info.status in (StepStatus.BAD_CURVATURE, StepStatus.NOT_FINITE)
        assert same_bits(params, problem.params)


def test_mistake_05_candidates_that_are_not_a_number_lose(make_problem):
    problem = make_problem()

    def gain(outputs, batch):
        unmoved = jnp.all(outputs.logits == batch.distribution.logits)
        return jnp.where(unmoved, 1, jnp.nan) * problem.objective.gain(outputs, batch)

    params, info = solve(with_gain(problem, gain))
    assert info.status == StepStatus.LINE_SEARCH_FAILED
    assert same_bits(params, problem.params)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_mistake_06_the_tolerance_does_not_depend_on_the_scale_of_the_reward(make_problem, scale):
    problem = make_problem()
    hparams = HPARAMS.replace(cg_tol=jnp.float32(0.01))
    scaled = problem._replace(
        batch=problem.batch.replace(advantage=problem.batch.advantage * scale)
    )
    params, info = solve(problem, hparams)
    other, other_info = solve(scaled, hparams)
    assert 1 < info.cg_iterations < STEP_CONFIG.cg_iterations  # it is reached
    assert other_info.cg_iterations == info.cg_iterations
    np.testing.assert_allclose(moved(problem, other), moved(problem, params), rtol=1e-3, atol=1e-5)


def test_mistake_07_observation_statistics_are_frozen_during_an_update():
    config = tiny_problems.SMALL.replace(normalize_observations=True)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"), config)
    state, seen = agent.init(jax.random.key(0)), []
    for _ in range(3):
        collected, trajectory = agent.rollout(state)
        assert same_bits(collected.obs_statistics, state.obs_statistics)
        state, metrics = agent.learn(collected, trajectory, HParams())
        assert metrics.on_policy_gap < 1e-5  # ratio = 1 at θ_old
        seen.append(np.asarray(trajectory.obs, np.float64).reshape(-1, 3))
        everything = np.concatenate(seen)
        np.testing.assert_allclose(state.obs_statistics.mean, everything.mean(0), atol=1e-5)
        np.testing.assert_allclose(state.obs_statistics.variance, everything.var(0), rtol=1e-3)


def test_mistake_08_the_ratio_test_takes_the_fraction_once():
    # gain 0.4 t against 0.5 t: fails at every t; with the fraction taken twice, passes at 0.5.
    result = line_search(
        lambda t: (0.4 * t, 0.0 * t),
        jnp.float32(0),
        jnp.float32(1),
        max_kl=1.0,
        expected_improvement=1.0,
        accept_ratio=0.5,
        backtrack_factor=0.5,
    )
    assert not result.accepted
    # gain t (1 − t): the share of the prediction, 1 − t, must reach one half, at t = 0.5.
    result = line_search(
        lambda t: (1.001 * t - t**2, 0.0 * t),
        jnp.float32(0),
        jnp.float32(1),
        max_kl=1.0,
        expected_improvement=1.0,
        accept_ratio=0.5,
        backtrack_factor=0.9,
    )
    assert result.num_backtracks == 7  # 0.9⁷ = 0.478 is the first below 0.501


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import tiny_problems
from trpo_jax import HParams, TRPOConfig

assert jax.device_count() == 2
problem = tiny_problems.make_problem()
config, hparams = TRPOConfig(cg_iterations=30), HParams(cg_tol=1e-6).as_arrays()
step = lambda p, b: tiny_problems.step(problem.objective, p, b, hparams, config)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
batch = put(problem.batch, PartitionSpec("data"))
assert len(batch.obs.sharding.device_set) == 2 and not batch.obs.is_fully_replicated
flat = lambda params: np.asarray(jax.flatten_util.ravel_pytree(jax.device_get(params))[0])
start = flat(problem.params)

alone, info = step(problem.params, problem.batch)
together, sharded_info = step(put(problem.params, PartitionSpec()), batch)
size = np.abs(flat(alone) - start).max()
assert np.abs(flat(together) - flat(alone)).max() < 1e-3 * size
np.testing.assert_allclose(sharded_info.kl, info.kl, rtol=1e-3)
assert sharded_info.num_backtracks == info.num_backtracks
for leaf in jax.tree.leaves(together):
    shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(shards) == 2 and shards[0].tobytes() == shards[1].tobytes()

halves = [step(problem.params, jax.tree.map(lambda x: x[h::2], problem.batch))[0] for h in (0, 1)]
averaged = (flat(halves[0]) + flat(halves[1])) / 2
assert np.abs(averaged - flat(alone)).max() > 0.02 * size  # what a step per worker would give
"""


def test_mistake_09_a_sharded_batch_gives_one_global_step():
    with_devices(2, _SHARDED)


def test_mistake_10_the_kl_is_that_of_the_policy_that_results(make_problem):
    problem = make_problem()
    params, info = solve(problem)
    old, new = (problem.policy.apply(p, problem.batch.obs).logits for p in (problem.params, params))
    assert mean_kl(old, new) > 1e-3
    np.testing.assert_allclose(info.kl, mean_kl(old, new), rtol=1e-3)
    rejected = always_losing(problem)
    _, info = solve(rejected)
    assert info.kl == 0  # the policy did not move
    assert (np.asarray(info.candidate_kls) > 0).all()  # the candidates are on record all the same
    _, info = solve(problem, line_search=False)
    assert info.kl > 1e-3  # also without a line search


def test_mistake_11_one_batch_gives_one_step(agent, collected):
    state, trajectory = collected
    first, metrics = agent.learn(state, trajectory, HParams(max_kl=0.02))
    assert metrics.accepted
    again = first
    for _ in range(3):
        again, metrics = agent.learn(again, trajectory, HParams(max_kl=0.02))
        assert not metrics.accepted
    assert same_bits(again.policy_params, first.policy_params)
    new = agent.policy.apply(again.policy_params, trajectory.obs).logits
    assert 1e-3 < mean_kl(trajectory.distribution.logits, new) <= 0.02 * (1 + 1e-4)


def test_mistake_12_steps_that_are_not_valid_do_not_count(agent, collected):
    state, trajectory = collected
    broken = np.zeros((64, 4), bool)
    broken[[3, 20, 50], [0, 1, 2]] = True
    outcomes = []
    for garbage in (0.0, 9.0):
        fill = lambda x, value=garbage: jnp.where(  # noqa: E731
            broken.reshape(*broken.shape, *(1,) * (x.ndim - 2)), value, x
        )
        data = trajectory.replace(
            valid=jnp.asarray(~broken),
            obs=fill(trajectory.obs),
            next_obs=fill(trajectory.next_obs),
            reward=fill(trajectory.reward),
        )
        outcomes.append(agent.learn(state, data, HParams()))
    (quiet, quiet_metrics), (loud, loud_metrics) = outcomes
    assert quiet_metrics.accepted
    assert quiet_metrics.alarms.invalid_data
    for networks in ("policy_params", "value_params"):
        both = [ravel_pytree(getattr(state, networks))[0] for state in (quiet, loud)]
        np.testing.assert_allclose(*both, atol=1e-5)
    for name in ("kl", "improvement", "entropy", "advantage_mean", "advantage_std", "value_loss"):
        one, other = getattr(quiet_metrics, name), getattr(loud_metrics, name)
        np.testing.assert_allclose(one, other, rtol=1e-4, err_msg=name)


def test_mistake_12_the_advantage_recursion_ends_at_a_step_that_is_not_valid(
    agent, collected, prepare
):
    """By a loop in NumPy: an invalid step gives nothing and passes nothing on."""
    state, trajectory = collected
    valid = np.ones((64, 4), bool)
    valid[[3, 20, 50], [0, 1, 2]] = False
    hparams = HParams()
    data = trajectory.replace(valid=jnp.asarray(valid))
    prepared = prepare(state, data, data.reward, hparams.as_arrays())
    value = np.asarray(agent.critic.apply(state.value_params, trajectory.obs))
    next_value = np.asarray(agent.critic.apply(state.value_params, trajectory.next_obs))
    reward, end = np.asarray(trajectory.reward), np.asarray(trajectory.terminated)
    done = end | np.asarray(trajectory.truncated)
    expected = np.zeros((64, 4))
    for n in range(4):
        following = 0.0
        for t in reversed(range(64)):
            if not valid[t, n]:
                following = 0.0
                continue
            delta = reward[t, n] + hparams.gamma * next_value[t, n] * (1 - end[t, n]) - value[t, n]
            carry = hparams.gamma * hparams.gae_lambda * following * (1 - done[t, n])
            following = expected[t, n] = delta + carry
    raw = np.asarray(prepared.raw_advantage).reshape(4, 64).T
    np.testing.assert_allclose(raw[valid], expected[valid], rtol=1e-4, atol=1e-5)


class Clock(trpo_jax.Environment):
    """Shows the time; ends after three steps, by time limit or by termination."""

    obs_shape = (1,)
    action_space = trpo_jax.Discrete(2)
    max_episode_steps = 3

    def __init__(self, terminates):
        self.name, self.terminates = f"clock-{terminates}", terminates

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, key, state, action):
        end = state + 1 >= 3
        return state + 1, trpo_jax.EnvStep(
            obs=(state[None] + 1).astype(jnp.float32),
            reward=jnp.float32(1),
            terminated=end & self.terminates,
            truncated=end & (not self.terminates),
        )


@pytest.mark.parametrize("terminates", [True, False])
def test_mistake_13_time_limits_bootstrap_and_do_not_leak(terminates):
    config = TRPOConfig(num_envs=1, num_steps=8, hidden_sizes=(4,), normalize_advantages=False)
    agent = trpo_jax.make_trpo(Clock(terminates), config)
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    np.testing.assert_array_equal(trajectory.obs.ravel(), [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(trajectory.next_obs.ravel(), [1, 2, 3, 1, 2, 3, 1, 2])
    prepare = jax.jit(functools.partial(prepare_batch, agent.parts))
    advantage = prepare(state, trajectory, trajectory.reward, HPARAMS).batch.advantage
    values = np.asarray(agent.critic.apply(state.value_params, jnp.arange(4.0)[:, None]))
    assert abs(values[3]) > 1e-3
    delta = 1 + 0.99 * values[1:] - values[:3]
    if terminates:
        delta[2] = 1 - values[2]
    decay = 0.99 * 0.95
    first = delta[0] + decay * delta[1] + decay**2 * delta[2]
    last = delta[0] + decay * delta[1]
    expected = [first, delta[1] + decay * delta[2], delta[2]] * 2 + [last, delta[1]]
    np.testing.assert_allclose(advantage, expected, rtol=1e-4)


@pytest.mark.parametrize("curvature", ["hvp", "gauss_newton"])
def test_mistake_14_every_example_counts_in_all_three_places(make_problem, curvature):
    problem = make_problem(batch_size=20)
    _, whole = solve(problem, curvature=curvature)
    for i in range(20):
        weight = problem.batch.weight.at[i].set(0)
        without = problem._replace(batch=problem.batch.replace(weight=weight))
        _, info = solve(without, curvature=curvature)
        for name in ("gradient_norm", "multiplier", "kl"):
            assert abs(getattr(info, name) / getattr(whole, name) - 1) > 1e-5, (i, name)
