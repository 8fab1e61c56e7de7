"""benchmarks/compare_peers.py: a miniature with trpo_jax as its only peer; its own arithmetic."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
HASTY = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
"""For processes whose programs run once."""
PEERS = ROOT / "benchmarks" / "peers"


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """The command line, asking stand-ins that answer at once; returns the JSON and the tables."""
    monkeypatch.syspath_prepend(str(PEERS))
    monkeypatch.syspath_prepend(str(PEERS.parent))
    import client
    import compare_peers
    import given

    class StandIn(client.Peer):
        pid = os.getpid()

        def __init__(self, name, python):
            self.name, self.python, self.started = name, python, time.perf_counter() - 3.0
            self.description = {"versions": {"package": "1.0"}}
            self.asked = []

        def ask(self, do, **arguments):
            self.asked.append(do)
            if do == "load_batch":
                self.batch = given.load(arguments["path"])
            if do == "save_update":
                given.save(arguments["path"], {"policy_b0": self.batch["policy_b0"] + 1e-3})
            answer = {"seconds": 0.125, "cpu_seconds": 0.25, "returns": [500.0]}
            return {**answer, "outcomes": [[1.0]], "max_episode_steps": 7}

        def close(self):
            pass

    monkeypatch.setattr(client, "Peer", StandIn)
    monkeypatch.setattr(client, "python_of", lambda *_: Path("python"))

    def run(words):
        command = [*words.split(), "--quick", "--seconds", "0", "--out", str(tmp_path / "peers.md")]
        monkeypatch.setattr(sys, "argv", ["compare_peers.py", *command])
        compare_peers.main(command)
        texts = [(tmp_path / f"peers.{kind}").read_text() for kind in ("json", "md")]
        return json.loads(texts[0]), texts[1]

    run.StandIn = StandIn
    return run


@pytest.mark.parametrize("words", [
    "update --peers sb3@1", "dynamics --peers sb3@1", "speed start --peers tianshou rejax",
    "learning --peers rejax", "start --environments Pendulum-v1 CartPole-v1",
])  # fmt: skip
def test_any_selection_of_peers(words, compare):
    found, text = compare(words)
    assert found.keys() == {*words.partition(" --")[0].split()}
    assert "- command: `python compare_peers.py" in text


@pytest.mark.parametrize(
    "words", ["update --shapes 7", "update --peers rejax", "speed --peers somebody"]
)
def test_what_cannot_be_compared_is_the_callers_mistake(words, compare, capsys):
    with pytest.raises(SystemExit) as error:
        compare(words)
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_studies_of_different_environments_in_one_file(compare):
    """Nothing is said about a goal of which only one half was measured."""
    compare("learning --environments CartPole-v1")
    _, text = compare("speed start --environments Pendulum-v1")
    assert "CartPole solved" not in text
    _, text = compare("speed start --environments CartPole-v1")
    assert "| CartPole solved: sb3-contrib TRPO takes ≥ 30 times ours, from a cold start |" in text


def test_rows_of_several_runs_have_a_stamp_each(compare):
    compare("learning --seeds 0 --peers trpo_jax rejax")
    found, text = compare("learning --seeds 1 --peers trpo_jax")
    (study,) = found["learning"].values()
    assert [*study["curves"]["trpo_jax"]] == ["0", "1"]
    assert "Rows CartPole-v1, trpo_jax, seed 0; CartPole-v1, rejax PPO, seed 0:" in text
    assert "Rows CartPole-v1, trpo_jax, seed 1:" in text
    assert text.count("- command:") == 2
    _, text = compare("learning --seeds 0 1 --peers trpo_jax rejax")
    assert text.count("- command:") == 1
    assert "Rows" not in text


def test_short_calls_are_repeated_within_a_timing(compare):
    """Ticks of the kernel's clock must be few per cent of a timing, and rounds at least three."""
    from turns import Pace, interleave

    peer = compare.StandIn("trpo_jax", "python")
    timing = peer.time("updates", at_least=0.5)
    assert len(peer.asked) == 4
    assert timing[:2] == (0.125, 0.25)
    (summary,) = interleave({"one": lambda: timing}, Pace(budget=0.0)).values()
    assert summary["of"] == 3


@pytest.fixture
def given(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    import given

    return given


def test_a_miniature_of_the_comparison(tmp_path):
    """Every study that needs no other peer; a missing peer is skipped with a message."""
    command = [sys.executable, "benchmarks/compare_peers.py", "speed", "update", "learning"]
    options = ["--quick", "--peers", "trpo_jax", "sb3@1", "--venvs", str(tmp_path)]
    out = ["--seconds", "0.2", "--out", str(tmp_path / "peers.md")]
    done = subprocess.run(
        [*command, *options, *out], cwd=ROOT, capture_output=True, text=True, check=False, env=HASTY
    )
    assert done.returncode == 0, done.stderr
    assert f"skipped: no sb3 in {tmp_path}" in done.stdout

    found = json.loads((tmp_path / "peers.json").read_text())
    assert found["speed"]["CartPole-v1"]["peers"]["trpo_jax"]["seconds_per_update"] > 0
    (update,) = found["update"].values()
    step = update["peers"]["trpo_jax"]
    assert 0 < step["kl"] <= 0.01
    assert step["improvement"] > 0
    assert step["fits"]["minibatch"]["value_error"] < step["fits"]["none"]["value_error"]
    (curve,) = found["learning"]["CartPole-v1"]["curves"]["trpo_jax"].values()
    assert len(curve) == 2
    assert (tmp_path / "peers.png").stat().st_size > 0
    assert "| CartPole-v1 | trpo_jax |" in (tmp_path / "peers.md").read_text()


@pytest.mark.parametrize("words", ["start dynamics", "brax"])
def test_a_miniature_of_the_other_studies(words, tmp_path):
    command = [sys.executable, "benchmarks/compare_peers.py", *words.split(), "--quick"]
    options = ["--peers", "trpo_jax", "--seconds", "0", "--out", str(tmp_path / "peers.md")]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, env=HASTY
    )
    assert done.returncode == 0, done.stderr

    found = json.loads((tmp_path / "peers.json").read_text())
    entries = {study: next(iter(found[study].values()))["peers"] for study in words.split()}
    for study, peers in entries.items():
        entry = peers["trpo_jax"]
        if study == "dynamics":
            assert entry["difference"] == 0
            assert entry["max_episode_steps"] == 500
        elif study == "start":
            assert entry["seconds"] > 0.2, "imports and compilation"
            assert entry["cpu_seconds"] > 0.2
        else:
            assert entry["seconds_per_update"] > 0
            assert entry["compile_seconds"] > entry["seconds_per_update"]


def test_the_judge_of_the_updates_agrees_with_scipy(given):
    """KL and log-probabilities in `given.py`, by numerical integration and scipy's densities."""
    shape = given.Shape(6, 3, 2, False, (5,))
    old, new = given.make_batch(shape, 0), given.make_batch(shape, 1)
    new["policy_log_std"] = np.array([0.3, -0.2], np.float32)
    p = given.forward(old, "policy", old["obs"])
    q = given.forward(new, "policy", old["obs"])
    log_prob = stats.norm(p).logpdf(old["action"]).sum(axis=-1)
    np.testing.assert_allclose(given.log_prob(old, old), log_prob, rtol=1e-6)

    total = 0.0
    for mean, other in zip(p, q, strict=True):
        for i, scale in enumerate(np.exp(new["policy_log_std"])):
            x = mean[i] + np.linspace(-9, 9, 20001)
            gap = stats.norm(mean[i]).logpdf(x) - stats.norm(other[i], scale).logpdf(x)
            total += np.trapezoid(stats.norm(mean[i]).pdf(x) * gap, x)
    assert given.joint_kl(old, new, old["obs"]) == pytest.approx(total / len(p), rel=1e-5)


def test_the_judge_of_discrete_updates_agrees_with_scipy(given):
    shape = given.Shape(6, 3, 4, True, (5,))
    old, new = given.make_batch(shape, 0), given.make_batch(shape, 1)
    p, q = (np.exp(given.forward(w, "policy", old["obs"])) for w in (old, new))
    expected = np.mean([stats.entropy(mine, theirs) for mine, theirs in zip(p, q, strict=True)])
    assert given.joint_kl(old, new, old["obs"]) == pytest.approx(expected, rel=1e-9)


def test_a_busy_neighbour_is_noticed(monkeypatch):
    """`others_share` sees a process that uses a core, and not one that is counted as our own."""
    monkeypatch.syspath_prepend(str(PEERS))
    from turns import Usage, others_share

    busy = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(busy) as neighbour:
        try:
            before = Usage.now(), Usage.now(neighbour.pid)
            if before[0].machine == 0:
                pytest.skip("the kernel does not tell")
            neighbour_ran = 0.0
            while neighbour_ran < 0.3:
                after = Usage.now(), Usage.now(neighbour.pid)
                neighbour_ran = after[1].own - before[1].own
        finally:
            neighbour.kill()
    assert others_share(before[0], after[0]) > others_share(before[1], after[1])


def test_every_requirement_is_pinned():
    lists = sorted((PEERS / "requirements").glob("*.txt"))
    assert [path.stem for path in lists] == ["brax", "rejax", "sb3", "tianshou"]
    for path in lists:
        assert (PEERS / f"worker_{path.stem}.py").exists()
        assert all("==" in line for line in path.read_text().splitlines())
