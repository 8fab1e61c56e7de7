"""Build, compile and update an agent on every environment there is, and write down how it went.

python benchmarks/environments.py                               all of them: an hour on 2 cores
python benchmarks/environments.py --suite brax --backend spring   some; the other rows are kept
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import problems
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


def main() -> int:
    parser = report.parser(__doc__, "environments.md")
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
        row = [env_id, backend or "–", *check(env_id, backend)]
        failed += not (row[-1].startswith("ok") or row[-1] == NOT_OFFERED)
        print(f"{number:3d}/{len(cases)}", *row, flush=True)
        save(arguments.out, row)
        # Some hundred compiled programs do not fit into memory together.
        build_agent.cache_clear()
        jax.clear_caches()
    print(f"{len(cases) - failed} of {len(cases)} passed")
    return 1 if failed else 0


def all_cases():
    for env_id in trpo_jax.list_environments():
        for backend in BACKENDS if env_id.startswith("brax/") else (None,):
            yield env_id, backend


def check(env_id: str, backend: str | None) -> list[str]:
    """Init and two updates; whatever goes wrong becomes the status, which comes last."""
    spaces = ["–", "–"]
    compile_seconds = update_seconds = float("nan")
    try:
        env = trpo_jax.make_env(env_id, **({"backend": backend} if backend else {}))
        spaces = [str(env.obs_shape), describe(env.action_space)]
        agent = trpo_jax.make_trpo(env, CONFIG)
        hparams = trpo_jax.HParams().as_arrays()
        start = time.perf_counter()
        state = jax.jit(agent.init).lower(jax.random.key(0)).compile()(jax.random.key(0))
        update = jax.jit(agent.update).lower(state, hparams).compile()
        compile_seconds = time.perf_counter() - start

        state, first = jax.block_until_ready(update(state, hparams))
        start = time.perf_counter()
        state, second = jax.block_until_ready(update(state, hparams))
        update_seconds = time.perf_counter() - start
        status = "; ".join(complaints(state, (first, second), hparams)) or "ok"
        taken = [bool(metrics.accepted) for metrics in (first, second)]
        status += "" if all(taken) else f" ({sum(taken)} of 2 steps accepted)"
    except Exception as error:
        text = " ".join(str(error).split()).replace("|", "/")
        status = f"{type(error).__name__}: {text[:160]}"
        if "is not one that brax has" in text:
            status = NOT_OFFERED
    return [*spaces, f"{compile_seconds:.1f}", f"{update_seconds:.3f}", status]


def complaints(state, history, hparams) -> list[str]:
    """What is wrong after the updates; nothing, one hopes."""
    found = []
    bad = not_finite(problems.without_environment(state))
    for metrics in history:
        bad += not_finite({k: v for k, v in vars(metrics).items() if k not in NAN_BY_DESIGN})
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


def save(path, row: list[str]) -> None:
    """Add or replace one row of the table."""
    stored = report.keep(path, {" ".join(row[:2]): row})
    order = [f"{env_id} {backend or '–'}" for env_id, backend in all_cases()]
    rows = [stored[key] for key in order if key in stored]
    passed = sum(row[-1].startswith("ok") for row in rows)
    missing = sum(row[-1] == NOT_OFFERED for row in rows)
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
