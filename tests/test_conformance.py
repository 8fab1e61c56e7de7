"""`check_environment`: right environments pass, and each broken promise is found, and it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax import Box, Discrete, Environment, EnvStep, Observation, check_environment
from trpo_jax.cli import main
from trpo_jax.envs.host import HostEnvironment, Simulators
from trpo_jax.envs.transforms import TimeLimit
from trpo_jax.experiments.conformance.checking import PROMISES

STEPS = 40


class Walk(Environment):
    """Right in every respect: a walk from a random place, cut off after four steps."""

    name = "walk"
    obs_shape = (2,)
    action_space = Discrete(3)
    max_episode_steps = 4
    limit = 4

    def reset(self, key):
        state = {"place": jax.random.uniform(key), "time": jnp.int32(0)}
        return state, self.obs(state)

    def step(self, key, state, action):
        state = {"place": state["place"] + 0.1 * (action - 1), "time": state["time"] + 1}
        return state, EnvStep(
            self.obs(state), state["place"], jnp.bool_(False), state["time"] >= self.limit
        )

    def obs(self, state):
        return jnp.stack([state["place"], state["time"] / 4])


class MaskedTree(Walk):
    action_space = trpo_jax.MultiDiscrete((3, 2))

    def __init__(self):
        self.obs_shape = {"place": (1,), "time": (2, 2)}

    def step(self, key, state, action):
        return super().step(key, state, action[0] - action[1])

    def obs(self, state):
        policy = {"place": state["place"][None], "time": jnp.full((2, 2), state["time"])}
        return Observation(policy, action_mask=jnp.array([1, 0, 1, 1, 1], bool))


class HostWalk(HostEnvironment):
    """The same walk on the host."""

    name = "host-walk"
    obs_shape = (2,)
    obs_spec = jax.ShapeDtypeStruct((2,), np.float32)
    action_space = Discrete(3)
    max_episode_steps = 4
    simulator: type["Walks"]

    def simulators(self, seeds):
        return self.simulator(seeds)


class Walks(Simulators):
    def __init__(self, seeds):
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.obs = np.zeros((len(seeds), 2), np.float32)

    def reset(self):
        return self.restart(np.ones(len(self.obs), bool))

    def step(self, actions, rows=None):
        rows = slice(None) if rows is None else rows
        self.obs[rows] += np.stack([0.1 * (actions - 1), np.full(len(actions), 0.25)], axis=1)
        ended = self.obs[:, 1] >= 1
        return EnvStep(self.obs, self.obs[:, 0], np.zeros_like(ended), ended)

    def restart(self, mask):
        for row in np.flatnonzero(mask):
            self.obs[row] = self.rngs[row].random(), 0
        return self.obs


HostWalk.simulator = Walks


@pytest.mark.parametrize("env", ["CartPole-v1", MaskedTree(), HostWalk()])
def test_right_environments_pass(env):
    report = check_environment(env, num_steps=STEPS)
    assert report.ok
    assert not report.failures
    assert [each.promise for each in report.promises] == list(PROMISES)
    on_host = {"jit and vmap", "compiled once"} if isinstance(env, HostWalk) else set()
    assert {each.promise for each in report.skipped} == on_host
    assert "BROKEN" not in str(report)
    assert str(report).startswith(f"{report.env}: ok; promises: {12 - len(on_host)} kept")


class WrongShape(Walk):
    obs_shape = (3,)


class Counting(Walk):
    """Counts its calls, which compiled code does only once."""

    calls = 0

    def step(self, key, state, action):
        self.calls += 1
        state, step = super().step(key, state, action)
        return state, step._replace(reward=jnp.float32(self.calls))


class Branching(Walk):
    def step(self, key, state, action):
        return super().step(key, state, 0 if action > 1 else action)


class RefusesAction(Walks):
    def step(self, actions, rows=None):
        if (actions == 2).any():
            raise RuntimeError("no such action")
        return super().step(actions, rows)


class Unseeded(Walks):
    def __init__(self, seeds):
        super().__init__([None for _ in seeds])


class OddFlags(Walk):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(truncated=2 * step.truncated.astype(jnp.int32))


class ResetsItself(Walk):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        state = jax.tree.map(
            lambda a, b: jnp.where(step.truncated, a, b), self.reset(key)[0], state
        )
        return state, step._replace(obs=self.obs(state))


class Stale(Walks):
    """Gives the final observation again after a restart."""

    def restart(self, mask):
        before = self.obs.copy()
        fresh = super().restart(mask)
        return fresh if not before.any() else before


class TooLong(Walk):
    max_episode_steps = 3


class Huge(Walk):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(reward=jnp.float32(3e38))


class NothingAllowed(Walk):
    def obs(self, state):
        mask = jnp.array([True, True, False]) & (state["time"] != 2)
        return Observation(super().obs(state), action_mask=mask)


class NotFinite(Walk):
    def obs(self, state):
        return jnp.where(state["time"] == 2, jnp.nan, super().obs(state))


class LeavesItsSpace(Walk):
    observation_space = Box(0, 0.7, (2,))


@jax.tree_util.register_pytree_node_class
class Labelled:
    def __init__(self, state, label):
        self.state, self.label = state, label

    def tree_flatten(self):
        return (self.state,), self.label

    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)


class OtherStaticData(Walk):
    """The state says whether the environment had been tried when the program was made."""

    limit = max_episode_steps = 1000
    calls = 0

    def reset(self, key):
        state, obs = super().reset(key)
        return Labelled(state, self.calls > 1), obs

    def step(self, key, state, action):
        self.calls += 1
        after, step = super().step(key, state.state, action)
        return Labelled(after, self.calls > 1), step


def on_host(simulators):
    env = HostWalk()
    env.simulator = simulators
    return env


class CannotBegin(Walks):
    def reset(self):
        raise RuntimeError("no file")


class CannotBeginAgain(Walks):
    """Fails where the first episodes end."""

    def restart(self, mask):
        if self.obs.any():
            raise RuntimeError("no second file")
        return super().restart(mask)


class CannotBeMade(Walks):
    def __init__(self, seeds):
        raise RuntimeError("no display")


class WithoutSpec(HostWalk):
    obs_spec = None


class OtherSpec(HostWalk):
    obs_spec = jax.ShapeDtypeStruct((3,), np.float32)


BROKEN = {
    "shapes and types": [
        (WrongShape(), "obs_shape=(3,)"),
        (WithoutSpec(), "obs_spec=None of host-walk, which steps on the host, must say shapes"),
        (OtherSpec(), "has shapes (3,), and obs_shape=(2,)"),
    ],
    "jit and vmap": [
        (Counting(), "step 0: reward: "),
        (Branching(), "cannot be traced"),
    ],
    "actions": [
        (on_host(RefusesAction), "RuntimeError: no such action"),
        (on_host(CannotBeMade), "simulators(seeds) raises RuntimeError: no display"),
        (on_host(CannotBegin), "reset raises RuntimeError: no file"),
        (on_host(CannotBeginAgain), "the reset after step 3 raises RuntimeError: no second file"),
    ],
    "same key, same episode": [(on_host(Unseeded), "first_obs, played twice")],
    "ends": [(OddFlags(), "truncated is at step 3, environment 0: 2")],
    "final observation": [(ResetsItself(), "at all 40 ends")],
    "fresh episodes": [(on_host(Stale), "the final observation comes once more")],
    "time limit": [(TooLong(), "4 steps long; max_episode_steps=3")],
    "record": [(Huge(), "at step 1, environment 0")],
    "masks": [(NothingAllowed(), "allow none of 3 actions")],
    "finite": [
        (NotFinite(), "next_obs[0] at step 1, environment 0: nan"),
        (LeavesItsSpace(), "lies outside observation_space"),
    ],
    "compiled once": [(OtherStaticData(), "step was compiled")],
}


def test_every_promise_can_be_broken():
    assert BROKEN.keys() == PROMISES.keys()


@pytest.mark.parametrize(
    ("promise", "env", "words"),
    [
        pytest.param(
            promise, env, words, id=f"{promise}-{getattr(env, 'simulator', type(env)).__name__}"
        )
        for promise, cases in BROKEN.items()
        for env, words in cases
    ],
)
def test_a_broken_promise_is_found_and_it_alone(promise, env, words):
    report = check_environment(env, num_steps=STEPS)
    assert [each.promise for each in report.failures] == [promise]
    assert not report.ok
    assert words in report.failures[0].detail
    assert "BROKEN" in str(report)
    assert promise in str(report)


def test_a_time_limit_of_ours_that_terminates_is_found(monkeypatch):
    def terminate(self, memory, step):
        return memory + 1, step._replace(terminated=memory + 1 >= self.steps)

    monkeypatch.setattr(TimeLimit, "after", terminate)
    env = Walk()
    env.limit = env.max_episode_steps = 9
    report = check_environment(env, num_steps=STEPS)
    assert [each.promise for each in report.failures] == ["time limit"]
    assert "episode_length=5 terminates" in report.failures[0].detail


class Peculiar(Walk):
    """Ignores its key, terminates at its time limit, and sets the other flag as well."""

    def reset(self, key):
        return super().reset(jax.random.key(3))

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(terminated=step.truncated)


def test_peculiarities_are_notes():
    report = check_environment(Peculiar(), num_steps=STEPS)
    assert report.ok
    assert report.notes == (
        "ends: 40 of 40 ends set both flags; the record keeps terminated",
        "fresh episodes: reset ignores its key: all episodes begin alike",
        "time limit: its own limit of 4 steps sets both flags (40 times)",
    )
    assert all(note.partition(": ")[2] in " ".join(str(report).split()) for note in report.notes)


@pytest.mark.parametrize(
    ("env", "words"), [("CartPol-v1", "CartPole-v1"), (3, "3"), (Walk, "is a class")]
)
def test_what_is_no_environment_is_refused(env, words):
    with pytest.raises(ValueError, match=words):
        check_environment(env)


def make_walk(limit=4):
    """For the command line."""
    env = Walk()
    env.limit = limit
    return env


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["test_conformance:make_walk"], 0),
        (["test_conformance:make_walk", "--env-args", "limit=5"], 1),
        (["CartPol-v1"], 2),
        (["test_conformance:make_walk", "--env-args", "length=5"], 2),
        (["CartPole-v1", "--num-envs", "1"], 2),
        ([], 2),
    ],
)
def test_exit_codes(words, code, monkeypatch, capsys):
    monkeypatch.chdir(trpo_jax.__path__[0] + "/../tests")
    assert main(["check", *words, *(["--num-steps", "20"] if words else [])]) == code
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == (code == 2)
    assert ("max_episode_steps=4" in out) == (code == 1)
    assert ("walk: ok" in out) == (code == 0)
