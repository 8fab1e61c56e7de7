"""How fast is it? The whole program against a plain prototype, its parts, and its start.

python benchmarks/speed.py [--quick]

The prototype (`plain_trpo.py`) runs interleaved with the library in the same process, since
absolute times drift on shared machines; ratios are what counts.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plain_trpo
import report

import trpo_jax
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.rollout import rollout
from trpo_jax.learner.value import fit_value
from trpo_jax.solver.trust_region import trust_region_step

CONFIG = trpo_jax.TRPOConfig(num_envs=8, num_steps=256, value_minibatch_size=128)
HPARAMS = trpo_jax.HParams(cg_tol=0.0)
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


def seconds(call, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times


def against_the_prototype(num_updates: int, repeats: int) -> list[list[str]]:
    """Interleaved: one run of each in turn."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)
    state = agent.init(jax.random.key(0))
    init, train = plain_trpo.make()
    plain_state = init(jax.random.key(0))

    def ours():
        return agent.train(state, HPARAMS, num_updates=num_updates)

    def plain():
        return train(plain_state, num_updates)

    start = time.perf_counter()
    jax.block_until_ready(ours())
    ours_first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(plain())
    plain_first = time.perf_counter() - start
    times = np.array([[*seconds(ours, 1), *seconds(plain, 1)] for _ in range(repeats)])
    ours_time, plain_time = np.median(times, axis=0)
    ratio = np.median(times[:, 1] / times[:, 0])
    per_update = 1e3 / num_updates
    return [
        ["trpo_jax", f"{ours_time * per_update:.1f}", f"{ours_first - ours_time:.1f}", "1"],
        ["plain prototype", f"{plain_time * per_update:.1f}", f"{plain_first - plain_time:.1f}",
         f"{ratio:.2f}"],
    ]  # fmt: skip


def parts(repeats: int) -> list[list[str]]:
    """Each part compiled alone, on the data of a real update."""
    env = trpo_jax.make_env("CartPole-v1")
    agent = trpo_jax.make_trpo(env, CONFIG)
    policy, critic = agent.policy, agent.critic
    hparams = HPARAMS.as_arrays()
    state, _ = agent.train(agent.init(jax.random.key(0)), HPARAMS, num_updates=10)
    collect = jax.jit(lambda s: rollout(s, env=env, policy=policy, config=CONFIG))
    state, trajectory = collect(state)
    prepare = jax.jit(
        lambda s, t: prepare_batch(s, t, hparams, policy=policy, critic=critic, config=CONFIG)
    )
    batch = prepare(state, trajectory).batch
    objective = make_objective(policy, 0.0)

    def step(config):
        return jax.jit(lambda p, b: trust_region_step(objective, p, b, hparams, config))

    # The difference between 1 and 10 iterations is nine of them; the rest is gradient and search.
    full, single = step(CONFIG), step(CONFIG.replace(cg_iterations=1))
    evaluate = jax.jit(lambda p, b: policy.apply(p, b.obs).kl(b.distribution).mean())
    fit = jax.jit(
        lambda s, b: fit_value(
            s.key,
            s.value_params,
            s.value_opt_state,
            apply=critic.apply,
            obs=b.obs,
            target=b.value_target,
            weight=b.weight,
            learning_rate=1e-3,
            num_epochs=CONFIG.value_epochs,
            minibatch_size=CONFIG.minibatch_size,
        )
    )
    calls = {
        "rollout": lambda: collect(state),
        "values, advantages, on-policy check": lambda: prepare(state, trajectory),
        "policy step": lambda: full(state.policy_params, batch),
        "policy step with one CG iteration": lambda: single(state.policy_params, batch),
        "one evaluation of the line search": lambda: evaluate(state.policy_params, batch),
        "value fit": lambda: fit(state, batch),
        "whole update": lambda: agent.update(state, HPARAMS),
    }
    for call in calls.values():
        jax.block_until_ready(call())
    times = {name: 1e3 * float(np.median(seconds(call, repeats))) for name, call in calls.items()}
    one_iteration = (times["policy step"] - times["policy step with one CG iteration"]) / 9
    times["of it: curvature and CG, 10 iterations"] = 10 * one_iteration
    order = [*list(calls)[:3], "of it: curvature and CG, 10 iterations", *list(calls)[4:]]
    whole = times["whole update"]
    return [[name, f"{times[name]:.2f}", f"{100 * times[name] / whole:.0f} %"] for name in order]


def cold_start(repeats: int) -> list[list[str]]:
    """From the first import to the first finished update, in fresh processes."""
    rows = [_fresh(_COLD_START) + _fresh(_PLAIN_COLD_START) for _ in range(repeats)]
    jax_time, package_time, total, plain = np.min(rows, axis=0)
    return [
        ["import jax", f"{jax_time:.2f}"],
        ["import trpo_jax, after jax", f"{package_time:.2f}"],
        ["from the first import to the first finished update", f"{total:.2f}"],
        ["the same of the plain prototype", f"{plain:.2f}"],
    ]


def _fresh(program: str) -> list[float]:
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return [float(word) for word in done.stdout.split()]


def matmul_rate() -> float:
    """GFLOP/s of a float32 matrix product of size 2048: how fast this machine is just now."""
    x = jnp.ones((2048, 2048))
    product = jax.jit(lambda y: y @ y)
    jax.block_until_ready(product(x))
    return 2 * 2048**3 / min(seconds(lambda: product(x), 5)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "speed.md")
    arguments = parser.parse_args()
    num_updates, repeats = (2, 2) if arguments.quick else (50, 9)
    report.write(
        arguments.out,
        "Where the time goes",
        "CartPole-v1, 8 environments × 256 steps, 64 × 64 tanh, 10 CG iterations, 10 value epochs "
        f"of minibatch 128. This machine's float32 matrix product just now: {matmul_rate():.0f} "
        "GFLOP/s.",
        f"## Against a plain prototype, {num_updates} updates in one program, interleaved",
        report.table(
            ("program", "ms per update (median)", "compilation, s", "time relative to trpo_jax"),
            against_the_prototype(num_updates, repeats),
        ),
        "## One update, part by part, each compiled alone",
        report.table(("part", "ms (median)", "of the update"), parts(5 * repeats)),
        "## Cold start, best of a few fresh processes, no compilation cache",
        report.table(("what", "s"), cold_start(1 if arguments.quick else 4)),
    )
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
