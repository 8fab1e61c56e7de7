"""The default networks of an agent, built from its spaces and configuration."""

from typing import Any

import flax.linen as nn
import jax

from trpo_jax.config import TRPOConfig
from trpo_jax.policies.cells import CELLS
from trpo_jax.policies.networks import (
    MINATAR,
    NATURE,
    Body,
    CategoricalHead,
    Convolutions,
    GaussianHead,
    MultiCategoricalHead,
    Shapes,
    make_critic,
    make_policy,
    smallest_image,
)
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy
from trpo_jax.policies.recurrent import make_recurrent_critic, make_recurrent_policy
from trpo_jax.spaces import ActionSpace, Box, Discrete, is_shape


def default_policy(
    action_space: ActionSpace, shapes: Any, config: TRPOConfig
) -> Policy | RecurrentPolicy:
    """The configured policy; `shapes` are those of an observation, a tree of tuples."""
    body, head = policy_body(shapes, config), _head(action_space, config)
    if config.memory == "none":
        return make_policy(body, head)
    return make_recurrent_policy(body, _memory(config), head)


def policy_body(shapes: Any, config: TRPOConfig) -> Body:
    """The layers of that policy below its head."""
    return _body(shapes, config.hidden_sizes, config)


def default_critic(shapes: Any, config: TRPOConfig) -> Critic | RecurrentCritic:
    """The configured critic; `shapes` are those of an observation, a tree of tuples."""
    sizes = config.critic_hidden_sizes
    body = _body(shapes, config.hidden_sizes if sizes is None else sizes, config)
    if config.memory == "none" or not config.critic_memory:
        return make_critic(body)
    return make_recurrent_critic(body, _memory(config))


def _memory(config: TRPOConfig) -> nn.Module:
    return CELLS[config.memory](config.memory_size, config.rematerialize)


def _body(shapes: Any, hidden_sizes: tuple[int, ...], config: TRPOConfig) -> Body:
    leaves = tuple(jax.tree.leaves(shapes, is_leaf=is_shape))
    return Body(
        obs_shapes=leaves,
        hidden_sizes=hidden_sizes,
        activation=config.activation,
        convolutions=_convolutions(leaves, shapes, config.network),
    )


def _convolutions(leaves: Shapes, shapes: Any, network: str) -> Convolutions:
    """The convolutions that a network has for observations of these shapes."""
    images = [leaf for leaf in leaves if len(leaf) == 3]
    if network == "mlp" or (network == "auto" and (len(leaves) > 1 or not images)):
        return ()
    if len(images) != 1:
        raise ValueError(
            f"network={network!r} needs observations [height, width, channels], or a tree with one "
            f"such image; these have shape {shapes}; use network='mlp'"
        )
    convolutions = NATURE if network == "nature" else MINATAR
    smallest = smallest_image(convolutions)
    if min(images[0][:2]) < smallest:
        if network == "auto":
            return ()
        raise ValueError(
            f"network={network!r} needs images of at least {smallest} × {smallest} pixels; these "
            f"have shape {shapes}; use network='mlp'"
        )
    return convolutions


def _head(space: ActionSpace, config: TRPOConfig) -> nn.Module:
    if isinstance(space, Box):
        return GaussianHead(
            space.num_dimensions,
            config.initial_log_std,
            config.state_dependent_std,
            config.action_bounds,
        )
    if isinstance(space, Discrete):
        return CategoricalHead(space.num_actions)
    return MultiCategoricalHead(tuple(space.num_categories))
