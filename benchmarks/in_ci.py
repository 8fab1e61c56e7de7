"""How fast is this checkout, next to plain JAX and to what was last recorded? A table; never fails.

python benchmarks/in_ci.py [--record] [--quick]

Only ratios to a plain prototype (`plain_trpo.py`) that takes turns with the library, because the
machines of CI differ. `--record` keeps them in results/in_ci.json, for later tables to show too.
"""

import argparse
import json
import sys
import traceback

import report
import speed
from timing import without_cache

STORE = report.RESULTS / "in_ci.json"


def measured(num_updates: int, repeats: int) -> dict[str, float]:
    """Times of trpo_jax as multiples of the prototype's, by what was timed."""
    ours, plain = speed.against_the_prototype(num_updates, repeats)
    cold = [float(value) for _, value in speed.cold_start(1)]
    return {
        "an update, warm": 1 / float(plain[3]),
        "compilation of the training": float(ours[2]) / float(plain[2]),
        "cold start to the first update": cold[2] / cold[4],
        "the same, programs on disk": cold[3] / cold[4],
    }


def compared(now: dict[str, float], before: dict[str, float]) -> str:
    """A table of the ratios, those recorded, and the changes."""
    rows = []
    for name, value in now.items():
        old = before.get(name)
        change = f"{100 * (value / old - 1):+.0f} %" if old else ""
        rows.append([name, f"{value:.2f}", f"{old:.2f}" if old else "none", change])
    return report.table(["time relative to plain JAX", "now", "recorded", "change"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Ratios to plain JAX; never fails.")
    parser.add_argument("--record", action="store_true", help="keep these ratios")
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    arguments = parser.parse_args()
    try:
        before = json.loads(STORE.read_text()) if STORE.exists() else {}
        now = measured(*((2, 2) if arguments.quick else (20, 5)))
        print(compared(now, before.get("ratios", {})))
        print("\n".join([report.source(), *before.get("measured", [])]))
        if arguments.record:
            provenance = [f"recorded: {line[2:]}" for line in report.provenance()[1:]]
            text = json.dumps({"ratios": now, "measured": provenance}, indent=1)
            STORE.write_text(text + "\n")
    except Exception:
        print("the table of speed could not be measured:")
        traceback.print_exc(file=sys.stdout)
    return 0


if __name__ == "__main__":
    without_cache()
    sys.exit(main())
