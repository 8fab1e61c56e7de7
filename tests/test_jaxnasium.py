"""Objects of jaxnasium beside jaxnasium's own API."""

import jax.numpy as jnp
import jaxnasium
import numpy as np
import pytest
from following import any_allowed, ends, follow
from playing import play

import trpo_jax
from trpo_jax.envs import EnvStep, Observation


def sides(theirs):
    """Reset and step of jaxnasium, without its automatic reset."""

    def reset(key):
        obs, state = theirs.reset_env(key)
        return state, obs

    def step(key, state, action):
        (obs, reward, terminated, truncated, _), state = theirs.step_env(key, state, action)
        return state, EnvStep(obs, reward, terminated, truncated)

    return reset, step


def test_steps_equal_jaxnasiums_own_until_each_end():
    theirs = jaxnasium.make("CartPole-v1", wrappers=[])
    env = trpo_jax.make_env(theirs)
    assert env.name == "CartPole"
    assert env.unwrapped is theirs
    steps = follow(env, *sides(theirs), any_allowed(2), 150)
    assert ends(steps)[0] >= 3


class Masked(jaxnasium.Environment):
    """Truncates after three steps; one of two discrete actions is forbidden."""

    action_space = property(lambda self: jaxnasium.MultiDiscrete(np.array([2, 3])))
    observation_space = property(lambda self: jaxnasium.Box(-1.0, 1.0, (1,)))

    def _observe(self, state):
        mask = [jnp.array([True, False]), jnp.ones(3, bool)]
        return jaxnasium.AgentObservation(state[None], mask, jnp.full(2, state))

    def reset_env(self, key):
        return self._observe(jnp.zeros(())), jnp.zeros(())

    def step_env(self, key, state, action):
        state = state + 1
        truncated = state >= 3
        return jaxnasium.TimeStep(
            self._observe(state), jnp.sum(action) + 0.0, jnp.bool_(False), truncated, {}
        ), state


@pytest.mark.parametrize("wrap", [lambda env: env, jaxnasium.ScaleRewardWrapper])
def test_ends_are_observed_and_roles_are_kept(wrap):
    env = trpo_jax.make_env(wrap(Masked()))
    assert env.action_space == trpo_jax.MultiDiscrete((2, 3))
    steps = play(env, [0, 2], 3)
    assert isinstance(steps.obs, Observation)
    np.testing.assert_array_equal(steps.obs.policy, [[1], [2], [3]])
    np.testing.assert_array_equal(steps.obs.critic, [[1] * 2, [2] * 2, [3] * 2])
    np.testing.assert_array_equal(steps.obs.action_mask[0], [True, False, True, True, True])
    np.testing.assert_array_equal(steps.reward, [2, 2, 2])
    np.testing.assert_array_equal(steps.truncated, [False, False, True])
    assert not steps.terminated.any()


class Pair(Masked):
    multi_agent = True


class Mixed(Masked):
    action_space = property(lambda self: (jaxnasium.Discrete(2), jaxnasium.Box(0.0, 1.0, (1,))))


def test_what_cannot_be_trained_is_refused():
    batch = jaxnasium.VecEnvWrapper(jaxnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="CartPole is wrapped in jaxnasium's VecEnvWrapper"):
        trpo_jax.make_env(batch)
    with pytest.raises(ValueError, match="Pair is for several agents"):
        trpo_jax.make_env(Pair())
    with pytest.raises(ValueError, match=r"action space .* of Mixed is not supported"):
        trpo_jax.make_env(Mixed())
    with pytest.raises(ValueError, match=r"pass what jaxnasium\.make returns"):
        trpo_jax.make_env(jaxnasium.Discrete(2))
