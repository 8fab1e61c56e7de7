"""What a rollout records, replayed in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from probe_envs import Countdown, KeyEcho
from tiny_problems import SMALL

import trpo_jax

T, N = SMALL.num_steps, SMALL.num_envs


def numpy_tree(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="module")
def cartpole():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL)


@pytest.fixture(scope="module")
def pendulum():
    env = trpo_jax.make_env("Pendulum-v1")
    return trpo_jax.make_trpo(env, SMALL.replace(normalize_observations=True))


@pytest.fixture(scope="module")
def countdown():
    return trpo_jax.make_trpo(Countdown(longest=6, staggered=True), SMALL)


def test_time_comes_first(pendulum):
    state, trajectory = pendulum.rollout(pendulum.init(jax.random.key(0)))
    assert trajectory.obs.shape == trajectory.next_obs.shape == (T, N, 3)
    assert trajectory.action.shape == (T, N, 1)
    for field in ("log_prob", "reward", "terminated", "truncated", "valid", "episode_return"):
        assert getattr(trajectory, field).shape == (T, N), field
    assert trajectory.episode_length.shape == (T, N)
    assert trajectory.distribution.mean.shape == (T, N, 1)
    assert state.actor.obs.shape == (N, 3)
    assert trajectory.valid.all()


def test_the_next_observation_is_the_next_unless_done(cartpole):
    state, trajectory = cartpole.rollout(cartpole.init(jax.random.key(3)))
    trajectory = numpy_tree(trajectory)
    done = trajectory.terminated | trajectory.truncated
    following = np.concatenate([trajectory.obs[1:], np.asarray(state.actor.obs)[None]])
    np.testing.assert_array_equal(following[~done], trajectory.next_obs[~done])
    assert trajectory.terminated.any()
    assert np.all(np.abs(following[done]) <= 0.05)  # a fresh start
    assert np.all(np.abs(trajectory.next_obs[trajectory.terminated][:, [0, 2]]).max(-1) > 0.2)


def test_an_episode_goes_on_from_one_rollout_to_the_next(cartpole):
    state = cartpole.init(jax.random.key(1))
    np.testing.assert_array_equal(cartpole.rollout(state)[1].obs[0], state.actor.obs)
    after, first = cartpole.rollout(state)
    _, second = cartpole.rollout(after)
    np.testing.assert_array_equal(second.obs[0], after.actor.obs)
    done = np.asarray(first.terminated | first.truncated)[-1]
    expected = np.where(done, 0, np.asarray(first.episode_length)[-1]) + 1
    np.testing.assert_array_equal(second.episode_length[0], expected)


def test_log_probabilities_are_those_of_the_stored_actions(cartpole, pendulum):
    state = cartpole.init(jax.random.key(0))
    _, trajectory = cartpole.rollout(state)
    logits = np.asarray(cartpole.policy.apply(state.policy_params, trajectory.obs).logits)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.asarray(trajectory.action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(trajectory.log_prob, chosen, rtol=1e-5)

    state = pendulum.init(jax.random.key(0))  # nothing seen yet: normalisation only clips
    _, trajectory = pendulum.rollout(state)
    gaussian = pendulum.policy.apply(state.policy_params, jnp.clip(trajectory.obs, -10, 10))
    expected = scipy.stats.norm.logpdf(
        np.asarray(trajectory.action), np.asarray(gaussian.mean), np.exp(gaussian.log_std)
    )
    np.testing.assert_allclose(trajectory.log_prob, expected.sum(-1), rtol=1e-4, atol=1e-5)


def replay(trajectory, returns, lengths):
    """NumPy double loop over time and environments."""
    all_returns, all_lengths = np.zeros((T, N), np.float32), np.zeros((T, N), np.int32)
    done = trajectory.terminated | trajectory.truncated
    for t in range(T):
        for n in range(N):
            returns[n] += trajectory.reward[t, n]
            lengths[n] += 1
            all_returns[t, n], all_lengths[t, n] = returns[n], lengths[n]
            if done[t, n]:
                returns[n], lengths[n] = 0, 0
    return all_returns, all_lengths


@pytest.mark.parametrize("name", ["cartpole", "countdown", "pendulum"])
def test_episode_bookkeeping_equals_a_replay(name, request):
    agent = request.getfixturevalue(name)
    state = agent.init(jax.random.key(0))
    returns, lengths = np.zeros(N, np.float32), np.zeros(N, np.int32)
    for _ in range(3):
        state, trajectory = agent.rollout(state)
        trajectory = numpy_tree(trajectory)
        all_returns, all_lengths = replay(trajectory, returns, lengths)
        np.testing.assert_array_equal(trajectory.episode_length, all_lengths)
        np.testing.assert_allclose(trajectory.episode_return, all_returns, rtol=1e-5)
        np.testing.assert_array_equal(state.actor.episodes.lengths, lengths)
        np.testing.assert_allclose(state.actor.episodes.returns, returns, rtol=1e-5)


def test_environments_end_each_at_its_own_time(countdown):
    _, trajectory = countdown.rollout(countdown.init(jax.random.key(0)))
    left = np.argmax(trajectory.obs, -1)
    np.testing.assert_array_equal(trajectory.terminated, left == 1)
    np.testing.assert_array_equal(np.argmax(trajectory.next_obs, -1), left - 1)
    ends = [tuple(np.flatnonzero(column)) for column in np.asarray(trajectory.terminated).T]
    assert len(set(ends)) == N, "environments end at the same times"
    assert left.min() == 1, "an environment went on after its end"


def test_metrics_of_an_update_equal_the_replay(cartpole):
    state = cartpole.init(jax.random.key(5))
    moved, trajectory = cartpole.rollout(state)
    _, metrics = cartpole.learn(moved, trajectory)
    done = np.asarray(trajectory.terminated | trajectory.truncated)
    finished = np.asarray(trajectory.episode_return)[done]
    np.testing.assert_allclose(metrics.episode_return, finished.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.episode_length, np.asarray(trajectory.episode_length)[done].mean(), rtol=1e-6
    )
    assert int(metrics.num_episodes) == done.sum()


def test_the_halves_make_the_whole(cartpole):
    state = cartpole.init(jax.random.key(2))
    whole, metrics = cartpole.update(state)
    halves, split_metrics = cartpole.learn(*cartpole.rollout(state))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics.kl, split_metrics.kl, rtol=1e-3)


def test_statistics_stay_frozen_until_the_update_ends(pendulum):
    state, _ = pendulum.update(pendulum.init(jax.random.key(0)))
    frozen = numpy_tree(state.obs_statistics)
    moved, trajectory = pendulum.rollout(state)
    for before, after in zip(
        jax.tree.leaves(frozen), jax.tree.leaves(moved.obs_statistics), strict=True
    ):
        np.testing.assert_array_equal(before, after)

    scaled = (np.asarray(trajectory.obs) - frozen.mean) / np.sqrt(frozen.variance + 1e-8)
    gaussian = pendulum.policy.apply(state.policy_params, jnp.clip(scaled, -10, 10))
    np.testing.assert_allclose(trajectory.distribution.mean, gaussian.mean, rtol=1e-3, atol=1e-5)

    learned, metrics = pendulum.learn(moved, trajectory)
    assert float(metrics.on_policy_gap) < 1e-4
    assert not bool(metrics.alarms.off_policy)
    seen = np.asarray(trajectory.obs, np.float64).reshape(-1, 3)
    count = T * N
    pooled_mean = (frozen.mean + seen.mean(0)) / 2
    squares = frozen.variance + frozen.mean**2 + seen.var(0) + seen.mean(0) ** 2
    assert float(learned.obs_statistics.count) == 2 * count
    np.testing.assert_allclose(learned.obs_statistics.mean, pooled_mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        learned.obs_statistics.variance, squares / 2 - pooled_mean**2, rtol=1e-4
    )


def test_the_same_seed_gives_the_same_run(cartpole):
    runs = [cartpole.train(cartpole.init(jax.random.key(9)), num_updates=2) for _ in range(2)]
    for one, other in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(runs[1]), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


def test_another_seed_gives_another_run(cartpole):
    one, other = (cartpole.rollout(cartpole.init(jax.random.key(seed)))[1] for seed in (0, 1))
    assert not np.array_equal(one.obs[0], other.obs[0])
    assert not np.array_equal(one.action, other.action)


def test_no_key_is_used_twice():
    agent = trpo_jax.make_trpo(KeyEcho(), SMALL)
    state = agent.init(jax.random.key(0))
    noise, seen = [], [np.asarray(state.actor.obs).reshape(-1)]
    for _ in range(2):
        state, trajectory = agent.rollout(state)
        gaussian = trajectory.distribution
        noise.append((trajectory.action - gaussian.mean) / jnp.exp(gaussian.log_std))
        seen.append(np.asarray(trajectory.next_obs).reshape(-1))
        done = np.asarray(trajectory.truncated)[:-1]
        seen.append(np.asarray(trajectory.obs)[1:][done].reshape(-1))
    noise = np.concatenate([np.asarray(part).reshape(-1) for part in noise])
    assert len(np.unique(noise.round(5))) > 0.99 * noise.size
    assert abs(noise.mean()) < 0.2
    np.testing.assert_allclose(noise.std(), 1, atol=0.2)
    seen = np.concatenate(seen)
    # 2²³ values of a float32 uniform: a pair among 350 meets by chance once in 140 such tests.
    assert len(np.unique(seen)) == seen.size
