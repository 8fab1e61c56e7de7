"""Policies with memory where the state is hidden, beside what sees only the present.

python benchmarks/recurrence.py learn [TASK ...] [--networks gru none] [--seeds 10] [--steps N]
python benchmarks/recurrence.py price                what an update costs
python benchmarks/recurrence.py table                write results/recurrence.md

Every row is kept in results/recurrence.json as soon as it is measured, and is not measured again:
a benchmark that was stopped goes on. Seeds are vmapped; the score of a seed is the mean return of
128 episodes of the deterministic policy after the last update.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import report
from timing import without_cache

import trpo_jax
from trpo_jax import HParams, TRPOConfig
from trpo_jax.experiments.loggers import to_columns


class Task(NamedTuple):
    """An environment and the settings it is trained with, whatever the network."""

    env_id: str
    keywords: dict[str, Any]
    config: TRPOConfig
    hparams: HParams
    steps: int
    solved: float | None
    """A seed succeeds with at least this score."""


_CARTPOLE = TRPOConfig(
    num_envs=16, num_steps=128, hidden_sizes=(64,), value_epochs=5, value_minibatch_size=512
)
_PENDULUM = _CARTPOLE.replace(num_envs=32, num_steps=64)
_CHAIN = TRPOConfig(
    num_envs=64, num_steps=32, hidden_sizes=(64,), value_epochs=5, value_minibatch_size=512
)
_FIT = HParams(value_learning_rate=3e-3)
TASKS: dict[str, Task] = {
    "CartPole": Task("CartPole-v1", {"observe": (0, 2)}, _CARTPOLE, _FIT, 500_000, 475),
    "Pendulum": Task(
        "Pendulum-v1", {"observe": (0, 1)}, _PENDULUM,
        _FIT.replace(gamma=0.9, gae_lambda=0.9), 500_000, None,
    ),
    "Pendulum, fully observed": Task(
        "Pendulum-v1", {}, _PENDULUM, _FIT.replace(gamma=0.9, gae_lambda=0.9), 500_000, None
    ),
    "MemoryChain 10": Task(
        "MemoryChain-bsuite", {"env_params": {"memory_length": 10}}, _CHAIN, _FIT, 300_000, 0.95
    ),
    "MemoryChain 30": Task(
        "MemoryChain-bsuite", {"env_params": {"memory_length": 30}},
        _CHAIN.replace(num_steps=64), _FIT, 1_000_000, 0.95,
    ),
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gru": ({"memory": "gru"}, {}),
    "lstm": ({"memory": "lstm"}, {}),
    "mingru": ({"memory": "mingru"}, {}),
    "none": ({}, {}),
    "frame_stack=4": ({}, {"frame_stack": 4}),
}
"""What changes in the configuration and in the keywords of the environment."""
PRICES = {
    "none": {}, "gru": {"memory": "gru"}, "lstm": {"memory": "lstm"},
    "mingru": {"memory": "mingru"},
    "gru, critic without memory": {"memory": "gru", "critic_memory": False},
}  # fmt: skip
SHAPES = ((64, 32), (8, 256))
"""(num_envs, num_steps)."""


def learn(name: str, network: str, seeds: int, steps: int) -> dict[str, Any]:
    """Train all seeds of one row, and play with each."""
    task = TASKS[name]
    changes, keywords = NETWORKS[network]
    config = task.config.replace(**changes)
    env = trpo_jax.make_env(task.env_id, **task.keywords, **keywords)
    agent = trpo_jax.make_trpo(env, config)
    number = max(1, steps // config.batch_size)
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), seeds))
    train = jax.jit(jax.vmap(lambda s: agent.train(s, task.hparams, num_updates=number)))
    states, history = jax.block_until_ready(train(states))
    key = jax.random.key(1)
    scores = [
        float(np.mean(agent.evaluate(jax.tree.map(lambda x, i=i: x[i], states), key).returns))
        for i in range(seeds)
    ]
    returns = to_columns(history)["episode_return"].astype(np.float64)
    use = None if history.memory_use is None else float(np.median(history.memory_use[:, -1]))
    return {
        "steps": number * config.batch_size,
        "scores": scores,
        "curve": np.nanmean(returns, axis=0)[:: max(1, number // 50)].round(3).tolist(),
        "gap": float(np.max(history.on_policy_gap)),
        "memory use": use,
    }


def price(changes: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Seconds to compile an update, and milliseconds of one: the median of 15."""
    config = TRPOConfig(num_envs=shape[0], num_steps=shape[1], **changes)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1", observe=(0, 2)), config)
    state, hparams = agent.init(jax.random.key(0)), HParams().as_arrays()
    start = time.perf_counter()
    update = jax.jit(agent.update).lower(state, hparams).compile()
    compilation, times = time.perf_counter() - start, []
    for _ in range(15):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, hparams))
        times.append(time.perf_counter() - start)
    working = update.memory_analysis().temp_size_in_bytes
    return {"compile": compilation, "ms": 1e3 * float(np.median(times)), "bytes": working}


def write(rows: dict[str, dict[str, Any]], out: Path) -> None:
    """Write the report."""
    learnt, priced = [], []
    for key, row in sorted(rows.items()):
        kind, *names = key.split(" | ")
        if kind == "learn":
            scores, solved = np.array(row["scores"]), TASKS[names[0]].solved
            share = "" if solved is None else f"{(scores >= solved).sum()} of {scores.size}"
            error = scores.std(ddof=1) / np.sqrt(scores.size) if scores.size > 1 else np.nan
            use = row["memory use"]
            learnt.append([
                *names, scores.size, f"{row['steps']:,}", f"{scores.mean():.4g} ± {error:.2g}",
                f"{scores.min():.4g}", share, "" if use is None else f"{use:.2g}",
            ])  # fmt: skip
        else:
            base = rows.get(f"price | none | {names[1]}", row)
            priced.append([
                *names, f"{row['compile']:.1f}", f"{row['ms']:.1f}",
                f"{row['ms'] / base['ms']:.2f}", f"{row['bytes'] / 2**20:.0f}",
            ])  # fmt: skip
    header = (
        "task", "network", "seeds", "steps", "score", "worst seed", "solved", "memory use, nats",
    )  # fmt: skip
    costs = ("network", "environments × steps", "compilation, s", "update, ms", "× none", "MiB")
    report.write(
        out,
        "Policies with memory",
        "Seeds are vmapped; a score is the mean return of 128 episodes of the deterministic policy "
        "after the last update, and its error that of the mean over seeds. Rows and prices come "
        "from several calls.",
        "## Learning",
        report.table(header, learnt),
        "## Price of an update",
        report.table(costs, priced),
    )


def main() -> None:
    parser = report.parser(__doc__, "recurrence.md")
    parser.add_argument("what", choices=("learn", "price", "table"))
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    without_cache()  # compilation is part of the price
    quick = arguments.quick
    todo: dict[str, Any] = {}
    if arguments.what == "learn":
        for name in arguments.tasks or list(TASKS):
            for network in arguments.networks[: 1 if quick else None]:
                steps = 4096 if quick else arguments.steps or TASKS[name].steps
                seeds = 2 if quick else arguments.seeds
                todo[f"learn | {name} | {network}"] = (learn, (name, network, seeds, steps))
    if arguments.what == "price":
        for shape in SHAPES[:1] if quick else SHAPES:
            for name, changes in list(PRICES.items())[: 1 if quick else None]:
                todo[f"price | {name} | {shape[0]} × {shape[1]}"] = (price, (changes, shape))
    rows = report.kept(arguments.out)
    for key, (measure, given) in todo.items():
        if key not in rows:
            rows = report.keep(arguments.out, {key: measure(*given)})
            print(key, {k: v for k, v in rows[key].items() if k != "curve"}, flush=True)
    write(rows, arguments.out)


if __name__ == "__main__":
    main()
