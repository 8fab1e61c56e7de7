"""Several devices: collectives per update, the same run, weak scaling.

python benchmarks/devices.py [--only MEASUREMENT]

Each number of devices is a process of its own, since XLA makes its virtual devices only once.
"""

import json
import os
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import report
from collectives import collectives
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from timing import best_of, compiled

import trpo_jax

PARTS = {
    "rollout": "rollout",
    "cg_solve": "conjugate gradients: the curvature product of an iteration",
    "line_search": "line search: surrogate and KL of a candidate",
    "trust_region_step": "gradient, and the table of the value fit",
    "prepare_batch": "advantages and their normalisation, on-policy check",
    "fit_value": "value fit: loss before and after",
    "scale_rewards": "statistics of observations and returns",
    "merge_observations": "statistics of observations and returns",
    "record_episodes": "monitoring",
    "update_metrics": "monitoring",
    "learn": "statistics",
}
UPDATES = 20
SMALL = {"num_envs": 8, "num_steps": 32, "hidden_sizes": (16,), "value_epochs": 2}
NORMALIZED = trpo_jax.TRPOConfig(normalize_observations=True, normalize_rewards=True)
ENVS_PER_DEVICE = 32


def mesh_of_all() -> Mesh:
    return Mesh(np.array(jax.devices()), ("devices",))


def count_collectives() -> list[dict]:
    """Of one update with every normalisation on: those in the program, and how often they run."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), NORMALIZED)
    state = trpo_jax.shard_state(agent.init(jax.random.key(0)), mesh_of_all())
    update = compiled(agent.update, state, trpo_jax.HParams().as_arrays())
    metrics = update()[1]
    times = {"cg_solve": int(metrics.cg_iterations), "line_search": int(metrics.num_backtracks) + 1}
    counted: Counter[tuple] = Counter()
    for found in collectives(update.func.as_text()):
        function = next(name for name in PARTS if name in found.functions)
        runs = times[function] if found.in_loop else 1
        counted[PARTS[function], found.kind, runs, found.num_bytes] += 1
    header = ("part", "kind", "runs of each per update", "bytes of each")
    return [
        dict(zip(header, row, strict=True)) | {"in the program": number}
        for row, number in sorted(counted.items())
    ]


def same_run(env_id: str) -> list[dict]:
    """One device against all of them, and against itself with parameters moved by one rounding."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), trpo_jax.TRPOConfig(**SMALL))
    worst, moved, same_decisions = [], [], True
    for seed in range(3):
        alone = agent.init(jax.random.key(seed))
        nudged = jax.tree.map(lambda x: x * (1 + 2.0**-23), alone.policy_params)
        runs = (
            alone,
            trpo_jax.shard_state(alone, mesh_of_all()),
            alone.replace(policy_params=nudged),
        )
        (alone, history), (together, its_history), (nudged, _) = (
            agent.train(state, num_updates=UPDATES) for state in runs
        )
        worst.append(distance(alone, together))
        moved.append(distance(alone, nudged))
        for name in ("accepted", "num_backtracks"):
            same_decisions &= bool(np.all(getattr(history, name) == getattr(its_history, name)))
    return [{
        "environment": env_id,
        "largest difference of the parameters": f"{max(worst):.1e}",
        "of one device from itself, policy moved by one rounding": f"{max(moved):.1e}",
        "same decisions and backtracks": "yes" if same_decisions else "no",
    }]  # fmt: skip


def distance(one: trpo_jax.TrainState, other: trpo_jax.TrainState) -> float:
    """‖θ₁ − θ₂‖ / ‖θ₁‖ of policy and critic together."""
    flat = [ravel_pytree((s.policy_params, s.value_params))[0] for s in (one, other)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))


def weak_scaling() -> list[dict]:
    """Time per update with so many environments on each device."""
    number = jax.device_count()
    size = {"num_envs": ENVS_PER_DEVICE * number, "value_minibatch_size": 128 * number}
    config = trpo_jax.TRPOConfig(num_steps=128, **size)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("Pendulum-v1"), config)
    state = agent.init(jax.random.key(0))
    if number > 1:
        state = trpo_jax.shard_state(state, mesh_of_all())
    seconds = best_of(lambda: agent.train(state, num_updates=5)[0], 5) / 5
    ms = f"{seconds * 1e3:.0f}"
    return [{"devices": number, "batch": config.batch_size, "ms per update": ms}]


_SAME_RUN = ("CartPole-v1", "Catch-bsuite", "MountainCarContinuous-v0", "Pendulum-v1")
MEASUREMENTS = {
    "collectives": (count_collectives, [(8,)]),
    "same_run": (same_run, [(8, env_id) for env_id in _SAME_RUN]),
    "weak_scaling": (weak_scaling, [(1,), (2,), (4,), (8,)]),
}
"""What gives rows, and with which numbers of devices and arguments."""


def measure(name: str) -> list[dict]:
    """The rows of a measurement, each number of devices in a process of its own."""
    rows = []
    for num_devices, *arguments in MEASUREMENTS[name][1]:
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
        command = [sys.executable, __file__, "--work", name, *arguments]
        environment = {**os.environ, **flags, "JAX_PLATFORMS": "cpu"}
        settings = {"stdout": subprocess.PIPE, "text": True, "check": True}
        output = subprocess.run(command, env=environment, **settings).stdout
        rows += json.loads(output.splitlines()[-1])
    return rows


def sections(done: dict[str, list[dict]]) -> list[str]:
    """What has been measured, in words and tables."""
    texts = {}
    if rows := done.get("collectives"):
        static = sum(row["in the program"] for row in rows)
        dynamic = sum(row["runs of each per update"] * row["in the program"] for row in rows)
        texts["Collectives of one update"] = (
            rows,
            (
                f"8 devices, CartPole-v1, `{NORMALIZED}`; {static} in the compiled program, "
                f"{dynamic} per update. The compiler merges sums that are ready together; such a "
                "one stands at the part of its first. Steps of the environments and minibatches "
                "of the critic need none."
            ),
        )
    if rows := done.get("same_run"):
        texts["The same run"] = (
            rows,
            (
                "8 devices against one: ‖θ₁ − θ₈‖ / ‖θ₁‖ of policy and critic together after "
                f"{UPDATES} updates, the largest of seeds 0, 1, 2; `{SMALL}`. Sums over several "
                "devices round otherwise than sums over one, by 1e-7. An environment whose "
                "motion amplifies small differences (Pendulum) amplifies these too, and so does "
                "an action that is drawn from a discrete policy and falls on the edge."
            ),
        )
    if rows := done.get("weak_scaling"):
        base = float(rows[0]["ms per update"])
        for row in rows:
            efficiency = base / float(row["ms per update"])
            row["efficiency: time of one / time"] = f"{efficiency:.2f}"
        texts["Weak scaling"] = (
            rows,
            (
                f"Pendulum-v1, {ENVS_PER_DEVICE} environments × 128 steps per device, minibatches "
                f"that grow alike. The devices are virtual ones of a CPU with {os.cpu_count()} "
                f"cores, which one device uses in part already: beyond {os.cpu_count()} of them "
                "the table shows what the partitioned program costs when it gets no more "
                "hardware, not how it scales."
            ),
        )
    tables = {f"## {title}": (text, report.records(rows)) for title, (rows, text) in texts.items()}
    return ["\n\n".join((title, *parts)) for title, parts in tables.items()]


def main() -> None:
    parser = report.parser(__doc__, "devices.md")
    parser.add_argument("--only", choices=MEASUREMENTS, help="make this; the others are kept")
    parser.add_argument("--work", nargs="+", help="internal: a measurement and its arguments")
    arguments = parser.parse_args()
    if arguments.work:
        name, *rest = arguments.work
        print(json.dumps(MEASUREMENTS[name][0](*rest)))
        return
    only = "collectives" if arguments.quick else arguments.only
    for name in [only] if only else MEASUREMENTS:
        done = report.keep(arguments.out, {name: measure(name)})
    report.write(arguments.out, "Several devices", *sections(done))


if __name__ == "__main__":
    main()
