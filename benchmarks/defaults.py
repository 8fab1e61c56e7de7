"""Do cheaper defaults learn the same? Settings side by side, over seeds.

python benchmarks/defaults.py                     all of them
python benchmarks/defaults.py CartPole-v1 hopper  some; the others keep their rows

Each environment's preset is the frame; only what a row names differs. Seeds are vmapped.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from problems import with_settings

import trpo_jax
from trpo_jax.common import trees
from trpo_jax.experiments.loggers import to_columns
from trpo_jax.learner.algorithms import trust_region_settings
from trpo_jax.learner.parts import PolicyStep
from trpo_jax.presets import get_preset
from trpo_jax.solver.local_model import local_model
from trpo_jax.solver.natural_step import natural_step
from trpo_jax.solver.trust_region import search_along, step_info

# id: (keywords, seeds, steps)
TASKS: dict[str, tuple[dict[str, Any], int, int]] = {
    "CartPole-v1": ({}, 10, 100_000),
    "Acrobot-v1": ({}, 10, 100_000),
    "MountainCar-v0": ({}, 10, 200_000),
    "Pendulum-v1": ({}, 10, 200_000),
    "MountainCarContinuous-v0": ({}, 10, 100_000),
    "Catch-bsuite": ({}, 10, 50_000),
    "Breakout-MinAtar": ({}, 5, 200_000),
    "hopper": ({"backend": "spring"}, 5, 500_000),
}
BEFORE = {
    "cg_tol": 1e-8,
    "value_epochs": 10,
    "value_learning_rate": 1e-3,
    "value_minibatch_size": 128,
}
FIT = {"value_epochs": 5, "value_learning_rate": 3e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "before: tolerance 1e-8, 10 epochs × 1e-3": {},
    "tolerance 0.03": {"cg_tol": 0.03},
    "tolerance 0.1": {"cg_tol": 0.1},
    "5 epochs × 3e-3": FIT,
    "16 minibatches": {"value_minibatch_size": None},
    "all three (tolerance 0.03)": {"cg_tol": 0.03, **FIT, "value_minibatch_size": None},
    "all three, whole region": {"cg_tol": 0.03, **FIT, "value_minibatch_size": None},
}
HEADER = (
    "environment", "settings", "seeds", "steps", "area under the curve", "standard error",
    "difference (paired)", "last quarter", "CG iterations", "KL / δ", "accepted", "ms per update",
)  # fmt: skip


def whole_region_step(key, objective, params, state, batch, hparams, config):
    """TRPO's step scaled with xᵀHx in place of xᵀ(H + λI)x, but at most twice as long."""
    del key
    settings = trust_region_settings(hparams, config)
    build = {name: settings.pop(name) for name in ("curvature", "chunk_size")}
    search = {
        name: settings.pop(name)
        for name in ("search", "accept_ratio", "backtrack_factor", "max_backtracks")
    }
    model = local_model(objective, params, batch, **build)
    proposal = natural_step(model, **settings)
    x = proposal.solution.x
    damped = trees.dot(x, model.gradient - proposal.solution.residual)
    bare = damped - hparams.cg_damping * trees.dot(x, x)
    factor = jnp.where(bare > damped / 4, jnp.sqrt(damped / jnp.where(bare > 0, bare, 1)), 2.0)
    proposal = proposal._replace(
        step=trees.scaled(factor, proposal.step),
        predicted_improvement=factor * proposal.predicted_improvement,
    )
    found = search_along(model, proposal, accept=None, max_kl=hparams.max_kl, **search)
    return found.params, state, step_info(model, proposal, found, hparams.cg_damping)


WHOLE_REGION = PolicyStep(init=lambda params: (), apply=whole_region_step)


def curves(name: str, label: str, seeds: int, steps: int) -> dict[str, Any]:
    """Train all seeds; returns [seed, update] per episode, and what the steps cost."""
    keywords, *_ = TASKS[name]
    preset = get_preset(name)
    changes = BEFORE | SETTINGS[label]
    if preset.config.value_optimizer == "lbfgs":  # its fit has none of these settings
        changes = {"cg_tol": changes["cg_tol"]}
    config, hparams, _ = with_settings(preset, changes)
    step = {"policy_step": WHOLE_REGION} if "whole region" in label else {}
    agent = trpo_jax.make_trpo(trpo_jax.make_env(name, **keywords), config, **step)
    number = max(2, steps // config.batch_size)
    train = jax.jit(jax.vmap(lambda s, h: agent.train(s, h, num_updates=number), (0, None)))
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), seeds))
    hparams = hparams.as_arrays()
    compiled = train.lower(states, hparams).compile()
    start = time.perf_counter()
    _, history = jax.block_until_ready(compiled(states, hparams))
    seconds = time.perf_counter() - start
    returns = to_columns(history)["episode_return"].astype(np.float64)
    return {
        "returns": returns,
        "steps": number * config.batch_size,
        "cg": float(history.cg_iterations.mean()),
        "kl": float(history.kl.mean() / preset.hparams.max_kl),
        "accepted": float(history.accepted.mean()),
        "ms": 1e3 * seconds / (number * seeds),
    }


def study(name: str, quick: bool) -> list[list[str]]:
    """A row per setting; differences are to the first, seed by seed."""
    _, seeds, steps = TASKS[name]
    if quick:
        seeds, steps = 2, 4096
    rows, base = [], None
    labels = list(SETTINGS)
    for label in [labels[0], labels[-1]] if quick else labels:
        found = curves(name, label, seeds, steps)
        areas = np.nanmean(found["returns"], axis=1)
        last = np.nanmean(found["returns"][:, -max(1, found["returns"].shape[1] // 4) :])
        base = areas if base is None else base
        gap = areas - base
        error = gap.std(ddof=1) / np.sqrt(seeds)
        rows.append([
            name, label, str(seeds), f"{found['steps']:,}", f"{areas.mean():.2f}",
            f"{areas.std(ddof=1) / np.sqrt(seeds):.2f}", f"{gap.mean():+.2f} ± {error:.2f}",
            f"{last:.2f}", f"{found['cg']:.1f}", f"{found['kl']:.2f}", f"{found['accepted']:.2f}",
            f"{found['ms']:.2f}",
        ])  # fmt: skip
        print(dict(zip(HEADER, rows[-1], strict=True)), flush=True)
    return rows


def main() -> None:
    parser = report.parser(__doc__, "defaults.md")
    parser.add_argument("names", nargs="*", default=[])
    arguments = parser.parse_args()
    for name in arguments.names or (["CartPole-v1"] if arguments.quick else TASKS):
        rows = report.keep(arguments.out, {name: study(name, arguments.quick)})
        report.write(
            arguments.out,
            "Cheaper defaults",
            "The area under the curve is the mean episode return over all updates of a run. "
            "Differences are to the first row of an environment, paired by seed, ± their standard "
            "error. Times are of all seeds vmapped in one program, divided by seeds and updates, "
            "on a machine with other work: an order of magnitude. `whole region` scales the step "
            "with xᵀHx in place of xᵀ(H + λI)x, at most twice.",
            report.table(HEADER, [row for key in TASKS if key in rows for row in rows[key]]),
        )


if __name__ == "__main__":
    main()
