"""One command for a machine with an accelerator: what the library does there, checked.

python benchmarks/gpu.py [--out DIR] [--budget SECONDS] [--parts NAME …] [--quick]

Every part runs in a process of its own with a share of the time budget: one that fails, crashes or
hangs is recorded, and the others go on. A part leaves out what no longer fits its share, and says
so; a part for which no time is left is skipped, and says so. Writes `gpu.json` after every part,
then pictures and `README.md`. Exit code 1 if a check failed or a part broke. `--quick` is a
miniature, in one process and on any device, for the tests.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import operations
import pictures
import problems
import report
import speed
from problems import ALL_ITERATIONS, TINY, Shape
from roofline import big_product
from timing import best, best_of, interleaved, without_cache

import trpo_jax
from trpo_jax import HParams, TRPOConfig

BUDGET = 600
_GRACE = 1.3
_ROWS_SHOWN = 16


_WIDE = (256, 256)
_LARGE = Shape(131072, 87, 8, _WIDE)


class Settings(NamedTuple):
    """Sizes; the first of each come first, so that the rest is what a small budget leaves out."""

    num_envs: tuple[int, ...] = (256, 16384, 1024, 4096)
    lanes: tuple[int, ...] = (64, 2048, 256, 1024)
    shapes: tuple[Shape, ...] = (
        *(Shape(8192, 87, 8, _WIDE), Shape(32768, 17, 6, _WIDE), _LARGE),
        Shape(2048, 17, 6, _WIDE),
    )
    memory: tuple[Shape, int] = (_LARGE, 8192)
    """A large batch, and its micro-batches."""
    matrix: int = 4096
    repeats: int = 10
    hidden_sizes: tuple[int, ...] = (256, 256)
    lane: tuple[int, int] = (8, 128)
    """Environments × steps of a lane."""
    ant: tuple[int, int, int] = (4096, 32, 1000)
    """Of the training: number of environments, steps, updates at most."""
    steps: int = 16
    agents: tuple[int, int] = (2048, 500_000)
    """Agents trained side by side, and the environment steps of each."""
    sweep: int = 1024
    """Settings trained side by side."""
    env_id: str | None = None
    """The environment to take instead of all others."""


FULL = Settings()
_TINY_SIZES = ((2,), (2,), (TINY,), (TINY, 16), 64, 2, (8,), (2, 8), (2, 8, 2), 8)
QUICK = Settings(*_TINY_SIZES, agents=(2, 32), sweep=3, env_id="CartPole-v1")


class Part:
    """The record of one part, on disk after every line, and its clock."""

    def __init__(self, name: str, limit: float, store: Path):
        self.record: dict[str, Any] = {"rows": [], "checks": {}, "skipped": []}
        self._end, self._store = time.monotonic() + limit, store
        self.name = name

    def row(self, **values) -> None:
        """A line of the table."""
        self.record["rows"].append(values)
        self.finish()

    def check(self, name: str, passed: Any) -> None:
        """Something that must hold; it does if it does every time."""
        self.record["checks"][name] = bool(passed) and self.record["checks"].get(name, True)
        self.finish()

    def within_bound(self, name: str, kl: Any, bound: float) -> None:
        """Check that every KL is finite and at most the bound, but for rounding."""
        self.check(name, np.all(np.asarray(kl) <= bound * (1 + 1e-5)))

    def finish(self) -> None:
        """Write what there is."""
        self._store.write_text(json.dumps(self.record, indent=1) + "\n")

    def beside(self, name: str) -> Path:
        """A path next to the record."""
        return self._store.parent / name

    def left(self) -> float:
        """Seconds of the share that are left."""
        return self._end - time.monotonic()

    def affordable(self, items: Sequence) -> Any:
        """The items one by one, as long as another as long as the longest so far fits."""
        longest = 0.0
        for item in items:
            if self.left() < longest:
                self.record["skipped"].append(f"{self.name} {item}")
                continue
            start = time.monotonic()
            yield item
            longest = max(longest, time.monotonic() - start)


def compile_all(*programs: tuple) -> tuple[list[Callable], float]:
    """Programs (fn, *arguments), traced in turn, compiled side by side; and how long it took."""
    began = time.monotonic()
    lowered = [jax.jit(fn).lower(*arguments) for fn, *arguments in programs]
    with ThreadPoolExecutor(len(lowered)) as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    return compiled, time.monotonic() - began


def peak_memory() -> float | None:
    """MiB that this process has had on the device at most; None where that is not counted."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20


def matrix_rate(settings: Settings, precision: str) -> float:
    """Operations per second of a square float32 product."""
    call, work = big_product(settings.matrix, precision)
    least = best(interleaved({"product": call}, settings.repeats, at_least=0.01))
    return work / least["product"]


def device(part: Part, settings: Settings) -> None:
    """What the machine is, and whether its products are as precise as the solver needs."""
    kinds = ("highest", "default")
    rates = {f"{kind}, TFLOP/s": matrix_rate(settings, kind) / 1e12 for kind in kinds}
    part.row(device=jax.devices()[0].device_kind, backend=jax.default_backend(), **rates)
    small = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    exact = small.astype(np.float64) @ small.astype(np.float64)
    for precision in kinds:
        result = np.asarray(jnp.dot(small, small, precision=precision), np.float64)
        error = float(np.abs(result - exact).max() / np.abs(exact).max())
        part.row(precision=precision, relative_error=error)
        if precision == "highest":
            part.check("precision='highest' is float32, not TF32", error < 1e-5)
    accelerated = jax.default_backend() != "cpu"
    part.check("an accelerator is used", settings is QUICK or accelerated)


@functools.lru_cache(maxsize=4)
def compiled_step(shape: Shape, config: TRPOConfig):
    """A compiled policy step for a synthetic batch, and its arguments."""
    problem = problems.make_problem(shape)
    arguments = problem.params, problem.batch
    [step], _ = compile_all((problems.policy_step(problem.policy, config), *arguments))
    return step, arguments


def policy_step(part: Part, settings: Settings) -> None:
    """Time of a step, and the share of the big product's rate at which its products ran."""
    config, rate = TRPOConfig(), matrix_rate(settings, "highest")
    for shape in part.affordable(settings.shapes):
        row, _, info = steps_of(part, settings, shape, {"": config})
        needed = operations.policy_step(shape, config.cg_iterations, int(info.num_backtracks) + 1)
        floor, ms = 1e3 * operations.operations(needed) / rate, row["ms"]
        rates = {"ratio": ms / floor, "fraction_of_roofline": floor / ms}
        part.row(**row, floor_ms=floor, **rates, examples_per_second=1e3 * shape.batch / ms)


def steps_of(part: Part, settings: Settings, shape: Shape, configs: dict[str, TRPOConfig]):
    """(a row on the steps with these settings, what each added to θ, the last one's info).

    That each keeps its bound and is accepted is checked.
    """
    steps = {prefix: compiled_step(shape, config) for prefix, config in configs.items()}
    calls = {prefix: partial(step, *arguments) for prefix, (step, arguments) in steps.items()}
    times, row, moves = best(interleaved(calls, settings.repeats)), {"shape": str(shape)}, []
    for prefix, (step, arguments) in steps.items():
        params, info = step(*arguments)
        new, old = (jax.tree.leaves(tree) for tree in (params, arguments[0]))
        pairs = zip(new, old, strict=True)
        moves.append(np.concatenate([np.ravel(np.asarray(x, np.float64) - y) for x, y in pairs]))
        row[f"{prefix}ms"] = 1e3 * times[prefix]
        row[f"{prefix}residual"] = float(info.cg_residual_norms[-1] / info.cg_residual_norms[0])
        row[f"{prefix}working_memory_mib"] = step.memory_analysis().temp_size_in_bytes / 2**20
        part.within_bound("policy step within its bound", info.kl, ALL_ITERATIONS.max_kl)
        part.check("policy step accepted", info.accepted)
    return row, moves, info


def solves(part: Part, settings: Settings) -> None:
    """float32 against float64 conjugate gradients: time, residual, direction."""
    configs = {f"{dtype}_": TRPOConfig(solver_dtype=dtype) for dtype in ("float32", "float64")}
    for shape in part.affordable(settings.shapes):
        row, (single, double), _ = steps_of(part, settings, shape, configs)
        cosine = float(single @ double / np.linalg.norm(single) / np.linalg.norm(double))
        part.row(**row, ratio=row["float64_ms"] / row["float32_ms"], cosine=cosine)
        part.check("float32 and float64 agree on the direction", cosine > 0.99)


def memory(part: Part, settings: Settings) -> None:
    """Working memory of a large step, in micro-batches and whole; and that both agree."""
    (shape, size), moves = settings.memory, []
    for chunk in part.affordable((size, None)):
        config = problems.in_micro_batches(TRPOConfig(), chunk)
        row, [move], _ = steps_of(part, settings, shape, {"": config})
        moves.append(move)
        part.row(micro_batch=chunk or "whole", **row, peak_mib_so_far=peak_memory())
    if len(moves) == 2:
        difference = np.abs(moves[0] - moves[1]).max()
        part.check("micro-batches change nothing", difference < 0.02 * np.abs(moves[1]).max())


def environment(name: str, settings: Settings):
    """An environment; brax with its fastest backend."""
    name = settings.env_id or name
    return trpo_jax.make_env(name, **({"backend": "spring"} if name.startswith("brax/") else {}))


def large_batch(num_envs: int, num_steps: int, **changes) -> TRPOConfig:
    """Settings for many environments: a value fit of 4 × 16 large steps, not thousands of small."""
    minibatch = max(1, num_envs * num_steps // 16)
    size = {"num_envs": num_envs, "num_steps": num_steps, "value_minibatch_size": minibatch}
    return TRPOConfig(**size, value_epochs=4, **changes)


def throughput(part: Part, settings: Settings, name: str) -> None:
    """Steps per second of the rollout, and of whole updates, against number of environments."""
    env, hparams = environment(name, settings), HParams()
    for num_envs in part.affordable(settings.num_envs):
        agent = trpo_jax.make_trpo(env, large_batch(num_envs, settings.steps))
        state = agent.init(jax.random.key(0))
        shapes = jax.eval_shape(agent.rollout, state)
        learn = partial(lambda learn, s, t: learn(s, t, hparams), agent.learn)
        (collect, learn), compilation = compile_all((agent.rollout, state), (learn, *shapes))
        state, trajectory = collect(state)
        calls = {"rollout": partial(collect, state), "learn": partial(learn, state, trajectory)}
        least = best(interleaved(calls, settings.repeats))
        metrics, steps = learn(state, trajectory)[1], num_envs * settings.steps
        part.row(
            **{"environment": name, "num_envs": num_envs},
            rollout_steps_per_second=steps / least["rollout"],
            training_steps_per_second=steps / (least["rollout"] + least["learn"]),
            **{f"{name}_ms": 1e3 * value for name, value in least.items()},
            **{"compilation_seconds": compilation, "peak_mib_so_far": peak_memory()},
        )
        part.within_bound("KL within its bound", metrics.kl, hparams.max_kl)
        part.check("every transition valid", np.asarray(trajectory.valid).all())


def lanes(part: Part, settings: Settings) -> None:
    """One update of so many seeds side by side; a lane must do what it does alone."""
    (num_envs, num_steps), hparams = settings.lane, HParams()
    config = TRPOConfig(num_envs=num_envs, num_steps=num_steps)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), config)
    for number in part.affordable(settings.lanes):
        keys = jax.random.split(jax.random.key(0), number)
        states = jax.vmap(agent.init)(keys)
        [program], _ = compile_all((jax.vmap(lambda state: agent.update(state, hparams)), states))
        least = best_of(partial(program, states), settings.repeats)
        metrics = program(states)[1]
        part.row(
            **{"lanes": number, "ms": 1e3 * least, "ms_per_lane": 1e3 * least / number},
            steps_per_second=number * config.batch_size / least,
            peak_mib_so_far=peak_memory(),
        )
        part.within_bound("KL within its bound in every lane", metrics.kl, hparams.max_kl)
        part.check("most lanes step", np.mean(np.asarray(metrics.accepted)) > 0.9)
        # Other matrix products round otherwise, so that a sampled action may differ, rarely: the
        # data must be nearly the same, the step alike.
        alone = agent.update(agent.init(keys[0]), hparams)[1]
        same_data = np.isclose(metrics.entropy[0], alone.entropy, rtol=0.01)
        same_step = np.isclose(metrics.kl[0], alone.kl, rtol=0.1, atol=1e-4)
        part.check("a lane is like a run alone", same_data and same_step)


def agents(part: Part, settings: Settings) -> None:
    """Whole trainings side by side, in ten chunks; how many of them have solved CartPole."""
    (num_envs, num_steps), (number, steps) = settings.lane, settings.agents
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"), TRPOConfig(num_envs=num_envs, num_steps=num_steps)
    )
    updates = max(1, steps // (10 * agent.parts.config.batch_size))
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), number))
    train = jax.vmap(lambda state: agent.train(state, HParams(), num_updates=updates))
    [program], part.record["compilation_seconds"] = compile_all((train, states))
    began = time.monotonic()
    for chunk in part.affordable(range(1, 11)):
        states, history = jax.block_until_ready(program(states))
        returns = np.asarray(history.episode_return)[:, -1]
        ended = np.isfinite(returns).any()
        part.row(
            **{"agents": number, "steps_of_each": chunk * updates * agent.parts.config.batch_size},
            training_seconds=time.monotonic() - began,
            mean_return=float(np.mean(returns[np.isfinite(returns)])) if ended else None,
            share_above_475=float(np.mean(returns >= 475)),
            peak_mib_so_far=peak_memory(),
        )
        part.within_bound("KL within its bound in every agent", history.kl, HParams().max_kl)


def sweep(part: Part, settings: Settings) -> None:
    """A few updates of many settings side by side, each within a bound of its own."""
    (num_envs, num_steps), number = settings.lane, settings.sweep
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"), TRPOConfig(num_envs=num_envs, num_steps=num_steps)
    )
    bounds = np.geomspace(0.001, 0.1, number)
    grid = HParams.stack([HParams(max_kl=float(bound)) for bound in bounds])
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), number))
    train = jax.vmap(lambda state, hparams: agent.train(state, hparams, num_updates=5))
    [program], compilation = compile_all((train, states, grid))
    least = best_of(partial(program, states, grid), settings.repeats)
    part.row(
        **{"settings": number, "updates_of_each": 5, "ms": 1e3 * least},
        steps_per_second=5 * number * agent.parts.config.batch_size / least,
        **{"compilation_seconds": compilation, "peak_mib_so_far": peak_memory()},
    )
    history = program(states, grid)[1]
    part.check("KL within its own bound", np.all(history.kl <= bounds[:, None] * (1 + 1e-5)))


def update_parts(part: Part, settings: Settings) -> None:
    """Milliseconds of the parts of an update, each compiled alone, in turns."""
    for name, milliseconds, _ in speed.parts(settings.repeats):
        part.row(part=name, ms=float(milliseconds))
    part.check("every part took time", all(row["ms"] > 0 for row in part.record["rows"]))


def trace(part: Part, settings: Settings) -> None:
    """A profile of three updates, for TensorBoard or Perfetto, beside the records."""
    agent = trpo_jax.make_trpo(
        environment("brax/ant", settings), large_batch(max(settings.num_envs), settings.steps)
    )
    state = agent.init(jax.random.key(0))
    [update], _ = compile_all((lambda state: agent.update(state), state))
    jax.block_until_ready(update(state))
    directory = part.beside("trace")
    with jax.profiler.trace(str(directory)):
        for _ in range(3):
            state, _ = update(state)
        jax.block_until_ready(state)
    files = [path for path in directory.rglob("*") if path.is_file()]
    part.row(files=len(files), mib=sum(path.stat().st_size for path in files) / 2**20)
    part.check("a trace was written", files)


def reward(part: Part, settings: Settings) -> None:
    """Return against seconds of training, until the share of time is over."""
    num_envs, num_steps, most = settings.ant
    normalized = {"normalize_observations": True, "normalize_rewards": True}
    config = large_batch(num_envs, num_steps, hidden_sizes=settings.hidden_sizes, **normalized)
    # δ per action dimension as in the preset of hopper (0.01), gamma and λ as usual.
    hparams = trpo_jax.get_preset("hopper").hparams.replace(max_kl=0.08)
    agent = trpo_jax.make_trpo(environment("brax/ant", settings), config)
    state = agent.init(jax.random.key(0))
    [update], compilation = compile_all((lambda s: agent.update(s, hparams), state))
    part.record["compilation_seconds"] = compilation
    kls, began = [], time.monotonic()
    while len(kls) < most and (part.left() > 0 or not kls):
        state, metrics = update(state)
        kls.append(float(metrics.kl))
        part.record["rows"].append({
            "seconds": round(time.monotonic() - began, 3),
            "steps": len(kls) * config.batch_size,
            "mean_return": float(metrics.episode_return),
        })  # fmt: skip
    returns = [row["mean_return"] for row in part.record["rows"]]
    finished = [value for value in returns if np.isfinite(value)]
    part.within_bound("KL within its bound in every update", kls, 0.08)
    part.check("returns are finite", finished)
    if len(finished) > 20:
        part.check("the return rises", np.mean(finished[-5:]) > np.mean(finished[:5]))


class Planned(NamedTuple):
    """A part: its heading, its share of the time in seconds, and what fills its record."""

    title: str
    seconds: float
    measure: Callable[[Part, Settings], None]


def _throughput(name: str, seconds: float) -> Planned:
    return Planned(f"Throughput: {name}", seconds, partial(throughput, name=name))


PARTS = {
    "device": Planned("Device", 20, device),
    "policy_step": Planned("Policy step against the roofline", 50, policy_step),
    "cartpole": _throughput("CartPole-v1", 40),
    "ant": _throughput("brax/ant", 75),
    "reward": Planned("Time to reward: brax ant", 80, reward),
    "agents": Planned("CartPole-v1: whole trainings side by side", 60, agents),
    "sweep": Planned("CartPole-v1: settings side by side", 30, sweep),
    "update_parts": Planned("One update of CartPole-v1, part by part", 30, update_parts),
    "trace": Planned("Profile of three updates of brax ant", 60, trace),
    "lanes": Planned("Seeds side by side", 45, lanes),
    "breakout": _throughput("Breakout-MinAtar", 45),
    "hopper": _throughput("brax/hopper", 60),
    "solves": Planned("float32 against float64 solves", 35, solves),
    "memory": Planned("Memory of a policy step", 30, memory),
}


def run_here(name: str, seconds: float, quick: bool, store: Path) -> dict:
    """One part in this process; whatever happens to it is in the record."""
    part = Part(name, seconds, store)
    try:
        PARTS[name].measure(part, QUICK if quick else FULL)
    except Exception as error:
        part.record["error"] = f"{type(error).__name__}: {error}"
        part.record["traceback"] = traceback.format_exc(limit=-6)
    part.finish()
    return part.record


def run_apart(command: list[str], limit: float, store: Path) -> dict:
    """One part in a process of its own, which writes its record to `store` as it goes on.

    What it had recorded before it crashed or ran out of time is kept, with the reason.
    """
    store.unlink(missing_ok=True)
    problem = None
    # Not all of the memory at once: this process may hold a little of it, too.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    settings = {"capture_output": True, "text": True, "env": environment}
    try:
        done = subprocess.run(command, timeout=limit, **settings)
        if done.returncode:
            problem = f"exit code {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired:
        problem = f"did not end within {limit:.0f} s"
    record = json.loads(store.read_text()) if store.exists() else {"rows": [], "checks": {}}
    return record | ({"error": problem} if problem else {})


def run_all(arguments: argparse.Namespace) -> dict:
    """All parts, most important first, each with its share of the time that is left.

    The file is rewritten after each.
    """
    start = time.monotonic()
    results: dict = {"budget": arguments.budget, "parts": {}}
    for name in arguments.parts:
        began = time.monotonic()
        left, store = arguments.budget - (began - start), arguments.out / "parts" / f"{name}.json"
        share = min(PARTS[name].seconds, left)
        if share < PARTS[name].seconds / 2:
            record = {"rows": [], "checks": {}, "skipped": [f"all of it: {left:.0f} s are left"]}
        elif arguments.quick:
            record = run_here(name, share, True, store)
        else:
            command = [sys.executable, __file__, "--out", str(arguments.out), "--part", name]
            command += ["--seconds", f"{share:.0f}"]
            record = run_apart(command, _GRACE * share + 5, store)
        record["seconds"] = round(time.monotonic() - began, 1)
        results["parts"][name] = record
        results["seconds"] = round(time.monotonic() - start, 1)
        (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {record['seconds']} s, {verdict(record)}", flush=True)
    return results


def verdict(record: dict) -> str:
    """A record in one line."""
    failed = [name for name, passed in record["checks"].items() if not passed]
    words = [f"{len(record['checks']) - len(failed)} checks passed"]
    words += [f"FAILED: {name}" for name in failed]
    words += [f"ERROR: {record['error'].splitlines()[0]}"] if "error" in record else []
    words += [f"skipped {what}" for what in record.get("skipped", [])]
    return "; ".join(words)


def write_report(results: dict, out: Path) -> None:
    """A table for every part, after the pictures."""
    sections = [
        f"In {results['seconds']:.0f} s of {results['budget']:.0f} s; every number is also in "
        "`gpu.json`.",
        *draw(results["parts"], out),
    ]
    for name, record in results["parts"].items():
        every = max(1, -(-len(record["rows"]) // _ROWS_SHOWN))
        rows = [
            {key: f"{x:,.4g}" if isinstance(x, float) else x for key, x in row.items()}
            for row in record["rows"][::every]
        ]
        sections += [f"## {PARTS[name].title}", verdict(record) + "."]
        sections += [report.records(rows)] if rows else []
    report.write(out / "README.md", "On an accelerator", *sections)


CURVES = {
    "throughput": ("num_envs", "rollout_steps_per_second", "training_steps_per_second"),
    "lanes": ("lanes", "ms_per_lane"),
    "reward": ("seconds", "mean_return"),
    "roofline": ("shape", "fraction_of_roofline"),
}
"""Picture: columns that it shows, the one across first; of all parts that have them."""


def draw(parts: dict[str, dict], out: Path) -> list[str]:
    """Pictures of what was recorded; one of which nothing was is left out."""
    shown = []
    for picture, (across, *columns) in CURVES.items():
        figure, [axis] = pictures.panels(1, width=6.4, height=4)
        for name, record in parts.items():
            for column in columns:
                rows = [row for row in record["rows"] if {across, column} <= row.keys()]
                rows = sorted(rows, key=lambda row: row[across])
                if rows:
                    curve = [r[across] for r in rows], [r[column] for r in rows]
                    axis.plot(*curve, "o-", label=f"{name}: {column}")
        if axis.has_data():
            axis.set(xlabel=across, yscale="log" if len(columns) > 1 else "linear")
            axis.legend(fontsize="small")
            shown.append(pictures.save(figure, out / f"{picture}.png"))
    return shown


def main() -> int:
    parser = report.parser(__doc__, "gpu")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help="only this part, in this process")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="share of a single part")
    arguments = parser.parse_args()
    (arguments.out / "parts").mkdir(parents=True, exist_ok=True)
    if arguments.part:
        store = arguments.out / "parts" / f"{arguments.part}.json"
        print(verdict(run_here(arguments.part, arguments.seconds, arguments.quick, store)))
        return 0
    results = run_all(arguments)
    write_report(results, arguments.out)
    records = results["parts"].values()
    return int(any("error" in each or not all(each["checks"].values()) for each in records))


if __name__ == "__main__":
    without_cache()
    sys.exit(main())
