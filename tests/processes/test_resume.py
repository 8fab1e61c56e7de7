"""Runs that are killed at any moment go on bit for bit, and lose no line of their logs."""

import random
import signal

import numpy as np
import pytest
from runs import (
    BATCH_SIZE,
    SMALL,
    count_lines,
    kill_after,
    parameters,
    start,
    updates_in,
    wait_for_update,
)

NUM_KILLS = 20
NUM_UPDATES = 800
STEPS = ("--total-steps", str(NUM_UPDATES * BATCH_SIZE))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same run in one go, with other checkpoints and so with other chunks."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    process = start(
        "train", *SMALL, *STEPS, "--out", "run", "--checkpoint-every", "70", cwd=directory
    )
    assert process.wait(timeout=240) == 0, (directory / "output").read_text()
    return directory / "run"


def assert_same_run(run, other):
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (run / "evaluations.jsonl").read_bytes() == (other / "evaluations.jsonl").read_bytes()
    assert (run / "evaluation.json").read_bytes() == (other / "evaluation.json").read_bytes()
    for ours, theirs in zip(parameters(run), parameters(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_twenty_kills_change_no_bit(uninterrupted, tmp_path):
    """A checkpoint every update, so that most kills fall into the writing of one."""
    run, moments = tmp_path / "run", random.Random(0)
    arguments = ["train", *SMALL, *STEPS, "--out", "run", "--checkpoint-every", "1"]
    for _ in range(NUM_KILLS):
        process = start(*arguments, cwd=tmp_path)
        assert kill_after(run, moments.uniform(0, 0.4), process), (tmp_path / "output").read_text()
        assert "Traceback" not in (tmp_path / "output").read_text()
        arguments = ["train", "--resume", "run", "--checkpoint-every", "1"]
    last = start("train", "--resume", "run", "--checkpoint-every", "50", cwd=tmp_path)
    assert last.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    assert updates_in(run) == list(range(1, NUM_UPDATES + 1))
    assert_same_run(run, uninterrupted)


def test_a_signal_ends_the_run_with_a_checkpoint(uninterrupted, tmp_path):
    """Ctrl-C, and what a cluster sends to the run that goes on."""
    run, output = tmp_path / "run", tmp_path / "output"
    arguments = ["train", *SMALL, *STEPS, "--out", "run"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = count_lines(run)
        process = start(*arguments, "--checkpoint-every", "5", cwd=tmp_path)
        wait_for_update(run, before + 20, process)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        printed = output.read_text()
        output.unlink()
        assert "--resume run" in printed
        assert "Traceback" not in printed
        reached = updates_in(run)
        assert before + 20 < len(reached) < NUM_UPDATES
        assert (run / "checkpoints" / str(reached[-1])).is_dir()
        assert '"interrupted"' in (run / "status.json").read_text()
        arguments = ["train", "--resume", "run"]
    assert start(*arguments, cwd=tmp_path).wait(timeout=240) == 0
    assert_same_run(run, uninterrupted)
