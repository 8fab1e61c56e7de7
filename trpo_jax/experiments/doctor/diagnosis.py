"""What went wrong in a run, which numbers show it, and what to change.

The rules are the rows D1–D6 (debugging) and M1–M8 (monitoring) of the source article, and C1–C5
about a limit of the costs. Each examines the metrics of one seed and returns a finding or None.
Causes come before effects, so the first severe finding is the main one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs import Box, make_env
from trpo_jax.experiments.doctor import (
    constraint_rules,
    data_rules,
    learning_rules,
    memory_rules,
    solver_rules,
)
from trpo_jax.experiments.doctor.case import OFTEN, Case
from trpo_jax.experiments.doctor.findings import SEVERITIES, Diagnosis, Finding
from trpo_jax.experiments.loggers import to_columns
from trpo_jax.experiments.run_directory import Run
from trpo_jax.learner.monitoring import UpdateMetrics

RULES: tuple[Callable[[Case], Finding | None], ...] = (
    data_rules.off_policy,
    data_rules.invalid_data,
    data_rules.exploding_rewards,
    data_rules.no_signal,
    learning_rules.dead_units,
    memory_rules.saturated_memory,
    memory_rules.unused_memory,
    solver_rules.singular_curvature,
    solver_rules.cg_unconverged,
    learning_rules.untrained_critic,
    learning_rules.failed_value_fit,
    constraint_rules.useless_cost_critic,
    constraint_rules.futile_recovery,
    constraint_rules.infeasible,
    constraint_rules.runaway_multiplier,
    constraint_rules.limit_violated,
    learning_rules.biased_advantages,
    learning_rules.entropy_collapse,
    learning_rules.collapse,
    solver_rules.rejected_steps,
    solver_rules.unlike_prediction,
    data_rules.settings,
)
"""All rules, causes before effects."""
_OF_TRUST_REGIONS = {
    solver_rules.singular_curvature,
    solver_rules.cg_unconverged,
    learning_rules.biased_advantages,
    solver_rules.rejected_steps,
    solver_rules.unlike_prediction,
}
"""Rules for methods that report a `TrustRegionInfo`."""
_OF_CONSTRAINTS = {
    constraint_rules.useless_cost_critic,
    constraint_rules.futile_recovery,
    constraint_rules.infeasible,
    constraint_rules.runaway_multiplier,
    constraint_rules.limit_violated,
}
"""Rules for methods that keep a limit of the costs."""
_EXCUSED = {learning_rules.biased_advantages, learning_rules.collapse}
"""Rules about a falling return, which is the price where the limit is violated."""


def diagnose(
    history: UpdateMetrics | Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    config: TRPOConfig,
    hparams: HParams = HParams(),  # noqa: B008 - frozen
    *,
    continuous: bool | None = None,
) -> Diagnosis:
    """Diagnose a training from its metrics.

    `history` is the one from `agent.train`, [updates, ...] or [seeds, updates, ...], or from
    `Run.histories`; `config` and `hparams` are the settings it was trained with. `continuous` says
    whether actions are continuous, for the check of max_kl. Raises `ValueError` if an argument has
    the wrong type or a metric is missing.
    """
    _require_kinds(history, config, hparams)
    cases = [Case(each, config, hparams, continuous) for each in _as_histories(history)]
    found: dict[str, list[Finding]] = {}
    for case in cases:
        for rule in RULES:
            if not _applies(rule, case):
                continue
            finding = rule(case)
            if finding is not None:
                found.setdefault(finding.name, []).append(finding)
    merged = [_merge(findings, len(cases)) for findings in found.values()]
    order = {rule.__name__: i for i, rule in enumerate(RULES)}
    merged.sort(key=lambda finding: (SEVERITIES.index(finding.severity), order[finding.name]))
    return Diagnosis(tuple(merged), len(cases[0]["update"]), len(cases))


def examine(run: Run) -> Diagnosis:
    """Diagnose a run on disk."""
    histories = run.histories()
    if not all(histories):
        raise ValueError(f"run={run.path} has no update yet; wait until it has one")
    continuous = run.spec.continuous
    if continuous is None:
        env = make_env(run.spec.env_id, **run.spec.env_kwargs)
        continuous = isinstance(env.action_space, Box)
    return diagnose(histories, run.spec.config, run.spec.hparams, continuous=continuous)


def _applies(rule: Callable[[Case], Finding | None], case: Case) -> bool:
    """Whether a rule is about methods such as that of a case."""
    if rule in _OF_TRUST_REGIONS and not case.has_trust_region:
        return False
    if rule in _OF_CONSTRAINTS:
        return case.has_constraint
    excused = rule in _EXCUSED and case.has_constraint
    return not (excused and constraint_rules.violated(case).mean() > OFTEN)


def _require_kinds(history: Any, config: Any, hparams: Any) -> None:
    for name, value, kind in (("config", config, TRPOConfig), ("hparams", hparams, HParams)):
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}, not a {type(value).__name__}; call "
                "diagnose(history, config, hparams)"
            )
    is_sequence = isinstance(history, Sequence)
    of_seeds = is_sequence and history and all(isinstance(each, Mapping) for each in history)
    if not isinstance(history, UpdateMetrics | Mapping) and not of_seeds:
        what = "empty" if is_sequence and not history else type(history).__name__
        raise ValueError(
            f"history is {what}; pass what agent.train returns, or Run.histories: a mapping from "
            "metric to array [updates, ...], or one for each seed"
        )


def _as_histories(history: Any) -> list[Mapping[str, np.ndarray]]:
    """One mapping per seed, with alarms flattened and updates numbered."""
    if isinstance(history, Mapping):
        return [history]
    if not isinstance(history, UpdateMetrics):
        return list(history)
    columns = to_columns(history)
    if columns["kl"].ndim not in (1, 2):
        raise ValueError(
            f"history has metrics of shape {columns['kl'].shape}; pass what agent.train returns, "
            "[updates], or [seeds, updates] under vmap"
        )
    if columns["kl"].ndim == 1:
        columns = {name: column[None] for name, column in columns.items()}
    num_seeds, num_updates = columns["kl"].shape
    columns["update"] = np.tile(np.arange(1, num_updates + 1), (num_seeds, 1))
    return [{name: column[i] for name, column in columns.items()} for i in range(num_seeds)]


def _merge(findings: list[Finding], num_seeds: int) -> Finding:
    """The same finding of several seeds: the most severe one, with their number."""
    gravest = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    if num_seeds == 1 or gravest.name == "settings":
        return gravest
    return gravest._replace(evidence=f"{gravest.evidence} ({len(findings)} of {num_seeds} seeds)")
