"""The promises of an environment, one function each: evidence -> what was found."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import observation_spec
from trpo_jax.experiments.conformance.comparing import first_difference, first_where
from trpo_jax.experiments.conformance.evidence import Evidence
from trpo_jax.spaces import Box, MultiDiscrete, Observation, policy_part

_STEP = ("step", "environment")


class Findings:
    """What a promise's function finds: why it is broken or skipped, and notes."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.skipped: list[str] = []
        self.notes: list[str] = []


def shapes_and_types(evidence: Evidence, found: Findings) -> None:
    """Observations have the announced shapes and, on the host, types."""
    spec = jax.tree_util.tree_flatten_with_path(observation_spec(evidence.env))[0]
    for what, obs in (("reset", evidence.play.first_obs), ("step", evidence.play.next_obs)):
        for (path, wanted), leaf in zip(spec, jax.tree.leaves(obs), strict=True):
            shape = leaf.shape[leaf.ndim - len(wanted.shape) :]
            name = f"obs{jax.tree_util.keystr(path)} of {what}"
            if shape != wanted.shape or leaf.ndim > len(wanted.shape) + 2:
                found.broken.append(f"{name} has shape {leaf.shape}; {wanted.shape} is announced")
            elif leaf.dtype != wanted.dtype and evidence.on_host:
                found.broken.append(f"{name} is {leaf.dtype}; {wanted.dtype} is announced")
            elif leaf.dtype != wanted.dtype:
                found.notes.append(
                    f"{name} is {leaf.dtype}; training converts it to {wanted.dtype}"
                )


def actions(evidence: Evidence, found: Findings) -> None:
    """Every action of the space, inside its mask, is taken without an error."""
    if evidence.play.error:
        found.broken.append(evidence.play.error)
    elif evidence.untried:
        found.notes.append(f"{evidence.untried} choices were not tried")


def same_key(evidence: Evidence, found: Findings) -> None:
    """The same key and the same actions give the same episode, bit for bit."""
    steps = evidence.replay.num_steps
    for what in ("first_obs", "obs", "next_obs", "reward", "terminated", "truncated"):
        old, new = getattr(evidence.play, what), getattr(evidence.replay, what)
        axes = _STEP[1:] if what == "first_obs" else _STEP
        if what != "first_obs":
            old = jax.tree.map(lambda leaf: leaf[:steps], old)
        difference = first_difference(old, new, axes)
        if difference:
            found.broken.append(f"{what}, played twice with the same key, is {difference}")
            return


def ends(evidence: Evidence, found: Findings) -> None:
    """Both flags are true or false, and the record never has both."""
    for name in ("terminated", "truncated"):
        flag = getattr(evidence.play, name)
        odd = (flag != 0) & (flag != 1)
        if odd.any():
            found.broken.append(f"{name} is {first_where(odd, flag, _STEP)}; it must be 0 or 1")
    both = evidence.play.terminated.astype(bool) & evidence.play.truncated.astype(bool)
    if both.any():
        total = int(evidence.play.done.sum())
        found.notes.append(
            f"{both.sum()} of {total} ends set both flags; the record keeps terminated"
        )
    record = evidence.record
    if record is not None and (record.terminated & record.truncated).any():
        where = first_where(record.terminated & record.truncated, record.terminated, _STEP)
        found.broken.append(f"the record has both flags set: {where}")


def final_observation(evidence: Evidence, found: Findings) -> None:
    """`step` never resets: what it returns at an end looks like the end of an episode.

    It is broken where everything seen after ends, and hardly anything seen before them, lies within
    what resets give: where that is less likely than 10⁻⁴ by chance.
    """
    played, fresh = evidence.play, np.concatenate([evidence.play.fresh, evidence.replay.fresh])
    if not played.done.any():
        found.skipped.append(f"no episode ended within {_extent(evidence)}")
        return
    low, high = np.nanmin(fresh, axis=0), np.nanmax(fresh, axis=0)
    span = high - low
    inside = np.all((played.look >= low - span) & (played.look <= high + span), axis=-1)
    at_ends, before = inside[played.done], inside[~played.done]
    share = (before.sum() + 1) / (before.size + 2)
    if at_ends.all() and share**at_ends.size < 1e-4:
        found.broken.append(
            f"at all {at_ends.size} ends, step returns what a reset gives, and so do only "
            f"{before.sum()} of {before.size} other steps: it must not reset by itself"
        )


def fresh_episodes(evidence: Evidence, found: Findings) -> None:
    """After an end a new episode begins, another one in each environment."""
    first = evidence.play.first_obs
    alike = _all_alike(first)
    if alike:
        same_state = bool(np.all(evidence.play.fresh == evidence.play.fresh[0]))
        if same_state:
            found.notes.append("reset ignores its key: all episodes begin alike")
    done = evidence.play.done[:-1]
    if done.any():
        after: Any = jax.tree.map(lambda leaf: leaf[1:][done], evidence.play.obs)
        final: Any = jax.tree.map(lambda leaf: leaf[:-1][done], evidence.play.next_obs)
        if _equal(after, final) and not _within(final, first):
            found.broken.append(
                f"after each of {done.sum()} ends, the final observation comes once more"
            )
    record = evidence.record
    if record is None:
        return
    done = np.asarray(record.terminated | record.truncated)[:-1]
    later, before = (
        jax.tree.map(lambda leaf: leaf[1:], record.obs),
        jax.tree.map(lambda leaf: leaf[:-1], record.next_obs),
    )
    going_on = ~done
    kept, seen = (
        jax.tree.map(lambda leaf: _where(going_on, leaf), tree) for tree in (before, later)
    )
    difference = first_difference(kept, seen, _STEP)
    if difference:
        found.broken.append(f"in the record an observation changes between two steps: {difference}")
    begun = jax.tree.map(lambda leaf: leaf[done], later)
    if done.sum() > 1 and not alike and _all_alike(begun):
        found.broken.append(
            f"all {done.sum()} later episodes of the record begin alike, although the first differ"
        )


def time_limit(evidence: Evidence, found: Findings) -> None:
    """Episodes end at `max_episode_steps`; a limit of ours truncates."""
    played, limit = evidence.play, evidence.env.max_episode_steps
    terminated, truncated = played.terminated.astype(bool), played.truncated.astype(bool)
    if limit is None:
        cut = np.unique(played.lengths[truncated & ~terminated])
        if cut.size:
            found.notes.append(
                f"truncates after {cut.min()} to {cut.max()} steps; max_episode_steps is None"
            )
    elif played.lengths.max() > limit:
        found.broken.append(
            f"an episode is {played.lengths.max()} steps long; max_episode_steps={limit}"
        )
    else:
        _note_the_flag(evidence, limit, found)
    _own_limit(evidence, found)


def _note_the_flag(evidence: Evidence, limit: int, found: Findings) -> None:
    played = evidence.play
    terminated, truncated = played.terminated.astype(bool), played.truncated.astype(bool)
    reached = (played.lengths == limit) & played.done
    if not (played.lengths == limit).any():
        found.notes.append(f"max_episode_steps={limit} was not reached within {_extent(evidence)}")
    elif not reached[played.lengths == limit].all():
        found.broken.append(f"an episode goes on after max_episode_steps={limit} steps")
    elif terminated[reached].all() and limit > 1:
        flags = "both flags" if truncated[reached].all() else "terminated"
        found.notes.append(f"its own limit of {limit} steps sets {flags} ({reached.sum()} times)")


def _own_limit(evidence: Evidence, found: Findings) -> None:
    """`episode_length` truncates whatever has not ended before, and the value goes on."""
    record, limit = evidence.record, evidence.record_limit
    if record is None:
        return
    reached = record.episode_length == limit
    if (record.episode_length > limit).any():
        found.broken.append(
            f"with episode_length={limit} an episode is {record.episode_length.max()} steps long"
        )
    wrong = reached & ~(record.terminated | record.truncated)
    if wrong.any():
        found.broken.append(
            f"with episode_length={limit}, an episode goes on: "
            f"{first_where(wrong, record.truncated, _STEP)}"
        )
    elif reached.any() and record.terminated[reached].all() and evidence.play.num_steps > limit:
        honest = evidence.play.terminated.astype(bool)[evidence.play.lengths == limit]
        if honest.size and not honest.any():
            found.broken.append(
                f"episode_length={limit} terminates {reached.sum()} episodes; it must truncate"
            )


def record(evidence: Evidence, found: Findings) -> None:
    """In training, the return of an episode is the sum of its rewards."""
    record = evidence.record
    if record is None and evidence.play.error:
        found.skipped.append('needs "actions"')
        return
    if record is None:
        found.broken.append(f"an agent's rollout raises {evidence.record_error}")
        return
    done = record.terminated | record.truncated
    sums, current = np.zeros(done.shape), np.zeros(done.shape[1])
    for row, reward, end in zip(sums, record.reward.astype(float), done, strict=True):
        row[:] = current + reward
        current = np.where(end, 0, row)
    scale = np.maximum(np.abs(record.reward).max(initial=0), 1e-30)
    difference = first_difference(
        sums, record.episode_return.astype(float), _STEP, 1e-5, 1e-5 * scale
    )
    if difference:
        found.broken.append(f"the sum of rewards and the recorded return{difference}")


def masks(evidence: Evidence, found: Findings) -> None:
    """Every observation that is acted on allows an action, in every dimension."""
    obs = evidence.play.obs
    if not isinstance(obs, Observation) or obs.action_mask is None:
        return
    space = evidence.env.action_space
    sizes = space.num_categories if isinstance(space, MultiDiscrete) else obs.action_mask.shape[-1:]
    for dimension, part in enumerate(np.split(obs.action_mask, np.cumsum(sizes)[:-1], axis=-1)):
        empty = ~part.any(axis=-1)
        if empty.any():
            step, env = np.argwhere(empty)[0]
            found.broken.append(
                f"{empty.sum()} of {empty.size} observations allow none of {part.shape[-1]} "
                f"actions in dimension {dimension}, first at step {step}, environment {env}"
            )
            return


def finite(evidence: Evidence, found: Findings) -> None:
    """Observations and rewards are finite, and inside `observation_space` if there is one."""
    seen = {
        "obs": (evidence.play.first_obs, _STEP[1:]),
        "next_obs": (evidence.play.next_obs, _STEP),
        "reward": (evidence.play.reward, _STEP),
    }
    for what, (tree, axes) in seen.items():
        odd = jax.tree.map(_not_finite, tree)
        where = first_where(odd, tree, axes)
        if where:
            found.broken.append(f"{what}{where}")
            return
    space: Any = getattr(evidence.env, "observation_space", None)
    if space is None:
        return
    for what, axes in (("first_obs", _STEP[1:]), ("next_obs", _STEP)):
        part = policy_part(getattr(evidence.play, what))
        outside = jax.tree.map(_outside, space, part, is_leaf=lambda node: isinstance(node, Box))
        where = first_where(outside, part, axes)
        if where:
            found.broken.append(f"{what}{where} lies outside observation_space={space}")
            return


def compiled_once(evidence: Evidence, found: Findings) -> None:
    """A second call of reset and step runs the program of the first."""
    if evidence.programs is None:
        found.skipped.append("it steps on the host")
        return
    for name, count in evidence.programs.num_traces.items():
        if count > 1:
            found.broken.append(
                f"{name} was compiled {count} times for the same shapes: static data in the state "
                "must be equal from call to call"
            )


def _extent(evidence: Evidence) -> str:
    return f"{evidence.play.num_steps} random steps of {evidence.play.reward.shape[1]} environments"


def _not_finite(leaf: np.ndarray) -> np.ndarray:
    inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return ~np.isfinite(leaf) if inexact else np.zeros(leaf.shape, bool)


def _outside(space: Box, leaf: np.ndarray) -> np.ndarray:
    low, high = (np.broadcast_to(bound, space.shape) for bound in (space.low, space.high))
    return (leaf < low) | (leaf > high)


def _where(rows: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Zero outside of some rows [T, M] of a leaf [T, M, ...]."""
    return np.where(rows.reshape(*rows.shape, *(1,) * (leaf.ndim - 2)), leaf, np.zeros_like(leaf))


def _all_alike(tree: Any) -> bool:
    """Whether all rows of the leaves [M, ...] are the same."""
    return all(bool(np.all(leaf == leaf[:1])) for leaf in jax.tree.leaves(tree))


def _equal(left: Any, right: Any) -> bool:
    return first_difference(left, right) is None


def _within(some: Any, others: Any) -> bool:
    """Whether each row of one tree is a row of the other, leaf by leaf."""
    return all(
        all(any(np.array_equal(row, other) for other in many) for row in few)
        for few, many in zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    )
