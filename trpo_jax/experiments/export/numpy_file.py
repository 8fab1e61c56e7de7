"""A policy as an .npz file of its arrays, with the file that runs it beside it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from trpo_jax.experiments.export import numpy_policy
from trpo_jax.experiments.export.description import Description, Layer, describe
from trpo_jax.experiments.export.inputs import Input
from trpo_jax.learner.acting import Acting
from trpo_jax.learner.normalization import CLIP
from trpo_jax.learner.parts import Parts

_LOADER = Path(numpy_policy.__file__)


def contents(
    parts: Parts, state: Acting, inputs: tuple[Input, ...], file: Path
) -> dict[Path, bytes]:
    """The archive, and `numpy_policy.py` in the same directory."""
    description = describe(parts, state, inputs)
    archive = io.BytesIO()
    np.savez(archive, **_arrays(description, json.dumps(_facts(description, inputs))))
    return {file: archive.getvalue(), file.with_name(_LOADER.name): _LOADER.read_bytes()}


def _facts(description: Description, inputs: tuple[Input, ...]) -> dict[str, object]:
    """Everything that is not an array."""
    bounds = description.bounds
    return {
        "inputs": [(each.name, each.shape, np.dtype(each.dtype).name) for each in inputs],
        "observations": [each.name for each in description.observations],
        "clip": CLIP,
        "image": description.image,
        "strides": [layer.stride for layer in description.convolutions],
        "layers": len(description.hidden),
        "activation": description.activation,
        "memory": description.memory and description.memory.kind,
        "choices": description.choices,
        "is_vector": description.is_vector,
        "squashed": bounds is not None and bounds.squashed,
        "shape": () if bounds is None else bounds.shape,
    }


def _arrays(description: Description, facts: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {"facts": np.array(facts)}
    for i, scale in enumerate(description.scales):
        if scale is not None:
            arrays |= {f"mean/{i}": scale.mean, f"factor/{i}": scale.factor}
    for name, layer in _named_layers(description):
        arrays |= {f"{name}/kernel": layer.kernel, f"{name}/bias": layer.bias}
    memory = description.memory
    if memory is not None:
        own = {"recurrent": memory.recurrent, "candidate_bias": memory.candidate_bias}
        arrays |= {f"memory/{name}": x for name, x in own.items() if x is not None}
    if description.bounds is not None:
        names = ("low", "high", "bounded")
        arrays |= {name: getattr(description.bounds, name) for name in names}
    return arrays


def _named_layers(description: Description) -> list[tuple[str, Layer]]:
    layers = [
        *((f"convolution/{i}", layer) for i, layer in enumerate(description.convolutions)),
        *((f"hidden/{i}", layer) for i, layer in enumerate(description.hidden)),
        *([("memory/inputs", description.memory.inputs)] if description.memory else []),
        ("output", description.output),
    ]
    return layers if description.log_std is None else [*layers, ("log_std", description.log_std)]
