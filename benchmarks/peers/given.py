"""One batch and one pair of networks, the same for every library, as plain NumPy arrays.

Everything here is float64 NumPy and shares no code with any library that is measured, so that it
can also judge what their updates did.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Shape(NamedTuple):
    """Of a batch and its networks."""

    batch: int
    obs: int
    actions: int
    discrete: bool
    hidden_sizes: tuple[int, ...]

    @property
    def label(self) -> str:
        """For tables."""
        kind = "Discrete" if self.discrete else "Box"
        hidden = "×".join(map(str, self.hidden_sizes))
        return f"{self.batch}×{self.obs}, {kind} {self.actions}, {hidden}"


SHAPES = (
    Shape(2048, 4, 2, True, (64, 64)),
    Shape(2048, 17, 6, False, (64, 64)),
    Shape(32768, 17, 6, False, (64, 64)),
    Shape(8192, 87, 8, False, (256, 256)),
)
"""Those of the comparison: CartPole, HalfCheetah (twice) and Ant by their sizes."""


def make_batch(shape: Shape, seed: int) -> Arrays:
    """Weights of policy and critic, and a batch that this policy acted in.

    Advantages and value targets depend on observation and action, with noise, so that there is
    something to learn from them. All float32; actions of a Discrete space int32.
    """
    rng = np.random.default_rng(seed)
    arrays = {
        **_weights(rng, "policy", (shape.obs, *shape.hidden_sizes, shape.actions), 0.1),
        **_weights(rng, "value", (shape.obs, *shape.hidden_sizes, 1), 1.0),
    }
    if not shape.discrete:
        arrays["policy_log_std"] = np.zeros(shape.actions, np.float32)
    obs = rng.standard_normal((shape.batch, shape.obs))
    outputs = forward(arrays, "policy", obs)
    if shape.discrete:
        noise = rng.gumbel(size=outputs.shape)
        action = np.argmax(outputs + noise, axis=-1).astype(np.int32)
        effect = 2.0 * action - 1
    else:
        action = (outputs + rng.standard_normal(outputs.shape)).astype(np.float32)
        effect = np.tanh(action).mean(axis=-1)
    advantage = effect * np.tanh(obs[:, 0]) + rng.standard_normal(shape.batch)
    arrays.update(
        obs=obs.astype(np.float32),
        action=action,
        advantage=((advantage - advantage.mean()) / advantage.std()).astype(np.float32),
        value_target=(np.sin(obs[:, 0]) + obs[:, 1]).astype(np.float32),
    )
    arrays["log_prob"] = log_prob(arrays, arrays).astype(np.float32)
    return arrays


def forward(weights: Arrays, which: str, obs: np.ndarray) -> np.ndarray:
    """Outputs [B, …] of the tanh network named "policy" or "value", in float64."""
    x = np.asarray(obs, np.float64)
    last = num_layers(weights, which) - 1
    for i in range(last + 1):
        x = x @ weights[f"{which}_w{i}"] + weights[f"{which}_b{i}"]
        x = x if i == last else np.tanh(x)
    return x


def num_layers(weights: Arrays, which: str) -> int:
    """Linear layers of a network."""
    return sum(name.startswith(f"{which}_w") for name in weights)


def num_outputs(weights: Arrays) -> int:
    """Of the policy network."""
    return weights[f"policy_b{num_layers(weights, 'policy') - 1}"].size


def log_prob(weights: Arrays, data: Arrays) -> np.ndarray:
    """log π(a|s) in float64, [B]."""
    outputs = forward(weights, "policy", data["obs"])
    if "policy_log_std" not in weights:
        return _log_softmax(outputs)[np.arange(len(outputs)), data["action"]]
    log_std = weights["policy_log_std"]
    z = (data["action"] - outputs) / np.exp(log_std)
    return np.sum(-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi), axis=-1)


def joint_kl(old: Arrays, new: Arrays, obs: np.ndarray) -> float:
    """Mean over the batch of D(π_old‖π_new), summed over action dimensions."""
    p, q = forward(old, "policy", obs), forward(new, "policy", obs)
    if "policy_log_std" not in old:
        log_p, log_q = _log_softmax(p), _log_softmax(q)
        return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))
    s, t = old["policy_log_std"].astype(np.float64), new["policy_log_std"].astype(np.float64)
    terms = t - s + (np.exp(2 * s) + (p - q) ** 2) / (2 * np.exp(2 * t)) - 0.5
    return float(np.mean(np.sum(terms, axis=-1)))


def improvement(new: Arrays, data: Arrays) -> float:
    """Mean of (π_new/π_old − 1) A, for A of mean 0 and deviation 1."""
    ratio = np.exp(log_prob(new, data) - log_prob(data, data))
    return float(np.mean((ratio - 1) * data["advantage"]))


def value_error(new: Arrays, data: Arrays) -> float:
    """Mean squared error of the critic."""
    return float(np.mean((forward(new, "value", data["obs"])[:, 0] - data["value_target"]) ** 2))


def policy_vector(weights: Arrays) -> np.ndarray:
    """The policy's parameters as one float64 vector, in a fixed order."""
    names = sorted(name for name in weights if name.startswith("policy_"))
    return np.concatenate([weights[name].ravel().astype(np.float64) for name in names])


def save(path: Path | str, arrays: Arrays) -> None:
    """To an .npz file, from which any peer reads."""
    np.savez(path, **arrays)


def load(path: Path | str) -> Arrays:
    """From an .npz file."""
    with np.load(path) as stored:
        return dict(stored)


def _weights(rng, which: str, sizes: tuple[int, ...], last_gain: float) -> Arrays:
    arrays = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        gain = last_gain if i == len(sizes) - 2 else 1.0
        kernel = gain / np.sqrt(fan_in) * rng.standard_normal((fan_in, fan_out))
        arrays[f"{which}_w{i}"] = kernel.astype(np.float32)
        arrays[f"{which}_b{i}"] = np.zeros(fan_out, np.float32)
    return arrays


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
