"""What each command takes: one field per option; its docstring is the help text."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trpo_jax.cli.parsing import TotalSteps
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.specification import RunOptions
from trpo_jax.presets import DEFAULT

_DEFAULT_OPTIONS = RunOptions()


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a TRPO policy. Settings default to values tuned for the environment, if it has any."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = ""
    """Environment id, such as CartPole-v1, gymnax/Pendulum-v1 or brax/hopper; or
    package.module:function, which makes an environment of your own."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    hparams: tyro.conf.OmitArgPrefixes[HParams] = DEFAULT.hparams
    out: Path | None = None
    """Run directory, new or empty. By default runs/ENV-DATE-TIME."""
    resume: Path | None = None
    """Go on with the run in this directory, bit for bit, with the settings that it has; with a
    larger --total-steps also when it was finished."""
    seed: int = 0
    """Seed of the run."""
    num_seeds: int = 1
    """Train this many seeds, from --seed on, side by side in one program."""
    total_steps: TotalSteps = DEFAULT.total_steps
    """Environment steps per seed, rounded up to whole updates."""
    output: tyro.conf.OmitArgPrefixes[RunOptions] = _DEFAULT_OPTIONS
    distributed: bool = False
    """Train together with other processes that were started with the same command, on the devices
    of all of them. Under SLURM and Open MPI they find each other."""
    coordinator: str | None = None
    """With --distributed: HOST:PORT at which the first process can be reached."""
    num_processes: int | None = None
    """With --distributed: processes in all."""
    process_id: int | None = None
    """With --distributed: which of them this is, from 0 on."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment as NAME=VALUE, such as backend=spring episode_length=500."""


Swept = dataclasses.make_dataclass(
    "Swept",
    [
        (
            name,
            Annotated[
                tuple[float, ...],
                tyro.conf.arg(help=f"Values of {name}, or its two bounds with --random."),
            ],
            (),
        )
        for name in vars(HParams())
    ],
    frozen=True,
)
"""Values of hyperparameters: one field for each of `HParams`."""

_NOTHING_SWEPT = Swept()


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Train every combination of some hyperparameters' values, each with several seeds, as one
    program; for example --max-kl 0.003 0.01 0.03 --gae-lambda 0.9 0.95 --seeds 8. The best of them
    becomes a run of its own, in the directory `best` of the sweep."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = ""
    """Environment id."""
    swept: tyro.conf.OmitArgPrefixes[Swept] = _NOTHING_SWEPT  # type: ignore[valid-type]
    """Values of hyperparameters. Their product is tried."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    seeds: int = 4
    """Seeds of each setting."""
    static: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE,VALUE")] = ()
    """Values of settings that fix shapes, such as num_envs=8,16 hidden_sizes=32x32,64x64
    activation=tanh,relu. Each of their combinations is a program of its own, one after the other,
    in which all hyperparameters and seeds are trained."""
    seed: int = 0
    """The first seed."""
    random: int | None = None
    """Draw so many settings at random, between the two values given for each hyperparameter;
    max_kl, damping, tolerance, entropy and learning rate on a logarithmic scale."""
    halving: tuple[float, ...] = ()
    """Shares of the training after which the worse half of the settings is dropped, in each program
    of its own."""
    max_parallel: int | None = None
    """Trainings side by side at most. By default as many as fit into memory, and eight on a CPU."""
    devices: int = 1
    """Devices that the trainings are spread over."""
    total_steps: TotalSteps = DEFAULT.total_steps
    """Environment steps of each training, rounded up to whole updates."""
    eval_episodes: int = 64
    """Episodes of the evaluation at the end, per training."""
    out: Path | None = None
    """Directory of the sweep, new or empty. By default runs/sweep-ENV-DATE-TIME."""
    resume: Path | None = None
    """Go on with the sweep in this directory."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment as NAME=VALUE."""


RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes with the policy of a run; every run gets the same initial states."""

    run: RunPath
    """Run directory."""
    episodes: int = 256
    """Episodes per seed of the run."""
    stochastic: bool = False
    """Draw the actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    best: bool = False
    """RUN is a sweep: evaluate its best training."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draw the pictures of one run, or of several in one picture each."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directories."""
    out: Path | None = None
    """Directory of the pictures. By default that of the first run."""
    formats: tuple[Literal["png", "svg", "pdf"], ...] = ("png", "svg")
    """File formats."""


@dataclasses.dataclass(frozen=True)
class RenderArguments:
    """Play one episode with the policy of a run, and write it as something to watch.

    HTML for brax, a GIF for gymnax environments that have a visualiser (those of classic control
    need pygame: pip install 'trpo-jax[render]'), else a plot of observations, actions and rewards.
    """

    run: RunPath
    """Run directory."""
    out: Path | None = None
    """File to write, without suffix. By default RUN/episode."""
    seed: int | None = None
    """Which of the run's seeds. By default the first."""
    episode: int = 0
    """Number of the episode: another number, another initial state."""
    stochastic: bool = False
    """Draw the actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    max_frames: int = 200
    """Frames of a GIF; longer episodes leave some out, evenly."""


@dataclasses.dataclass(frozen=True)
class DoctorArguments:
    """Say what went wrong in a run, on which numbers that rests, and what to change.

    The exit code is 1 if something severe was found, and 0 otherwise.
    """

    run: RunPath
    """Run directory."""
    dump: Path | None = None
    """Write advantages.npy, vf_loss.npy and the batch of an update to this directory."""
    update: int | None = None
    """The update to dump. By default that of the main finding, else the last."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class RunsArguments:
    """List the runs below a directory: environment, steps, last return, status."""

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Directory to search."""


@dataclasses.dataclass(frozen=True)
class EnvsArguments:
    """List the environments that can be trained; those with tuned settings are marked."""
