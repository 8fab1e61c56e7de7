"""The whole loop on environments whose values are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_envs import (
    ConstantReward,
    Countdown,
    DelayedReward,
    MatchTheBit,
    SignReward,
    TargetAction,
)

import trpo_jax

GAMMA = 0.9
CONFIG = trpo_jax.TRPOConfig(
    num_envs=8, num_steps=32, hidden_sizes=(16,), value_minibatch_size=64, value_epochs=10
)
HPARAMS = trpo_jax.HParams(gamma=GAMMA, value_learning_rate=3e-3)


def trained(env, num_updates=120, config=CONFIG, hparams=HPARAMS):
    agent = trpo_jax.make_trpo(env, config)
    state, history = agent.train(agent.init(jax.random.key(0)), hparams, num_updates=num_updates)
    return agent, state, history


def values(agent, state, obs):
    return np.asarray(agent.critic.apply(state.value_params, jnp.asarray(obs, jnp.float32)))


def finite_sum(steps):
    return (1 - GAMMA ** np.asarray(steps)) / (1 - GAMMA)


def test_a_time_limit_does_not_lower_the_value():
    config = CONFIG.replace(value_target="monte_carlo")  # the other target: SignReward, below
    agent, state, history = trained(ConstantReward(limit=5), config=config)
    np.testing.assert_allclose(values(agent, state, [[1.0]]), 1 / (1 - GAMMA), rtol=0.02)
    np.testing.assert_array_equal(history.episode_return, 5)
    np.testing.assert_array_equal(history.episode_length, 5)


@pytest.mark.parametrize("value_target", ["lambda_return", "monte_carlo"])
def test_termination_ends_the_value_of_each_environment_at_its_own_time(value_target):
    config = CONFIG.replace(value_target=value_target)
    env = Countdown(longest=7, staggered=True)
    agent, state, history = trained(env, num_updates=150, config=config)
    left = np.arange(1, 8)
    np.testing.assert_allclose(
        values(agent, state, np.eye(8)[left]), finite_sum(left), rtol=0.02, atol=0.02
    )
    np.testing.assert_allclose(np.mean(history.episode_length), 4.0, atol=0.1)
    np.testing.assert_allclose(history.episode_return, history.episode_length, rtol=1e-6)


def test_the_value_depends_on_the_observation_and_not_on_the_time_limit():
    agent, state, history = trained(SignReward())
    expected = np.array([1.0, -1.0]) / (1 - GAMMA)
    np.testing.assert_allclose(values(agent, state, [[1.0], [-1.0]]), expected, rtol=0.02)
    np.testing.assert_array_equal(history.episode_length, SignReward.max_episode_steps)


def test_the_policy_learns_which_action_pays():
    agent, state, history = trained(MatchTheBit())
    probabilities = jax.nn.softmax(agent.policy.apply(state.policy_params, jnp.eye(2)).logits)
    assert np.all(np.diag(probabilities) > 0.97), probabilities
    assert float(history.episode_return[0]) < 0.7
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=64)
    np.testing.assert_array_equal(stats.returns, 1)


def test_the_policy_learns_a_continuous_action():
    agent, state, _ = trained(TargetAction(), hparams=HPARAMS.replace(max_kl=0.05))
    action = agent.act(state, jax.random.key(0), jnp.ones(1), deterministic=True)
    np.testing.assert_allclose(action, 0.5, atol=0.1)


def test_credit_reaches_the_action_two_steps_back():
    agent, state, history = trained(DelayedReward())
    start, _, high = np.eye(4)[:3]
    logits = agent.policy.apply(state.policy_params, jnp.asarray(start, jnp.float32)).logits
    assert float(jax.nn.softmax(logits)[1]) > 0.97
    np.testing.assert_allclose(values(agent, state, [start, high]), [GAMMA, 1.0], atol=0.05)
    np.testing.assert_allclose(float(history.episode_return[-1]), 1.0, atol=0.05)
