"""A policy of sb3-contrib's, imported: it acts as it did there.

data/sb3_contrib_trpo.npz holds weights, statistics and outputs of sb3-contrib's TRPO (2.x, torch)
after 1,024 steps, with the last layer of the policy enlarged so that actions reach their bounds.
"""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax.learner.normalization import normalize

DATA = np.load(Path(__file__).parent / "data" / "sb3_contrib_trpo.npz")
CONFIG = trpo_jax.TRPOConfig(
    num_envs=2, num_steps=8, hidden_sizes=(8, 6), critic_hidden_sizes=(5,), value_epochs=1
)


def stored(env_id):
    prefix = f"{env_id}/"
    own = {name.removeprefix(prefix): DATA[name] for name in DATA if name.startswith(prefix)}
    weights = {k.removeprefix("weights/"): v for k, v in own.items() if k.startswith("weights/")}
    rms = None
    if "mean" in own:
        rms = SimpleNamespace(mean=own["mean"], var=own["var"], count=float(own["count"]))
    return weights, rms, own


def make_agent(env_id, **changes):
    config = CONFIG.replace(normalize_observations=env_id.startswith("Pendulum"))
    return trpo_jax.make_trpo(trpo_jax.make_env(env_id), config.replace(**changes))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_it_acts_and_values_as_sb3_contrib(env_id):
    weights, rms, own = stored(env_id)
    agent = make_agent(env_id)
    state = trpo_jax.import_sb3(agent, weights, rms)
    actions = agent.act(state, jax.random.key(0), own["obs"], deterministic=True)
    np.testing.assert_allclose(actions, own["actions"], rtol=1e-5, atol=1e-5)
    assert len(np.unique(own["actions"])) > 1
    if env_id == "Pendulum-v1":
        assert (np.abs(own["actions"]) == 2).any()  # some at their bounds
        assert (np.abs(own["actions"]) < 2).any()
    seen = jnp.asarray(own["obs"])
    seen = normalize(state.obs_statistics, seen) if rms else seen
    values = agent.critic.apply(state.value_params, seen)
    np.testing.assert_allclose(values, own["values"], rtol=1e-4, atol=1e-5)
    state, metrics = agent.update(state)
    assert metrics.accepted
    assert np.isfinite(metrics.kl)


def test_the_deviation_is_that_of_sb3_contrib():
    weights, rms, own = stored("Pendulum-v1")
    agent = make_agent("Pendulum-v1")
    state = trpo_jax.import_sb3(agent, weights, rms)
    central = own["obs"][np.argmin(np.abs(own["actions"]))]
    obs = np.broadcast_to(central, (20_000, 3))
    actions = np.asarray(agent.act(state, jax.random.key(0), obs)).ravel()
    mode = float(agent.act(state, jax.random.key(0), obs[:1], deterministic=True)[0, 0])
    below = mode - 0.5 * np.exp(weights["log_std"][0])
    assert -2 < below < mode < 2
    share = np.mean(actions < below)  # of a Gaussian half a deviation below its mean
    assert abs(share - 0.3085) < 0.02


@pytest.mark.parametrize(
    ("env_id", "changes", "drop", "message"),
    [
        ("CartPole-v1", {"hidden_sizes": (8,)}, None, "hidden_sizes"),
        ("CartPole-v1", {"critic_hidden_sizes": (6,)}, None, "critic_hidden_sizes"),
        ("CartPole-v1", {"normalize_observations": True}, None, "obs_rms is missing"),
        ("Pendulum-v1", {"normalize_observations": False}, None, "obs_rms is given"),
        ("Pendulum-v1", {"action_bounds": "tanh"}, None, "use 'clip'"),
        ("Pendulum-v1", {}, "log_std", "no 'log_std'"),
        ("CartPole-v1", {}, "action_net.bias", "no 'action_net.bias'"),
    ],
)
def test_a_mistake_is_named(env_id, changes, drop, message):
    weights, rms, _ = stored(env_id)
    weights.pop(drop, None)
    with pytest.raises(ValueError, match=message):
        trpo_jax.import_sb3(make_agent(env_id, **changes), weights, rms)
