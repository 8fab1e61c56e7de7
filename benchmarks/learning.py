"""Does it learn? Every preset over ten seeds, evaluated deterministically.

python benchmarks/learning.py                     all of them
python benchmarks/learning.py CartPole-v1 hopper  some of them; the others keep their rows
"""

import datetime

import jax
import numpy as np
import report

import trpo_jax
from trpo_jax.presets import get_preset

# id: (keywords, threshold on the mean of all seeds or None, RL-Zoo's tuned TRPO and its steps)
TARGETS = {
    "CartPole-v1": ({}, 475.0, "500 (100 k)"),
    "Acrobot-v1": ({}, -90.0, "−83.1 (100 k)"),
    "Pendulum-v1": ({}, -200.0, "−174.6 (100 k)"),
    "MountainCar-v0": ({}, None, "−107.3 (100 k)"),
    "MountainCarContinuous-v0": ({}, 90.0, "92.5 (50 k)"),
    "Catch-bsuite": ({}, 1.0, ""),
    "Breakout-MinAtar": ({}, None, ""),
    "Asterix-MinAtar": ({}, None, ""),
    "inverted_pendulum": ({"backend": "spring"}, 950.0, ""),
    "reacher": ({"backend": "spring"}, None, ""),
    "hopper": ({"backend": "spring"}, None, ""),
    "playground/CartpoleBalance": ({}, 900.0, ""),
    "jumanji/Snake-v1": ({}, None, ""),
    "craftax/Craftax-Symbolic-v1": ({}, None, ""),
}
HEADER = (
    "environment", "seeds", "episodes", "steps", "first return", "mean", "worst seed", "all seeds",
    "target", "RL-Zoo TRPO (steps)", "random policy", "accepted", "date",
)  # fmt: skip


def study(name: str, num_seeds: int, num_episodes: int, total_steps: int | None) -> list[str]:
    """Train one preset over seeds in one program; returns the row of the table."""
    keywords, threshold, zoo = TARGETS[name]
    preset = get_preset(name)
    agent = trpo_jax.make_trpo(trpo_jax.make_env(name, **keywords), preset.config)
    num_updates = max(1, (total_steps or preset.total_steps) // preset.config.batch_size)

    def play(state, key, deterministic):
        return agent.evaluate(state, key, num_episodes, deterministic=deterministic).returns

    keys = jax.random.split(jax.random.key(10_000), num_seeds)
    state = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), num_seeds))
    untrained = jax.vmap(lambda s, k: play(s, k, False))(state, keys)
    train = jax.jit(jax.vmap(lambda s: agent.train(s, preset.hparams, num_updates=num_updates)))
    state, history = train(state)
    returns = np.asarray(jax.jit(jax.vmap(lambda s, k: play(s, k, True)))(state, keys)).mean(axis=1)

    first = np.asarray(history.episode_return[:, 0])
    reached = "" if threshold is None else f"{threshold:g}: {np.sum(returns >= threshold)} of"
    return [
        name + "".join(f", {key} {value}" for key, value in keywords.items()),
        str(num_seeds),
        str(num_episodes),
        f"{num_updates * preset.config.batch_size:,}",
        f"{first[np.isfinite(first)].mean() if np.isfinite(first).any() else np.nan:.2f}",
        f"{returns.mean():.2f}",
        f"{returns.min():.2f}",
        " ".join(f"{value:.4g}" for value in np.sort(returns)),
        reached and f"{reached} {num_seeds} seeds",
        zoo,
        f"{float(untrained.mean()):.2f}",
        f"{float(history.accepted.mean()):.2f}",
        datetime.date.today().isoformat(),
    ]


def main() -> None:
    parser = report.parser(__doc__, "learning.md")
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--num-episodes", type=int, default=64)
    parser.add_argument("--total-steps", type=int, help="instead of the preset's")
    arguments = parser.parse_args()
    size = arguments.num_seeds, arguments.num_episodes, arguments.total_steps
    for name in arguments.names or TARGETS:
        row = study(name, *(2, 2, 2048) if arguments.quick else size)
        print(dict(zip(HEADER, row, strict=True)), flush=True)
        rows = report.keep(arguments.out, {name: row})
    report.write(
        arguments.out,
        "It learns",
        "Presets of `trpo_jax/presets.py`, all seeds of a row vmapped in one program; evaluation "
        "is deterministic, over so many episodes per seed, after training. Reaching the target "
        "counts seeds whose mean return is at least it. Rows may come from several calls of the "
        "script, which differ in `--num-seeds`, `--num-episodes` and `--total-steps` as the "
        "columns say; the command above is the last one.",
        report.table(HEADER, [rows[name] for name in TARGETS if name in rows]),
    )


if __name__ == "__main__":
    main()
