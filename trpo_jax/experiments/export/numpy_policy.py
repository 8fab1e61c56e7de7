"""Run a policy that trpo_jax exported to an .npz file. Needs NumPy alone; copy this file freely.

policy = NumpyPolicy("policy.npz")
action = policy(obs=obs)  # [B, ...] -> [B, ...]; policy.inputs names and describes the inputs
action, carry = policy(obs=obs, carry=carry)  # with a memory; it begins with zeros [B, size]
"""

import json
from typing import Any

import numpy as np

_ACTIVATIONS: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * 0.5 * (1 + np.tanh(x / 2)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


class NumpyPolicy:
    """The policy in a file: named inputs [B, ...] -> actions [B, ...]."""

    def __init__(self, file):
        with np.load(file) as archive:
            self._arrays = dict(archive)
        self._facts = json.loads(str(self._arrays["facts"]))
        self.inputs = {name: (tuple(shape), kind) for name, shape, kind in self._facts["inputs"]}

    def __call__(self, **inputs):
        """Actions. Raises `ValueError` unless the inputs are those of `inputs`."""
        if set(inputs) != set(self.inputs):
            raise ValueError(
                f"inputs {sorted(inputs)} came; the policy takes {sorted(self.inputs)}"
            )
        given = {}
        for name, (shape, kind) in self.inputs.items():
            given[name] = np.asarray(inputs[name], kind)
            if given[name].shape[1:] != shape:
                raise ValueError(f"{name} has shape {given[name].shape}; it must be [B, *{shape}]")
        arrays, facts = self._arrays, self._facts
        x = _features(arrays, facts, given)
        remember, after = _MEMORIES.get(facts.get("memory")), ()
        if remember is not None:
            x, *after = remember(arrays, given, x)
        outputs = _dense(arrays, "output", x)
        action = (_choose if facts["choices"] else _move)(arrays, facts, given, x, outputs)
        return action if remember is None else (action, *after)


def _features(arrays, facts, given):
    """Hidden layers: finite, normalised observations; convolutions for the image; one vector."""
    activate, parts = _ACTIVATIONS[facts["activation"]], []
    for i, name in enumerate(facts["observations"]):
        x = given[name]
        if x.dtype == np.float32:
            x = np.where(np.isfinite(x), x, np.float32(0))
        if f"mean/{i}" in arrays:
            x = np.clip((x - arrays[f"mean/{i}"]) * arrays[f"factor/{i}"], -facts["clip"],
                        facts["clip"])  # fmt: skip
        x = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else np.float32(x)
        if i == facts["image"]:
            for j, stride in enumerate(facts["strides"]):
                kernel, bias = arrays[f"convolution/{j}/kernel"], arrays[f"convolution/{j}/bias"]
                windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
                windows = windows[:, ::stride, ::stride]
                x = activate(np.tensordot(windows, kernel, ((3, 4, 5), (2, 0, 1))) + bias)
        parts.append(x.reshape(len(x), -1))
    x = np.concatenate(parts, axis=-1)
    for j in range(facts["layers"]):
        x = activate(_dense(arrays, f"hidden/{j}", x))
    return x


def _dense(arrays, name, x):
    return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(x / 2))


def _gru(arrays, given, x):
    """(output, carry)."""
    h, inputs = given["carry"], _dense(arrays, "memory/inputs", x)
    own, size = h @ arrays["memory/recurrent"], h.shape[-1]
    gates = _sigmoid(inputs[:, : 2 * size] + own[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    bias = arrays["memory/candidate_bias"]
    n = np.tanh(inputs[:, 2 * size :] + r * (own[:, 2 * size :] + bias))
    h = (n + z * (h - n)).astype(np.float32)
    return h, h


def _lstm(arrays, given, x):
    """(output, carry/0, carry/1)."""
    c, h = given["carry/0"], given["carry/1"]
    total = _dense(arrays, "memory/inputs", x) + h @ arrays["memory/recurrent"]
    i, f, o, g = np.split(total, 4, axis=-1)
    c = (_sigmoid(f) * c + _sigmoid(i) * np.tanh(g)).astype(np.float32)
    h = (_sigmoid(o) * np.tanh(c)).astype(np.float32)
    return h, c, h


def _mingru(arrays, given, x):
    """(output, carry)."""
    z, n = np.split(_dense(arrays, "memory/inputs", x), 2, axis=-1)
    z = _sigmoid(z)
    h = (z * given["carry"] + (1 - z) * np.tanh(n)).astype(np.float32)
    return h, h


_MEMORIES = {"gru": _gru, "lstm": _lstm, "mingru": _mingru}


def _choose(arrays, facts, given, x, logits):
    """The most probable allowed category of each choice; int32 [B], or [B, choices]."""
    del arrays, x
    ends, chosen = np.cumsum(facts["choices"]), []
    for part in np.split(np.arange(logits.shape[-1]), ends[:-1]):
        values = logits[:, part] + (given["noise"][:, part] if "noise" in given else 0)
        if "action_mask" in given:
            allowed = given["action_mask"][:, part]
            values = np.where(allowed | ~allowed.any(-1, keepdims=True), values, -np.inf)
        chosen.append(values.argmax(-1).astype(np.int32))
    return np.stack(chosen, axis=-1) if facts["is_vector"] else chosen[0]


def _move(arrays, facts, given, x, mean):
    """A real action inside the bounds; float32 [B, ...]."""
    if "noise" in given:
        mean = mean + np.exp(_dense(arrays, "log_std", x)) * given["noise"]
    low, high, bounded = arrays["low"], arrays["high"], arrays["bounded"]
    unit = np.tanh(mean) if facts["squashed"] else np.clip(mean, -1, 1)
    least, span = np.where(bounded, low, 0), np.where(bounded, high, 0) - np.where(bounded, low, 0)
    boxed = np.where(bounded, least + span * (unit + 1) / 2, mean)
    return np.clip(boxed, low, high).astype(np.float32).reshape(len(mean), *facts["shape"])
