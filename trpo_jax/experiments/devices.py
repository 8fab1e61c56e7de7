"""The devices of a run, and its processes: how they meet, agree, and notice that one is gone."""

import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trpo_jax.experiments.checkpoints import from_host, to_host
from trpo_jax.experiments.specification import RunSpec
from trpo_jax.learner.sharding import require_equal_parts, shard_state, state_shardings

_HEARTBEAT_SECONDS = 60
"""A process that neither closes its connections nor answers is given up after this time."""
_BROKEN_COLLECTIVE = re.compile(
    "(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|INTERNAL|DEADLINE_EXCEEDED|FAILED_PRECONDITION): "
)


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Meet the other processes of a run; before anything that asks for a device.

    What is None is found out by JAX: under SLURM and Open MPI everything. Raises `ValueError` if
    it cannot be, or if the others do not come.
    """
    # Its handler of SIGTERM would take the place of the one that ends a run with a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed=True: the processes do not meet ({_first_line(error)}); outside SLURM "
            f"and Open MPI give each of them --coordinator HOST:PORT, the address of the first, "
            f"--num-processes and --process-id"
        ) from None


class Devices:
    """The devices that a state is spread over, of this process or of several.

    What several processes do with it they do in the same order, or each waits for the other.
    """

    def __init__(self, number: int | None = None):
        """`number` devices; None: one, or if there are several processes, all of theirs.

        Raises `ValueError` if there are not as many.
        """
        there = jax.devices()
        if number is None:
            number = len(there) if jax.process_count() > 1 else 1
        if number > len(there):
            raise ValueError(
                f"devices={number}: there {'is' if len(there) == 1 else 'are'} {len(there)}; use "
                f"as many, or make more of a CPU with "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={number}"
            )
        if jax.process_count() > 1 and number < len(there):
            raise ValueError(
                f"devices={number}: {jax.process_count()} processes have {len(there)}; use all"
            )
        self.number = number
        self.is_first = jax.process_index() == 0
        """Whether this process speaks for the run: it alone writes and prints."""
        self.mesh = Mesh(np.array(there[:number]), ("devices",)) if number > 1 else None
        self.everywhere = NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None

    def require_equal_parts(self, spec: RunSpec) -> None:
        """Raise `ValueError` if what is to be spread does not divide; before anything is made."""
        if self.mesh and spec.num_seeds > 1:
            require_equal_parts("num_seeds", spec.num_seeds, self.mesh)
        elif self.mesh:
            require_equal_parts("num_envs", spec.config.num_envs, self.mesh)

    def spread(self, state: Any) -> Any:
        """A state as `shard_state` places it."""
        return shard_state(state, self.mesh) if self.mesh else state

    def shardings(self, state: Any) -> Any:
        """Where the leaves of a state are, for `jit`; None if there is but one device."""
        return state_shardings(state, self.mesh) if self.mesh else None

    def collect(self, state: Any) -> Any:
        """The whole of a state in every process."""
        if jax.process_count() == 1:
            return state
        return jax.jit(lambda tree: tree, out_shardings=self.everywhere)(state)

    def agree(self, value: float) -> list[float]:
        """The values of all processes, the first one's first."""
        if jax.process_count() == 1:
            return [value]
        return multihost_utils.process_allgather(np.asarray(value)).tolist()

    def from_first(self, updates: int, state: Any) -> tuple[int, Any]:
        """What the first process has; the others' own is of the same kind."""
        if jax.process_count() == 1:
            return updates, state
        found = multihost_utils.broadcast_one_to_all((np.int32(updates), to_host(state)))
        return int(found[0]), from_host(found[1], state)

    def explained(self, error: Exception, updates: int) -> Exception:
        """A broken connection as `ProcessLost`; any other error as it is."""
        if jax.process_count() == 1 or not _BROKEN_COLLECTIVE.match(str(error)):
            return error
        return ProcessLost(
            f"another process of the run has ended or cannot be reached, after update {updates} of "
            f"this one ({_first_line(error)}); start all of them again with --resume"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
