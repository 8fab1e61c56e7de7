"""The command line: the only place that parses arguments.

Exit codes: 0 done, 2 the caller's mistake (one line on stderr), 130 interrupted.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.presets import DEFAULT, get_preset, list_presets

_USAGE = """\
usage: trpo-jax COMMAND …

  train ENV   train a policy; `trpo-jax train ENV --help` shows all settings, with the defaults
              that are tuned for ENV
  envs        list the environments that can be trained
"""

Arguments = TypeVar("Arguments")


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a TRPO policy. Settings default to values tuned for the environment, if it has any."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """Environment id, such as CartPole-v1, gymnax/Pendulum-v1 or brax/hopper."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    hparams: tyro.conf.OmitArgPrefixes[HParams] = DEFAULT.hparams
    out: Path | None = None
    """Run directory, new or empty. By default runs/ENV-DATE-TIME."""
    seed: int = 0
    """Seed of the run."""
    num_seeds: int = 1
    """Train this many seeds, from --seed on, side by side in one program."""
    total_steps: int = DEFAULT.total_steps
    """Environment steps per seed, rounded up to whole updates."""
    eval_episodes: int = 128
    """Episodes of the evaluation at the end, per seed."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment as NAME=VALUE, such as backend=spring episode_length=500."""


@dataclasses.dataclass(frozen=True)
class EnvsArguments:
    """List the environments that can be trained; those with tuned settings are marked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except ValueError as error:
        print(f"trpo-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trpo-jax: interrupted", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(_COMMANDS)}"
        raise ValueError(f"unknown command {command!r}; {hint}")
    return _COMMANDS[command](rest)


def _train(argv: list[str]) -> int:
    preset = get_preset(next((word for word in argv if _has_preset(word)), ""))
    default = TrainArguments(
        env=tyro.MISSING,
        config=preset.config,
        hparams=preset.hparams,
        total_steps=preset.total_steps,
    )
    arguments = _parse(TrainArguments, argv, "trpo-jax train", default)
    for name in ("num_seeds", "total_steps", "eval_episodes"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name}={getattr(arguments, name)} must be a whole number >= 1")
    if not 0 <= arguments.seed < 2**31 - arguments.num_seeds:
        raise ValueError(f"seed={arguments.seed} must be a whole number in [0, 2³¹)")

    from trpo_jax.experiments import runner

    spec = runner.RunSpec(
        env_id=arguments.env,
        env_kwargs=_keywords(arguments.env_args),
        config=arguments.config,
        hparams=arguments.hparams,
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
        total_steps=arguments.total_steps,
        eval_episodes=arguments.eval_episodes,
    )
    agent = runner.make_agent(spec)
    directory = runner.create_run_directory(arguments.out, arguments.env)
    console = Console()
    summary = runner.train_run(spec, agent, directory, console)
    console.print(f"evaluation: return {summary}", highlight=False)
    console.print(f"run directory: {directory}", highlight=False, soft_wrap=True)
    return 0


def _envs(argv: list[str]) -> int:
    _parse(EnvsArguments, argv, "trpo-jax envs", EnvsArguments())
    from trpo_jax.envs import list_environments

    tuned = set(list_presets())
    for full_id in list_environments():
        mark = "  tuned" if full_id.rpartition("/")[2] in tuned else ""
        print(f"{full_id}{mark}")
    return 0


_COMMANDS = {"train": _train, "envs": _envs}


def _has_preset(word: str) -> bool:
    return get_preset(word) is not DEFAULT


def _parse(kind: type[Arguments], argv: list[str], prog: str, default: Arguments) -> Arguments:
    """Parse with tyro; a mistake becomes a `ValueError` of one line instead of a box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=argv, prog=prog, default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_one_line(errors.getvalue())) from None


def _one_line(box: str) -> str:
    """The message of tyro's error box, and the first of the options that it suggests."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[0])
    for section in sections[1:]:
        if section and section[0].startswith("Perhaps you meant") and len(section) > 1:
            message += f"; did you mean {section[1].split()[0]}?"
    return message


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that reads as a Python literal is one, anything else a string."""
    keywords = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"env_args={pair!r} is not of the form NAME=VALUE")
        try:
            keywords[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            keywords[name] = text
    return keywords
