"""The data types of the learner. T steps, N environments, B = T · N transitions."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import jax
from flax import struct

from trpo_jax.envs.base import Obs
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.spaces import critic_view, policy_view


class SparseNode:
    """Base of dataclasses that are pytrees in which an optional field appears only if it holds
    something, so that states of environments without metrics and costs are as they ever were, on
    disk too."""

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """The parts and their names."""
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        parts = [(field.name, getattr(self, field.name), _is_required(field)) for field in fields]
        shown = [
            (name, part) for name, part, required in parts if required or not _is_nothing(part)
        ]
        keyed = [(jax.tree_util.GetAttrKey(name), part) for name, part in shown]
        return keyed, tuple(name for name, _ in shown)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], parts: Iterable[Any]) -> Self:
        """The inverse."""
        return cls(**dict(zip(names, parts, strict=True)))


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _is_nothing(part: Any) -> bool:
    return part is None or (isinstance(part, dict) and not part)


class CostProgress(struct.PyTreeNode):
    """What the episodes have cost; part of the state if the environment has costs."""

    totals: dict[str, jax.Array]
    """float32 [N] by name: undiscounted cost of the current episode so far."""
    last_mean: jax.Array
    """float32: mean cost per episode in the last update in which any episode ended."""
    mean_length: jax.Array
    """float32: L̄, a running mean of the length of episodes; before any ended, the time limit."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class EpisodeProgress(SparseNode):
    """Progress of each environment's current episode, and the last mean return."""

    returns: jax.Array
    """float32 [N]: undiscounted reward so far."""
    lengths: jax.Array
    """int32 [N]: steps so far."""
    discounted: jax.Array
    """float32 [N]: running discounted return, for reward normalisation."""
    num_begun: jax.Array
    """uint32 [N]: number of episodes begun in each environment, modulo 2³²."""
    last_mean_return: jax.Array
    """float32: mean return in the last update in which any episode ended."""
    any_ended: jax.Array
    """bool: whether any episode has ended yet."""
    metrics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    """float32 [N] by name: sums of the environment's metrics so far."""
    costs: CostProgress | None = None
    """What they cost; None if the environment has no costs."""


class Carries(struct.PyTreeNode):
    """What the networks remember of the current episodes, leaves [N, ...]; None: no memory."""

    policy: Any = None
    """The memory of π after the last observation; fresh where an episode has just begun."""
    critic: Any = None
    """That of V, as of the end of the last batch that was learnt from."""
    cost_critic: Any = None
    """That of V_C."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ActorState(SparseNode):
    """The state of the environments: acting changes it, learning does not, but for the memories of
    the critics."""

    env_state: Any
    """States of the environments, [N, ...]."""
    obs: Obs
    """Their current observations, not normalised; leaves [N, ...]."""
    episodes: EpisodeProgress
    """Progress of the current episodes."""
    carry: Carries | None = None
    """The memories of the networks; None if none has any."""

    @property
    def policy_carry(self) -> Any:
        """The memory of the policy; None if it has none."""
        return self.carry and self.carry.policy


class CostCritic(struct.PyTreeNode):
    """V_C, the critic of the costs: the same network as V, with parameters of its own."""

    params: Any
    """Parameters of V_C."""
    opt_state: Any
    """State of its fit."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class TrainState(SparseNode):
    """The complete state of a run: an immutable pytree that keeps its types in every update."""

    key: jax.Array
    """Random key for future updates, a scalar key array."""
    num_updates: jax.Array
    """int32: updates done. Environment steps are this times B, so no step counter can overflow."""
    policy_params: Any
    """Parameters of π."""
    value_params: Any
    """Parameters of V."""
    value_opt_state: Any
    """State of the value fit: Adam's, or () for L-BFGS."""
    policy_step_state: Any
    """State of the policy step; () for TRPO with fixed damping."""
    obs_statistics: RunningStatistics
    """Statistics of the observations up to the last update; leaves shaped like one observation."""
    return_statistics: RunningStatistics
    """Statistics of the running discounted return; leaves []."""
    actor: ActorState
    """Environments, observations, episodes."""
    cost_critic: CostCritic | None = None
    """V_C; None if the policy step does not use costs."""


class Trajectory(struct.PyTreeNode):
    """The record of a rollout, time first."""

    policy_version: jax.Array
    """int32 [T, N]: `num_updates` of the policy that acted; learning refuses any other version."""
    obs: Obs
    """Leaves [T, N, ...] in the environment's types, not normalised; NaN and ±∞ are replaced by
    0."""
    next_obs: Obs
    """The same after the action, *before* any automatic reset."""
    action: jax.Array
    """[T, N] or [T, N, dimensions]: as sampled, before clipping or squashing."""
    log_prob: jax.Array
    """float32 [T, N]: log π_old(action|obs)."""
    distribution: Any
    """The `Distribution` π_old(·|obs), leaves [T, N, ...]."""
    reward: jax.Array
    """float32 [T, N], not normalised; NaN and ±∞ are replaced by 0."""
    terminated: jax.Array
    """bool [T, N]: the episode ended in a terminal state, whose value is 0."""
    truncated: jax.Array
    """bool [T, N]: the episode was cut off without terminating; next_obs keeps its value."""
    valid: jax.Array
    """bool [T, N]: observation, reward and next observation were finite, and the observation's mask
    allowed an action. Invalid transitions never count."""
    episode_return: jax.Array
    """float32 [T, N]: undiscounted reward of the episode up to and including this step."""
    episode_length: jax.Array
    """int32 [T, N]: steps of the episode up to and including this one."""
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: what the environment measured; NaN and ±∞ are replaced by 0."""
    episode_metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: their means over the episode up to and including this step."""
    costs: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: what the step cost; NaN and ±∞ are replaced by 0."""
    episode_costs: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: undiscounted cost of the episode up to and including this step."""
    carry: Carries | None = None
    """[N, ...]: the memories before the first step; None if no network has any."""

    @property
    def begins(self) -> jax.Array:
        """bool [T, N]: whether the step is the first of its episode, so memories start anew."""
        return self.episode_length == 1


class Sequences(NamedTuple):
    """Examples that are sequences, as one network reads them: N of T steps."""

    obs: Obs
    """[N, T, ...]."""
    reset: jax.Array
    """bool [N, T]: whether the memory starts anew before the step."""
    carry: Any
    """[N, ...]: the memory before the first step; None if the network has none."""


class SequenceStarts(NamedTuple):
    """How the sequences of a batch begin."""

    reset: jax.Array
    """bool [N, T]: whether the memories start anew before the step."""
    carry: Carries
    """[N, ...]: the memories before the first step."""

    def sequences(self, obs: Obs, network: str) -> Sequences:
        """The sequences as the network of that name reads them; `obs` [N, T, ...] is its part."""
        return Sequences(obs, self.reset, getattr(self.carry, network))


class BatchCosts(struct.PyTreeNode):
    """What a policy step needs to keep a constraint on the costs; leaves float32 [B]."""

    advantage: jax.Array
    """Â_C of the summed costs, centred but not scaled."""
    excess: jax.Array
    """Cost of the step minus the limit per step, d / L̄: its mean over the batch is c, the violation
    of the constraint per step; c · L̄ = Ĵ_C − d is that per episode."""
    mean_length: jax.Array
    """L̄, the mean length of an episode, in every row."""
    value: jax.Array
    """V_C(obs) before the fit."""
    value_target: jax.Array
    """Regression target of V_C."""


class Batch(struct.PyTreeNode):
    """A flattened trajectory, ready for the policy step and the value fit; leaves [B, ...].

    Environment by environment: row n · T + t is step t of environment n. If a network has a memory,
    nothing is flattened: an example is the sequence of one environment, and [B, ...] below reads
    [N, T, ...].
    """

    obs: Obs
    """Observations as the networks see them, [B, ...], normalised with the statistics of the
    rollout. Policy and critic each take their part."""
    action: jax.Array
    """[B] or [B, dimensions]."""
    distribution: Any
    """π_old(·|obs), recomputed from the current parameters."""
    log_prob: jax.Array
    """float32 [B]: log π_old(action|obs), recomputed likewise."""
    entropy: jax.Array
    """float32 [B]: entropy of π_old(·|obs)."""
    advantage: jax.Array
    """float32 [B], normalised if configured."""
    value: jax.Array
    """float32 [B]: V(obs) before the fit."""
    value_target: jax.Array
    """float32 [B]."""
    weight: jax.Array
    """float32 [B]: 1 for valid transitions, 0 for invalid ones."""
    costs: BatchCosts | None = None
    """None if the policy step does not use costs."""
    starts: SequenceStarts | None = None
    """How the sequences begin; None if the examples are transitions."""

    @property
    def policy_obs(self) -> Any:
        """The examples as the policy reads them: the part of `obs` that it sees, or `Sequences`."""
        return self._examples(policy_view(self.obs), "policy")

    @property
    def critic_obs(self) -> Any:
        """The examples as the critic reads them."""
        return self._examples(critic_view(self.obs), "critic")

    def for_costs(self) -> "Batch":
        """The batch with values, targets and memory of V_C, for its fit."""
        assert self.costs is not None
        starts, costs = self.starts, self.costs
        if starts is not None:
            carry = starts.carry.replace(critic=starts.carry.cost_critic)
            starts = starts._replace(carry=carry)
        return self.replace(value=costs.value, value_target=costs.value_target, starts=starts)

    def _examples(self, obs: Obs, network: str) -> Any:
        return obs if self.starts is None else self.starts.sequences(obs, network)
