"""Environments that lie: NaN, infinity and absurd numbers at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_envs import Faulty
from tiny_problems import SMALL

import trpo_jax

NAN, INF = np.nan, np.inf
INVALID = [(NAN, 0), (INF, 0), (-INF, 0), (0, NAN), (0, INF), (NAN, NAN)]
HUGE = [(1e30, 0), (-1e30, 0)]


def clean_env():
    return trpo_jax.make_env("CartPole-v1")


def is_finite(tree):
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(np.isfinite(leaf).all() for leaf in floats)


def trained(faults, rate, normalize, num_updates=100):
    config = SMALL.replace(normalize_observations=normalize, normalize_rewards=normalize)
    agent = trpo_jax.make_trpo(Faulty(clean_env(), rate, faults), config)
    return agent.train(agent.init(jax.random.key(0)), num_updates=num_updates)


def assert_learned_state_is_finite(state):
    for name in (
        "policy_params",
        "value_params",
        "value_opt_state",
        "obs_statistics",
        "return_statistics",
    ):
        assert is_finite(getattr(state, name)), name
    assert is_finite(state.actor.episodes)


@pytest.mark.parametrize("normalize", [False, True])
def test_values_that_are_not_finite_never_count(normalize):
    state, history = trained(INVALID, 0.03, normalize)
    assert_learned_state_is_finite(state)
    assert is_finite(history.kl)
    assert is_finite(history.value_loss)
    assert is_finite(history.entropy)
    hit = np.asarray(history.valid_fraction) < 1
    assert hit.mean() > 0.9
    np.testing.assert_array_equal(history.alarms.invalid_data, hit)
    assert np.asarray(history.valid_fraction).min() > 0.7  # a few steps, not the rest of the run
    assert np.all(np.asarray(history.kl) <= np.float32(0.01))
    assert not np.asarray(history.alarms.off_policy).any()
    accepted = np.asarray(history.accepted)
    assert accepted.mean() > 0.9
    early, late = history.episode_length[:10], history.episode_length[-10:]
    assert np.nanmean(late) > np.nanmean(early)  # it learns all the same


@pytest.mark.parametrize("normalize", [False, True])
def test_huge_rewards_do_not_destroy_the_run(normalize):
    state, history = trained(HUGE, 0.02, normalize)
    assert_learned_state_is_finite(state)
    np.testing.assert_array_equal(history.valid_fraction, 1)  # huge is not invalid
    assert np.all(np.asarray(history.kl) <= np.float32(0.01))
    assert is_finite(history.entropy)
    fitted = ~np.asarray(history.alarms.value_fit_failed)
    assert is_finite(np.asarray(history.value_loss)[fitted])


def test_every_step_invalid_changes_nothing():
    agent = trpo_jax.make_trpo(Faulty(clean_env(), 1.0, [(NAN, 0)]), SMALL)
    before = agent.init(jax.random.key(0))
    after, history = agent.train(before, num_updates=3)
    np.testing.assert_array_equal(history.valid_fraction, 0)
    assert not np.asarray(history.accepted).any()
    kept = ("policy_params", "value_params", "value_opt_state")
    for name in (*kept, "obs_statistics", "return_statistics"):
        for old, new in zip(
            jax.tree.leaves(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(old, new)
    assert_learned_state_is_finite(after)


def test_a_broken_simulation_starts_again():
    agent = trpo_jax.make_trpo(Faulty(clean_env(), 0.1, [(0, NAN)]), SMALL)
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    valid, done = np.asarray(trajectory.valid), trajectory.terminated | trajectory.truncated
    assert (~valid).sum() > 3
    assert np.asarray(done)[~valid].all()
    assert is_finite(trajectory)
    assert is_finite(state.actor.obs)


def test_without_faults_nothing_differs():
    """The same seeds, wrapped with rate 0 and not wrapped."""
    clean = trpo_jax.make_trpo(clean_env(), SMALL)
    wrapped = trpo_jax.make_trpo(Faulty(clean_env(), 0.0, INVALID), SMALL)
    runs = [agent.train(agent.init(jax.random.key(4)), num_updates=2) for agent in (clean, wrapped)]
    np.testing.assert_array_equal(runs[1][1].valid_fraction, 1)
    assert not np.asarray(runs[1][1].alarms.invalid_data).any()
    for one, other in zip(
        jax.tree.leaves(runs[0][0].policy_params),
        jax.tree.leaves(runs[1][0].policy_params),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_fault_ends_its_own_episode_and_touches_nothing_before():
    """Up to the first wrong reward of an environment everything is as without; there it is cut."""
    clean = trpo_jax.make_trpo(clean_env(), SMALL)
    faulty = trpo_jax.make_trpo(Faulty(clean_env(), 0.1, [(NAN, 0), (INF, 0)]), SMALL)
    state = clean.init(jax.random.key(5))
    _, expected = clean.rollout(state)
    _, got = faulty.rollout(state)
    valid = np.asarray(got.valid)
    assert 0 < (~valid).sum() < valid.size / 2
    np.testing.assert_array_equal(np.asarray(got.reward)[~valid], 0)
    assert np.asarray(got.terminated | got.truncated)[~valid].all()
    for lane in range(SMALL.num_envs):
        broken = np.flatnonzero(~valid[:, lane])
        before = broken[0] if broken.size else SMALL.num_steps
        for name in ("obs", "next_obs", "action", "reward", "terminated", "truncated"):
            ours = np.asarray(getattr(got, name))[:before, lane]
            theirs = np.asarray(getattr(expected, name))[:before, lane]
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
