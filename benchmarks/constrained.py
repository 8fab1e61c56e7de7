"""Velocity tasks with a limit of the cost: return, cost, violations in training; and the price.

python benchmarks/constrained.py train                                 all tasks, methods and seeds
python benchmarks/constrained.py train --tasks Hopper --methods cpo --seeds 0 --total-steps 300000
python benchmarks/constrained.py price                                 an update next to TRPO's

Trainings that the JSON file beside the report has already, at as many steps, are not repeated.
"""

import datetime
import time
from typing import Any

import jax
import numpy as np
import report
from injected import CostlyMoves
from timing import interleaved, ratio

import trpo_jax
from trpo_jax import HParams, TRPOConfig

TASKS = {
    "Hopper": ("envpool/Hopper-v4", {"velocity_limit": 0.7402}, "1714 / 13.4", "1392 / 11.2"),
    "Walker2d": ("envpool/Walker2d-v4", {"velocity_limit": 2.3415}, "2075 / 21.9", "3207 / 15.0"),
    "HalfCheetah": (
        "envpool/HalfCheetah-v4", {"velocity_limit": 3.2096}, "2786 / 4.7", "2885 / 9.0"
    ),
    "Ant": ("envpool/Ant-v4", {"speed_limit": 2.6222}, "3099 / 14.1", "3042 / 19.5"),
    "Swimmer": ("envpool/Swimmer-v4", {"velocity_limit": 0.2282}, "65 / 18.2", "81 / 22.2"),
}  # fmt: skip
"""Task: id, limit of Safety-Gymnasium, and OmniSafe's return / cost with CPO and TRPO-Lagrangian
after 10 M steps. Ant limits its horizontal speed, the others their forward velocity."""
METHODS = ("cpo", "lagrangian", "trpo")
LIMIT = 25.0
CONFIG = TRPOConfig(
    num_envs=8, num_steps=256, value_epochs=5, normalize_observations=True, normalize_rewards=True
)
SETTINGS = HParams(max_kl=0.02, value_learning_rate=3e-3, cg_tol=0.03, cost_limit=LIMIT)
_LATE = 0.1
_PARTS = {"train": "Velocity tasks", "price": "The price of a limit"}


def training(task: str, method: str, seed: int, total_steps: int, quick: bool) -> dict[str, Any]:
    """Train one seed, evaluate it, and return a row."""
    env_id, limit, *_ = TASKS[task]
    config = CONFIG.replace(algorithm=method)
    if quick:
        config = config.replace(num_envs=2, num_steps=32, hidden_sizes=(8,), value_epochs=1)
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id, **limit), config)
    num_updates = max(2, total_steps // config.batch_size)
    start = time.perf_counter()
    state, history = agent.train(agent.init(jax.random.key(seed)), SETTINGS, num_updates)
    seconds = time.perf_counter() - start
    history = jax.device_get(history)
    late = slice(-max(1, round(_LATE * num_updates)), None)
    row = {"task": task, "method": method, "seed": seed, "steps": num_updates * config.batch_size}
    for deterministic in (True, False):
        key, number = jax.random.key(10_000), 2 if quick else 32
        stats = agent.evaluate(state, key, number, deterministic, 50 if quick else None)
        label = "mode" if deterministic else "samples"
        row[f"return, {label}"] = f"{float(stats.returns.mean()):.0f}"
        row[f"cost, {label}"] = f"{float(stats.costs.mean()):.1f}"
    return {
        **row,
        "cost in training, last tenth": f"{float(np.mean(history.cost_estimate[late])):.1f}",
        "updates in violation": f"{float(np.mean(history.cost_estimate > LIMIT)):.2f}",
        "recoveries": _recoveries(history),
        "steps rejected": f"{1 - float(history.accepted.mean()):.2f}",
        "minutes": f"{seconds / 60:.1f}",
        "date": datetime.date.today().isoformat(),
    }


def _recoveries(history: trpo_jax.UpdateMetrics) -> str:
    constraint = history.constraint
    if constraint is None or constraint.case is None:
        return "–"
    return f"{float(np.mean(constraint.case == trpo_jax.ConstraintCase.RECOVERY)):.2f}"


def train(arguments: Any) -> str:
    """The table of all trainings there are, after those that were asked for and lacked."""
    stored = report.kept(arguments.out).get("rows", {})
    steps = 128 if arguments.quick else arguments.total_steps
    for task in arguments.tasks:
        for method in arguments.methods:
            for seed in arguments.seeds:
                name = f"{task}/{method}/{seed}/{steps}"
                if name in stored:
                    continue
                row = training(task, method, seed, steps, arguments.quick)
                print(*row.values(), sep=" | ", flush=True)
                stored = report.keep(arguments.out, {"rows": {name: row}}, depth=2)["rows"]
    rows = sorted(stored.values(), key=lambda row: (row["task"], row["method"], row["steps"]))
    published = [[task, *numbers] for task, (_, _, *numbers) in TASKS.items()]
    header = ["task", "OmniSafe CPO, return / cost", "OmniSafe TRPO-Lagrangian"]
    return "\n\n".join(
        [
            f"Cost 1 for every step above the velocity limit of Safety-Gymnasium, episodes of 1000 "
            f"steps, {LIMIT:g} allowed. 32 episodes of the final policy: its mode, and samples of "
            "it, which is what the constraint is about in training. Updates in violation: share "
            "whose estimated cost per episode was above the limit. Settings of the script.",
            report.records(rows),
            "Published, at 10 M steps (compare only rows of as many):",
            report.table(header, published),
        ]
    )


def price(arguments: Any) -> str:
    """Seconds of an update with each algorithm, interleaved, relative to TRPO's."""
    rounds = 3 if arguments.quick else arguments.rounds
    rows = []
    shapes = (("CartPole-v1", (64, 64)), ("Acrobot-v1", (256, 256)))
    for env_id, sizes in shapes[:1] if arguments.quick else shapes:
        env = CostlyMoves(trpo_jax.make_env(env_id))
        calls, learning, cases = {}, {}, {}
        for method in ("trpo", "cpo", "lagrangian"):
            config = TRPOConfig(algorithm=method, hidden_sizes=sizes)
            if arguments.quick:
                config = config.replace(num_steps=16, hidden_sizes=(8,))
            agent = trpo_jax.make_trpo(env, config)
            state, hparams = agent.init(jax.random.key(0)), HParams(cost_limit=10.0)
            for _ in range(3):  # away from the first policy, whose costs are like noise
                state, _ = agent.update(state, hparams)
            after, trajectory = agent.rollout(state)
            constraint = agent.update(state, hparams)[1].constraint
            cases[method] = "–" if constraint is None else _name_of(constraint.case)
            calls[method] = _bound(agent.update, state, hparams)
            learning[method] = _bound(agent.learn, after, trajectory, hparams)
        times, parts = interleaved(calls, rounds), interleaved(learning, rounds)
        for method in calls:
            rows.append(
                {
                    "environment": env_id, "batch": config.batch_size, "networks": str(sizes),
                    "method": method, "constraint": cases[method],
                    "update, ms": f"{1e3 * np.median(times[method]):.1f}",
                    "update / TRPO's": f"{ratio(times, method, 'trpo'):.2f}",
                    "learning alone / TRPO's": f"{ratio(parts, method, 'trpo'):.2f}",
                }
            )  # fmt: skip
    note = (
        "Medians over interleaved rounds. A limit adds a second critic to fit, and to CPO, where "
        "it binds, a second solve by conjugate gradients."
    )
    return f"{note}\n\n{report.records(rows)}"


def _name_of(case: Any) -> str:
    return "–" if case is None else trpo_jax.ConstraintCase(int(case)).name.lower()


def _bound(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


def main() -> None:
    parser = report.parser(__doc__, "constrained.md", _PARTS)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["cpo", "lagrangian"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--total-steps", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    text = train(arguments) if arguments.part == "train" else price(arguments)
    title = "Limits of the cost"
    report.write_part(arguments.out, title, _PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
