"""The options of the commands that train: a field per option, whose docstring is its help text."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from trpo_jax.cli.parsing import TotalSteps
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.specification import RunOptions
from trpo_jax.presets import DEFAULT

_DEFAULT_OPTIONS, _NO_GUARD = RunOptions(), Guard()

UNSAID: Any = tyro.conf.arg(help_behavior_hint="")
"""The help does not print the default: the text says what happens without the option."""
EnvId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, UNSAID]
OptionalWord = Annotated[str | None, UNSAID]
OptionalNumber = Annotated[int | None, UNSAID]


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a TRPO policy. The defaults are tuned for the environment, if it has a preset."""

    env: EnvId = ""
    """Environment id, such as CartPole-v1, gymnax/Pendulum-v1 or brax/hopper; or
    package.module:function, a function that makes your own environment."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    hparams: tyro.conf.OmitArgPrefixes[HParams] = DEFAULT.hparams
    out: OptionalPath = None
    """Run directory, new or empty. By default runs/ENV-DATE-TIME."""
    resume: OptionalPath = None
    """Continue the run in this directory, bit for bit, with its own settings. A larger
    --total-steps continues a finished run."""
    seed: int = 0
    """Seed of the run."""
    num_seeds: int = 1
    """Number of seeds, counted from --seed, to train in parallel in one program."""
    total_steps: TotalSteps = DEFAULT.total_steps
    """Environment steps per seed, rounded up to whole updates."""
    guard: float | None = None
    """Keep a policy in service, in RUN/best, and replace it only by one that tests show to be
    better, or worse by less than --guard-margin; with this probability no replacement is wrong."""
    guard_margin: float = _NO_GUARD.margin
    """By how much less return a policy may have and still replace the one in service."""
    guard_share: float = _NO_GUARD.share
    """Environment steps of the guard's tests, as a share of the training's."""
    guard_every: int | None = _NO_GUARD.every
    """Updates between tests of the guard. By default a tenth of the run."""
    output: tyro.conf.OmitArgPrefixes[RunOptions] = _DEFAULT_OPTIONS
    distributed: bool = False
    """Train on the devices of several processes, all started with this command. Under SLURM and
    Open MPI they find each other."""
    coordinator: OptionalWord = None
    """With --distributed: HOST:PORT at which the first process can be reached."""
    num_processes: OptionalNumber = None
    """With --distributed: total number of processes."""
    process_id: OptionalNumber = None
    """With --distributed: number of this process, counted from 0."""
    env_args: Annotated[tuple[str, ...], UNSAID] = ()
    """Arguments of the environment as NAME=VALUE, such as backend=spring episode_length=500."""


Swept = dataclasses.make_dataclass(
    "Swept",
    [
        (
            name,
            Annotated[
                tuple[float, ...],
                tyro.conf.arg(
                    help=f"Values of {name}; with --random, its two bounds.",
                    help_behavior_hint="",
                ),
            ],
            (),
        )
        for name in vars(HParams())
    ],
    frozen=True,
)
"""Values of hyperparameters: one field per field of `HParams`."""

_NOTHING_SWEPT = Swept()


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Train every combination of the given hyperparameter values, each with several seeds, in one
    program; for example --max-kl 0.003 0.01 0.03 --gae-lambda 0.9 0.95 --seeds 8. The best training
    becomes a run of its own, in the directory `best` of the sweep."""

    env: EnvId = ""
    """Environment id."""
    swept: tyro.conf.OmitArgPrefixes[Swept] = _NOTHING_SWEPT  # type: ignore[valid-type]
    """Values of hyperparameters. Every combination is tried."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    seeds: int = 4
    """Number of seeds per setting."""
    static: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE,VALUE", help_behavior_hint="")
    ] = ()
    """Values of settings that fix shapes, such as num_envs=8,16 hidden_sizes=32x32,64x64
    activation=tanh,relu. Each combination is a program of its own, in which all hyperparameters
    and seeds are trained; the programs run one after the other."""
    seed: int = 0
    """The first seed."""
    random: OptionalNumber = None
    """Number of random settings to draw, between the two values given for each hyperparameter;
    max_kl, damping, tolerance, entropy and learning rate on a logarithmic scale."""
    halving: Annotated[tuple[float, ...], UNSAID] = ()
    """Fractions of the training after which the worse half of the settings is dropped, separately
    in each program."""
    max_parallel: OptionalNumber = None
    """Most trainings to run in parallel. By default as many as fit in memory, or eight on a CPU."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N", help_behavior_hint="")] = ""
    """Train only every N-th setting from the I-th on, such as 3/16, so that N machines share a
    sweep; `trpo-jax merge` makes one sweep of them again."""
    devices: int = 1
    """Number of devices to spread the trainings over."""
    total_steps: TotalSteps = DEFAULT.total_steps
    """Environment steps of each training, rounded up to whole updates."""
    eval_episodes: int = 64
    """Episodes of the evaluation at the end, per training."""
    out: OptionalPath = None
    """Directory of the sweep, new or empty. By default runs/sweep-ENV-DATE-TIME."""
    resume: OptionalPath = None
    """Continue the sweep in this directory."""
    env_args: Annotated[tuple[str, ...], UNSAID] = ()
    """Arguments of the environment as NAME=VALUE."""


@dataclasses.dataclass(frozen=True)
class MergeArguments:
    """Make one sweep of its shards, which were trained with --shard 1/N to N/N. Nothing is trained
    again."""

    shards: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARD", help_behavior_hint=""),
    ]
    """Sweep directories of all shards, in any order."""
    out: OptionalPath = None
    """Directory of the sweep, new or empty. By default runs/sweep-ENV-DATE-TIME."""
