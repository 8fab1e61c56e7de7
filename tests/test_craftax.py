"""Craftax environments beside Craftax' own API."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from craftax.craftax import renderer
from craftax.craftax_classic import renderer as classic_renderer
from craftax.craftax_env import make_craftax_env_from_name
from following import any_allowed, ends, follow

import trpo_jax
from trpo_jax.envs import EnvStep
from trpo_jax.envs import craftax as adapter

CLASSIC = "Craftax-Classic-Symbolic-v1"
LIMIT = 25


@pytest.fixture(scope="module")
def classic():
    return trpo_jax.make_env(f"craftax/{CLASSIC}", episode_length=LIMIT)


def sides(theirs, params):
    """Reset and step of Craftax, which has one `done` for all ends."""

    def reset(key):
        obs, state = theirs.reset_env(key, params)
        return state, obs

    def step(key, state, action):
        starving = state.replace(player_health=jnp.where(action == 0, 0, state.player_health))
        obs, state, reward, done, _ = theirs.step_env(key, starving, action, params)
        return state, EnvStep(
            obs=obs,
            reward=reward,
            terminated=done & (state.timestep < LIMIT),
            truncated=done & (state.timestep >= LIMIT),
            metrics={"achievements": state.achievements.astype(int).sum()},
        )

    return reset, step


class Mortal(trpo_jax.Environment):
    """`env`, in which standing still is deadly: otherwise nobody dies within the limit."""

    def __init__(self, env):
        self.env = env

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        health = jnp.where(action == 0, 0, state.player_health)
        return self.env.step(key, state.replace(player_health=health), action)


def test_steps_equal_craftax_own_until_each_end(classic):
    assert classic.name == CLASSIC
    assert classic.obs_shape == (1345,)
    assert classic.action_space == trpo_jax.Discrete(17)
    assert classic.max_episode_steps == LIMIT
    theirs = make_craftax_env_from_name(CLASSIC, auto_reset=False)
    params = theirs.default_params.replace(max_timesteps=LIMIT)
    steps = follow(Mortal(classic), *sides(theirs, params), any_allowed(17), 120)
    terminated, truncated = ends(steps)
    assert terminated >= 2
    assert truncated >= 2
    gained = np.diff([step.metrics["achievements"] for step in steps])
    assert (gained > 0).any()


@pytest.mark.parametrize("auto_reset", [False, True])
def test_objects_of_craftax_are_accepted(auto_reset):
    theirs = make_craftax_env_from_name(CLASSIC, auto_reset=auto_reset)
    env = trpo_jax.make_env(theirs, env_params={"max_timesteps": 7})
    assert env.unwrapped is theirs
    assert env.max_episode_steps == 7
    with pytest.raises(ValueError, match="the fields are max_timesteps, "):
        trpo_jax.make_env(theirs, env_params={"max_time": 7})
    with pytest.raises(ValueError, match="pass what make_craftax_env_from_name returns"):
        trpo_jax.make_env(theirs.action_space())


@pytest.fixture
def small_pictures(monkeypatch):
    """Pictures of the one size that agents see, prepared without a file: seconds, not minutes."""
    for game in (classic_renderer, renderer):
        size = game.BLOCK_PIXEL_SIZE_AGENT
        monkeypatch.setattr(
            game,
            "load_all_textures",
            lambda game=game, size=size: {size: game.load_all_textures_given_size(size)},
        )


@pytest.mark.parametrize(
    ("name", "shape", "num_actions"),
    [
        ("Craftax-Symbolic-v1", (8268,), 43),
        ("Craftax-Pixels-v1", (130, 110, 3), 43),
        ("Craftax-Classic-Pixels-v1", (63, 63, 3), 17),
    ],
)
@pytest.mark.usefixtures("small_pictures")
def test_the_other_ids(name, shape, num_actions):
    env = trpo_jax.make_env(f"craftax/{name}")
    assert (env.obs_shape, env.action_space.num_actions) == (shape, num_actions)
    _, obs = jax.eval_shape(env.reset, jax.random.key(0))
    assert obs.shape == shape


def test_pictures_that_an_interrupted_process_left_incomplete_are_prepared_anew(monkeypatch):
    def load_all_textures():
        if "CRAFTAX_RELOAD_TEXTURES" not in os.environ:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        size = classic_renderer.BLOCK_PIXEL_SIZE_AGENT
        return {size: classic_renderer.load_all_textures_given_size(size)}

    monkeypatch.setattr(classic_renderer, "load_all_textures", load_all_textures)
    assert adapter.make("Craftax-Classic-Pixels-v1").obs_shape == (63, 63, 3)
    assert "CRAFTAX_RELOAD_TEXTURES" not in os.environ
