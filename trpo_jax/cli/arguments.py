"""The options of each command: one field per option, whose docstring is its help text."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trpo_jax.cli.parsing import TotalSteps
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.specification import RunOptions
from trpo_jax.presets import DEFAULT

_DEFAULT_OPTIONS, _NO_GUARD = RunOptions(), Guard()

_UNSAID: Any = tyro.conf.arg(help_behavior_hint="")
"""The help does not print the default: the text says what happens without the option."""
EnvId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, _UNSAID]
OptionalWord = Annotated[str | None, _UNSAID]
OptionalNumber = Annotated[int | None, _UNSAID]


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
    env_args: Annotated[tuple[str, ...], _UNSAID] = ()
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
    halving: Annotated[tuple[float, ...], _UNSAID] = ()
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
    env_args: Annotated[tuple[str, ...], _UNSAID] = ()
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


RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes with the policy of a run; every run gets the same initial states."""

    run: RunPath
    """Run directory."""
    episodes: int = 256
    """Episodes per seed of the run."""
    stochastic: bool = False
    """Sample actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    best: bool = False
    """RUN is a sweep: evaluate its best training."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Play the same episodes with the policies of two runs, and say whether that of RUN_B is
    better, with a paired bootstrap interval of the difference B − A."""

    run_a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_A")]
    """Run directory of A."""
    run_b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_B")]
    """Run directory of B; may be the same, with another checkpoint."""
    episodes: int = 512
    """Episodes that each policy plays."""
    confidence: float = 0.95
    """Confidence of the interval, and so of the verdict."""
    checkpoint_a: str = "last"
    """Which state of A: last, best, or the number of updates of a checkpoint."""
    checkpoint_b: str = "last"
    """Which state of B."""
    seed_a: OptionalNumber = None
    """Which seed of A, if it has several. By default the first."""
    seed_b: OptionalNumber = None
    """Which seed of B."""
    stochastic: bool = False
    """Sample actions from the policies, as in training, instead of taking their modes."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draw the plots of one run, or of several runs together."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN", help_behavior_hint=""),
    ]
    """Run directories."""
    out: OptionalPath = None
    """Directory of the plots. By default that of the first run."""
    formats: tuple[Literal["png", "svg", "pdf"], ...] = ("png", "svg")
    """File formats."""


@dataclasses.dataclass(frozen=True)
class RenderArguments:
    """Play one episode with the policy of a run, and write it to a file to watch.

    HTML for brax; a GIF for gymnax environments with a visualiser (classic control needs pygame:
    pip install 'trpo-jax[render]'); otherwise a plot of observations, actions and rewards.
    """

    run: RunPath
    """Run directory."""
    out: OptionalPath = None
    """File to write, without suffix. By default RUN/episode."""
    seed: OptionalNumber = None
    """Which of the run's seeds. By default the first."""
    episode: int = 0
    """Number of the episode; each number has its own initial state."""
    stochastic: bool = False
    """Sample actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    max_frames: int = 200
    """Maximum number of frames of a GIF; longer episodes skip frames evenly."""


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Write the policy of a run to a file that runs without trpo_jax: from observations to actions,
    with normalisation and action bounds inside.

    onnx is for any ONNX runtime (needs pip install 'trpo-jax[export]'); numpy is an .npz file, and
    numpy_policy.py beside it, which runs it without JAX; stablehlo is for JAX on CPU, CUDA or TPU.
    """

    run: RunPath
    """Run directory."""
    to: Literal["onnx", "stablehlo", "numpy"] = "onnx"
    """Format of the file."""
    out: OptionalPath = None
    """File to write. By default RUN/policy, with the suffix of the format."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    seed: OptionalNumber = None
    """Which of the run's seeds. By default the first."""
    stochastic: bool = False
    """Sample actions from one more input, noise, instead of taking the policy's mode."""


@dataclasses.dataclass(frozen=True)
class ScoresArguments:
    """Aggregate the evaluations at the end of runs: interquartile means, probabilities of
    improvement, and a performance profile, each with a 95 % stratified bootstrap interval.

    scores.npz holds the scores as rliable takes them: by name, [seeds, environments].
    """

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME=]RUN", help_behavior_hint=""),
    ]
    """Run directories. Runs with the same NAME are one algorithm: more seeds, or other
    environments. By default each has the name of its directory."""
    normalize: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="ENV=LOW,HIGH", help_behavior_hint="")
    ] = ()
    """Returns that become the scores 0 and 1 in an environment, such as CartPole-v1=20,500."""
    out: Path = Path("scores")
    """Directory of the files."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class DoctorArguments:
    """Say what went wrong in a run, which numbers show it, and what to change.

    The exit code is 1 if something severe was found, and 0 otherwise.
    """

    run: RunPath
    """Run directory."""
    dump: OptionalPath = None
    """Write advantages.npy, vf_loss.npy and the batch of an update to this directory."""
    update: OptionalNumber = None
    """The update to dump. By default that of the main finding, or else the last."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class RunsArguments:
    """List the runs below a directory: environment, steps, last return, status."""

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Directory to search."""


@dataclasses.dataclass(frozen=True)
class CheckArguments:
    """Try an environment with random actions and say which promises it breaks, with the numbers.

    The exit code is 1 if it breaks any, and 0 otherwise.
    """

    env: EnvId = ""
    """Environment id, or package.module:function, as for train."""
    num_envs: int = 4
    """Environments that are played side by side."""
    num_steps: int = 1001
    """Most steps of each; what is slow takes fewer."""
    seed: int = 0
    """Seed of the actions and the episodes."""
    env_args: Annotated[tuple[str, ...], _UNSAID] = ()
    """Arguments of the environment as NAME=VALUE, such as backend=spring episode_length=500."""


@dataclasses.dataclass(frozen=True)
class EnvsArguments:
    """List the environments of all suites, one id a line; those with tuned settings are marked.

    Where something is missing, the line ends in the command that installs or fetches it.
    """

    word: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="WORD", help_behavior_hint="")
    ] = ""
    """List only ids that contain this, in any case, such as brax/ or hopper."""
