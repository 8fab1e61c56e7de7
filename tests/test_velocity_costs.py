"""Costs of speed: the same rule on the host and in JAX, counted within repeated actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax import EnvStep, HParams, TRPOConfig, make_env, make_trpo
from trpo_jax.envs.base import cost_names
from trpo_jax.envs.velocity import VelocityCost


@pytest.mark.parametrize("xp", [np, jnp])
def test_the_rule(xp):
    """A single velocity has a sign, a speed has none; NaN is no free step; other costs stay."""
    metrics = {"x_velocity": xp.asarray([0.5, 1.5, -2.0, xp.nan]), "y_velocity": xp.zeros(4)}
    step = EnvStep(xp.zeros((4, 1)), xp.zeros(4), xp.zeros(4), xp.zeros(4), metrics)
    forward = VelocityCost("velocity_limit", ("x_velocity",), 1.0)
    speed = VelocityCost("speed_limit", ("x_velocity", "y_velocity"), 1.0)
    _, once = forward.after((), step)
    _, twice = speed.after((), once)
    np.testing.assert_array_equal(once.cost["velocity_limit"], [0, 1, 0, np.nan])
    np.testing.assert_array_equal(twice.cost["speed_limit"], [0, 1, 1, np.nan])
    assert set(twice.cost) == {"velocity_limit", "speed_limit"}
    _, added = forward.after((), step._replace(cost=xp.ones(4)))
    np.testing.assert_array_equal(added.cost["cost"], np.ones(4))


@pytest.mark.parametrize("env_id", ["gymnasium/Hopper-v5", "envpool/Hopper-v5"])
def test_simulators_count_every_step_of_a_repeated_action(env_id):
    """The same seed and actions, once with repetition and once by hand."""
    repeated = make_env(env_id, velocity_limit=0.05, action_repeat=3)
    single = make_env(env_id, velocity_limit=0.05)
    assert repeated.costs == single.costs == ("velocity_limit",)
    ours, theirs = (each.simulators(np.arange(3)) for each in (repeated, single))
    ours.reset(), theirs.reset()
    rng, seen = np.random.default_rng(0), 0.0
    for _ in range(4):
        actions = rng.uniform(-1, 1, (3, *single.action_space.shape)).astype(np.float32)
        step = jax.tree.map(np.copy, ours.step(actions))
        total, alive = np.zeros(3), np.ones(3, bool)
        for _ in range(3):
            inner = theirs.step(actions)
            fast = inner.metrics["x_velocity"] > 0.05
            np.testing.assert_array_equal(inner.cost["velocity_limit"], fast)
            total += alive * fast
            alive &= ~(inner.terminated | inner.truncated)
        np.testing.assert_array_equal(step.cost["velocity_limit"], total)
        seen += total.sum()
        if not alive.all():
            break
    assert seen > 0
    ours.close(), theirs.close()


def test_an_agent_learns_from_costs_of_simulators():
    env = make_env("envpool/Hopper-v4", velocity_limit=0.1)
    config = TRPOConfig(num_envs=2, num_steps=32, hidden_sizes=(8,), algorithm="cpo")
    agent = make_trpo(env, config)
    states, metrics = agent.train(agent.init(jax.random.split(jax.random.key(0), 2)), num_updates=2)
    assert metrics.cost_estimate.shape == (2, 2)
    assert np.isfinite(metrics.constraint.violation).all()
    stats = agent.evaluate(states, jax.random.key(1), num_episodes=3)
    assert stats.costs.shape == (2, 3)
    assert (stats.costs <= stats.lengths).all()
    np.testing.assert_array_equal(stats.costs, stats.costs_by_name["velocity_limit"])
    _, trajectory = agent.rollout(states)
    speed, cost = trajectory.metrics["x_velocity"], trajectory.costs["velocity_limit"]
    np.testing.assert_array_equal(cost, speed > 0.1)
    _, metrics = agent.learn(states, trajectory, HParams(cost_limit=0.0))
    assert (metrics.constraint.violation >= 0).all()


def test_playground_measures_velocity_when_it_is_limited():
    """The cost of a compiled environment, from dm_control's sensor; traced only."""
    env = make_env("playground/CheetahRun", velocity_limit=0.1)
    assert cost_names(env) == ("velocity_limit",)
    assert env.recipe == ("playground/CheetahRun", {"velocity_limit": 0.1})
    assert make_env("playground/CheetahRun").metrics is None


@pytest.mark.parametrize(
    ("env_id", "keywords", "message"),
    [
        ("CartPole-v1", {"velocity_limit": 1.0}, "CartPole-v1 does not measure x_velocity"),
        ("gymnasium/Pendulum-v1", {"speed_limit": 1.0}, "does not measure x_velocity and y"),
        ("gymnasium/Hopper-v5", {"speed_limit": 1.0}, "does not measure y_velocity"),
        ("gymnasium/Hopper-v5", {"velocity_limit": True}, "velocity_limit=True must be a finite"),
        ("gymnasium/Hopper-v5", {"velocity_limit": "fast"}, "velocity_limit='fast'"),
    ],
)
def test_what_measures_no_velocity_is_refused(env_id, keywords, message):
    with pytest.raises(ValueError, match=message):
        make_env(env_id, **keywords)
