"""Environments that step in NumPy, outside the compiled program."""

import abc
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.transforms import Transform, num_decisions
from trpo_jax.spaces import policy_part, shapes_of


class EnvironmentFailed(ValueError):
    """A simulator raised an error; `__cause__` holds it."""


class Simulators(abc.ABC):
    """M environments that live on the host: they change in place and take and return NumPy arrays.

    They never reset by themselves, so no final observation is lost: the caller restarts those that
    ended. Arrays that are returned may be overwritten by the next call.
    """

    @abc.abstractmethod
    def reset(self) -> Any:
        """Begin M episodes, as the seeds determine them; observations with leaves [M, ...]."""

    @abc.abstractmethod
    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step the environments `rows` (None: all) with actions [rows, ...].

        Returns what happened, with leaves [M, ...]; entries of other rows mean nothing.
        """

    @abc.abstractmethod
    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask` [M]; the current observations of all, [M, ...]."""

    def picture(self, row: int) -> np.ndarray:
        """How one environment looks now, uint8 [height, width, 3], if it was made to be drawn."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - many have nothing to close
        """Free what they hold."""


class HostEnvironment(Environment):
    """An environment that steps in NumPy. Subclass it to write your own.

    It describes the environment and makes simulators of it; an agent makes them for each run. The
    attributes are those of `Environment`, and `obs_spec` must be given.
    """

    metrics: tuple[str, ...] = ()
    """Names of the metrics that its simulators report."""
    costs: tuple[str, ...] = ()
    """Names of the costs that its simulators report."""

    @abc.abstractmethod
    def simulators(self, seeds: np.ndarray) -> Simulators:
        """Simulators of M environments; int64 `seeds` [M] in [0, 2³¹) determine all they do."""

    def drawn(self) -> "HostEnvironment | None":
        """The same environment with simulators that give pictures; None if it has none."""
        return None

    def with_transforms(
        self, transforms: Sequence[Transform], action_repeat: int
    ) -> "HostEnvironment":
        """The environment with repeated actions and transforms, as `transformed` asks for it."""
        return TransformedHost(self, transforms, action_repeat)

    def reset(self, key: jax.Array) -> NoReturn:
        """Refused: only simulators can be reset."""
        self._refuse()

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> NoReturn:
        """Refused: only simulators can step."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self.name} steps on the host and cannot be traced: call the functions of its agent "
            "outside jit, vmap and scan (init takes keys [seeds] for several seeds at once), or "
            "env.simulators(seeds) for the environment alone"
        )


def step_buffers(env: HostEnvironment, number: int) -> EnvStep:
    """Zeros for a step of `number` simulators, with leaves [number, ...], to be written over."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.zeros((number, *leaf.shape), leaf.dtype)

    return EnvStep(
        obs=jax.tree.map(zeros, env.obs_spec),
        reward=np.zeros(number, np.float32),
        terminated=np.zeros(number, bool),
        truncated=np.zeros(number, bool),
        metrics={name: np.zeros(number, np.float32) for name in env.metrics},
        cost={name: np.zeros(number, np.float32) for name in env.costs} or None,
    )


def names_of_metrics(metrics: Any) -> tuple[str, ...]:
    """The argument `metrics` of an adapter: names of entries of `info`, or one of them."""
    listed = (metrics,) if isinstance(metrics, str) else metrics
    if not isinstance(listed, tuple | list) or not all(isinstance(x, str) for x in listed):
        raise ValueError(f"metrics={metrics!r} must be names of entries of info, such as ('x',)")
    return tuple(listed)


def entry_of_info(env: HostEnvironment, name: str, info: dict[str, Any]) -> Any:
    """What `info` has under the name of a metric. Raises `EnvironmentFailed` if nothing."""
    if name not in info:
        known = ", ".join(sorted(info)) or "none"
        raise EnvironmentFailed(
            f"metrics={name!r}: info of {env.name} has no such entry; it has {known}"
        )
    return info[name]


class TransformedHost(HostEnvironment):
    """A host environment whose actions are repeated and whose steps pass through transforms."""

    def __init__(self, env: HostEnvironment, transforms: Sequence[Transform], action_repeat: int):
        self.env, self.transforms, self.action_repeat = env, tuple(transforms), action_repeat
        self.name, self.action_space, self.metrics = env.name, env.action_space, env.metrics
        self.obs_spec, self.costs = env.obs_spec, env.costs
        self.max_episode_steps = num_decisions(env.max_episode_steps, action_repeat)
        for transform in self.transforms:
            self.obs_spec = transform.obs_spec(self.obs_spec)
            self.costs = transform.costs(self.costs)
            self.max_episode_steps = transform.step_limit(self.max_episode_steps)
        self.obs_shape = shapes_of(policy_part(self.obs_spec))

    @property
    def unwrapped(self) -> Any:
        """The environment inside."""
        return getattr(self.env, "unwrapped", self.env)

    def drawn(self) -> HostEnvironment | None:
        """The same around the environment inside, drawn."""
        inner = self.env.drawn()
        return inner and TransformedHost(inner, self.transforms, self.action_repeat)

    def simulators(self, seeds: np.ndarray) -> Simulators:
        """The simulators of the environment inside, and the memories of the transforms."""
        return TransformedSimulators(self, self.env.simulators(seeds), len(seeds))


class TransformedSimulators(Simulators):
    """M simulators with repeated actions and transforms."""

    def __init__(self, env: TransformedHost, simulators: Simulators, number: int):
        self._env, self._inner, self._number = env, simulators, number
        self._memories: list[Any] = []
        self._obs: Any = None

    def reset(self) -> Any:
        """Begin M episodes."""
        self._memories, self._obs = self._begun(self._inner.reset())
        return self._obs

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step some of them; an action lasts until its episode ends."""
        step = self._repeated(actions, rows)
        chosen = slice(None) if rows is None else rows
        for number, transform in enumerate(self._env.transforms):
            after, step = transform.after(self._memories[number], step)
            self._memories[number] = _with_rows(self._memories[number], after, chosen)
        self._obs = _with_rows(self._obs, step.obs, chosen)
        return step._replace(obs=self._obs)

    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask`."""
        memories, obs = self._begun(self._inner.restart(mask))
        rows = np.flatnonzero(mask)
        self._memories = [
            _with_rows(*pair, rows) for pair in zip(self._memories, memories, strict=True)
        ]
        self._obs = _with_rows(self._obs, obs, rows)
        return self._obs

    def picture(self, row: int) -> np.ndarray:
        """That of the simulator inside."""
        return self._inner.picture(row)

    def close(self) -> None:
        """Close the simulators."""
        self._inner.close()

    def _begun(self, obs: Any) -> tuple[list[Any], Any]:
        memories = []
        for transform in self._env.transforms:
            memory, obs = transform.begin(obs, (self._number,))
            memories.append(memory)
        return jax.tree.map(np.copy, (memories, obs))

    def _repeated(self, actions: np.ndarray, rows: np.ndarray | None) -> EnvStep:
        step = self._inner.step(actions, rows)
        if self._env.action_repeat == 1:
            return step
        going = np.arange(self._number) if rows is None else rows
        kept = jax.tree.map(np.copy, step)
        for _ in range(self._env.action_repeat - 1):
            alive = ~(kept.terminated | kept.truncated)[going]
            if not alive.any():
                break
            actions, going = actions[alive], going[alive]
            so_far = kept.reward, kept.cost
            kept = _with_rows(kept, self._inner.step(actions, going), going)
            for total, before in zip(
                jax.tree.leaves((kept.reward, kept.cost)), jax.tree.leaves(so_far), strict=True
            ):
                total[going] += before[going]
        return kept


def _with_rows(old: Any, new: Any, rows: Any) -> Any:
    """A copy of a tree of [M, ...] with some rows replaced."""

    def replaced(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        result = np.copy(before)
        result[rows] = after[rows]
        return result

    return jax.tree.map(replaced, old, new)


def refuse_tracing(env: Environment, function: str, *trees: Any) -> None:
    """Raise `ValueError` if a function of a host environment's agent is being traced."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ValueError(
            f"{function} of an agent in {env.name} steps on the host and cannot be traced: call it "
            "outside jit, vmap and scan; it is compiled inside, and takes states [seeds, ...] from "
            "init(keys [seeds])"
        )
