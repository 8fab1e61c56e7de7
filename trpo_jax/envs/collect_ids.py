"""Write `ids.txt` anew: `python -m trpo_jax.envs.collect_ids`."""

import importlib

from trpo_jax.envs.ids import FILE
from trpo_jax.envs.suites import SUITES


def collect() -> str:
    """The text of `ids.txt`, as the installed libraries give it."""
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
    FILE.write_text(collect())
