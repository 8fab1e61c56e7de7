"""A built-in policy as plain arrays: what the writers that do not trace it need to know."""

from typing import Any, NamedTuple

import jax
import numpy as np

from trpo_jax.envs.base import observation_spec
from trpo_jax.experiments.export.inputs import MASK, NOISE, OBS, Input
from trpo_jax.learner.acting import Acting
from trpo_jax.learner.normalization import EPSILON
from trpo_jax.learner.parts import Parts
from trpo_jax.policies.defaults import policy_body
from trpo_jax.spaces import Box, Discrete, MultiDiscrete, policy_part, shapes_of


class Layer(NamedTuple):
    """x · kernel + bias, or a convolution without padding."""

    kernel: np.ndarray
    """[inputs, outputs]; of a convolution [height, width, channels in, channels out]."""
    bias: np.ndarray
    """[outputs]."""
    stride: int = 1
    """Of a convolution."""


class Scale(NamedTuple):
    """Normalisation of one observation: (x − mean) · factor, clipped."""

    mean: np.ndarray
    factor: np.ndarray
    """1 / √(variance + ε)."""


class Memory(NamedTuple):
    """A memory cell between the hidden layers and the output."""

    kind: str
    """`TRPOConfig.memory`."""
    inputs: Layer
    """The part of all gates that comes from the features, side by side."""
    recurrent: np.ndarray | None
    """[size, gates · size]: the part that comes from the memory."""
    candidate_bias: np.ndarray | None
    """[size], of a GRU."""


class Bounds(NamedTuple):
    """How a Gaussian action becomes one of a `Box`; arrays [dimensions]."""

    low: np.ndarray
    high: np.ndarray
    bounded: np.ndarray
    """bool: whether both bounds are finite, so that −1 and 1 map to them."""
    squashed: bool
    """By tanh; else clipped."""
    shape: tuple[int, ...]
    """Shape of one action."""


class Description(NamedTuple):
    """A built-in policy."""

    observations: tuple[Input, ...]
    """The inputs that the network sees."""
    scales: tuple[Scale | None, ...]
    """Their normalisation."""
    image: int | None
    """Which of them the convolutions see."""
    convolutions: tuple[Layer, ...]
    hidden: tuple[Layer, ...]
    activation: str
    memory: Memory | None
    output: Layer
    """To the logits, or to the mean."""
    log_std: Layer | None
    """Gaussian, if sampled: log σ from the features; a kernel of zeros if it depends on nothing."""
    choices: tuple[int, ...]
    """Categories of each choice; () for a `Box`."""
    is_vector: bool
    """Whether an action has an axis of choices: MultiDiscrete."""
    bounds: Bounds | None
    masked: bool
    sampled: bool


def describe(parts: Parts, state: Acting, inputs: tuple[Input, ...]) -> Description:
    """The description of a built-in policy, with its parameters and statistics as NumPy arrays."""
    names = [each.name for each in inputs]
    observations = tuple(each for each in inputs if each.role == OBS)
    spec, space = observation_spec(parts.env), parts.env.action_space
    body = policy_body(shapes_of(policy_part(spec)), parts.config)
    head = state.policy_params["params"]["head"]
    dense = state.policy_params["params"].get("body", {})
    layers = [_layer(dense[f"Dense_{i}"]) for i in range(len(dense))]
    number = len(body.convolutions)
    return Description(
        observations=observations,
        scales=_scales(parts, state, len(observations)),
        image=next((i for i, each in enumerate(observations) if len(each.shape) == 3), None)
        if number
        else None,
        convolutions=tuple(
            _convolution(layer, side, stride)
            for layer, (_, side, stride) in zip(layers, body.convolutions, strict=False)
        ),
        hidden=tuple(layers[number:]),
        activation=body.activation,
        memory=_memory(parts.config.memory, state.policy_params["params"].get("memory")),
        output=_layer(head["Dense_0"]),
        log_std=_log_std(parts, head) if isinstance(space, Box) and NOISE in names else None,
        choices=_choices(space),
        is_vector=isinstance(space, MultiDiscrete),
        bounds=_bounds(space, parts.config.action_bounds) if isinstance(space, Box) else None,
        masked=MASK in names,
        sampled=NOISE in names,
    )


def _memory(kind: str, params: Any) -> Memory | None:
    if params is None:
        return None
    parts = (params.get(name) for name in ("recurrent", "candidate_bias"))
    recurrent, bias = (None if part is None else np.asarray(part) for part in parts)
    return Memory(kind, _layer(params["inputs"]), recurrent, bias)


def _layer(params: Any) -> Layer:
    return Layer(np.asarray(params["kernel"]), np.asarray(params["bias"]))


def _convolution(layer: Layer, side: int, stride: int) -> Layer:
    """The kernel by pixels. Our networks see blocks of stride × stride pixels, block by block."""
    blocks, outputs = side // stride, layer.kernel.shape[-1]
    by_block = layer.kernel.reshape(blocks, blocks, stride, stride, -1, outputs)
    return Layer(by_block.swapaxes(1, 2).reshape(side, side, -1, outputs), layer.bias, stride)


def _scales(parts: Parts, state: Acting, number: int) -> tuple[Scale | None, ...]:
    """Per observation; None for what is not normalised."""
    if not parts.config.normalize_observations:
        return (None,) * number
    means, variances = (
        jax.tree.leaves(policy_part(tree), is_leaf=lambda leaf: leaf is None)
        for tree in (state.obs_statistics.mean, state.obs_statistics.variance)
    )
    return tuple(
        None if mean is None else Scale(np.asarray(mean), 1 / np.sqrt(variance + EPSILON))
        for mean, variance in zip(means, variances, strict=True)
    )


def _log_std(parts: Parts, head: Any) -> Layer:
    if parts.config.state_dependent_std:
        kernel, bias, _ = _layer(head["Dense_1"])
        return Layer(kernel, bias + np.float32(parts.config.initial_log_std))
    return Layer(np.zeros_like(head["Dense_0"]["kernel"]), np.asarray(head["log_std"]))


def _choices(space: Any) -> tuple[int, ...]:
    if isinstance(space, Box):
        return ()
    return (space.num_actions,) if isinstance(space, Discrete) else tuple(space.num_categories)


def _bounds(space: Box, how: str) -> Bounds:
    low, high = (np.asarray(bound) for bound in space.bounds())
    return Bounds(low, high, space.is_bounded(), how == "tanh", tuple(space.shape))
