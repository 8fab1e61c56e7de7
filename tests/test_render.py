"""Episodes to watch: the episode is the environment's, and the file shows all of it."""

import base64
import json
import re
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from probe_envs import ConstantReward, Countdown

from trpo_jax import TRPOConfig, make_env, make_trpo
from trpo_jax.experiments import episodes, gymnax_pictures, render

KEY = jax.random.key(5)


def always(action):
    """An agent that needs no training."""
    return types.SimpleNamespace(
        initial_carry=lambda number: None,
        act=lambda state, key, obs, deterministic: jnp.broadcast_to(
            jnp.asarray(action), (obs.shape[0], *np.shape(action))
        ),
    )


@pytest.fixture(scope="module")
def cartpole():
    env = make_env("CartPole-v1")
    config = TRPOConfig(num_envs=2, num_steps=4, hidden_sizes=(8,), value_minibatch_size=8)
    agent = make_trpo(env, config)
    return env, agent, jax.jit(agent.init)(jax.random.key(1))


def test_an_episode_is_the_one_that_the_environment_gives(cartpole):
    """Its actions, played again step by step, lead to its observations, rewards and end."""
    env, agent, state = cartpole
    episode = episodes.play(env, agent, state, KEY)
    assert episode.ending == "terminated"
    assert 1 < episode.length < 500
    step = jax.jit(env.step)
    for t in range(episode.length):
        now = jax.tree.map(lambda leaf, t=t: leaf[t], episode.states)
        seen = [now.x, now.x_dot, now.theta, now.theta_dot]
        np.testing.assert_array_equal(episode.obs[t], seen)
        chosen = agent.act(state, KEY, episode.obs[t], deterministic=True)
        assert int(chosen) == episode.action[t]
        following, outcome = step(KEY, now, episode.action[t])
        assert outcome.reward == episode.reward[t]
        assert bool(outcome.terminated) == (t == episode.length - 1)
        expected = jax.tree.map(lambda leaf, t=t: leaf[t + 1], episode.states)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6),
            expected,
            following,
        )
    assert len(episode.states.x) == episode.length + 1


def test_the_key_decides_the_episode_and_the_policy_may_be_sampled(cartpole):
    env, agent, state = cartpole
    first = episodes.play(env, agent, state, KEY)
    again = episodes.play(env, agent, state, KEY)
    np.testing.assert_array_equal(first.obs, again.obs)
    other = episodes.play(env, agent, state, jax.random.key(6))
    assert not np.array_equal(first.obs[0], other.obs[0])
    sampled = episodes.play(env, agent, state, KEY, deterministic=False)
    np.testing.assert_array_equal(first.obs[0], sampled.obs[0])
    assert not np.array_equal(first.action[:8], sampled.action[:8])


def test_an_episode_ends_as_the_environment_says():
    cut = episodes.play(ConstantReward(limit=7), always(0), None, KEY)
    assert (cut.length, cut.ending) == (7, "truncated")
    over = episodes.play(Countdown(longest=4), always(0), None, KEY)
    assert (over.length, over.ending) == (4, "terminated")
    assert over.states.tolist() == [4, 3, 2, 1, 0]
    endless = Countdown(longest=episodes.DEFAULT_MAX_STEPS + 1)
    unfinished = episodes.play(endless, always(0), None, KEY)
    assert (unfinished.length, unfinished.ending) == (episodes.DEFAULT_MAX_STEPS, "cut")


@pytest.mark.parametrize("max_frames", [1, 2, 5, 11, 12, 200])
def test_frames_are_spread_evenly_from_the_first_state_to_the_last(max_frames):
    episode = episodes.Episode(None, np.zeros((10, 1)), np.zeros(10), np.ones(10), "cut")
    steps = episode.evenly(max_frames)
    assert len(steps) == len(set(steps)) == min(max_frames, 11)
    assert steps[0] == 0
    assert max_frames == 1 or steps[-1] == 10
    assert max_frames == 1 or max(np.diff(steps)) - min(np.diff(steps)) <= 1
    assert episode.caption(0) == "step 0, return 0.0"
    assert episode.caption(10) == "step 10, return 10.0"


def frames_of(file):
    with Image.open(file) as image:
        return [
            np.asarray(image.convert("RGB")) for i in range(image.n_frames) if not image.seek(i)
        ]


def test_classic_control_is_a_gif_that_moves(cartpole, tmp_path):
    pytest.importorskip("pygame")
    env, agent, state = cartpole
    drawn = []
    file = render.render(
        env,
        agent,
        state,
        tmp_path / "new" / "max-kl-0.01",
        key=KEY,
        max_frames=5,
        progress=lambda steps: (drawn.append(t) or t for t in steps),
    )
    assert file == tmp_path / "new" / "max-kl-0.01.gif"
    frames = frames_of(file)
    assert len(frames) == len(drawn) == 5
    below_the_caption = [frame[40:].tobytes() for frame in frames]
    assert len(set(below_the_caption)) >= 4  # the first two steps move it by half a pixel


def test_without_pygame_classic_control_is_a_plot(cartpole, tmp_path, monkeypatch):
    env, agent, state = cartpole
    monkeypatch.setattr(gymnax_pictures, "find_spec", lambda name: None)
    file = render.render(env, agent, state, tmp_path / "episode.gif", key=KEY)
    assert file == tmp_path / "episode.png"
    with Image.open(file) as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_gymnax_draws_what_it_can(tmp_path):
    """Catch lasts for nine steps, which are ten states; the ball falls in every one."""
    env = make_env("Catch-bsuite")
    file = render.render(env, always(0), None, tmp_path / "episode", key=KEY)
    frames = frames_of(file)
    assert len(frames) == 10
    below_the_title = {frame[60:].tobytes() for frame in frames}
    assert len(below_the_title) == 10


def test_other_environments_are_plotted(tmp_path):
    for longest in (4, 20):  # curves, and an image of many dimensions
        env = Countdown(longest)
        stem = tmp_path / f"episode-{longest}"
        file = render.render(env, always(0), None, stem, key=KEY)
        assert file.suffix == ".png"
        with Image.open(file) as image:
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_brax_is_a_page_with_every_body_in_every_state(tmp_path):
    env = make_env("brax/inverted_pendulum", backend="spring", episode_length=4)
    file = render.render(env, always([0.5]), None, tmp_path / "episode", key=KEY)
    assert file.suffix == ".html"
    system = embedded_system(file.read_text(encoding="utf-8"))
    assert system["link_names"] == ["cart", "pole"]
    states = system["states"]["x"]
    assert len(states) == 5
    assert len({json.dumps(state) for state in states}) == 5
    assert system["opt"]["timestep"] == pytest.approx(env.unwrapped.dt)


def embedded_system(page):
    packed = max(re.findall(r"[A-Za-z0-9+/=]{200,}", page), key=len)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_a_brax_environment_without_a_body_is_plotted(tmp_path):
    env = make_env("brax/fast", episode_length=4)
    size = env.action_space.shape
    file = render.render(env, always(np.zeros(size)), None, tmp_path / "episode", key=KEY)
    assert file.suffix == ".png"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        render.render(Countdown(), always(0), None, tmp_path / "file" / "episode", key=KEY)
