"""The tables of `devices.py`."""

import os

import report


def collectives_section(measurements: list[dict]) -> str:
    measured = measurements[0]
    rows = measured["rows"]
    static = sum(row[4] for row in rows)
    dynamic = sum(row[2] * row[4] for row in rows)
    cells = [(row[0], row[1], row[4], row[2], row[3]) for row in sorted(rows)]
    header = ("part", "kind", "in the program", "runs of each per update", "bytes of each")
    return (
        f"## Collectives of one update\n\n8 devices, CartPole-v1, `{measured['config']}`; "
        f"{static} in the compiled program, {dynamic} per update. The compiler merges sums that "
        f"are ready together; such a one stands at the part of its first. Steps of the "
        f"environments and minibatches of the critic need none.\n\n{report.table(header, cells)}"
    )


def same_run_section(measured: list[dict]) -> str:
    rows = [
        (
            one["env_id"],
            f"{one['difference']:.1e}",
            f"{one['nudged']:.1e}",
            "yes" if one["same_decisions"] else "no",
        )
        for one in measured
    ]
    header = (
        "environment",
        "largest difference of the parameters",
        "of one device from itself, policy moved by one rounding",
        "same decisions and backtracks",
    )
    return (
        f"## The same run\n\n8 devices against one: ‖θ₁ − θ₈‖ / ‖θ₁‖ of policy and critic together "
        f"after {measured[0]['updates']} updates, the largest of seeds 0, 1, 2; "
        f"`{measured[0]['config']}`. Sums over several "
        f"devices round otherwise than sums over one, by 1e-7. An environment whose motion "
        f"amplifies small differences (Pendulum) amplifies these too, and so does an action that "
        f"is drawn from a discrete policy and falls on the edge.\n\n{report.table(header, rows)}"
    )


def scaling_section(measured: list[dict]) -> str:
    base = measured[0]["seconds"]
    rows = [
        (
            one["devices"],
            one["batch"],
            f"{one['seconds'] * 1e3:.0f}",
            f"{base / one['seconds']:.2f}",
        )
        for one in measured
    ]
    header = ("devices", "batch", "ms per update", "efficiency: time of one / time")
    return (
        f"## Weak scaling\n\nPendulum-v1, {measured[0]['envs_per_device']} environments × 128 "
        f"steps per device, minibatches that grow alike. The devices are virtual ones of a CPU "
        f"with {os.cpu_count()} cores, which one device uses in part already: beyond "
        f"{os.cpu_count()} of them the table shows what the partitioned program costs when it "
        f"gets no more hardware, not how it scales.\n\n{report.table(header, rows)}"
    )


def fits_section(measured: list[dict]) -> str:
    rows = [
        (one["devices"], name, one[kind]["count"], f"{one[kind]['seconds'] * 1e3:.0f}")
        for one in measured
        for name, kind in (
            ("collected once, fitted on every device (as it is)", "collected"),
            ("every minibatch split over the devices", "divided"),
        )
    ]
    header = ("devices", "value fit", "collectives", "ms")
    return (
        "## How the critic is fitted\n\n8192 transitions, 10 epochs, minibatches of 128, 64 × 64."
        "\n\n" + report.table(header, rows)
    )
