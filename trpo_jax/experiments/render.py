"""An episode to watch: HTML for brax, a GIF if the suite can draw, else a plot."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trpo_jax.envs.base import Environment
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.envs.wrappers import innermost, innermost_state
from trpo_jax.experiments import gymnax_pictures, mujoco_pictures
from trpo_jax.experiments.episode_plot import write_plot
from trpo_jax.experiments.episodes import Episode, play, play_on_host
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState

_MILLISECONDS = 50
"""How long a picture of a GIF is shown."""


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
        return write_plot(env, episode, _with_suffix(stem, ".png"))
    except OSError as error:
        raise ValueError(f"out={stem} cannot be written: {error.strerror}") from None


def _with_suffix(stem: Path, suffix: str) -> Path:
    """The file `stem` plus suffix; a picture's suffix in `stem` is replaced, other dots stay."""
    name = stem.stem if stem.suffix in (".html", ".gif", ".png") else stem.name
    return stem.with_name(name + suffix)


def _is_a(env: Environment, module: str, name: str) -> bool:
    """Whether an environment belongs to an adapter, without importing the adapter."""
    loaded = sys.modules.get(f"trpo_jax.envs.{module}")
    return loaded is not None and isinstance(env, getattr(loaded, name))


def _has_a_body(env: Any) -> bool:
    """Whether there is a body to draw: brax's `fast` is only a number."""
    return hasattr(env.unwrapped, "sys") and env.unwrapped.sys.ngeom > 0


def _write_html(env: Any, episode: Episode, file: Path) -> Path:
    from brax.io import html

    bodies = [episode.state(t).pipeline_state for t in range(episode.length + 1)]
    system = env.unwrapped.sys.tree_replace({"opt.timestep": env.unwrapped.dt})
    file.write_text(html.render(system, bodies), encoding="utf-8")
    return file


Draw = Callable[[Any, Episode, Iterator[int]], Iterator[Any]]
"""(environment, episode, chosen steps) -> pictures."""


def _drawing_of(env: Any) -> Draw | None:
    """The function that draws an environment, or None."""
    if _is_a(env, "playground", "PlaygroundEnvironment"):
        return mujoco_pictures.of_playground
    if _is_a(env, "gymnax", "GymnaxEnvironment") and gymnax_pictures.has_visualizer(env.name):
        return gymnax_pictures.of_gymnax
    return None


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
            return write_plot(env, episode, _with_suffix(stem, ".png"))
        pictures = _pictures_on_host(drawn, seeds, episode, progress(episode.evenly(max_frames)))
        return _write_gif(pictures, _with_suffix(stem, ".gif"))
    except OSError as error:
        raise ValueError(f"out={stem} cannot be written: {error.strerror}") from None


def _pictures_on_host(
    env: HostEnvironment, seeds: np.ndarray, episode: Episode, steps: Iterator[int]
) -> Iterator[Any]:
    """The same episode again, drawn before the chosen steps."""
    from PIL import Image

    gymnax_pictures.draw_without_display()
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
            yield mujoco_pictures.captioned(
                Image.fromarray(simulators.picture(0)), episode.caption(t)
            )


def _write_gif(pictures: Iterator[Any], file: Path) -> Path:
    first, *rest = list(pictures)
    first.save(file, save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0)
    return file
