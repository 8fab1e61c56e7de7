"""Parameters drawn for every episode, against the suites' own steps with these parameters."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs
from playing import play
from probe_envs import ConstantReward

import trpo_jax
from trpo_jax.envs.base import reset_batch, step_batch
from trpo_jax.envs.randomization import randomized
from trpo_jax.envs.wrappers import innermost_state, transformed

SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,))
N = 3


def draw_gravity(key, params):
    return params.replace(gravity=jax.random.uniform(key, minval=1.0, maxval=30.0))


def draw_and_tell(key, params):
    params = draw_gravity(key, params)
    return params, params.gravity[None]


def as_playground_does(params, keys):
    gravity = jax.vmap(lambda key: draw_gravity(key, params).gravity)(keys)
    in_axes = jax.tree.map(lambda _: None, params).replace(gravity=0)
    return params.replace(gravity=gravity), in_axes


@pytest.fixture(scope="module")
def cartpole():
    return trpo_jax.make_env("gymnax/CartPole-v1")


@pytest.fixture(scope="module")
def told(cartpole):
    return randomized(cartpole, draw_and_tell)


@pytest.mark.parametrize("fn", [draw_gravity, as_playground_does])
def test_an_episode_is_that_of_gymnax_with_the_parameters_drawn(cartpole, fn):
    env = randomized(cartpole, fn)
    states, _ = reset_batch(env, jax.random.split(jax.random.key(0), N))
    (gravity,) = states.drawn
    assert len(np.unique(gravity)) == N
    assert ((gravity > 1) & (gravity < 30)).all()
    theirs, params = gymnax.make("CartPole-v1")
    their_states = innermost_state(env, states)
    for t in range(3):
        keys = jax.random.split(jax.random.key(t), N)
        states, step = step_batch(env, keys, states, jnp.ones(N, jnp.int32))
        rows = []
        for i in range(N):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], their_states)
            rows.append(theirs.step_env(keys[i], one, 1, params.replace(gravity=gravity[i]))[:2])
        np.testing.assert_allclose(step.obs, np.stack([obs for obs, _ in rows]), rtol=1e-5)
        their_states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[row[1] for row in rows])
        np.testing.assert_array_equal(states.drawn[0], gravity)


def test_both_forms_draw_the_same(cartpole):
    key = jax.random.key(4)
    ours, playgrounds = (
        randomized(cartpole, fn).reset(key)[0].drawn for fn in (draw_gravity, as_playground_does)
    )
    np.testing.assert_array_equal(ours, playgrounds)


def test_every_episode_has_parameters_of_its_own(told):
    """In a rollout, whose observations tell them to the critic."""
    env = transformed(told, episode_length=4)
    agent = trpo_jax.make_trpo(env, SMALL)
    _, trajectory = jax.jit(agent.rollout)(agent.init(jax.random.key(0)))
    inner, gravity = trajectory.obs.critic
    np.testing.assert_array_equal(inner, trajectory.obs.policy)
    np.testing.assert_array_equal(trajectory.next_obs.critic[1], gravity)
    gravity = gravity[..., 0]
    assert (np.diff(gravity.reshape(4, 4, 4), axis=1) == 0).all()  # 4 episodes of 4 steps each
    assert len(np.unique(gravity)) == 16


def test_the_policy_does_not_see_what_the_critic_is_told(told, cartpole):
    assert told.obs_shape == cartpole.obs_shape
    assert told.parameters is cartpole.parameters
    assert told.max_episode_steps == 500
    assert told.unwrapped is cartpole.unwrapped


def test_training_with_privileged_parameters(told):
    agent = trpo_jax.make_trpo(transformed(told, frame_stack=2), SMALL)
    state, history = agent.train(agent.init(jax.random.key(0)), trpo_jax.HParams(), num_updates=2)
    assert history.accepted.any()
    kernel = state.value_params["params"]["body"]["Dense_0"]["kernel"]
    assert kernel.shape[0] == 4 + 1  # stacked later: the last frame alone, and the gravity


def test_by_id_with_transforms():
    """The critic sees all frames that the policy sees, and what was drawn."""
    env = trpo_jax.make_env("CartPole-v1", randomize=draw_and_tell, frame_stack=2, action_repeat=2)
    assert env.obs_shape == (8,)
    obs = play(env, 1, 2).obs
    frames, gravity = obs.critic
    np.testing.assert_array_equal(frames, obs.policy)
    assert gravity.shape == (2, 1)
    assert gravity[0] == gravity[1] != 9.8


def test_on_the_host():
    with pytest.raises(ValueError, match=r"randomize=.*CartPole-v1 steps on the host"):
        trpo_jax.make_env("gymnasium/CartPole-v1", randomize=draw_gravity)


# The models of brax


def draw_gears(key, system):
    factor = jax.random.uniform(key, system.actuator.gear.shape, minval=0.5, maxval=2.0)
    return system.tree_replace({"actuator.gear": system.actuator.gear * factor})


def draw_gears_as_brax_does(system, keys):
    gears = jax.vmap(lambda key: draw_gears(key, system).actuator.gear)(keys)
    in_axes = jax.tree.map(lambda _: None, system).tree_replace({"actuator.gear": 0})
    return system.tree_replace({"actuator.gear": gears}), in_axes


def test_the_model_of_brax():
    """A step with the gears drawn is a step of brax with these gears, in both forms."""
    raw = brax_envs.get_environment("inverted_pendulum", backend="spring")
    given = raw.sys.actuator.gear
    env = randomized(trpo_jax.make_env(raw), draw_gears)
    keys = jax.random.split(jax.random.key(0), 2)
    states, _ = jax.jit(lambda: reset_batch(env, keys))()
    (gears,) = states.drawn  # nothing else of the model is stored
    assert gears[0] != gears[1]
    other = randomized(trpo_jax.make_env(raw), draw_gears_as_brax_does)
    drawn = jax.jit(lambda: jax.vmap(other.reset)(keys)[0].drawn)()
    np.testing.assert_allclose(drawn[0], gears, rtol=1e-6)

    @jax.jit
    @jax.vmap
    def theirs(gear, state):
        changed = brax_envs.get_environment("inverted_pendulum", backend="spring")
        changed.sys = changed.sys.tree_replace({"actuator.gear": gear})
        return changed.step(state, jnp.array([0.7])).obs

    before = innermost_state(env, states)
    _, step = jax.jit(lambda states: step_batch(env, keys, states, jnp.full((2, 1), 0.7)))(states)
    expected = theirs(gears, before)
    np.testing.assert_allclose(step.obs, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - theirs(jnp.stack([given] * 2), before)).max() > 1e-2
    assert raw.sys.actuator.gear is given  # the object itself is untouched


# Parameters from outside


def test_a_vmap_over_env_params_from_outside():
    """Each lane is the agent of an environment with these parameters."""
    _, params = gymnax.make("CartPole-v1")
    hparams = trpo_jax.HParams()

    def observe(gravity):
        env = trpo_jax.make_env("CartPole-v1", env_params=params.replace(gravity=gravity))
        agent = trpo_jax.make_trpo(env, SMALL)
        state, metrics = agent.update(agent.init(jax.random.key(0)), hparams)
        return state.actor.obs, metrics.kl

    gravities = jnp.array([9.8, 25.0])
    obs, kl = jax.jit(jax.vmap(observe))(gravities)
    assert not np.allclose(obs[0], obs[1])
    alone, its_kl = jax.jit(observe)(25.0)
    np.testing.assert_allclose(obs[1], alone, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(kl[1], its_kl, rtol=0.05)


def test_a_vmap_over_env_params_of_a_randomised_environment(cartpole):
    def drawn(length):
        changed = cartpole.parameters.replace(length=length)
        env = randomized(cartpole, draw_gravity).with_parameters(changed)
        state, _ = env.reset(jax.random.key(0))
        _, step = env.step(jax.random.key(1), state, jnp.int32(1))
        return state.drawn[0], step.obs

    gravity, obs = jax.vmap(drawn)(jnp.array([0.5, 3.0]))
    assert gravity[0] == gravity[1]
    assert not np.allclose(obs[0], obs[1])


# What is refused


def test_what_has_no_parameters():
    with pytest.raises(ValueError, match=r"constant-reward has no parameters to draw; .*gymnax"):
        randomized(ConstantReward(), draw_gravity)
    with pytest.raises(ValueError, match="fast has no parameters"):
        randomized(trpo_jax.make_env("brax/fast"), draw_gravity)
    with pytest.raises(ValueError, match="randomize=3 must be a function"):
        randomized(trpo_jax.make_env("CartPole-v1"), 3)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda key, params: params.replace(gravity=jnp.zeros(2)), r"gravity has shape \(2,\)"),
        (lambda key, params: 3, "another structure"),
        (lambda key, params: params.gravty, "gravty"),
        (lambda key: key, "positional"),
    ],
)
def test_a_function_that_does_not_fit(cartpole, fn, message):
    with pytest.raises(ValueError, match=message) as raised:
        randomized(cartpole, fn)
    assert "does not fit CartPole-v1" in str(raised.value)
    assert "\n" not in str(raised.value)
