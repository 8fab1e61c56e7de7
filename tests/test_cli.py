"""The command line: bad input is one line and exit code 2; a run leaves what it promises."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.cli.arguments import TrainArguments
from trpo_jax.cli.parsing import parse
from trpo_jax.experiments.run_directory import load_run
from trpo_jax.experiments.states import final_state

ROOT = Path(__file__).parent.parent


SWEEP = ["sweep", "CartPole-v1", "--max-kl", "0.01"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "train, sweep", "--help"]),
        (["train"], ["ENV"]),
        (["trian", "CartPole-v1"], ["trian", "train"]),
        (["train", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["train", "brax/hoper"], ["hoper", "hopper"]),
        (["train", "MNISTBandit-bsuite"], ["MNISTBandit", "downloads"]),
        (["train", "CartPole-v1", "--num-envz", "3"], ["--num-envz", "--num-envs"]),
        (["train", "CartPole-v1", "--num-envs", "0"], ["num_envs=0", ">= 1"]),
        (["train", "CartPole-v1", "--num-envs", "two"], ["--num-envs", "two"]),
        (["train", "CartPole-v1", "--activation", "rel"], ["rel", "relu"]),
        (["train", "CartPole-v1", "--value-minibatch-size", "100"], ["100", "divide", "128"]),
        (["train", "CartPole-v1", "--max-kl", "0"], ["max_kl=0", "> 0"]),
        (["train", "CartPole-v1", "--max-kl", "-1"], ["max_kl=-1", "> 0"]),
        (["train", "CartPole-v1", "--max-kl", "nan"], ["max_kl=nan", "> 0"]),
        (["train", "CartPole-v1", "--adapt-damping", "--cg-damping", "0"], ["cg_damping=0", "pos"]),
        (["train", "CartPole-v1", "--gamma", "1.5"], ["gamma=1.5", "[0, 1]"]),
        (["train", "CartPole-v1", "--total-steps", "0"], ["total_steps=0", ">= 1"]),
        (["train", "CartPole-v1", "--total-steps", "1.5"], ["--total-steps", "1.5", "2e5"]),
        (["train", "CartPole-v1", "--total-steps", "1e-3"], ["--total-steps", "1e-3", "2e5"]),
        (["train", "CartPole-v1", "--total-steps", "inf"], ["--total-steps", "inf", "2e5"]),
        (["train", "CartPole-v1", "--curvature-chunk-size", "all"], ["-size: 'all'", "nor none"]),
        (["train", "CartPole-v1", "--num-seeds", "0"], ["num_seeds=0", ">= 1"]),
        (["train", "CartPole-v1", "--seed", "-1"], ["seed=-1"]),
        (["train", "CartPole-v1", "--devices", "0"], ["devices=0", ">= 1"]),
        (["train", "CartPole-v1", "--devices", "64"], ["devices=64", "XLA_FLAGS"]),
        ([*SWEEP, "--devices", "64"], ["devices=64"]),
        ([*SWEEP, "--seed", "3000000000"], ["seed=3000000000", "2³¹"]),
        ([*SWEEP[:2], "--random", "3", "--gamma", "0.9", "inf"], ["gamma=inf", "[0, 1]"]),
        ([*SWEEP, "--max-kl", "0.1"], ["--max-kl", "2 times"]),
        ([*SWEEP, "--static", "num_envs=4", "--static", "num_steps=8"], ["--static", "2 times"]),
        (["train", "CartPole-v1", "--env-args", "env_params=foo"], ["env_params='foo'", "dict"]),
        ([*SWEEP, "--halving", "0.5", "0.2"], ["halving=[0.5, 0.2]"]),
        ([*SWEEP, "--resume", "old"], ["env=CartPole-v1", "--resume"]),
        (["sweep", "--max-kl", "0.01", "--resume", "old"], ["max_kl=(0.01,)", "--resume"]),
        ([*SWEEP[:2], "--static", "num_envs=2,4", "--random", "3"], ["random=3", "--max-kl"]),
        (["train", "CartPole-v1", "--process-id", "1"], ["process_id=1", "--distributed"]),
        (
            ["train", "CartPole-v1", "--distributed", "--coordinator", "localhost"],
            ["coordinator=localhost", "HOST:PORT"],
        ),
        (["train", "CartPole-v1", "--network", "cnn"], ["network", "mlp"]),
        (["train", "CartPole-v1", "--env-args", "x={[]:1}"], ["CartPole-v1", "{[]:1}"]),
        (["train", "CartPole-v1", "--env-args", "gravity"], ["gravity", "NAME=VALUE"]),
        (["train", "brax/fast", "--env-args", "backend=warp"], ["warp", "spring"]),
        (["envs", "--all"], ["--all"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_that_cannot_be_written_is_refused(capsys, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a directory")
    assert main(["train", "CartPole-v1", "--out", str(in_the_way / "run")]) == 2
    assert main(["train", "CartPole-v1", "--out", str(in_the_way)]) == 2
    assert main(["train", "CartPole-v1", "--out", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("out=" in line for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_train_help_shows_every_setting_with_the_tuned_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "Pendulum-v1", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    names = [*vars(trpo_jax.TRPOConfig()), *vars(trpo_jax.HParams())]
    for name in names:
        option = name.replace("_", "-")
        assert f"--{option}" in shown or f"--no-{option}" in shown, name
    gamma = trpo_jax.get_preset("Pendulum-v1").hparams.gamma
    assert gamma != trpo_jax.HParams().gamma
    assert re.search(rf"--gamma FLOAT\s+.*\(default:\s*{gamma}\)", shown)


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "doctor", "export", "scores"])
def test_help_is_for_people(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    for machine_word in ("{None}", "(default: '')", "(default: )", "default: None"):
        assert machine_word not in shown
    usage, *lines = shown.splitlines()  # tyro leaves the folding of the first to the terminal
    assert usage.startswith(f"usage: trpo-jax {command} ")
    assert max(map(len, lines)) <= 80, "a line that the terminal would fold anywhere"


def test_options_that_may_be_none_are_read(capsys):
    def parsed(*words):
        return parse(TrainArguments, ["CartPole-v1", *words], "trpo-jax train")

    assert parsed("--out", "a/b").out == Path("a/b")
    assert parsed("--critic-hidden-sizes", "32", "16").config.critic_hidden_sizes == (32, 16)
    assert parsed("--critic-hidden-sizes", "none").config.critic_hidden_sizes is None
    assert parsed("--chunk-size", "None").config.chunk_size is None
    assert parsed("--guard", "0.95").guard == 0.95
    assert main(["train", "CartPole-v1", "--critic-hidden-sizes", "32", "wide"]) == 2
    assert "neither whole numbers nor none" in capsys.readouterr().err


def test_envs_lists_what_can_be_trained(capsys):
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("gymnax/CartPole-v1") and "tuned" in line for line in lines)
    assert any(line.startswith("brax/hopper") for line in lines)
    assert not any("MNIST" in line for line in lines)


SMALL = [
    *("--num-envs", "4", "--num-steps", "32", "--total-steps", "640"),
    *("--eval-episodes", "8", "--seed", "3"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five updates, by the installed command."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "trpo_jax", "train", "CartPole-v1", *SMALL]
    done = subprocess.run(
        [*command, "--out", str(directory)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def test_a_run_prints_its_evaluation_and_its_directory(run):
    directory, printed = run
    assert re.search(r"evaluation: return [\d.]+ \[[\d.]+, [\d.]+\] \(mean, 95 %", printed)
    assert f"run directory: {directory}" in printed
    assert f"overview: {directory}" in printed
    assert "kl" in printed
    assert "steps/s" in printed


def test_a_run_directory_holds_settings_metrics_and_state(run):
    directory, _ = run
    config = json.loads((directory / "config.json").read_text())
    assert (config["env_id"], config["seed"], config["config"]["num_envs"]) == ("CartPole-v1", 3, 4)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["steps"] for line in lines] == [128, 256, 384, 512, 640]
    assert all(0 <= line["kl"] <= 0.01 for line in lines)


def test_the_readme_of_a_run_says_what_each_file_is(run):
    directory, _ = run
    readme = (directory / "README.md").read_text()
    for path in directory.iterdir():
        hidden = path.name.startswith(".") or path.name == "README.md"
        assert hidden or path.name in readme or f"*{path.suffix}" in readme, path.name


def test_the_final_state_on_disk_is_that_of_the_same_run_in_python(run):
    """The runner's program is another one than `update`, so that rounding may differ."""
    directory, _ = run
    preset = trpo_jax.get_preset("CartPole-v1")
    agent = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"), preset.config.replace(num_envs=4, num_steps=32)
    )
    state = agent.init(jax.random.key(3))
    stored = final_state(load_run(directory), agent)
    for _ in range(5):
        state, _ = agent.update(state, preset.hparams)
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, stored.policy_params, state.policy_params)
    assert int(stored.num_updates) == 5


def test_evaluate_gives_the_same_episodes_every_time(run, capsys):
    directory, _ = run
    assert main(["evaluate", str(directory), "--episodes", "8", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((directory / "evaluation.json").read_text())
    assert main(["evaluate", str(directory), "--episodes", "8", "--stochastic"]) == 0
    printed = capsys.readouterr().out
    assert "interquartile mean" in printed
    assert f"{first['mean']:.2f} [" not in printed


def test_export_writes_the_policy_of_a_run(run, capsys, tmp_path):
    from trpo_jax.experiments.export.numpy_policy import NumpyPolicy

    directory, _ = run
    out = str(tmp_path / "deployed")
    assert main(["export", str(directory), "--to", "numpy", "--out", out, "--stochastic"]) == 0
    assert capsys.readouterr().out.strip() == f"{out}.npz"
    agent, state, *_ = trpo_jax.load_run(directory)
    obs, key = np.random.default_rng(0).normal(size=(9, 4)), jax.random.key(2)
    noise = jax.random.gumbel(key, (9, 2))
    np.testing.assert_array_equal(
        NumpyPolicy(f"{out}.npz")(obs=obs, noise=noise), agent.act(state, key, obs)
    )
    for words in (["--to", "torch"], ["--seed", "9"], ["--checkpoint", "7"]):
        assert main(["export", str(directory), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_runs_lists_every_run(run, capsys):
    directory, _ = run
    assert main(["runs", str(directory.parent)]) == 0
    printed = capsys.readouterr().out
    assert "CartPole-v1" in printed
    assert "finished" in printed
    assert "640" in printed


def test_a_finished_run_goes_on_with_more_steps_only(run, capsys):
    directory = str(run[0])
    assert main(["train", "--resume", directory]) == 2
    assert "--total-steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nowhere"], ["nowhere", "does not exist"]),
        (["plot"], ["RUN"]),
        (["doctor", "nowhere"], ["nowhere", "does not exist"]),
        (["doctor", "RUN", "--update", "3"], ["update=3", "--dump"]),
        (["runs", "nowhere"], ["nowhere"]),
        (["train", "--resume", "nowhere"], ["nowhere", "does not exist"]),
        (["evaluate", "RUN", "--episodes", "0"], ["episodes=0", ">= 1"]),
        (["evaluate", "RUN", "--checkpoint", "7"], ["checkpoint=7", "5"]),
        (["train", "--resume", "RUN", "--max-kl", "0.5"], ["max_kl=0.5", "0.01"]),
        (["train", "--resume", "RUN", "--num-envs", "8"], ["num_envs=8", "4"]),
        (["train", "Acrobot-v1", "--resume", "RUN"], ["Acrobot-v1", "CartPole-v1"]),
        (["train", "--resume", "RUN", "--out", "new"], ["out=new"]),
        (["train", "CartPole-v1", "--keep", "0"], ["keep=0", ">= 1"]),
        (["train", "CartPole-v1", "--checkpoint-every", "0"], ["checkpoint_every=0", ">= 1"]),
        (["train", "CartPole-v1", "--eval-every", "-1"], ["eval_every=-1", ">= 0"]),
        (["train", "CartPole-v1", "--wandb", "project"], ["wandb=project", "pip install"]),
    ],
)
def test_bad_input_about_runs_is_one_line_too(arguments, words, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert main([str(run[0]) if word == "RUN" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_is_taken_for_a_run_names_its_best(capsys, tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    for command in ("plot", "doctor", "render"):
        assert main([command, str(tmp_path)]) == 2
        assert f"is {tmp_path / 'best'}" in capsys.readouterr().err


def test_steps_may_be_written_as_2e6_and_none_in_any_case():
    for none in ("none", "None", "NONE"):
        words = ["ENV", "--total-steps", "2e6", "--curvature-chunk-size", none, "--devices", "3"]
        parsed = parse(TrainArguments, words, "trpo-jax train", TrainArguments())
        assert parsed.total_steps == 2_000_000
        assert isinstance(parsed.total_steps, int)
        assert parsed.config.chunk_size is None
        assert parsed.output.devices == 3


def test_a_run_over_several_seeds_logs_each_of_them(tmp_path):
    directory = tmp_path / "run"
    assert main(["train", "CartPole-v1", *SMALL, "--num-seeds", "2", "--out", str(directory)]) == 0
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    order = [(line["update"], line["seed"]) for line in lines]
    assert order[:4] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    evaluation = json.loads((directory / "evaluation.json").read_text())
    assert len(evaluation["mean_per_run"]) == 2
    assert sorted(path.name for path in (directory / "tensorboard").iterdir()) == [
        "seed-3",
        "seed-4",
    ]


def test_the_readme_names_two_commands_and_ci_runs_the_same():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"```sh\n(.*?)\n```", readme, flags=re.S)
    assert commands == [
        "pip install -e . && trpo-jax train CartPole-v1",
        'pip install -e ".[test]" && pytest',
    ]
    for command in commands:
        assert command.replace("pip install", "pip install --quiet") in script
