"""Environments of the user's own: the documented example, and what is refused with a remedy."""

import inspect
import textwrap
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from playing import step_once

import trpo_jax

SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(16,))


def documented_corridor() -> type:
    """The class that stands in the docstring of `Environment`."""
    lines = inspect.getdoc(trpo_jax.Environment).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("class Corridor"))
    end = next(i for i in range(start, len(lines)) if lines[i] and lines[i][0] != " ")
    names = {name: getattr(trpo_jax, name) for name in ("Environment", "Discrete", "EnvStep")}
    scope = {**names, "jnp": jnp}
    exec(textwrap.dedent("\n".join(lines[start:end])), scope)
    return scope["Corridor"]


def test_the_documented_example_trains():
    agent = trpo_jax.make_trpo(documented_corridor()(), SMALL.replace(num_steps=32))
    state = agent.init(jax.random.key(0))
    hparams = trpo_jax.HParams(max_kl=0.05, value_learning_rate=1e-2)
    state, _ = agent.train(state, hparams, num_updates=60)
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=16)
    np.testing.assert_array_equal(stats.returns, 1)
    np.testing.assert_array_equal(stats.lengths, 4)


class ChangesItsMind(trpo_jax.Environment):
    """Its state is an integer after reset and a float after step."""

    name = "changes-its-mind"
    obs_shape = (1,)
    action_space = trpo_jax.Discrete(2)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, key, state, action):
        over = jnp.bool_(False)
        return state + 0.5, trpo_jax.EnvStep(jnp.zeros(1), jnp.float32(0), over, over)


def test_a_state_that_changes_its_type_is_refused():
    with pytest.raises(ValueError, match=r"int32.*after reset.*float32.*after step"):
        step_once(ChangesItsMind(), jax.random.key(0), 1)


class Spoilt(trpo_jax.Environment):
    """Fine, until attributes or what its functions return are replaced."""

    name = "spoilt"
    obs_shape = (1,)
    action_space = trpo_jax.Discrete(2)
    begun = ({"time": 0}, np.zeros(1))
    fields: ClassVar = {}

    def reset(self, key):
        return self.begun

    def step(self, key, state, action):
        step = trpo_jax.EnvStep(jnp.zeros(1), 1.0, False, state["time"][None][0] > 4)
        return self.returned({"time": state["time"] + 1}, step._replace(**self.fields))

    def returned(self, state, step):
        return state, step


def spoilt(**attributes):
    return type("Spoilt", (Spoilt,), attributes)()


ONE = np.zeros(1)
BOX_OF_ONE_NUMBER = trpo_jax.Box(-1, 1, ())


def test_the_environment_to_be_spoilt_trains():
    for fields in ({}, {"reward": 1}, {"reward": np.float64(1)}, {"terminated": jnp.float32(0)}):
        agent = trpo_jax.make_trpo(spoilt(fields=fields, action_space=BOX_OF_ONE_NUMBER), SMALL)
        assert agent.rollout(agent.init(jax.random.key(0)))[1].reward.shape == (16, 4)


class Model:
    """Static data of a simulator: equal by content, told apart by its address when printed."""

    def __init__(self, bodies):
        self.bodies = bodies

    def __eq__(self, other):
        return isinstance(other, Model) and self.bodies == other.bodies

    def __hash__(self):
        return hash(self.bodies)


class Simulation(struct.PyTreeNode):
    time: jax.Array
    model: Any = struct.field(pytree_node=False)


class Simulated(Spoilt):
    """Makes its static data anew in every function, as mjx does."""

    bodies_after_step = 3

    def reset(self, key):
        return Simulation(jnp.int32(0), Model(bodies=3)), jnp.zeros(1)

    def step(self, key, state, action):
        over = jnp.bool_(False)
        after = Simulation(state.time + 1, Model(self.bodies_after_step))
        return after, trpo_jax.EnvStep(jnp.zeros(1), jnp.float32(1), over, over)


def test_static_data_of_a_state_is_compared_by_what_it_is_not_by_its_address():
    one, other = Model(3), Model(3)
    assert repr(one) != repr(other)
    agent = trpo_jax.make_trpo(Simulated(), SMALL)
    _, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    np.testing.assert_array_equal(trajectory.reward, 1)


def test_static_data_that_changes_is_refused():
    env = Simulated()
    env.bodies_after_step = 4
    with pytest.raises(ValueError, match=r"another structure .* state has other static data"):
        trpo_jax.make_trpo(env, SMALL)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reward": ONE}, r"reward of shape \(1,\); a scalar"),
        ({"terminated": ONE > 0}, r"terminated of shape \(1,\); a scalar"),
        ({"truncated": ONE > 0}, r"truncated of shape \(1,\); a scalar"),
        ({"truncated": None}, "truncated=None; a scalar"),
        ({"reward": "much"}, "reward='much'"),
        ({"reward": 1j}, "reward=1j.*real"),
        ({"obs": ONE * 1j}, r"observations=array.*j\]\).*real"),
    ],
)
def test_what_a_step_says_is_checked_before_anything_runs(fields, words):
    with pytest.raises(ValueError, match=rf"step of spoilt returns .*{words}"):
        trpo_jax.make_trpo(spoilt(fields=fields), SMALL)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"begun": (1, 2, 3)}, r"must return \(state, obs\)"),
        ({"begun": (ONE, {"time": 0})}, "reset .* observations={'time': 0}; one array"),
        ({"begun": ({"time": 0}, [0.0])}, r"reset .* observations=\[0.0\]; one array"),
        ({"begun": ({"time": "late"}, ONE)}, "not a tree of arrays"),
        ({"fields": {"obs": [0.0]}}, "observation of spoilt .*structure.* is a list in one"),
        ({"fields": {"obs": {"a": ONE}}}, "observation of spoilt .*structure.* is a dict in one"),
        ({"returned": lambda _, state, step: (state, {}, step)}, r"must return \(state, .*EnvStep"),
        ({"returned": lambda _, state, step: ({"time": 0.5}, step)}, "int32.*after reset.*float32"),
        ({"max_episode_steps": 5.0}, r"max_episode_steps of spoilt=5.0 must be a whole number"),
        ({"obs_shape": ("1",)}, r"obs_shape=\('1',\) of spoilt must be"),
    ],
)
def test_what_is_wrong_with_an_environment_is_said(attributes, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(spoilt(**attributes), SMALL)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (trpo_jax.Discrete(2.0), r"num_actions=2.0\) of spoilt must be counted"),
        (trpo_jax.Discrete("a"), r"num_actions='a'\) of spoilt must be counted"),
        (trpo_jax.MultiDiscrete(3), r"num_categories=3\) of spoilt must be counted"),
        (trpo_jax.MultiDiscrete((2.0, 3)), r"\(2.0, 3\)\) of spoilt must be counted"),
        (trpo_jax.Box(-1, 1, 3), r"shape=3\) of spoilt must be counted"),
        (trpo_jax.Box(None, None, (3,)), "low=None.*bounds"),
        (trpo_jax.Box("a", "b", (3,)), "low='a'.*bounds"),
        (trpo_jax.Box(-1, 1j, (3,)), "high=1j.*bounds"),
    ],
)
def test_action_spaces_are_counted_in_whole_numbers_between_real_bounds(space, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(spoilt(action_space=space), SMALL)


@pytest.mark.parametrize("attribute", ["name", "obs_shape", "action_space"])
def test_an_attribute_that_is_missing_is_named(attribute):
    class Bare(trpo_jax.Environment):
        reset, step = Spoilt.reset, Spoilt.step

    for other in {"name", "obs_shape", "action_space"} - {attribute}:
        setattr(Bare, other, getattr(Spoilt, other))
    with pytest.raises(ValueError, match=f"Bare has no {attribute}"):
        trpo_jax.make_trpo(Bare(), SMALL)
