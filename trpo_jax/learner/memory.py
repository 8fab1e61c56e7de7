"""Networks with memory, and the little that the rest of the learner needs to know about them.

An *example* of a batch is one transition; if a network has a memory, it is the whole sequence of
one environment, [T, ...], with the memory it began with. A network without memory is one whose
carry is None, a tree without leaves, so acting needs no distinction. That carry is data: no
gradient flows into it, and the divergence of an update is between policies that both start from it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common.batches import in_chunks
from trpo_jax.envs.base import strongly_typed, where_done
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import (
    Batch,
    Carries,
    Sequences,
    SequenceStarts,
    TrainState,
    Trajectory,
)
from trpo_jax.policies.policy import (
    Carry,
    Critic,
    Params,
    Policy,
    RecurrentCritic,
    RecurrentPolicy,
)
from trpo_jax.spaces import is_shape

Network = Policy | RecurrentPolicy | Critic | RecurrentCritic
Apply = Callable[[Params, Any], Any]


def remembers(network: Network | None) -> bool:
    """Whether a network has a memory."""
    return isinstance(network, RecurrentPolicy | RecurrentCritic)


def learns_sequences(parts: Parts) -> bool:
    """Whether the examples of an agent's batches are sequences rather than transitions."""
    return remembers(parts.policy) or remembers(parts.critic)


def initial_carry(network: Network, number: int) -> Carry:
    """The memories of `number` environments at the beginning of an episode; None without memory."""
    if not isinstance(network, RecurrentPolicy | RecurrentCritic):
        return None
    return jax.tree.map(strongly_typed, network.initial_carry(number))


def first_carries(parts: Parts) -> Carries | None:
    """The memories of all networks before the first step; None if none has any."""
    if not learns_sequences(parts):
        return None
    number = parts.config.num_envs
    critic = initial_carry(parts.critic, number)
    return Carries(
        policy=initial_carry(parts.policy, number),
        critic=critic,
        cost_critic=critic if parts.policy_step.uses_costs else None,
    )


@functools.lru_cache(maxsize=64)
def carry_shapes(network: Network, number: int) -> Any:
    """The shapes of `initial_carry`."""
    return jax.tree.map(jnp.shape, jax.eval_shape(lambda: initial_carry(network, number)))


def step(network: Network, params: Params, carry: Carry, obs: Any) -> tuple[Any, Carry]:
    """What a network returns for the current observations [N, ...], and its memory afterwards."""
    if not isinstance(network, RecurrentPolicy | RecurrentCritic):
        return network.apply(params, obs), carry
    sequence = jax.tree.map(lambda leaf: leaf[None], obs)
    rows = jax.tree.leaves(obs)[0].shape[0]
    outputs, carry = network.apply(params, carry, sequence, jnp.zeros((1, rows), bool))
    return jax.tree.map(lambda leaf: leaf[0], outputs), carry


def begun_anew(network: Network, carry: Carry, done: jax.Array) -> Carry:
    """The memories of N environments, fresh for those that are `done` [N]."""
    if carry is None:
        return None
    return where_done(done, initial_carry(network, done.shape[0]), carry)


def remembered(
    parts: Parts, carries: Carries | None, carry: Carry, done: jax.Array
) -> Carries | None:
    """The memories after a step in which the policy's became `carry`; fresh where `done` [N]."""
    return carries and carries.replace(policy=begun_anew(parts.policy, carry, done))


def require_own_carries(parts: Parts, carries: Carries | None, lead: tuple[int, ...]) -> None:
    """Raise `ValueError` unless the memories in a state are those of this agent's networks; `lead`
    are the axes of several states."""
    number = parts.config.num_envs
    for name in ("policy", "critic"):
        shapes = jax.tree.map(jnp.shape, getattr(carries, name, None))
        wanted = carry_shapes(getattr(parts, name), number)
        wanted = jax.tree.map(lambda shape: (*lead, *shape), wanted, is_leaf=is_shape)
        if shapes != wanted:
            raise ValueError(
                f"state.actor.carry.{name} has shape {shapes}; this agent's is {wanted}: take a "
                "state of its own `init`, and `jax.vmap` for several states"
            )


def require_carry(policy: Policy | RecurrentPolicy, carry: Carry, number: int) -> None:
    """Raise `ValueError` unless `carry` is one of the policy for that many observations."""
    if not remembers(policy):
        if carry is not None:
            raise ValueError("carry is given, but the policy has no memory; leave it out")
        return
    wanted = carry_shapes(policy, number)
    got = jax.tree.map(jnp.shape, carry)
    if got != wanted:
        came = "no carry" if carry is None else f"a carry of shape {got}"
        raise ValueError(
            f"act has {came} for {number} observation{'s' * (number != 1)}; its shape is {wanted}: "
            f"begin with carry=agent.initial_carry({number}), then pass what act returned"
        )


def on_rollout(
    policy: Policy | RecurrentPolicy, params: Params, carry: Carry, obs: Any, begins: jax.Array
) -> Any:
    """What the policy returned in a rollout, [T · N, ...]; `obs` [T · N, ...], `begins` [T, N]."""
    if not isinstance(policy, RecurrentPolicy):
        return policy.apply(params, obs)
    lead = begins.shape
    sequence = jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), obs)
    return _merged(policy.apply(params, carry, sequence, begins)[0])


def on_examples(network: Network) -> Apply:
    """(params, examples) -> outputs for every step: [B, ...], or for sequences [N, T, ...]."""
    if isinstance(network, RecurrentPolicy | RecurrentCritic):
        return lambda params, examples: _swapped(
            network.apply(params, examples.carry, *_time_first(examples))[0]
        )
    return lambda params, examples: _like(examples, network.apply(params, _rows(examples)))


def on_examples_with_units(policy: Policy | RecurrentPolicy) -> Apply:
    """As `on_examples`, and a list of the activations [B · T, ..., units] of each hidden layer; it
    is empty if the policy does not record them."""
    record: Any = policy.apply_with_units
    if record is None:
        plain = on_examples(policy)
        return lambda params, examples: (plain(params, examples), [])

    def without_memory(params: Params, examples: Any) -> Any:
        distribution, units = record(params, _rows(examples))
        return _like(examples, distribution), units

    def with_memory(params: Params, examples: Sequences) -> Any:
        distribution, _, units = record(params, examples.carry, *_time_first(examples))
        return _swapped(distribution), _merged(_swapped(units))

    return with_memory if remembers(policy) else without_memory


def values_of_both(
    critic: Critic | RecurrentCritic, params: Params, examples: Sequences, next_obs: Any
) -> tuple[jax.Array, jax.Array, Carry]:
    """V of the observations of sequences and of those that follow, [N, T] each, and the memory
    after the last step.

    The observation that follows step t is seen with the memory that has taken in observation t, and
    before any reset: so the last one of an episode that was cut off keeps the value of its history.
    """
    if not isinstance(critic, RecurrentCritic):
        value = on_examples(critic)
        return value(params, examples), value(params, examples._replace(obs=next_obs)), None

    def advance(carry: Carry, row: Any) -> Any:
        obs, reset = jax.tree.map(lambda leaf: leaf[None], row)
        value, carry = critic.apply(params, carry, obs, reset)
        return carry, (value[0], carry)

    last, (value, carries) = jax.lax.scan(advance, examples.carry, _time_first(examples))
    following = jax.tree.map(lambda leaf: leaf[None], _merged(_swapped(next_obs)))
    next_value, _ = critic.apply(
        params, _merged(carries), following, jnp.zeros((1, value.size), bool)
    )
    return value.T, next_value.reshape(value.shape).T, last


def sequence_starts(parts: Parts, trajectory: Trajectory) -> SequenceStarts | None:
    """How the sequences of a trajectory begin; None if examples are transitions."""
    if not learns_sequences(parts):
        return None
    if trajectory.carry is None:
        raise ValueError("trajectory.carry=None; take a trajectory of this agent's own `rollout`")
    return SequenceStarts(trajectory.begins.T, trajectory.carry)


def carries_after(
    parts: Parts, carries: Carries | None, trajectory: Trajectory, critic: Carry, cost_critic: Carry
) -> Carries | None:
    """The memories after a batch at whose end those of the critics were the given ones."""
    done = trajectory.terminated[-1] | trajectory.truncated[-1]
    fresh = functools.partial(begun_anew, parts.critic, done=done)
    return carries and carries.replace(critic=fresh(critic), cost_critic=fresh(cost_critic))


SATURATION = 0.99
"""Size beyond which a unit of a memory, an output of tanh, hardly changes."""


def memory_metrics(parts: Parts, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    """How much the policy of a state takes from its memory on its batch, and how full that is.

    `memory_use` is the mean KL from the policy to the same with every memory fresh; see
    `UpdateMetrics`. Nothing for a policy without memory.
    """
    policy, carries = parts.policy, state.actor.carry
    if not isinstance(policy, RecurrentPolicy) or carries is None:
        return {}

    def forgetful(params: Params, rows: Any) -> Any:
        number = jax.tree.leaves(rows)[0].shape[0]
        return step(policy, params, initial_carry(policy, number), rows)[0]

    without = in_chunks(
        lambda params, obs: _like_sequences(obs, forgetful(params, _merged(obs))),
        parts.config.chunk_size,
    )(state.policy_params, batch.policy_obs.obs)
    use = jnp.sum(batch.weight * batch.distribution.kl(without)) / jnp.sum(batch.weight)
    outputs = jax.tree.leaves(carries.policy)[-1]
    saturated = jnp.mean(jnp.abs(outputs) > SATURATION, dtype=jnp.float32)
    return {"memory_use": use, "carry_saturation": saturated}


def _like_sequences(obs: Any, rows: Any) -> Any:
    lead = jax.tree.leaves(obs)[0].shape[:2]
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), rows)


def _time_first(examples: Sequences) -> tuple[Any, jax.Array]:
    return _swapped((examples.obs, examples.reset))


def _swapped(tree: Any) -> Any:
    """[N, T, ...] <-> [T, N, ...]."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def _merged(tree: Any) -> Any:
    """[N, T, ...] -> [N · T, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _rows(examples: Any) -> Any:
    """What a network without memory reads: one row per step."""
    return _merged(examples.obs) if isinstance(examples, Sequences) else examples


def _like(examples: Any, outputs: Any) -> Any:
    """One row per step, with the leading axes of the examples."""
    if not isinstance(examples, Sequences):
        return outputs
    lead = examples.reset.shape
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), outputs)
