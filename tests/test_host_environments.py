"""Environments that step on the host: Gymnasium and EnvPool behind the agent's functions."""

import ctypes.util

import envpool
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import LENGTH, Counting, Hurt, Masked, Odd, Rich
from gymnasium import spaces
from PIL import Image

import trpo_jax
from trpo_jax import Discrete, MultiDiscrete, Observation, TRPOConfig, make_env, make_trpo
from trpo_jax.envs.host import EnvironmentFailed
from trpo_jax.experiments import render

CONFIG = TRPOConfig(num_envs=3, num_steps=16, hidden_sizes=(8,), value_epochs=1)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def counting():
    return make_trpo(make_env(Counting), CONFIG)


def require_true_transitions(trajectory, *, first=None):
    """Every transition of a counting environment is one, and they follow each other."""
    obs, after = np.asarray(trajectory.obs), np.asarray(trajectory.next_obs)
    identity, episode, time = np.moveaxis(obs, -1, 0)
    done = np.asarray(trajectory.terminated | trajectory.truncated)
    assert np.all(trajectory.valid)
    np.testing.assert_array_equal(after[..., 0], identity)
    np.testing.assert_array_equal(after[..., 1], episode)
    np.testing.assert_array_equal(after[..., 2], time + 1)
    np.testing.assert_array_equal(trajectory.reward, time + 1)
    np.testing.assert_array_equal(done, after[..., 2] == LENGTH + episode % 3)
    np.testing.assert_array_equal(trajectory.terminated, done & (episode % 2 == 0))
    np.testing.assert_array_equal(trajectory.episode_length, time + 1)
    np.testing.assert_array_equal(trajectory.episode_return, (time + 1) * (time + 2) / 2)
    np.testing.assert_array_equal(episode[1:], episode[:-1] + done[:-1])
    np.testing.assert_array_equal(time[1:], np.where(done[:-1], 0, time[:-1] + 1))
    if first is not None:
        np.testing.assert_array_equal(obs[0], first)


def test_every_row_is_a_transition_and_no_final_observation_is_lost(counting):
    state = counting.init(KEY)
    seen = set()
    for _ in range(3):
        before = np.asarray(state.actor.obs)
        state, trajectory = counting.rollout(state)
        require_true_transitions(trajectory, first=before)
        seen |= set(np.unique(trajectory.obs[..., 1]).tolist())
        state, metrics = counting.learn(state, trajectory)
        assert metrics.valid_fraction == 1
        assert not metrics.alarms.invalid_data
    assert len(seen) > 5
    assert len(set(np.asarray(state.actor.obs)[:, 0].tolist())) == CONFIG.num_envs


def test_update_is_rollout_and_learn(counting):
    first, metrics = counting.update(counting.init(KEY))
    state, trajectory = counting.rollout(counting.init(KEY))
    second, same = counting.learn(state, trajectory)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(*map(_numbers, (one, other)), rtol=2e-5, atol=1e-6)
    assert metrics.accepted == same.accepted
    assert metrics.on_policy_gap < 1e-5


def _numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_the_same_key_gives_the_same_history(counting):
    histories = []
    for _ in range(2):
        state, history = counting.train(counting.init(KEY), num_updates=3)
        histories.append((state, history))
    for one, other in zip(*map(jax.tree.leaves, histories), strict=True):
        np.testing.assert_array_equal(_numbers(one), _numbers(other))
    assert histories[0][1].kl.shape == (3,)


def test_several_seeds_are_single_runs_side_by_side(counting):
    keys = jax.random.split(KEY, 2)
    states = counting.init(keys)
    states, trajectories = counting.rollout(states)
    for lane, key in enumerate(keys):
        state, alone = counting.rollout(counting.init(key))
        lane_of = jax.tree.map(lambda leaf, lane=lane: leaf[lane], (states, trajectories))
        require_true_transitions(alone)
        for one, other in zip(*map(jax.tree.leaves, (lane_of, (state, alone))), strict=True):
            np.testing.assert_allclose(*map(_numbers, (one, other)), rtol=1e-5, atol=1e-6)
    obs = trajectories.obs[0, 0]
    with pytest.raises(
        ValueError, match=r"state.key has shape \(2,\), and act takes .* of one seed"
    ):
        counting.act(states, KEY, obs)
    assert counting.act(jax.tree.map(lambda leaf: leaf[1], states), KEY, obs).shape == (3,)
    hparams = trpo_jax.HParams(max_kl=np.array([0.01, 1e-6]))
    _, metrics = counting.update(states, hparams)
    assert metrics.kl.shape == (2,)
    assert metrics.kl[1] <= 1e-6 < metrics.kl[0] <= 0.01


def test_simulators_serve_only_the_state_whose_history_they_share(counting):
    start = counting.init(KEY)
    once, _ = counting.update(start)
    twice, _ = counting.update(once)
    # An older state again: its simulators have gone on, so episodes begin anew.
    _, again = counting.rollout(once)
    require_true_transitions(again)
    assert np.all(again.obs[0, :, 2] == 0)
    # The newest state still has its own.
    _, newest = counting.rollout(twice)
    require_true_transitions(newest, first=np.asarray(twice.actor.obs))
    # Two runs in turn keep theirs.
    one, other = counting.init(jax.random.key(8)), counting.init(jax.random.key(9))
    for _ in range(2):
        before = np.asarray(one.actor.obs)
        one, first = counting.rollout(one)
        other, second = counting.rollout(other)
        require_true_transitions(first, first=before)
        require_true_transitions(second)
    # The same key again: the state of before is no longer that of the simulators.
    old, _ = counting.update(counting.init(KEY), trpo_jax.HParams(max_kl=0.2))
    new, _ = counting.update(counting.init(KEY), trpo_jax.HParams(max_kl=1e-4))
    old, _ = counting.rollout(old)
    new, trajectory = counting.rollout(new)
    require_true_transitions(trajectory)
    _, trajectory = counting.rollout(old)
    require_true_transitions(trajectory)


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5"])
def test_gymnasium_driven_by_hand_gives_the_same(name):
    agent = make_trpo(make_env(f"gymnasium/{name}"), CONFIG.replace(num_steps=48, num_envs=2))
    state = agent.init(KEY)
    seeds = _seeds_of(agent, KEY)
    end, trajectory = agent.rollout(state)
    chosen = np.asarray(_env_actions(agent, trajectory))
    for n, seed in enumerate(seeds):
        env = gymnasium.make(name)
        obs, _ = env.reset(seed=int(seed))
        for t in range(48):
            np.testing.assert_allclose(trajectory.obs[t, n], obs, rtol=1e-6, atol=1e-6)
            obs, reward, terminated, truncated, _ = env.step(chosen[t, n])
            np.testing.assert_allclose(trajectory.next_obs[t, n], obs, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(trajectory.reward[t, n], reward, rtol=1e-6)
            assert bool(trajectory.terminated[t, n]) == terminated
            if terminated or truncated:
                obs, _ = env.reset()
        np.testing.assert_allclose(end.actor.obs[n], obs, rtol=1e-6, atol=1e-6)
    assert np.any(trajectory.terminated)


def _seeds_of(agent, key):
    """The seeds that `init` draws, by its documented rule."""
    from trpo_jax.learner.host_rollout import draw_seeds

    return np.asarray(draw_seeds(jax.random.split(key, 4)[3], agent.parts.config.num_envs))


def _env_actions(agent, trajectory):
    space = agent.parts.env.action_space
    if isinstance(space, Discrete):
        return trajectory.action
    return space.from_policy(trajectory.action, agent.parts.config.action_bounds)


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v4"])
def test_envpool_driven_by_hand_gives_the_same(name):
    """Its own loop resets in the step after an end, which ignores its action."""
    agent = make_trpo(make_env(f"envpool/{name}"), CONFIG.replace(num_steps=48, num_envs=2))
    _, trajectory = agent.rollout(agent.init(KEY))
    chosen = np.asarray(_env_actions(agent, trajectory))
    for n, seed in enumerate(_seeds_of(agent, KEY)):
        pool = envpool.make(name, env_type="gymnasium", num_envs=1, seed=[int(seed)])
        obs, _ = pool.reset()
        for t in range(48):
            np.testing.assert_allclose(trajectory.obs[t, n], obs[0], rtol=1e-6, atol=1e-6)
            action = chosen[None, t, n].astype(pool.action_space.dtype)
            obs, reward, terminated, truncated, _ = pool.step(action)
            np.testing.assert_allclose(trajectory.next_obs[t, n], obs[0], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(trajectory.reward[t, n], reward[0], rtol=1e-6)
            assert bool(trajectory.terminated[t, n]) == terminated[0]
            if terminated[0] or truncated[0]:
                obs, *_ = pool.step(action)
    assert np.any(trajectory.terminated)


def test_time_limits_truncate():
    for env_id in ("gymnasium/Pendulum-v1", "envpool/Pendulum-v1"):
        env = make_env(env_id, episode_length=7)
        assert env.max_episode_steps == 7
        _, trajectory = make_trpo(env, CONFIG).rollout(make_trpo(env, CONFIG).init(KEY))
        wanted = np.arange(1, 17) % 7 == 0
        np.testing.assert_array_equal(trajectory.truncated, np.tile(wanted[:, None], 3))
        assert not np.any(trajectory.terminated)


def test_wrappers_change_what_the_host_returns():
    env = make_env(
        Counting,
        episode_length=6,
        action_repeat=2,
        observe=(1, 2),
        reward_scale=0.5,
        frame_stack=2,
    )
    assert env.obs_shape == (4,)
    assert env.max_episode_steps == 3
    agent = make_trpo(env, CONFIG)
    _, trajectory = agent.rollout(agent.init(KEY))
    obs = np.asarray(trajectory.obs[:, 0])
    # Episode 0 has 5 steps, episodes 1 and 2 are cut after 6 of their own 6 and 7.
    times = [0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2, 4]
    episodes = np.repeat([0, 1, 2, 3], 3)
    np.testing.assert_array_equal(obs[:12, 2], episodes)
    np.testing.assert_array_equal(obs[:12, 3], times)
    previous = [time if time == 0 else time - 2 for time in times]
    np.testing.assert_array_equal(obs[:12, 1], previous)
    rewards = [1.5, 3.5, 2.5, 1.5, 3.5, 5.5, 1.5, 3.5, 5.5]
    np.testing.assert_array_equal(trajectory.reward[:9, 0], rewards)
    ends = [(False, False), (False, False)]
    kinds = list(zip(*(np.asarray(x[:9, 0]).tolist() for x in _flags(trajectory)), strict=True))
    assert kinds == [
        *ends, (True, False), *ends, (False, True), *ends, (False, True)
    ]  # fmt: skip


def _flags(trajectory):
    return trajectory.terminated, trajectory.truncated


def test_spaces_of_every_kind():
    made = []

    def make():
        made.append(Rich())
        return made[-1]

    env = make_env(make, metrics=("height",))
    assert env.action_space == MultiDiscrete((3, 2, 2, 2, 4))
    agent = make_trpo(env, CONFIG)
    state = agent.init(KEY)
    state, trajectory = agent.rollout(state)
    assert trajectory.obs["image"].dtype == jnp.uint8
    time = np.arange(16) % 4
    np.testing.assert_array_equal(trajectory.obs["image"][:, 0, 0, 0, 0], time)
    one_hot, binary = trajectory.obs["pair"]
    np.testing.assert_array_equal(one_hot[:, 0], np.eye(3)[time % 3])
    np.testing.assert_array_equal(binary[:, 0, 1], time % 2)
    simulated = next(env for env in made if env.taken)
    first = np.asarray(trajectory.action[0, 0]).tolist()
    taken = simulated.taken[0]
    rebuilt = [taken["a"] + 1, *taken["b"][0], *(taken["b"][1] - np.array([1, 0]))]
    assert first == [int(choice) for choice in rebuilt]
    _, metrics = agent.learn(state, trajectory)
    assert metrics.accepted
    assert metrics.env_metrics["height"] == pytest.approx(np.mean([0.5, 1, 1.5, 2]))
    assert metrics.env_metrics_last["height"] == 2
    stats = agent.evaluate(state, KEY, num_episodes=5)
    np.testing.assert_allclose(stats.metrics["height"], np.full(5, 1.25))
    np.testing.assert_array_equal(stats.metrics_last["height"], np.full(5, 2))


def test_masks_in_info_are_obeyed():
    env = make_env(Masked)
    agent = make_trpo(env, CONFIG.replace(num_steps=24))
    state = agent.init(KEY)
    assert isinstance(state.actor.obs, Observation)
    state, metrics = agent.update(state)
    assert metrics.valid_fraction == 1
    assert metrics.entropy == 0
    obs = state.actor.obs
    np.testing.assert_array_equal(agent.act(state, KEY, obs), jnp.argmax(obs.action_mask, -1))
    assert np.all(agent.evaluate(state, KEY, num_episodes=3).returns == 20)
    assert make_env("gymnasium/Taxi-v4").masked


def test_what_is_not_finite_is_left_out_and_its_episode_restarted():
    for fault in ("nan reward", "nan obs"):
        agent = make_trpo(make_env(lambda fault=fault: Hurt(fault)), CONFIG)
        state, trajectory = agent.rollout(agent.init(KEY))
        invalid = ~np.asarray(trajectory.valid)
        assert invalid.sum() == CONFIG.num_envs
        assert np.all(np.asarray(trajectory.truncated)[invalid])
        t = int(np.flatnonzero(invalid[:, 0])[0])
        np.testing.assert_array_equal(trajectory.obs[t + 1, 0, 1:], [2, 0])
        state, metrics = agent.learn(state, trajectory)
        assert metrics.alarms.invalid_data
        for leaf in jax.tree.leaves((state.policy_params, state.value_params, state.actor.obs)):
            assert np.all(np.isfinite(leaf))


def test_an_environment_that_raises_ends_the_run_in_one_line(tmp_path):
    agent = make_trpo(make_env(lambda: Hurt("raise")), CONFIG.replace(num_steps=4))
    with pytest.raises(EnvironmentFailed, match=r"step of Hurt raised RuntimeError: the simulator"):
        trpo_jax.train_run(agent, tmp_path / "run", total_steps=1200, quiet=True)
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert "1" in saved
    assert "the simulator is broken" in (tmp_path / "run" / "status.json").read_text()


def test_a_run_continues_with_new_episodes(counting, tmp_path):
    first = trpo_jax.train_run(counting, tmp_path / "run", total_steps=96, num_seeds=2, quiet=True)
    assert first.state.num_updates.tolist() == [2, 2]
    more = trpo_jax.train_run(
        counting, tmp_path / "run", total_steps=192, num_seeds=2, resume=True, quiet=True
    )
    assert more.state.num_updates.tolist() == [4, 4]
    _, trajectories = counting.rollout(more.state)
    for lane in range(2):
        require_true_transitions(jax.tree.map(lambda leaf, lane=lane: leaf[lane], trajectories))


def test_evaluation_plays_every_episode_once(counting):
    """Simulator n plays its share one episode after the other; episode k has LENGTH + k mod 3
    steps and a return of their sum."""
    state = counting.init(KEY)
    stats = counting.evaluate(state, KEY, num_episodes=40)
    lengths = LENGTH + np.arange(40) // 16 % 3
    np.testing.assert_array_equal(stats.lengths, lengths)
    np.testing.assert_array_equal(stats.returns, lengths * (lengths + 1) / 2)
    cut = counting.evaluate(state, KEY, num_episodes=3, max_steps=2, deterministic=False)
    assert cut.lengths.tolist() == [2, 2, 2]
    several = counting.evaluate(counting.init(jax.random.split(KEY, 2)), KEY, num_episodes=5)
    assert several.returns.shape == (2, 5)


def test_sweep(counting):
    result = trpo_jax.sweep(
        counting.parts.env,
        CONFIG,
        {"max_kl": [0.01, 1e-5]},
        num_updates=2,
        seeds=(0, 1),
        num_episodes=3,
    )
    kl = result.parts[0].history.kl
    assert kl.shape == (4, 2)
    assert np.all(kl[2:] <= 1e-5)
    assert np.any(kl[:2] > 1e-5)
    assert result.returns.shape == (4,)


@pytest.mark.parametrize("function", ["init", "update", "train", "rollout", "evaluate"])
def test_tracing_is_refused_in_one_line(counting, function):
    state = counting.init(KEY)
    calls = {
        "init": lambda: jax.vmap(counting.init)(jax.random.split(KEY, 2)),
        "update": lambda: jax.jit(counting.update)(state),
        "train": lambda: jax.jit(counting.train)(state),
        "rollout": lambda: jax.jit(counting.rollout)(state),
        "evaluate": lambda: jax.jit(counting.evaluate)(state, KEY),
    }
    with pytest.raises(ValueError, match=rf"{function} of an agent in Counting .* on the host"):
        calls[function]()
    with pytest.raises(ValueError, match="Counting steps on the host"):
        trpo_jax.rollout(state, env=counting.parts.env, policy=counting.policy, config=CONFIG)


class _Unusual(Counting):
    def __init__(self, **spaces_of_it):
        super().__init__()
        vars(self).update(spaces_of_it)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _Unusual(observation_space=spaces.Text(5)), r"observation space Text.* of _Unus"),
        (
            lambda: _Unusual(
                action_space=spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,))))
            ),
            r"action space Box.* of _Unusual is not supported",
        ),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), "pass the single environment"),
    ],
)
def test_bad_functions(make, message):
    with pytest.raises(ValueError, match=message):
        make_env(make)


def test_bad_objects_and_ids():
    with pytest.raises(ValueError, match="has no spec, and one object cannot become several"):
        make_env(Counting())
    with pytest.raises(ValueError, match="pass the single environment"):
        make_env(gymnasium.make_vec("CartPole-v1", 2))
    with pytest.raises(ValueError, match="wrapped in Autoreset"):
        make_env(gymnasium.wrappers.Autoreset(gymnasium.make("CartPole-v1")))
    with pytest.raises(ValueError, match=r"does not take .*nonsense"):
        make_env("gymnasium/CartPole-v1", nonsense=3)
    with pytest.raises(ValueError, match=r"cannot be made with .*nonsense"):
        make_env("envpool/CartPole-v1", nonsense=3)
    simulators = make_env(Rich, metrics=("heigth",)).simulators(np.arange(2))
    simulators.reset()
    with pytest.raises(ValueError, match="info of Rich has no such entry; it has height, note"):
        simulators.step(np.zeros((2, 5), np.int32))
    with pytest.raises(ValueError, match="randomize"):
        make_env("gymnasium/CartPole-v1", randomize=lambda key, params: params)


def stepped(env, actions=None):
    """Two simulators after a step."""
    simulators = env.simulators(np.arange(2))
    simulators.reset()
    return simulators.step(np.zeros(2, np.int32) if actions is None else actions)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            {"obs": np.zeros(1)},
            r"observation of shape \(1,\); its observation_space announces \(3,",
        ),
        ({"obs": np.zeros(3, complex)}, "observation of complex128"),
        ({"reward": np.zeros(2)}, r"returned reward=array\(\[0., 0.\]\); it must be one number"),
    ],
)
def test_what_differs_from_its_space_is_refused(odd, message):
    with pytest.raises(EnvironmentFailed, match=message):
        stepped(make_env(lambda: Odd(**odd)))


def test_what_is_only_a_little_odd_is_taken():
    assert stepped(make_env(lambda: Odd(reward=np.array([2])))).reward.tolist() == [2, 2]
    tight = spaces.Box(-0.1, 0.1, (1,), np.float64)  # float32(0.1) lies outside
    env = make_env(lambda: Odd(action_space=tight))
    stepped(env, env.action_space.from_policy(jnp.full((2, 1), 9.0), "clip"))
    whole = make_env(lambda: Odd(action_space=spaces.Box(-5, 5, (1,), np.int64)))
    assert [int(x[0]) for x in whole.decode(np.array([[1.6], [-1.6], [9.0]]))] == [2, -2, 5]
    several = spaces.MultiDiscrete([2, 3])
    mask = (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8))
    env = make_env(lambda: Odd(action_space=several, mask=mask))
    np.testing.assert_array_equal(
        stepped(env, np.zeros((2, 2), np.int32)).obs.action_mask, [[1, 0, 0, 1, 1]] * 2
    )


def test_one_object_is_not_several():
    one = Counting()
    with pytest.raises(EnvironmentFailed, match="returned the same object twice"):
        make_env(lambda: one).simulators(np.arange(2))


def test_a_function_without_render_mode_gets_a_plot(tmp_path, counting):
    agent = make_trpo(make_env(lambda: Odd()), CONFIG)
    file = render.render(agent.parts.env, agent, agent.init(KEY), tmp_path / "x", key=KEY)
    assert file.suffix == ".png"


class _OldStyle(Counting):
    def reset(self):
        return np.zeros(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_env(_OldStyle), r"reset of _OldStyle raised TypeError.*must take seed="),
        (lambda: make_env("gymnasium/FrozenLake-v1", map_name="9x9"), "map_name.*KeyError"),
        (lambda: make_env("gymnasium/CartPole-v1", metrics=3), "metrics=3 must be names"),
        (lambda: make_env("envpool/CartPole-v1", batch_size=1), "batch_size=1 of CartPole-v1"),
        (lambda: make_env("envpool/CartPole-v1", num_envs=4), "num_envs=4 of CartPole-v1"),
    ],
)
def test_bad_keywords_and_resets(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_object_is_the_recipe_for_several():
    made = gymnasium.make("CartPole-v1", max_episode_steps=9)
    env = make_env(made)
    assert env.max_episode_steps == 9
    agent = make_trpo(env, CONFIG)
    _, trajectory = agent.rollout(agent.init(KEY))
    assert np.all(trajectory.truncated[8])


def test_pictures(tmp_path, monkeypatch):
    """A GIF where EGL is there, and else one line that says what is missing."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    agent = make_trpo(make_env("gymnasium/Hopper-v5", frame_stack=2), CONFIG)
    state, out = agent.init(KEY), tmp_path / "episode"
    if ctypes.util.find_library("EGL") is None:
        with pytest.raises(ValueError, match="MuJoCo needs EGL, in Debian libegl1"):
            render.render(agent.parts.env, agent, state, out, key=KEY, max_frames=3)
        return
    file = render.render(agent.parts.env, agent, state, out, key=KEY, max_frames=3)
    with Image.open(file) as picture:
        assert (file.suffix, picture.n_frames) == (".gif", 3)
        assert np.ptp(np.asarray(picture.convert("RGB"))) > 100
    plain = make_trpo(make_env("envpool/CartPole-v1"), CONFIG)
    assert render.render(plain.parts.env, plain, plain.init(KEY), out, key=KEY).suffix == ".png"
