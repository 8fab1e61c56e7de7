"""An episode to watch: HTML for brax, a GIF if the suite can draw, else a plot."""

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
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.envs.wrappers import innermost, innermost_state
from trpo_jax.experiments import mujoco_pictures
from trpo_jax.experiments.mujoco_pictures import captioned
from trpo_jax.experiments.plots import COLORS
from trpo_jax.learner.agent import act_and_remember
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS
from trpo_jax.learner.host_rollout import draw_seeds, naming
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
_MILLISECONDS = 50
"""How long a picture of a GIF is shown."""


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
    if isinstance(env, HostEnvironment):
        return _render_on_host(env, agent, state, stem, key, deterministic, max_frames, progress)
    episode = play(env, agent, state, key, deterministic)
    episode = episode._replace(states=innermost_state(env, episode.states))
    env = innermost(env)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        if _is_a(env, "brax", "BraxEnvironment") and _has_a_body(env):
            return _write_html(env, episode, _with_suffix(stem, ".html"))
        draw = _drawing_of(env)
        if draw is not None:
            steps = progress(episode.evenly(max_frames))
            return _write_gif(draw(env, episode, steps), _with_suffix(stem, ".gif"))
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
        def advance(carried: tuple[Any, jax.Array, Any], key: jax.Array) -> Any:
            env_state, obs, carry = carried
            action_key, step_key = jax.random.split(key)
            action, carry = act_and_remember(agent, state, action_key, obs, deterministic, carry)
            env_state, step = step_batch(env, step_key[None], env_state, action)
            ends = jnp.concatenate([step.terminated, step.truncated])
            row = env_state, _vector(obs), action[0], step.reward[0], ends
            return (env_state, step.obs, carry), row

        start = *reset_batch(env, reset_key[None]), agent.initial_carry(1)
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


Draw = Callable[[Any, Episode, Iterator[int]], Iterator[Any]]
"""(environment, episode, chosen steps) -> pictures."""


def _drawing_of(env: Any) -> Draw | None:
    """The function that draws an environment, or None."""
    if _is_a(env, "playground", "PlaygroundEnvironment"):
        return mujoco_pictures.of_playground
    if not _has_visualizer(env):
        return None
    return _draw_classic_control if env.name in _CLASSIC_CONTROL else _draw_by_visualizer


def _render_on_host(
    env: HostEnvironment,
    agent: Agent,
    state: TrainState,
    stem: Path,
    key: jax.Array,
    deterministic: bool,
    max_frames: int,
    progress: Callable[[list[int]], Iterator[int]],
) -> Path:
    """An episode is played twice, the second time with pictures: they would take much memory."""
    seeds, episode = play_on_host(env, agent, state, key, deterministic)
    drawn = env.drawn()
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        if drawn is None:
            return _write_plot(env, episode, _with_suffix(stem, ".png"))
        pictures = _pictures_on_host(drawn, seeds, episode, progress(episode.evenly(max_frames)))
        return _write_gif(pictures, _with_suffix(stem, ".gif"))
    except OSError as error:
        raise ValueError(f"out={stem} cannot be written: {error.strerror}") from None


def play_on_host(
    env: HostEnvironment,
    agent: Agent,
    state: TrainState,
    key: jax.Array,
    deterministic: bool = True,
) -> tuple[np.ndarray, Episode]:
    """The seed [1] and an episode from it, as `play` gives it; it has no states."""
    limit = env.max_episode_steps or DEFAULT_MAX_STEPS
    seed_key, loop_key = jax.random.split(key)
    seeds = np.asarray(draw_seeds(seed_key, 1)).astype(np.int64)
    rows, ending = [], "cut"
    with naming(env, "render"), contextlib.closing(env.simulators(seeds)) as simulators:
        obs, carry = simulators.reset(), agent.initial_carry(1)
        for step_key in jax.random.split(loop_key, limit):
            seen = np.asarray(_vector(obs))
            chosen, carry = act_and_remember(agent, state, step_key, obs, deterministic, carry)
            action = np.asarray(chosen)
            step = simulators.step(action)
            rows.append((seen, action[0], float(step.reward[0])))
            obs = step.obs
            if step.terminated[0] or step.truncated[0]:
                ending = "terminated" if step.terminated[0] else "truncated"
                break
    seen, actions, rewards = map(np.asarray, zip(*rows, strict=True))
    return seeds, Episode(None, seen, actions, rewards, ending)


def _pictures_on_host(
    env: HostEnvironment, seeds: np.ndarray, episode: Episode, steps: Iterator[int]
) -> Iterator[Any]:
    """The same episode again, drawn before the chosen steps."""
    from PIL import Image

    _draw_without_display()
    with (
        mujoco_pictures.explaining_what_is_missing(),
        contextlib.closing(env.simulators(seeds)) as simulators,
    ):
        simulators.reset()
        taken = 0
        for t in steps:
            while taken < t:
                simulators.step(episode.action[taken][None])
                taken += 1
            yield captioned(Image.fromarray(simulators.picture(0)), episode.caption(t))


def _draw_without_display() -> None:
    """For pygame."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def _write_gif(pictures: Iterator[Any], file: Path) -> Path:
    first, *rest = list(pictures)
    first.save(file, save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0)
    return file


def _draw_classic_control(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Frames from gymnasium. gymnax's own loop makes a new environment for each frame."""
    _draw_without_display()
    import gymnasium
    from gymnax.visualize import vis_gym
    from PIL import Image

    with contextlib.closing(gymnasium.make(env.name, render_mode="rgb_array")) as drawn:
        drawn.reset()
        inner: Any = drawn.unwrapped
        vis_gym.set_gym_params(inner, env.name, env.params)
        for t in steps:
            state = _at(episode.states, t)
            inner.state = vis_gym.get_gym_state(state, env.name)
            inner.last_u = getattr(state, "last_u", None)
            yield captioned(Image.fromarray(np.asarray(drawn.render())), episode.caption(t))


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
