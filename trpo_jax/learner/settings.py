"""From the settings of an agent to the keywords of the solver."""

from typing import Any

from trpo_jax.config import HParams, TRPOConfig


def trust_region_settings(hparams: HParams, config: TRPOConfig) -> dict[str, Any]:
    """The keywords of `trust_region_step` for `hparams` and `config`; only here are they mapped."""
    return {
        "max_kl": hparams.max_kl,
        "damping": hparams.cg_damping,
        "cg_iterations": config.cg_iterations,
        "cg_tol": hparams.cg_tol,
        "curvature": config.curvature,
        "chunk_size": config.chunk_size,
        "dtype": config.solver_dtype,
        "search": config.line_search,
        "accept_ratio": hparams.accept_ratio,
        "backtrack_factor": hparams.backtrack_factor,
        "max_backtracks": config.max_backtracks,
    }
