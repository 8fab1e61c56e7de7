"""Build, compile and update an agent on every environment there is, and write down how it went.

python benchmarks/environments.py                               all of them: an hour on 2 cores
python benchmarks/environments.py --suite brax --backend spring   some; the other rows are kept
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import report

import trpo_jax
from trpo_jax.learner.trpo import build_agent

BACKENDS = ("generalized", "spring", "positional", "mjx")
CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=16)
QUICK = [
    ("gymnax/CartPole-v1", None),
    ("gymnax/Pendulum-v1", None),
    ("gymnax/FrozenLake-misc", None),
    ("gymnax/Breakout-MinAtar", None),
    ("brax/fast", "generalized"),
    ("brax/inverted_pendulum", "spring"),
]
SUITES = ("gymnax", "brax")
HEADER = ("environment", "backend", "observation", "action", "compile, s", "update, s", "status")
NAN_BY_DESIGN = {"candidate_kls", "episode_return", "episode_length"}
NOT_OFFERED = "brax has no such backend of it; refused"


class Row(NamedTuple):
    env_id: str
    backend: str
    obs_shape: str
    action_space: str
    compile_seconds: str
    update_seconds: str
    status: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "environments.md")
    parser.add_argument("--quick", action="store_true", help="a sample that a CI can afford")
    parser.add_argument("--suite", choices=SUITES, help="only this suite; other rows are kept")
    parser.add_argument("--backend", choices=BACKENDS, help="only this backend of brax")
    parser.add_argument("--name", default="", help="only environments whose id contains this")
    arguments = parser.parse_args()

    cases = [
        (env_id, backend)
        for env_id, backend in (QUICK if arguments.quick else all_cases())
        if env_id.startswith(arguments.suite or "")
        and arguments.backend in (None, backend)
        and arguments.name in env_id
    ]
    failed = 0
    for number, (env_id, backend) in enumerate(cases, start=1):
        row = check(env_id, backend)
        failed += not passes(row)
        print(f"{number:3d}/{len(cases)}", *row, flush=True)
        save(arguments.out, row)
        forget()
    print(f"{len(cases) - failed} of {len(cases)} passed")
    return 1 if failed else 0


def all_cases():
    for env_id in trpo_jax.list_environments():
        if env_id.startswith("brax/"):
            yield from ((env_id, backend) for backend in BACKENDS)
        else:
            yield env_id, None


def check(env_id: str, backend: str | None) -> Row:
    """Init and two updates; whatever goes wrong becomes the status of the row."""
    obs_shape = action_space = "–"
    compile_seconds = update_seconds = float("nan")
    try:
        env = trpo_jax.make_env(env_id, **({"backend": backend} if backend else {}))
        obs_shape, action_space = str(env.obs_shape), describe(env.action_space)
        agent = trpo_jax.make_trpo(env, CONFIG)
        hparams = trpo_jax.HParams().as_arrays()
        start = time.perf_counter()
        init = jax.jit(agent.init).lower(jax.random.key(0)).compile()
        state = init(jax.random.key(0))
        update = jax.jit(agent.update).lower(state, hparams).compile()
        compile_seconds = time.perf_counter() - start

        state, first = jax.block_until_ready(update(state, hparams))
        start = time.perf_counter()
        state, second = jax.block_until_ready(update(state, hparams))
        update_seconds = time.perf_counter() - start
        status = "; ".join(problems(state, (first, second), hparams)) or "ok"
        taken = [bool(metrics.accepted) for metrics in (first, second)]
        status += "" if all(taken) else f" ({sum(taken)} of 2 steps accepted)"
    except Exception as error:
        text = " ".join(str(error).split()).replace("|", "/")
        status = f"{type(error).__name__}: {text[:160]}"
        if "is not one that brax has" in text:
            status = NOT_OFFERED
    return Row(
        env_id,
        backend or "–",
        obs_shape,
        action_space,
        f"{compile_seconds:.1f}",
        f"{update_seconds:.3f}",
        status,
    )


def passes(row: Row) -> bool:
    return row.status.startswith("ok") or row.status == NOT_OFFERED


def problems(state, history, hparams) -> list[str]:
    """What is wrong after the updates; nothing, one hopes."""
    found = []
    learned = state.replace(env_state=(), key=(), policy_step_state=state.policy_step_state)
    bad = not_finite(learned)
    for metrics in history:
        numbers = {k: v for k, v in vars(metrics).items() if k not in NAN_BY_DESIGN}
        bad += not_finite(numbers)
        if bool(metrics.accepted) and not float(metrics.kl) <= float(hparams.max_kl):
            found.append(f"accepted a KL of {float(metrics.kl):.3g}")
        if float(metrics.valid_fraction) < 1:
            found.append(f"only {float(metrics.valid_fraction):.0%} of the data is finite")
        if bool(metrics.alarms.off_policy):
            found.append("refused its own data as off-policy")
    return found + [f"not finite: {name}" for name in sorted(set(bad))]


def not_finite(tree) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        jax.tree_util.keystr(path)
        for path, leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all()
    ]


def describe(space) -> str:
    if isinstance(space, trpo_jax.Box):
        return f"Box{space.shape}"
    if isinstance(space, trpo_jax.Discrete):
        return f"Discrete({space.num_actions})"
    return f"MultiDiscrete{space.num_categories}"


def forget() -> None:
    """Free compiled programs: some hundred of them do not fit into memory together."""
    build_agent.cache_clear()
    jax.clear_caches()


def save(path: Path, row: Row) -> None:
    """Add or replace one row of the table."""
    store = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = json.loads(store.read_text()) if store.exists() else {}
    stored[f"{row.env_id} {row.backend}"] = list(row)
    store.write_text(json.dumps(stored, indent=1) + "\n")
    order = [f"{env_id} {backend or '–'}" for env_id, backend in all_cases()]
    rows = [Row(*stored[key]) for key in order if key in stored]
    passed = sum(row.status.startswith("ok") for row in rows)
    missing = sum(row.status == NOT_OFFERED for row in rows)
    report.write(
        path,
        "Every environment",
        f"{passed} of {len(order)} pass and {missing} do not exist in brax: an agent with "
        f"num_envs={CONFIG.num_envs}, num_steps={CONFIG.num_steps} is compiled, initialised and "
        "updated twice; parameters, statistics, observations and metrics are finite, all data is "
        "valid, and every accepted step has KL ≤ max_kl. Compilation is that of `init` and "
        f"`update`, an update is {CONFIG.batch_size} steps; other work shared the machine, so the "
        "times are rough.",
        report.table(HEADER, rows),
    )


if __name__ == "__main__":
    sys.exit(main())
