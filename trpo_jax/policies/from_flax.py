"""Flax modules as policy and critic: linen modules, or functions that make nnx modules."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jax.custom_batching import sequential_vmap

from trpo_jax.common import trees
from trpo_jax.policies.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    masked,
)
from trpo_jax.policies.policy import (
    Carry,
    Critic,
    Params,
    Policy,
    RecurrentCritic,
    RecurrentPolicy,
)
from trpo_jax.policies.recurrent_flax import Begin, beginning, nnx_module, over_time
from trpo_jax.spaces import (
    ActionSpace,
    Box,
    Discrete,
    MultiDiscrete,
    Observation,
    mask_size,
    policy_part,
)

Functions = tuple[Callable[..., Params], Callable[..., Any]]
"""`init(key, *inputs)` and `apply(params, *inputs)` of a module."""


def policy_from_flax(
    module: Any,
    action_space: ActionSpace,
    distribution: Callable[..., Any] | None = None,
    *,
    method: str | None = None,
) -> Policy | RecurrentPolicy:
    """A policy over `action_space` from a linen module, or for nnx a function `rngs -> module`.

    `module(obs)` takes observations with one batch axis, [B, ...], and returns the parameters of
    the action distribution: logits [B, num_actions] for `Discrete`; logits [B, Σ num_categories],
    side by side, for `MultiDiscrete`. For `Box` it returns a pair (mean, log σ) of [B, dimensions]
    each, both side by side as [B, 2 · dimensions], or only the mean, in which case log σ becomes a
    separate, state-independent parameter. Action masks are folded into the logits here.
    `distribution(*outputs)` builds any other `Distribution` from the module's output (or outputs,
    if it returns a tuple); a module may also return a distribution itself. `method` names a method
    to call instead of `__call__`.

    A module with memory takes and returns it, as flax's cells do: `module(carry, obs)` gives
    (carry, outputs), for one step, and `module.initialize_carry(rng, (n, 1))` (of nnx:
    `module.initialize_carry((n, 1), rngs)`) the memories of n episodes that begin, [n, ...]. The
    result is then a `RecurrentPolicy`.

    Outputs of fewer than 32 bits, such as bfloat16, become float32.

    The module's own initialisers are used unchanged. Under `vmap` they run one after the other,
    because many of them call LAPACK, which deadlocks on a CPU when batched. Raises `ValueError` if
    the outputs do not fit the action space, or if the module has mutable state, such as BatchNorm.
    """

    def with_own_parameters(params: Params, outputs: Any) -> Params:
        if distribution is None and _is_mean_alone(outputs, action_space):
            return {**params, "log_std": jnp.zeros(outputs.shape[-1:], jnp.float32)}
        return params

    def as_distribution(outputs: Any, params: Params, obs: Any) -> Any:
        mask = obs.action_mask if isinstance(obs, Observation) else None
        if distribution is None and not hasattr(outputs, "log_prob"):
            return _usual_distribution(outputs, params.get("log_std"), action_space, mask)
        if mask is not None:
            raise ValueError(
                f"distribution={distribution}: the environment masks actions, but masks are folded "
                "in only for the built-in categorical distributions; fold obs.action_mask in "
                "yourself: trpo_jax.Policy(init=…, apply=…)"
            )
        if distribution is None:
            return outputs
        return distribution(*outputs) if isinstance(outputs, tuple) else distribution(outputs)

    init_module, apply_module = _functions(module, method)
    begin = beginning(module)

    @sequential_vmap
    def init(key: jax.Array, obs: Any) -> Params:
        inputs = _first_inputs(begin, policy_part(obs))
        params = init_module(key, *inputs)
        outputs = jax.eval_shape(apply_module, params, *inputs)
        return with_own_parameters(params, outputs if begin is None else outputs[1])

    def apply(params: Params, obs: Any) -> Any:
        return as_distribution(trees.widened(apply_module(params, policy_part(obs))), params, obs)

    if begin is None:
        return Policy(init=init, apply=apply)
    unroll = over_time(apply_module, begin)

    def through_time(params: Params, carry: Carry, obs: Any, reset: jax.Array) -> tuple[Any, Carry]:
        outputs, carry = unroll(params, carry, policy_part(obs), reset)
        return as_distribution(outputs, params, obs), carry

    return RecurrentPolicy(init=init, initial_carry=begin, apply=through_time)


def critic_from_flax(module: Any, *, method: str | None = None) -> Critic | RecurrentCritic:
    """A critic from a linen module, or from a function `rngs -> module` that makes an nnx module.

    `module(obs)` takes observations with one batch axis, [B, ...], and returns values [B] or
    [B, 1]; one with memory, `module(carry, obs)`, gives a `RecurrentCritic`. Everything else is as
    in `policy_from_flax`.
    """
    init_module, apply_module = _functions(module, method)
    begin = beginning(module)

    @sequential_vmap
    def init(key: jax.Array, obs: Any) -> Params:
        return init_module(key, *_first_inputs(begin, obs))

    def apply(params: Params, obs: Any) -> Any:
        return trees.widened(apply_module(params, obs))

    if begin is None:
        return Critic(init=init, apply=apply)
    return RecurrentCritic(init=init, initial_carry=begin, apply=over_time(apply_module, begin))


def _first_inputs(begin: Begin | None, obs: Any) -> tuple[Any, ...]:
    """What a module is initialised with: one observation, with a batch axis, and any memory."""
    batch = jax.tree.map(lambda leaf: leaf[None], obs)
    return (batch,) if begin is None else (begin(1), batch)


def _functions(module: Any, method: str | None) -> Functions:
    """init(key, *inputs) and apply(params, *inputs) of a module; params are {"params": …}."""
    if isinstance(module, nn.Module):
        return _of_linen(module, method)
    from flax import nnx

    if isinstance(module, nnx.Module):
        raise ValueError(
            f"{type(module).__name__} is an nnx module that has its parameters already, so all "
            f"seeds would start alike; pass a function: lambda rngs: "
            f"{type(module).__name__}(…, rngs=rngs)"
        )
    if isinstance(module, type) or not callable(module):
        raise ValueError(
            f"module={module!r} must be an instance of a linen module, or a function rngs -> nnx "
            "module"
        )
    return _of_nnx(module, method)


def _of_linen(module: nn.Module, method: str | None) -> Functions:
    def init(key: jax.Array, *inputs: Any) -> Params:
        variables = module.init(key, *inputs, method=method)
        mutable = sorted(set(variables) - {"params", "intermediates"})
        if mutable:
            raise ValueError(_MUTABLE.format(type(module).__name__, ", ".join(mutable)))
        return {"params": variables.get("params", {})}

    def apply(params: Params, *inputs: Any) -> Any:
        try:
            return module.apply({"params": params["params"]}, *inputs, method=method)
        except InvalidRngError as error:
            first_line = str(error).partition(" (https")[0]
            raise ValueError(_MUTABLE.format(type(module).__name__, first_line)) from None

    return init, apply


def _of_nnx(make: Callable[[Any], Any], method: str | None) -> Functions:
    from flax import nnx

    def init(key: jax.Array, *inputs: Any) -> Params:
        del inputs
        module = nnx_module(make, key)
        _, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
        mutable = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)})
        if mutable:
            raise ValueError(_MUTABLE.format(type(module).__name__, ", ".join(mutable)))
        return {"params": {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(params)}}

    def apply(params: Params, *inputs: Any) -> Any:
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        graph, state = nnx.split(abstract)
        flat = [
            (path, leaf.replace(params["params"][_name(path)]))
            for path, leaf in nnx.to_flat_state(state)
        ]
        module = nnx.merge(graph, nnx.from_flat_state(flat))
        return (module if method is None else getattr(module, method))(*inputs)

    return init, apply


_MUTABLE = (
    "{} has mutable state ({}), like BatchNorm or Dropout; state outside the parameters would "
    "change the policy in mid-update: use LayerNorm, or leave it out"
)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _is_mean_alone(outputs: Any, space: ActionSpace) -> bool:
    shape = getattr(outputs, "shape", None)
    return isinstance(space, Box) and shape is not None and shape[-1] == space.num_dimensions


def _usual_distribution(outputs: Any, log_std: Any, space: ActionSpace, mask: Any) -> Any:
    """The built-in distribution: logits for discrete actions, mean and log σ for real ones."""
    if isinstance(space, Box):
        return _gaussian(outputs, log_std, space.num_dimensions)
    size = mask_size(space)
    if getattr(outputs, "shape", (None,))[-1] != size:
        raise ValueError(
            f"the module returns {_shape(outputs)} for {space}; it must return logits [B, {size}]"
        )
    if isinstance(space, MultiDiscrete):
        return MultiCategorical(masked(outputs, mask), num_categories=tuple(space.num_categories))
    assert isinstance(space, Discrete)
    return Categorical(masked(outputs, mask))


def _gaussian(outputs: Any, log_std: Any, dimensions: int) -> DiagonalGaussian:
    if log_std is not None:
        outputs = outputs, log_std
    elif getattr(outputs, "shape", (None,))[-1] == 2 * dimensions:
        outputs = tuple(jnp.split(outputs, 2, axis=-1))
    if not (isinstance(outputs, tuple) and len(outputs) == 2):
        raise ValueError(
            f"the module returns {_shape(outputs)} for {dimensions} real actions; it must return "
            f"(mean, log_std), both [B, {dimensions}], both side by side, or the mean alone"
        )
    mean, log_std = outputs
    if mean.shape[-1] != dimensions or log_std.shape[-1] not in (1, dimensions):
        raise ValueError(
            f"the module returns mean and log_std of shapes {mean.shape} and {log_std.shape}; both "
            f"must be [B, {dimensions}]"
        )
    return DiagonalGaussian(mean=mean, log_std=jnp.broadcast_to(log_std, mean.shape))


def _shape(outputs: Any) -> Any:
    return getattr(outputs, "shape", None) or outputs
