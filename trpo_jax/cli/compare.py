"""`trpo-jax compare`: which of two runs has the better policy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trpo_jax.cli.inspect import load
from trpo_jax.cli.parsing import parse, require_at_least
from trpo_jax.cli.reading_arguments import CompareArguments

if TYPE_CHECKING:
    from trpo_jax.experiments.run_directory import Run


def compare(argv: list[str]) -> int:
    """Play the same episodes with the policies of two runs."""
    arguments = parse(CompareArguments, argv, "trpo-jax compare")
    require_at_least(arguments, "episodes", 2)
    from trpo_jax.experiments import comparison, run_directory, states
    from trpo_jax.experiments.evaluation import evaluation_key
    from trpo_jax.experiments.files import to_json

    comparison.require_confidence(arguments.confidence)
    paths = arguments.run_a, arguments.run_b
    _require_same_environment(*(run_directory.load_run(path) for path in paths))
    (run_a, agent_a, state_a), (run_b, agent_b, state_b) = (
        load(path, which)
        for path, which in zip(paths, (arguments.checkpoint_a, arguments.checkpoint_b), strict=True)
    )
    result = comparison.compare(
        agent_a,
        states.lane(run_a.spec, state_a, arguments.seed_a),
        states.lane(run_b.spec, state_b, arguments.seed_b),
        evaluation_key(),
        agent_b,
        num_episodes=arguments.episodes,
        confidence=arguments.confidence,
        deterministic=not arguments.stochastic,
    )
    cost = result.cost
    if arguments.json:
        print(to_json({**result._asdict(), "cost": cost and cost._asdict()}))
        return 0
    print(f"A           {result.mean_a:.2f} ({_named(arguments.run_a, arguments.checkpoint_a)})")
    print(f"B           {result.mean_b:.2f} ({_named(arguments.run_b, arguments.checkpoint_b)})")
    print(f"difference  {result}")
    if cost is not None:
        low, high = cost.interval
        print(
            f"costs       A {cost.mean_a:.2f}, B {cost.mean_b:.2f}, difference "
            f"{cost.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        )
    print(f"verdict     {_VERDICTS[result.verdict]}")
    return 0


_VERDICTS = {
    "better": "B is better",
    "worse": "B is worse",
    "no difference seen": "no difference seen",
}


def _named(path: Path, checkpoint: str) -> str:
    return f"{path}, {checkpoint}"


def _require_same_environment(run_a: "Run", run_b: "Run") -> None:
    """Raise `ValueError` unless both act in the same environment; warn if its arguments differ."""
    (id_a, kwargs_a), (id_b, kwargs_b) = (
        (run.spec.env_id, run.spec.env_kwargs) for run in (run_a, run_b)
    )
    if id_a != id_b:
        raise ValueError(
            f"run_b={run_b.path} was trained in {id_b} and run_a={run_a.path} in {id_a}; policies "
            "are compared in the same environment"
        )
    if kwargs_a != kwargs_b:
        print(
            f"warning: A acts in {id_a} with {kwargs_a or 'no arguments'}, B with "
            f"{kwargs_b or 'none'}",
            file=sys.stderr,
        )
