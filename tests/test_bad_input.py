"""Bad input in Python: a `ValueError` that names what came, before anything is compiled."""

import dataclasses
import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problems
from gymnax.environments import spaces

import trpo_jax
from trpo_jax import Box, Discrete, Environment, EnvStep, HParams, MultiDiscrete, TRPOConfig

SMALL = TRPOConfig(num_envs=2, num_steps=8, hidden_sizes=(4,), cg_iterations=2, value_epochs=1)


class Counter(Environment):
    """Counts to five; its class attributes are what the tests get wrong."""

    name = "counter"
    obs_shape = (1,)
    action_space = Discrete(2)
    max_episode_steps = 5

    def reset(self, key):
        return {"time": jnp.int32(0)}, jnp.zeros(1)

    def step(self, key, state, action):
        time = state["time"] + 1
        return {"time": time}, EnvStep(time[None] / 5, 1.0, False, time >= 5)


class TupleStep(Counter):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, tuple(step)


class OtherStructure(Counter):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return {**state, "more": 0}, step


class WrongReset(Counter):
    def reset(self, key):
        return {"time": jnp.int32(0)}, jnp.zeros(3)


class WrongStep(Counter):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(obs=jnp.zeros(3))


@dataclasses.dataclass
class Unhashable(Counter):
    size: int = 3


def changed(**attributes):
    env = Counter()
    for name, value in attributes.items():
        setattr(env, name, value)
    return env


def test_the_environment_that_the_others_spoil_is_fine():
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    _, metrics = agent.update(agent.init(jax.random.key(0)))
    assert np.isfinite(metrics.kl)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPole-v1", "make_env"),
        (gymnax.make("CartPole-v1")[0], "make_env"),
        (changed(obs_shape=()), "obs_shape"),
        (changed(obs_shape=[1]), "obs_shape"),
        (changed(action_space=spaces.Discrete(2)), "action_space"),
        (changed(action_space=Discrete(0)), "no actions"),
        (changed(action_space=MultiDiscrete(())), "no actions"),
        (changed(action_space=Box(-1, 1, (0,))), "no actions"),
        (changed(action_space=Box(np.zeros(2), 1, (3,))), "bounds"),
        (changed(action_space=Box(1, -1, (3,))), "low < high"),
        (TupleStep(), "EnvStep"),
        (OtherStructure(), "structure"),
        (WrongReset(), r"reset of counter returns observations of shape \(3,\)"),
        (WrongStep(), r"step of counter returns observations of shape \(3,\)"),
        (Unhashable(), "eq=False"),
    ],
)
def test_an_environment_that_breaks_its_promises(env, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(env, SMALL)


def test_settings_in_the_wrong_place():
    with pytest.raises(ValueError, match="TRPOConfig"):
        trpo_jax.make_trpo(Counter(), HParams())
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    state = agent.init(jax.random.key(0))
    with pytest.raises(ValueError, match="HParams"):
        agent.update(state, {"max_kl": 0.01})
    with pytest.raises(ValueError, match="vmap"):
        agent.update(state, HParams(max_kl=[0.01, 0.02]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_episodes": 0},
        {"num_episodes": -1},
        {"num_episodes": 2.5},
        {"num_episodes": 2, "max_steps": 0},
        {"num_episodes": 2, "max_steps": -3},
    ],
)
def test_evaluation_of_nothing(arguments):
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    with pytest.raises(ValueError, match="whole number >= 1"):
        agent.evaluate(agent.init(jax.random.key(0)), jax.random.key(1), **arguments)


@pytest.mark.parametrize("shape", [(), (2,), (1, 2), (3, 8)])
def test_observations_of_another_shape(shape):
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    with pytest.raises(ValueError, match="must end in"):
        agent.act(agent.init(jax.random.key(0)), jax.random.key(1), jnp.zeros(shape))


def test_numbers_that_cannot_work():
    for wrong in ({"cg_tol": 1.0}, {"max_kl": 1e-60}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HParams(**wrong)
    with pytest.raises(ValueError, match="empty"):
        HParams.stack([])


def test_numpy_whole_numbers_are_whole_numbers():
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    train = functools.partial(agent.train, num_updates=np.int64(2))
    _, history = jax.eval_shape(train, agent.init(jax.random.key(0)))
    assert history.kl.shape == (2,)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(2048, 128), (20_011, 20_011), (2 * 10_007, 10_007), (7, 7)]
)
def test_minibatches_are_never_tiny(batch_size, expected):
    assert TRPOConfig(num_envs=1, num_steps=batch_size).minibatch_size == expected


def test_a_policy_without_hidden_layer():
    agent = trpo_jax.make_trpo(Counter(), SMALL.replace(hidden_sizes=()))
    _, history = agent.train(agent.init(jax.random.key(0)), num_updates=4)
    assert history.inactive_units.shape == (4, 0)
    assert not history.alarms.inactive_units.any()
    diagnosis = trpo_jax.diagnose(history, SMALL)
    assert "dead_units" not in [finding.name for finding in diagnosis.findings]


@pytest.mark.parametrize("max_kl", [1e-2, 1e-4, 1e-6])
def test_data_is_used_once_however_small_the_step(max_kl):
    """The policy has moved by less than its rounding shows; the version tells."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), tiny_problems.SMALL)
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    state, first = agent.learn(state, trajectory, HParams(max_kl=max_kl))
    after, second = agent.learn(state, trajectory, HParams(max_kl=max_kl))
    assert first.accepted
    assert second.status == trpo_jax.StepStatus.OFF_POLICY
    assert second.alarms.off_policy
    for new, old in zip(
        jax.tree.leaves(after.policy_params), jax.tree.leaves(state.policy_params), strict=True
    ):
        np.testing.assert_array_equal(new, old)


def test_a_policy_step_that_returns_nan_is_refused():
    def broken(objective, params, batch, hparams, config):
        settings = trpo_jax.trust_region_settings(hparams, config)
        params, info = trpo_jax.trust_region_step(objective, params, batch, **settings)
        return jax.tree.map(lambda leaf: leaf * jnp.nan, params), info

    agent = trpo_jax.make_trpo(Counter(), SMALL, policy_step=broken)
    before = agent.init(jax.random.key(0))
    after, metrics = agent.update(before)
    assert metrics.status == trpo_jax.StepStatus.NOT_FINITE
    assert not metrics.accepted
    for new, old in zip(
        jax.tree.leaves(after.policy_params), jax.tree.leaves(before.policy_params), strict=True
    ):
        np.testing.assert_array_equal(new, old)


class HiddenNaN(Counter):
    """Its hidden state blows up, which shows in the reward only."""

    max_episode_steps = None

    def reset(self, key):
        return {"speed": jnp.float32(1)}, jnp.zeros(1)

    def step(self, key, state, action):
        speed = state["speed"] * 1e20
        speed = jnp.where(jnp.isfinite(speed), speed, jnp.nan)
        return {"speed": speed}, EnvStep(jnp.zeros(1), speed * 0 + 1, False, False)


def test_an_environment_that_blew_up_starts_again():
    agent = trpo_jax.make_trpo(HiddenNaN(), SMALL.replace(num_steps=32))
    _, history = agent.train(agent.init(jax.random.key(0)), num_updates=3)
    np.testing.assert_allclose(history.valid_fraction, 0.5, atol=0.1)


def test_keys_of_either_kind_and_nothing_else():
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    old, new = agent.init(jax.random.PRNGKey(3)), agent.init(jax.random.key(3))
    metrics = agent.update(old)[1], agent.update(new)[1]
    assert metrics[0].kl == metrics[1].kl
    lanes = jax.vmap(agent.init)(jax.random.split(jax.random.PRNGKey(0), 2))
    assert lanes.num_updates.shape == (2,)
    for call in (agent.init, lambda key: agent.evaluate(new, key, 2)):
        with pytest.raises(
            ValueError, match=r"key=0 must be a random key; use jax.random.key\(0\)"
        ):
            call(0)
    assert agent.act(new, jax.random.PRNGKey(1), [0.5]).shape == ()


def test_a_state_of_another_agent_is_refused():
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    other = trpo_jax.make_trpo(Counter(), SMALL.replace(num_envs=4)).init(jax.random.key(0))
    lanes = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 3))
    for state in (other, lanes):
        for call in (agent.update, agent.train):
            with pytest.raises(ValueError, match=r"state.actor.obs has shape .* is \(2, 1\)"):
                call(state)


@pytest.mark.parametrize("num_episodes", [0, 2.5, jnp.int32(2)])
def test_a_number_of_episodes_is_a_whole_number(num_episodes):
    agent = trpo_jax.make_trpo(Counter(), SMALL)
    state = agent.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"num_episodes=.* must be a whole number >= 1"):
        agent.evaluate(state, jax.random.key(0), num_episodes=num_episodes)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (None, "policy_step=None must be"),
        ("ppo", "policy_step='ppo' must be"),
        (lambda objective, params, *rest: params, "must return"),
        (lambda objective, params, *rest: (params, None), "TrustRegionInfo"),
    ],
)
def test_a_policy_step_returns_parameters_and_information(step, words):
    def run():
        agent = trpo_jax.make_trpo(Counter(), SMALL, policy_step=step)
        agent.update(agent.init(jax.random.key(0)))

    with pytest.raises(ValueError, match=words):
        run()
