"""Every rule of the doctor fires on its sign, and on nothing else."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import BATCH_SIZE, SMALL

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.experiments.doctor import RULES, Diagnosis, diagnose
from trpo_jax.experiments.run_directory import load_run

ROOT = Path(__file__).parent.parent
UPDATES = 40
CONFIG = trpo_jax.TRPOConfig()


def healthy():
    """Metrics of a run that learns, made up."""
    n, rng = UPDATES, np.random.default_rng(0)
    time = np.linspace(0, 1, n)
    alarms = {f"alarm_{name}": np.zeros(n, bool) for name in trpo_jax.Alarms.__annotations__}
    return {
        **alarms,
        "update": np.arange(1, n + 1),
        "status": np.zeros(n, int),
        "accepted": np.ones(n, bool),
        "step_fraction": np.ones(n),
        "kl": np.full(n, 0.008),
        "kl_per_dimension": np.full(n, 0.008),
        "candidate_kls": np.full((n, 11), 0.008),
        "improvement": np.full(n, 0.01),
        "predicted_improvement": np.full(n, 0.011),
        "cg_residual_norms": np.geomspace(1, 1e-4, 11) * np.ones((n, 1)),
        "cg_breakdown": np.zeros(n, bool),
        "entropy": 0.69 - 0.3 * time,
        "inactive_units": np.zeros((n, 2)),
        "advantage_mean": np.zeros(n),
        "advantage_std": 5 - 3 * time,
        "value_loss_before": np.full(n, 2.0),
        "value_loss": np.full(n, 0.5),
        "explained_variance": 0.9 * time,
        "episode_return": 20 + 400 * time + rng.normal(0, 3, n),
        "num_episodes": np.full(n, 10),
        "on_policy_gap": np.full(n, 1e-7),
        "valid_fraction": np.ones(n),
    }


def late(value, before):
    """A column that changes after half of the updates."""
    return np.where(np.arange(UPDATES) < UPDATES // 2, before, value)


ALL = np.ones(UPDATES, bool)
FALLING = np.linspace(400, 20, UPDATES)
LIMITED = {
    "constraint_violation": np.full(UPDATES, -0.001),
    "constraint_change": np.full(UPDATES, -0.01),
    "constraint_multiplier": np.full(UPDATES, 0.5),
    "constraint_case": np.ones(UPDATES, int),
    "cost_estimate": 25 + 10 * np.sin(2.0 * np.arange(UPDATES)),
    "mean_length": np.full(UPDATES, 100.0),
    "cost_explained_variance": np.full(UPDATES, 0.6),
    "cost_advantage_std": np.ones(UPDATES),
}
"""What a healthy run records besides, at a limit of 25."""
RECOVERING = {**LIMITED, "constraint_case": np.full(UPDATES, 2)}
WITHOUT_CASES = {
    k: v for k, v in LIMITED.items() if k not in ("constraint_case", "constraint_change")
}
SIGNS = {
    "off_policy": {"alarm_off_policy": late(True, False).astype(bool)},
    "invalid_data": {"alarm_invalid_data": ALL, "valid_fraction": np.full(UPDATES, 0.9)},
    "exploding_rewards": {
        "advantage_std": 2.0 ** np.arange(UPDATES),
        "value_loss": 4.0 ** np.arange(UPDATES),
        "value_loss_before": 4.0 ** (np.arange(UPDATES) + 1),
    },
    "no_signal": {"advantage_std": np.zeros(UPDATES)},
    "dead_units": {"inactive_units": np.full((UPDATES, 2), 0.6)},
    "saturated_memory": {"carry_saturation": np.full(UPDATES, 0.8), "memory_use": np.ones(UPDATES)},
    "unused_memory": {"carry_saturation": np.zeros(UPDATES), "memory_use": np.full(UPDATES, 1e-6)},
    "singular_curvature": {"cg_breakdown": ALL},
    "cg_unconverged": {"cg_residual_norms": np.ones((UPDATES, 11)) * [1, *[0.6] * 10]},
    "untrained_critic": {
        "value_loss": np.full(UPDATES, 1.999),
        "explained_variance": np.full(UPDATES, 0.01),
    },
    "failed_value_fit": {"alarm_value_fit_failed": ALL},
    "useless_cost_critic": {**LIMITED, "cost_explained_variance": np.zeros(UPDATES)},
    "futile_recovery": {
        **LIMITED,
        "constraint_case": late(2, 1),
        "cost_estimate": 50.0 + np.arange(UPDATES),
    },
    "infeasible": {**RECOVERING, "cost_estimate": np.linspace(100, 50, UPDATES)},
    "runaway_multiplier": {
        **WITHOUT_CASES,
        "cost_estimate": np.full(UPDATES, 90.0),
        "constraint_multiplier": np.linspace(0, 100, UPDATES),
    },
    "limit_violated": {**LIMITED, "cost_estimate": np.full(UPDATES, 90.0)},
    "biased_advantages": {"episode_return": FALLING},
    "entropy_collapse": {
        "entropy": np.geomspace(0.69, 0.01, UPDATES),
        "episode_return": 20 + np.sin(np.arange(UPDATES)),
    },
    "collapse": {"episode_return": np.concatenate([np.linspace(20, 500, 25), np.full(15, 30.0)])},
    "rejected_steps": {"status": np.full(UPDATES, 4), "accepted": ~ALL},
    "unlike_prediction": {"improvement": np.full(UPDATES, 0.001)},
    "settings": {},
}


def examine(signs, config=CONFIG, hparams=trpo_jax.HParams(), **keywords):  # noqa: B008
    return diagnose({**healthy(), **signs}, config, hparams, **keywords)


def test_it_is_silent_on_a_healthy_run():
    diagnosis = examine({})
    assert diagnosis.findings == ()
    assert not diagnosis.severe
    assert diagnosis.to_text() == "Nothing wrong in 40 updates, 1 seed."


@pytest.mark.parametrize("columns", [LIMITED, WITHOUT_CASES])
def test_it_is_silent_at_a_limit_that_is_kept(columns):
    assert examine(columns).findings == ()


def test_a_falling_return_is_the_price_of_a_violated_limit():
    """The return falls while the cost does: no sign of wrong advantages."""
    falls = {"episode_return": FALLING, "cost_estimate": np.linspace(200, 20, UPDATES)}
    assert examine({**LIMITED, **falls}).findings == ()
    kept = {**LIMITED, "episode_return": FALLING, "cost_estimate": np.full(UPDATES, 5.0)}
    assert [f.name for f in examine(kept).findings] == ["biased_advantages"]


def test_every_rule_has_a_sign():
    assert list(SIGNS) == [rule.__name__ for rule in RULES]


@pytest.mark.parametrize("name", [name for name in SIGNS if name != "settings"])
def test_each_sign_gives_its_finding_and_no_other(name):
    diagnosis = examine(SIGNS[name])
    assert [finding.name for finding in diagnosis.findings] == [name]
    (finding,) = diagnosis.findings
    assert finding.causes
    assert finding.remedies
    assert set(finding.updates) <= set(range(1, UPDATES + 1))
    text = diagnosis.to_text()
    assert finding.title in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_advantages_that_favour_an_action_are_biased_even_if_the_return_only_stays():
    flat = {"episode_return": 20 + np.sin(np.arange(UPDATES))}
    favoured = {"predicted_improvement": late(0.01, np.sqrt(2 * 0.01)), "improvement": ALL * 0.1}
    assert [each.name for each in examine(flat | favoured).findings] == ["biased_advantages"]
    assert examine(flat).findings == ()  # it has arrived, perhaps
    assert examine(favoured).findings == ()  # it learns
    raw = CONFIG.replace(normalize_advantages=False)  # the advantages' deviation is 5 to 2
    names = [each.name for each in examine(flat | favoured, raw).findings]
    assert "biased_advantages" not in names


def test_the_damping_that_counts_is_the_one_that_was_used():
    adapted = {"damping": np.full(UPDATES, 0.5)}
    (finding,) = examine(SIGNS["singular_curvature"] | adapted).findings
    assert "damping is 0.5" in finding.evidence
    (finding,) = examine(SIGNS["cg_unconverged"] | adapted).findings
    assert "--cg-damping 1" in finding.remedies


@pytest.mark.parametrize(
    ("config", "hparams", "words"),
    [
        ({}, {"max_kl": 0.02}, "max_kl 0.02"),
        ({"normalize_advantages": False}, {}, "not normalised"),
        ({"cg_iterations": 5}, {}, "5 iterations"),
        ({"value_epochs": 2}, {}, "2 epochs"),
        ({"line_search": False}, {}, "no line search"),
    ],
)
def test_settings_that_go_wrong_draw_a_warning(config, hparams, words):
    diagnosis = examine({}, CONFIG.replace(**config), trpo_jax.HParams(**hparams), continuous=True)
    (finding,) = diagnosis.findings
    assert (finding.name, finding.severity) == ("settings", "warning")
    assert words in finding.evidence
    assert not diagnosis.severe


def test_a_larger_trust_region_is_fine_for_discrete_actions():
    assert examine({}, hparams=trpo_jax.HParams(max_kl=0.02), continuous=False).findings == ()


def test_causes_stand_before_effects():
    both = {**SIGNS["collapse"], **SIGNS["cg_unconverged"], **SIGNS["off_policy"]}
    names = [finding.name for finding in examine(both).findings]
    assert names == ["off_policy", "cg_unconverged", "collapse"]


def test_seeds_are_counted():
    histories = [healthy(), {**healthy(), **SIGNS["dead_units"]}, healthy()]
    diagnosis = diagnose(histories, CONFIG)
    assert [finding.name for finding in diagnosis.findings] == ["dead_units"]
    assert "1 of 3 seeds" in diagnosis.findings[0].evidence
    assert diagnosis.num_seeds == 3


def test_the_json_holds_everything():
    diagnosis = examine(SIGNS["dead_units"])
    content = json.loads(diagnosis.to_json())
    assert content["severe"] is True
    assert content["findings"][0]["name"] == "dead_units"
    assert content["num_updates"] == UPDATES


def test_returns_that_are_never_finite_are_no_finding():
    assert examine({"episode_return": np.full(UPDATES, np.nan)}).findings == ()


def test_a_real_history_of_one_or_several_seeds_and_of_one_update():
    config = trpo_jax.TRPOConfig(num_envs=4, num_steps=64, hidden_sizes=(16,))
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), config)
    hparams = trpo_jax.HParams()
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 2))
    _, history = jax.vmap(lambda s: agent.train(s, hparams, num_updates=6))(states)
    both = trpo_jax.diagnose(history, config)
    assert isinstance(both, Diagnosis)
    assert (both.num_seeds, both.num_updates, both.severe) == (2, 6, False)
    first = jax.tree.map(lambda leaf: leaf[0], history)
    assert trpo_jax.diagnose(first, config, hparams).num_seeds == 1
    one = jax.tree.map(lambda leaf: leaf[0, :1], history)
    assert not trpo_jax.diagnose(one, config, hparams).severe
    with pytest.raises(ValueError, match="updates"):
        trpo_jax.diagnose(jax.tree.map(lambda leaf: leaf[0, 0], history), config)


def test_full_steps_somewhat_beyond_the_bound_are_a_warning():
    """As with a singular Fisher matrix without damping, where training goes on all the same."""
    first_kls = {"candidate_kls": np.full((UPDATES, 11), 0.018)}
    diagnosis = examine(first_kls)
    (finding,) = diagnosis.findings
    assert (finding.name, finding.severity) == ("singular_curvature", "warning")
    assert "1.8 δ" in finding.evidence
    assert examine({"candidate_kls": np.full((UPDATES, 11), 0.012)}).findings == ()


def test_a_critic_that_learns_slowly_is_a_warning():
    slow = {"value_loss": np.full(UPDATES, 1.96), "explained_variance": np.full(UPDATES, 0.01)}
    (finding,) = examine(slow).findings
    assert (finding.name, finding.severity) == ("untrained_critic", "warning")
    assert examine({**slow, "explained_variance": np.full(UPDATES, 0.9)}).findings == ()


def test_entropy_that_only_ever_falls_is_a_collapse_before_it_is_complete():
    signs = {
        "alarm_locking_in": ALL,
        "entropy": np.linspace(1.4, -0.1, UPDATES),
        "episode_return": 20 + np.sin(np.arange(UPDATES)),
    }
    (finding,) = examine(signs, continuous=True).findings
    assert (finding.name, finding.severity) == ("entropy_collapse", "severe")
    learned = {**signs, "episode_return": healthy()["episode_return"]}
    assert examine(learned, continuous=True).findings == ()
    now_and_then = {**signs, "alarm_locking_in": np.arange(UPDATES) % 4 == 0}
    assert examine(now_and_then, continuous=True).findings == ()


def test_returns_carried_over_from_earlier_updates_are_no_evidence():
    """Where no episode ended, `episode_return` is that of an earlier update."""
    rng = np.random.default_rng(1)
    returns = np.repeat(20 + rng.normal(0, 30, UPDATES // 4), 4)
    returns[:4], returns[-4:] = 70, -20
    ended = (np.arange(UPDATES) % 4 == 0).astype(int)
    rising = {**SIGNS["entropy_collapse"], "episode_return": returns[::-1]}
    names = [f.name for f in examine({**rising, "num_episodes": ended}).findings]
    assert names == ["entropy_collapse"]  # a rise within the noise of ten returns
    assert examine({**rising, "num_episodes": ended * 0}).findings[0].name == "entropy_collapse"


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/doctor.py, with smaller trainings."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "doctor", raising=False)
    import doctor

    small = trpo_jax.get_preset("CartPole-v1")
    small = small._replace(config=small.config.replace(hidden_sizes=(32,), value_epochs=4))
    monkeypatch.setattr(trpo_jax, "get_preset", lambda _: small)
    yield doctor
    del sys.modules["doctor"]


@pytest.mark.parametrize("fault", ["stale_batches", "dying_units"])
def test_a_fault_that_is_injected_is_named(fault, benchmark, tmp_path):
    """A miniature of the benchmark, which has all faults and several environments."""
    import injected

    training = getattr(injected, fault)("CartPole-v1")
    training = training._replace(config=training.config.replace(num_envs=8, num_steps=64))
    histories = benchmark.histories(fault, training, 1, 16, tmp_path)
    (diagnosis,) = benchmark.diagnose(training, histories)
    assert benchmark.is_right(training, diagnosis), diagnosis.to_text()
    assert not benchmark.is_right(training._replace(expected="collapse"), diagnosis)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("doctor") / "run"
    steps = ["--total-steps", str(6 * BATCH_SIZE), "--checkpoint-every", "4"]
    small = [*SMALL, "--num-seeds", "2"]
    assert main(["train", *small, *steps, "--out", str(directory), "--cg-iterations", "1"]) == 0
    return directory


def test_the_command_prints_and_its_exit_code_tells(run, capsys):
    code = main(["doctor", str(run), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert code == int(content["severe"])
    assert "settings" in [finding["name"] for finding in content["findings"]]


def test_the_dump_is_what_the_update_learned_from(run, tmp_path, capsys):
    """The metrics of the same update follow from it."""
    assert main(["doctor", str(run), "--dump", str(tmp_path), "--update", "6"]) in (0, 1)
    capsys.readouterr()
    advantages = np.load(tmp_path / "advantages.npy")
    losses = np.load(tmp_path / "vf_loss.npy")
    assert advantages.shape == losses.shape == (2, BATCH_SIZE)
    histories = load_run(run).histories()
    for seed, history in enumerate(histories):
        np.testing.assert_allclose(advantages[seed].mean(), history["advantage_mean"][5], rtol=1e-4)
        np.testing.assert_allclose(advantages[seed].std(), history["advantage_std"][5], rtol=1e-4)
        np.testing.assert_allclose(losses[seed].mean(), history["value_loss_before"][5], rtol=1e-4)
    batch = np.load(tmp_path / "batch.npz")
    assert batch["obs"].shape == (2, BATCH_SIZE, 4)
    capsys.readouterr()
    assert main(["doctor", str(run), "--dump", str(tmp_path), "--update", "7"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""  # no report before the refusal
    assert "update=7" in captured.err
    assert main(["doctor", str(run), "--dump", str(run / "config.json")]) == 2
    assert "dump=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({}, CONFIG), ["history", "its 0", "agent.train"]),
        (([], CONFIG), ["history is empty", "agent.train"]),
        ((None, CONFIG), ["history is NoneType"]),
        ((np.zeros(3), CONFIG), ["history is ndarray"]),
        (({"kl": np.zeros(3)}, CONFIG), ["history", "its 1"]),
        ((CONFIG, healthy()), ["config must be a TRPOConfig", "dict", "diagnose(history, config"]),
        ((healthy(), CONFIG, CONFIG), ["hparams must be a HParams", "TRPOConfig"]),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, words):
    with pytest.raises(ValueError, match=r"; (pass|call)") as refusal:
        diagnose(*arguments)
    for word in words:
        assert word in str(refusal.value)


def test_every_metric_and_every_rule_is_documented():
    text = (ROOT / "docs" / "metrics.md").read_text()
    for name in trpo_jax.UpdateMetrics.__annotations__:
        assert f"`{name}`" in text, name
    for name in trpo_jax.Alarms.__annotations__:
        assert f"`alarm_{name}`" in text, name
    findings = (ROOT / "docs" / "doctor.md").read_text()
    for rule in RULES:
        assert f"`{rule.__name__}`" in findings, rule.__name__
