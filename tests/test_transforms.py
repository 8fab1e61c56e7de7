"""Transforms of environments, against episodes computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.wrappers import training as brax_wrappers
from playing import play
from test_brax import Counter

import trpo_jax
from trpo_jax import Box, Discrete, Environment, EnvStep, Observation
from trpo_jax.envs.base import observation_spec, reset_batch, step_batch
from trpo_jax.envs.transforms import FrameStack, Observe, RewardScale, TimeLimit
from trpo_jax.envs.wrappers import Transformed, innermost, innermost_state, transformed

SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,))


class Ruler(Environment):
    """Shows [t, t + 100, t + 200], pays t, measures t, and terminates at `end`."""

    name = "ruler"
    obs_shape = (3,)
    action_space = Box(-1.0, 1.0, (1,))

    def __init__(self, end=9, limit=None):
        self.end, self.max_episode_steps = end, limit

    def show(self, time):
        return jnp.float32(time) + jnp.asarray([0.0, 100.0, 200.0])

    def reset(self, key):
        return jnp.int32(0), self.show(0)

    def step(self, key, state, action):
        time = state + 1
        limit = self.max_episode_steps or 10_000
        measured = {"time": jnp.float32(time)}
        return time, EnvStep(
            self.show(time), jnp.float32(time), time >= self.end, time >= limit, measured
        )


class Roles(Ruler):
    """As `Ruler`, with a part for the critic and a mask."""

    action_space = Discrete(2)

    def show(self, time):
        both = jnp.asarray([True, True])
        return Observation(super().show(time), super().show(time)[:1] + 0.5, both)


class Pictures(Ruler):
    """Images of the time, uint8 in a dictionary beside a number and an image without channels."""

    def __init__(self):
        super().__init__()
        self.obs_shape = {"image": (2, 2, 3), "gray": (2, 2), "number": ()}

    def show(self, time):
        image = jnp.broadcast_to(10 * time + jnp.arange(3), (2, 2, 3))
        return {
            "image": jnp.asarray(image, jnp.uint8),
            "gray": jnp.full((2, 2), time, jnp.uint8),
            "number": jnp.float32(time),
        }


def test_a_time_limit_truncates_unless_the_episode_terminates():
    steps = play(transformed(Ruler(), episode_length=4), [0.0], 4)
    np.testing.assert_array_equal(steps.truncated, [False, False, False, True])
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.obs[:, 0], [1, 2, 3, 4])
    both = play(transformed(Ruler(end=4), episode_length=4), [0.0], 4)
    assert both.terminated[-1]
    assert not both.truncated[-1]


def test_the_smaller_of_two_limits_holds():
    assert transformed(Ruler(limit=3), episode_length=5).max_episode_steps == 3
    assert transformed(Ruler(limit=5), episode_length=3).max_episode_steps == 3
    assert transformed(Ruler(), episode_length=3).max_episode_steps == 3
    steps = play(transformed(Ruler(limit=3), episode_length=5), [0.0], 3)
    np.testing.assert_array_equal(steps.truncated, [False, False, True])


def test_an_action_is_repeated_until_the_episode_ends():
    env = transformed(Ruler(end=5), action_repeat=3)
    steps = play(env, [0.0], 2)
    np.testing.assert_array_equal(steps.obs[:, 0], [3, 5])
    np.testing.assert_array_equal(steps.reward, [1 + 2 + 3, 4 + 5])
    np.testing.assert_array_equal(steps.metrics["time"], [3, 5])
    np.testing.assert_array_equal(steps.terminated, [False, True])
    assert env.max_episode_steps is None
    cut = play(transformed(Ruler(limit=4), action_repeat=3), [0.0], 2)
    np.testing.assert_array_equal(cut.obs[:, 0], [3, 4])
    np.testing.assert_array_equal(cut.truncated, [False, True])


def test_episode_length_counts_steps_before_repetition():
    env = transformed(Ruler(end=20), episode_length=7, action_repeat=3)
    assert env.max_episode_steps == 3
    steps = play(env, [0.0], 3)
    np.testing.assert_array_equal(steps.truncated, [False, False, True])
    assert transformed(Ruler(limit=7), action_repeat=3).max_episode_steps == 3


def test_each_repetition_has_its_own_key():
    class Noise(Ruler):
        def step(self, key, state, action):
            state, step = super().step(key, state, action)
            return state, step._replace(reward=jax.random.uniform(key))

    env, key = transformed(Noise(), action_repeat=3), jax.random.key(5)
    _, step = env.step(key, jnp.int32(0), jnp.zeros(1))
    expected = sum(jax.random.uniform(one) for one in jax.random.split(key, 3))
    np.testing.assert_allclose(step.reward, expected, rtol=1e-6)


def test_coordinates_are_chosen_in_the_order_asked_for():
    env = transformed(Ruler(), observe=(2, 0))
    assert env.obs_shape == (2,)
    np.testing.assert_array_equal(
        reset_batch(env, jax.random.split(jax.random.key(0), 1))[1], [[200, 0]]
    )
    np.testing.assert_array_equal(play(env, [0.0], 2).obs, [[201, 1], [202, 2]])


def test_rewards_are_scaled():
    np.testing.assert_array_equal(
        play(transformed(Ruler(), reward_scale=-0.5), [0.0], 2).reward, [-0.5, -1]
    )


def test_frames_are_stacked_oldest_first_and_repeated_after_a_reset():
    env = transformed(Ruler(), frame_stack=3)
    assert env.obs_shape == (9,)
    _, first = reset_batch(env, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_array_equal(first, [[0, 100, 200] * 3])
    obs = play(env, [0.0], 4).obs
    for t, row in enumerate(obs, start=1):
        times = [max(t - 2, 0), max(t - 1, 0), t]
        np.testing.assert_array_equal(row, [s + c for s in times for c in (0, 100, 200)])


def test_images_are_stacked_along_their_channels_leaf_by_leaf():
    env = transformed(Pictures(), frame_stack=2)
    assert env.obs_shape == {"image": (2, 2, 6), "gray": (2, 2, 2), "number": (2,)}
    obs = play(env, [0.0], 3).obs
    assert obs["image"].dtype == obs["gray"].dtype == np.uint8
    np.testing.assert_array_equal(obs["image"][2, 0, 0], [20, 21, 22, 30, 31, 32])
    np.testing.assert_array_equal(obs["gray"][2, 1, 1], [2, 3])
    np.testing.assert_array_equal(obs["number"][2], [2, 3])
    spec = observation_spec(env)
    assert {name: leaf.shape for name, leaf in spec.items()} == env.obs_shape


def test_the_critics_part_and_the_mask_stay():
    obs = play(transformed(Roles(), observe=(1,), frame_stack=2), 0, 2).obs
    np.testing.assert_array_equal(obs.policy, [[100, 101], [101, 102]])
    np.testing.assert_array_equal(obs.critic, [[1.5], [2.5]])
    assert obs.action_mask.shape == (2, 2)


def test_a_stack_has_one_type_although_the_frames_have_two():
    class Rounded(Ruler):
        def reset(self, key):
            return jnp.int32(0), jnp.zeros(3, jnp.int32)

    obs = play(transformed(Rounded(), frame_stack=2), [0.0], 2).obs
    assert obs.dtype == np.float32
    np.testing.assert_array_equal(obs[0], [0, 0, 0, 1, 101, 201])


SETTINGS = {
    "episode_length": 8,
    "action_repeat": 2,
    "observe": (0, 2),
    "reward_scale": 0.1,
    "frame_stack": 2,
}


def test_all_together_are_what_a_loop_in_numpy_gives():
    """Also of environments in NumPy: the transforms alone, on rows that end at other times."""
    env = transformed(Ruler(end=7), **SETTINGS)
    assert (env.max_episode_steps, env.obs_shape) == (4, (4,))
    steps = play(env, [0.0], 4)
    shown, rewards = [0, 200], []
    for decision in range(4):
        times = [t for t in (2 * decision + 1, 2 * decision + 2) if t <= 7]
        rewards.append(0.1 * sum(times))
        shown += [times[-1], times[-1] + 200]
        np.testing.assert_array_equal(steps.obs[decision], shown[-4:])
    np.testing.assert_allclose(steps.reward, rewards, rtol=1e-6)
    np.testing.assert_array_equal(steps.terminated, [False, False, False, True])
    np.testing.assert_array_equal(steps.truncated, [False] * 4)


def test_transforms_of_several_environments_in_numpy():
    transforms = (TimeLimit(3), Observe((0, 2)), RewardScale(10.0), FrameStack(2))
    start = np.array([0.0, 50.0])
    obs = start[:, None] + np.array([0, 100, 200])
    memories = []
    for transform in transforms:
        memory, obs = transform.begin(obs, lead=(2,))
        memories.append(memory)
    np.testing.assert_array_equal(obs, [[0, 200, 0, 200], [50, 250, 50, 250]])
    for t in range(1, 4):
        step = EnvStep(
            (start + t)[:, None] + np.array([0, 100, 200]),
            np.array([1.0, 2.0]),
            np.array([False, t == 3]),
            np.array([False, t == 2]),
        )
        for index, transform in enumerate(transforms):
            memories[index], step = transform.after(memories[index], step)
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves((memories, step)))
        np.testing.assert_array_equal(step.obs[1], [49 + t, 249 + t, 50 + t, 250 + t])
        np.testing.assert_array_equal(step.reward, [10, 20])
        np.testing.assert_array_equal(step.truncated, [t == 3, t >= 2])
        np.testing.assert_array_equal(step.terminated, [False, t == 3])
    assert step.obs.dtype == np.float64


def test_frames_of_images_in_numpy():
    frames = FrameStack(3)
    obs = {"gray": np.ones((5, 2, 2), np.uint8), "number": np.zeros(5)}
    memory, first = frames.begin(obs, lead=(5,))
    assert first["gray"].shape == (5, 2, 2, 3)
    step = EnvStep({"gray": 4 * obs["gray"], "number": obs["number"] + 7}, *[np.zeros(5)] * 3)
    _, step = frames.after(memory, step)
    assert step.obs["gray"].dtype == np.uint8
    np.testing.assert_array_equal(step.obs["gray"][3, 1, 0], [1, 1, 4])
    np.testing.assert_array_equal(step.obs["number"][2], [0, 0, 7])


def test_under_jit_and_vmap_and_twice():
    env = transformed(Ruler(end=7), **SETTINGS)
    keys = jax.random.split(jax.random.key(0), 3)
    num_traces = []

    @jax.jit
    def both(keys):
        num_traces.append(1)
        states, obs = reset_batch(env, keys)
        return obs, step_batch(env, keys, states, jnp.zeros((3, 1)))[1]

    first, step = both(keys)
    both(keys[::-1])
    assert len(num_traces) == 1
    assert first.shape == step.obs.shape == (3, 4)
    state, obs = env.reset(keys[0])
    np.testing.assert_array_equal(first[0], obs)
    np.testing.assert_array_equal(step.obs[0], env.step(keys[0], state, jnp.zeros(1))[1].obs)


def test_a_transformed_environment_trains_on_its_episodes():
    env = transformed(trpo_jax.make_env("CartPole-v1"), **SETTINGS | {"reward_scale": 2.0})
    agent = trpo_jax.make_trpo(env, SMALL)
    state, history = agent.train(agent.init(jax.random.key(0)), trpo_jax.HParams(), num_updates=2)
    assert history.accepted.any()
    np.testing.assert_array_less(history.episode_length, 5)
    # Each step pays 1, each decision repeats 2 steps, each reward counts twice.
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=8)
    assert set(np.asarray(stats.lengths)) == {4}
    np.testing.assert_array_equal(stats.returns, 4 * 2 * 2)


def test_nothing_asked_for_is_the_environment_itself():
    env = Ruler()
    assert transformed(env) is env


def test_a_wrapper_is_hashable_and_names_what_is_inside():
    inner = trpo_jax.make_env("CartPole-v1")
    env = transformed(inner, episode_length=5, action_repeat=2, frame_stack=2)
    assert isinstance(env, Transformed)
    assert len({env, env, inner}) == 2
    assert env.unwrapped is inner.unwrapped
    assert env.name == inner.name
    assert innermost(env) is inner
    state, _ = env.reset(jax.random.key(0))
    expected, _ = inner.reset(jax.random.key(0))
    assert jax.tree.structure(innermost_state(env, state)) == jax.tree.structure(expected)


def test_an_environment_may_make_its_own_transforms():
    class Own(Ruler):
        def with_transforms(self, transforms, action_repeat):
            return transforms, action_repeat

    assert transformed(Own(), action_repeat=2, episode_length=5) == ((TimeLimit(3),), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episode_length": 0}, "episode_length=0 must be a whole number"),
        ({"episode_length": 2.5}, r"episode_length=2\.5 must"),
        ({"action_repeat": True}, "action_repeat=True must"),
        ({"frame_stack": 0}, "frame_stack=0 must"),
        ({"reward_scale": 0}, "reward_scale=0 must be a finite number other than 0"),
        ({"reward_scale": float("nan")}, "reward_scale=nan"),
        ({"reward_scale": "2"}, "reward_scale='2'"),
        ({"observe": (3,)}, r"observe=\(3,\) must be a tuple of whole numbers from 0 to 2"),
        ({"observe": (-1,)}, "observe="),
        ({"observe": ()}, "observe="),
        ({"observe": 1}, "observe=1"),
        ({"observe": (0.0,)}, "observe="),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        transformed(Ruler(), **settings)
    assert "\n" not in str(raised.value)


def test_coordinates_of_images_cannot_be_chosen():
    with pytest.raises(ValueError, match="chooses coordinates of one vector"):
        transformed(trpo_jax.make_env("Breakout-MinAtar"), observe=(0,))
    with pytest.raises(ValueError, match="chooses coordinates of one vector"):
        transformed(Pictures(), observe=(0,))


@pytest.mark.parametrize(("repeat", "limit"), [(1, 50), (4, 13)])
def test_the_limit_of_braxs_episode_wrapper_is_announced(repeat, limit):
    env = trpo_jax.make_env(brax_wrappers.EpisodeWrapper(Counter(), 50, repeat))
    assert env.max_episode_steps == limit
    shorter = trpo_jax.make_env(brax_wrappers.EpisodeWrapper(Counter(), 50, 1), episode_length=3)
    assert shorter.max_episode_steps == 3
    assert trpo_jax.make_env(Counter()).max_episode_steps == 1000


def test_episode_length_of_gymnax_is_its_own_parameter():
    for length in (4, 700):
        env = trpo_jax.make_env("gymnax/CartPole-v1", episode_length=length)
        assert env.max_episode_steps == env.params.max_steps_in_episode == length
    steps = play(trpo_jax.make_env("CartPole-v1", episode_length=4), 1, 4)
    np.testing.assert_array_equal(steps.truncated, [False, False, False, True])
