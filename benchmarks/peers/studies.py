"""What is measured, and how: each study asks every peer in turn and returns plain JSON."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import given
import numpy as np
from client import Peer, Pool
from protocol import Settings
from stillness import STILL, Timing, Usage, others_share

ENVIRONMENTS = {
    "CartPole-v1": Settings("CartPole-v1"),
    "Acrobot-v1": Settings("Acrobot-v1"),
    "Pendulum-v1": Settings("Pendulum-v1", gamma=0.9),
}
"""The common settings of each environment that is trained."""
BRAX = {
    name: Settings(f"brax/{name}", {"backend": "spring"}, num_envs=32, num_steps=64)
    for name in ("inverted_pendulum", "hopper")
}


class Pace(NamedTuple):
    """How long is measured, and when that may begin."""

    budget: float
    """Seconds of timing, all rounds together."""
    gate: Path | None = None
    """A file to wait for once everything is prepared, so that a shared machine need be still only
    while something is timed."""

    def wait(self) -> None:
        """Until the gate is there."""
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.2)


def interleave(
    calls: dict[Any, Callable[[], Timing]], pace: Pace, fewest: int = 3
) -> dict[Any, dict[str, Any]]:
    """Time the calls one after the other, round after round, until the budget is spent.

    Reported is the median wall time of those timings during which the machine was still, or, where
    they are fewer than `fewest`, of the `fewest` least disturbed ones; and the median CPU time of
    all, which depends little on what else is running.
    """
    timings: dict[Any, list[Timing]] = {name: [] for name in calls}
    pace.wait()
    end = time.perf_counter() + pace.budget
    while time.perf_counter() < end or not all(timings.values()):
        for name, call in calls.items():
            timings[name].append(call())
            if time.perf_counter() > end and all(timings.values()):
                break
    return {name: _summary(values, fewest) for name, values in timings.items()}


def _summary(values: list[Timing], fewest: int) -> dict[str, Any]:
    ranked = sorted(values, key=lambda timing: timing.others)
    still = [timing for timing in ranked if timing.others <= STILL]
    used = still if len(still) >= fewest else ranked[:fewest]
    return {
        "seconds": statistics.median(timing.seconds for timing in used),
        "cpu_seconds": statistics.median(timing.cpu for timing in values),
        "others": max(timing.others for timing in used),
        "used": len(used),
        "of": len(values),
    }


def speed(
    peers: list[Peer], settings: list[Settings], pace: Pace, updates: dict[str, int]
) -> dict[str, Any]:
    """Per environment: seconds of one training iteration, rollout included, peer by peer.

    `updates` says how many iterations are timed at once: "jax" in one program, "torch" in a loop.
    """
    results: dict[str, Any] = {
        chosen.env_id: {"settings": chosen.as_json(), "peers": {}} for chosen in settings
    }
    calls = {}
    for peer, chosen in itertools.product(peers, settings):
        count = updates["torch" if _is_torch(peer) else "jax"]
        run = {"run": chosen.env_id, "num_updates": count}
        peer.ask("prepare", **run, settings=chosen.as_json(), seed=0)
        peer.ask("updates", **run)
        entry = {**peer.description, "updates": count}
        results[chosen.env_id]["peers"][peer.name] = entry
        calls[chosen.env_id, peer.name] = _timer(peer, "updates", pace, **run)
    for (env_id, name), summary in interleave(calls, pace).items():
        entry = results[env_id]["peers"][name]
        entry |= summary
        for kind in ("seconds", "cpu_seconds"):
            entry[f"{kind}_per_update"] = summary[kind] / entry["updates"]
    return results


def cold_start(names: list[str], venvs: Path, settings: Settings, pace: Pace) -> dict[str, Any]:
    """Seconds from the process's start to the end of its imports, and of compilation."""
    results = {}
    pace.wait()
    for name in names:
        before = Usage.now()
        with Pool(venvs) as pool:
            for peer in pool.get([name]):
                request = {"settings": settings.as_json(), "seed": 0, "num_updates": 2}
                reply = peer.ask("prepare", run="cold", **request)
                results[name] = {
                    **peer.description,
                    "start_seconds": peer.start_seconds,
                    "start_cpu_seconds": peer.start_cpu_seconds,
                    **reply,
                    "others": others_share(before, Usage.now(peer.pid)),
                }
    return {"settings": settings.as_json(), "peers": results}


def update_alone(
    peers: list[Peer], shapes: list[given.Shape], settings: Settings, pace: Pace
) -> dict[str, Any]:
    """Per shape: seconds of one update on the same batch from the same weights, and its effect.

    Fits: "none" is the policy step alone, "minibatch" adds the value fit in minibatches, "full"
    the value fit on the full batch, which is all that tianshou has.
    """
    results: dict[str, Any] = {}
    calls: dict[tuple[str, str, str], Callable[[], Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            chosen = settings.replace(hidden_sizes=shape.hidden_sizes)
            batch = given.make_batch(shape, seed=0)
            entries = _compare_outcomes(peers, batch, shape.label, chosen, Path(folder))
            pairs = [(peer, fit) for peer in peers for fit in _fits(peer, peers)]
            for peer, fit in pairs:
                request = {"run": shape.label, "fit": fit}
                weights = _weights_after(peer, batch, Path(folder), **request)
                error = given.value_error(weights, batch)
                entries[peer.name]["fits"][fit] = {"value_error": error}
                call = _timer(peer, "update_once", pace, **request)
                calls[shape.label, peer.name, fit] = call
            results[shape.label] = {"settings": chosen.as_json(), "peers": entries}
        for (label, name, fit), summary in interleave(calls, pace).items():
            results[label]["peers"][name]["fits"][fit] |= summary
    return results


def _compare_outcomes(
    peers: list[Peer], batch: given.Arrays, label: str, settings: Settings, folder: Path
) -> dict[str, Any]:
    """What one policy step of each peer does, judged by NumPy."""
    given.save(folder / "batch.npz", batch)
    entries, outcomes = {}, {}
    for peer in peers:
        request = {"settings": settings.as_json(), "path": str(folder / "batch.npz")}
        kls = []
        for joint in (False, True) if peer.name.startswith("sb3") else (True,):
            peer.ask("load_batch", run=label, **request, joint=joint)
            outcomes[peer.name] = _weights_after(peer, batch, folder, run=label, fit="none")
            kls.append(given.joint_kl(batch, outcomes[peer.name], batch["obs"]))
        entries[peer.name] = {
            **peer.description,
            "fits": {},
            "kl_as_it_is": kls[0],
            "kl": kls[-1],
            "improvement": given.improvement(outcomes[peer.name], batch),
        }
    for name, outcome in outcomes.items():
        if "trpo_jax" in outcomes:
            entries[name]["distance"] = _distance(batch, outcome, outcomes["trpo_jax"])
    return entries


def _weights_after(peer: Peer, batch: given.Arrays, folder: Path, **request: Any) -> given.Arrays:
    """The weights after one update, with the batch."""
    peer.ask("update_once", **request)
    peer.ask("save_update", run=request["run"], path=str(folder / "result.npz"))
    return {**batch, **given.load(folder / "result.npz")}


def _distance(old: given.Arrays, new: given.Arrays, reference: given.Arrays) -> float:
    """‖θ_new − θ_reference‖ / ‖θ_reference − θ_old‖ over the policy's parameters."""
    start, end = given.policy_vector(old), given.policy_vector(reference)
    gap = given.policy_vector(new) - end
    return float(np.linalg.norm(gap) / np.linalg.norm(end - start))


def _fits(peer: Peer, peers: list[Peer]) -> tuple[str, ...]:
    """The value fits that a peer has; ours on the full batch only where one is to compare with."""
    if peer.name.startswith("tianshou"):
        return "none", "full"
    full = peer.name == "trpo_jax" and any(other.name.startswith("tianshou") for other in peers)
    return ("none", "minibatch", "full") if full else ("none", "minibatch")


def _is_torch(peer: Peer) -> bool:
    return "torch" in peer.description["versions"]


def _timer(peer: Peer, do: str, pace: Pace, **arguments: Any) -> Callable[[], Timing]:
    return lambda: peer.time(do, patience=pace.budget / 100, **arguments)


def against_brax(
    peers: list[Peer], settings: Settings, num_updates: int, repeats: int
) -> dict[str, Any]:
    """Seconds of an iteration on a brax environment: brax's own PPO beside trpo_jax.

    brax trains in one call that cannot be interleaved: it runs between two runs of ours.
    """
    run = {"run": settings.env_id, "num_updates": num_updates}
    common = {"settings": settings.as_json(), "seed": 0}
    results: dict[str, Any] = {}
    spans: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for peer in [*peers, peers[0]]:
        if peer.name == "brax":
            reply = peer.ask("iterations", **common, num_updates=num_updates, repeats=repeats)
            spans[peer.name] += reply["seconds"]
        else:
            reply = peer.ask("prepare", **run, **common)
            timings = [peer.ask("updates", **run) for _ in range(repeats)]
            spans[peer.name] += [timing["seconds"] for timing in timings]
        entry = {**peer.description, "compile_seconds": reply["compile_seconds"]}
        results.setdefault(peer.name, entry)
    for name, seconds in spans.items():
        results[name]["seconds_per_update"] = statistics.median(seconds) / num_updates
    return {"settings": settings.as_json(), "peers": results}
