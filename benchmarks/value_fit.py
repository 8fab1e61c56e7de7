"""Could the critic be fitted faster? Quality and time of the library's fit and of its rivals.

python benchmarks/value_fit.py quality [ENV …]   trains with every fit; minutes
python benchmarks/value_fit.py time              times every fit alone, in turns

Both keep their rows beside the report; it is written anew each time. A fit minimises
Σ w (V(obs) − target)² / Σ w over a batch and carries a state from fit to fit.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import problems
import report
from jax.flatten_util import ravel_pytree
from problems import TINY, Shape
from timing import best, compiled, interleaved

import trpo_jax
from trpo_jax import cg_solve, gauss_newton_product
from trpo_jax.learner.value import fit_value_lbfgs
from trpo_jax.presets import Preset, get_preset


class Fit(NamedTuple):
    """A fit with its settings filled in."""

    init: Callable[[Any], Any]
    """params -> state."""
    run: Callable[..., tuple[Any, Any]]
    """(key, apply, params, state, batch) -> (params, state)."""


def adam(epochs: int, minibatch: int, rate: float) -> Fit:
    """The library's own."""

    def run(key, apply, params, state, batch):
        return problems.value_fit(apply, epochs, minibatch, rate)(key, params, state, batch)

    return Fit(problems.start_of_fit, run)


def lbfgs(iterations: int) -> Fit:
    """The library's other one."""

    def run(key, apply, params, state, batch):
        data = problems.regression(apply, batch)
        return fit_value_lbfgs(params, **data, num_iterations=iterations)[0], state

    return Fit(lambda params: (), run)


def levenberg_marquardt(steps: int, cg_iterations: int) -> Fit:
    """(Jᵀ W J + λ I) Δ = −Jᵀ W (V − target) by `cg_solve`; λ shrinks after a success, else grows.

    W are the weights, divided by their sum. λ is carried on. Levenberg 1944; Marquardt 1963.
    """

    def run(key, apply, params, damping, batch):
        flat, unravel = ravel_pytree(params)
        share = batch.weight / jnp.sum(batch.weight)

        def values(candidate):
            return apply(unravel(candidate), batch.obs)

        def loss(candidate):
            return jnp.sum(share * (values(candidate) - batch.value_target) ** 2)

        def step(carry, _):
            current, damping = carry
            product = gauss_newton_product(values, lambda _, u: share * u, current)
            before, gradient = jax.value_and_grad(loss)(current)
            solution = cg_solve(
                lambda v: product(v) + damping * v, -gradient / 2, max_iters=cg_iterations, tol=1e-3
            )
            candidate = current + solution.x
            better = loss(candidate) < before
            damping = jnp.clip(jnp.where(better, damping / 2, damping * 4), 1e-6, 1e6)
            return (jnp.where(better, candidate, current), damping), None

        (fitted, damping), _ = jax.lax.scan(step, (flat, damping), length=steps)
        return unravel(fitted), damping

    return Fit(lambda params: jnp.float32(0.1), run)


def candidates(epochs: int, rate: float = 1e-3) -> dict[str, Fit]:
    """Adam with these settings, and its rivals; larger steps where there are fewer."""
    half, quarter = epochs // 2, max(1, epochs // 4)
    return {
        "Adam, minibatch 128": adam(epochs, 128, rate),
        "Adam, half the epochs, rate × 1.4": adam(half, 128, 1.4 * rate),
        "Adam, a quarter of the epochs, rate × 2": adam(quarter, 128, 2 * rate),
        "Adam, minibatch 512, rate × 2": adam(epochs, 512, 2 * rate),
        "L-BFGS, 10 iterations": lbfgs(10),
        "L-BFGS, 5 iterations": lbfgs(5),
        "Levenberg–Marquardt, 1 × 10 CG": levenberg_marquardt(1, 10),
        "Levenberg–Marquardt, 3 × 10 CG": levenberg_marquardt(3, 10),
        "Adam, half the epochs, rate × 3": adam(half, 128, 3 * rate),
        "Adam, a quarter of the epochs, rate × 6": adam(quarter, 128, 6 * rate),
        "Adam, whole batch, rate × 4": adam(2 * epochs, 1 << 30, 4 * rate),
    }


class Start(NamedTuple):
    """What the study of an environment starts from: the preset as it was before, and how long."""

    steps: int
    """Of training: those in which most is learned, no more. A solved CartPole, for one, has targets
    that are nearly constant, and nothing in them to explain."""
    epochs: int = 10
    rate: float = 1e-3
    num_envs: int | None = None


ENVIRONMENTS = {
    "CartPole-v1": Start(40_000),
    "Acrobot-v1": Start(50_000),
    "Pendulum-v1": Start(80_000, epochs=20, rate=2e-3, num_envs=4),
    "inverted_pendulum": Start(250_000),
}
SHAPES = (
    Shape(2048, 4, 2, (64, 64), discrete=True),
    Shape(4096, 4, 1, (64, 64)),
    Shape(8192, 87, 8, (256, 256)),
)
EPOCHS = 10
EXPECTED = """Expected before measuring: (1) fewer, larger minibatches cost half the time, since a
step of 128 examples is mostly overhead, and fit a little worse; (2) L-BFGS costs about the same as
Adam (as many passes over the data, some more for its line search) and fits the batch better, but
the next batch no better; (3) Levenberg–Marquardt with one solve costs as much as a policy step's
conjugate gradients, so it is no faster on small networks, and fits the batch best."""
QUALITY_HEADER = (
    "environment", "fit", "explained variance of the next batch", "of its own batch",
    "mean return over training", "mean return at the end (worst seed)",
)  # fmt: skip


def make_training(env, preset: Preset, fit: Fit, num_updates: int):
    """key -> (returns, explained variance before, after), [num_updates] each.

    The library's update with no epochs of its own fit, and `fit` in its place.
    """
    config, hparams = preset.config.replace(value_epochs=0), preset.hparams
    agent = trpo_jax.make_trpo(env, config)

    def update(carry, _):
        state, fit_state = carry
        moved, trajectory = agent.rollout(state)
        batch = problems.prepared(agent, config, hparams)(moved, trajectory).batch
        learned, metrics = agent.learn(moved, trajectory, hparams)
        key = jax.random.fold_in(moved.key, 1)
        params, fit_state = fit.run(key, agent.critic.apply, state.value_params, fit_state, batch)
        error = batch.value_target - agent.critic.apply(params, batch.obs)
        own = 1 - jnp.var(error) / jnp.maximum(jnp.var(batch.value_target), 1e-8)
        record = metrics.episode_return, metrics.explained_variance, own
        return (learned.replace(value_params=params), fit_state), record

    def train(key):
        state = agent.init(key)
        carry = state, fit.init(state.value_params)
        return jax.lax.scan(update, carry, length=num_updates)[1]

    return train


def quality(name: str, num_seeds: int, wanted: slice, quick: bool) -> dict[str, list[str]]:
    """A row for every fit: all seeds in one program."""
    keywords = {"backend": "spring"} if name == "inverted_pendulum" else {}
    env, preset = trpo_jax.make_env(name, **keywords), get_preset(name)
    start = ENVIRONMENTS[name]
    if start.num_envs:
        preset = preset._replace(config=preset.config.replace(num_envs=start.num_envs))
    num_updates = 2 if quick else start.steps // preset.config.batch_size
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = {}
    for label, fit in list(candidates(start.epochs, start.rate).items())[wanted]:
        train = jax.jit(jax.vmap(make_training(env, preset, fit, num_updates)))
        returns, ahead, own = (np.asarray(values) for values in train(keys))
        returns = np.where(np.isfinite(returns), returns, np.nan)  # none before the first episode
        # The first tenth is the same noise for all; late in a training there is less to explain.
        later = slice(num_updates // 10, max(2, num_updates // 2))
        end = np.nanmean(returns[:, -max(1, num_updates // 10) :], axis=1)
        rows[f"{name}: {label}"] = [
            name, label, f"{np.median(ahead[:, later]):.3f}", f"{np.median(own[:, later]):.3f}",
            f"{np.nanmean(returns):.1f}", f"{end.mean():.1f} ({end.min():.1f})",
        ]  # fmt: skip
        print(*rows[f"{name}: {label}"], sep=" | ", flush=True)
    return rows


def timings(shape: Shape, rounds: int, wanted: slice) -> dict[str, dict[str, str]]:
    """Milliseconds of every fit on a synthetic batch, and relative to the library's."""
    problem, key, calls = problems.make_problem(shape), jax.random.key(0), {}
    for label, fit in list(candidates(EPOCHS).items())[wanted]:
        run = partial(fit.run, key, problem.critic.apply)
        state = fit.init(problem.value_params)
        calls[label] = compiled(run, problem.value_params, state, problem.batch)
    least = best(interleaved(calls, rounds))
    reference = next(iter(least.values()))
    cells = {name: f"{1e3 * ms:.1f} ({ms / reference:.2f})" for name, ms in least.items()}
    print(shape, cells, flush=True)
    return {str(shape): cells}


def write(out: Path) -> None:
    """The report from all rows so far."""
    stored = {"quality": {}, "time": {}} | report.kept(out)
    shapes = list(stored["time"])
    times = [
        [label, *(stored["time"][shape].get(label, "") for shape in shapes)]
        for label in candidates(EPOCHS)
    ]
    starts = "; ".join(
        f"{name}: {start.steps:,} steps, {start.epochs} epochs, {start.rate:g}"
        for name, start in ENVIRONMENTS.items()
    )
    conclusion = out.with_name("value_fit_outcome.md")
    report.write(
        out,
        "Could the critic be fitted faster?",
        EXPECTED.replace("\n", " "),
        "## Quality",
        "Presets with another fit, early in their training; medians of the explained variance over "
        "seeds and the updates from a tenth to half of it; returns of training episodes, "
        "stochastic policy, over all of it and at its end. Epochs and step size: those of the "
        f"list, times what the name says. {starts}.",
        report.table(QUALITY_HEADER, list(stored["quality"].values())),
        f"## Time, ms (relative), {EPOCHS} epochs",
        report.table(("fit", *shapes), times),
        *([conclusion.read_text(encoding="utf-8").strip()] if conclusion.exists() else []),
    )


def main() -> None:
    parser = report.parser(__doc__, "value_fit.md")
    parser.add_argument("what", choices=("quality", "time"))
    parser.add_argument(
        "names", nargs="*", metavar="ENV", help=f"quality: {', '.join(ENVIRONMENTS)}"
    )
    parser.add_argument("--num-seeds", type=int, default=8)
    parser.add_argument("--fits", type=int, nargs=2, default=(0, 11), help="first, end")
    arguments = parser.parse_args()
    wanted, quick = slice(*arguments.fits), arguments.quick
    if unknown := set(arguments.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(ENVIRONMENTS)}")
    if arguments.what == "time":
        for shape in (TINY,) if quick else SHAPES:
            found = timings(shape, 2 if quick else 12, wanted)
            report.keep(arguments.out, {"time": found}, depth=2)
    for name in (arguments.names or ENVIRONMENTS) if arguments.what == "quality" else ():
        found = quality(name, arguments.num_seeds, wanted, quick)
        report.keep(arguments.out, {"quality": found}, depth=2)
    write(arguments.out)


if __name__ == "__main__":
    main()
