"""Navix environments beside Navix' own API."""

import jax
import jax.numpy as jnp
import navix
import numpy as np
import pytest
from following import HASTY, any_allowed, ends, follow, train_twice

import trpo_jax
from trpo_jax.envs import EnvStep
from trpo_jax.envs import navix as adapter
from trpo_jax.envs.checks import require_promises

EMPTY = "Navix-Empty-Random-5x5-v0"


def names_side_by_side(grid):
    """bool [height, width, 21] from uint8 [height, width, 3], by comparison."""
    layers = [
        grid[..., layer, None] == jnp.arange(size) for layer, size in ((0, 11), (1, 6), (2, 4))
    ]
    return jnp.concatenate(layers, axis=-1)


def sides(theirs, observe):
    """Reset and step of a Navix environment, by its public `step`, which resets one call later."""

    def reset(key):
        timestep = theirs.reset(key)
        return timestep, observe(timestep.observation)

    def step(key, timestep, action):
        timestep = theirs.step(timestep, action)
        return timestep, EnvStep(
            obs=observe(timestep.observation),
            reward=timestep.reward,
            terminated=timestep.step_type == 2,
            truncated=timestep.step_type == 1,
        )

    return reset, step


def test_steps_equal_navix_own_until_each_end():
    env, theirs = adapter.make(EMPTY, episode_length=30), navix.make(EMPTY, max_steps=30)
    assert env.action_space == trpo_jax.Discrete(7)
    assert env.obs_shape == (5, 5, 21)
    assert env.max_episode_steps == 30
    steps = follow(env, *sides(theirs, names_side_by_side), any_allowed(3), 150)
    terminated, truncated = ends(steps)
    assert terminated >= 1
    assert truncated >= 1
    rewards = np.array([step.reward for step in steps])
    np.testing.assert_array_equal(rewards > 0, [step.terminated for step in steps])
    # Each cell is one thing of one colour in one state.
    np.testing.assert_array_equal(steps[0].obs.sum(-1), 3)


def test_the_end_observed_is_the_end_and_not_the_next_beginning():
    env = adapter.make(EMPTY, max_steps=1)
    state, first = jax.jit(env.reset, compiler_options=HASTY)(jax.random.key(0))
    _, step = jax.jit(env.step, compiler_options=HASTY)(jax.random.key(0), state, jnp.int32(0))
    assert step.truncated
    assert not step.terminated
    player = [np.argwhere(np.asarray(obs)[..., 10])[0] for obs in (first, step.obs)]
    np.testing.assert_array_equal(*player)  # turned where it stood
    directions = [
        int(np.argmax(np.asarray(o)[(*player[0], slice(17, 21))])) for o in (first, step.obs)
    ]
    assert directions[0] != directions[1]


def test_other_observations_stay_as_they_are():
    plain = adapter.make(EMPTY, one_hot=False)
    assert plain.obs_shape == (5, 5, 3)
    _, obs = jax.eval_shape(plain.reset, jax.random.key(0))
    assert obs.dtype == jnp.uint8
    pictures = adapter.make(EMPTY, observation_fn=navix.observations.rgb)
    assert pictures.obs_shape == (40, 40, 3)
    assert pictures.costly_reset
    require_promises(pictures)
    ids = adapter.make(EMPTY, observation_fn=navix.observations.categorical_first_person)
    assert ids.obs_shape == (7, 7)
    require_promises(ids)


def test_states_carry_no_pictures_unless_they_are_drawn():
    def size(env):
        state, _ = jax.eval_shape(env.reset, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    assert size(adapter.make(EMPTY)) < 500
    assert size(adapter.make(EMPTY, observation_fn=navix.observations.rgb)) > 25 * 8 * 8 * 3


@pytest.mark.parametrize("name", adapter.list_ids())
def test_every_id_keeps_the_promises_of_an_environment(name):
    require_promises(adapter.make(name))


def test_an_object_of_navix():
    theirs = navix.make("Navix-DoorKey-5x5-v0", max_steps=17)
    env = adapter.from_object(theirs)
    assert env.name == "DoorKey"
    assert env.unwrapped is theirs
    assert env.max_episode_steps == 17


def test_bad_input_is_refused_in_one_line():
    for make, words in (
        (lambda: adapter.make("Navix-Nowhere-v0"), "unknown to Navix"),
        (lambda: adapter.make(EMPTY, hight=3), "hight"),
        (lambda: adapter.make(EMPTY, episode_length=0), "episode_length=0"),
        (lambda: adapter.from_object(object()), "navix.Environment"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_it_trains():
    train_twice(adapter.make(EMPTY))
