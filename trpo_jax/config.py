"""Settings. Every setting is either static (`TRPOConfig`) or traced (`HParams`)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Literal, Self, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common.checks import is_number, is_whole_number


def _setting(default: Any, help: str, check: Callable[[Any], Any] | None = None, want: str = ""):
    """A dataclass field with its help text and its validity check."""
    return field(default=default, metadata={"help": help, "check": check, "want": want})


def _at_least(bound: int) -> tuple[Callable[[Any], Any], str]:
    return lambda value: value >= bound, f"a whole number >= {bound}"


def _in_float32(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.float32(x)


def _are_sizes(sizes: tuple[Any, ...] | None) -> bool:
    return sizes is None or all(is_whole_number(size) and size >= 1 for size in sizes)


_POSITIVE = (
    lambda x: np.isfinite(_in_float32(x)) & (_in_float32(x) > 0),
    "a finite number > 0 (in float32)",
)
_NON_NEGATIVE = (
    lambda x: np.isfinite(_in_float32(x)) & (x >= 0),
    "a finite number >= 0 (in float32)",
)
_FINITE = (lambda x: np.isfinite(_in_float32(x)), "a finite number (in float32)")
_UNIT = (lambda x: (x >= 0) & (x <= 1), "a number in [0, 1]")
_BELOW_ONE = (lambda x: (x >= 0) & (x < 1), "a number in [0, 1)")
_OPEN_UNIT = (lambda x: (x > 0) & (x < 1), "a number strictly between 0 and 1")


@dataclasses.dataclass(frozen=True)
class TRPOConfig:
    """Static settings: all that fixes a shape, a loop bound or a branch. Frozen and hashable.

    The defaults follow the TRPO and GAE papers and careful reimplementations of them: 64 × 64 tanh
    networks, at most 10 conjugate gradient iterations. Conjugate gradients stop early, and the
    value fit takes fewer and longer steps, where that learns as much for less (docs/algorithm.md).
    Raises `ValueError` on construction if a value cannot work.
    """

    num_envs: int = _setting(8, "number of environments stepped in parallel (N)", *_at_least(1))
    num_steps: int = _setting(256, "steps per environment and update (T)", *_at_least(1))

    algorithm: Literal["trpo", "trpo_adaptive_damping", "cpo", "lagrangian"] = _setting(
        "trpo",
        "the policy step; trpo_adaptive_damping adapts the damping from update to update by the "
        "ratio of actual to predicted improvement; cpo and lagrangian keep the cost per episode "
        "below cost_limit, by a constrained step or by a multiplier under PID control",
    )

    hidden_sizes: tuple[int, ...] = _setting(
        (64, 64),
        "widths of the hidden layers of policy and critic",
        _are_sizes,
        "a tuple of whole numbers >= 1",
    )
    critic_hidden_sizes: tuple[int, ...] | None = _setting(
        None,
        "widths of the critic's hidden layers; none: those of the policy",
        _are_sizes,
        "None or a tuple of whole numbers >= 1",
    )
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "silu", "gelu"] = _setting(
        "tanh", "activation function of the hidden layers"
    )
    network: Literal["auto", "mlp", "cnn", "nature"] = _setting(
        "auto",
        "network body; auto: cnn for observations [height, width, channels]; cnn: one 3 × 3 "
        "convolution, for MinAtar; nature: the three convolutions of Atari",
    )
    action_bounds: Literal["clip", "tanh"] = _setting(
        "clip", "how an unbounded Gaussian action is mapped into a Box before the environment"
    )

    memory: Literal["none", "gru", "lstm", "mingru"] = _setting(
        "none",
        "memory between the hidden layers and the head: none, a GRU, an LSTM, or a minimal GRU "
        "with a parallel scan over time",
    )
    memory_size: int = _setting(64, "units of the memory", *_at_least(1))
    critic_memory: bool = _setting(
        True, "give the critic a memory too, if the policy has one; off: it sees the present only"
    )
    rematerialize: bool = _setting(
        False,
        "recompute a memory's inner values in derivatives instead of storing them for every step: "
        "less memory, more time",
    )

    initial_log_std: float = _setting(
        0.0,
        "log of the initial standard deviation of a Gaussian policy",
        lambda value: abs(value) <= 15,  # beyond, float32 rounds an action to its mean
        "between -15 and 15",
    )
    state_dependent_std: bool = _setting(
        False, "let the standard deviation of a Gaussian policy depend on the observation"
    )

    curvature: Literal["gauss_newton", "hvp"] = _setting(
        "gauss_newton", "product with the Fisher matrix: Jᵀ F J v, or jvp of grad of the mean KL"
    )
    cg_iterations: int = _setting(
        10, "maximum number of conjugate gradient iterations", *_at_least(1)
    )
    solver_dtype: Literal["float32", "float64"] = _setting(
        "float32", "precision of curvature products and conjugate gradients"
    )
    chunk_size: int | None = _setting(
        None,
        "examples per micro-batch, to bound memory, in every pass over the whole batch: gradient, "
        "curvature, line search, values, L-BFGS; with a memory an example is the sequence of one "
        "environment",
        lambda size: size is None or size >= 1,
        "None or a whole number >= 1",
    )
    line_search: bool = _setting(True, "backtrack until KL ≤ max_kl; off: natural policy gradient")
    max_backtracks: int = _setting(
        10, "maximum number of times the line search shrinks the step", *_at_least(0)
    )

    value_optimizer: Literal["adam", "lbfgs"] = _setting(
        "adam", "optimiser of the value fit: Adam on minibatches, or L-BFGS on the whole batch"
    )
    value_epochs: int = _setting(5, "passes over the batch per value fit with Adam", *_at_least(0))
    value_iterations: int = _setting(10, "iterations per value fit with L-BFGS", *_at_least(0))
    value_minibatch_size: int | None = _setting(
        None,
        "transitions per gradient step of the value fit; none: the divisor of the batch size "
        "nearest to a sixteenth of it, or to 128 if that is more, but at least 32; with a memory "
        "they are whole sequences, so a multiple of num_steps, by default a quarter of the batch",
        lambda size: size is None or size >= 1,
        "None or a whole number >= 1",
    )
    value_target: Literal["lambda_return", "monte_carlo"] = _setting(
        "lambda_return",
        "regression target of the critic: advantage + value, or discounted return with bootstrap",
    )

    normalize_observations: bool = _setting(
        False, "standardise observations with running statistics"
    )
    normalize_rewards: bool = _setting(
        False, "divide rewards by the running standard deviation of returns"
    )
    normalize_advantages: bool = _setting(
        True, "scale advantages to zero mean and unit variance per batch"
    )

    def __post_init__(self):
        for name in ("hidden_sizes", "critic_hidden_sizes"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for spec, hint in _fields_with_types(type(self)):
            _check_type(spec.name, getattr(self, spec.name), hint)
            object.__setattr__(self, spec.name, _as_python(getattr(self, spec.name)))
            _check_value(spec, getattr(self, spec.name))
        if self.value_optimizer == "lbfgs" and self.value_minibatch_size is not None:
            raise ValueError(
                f"value_minibatch_size={self.value_minibatch_size} is for value_optimizer='adam'; "
                "L-BFGS takes the whole batch: leave it out"
            )
        self.minibatch_of(1 if self.memory == "none" else self.num_steps)

    @property
    def batch_size(self) -> int:
        """Transitions per update, B = T · N."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Transitions per gradient step of the value fit; always divides the batch."""
        steps = 1 if self.memory == "none" else self.num_steps
        return steps * self.minibatch_of(steps)

    def minibatch_of(self, steps: int) -> int:
        """Examples per gradient step of the value fit, if an example has that many steps; always
        divides the number of examples. Raises `ValueError` if `value_minibatch_size` cannot."""
        given, examples = self.value_minibatch_size, self.batch_size // steps
        if not given:
            # Sequences one after the other cost more than side by side: fewer, larger minibatches.
            wanted = max(128, self.batch_size // (16 if steps == 1 else 4)) / steps
            usable = [size for size in _divisors(examples, wanted) if size * steps >= 32]
            return usable[0] if usable else examples
        if given % steps == 0 and examples % (given // steps) == 0:
            return given // steps
        near = sorted(size * steps for size in _divisors(examples, given / steps)[:3])
        uses = f"use {' or '.join(map(str, near))}"
        if given % steps:
            raise ValueError(
                f"value_minibatch_size={given} must be whole sequences of num_steps={steps} with a "
                f"memory; {uses}"
            )
        raise ValueError(
            f"value_minibatch_size={given} does not divide num_envs × num_steps = "
            f"{self.batch_size}; {uses}"
        )

    def replace(self, **changes) -> Self:
        """A validated copy with some fields changed."""
        _check_names(type(self), changes)
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class HParams:
    """Traced settings: numbers that a sweep can vary without recompiling.

    A pytree. Every field is a scalar, or an array with a leading axis when `vmap` runs a sweep.
    Raises `ValueError` on construction if a concrete value cannot work; traced values are not
    checked.
    """

    max_kl: float = _setting(
        0.01, "trust region: bound δ on the mean KL of an update, in nats", *_POSITIVE
    )
    gamma: float = _setting(0.99, "discount factor γ", *_UNIT)
    gae_lambda: float = _setting(0.95, "λ of generalised advantage estimation", *_UNIT)
    cg_damping: float = _setting(0.1, "damping λ: H + λI is solved instead of H", *_NON_NEGATIVE)
    cg_tol: float = _setting(0.03, "conjugate gradients stop at ‖r‖ ≤ tol · ‖g‖", *_BELOW_ONE)
    backtrack_factor: float = _setting(
        0.8, "factor β by which the line search shrinks the step", *_OPEN_UNIT
    )
    accept_ratio: float = _setting(
        0.0, "fraction of the predicted improvement that a step must achieve", *_UNIT
    )
    entropy_coef: float = _setting(
        0.0, "weight of the entropy bonus in the surrogate", *_NON_NEGATIVE
    )
    value_learning_rate: float = _setting(3e-3, "Adam's step size in the value fit", *_POSITIVE)

    cost_limit: float = _setting(
        25.0,
        "bound d on the mean undiscounted cost of an episode, for cpo and lagrangian",
        *_FINITE,
    )
    cost_gamma: float = _setting(0.99, "discount factor of the costs", *_UNIT)
    cost_gae_lambda: float = _setting(0.95, "λ of advantage estimation for the costs", *_UNIT)
    multiplier_proportional: float = _setting(
        0.1, "lagrangian: gain of the multiplier on the excess cost of an episode", *_NON_NEGATIVE
    )
    multiplier_integral: float = _setting(
        0.01,
        "lagrangian: gain on the sum of the excess costs; alone it is dual ascent",
        *_NON_NEGATIVE,
    )
    multiplier_derivative: float = _setting(
        0.01, "lagrangian: gain on the rise of the cost since the last update", *_NON_NEGATIVE
    )
    max_multiplier: float = _setting(
        100.0, "lagrangian: cap of the multiplier and of its integral", *_NON_NEGATIVE
    )

    def __post_init__(self):
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, jax.core.Tracer):
                continue
            if isinstance(value, list | tuple):
                value = np.asarray(value)
                object.__setattr__(self, spec.name, value)
            concrete = np.asarray(value)
            if concrete.dtype.kind not in "iuf" and concrete.dtype != jnp.bfloat16:
                raise ValueError(f"{spec.name}={value!r} must be a number")
            _check_value(spec, concrete.astype(np.float64), shown=value)

    def replace(self, **changes) -> Self:
        """A validated copy with some fields changed."""
        _check_names(type(self), changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def stack(cls, settings: Sequence["HParams"]) -> "HParams":
        """One `HParams` whose fields have a leading axis, for `vmap` over the settings."""
        if not settings:
            raise ValueError("settings=[] is empty; stack at least one HParams")
        if strange := [each for each in settings if not isinstance(each, cls)]:
            raise ValueError(f"settings has {strange[0]!r}; each must be an HParams")
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.float32(x) for x in leaves]), *settings)

    def as_arrays(self) -> "HParams":
        """The same numbers as float32 arrays, so that all share one compiled program."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), self)

    def tree_flatten_with_keys(self):
        """Children with their keys, for `jax.tree_util`."""
        names = [spec.name for spec in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        """Rebuild without validation: JAX fills trees with tracers, axes and placeholders."""
        tree = object.__new__(cls)
        for spec, leaf in zip(dataclasses.fields(cls), leaves, strict=True):
            object.__setattr__(tree, spec.name, leaf)
        return tree


def _fields_with_types(cls):
    hints = get_type_hints(cls)
    return [(spec, hints[spec.name]) for spec in dataclasses.fields(cls)]


def _as_python(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON can hold."""
    if isinstance(value, tuple):
        return tuple(_as_python(each) for each in value)
    return value.item() if isinstance(value, np.generic) else value


def _check_names(cls, changes):
    known = [spec.name for spec in dataclasses.fields(cls)]
    for name in changes:
        if name not in known:
            raise ValueError(f"{cls.__name__} has no field {name!r}; it has {', '.join(known)}")


def _check_type(name: str, value: Any, hint: Any):
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")
    elif hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    elif hint is int and not is_whole_number(value):
        raise ValueError(f"{name}={value!r} must be a whole number")
    elif hint == int | None and value is not None and not is_whole_number(value):
        raise ValueError(f"{name}={value!r} must be a whole number or None")
    elif hint is float and not is_number(value):
        raise ValueError(f"{name}={value!r} must be a finite number")
    elif hint == tuple[int, ...] and not isinstance(value, tuple):
        raise ValueError(f"{name}={value!r} must be a tuple of whole numbers, such as (64, 64)")
    elif hint == tuple[int, ...] | None and not isinstance(value, tuple | None):
        raise ValueError(f"{name}={value!r} must be None or a tuple of whole numbers")


def _check_value(spec: dataclasses.Field, value: Any, shown: Any = None):
    check, want = spec.metadata["check"], spec.metadata["want"]
    if check is not None and not np.all(check(value)):
        raise ValueError(f"{spec.name}={value if shown is None else shown} must be {want}")


def _divisors(number: int, wanted: float) -> list[int]:
    """The divisors of a number, those nearest in ratio to the wanted one first."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    divisors = {*small, *(number // size for size in small)}
    return sorted(divisors, key=lambda size: abs(math.log(size / wanted)))
