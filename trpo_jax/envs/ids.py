"""The ids of all suites, known without importing any of them.

`ids.txt` lists them, one full id a line; `python -m trpo_jax.envs.collect_ids` writes it anew from
the libraries that are installed.
"""

import functools
from pathlib import Path

FILE = Path(__file__).with_name("ids.txt")
ROBOTS = "playground/robots"
"""The group of Playground's environments whose models are not in its package."""


def names_of(suite: str) -> tuple[str, ...]:
    """The names within a suite or within `ROBOTS`, in its own order; () if it is unknown."""
    return _names().get(suite, ())


@functools.cache
def _names() -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for line in FILE.read_text().splitlines():
        full_id, _, mark = line.partition(" ")
        suite, _, name = full_id.partition("/")
        names.setdefault(suite, []).append(name)
        if mark:
            names.setdefault(f"{suite}/{mark}", []).append(name)
    return {suite: tuple(members) for suite, members in names.items()}
