"""The parts of `gpu.py` that need no environment: device, policy step, solves, memory."""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import synthetic
from gpu_part import QUICK, Part, Settings, peak_memory, within_bound
from synthetic import Shape
from timing import best, interleaved, seconds

import trpo_jax
from trpo_jax.learner.objective import make_objective
from trpo_jax.solver.trust_region import trust_region_step

HPARAMS = trpo_jax.HParams(cg_tol=0.0)


def matrix_rate(size: int, precision: str, repeats: int) -> float:
    """Operations per second of a square float32 product."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda x: jnp.dot(x, x, precision=precision))
    least = best(interleaved({"product": lambda: product(matrix)}, repeats, at_least=0.01))
    return 2 * size**3 / least["product"]


def device(part: Part, settings: Settings) -> None:
    """What the machine is, and whether its products are as precise as the solver needs."""
    size = settings.matrix
    rates = {
        f"{precision}, TFLOP/s": matrix_rate(size, precision, settings.repeats) / 1e12
        for precision in ("highest", "default")
    }
    part.row(device=jax.devices()[0].device_kind, backend=jax.default_backend(), **rates)
    small = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    exact = small.astype(np.float64) @ small.astype(np.float64)
    for precision in ("highest", "default"):
        result = np.asarray(jnp.dot(small, small, precision=precision), np.float64)
        error = float(np.abs(result - exact).max() / np.abs(exact).max())
        part.row(precision=precision, relative_error=error)
        if precision == "highest":
            part.check("precision='highest' is float32, not TF32", error < 1e-5)
    backend = jax.default_backend()
    part.check("an accelerator is used", settings is QUICK or backend != "cpu")


@functools.lru_cache(maxsize=4)
def compiled_step(shape: Shape, config: trpo_jax.TRPOConfig):
    """A compiled policy step for a synthetic batch, and its arguments."""
    problem = synthetic.make_problem(shape)
    objective, hparams = make_objective(problem.policy, 0.0), HPARAMS.as_arrays()
    arguments = problem.policy_params, problem.batch
    step = jax.jit(
        lambda params, batch: trust_region_step(objective, params, batch, hparams, config)
    )
    return step.lower(*arguments).compile(), arguments


def policy_step(part: Part, settings: Settings) -> None:
    """Time of a step, and the share of the big product's rate at which its products ran."""
    config = trpo_jax.TRPOConfig()
    rate = matrix_rate(settings.matrix, "highest", settings.repeats)
    for shape in part.affordable(settings.shapes):
        step, arguments = compiled_step(shape, config)
        info = step(*arguments)[1]
        least = best(interleaved({"step": partial(step, *arguments)}, settings.repeats))["step"]
        needed = synthetic.policy_step(shape, config.cg_iterations, int(info.num_backtracks) + 1)
        floor = synthetic.operations(needed) / rate
        part.row(
            shape=str(shape),
            ms=1e3 * least,
            floor_ms=1e3 * floor,
            ratio=least / floor,
            fraction_of_roofline=floor / least,
            examples_per_second=shape.batch / least,
        )
        part.check("policy step within its bound", within_bound(info.kl, HPARAMS.max_kl))
        part.check("policy step accepted", info.accepted)


def solves(part: Part, settings: Settings) -> None:
    """float32 against float64 conjugate gradients: time, residual, direction."""
    for shape in part.affordable(settings.shapes):
        dtypes = ("float32", "float64")
        configs = [trpo_jax.TRPOConfig(solver_dtype=dtype) for dtype in dtypes]
        steps = [compiled_step(shape, config)[0] for config in configs]
        arguments = compiled_step(shape, configs[0])[1]
        results = [step(*arguments) for step in steps]
        calls = {
            dtype: partial(step, *arguments) for dtype, step in zip(dtypes, steps, strict=True)
        }
        least = best(interleaved(calls, settings.repeats))
        start = flat(arguments[0])
        single, double = (flat(params) - start for params, _ in results)
        cosine = single @ double / np.linalg.norm(single) / np.linalg.norm(double)
        residuals = [float(i.cg_residual_norms[-1] / i.cg_residual_norms[0]) for _, i in results]
        part.row(
            shape=str(shape), float32_ms=1e3 * least["float32"], float64_ms=1e3 * least["float64"],
            ratio=least["float64"] / least["float32"], float32_residual=residuals[0],
            float64_residual=residuals[1], cosine=float(cosine),
        )  # fmt: skip
        part.check("float32 and float64 agree on the direction", cosine > 0.99)


def flat(params: Any) -> np.ndarray:
    """All parameters as one float64 vector."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)]
    return np.concatenate(leaves)


def memory(part: Part, settings: Settings) -> None:
    """Working memory of a large step, whole and in micro-batches; and that both agree."""
    shape, results = settings.memory_shape, []
    for chunk in part.affordable((settings.memory_chunk, None)):
        config = trpo_jax.TRPOConfig(curvature_chunk_size=chunk)
        step, arguments = compiled_step(shape, config)
        analysis = step.memory_analysis()
        results.append(flat(step(*arguments)[0]))
        part.row(
            shape=str(shape), micro_batch=chunk or "whole",
            ms=1e3 * seconds(partial(step, *arguments)),
            working_memory_mib=analysis.temp_size_in_bytes / 2**20, peak_mib_so_far=peak_memory(),
        )  # fmt: skip
    if len(results) == 2:
        scale = np.abs(results[1] - flat(arguments[0])).max()
        difference = np.abs(results[0] - results[1]).max()
        part.check("micro-batches change nothing", difference < 0.02 * scale)
