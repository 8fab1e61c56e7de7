"""The options of the commands that read: runs, environments, and what was trained."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trpo_jax.cli.arguments import UNSAID, EnvId, OptionalNumber, OptionalPath

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

    HTML for brax; a GIF for MuJoCo in Gymnasium and Playground (needs OpenGL) and for gymnax
    environments with a visualiser (classic control needs pygame: pip install 'trpo-jax[render]');
    otherwise a plot of observations, actions and rewards.
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
    env_args: Annotated[tuple[str, ...], UNSAID] = ()
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
