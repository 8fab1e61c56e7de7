"""What the benchmarks of limits count and fit; gpu.py in miniature, and its parts that break."""

import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_counted_operations_are_those_of_the_program():
    """Wide layers, so that what is not a matrix product hardly counts in XLA's own sum."""
    import operations
    import problems

    shape = problems.Shape(256, 96, 64, (128, 192))
    sizes = (96, 128, 192, 64)
    problem = problems.make_problem(shape)
    arguments = problem.params, problem.batch.obs

    def outputs(params, obs):
        return problem.policy.apply(params, obs).mean

    def gradient(params, obs):
        return jax.grad(lambda p: jnp.sum(outputs(p, obs) ** 2))(params)

    def product(params, obs):
        predict = functools.partial(outputs, obs=obs)
        return trpo_jax.gauss_newton_product(predict, lambda z, u: z * z * u, params)(params)

    forward = operations.operations(operations.forward(256, sizes))
    backward = operations.operations(operations.backward(256, sizes))
    curvature = operations.operations(operations.curvature(256, sizes))
    # The linearisation of a product is a forward pass of its own.
    expected = {outputs: forward, gradient: forward + backward, product: forward + curvature}
    for fn, count in expected.items():
        assert jax.jit(fn).lower(*arguments).cost_analysis()["flops"] == pytest.approx(
            count, rel=0.03
        )


def test_a_step_is_its_products_and_a_fit_is_its_minibatches():
    import operations
    from problems import Shape

    shape = Shape(64, 2, 1, (4,))
    assert operations.operations(operations.forward(64, (2, 4, 1))) == 2 * 64 * (8 + 4)
    # Gradient: 12 forward, 8 + 2 · 4 back; each product: 2 · 8 + 4 · 4; each evaluation: 12.
    assert operations.operations(operations.policy_step(shape, 10, 3)) == 128 * (
        12 + 16 + 10 * 32 + 3 * 12
    )
    assert operations.operations(operations.value_fit(shape, 5, 16)) == 128 * (5 * 28 + 2 * 12)


def test_rival_fits_solve_a_linear_regression():
    """Least squares by NumPy is what they must find, weights included."""
    import value_fit
    from problems import Shape, make_problem

    batch = make_problem(Shape(64, 3, 1, ())).batch
    weight = (jnp.arange(64) < 40).astype(jnp.float32)
    batch = batch.replace(value_target=batch.obs @ jnp.array([1.0, -2.0, 0.5]), weight=weight)
    rows = np.asarray(batch.obs)[:40] - 0.5 * np.ones(3), np.asarray(batch.value_target)[:40]
    expected = np.linalg.lstsq(*rows, rcond=None)[0]

    def apply(params, obs):
        return (obs - 0.5) @ params

    start = jnp.zeros(3)
    for fit in (value_fit.lbfgs(10), value_fit.levenberg_marquardt(6, 3)):
        run = jax.jit(functools.partial(fit.run, jax.random.key(0), apply))
        fitted, _ = run(start, fit.init(start), batch)
        np.testing.assert_allclose(fitted, expected, atol=0.03)


PARTS = [
    *("device", "policy_step", "cartpole", "reward", "agents", "sweep", "trace"),
    *("lanes", "solves", "memory"),
]  # update_parts, at its own size, is a test of speed.py


def test_gpu_script_in_miniature(tmp_path, monkeypatch):
    """The throughput parts differ in their environment only: one of them is enough."""
    import gpu

    arguments = ["gpu.py", "--quick", "--budget", "900", "--out", str(tmp_path), "--parts", *PARTS]
    monkeypatch.setattr(sys, "argv", arguments)
    assert gpu.main() == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    for name in PARTS:
        assert parts[name]["rows"], name
        assert parts[name]["checks"], name
        assert "error" not in parts[name], name
    for picture in ("throughput", "lanes", "reward", "roofline"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000
    assert "float32 against float64" in (tmp_path / "README.md").read_text()


def _run(gpu, tmp_path, monkeypatch, parts, *options) -> tuple[int, dict]:
    monkeypatch.setattr(gpu, "PARTS", parts)
    arguments = ["gpu.py", "--quick", "--out", str(tmp_path), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    code = gpu.main()
    return code, json.loads((tmp_path / "gpu.json").read_text())["parts"]


def test_a_part_that_breaks_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    import gpu

    def breaks(part, settings):
        part.row(before=1)
        raise RuntimeError("out of memory")

    def works(part, settings):
        part.row(value=2)
        part.check("is two", True)

    parts = {"a": gpu.Planned("A", 5, breaks), "b": gpu.Planned("B", 5, works)}
    code, records = _run(gpu, tmp_path, monkeypatch, parts)
    assert code == 1
    assert records["a"]["error"] == "RuntimeError: out of memory"
    assert records["a"]["rows"] == [{"before": 1}]
    assert records["b"]["checks"] == {"is two": True}
    assert "ERROR: RuntimeError: out of memory" in (tmp_path / "README.md").read_text()


def test_a_check_that_fails_once_has_failed(tmp_path, monkeypatch):
    import gpu

    def checks(part, settings):
        part.check("holds", False)
        part.check("holds", True)

    code, records = _run(gpu, tmp_path, monkeypatch, {"a": gpu.Planned("A", 5, checks)})
    assert code == 1
    assert records["a"]["checks"] == {"holds": False}


def test_what_does_not_fit_the_budget_is_skipped_and_named(tmp_path, monkeypatch):
    import gpu

    def slow(part, settings):
        for item in part.affordable(("first", "second")):
            part.row(item=item)
            time.sleep(0.3)

    parts = {"a": gpu.Planned("A", 0.4, slow), "b": gpu.Planned("B", 60, slow)}
    code, records = _run(gpu, tmp_path, monkeypatch, parts, "--budget", "5")
    assert code == 0
    assert records["a"]["rows"] == [{"item": "first"}]
    assert records["a"]["skipped"] == ["a second"]
    assert not records["b"]["rows"]
    assert records["b"]["skipped"][0].startswith("all of it")


@pytest.mark.parametrize(
    ("ending", "problem"),
    [("time.sleep(60)", "did not end within 1 s"), ("sys.exit('no device')", "exit code 1")],
)
def test_a_process_that_hangs_or_dies_leaves_what_it_had(tmp_path, ending, problem):
    import gpu

    store = tmp_path / "part.json"
    program = f"""
import json, pathlib, sys, time
pathlib.Path({str(store)!r}).write_text(json.dumps({{"rows": [1], "checks": {{}}}}))
{ending}
"""
    record = gpu.run_apart([sys.executable, "-c", program], 1, store)
    assert record["rows"] == [1]
    assert record["error"].startswith(problem)
