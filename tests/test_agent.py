"""The contract of the agent, line by line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_problems import SMALL

import trpo_jax
from trpo_jax import StepStatus


@pytest.fixture(scope="module")
def cartpole():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL)


@pytest.fixture(scope="module")
def pendulum():
    return trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"), SMALL)


def test_the_contract_as_it_is_written():
    env = trpo_jax.make_env("CartPole-v1")
    config = trpo_jax.TRPOConfig(num_envs=8, num_steps=256)
    hparams = trpo_jax.HParams(max_kl=0.01)
    agent = trpo_jax.make_trpo(env, config)

    state = agent.init(jax.random.key(0))
    untrained = agent.evaluate(state, jax.random.key(1), deterministic=False)
    state, metrics = jax.jit(agent.update)(state, hparams)
    assert isinstance(state, trpo_jax.TrainState)
    assert isinstance(metrics, trpo_jax.UpdateMetrics)
    assert int(state.num_updates) == 1
    assert metrics.kl.shape == metrics.accepted.shape == ()
    assert 0 < float(metrics.kl) <= 0.01

    state, history = agent.train(state, hparams, num_updates=28)  # 29 × 2048 < 60,000 steps
    assert int(state.num_updates) == 29
    assert all(leaf.shape[0] == 28 for leaf in jax.tree.leaves(history))
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=128)
    assert stats.returns.shape == stats.lengths.shape == (128,)
    np.testing.assert_array_equal(stats.returns, stats.lengths)  # CartPole pays 1 a step
    assert float(np.mean(untrained.returns)) < 60
    assert float(np.mean(stats.returns)) >= 400


def test_init_and_update_leave_their_arguments(cartpole):
    state = cartpole.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.policy_params)
    cartpole.update(state)
    cartpole.train(state, num_updates=2)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state.policy_params), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("num_updates", [0, -1, 1.5, True])
def test_num_updates_is_checked(cartpole, num_updates):
    with pytest.raises(ValueError, match="num_updates"):
        cartpole.train(cartpole.init(jax.random.key(0)), num_updates=num_updates)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_act_takes_one_observation_or_many(cartpole, pendulum, batch):
    key = jax.random.key(0)
    action = cartpole.act(cartpole.init(key), key, jnp.zeros((*batch, 4)))
    assert action.shape == batch
    assert action.dtype == jnp.int32
    action = pendulum.act(pendulum.init(key), key, np.zeros((*batch, 3)))
    assert action.shape == (*batch, 1)
    assert action.dtype == jnp.float32


def test_deterministic_actions_are_the_mode(cartpole, pendulum):
    state = cartpole.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (64, 4))
    actions = [
        cartpole.act(state, jax.random.key(seed), obs, deterministic=True) for seed in (0, 1)
    ]
    np.testing.assert_array_equal(actions[0], actions[1])
    logits = cartpole.policy.apply(state.policy_params, obs).logits
    np.testing.assert_array_equal(actions[0], np.argmax(logits, -1))
    sampled = [cartpole.act(state, jax.random.key(seed), obs) for seed in (0, 1)]
    assert not np.array_equal(sampled[0], sampled[1])

    state = pendulum.init(jax.random.key(0))
    obs = obs[:, :3]
    mean = pendulum.policy.apply(state.policy_params, obs).mean
    action = pendulum.act(state, jax.random.key(0), obs, deterministic=True)
    np.testing.assert_allclose(action, 2 * np.clip(mean, -1, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_actions_lie_in_the_box(bounds):
    config = SMALL.replace(action_bounds=bounds, initial_log_std=2.0)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"), config)
    state = agent.init(jax.random.key(0))
    action = agent.act(state, jax.random.key(1), jnp.zeros((1000, 3)))
    assert float(jnp.max(jnp.abs(action))) <= 2
    assert float(jnp.max(action)) > 1.99
    assert float(jnp.min(action)) < -1.99


def test_act_uses_the_statistics_of_the_state():
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("Pendulum-v1"), SMALL.replace(normalize_observations=True)
    )
    statistics = trpo_jax.RunningStatistics(
        jnp.float32(9), jnp.array([0.1, -0.3, 1.0]), jnp.array([0.5, 0.2, 6.0])
    )
    state = agent.init(jax.random.key(0)).replace(obs_statistics=statistics)
    obs = jnp.array([0.3, -0.2, 4.0])
    scaled = (obs - statistics.mean) / jnp.sqrt(statistics.variance + 1e-8)
    expected = 2 * jnp.clip(agent.policy.apply(state.policy_params, scaled).mean, -1, 1)
    action = agent.act(state, jax.random.key(0), obs, deterministic=True)
    np.testing.assert_allclose(action, expected, rtol=1e-4)
    unscaled = 2 * jnp.clip(agent.policy.apply(state.policy_params, obs).mean, -1, 1)
    assert abs(float(unscaled[0] - expected[0])) > 1e-3


def test_evaluate_is_repeatable_and_keeps_the_limit(cartpole):
    state = cartpole.init(jax.random.key(0))
    stats = [cartpole.evaluate(state, jax.random.key(key)) for key in (5, 5, 6)]
    assert stats[0].returns.shape == stats[0].lengths.shape == (128,)
    np.testing.assert_array_equal(stats[0].returns, stats[1].returns)
    assert not np.array_equal(stats[0].returns, stats[2].returns)
    assert np.asarray(stats[0].lengths).max() <= 500
    assert np.asarray(stats[0].lengths).min() >= 1

    cut = cartpole.evaluate(state, jax.random.key(5), max_steps=7)
    np.testing.assert_array_equal(cut.lengths, np.minimum(stats[0].lengths, 7))
    sampled = cartpole.evaluate(state, jax.random.key(5), num_episodes=16, deterministic=False)
    assert sampled.returns.shape == (16,)
    assert not np.array_equal(sampled.returns, stats[0].returns[:16])


def test_evaluate_runs_to_the_environments_own_limit(pendulum):
    stats = pendulum.evaluate(pendulum.init(jax.random.key(0)), jax.random.key(1), num_episodes=8)
    np.testing.assert_array_equal(stats.lengths, 200)
    assert np.all(np.asarray(stats.returns) < 0)


def test_stale_data_is_refused(cartpole):
    state = cartpole.init(jax.random.key(0))
    moved, trajectory = cartpole.rollout(state)
    kernel = lambda x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape)  # noqa: E731
    other = moved.replace(policy_params=jax.tree.map(kernel, moved.policy_params))
    after, metrics = cartpole.learn(other, trajectory)
    assert bool(metrics.alarms.off_policy)
    assert int(metrics.status) == StepStatus.OFF_POLICY
    assert not bool(metrics.accepted)
    assert float(metrics.kl) == float(metrics.step_fraction) == float(metrics.improvement) == 0
    for old, new in zip(
        jax.tree.leaves(other.policy_params), jax.tree.leaves(after.policy_params), strict=True
    ):
        np.testing.assert_array_equal(old, new)


# Other policy steps


def told(params, new_params, objective, batch, config):
    """A `TrustRegionInfo` for steps that know no trust region."""
    outputs = objective.predict(new_params, batch)
    mean = lambda values: jnp.mean(values).astype(jnp.float32)  # noqa: E731
    zero, one = jnp.float32(0), jnp.float32(1)
    kl = mean(objective.divergence(outputs, batch))
    return trpo_jax.TrustRegionInfo(
        status=jnp.int32(StepStatus.ACCEPTED),
        accepted=jnp.bool_(True),
        step_fraction=one,
        num_backtracks=jnp.int32(0),
        kl=kl,
        candidate_kls=kl[None],
        improvement=mean(objective.gain(outputs, batch)),
        predicted_improvement=zero,
        gradient_norm=zero,
        step_norm=zero,
        damping=zero,
        multiplier=zero,
        cg_iterations=jnp.int32(0),
        cg_residual_norms=jnp.zeros(config.cg_iterations + 1),
        cg_breakdown=jnp.bool_(False),
        cg_converged=jnp.bool_(True),
    )


def gradient_of(objective, params, batch):
    return jax.grad(lambda p: jnp.mean(objective.gain(objective.predict(p, batch), batch)))(params)


def ascent_step(objective, params, batch, hparams, config):
    """Plain gradient ascent, rate = max_kl."""
    gradient = gradient_of(objective, params, batch)
    new_params = jax.tree.map(lambda p, g: p + hparams.max_kl * g, params, gradient)
    return new_params, told(params, new_params, objective, batch, config)


ADAM = optax.adam(0.02)


def adam_step(key, objective, params, state, batch, hparams, config):
    gradient = gradient_of(objective, params, batch)
    updates, state = ADAM.update(jax.tree.map(jnp.negative, gradient), state)
    new_params = optax.apply_updates(params, updates)
    return new_params, state, told(params, new_params, objective, batch, config)


def test_a_policy_step_of_the_users_is_taken(cartpole):
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL, policy_step=ascent_step)
    state = agent.init(jax.random.key(0))
    moved, trajectory = agent.rollout(state)
    hparams = trpo_jax.HParams(max_kl=0.5)
    after, metrics = agent.learn(moved, trajectory, hparams)
    half, _ = agent.learn(moved, trajectory, hparams.replace(max_kl=0.25))
    assert bool(metrics.accepted)
    assert float(metrics.kl) > 0
    pairs = zip(
        *(jax.tree.leaves(s.policy_params) for s in (moved, half, after)),
        strict=True,
    )
    for old, halfway, new in pairs:
        np.testing.assert_allclose(2 * (halfway - old), new - old, rtol=1e-3, atol=1e-6)
    assert float(metrics.improvement) > 0


def test_a_policy_step_may_keep_a_state():
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"),
        SMALL.replace(num_steps=64),
        policy_step=trpo_jax.PolicyStep(init=ADAM.init, apply=adam_step),
    )
    state = agent.init(jax.random.key(0))
    assert int(state.policy_step_state[0].count) == 0
    state, history = agent.train(state, num_updates=40)
    assert int(state.policy_step_state[0].count) == 40
    returns = np.asarray(history.episode_return)
    assert returns[-5:].mean() > 2 * returns[:5].mean()


def test_without_line_search_the_natural_gradient_takes_the_full_step():
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"), SMALL.replace(num_steps=64, line_search=False)
    )
    state, history = agent.train(agent.init(jax.random.key(0)), num_updates=20)
    assert np.asarray(history.accepted).all()
    np.testing.assert_array_equal(history.step_fraction, 1)
    np.testing.assert_array_equal(history.num_backtracks, 0)
    kl = np.asarray(history.kl)
    assert np.all(kl > 0)
    assert np.median(kl) < 0.02  # near the quadratic model's 0.01, but not bounded by it
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.policy_params))
