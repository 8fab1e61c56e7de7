"""How fast is it? The whole program against a plain prototype, its parts, and its start.

python benchmarks/speed.py [--quick]

The prototype (`plain_trpo.py`) runs interleaved with the library in the same process, since
absolute times drift on shared machines; ratios are what counts.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import plain_trpo
import problems
import report
from problems import ALL_ITERATIONS
from roofline import big_product
from timing import best_of, interleaved, ratio, seconds, without_cache

import trpo_jax

CONFIG = trpo_jax.TRPOConfig(num_envs=8, num_steps=256, value_minibatch_size=128)
_COLD_START = """
import time; start = time.perf_counter()
import jax; jax_imported = time.perf_counter()
import trpo_jax; imported = time.perf_counter()
agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), trpo_jax.TRPOConfig())
state = agent.init(jax.random.key(0))
jax.block_until_ready(agent.update(state, trpo_jax.HParams()))
print(jax_imported - start, imported - jax_imported, time.perf_counter() - start)
"""
_PLAIN_COLD_START = """
import time; start = time.perf_counter()
import jax, plain_trpo
init, train = plain_trpo.make()
jax.block_until_ready(jax.jit(train, static_argnums=1)(init(jax.random.key(0)), 1))
print(time.perf_counter() - start)
"""


def against_the_prototype(num_updates: int, repeats: int) -> list[list[str]]:
    """Interleaved: one run of each in turn."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)
    state = agent.init(jax.random.key(0))
    init, train = plain_trpo.make()
    plain_state = init(jax.random.key(0))
    calls = {
        "trpo_jax": lambda: agent.train(state, ALL_ITERATIONS, num_updates=num_updates),
        "plain prototype": lambda: train(plain_state, num_updates),
    }
    first = {name: seconds(call) for name, call in calls.items()}
    times = interleaved(calls, repeats)
    each = {name: float(np.median(row)) for name, row in times.items()}
    return [
        [name, f"{1e3 * each[name] / num_updates:.1f}", f"{first[name] - each[name]:.1f}",
         f"{ratio(times, name, 'trpo_jax'):.2f}"]
        for name in calls
    ]  # fmt: skip


def parts(repeats: int) -> list[list[str]]:
    """Each part compiled alone, on the data of a real update."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)
    policy = agent.policy
    state, _ = agent.train(agent.init(jax.random.key(0)), ALL_ITERATIONS, num_updates=10)
    state, trajectory = agent.rollout(state)
    prepare = jax.jit(problems.prepared(agent, CONFIG, ALL_ITERATIONS))
    batch, params = prepare(state, trajectory).batch, state.policy_params
    # The difference between 1 and 10 iterations is nine of them; the rest is gradient and search.
    full, single = (
        jax.jit(problems.policy_step(policy, CONFIG.replace(cg_iterations=n))) for n in (10, 1)
    )
    evaluate = jax.jit(lambda p, b: policy.apply(p, b.obs).kl(b.distribution).mean())
    fit = jax.jit(
        problems.value_fit(agent.critic.apply, CONFIG.value_epochs, CONFIG.minibatch_size)
    )
    critic = state.key, state.value_params, state.value_opt_state
    calls = {
        "rollout": lambda: agent.rollout(state),
        "values, advantages, on-policy check": lambda: prepare(state, trajectory),
        "policy step": lambda: full(params, batch),
        "policy step with one CG iteration": lambda: single(params, batch),
        "one evaluation of the line search": lambda: evaluate(params, batch),
        "value fit": lambda: fit(*critic, batch),
        "whole update": lambda: agent.update(state, ALL_ITERATIONS),
    }
    times = {n: 1e3 * float(np.median(row)) for n, row in interleaved(calls, repeats).items()}
    cg = 10 / 9 * (times["policy step"] - times.pop("policy step with one CG iteration"))
    order = list(times)
    order.insert(3, "of it: curvature and CG, 10 iterations")
    times[order[3]] = cg
    whole = times["whole update"]
    return [[name, f"{times[name]:.2f}", f"{100 * times[name] / whole:.0f} %"] for name in order]


def cold_start(repeats: int) -> list[list[str]]:
    """From the first import to the first finished update, in fresh processes."""
    names = (
        "import jax",
        "import trpo_jax, after jax",
        "from the first import to the first finished update",
        "the same, with the programs of an earlier process on disk",
        "the same of the plain prototype, nothing on disk",
    )
    with tempfile.TemporaryDirectory() as disk:
        fresh(_COLD_START, disk)
        rows = [
            fresh(_COLD_START) + fresh(_COLD_START, disk)[-1:] + fresh(_PLAIN_COLD_START)
            for _ in range(repeats)
        ]
    return [[n, f"{value:.2f}"] for n, value in zip(names, np.min(rows, axis=0), strict=True)]


def fresh(program: str, disk: str | None = None) -> list[float]:
    """What a program prints in a process of its own, which reads compiled programs from `disk`."""
    kept = {"JAX_COMPILATION_CACHE_DIR": disk} if disk else {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", **kept},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    arguments = report.parser(__doc__, "speed.md").parse_args()
    num_updates, repeats, size = (2, 2, 64) if arguments.quick else (50, 9, 2048)
    product, work = big_product(size, "default")
    report.write(
        arguments.out,
        "Where the time goes",
        "CartPole-v1, 8 environments × 256 steps, 64 × 64 tanh, 10 CG iterations, 10 value epochs "
        "of minibatch 128. This machine's float32 matrix product just now: "
        f"{work / best_of(product, 5) / 1e9:.0f} GFLOP/s.",
        f"## Against a plain prototype, {num_updates} updates in one program, interleaved",
        report.table(
            ("program", "ms per update (median)", "compilation, s", "time relative to trpo_jax"),
            against_the_prototype(num_updates, repeats),
        ),
        "## One update, part by part, each compiled alone, in turns",
        report.table(("part", "ms (median)", "of the update"), parts(5 * repeats)),
        "## Cold start, best of a few fresh processes",
        report.table(("what", "s"), cold_start(1 if arguments.quick else 4)),
    )


if __name__ == "__main__":
    without_cache()
    main()
