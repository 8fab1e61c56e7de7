"""Does a change of the code change a number? Parameters after some updates, of two checkouts.

    python benchmarks/same_numbers.py record before.npz    # in one checkout
    python benchmarks/same_numbers.py record after.npz     # in the other
    python benchmarks/same_numbers.py compare before.npz after.npz
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from report import table

import trpo_jax

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "gymnax/CartPole-v1": {},
    "gymnax/Pendulum-v1": {},
    "brax/inverted_pendulum": {"backend": "spring"},
}
UPDATES = (1, 20)


def record(file: Path) -> None:
    """Parameters of seed 0 before and after some updates, with the presets."""
    found = {}
    for env_id, kwargs in ENVIRONMENTS.items():
        preset = trpo_jax.get_preset(env_id)
        agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id, **kwargs), preset.config)
        state = agent.init(jax.random.key(0))
        for update in range(max(UPDATES) + 1):
            if update:
                state, _ = agent.update(state, preset.hparams)
            if update in (0, *UPDATES):
                for name in ("policy_params", "value_params"):
                    found[f"{env_id}, {name}, {update}"] = _flat(getattr(state, name))
    np.savez(file, **found)


def compare(before: Path, after: Path) -> str:
    """A table: equal bit for bit, or how far apart relative to the way from the start."""
    old, new = np.load(before), np.load(after)
    rows = []
    for key in old:
        start = old[f"{key.rpartition(',')[0]}, 0"]
        moved = np.linalg.norm(old[key] - start)
        apart = np.linalg.norm(new[key] - old[key])
        equal = old[key].tobytes() == new[key].tobytes()
        rows.append([*key.split(", "), equal, f"{apart / moved:.1e}" if moved else f"{apart:.1e}"])
    header = ["environment", "parameters", "updates", "equal bit for bit", "gap / way"]
    return table(header, rows)


def _flat(tree: Any) -> np.ndarray:
    """All leaves as one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "record":
        record(arguments.files[0])
    else:
        print(compare(*arguments.files))


if __name__ == "__main__":
    main()
