"""Every environment looks the same from the learner's side, wherever it comes from."""

import inspect
import textwrap
from typing import ClassVar

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs
from brax.envs.base import Env as BraxEnv
from brax.envs.base import State as BraxState
from brax.envs.wrappers import training as brax_wrappers
from flax import struct
from gymnax.environments import environment as gymnax_base
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

import trpo_jax
from trpo_jax.envs.base import reset_batch, step_batch

SAMPLE = [
    "CartPole-v1",  # discrete actions
    "Pendulum-v1",  # continuous actions
    "FrozenLake-misc",  # discrete observations
    "PointRobot-misc",  # time is a float
    "Breakout-MinAtar",  # images
]
SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(16,))
N = 3


def random_actions(key, space, shape):
    if isinstance(space, trpo_jax.Discrete):
        return jax.random.randint(key, shape, 0, space.num_actions)
    return space.from_policy(jax.random.normal(key, (*shape, space.num_dimensions)), "clip")


def step_once(env, key, action):
    states, _ = reset_batch(env, jax.random.split(key, 1))
    action = jnp.asarray(action)[None]
    return step_batch(env, jax.random.split(key, 1), states, action)


def play(env, action, num_steps, key=0):
    """One environment under one action, without reset: EnvSteps stacked over time."""
    states, _ = reset_batch(env, jax.random.split(jax.random.key(key), 1))
    keys = jax.random.split(jax.random.key(key + 1), (num_steps, 1))
    action = jnp.asarray(action)[None]

    def advance(carried, step_keys):
        return step_batch(env, step_keys, carried, action)

    _, steps = jax.lax.scan(advance, states, keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), steps)


# gymnax


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


@pytest.mark.parametrize("env_id", ["MNISTBandit-bsuite", "gymnax/MNISTBandit-bsuite"])
def test_mnist_is_refused_with_its_reason(env_id):
    with pytest.raises(ValueError, match="download"):
        trpo_jax.make_env(env_id)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("cartpole-v1", "CartPole-v1"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("gymnax/CartPol-v1", "CartPole-v1"),
        ("brax/hoper", "hopper"),
        ("half_cheetah", "halfcheetah"),
    ],
)
def test_unknown_ids_suggest_near_matches(wrong, right):
    with pytest.raises(ValueError, match=right):
        trpo_jax.make_env(wrong)


def test_an_unknown_suite_is_the_callers_mistake():
    with pytest.raises(ValueError, match="unknown environment"):
        trpo_jax.make_env("atari/Pong-v5")


def test_unknown_keywords_are_the_callers_mistake():
    with pytest.raises(ValueError, match="backend"):
        trpo_jax.make_env("CartPole-v1", backend="spring")
    with pytest.raises(ValueError, match="bullet"):
        trpo_jax.make_env("brax/hopper", backend="bullet")


def test_make_env_twice_returns_the_same_object():
    assert trpo_jax.make_env("CartPole-v1") is trpo_jax.make_env("CartPole-v1")
    assert trpo_jax.make_env("brax/fast", episode_length=7) is trpo_jax.make_env(
        "brax/fast", episode_length=7
    )
    made = trpo_jax.make_env("CartPole-v1")
    assert trpo_jax.make_env(made) is made


def test_the_same_env_params_return_the_same_object():
    _, params = gymnax.make("CartPole-v1")
    by_object = [trpo_jax.make_env("CartPole-v1", env_params=params) for _ in range(2)]
    assert by_object[0] is by_object[1]


def test_every_listed_id_has_its_suite_and_mnist_is_not_among_them():
    listed = trpo_jax.list_environments()
    assert "gymnax/CartPole-v1" in listed
    assert "brax/hopper" in listed
    assert len(listed) == len(set(listed)) == 25 + 12
    assert not any("MNIST" in env_id for env_id in listed)


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


def test_dictionary_observations_are_refused():
    with pytest.raises(ValueError, match="observations of DictObservation"):
        trpo_jax.make_env(DictObservation())


def test_other_action_spaces_are_refused():
    with pytest.raises(ValueError, match=r"action space.*DictAction is not supported"):
        trpo_jax.make_env(DictAction())


def test_a_tuple_of_choices_is_multi_discrete():
    env = trpo_jax.make_env(TupleAction())
    assert env.action_space == trpo_jax.MultiDiscrete((2, 4))
    np.testing.assert_array_equal(play(env, [1, 3], 2).obs[:, 0], [3, 6])


@pytest.mark.parametrize("thing", [None, 3, object(), {"reset": 1}])
def test_what_is_no_environment_is_refused(thing):
    with pytest.raises(ValueError, match="neither"):
        trpo_jax.make_env(thing)


def test_gymnaxs_pair_and_classes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"make_env\(env, env_params=params\)"):
        trpo_jax.make_env(gymnax.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"make_env\(Walk\(\)\)"):
        trpo_jax.make_env(Walk)


# brax


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


def test_dictionary_observations_of_brax_are_refused():
    with pytest.raises(ValueError, match="dictionary"):
        trpo_jax.make_env("brax/fast", obs_mode="dict_state")


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


# Action boxes


def test_clip_maps_the_unit_interval_onto_the_bounds():
    box = trpo_jax.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), (2,))
    actions = jnp.array([[-5.0, -5.0], [-1.0, -1.0], [0.0, 0.5], [1.0, 1.0], [7.0, 7.0]])
    expected = [[-2, 0], [-2, 0], [0, 7.5], [2, 10], [2, 10]]
    np.testing.assert_allclose(box.from_policy(actions, "clip"), expected)


def test_tanh_squashes_into_the_bounds():
    box = trpo_jax.Box(-2.0, 4.0, (1,))
    actions = jnp.array([[-30.0], [0.0], [0.5], [30.0]])
    expected = 1 + 3 * np.tanh([[-30.0], [0.0], [0.5], [30.0]])
    np.testing.assert_allclose(box.from_policy(actions, "tanh"), expected, rtol=1e-6)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_infinite_bounds_leave_the_action(bounds):
    low, high = np.array([-np.inf, 0.0, -1.0]), np.array([np.inf, np.inf, 3.0])
    box = trpo_jax.Box(low, high, (3,))
    action = box.from_policy(jnp.array([[50.0, -4.0, 50.0], [-7.0, 6.0, 0.0]]), bounds)
    expected = [[50, 0, 3], [-7, 6, 1]]
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    assert np.isfinite(action).all()


def test_boxes_have_any_shape():
    box = trpo_jax.Box(-1.0, 1.0, (2, 3))
    action = box.from_policy(jnp.arange(12.0).reshape(2, 6) / 12, "clip")
    assert box.num_dimensions == 6
    assert action.shape == (2, 2, 3)
    np.testing.assert_allclose(action.reshape(2, 6), np.arange(12.0).reshape(2, 6) / 12, rtol=1e-5)


# Environments of the user's own


def documented_corridor() -> type:
    """The class that stands in the docstring of `Environment`."""
    lines = inspect.getdoc(trpo_jax.Environment).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("class Corridor"))
    end = next(i for i in range(start, len(lines)) if lines[i] and lines[i][0] != " ")
    names = {name: getattr(trpo_jax, name) for name in ("Environment", "Discrete", "EnvStep")}
    scope = {**names, "jnp": jnp}
    exec(textwrap.dedent("\n".join(lines[start:end])), scope)
    return scope["Corridor"]


def test_the_documented_example_trains():
    agent = trpo_jax.make_trpo(documented_corridor()(), SMALL.replace(num_steps=32))
    state = agent.init(jax.random.key(0))
    hparams = trpo_jax.HParams(max_kl=0.05, value_learning_rate=1e-2)
    state, _ = agent.train(state, hparams, num_updates=60)
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=16)
    np.testing.assert_array_equal(stats.returns, 1)
    np.testing.assert_array_equal(stats.lengths, 4)


class ChangesItsMind(trpo_jax.Environment):
    """Its state is an integer after reset and a float after step."""

    name = "changes-its-mind"
    obs_shape = (1,)
    action_space = trpo_jax.Discrete(2)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, key, state, action):
        over = jnp.bool_(False)
        return state + 0.5, trpo_jax.EnvStep(jnp.zeros(1), jnp.float32(0), over, over)


def test_a_state_that_changes_its_type_is_refused():
    with pytest.raises(ValueError, match=r"int32.*after reset.*float32.*after step"):
        step_once(ChangesItsMind(), jax.random.key(0), 1)


class Spoilt(trpo_jax.Environment):
    """Fine, until attributes or what its functions return are replaced."""

    name = "spoilt"
    obs_shape = (1,)
    action_space = trpo_jax.Discrete(2)
    begun = ({"time": 0}, np.zeros(1))
    fields: ClassVar = {}

    def reset(self, key):
        return self.begun

    def step(self, key, state, action):
        step = trpo_jax.EnvStep(jnp.zeros(1), 1.0, False, state["time"][None][0] > 4)
        return self.returned({"time": state["time"] + 1}, step._replace(**self.fields))

    def returned(self, state, step):
        return state, step


def spoilt(**attributes):
    return type("Spoilt", (Spoilt,), attributes)()


ONE = np.zeros(1)
BOX_OF_ONE_NUMBER = trpo_jax.Box(-1, 1, ())


def test_the_environment_to_be_spoilt_trains():
    for fields in ({}, {"reward": 1}, {"reward": np.float64(1)}, {"terminated": jnp.float32(0)}):
        agent = trpo_jax.make_trpo(spoilt(fields=fields, action_space=BOX_OF_ONE_NUMBER), SMALL)
        assert agent.rollout(agent.init(jax.random.key(0)))[1].reward.shape == (16, 4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reward": ONE}, r"reward of shape \(1,\); a scalar"),
        ({"terminated": ONE > 0}, r"terminated of shape \(1,\); a scalar"),
        ({"truncated": ONE > 0}, r"truncated of shape \(1,\); a scalar"),
        ({"truncated": None}, "truncated=None; a scalar"),
        ({"reward": "much"}, "reward='much'"),
        ({"reward": 1j}, "reward=1j.*real"),
        ({"obs": [0.0]}, r"observations=\[0.0\]; one array"),
        ({"obs": {"a": ONE}}, "observations={'a'.*one array"),
        ({"obs": ONE * 1j}, r"observations=array.*j\]\).*real"),
    ],
)
def test_what_a_step_says_is_checked_before_anything_runs(fields, words):
    with pytest.raises(ValueError, match=rf"step of spoilt returns .*{words}"):
        trpo_jax.make_trpo(spoilt(fields=fields), SMALL)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"begun": (1, 2, 3)}, r"must return \(state, obs\)"),
        ({"begun": (ONE, {"time": 0})}, "reset .* observations={'time': 0}; one array"),
        ({"begun": ({"time": "late"}, ONE)}, "not a tree of arrays"),
        ({"returned": lambda _, state, step: (state, {}, step)}, r"must return \(state, .*EnvStep"),
        ({"returned": lambda _, state, step: ({"time": 0.5}, step)}, "int32.*after reset.*float32"),
        ({"max_episode_steps": 5.0}, r"max_episode_steps of spoilt=5.0 must be a whole number"),
        ({"obs_shape": ("1",)}, r"obs_shape=\('1',\) of spoilt must be"),
    ],
)
def test_what_is_wrong_with_an_environment_is_said(attributes, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(spoilt(**attributes), SMALL)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (trpo_jax.Discrete(2.0), r"num_actions=2.0\) of spoilt must be counted"),
        (trpo_jax.Discrete("a"), r"num_actions='a'\) of spoilt must be counted"),
        (trpo_jax.MultiDiscrete(3), r"num_categories=3\) of spoilt must be counted"),
        (trpo_jax.MultiDiscrete((2.0, 3)), r"\(2.0, 3\)\) of spoilt must be counted"),
        (trpo_jax.Box(-1, 1, 3), r"shape=3\) of spoilt must be counted"),
        (trpo_jax.Box(None, None, (3,)), "low=None.*bounds"),
        (trpo_jax.Box("a", "b", (3,)), "low='a'.*bounds"),
        (trpo_jax.Box(-1, 1j, (3,)), "high=1j.*bounds"),
    ],
)
def test_action_spaces_are_counted_in_whole_numbers_between_real_bounds(space, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(spoilt(action_space=space), SMALL)


@pytest.mark.parametrize("attribute", ["name", "obs_shape", "action_space"])
def test_an_attribute_that_is_missing_is_named(attribute):
    class Bare(trpo_jax.Environment):
        reset, step = Spoilt.reset, Spoilt.step

    for other in {"name", "obs_shape", "action_space"} - {attribute}:
        setattr(Bare, other, getattr(Spoilt, other))
    with pytest.raises(ValueError, match=f"Bare has no {attribute}"):
        trpo_jax.make_trpo(Bare(), SMALL)
