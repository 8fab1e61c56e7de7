"""What the programs of an update consist of on each platform: products and loops, counted.

python benchmarks/lowered.py [--out FILE]

`jax.export` lowers for any platform from any machine. It shows no kernels, only what a platform has
to do, and which loops it can run without asking the host whether they go on. The last column is
of the optimised program for the CPU, the only one compiled here.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import report

import trpo_jax
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.objective import make_objective
from trpo_jax.solver.objective import curvature_product

_CONDITION = re.compile(r"stablehlo\.while\(.*?\n\s*cond \{\n(.*?)\n\s*\} do \{", re.S)
_PRODUCT = re.compile(r"= stablehlo\.(?:dot_general|convolution)\b")
_COUNTER = re.compile(
    r"(?:.*= stablehlo\.constant dense<\d+> : tensor<i(?:32|64)>\n)?"
    r".*stablehlo\.compare\s+LT, %\S+, %\S+.*tensor<i(?:32|64)>.*\n"
    r".*stablehlo\.return.*"
)


class Counts(NamedTuple):
    """Of the text of a program; what a loop repeats counts once."""

    products: int
    """Matrix products and convolutions."""
    counted: int
    """Loops that count up to a number: their trips are known in advance."""
    open_ended: int
    """Loops that go on as long as the data say."""
    operations: int
    """Operations of any kind."""


def text(function: Callable[..., Any], *arguments: Any, platform: str = "cuda") -> str:
    """The StableHLO of a function, lowered for a platform; arguments may be shapes."""
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
    return exported.mlir_module()


def counts(program: str) -> Counts:
    """The counts of a program's text."""
    conditions = _CONDITION.findall(program)
    assert len(conditions) == program.count("stablehlo.while(")
    known = sum(_COUNTER.fullmatch(condition) is not None for condition in conditions)
    return Counts(
        products=len(_PRODUCT.findall(program)),
        counted=known,
        open_ended=len(conditions) - known,
        operations=len(re.findall(r"(?m)^\s*%\S+ = ", program)),
    )


def parts(agent: trpo_jax.Agent) -> dict[str, tuple]:
    """The parts of an update by name: a function and the shapes of its arguments."""
    state = jax.eval_shape(agent.init, jax.random.key(0))
    hparams = jax.eval_shape(trpo_jax.HParams().as_arrays)
    _, trajectory = jax.eval_shape(agent.rollout, state)
    prepare = functools.partial(prepare_batch, agent.parts)
    batch = jax.eval_shape(prepare, state, trajectory, trajectory.reward, hparams).batch
    objective = make_objective(agent.policy, 0.0)

    def products(params: Any, batch: Any, vectors: list[Any]) -> list[Any]:
        product = curvature_product(objective, params, batch)
        return [product(vector) for vector in vectors]

    def step(params: Any, batch: Any, hparams: trpo_jax.HParams) -> Any:
        settings = trpo_jax.trust_region_settings(hparams, agent.parts.config)
        return trpo_jax.trust_region_step(objective, params, batch, **settings)

    def fit(state: Any, batch: Any, hparams: trpo_jax.HParams) -> Any:
        key, params, fit_state = state.key, state.value_params, state.value_opt_state
        return agent.parts.value_fit.apply(
            key, agent.critic.apply, params, fit_state, batch, hparams, agent.parts.config
        )

    params = state.policy_params
    return {
        "rollout": (agent.rollout, state),
        "curvature, linearised, and one product": (products, params, batch, [params]),
        "the same, and two products": (products, params, batch, [params, params]),
        "policy step": (step, params, batch, hparams),
        "value fit": (fit, state, batch, hparams),
        "update": (agent.update, state, hparams),
    }


def kernels(function: Callable[..., Any], *arguments: Any) -> int:
    """Fusions in the optimised program for the machine's own device."""
    program = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r"(?m)^\s*(?:ROOT )?%\S+ = .* fusion\(", program))


def main() -> None:
    parser = report.parser(__doc__, "lowered.md")
    out = Path(parser.parse_args().out)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"))
    rows = []
    for name, (function, *arguments) in parts(agent).items():
        for platform in ("cpu", "cuda", "tpu"):
            found = counts(text(function, *arguments, platform=platform))
            fused = kernels(function, *arguments) if platform == "cpu" else ""
            rows.append([name, platform, *found, fused])
    header = ["part", "platform", "products", "counted loops", "open-ended loops", "operations"]
    note = (
        "CartPole-v1, default settings. A loop counts once, however often it runs. The rows of cpu "
        "were those of every platform until conjugate gradients and the line search got forms of "
        "their own for accelerators (`trpo_jax/common/platforms.py`): there all products of "
        "conjugate gradients are done, and all candidates of the line search are tried in one "
        "batched pass, so that no loop waits for the host."
    )
    report.write(out, "Programs, lowered", note, report.table([*header, "fusions"], rows))


if __name__ == "__main__":
    main()
