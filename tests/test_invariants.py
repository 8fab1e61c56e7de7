"""What must hold after every update, whatever the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_problems import SMALL

import trpo_jax
from trpo_jax import StepStatus

NUM_UPDATES = 200
ENVS = ["CartPole-v1", "Pendulum-v1", "brax/fast"]
LONELY = {"num_envs": 1, "max_backtracks": 0}
ADAPTIVE = {"algorithm": "trpo_adaptive_damping"}
TWO_LAYERS = SMALL.replace(hidden_sizes=(64, 64))
HOSTILE = trpo_jax.HParams.stack(
    [
        trpo_jax.HParams(),
        trpo_jax.HParams(max_kl=1e-6),
        trpo_jax.HParams(max_kl=0.5),
        trpo_jax.HParams(cg_damping=0.0),
        trpo_jax.HParams(cg_damping=0.0, cg_tol=0.0, max_kl=0.5, entropy_coef=0.1),
        trpo_jax.HParams(gamma=1.0, gae_lambda=1.0, value_learning_rate=1.0),
    ]
)


def same_bits(left, right):
    def same(a, b):
        bits = [jax.lax.bitcast_convert_type(x, jnp.uint32) for x in (a, b)]
        return jnp.all(bits[0] == bits[1])

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(same, left, right))))


def finite(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def largest(tree):
    return jnp.max(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]))


def drive(agent, state, hparams, num_updates=NUM_UPDATES):
    """Update by update; also whether the policy kept its bits, whether all is finite, and the
    largest parameter of the policy that acted."""

    def advance(before, _):
        after, metrics = agent.update(before, hparams)
        learned = (
            after.policy_params,
            after.value_params,
            after.value_opt_state,
            after.obs_statistics,
            after.return_statistics,
            after.actor.episodes,
            after.actor.obs,
        )
        kept = same_bits(before.policy_params, after.policy_params)
        return after, (metrics, kept, finite(learned), largest(before.policy_params))

    return jax.lax.scan(advance, state, length=num_updates)[1]


def check(metrics, kept, is_finite, size, max_kl):
    accepted = np.asarray(metrics.accepted)
    kl = np.asarray(metrics.kl)
    assert np.asarray(is_finite).all(), "a parameter or statistic is not finite"
    assert np.all(kl[accepted] <= np.broadcast_to(max_kl, kl.shape)[accepted])
    assert np.all(kl >= 0)
    np.testing.assert_array_equal(kl[~accepted], 0)
    np.testing.assert_array_equal(accepted, np.asarray(metrics.status) == StepStatus.ACCEPTED)
    np.testing.assert_array_equal(np.asarray(metrics.step_fraction) > 0, accepted)
    assert np.asarray(kept)[~accepted].all(), "a rejected update changed the policy"
    refused = np.asarray(metrics.alarms.off_policy)
    # Beyond, float32 rounds an action of some units to its mean: its probability is lost.
    assert np.all(np.asarray(size)[refused] > 1e7), "fresh data was refused as stale"
    np.testing.assert_array_equal(metrics.valid_fraction, 1)


@pytest.mark.usefixtures("optimizing_compiler")
@pytest.mark.parametrize("env_id", ENVS)
def test_default_settings(env_id):
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id))
    hparams = trpo_jax.HParams()
    state = agent.init(jax.random.key(0))
    metrics, kept, *rest = jax.jit(lambda s: drive(agent, s, hparams))(state)
    check(metrics, kept, *rest, np.float32(hparams.max_kl))
    assert np.asarray(metrics.accepted).mean() > 0.9
    assert not np.asarray(kept)[np.asarray(metrics.accepted)].any()


@pytest.mark.usefixtures("optimizing_compiler")
@pytest.mark.parametrize("env_id", ENVS)
def test_hostile_hyperparameters(env_id):
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), TWO_LAYERS)
    state = agent.init(jax.random.key(1))
    runs = jax.jit(jax.vmap(lambda h: drive(agent, state, h)))(HOSTILE)
    check(*runs, np.asarray(HOSTILE.max_kl)[:, None])
    assert np.asarray(runs[0].accepted).any(axis=1).all()


@pytest.mark.parametrize(
    ("env_id", "changes"),
    [
        ("CartPole-v1", {"num_envs": 1, "num_steps": 1}),
        ("Pendulum-v1", {"num_envs": 1, "num_steps": 1, "normalize_rewards": True}),
        ("CartPole-v1", {"activation": "relu", "normalize_advantages": False, **LONELY}),
        ("Pendulum-v1", {"activation": "relu", "normalize_observations": True, "num_steps": 1}),
        ("Pendulum-v1", {"value_optimizer": "lbfgs", "normalize_rewards": True, **ADAPTIVE}),
        ("CartPole-v1", {"value_optimizer": "lbfgs", "num_envs": 1, "num_steps": 1}),
    ],
)
def test_hostile_configurations(env_id, changes):
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), TWO_LAYERS.replace(**changes))
    hparams = trpo_jax.HParams(max_kl=0.05, cg_damping=1e-3)
    state = agent.init(jax.random.key(2))
    check(*jax.jit(lambda s: drive(agent, s, hparams))(state), np.float32(0.05))


def categorical_kl(old, new):
    old, new = (np.asarray(logits, np.float64) for logits in (old.logits, new.logits))
    old, new = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (old, new))
    return np.sum(np.exp(old) * (old - new), -1)


def gaussian_kl(old, new):
    mean, log_std = (np.asarray(x, np.float64) for x in (old.mean, old.log_std))
    new_mean, new_log_std = (np.asarray(x, np.float64) for x in (new.mean, new.log_std))
    spread = (np.exp(2 * log_std) + (mean - new_mean) ** 2) / (2 * np.exp(2 * new_log_std))
    return np.sum(new_log_std - log_std + spread - 0.5, -1)


@pytest.mark.parametrize(
    ("env_id", "divergence"), [("CartPole-v1", categorical_kl), ("Pendulum-v1", gaussian_kl)]
)
def test_the_recorded_kl_is_that_of_the_two_policies(env_id, divergence):
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), SMALL)
    state = agent.init(jax.random.key(3))
    hparams = trpo_jax.HParams(max_kl=0.02)
    for _ in range(4):
        moved, trajectory = agent.rollout(state)
        after, metrics = agent.learn(moved, trajectory, hparams)
        new = agent.policy.apply(after.policy_params, trajectory.obs)
        recomputed = divergence(trajectory.distribution, new).mean()
        assert bool(metrics.accepted)
        np.testing.assert_allclose(metrics.kl, recomputed, rtol=1e-3)
        assert recomputed <= 0.02 * (1 + 1e-3)
        state = after
