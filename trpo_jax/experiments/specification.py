"""The specification of a run or a sweep, and how it is stored."""

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from trpo_jax.common.checks import is_number, is_whole_number, require_whole_number
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.files import write_text
from trpo_jax.experiments.guard.settings import Guard, as_guard


class RunSpec(NamedTuple):
    """Everything that determines the numbers of a run."""

    env_id: str
    env_kwargs: dict[str, Any]
    config: TRPOConfig
    hparams: HParams
    seed: int
    num_seeds: int
    own: tuple[str, ...] = ()
    """Parts of the agent that no setting names: "env", "policy", "critic", "policy_step",
    "value_fit". They must be passed in again to continue the run."""
    continuous: bool | None = None
    """Whether actions are continuous, for the doctor. None: ask the environment."""
    guard: Guard | None = None
    """When a policy may replace the one in service. None: there is no policy in service."""

    @property
    def seeds(self) -> list[int]:
        """The seeds of the run; lane i of a vmapped run has seed `seed + i`."""
        return list(range(self.seed, self.seed + self.num_seeds))


class RunOptions(NamedTuple):
    """Options that do not affect the numbers of a run, except for the order of sums."""

    checkpoint_every: int | None = None
    """Updates between checkpoints. By default one about every ten seconds."""
    keep: int = 3
    """Number of newest checkpoints to keep; the best by evaluation is kept separately."""
    eval_every: int | None = None
    """Updates between evaluations; 0 for none. By default at most ten cheap evaluations."""
    eval_episodes: int = 128
    """Episodes of the evaluation at the end, per seed."""
    tensorboard: bool = True
    """Write TensorBoard events, in addition to metrics.jsonl."""
    wandb: str | None = None
    """Log to this Weights & Biases project."""
    devices: int | None = None
    """Number of devices to spread the environments over (with several seeds: the seeds). By default
    one, or with --distributed all devices of all processes."""
    target_return: float | None = None
    """Stop once the policy is shown to have a mean return above this."""


class SweepSpec(NamedTuple):
    """Everything that determines a sweep."""

    env_id: str
    env_kwargs: dict[str, Any]
    config: TRPOConfig
    hparams: HParams
    settings: list[dict[str, float]]
    """Settings of the hyperparameters; each is trained in every program."""
    static: dict[str, list[Any]]
    """Values per field of the configuration; one program per combination."""
    seed: int
    num_seeds: int
    total_steps: int
    halving: list[float]
    max_parallel: int | None
    eval_episodes: int
    shard: tuple[int, int] | None = None
    """(i, n): of `settings`, only every n-th from the i-th on is trained here; i counts from 1."""

    def own_numbers(self) -> range:
        """The numbers of the settings that are trained here: those of the shard, or all."""
        first, step = self.shard or (1, 1)
        return range(first - 1, len(self.settings), step)


Spec = TypeVar("Spec", RunSpec, SweepSpec)


def num_updates(config: TRPOConfig, total_steps: int) -> int:
    """Number of updates for some environment steps, rounded up."""
    return -(-total_steps // config.batch_size)


def require_seeds(seeds: Sequence[int]) -> None:
    """Raise `ValueError` unless each seed fits in the int32 of a random key."""
    for seed in seeds:
        require_whole_number("seed", seed, 0)
        if seed >= 2**31:
            raise ValueError(f"seed={seed} must be a whole number in [0, 2³¹)")


def require_options(seed: int, num_seeds: int, total_steps: int, options: RunOptions) -> None:
    """Raise `ValueError` unless a run can have these."""
    require_whole_number("total_steps", total_steps)
    require_whole_number("num_seeds", num_seeds)
    require_whole_number("seed", seed, 0)
    require_seeds((seed, seed + num_seeds - 1))
    for name, smallest in _WHOLE_NUMBERS.items():
        value = getattr(options, name)
        if value is not None or name not in _MAY_BE_NONE:
            require_whole_number(name, value, smallest)
    if not isinstance(options.tensorboard, bool):
        raise ValueError(f"tensorboard={options.tensorboard!r} must be True or False")
    target = options.target_return
    if target is not None and not (is_number(target) and math.isfinite(target)):
        raise ValueError(f"target_return={target!r} must be a number, or None")
    project = options.wandb
    if not isinstance(project, str | None):
        raise ValueError(f"wandb={project!r} must be the name of a project, or None")
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError(f"wandb={project} needs a package: pip install 'trpo-jax[wandb]'")


_WHOLE_NUMBERS = {
    "eval_episodes": 1, "keep": 1, "checkpoint_every": 1, "eval_every": 0, "devices": 1
}  # fmt: skip
"""Options that are whole numbers, with the smallest."""
_MAY_BE_NONE = ("checkpoint_every", "eval_every", "devices")


def plain_options(options: RunOptions) -> RunOptions:
    """The same with Python's numbers, which JSON can hold."""
    given: dict[str, Any] = options._asdict()
    given |= {name: int(value) for name, value in given.items() if is_whole_number(value)}
    target = given["target_return"]
    return RunOptions(**{**given, "target_return": None if target is None else float(target)})


def plain_hparams(hparams: HParams) -> HParams:
    """The same with Python's numbers, which JSON can hold; 0.01 for float32's 0.009999999776.

    Raises `ValueError` if one of them is several numbers.
    """
    given = vars(HParams(**vars(hparams)))
    return HParams(**{name: _plain_number(name, value) for name, value in given.items()})


def _plain_number(name: str, value: Any) -> int | float:
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(
            f"{name} has shape {array.shape}; a run takes one number: trpo_jax.sweep trains "
            "several settings"
        )
    if array.dtype.kind in "iu":
        return int(array)
    return float(array) if array.dtype == np.float64 else float(str(np.float32(array)))


def write_specification(file: Path, spec: RunSpec | SweepSpec, **more: Any) -> None:
    """Write a specification as JSON, with `more`, versions, devices and the command."""
    content = {
        **spec._asdict(),
        "config": vars(spec.config),
        "hparams": vars(spec.hparams),
        **({"guard": spec.guard and spec.guard._asdict()} if isinstance(spec, RunSpec) else {}),
        **more,
        "versions": current_versions(),
        "devices": [str(device) for device in jax.devices()],
        "command": sys.argv,
    }
    write_text(file, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def reading(what: str, file: Path) -> Iterator[dict[str, Any]]:
    """The content of a specification's file; any fault in it becomes a `ValueError`."""
    if not file.parent.is_dir():
        raise ValueError(
            f"{what}={file.parent} does not exist; `trpo-jax runs` lists the runs there are"
        )
    if not file.is_file():
        raise ValueError(f"{what}={file.parent} is not a {what}: it has no {file.name}")
    try:
        yield json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what}={file.parent}: {file.name} cannot be read ({type(error).__name__}: {error}); "
            "it is damaged or was written by another version of trpo_jax"
        ) from None


def specification(kind: type[Spec], content: dict[str, Any]) -> tuple[Spec, list[str]]:
    """The specification in a file's content, with notes on settings that were lost.

    Restores tuples, which JSON lacks, and translates settings of earlier versions to the nearest
    current ones.
    """
    fields = {name: content[name] for name in kind._fields if name in content}
    config, notes = _current_config(fields["config"])
    fields |= {"config": TRPOConfig(**config), "hparams": HParams(**fields["hparams"])}
    if "own" in fields:
        fields["own"] = tuple(fields["own"])
    if fields.get("guard"):
        fields["guard"] = as_guard(Guard(**fields["guard"]))
    if fields.get("shard"):
        fields["shard"] = tuple(fields["shard"])
    if "static" in fields:
        fields["static"] = {_RENAMED.get(k, k): values for k, values in fields["static"].items()}
    return kind(**fields), notes


_RENAMED = {"curvature_chunk_size": "chunk_size"}


def _current_config(stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translate the fields of `TRPOConfig` of any version; also returns notes on what was lost."""
    config = {
        _RENAMED.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
    }
    notes = []
    if config.pop("adapt_damping", False):
        config["algorithm"] = "trpo_adaptive_damping"
    if config.get("solver_dtype") == "mixed":
        config["solver_dtype"] = "float64"
        notes.append("solver_dtype=mixed is gone; float64 is the nearest, and was taken")
    if config.get("value_optimizer") == "lbfgs" and "value_iterations" not in config:
        config["value_iterations"] = config["value_epochs"]
    known = vars(TRPOConfig())
    for name in [name for name in config if name not in known]:
        notes.append(f"{name}={config.pop(name)} is no setting of this version and was left out")
    return config, notes


def current_versions() -> dict[str, str]:
    """Versions of all that decides whether a run continues bit for bit."""
    packages = ("trpo_jax", "jax", "jaxlib", "flax", "optax", "gymnax", "brax")
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
    return {**versions, "python": platform.python_version()}


def changes(then: dict[str, str], devices_then: int, devices_now: int) -> list[str]:
    """Reasons why a run will not continue bit for bit, one sentence each."""
    before = {**then, "devices": devices_then}
    now = {**current_versions(), "devices": devices_now}
    return [
        f"{name} is {value} now and was {before.get(name)}; it goes on, but not bit for bit"
        for name, value in now.items()
        if value != before.get(name)
    ]
