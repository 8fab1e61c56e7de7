"""C14: what fewer than ten iterations of conjugate gradients cost."""

import json

import numpy as np

from claim_studies import training
from claim_studies.settings import METHODS, NUM_SEEDS
from claim_studies.statistics import interquartile_mean, over_seeds
from claim_studies.study import Options, Study, panels

ITERATIONS = (1, 2, 5, 10, 20)
MAX_KL = {"CartPole-v1": 0.01, "Pendulum-v1": 0.01}


def few_iterations(options: Options) -> Study:
    """C14: returns over ten seeds with 1, 2, 5, 10 and 20 iterations."""
    env_ids = ("CartPole-v1",) if options.quick else tuple(MAX_KL)
    all_runs = {
        (env_id, iterations): _train(options, env_id, iterations)
        for env_id in env_ids
        for iterations in (ITERATIONS[:2] if options.quick else ITERATIONS)
    }
    rows = []
    for (env_id, iterations), runs in all_runs.items():
        curve = training.curve(runs)
        tenth = max(1, curve.shape[1] // 10)
        rows.append([env_id, MAX_KL[env_id], iterations,
                     f"{over_seeds(np.nanmean(curve[:, -tenth:], axis=1))}",
                     f"{over_seeds(np.nanmean(curve, axis=1))}",
                     f"{np.median(runs['residual']):.1e}",
                     f"{np.median(runs['kl']) / MAX_KL[env_id]:.2f}",
                     f"{np.mean(runs['backtracks']):.2f}"])  # fmt: skip

    return Study(
        "C14",
        "C14: fewer than 10 CG iterations hurts",
        "TRPO, ten seeds a row, the stochastic policy's return: over the last tenth of the "
        "updates, and over all of them (interquartile mean over seeds, 95 % bootstrap interval). "
        "Residual and KL: medians over all updates and seeds. Damping 0.1.",
        ("environment", "δ", "CG iterations", "final return", "return over the run",
         "‖r‖/‖g‖", "KL / δ", "backtracks"),
        rows,
        lambda: _picture(all_runs),
    )  # fmt: skip


def _train(options: Options, env_id: str, iterations: int) -> dict:
    """Ten seeds, or what the disk has of them."""
    path = options.runs / f"{env_id}_cg{iterations}.json"
    if not path.exists():
        method = METHODS["trpo"]._replace(changes={"cg_iterations": iterations})
        shared = training.get_shared(env_id, options.quick)
        program = training.Program(shared, method)
        values = [MAX_KL[env_id]] * NUM_SEEDS
        runs = program.histories(values, training.REPORT_STREAM, shared.task.num_updates)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(runs, separators=(",", ":")) + "\n")
    return json.loads(path.read_text())


def _picture(all_runs: dict):
    names = list(dict.fromkeys(env_id for env_id, _ in all_runs))
    figure, axes = panels(len(names), per_row=3)
    for axis, name in zip(axes, names, strict=True):
        for (env_id, iterations), runs in all_runs.items():
            if env_id == name:
                curve = training.curve(runs)
                updates = np.arange(1, curve.shape[1] + 1)
                middle = interquartile_mean(curve, axis=0)
                axis.plot(updates, middle, label=f"{iterations} iterations")
        axis.set(title=f"{name}, δ = {MAX_KL[name]:g}", xlabel="update", ylabel="return")
    axes[0].legend(fontsize="small")
    figure.suptitle("interquartile mean of ten seeds")
    return figure
