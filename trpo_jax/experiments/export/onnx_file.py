"""A policy as an ONNX graph, node by node. Operators: onnx.ai/onnx/operators, opset 17."""

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trpo_jax.experiments.export.description import (
    Bounds,
    Description,
    Layer,
    Memory,
    Scale,
    describe,
)
from trpo_jax.experiments.export.inputs import CARRY, MASK, NOISE, Input
from trpo_jax.learner.acting import Acting
from trpo_jax.learner.normalization import CLIP
from trpo_jax.learner.parts import Parts

OPSET, IR_VERSION = 17, 8
"""Those of ONNX 1.12, of 2022, which every runtime in use reads."""
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu"}


def contents(
    parts: Parts, state: Acting, inputs: tuple[Input, ...], file: Path
) -> dict[Path, bytes]:
    """The file: one graph with inputs [batch, …] and the output `action` [batch, …]."""
    description = describe(parts, state, inputs)
    graph = _Graph()
    features, after = _remembered(graph, description, _features(graph, description))
    outputs = _dense(graph, features, description.output)
    if description.bounds is None:
        action, kind = _choose(graph, description, outputs), TensorProto.INT32
        shape: tuple[int, ...] = (len(description.choices),) if description.is_vector else ()
    else:
        action, kind = _move(graph, description, features, outputs), TensorProto.FLOAT
        shape = description.bounds.shape
    graph.add("Identity", action, result="action")
    carries = [each for each in inputs if each.role == CARRY]
    for each, value in zip(carries, after, strict=True):
        graph.add("Identity", value, result=f"next_{each.name}")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [_value(each.name, _type(each), each.shape) for each in inputs],
            [
                _value("action", kind, shape),
                *(_value(f"next_{each.name}", TensorProto.FLOAT, each.shape) for each in carries),
            ],
            graph.constants,
        ),
        producer_name="trpo_jax",
        producer_version=importlib.metadata.version("trpo-jax"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string=f"policy for {parts.env.name}",
    )
    onnx.checker.check_model(model, full_check=True)
    return {file: model.SerializeToString()}


class _Graph:
    """Nodes and constants so far; `add` returns the name of what a node computes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """A node with one result."""
        result = result or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def split(self, value: str, sizes: tuple[int, ...]) -> list[str]:
        """A [batch, Σ sizes] in parts along its last axis."""
        if len(sizes) == 1:
            return [value]
        parts = [f"{value}_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        sections = self.constant(sizes, np.int64)
        self.nodes.append(helper.make_node("Split", [value, sections], parts, axis=-1))
        return parts


def _value(name: str, kind: int, shape: tuple[int, ...]) -> Any:
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])


def _type(each: Input) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype))


def _features(graph: _Graph, description: Description) -> str:
    """Finite, normalised observations; convolutions for the image; hidden layers."""
    parts = []
    for i, (each, scale) in enumerate(
        zip(description.observations, description.scales, strict=True)
    ):
        x = _number(graph, each, scale)
        if i == description.image:
            x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
            for layer in description.convolutions:
                x = _activated(graph, _convolved(graph, x, layer), description.activation)
            x = graph.add("Transpose", x, perm=(0, 2, 3, 1))
        parts.append(graph.add("Flatten", x, axis=1))
    x = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=-1)
    for layer in description.hidden:
        x = _activated(graph, _dense(graph, x, layer), description.activation)
    return x


def _remembered(
    graph: _Graph, description: Description, features: str
) -> tuple[str, tuple[str, ...]]:
    """The features that the output sees, and the carry afterwards, leaf by leaf."""
    memory = description.memory
    if memory is None:
        return features, ()
    total = _dense(graph, features, memory.inputs)
    if memory.kind == "gru":
        h = _gru(graph, memory, total)
        return h, (h,)
    if memory.kind == "mingru":
        size = memory.inputs.bias.size // 2
        z, n = graph.split(total, (size, size))
        h = _mixed(graph, graph.add("Sigmoid", z), CARRY, graph.add("Tanh", n))
        return h, (h,)
    assert memory.recurrent is not None
    own = graph.add("MatMul", f"{CARRY}/1", graph.constant(memory.recurrent))
    i, f, o, g = graph.split(graph.add("Add", total, own), (len(memory.recurrent),) * 4)
    i, f, o = (graph.add("Sigmoid", gate) for gate in (i, f, o))
    added = graph.add("Mul", i, graph.add("Tanh", g))
    c = graph.add("Add", graph.add("Mul", f, f"{CARRY}/0"), added)
    h = graph.add("Mul", o, graph.add("Tanh", c))
    return h, (c, h)


def _gru(graph: _Graph, memory: Memory, total: str) -> str:
    assert memory.recurrent is not None
    assert memory.candidate_bias is not None
    sizes = (len(memory.recurrent),) * 3
    own = graph.split(graph.add("MatMul", CARRY, graph.constant(memory.recurrent)), sizes)
    r, z, n = graph.split(total, sizes)
    r = graph.add("Sigmoid", graph.add("Add", r, own[0]))
    z = graph.add("Sigmoid", graph.add("Add", z, own[1]))
    kept = graph.add("Mul", r, graph.add("Add", own[2], graph.constant(memory.candidate_bias)))
    return _mixed(graph, z, CARRY, graph.add("Tanh", graph.add("Add", n, kept)))


def _mixed(graph: _Graph, share: str, old: str, new: str) -> str:
    """new + share · (old − new)."""
    return graph.add("Add", new, graph.add("Mul", share, graph.add("Sub", old, new)))


def _number(graph: _Graph, each: Input, scale: Scale | None) -> str:
    """An observation as float32: NaN and ±∞ become 0, uint8 is scaled to [0, 1]."""
    if each.dtype != np.float32:
        x = graph.add("Cast", each.name, to=TensorProto.FLOAT)
        return graph.add("Div", x, graph.constant(255)) if each.dtype == np.uint8 else x
    strange = graph.add("Or", graph.add("IsNaN", each.name), graph.add("IsInf", each.name))
    x = graph.add("Where", strange, graph.constant(0), each.name)
    if scale is None:
        return x
    shifted = graph.add("Sub", x, graph.constant(scale.mean))
    scaled = graph.add("Mul", shifted, graph.constant(scale.factor))
    return graph.add("Clip", scaled, graph.constant(-CLIP), graph.constant(CLIP))


def _dense(graph: _Graph, x: str, layer: Layer) -> str:
    return graph.add("Gemm", x, graph.constant(layer.kernel), graph.constant(layer.bias))


def _convolved(graph: _Graph, x: str, layer: Layer) -> str:
    kernel = graph.constant(layer.kernel.transpose(3, 2, 0, 1))
    strides = (layer.stride, layer.stride)
    return graph.add("Conv", x, kernel, graph.constant(layer.bias), strides=strides)


def _activated(graph: _Graph, x: str, activation: str) -> str:
    if activation == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if activation == "gelu":  # the form with tanh; the operator Gelu is of opset 20
        cube = graph.add("Mul", x, graph.add("Mul", x, x))
        bent = graph.add("Add", x, graph.add("Mul", cube, graph.constant(0.044715)))
        gate = graph.add("Tanh", graph.add("Mul", bent, graph.constant((2 / np.pi) ** 0.5)))
        half = graph.add("Mul", x, graph.constant(0.5))
        return graph.add("Mul", half, graph.add("Add", gate, graph.constant(1)))
    return graph.add(_ACTIVATIONS[activation], x)  # their default slopes are flax's too


def _choose(graph: _Graph, description: Description, logits: str) -> str:
    """The most probable allowed category of each choice; int32 [batch], or [batch, choices]."""
    if description.sampled:
        logits = graph.add("Add", logits, NOISE)
    parts = graph.split(logits, description.choices)
    if description.masked:
        masks = graph.split(MASK, description.choices)
        parts = [_allowed(graph, *pair) for pair in zip(parts, masks, strict=True)]
    keep = int(description.is_vector)
    chosen = [graph.add("ArgMax", part, axis=-1, keepdims=keep) for part in parts]
    joined = chosen[0] if len(chosen) == 1 else graph.add("Concat", *chosen, axis=-1)
    return graph.add("Cast", joined, to=TensorProto.INT32)


def _allowed(graph: _Graph, logits: str, mask: str) -> str:
    """Logits with −∞ where the mask forbids a category; all of them if it forbids every one."""
    number = graph.add("Cast", mask, to=TensorProto.INT32)
    any_allowed = graph.add("ReduceMax", number, axes=[-1], keepdims=1)
    usable = graph.add("Or", mask, graph.add("Not", graph.add("Cast", any_allowed, to=_BOOL)))
    return graph.add("Where", usable, logits, graph.constant(-np.inf))


_BOOL = TensorProto.BOOL


def _move(graph: _Graph, description: Description, features: str, mean: str) -> str:
    """A real action inside the bounds; float32 [batch, …]."""
    bounds = description.bounds
    assert bounds is not None
    if description.log_std is not None:
        std = graph.add("Exp", _dense(graph, features, description.log_std))
        mean = graph.add("Add", mean, graph.add("Mul", std, NOISE))
    boxed = _boxed(graph, mean, bounds)
    return graph.add("Reshape", boxed, graph.constant((0, *bounds.shape), np.int64))


def _boxed(graph: _Graph, action: str, bounds: Bounds) -> str:
    """−1 and 1 to the bounds where these are finite; then clipped."""
    one = graph.constant(1)
    if bounds.squashed:
        unit = graph.add("Tanh", action)
    else:
        unit = graph.add("Clip", action, graph.constant(-1), one)
    low, high = (np.where(bounds.bounded, bound, 0) for bound in (bounds.low, bounds.high))
    raised = graph.add("Mul", graph.add("Add", unit, one), graph.constant((high - low) / 2))
    inside = graph.add("Add", raised, graph.constant(low))
    boxed = graph.add("Where", graph.constant(bounds.bounded, bool), inside, action)
    least = graph.add("Max", boxed, graph.constant(bounds.low))
    return graph.add("Min", least, graph.constant(bounds.high))
