"""The ids of all suites, known without importing any of them.

`ids.txt` lists them, one full id a line; `python -m trpo_jax.envs.ids` writes it anew from the
libraries that are installed.
"""

import functools
import importlib
from pathlib import Path

_FILE = Path(__file__).with_name("ids.txt")
ROBOTS = "playground/robots"
"""The group of Playground's environments whose models are not in its package."""


def names_of(suite: str) -> tuple[str, ...]:
    """The names within a suite or within `ROBOTS`, in its own order; () if it is unknown."""
    return _names().get(suite, ())


@functools.cache
def _names() -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for line in _FILE.read_text().splitlines():
        full_id, _, mark = line.partition(" ")
        suite, _, name = full_id.partition("/")
        names.setdefault(suite, []).append(name)
        if mark:
            names.setdefault(f"{suite}/{mark}", []).append(name)
    return {suite: tuple(members) for suite, members in names.items()}


def collect() -> str:
    """The text of `ids.txt`, as the installed libraries give it."""
    from trpo_jax.envs.suites import SUITES

    adapters = {suite: importlib.import_module(f"trpo_jax.envs.{suite}") for suite in SUITES}
    robots = adapters["playground"].robots()
    lines = []
    for suite, adapter in adapters.items():
        for name in adapter.list_ids():
            if suite == "gymnasium" and not _can_be_made(name):
                continue
            mark = " robots" if suite == "playground" and name in robots else ""
            lines.append(f"{suite}/{name}{mark}")
    return "\n".join(lines) + "\n"


def _can_be_made(name: str) -> bool:
    """Whether Gymnasium can make it: its registry also has names that it only refuses."""
    import gymnasium

    try:
        gymnasium.make(name).close()
    except (ImportError, gymnasium.error.Error):
        return False
    return True


if __name__ == "__main__":
    _FILE.write_text(collect())
