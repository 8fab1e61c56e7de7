"""gymnax environments, and objects of the user's in its style, from the learner's side."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment as gymnax_base
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper
from playing import play, step_once

import trpo_jax
from trpo_jax.envs.base import reset_batch, step_batch

SAMPLE = [
    "CartPole-v1",  # discrete actions
    "Pendulum-v1",  # continuous actions
    "FrozenLake-misc",  # discrete observations
    "PointRobot-misc",  # time is a float
    "Breakout-MinAtar",  # images
]
N = 3


def random_actions(key, space, shape):
    if isinstance(space, trpo_jax.Discrete):
        return jax.random.randint(key, shape, 0, space.num_actions)
    return space.from_policy(jax.random.normal(key, (*shape, space.num_dimensions)), "clip")


@pytest.mark.parametrize("env_id", SAMPLE)
def test_gymnax_steps_equal_gymnaxs_own_before_its_reset(env_id):
    env = trpo_jax.make_env(env_id)
    theirs, params = gymnax.make(env_id)
    keys = jax.random.split(jax.random.key(0), N)
    _, obs = reset_batch(env, keys)
    assert obs.shape == (N, *env.obs_shape)
    assert obs.dtype == jnp.float32
    their_obs, their_states = jax.vmap(theirs.reset, in_axes=(0, None))(keys, params)
    is_discrete = env_id == "FrozenLake-misc"
    decode = (lambda x: np.argmax(x, -1)) if is_discrete else np.asarray
    np.testing.assert_array_equal(decode(obs), their_obs)
    if is_discrete:
        np.testing.assert_array_equal(np.sum(obs, -1), 1)

    step = jax.jit(lambda *arguments: step_batch(env, *arguments))
    their_step = jax.jit(jax.vmap(lambda k, s, a: theirs.step(k, s, a, params)))
    num_done = 0
    for t in range(25):
        key = jax.random.fold_in(jax.random.key(1), t)
        keys = jax.random.split(key, N)
        actions = random_actions(key, env.action_space, (N,))
        inner_keys = jax.vmap(lambda k: jax.random.split(k)[0])(keys)  # as gymnax.step splits
        _, ours = step(inner_keys, their_states, actions)
        _, their_states, reward, terminated, truncated, info = their_step(
            keys, their_states, actions
        )
        np.testing.assert_allclose(decode(ours.obs), info["final_observation"], rtol=1e-5)
        np.testing.assert_allclose(ours.reward, reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(ours.terminated, terminated)
        np.testing.assert_array_equal(ours.truncated, truncated & ~terminated)
        assert ours.reward.dtype == jnp.float32
        assert ours.terminated.dtype == ours.truncated.dtype == jnp.bool_
        num_done += int(np.sum(terminated | truncated))
    if env_id == "CartPole-v1":
        assert num_done > 0


def test_cartpole_falls_by_termination():
    steps = play(trpo_jax.make_env("CartPole-v1"), action=1, num_steps=12)
    assert steps.terminated.any()
    assert not steps.truncated.any()


def test_cartpole_time_limit_truncates():
    env = trpo_jax.make_env("CartPole-v1", env_params={"max_steps_in_episode": 4})
    steps = play(env, action=1, num_steps=4)
    np.testing.assert_array_equal(steps.truncated, [False, False, False, True])
    assert not steps.terminated.any()
    assert env.max_episode_steps == 4


def test_termination_wins_over_truncation():
    default = play(trpo_jax.make_env("CartPole-v1"), action=1, num_steps=12)
    fall = int(np.argmax(default.terminated)) + 1
    env = trpo_jax.make_env("CartPole-v1", env_params={"max_steps_in_episode": fall})
    steps = play(env, action=1, num_steps=fall)
    assert steps.terminated[-1]
    assert not steps.truncated[-1]


def test_env_params_as_dict_and_as_object_agree():
    _, params = gymnax.make("CartPole-v1")
    heavy = params.replace(gravity=30.0)
    as_object = play(trpo_jax.make_env("CartPole-v1", env_params=heavy), 1, 5)
    as_dict = play(trpo_jax.make_env("CartPole-v1", env_params={"gravity": 30.0}), 1, 5)
    default = play(trpo_jax.make_env("CartPole-v1"), 1, 5)
    np.testing.assert_array_equal(as_object.obs, as_dict.obs)
    assert not np.allclose(as_dict.obs, default.obs)


def test_unknown_env_params_name_the_fields():
    with pytest.raises(ValueError, match=r"gravty.*gravity"):
        trpo_jax.make_env("CartPole-v1", env_params={"gravty": 1.0})


def test_the_same_env_params_return_the_same_object():
    _, params = gymnax.make("CartPole-v1")
    by_object = [trpo_jax.make_env("CartPole-v1", env_params=params) for _ in range(2)]
    assert by_object[0] is by_object[1]


# gymnax-style objects of the user's


@struct.dataclass
class WalkState(gymnax_base.EnvState):
    position: jax.Array


@struct.dataclass
class WalkParams(gymnax_base.EnvParams):
    stride: float = 1.0
    max_steps_in_episode: int = 10


class Walk(gymnax_base.Environment):
    """Walks by ±stride from 0; terminates at 3."""

    @property
    def default_params(self):
        return WalkParams()

    def reset_env(self, key, params):
        state = WalkState(time=0, position=jnp.float32(0))
        return state.position[None], state

    def step_env(self, key, state, action, params):
        position = state.position + params.stride * (2 * action - 1)
        state = WalkState(time=state.time + 1, position=position)
        return position[None], state, position, position >= 3, {}

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-10.0, 10.0, (1,))


def test_a_users_gymnax_environment():
    env = trpo_jax.make_env(Walk())
    steps = play(env, action=1, num_steps=3)
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(steps.reward, [1, 2, 3])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])
    backwards = play(env, action=0, num_steps=11)
    assert int(np.argmax(backwards.truncated)) == 9


def test_a_users_gymnax_environment_takes_env_params():
    steps = play(trpo_jax.make_env(Walk(), env_params={"stride": 0.5}), 1, 2)
    np.testing.assert_array_equal(steps.obs[:, 0], [0.5, 1.0])
    steps = play(trpo_jax.make_env(Walk(), env_params=WalkParams(stride=2.0)), 1, 2)
    np.testing.assert_array_equal(steps.obs[:, 0], [2, 4])


@pytest.mark.parametrize("wrapper", [FlattenObservationWrapper, LogWrapper])
def test_gymnax_wrappers_keep_the_last_observation(wrapper):
    env = trpo_jax.make_env(wrapper(Walk()))
    assert env.obs_shape == (1,)
    steps = play(env, action=1, num_steps=3)
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])


def test_a_flattened_image_is_a_vector():
    breakout, _ = gymnax.make("Breakout-MinAtar")
    env = trpo_jax.make_env(FlattenObservationWrapper(breakout))
    _, obs = reset_batch(env, jax.random.split(jax.random.key(0), N))
    assert env.obs_shape == (400,)
    assert obs.shape == (N, 400)


class DuckWalk:
    """In gymnax's style without its base class."""

    default_params = WalkParams()
    num_values = 6

    def reset(self, key, params):
        return jnp.zeros(1), jnp.float32(0)

    def step(self, key, state, action, params):
        state = state + params.stride * (2 * action - 1)
        done = state >= 3
        info = {"final_observation": state[None]}
        obs = jnp.where(done, 0, state)[None]
        if self.num_values == 5:
            return obs, jnp.where(done, 0, state), state, done, {}
        return obs, jnp.where(done, 0, state), state, done, jnp.bool_(False), info

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-10.0, 10.0, (1,))


class OldStyleWalk(DuckWalk):
    name = "old-style-walk"
    num_values = 5


def test_gymnax_style_needs_no_base_class():
    env = trpo_jax.make_env(DuckWalk())
    assert "duckwalk" in env.name.lower()
    steps = play(env, action=1, num_steps=3)
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])


class PlainWalk:
    """Spaces as plain attributes, and parameters that have no defaults."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-10.0, 10.0, (1,))
    reset, step, num_values = DuckWalk.reset, DuckWalk.step, 6


def test_gymnax_style_needs_neither_methods_for_spaces_nor_default_params():
    env = trpo_jax.make_env(PlainWalk(), env_params=WalkParams(stride=2.0))
    np.testing.assert_array_equal(play(env, action=1, num_steps=2).obs[:, 0], [2, 4])
    for env_params in (None, {"stride": 2.0}):
        with pytest.raises(ValueError, match=r"env_params=.* of PlainWalk .*parameter object"):
            trpo_jax.make_env(PlainWalk(), env_params=env_params)


def test_five_values_a_step_are_refused():
    with pytest.raises(ValueError, match="final_observation"):
        step_once(trpo_jax.make_env(OldStyleWalk()), jax.random.key(0), 1)


class DictObservation(Walk):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return {"position": obs}, state

    def step_env(self, key, state, action, params):
        obs, *rest = super().step_env(key, state, action, params)
        return {"position": obs}, *rest

    def observation_space(self, params=None):
        return spaces.Dict({"position": spaces.Box(-10.0, 10.0, (1,))})


class DictAction(Walk):
    def action_space(self, params=None):
        return spaces.Dict({"move": spaces.Discrete(2)})


class TupleAction(Walk):
    def step_env(self, key, state, action, params):
        direction, size = action
        moved = state.replace(position=state.position + direction * size)
        return moved.position[None], moved, moved.position, moved.position < 0, {}

    def action_space(self, params=None):
        return spaces.Tuple([spaces.Discrete(2), spaces.Discrete(4)])


def test_dictionary_observations_come_as_trees():
    env = trpo_jax.make_env(DictObservation())
    assert env.obs_shape == {"position": (1,)}
    assert trpo_jax.make_trpo(env).policy is not None  # it keeps its promises
    steps = play(env, action=1, num_steps=3)
    np.testing.assert_array_equal(steps.obs["position"][:, 0], [1, 2, 3])
    np.testing.assert_array_equal(steps.terminated, [False, False, True])


def test_other_action_spaces_are_refused():
    with pytest.raises(ValueError, match=r"action space.*DictAction is not supported"):
        trpo_jax.make_env(DictAction())


def test_a_tuple_of_choices_is_multi_discrete():
    env = trpo_jax.make_env(TupleAction())
    assert env.action_space == trpo_jax.MultiDiscrete((2, 4))
    np.testing.assert_array_equal(play(env, [1, 3], 2).obs[:, 0], [3, 6])
