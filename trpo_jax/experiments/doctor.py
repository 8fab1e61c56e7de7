"""What went wrong in a run, on which numbers that rests, and what to change.

The rules are the rows D1–D6 (debugging) and M1–M8 (monitoring) of the source article. Each looks at
the metrics of one seed and gives a finding or none; they stand in the order of cause before effect,
so that the first severe finding is the main one.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.loggers import to_columns
from trpo_jax.experiments.run_directory import Run
from trpo_jax.learner.monitoring import INACTIVE_UNITS, UpdateMetrics
from trpo_jax.solver.trust_region import StepStatus

Severity = Literal["severe", "warning", "note"]
_ORDER = ("severe", "warning", "note")

UNSOLVED_RESIDUAL = 0.3
"""Median ‖r‖/‖g‖ at the end of CG. Healthy presets stay below 0.1; one iteration leaves 0.5."""
USUAL_ITERATIONS = 10
"""The article's least number of CG iterations; with fewer, a rest of a tenth draws a warning."""
POOR_RESIDUAL = 0.1
IDLE_FIT = 0.99
"""Median of value loss after / before the fit, of a fit that does nothing. Injected faults 0.999
and more, healthy presets below 0.8."""
SLOW_FIT = 0.97
"""The same, of a fit that does too little."""
POOR_CRITIC = 0.5
"""Explained variance below which an idle fit is not merely done."""
WRONG_MODEL = 5.0
"""KL of the first candidate, as a multiple of δ, above which the quadratic model is off."""
STRETCHED_MODEL = 1.3
"""The same, above which it is stretched. Healthy presets 0.5–0.9; a singular one without damping
1.5–2.1."""
OFTEN = 0.2
"""Share of updates that counts as often."""
MOSTLY = 0.5
"""Share of updates, or of units, that counts as most."""
EXPLOSION = 1e3
"""Growth of the advantages' deviation within a run."""
COLLAPSED_ENTROPY = 0.1
"""Share of the first entropy (discrete) below which a policy is nearly deterministic."""
COLLAPSED_LOG_STD = 2.0
"""Nats per action dimension lost since the start, the same for continuous actions."""
CLEAR_TREND = 0.5
"""Rank correlation of return and update that counts as a trend."""
ENOUGH_RETURNS = 8
"""Fewer do not tell a change of the return from noise."""
FLAT = 1e-7
"""Deviation of raw advantages, relative to their size, that is no signal."""
_SHOWN_UPDATES = 5


class Finding(NamedTuple):
    """One thing that is wrong."""

    name: str
    """Name of the rule."""
    row: str
    """Row of the source's checklist: D1–D6, M1–M8."""
    severity: Severity
    title: str
    """What is wrong, in a few words."""
    evidence: str
    """The numbers that it rests on."""
    updates: tuple[int, ...]
    """The updates that it rests on; empty if it is about all of them, or the settings."""
    causes: tuple[str, ...]
    """Likely causes, the likeliest first."""
    remedies: tuple[str, ...]
    """What to change, as command-line options where it is one."""


class Diagnosis(NamedTuple):
    """All findings, the main one first."""

    findings: tuple[Finding, ...]
    num_updates: int
    num_seeds: int

    @property
    def severe(self) -> bool:
        """Whether anything severe was found."""
        return any(finding.severity == "severe" for finding in self.findings)

    def to_json(self) -> str:
        """As JSON."""
        findings = [finding._asdict() for finding in self.findings]
        content = {**self._asdict(), "findings": findings, "severe": self.severe}
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """For the terminal."""
        seen = f"{self.num_updates} updates, {self.num_seeds} seed{'s' * (self.num_seeds > 1)}"
        if not self.findings:
            return f"Nothing wrong in {seen}."
        return "\n\n".join([f"Looked at {seen}.", *(_to_text(f) for f in self.findings)])


@dataclass(frozen=True)
class Case:
    """One seed of a run, as the rules see it."""

    history: Mapping[str, np.ndarray]
    """name -> [updates, ...]."""
    config: TRPOConfig
    hparams: HParams
    continuous: bool | None
    """Whether the actions are continuous; None if that is not known."""

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.history[name])

    @property
    def returns(self) -> np.ndarray:
        """The returns of those updates in which episodes ended."""
        return self["episode_return"][self["num_episodes"] > 0]

    def median(self, values: np.ndarray) -> float:
        """Median of the finite values; NaN if there are none."""
        finite = values[np.isfinite(values)]
        return float(np.median(finite)) if finite.size else float("nan")

    def updates(self, mask: np.ndarray) -> tuple[int, ...]:
        """The first few updates of a mask."""
        return tuple(int(update) for update in self["update"][mask][:_SHOWN_UPDATES])


def diagnose(
    history: UpdateMetrics | Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    config: TRPOConfig,
    hparams: HParams = HParams(),  # noqa: B008 - frozen
    *,
    continuous: bool | None = None,
) -> Diagnosis:
    """Examine the metrics of a training.

    `history` is what `agent.train` returns, [updates, ...] or [seeds, updates, ...], or what
    `Run.histories` does. `continuous` says whether the actions are, for the check of max_kl.
    """
    histories = _as_histories(history)
    found: dict[str, list[Finding]] = {}
    for each in histories:
        case = Case(each, config, hparams, continuous)
        for rule in _RULES:
            finding = rule(case)
            if finding is not None:
                found.setdefault(finding.name, []).append(finding)
    merged = [_merge(findings, len(histories)) for findings in found.values()]
    order = {rule.__name__: i for i, rule in enumerate(_RULES)}
    merged.sort(key=lambda finding: (_ORDER.index(finding.severity), order[finding.name]))
    return Diagnosis(tuple(merged), len(histories[0]["update"]), len(histories))


def examine(run: Run) -> Diagnosis:
    """Diagnose a run on disk."""
    from trpo_jax.envs import Box, make_env

    histories = run.histories()
    if not all(histories):
        raise ValueError(f"run={run.path} has no update yet; wait until it has one")
    env = make_env(run.spec.env_id, **run.spec.env_kwargs)
    continuous = isinstance(env.action_space, Box)
    return diagnose(histories, run.spec.config, run.spec.hparams, continuous=continuous)


def dump(run: Run, update: int | None, directory: Path) -> list[Path]:
    """Write what an update learned from: advantages.npy, vf_loss.npy and batch.npz.

    The update is done again, from the nearest checkpoint before it. By default it is one that the
    main finding rests on, else the last. advantages.npy holds the raw advantages [B], vf_loss.npy
    the critic's squared errors [B] before its fit; with several seeds they are [seeds, B].
    """
    from trpo_jax.experiments.runner import make_agent, state_at
    from trpo_jax.learner.batch import prepare_batch

    number = len(run.histories()[0].get("update", ()))
    if update is None:
        update = next((f.updates[0] for f in examine(run).findings if f.updates), number)
    if not 1 <= update <= number:
        raise ValueError(f"update={update} must be one of the run's, 1 to {number}")
    agent, spec = make_agent(run.spec), run.spec
    state = state_at(run, agent, update - 1)

    def prepare(state: Any) -> tuple[Any, jax.Array]:
        state, trajectory = agent.rollout(state)
        prepared = prepare_batch(
            state, trajectory, spec.hparams,
            policy=agent.policy, critic=agent.critic, config=spec.config,
        )  # fmt: skip
        return prepared.batch, prepared.raw_advantage

    prepare = jax.vmap(prepare) if spec.num_seeds > 1 else prepare
    batch, advantage = jax.device_get(jax.jit(prepare)(state))
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / name for name in ("advantages.npy", "vf_loss.npy", "batch.npz")]
    np.save(files[0], advantage)
    np.save(files[1], (batch.value_target - batch.value) ** 2)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]
    }
    np.savez(files[2], **arrays)
    return files


def off_policy(case: Case) -> Finding | None:
    """D1: data of another policy version."""
    refused = case["alarm_off_policy"]
    if not refused.any():
        return None
    gap = np.nanmax(case["on_policy_gap"])
    return Finding(
        "off_policy", "D1", "severe", "batches of another policy version",
        f"{refused.mean():.0%} of the updates were refused: their data is of another version of "
        f"the policy, or was changed. log π_θ(a|s) differs from what the rollout stored by up to "
        f"{gap:.2g}, relatively; rounding is about 1e-7",
        case.updates(refused),
        ("the batch was collected by an older policy", "the observation statistics changed between "
         "rollout and update", "actions were clipped or squashed before they were stored"),
        ("collect with the state that is then updated: agent.update, or agent.rollout directly "
         "followed by agent.learn",),
    )  # fmt: skip


def invalid_data(case: Case) -> Finding | None:
    """Values that are not finite came from the environment."""
    spoilt = case["alarm_invalid_data"]
    if not spoilt.any():
        return None
    share = 1 - np.nanmin(case["valid_fraction"])
    return Finding(
        "invalid_data", "M4", "severe" if spoilt.mean() > OFTEN else "warning",
        "the environment returns NaN or infinite values",
        f"in {spoilt.mean():.0%} of the updates, up to {share:.2%} of the transitions were left "
        "out",
        case.updates(spoilt),
        ("the simulation diverges, often from large actions", "a reward divides by zero"),
        ("--action-bounds tanh", "repair the environment"),
    )  # fmt: skip


def exploding_rewards(case: Case) -> Finding | None:
    """M4: the scale of the advantages grows without bound."""
    deviation = case["advantage_std"]
    usable = deviation[np.isfinite(deviation) & (deviation > 0)]
    if usable.size < 4:
        return None
    tenth = max(1, usable.size // 10)
    growth = np.median(usable[-tenth:]) / np.median(usable[:tenth])
    loss = case["value_loss"]
    if growth < EXPLOSION or not loss[-1] > EXPLOSION * max(case.median(loss[:tenth]), 1e-12):
        return None
    return Finding(
        "exploding_rewards", "M4", "severe", "rewards explode",
        f"the deviation of the advantages grew {growth:.2g}-fold, from "
        f"{np.median(usable[:tenth]):.2g} to {np.median(usable[-tenth:]):.2g}, and the value loss "
        f"is {loss[-1]:.2g}",
        (),
        ("the reward's scale drifts or depends on the length of the training",
         "the environment diverges"),
        ("--normalize-rewards", "bound or rescale the reward"),
    )  # fmt: skip


def no_signal(case: Case) -> Finding | None:
    """M4: all advantages are equal."""
    deviation, mean = case["advantage_std"], case["advantage_mean"]
    flat = deviation <= FLAT * np.maximum(np.abs(mean), 1e-30)
    if flat.mean() < MOSTLY:
        return None
    return Finding(
        "no_signal", "M4", "severe", "no advantage differs from another",
        f"in {flat.mean():.0%} of the updates all advantages are equal",
        case.updates(flat),
        ("no reward is ever reached", "the reward does not depend on the action"),
        ("longer rollouts: --num-steps", "more exploration: --entropy-coef, --initial-log-std"),
    )  # fmt: skip


def dead_units(case: Case) -> Finding | None:
    """M6, D4: units that answer to no input."""
    shares = np.nan_to_num(case["inactive_units"])
    worst = shares.max(axis=1, initial=0)
    late = float(np.median(worst[-max(1, len(worst) // 4) :]))
    if late <= INACTIVE_UNITS:
        return None
    layer = int(shares[-1].argmax()) + 1
    saturated = case.config.activation == "tanh"
    return Finding(
        "dead_units", "D4", "severe" if late > 0.25 else "warning",
        f"{'saturated' if saturated else 'dead'} units in the policy",
        f"{late:.0%} of a hidden layer at the end (layer {layer}); the alarm is at 10 %",
        case.updates(worst > INACTIVE_UNITS),
        ("observations that are large or far from zero", "steps too large for the activation"),
        ("--normalize-observations",
         "--activation tanh" if not saturated else "--activation leaky_relu", "smaller --max-kl"),
    )  # fmt: skip


def singular_curvature(case: Case) -> Finding | None:
    """D2, M1: H + λI is not positive definite to rounding, or the model that it makes is wrong."""
    broken = case["cg_breakdown"] | np.isin(
        case["status"], (StepStatus.NOT_FINITE, StepStatus.BAD_CURVATURE)
    )
    first = case["candidate_kls"][:, 0] / float(np.min(case.hparams.max_kl))
    spikes = (first > WRONG_MODEL) | case["alarm_kl_spike"]
    wrong = broken.mean() > 0.05 or spikes.mean() > OFTEN
    typical = case.median(first)
    if not wrong and not typical > STRETCHED_MODEL:
        return None
    evidence = [
        f"conjugate gradients broke down in {broken.mean():.0%} of the updates",
        f"the full step had {typical:.2g} δ of KL (median), and more than {WRONG_MODEL:g} δ in "
        f"{spikes.mean():.0%}",
    ]
    damping = float(np.min(case.hparams.cg_damping))
    more = max(2 * damping, 0.1)
    return Finding(
        "singular_curvature", "D2", "severe" if wrong else "warning",
        "the curvature is singular or the step too long",
        f"{'; '.join(evidence)}; damping is {damping:g}",
        case.updates(broken | spikes if wrong else first > STRETCHED_MODEL),
        ("too little damping for a Fisher matrix that is nearly singular",
         "float32 is not enough for so ill-conditioned a system",
         "a trust region in which the quadratic model does not hold"),
        (f"--cg-damping {more:g}", "--solver-dtype float64", "smaller --max-kl"),
    )  # fmt: skip


def cg_unconverged(case: Case) -> Finding | None:
    """D2, M2: the natural gradient is not solved for."""
    norms = case["cg_residual_norms"]
    start = norms[:, 0]
    relative = norms[:, -1] / np.where(start > 0, start, np.nan)
    rest = case.median(relative)
    iterations = case.config.cg_iterations
    allowed = UNSOLVED_RESIDUAL if iterations >= USUAL_ITERATIONS else POOR_RESIDUAL
    if not rest > allowed:
        return None
    diverged = case["alarm_cg_diverged"]
    return Finding(
        "cg_unconverged", "D2", "severe" if rest > UNSOLVED_RESIDUAL else "warning",
        "conjugate gradients stop before they have solved",
        f"‖r‖/‖g‖ is {rest:.2g} (median) after {iterations} iterations, and larger than at the "
        f"start in {diverged.mean():.0%} of the updates",
        case.updates(relative > allowed),
        ("too few iterations", "too little damping", "float32 is not enough"),
        (f"--cg-iterations {max(10, 2 * iterations)}",
         f"--cg-damping {max(0.1, 2 * float(np.min(case.hparams.cg_damping))):g}",
         "--solver-dtype float64"),
    )  # fmt: skip


def untrained_critic(case: Case) -> Finding | None:
    """M3: the value fit does not lower its loss."""
    before, after = case["value_loss_before"], case["value_loss"]
    ratio = case.median(after / np.where(before > 0, before, np.nan))
    explained = case.median(case["explained_variance"])
    if not (ratio > SLOW_FIT and explained < POOR_CRITIC):
        return None
    rate = float(np.min(case.hparams.value_learning_rate))
    return Finding(
        "untrained_critic", "M3", "severe" if ratio > IDLE_FIT else "warning",
        "the value function " + ("does not learn" if ratio > IDLE_FIT else "learns slowly"),
        f"its fit leaves {ratio:.1%} of the loss (median) and explains {explained:.0%} of the "
        "variance of the returns",
        (),
        ("the learning rate is too small, or so large that the fit goes nowhere",
         "too few epochs", "returns of a scale that the network does not reach"),
        (f"--value-learning-rate (now {rate:g}, default 0.001)",
         f"--value-epochs (now {case.config.value_epochs}, default 10)", "--normalize-rewards"),
    )  # fmt: skip


def failed_value_fit(case: Case) -> Finding | None:
    """M3: the value fit raises its loss."""
    failed = case["alarm_value_fit_failed"] & ~case["alarm_off_policy"]
    if failed.mean() <= OFTEN:
        return None
    return Finding(
        "failed_value_fit", "M3", "severe" if failed.mean() > MOSTLY else "warning",
        "the value fit diverges",
        f"its loss rose, or was not finite, in {failed.mean():.0%} of the updates",
        case.updates(failed),
        ("the learning rate is too large", "returns of a large scale"),
        (f"--value-learning-rate {float(np.min(case.hparams.value_learning_rate)) / 3:.2g}",
         "--normalize-rewards"),
    )  # fmt: skip


def entropy_collapse(case: Case) -> Finding | None:
    """D4, M5: the policy became nearly deterministic without having become better."""
    entropy, returns = case["entropy"], case.returns
    lost = entropy[0] - entropy[-1]
    dimensions = _num_dimensions(case)
    if case.continuous or (case.continuous is None and entropy[-1] < 0):
        collapsed = lost > COLLAPSED_LOG_STD * dimensions
    else:
        collapsed = entropy[-1] < COLLAPSED_ENTROPY * entropy[0]
    locking = case["alarm_locking_in"]
    improved = _late(returns) > _early(returns) + _spread(returns)
    collapses = collapsed and not (improved and locking.mean() < OFTEN)
    if not collapses and (improved or locking.mean() <= MOSTLY):
        return None
    return Finding(
        "entropy_collapse", "D4", "severe", "the policy becomes deterministic too early",
        f"entropy fell from {entropy[0]:.2f} to {entropy[-1]:.2f} nats while the return went from "
        f"{_early(returns):.4g} to {_late(returns):.4g}; it fell sharply at a high KL in "
        f"{locking.mean():.0%} of the updates",
        case.updates(locking),
        ("steps too large for so little data", "a reward that favours one action at first"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}",
         f"--entropy-coef {max(0.01, 3 * float(np.max(case.hparams.entropy_coef))):.2g}",
         "larger batches: --num-envs, --num-steps"),
    )  # fmt: skip


def biased_advantages(case: Case) -> Finding | None:
    """D3: the surrogate rises and the return falls."""
    returns = case.returns
    gained = case["accepted"] & (case["improvement"] > 0)
    falls = _late(returns) < _early(returns) - _spread(returns)
    if gained.mean() < MOSTLY or not falls or _trend(returns) > -CLEAR_TREND:
        return None
    return Finding(
        "biased_advantages", "D3", "severe", "the surrogate rises but the return falls",
        f"{gained.mean():.0%} of the updates gained on the surrogate, yet the return fell from "
        f"{_early(returns):.4g} to {_late(returns):.4g}; explained variance is "
        f"{case.median(case['explained_variance']):.2f} (median)",
        (),
        ("the advantages are biased: wrong sign, wrong bootstrap at time limits, rewards shifted "
         "by a step", "a value function that is fitted to something else",
         "too small a gae_lambda for this critic"),
        ("inspect them: trpo-jax doctor RUN --dump DIR", "--gae-lambda 0.98",
         "--value-epochs 20"),
    )  # fmt: skip


def collapse(case: Case) -> Finding | None:
    """M7: the return was lost again."""
    returns = case.returns
    drops = case["alarm_return_drop"]
    best, late, early = _best(returns), _late(returns), _early(returns)
    if not np.isfinite(best + late + early) or best - early <= _spread(returns):
        return None
    lost = (best - late) / (best - early)
    if lost < MOSTLY:
        return None
    return Finding(
        "collapse", "M7", "severe" if lost > 0.75 else "warning",
        "the return was reached and lost again",
        f"{lost:.0%} of the gain is gone: {early:.4g} at the start, {best:.4g} at best, "
        f"{late:.4g} at the end; {drops.mean():.0%} of the updates lost more than half",
        case.updates(drops),
        ("steps too large: mean KL does not bound every state's", "batches too small",
         "a critic that did not follow"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}",
         "larger batches: --num-envs, --num-steps", "--value-epochs 20"),
    )  # fmt: skip


def rejected_steps(case: Case) -> Finding | None:
    """M8: the line search finds nothing, or only tiny steps."""
    rejected = case["status"] == StepStatus.LINE_SEARCH_FAILED
    fraction = case.median(case["step_fraction"][case["accepted"]])
    if rejected.mean() <= OFTEN and not fraction < 0.2:
        return None
    return Finding(
        "rejected_steps", "M8", "severe" if rejected.mean() > MOSTLY else "warning",
        "the line search rejects most of the step",
        f"{rejected.mean():.0%} of the updates were rejected; the others took {fraction:.0%} of "
        "the full step (median)",
        case.updates(rejected),
        ("the quadratic model does not hold within δ", "a noisy gradient"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}", "--max-backtracks 15",
         "--cg-damping 0.2"),
    )  # fmt: skip


def unlike_prediction(case: Case) -> Finding | None:
    """M8: steps gain much less than the gradient predicts."""
    accepted = case["accepted"]
    predicted = case["predicted_improvement"]
    ratio = case.median(
        (case["improvement"] / np.where(predicted > 0, predicted, np.nan))[accepted]
    )
    if not ratio < 0.3:
        return None
    return Finding(
        "unlike_prediction", "M8", "warning", "steps gain much less than predicted",
        f"{ratio:.0%} of gᵀΔθ (median)",
        (),
        ("the surrogate is not linear within the trust region",),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}", "--accept-ratio 0.1"),
    )  # fmt: skip


def settings(case: Case) -> Finding | None:
    """D6: settings that the article warns of."""
    config, hparams = case.config, case.hparams
    max_kl = float(np.max(hparams.max_kl))
    doubts = [
        (case.continuous and max_kl > 0.01,
         f"max_kl {max_kl:g} is above 0.01 on continuous control", "--max-kl 0.01"),
        (not config.normalize_advantages,
         "advantages are not normalised", "--normalize-advantages"),
        (config.cg_iterations < USUAL_ITERATIONS,
         f"{config.cg_iterations} iterations of conjugate gradients", "--cg-iterations 10"),
        (config.value_epochs < 4,
         f"{config.value_epochs} epochs of the value fit", "--value-epochs 10"),
        (not config.line_search, "no line search: nothing bounds the KL", "--line-search"),
    ]  # fmt: skip
    found = [(what, option) for doubtful, what, option in doubts if doubtful]
    if not found:
        return None
    return Finding(
        "settings", "D6", "warning", "settings that often go wrong",
        "; ".join(what for what, _ in found),
        (),
        (),
        tuple(option for _, option in found),
    )  # fmt: skip


_RULES: tuple[Callable[[Case], Finding | None], ...] = (
    off_policy,
    invalid_data,
    exploding_rewards,
    no_signal,
    dead_units,
    singular_curvature,
    cg_unconverged,
    untrained_critic,
    failed_value_fit,
    biased_advantages,
    entropy_collapse,
    collapse,
    rejected_steps,
    unlike_prediction,
    settings,
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
    """The same finding of several seeds: the gravest of them, and how many there are."""
    gravest = min(findings, key=lambda finding: _ORDER.index(finding.severity))
    if num_seeds == 1 or gravest.name == "settings":
        return gravest
    return gravest._replace(evidence=f"{gravest.evidence} ({len(findings)} of {num_seeds} seeds)")


def _early(returns: np.ndarray) -> float:
    """Return at the start: mean of the first tenth, of three at least."""
    finite = returns[np.isfinite(returns)]
    return float(finite[: _width(finite)].mean()) if finite.size else float("nan")


def _late(returns: np.ndarray) -> float:
    """Return at the end: mean of the last tenth, of three at least."""
    finite = returns[np.isfinite(returns)]
    return float(finite[-_width(finite) :].mean()) if finite.size else float("nan")


def _best(returns: np.ndarray) -> float:
    """Highest mean over a tenth of the returns in a row, over three at least."""
    finite = returns[np.isfinite(returns)]
    if not finite.size:
        return float("nan")
    width = _width(finite)
    return float(np.convolve(finite, np.ones(width) / width, mode="valid").max())


def _width(returns: np.ndarray) -> int:
    """How many returns are averaged; a single one is too noisy to judge by."""
    return min(returns.size, max(3, returns.size // 10))


def _spread(returns: np.ndarray) -> float:
    """Twice the noise of the return: what it jumps from one update to the next; ∞ for too few."""
    finite = returns[np.isfinite(returns)]
    if finite.size < ENOUGH_RETURNS:
        return float("inf")
    return float(2 * np.median(np.abs(np.diff(finite))) / 0.95)


def _trend(returns: np.ndarray) -> float:
    """Rank correlation of return and time."""
    from scipy.stats import spearmanr

    finite = returns[np.isfinite(returns)]
    if finite.size < 5 or np.ptp(finite) == 0:
        return 0.0
    return float(spearmanr(np.arange(finite.size), finite).statistic)


def _num_dimensions(case: Case) -> int:
    """Action dimensions, from the two KLs."""
    kl, per_dimension = case["kl"], case["kl_per_dimension"]
    usable = per_dimension > 0
    return round(float(np.median(kl[usable] / per_dimension[usable]))) if usable.any() else 1


def _to_text(finding: Finding) -> str:
    lines = [f"{finding.severity.upper()}: {finding.title} [{finding.row}]"]
    lines += _wrapped("", finding.evidence)
    if finding.updates:
        lines += _wrapped("updates: ", ", ".join(map(str, finding.updates)) + ", …")
    if finding.causes:
        lines += _wrapped("likely because: ", "; or ".join(finding.causes))
    return "\n".join(lines + _wrapped("change: ", "; or ".join(finding.remedies)))


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(label + text, 78, initial_indent="  ", subsequent_indent="    ")
