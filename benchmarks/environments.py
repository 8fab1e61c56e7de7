"""Check every environment there is, train it for a moment, and write down how it went.

python benchmarks/environments.py                                 all that have no row yet
python benchmarks/environments.py --suite brax --backend spring     some
python benchmarks/environments.py --name Hopper --again             some, measured anew
python benchmarks/environments.py --suite envpool --every 20        a sample of a large suite

Each environment has a process of its own, so that one which crashes or hangs is a row and not the
end. Its row is stored at once: an interrupted run goes on where it was.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
import report
from timing import without_cache

import trpo_jax
from trpo_jax.envs.ids import names_of
from trpo_jax.envs.suites import SUITES

BACKENDS = ("generalized", "spring", "positional", "mjx")
CONFIG = trpo_jax.TRPOConfig(num_envs=8, num_steps=32)
QUICK = [
    ("gymnax/CartPole-v1", ""),
    *(("brax/inverted_pendulum", backend) for backend in BACKENDS),
    ("playground/CartpoleBalance", ""),
    ("gymnasium/Pendulum-v1", ""),
    ("envpool/CartPole-v1", ""),
    ("craftax/Craftax-Classic-Symbolic-v1", ""),
    ("jumanji/Snake-v1", ""),
    ("navix/Navix-Empty-5x5-v0", ""),
    ("xminigrid/MiniGrid-Empty-5x5", ""),
    ("pgx/minatar-breakout", ""),
]
"""One environment of every suite and backend."""
COLUMNS = ("environment", "backend", "observation", "action", "compile, s", "steps/s", "status")
WITHOUT_EPISODES = {"episode_return", "episode_length", "env_metrics", "env_metrics_last"}
"""Means over the episodes that ended in an update: −∞ if none did."""
NOT_OFFERED = "brax has no such backend of it; refused"


def main() -> int:
    parser = report.parser(__doc__, "environments.md")
    parser.add_argument("--suite", choices=SUITES, help="only this suite")
    parser.add_argument("--backend", choices=BACKENDS, help="only this backend of brax")
    parser.add_argument("--name", default="", help="only environments whose id contains this")
    parser.add_argument("--every", type=int, default=1, help="only every n-th of these")
    parser.add_argument("--limit", type=int, help="at most so many environments in this call")
    parser.add_argument("--again", action="store_true", help="also those that have a row already")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one environment")
    parser.add_argument("--jobs", type=int, default=1, help="environments at a time")
    parser.add_argument("--row", type=Path, help="measure the one that --name and --backend name")
    arguments = parser.parse_args()
    if arguments.row:
        row = measure(arguments.name, arguments.backend or "", arguments.quick)
        arguments.row.write_text(json.dumps(row))
        return 0
    done = {} if arguments.again else report.kept(arguments.out)
    cases = [
        (env_id, backend)
        for env_id, backend in (QUICK if arguments.quick else all_cases())
        if env_id.partition("/")[0] == (arguments.suite or env_id.partition("/")[0])
        and arguments.backend in (None, backend)
        and arguments.name in env_id
    ][:: arguments.every]
    cases = [case for case in cases if not isinstance(done.get(key(*case)), dict)]
    cases = cases[: arguments.limit]
    failed = 0
    with ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
        rows = pool.map(lambda case: in_a_process(*case, arguments), cases)
        for number, row in enumerate(rows, start=1):
            failed += not passes(row)
            print(f"{number:4d}/{len(cases)}", *(row[column] for column in COLUMNS), flush=True)
            save(arguments.out, row)
    print(f"{len(cases) - failed} of {len(cases)} passed")
    return 1 if failed else 0


def all_cases():
    """Every environment that can be made here, and every backend of it."""
    for env_id in trpo_jax.list_environments():
        for backend in BACKENDS if env_id.startswith("brax/") else ("",):
            yield env_id, backend


def key(env_id: str, backend: str) -> str:
    return f"{env_id} {backend}".strip()


def passes(row: dict[str, Any]) -> bool:
    return row["status"].startswith("ok") or row["status"] == NOT_OFFERED


def in_a_process(env_id: str, backend: str, arguments: Any) -> dict[str, Any]:
    """The row that a process of its own measures, or how that process ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--name", env_id, "--row", str(file)]
        command += ["--backend", backend] if backend else []
        command += ["--quick"] if arguments.quick else []
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        try:
            done = subprocess.run(
                command, env=quiet, capture_output=True, text=True, timeout=arguments.timeout
            )
        except subprocess.TimeoutExpired:
            return blank(env_id, backend) | {"status": f"not done in {arguments.timeout:.0f} s"}
        if file.exists():
            return json.loads(file.read_text())
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return blank(env_id, backend) | {"status": f"exit code {done.returncode}: {short(last)}"}


def blank(env_id: str, backend: str) -> dict[str, Any]:
    words = dict.fromkeys(COLUMNS, "–")
    return words | {"environment": env_id, "backend": backend or "–", "measured": report.source()}


def measure(env_id: str, backend: str, quick: bool) -> dict[str, Any]:
    """Make, check and train one environment; whatever goes wrong becomes its status."""
    row = blank(env_id, backend)
    try:
        env = trpo_jax.make_env(env_id, **({"backend": backend} if backend else {}))
        row["observation"] = str(env.obs_shape).replace("|", "/")
        row["action"] = describe(env.action_space)
        checked = trpo_jax.check_environment(env, num_steps=200 if quick else 1001)
        found = [f"{each.promise}: {each.detail}" for each in checked.failures]
        compile_seconds, rate, history, states = trained(env, 0.2 if quick else 2.0)
        row["compile, s"], row["steps/s"] = f"{compile_seconds:.1f}", f"{rate:.0f}"
        found += complaints(*states, history)
        row["status"] = short("; ".join(found)) or ok(checked, history)
    except Exception as error:
        row["status"] = f"{type(error).__name__}: {short(str(error))}"
        if "is not one that brax has" in str(error):
            row["status"] = NOT_OFFERED
    return row


def trained(env: trpo_jax.Environment, seconds: float):
    """Two updates, and more for some seconds: compilation, steps per second, metrics, states.

    Compilation is what `init` and the first update take longer than the second.
    """
    agent = trpo_jax.make_trpo(env, CONFIG)
    times = [time.perf_counter()]
    begun = agent.init(jax.random.key(0))
    state, first = jax.block_until_ready(agent.update(begun))
    times.append(time.perf_counter())
    state, second = jax.block_until_ready(agent.update(state))
    times.append(time.perf_counter())
    updates, start = 0, time.perf_counter()
    while updates == 0 or time.perf_counter() - start < seconds:
        jax.block_until_ready(agent.update(state))
        updates += 1
    rate = updates * CONFIG.batch_size / (time.perf_counter() - start)
    compile_seconds = times[1] - times[0] - (times[2] - times[1])
    return max(compile_seconds, 0.0), rate, (first, second), (begun, state)


def ok(checked: trpo_jax.EnvironmentReport, history) -> str:
    """The status where nothing is wrong: what could not be tried, and steps that were refused."""
    remarks = [f"skipped: {each.promise}" for each in checked.skipped if "host" not in each.detail]
    taken = sum(bool(metrics.accepted) for metrics in history)
    remarks += [] if taken == len(history) else [f"{taken} of {len(history)} steps accepted"]
    return f"ok ({'; '.join(remarks)})" if remarks else "ok"


def complaints(begun, state, history) -> list[str]:
    """What is wrong after the updates; nothing, one hopes."""
    found = []
    bad = not_finite(problems.without_environment(state))
    max_kl = float(trpo_jax.HParams().as_arrays().max_kl)
    for metrics in history:
        excused = set() if metrics.num_episodes else WITHOUT_EPISODES
        bad += not_finite({k: v for k, v in vars(metrics).items() if k not in excused})
        if bool(metrics.accepted) and not float(metrics.kl) <= max_kl:
            found.append(f"accepted a KL of {float(metrics.kl):.3g}")
        if float(metrics.valid_fraction) < 1:
            found.append(f"only {float(metrics.valid_fraction):.0%} of the data is valid")
        if bool(metrics.alarms.off_policy):
            found.append("refused its own data as off-policy")
    before, after = (jax.tree.leaves(each.policy_params) for each in (begun, state))
    if all(map(np.array_equal, before, after)) and any(bool(each.accepted) for each in history):
        found.append("steps were accepted, and the policy is what it was")
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


def short(text: str) -> str:
    """One line for a cell."""
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 200 else f"{text[:199]}…"


def save(path, row: dict[str, Any]) -> None:
    """Add or replace one row, and write the tables."""
    stored = report.keep(path, {key(row["environment"], row["backend"].strip("–")): row})
    rows = [row for row in stored.values() if isinstance(row, dict)]
    sections = [summary(rows)]
    for suite in SUITES:
        own = [row for row in rows if row["environment"].startswith(f"{suite}/")]
        if own:
            order = {name: place for place, name in enumerate(names_of(suite))}
            own.sort(key=lambda row: order.get(row["environment"].partition("/")[2], math.inf))
            cells = [[row[column] for column in COLUMNS] for row in own]
            sections += [f"## {suite}: {count(own)}", report.table(COLUMNS, cells)]
    measured = sorted({row["measured"] for row in rows})
    report.write(path, "Every environment", "\n".join(measured), *sections)


def summary(rows: list[dict[str, Any]]) -> str:
    return (
        f"{count(rows)}. Each is put through `trpo_jax.check_environment`, which must find no "
        f"broken promise, and through two updates of an agent with num_envs={CONFIG.num_envs}, "
        f"num_steps={CONFIG.num_steps}: parameters, statistics, observations and metrics are "
        "finite, all data is valid, and every accepted step has KL ≤ max_kl. Compilation is that "
        "of `init` and `update`; steps/s are those of whole updates, learning included. Other work "
        "may have shared the machine, so times are rough. Rows come from several calls."
    )


def count(rows: list[dict[str, Any]]) -> str:
    missing = sum(row["status"] == NOT_OFFERED for row in rows)
    passed = sum(map(passes, rows)) - missing
    text = f"{passed} of {len(rows) - missing} pass"
    return f"{text}, and {missing} do not exist in brax" if missing else text


if __name__ == "__main__":
    without_cache()
    sys.exit(main())
