"""Could the critic be fitted faster? Quality and time of the library's fit and of its rivals.

python benchmarks/value_fit.py quality [ENV …]   trains with every fit; minutes
python benchmarks/value_fit.py time              times every fit alone, in turns

Both keep their rows beside the report; it is written anew each time.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fits
import jax
import jax.numpy as jnp
import numpy as np
import report
import synthetic
from fits import Fit
from synthetic import Shape
from timing import best, interleaved

import trpo_jax
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.presets import Preset, get_preset


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


def explained_variance(value: jax.Array, target: jax.Array) -> jax.Array:
    """1 − Var(target − value) / Var(target)."""
    return 1 - jnp.var(target - value) / jnp.maximum(jnp.var(target), 1e-8)


def make_training(env, preset: Preset, fit: Fit, num_updates: int):
    """key -> (returns, explained variance before, after), [num_updates] each.

    The library's update with no epochs of its own fit, and `fit` in its place.
    """
    config, hparams = preset.config.replace(value_epochs=0), preset.hparams
    agent = trpo_jax.make_trpo(env, config)

    def update(carry, _):
        state, fit_state = carry
        moved, trajectory = agent.rollout(state)
        batch = prepare_batch(
            moved, trajectory, hparams, policy=agent.policy, critic=agent.critic, config=config
        ).batch
        learned, metrics = agent.learn(moved, trajectory, hparams)
        key = jax.random.fold_in(moved.key, 1)
        params, fit_state = fit.run(key, agent.critic.apply, state.value_params, fit_state, batch)
        own = explained_variance(agent.critic.apply(params, batch.obs), batch.value_target)
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
    for label, fit in list(fits.candidates(start.epochs, start.rate).items())[wanted]:
        train = jax.jit(jax.vmap(make_training(env, preset, fit, num_updates)))
        returns, ahead, own = (np.asarray(values) for values in train(keys))
        # The first tenth is the same noise for all; late in a training there is less to explain.
        later = slice(num_updates // 10, max(2, num_updates // 2))
        end = np.nanmean(returns[:, -max(1, num_updates // 10) :], axis=1)
        rows[f"{name}: {label}"] = [
            name, label, f"{np.median(ahead[:, later]):.3f}", f"{np.median(own[:, later]):.3f}",
            f"{np.nanmean(returns):.1f}", f"{end.mean():.1f} ({end.min():.1f})",
        ]  # fmt: skip
        print(*rows[f"{name}: {label}"], sep=" | ", flush=True)
    return rows


def timings(shape: Shape, rounds: int) -> dict[str, dict[str, str]]:
    """Milliseconds of every fit on a synthetic batch, and relative to the library's."""
    problem = synthetic.make_problem(shape)
    key = jax.random.key(0)
    calls: dict[str, Any] = {}
    for label, fit in fits.candidates(EPOCHS).items():
        run = jax.jit(lambda p, s, b, fit=fit: fit.run(key, problem.critic.apply, p, s, b))
        state = fit.init(problem.value_params)
        calls[label] = partial(run, problem.value_params, state, problem.batch)
    least = best(interleaved(calls, rounds))
    reference = next(iter(least.values()))
    cells = {name: f"{1e3 * ms:.1f} ({ms / reference:.2f})" for name, ms in least.items()}
    print(shape, cells, flush=True)
    return {str(shape): cells}


def keep(store: Path, kind: str, found: dict) -> dict:
    """Add to what is stored; read again, since another process may have added to it meanwhile."""
    stored = json.loads(store.read_text()) if store.exists() else {"quality": {}, "time": {}}
    stored[kind] |= found
    store.write_text(json.dumps(stored, indent=1) + "\n")
    return stored


def write(out: Path, stored: dict) -> None:
    """The report from all rows so far."""
    shapes = list(stored["time"])
    labels = list(fits.candidates(EPOCHS))
    times = [[label, *(stored["time"][shape].get(label, "") for shape in shapes)]
             for label in labels]  # fmt: skip
    conclusion = out.with_name("value_fit_outcome.md")
    report.write(
        out,
        "Could the critic be fitted faster?",
        EXPECTED.replace("\n", " "),
        "## Quality",
        "Presets with another fit, early in their training; medians of the explained variance over "
        "seeds and the updates from a tenth to half of it; returns of training episodes, "
        "stochastic policy, over all of it and at its end. Epochs and step size: those of the "
        "list, times what the name says. "
        + "; ".join(
            f"{name}: {start.steps:,} steps, {start.epochs} epochs, {start.rate:g}"
            for name, start in ENVIRONMENTS.items()
        )
        + ".",
        report.table(QUALITY_HEADER, list(stored["quality"].values())),
        f"## Time, ms (relative), {EPOCHS} epochs",
        report.table(("fit", *shapes), times),
        *([conclusion.read_text(encoding="utf-8").strip()] if conclusion.exists() else []),
    )
    print(f"written: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("quality", "time"))
    parser.add_argument(
        "names", nargs="*", metavar="ENV", help=f"quality: {', '.join(ENVIRONMENTS)}"
    )
    parser.add_argument("--num-seeds", type=int, default=8)
    parser.add_argument("--fits", type=int, nargs=2, default=(0, 11), help="quality: first, end")
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "value_fit.md")
    arguments = parser.parse_args()
    store = arguments.out.with_suffix(".json")
    store.parent.mkdir(parents=True, exist_ok=True)
    if unknown := set(arguments.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; use {', '.join(ENVIRONMENTS)}")
    if arguments.what == "time":
        for shape in (Shape(64, 3, 2, (8,)),) if arguments.quick else SHAPES:
            stored = keep(store, "time", timings(shape, 2 if arguments.quick else 12))
    for name in (arguments.names or ENVIRONMENTS) if arguments.what == "quality" else ():
        found = quality(name, arguments.num_seeds, slice(*arguments.fits), arguments.quick)
        stored = keep(store, "quality", found)
    write(arguments.out, stored)


if __name__ == "__main__":
    main()
