"""XLand-MiniGrid environments beside its own API."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xminigrid
from following import HASTY, any_allowed, ends, follow, train_twice
from xminigrid.core.constants import Colors, Tiles
from xminigrid.core.goals import AgentNearGoal
from xminigrid.core.rules import EmptyRule
from xminigrid.types import RuleSet
from xminigrid.wrappers import DirectionObservationWrapper, GymAutoResetWrapper

import trpo_jax
from trpo_jax.envs import EnvStep
from trpo_jax.envs import xminigrid as adapter
from trpo_jax.envs.checks import require_promises

EMPTY = "MiniGrid-EmptyRandom-5x5"
XLAND = "XLand-MiniGrid-R1-9x9"
BALL = jnp.array([Tiles.BALL, Colors.RED], jnp.uint8)
NEAR_THE_BALL = RuleSet(
    goal=AgentNearGoal(tile=BALL).encode(),
    rules=EmptyRule().encode()[None],
    init_tiles=BALL[None],
)


def mostly_forward(rng, obs):
    action = np.int32(rng.choice(3, p=[0.6, 0.2, 0.2]))
    return action, action


def names_side_by_side(grid):
    """bool [view, view, 25] from uint8 [view, view, 2], by comparison."""
    layers = [grid[..., layer, None] == jnp.arange(size) for layer, size in ((0, 13), (1, 12))]
    return jnp.concatenate(layers, axis=-1)


def sides(theirs, params, observe):
    """Reset and step of an XLand-MiniGrid environment."""

    def reset(key):
        timestep = theirs.reset(params, key)
        return timestep, observe(timestep.observation)

    def step(key, timestep, action):
        timestep = theirs.step(params, timestep, action)
        ended = timestep.step_type == 2
        return timestep, EnvStep(
            obs=observe(timestep.observation),
            reward=timestep.reward,
            terminated=ended & (timestep.discount == 0),
            truncated=ended & (timestep.discount == 1),
        )

    return reset, step


def test_steps_equal_its_own_through_both_kinds_of_end():
    env = adapter.make(EMPTY, episode_length=30)
    theirs, params = xminigrid.make(EMPTY, max_steps=30)
    assert env.action_space == trpo_jax.Discrete(6)
    assert env.obs_shape == (7, 7, 25)
    assert env.max_episode_steps == 30
    steps = follow(env, *sides(theirs, params, names_side_by_side), mostly_forward, 200)
    terminated, truncated = ends(steps)
    assert terminated >= 1
    assert truncated >= 1
    rewards = np.array([step.reward for step in steps])
    np.testing.assert_array_equal(rewards > 0, [step.terminated for step in steps])
    np.testing.assert_array_equal(steps[0].obs.sum(-1), 2)


def test_wrappers_add_their_parts():
    theirs, params = xminigrid.make(EMPTY, max_steps=9)
    wrapped = DirectionObservationWrapper(theirs)
    env = adapter.from_object(wrapped, env_params=params)
    assert env.name == "EmptyRandom"
    assert env.unwrapped is wrapped
    assert env.params.max_steps == env.max_episode_steps == 9
    assert env.obs_shape == {"img": (7, 7, 25), "direction": (4,)}

    def observe(obs):
        return {"img": names_side_by_side(obs["img"]), "direction": obs["direction"]}

    assert ends(follow(env, *sides(wrapped, params, observe), any_allowed(6), 20))[1] >= 1


def test_xland_needs_rules_and_pays_by_them():
    with pytest.raises(ValueError, match="ruleset"):
        adapter.make(XLAND)
    env = adapter.make(XLAND, ruleset=NEAR_THE_BALL)
    theirs, params = xminigrid.make(XLAND, ruleset=NEAR_THE_BALL)
    steps = follow(env, *sides(theirs, params, names_side_by_side), mostly_forward, 200)
    assert ends(steps)[0] >= 1


def test_rules_can_be_drawn_for_every_episode():
    things = jnp.array([[Tiles.BALL, Colors.RED], [Tiles.KEY, Colors.BLUE]], jnp.uint8)

    def randomize(key, params):
        thing = things[jax.random.bernoulli(key).astype(int)]
        goal = AgentNearGoal(tile=thing).encode()
        return params.replace(ruleset=params.ruleset.replace(goal=goal, init_tiles=thing[None]))

    env = trpo_jax.make_env(f"xminigrid/{XLAND}", ruleset=NEAR_THE_BALL, randomize=randomize)
    require_promises(env)
    keys = jax.random.split(jax.random.key(0), 16)
    states, _ = jax.jit(jax.vmap(env.reset), compiler_options=HASTY)(keys)
    timesteps = env.inner_state(states)
    for goal, grid in zip(timesteps.state.goal_encoding, timesteps.state.grid, strict=True):
        assert (np.asarray(grid) == goal[1:3]).all(-1).sum() == 1  # what is sought is there
    assert len(np.unique(timesteps.state.goal_encoding[:, 1])) == 2


def test_parameters_as_dict_and_as_object_agree():
    theirs, _ = xminigrid.make(EMPTY)
    env = adapter.from_object(theirs, env_params={"height": 6, "width": 6, "view_size": 5})
    assert env.obs_shape == (5, 5, 25)
    assert env.max_episode_steps == 4 * 6 * 6
    assert adapter.from_object(theirs, env_params=env.params).params is env.params
    assert adapter.from_object(theirs).max_episode_steps == 4 * 9 * 9
    assert adapter.make(EMPTY, one_hot=False).obs_shape == (7, 7, 2)


@pytest.mark.parametrize("name", adapter.list_ids())
def test_every_id_keeps_the_promises_of_an_environment(name):
    require_promises(adapter.make(name))


@pytest.mark.parametrize("name", [name for name in adapter.REFUSED if name.startswith("XLand")])
def test_every_refused_id_is_made_with_its_remedy(name):
    assert adapter.make(name, ruleset=NEAR_THE_BALL).obs_shape == (5, 5, 25)


def test_bad_input_is_refused_in_one_line():
    theirs, params = xminigrid.make(EMPTY)
    for make, words in (
        (lambda: adapter.make("MiniGrid-Nowhere"), "unknown to XLand-MiniGrid"),
        (lambda: adapter.make("MiniGrid-Playground"), "every reward is 0"),
        (lambda: adapter.make(EMPTY, hight=3), "hight"),
        (lambda: adapter.make(EMPTY, episode_length=0), "max_steps.*0"),
        (lambda: adapter.from_object(theirs, env_params={"hight": 3}), "hight.*height"),
        (lambda: adapter.from_object(GymAutoResetWrapper(theirs), params), "GymAutoReset"),
        (lambda: adapter.from_object(object()), "not an XLand-MiniGrid"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_it_trains():
    train_twice(adapter.make("MiniGrid-Empty-5x5", view_size=3))
