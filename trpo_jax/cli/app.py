"""`trpo-jax`: dispatches to a command and returns its exit code.

Exit codes: 0 success; 1 `doctor` found something severe, `check` found a broken promise, or another
process of a run was lost; 2 a mistake by the caller (one line on stderr); 130 and 143 interrupted
by Ctrl-C and SIGTERM.
"""

import difflib
import sys
from collections.abc import Callable, Sequence

from trpo_jax.cli import check, compare, export, inspect, scores, sweep, train

_USAGE = """\
usage: trpo-jax COMMAND …

  train ENV     train a policy; `trpo-jax train ENV --help` shows all settings, with the defaults
                tuned for ENV; `trpo-jax train --resume RUN` continues a run
  sweep ENV     train a grid of hyperparameters, or random ones, in parallel
  merge SHARD … make one sweep of its shards, trained on several machines
  evaluate RUN  play episodes with a trained policy
  compare A B   say whether the policy of run B is better than that of run A
  scores RUN …  aggregate the evaluations of runs, as rliable does
  plot RUN …    draw the plots of one or several runs
  render RUN    write an episode to watch
  export RUN    write the policy as ONNX, StableHLO or NumPy, to run without trpo_jax
  doctor RUN    say what went wrong in a run, if anything, and what to change
  runs [DIR]    list the runs in a directory
  check ENV     try an environment, and say which promises it breaks
  envs [WORD]   list the environments there are, and what they need to be installed

`trpo-jax COMMAND --help` explains the options of a command.
"""

_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train.train,
    "sweep": sweep.sweep,
    "merge": sweep.merge,
    "evaluate": inspect.evaluate,
    "compare": compare.compare,
    "scores": scores.scores,
    "plot": inspect.plot,
    "render": inspect.render,
    "export": export.export,
    "doctor": inspect.doctor,
    "runs": inspect.runs,
    "check": check.check,
    "envs": inspect.envs,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except ValueError as error:
        print(f"trpo-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trpo-jax: interrupted", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv:
        raise ValueError(
            f"COMMAND is missing; use one of {', '.join(_COMMANDS)}; --help explains them"
        )
    if argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(_COMMANDS)}"
        raise ValueError(f"unknown command {command!r}; {hint}")
    return _COMMANDS[command](rest)
