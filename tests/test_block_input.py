"""Input of the building blocks, used without an agent: what they take and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax.learner.value import init_value_optimizer

VALUES = {"obs": jnp.ones((4, 2)), "target": jnp.arange(4.0), "weight": jnp.ones(4)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"apply": lambda p, obs: obs @ p[:, None]}, r"apply gives shape \(4, 1\)"),
        ({"target": jnp.ones((4, 1))}, r"target gives shape \(4, 1\)"),
        ({"weight": jnp.ones(3)}, r"weight gives shape \(3,\)"),
        ({"minibatch_size": 0}, "minibatch_size=0 must be"),
        ({"num_epochs": 2.5}, "num_epochs=2.5 must be"),
    ],
)
def test_a_value_fit_has_one_target_per_observation(changes, words):
    rest = {"learning_rate": 0.1, "num_epochs": 1, "minibatch_size": 4}
    arguments = {"apply": lambda p, obs: obs @ p, **VALUES, **rest, **changes}
    params = jnp.zeros(2)
    with pytest.raises(ValueError, match=words):
        trpo_jax.fit_value(
            jax.random.key(0),
            params,
            init_value_optimizer(params),
            **arguments,
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": np.zeros((6, 1))}, r"value has shape \(6, 1\), reward \(5, 1\)"),
        ({"reward": np.zeros((5, 1, 1))}, r"reward has shape \(5, 1, 1\)"),
        ({"reward": np.zeros((0, 1))}, "T >= 1"),
    ],
)
def test_steps_of_gae_have_one_shape(changes, words):
    names = ("reward", "value", "next_value", "terminated", "truncated")
    steps = {name: np.zeros((5, 1)) for name in names} | changes
    with pytest.raises(ValueError, match=words):
        trpo_jax.gae(**steps, gamma=0.9, gae_lambda=0.9)


def test_gae_of_whole_numbers_and_what_follows_a_terminal_step():
    ones, never = [1, 1, 1], [False] * 3
    whole, _ = trpo_jax.gae(ones, [0] * 3, [0] * 3, never, never, gamma=1, gae_lambda=1)
    np.testing.assert_array_equal(whole, [3.0, 2.0, 1.0])
    last = [False, False, True]
    spoilt = [0.0, 0.0, np.nan]
    after, _ = trpo_jax.gae(ones, [0.0] * 3, spoilt, last, never, gamma=1, gae_lambda=1)
    np.testing.assert_array_equal(after, [3.0, 2.0, 1.0])


def test_solver_blocks_take_plain_numbers_and_refuse_other_shapes():
    found = trpo_jax.cg_solve(lambda v: 2 * v, jnp.array([1, 2, 3]), max_iters=5, tol=0)
    np.testing.assert_allclose(found.x, [0.5, 1.0, 1.5])
    assert trpo_jax.cg_solve(lambda v: v, {}, max_iters=1, tol=0).num_iters == 0
    for arguments, words in (({"tol": -1.0}, "tol=-1.0"), ({"max_iters": 2.5}, "max_iters=2.5")):
        with pytest.raises(ValueError, match=words):
            trpo_jax.cg_solve(lambda v: v, jnp.ones(3), **{"max_iters": 2, "tol": 0, **arguments})
    with pytest.raises(ValueError, match=r"matvec\(v\) has shapes"):
        trpo_jax.cg_solve(lambda v: v[:, None] * v, jnp.ones(3), max_iters=2, tol=0)
    with pytest.raises(ValueError, match="vector has shapes"):
        trpo_jax.hvp(lambda p: jnp.sum(p**2), jnp.ones(3), jnp.ones(2))
    searched = trpo_jax.line_search(
        lambda p: (jnp.where(p < 0.9, 1, -1), 0), 0.0, 1.0, max_kl=0.01, backtrack_factor=0.8
    )
    assert searched.accepted
    np.testing.assert_allclose(searched.params, 0.8)
