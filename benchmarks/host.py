"""Environments that step on the host: what the agent adds to their own time, and a peer beside it.

python benchmarks/host.py rollout     a rollout beside the environments alone
python benchmarks/host.py learning    the learning part of an update beside one on traced data
python benchmarks/host.py training    whole training beside sb3-contrib, at its own defaults
python benchmarks/host.py curves      Hopper, Walker2d, HalfCheetah: 3 seeds of 300,000 steps

`training` needs the peer (python benchmarks/peers/install.py sb3). Each adds to the report.
"""

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from timing import interleaved

import trpo_jax
from trpo_jax.experiments.loggers import to_columns

sys.path.insert(0, str(Path(__file__).parent / "peers"))

CONFIG = trpo_jax.TRPOConfig(num_envs=8, num_steps=256, normalize_observations=True)
GOALS = {"envpool/Hopper-v5": 1.25, "gymnasium/Hopper-v5": 1.15}
PARTS = {
    "rollout": "Rollout",
    "learning": "Learning part of an update",
    "training": "Whole training",
    "curves": "Learning curves",
}
TASKS = ("Hopper", "Walker2d", "HalfCheetah")
SB3_DEFAULTS = {
    "num_envs": 8,
    "num_steps": 2048,
    "cg_iterations": 15,
    "epochs": 10,
    "minibatch": 128,
}


def rollout(rounds: int) -> str:
    """Transitions per second of a rollout and of the suite's own loop, in turn.

    The policy is untrained in both, so episodes are short and restarts frequent.
    """
    rows = []
    for env_id, goal in GOALS.items():
        agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), CONFIG)
        state = agent.init(jax.random.key(0))
        _, trajectory = agent.rollout(state)
        actions = np.asarray(
            agent.parts.env.action_space.from_policy(trajectory.action, CONFIG.action_bounds)
        )
        run = _Advancing(agent.rollout, agent.init(jax.random.key(0)))
        alone = _Alone(env_id, actions)
        times = interleaved({"agent": run, "alone": alone}, rounds)
        rates = {
            "alone": alone.transitions() / times["alone"],
            "agent": CONFIG.batch_size / times["agent"],
        }
        ratio = statistics.median(rates["alone"] / rates["agent"])
        rows.append([
            env_id, f"{np.median(rates['alone']):,.0f}", f"{np.median(rates['agent']):,.0f}",
            f"{ratio:.2f}", f"≤ {goal}",
        ])  # fmt: skip
    header = ["environment", "alone, steps/s", "rollout, steps/s", "ratio (median)", "goal"]
    return (
        "8 environments, 256 steps, an untrained policy; steps are transitions.\n\n"
        + report.table(header, rows)
    )


class _Advancing:
    """Calls a function state -> (state, …) again and again, each time with the newest state."""

    def __init__(self, function: Callable[[Any], Any], state: Any):
        self._function, self._state = function, state

    def __call__(self) -> Any:
        self._state, *rest = self._function(self._state)
        return rest


class _Alone:
    """A loop over the suite's own vector environment; it counts the transitions it makes.

    The suites reset in the step after an episode's end; that row is no transition.
    """

    def __init__(self, env_id: str, actions: np.ndarray):
        suite, _, name = env_id.partition("/")
        if suite == "envpool":
            import envpool

            self._vector = envpool.make(name, env_type="gymnasium", num_envs=CONFIG.num_envs)
            actions = actions.astype(np.float64)
        else:
            import gymnasium

            self._vector = gymnasium.make_vec(name, CONFIG.num_envs, vectorization_mode="sync")
        self._actions, self._calls, self._transitions = actions, 0, 0
        self._vector.reset()
        self._ended = np.zeros(CONFIG.num_envs, bool)

    def __call__(self) -> None:
        self._calls += 1
        for action in self._actions:
            _, _, terminated, truncated, _ = self._vector.step(action)
            self._transitions += CONFIG.num_envs - self._ended.sum()
            self._ended = terminated | truncated

    def transitions(self) -> float:
        """Transitions per call, on average."""
        return self._transitions / self._calls


class _Silent(trpo_jax.Environment):
    """A traced environment with the spaces of Hopper."""

    name, obs_shape, max_episode_steps = "silent", (11,), 1000
    action_space = trpo_jax.Box(-1.0, 1.0, (3,))

    def reset(self, key):
        """Start an episode."""
        return jnp.int32(0), jax.random.normal(key, (11,))

    def step(self, key, state, action):
        """Noise."""
        obs = jax.random.normal(key, (11,))
        return state + 1, trpo_jax.EnvStep(obs, jnp.sum(action), state < 0, state >= 1000)


def learning(rounds: int) -> str:
    """Seconds of everything after the rollout, and of `learn` on traced data of the same shape."""
    host = trpo_jax.make_trpo(trpo_jax.make_env("envpool/Hopper-v5"), CONFIG)
    inside = host.update.__self__  # the agent, whose update is a rollout and one program
    state = host.init(jax.random.key(0))
    state, _ = host.update(state)
    end, record, start = inside._rollouts.rollout(state)
    hparams = trpo_jax.HParams().as_arrays()
    traced = trpo_jax.make_trpo(_Silent(), CONFIG)
    other, trajectory = traced.rollout(traced.init(jax.random.key(0)))
    calls = {
        "host": lambda: inside._update(start, end, record, hparams),
        "traced": functools.partial(traced.learn, other, trajectory),
    }
    times = interleaved(calls, rounds)
    ratio = statistics.median(times["host"] / times["traced"])
    host_ms, traced_ms = (f"{np.median(times[name]) * 1e3:.1f}" for name in calls)
    row = ["8 × 256 × (11, 3)", host_ms, traced_ms, f"{ratio:.2f}", "≤ 1.1"]
    header = ["batch", "host, ms", "traced, ms", "ratio (median)", "goal"]
    return report.table(header, [row])


def training(seconds: float) -> str:
    """Steps per second of whole training, in turn with sb3-contrib; one process each."""
    import client
    import studies
    from protocol import Settings
    from turns import Pace

    names = {"sb3@1": "Hopper-v5", "trpo_jax": "envpool/Hopper-v5"}  # one thread: its fastest
    again = "gymnasium/Hopper-v5"
    with client.Pool(client.DEFAULT_VENVS) as pool:
        peers = pool.get(list(names))
        if len(peers) < 2:
            sys.exit("training: the peer is missing; python benchmarks/peers/install.py sb3")
        calls, size = {}, 0
        for peer in peers:
            for env_id in (names[peer.name], again)[: 2 if peer.name == "trpo_jax" else 1]:
                settings = Settings(env_id, **SB3_DEFAULTS)
                size, run = settings.batch_size, {"run": env_id, "num_updates": 1}
                peer.ask("prepare", **run, settings=settings.as_json(), seed=0)
                peer.ask("updates", **run)
                calls[peer.name, env_id] = functools.partial(
                    peer.time, "updates", at_least=0.1, **run
                )
        found = studies.interleave(calls, Pace(seconds, 5, 0.1))
    base = found["sb3@1", names["sb3@1"]]["seconds"]
    rows = [
        [client.title(name), env_id, f"{size / each['seconds']:,.0f}",
         f"{base / each['seconds']:.1f}"]
        for (name, env_id), each in found.items()
    ]  # fmt: skip
    return (
        "Hopper-v5, 8 environments × 2,048 steps and what else sb3-contrib's "
        "TRPO does by default; goal: at least 6× its steps/s.\n\n"
        + report.table(["library", "environment", "steps/s", "relative to sb3-contrib"], rows)
    )


def curves(total_steps: int, picture: Path) -> str:
    """Returns over steps of three seeds per task, in EnvPool; the settings of `CONFIG`."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(TASKS), figsize=(12, 3.5))
    rows = []
    for task, axis in zip(TASKS, axes, strict=True):
        agent = trpo_jax.make_trpo(trpo_jax.make_env(f"envpool/{task}-v4"), CONFIG)
        state = agent.init(jax.random.split(jax.random.key(0), 3))
        number = max(1, total_steps // CONFIG.batch_size)
        state, history = agent.train(state, trpo_jax.HParams(), num_updates=number)
        returns = np.asarray(agent.evaluate(state, jax.random.key(1), num_episodes=20).returns)
        steps = np.arange(1, number + 1) * CONFIG.batch_size
        axis.plot(steps / 1000, to_columns(history)["episode_return"].T)
        axis.set(title=f"{task}-v4", xlabel="thousand steps", ylabel="mean episode return")
        means = returns.mean(axis=1)
        rows.append([
            f"envpool/{task}-v4", f"{steps[-1]:,}", f"{means.mean():.0f}",
            ", ".join(f"{x:.0f}" for x in means), f"{np.mean(history.accepted):.0%}",
        ])  # fmt: skip
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    header = ["environment", "steps", "mean return (20 episodes)", "by seed", "accepted"]
    text = "three seeds side by side, the library's default settings with normalised observations"
    return (
        f"{text.capitalize()}.\n\n{report.table(header, rows)}\n\n"
        f"![Returns over steps]({picture.name})"
    )


def main() -> None:
    parser = report.parser(__doc__, "host.md", PARTS)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--total-steps", type=int, default=300_000)
    arguments = parser.parse_args()
    quick = arguments.quick
    rounds = 2 if quick else arguments.rounds
    out: Path = arguments.out
    text = {
        "rollout": lambda: rollout(rounds),
        "learning": lambda: learning(rounds),
        "training": lambda: training(1.0 if quick else arguments.seconds),
        "curves": lambda: curves(4096 if quick else arguments.total_steps, out.with_suffix(".png")),
    }[arguments.part]()
    title = "Environments that step on the host"
    report.write_part(out, title, PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
