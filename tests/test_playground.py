"""MuJoCo Playground's environments beside Playground's own API."""

import jax.numpy as jnp
import numpy as np
import pytest
from following import FUSED, ends, follow
from ml_collections import config_dict
from mujoco_playground import registry
from mujoco_playground._src import mjx_env
from mujoco_playground._src.wrapper import wrap_for_brax_training
from playing import play

import trpo_jax
from trpo_jax.envs import EnvStep, Observation
from trpo_jax.envs import playground as adapter

LIMIT = 12


@pytest.fixture(scope="module")
def cartpole():
    return trpo_jax.make_env("playground/CartpoleBalance", episode_length=LIMIT)


def sides(theirs):
    """Reset and step of Playground; its time limit is counted beside."""

    def reset(key):
        state = theirs.reset(key)
        return (state, 0), state.obs

    def step(key, state, action):
        state, time = theirs.step(state[0], action), state[1] + 1
        return (state, time), EnvStep(
            obs=state.obs,
            reward=state.reward,
            terminated=state.done == 1,
            truncated=jnp.bool_(time >= LIMIT),
            metrics=state.metrics,
        )

    return reset, step


def push_or_break(seen):
    """A random push, or now and then one that is no number, which ends the episode."""

    def choose(rng, obs):
        seen.append(obs)
        action = np.float32([np.nan if rng.random() < 0.1 else rng.uniform(-1, 1)])
        return action, action

    return choose


def test_steps_equal_playgrounds_own_until_each_end(cartpole):
    assert cartpole.name == "CartpoleBalance"
    assert cartpole.obs_shape == (5,)
    assert cartpole.action_space.shape == (1,)
    assert cartpole.max_episode_steps == LIMIT
    theirs = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    seen = []
    steps = follow(cartpole, *sides(theirs), push_or_break(seen), 80, FUSED)
    terminated, truncated = ends(steps)
    assert terminated >= 2
    assert truncated >= 2
    ended = [step.terminated or step.truncated for step in steps]
    first = {tuple(obs) for obs, after in zip(seen[1:], ended[:-1], strict=True) if after}
    assert len(first) == sum(ended[:-1])  # each episode begins in a state of its own
    assert "reward/upright" in steps[0].metrics
    rewards = [step.reward for step in steps if np.isfinite(step.reward)]
    assert np.all((np.array(rewards) > 0.5) & (np.array(rewards) <= 1))


def test_configurations_are_set_by_keywords(cartpole):
    assert cartpole.unwrapped._config.impl == "jax"
    env = adapter.make("CartpoleBalance", ctrl_dt=0.02, config_overrides={"action_repeat": 4})
    config = env.unwrapped._config
    assert (config.ctrl_dt, config.episode_length) == (0.02, 1000)
    assert env.max_episode_steps == 250
    with pytest.raises(ValueError, match=r"ctrl cannot be set for 'CartpoleBalance'; .* ctrl_dt,"):
        trpo_jax.make_env("playground/CartpoleBalance", ctrl=0.02)
    with pytest.raises(ValueError, match=r"does not take .*'fast'"):
        trpo_jax.make_env("playground/CartpoleBalance", ctrl_dt="fast")
    with pytest.raises(ValueError, match="impl='c' is unknown; use one of jax, warp"):
        trpo_jax.make_env("playground/CartpoleBalance", impl="c")


def test_a_robot_whose_model_is_missing_says_what_to_fetch(monkeypatch):
    monkeypatch.setattr("trpo_jax.envs.suites._has_robots", lambda: False)
    with pytest.raises(ValueError, match=r"'Go1Getup' must be fetched .*ensure_menagerie_exists"):
        trpo_jax.make_env("playground/Go1Getup")
    assert "playground/Go1Getup" not in trpo_jax.list_environments()
    assert "playground/CheetahRun" in trpo_jax.list_environments()


class Counter(mjx_env.MjxEnv):
    """Counts its steps without any physics; `observe` makes the observation of the count."""

    xml_path, mj_model, mjx_model, action_size = "", None, None, 1

    def __init__(self, observe):
        config = {"ctrl_dt": 0.1, "sim_dt": 0.1, "episode_length": 6, "action_repeat": 2}
        super().__init__(config_dict.create(**config))
        self._observe = observe

    def reset(self, rng):
        zero = jnp.zeros(())
        return mjx_env.State(zero, self._observe(zero), zero, zero, {"count": zero}, {"rng": rng})

    def step(self, state, action):
        count = state.data + 1
        return state.replace(
            data=count,
            obs=self._observe(count),
            reward=jnp.ones(()),
            done=jnp.float32(count >= 100),
            metrics={"count": count},
        )


def test_limit_and_repeat_of_an_objects_configuration_are_respected():
    env = trpo_jax.make_env(Counter(lambda count: count[None]))
    assert (env.name, env.max_episode_steps) == ("Counter", 3)
    steps = play(env, [0.0], 3)
    np.testing.assert_array_equal(steps.reward, [2, 2, 2])
    np.testing.assert_array_equal(steps.obs[:, 0], [2, 4, 6])
    np.testing.assert_array_equal(steps.truncated, [False, False, True])
    assert not steps.terminated.any()
    longer = trpo_jax.make_env(Counter(lambda count: count[None]), episode_length=8)
    assert longer.max_episode_steps == 4
    once = adapter.from_object(Counter(lambda count: count[None]), action_repeat=1)
    assert once.max_episode_steps == 6
    thrice = trpo_jax.make_env(Counter(lambda count: count[None]), action_repeat=3)
    assert thrice.max_episode_steps == 2


def test_the_privileged_state_is_for_the_critic():
    env = trpo_jax.make_env(
        Counter(lambda count: {"state": count[None], "privileged_state": jnp.full(3, count)})
    )
    assert env.obs_shape == (1,)
    obs = play(env, [0.0], 2).obs
    assert isinstance(obs, Observation)
    np.testing.assert_array_equal(obs.policy, [[2], [4]])
    np.testing.assert_array_equal(obs.critic, [[2] * 3, [4] * 3])


def test_other_dictionaries_are_trees():
    env = trpo_jax.make_env(
        Counter(lambda count: {"pixels/view_0": jnp.full((2, 2, 1), count), "state": count[None]})
    )
    assert env.obs_shape == {"pixels/view_0": (2, 2, 1), "state": (1,)}


def test_playgrounds_wrappers_for_training_are_refused():
    with pytest.raises(ValueError, match="pass the environment without it"):
        trpo_jax.make_env(wrap_for_brax_training(Counter(lambda count: count[None])))
    with pytest.raises(ValueError, match=r"pass what registry\.load returns"):
        trpo_jax.make_env(mjx_env.State(*[None] * 6))
