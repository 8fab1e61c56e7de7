"""The command that checks an environment."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trpo_jax.cli.parsing import keywords_of, parse, require_at_least
from trpo_jax.cli.reading_arguments import CheckArguments

_STYLES = {"kept": "green", "broken": "bold red", "skipped": "dim", "note": "yellow"}


def check(argv: list[str]) -> int:
    """Try an environment and say which promises it breaks; 1 if it breaks any, else 0."""
    arguments = parse(CheckArguments, argv, "trpo-jax check")
    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    require_at_least(arguments, "num_envs", 2)
    require_at_least(arguments, "num_steps", 2)
    from trpo_jax.envs import make_env
    from trpo_jax.experiments.conformance import check_environment

    env = make_env(arguments.env, **keywords_of(arguments.env_args))
    report = check_environment(
        env, num_envs=arguments.num_envs, num_steps=arguments.num_steps, seed=arguments.seed
    )
    table = Table("promise", "", "", box=box.SIMPLE_HEAD)
    for promise, status, detail in report.rows():
        table.add_row(promise, Text(status, _STYLES[status]), Text(detail))
    console = Console()
    console.print(table)
    console.print(Text(report.summary))
    return 0 if report.ok else 1
