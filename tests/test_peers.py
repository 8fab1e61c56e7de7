"""benchmarks/compare_peers.py: a miniature with trpo_jax as its only peer; its own arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"


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
        [*command, *options, *out], cwd=ROOT, capture_output=True, text=True, check=False
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
    from stillness import Usage, others_share

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
