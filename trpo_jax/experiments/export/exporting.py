"""`export_policy`: checks, then one of three writers."""

import importlib
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from trpo_jax.experiments.export.inputs import (
    carry_inputs,
    mask_inputs,
    noise_inputs,
    observation_inputs,
    require_zeros_at_first,
)
from trpo_jax.learner.agent import Agent, require_agent, require_own_state
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.learner.types import TrainState

Format = Literal["onnx", "stablehlo", "numpy"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "stablehlo": ".stablehlo", "numpy": ".npz"}
_WRITERS = {"onnx": "onnx_file", "stablehlo": "stablehlo_file", "numpy": "numpy_file"}


class _Acting(NamedTuple):
    """The parts of a `TrainState` that act, on the host."""

    policy_params: Any
    obs_statistics: RunningStatistics


def export_policy(
    agent: Agent,
    state: TrainState,
    path: str | os.PathLike[str],
    format: Format = "onnx",
    *,
    deterministic: bool = True,
) -> Path:
    """Write a policy to a file that runs without this library; returns the file.

    The file computes what `agent.act` does: it replaces numbers that are not finite, normalises,
    runs the network, takes the mode and maps it into the bounds. Inputs are named arrays [B, …] in
    the environment's types, for any B: `obs` (for a tree, `obs/` and the path of each leaf) and
    `action_mask` if the environment gives one. The output is `action` [B, …]. With `deterministic`
    false it is a sample, made from one more input, `noise`: standard normal [B, dimensions] for a
    Gaussian, standard Gumbel [B, Σ categories] for choices. A policy with memory has one more
    input, `carry` [B, size] (for an LSTM `carry/0` and `carry/1`), zeros where an episode begins,
    and returns it after the action, in the same order.

    - "onnx": opset 17, for any ONNX runtime; needs `pip install "trpo-jax[export]"`.
    - "numpy": an .npz file, and `numpy_policy.py` beside it, which runs it with NumPy alone.
    - "stablehlo": `jax.export.deserialize(file).call(obs=…)`, on CPU, CUDA and TPU.

    "onnx" and "numpy" are written for the networks of `TRPOConfig`; "stablehlo" takes any policy.
    `path` gets the suffix of the format if it has none. Raises `ValueError`, before anything is
    written, if the format does not take this policy, or `state` is not one state of this agent.
    """
    _require(agent, state, path, format)
    inputs = (*observation_inputs(agent.parts), *mask_inputs(agent.parts))
    if not deterministic:
        inputs += noise_inputs(agent.parts, state.policy_params)
    require_zeros_at_first(agent.parts)
    inputs += carry_inputs(agent.parts)
    file = Path(path) if Path(path).suffix else Path(path).with_suffix(SUFFIXES[format])
    acting = jax.device_get((state.policy_params, state.obs_statistics))
    written = _writer(format).contents(agent.parts, _Acting(*acting), inputs, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for each, content in written.items():
            each.write_bytes(content)
    except OSError as error:
        raise ValueError(f"path={file} cannot be written: {error.strerror}") from None
    return file


def _require(agent: Any, state: Any, path: Any, format: Any) -> None:
    require_agent("agent", agent)
    if not isinstance(path, str | os.PathLike) or not Path(path).name or Path(path).is_dir():
        raise ValueError(f"path={str(path)!r} must be the path of a file to write")
    if format not in get_args(Format):
        raise ValueError(f"format={format!r} must be one of {', '.join(get_args(Format))}")
    if lead := jnp.shape(getattr(state, "key", 0)):
        raise ValueError(
            f"state.key has shape {lead}, and a file holds one policy; pass the state of seed "
            "number i, jax.tree.map(lambda leaf: leaf[i], state)"
        )
    require_own_state(state, agent.parts)
    if format != "stablehlo" and "policy" in agent.parts.own:
        raise ValueError(
            f"format={format!r} knows the networks of TRPOConfig only, and this policy is of its "
            "own; format='stablehlo' takes any network"
        )


def _writer(format: str) -> Any:
    """The module of a format: contents(parts, state, inputs, file) -> {file: bytes}."""
    try:
        return importlib.import_module(f"trpo_jax.experiments.export.{_WRITERS[format]}")
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ValueError(
            f'format={format!r} needs onnx, which is missing: pip install "trpo-jax[export]"'
        ) from None
