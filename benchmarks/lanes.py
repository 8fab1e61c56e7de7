"""What do lanes lose by waiting for the slowest, and what does a run in a sweep cost?

python benchmarks/lanes.py work|solve|train [--quick]

A `while_loop` under `vmap` runs until its slowest lane has finished. `work` trains 512 CartPole
runs, eight settings × 64 seeds, and counts from their records what groups of 8, 64 and 512 lanes
do over what the lanes need. `solve` times solve and line search per lane on real batches, as they
are and as alternatives. `train` times whole updates. Each rewrites its section of the report.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import report
from problems import dot, flat_problem, next_problem
from timing import best, compiled, interleaved, ratio

import trpo_jax

CONFIG = trpo_jax.TRPOConfig()
BOUNDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.06, 0.1, 0.3)
TOLERANCES = (1e-8, 0.3, 0.1, 0.03)
GROUPS = (8, 64, 512)
SLICE = 8


def make_agent():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)


def work(num_seeds: int, num_updates: int) -> list[list[str]]:
    """Work done over work needed, per loop and size of the group."""
    agent = make_agent()
    settings = [trpo_jax.HParams(max_kl=kl) for kl in BOUNDS for _ in range(num_seeds)]
    keys = jax.random.split(jax.random.key(0), len(settings))

    def run(lane):
        key, hparams = lane
        history = agent.train(agent.init(key), hparams, num_updates=num_updates)[1]
        return history.cg_residual_norms, history.num_backtracks

    lanes = keys, trpo_jax.HParams.stack(settings)
    norms, backtracks = jax.jit(lambda x: jax.lax.map(run, x, batch_size=SLICE))(lanes)
    rows = [
        ratios(f"CG, tolerance {tolerance:g}", iterations_needed(np.asarray(norms), tolerance))
        for tolerance in TOLERANCES
    ]
    return [*rows, ratios("evaluations of the line search", np.asarray(backtracks) + 1)]


def iterations_needed(norms: np.ndarray, tolerance: float) -> np.ndarray:
    """[L, updates]: iterations until the residual is below the tolerance, or all of them."""
    reached = norms <= tolerance * norms[..., :1]
    return np.where(reached.any(-1), reached.argmax(-1), norms.shape[-1] - 1)


def ratios(name: str, needed: np.ndarray) -> list[str]:
    """`needed` is [L, updates]; every lane of a group does what its slowest needs."""
    row = [name, f"{needed.mean():.2f}", str(needed.max())]
    for size in GROUPS:
        groups = needed.reshape(-1, min(size, len(needed)), needed.shape[-1])
        row.append(f"{groups.max(1).mean() / needed.mean():.2f}")
    return row


class Lanes(NamedTuple):
    """Leaves [L, …]: what the policy step of each lane begins with."""

    params: Any
    batch: Any
    hparams: trpo_jax.HParams


def draw_lanes(agent, num_lanes: int, updates: int) -> Lanes:
    """Trains runs with several bounds and draws the batch of each one's next update."""
    bounds = [BOUNDS[i % len(BOUNDS)] for i in range(num_lanes)]
    hparams = trpo_jax.HParams.stack([trpo_jax.HParams(max_kl=bound) for bound in bounds])

    def run(lane):
        key, setting = lane
        state, _ = agent.train(agent.init(key), setting, num_updates=updates)
        return state.policy_params, next_problem(agent, CONFIG, state, setting).batch

    keys = jax.random.split(jax.random.key(1), num_lanes)
    return Lanes(*jax.jit(sliced(run, SLICE))((keys, hparams)), hparams)


def solve(lane_counts: tuple[int, ...], repeats: int) -> list[list[str]]:
    """ms per lane of gradient and solve, and of the line search, the library's way and others."""
    runs = draw_lanes(make_agent(), min(64, max(lane_counts)), updates=3)
    functions = {name: jax.vmap(function) for name, function in variants().items()}
    functions[f"the same, in slices of {SLICE}"] = sliced(variants()[WHILE], SLICE)
    calls = {}
    for count in lane_counts:
        index = np.arange(count) % len(runs.hparams.max_kl)
        lanes = jax.tree.map(lambda leaf, i=index: leaf[i], runs)
        calls |= {(name, count): compiled(fn, lanes) for name, fn in functions.items()}
    times = best(interleaved(calls, repeats))
    return [
        [name, *(f"{1e3 * times[name, count] / count:.2f}" for count in lane_counts)]
        for name in functions
    ]


WHILE = "gradient and CG, 10 iterations: while_loop"


def variants() -> dict[str, Callable]:
    """One lane -> what the loop gives."""
    policy = make_agent().policy

    def full_step(lane, solver, iterations):
        problem = flat_problem(policy, lane.params, lane.batch)

        def damped(vector):
            return problem.product(vector) + lane.hparams.cg_damping * vector

        x = solver(damped, problem.gradient, iterations)
        return problem, jnp.sqrt(2 * lane.hparams.max_kl / dot(x, problem.gradient)) * x

    def library_cg(damped, gradient, iterations):
        return trpo_jax.cg_solve(damped, gradient, max_iters=iterations, tol=0.0).x

    def in_turn(lane):
        problem, step = full_step(lane, library_cg, 1)
        bound = {"max_kl": lane.hparams.max_kl}
        return trpo_jax.line_search(problem.evaluate, problem.flat, step, **bound).params

    def at_once(lane):
        problem, step = full_step(lane, library_cg, 1)
        fractions = lane.hparams.backtrack_factor ** jnp.arange(CONFIG.max_backtracks + 1)
        candidates = problem.flat + fractions[:, None] * step
        improvement, kl = jax.vmap(problem.evaluate)(candidates)
        good = (kl <= lane.hparams.max_kl) & (improvement > 0)
        return jnp.where(jnp.any(good), candidates[jnp.argmax(good)], problem.flat)

    return {
        WHILE: lambda lane: full_step(lane, library_cg, 10)[1],
        "the same: fixed number, masked": lambda lane: full_step(lane, masked_cg, 10)[1],
        "gradient, one iteration": lambda lane: full_step(lane, library_cg, 1)[1],
        "that and line search: while_loop": in_turn,
        "that and line search: all candidates at once": at_once,
    }


def masked_cg(damped, gradient, iterations):
    """A fixed number of iterations; a lane that has finished takes steps of length zero."""

    def iterate(_, carry):
        x, residual, direction, squared = carry
        product = damped(direction)
        curvature = dot(direction, product)
        usable = (curvature > 0) & (squared > 0)
        step = jnp.where(usable, squared / jnp.where(usable, curvature, 1), 0)
        residual = residual - step * product
        after = dot(residual, residual)
        direction = residual + jnp.where(usable, after / squared, 0) * direction
        return x + step * direction, residual, direction, after

    start = jnp.zeros_like(gradient), gradient, gradient, dot(gradient, gradient)
    return jax.lax.fori_loop(0, iterations, iterate, start)[0]


def sliced(function: Callable, size: int | None) -> Callable:
    return lambda lanes: jax.lax.map(function, lanes, batch_size=size)


def train(lane_counts: tuple[int, ...], num_updates: int, repeats: int) -> list[list[str]]:
    """ms per update and lane of whole runs: one, vmapped, and in slices."""
    agent, hparams = make_agent(), trpo_jax.HParams()

    def run(state):
        return agent.train(state, hparams, num_updates=num_updates)[0]

    calls = {("one run", 1): partial(run, agent.init(jax.random.key(0)))}
    for count in lane_counts:
        states = jax.jit(jax.vmap(agent.init))(jax.random.split(jax.random.key(0), count))
        calls[f"{count} lanes, vmapped", count] = partial(jax.jit(jax.vmap(run)), states)
        in_slices = partial(jax.jit(sliced(run, SLICE)), states)
        calls[f"{count} lanes in slices of {SLICE}", count] = in_slices
    times = {case: seconds / case[1] for case, seconds in interleaved(calls, repeats).items()}
    return [
        [case[0], f"{1e3 * np.median(seconds) / num_updates:.1f}",
         f"{ratio(times, case, ('one run', 1)):.2f}"]
        for case, seconds in times.items()
    ]  # fmt: skip


def section(part: str, quick: bool) -> str:
    if part == "work":
        header = ("loop", "needed, mean", "most", *(f"done/needed, {size}" for size in GROUPS))
        return report.table(header, work(1 if quick else 64, 2 if quick else 20))
    if part == "solve":
        counts = (2,) if quick else GROUPS
        header = ("loop", *(f"ms per lane, {count} lanes (best)" for count in counts))
        return report.table(header, solve(counts, 1 if quick else 2))
    header = ("program", "ms per update and lane (median)", "of one run (median of pairs)")
    counts = (8,) if quick else (32,)
    return report.table(header, train(counts, 2 if quick else 5, 1 if quick else 7))


PARTS = {
    "work": "Work done over work needed",
    "solve": "Time of the loops, per lane",
    "train": "Time of whole updates, CartPole-v1 with the default configuration",
}


def main() -> None:
    arguments = report.parser(__doc__, "lanes.md", PARTS).parse_args()
    text = section(arguments.part, arguments.quick)
    report.write_part(arguments.out, "What lanes cost", PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
