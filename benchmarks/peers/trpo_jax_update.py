"""One update of trpo_jax on a batch that is given, without environment or rollout."""

from collections.abc import Callable
from typing import Any

import given
import jax
import jax.numpy as jnp
import numpy as np
from protocol import Settings

import trpo_jax
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch
from trpo_jax.learner.value import fit_value, init_value_optimizer
from trpo_jax.policies.networks import (
    Body,
    CategoricalHead,
    GaussianHead,
    make_critic,
    make_policy,
)
from trpo_jax.solver.trust_region import trust_region_step


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
    """The traced settings; with a tolerance of 0, so that every CG iteration is made."""
    return trpo_jax.HParams(
        max_kl=settings.max_kl,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        cg_damping=settings.cg_damping,
        cg_tol=0.0,
        backtrack_factor=settings.backtrack_factor,
        value_learning_rate=settings.learning_rate,
    )


class GivenUpdate:
    """Policy step and value fit on one batch, always from the same parameters.

    Timed with them, as in the peers: the old distribution, its log-probabilities, and the
    normalisation of the advantages.
    """

    def __init__(self, settings: Settings, arrays: given.Arrays):
        self._config, self._hparams = as_config(settings), as_hparams(settings).as_arrays()
        last = given.num_layers(arrays, "policy") - 1
        num_outputs = arrays[f"policy_b{last}"].size
        is_box = "policy_log_std" in arrays
        head = GaussianHead(num_outputs, 0.0) if is_box else CategoricalHead(num_outputs)
        body = Body(arrays["obs"].shape[1:], settings.hidden_sizes, "tanh", False)
        self._policy, self._critic = make_policy(body, head), make_critic(body)
        self._params = _policy_tree(arrays, last), _value_tree(arrays, last)
        self._data = {name: jnp.asarray(arrays[name]) for name in _DATA}
        self._programs: dict[str, Callable[[], Any]] = {}
        self._latest = self._params

    def compiled(self, fit: str) -> Callable[[], Any]:
        """The update with value fit "none", "minibatch" or "full" (batches), ready to be timed."""
        if fit in self._programs:
            return self._programs[fit]
        program = jax.jit(lambda params, data: self._update(params, data, fit))

        def run() -> None:
            self._latest = jax.block_until_ready(program(self._params, self._data))

        run()
        self._programs[fit] = run
        return run

    def result(self) -> given.Arrays:
        """The parameters that the latest update led to."""
        return jax.tree.map(np.asarray, _as_arrays(*self._latest))

    def _update(self, params, data, fit: str):
        policy_params, value_params = params
        distribution = self._policy.apply(policy_params, data["obs"])
        advantage = data["advantage"]
        ones = jnp.ones_like(advantage)
        batch = Batch(
            obs=data["obs"],
            action=data["action"],
            distribution=distribution,
            log_prob=distribution.log_prob(data["action"]),
            entropy=distribution.entropy(),
            advantage=(advantage - advantage.mean()) / advantage.std(),
            value=data["value_target"],
            value_target=data["value_target"],
            weight=ones,
        )
        objective = make_objective(self._policy, 0.0)
        policy_params, _ = trust_region_step(
            objective, policy_params, batch, self._hparams, self._config
        )
        if fit == "none":
            return policy_params, value_params
        value_params, _, _ = fit_value(
            jax.random.key(0),
            value_params,
            init_value_optimizer(value_params),
            apply=self._critic.apply,
            obs=batch.obs,
            target=batch.value_target,
            weight=batch.weight,
            learning_rate=self._hparams.value_learning_rate,
            num_epochs=self._config.value_epochs,
            minibatch_size=self._config.minibatch_size if fit == "minibatch" else ones.size,
        )
        return policy_params, value_params


_DATA = ("obs", "action", "advantage", "value_target")


def _dense(arrays: given.Arrays, which: str, i: int) -> dict[str, jax.Array]:
    return {
        "kernel": jnp.asarray(arrays[f"{which}_w{i}"]),
        "bias": jnp.asarray(arrays[f"{which}_b{i}"]),
    }


def _policy_tree(arrays: given.Arrays, last: int) -> dict[str, Any]:
    head: dict[str, Any] = {"Dense_0": _dense(arrays, "policy", last)}
    if "policy_log_std" in arrays:
        head["log_std"] = jnp.asarray(arrays["policy_log_std"])
    body = {f"Dense_{i}": _dense(arrays, "policy", i) for i in range(last)}
    return {"params": {"body": body, "head": head}}


def _value_tree(arrays: given.Arrays, last: int) -> dict[str, Any]:
    body = {f"Dense_{i}": _dense(arrays, "value", i) for i in range(last)}
    return {"params": {"body": body, "Dense_0": _dense(arrays, "value", last)}}


def _as_arrays(policy_params, value_params) -> dict[str, Any]:
    policy, value = policy_params["params"], value_params["params"]
    last = len(policy["body"])
    arrays = {}
    for which, body, output in (
        ("policy", policy["body"], policy["head"]["Dense_0"]),
        ("value", value["body"], value["Dense_0"]),
    ):
        for i in range(last + 1):
            layer = output if i == last else body[f"Dense_{i}"]
            arrays[f"{which}_w{i}"], arrays[f"{which}_b{i}"] = layer["kernel"], layer["bias"]
    if "log_std" in policy["head"]:
        arrays["policy_log_std"] = policy["head"]["log_std"]
    return arrays
