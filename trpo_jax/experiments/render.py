"""An episode to watch: HTML for brax, a GIF if gymnax has a visualiser, else a plot."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import Environment, reset_batch, step_batch
from trpo_jax.envs.transforms import innermost, innermost_state
from trpo_jax.experiments.plots import COLORS
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState
from trpo_jax.spaces import Box, policy_part

_CLASSIC_CONTROL = {
    "Acrobot-v1",
    "CartPole-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
}
"""gymnax draws these with gymnasium, which needs pygame."""
_OTHERS_WITH_VISUALIZER = {
    "Catch-bsuite",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Pong-misc",
    "PointRobot-misc",
    "MetaMaze-misc",
    "FourRooms-misc",
}
_MAX_DRAWN_DIMENSIONS = 12
_DOTTED_STEPS = 50


class Episode(NamedTuple):
    """One episode of T steps."""

    states: Any
    """States of the environment, [T + 1, ...]: the initial one and that after each step."""
    obs: np.ndarray
    """[T, numbers]: what the policy saw, one vector per step."""
    action: np.ndarray
    """[T, ...], in the form that the environment takes."""
    reward: np.ndarray
    """[T]."""
    ending: str
    """terminated, truncated, or cut."""

    @property
    def length(self) -> int:
        """Number of steps."""
        return len(self.reward)

    def caption(self, t: int) -> str:
        """The step and the return after t steps."""
        return f"step {t}, return {self.reward[:t].sum():.1f}"

    def evenly(self, max_frames: int) -> list[int]:
        """Evenly spaced indices of at most `max_frames` states, with the first and the last."""
        return np.linspace(0, self.length, min(self.length + 1, max_frames)).astype(int).tolist()


def render(
    env: Environment,
    agent: Agent,
    state: TrainState,
    stem: Path,
    *,
    key: jax.Array,
    deterministic: bool = True,
    max_frames: int = 200,
    progress: Callable[[list[int]], Iterator[int]] = iter,
) -> Path:
    """Play an episode and draw it to `stem` plus a suitable suffix; returns the file.

    GIFs have at most `max_frames` frames; longer episodes skip some, evenly. `progress` wraps the
    iteration over frames.
    """
    episode = play(env, agent, state, key, deterministic)
    episode = episode._replace(states=innermost_state(env, episode.states))
    env = innermost(env)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        if _is_a(env, "brax", "BraxEnvironment") and _has_a_body(env):
            return _write_html(env, episode, _with_suffix(stem, ".html"))
        if _has_visualizer(env):
            return _write_gif(env, episode, _with_suffix(stem, ".gif"), max_frames, progress)
        return _write_plot(env, episode, _with_suffix(stem, ".png"))
    except OSError as error:
        raise ValueError(f"out={stem} cannot be written: {error.strerror}") from None


def _with_suffix(stem: Path, suffix: str) -> Path:
    """The file `stem` plus suffix; a picture's suffix in `stem` is replaced, other dots stay."""
    name = stem.stem if stem.suffix in (".html", ".gif", ".png") else stem.name
    return stem.with_name(name + suffix)


def play(
    env: Environment, agent: Agent, state: TrainState, key: jax.Array, deterministic: bool = True
) -> Episode:
    """One episode from a fresh initial state, cut at the environment's limit or 1000 steps."""
    limit = env.max_episode_steps or DEFAULT_MAX_STEPS
    reset_key, loop_key = jax.random.split(key)

    @jax.jit
    def steps(state: TrainState) -> Any:
        def advance(carried: tuple[Any, jax.Array], key: jax.Array) -> Any:
            env_state, obs = carried
            action_key, step_key = jax.random.split(key)
            action = agent.act(state, action_key, obs, deterministic=deterministic)
            env_state, step = step_batch(env, step_key[None], env_state, action)
            ends = jnp.concatenate([step.terminated, step.truncated])
            return (env_state, step.obs), (env_state, _vector(obs), action[0], step.reward[0], ends)

        start = reset_batch(env, reset_key[None])
        _, (states, *rest) = jax.lax.scan(advance, start, jax.random.split(loop_key, limit))
        return jax.tree.map(_prepend, start[0], states), *rest

    states, obs, action, reward, ends = jax.device_get(steps(state))
    over = ends.any(axis=1)
    length = int(np.argmax(over)) + 1 if over.any() else limit
    ending = "cut"
    if over.any():
        ending = "terminated" if ends[length - 1, 0] else "truncated"
    states = jax.tree.map(lambda leaf: leaf[: length + 1], states)
    return Episode(states, obs[:length], action[:length], reward[:length], ending)


def _vector(obs: Any) -> jax.Array:
    """The policy's part of one environment's observation, as one vector."""
    leaves = jax.tree.leaves(policy_part(obs))
    return jnp.concatenate([leaf[0].ravel().astype(jnp.float32) for leaf in leaves])


def _prepend(first: jax.Array, later: jax.Array) -> jax.Array:
    """Concatenate [1, ...] and [T, 1, ...] to [T + 1, ...]."""
    return jnp.concatenate([first, later[:, 0]])


def _is_a(env: Environment, module: str, name: str) -> bool:
    """Whether an environment belongs to an adapter, without importing the adapter."""
    loaded = sys.modules.get(f"trpo_jax.envs.{module}")
    return loaded is not None and isinstance(env, getattr(loaded, name))


def _has_a_body(env: Any) -> bool:
    """Whether there is a body to draw: brax's `fast` is only a number."""
    return hasattr(env.unwrapped, "sys") and env.unwrapped.sys.ngeom > 0


def _has_visualizer(env: Any) -> bool:
    if not _is_a(env, "gymnax", "GymnaxEnvironment"):
        return False
    if env.name in _CLASSIC_CONTROL:
        return _can_import("pygame")
    return env.name in _OTHERS_WITH_VISUALIZER


def _can_import(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _write_html(env: Any, episode: Episode, file: Path) -> Path:
    from brax.io import html

    bodies = [_at(episode.states.pipeline_state, t) for t in range(episode.length + 1)]
    system = env.unwrapped.sys.tree_replace({"opt.timestep": env.unwrapped.dt})
    file.write_text(html.render(system, bodies), encoding="utf-8")
    return file


def _write_gif(
    env: Any,
    episode: Episode,
    file: Path,
    max_frames: int,
    progress: Callable[[list[int]], Iterator[int]],
) -> Path:
    classic = env.name in _CLASSIC_CONTROL
    draw = _draw_classic_control if classic else _draw_by_visualizer
    first, *rest = list(draw(env, episode, progress(episode.evenly(max_frames))))
    duration = 40 if classic else 100
    first.save(file, save_all=True, append_images=rest, duration=duration, loop=0)
    return file


def _draw_classic_control(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Frames from gymnasium. gymnax's own loop makes a new environment for each frame."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    import gymnasium
    from gymnax.visualize import vis_gym
    from PIL import Image, ImageDraw

    with contextlib.closing(gymnasium.make(env.name, render_mode="rgb_array")) as drawn:
        drawn.reset()
        inner: Any = drawn.unwrapped
        vis_gym.set_gym_params(inner, env.name, env.params)
        for t in steps:
            state = _at(episode.states, t)
            inner.state = vis_gym.get_gym_state(state, env.name)
            inner.last_u = getattr(state, "last_u", None)
            frame = Image.fromarray(np.asarray(drawn.render()))
            ImageDraw.Draw(frame).text((8, 8), episode.caption(t), fill="black", font_size=16)
            yield frame


def _draw_by_visualizer(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Frames from gymnax's visualiser."""
    import matplotlib.pyplot
    from gymnax.visualize import Visualizer
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    states = [_at(episode.states, t) for t in range(episode.length + 1)]
    visualizer = Visualizer(env.unwrapped, env.params, states)
    try:
        canvas = FigureCanvasAgg(visualizer.fig)
        visualizer.init()
        for t in steps:
            visualizer.update(t)
            visualizer.ax.set_title(f"{env.name}, {episode.caption(t)}")
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    finally:
        matplotlib.pyplot.close(visualizer.fig)


def _at(states: Any, t: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[t], states)


def _write_plot(env: Environment, episode: Episode, file: Path) -> Path:
    """Observations, actions and reward over time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 8), layout="constrained", dpi=110)
    obs_axes, action_axes, reward_axes = figure.subplots(3, 1, sharex=True)
    _draw_obs(obs_axes, episode.obs.reshape(episode.length, -1))
    drawstyle = "default" if isinstance(env.action_space, Box) else "steps-mid"
    _draw_curves(action_axes, episode.action.reshape(episode.length, -1), drawstyle)
    action_axes.set_ylabel("action")
    if not isinstance(env.action_space, Box):
        action_axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    rewards = np.stack([episode.reward, np.cumsum(episode.reward)], axis=1)
    _draw_curves(reward_axes, rewards, labels=("reward", "return so far"))
    reward_axes.set_xlim(-0.5, episode.length - 0.5)
    reward_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    reward_axes.set_ylabel("reward")
    reward_axes.set_xlabel("step")
    for ax in (obs_axes, action_axes, reward_axes):
        ax.grid(alpha=0.25)
    total = episode.reward.sum()
    figure.suptitle(
        f"{env.name}: return {total:.2f}, {episode.length} steps, {episode.ending}", fontsize=12
    )
    figure.savefig(file)
    return file


def _draw_curves(
    ax: Any, values: np.ndarray, drawstyle: str = "default", labels: Sequence[str] | None = None
) -> None:
    """Draw values [T, dimensions], one curve each; short curves also have a dot per step."""
    from cycler import cycler

    ax.set_prop_cycle(cycler(linestyle=("-", "--")) * cycler(color=COLORS))
    marker = "." if len(values) <= _DOTTED_STEPS else None
    lines = ax.plot(values, marker=marker, linewidth=1.2, drawstyle=drawstyle)
    if 1 < len(lines) <= _MAX_DRAWN_DIMENSIONS:
        title = None if labels else "dimension"
        names = labels or [str(i) for i in range(len(lines))]
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(lines, names, frameon=False, fontsize=8, title=title, **beside)


def _draw_obs(ax: Any, obs: np.ndarray) -> None:
    """Curves for a few dimensions, an image for many."""
    if obs.shape[1] <= _MAX_DRAWN_DIMENSIONS:
        _draw_curves(ax, obs)
        ax.set_ylabel("observation")
        return
    image = ax.imshow(obs.T, aspect="auto", interpolation="none", cmap="viridis")
    ax.figure.colorbar(image, ax=ax, label="observation")
    ax.set_ylabel("dimension of the observation")
