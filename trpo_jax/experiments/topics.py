"""The topics that are plotted for a run, one per panel."""

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from trpo_jax.experiments.figures import draw_line
from trpo_jax.experiments.loggers import LAST, MEANS
from trpo_jax.experiments.run_directory import Run
from trpo_jax.learner.batch import OFF_POLICY_GAP
from trpo_jax.learner.monitoring import INACTIVE_UNITS

LINE_STYLES = ("-", "--", "-.", ":")


class Curves(NamedTuple):
    """One run, prepared for plotting."""

    label: str
    color: str
    style: Any
    run: Run
    histories: list[dict[str, np.ndarray]]
    """One history per seed; none for a run without updates."""

    @property
    def steps(self) -> np.ndarray:
        """[updates]: environment steps by the end of each update."""
        return self.stack("steps")[0]

    def stack(self, name: str) -> np.ndarray:
        """[seeds, updates, ...]: a metric, for the updates that all seeds have.

        NaN if the method does not report the metric.
        """
        if any(name not in history for history in self.histories):
            return np.full_like(self.stack("kl"), np.nan)
        columns = [history[name] for history in self.histories]
        shortest = min(len(column) for column in columns)
        return np.stack([column[:shortest] for column in columns]).astype(float)


class Topic(NamedTuple):
    """One panel of the overview, and one plot of its own."""

    name: str
    title: str
    draw: Callable[[Any, list[Curves]], None]


def _line(ax: Any, curves: Curves, values: np.ndarray, **style: Any) -> None:
    draw_line(
        ax, curves.steps, values, **{"color": curves.color, "linestyle": curves.style, **style}
    )


def _pair(ax: Any, curves: list[Curves], solid: tuple[str, str], dotted: tuple[str, str]) -> None:
    """Draw two metrics per run, each given by name and label; the second is dotted."""
    for (name, label), linestyle in ((dotted, ":"), (solid, "-")):
        for each in curves:
            _line(ax, each, each.stack(name), linestyle=linestyle)
        _explain_style(ax, curves, linestyle, label)


def _explain_style(ax: Any, curves: list[Curves], linestyle: str, label: str) -> None:
    """A legend entry for a line style that all runs share."""
    color = curves[0].color if len(curves) == 1 else "0.3"
    ax.plot([], [], color=color, linestyle=linestyle, label=label)


def _returns(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        label = "training" if len(curves) == 1 else None
        _line(ax, each, each.stack("episode_return"), label=label)
        evaluations = each.run.evaluations()
        if evaluations:
            label = "evaluation, deterministic policy" if each is curves[0] else None
            steps = [line["steps"] for line in evaluations]
            means = [line["mean"] for line in evaluations]
            ax.plot(steps, means, "D", color=each.color, markersize=5, label=label)
    ax.set_ylabel("mean episode return")


def _kl(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("kl"))
    first_with = {float(each.run.spec.hparams.max_kl): each for each in reversed(curves)}
    for bound, each in sorted(first_with.items()):
        color = each.color if len(first_with) > 1 else "black"
        ax.axhline(bound, color=color, linestyle=":", linewidth=1.2, label=f"δ = {bound:g}")
    ax.set_ylabel("mean KL(old‖new), nats")
    ax.set_ylim(bottom=0)


def _improvement(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("improvement", "actual"), ("predicted_improvement", "predicted, gᵀΔθ"))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel("gain of the surrogate")


def _residuals(ax: Any, curves: list[Curves]) -> None:
    """Relative residuals: of one run after several iterations, of several runs after the last."""
    for each in curves:
        norms = each.stack("cg_residual_norms")
        if norms.ndim < 3:  # a method without conjugate gradients
            continue
        relative = norms / np.where(norms[..., :1] > 0, norms[..., :1], np.nan)
        last = relative.shape[-1] - 1
        shown = (*(k for k in (1, 2, 5, 10, 20) if k < last), last) if len(curves) == 1 else (last,)
        for k, shade in zip(shown, np.linspace(1, 0.35, len(shown))[::-1], strict=True):
            label = f"iteration {k}" if len(curves) == 1 else None
            _line(ax, each, relative[..., k], color=_lighter(each.color, shade), label=label)
    ax.set_yscale("log")
    where = "" if len(curves) == 1 else " after the last iteration"
    ax.set_ylabel(f"residual ‖r‖ / ‖g‖{where}")


def _lighter(color: str, share: float) -> tuple[float, ...]:
    """A colour mixed with white; `share` of the colour is kept."""
    from matplotlib.colors import to_rgb

    return tuple(1 - share * (1 - part) for part in to_rgb(color))


def _entropy(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("entropy"))
    ax.set_ylabel("entropy, nats")


def _explained_variance(ax: Any, curves: list[Curves], name: str = "explained_variance") -> None:
    for each in curves:
        _line(ax, each, np.maximum(each.stack(name), -1))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel("explained variance (cut at −1)")


def _value_loss(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("value_loss", "after the fit"), ("value_loss_before", "before the fit"))
    if any((each.stack("value_loss") > 0).any() for each in curves):
        ax.set_yscale("log")
    ax.set_ylabel("mean squared error")


def _step_fraction(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        fraction, rejected = each.stack("step_fraction"), each.stack("accepted") == 0
        _line(ax, each, fraction)
        at = each.steps[rejected.any(axis=0)]
        style = {"color": each.color, "linestyle": "", "marker": "x", "markersize": 5}
        label = f"rejected: {rejected.mean():.1%} of updates"
        ax.plot(at, np.full(at.size, 0.02), label=label, **style)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("share of the full step (0: rejected)")


def _inactive_units(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        shares = each.stack("inactive_units")
        for layer in range(shares.shape[-1]):
            style = LINE_STYLES[layer % len(LINE_STYLES)]
            _line(ax, each, shares[..., layer], linestyle=style)
    for layer in range(max(each.stack("inactive_units").shape[-1] for each in curves)):
        _explain_style(ax, curves, LINE_STYLES[layer % len(LINE_STYLES)], f"layer {layer + 1}")
    ax.axhline(INACTIVE_UNITS, color="black", linewidth=0.8, label="alarm")
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("dead or saturated, share of units")


def _advantages(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("advantage_std", "standard deviation"), ("advantage_mean", "mean"))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel("raw advantages")


def _lengths(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("episode_length"))
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean episode length, steps")


def _on_policy_gap(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, np.maximum(each.stack("on_policy_gap"), 1e-9))
        refused = each.stack("alarm_off_policy") > 0
        if refused.any():
            at = each.steps[refused.any(axis=0)]
            label = f"refused: {refused.mean():.1%} of updates"
            ax.plot(at, np.full(at.size, 1e-9), "x", color=each.color, markersize=5, label=label)
    ax.axhline(OFF_POLICY_GAP, color="black", linewidth=0.8, label="refused above")
    ax.set_yscale("log")
    ax.set_ylabel("largest relative gap of log π (≥ 1e-9)")


def _costs(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("cost_estimate", "estimate Ĵ_C"), ("episode_cost", "episodes that ended"))
    for each in curves:
        lines = [line for line in each.run.evaluations() if "mean_cost" in line]
        label = "evaluation, deterministic policy" if lines and each is curves[0] else None
        steps, means = ([line[key] for line in lines] for key in ("steps", "mean_cost"))
        ax.plot(steps, means, "D", color=each.color, markersize=5, label=label)
    limits = {
        float(each.run.spec.hparams.cost_limit): each
        for each in reversed(curves)
        if "constraint_violation" in each.histories[0]
    }
    for limit, each in sorted(limits.items()):
        color = each.color if len(limits) > 1 else "black"
        ax.axhline(limit, color=color, linestyle=":", linewidth=1.2, label=f"limit d = {limit:g}")
    ax.set_ylabel("cost per episode")


def _multiplier(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("constraint_multiplier"))
    ax.set_ylabel("multiplier ν of the constraint")


def _cost_critic(ax: Any, curves: list[Curves]) -> None:
    _explained_variance(ax, curves, "cost_explained_variance")


def topics_of(curves: list[Curves]) -> tuple[Topic, ...]:
    """The topics of these runs: those of every run, of costs, and one per metric of their
    environments."""
    columns = dict.fromkeys(name for each in curves for name in each.histories[0])
    names = [name.removeprefix(MEANS) for name in columns if name.startswith(MEANS)]
    costs = tuple(topic for topic, column in _OF_COSTS if column in columns)
    return (*TOPICS, *costs, *map(_measured, names))


def _measured(name: str) -> Topic:
    """The topic of one metric of the environment."""

    def draw(ax: Any, curves: list[Curves]) -> None:
        _pair(ax, curves, (MEANS + name, "mean of an episode"), (LAST + name, "at its last step"))
        ax.set_ylabel("average over episodes")

    return Topic(f"env_metric-{quote(name, safe='/').replace('/', '-')}", name, draw)


TOPICS = (
    Topic("return", "Learning curve", _returns),
    Topic("kl", "KL of the step against its bound", _kl),
    Topic("improvement", "Improvement, predicted and actual", _improvement),
    Topic("cg_residual", "Conjugate gradients", _residuals),
    Topic("step_fraction", "Line search", _step_fraction),
    Topic("entropy", "Entropy", _entropy),
    Topic("explained_variance", "Critic before its fit", _explained_variance),
    Topic("value_loss", "Critic's loss", _value_loss),
    Topic("advantages", "Advantages before normalisation", _advantages),
    Topic("inactive_units", "Inactive units of the policy", _inactive_units),
    Topic("episode_length", "Episodes", _lengths),
    Topic("on_policy_gap", "Is the data of this policy?", _on_policy_gap),
)
_OF_COSTS = (
    (Topic("cost", "Cost per episode", _costs), "cost_estimate"),
    (Topic("multiplier", "Price of the limit", _multiplier), "constraint_multiplier"),
    (Topic("cost_critic", "Critic of the costs, before its fit", _cost_critic),
     "cost_explained_variance"),
)  # fmt: skip
"""Topics, and the column that a run must have."""
