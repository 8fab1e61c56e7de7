"""Environments by name, and the boxes of their actions."""

import gymnax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax


@pytest.mark.parametrize("env_id", ["MNISTBandit-bsuite", "gymnax/MNISTBandit-bsuite"])
def test_mnist_is_refused_with_its_reason(env_id):
    with pytest.raises(ValueError, match="download"):
        trpo_jax.make_env(env_id)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("cartpole-v1", "CartPole-v1"),
        ("Pendulum-v7", "Pendulum-v1"),
        ("gymnax/CartPol-v1", "CartPole-v1"),
        ("brax/hoper", "hopper"),
        ("half_cheetah", "halfcheetah"),
    ],
)
def test_unknown_ids_suggest_near_matches(wrong, right):
    with pytest.raises(ValueError, match=right):
        trpo_jax.make_env(wrong)


def test_an_unknown_suite_is_the_callers_mistake():
    with pytest.raises(ValueError, match="unknown environment"):
        trpo_jax.make_env("atari/Pong-v5")


def test_unknown_keywords_are_the_callers_mistake():
    with pytest.raises(ValueError, match="backend"):
        trpo_jax.make_env("CartPole-v1", backend="spring")
    with pytest.raises(ValueError, match="bullet"):
        trpo_jax.make_env("brax/hopper", backend="bullet")


def test_make_env_twice_returns_the_same_object():
    assert trpo_jax.make_env("CartPole-v1") is trpo_jax.make_env("CartPole-v1")
    assert trpo_jax.make_env("brax/fast", episode_length=7) is trpo_jax.make_env(
        "brax/fast", episode_length=7
    )
    made = trpo_jax.make_env("CartPole-v1")
    assert trpo_jax.make_env(made) is made


def test_every_listed_id_has_its_suite_and_mnist_is_not_among_them():
    listed = trpo_jax.list_environments()
    assert "gymnax/CartPole-v1" in listed
    assert "brax/hopper" in listed
    assert len(listed) == len(set(listed))
    assert not any("MNIST" in env_id for env_id in listed)


@pytest.mark.parametrize("thing", [None, 3, object(), {"reset": 1}])
def test_what_is_no_environment_is_refused(thing):
    with pytest.raises(ValueError, match="neither an environment id, nor an object of gymnax"):
        trpo_jax.make_env(thing)


def test_gymnaxs_pair_and_classes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"make_env\(env, env_params=params\)"):
        trpo_jax.make_env(gymnax.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"make_env\(Environment\(\)\)"):
        trpo_jax.make_env(trpo_jax.Environment)


# Action boxes


def test_clip_maps_the_unit_interval_onto_the_bounds():
    box = trpo_jax.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), (2,))
    actions = jnp.array([[-5.0, -5.0], [-1.0, -1.0], [0.0, 0.5], [1.0, 1.0], [7.0, 7.0]])
    expected = [[-2, 0], [-2, 0], [0, 7.5], [2, 10], [2, 10]]
    np.testing.assert_allclose(box.from_policy(actions, "clip"), expected)


def test_tanh_squashes_into_the_bounds():
    box = trpo_jax.Box(-2.0, 4.0, (1,))
    actions = jnp.array([[-30.0], [0.0], [0.5], [30.0]])
    expected = 1 + 3 * np.tanh([[-30.0], [0.0], [0.5], [30.0]])
    np.testing.assert_allclose(box.from_policy(actions, "tanh"), expected, rtol=1e-6)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_infinite_bounds_leave_the_action(bounds):
    low, high = np.array([-np.inf, 0.0, -1.0]), np.array([np.inf, np.inf, 3.0])
    box = trpo_jax.Box(low, high, (3,))
    action = box.from_policy(jnp.array([[50.0, -4.0, 50.0], [-7.0, 6.0, 0.0]]), bounds)
    expected = [[50, 0, 3], [-7, 6, 1]]
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    assert np.isfinite(action).all()


def test_boxes_have_any_shape():
    box = trpo_jax.Box(-1.0, 1.0, (2, 3))
    action = box.from_policy(jnp.arange(12.0).reshape(2, 6) / 12, "clip")
    assert box.num_dimensions == 6
    assert action.shape == (2, 2, 3)
    np.testing.assert_allclose(action.reshape(2, 6), np.arange(12.0).reshape(2, 6) / 12, rtol=1e-5)
