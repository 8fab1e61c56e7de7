"""The guard: what it concludes from returns, and what a run on disk makes of it."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import Counting
from probe_envs import MatchTheBit
from scipy import stats

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.files import read_lines, to_json
from trpo_jax.experiments.guard.deciding import (
    BLOCK,
    FIRST_LOOK,
    NOT_TESTED,
    UNDECIDED,
    Knowledge,
    Pairs,
    examine,
)
from trpo_jax.experiments.guard.service import knowledge_in
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.learner import StepInfo
from trpo_jax.learner.parts import PolicyStep

GUARD = Guard(0.95, margin=0.5, share=1.0)


def players(rng, gap, spread=1.0):
    """Two policies with normal returns; the candidate's mean is larger by `gap`."""

    def play(block):
        return Pairs(rng.normal(gap, spread, BLOCK), rng.normal(0, spread, BLOCK), steps=2 * BLOCK)

    return play


def one_candidate(play, known=Knowledge(), guard=GUARD, pairs=256, **more):  # noqa: B008
    """One candidate, with a share of steps that pays for so many pairs."""
    settings = {"update": 7, "training_steps": known.steps + 2 * pairs, "max_steps": 1, **more}
    return examine(guard, known, play, **settings)


@pytest.mark.parametrize(
    ("gap", "verdict", "action"),
    [
        (2.0, "better", "replaced"),
        (0.0, "not worse", "replaced"),
        (-0.5, "undecided", "kept"),
        (-2.0, "worse", "rolled back"),
    ],
)
def test_a_candidate_gets_the_verdict_that_its_returns_show(gap, verdict, action):
    known, test = one_candidate(players(np.random.default_rng(0), gap))
    assert (test.verdict, test.action) == (verdict, action)
    assert known.in_service == (7 if action == "replaced" else 0)
    assert known.num_tests == 1
    assert test.low < test.difference < test.high
    assert test.num_pairs % BLOCK == 0
    assert FIRST_LOOK <= test.num_pairs <= 256
    assert known.steps == 2 * test.num_pairs
    assert test.smallest_difference == pytest.approx(test.difference - test.low)


def test_without_a_margin_only_a_better_policy_comes_into_service():
    rng = np.random.default_rng(1)
    verdicts = [
        one_candidate(players(rng, gap), guard=GUARD._replace(margin=0.0))[1].verdict
        for gap in (1.0, 0.0, -1.0)
    ]
    assert verdicts == ["better", "undecided", "worse"]


def test_what_cannot_be_paid_for_is_not_played_and_costs_no_error_budget():
    def play(block):
        raise AssertionError("must not be played")

    known, test = one_candidate(play, pairs=FIRST_LOOK - 1)
    assert (test.verdict, test.action) == (NOT_TESTED, "kept")
    assert known == Knowledge()


@pytest.mark.parametrize("seed", range(5))
def test_the_tests_never_take_more_than_their_share_of_steps(seed):
    rng, known = np.random.default_rng(seed), Knowledge()
    guard = Guard(0.95, margin=1.0, share=0.1)
    for update in range(1, 60):

        def play(block):
            lengths = rng.integers(1, 51, 2 * BLOCK)
            return Pairs(rng.normal(size=BLOCK), rng.normal(size=BLOCK), int(lengths.sum()))

        known, _ = examine(
            guard, known, play, update=update, training_steps=2000 * update, max_steps=50
        )
        assert known.steps <= 0.1 * 2000 * update
    assert known.num_tests >= 3


def test_many_small_steps_down_are_stopped_by_the_best_lower_bound():
    """Each candidate is worse by half of the margin: against the last policy alone, all pass."""
    rng, known, level = np.random.default_rng(2), Knowledge(), 0.0
    for number in range(1, 21):

        def play(block, level=level):
            common = rng.normal(size=BLOCK)
            return Pairs(level - 0.25 + common, level + common, 2 * BLOCK)

        known, test = one_candidate(play, known, update=number)
        level -= 0.25 * (test.action == "replaced")
    assert known.reference - 0.5 <= level < 0
    assert level >= -0.75, "and not -5"


def test_the_bound_of_the_policy_in_service_grows_with_every_test_it_takes_part_in():
    rng, known = np.random.default_rng(3), Knowledge(in_service=3)
    references = []
    for _ in range(4):
        known, test = one_candidate(players(rng, -0.5), known)
        assert test.verdict == UNDECIDED
        references.append(known.reference)
    assert known.in_service == 3
    assert known.returns.number == 4 * 256
    assert references == sorted(references)
    assert -0.3 < references[-1] < 0


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "action"),
    [
        (np.nan, 0.0, "worse", "rolled back"),
        (0.0, -np.inf, "better", "replaced"),
        (np.nan, np.nan, "undecided", "kept"),
    ],
)
def test_returns_that_are_not_finite_lose(ours, theirs, verdict, action):
    known, test = one_candidate(
        lambda block: Pairs(np.full(BLOCK, ours), np.full(BLOCK, theirs), 2 * BLOCK)
    )
    assert (test.verdict, test.action, test.num_pairs) == (verdict, action, BLOCK)
    assert np.isfinite([known.returns.mean, known.expected or 0.0]).all() or known.expected > 0


@pytest.mark.parametrize("kind", ["normal", "rare collapse"])
def test_at_the_boundary_few_trainings_replace_a_policy_by_a_worse_one(kind):
    """Ten candidates that are worse by exactly the margin; benchmarks/guard.py has 1,000 trainings
    and more distributions."""
    rng, wrong, trainings = np.random.default_rng(4), 0, 150
    for _ in range(trainings):
        known, actions = Knowledge(worst=-10.0, best=1.0), []
        for _ in range(10):

            def play(block):
                if kind == "normal":
                    return Pairs(rng.normal(-0.5, 1, BLOCK), rng.normal(0, 1, BLOCK), 2 * BLOCK)
                return Pairs(-10.0 * (rng.random(BLOCK) < 0.05), np.zeros(BLOCK), 2 * BLOCK)

            known, test = one_candidate(play, known, pairs=192)
            actions.append(test.action)
        wrong += "replaced" in actions
    assert stats.binomtest(wrong, trainings, 0.05, alternative="greater").pvalue > 0.01


def test_what_the_guard_knows_survives_json():
    known, _ = one_candidate(players(np.random.default_rng(5), 1.0), trained_return=0.1)
    for each in (known, Knowledge()):
        stored = {**each._asdict(), "returns": each.returns._asdict()}
        again = knowledge_in(json.loads(to_json(stored)))
        assert str(again) == str(each)


# Runs on disk: one step an episode, and a policy that is known at every update.

ENV = MatchTheBit()
CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1)
POLICY = trpo_jax.policy_from_flax(nn.Dense(2, use_bias=False), ENV.action_space)
NUM_UPDATES = 20
QUICK = trpo_jax.RunOptions(checkpoint_every=3, eval_every=5, eval_episodes=8, tensorboard=False)


def rise_and_fall(key, objective, params, count, batch, hparams, config):
    """No bit is recognised at first, both from count 4 on, and from 12 on both are confused."""
    count = count + 1
    sign = jnp.where(count < 4, 0.0, jnp.where(count < 12, 1.0, -1.0))
    params = jax.tree.map(lambda leaf: 2 * sign * jnp.eye(2, dtype=leaf.dtype), params)
    return params, count, StepInfo(accepted=np.bool_(True), kl=jnp.float32(0))


@pytest.fixture(scope="module")
def agent():
    step = PolicyStep(init=lambda params: jnp.int32(0), apply=rise_and_fall)
    return trpo_jax.make_trpo(ENV, CONFIG, policy=POLICY, policy_step=step)


def train(agent, out, **more):
    settings = {
        "guard": Guard(0.95, margin=0.25, share=0.5, every=4),
        "total_steps": NUM_UPDATES * CONFIG.batch_size,
        "options": QUICK,
        "quiet": True,
        **more,
    }
    return trpo_jax.train_run(agent, out, **settings)


@pytest.fixture(scope="module")
def run(agent, tmp_path_factory):
    return train(agent, tmp_path_factory.mktemp("guarded") / "run")


def guard_lines(run):
    return read_lines(run.path / "guard.jsonl")


def test_a_collapse_is_rolled_back_and_never_comes_into_service(run):
    lines = guard_lines(run)
    assert [(line["update"], line["action"]) for line in lines] == [
        (4, "replaced"),
        (8, "replaced"),
        (12, "rolled back"),
        (16, "rolled back"),
        (20, "rolled back"),
    ]
    assert [line["in_service"] for line in lines] == [4, 8, 8, 8, 8]
    assert [line["verdict"] for line in lines][:3] == ["better", "not worse", "worse"]
    assert all(0 < line["share"] <= 0.5 for line in lines)
    assert lines[2]["difference"] == -1
    assert lines[1]["smallest_difference"] < 0.25


def test_a_roll_back_returns_what_was_learned_and_nothing_else(run, agent):
    """After update 16 the policy is that of update 8 again; key and counters have gone on."""
    best = trpo_jax.load_run(
        run.path, checkpoint="best", env=ENV, policy=POLICY, policy_step=agent.parts.policy_step
    ).state
    assert (int(best.num_updates), int(best.policy_step_state)) == (8, 8)
    last = run.state
    assert int(last.num_updates) == NUM_UPDATES
    for name in (
        "policy_params",
        "value_params",
        "value_opt_state",
        "policy_step_state",
        "obs_statistics",
        "return_statistics",
    ):
        jax.tree.map(np.testing.assert_array_equal, getattr(last, name), getattr(best, name))
    assert not np.array_equal(jax.random.key_data(last.key), jax.random.key_data(best.key))
    begun = last.actor.episodes.num_begun, best.actor.episodes.num_begun
    assert np.all(begun[0] > begun[1])
    assert run.history[0]["update"].tolist() == list(range(1, NUM_UPDATES + 1))
    returns = run.history[0]["episode_return"]
    assert returns[10] > 0.8, "update 11"
    assert returns[11] > 0.8, "update 12 acts with the policy of update 11, and then falls"
    assert returns[12] > 0.8, "rolled back before update 13"


class Killed(BaseException):
    """Ends a run as a signal would that cannot be caught."""


@pytest.mark.parametrize(
    ("number", "dying_save"),
    [(3, ("best", 4)), (4, ("checkpoints", 4)), (7, ("checkpoints", 8)), (9, ("checkpoints", 12))],
)
@pytest.mark.usefixtures("without_plots")
def test_a_killed_run_goes_on_bit_for_bit(agent, run, tmp_path, monkeypatch, number, dying_save):
    """Killed as a state is written: on either side of a replacement, and after a roll back."""
    saves, save = [], Checkpoints.save

    def dying(self, update, state, note=None):
        saves.append((self._directory.name, update))
        if len(saves) == number:
            raise Killed
        save(self, update, state, note)

    monkeypatch.setattr(Checkpoints, "save", dying)
    with pytest.raises(Killed):
        train(agent, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    assert saves[-1] == dying_save
    again = train(agent, tmp_path / "run", resume=True)
    for name in ("guard.jsonl", "metrics.jsonl", "evaluations.jsonl", "evaluation.json"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes()
    for directory in ("best", "checkpoints"):
        here, there = (Checkpoints(each.path / directory).updates() for each in (again, run))
        assert here[-1] == there[-1]
    jax.tree.map(np.testing.assert_array_equal, again.state.policy_params, run.state.policy_params)


def test_a_missing_policy_in_service_is_named(agent, run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(copy / "best")
    with pytest.raises(ValueError, match="the policy in service, best/8, is missing"):
        train(agent, copy, resume=True, total_steps=99_999)
    with pytest.raises(ValueError, match="guard=None differs from the run's Guard"):
        train(agent, copy, resume=True, total_steps=99_999, guard=None)


def test_a_share_that_pays_for_no_test_is_said_at_the_start(agent, tmp_path, capsys):
    guard = Guard(share=0.01)
    run = train(agent, tmp_path / "run", guard=guard, quiet=False, total_steps=256)
    printed = " ".join(capsys.readouterr().out.split())
    assert "pays for 1 pairs of episodes of up to 1 steps, and a test takes 32" in printed
    assert "6,400 steps would pay for one" in printed
    assert {line["verdict"] for line in guard_lines(run)} == {"not tested"}
    assert Checkpoints(run.path / "best").updates() == [0]


@pytest.mark.parametrize("guard", [None, Guard(0.95, margin=0.25, share=0.5, every=4)])
@pytest.mark.usefixtures("without_plots")
def test_a_run_stops_once_its_target_is_shown_to_be_reached(agent, tmp_path, guard):
    """The policy reaches a return of 1 at update 4; its bound says so after enough episodes."""
    options = QUICK._replace(eval_every=2)
    settings = {"guard": guard, "options": options, "target_return": 0.8}
    run = train(agent, tmp_path / "run", **settings)
    stopped = int(run.state.num_updates)
    assert 4 <= stopped <= 8
    assert run.evaluation.mean == 1
    assert "target_return=0.8 is reached" in (run.path / "status.json").read_text()
    if guard is None:
        tests = [line["target"] for line in read_lines(run.path / "evaluations.jsonl")]
        assert [test["num_tests"] for test in tests] == [0, 1]
        assert tests[0]["lower"] is None
        assert 0.8 < tests[1]["lower"] < 1
        assert tests[1]["num_episodes"] % 32 == 0
    again = train(agent, run.path, resume=True, **settings)
    assert int(again.state.num_updates) == stopped, "it is still reached"
    further = train(agent, run.path, resume=True, **{**settings, "target_return": None})
    assert int(further.state.num_updates) == NUM_UPDATES


@pytest.mark.usefixtures("without_plots")
def test_environments_on_the_host_are_guarded_alike(tmp_path):
    """Returns do not depend on the policy: it is not worse, and comes into service."""
    env = trpo_jax.make_env(Counting, episode_length=8)
    agent = trpo_jax.make_trpo(env, CONFIG)
    guard = Guard(margin=15.0, share=1.0, every=12)
    run = train(agent, tmp_path / "run", guard=guard, total_steps=12 * 64)
    (line,) = guard_lines(run)
    assert (line["verdict"], line["action"], line["difference"]) == ("not worse", "replaced", 0)
    assert line["share"] <= 1


def test_a_target_that_is_met_on_average_only_does_not_stop_a_run(agent, tmp_path):
    """Half of the bits are recognised by a policy that always acts alike: 0.5, not more."""
    run = train(agent, tmp_path / "run", guard=None, target_return=0.5, total_steps=3 * 64,
                options=QUICK._replace(eval_every=1))  # fmt: skip
    assert int(run.state.num_updates) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guard": 1.5}, r"guard=1.5 must be a confidence in \[0.5, 1\)"),
        ({"guard": "yes"}, "guard='yes' must be a trpo_jax.Guard"),
        ({"guard": Guard(margin=-1)}, "guard_margin=-1 must be a return >= 0"),
        ({"guard": Guard(share=0)}, r"guard_share=0 must be in \(0, 1\]"),
        ({"guard": Guard(every=0)}, "guard_every=0 must be a whole number >= 1"),
        ({"num_seeds": 2}, "guard=0.95 does not go with num_seeds=2"),
        ({"guard": None, "num_seeds": 2, "target_return": 1}, "target_return=1.0 does not go with"),
        ({"target_return": float("nan")}, "target_return=nan must be a number"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(agent, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        train(agent, tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--guard", "95"], ["guard=95", "0.95"]),
        (["--guard", "high"], ["--guard", "high"]),
        (["--guard-margin", "5"], ["guard_margin=5.0", "--guard"]),
        (["--guard", "0.95", "--guard-share", "2"], ["guard_share=2.0"]),
        (["--guard", "0.95", "--num-seeds", "3"], ["num_seeds=3"]),
        (["--target-return", "much"], ["--target-return", "much"]),
        (["--target-return", "inf"], ["target_return=inf"]),
        (["--target-return", "9", "--eval-every", "0"], ["target_return=9.0", "eval_every=0"]),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(options, needles, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "CartPole-v1", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for needle in needles:
        assert needle in captured.err
    assert list(tmp_path.iterdir()) == []
