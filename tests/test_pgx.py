"""Pgx games for one player beside Pgx' own API."""

import numpy as np
import pgx
import pytest
from following import any_allowed, ends, follow, train_twice

import trpo_jax
from trpo_jax.envs import EnvStep, Observation
from trpo_jax.envs import pgx as adapter
from trpo_jax.envs.checks import require_promises


def sides(theirs, observe):
    """Reset and step of a Pgx game."""

    def reset(key):
        state = theirs.init(key)
        return state, observe(state)

    def step(key, state, action):
        state = theirs.step(state, action, key)
        return state, EnvStep(
            observe(state), state.rewards.sum(), state.terminated, state.truncated
        )

    return reset, step


def test_breakout_equals_pgx_own_and_has_no_mask():
    env, theirs = adapter.make("minatar-breakout"), pgx.make("minatar-breakout")
    assert env.action_space == trpo_jax.Discrete(3)
    assert env.obs_shape == (10, 10, 4)
    steps = follow(env, *sides(theirs, lambda state: state.observation), any_allowed(3), 80)
    assert ends(steps)[0] >= 2
    assert ends(steps)[1] == 0
    assert sum(step.reward for step in steps) > 0
    assert steps[0].obs.dtype == bool


def test_2048_equals_pgx_own_with_its_mask():
    env, theirs = adapter.make("2048"), pgx.make("2048")
    assert env.action_space == trpo_jax.Discrete(4)
    masks, broken = [], []

    def choose(rng, obs):
        legal = obs.action_mask
        masks.append(legal)
        breaks_rules = not legal.all() and rng.random() < 0.2
        action = np.int32(rng.choice(np.flatnonzero(~legal if breaks_rules else legal)))
        broken.append(breaks_rules)
        return action, action

    def observe(state):
        return Observation(state.observation, action_mask=state.legal_action_mask)

    steps = follow(env, *sides(theirs, observe), choose, 120)
    assert not np.all(masks)
    assert np.all(np.any(masks, axis=1))
    # Pgx ends a game with a penalty at an illegal move, and only there.
    assert any(broken)
    np.testing.assert_array_equal([step.reward < 0 for step in steps], broken)
    assert all(step.terminated for step, wrong in zip(steps, broken, strict=True) if wrong)


def test_keywords_go_to_the_game():
    env = adapter.make("minatar-breakout", use_minimal_action_set=False, sticky_action_prob=0.0)
    assert env.action_space == trpo_jax.Discrete(6)
    assert env.unwrapped.sticky_action_prob == 0
    require_promises(env)


@pytest.mark.parametrize("name", adapter.list_ids())
def test_every_game_keeps_the_promises_of_an_environment(name):
    require_promises(adapter.make(name))


def test_every_id_is_made_or_refused():
    assert len(adapter.list_ids()) == 6
    assert {*adapter.list_ids(), *adapter.REFUSED} == set(pgx.available_envs())
    assert not {*adapter.list_ids()} & adapter.REFUSED.keys()


def test_an_object_of_pgx():
    theirs = pgx.make("minatar-freeway")
    env = adapter.from_object(theirs)
    assert env.name == "minatar-freeway"
    assert env.unwrapped is theirs


@pytest.mark.parametrize("name", adapter.REFUSED)
def test_games_for_several_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="several players") as caught:
        adapter.make(name)
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_one_line():
    for make, words in (
        (lambda: adapter.make("minatar-pong"), "unknown to Pgx"),
        (lambda: adapter.make("2048", stickiness=1), "stickiness"),
        (lambda: adapter.from_object(pgx.make("tic_tac_toe")), "2 players"),
        (lambda: adapter.from_object(object()), "pgx.Env"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_it_trains():
    train_twice(adapter.make("minatar-breakout"))
