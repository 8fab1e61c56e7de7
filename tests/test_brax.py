"""brax environments, and objects of the user's in its style, from the learner's side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs
from brax.envs.base import Env as BraxEnv
from brax.envs.base import State as BraxState
from brax.envs.wrappers import training as brax_wrappers
from playing import play

import trpo_jax

SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(16,))


class Counter(BraxEnv):
    """Counts its steps, pays 1 for each, is done after five."""

    def reset(self, rng):
        zero = jnp.zeros(())
        return BraxState(zero, jnp.zeros(1), zero, zero)

    def step(self, state, action):
        count = state.pipeline_state + 1
        return state.replace(
            pipeline_state=count,
            obs=count[None],
            reward=jnp.ones(()),
            done=jnp.float32(count >= 5),
        )

    @property
    def action_size(self):
        return 1

    @property
    def observation_size(self):
        return 1

    @property
    def backend(self):
        return "none"


class DuckCounter:
    """In brax's style without its base class."""

    observation_size = 1

    def __init__(self):
        self.action_size = 1

    reset, step = Counter.reset, Counter.step


@pytest.mark.parametrize("kind", [Counter, DuckCounter])
def test_a_users_brax_environment(kind):
    env = trpo_jax.make_env(kind(), episode_length=100)
    assert kind.__name__.lower() in env.name.lower()
    steps = play(env, [0.0], 5)
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(steps.terminated, [False] * 4 + [True])
    assert not steps.truncated.any()


class KeepsItsKey(Counter):
    """Draws its observations from a key that it keeps as uint32."""

    def reset(self, rng):
        return super().reset(rng).replace(info={"rng": jnp.asarray(rng, jnp.uint32)})

    def step(self, state, action):
        rng, draw_key = jax.random.split(state.info["rng"])
        obs = jax.random.uniform(draw_key, (1,))
        return super().step(state, action).replace(obs=obs, info={"rng": rng})


class WithoutInfo(Counter):
    def reset(self, rng):
        return super().reset(rng).replace(info=None)


class TakesNoKey(Counter):
    def reset(self, rng):
        return super().reset(jnp.reshape(rng, 3))


def test_brax_keys_may_be_legacy_and_info_may_be_none():
    agent = trpo_jax.make_trpo(trpo_jax.make_env(KeepsItsKey()), SMALL)
    _, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    assert len(np.unique(trajectory.next_obs)) == trajectory.next_obs.size
    assert play(trpo_jax.make_env(WithoutInfo()), [0.0], 5).terminated[-1]
    with pytest.raises(ValueError, match="reset of takesnokey takes neither"):
        trpo_jax.make_env(TakesNoKey())


def test_the_time_limit_of_brax_truncates():
    env = trpo_jax.make_env(Counter(), episode_length=3)
    steps = play(env, [0.0], 3)
    np.testing.assert_array_equal(steps.truncated, [False, False, True])
    assert not steps.terminated.any()
    both = play(trpo_jax.make_env(Counter(), episode_length=5), [0.0], 5)
    assert both.terminated[-1]
    assert not both.truncated[-1]


def test_action_repeat_sums_rewards_until_done():
    env = trpo_jax.make_env(Counter(), episode_length=100, action_repeat=2)
    steps = play(env, [0.0], 3)
    np.testing.assert_array_equal(steps.reward, [2, 2, 1])
    np.testing.assert_array_equal(steps.obs[:, 0], [2, 4, 5])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])


def test_action_repeat_of_fast_is_two_steps_of_fast():
    once = play(trpo_jax.make_env("brax/fast", episode_length=6), [1.0], 6)
    env = trpo_jax.make_env("brax/fast", episode_length=6, action_repeat=2)
    twice = play(env, [1.0], 3)
    assert env.max_episode_steps == 3
    np.testing.assert_allclose(twice.reward, once.reward.reshape(3, 2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(twice.obs, once.obs[1::2], rtol=1e-6)
    np.testing.assert_array_equal(once.truncated, [False] * 5 + [True])
    np.testing.assert_array_equal(twice.truncated, [False, False, True])


def test_braxs_own_episode_wrapper_truncates():
    env = trpo_jax.make_env(brax_wrappers.EpisodeWrapper(Counter(), 3, 1))
    steps = play(env, [0.0], 3)
    np.testing.assert_array_equal(steps.truncated, [False, False, True])
    assert not steps.terminated.any()


@pytest.mark.parametrize(
    "wrap",
    [
        brax_wrappers.AutoResetWrapper,
        brax_wrappers.VmapWrapper,
        lambda env: brax_wrappers.EpisodeWrapper(brax_wrappers.AutoResetWrapper(env), 9, 1),
    ],
)
def test_brax_wrappers_that_reset_or_batch_are_refused(wrap):
    with pytest.raises(ValueError, match=r"(AutoReset|Vmap)Wrapper"):
        trpo_jax.make_env(wrap(brax_envs.get_environment("fast")))


def test_a_dictionary_of_brax_has_a_part_for_the_policy_and_one_for_the_critic():
    env = trpo_jax.make_env("brax/fast", obs_mode="dict_state", asymmetric_obs=True)
    assert env.obs_shape == (2,)
    obs = play(env, [1.0], 2).obs
    assert isinstance(obs, trpo_jax.Observation)
    assert obs.action_mask is None
    assert obs.critic.shape == (2, 4)
    plain = play(trpo_jax.make_env("brax/fast"), [1.0], 2).obs
    np.testing.assert_array_equal(obs.policy, plain)
    one_part = trpo_jax.make_env("brax/fast", obs_mode="dict_state")
    assert one_part.obs_shape == {"state": (2,)}
    np.testing.assert_array_equal(play(one_part, [1.0], 2).obs["state"], plain)


@pytest.mark.parametrize("setting", ["episode_length", "action_repeat"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_brax_settings_are_checked(setting, value):
    with pytest.raises(ValueError, match=setting):
        trpo_jax.make_env(Counter(), **{setting: value})


def test_brax_episodes_begin_from_fresh_states():
    env = trpo_jax.make_env("brax/inverted_pendulum", backend="spring", episode_length=8)
    agent = trpo_jax.make_trpo(env, SMALL.replace(num_steps=128))
    state = agent.init(jax.random.key(0))
    beginnings = []
    for _ in range(2):
        state, trajectory = agent.rollout(state)
        assert not trajectory.terminated[:7].any()
        done = np.asarray(trajectory.terminated | trajectory.truncated)[:-1]
        beginnings.append({tuple(obs) for obs in np.asarray(trajectory.obs)[1:][done]})
        assert np.sum(done) >= 4 * 15
    assert len(beginnings[0]) >= 16
    assert len(beginnings[1]) >= 16
    assert len(beginnings[0] & beginnings[1]) <= 4  # only what the first rollout left in place
