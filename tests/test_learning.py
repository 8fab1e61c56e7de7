"""Learning must not get worse unnoticed: a task of MuJoCo, trained for a tenth of what is usual."""

import jax
import numpy as np
import pytest

import trpo_jax

BOUND = 300.0
"""Of the mean return after 98,304 steps. Untrained policies reach 60; ten seeds reach 630 to 1030
after 81,920: `python benchmarks/published.py --env envpool/Hopper-v4 --steps 1e5`."""


@pytest.mark.usefixtures("optimizing_compiler")
def test_hopper_learns_within_a_hundred_thousand_steps():
    preset = trpo_jax.get_preset("envpool/Hopper-v4")
    agent = trpo_jax.make_trpo(trpo_jax.make_env("envpool/Hopper-v4"), preset.config)
    state = agent.init(jax.random.split(jax.random.key(0), 2))
    number = 100_000 // preset.config.batch_size
    state, history = agent.train(state, preset.hparams, num_updates=number)
    assert (history.kl <= preset.hparams.max_kl).all()
    assert np.mean(history.accepted) > 0.9
    returns = agent.evaluate(state, jax.random.key(1), num_episodes=10).returns
    assert (returns.mean(axis=1) > BOUND).all(), returns
