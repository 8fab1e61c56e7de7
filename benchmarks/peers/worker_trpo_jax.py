"""trpo_jax, measured like a peer."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import given
import gymnax_side
import jax
import jax.numpy as jnp
import numpy as np
from protocol import Settings, serve

import trpo_jax

sys.path.append(str(Path(__file__).parents[1]))
import problems


def as_config(settings: Settings) -> trpo_jax.TRPOConfig:
    """The static settings."""
    return trpo_jax.TRPOConfig(
        num_envs=settings.num_envs,
        num_steps=settings.num_steps,
        hidden_sizes=settings.hidden_sizes,
        cg_iterations=settings.cg_iterations,
        max_backtracks=settings.line_search_tries - 1,
        value_epochs=settings.epochs,
        value_minibatch_size=settings.minibatch,
    )


def as_hparams(settings: Settings) -> trpo_jax.HParams:
    """The traced settings; every CG iteration is made."""
    return problems.ALL_ITERATIONS.replace(
        max_kl=settings.max_kl,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        cg_damping=settings.cg_damping,
        backtrack_factor=settings.backtrack_factor,
        value_learning_rate=settings.learning_rate,
    )


class Training:
    """A run; the first call of `train` compiles."""

    def __init__(self, settings: Settings, seed: int, num_updates: int):
        del num_updates
        env = trpo_jax.make_env(settings.env_id, **settings.env_options)
        self.agent = trpo_jax.make_trpo(env, as_config(settings))
        self.hparams, self.state = as_hparams(settings), self.agent.init(jax.random.key(seed))

    def train(self, num_updates: int) -> None:
        state, _ = self.agent.train(self.state, self.hparams, num_updates=num_updates)
        self.state = jax.block_until_ready(state)

    def evaluate(self, num_episodes: int, seed: int) -> jax.Array:
        key = jax.random.key(1_000_000 + seed)
        return self.agent.evaluate(self.state, key, num_episodes=num_episodes).returns


class Update:
    """Policy step and value fit on one batch, always from the same parameters.

    Timed with them, as in the peers: the old distribution, its log-probabilities, and the
    normalisation of the advantages. Its KL is joint whatever is asked.
    """

    def __init__(self, settings: Settings, arrays: given.Arrays, joint: bool):
        del joint
        self._settings, is_box = settings, "policy_log_std" in arrays
        size = arrays["obs"].shape[1], given.num_outputs(arrays)
        networks = problems.make_networks(*size, settings.hidden_sizes, discrete=not is_box)
        self._policy, self._critic = networks
        self._params = tuple(_tree(arrays, which) for which in ("policy", "value"))
        names = ("obs", "action", "advantage", "value_target")
        self._data = {name: jnp.asarray(arrays[name]) for name in names}
        self._programs: dict[str, Callable[[], Any]] = {}
        self._latest = self._params

    def ready(self, fit: str) -> Callable[[], Any]:
        """The update with value fit "none", "minibatch" or "full" (batches), compiled."""
        if fit not in self._programs:
            program = jax.jit(lambda params, data: self._update(params, data, fit))

            def run() -> None:
                self._latest = jax.block_until_ready(program(self._params, self._data))

            run()
            self._programs[fit] = run
        return self._programs[fit]

    def weights(self) -> given.Arrays:
        """The parameters that the latest update led to."""
        arrays: given.Arrays = {}
        for which, tree in zip(("policy", "value"), self._latest, strict=True):
            layers, head = _layers(tree["params"], which)
            for i, layer in enumerate(layers):
                arrays[f"{which}_w{i}"] = np.asarray(layer["kernel"])
                arrays[f"{which}_b{i}"] = np.asarray(layer["bias"])
            if "log_std" in head:
                arrays["policy_log_std"] = np.asarray(head["log_std"])
        return arrays

    def _update(self, params, data, fit: str):
        settings, (policy_params, value_params) = self._settings, params
        advantage = data["advantage"]
        normalized = (advantage - advantage.mean()) / advantage.std()
        batch = problems.make_batch(self._policy, policy_params, **data | {"advantage": normalized})
        step = problems.policy_step(self._policy, as_config(settings), as_hparams(settings))
        policy_params, _ = step(policy_params, batch)
        if fit != "none":
            minibatch = settings.minibatch if fit == "minibatch" else advantage.size
            sizes = settings.epochs, minibatch, settings.learning_rate
            optimizer = problems.start_of_fit(value_params)
            value_params, _ = problems.value_fit(self._critic.apply, *sizes)(
                jax.random.key(0), value_params, optimizer, batch
            )
        return policy_params, value_params


def _tree(arrays: given.Arrays, which: str) -> dict[str, Any]:
    """Parameters of a network as the library has them."""
    layers = [
        {
            "kernel": jnp.asarray(arrays[f"{which}_w{i}"]),
            "bias": jnp.asarray(arrays[f"{which}_b{i}"]),
        }
        for i in range(given.num_layers(arrays, which))
    ]
    body = {f"Dense_{i}": layer for i, layer in enumerate(layers[:-1])}
    if which == "value":
        return {"params": {"body": body, "Dense_0": layers[-1]}}
    head = {"Dense_0": layers[-1]}
    if "policy_log_std" in arrays:
        head["log_std"] = jnp.asarray(arrays["policy_log_std"])
    return {"params": {"body": body, "head": head}}


def _layers(params: dict[str, Any], which: str):
    """The layers of a network in order, and the dictionary of its last one."""
    head = params["head"] if which == "policy" else params
    body = params["body"]
    return [*(body[f"Dense_{i}"] for i in range(len(body))), head["Dense_0"]], head


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    env: Any = trpo_jax.make_env(env_id)
    return gymnax_side.one_step(env.unwrapped, env.params, env_id, states, actions)


if __name__ == "__main__":
    serve(("jax", "jaxlib", "flax", "gymnax", "brax"), Training, Update, one_step=one_step)
