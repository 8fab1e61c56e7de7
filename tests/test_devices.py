"""Several devices, several processes: the run of one, with one step for all."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import runs
from jax.flatten_util import ravel_pytree

from trpo_jax.cli import main
from trpo_jax.experiments.run_directory import load_run
from trpo_jax.experiments.states import final_state, make_agent, updates_done

SETTINGS = [
    *("CartPole-v1", "--num-envs", "8", "--num-steps", "16", "--hidden-sizes", "16"),
    *("--value-epochs", "2", "--eval-every", "50", "--eval-episodes", "8"),
    *("--checkpoint-every", "20", "--keep", "100000", "--no-tensorboard"),
]
BATCH_SIZE = 128

EIGHT_DEVICES = """
import re
import jax, numpy as np, pytest, trpo_jax
from jax.sharding import NamedSharding, PartitionSpec

def error(one, other):
    vectors = [np.asarray(jax.flatten_util.ravel_pytree(tree)[0]) for tree in (one, other)]
    return np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[0])

def parameters(state):
    return state.policy_params, state.value_params

assert jax.device_count() == 8
env = trpo_jax.make_env("CartPole-v1")
config = trpo_jax.TRPOConfig(num_envs=8, num_steps=16, hidden_sizes=(16,), value_epochs=2)
agent, hparams = trpo_jax.make_trpo(env, config), trpo_jax.HParams().as_arrays()
mesh = jax.make_mesh((4, 2), ("hosts", "devices"))
alone = agent.init(jax.random.key(0))
together = trpo_jax.shard_state(alone, mesh)
assert len(together.obs.sharding.device_set) == 8 and not together.obs.is_fully_replicated
update = jax.jit(agent.update)
program = update.lower(together, hparams).compile()
for _ in range(20):
    alone, metrics = update(alone, hparams)
    together, its_metrics = program(together, hparams)  # raises if it comes back placed otherwise
    assert metrics.accepted and its_metrics.accepted
    assert metrics.num_backtracks == its_metrics.num_backtracks
    assert its_metrics.kl <= hparams.max_kl
assert error(parameters(alone), parameters(together)) < 1e-5
for leaf in jax.tree.leaves(parameters(together)):
    assert len({np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}) == 1

# A sum over devices for each product of conjugate gradients and each candidate of the line search;
# none for a step of the environments or a minibatch of the critic.
kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
lines = [l for l in program.as_text().splitlines() if re.search(rf" ({kinds})(-start)?\\(", l)]
in_loops = [line for line in lines if "while/body" in line]
assert 1 <= len(lines) <= 16, len(lines)
assert len(in_loops) == 2 and all("all-reduce(" in line for line in in_loops), in_loops

odd = trpo_jax.make_trpo(env, config.replace(num_envs=6)).init(jax.random.key(0))
with pytest.raises(ValueError, match="num_envs=6 does not divide over 8 devices; use num_envs=8"):
    trpo_jax.shard_state(odd, mesh)

# Six lanes on four devices: the slice is filled up.
four = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("lanes",))
grid = {"max_kl": [0.001, 0.01, 0.03]}
results = [
    trpo_jax.sweep(
        *(env, config, grid), num_updates=2, seeds=(0, 1), max_parallel=8, num_episodes=4, mesh=mesh
    )
    for mesh in (None, four)
]
assert error(*(parameters(result.states) for result in results)) < 1e-5
np.testing.assert_array_equal(results[0].returns, results[1].returns)
print("done")
"""


def test_eight_devices_give_the_run_of_one():
    result = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split()[-1:] == ["done"], result.stderr[-3000:]


def test_two_processes_give_the_run_of_one_and_end_when_one_is_killed(tmp_path):
    run_path, twenty = tmp_path / "run", str(20 * BATCH_SIZE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    together = ["--distributed", "--coordinator", coordinator, "--num-processes", "2"]
    processes = [
        runs.start(
            *("train", *SETTINGS, "--total-steps", "100000000", "--out", str(run_path)),
            *(*together, "--process-id", str(number)),
            cwd=tmp_path,
        )
        for number in range(2)
    ]
    try:
        runs.wait_for_update(run_path, 25, processes[0], patience=300)
        processes[1].send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        assert processes[0].wait(timeout=60) == 1
        assert time.monotonic() - killed_at < 30
    finally:
        for process in processes:
            process.kill()
            process.wait()
    output = (tmp_path / "output").read_text()
    assert output.count("trpo-jax: another process of the run has ended") == 1, output
    assert "Traceback" not in output
    assert json.loads((run_path / "status.json").read_text())["status"] == "failed"

    assert main(["train", *SETTINGS, "--total-steps", twenty, "--out", str(tmp_path / "one")]) == 0
    one, two = (parameters_after_20(path) for path in (tmp_path / "one", run_path))
    assert np.linalg.norm(one - two) <= 1e-5 * np.linalg.norm(one)
    decisions = [load_run(path).histories()[0] for path in (tmp_path / "one", run_path)]
    for name in ("accepted", "num_backtracks"):
        np.testing.assert_array_equal(decisions[0][name], decisions[1][name][:20])

    done = updates_done(load_run(run_path))
    longer = ["--total-steps", str((done + 2) * BATCH_SIZE)]
    assert main(["train", "--resume", str(run_path), *longer, "--devices", "1"]) == 0
    assert runs.updates_in(run_path) == list(range(1, done + 3))


def parameters_after_20(path: Path) -> np.ndarray:
    run = load_run(path)
    state = final_state(run, make_agent(run.spec), "20")
    return np.asarray(ravel_pytree((state.policy_params, state.value_params))[0])
