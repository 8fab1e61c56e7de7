"""What is measured, and how: each study asks every peer in turn and returns plain JSON."""

import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import given
import numpy as np
from client import Peer, base_of
from protocol import Settings
from turns import Pace, Timing, Usage, interleave, others_share, process_seconds

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


class Goal(NamedTuple):
    """When an environment counts as solved, and how long it is tried."""

    threshold: float
    """Mean return of the evaluation."""
    num_updates: int
    """Of 2,048 steps each."""
    every: int
    """Updates between evaluations."""


GOALS = {
    "CartPole-v1": Goal(475.0, 48, 2),
    "Acrobot-v1": Goal(-100.0, 48, 4),
    "Pendulum-v1": Goal(-250.0, 72, 4),
}
"""gymnasium's own thresholds. It has none for Pendulum: good policies get −150 to −200 there, and
the mean of 32 episodes has a standard error of 15."""


_RANGES = {
    "CartPole-v1": ([2.4, 3.0, 0.2, 3.0], 2, None),
    "Acrobot-v1": ([3.1, 3.1, 6.0, 12.0], 3, None),
    "Pendulum-v1": ([3.1, 8.0], None, 2.5),
}
"""Half-width of the states that are tried, number of discrete actions, half-width of continuous."""


def _study(settings: Settings, entries: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"settings": settings.as_json(), "peers": {} if entries is None else entries}


def speed(
    peers: list[Peer], settings: list[Settings], pace: Pace, updates: dict[str, int]
) -> dict[str, Any]:
    """Per environment: seconds of one training iteration, rollout included, peer by peer.

    `updates` says how many iterations are timed at once: "jax" in one program, "torch" in a loop.
    """
    results: dict[str, Any] = {s.env_id: _study(s) for s in settings}
    calls = {}
    for peer, chosen in itertools.product(peers, settings):
        count = updates["torch" if "torch" in peer.description["versions"] else "jax"]
        run = {"run": chosen.env_id, "num_updates": count}
        peer.ask("prepare", **run, settings=chosen.as_json(), seed=0)
        peer.ask("updates", **run)  # compiles
        results[chosen.env_id]["peers"][peer.name] = {**peer.description, "updates": count}
        calls[chosen.env_id, peer.name] = functools.partial(
            peer.time, "updates", at_least=pace.at_least, **run
        )
    for (env_id, name), summary in interleave(calls, pace).items():
        entry = results[env_id]["peers"][name]
        entry |= summary
        for kind in ("seconds", "cpu_seconds"):
            entry[f"{kind}_per_update"] = summary[kind] / entry["updates"]
    return results


def cold_start(peers: list[Peer], settings: list[Settings], pace: Pace) -> dict[str, Any]:
    """Per environment and peer: seconds from the start of a process until it is up to speed.

    That is the end of its first training, less what a second one takes: imports, environment,
    networks and compilation all count. Of `peers`, which stay idle, new processes are started.
    """
    calls = {
        (chosen.env_id, peer.name): functools.partial(_start_and_train, peer, chosen)
        for peer, chosen in itertools.product(peers, settings)
    }
    summaries = interleave(calls, pace)

    def entry(peer: Peer, chosen: Settings) -> dict[str, Any]:
        return {**peer.description, **summaries[chosen.env_id, peer.name]}

    return {c.env_id: _study(c, {peer.name: entry(peer, c) for peer in peers}) for c in settings}


def _start_and_train(idle: Peer, settings: Settings) -> Timing:
    run = {"run": "cold", "num_updates": 2}
    before = Usage.now()
    with contextlib.closing(idle.another()) as peer:
        peer.ask("prepare", **run, settings=settings.as_json(), seed=0)
        peer.ask("updates", **run)
        seconds, cpu = time.perf_counter() - peer.started, process_seconds(peer.pid)
        others = others_share(before, Usage.now(peer.pid))
        second = peer.ask("updates", **run)
    return Timing(seconds - second["seconds"], cpu - second["cpu_seconds"], others)


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
                call = functools.partial(
                    peer.time, "update_once", at_least=pace.at_least, **request
                )
                calls[shape.label, peer.name, fit] = call
            results[shape.label] = _study(chosen, entries)
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
    reference = outcomes.get("trpo_jax")
    for name, outcome in outcomes.items() if reference else ():
        # ‖θ − θ_trpo_jax‖ / ‖θ_trpo_jax − θ_old‖ over the policy's parameters
        old, new, ours = (given.policy_vector(w) for w in (batch, outcome, reference))
        distance = np.linalg.norm(new - ours) / np.linalg.norm(ours - old)
        entries[name]["distance"] = float(distance)
    return entries


def _weights_after(peer: Peer, batch: given.Arrays, folder: Path, **request: Any) -> given.Arrays:
    """The weights after one update, with the batch."""
    peer.ask("update_once", **request)
    peer.ask("save_update", run=request["run"], path=str(folder / "result.npz"))
    return {**batch, **given.load(folder / "result.npz")}


def _fits(peer: Peer, peers: list[Peer]) -> tuple[str, ...]:
    """The value fits that a peer has; ours on the full batch only where one is to compare with."""
    if base_of(peer.name) == "tianshou":
        return "none", "full"
    full = peer.name == "trpo_jax" and any(base_of(p.name) == "tianshou" for p in peers)
    return ("none", "minibatch", "full") if full else ("none", "minibatch")


def against_brax(
    peers: list[Peer], settings: Settings, num_updates: int, repeats: int
) -> dict[str, Any]:
    """Seconds of an iteration on a brax environment: brax's own PPO beside trpo_jax.

    brax trains in one call that cannot be interleaved: it runs between two runs of ours.
    """
    run = {"run": settings.env_id, "num_updates": num_updates}
    common = {"settings": settings.as_json(), "seed": 0}
    spans: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for peer in [*peers, *(peer for peer in peers if peer.name != "brax")]:
        if peer.name == "brax":
            reply = peer.ask("iterations", **common, num_updates=num_updates, repeats=repeats)
            spans[peer.name] += reply["seconds"]
            continue
        if not spans[peer.name]:
            peer.ask("prepare", **run, **common)
        spans[peer.name] += [peer.ask("updates", **run)["seconds"] for _ in range(repeats + 1)]
    entries = {}
    for peer in peers:
        first, *others = spans[peer.name]
        entries[peer.name] = {
            **peer.description,
            "compile_seconds": max(0.0, first - min(others)),
            "seconds_per_update": statistics.median(others) / num_updates,
        }
    return _study(settings, entries)


def learning(
    peers: list[Peer],
    settings: Settings,
    goal: Goal,
    seeds: list[int],
    num_episodes: int,
    stamp: dict[str, Any],
) -> dict[str, Any]:
    """Mean return of deterministic evaluations, [evaluations], per peer and seed.

    Each keeps the `stamp` of its run, since later runs may add peers and seeds.
    """
    run = {"run": settings.env_id, "num_updates": goal.every}
    curves: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    runs: dict[str, dict[str, Any]] = {peer.name: {} for peer in peers}
    for seed in seeds:
        asked = {"run": settings.env_id, "num_episodes": num_episodes, "seed": seed}
        for peer in peers:
            peer.ask("prepare", **run, settings=settings.as_json(), seed=seed)
            curve = []
            for _ in range(goal.num_updates // goal.every):
                peer.ask("updates", **run)
                curve.append(float(np.mean(peer.ask("evaluate", **asked)["returns"])))
            curves[peer.name][str(seed)] = curve
            runs[peer.name][str(seed)] = {**stamp, "peers": {peer.name: peer.description}}
            print(settings.env_id, seed, peer.name, "ends at", f"{curve[-1]:.1f}", flush=True)
    measured = {"goal": goal._asdict(), "num_episodes": num_episodes, "curves": curves}
    return {"settings": settings.as_json(), **measured, "runs": runs}


def dynamics(peers: list[Peer], num_states: int = 200) -> dict[str, Any]:
    """The largest difference of what one step does, over random states: peer against trpo_jax.

    trpo_jax must be among the peers.
    """
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {}
    for env_id in ENVIRONMENTS:
        bounds, num_actions, reach = _RANGES[env_id]
        states = rng.uniform(-1, 1, (num_states, len(bounds))) * bounds
        if num_actions:
            actions = rng.integers(num_actions, size=num_states)
        else:
            actions = rng.uniform(-reach, reach, (num_states, 1))
        request = {"env_id": env_id, "states": states.tolist(), "actions": actions.tolist()}
        replies = {peer.name: peer.ask("one_step", **request) for peer in peers}
        outcomes = {name: np.array(reply["outcomes"]) for name, reply in replies.items()}
        entries = {
            peer.name: {
                **peer.description,
                "difference": float(np.abs(outcomes[peer.name] - outcomes["trpo_jax"]).max()),
                "max_episode_steps": replies[peer.name]["max_episode_steps"],
            }
            for peer in peers
        }
        results[env_id] = {"peers": entries}
    return results
