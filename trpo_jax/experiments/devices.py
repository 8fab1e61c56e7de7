"""The devices and processes of a run: how they meet, agree, and detect that one is lost."""

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
    """Another process of the run has ended or cannot be reached."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect to the other processes of a run. Call it before anything that uses a device.

    JAX determines arguments that are None; under SLURM and Open MPI, all of them. Raises
    `ValueError` if it cannot, or if the other processes do not appear.
    """
    # Its SIGTERM handler would replace ours, which ends a run with a checkpoint.
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
    """The devices that a state is spread over, of one or several processes.

    Several processes must call its methods in the same order, or they wait for each other forever.
    """

    def __init__(self, number: int | None = None):
        """Use `number` devices. None: one, or with several processes all of theirs.

        Raises `ValueError` if there are not enough.
        """
        there = jax.devices()
        if number is None:
            number = len(there) if jax.process_count() > 1 else 1
        if number > len(there):
            raise ValueError(
                f"devices={number}: there {'is' if len(there) == 1 else 'are'} {len(there)}; use "
                f"at most that many, or split a CPU into more with "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={number}"
            )
        if jax.process_count() > 1 and number < len(there):
            raise ValueError(
                f"devices={number}: {jax.process_count()} processes have {len(there)}; use all"
            )
        self.number = number
        self.is_first = jax.process_index() == 0
        """Whether this process writes and prints for the run."""
        self.mesh = Mesh(np.array(there[:number]), ("devices",)) if number > 1 else None
        self.everywhere = NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None

    def require_equal_parts(self, spec: RunSpec) -> None:
        """Raise `ValueError` unless the devices divide what is to be spread."""
        if self.mesh and spec.num_seeds > 1:
            require_equal_parts("num_seeds", spec.num_seeds, self.mesh)
        elif self.mesh:
            require_equal_parts("num_envs", spec.config.num_envs, self.mesh)

    def spread(self, state: Any) -> Any:
        """A state, placed by `shard_state`."""
        return shard_state(state, self.mesh) if self.mesh else state

    def shardings(self, state: Any) -> Any:
        """The shardings of a state's leaves, for `jit`; None on a single device."""
        return state_shardings(state, self.mesh) if self.mesh else None

    def collect(self, state: Any) -> Any:
        """The whole state, in every process."""
        if jax.process_count() == 1:
            return state
        return jax.jit(lambda tree: tree, out_shardings=self.everywhere)(state)

    def agree(self, value: float) -> list[float]:
        """The values of all processes, that of the first process first."""
        if jax.process_count() == 1:
            return [value]
        return multihost_utils.process_allgather(np.asarray(value)).tolist()

    def from_first(self, updates: int, state: Any) -> tuple[int, Any]:
        """The first process's values, in every process; all must have the same structure."""
        if jax.process_count() == 1:
            return updates, state
        found = multihost_utils.broadcast_one_to_all((np.int32(updates), to_host(state)))
        return int(found[0]), from_host(found[1], state)

    def explained(self, error: Exception, updates: int) -> Exception:
        """A broken connection as `ProcessLost`; any other error unchanged."""
        if jax.process_count() == 1 or not _BROKEN_COLLECTIVE.match(str(error)):
            return error
        return ProcessLost(
            f"another process of the run has ended or cannot be reached, after update {updates} of "
            f"this one ({_first_line(error)}); start all of them again with --resume"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
