"""Runs of what a user brings: environment, network, step; from Python and on the command line."""

import json
import shutil
import subprocess
import sys
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import Counting
from probe_envs import MatchTheBit

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.envs.host import EnvironmentFailed
from trpo_jax.experiments import run_directory, states
from trpo_jax.experiments.doctor import examine
from trpo_jax.experiments.evaluation import Evaluations
from trpo_jax.experiments.plots import plot_runs
from trpo_jax.learner import StepInfo

CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1)
STEPS = 6 * CONFIG.batch_size
QUICK = trpo_jax.RunOptions(checkpoint_every=2, eval_every=0, eval_episodes=8, tensorboard=False)
BATCHED = trpo_jax.HParams.stack([trpo_jax.HParams(), trpo_jax.HParams(max_kl=0.02)])
ENV = MatchTheBit()
POLICY = trpo_jax.policy_from_flax(nn.Dense(2), ENV.action_space)

pytestmark = pytest.mark.usefixtures("without_plots")


def half_step(objective, params, batch, hparams, config):
    """A plain gradient step, without a trust region."""
    gradient = jax.grad(
        lambda candidate: objective.gain(objective.predict(candidate, batch), batch).mean()
    )(params)
    moved = jax.tree.map(lambda leaf, slope: leaf + 0.5 * slope, params, gradient)
    kl = objective.divergence(objective.predict(moved, batch), batch).mean()
    return moved, StepInfo(accepted=np.bool_(True), kl=kl)


def make_agent():
    return trpo_jax.make_trpo(ENV, CONFIG, policy=POLICY, policy_step=half_step)


def train(out, **more):
    more = {"total_steps": STEPS, "options": QUICK, "quiet": True, **more}
    return trpo_jax.train_run(make_agent(), out, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("own") / "run")


def params_of(run):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.state.policy_params)]


def same_params(one, other):
    pairs = zip(params_of(one), params_of(other), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_a_run_has_all_that_the_command_line_gives(run):
    assert run.evaluation.num_episodes == 8
    assert len(run.history[0]["kl"]) == 6
    for name in (
        "config.json",
        "metrics.jsonl",
        "overview.png",
        "evaluation.json",
        "checkpoints/6",
    ):
        assert (run.path / name).exists(), name
    stored = run_directory.load_run(run.path)
    assert stored.spec.own == ("env", "policy_step", "policy")
    assert stored.spec.env_id == "match-the-bit"
    assert examine(stored).num_seeds == 1
    assert plot_runs([stored], run.path, ("png",))


def test_a_method_without_a_trust_region_leaves_its_metrics_out(run):
    (record,) = run.history
    assert "cg_residual_norms" not in record
    assert "step_fraction" not in record
    assert record["accepted"].all()
    _, metrics = run.agent.update(run.state)
    assert metrics.num_backtracks is None
    assert metrics.status == trpo_jax.StepStatus.ACCEPTED
    assert trpo_jax.diagnose(jax.tree.map(lambda leaf: leaf[None], metrics), CONFIG).num_seeds == 1


def test_it_is_read_again_with_the_parts_that_it_needs(run):
    again = trpo_jax.load_run(run.path, env=ENV, policy=POLICY, policy_step=half_step)
    assert again.agent is run.agent
    assert same_params(again, run)
    with pytest.raises(ValueError, match="trained with policy_step, policy of its own"):
        trpo_jax.load_run(run.path, env=ENV)
    with pytest.raises(ValueError, match="networks is not a part"):
        trpo_jax.load_run(run.path, networks=POLICY)


@pytest.mark.parametrize(
    "command", ["evaluate RUN", "train --total-steps 9999 --resume RUN", "render RUN"]
)
def test_a_command_that_needs_the_agent_says_what_is_missing(run, capsys, command):
    assert main([str(run.path) if word == "RUN" else word for word in command.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "env, policy_step, policy of its own" in error
    assert "trpo_jax.load_run(path, env=…" in error


def test_it_resumes_bit_for_bit(run, tmp_path):
    half = train(tmp_path / "half", total_steps=STEPS // 2)
    assert len(half.history[0]["kl"]) == 3
    whole = train(tmp_path / "half", resume=True)
    np.testing.assert_array_equal(whole.history[0]["kl"], run.history[0]["kl"])
    assert same_params(whole, run)
    with pytest.raises(ValueError, match="are done already"):
        train(tmp_path / "half", resume=True)
    with pytest.raises(ValueError, match="seed=1 differs from the run's 0"):
        train(tmp_path / "half", resume=True, seed=1)


def test_a_killed_run_goes_on_bit_for_bit(run, tmp_path):
    """Killed with a checkpoint, in mid-run, by the process itself."""
    code = (
        "import os, sys; sys.path.insert(0, 'tests')\n"
        "import test_own_runs as own\n"
        "from trpo_jax.experiments.checkpoints import Checkpoints\n"
        "save = Checkpoints.save\n"
        "def save_and_die(self, update, state, note=None):\n"
        "    save(self, update, state, note)\n"
        "    self.wait()\n"
        "    if update == 4:\n"
        "        os.kill(os.getpid(), 9)\n"
        "Checkpoints.save = save_and_die\n"
        f"own.train({str(tmp_path / 'killed')!r})\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == -9, outcome.stderr
    whole = train(tmp_path / "killed", resume=True)
    np.testing.assert_array_equal(whole.history[0]["kl"], run.history[0]["kl"])
    assert same_params(whole, run)


def test_a_run_may_begin_with_a_state_and_with_several_seeds(run, tmp_path):
    begun = train(tmp_path / "begun", initial_state=run.state, total_steps=CONFIG.batch_size)
    expected, _ = run.agent.update(run.state)
    assert int(begun.state.num_updates) == 7
    for mine, theirs in zip(params_of(begun), params_of(run._replace(state=expected)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    seeds = train(tmp_path / "seeds", num_seeds=2, total_steps=CONFIG.batch_size)
    assert len(seeds.history) == 2
    assert seeds.state.num_updates.shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps=0"),
        ({"num_seeds": 0}, "num_seeds=0"),
        ({"seed": -1}, "seed=-1"),
        ({"hparams": {}}, "hparams={} must be of type HParams"),
        ({"options": None}, "options=None"),
        ({"seed": "3"}, "seed='3' must be a whole number >= 0"),
        ({"seed": None}, "seed=None"),
        ({"options": QUICK._replace(eval_episodes=0)}, "eval_episodes=0 must be a whole number"),
        ({"options": QUICK._replace(keep=0)}, "keep=0"),
        ({"options": QUICK._replace(eval_every=-1)}, "eval_every=-1 must be a whole number >= 0"),
        ({"options": QUICK._replace(checkpoint_every=-1)}, "checkpoint_every=-1"),
        ({"options": QUICK._replace(checkpoint_every=1.5)}, "checkpoint_every=1.5"),
        ({"options": QUICK._replace(devices=0)}, "devices=0"),
        ({"options": QUICK._replace(tensorboard=1)}, "tensorboard=1 must be True or False"),
        ({"options": QUICK._replace(wandb=3)}, "wandb=3 must be the name of a project"),
        ({"out": 3}, "out=3 must be the path of a directory"),
        ({"hparams": BATCHED}, r"max_kl has shape \(2,\); a run takes one number"),
        ({"initial_state": {"a": 1}}, "initial_state={'a': 1} must be a TrainState"),
        ({"out": None, "resume": True}, "out is missing"),
        ({"out": "nowhere", "resume": True}, "does not exist"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path, arguments, message):
    out = arguments.pop("out", tmp_path / "run")
    with pytest.raises(ValueError, match=message) as caught:
        train(out, **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_path_of_a_run_is_a_path():
    with pytest.raises(ValueError, match="path=3 must be the path of a directory"):
        trpo_jax.load_run(3)


def test_numbers_of_jax_and_numpy_are_numbers(run, tmp_path):
    config = trpo_jax.TRPOConfig(
        num_envs=np.int64(4), num_steps=16, hidden_sizes=(np.int32(8),), value_epochs=1
    )
    assert json.dumps(vars(config)) == json.dumps(vars(CONFIG))
    lane = jax.tree.map(lambda leaf: leaf[0], BATCHED)
    for hparams in (trpo_jax.HParams(max_kl=np.float32(0.01)), lane):
        spec = states.spec_of(run.agent, hparams, np.int64(3), 1)
        assert spec.hparams == trpo_jax.HParams(max_kl=0.01)
        assert json.loads(json.dumps(vars(spec.hparams)))["max_kl"] == 0.01
    options = QUICK._replace(keep=np.int32(2), eval_episodes=np.int64(8))
    same = train(
        tmp_path / "run",
        hparams=trpo_jax.HParams(gamma=jnp.float32(0.99)),
        seed=np.int64(0),
        total_steps=np.int64(STEPS),
        options=options,
    )
    stored = run_directory.load_run(same.path)
    assert (stored.spec.seed, stored.total_steps, stored.options.keep) == (0, STEPS, 2)
    assert stored.spec == run_directory.load_run(run.path).spec
    assert same_params(same, run)


def test_a_state_to_begin_with_is_one_of_this_agent(run, tmp_path):
    double = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), run.state)
    grown = jax.tree.map(lambda leaf: jnp.ones((5, *leaf.shape)), run.state.policy_params)
    host = trpo_jax.make_trpo(trpo_jax.make_env(Counting), CONFIG)
    own = host.init(jax.random.split(jax.random.key(0), 2))
    states.require_state(host, states.spec_of(host, trpo_jax.HParams(), 0, 2), own)
    without = own.replace(policy_params={})
    for agent, state, num_seeds, message in (
        (run.agent, double, 1, r"initial_state.key has shape \(2,\); num_seeds=1 takes \(\)"),
        (run.agent, run.state, 2, r"initial_state.key has shape \(\); num_seeds=2 takes \(2,\)"),
        (run.agent, run.state.replace(policy_params={}), 1, "initial_state.policy_params"),
        (run.agent, run.state.replace(policy_params=grown), 1, r"bias'\] has shape \(5, 2\)"),
        (host, own, 1, r"num_seeds=1 takes \(\)"),
        (host, without, 2, "initial_state.policy_params"),
        (host, double, 2, "state.actor.obs has shape"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            trpo_jax.train_run(agent, tmp_path / "run", initial_state=state, num_seeds=num_seeds)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    for agent in (run.agent, host):
        with pytest.raises(ValueError, match=r"state=None must be a TrainState, from agent\.init"):
            agent.update(None)


def test_a_run_of_another_agent_is_told_from_a_damaged_one(run, tmp_path):
    whole = shutil.copytree(run.path, tmp_path / "run")
    before = sorted(path.name for path in (whole / "checkpoints").iterdir())
    other = trpo_jax.policy_from_flax(nn.Dense(2, use_bias=False), ENV.action_space)
    message = (
        r"policy_params\.params\.bias is \(2,\) there and missing in this one; .* env=, policy="
    )
    with pytest.raises(ValueError, match=message):
        trpo_jax.load_run(whole, env=ENV, policy=other, policy_step=half_step)
    agent = trpo_jax.make_trpo(ENV, CONFIG, policy=other, policy_step=half_step)
    with pytest.raises(ValueError, match=message):
        trpo_jax.train_run(agent, whole, total_steps=2 * STEPS, resume=True, quiet=True)
    assert before == sorted(path.name for path in (whole / "checkpoints").iterdir())


def test_only_faults_of_the_disk_are_faults_of_the_disk(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the simulator's licence has ended")

    monkeypatch.setattr(Evaluations, "evaluate", fail)
    with pytest.raises(OSError, match="licence"):
        train(tmp_path / "run", options=QUICK._replace(eval_every=1))


def test_the_readme_of_a_run_says_how_it_continues(run, tmp_path):
    assert "continue, bit for bit" in (run.path / "README.md").read_text()
    spec = run_directory.load_run(run.path).spec
    run_directory.write_run(tmp_path, spec, STEPS, on_host=True)
    text = (tmp_path / "README.md").read_text()
    assert "continue, with new episodes" in text
    assert "bit for bit" not in text


@pytest.mark.parametrize("place", ["during", "after"])
def test_an_evaluation_that_fails_loses_no_training(tmp_path, monkeypatch, place):
    def fail(*_, **__):
        raise EnvironmentFailed("the simulator is broken")

    during = place == "during"
    if during:
        monkeypatch.setattr(Evaluations, "evaluate", fail)
    else:
        monkeypatch.setattr("trpo_jax.experiments.runner.summarize", fail)
    options = QUICK._replace(checkpoint_every=100, eval_every=3 if during else 0)
    with pytest.raises(EnvironmentFailed, match="broken"):
        train(tmp_path / "run", options=options)
    stored = run_directory.load_run(tmp_path / "run")
    done = 3 if during else 6
    assert states.updates_done(stored) == done
    assert len(stored.histories()[0]["kl"]) == done
    assert "the simulator is broken" in (tmp_path / "run" / "status.json").read_text()


def test_a_sweep_takes_parts_of_ones_own():
    result = trpo_jax.sweep(
        ENV, CONFIG, {"max_kl": [0.01, 0.02]}, num_updates=2, num_episodes=4, policy=POLICY
    )
    assert "Dense_0" not in jax.tree_util.keystr(
        jax.tree_util.tree_flatten_with_path(result.states.policy_params)[0][0][0]
    )
    assert result.states.policy_params["params"]["kernel"].shape == (2, 2, 2)


MODULE = """
import jax.numpy as jnp
from trpo_jax import Discrete, Environment, EnvStep

class Bandit(Environment):
    name, obs_shape, action_space, max_episode_steps = "bandit", (1,), Discrete(2), 1

    def reset(self, key):
        return jnp.int32(0), jnp.ones(1)

    def step(self, key, state, action):
        return state, EnvStep(jnp.ones(1), jnp.float32(action), jnp.bool_(True), jnp.bool_(False))

def make_env(**kwargs):
    return Bandit(**kwargs)

nothing = None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_bandit.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "my_bandit"


def test_the_command_line_trains_an_environment_of_ones_own(module, tmp_path, capsys):
    small = "--num-envs 4 --num-steps 8 --hidden-sizes 8 --eval-every 0 --eval-episodes 4"
    words = f"train {module}:make_env --out run --total-steps 64 --no-tensorboard {small}".split()
    assert main(words) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["env_id"], stored["own"]) == (f"{module}:make_env", [])
    assert main(["evaluate", "run", "--episodes", "4"]) == 0
    assert trpo_jax.load_run("run").agent.parts.env.name == "bandit"
    capsys.readouterr()
    for env, message in (
        (f"{module}:nothing", "has no function 'nothing'"),
        ("no_such_module:make_env", "no_such_module cannot be imported"),
    ):
        assert main(["train", env]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["train", f"{module}:make_env", "--env-args", "size=3"]) == 2
    assert "does not take {'size': 3}" in capsys.readouterr().err


def test_settings_of_an_earlier_version_are_read_as_the_nearest_of_today(run, tmp_path, capsys):
    content = json.loads((run.path / "config.json").read_text())
    del content["own"], content["continuous"], content["config"]["value_iterations"]
    content["config"].update(
        solver_dtype="mixed", adapt_damping=True, curvature_chunk_size=16, warp_speed=9,
        value_optimizer="lbfgs", value_epochs=7, algorithm="trpo",
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content))
    stored = run_directory.load_run(tmp_path)
    config = stored.spec.config
    assert (config.solver_dtype, config.chunk_size) == ("float64", 16)
    assert (config.algorithm, config.value_iterations) == ("trpo_adaptive_damping", 7)
    assert len(stored.notes) == 2
    assert any("mixed is gone" in note for note in stored.notes)
    assert any("warp_speed=9 is no setting" in note for note in stored.notes)


def test_options_of_earlier_versions_still_work():
    from trpo_jax.cli.arguments import TrainArguments
    from trpo_jax.cli.parsing import parse

    words = ["CartPole-v1", "--curvature-chunk-size", "64", "--adapt-damping"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = parse(TrainArguments, words, "trpo-jax train").config
    assert (config.chunk_size, config.algorithm) == (64, "trpo_adaptive_damping")
    config = parse(TrainArguments, ["X", "--curvature-chunk-size=32"], "trpo-jax train").config
    assert config.chunk_size == 32


def test_a_checkpoint_of_an_earlier_version_says_how_to_go_on(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trpo_jax.experiments.checkpoints._FORMAT", 1)
    small = "--num-envs 2 --num-steps 8 --hidden-sizes 8 --total-steps 16"
    words = ["train", "CartPole-v1", *small.split()]
    words += ["--eval-every", "0", "--eval-episodes", "2", "--out", str(tmp_path / "old")]
    assert main(words) == 0
    monkeypatch.undo()
    capsys.readouterr()
    before = {file: file.read_bytes() for file in (tmp_path / "old").glob("*.json")}
    assert main(["train", "--resume", str(tmp_path / "old"), "--total-steps", "32"]) == 2
    assert before == {file: file.read_bytes() for file in (tmp_path / "old").glob("*.json")}
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "old")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has format 1" in error
    assert "or train anew" in error
