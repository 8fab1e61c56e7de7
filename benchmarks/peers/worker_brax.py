"""brax's PPO, in its own virtual environment with a jax that its trainer still runs on."""

import contextlib
import functools
import itertools
import sys
from typing import Any

import jax
from flax import linen as nn
from protocol import Settings, serve

with contextlib.redirect_stdout(sys.stderr):  # brax prints that warp is missing
    from brax import envs
    from brax.training.agents.ppo import networks, train


def iterations(settings: dict, seed: int, num_updates: int, repeats: int) -> dict[str, Any]:
    """Seconds of `num_updates` iterations, `repeats` times, by the trainer's own clock.

    Its data comes in unrolls; 16 steps each make minibatches of the common size. Before those, the
    first span, in which it compiles.
    """
    chosen = Settings(**settings)
    unroll = 16
    walltimes: list[float] = []
    train.train(
        environment=envs.get_environment(chosen.env_id.split("/")[-1], **chosen.env_options),
        num_timesteps=chosen.batch_size * num_updates * (repeats + 1),
        num_envs=chosen.num_envs,
        episode_length=1000,
        unroll_length=unroll,
        batch_size=chosen.minibatch // unroll,
        num_minibatches=chosen.batch_size // chosen.minibatch,
        num_updates_per_batch=chosen.epochs,
        learning_rate=chosen.ppo_learning_rate,
        discounting=chosen.gamma,
        gae_lambda=chosen.gae_lambda,
        entropy_cost=0.0,
        clipping_epsilon=0.2,
        network_factory=functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=chosen.hidden_sizes,
            value_hidden_layer_sizes=chosen.hidden_sizes,
            activation=nn.tanh,
        ),
        num_evals=repeats + 2,
        run_evals=False,
        progress_fn=lambda _, metrics: walltimes.append(metrics["training/walltime"]),
        seed=seed,
    )
    return {"seconds": [after - before for before, after in itertools.pairwise([0.0, *walltimes])]}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    serve(("brax", "jax", "jaxlib", "flax"), iterations=iterations)
