"""The command line: the only place that parses arguments."""

from trpo_jax.cli.app import main

__all__ = ["main"]
