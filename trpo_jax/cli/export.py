"""`trpo-jax export`: the policy of a run as a file that runs without this library."""

import sys

from trpo_jax.cli.inspect import load
from trpo_jax.cli.parsing import parse
from trpo_jax.cli.reading_arguments import ExportArguments


def export(argv: list[str]) -> int:
    """Write the policy of a run to a file."""
    arguments = parse(ExportArguments, argv, "trpo-jax export")
    run, agent, state = load(arguments.run, arguments.checkpoint)
    from trpo_jax.experiments import states
    from trpo_jax.experiments.export import export_policy

    file = export_policy(
        agent,
        states.lane(run.spec, state, arguments.seed),
        arguments.out or run.path / "policy",
        arguments.to,
        deterministic=not arguments.stochastic,
    )
    print(file)
    if arguments.to == "numpy":
        print(f"{file.with_name('numpy_policy.py')} runs it with NumPy alone", file=sys.stderr)
    return 0
