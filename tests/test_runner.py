"""Runs on disk: what is read back, what is refused, and what a full disk leaves."""

import json
import resource
import shlex
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from runs import BATCH_SIZE, SMALL, start, updates_in

from trpo_jax.cli import main
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.evaluation import bootstrap_interval, summarize
from trpo_jax.experiments.files import is_locked, locked, read_lines
from trpo_jax.experiments.loggers import JsonLines, TensorBoard, WeightsAndBiases
from trpo_jax.experiments.quiet import quiet
from trpo_jax.experiments.run_directory import list_runs, load_run, read_status
from trpo_jax.experiments.states import final_state, make_agent, state_at
from trpo_jax.learner.evaluation import EpisodeStats

NUM_UPDATES = 12


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run with checkpoints after updates 4, 8 and 12."""
    directory = tmp_path_factory.mktemp("original") / "run"
    steps = ["--total-steps", str(NUM_UPDATES * BATCH_SIZE), "--checkpoint-every", "4"]
    assert main(["train", *SMALL, *steps, "--out", str(directory), "--eval-every", "3"]) == 0
    return directory


@pytest.fixture
def run(original, tmp_path, without_plots):
    """A copy of it that may be damaged."""
    return shutil.copytree(original, tmp_path / "run")


def resume(run, updates):
    return main(["train", "--resume", str(run), "--total-steps", str(updates * BATCH_SIZE)])


def damage(run, update):
    """Overwrite the middle of the largest file of a checkpoint."""
    files = [path for path in (run / "checkpoints" / str(update)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    largest.write_bytes(content)


def test_the_last_checkpoints_are_kept_and_the_best_apart(original):
    assert Checkpoints(original / "checkpoints").updates() == [4, 8, 12]
    evaluations = load_run(original).evaluations()
    assert [line["update"] for line in evaluations] == [3, 6, 9, 12]
    means = [line["mean"] for line in evaluations]
    best = evaluations[int(np.argmax(means))]["update"]
    assert Checkpoints(original / "best").updates() == [best]


def test_histories_give_back_every_metric(original):
    (history,) = load_run(original).histories()
    assert history["update"].tolist() == list(range(1, NUM_UPDATES + 1))
    assert history["accepted"].dtype == bool
    assert history["cg_residual_norms"].shape == (NUM_UPDATES, 11)
    assert np.isnan(history["candidate_kls"]).any()
    assert not any("null" in str(column.dtype) for column in history.values())


def test_a_state_between_two_checkpoints_is_that_of_the_run(original):
    """Replayed from update 4 on, it gives the metrics of the run's next updates bit for bit."""
    run = load_run(original)
    agent = make_agent(run.spec)
    at_8 = jax.tree.leaves(state_at(run, agent, 8).policy_params)
    stored = jax.tree.leaves(final_state(run, agent, "8").policy_params)
    for ours, theirs in zip(at_8, stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (run.path / "checkpoints" / "8").rename(run.path / "away")
    try:
        replayed = jax.tree.leaves(state_at(run, agent, 8).policy_params)
    finally:
        (run.path / "away").rename(run.path / "checkpoints" / "8")
    for ours, theirs in zip(replayed, stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(run, original, capsys):
    damage(run, 12)
    assert resume(run, NUM_UPDATES + 2) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "checkpoints/12" in printed
    assert "going back" in printed
    assert updates_in(run) == list(range(1, NUM_UPDATES + 3))
    old = (original / "metrics.jsonl").read_text().splitlines()
    assert (run / "metrics.jsonl").read_text().splitlines()[:NUM_UPDATES] == old


def test_if_all_are_damaged_nothing_is_changed(run, capsys):
    for update in (4, 8, 12):
        damage(run, update)
    metrics = (run / "metrics.jsonl").read_bytes()
    assert resume(run, NUM_UPDATES + 2) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "checkpoints/4" in error
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert (run / "checkpoints" / "4").is_dir()


def test_the_checkpoint_of_another_agent_is_refused(run, original, tmp_path, capsys):
    other = tmp_path / "other"
    steps = ["--total-steps", str(BATCH_SIZE), "--eval-every", "0"]
    wider = ["--hidden-sizes", "24"]
    assert main(["train", *SMALL, *steps, *wider, "--out", str(other)]) == 0
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert "checkpoints/1" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["meta", "state"])
def test_files_of_a_checkpoint_that_are_empty_are_named(run, item, capfd):
    for update in (4, 8, 12):
        for file in (run / "checkpoints" / str(update) / item).rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    assert resume(run, NUM_UPDATES + 2) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert f"checkpoints/4 is damaged: {item}/" in error


def test_orbax_does_not_speak_of_what_it_can_do_without(run, capfd):
    for update in (4, 8, 12):
        (run / "checkpoints" / str(update) / "_CHECKPOINT_METADATA").write_bytes(b"")
    assert resume(run, NUM_UPDATES + 1) == 0
    assert "ERROR" not in capfd.readouterr().err


def test_only_abandoned_reads_are_hushed(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    report = lambda text: types.SimpleNamespace(exc_value=RuntimeError(text))  # noqa: E731
    with pytest.raises(OSError), quiet():
        raise OSError
    sys.unraisablehook(report("Event loop is closed"))
    sys.unraisablehook(report("something else"))
    assert [str(each.exc_value) for each in seen] == ["something else"]


def test_a_run_without_checkpoint_starts_over_and_says_so(run, original, capsys):
    shutil.rmtree(run / "checkpoints")
    assert resume(run, NUM_UPDATES) == 0
    assert "warning: run=" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == (original / "metrics.jsonl").read_bytes()


def test_an_incomplete_run_is_refused_by_commands_that_need_a_state(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert main(["evaluate", str(run)]) == 2
    assert "no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "{}", '{"env_id": "CartPole-v1", "config": {"x": 1}}'])
def test_a_config_of_another_version_is_one_line(run, text, capsys):
    (run / "config.json").write_text(text)
    assert main(["evaluate", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json" in error
    assert list_runs(run.parent) == []


def test_a_run_in_use_is_refused(run, capsys):
    assert not is_locked(run)
    config = (run / "config.json").read_bytes()
    with locked(run):
        assert is_locked(run)
        assert resume(run, NUM_UPDATES + 1) == 2
    assert "in use" in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == config


def test_a_log_that_cannot_be_opened_is_one_line(run, capsys):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert resume(run, NUM_UPDATES + 1) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert read_status(load_run(run)).status == "failed"
    assert not is_locked(run)


def test_the_status_of_a_run_that_was_killed(run):
    (run / "status.json").write_text('{"status": "running", "updates": 4, "steps": 256}')
    status = read_status(load_run(run))
    assert status.status == "killed"
    assert status.steps == NUM_UPDATES * BATCH_SIZE
    assert np.isfinite(status.last_return)


@pytest.mark.parametrize("text", ["", "[1]", '{"updates": 4}'])
def test_a_damaged_status_hides_no_other_run(run, original, text):
    (run / "status.json").write_text(text)
    shutil.copytree(original, run.parent / "other")
    statuses = {status.path.name: status.status for status in list_runs(run.parent)}
    assert statuses == {"run": "damaged", "other": "finished"}


@pytest.mark.parametrize("bad", ["\0bad", "[1]", "{}"])
def test_a_damaged_line_of_the_metrics_is_named(run, bad, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:2], f"{bad}\n", *lines[2:]]))
    for command in ("doctor", "plot"):
        assert main([command, str(run)]) == 2
    assert resume(run, NUM_UPDATES + 1) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all("metrics.jsonl is damaged: line 3 " in each for each in errors)
    assert [status.status for status in list_runs(run.parent)] == ["damaged"]
    subprocess.run(shlex.split(errors[0].partition("line: ")[2]), check=True)
    assert resume(run, NUM_UPDATES + 1) == 0
    assert updates_in(run) == list(range(1, NUM_UPDATES + 2))


def test_a_full_disk_leaves_the_last_good_checkpoint(run, tmp_path):
    """Files may grow to 4 kB only, which is what a full disk does to a checkpoint."""
    before = {path.name for path in (run / "checkpoints").iterdir()}
    total = str((NUM_UPDATES + 4) * BATCH_SIZE)
    process = start(
        *("train", "--resume", "run", "--total-steps", total, "--checkpoint-every", "1"),
        cwd=tmp_path,
    )
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    code = process.wait(timeout=240)
    output = (tmp_path / "output").read_text()
    assert code == 2, output
    assert "Traceback" not in output
    assert "trpo-jax:" in output
    whole = {path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()}
    assert before == whole
    agent = make_agent(load_run(run).spec)
    assert int(final_state(load_run(run), agent).num_updates) == NUM_UPDATES
    assert resume(run, NUM_UPDATES + 4) == 0
    assert updates_in(run) == list(range(1, NUM_UPDATES + 5))


@pytest.mark.parametrize("tail", [b'{"update": 3, "se', b'{"update": 3}\n{"update"', b""])
def test_a_torn_line_is_repaired(tmp_path, tail):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1}\n{"update": 2}\n' + tail)
    assert len(read_lines(file)) == 2 + tail.count(b"\n")
    log = JsonLines(file, last_update=2)
    log.write([{"update": 3}])
    log.close()
    assert [line["update"] for line in read_lines(file)] == [1, 2, 3]


def test_tensorboard_has_every_number(tmp_path, original):
    from tensorboardX.proto.event_pb2 import Event

    records = read_lines(original / "metrics.jsonl")
    board = TensorBoard(tmp_path, [0])
    board.write(records)
    board.close()
    (file,) = (tmp_path / "seed-0").iterdir()
    kls, data = {}, file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]
        for value in event.summary.value:
            if value.tag == "trpo/kl":
                kls[event.step] = value.simple_value
    assert kls == pytest.approx({record["update"]: record["kl"] for record in records})


def test_weights_and_biases_gets_one_step_an_update(tmp_path, monkeypatch):
    logged = []

    class FakeRun:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    settings = {}

    def init(**keywords):
        settings.update(keywords)
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    log = WeightsAndBiases("project", tmp_path / "run", [3], {"max_kl": 0.01})
    log.write([{"update": 1, "steps": 64, "seed": 3, "kl": 0.5, "alarm_off_policy": True}])
    log.close()
    assert logged == [
        (1, {"trpo/steps": 64.0, "trpo/kl": 0.5, "alarms/off_policy": 1.0}),
        "finished",
    ]
    assert settings["project"] == "project"
    assert settings["config"] == {"max_kl": 0.01, "seed": 3}


def test_weights_and_biases_without_a_login_is_one_line(tmp_path, monkeypatch):
    class Error(Exception):
        pass

    def init(**keywords):
        raise Error("no API key configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=Error))
    with pytest.raises(ValueError, match="wandb='project' cannot be used: no API key configured"):
        WeightsAndBiases("project", tmp_path / "run", [3], {})


def test_a_summary_counts_runs_if_there_are_several():
    returns = np.array([[0.0, 2.0], [10.0, 10.0], [4.0, 6.0], [5.0, 5.0]])
    summary = summarize(EpisodeStats(returns, np.full((4, 2), 7)))
    assert summary.mean == 5.25
    assert summary.interquartile_mean == 5.0
    assert (summary.minimum, summary.maximum) == (1.0, 10.0)
    assert summary.low < summary.mean < summary.high
    assert summary.mean_length == 7
    single = summarize(EpisodeStats(returns[:1], np.ones((1, 2))))
    assert (single.minimum, single.maximum, single.num_episodes) == (0.0, 2.0, 2)


def test_the_bootstrap_interval_covers_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(3, 2, size=60)) for _ in range(200)]
    covered = np.mean([low <= 3 <= high for low, high in intervals])
    assert 0.9 <= covered <= 0.985
    assert bootstrap_interval(np.array([2.5])) == (2.5, 2.5)


def test_resuming_with_other_versions_warns(run, capsys):
    config = json.loads((run / "config.json").read_text())
    config["versions"]["jax"] = "0.0.1"
    (run / "config.json").write_text(json.dumps(config))
    assert resume(run, NUM_UPDATES + 1) == 0
    assert "jax is" in capsys.readouterr().err
