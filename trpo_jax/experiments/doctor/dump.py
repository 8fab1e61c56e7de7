"""The data of an update, as files to inspect by hand."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from trpo_jax.experiments.doctor.diagnosis import examine
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.states import make_agent, state_at
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.bookkeeping import scale_rewards


def dump(run: Run, update: int | None, directory: Path) -> list[Path]:
    """Write the data of an update: advantages.npy, vf_loss.npy and batch.npz.

    The update is repeated, from the nearest checkpoint before it. By default it is one that the
    main finding refers to, or else the last. advantages.npy holds the raw advantages [B],
    vf_loss.npy the critic's squared errors [B] before its fit; with several seeds, [seeds, B].
    """
    number = len(run.histories()[0].get("update", ()))
    if update is None:
        update = next((f.updates[0] for f in examine(run).findings if f.updates), number)
    if not 1 <= update <= number:
        raise ValueError(f"update={update} must be one of the run's, 1 to {number}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"dump={directory} cannot be written: {error.strerror}") from None
    agent, spec = make_agent(run.spec), run.spec
    state = state_at(run, agent, update - 1)

    def prepare(state: Any) -> tuple[Any, jax.Array]:
        state, trajectory = agent.rollout(state)
        rewards = scale_rewards(state, trajectory, spec.hparams, spec.config)
        prepared = prepare_batch(agent.parts, state, trajectory, rewards.reward, spec.hparams)
        return prepared.batch, prepared.raw_advantage

    prepare = jax.vmap(prepare) if spec.num_seeds > 1 else prepare
    batch, advantage = jax.device_get(jax.jit(prepare)(state))
    files = [directory / name for name in ("advantages.npy", "vf_loss.npy", "batch.npz")]
    np.save(files[0], advantage)
    np.save(files[1], (batch.value_target - batch.value) ** 2)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]
    }
    np.savez(files[2], **arrays)
    return files
