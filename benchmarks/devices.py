"""Several devices: collectives per update, the same run, weak scaling, the fit of the critic.

    python benchmarks/devices.py

Each number of devices is a process of its own, since XLA makes its virtual devices only once.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import report
from collectives import collectives
from devices_tables import collectives_section, fits_section, same_run_section, scaling_section
from divided_fit import divided_fit
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import trpo_jax

PARTS = {
    "rollout": "rollout",
    "cg_solve": "conjugate gradients: the curvature product of an iteration",
    "line_search": "line search: surrogate and KL of a candidate",
    "trust_region_step": "gradient, and the table of the value fit",
    "prepare_batch": "advantages and their normalisation, on-policy check",
    "fit_value": "value fit: loss before and after",
    "_merged_statistics": "statistics of observations and returns",
    "record_episodes": "monitoring",
    "update_metrics": "monitoring",
}
SAME_RUN = ("CartPole-v1", "Catch-bsuite", "MountainCarContinuous-v0", "Pendulum-v1")
UPDATES = 20
SMALL = {"num_envs": 8, "num_steps": 32, "hidden_sizes": (16,), "value_epochs": 2}
ENVS_PER_DEVICE = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=report.RESULTS / "devices.md")
    parser.add_argument("--done", type=Path, help="file of measurements, not repeated if there")
    parser.add_argument("--only", help="make these measurements; the report has all that are done")
    parser.add_argument("--work", nargs="*", help="internal: a measurement and its arguments")
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(MEASUREMENTS[arguments.work[0]](*arguments.work[1:])))
        return
    plan = [
        ("collectives", 8),
        *(("same_run", 8, env_id) for env_id in SAME_RUN),
        *(("weak_scaling", number) for number in (1, 2, 4, 8)),
        *(("value_fits", number) for number in (2, 8)),
    ]
    file = arguments.done
    done = json.loads(file.read_text()) if file and file.is_file() else {}
    for name, *details in plan:
        key = " ".join(map(str, (name, *details)))
        if key not in done and arguments.only in (None, name):
            done[key] = measure(name, *details)
            if file:
                file.write_text(json.dumps(done))
    several = {name: [] for name, *_ in plan}
    for name, *details in plan:
        key = " ".join(map(str, (name, *details)))
        if key in done:
            several[name].append(done[key])
    sections = [SECTIONS[name](measured) for name, measured in several.items() if measured]
    report.write(arguments.out, "Several devices", *sections)


def measure(name: str, num_devices: int, *arguments: str) -> dict:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
    output = subprocess.run(
        [sys.executable, __file__, "--work", name, *arguments],
        env={**os.environ, **flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def mesh_of_all() -> Mesh:
    return Mesh(np.array(jax.devices()), ("devices",))


def count_collectives() -> dict:
    """Of one update with every normalisation on: those in the program, and how often they run."""
    config = trpo_jax.TRPOConfig(normalize_observations=True, normalize_rewards=True)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), config)
    state = trpo_jax.shard_state(agent.init(jax.random.key(0)), mesh_of_all())
    hparams = trpo_jax.HParams().as_arrays()
    program = jax.jit(agent.update).lower(state, hparams).compile()
    _, metrics = program(state, hparams)
    times = {"cg_solve": int(metrics.cg_iterations), "line_search": int(metrics.num_backtracks) + 1}
    counted: dict[tuple, int] = {}
    for found in collectives(program.as_text()):
        function = next(name for name in PARTS if name in found.functions)
        row = (
            PARTS[function],
            found.kind,
            times[function] if found.in_loop else 1,
            found.num_bytes,
        )
        counted[row] = counted.get(row, 0) + 1
    return {"rows": [[*row, number] for row, number in counted.items()], "config": repr(config)}


def same_run(env_id: str) -> dict:
    """One device against all of them, and against itself with parameters moved by one rounding."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), trpo_jax.TRPOConfig(**SMALL))
    worst, moved, same_decisions = [], [], True
    for seed in range(3):
        alone = agent.init(jax.random.key(seed))
        nudged = alone.replace(
            policy_params=jax.tree.map(lambda x: x * (1 + 2.0**-23), alone.policy_params)
        )
        together = trpo_jax.shard_state(alone, mesh_of_all())
        alone, history = agent.train(alone, num_updates=UPDATES)
        nudged, _ = agent.train(nudged, num_updates=UPDATES)
        together, its_history = agent.train(together, num_updates=UPDATES)
        worst.append(distance(alone, together))
        moved.append(distance(alone, nudged))
        for name in ("accepted", "num_backtracks"):
            same_decisions &= bool(np.all(getattr(history, name) == getattr(its_history, name)))
    return {
        "env_id": env_id,
        "difference": max(worst),
        "nudged": max(moved),
        "same_decisions": same_decisions,
        "updates": UPDATES,
        "config": SMALL,
    }


def distance(one: trpo_jax.TrainState, other: trpo_jax.TrainState) -> float:
    """‖θ₁ − θ₂‖ / ‖θ₁‖ of policy and critic together."""
    flat = [ravel_pytree((s.policy_params, s.value_params))[0] for s in (one, other)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))


def weak_scaling() -> dict:
    """Seconds per update with so many environments on each device."""
    number = jax.device_count()
    config = trpo_jax.TRPOConfig(
        num_envs=ENVS_PER_DEVICE * number, num_steps=128, value_minibatch_size=128 * number
    )
    agent = trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"), config)
    state = agent.init(jax.random.key(0))
    if number > 1:
        state = trpo_jax.shard_state(state, mesh_of_all())
    seconds = best_time(lambda: agent.train(state, num_updates=5)[0]) / 5
    return {
        "devices": number,
        "seconds": seconds,
        "batch": config.batch_size,
        "envs_per_device": ENVS_PER_DEVICE,
    }


def value_fits() -> dict:
    """The value fit as it is, against one whose minibatches are split over the devices."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"))
    params = agent.init(jax.random.key(0)).value_params
    keys = jax.random.split(jax.random.key(1), 3)
    obs, target = jax.random.normal(keys[0], (8192, 3)), jax.random.normal(keys[1], 8192)
    split = NamedSharding(mesh_of_all(), PartitionSpec("devices"))
    obs, target = jax.device_put((obs, target), split)
    settings = {"num_epochs": 10, "minibatch_size": 128}

    def collected(params, obs, target):
        optimizer = trpo_jax.learner.value.init_value_optimizer(params)
        data = {"obs": obs, "target": target, "weight": jax.numpy.ones(8192)}
        return trpo_jax.fit_value(
            *(keys[2], params, optimizer), apply=agent.critic.apply, **data, **settings,
            learning_rate=1e-3,
        )[0]  # fmt: skip

    def divided(params, obs, target):
        return divided_fit(keys[2], params, agent.critic.apply, obs, target, **settings)

    outcome: dict = {"devices": jax.device_count()}
    for name, fit in (("collected", collected), ("divided", divided)):
        program = jax.jit(fit).lower(params, obs, target).compile()
        found = collectives(program.as_text())
        outcome[name] = {
            "count": sum(10 * 8192 // 128 if one.in_loop else 1 for one in found),
            "seconds": best_time(lambda program=program: program(params, obs, target)),
        }
    return outcome


def best_time(function, repeats: int = 5) -> float:
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return min(times)


SECTIONS = {
    "collectives": collectives_section,
    "same_run": same_run_section,
    "weak_scaling": scaling_section,
    "value_fits": fits_section,
}
MEASUREMENTS = {
    "collectives": count_collectives,
    "same_run": same_run,
    "weak_scaling": weak_scaling,
    "value_fits": value_fits,
}

if __name__ == "__main__":
    main()
