"""TRPO on the tasks that the field knows, beside what has been published.

python benchmarks/published.py --env envpool/Hopper-v4               ten seeds of a million steps
python benchmarks/published.py --env envpool/Hopper-v4 --method ppo --seeds 5
python benchmarks/published.py --env envpool/Hopper-v4 --try max_kl=0.03,0.06   settings, compared
python benchmarks/published.py                                       the report of all that is there

All seeds train side by side in one process. A task is a JSON file with the curve of every seed in
results/published/; a run that was interrupted goes on from its last test. Reported are seeds 0, 1,
…; settings are compared on seeds 100, 101 and 102, and each comparison is a file of its own.
"""

import datetime
import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baselines
import jax
import numpy as np
import published_report
import report
from problems import with_settings

import trpo_jax
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.chunks import init_lanes, is_on_host
from trpo_jax.experiments.loggers import to_columns

TESTS = 20
"""Tests during training, at equal distances; the last is at the end."""
TEST_EPISODES = 10
"""Of each, with a deterministic policy; tianshou's number."""
FINAL_EPISODES = 20
LAST_EPISODES = 100
"""Episodes whose mean is the training return at the end."""
CURVE_POINTS = 100
TUNING_SEEDS = (100, 101, 102)
METHODS: dict[str, Callable[[trpo_jax.TRPOConfig], tuple[trpo_jax.TRPOConfig, Any]]] = {
    "trpo": lambda config: (config, None),
    "npg": lambda config: (config.replace(line_search=False), None),
    "ppo": lambda config: (config, baselines.ppo()),
    "vpg": lambda config: (config, baselines.vanilla_policy_gradient()),
}


class Study:
    """One method on one task, in lanes: seeds, or settings × seeds."""

    def __init__(self, env_id: str, method: str, preset: trpo_jax.Preset, steps: int):
        config, step = METHODS[method](preset.config)
        brought = {} if step is None else {"policy_step": step}
        self.agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), config, **brought)
        self.config, self.hparams = config, preset.hparams
        self.chunk = max(1, steps // (TESTS * config.batch_size))
        self.num_chunks = min(TESTS, max(1, steps // config.batch_size))

    def run(self, seeds: list[int], hparams: trpo_jax.HParams, unfinished: Path) -> dict[str, Any]:
        """Train, testing on the way; `hparams` has a leading axis of lanes, as many as seeds."""
        on_host = is_on_host(self.agent)
        train, evaluate = self.agent.train, self.agent.evaluate
        if not on_host:
            train = jax.jit(jax.vmap(train, in_axes=(0, 0, None)), static_argnums=2)
            evaluate = jax.jit(
                jax.vmap(evaluate, in_axes=(0, None, None)), static_argnames="num_episodes"
            )
        state = init_lanes(self.agent, seeds)
        stored = Checkpoints(unfinished / "states", keep=1)
        done = max(stored.updates(), default=0)
        found: dict[str, list[Any]] = {"returns": [], "episodes": [], "tests": [], "seconds": []}
        if done:
            state = stored.restore(done, state)
            found = json.loads((unfinished / "found.json").read_text())
            found = {name: values[:done] for name, values in found.items()}
        for chunk in range(done, self.num_chunks):
            start = time.perf_counter()
            state, history = jax.block_until_ready(train(state, hparams, self.chunk))
            found["seconds"].append(time.perf_counter() - start)
            found["returns"].append(to_columns(history)["episode_return"].tolist())
            found["episodes"].append(np.asarray(history.num_episodes).tolist())
            key = jax.random.fold_in(jax.random.key(1), chunk)
            test = np.asarray(evaluate(state, key, num_episodes=TEST_EPISODES).returns, float)
            found["tests"].append(test.mean(axis=1).tolist())
            unfinished.mkdir(parents=True, exist_ok=True)
            (unfinished / "found.json").write_text(json.dumps(found))
            stored.save(chunk + 1, state)
            done_steps = (chunk + 1) * self.chunk * self.config.batch_size
            print(f"{done_steps:>10,} steps: {np.round(found['tests'][-1], 1)}", flush=True)
        stored.close()
        key = jax.random.key(2)
        final = np.asarray(evaluate(state, key, num_episodes=FINAL_EPISODES).returns, float)
        return {**self._curves(found), "final": final.tolist(), "seconds": sum(found["seconds"])}

    def _curves(self, found: dict[str, list[Any]]) -> dict[str, Any]:
        returns = np.concatenate(found["returns"], axis=1)
        episodes = np.concatenate(found["episodes"], axis=1)
        size, number = self.config.batch_size, returns.shape[1]
        shown = np.unique(np.linspace(0, number - 1, CURVE_POINTS).round().astype(int))
        return {
            "steps": ((shown + 1) * size).tolist(),
            "returns": np.round(returns[:, shown], 2).tolist(),
            "last_100": [last_mean(*each) for each in zip(returns, episodes, strict=True)],
            "test_steps": [(i + 1) * self.chunk * size for i in range(len(found["tests"]))],
            "tests": np.round(np.transpose(found["tests"]), 2).tolist(),
        }


def last_mean(returns: np.ndarray, episodes: np.ndarray) -> float:
    """Mean return of the last 100 episodes, and of all others that ended in the same update."""
    first = np.searchsorted(np.cumsum(episodes[::-1]), LAST_EPISODES) + 1
    weights = episodes[-first:]
    return float(np.average(np.nan_to_num(returns[-first:]), weights=np.maximum(weights, 1e-9)))


def run_task(arguments: Any, preset: trpo_jax.Preset, folder: Path) -> None:
    """Report seeds 0, 1, …, or compare settings on the tuning seeds."""
    grid = dict(each.split("=", 1) for each in arguments.tried)
    values = {name: [json.loads(x) for x in text.split(",")] for name, text in grid.items()}
    settings = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    seeds = list(range(arguments.seeds))
    if values or arguments.set:
        seeds = list(TUNING_SEEDS)[: arguments.seeds]
    lanes = [(each, seed) for each in settings for seed in seeds]
    hparams = trpo_jax.HParams.stack([preset.hparams.replace(**each) for each, _ in lanes])
    name = file_name(arguments, values)
    unfinished = folder / "unfinished" / name
    study = Study(arguments.env, arguments.method, preset, arguments.steps)
    row = study.run([seed for _, seed in lanes], hparams, unfinished)
    labels = [json.dumps(each) if each else "" for each, _ in lanes]
    row |= {
        "env": arguments.env,
        "method": arguments.method,
        "seeds": [seed for _, seed in lanes],
        "tried": labels if values or arguments.set else [],
        "set": arguments.set,
        "settings": published_report.describe(study.config, study.hparams),
        "total_steps": study.chunk * study.num_chunks * study.config.batch_size,
        "date": datetime.date.today().isoformat(),
        "measured": report.source(),
    }
    (folder / f"{name}.json").write_text(json.dumps(row) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
    for label in dict.fromkeys(labels):
        mine = [i for i, each in enumerate(labels) if each == label]
        means = np.mean(np.array(row["final"])[mine], axis=1)
        print(label or arguments.env, np.round(means, 1), f"mean {means.mean():.1f}")


def file_name(arguments: Any, values: dict[str, Any]) -> str:
    """The file of a task, or of a comparison of settings."""
    name = f"{arguments.env.replace('/', '_')}_{arguments.method}"
    if arguments.steps != 1_000_000:
        name += f"_{arguments.steps}"
    words = [*arguments.set, *(f"{key}={value}" for key, value in values.items())]
    return name + "".join(f"_{word}".replace(" ", "") for word in words)


def main() -> None:
    parser = report.parser(__doc__, "published.md")
    parser.add_argument("--env", help="suite/name; without it the report is written")
    parser.add_argument("--method", choices=METHODS, default="trpo")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument(
        "--try", dest="tried", nargs="+", default=[], metavar="NAME=V1,V2", help="a grid of HParams"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="instead of the preset's"
    )
    arguments = parser.parse_args()
    folder = arguments.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.env:
        preset = trpo_jax.get_preset(arguments.env)
        changes = {}
        for text in arguments.set:
            name, _, value = text.partition("=")
            changes[name] = tuple(read) if isinstance(read := json.loads(value), list) else read
        preset = with_settings(preset, changes)
        if arguments.quick:
            arguments.steps, arguments.seeds = 4 * preset.config.batch_size, 2
        run_task(arguments, preset, folder)
    published_report.write(folder, arguments.out)


if __name__ == "__main__":
    main()
