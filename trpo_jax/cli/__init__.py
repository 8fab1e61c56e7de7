"""The command line. Only this package parses arguments."""

from trpo_jax.cli.app import main

__all__ = ["main"]
