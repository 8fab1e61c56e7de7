"""Words that the tables share: names of peers, provenance, disturbance."""

from typing import Any

from client import TITLES

Study = dict[str, Any]

INTRODUCTION = """\
Written by `python benchmarks/compare_peers.py`, study by study; each has its command, date and
machine below it, for every run that gave rows. Equal for all: 8 environments × 256 steps, 64 × 64
tanh for policy and critic, γ 0.99 (Pendulum 0.9), λ 0.95, joint δ 0.01, 10 CG iterations, damping
0.1, 10 line search tries × 0.8, 10 epochs of minibatch 128 with Adam 1e-3. What cannot be made
equal: tianshou fits its critic on the full batch, so an epoch is one step of Adam instead of 16;
PPO (rejax) moves policy and critic in each of the 160 minibatch steps.

Peers are timed in turn, at least three rounds, in one process each; a call is repeated until a
timing lasts half a second. PEER, 1 thread, is a PyTorch peer with one thread instead of one per
core. A wall time counts only if other processes took at most a tenth of the cores meanwhile; where
there were not three such, the three least disturbed count, and the column *others* says how much
they were disturbed. CPU time, of all threads of a process, hardly depends on others; a program's
wall time on a still machine is at most that. So where the machine was not still, peers are compared
by CPU time. That favours a peer of one thread: trpo_jax uses both cores. All without compilation
unless it says otherwise."""


def title(name: str) -> str:
    """How a peer is called in a table."""
    base, _, threads = name.partition("@")
    return TITLES[base] + (f", {threads} thread" if threads else "")


def stamps(studies: dict[str, Study]) -> str:
    """Command, date, machine and versions, as a Markdown list; one for each command or day.

    `studies` are named after the rows that they gave; those names are told if there are several
    lists.
    """
    runs: dict[tuple[str, str, str], dict[str, Study]] = {}
    for rows, study in studies.items():
        runs.setdefault((study["command"], study["date"], study["hardware"]), {})[rows] = study
    parts = []
    for (command, date, hardware), covered in runs.items():
        if len(runs) > 1:
            parts.append(f"Rows {'; '.join(covered)}:")
        lines = [command, f"- date: {date}", hardware, _versions(list(covered.values()))]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _versions(studies: list[Study]) -> str:
    known: dict[str, str] = {}
    for study in studies:
        for name, entry in study["peers"].items():
            versions = ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
            known[TITLES[name.partition("@")[0]]] = versions
    return "- versions: " + "; ".join(f"{name}: {versions}" for name, versions in known.items())


def relative(entry: dict[str, Any], ours: dict[str, Any] | None, kind: str) -> str:
    """A cost of a peer as a multiple of ours."""
    return f"{entry[kind] / ours[kind]:.2f}" if ours and ours[kind] else ""


def disturbance(entry: dict[str, Any]) -> tuple[str, str]:
    """What others took of the cores, and how many timings were used."""
    return f"{100 * entry['others']:.0f} %", f"{entry['used']} of {entry['of']}"
