"""A policy that sb3-contrib has trained, as a state of ours."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.learner.agent import Agent, require_agent
from trpo_jax.learner.types import TrainState
from trpo_jax.spaces import Box


def import_sb3(
    agent: Agent, weights: Mapping[str, Any], obs_rms: Any = None, *, seed: int = 0
) -> TrainState:
    """The initial state of an agent, with policy, critic and normaliser of sb3-contrib's `TRPO`.

    `weights` is `model.policy.state_dict()` of an "MlpPolicy", or the same names with NumPy arrays;
    `obs_rms` is that of a `VecNormalize` (mean, var, count), if the policy was trained with one.
    The agent must have networks of the same sizes and activation: sb3's default is tanh and
    (64, 64). Then `agent.act(…, deterministic=True)` gives the actions of `model.predict`, to
    rounding; training goes on from there. sb3 hands a Gaussian action to the environment clipped
    but not scaled, so mean and σ are scaled here such that the library's scaling undoes it. Not
    imported: Adam's moments, and statistics of rewards; `seed` begins the environments.
    Raises `ValueError` if a weight is missing or has another shape than the agent's, or if the
    agent and `obs_rms` do not agree on whether observations are normalised.
    """
    require_agent("agent", agent)
    given = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    state = agent.init(jax.random.key(seed))
    policy, head = _layers(given, "mlp_extractor.policy_net"), _layer(given, "action_net")
    space = agent.parts.env.action_space
    log_std = {}
    if isinstance(space, Box):
        low, high = (np.asarray(bound) for bound in space.bounds())
        bounded = space.is_bounded()
        if agent.parts.config.action_bounds != "clip":
            raise ValueError("action_bounds='tanh': sb3's Gaussian is clipped; use 'clip'")
        half = np.where(bounded, (high - low) / 2, 1)
        middle = np.where(bounded, (high + low) / 2, 0)
        head = {"kernel": head["kernel"] / half, "bias": (head["bias"] - middle) / half}
        log_std = {"log_std": _weight(given, "log_std") - np.log(half)}
    value = _layers(given, "mlp_extractor.value_net")
    policy_params = {"params": {"body": policy, "head": {"Dense_0": head, **log_std}}}
    value_params = {"params": {"body": value, "Dense_0": _layer(given, "value_net")}}
    return state.replace(
        policy_params=_like(policy_params, state.policy_params, "hidden_sizes"),
        value_params=_like(value_params, state.value_params, "critic_hidden_sizes"),
        obs_statistics=_statistics(agent, state, obs_rms),
    )


def _weight(given: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in given:
        raise ValueError(
            f"weights has no {name!r}; take model.policy.state_dict() of sb3-contrib's MlpPolicy"
        )
    return given[name]


def _layer(given: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A linear layer; PyTorch stores kernels as [outputs, inputs]."""
    return {
        "kernel": _weight(given, f"{name}.weight").T,
        "bias": _weight(given, f"{name}.bias"),
    }


def _layers(given: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The hidden layers; in between, every other number is that of an activation."""
    numbers = sorted(
        int(key.split(".")[-2]) for key in given if key.startswith(name) and key.endswith("weight")
    )
    if not numbers:
        _weight(given, f"{name}.0.weight")
    return {f"Dense_{i}": _layer(given, f"{name}.{number}") for i, number in enumerate(numbers)}


def _like(params: Any, own: Any, sizes: str) -> Any:
    """The parameters as arrays, if they fit those of the agent."""
    theirs, ours = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (params, own))
    )
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"weights{name} has shape {theirs.get(name)} and the agent's {ours.get(name)}; "
                f"make the agent with the same spaces and {sizes} as the imported networks"
            )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def _statistics(agent: Agent, state: TrainState, obs_rms: Any) -> Any:
    if agent.parts.config.normalize_observations != (obs_rms is not None):
        raise ValueError(
            f"normalize_observations={agent.parts.config.normalize_observations} and obs_rms "
            f"{'is missing' if obs_rms is None else 'is given'}; the agent must normalise "
            "observations if, and only if, the imported policy did"
        )
    if obs_rms is None:
        return state.obs_statistics
    own = state.obs_statistics
    mean, variance = (np.asarray(each, np.float32) for each in (obs_rms.mean, obs_rms.var))
    if mean.shape != jnp.shape(own.mean) or variance.shape != jnp.shape(own.variance):
        raise ValueError(
            f"obs_rms has shape {mean.shape} and the agent's statistics {jnp.shape(own.mean)}"
        )
    return own.replace(
        count=jnp.float32(obs_rms.count), mean=jnp.asarray(mean), variance=jnp.asarray(variance)
    )
