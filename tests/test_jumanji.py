"""Jumanji environments beside Jumanji's own API."""

import jax
import jax.numpy as jnp
import jumanji
import numpy as np
import pytest
from following import any_allowed, ends, follow, train_twice
from jumanji.environments.logic.minesweeper.generator import UniformSamplingGenerator
from jumanji.environments.routing.cleaner.generator import RandomGenerator as RandomMaze
from jumanji.environments.routing.lbf.generator import RandomGenerator as RandomForest
from jumanji.environments.routing.multi_cvrp.generator import (
    UniformRandomGenerator as RandomCustomers,
)
from jumanji.environments.routing.sokoban.generator import ToyGenerator
from jumanji.wrappers import AutoResetWrapper, MultiToSingleWrapper, VmapWrapper

import trpo_jax
from trpo_jax.envs import EnvStep, Observation
from trpo_jax.envs import jumanji as adapter
from trpo_jax.envs.checks import require_promises

EASY_MAZE = RandomMaze(num_rows=4, num_cols=4, num_agents=2)
FEW_CUSTOMERS = RandomCustomers(num_customers=6, num_vehicles=2)
FOREST = RandomForest(grid_size=5, fov=5, num_agents=2, num_food=1)


def sides(theirs, observe):
    """Reset and step of a Jumanji environment; `observe` says what its observations become."""

    def reset(key):
        state, timestep = theirs.reset(key)
        return state, observe(timestep.observation)

    def step(key, state, action):
        state, timestep = theirs.step(state, action)
        ended = timestep.step_type == 2
        return state, EnvStep(
            obs=observe(timestep.observation),
            reward=timestep.reward,
            terminated=ended & (timestep.discount == 0),
            truncated=ended & (timestep.discount > 0),
            metrics=timestep.extras,
        )

    return reset, step


def test_one_choice_with_a_mask():
    env, theirs = (
        adapter.make("Game2048-v1", board_size=2),
        jumanji.make("Game2048-v1", board_size=2),
    )
    assert env.action_space == trpo_jax.Discrete(4)
    assert env.obs_shape == (2, 2)  # the only array beside the mask

    def observe(o):  # at the end Jumanji allows nothing, and we everything
        return Observation(o.board, action_mask=jnp.where(o.action_mask.any(), o.action_mask, True))

    reset, step = sides(theirs, observe)
    steps = follow(env, reset, step, any_allowed(4, lambda obs: obs.action_mask), 60)
    assert max(step.metrics["highest_tile"] for step in steps) >= 8
    assert ends(steps)[0] > 1
    assert env.unwrapped.board_size == 2


def test_a_mask_over_joint_actions_makes_one_choice_of_all_combinations():
    keywords = {"generator": UniformSamplingGenerator(num_rows=3, num_cols=4, num_mines=2)}
    env, theirs = (
        adapter.make("Minesweeper-v0", **keywords),
        jumanji.make("Minesweeper-v0", **keywords),
    )
    assert env.action_space == trpo_jax.Discrete(12)
    asked = []

    def choose(rng, obs):
        if np.all(obs.policy["board"] == -1):
            asked.clear()
        allowed = [[row, column] for row in range(3) for column in range(4)]
        allowed = [cell for cell in allowed if cell not in asked]  # every cell once
        np.testing.assert_array_equal(
            np.flatnonzero(obs.action_mask), [4 * row + column for row, column in allowed]
        )
        asked.append(allowed[rng.integers(len(allowed))])
        row, column = asked[-1]
        return np.int32(4 * row + column), np.array([row, column], np.int32)

    def observe(o):
        policy = {"board": o.board, "num_mines": o.num_mines, "step_count": o.step_count / 10}
        return Observation(policy, action_mask=o.action_mask.reshape(12))

    steps = follow(env, *sides(theirs, observe), choose, 40)
    assert ends(steps)[0] > 1
    assert sum(step.reward > 0 for step in steps) > 3


def test_masks_of_several_agents_stand_side_by_side_and_time_limits_terminate():
    env = adapter.make("Cleaner-v0", generator=EASY_MAZE, time_limit=7)
    theirs = jumanji.make("Cleaner-v0", generator=EASY_MAZE, time_limit=7)
    assert env.action_space == trpo_jax.MultiDiscrete((4, 4))

    def choose(rng, obs):
        first, second = obs.action_mask[:4], obs.action_mask[4:]
        action = np.array([rng.choice(np.flatnonzero(part)) for part in (first, second)], np.int32)
        return action, action

    def observe(o):
        policy = {
            "grid": o.grid,
            "agents_locations": o.agents_locations,
            "step_count": o.step_count / 7,
        }
        return Observation(policy, action_mask=jnp.concatenate(list(o.action_mask)))

    steps = follow(env, *sides(theirs, observe), choose, 22)
    assert ends(steps) == (3, 0)
    assert steps[6].terminated
    assert env.max_episode_steps is None  # nothing truncates


def test_whole_numbers_between_bounds_are_choices_as_many_as_the_mask_has():
    env = adapter.make("MultiCVRP-v0", generator=FEW_CUSTOMERS)
    theirs = jumanji.make("MultiCVRP-v0", generator=FEW_CUSTOMERS)
    assert env.action_space == trpo_jax.MultiDiscrete((7, 7))

    def choose(rng, obs):
        parts = np.split(obs.action_mask, 2)
        action = np.array([rng.choice(np.flatnonzero(part)) for part in parts])
        return action.astype(np.int32), action.astype(np.int16)

    def observe(o):
        policy = {
            "nodes": {"coordinates": o.nodes.coordinates, "demands": o.nodes.demands},
            "windows": {"start": o.windows.start, "end": o.windows.end},
            "coeffs": {"early": o.coeffs.early, "late": o.coeffs.late},
            "vehicles": {
                "local_times": o.vehicles.local_times,
                "coordinates": o.vehicles.coordinates,
                "capacities": o.vehicles.capacities,
            },
        }
        return Observation(policy, action_mask=o.action_mask.reshape(14))

    follow(env, *sides(theirs, observe), choose, 12)


@pytest.mark.parametrize(
    ("name", "allowed", "mask"),
    [
        ("Cleaner-v0", np.eye(3, 4, dtype=bool) & [[True], [False], [True]], [0, 4, 5, 6, 7, 10]),
        ("Tetris-v0", np.zeros((4, 10), bool), range(40)),
        ("Maze-v0", np.zeros(4, bool), range(4)),
        ("Maze-v0", np.arange(4) == 2, [2]),
    ],
)
def test_where_nothing_is_left_to_choose_everything_is_allowed(name, allowed, mask):
    env = adapter.make(name)
    _, timestep = jax.eval_shape(env.unwrapped.reset, jax.random.key(0))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), timestep.observation)
    shown = blank._replace(action_mask=jnp.asarray(allowed))
    np.testing.assert_array_equal(np.flatnonzero(env._observe(shown).action_mask), mask)


def test_an_end_with_a_discount_is_a_truncation():
    theirs = MultiToSingleWrapper(
        jumanji.make("LevelBasedForaging-v0", generator=FOREST, time_limit=5)
    )
    env = adapter.from_object(theirs)
    assert env.name == "LevelBasedForaging"
    assert env.unwrapped is theirs

    def choose(rng, obs):
        action = np.array([rng.choice(np.flatnonzero(m)) for m in np.split(obs.action_mask, 2)])
        return action.astype(np.int32), action.astype(np.int32)

    def observe(o):
        policy = {"agents_view": o.agents_view, "step_count": o.step_count / 5}
        return Observation(policy, action_mask=o.action_mask.reshape(12))

    steps = follow(env, *sides(theirs, observe), choose, 20)
    assert ends(steps)[1] >= 3
    assert not any(step.terminated and step.truncated for step in steps)


@pytest.mark.parametrize("name", adapter.list_ids())
def test_every_id_keeps_the_promises_of_an_environment(name):
    require_promises(adapter.make(name))


def test_every_id_is_made_or_refused():
    listed = set(adapter.list_ids())
    assert len(listed) == 22
    assert listed | adapter.REFUSED.keys() == jumanji.registered_environments()
    assert not listed & adapter.REFUSED.keys()


@pytest.mark.parametrize("name", [*adapter.REFUSED, "Snake-v7"])
def test_what_is_refused_says_why_in_one_line(name):
    why = "unknown" if name == "Snake-v7" else "agent|download"
    with pytest.raises(ValueError, match=why) as caught:
        adapter.make(name)
    assert "\n" not in str(caught.value)


def test_the_remedies_work():
    env = adapter.from_object(MultiToSingleWrapper(jumanji.make("Connector-v3")))
    assert env.action_space == trpo_jax.MultiDiscrete((5,) * 10)
    require_promises(env)
    env = adapter.from_object(MultiToSingleWrapper(jumanji.make("SearchAndRescue-v0")))
    assert env.action_space.shape == (2, 2)
    require_promises(env)
    require_promises(adapter.make("Sokoban-v0", generator=ToyGenerator()))


def test_bad_input_is_refused_in_one_line():
    snake = jumanji.make("Snake-v1")
    for make, words in (
        (lambda: adapter.make("Snake-v1", timelimit=3), "timelimit"),
        (lambda: adapter.make("Snake-v1", time_limit=0), "time_limit=0"),
        (lambda: adapter.make("Snake-v1", time_limit=2.5), "time_limit=2.5"),
        (lambda: adapter.from_object(jumanji.make("Connector-v3")), "10 rewards"),
        (lambda: adapter.from_object(AutoResetWrapper(snake)), "AutoResetWrapper"),
        (lambda: adapter.from_object(VmapWrapper(snake)), "VmapWrapper"),
        (lambda: adapter.from_object(object()), "jumanji.Environment"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_it_trains_with_its_mask():
    metrics = train_twice(adapter.make("Game2048-v1", board_size=2))
    assert not metrics.alarms.invalid_data
