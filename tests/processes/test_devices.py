"""Several devices, several processes: the run of one, with one step for all."""

import contextlib
import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import runs
from jax.flatten_util import ravel_pytree

from trpo_jax.cli import main
from trpo_jax.experiments.run_directory import load_run
from trpo_jax.experiments.states import final_state, make_agent, updates_done

MODEL = [
    *("CartPole-v1", "--num-envs", "8", "--num-steps", "16", "--hidden-sizes", "16"),
    *("--value-epochs", "2", "--eval-episodes", "8"),
]
SETTINGS = [
    *(*MODEL, "--eval-every", "50"),
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
obs = together.actor.obs
assert len(obs.sharding.device_set) == 8 and not obs.is_fully_replicated
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

# Lanes under shard_map: loops begin with constants, which its check of replication refuses.
lanes = jax.vmap(agent.init)(jax.random.split(jax.random.key(1), 8))
settings = trpo_jax.HParams.stack([trpo_jax.HParams()] * 8)
line = jax.sharding.Mesh(np.array(jax.devices()), ("lanes",))
each = PartitionSpec("lanes")
mapped = jax.shard_map(
    jax.vmap(agent.update), mesh=line, in_specs=each, out_specs=each, check_vma=False
)
singles = [update(jax.tree.map(lambda leaf: leaf[i], lanes), hparams)[1].kl for i in range(8)]
np.testing.assert_allclose(jax.jit(mapped)(lanes, settings)[1].kl, singles, 1e-4)

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
"""


def test_eight_devices_give_the_run_of_one():
    runs.with_devices(8, EIGHT_DEVICES)


TREE_OF_OBSERVATIONS = """
import jax, jax.numpy as jnp, numpy as np, trpo_jax
from test_observations import Camera, NORMALIZED
from trpo_jax import Observation

class Special(Camera):
    def observe(self, state):
        seen = super().observe(state)
        critic = (state["place"], seen["image"])
        return Observation(seen, critic=critic, action_mask=jnp.arange(3) != state["time"] % 3)

assert jax.device_count() == 2
agent = trpo_jax.make_trpo(Special(), NORMALIZED)
alone = agent.init(jax.random.key(0))
together = trpo_jax.shard_state(alone, jax.make_mesh((2,), ("devices",)))
for leaf in jax.tree.leaves(together.actor.obs):
    assert len(leaf.sharding.device_set) == 2 and not leaf.is_fully_replicated
for leaf in jax.tree.leaves(together.obs_statistics):
    assert leaf.is_fully_replicated
for _ in range(3):
    alone, one = agent.update(alone)
    together, two = agent.update(together)
    assert one.accepted and two.accepted
    np.testing.assert_allclose(one.kl, two.kl, rtol=1e-3)
vectors = [
    np.asarray(jax.flatten_util.ravel_pytree((state.policy_params, state.value_params))[0])
    for state in (alone, together)
]
assert np.linalg.norm(vectors[0] - vectors[1]) < 1e-5 * np.linalg.norm(vectors[0])
"""


def test_a_tree_of_observations_is_spread_over_devices():
    runs.with_devices(2, TREE_OF_OBSERVATIONS)


ON_THE_COMMAND_LINE = """
import pathlib, sys
import numpy as np
from trpo_jax.cli import main
from trpo_jax.experiments.run_directory import load_run

MODEL = [*sys.argv[1:], "--total-steps", "640"]

def train(name, *more):
    assert main(["train", *MODEL, "--no-tensorboard", "--out", name, *more]) == 0
    return load_run(pathlib.Path(name)).histories()

alone = train("one", "--num-seeds", "2")
together = train("two", "--num-seeds", "2", "--devices", "2")
for one, other in zip(alone, together, strict=True):
    np.testing.assert_allclose(one["kl"], other["kl"], rtol=1e-4)
    np.testing.assert_array_equal(one["num_backtracks"], other["num_backtracks"])

def sweep(name, *more):
    axes = ["--max-kl", "0.003", "0.03", "--seeds", "2"]
    assert main(["sweep", *MODEL, *axes, "--out", name, *more]) == 0
    return pathlib.Path(name, "results.csv").read_text()

assert sweep("alone") == sweep("together", "--devices", "2")

# Stopped before its results were written, it goes on, and says that the devices are others.
pathlib.Path("together", "results.csv").unlink()
assert main(["sweep", "--resume", "together"]) == 0
"""


def test_seeds_and_sweeps_are_spread_from_the_command_line(tmp_path):
    printed = runs.with_devices(2, ON_THE_COMMAND_LINE, *MODEL, cwd=tmp_path)
    assert "warning: devices is 1 now and was 2; it goes on, but not bit for bit" in printed


def test_two_processes_give_the_run_of_one_and_end_when_one_is_killed(tmp_path):
    run_path, twenty = tmp_path / "run", str(20 * BATCH_SIZE)
    endless = [*SETTINGS, "--total-steps", "100000000", "--out", str(run_path)]
    with _two_processes("train", *endless, cwd=tmp_path) as processes:
        runs.wait_for_update(run_path, 25, processes[0], patience=300)
        processes[1].send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        assert processes[0].wait(timeout=60) == 1
        assert time.monotonic() - killed_at < 30
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

    # Both go on; a signal to one of them ends both after the same update, with a checkpoint.
    logged = runs.count_lines(run_path)
    with _two_processes("train", "--resume", str(run_path), cwd=tmp_path) as processes:
        runs.wait_for_update(run_path, logged + 5, processes[0], patience=300)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=60) for process in processes] == [143, 143]
    assert json.loads((run_path / "status.json").read_text())["status"] == "interrupted"

    done = updates_done(load_run(run_path))
    longer = ["--total-steps", str((done + 2) * BATCH_SIZE)]
    assert main(["train", "--resume", str(run_path), *longer, "--devices", "1"]) == 0
    assert runs.updates_in(run_path) == list(range(1, done + 3))


@contextlib.contextmanager
def _two_processes(*words: str, cwd: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    together = ["--distributed", "--coordinator", coordinator, "--num-processes", "2"]
    processes = [
        runs.start(*words, *together, "--process-id", str(number), cwd=cwd) for number in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def parameters_after_20(path: Path) -> np.ndarray:
    run = load_run(path)
    state = final_state(run, make_agent(run.spec), "20")
    return np.asarray(ravel_pytree((state.policy_params, state.value_params))[0])
