"""What a change of the code changes: numbers and speed of two checkouts.

python benchmarks/same_numbers.py record before.npz    # in one checkout
python benchmarks/same_numbers.py record after.npz     # in the other
python benchmarks/same_numbers.py compare before.npz after.npz
python benchmarks/same_numbers.py speed OTHER_CHECKOUT [--rounds 7] [--settings equal]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from report import table

import trpo_jax

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "gymnax/CartPole-v1": {},
    "gymnax/Pendulum-v1": {},
    "brax/inverted_pendulum": {"backend": "spring"},
}
UPDATES = (1, 20)
_TIMED_UPDATES = 50
EQUAL_CONFIG = {"num_envs": 8, "num_steps": 256, "value_epochs": 10, "value_minibatch_size": 128}
EQUAL_HPARAMS = {"cg_tol": 1e-8, "value_learning_rate": 1e-3}
SETTINGS = {
    "presets": "those of each checkout",
    "equal": "the same work in both: 10 CG iterations, 10 epochs of minibatch 128",
    "defaults": "the library's defaults in each checkout",
}


def record(file: Path) -> None:
    """Parameters of seed 0 before and after some updates, with the presets."""
    found = {}
    for env_id in ENVIRONMENTS:
        agent, hparams = _agent(env_id)
        state = agent.init(jax.random.key(0))
        for update in range(max(UPDATES) + 1):
            if update:
                state, _ = agent.update(state, hparams)
            if update in (0, *UPDATES):
                for name in ("policy_params", "value_params"):
                    found[f"{env_id}, {name}, {update}"] = _flat(getattr(state, name))
    np.savez(file, **found)


def compare(before: Path, after: Path) -> str:
    """A table: equal bit for bit, or how far apart relative to the way from the start."""
    old, new = np.load(before), np.load(after)
    rows = []
    for key in old:
        start = old[f"{key.rpartition(',')[0]}, 0"]
        moved = np.linalg.norm(old[key] - start)
        apart = np.linalg.norm(new[key] - old[key])
        equal = old[key].tobytes() == new[key].tobytes()
        rows.append([*key.split(", "), equal, f"{apart / moved:.1e}" if moved else f"{apart:.1e}"])
    header = ["environment", "parameters", "updates", "equal bit for bit", "gap / way"]
    return table(header, rows)


def measure(env_id: str, settings: str) -> dict[str, float]:
    """Seconds until the update is compiled, and milliseconds of one."""
    agent, hparams = _agent(env_id, settings)
    state, hparams = agent.init(jax.random.key(0)), hparams.as_arrays()
    start = time.perf_counter()
    update = jax.jit(agent.update).lower(state, hparams).compile()
    compilation = time.perf_counter() - start
    times = []
    for _ in range(_TIMED_UPDATES):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, hparams))
        times.append(time.perf_counter() - start)
    return {"compilation, s": compilation, "update, ms": 1e3 * float(np.median(times))}


def speed(other: Path, rounds: int, settings: str) -> str:
    """A table: medians of this checkout and of another, measured in turn, and their ratios."""
    here = Path(__file__).resolve().parents[1]
    rows = []
    for env_id in ENVIRONMENTS:
        pairs = [
            [_measured(path, env_id, settings) for path in (here, other)] for _ in range(rounds)
        ]
        for name in pairs[0][0]:
            mine, theirs = np.array([[each[name] for each in pair] for pair in pairs]).T
            ratio = np.median(mine / theirs)
            rows.append([env_id, name, *(f"{np.median(x):.2f}" for x in (mine, theirs)), ratio])
    rows = [[*row[:-1], f"{row[-1]:.3f}"] for row in rows]
    return table(["environment", "what", "this checkout", "the other", "ratio (median)"], rows)


def _measured(checkout: Path, env_id: str, settings: str) -> dict[str, float]:
    """`measure`, of this file, in a process that imports the library of a checkout."""
    out = subprocess.run(
        [sys.executable, __file__, "measure", env_id, settings],
        env={**os.environ, "PYTHONPATH": str(checkout), "JAX_ENABLE_COMPILATION_CACHE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def _agent(env_id: str, settings: str = "presets") -> tuple[Any, trpo_jax.HParams]:
    preset = trpo_jax.get_preset(env_id)
    if settings == "equal":
        equal = trpo_jax.TRPOConfig(**EQUAL_CONFIG), trpo_jax.HParams(**EQUAL_HPARAMS)
        preset = preset._replace(config=equal[0], hparams=equal[1])
    elif settings == "defaults":
        preset = preset._replace(config=trpo_jax.TRPOConfig(), hparams=trpo_jax.HParams())
    env = trpo_jax.make_env(env_id, **ENVIRONMENTS[env_id])
    return trpo_jax.make_trpo(env, preset.config), preset.hparams


def _flat(tree: Any) -> np.ndarray:
    """All leaves as one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["record", "compare", "measure", "speed"])
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--settings", choices=SETTINGS, default="presets")
    given = parser.parse_args()
    first, *others = given.arguments
    if given.action == "record":
        record(Path(first))
    elif given.action == "compare":
        print(compare(Path(first), Path(others[0])))
    elif given.action == "measure":
        print(json.dumps(measure(first, *others)))
    else:
        print(f"Settings: {SETTINGS[given.settings]}.\n")
        print(speed(Path(first), given.rounds, given.settings))


if __name__ == "__main__":
    main()
