"""What an environment measures, from its step to the run directory, against loops in NumPy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playing import play
from tensorboardX.proto.event_pb2 import Event
from test_brax import Counter

import trpo_jax
from trpo_jax import Discrete, Environment, EnvStep, RunOptions, TRPOConfig
from trpo_jax.envs.base import metric_names
from trpo_jax.experiments import plots, topics
from trpo_jax.experiments.run_directory import load_run
from trpo_jax.experiments.states import make_agent

CONFIG = TRPOConfig(num_envs=2, num_steps=4, hidden_sizes=(8,), value_epochs=1)
SEEDS, UPDATES = 2, 12
NAMES = ("effort/step", "odd", "success", "time")
GOAL, LONGEST, EFFORT = 3, 12, 0.5


class Walk(Environment):
    """A walk to the right whose time runs out after 1 to 12 steps; it measures four things.

    `time` is an integer, `success` a bool, and `odd` is not finite in odd steps.
    """

    name, obs_shape, action_space, max_episode_steps = "walk", (3,), Discrete(2), LONGEST

    def reset(self, key):
        limit = jax.random.randint(key, (), 1, LONGEST + 1)
        state = {"position": jnp.int32(0), "time": jnp.int32(0), "limit": limit}
        return state, self.observe(state)

    def step(self, key, state, action):
        position, time = state["position"] + 2 * action - 1, state["time"] + 1
        state = {**state, "position": position, "time": time}
        reward = EFFORT * action
        metrics = {
            "time": time,
            "success": position >= GOAL,
            "effort/step": reward,
            "odd": jnp.where(time % 4 == 1, jnp.nan, jnp.where(time % 2, -jnp.inf, time)),
        }
        return state, EnvStep(
            self.observe(state), reward, position >= GOAL, time >= state["limit"], metrics
        )

    def observe(self, state):
        return jnp.stack([state["position"], state["time"], state["limit"]]).astype(jnp.float32)


def measured(position, time, action):
    """The metrics of one step, with 0 for what is not finite."""
    return {
        "time": time,
        "success": float(position >= GOAL),
        "effort/step": EFFORT * action,
        "odd": 0 if time % 2 else time,
    }


class Reference:
    """Averages of the metrics, by a loop over the steps of N environments."""

    def __init__(self, num_envs):
        self.episodes = [[] for _ in range(num_envs)]

    def update(self, trajectory):
        """(means, values at the last step): by name, averaged over the episodes that ended."""
        means, last = {name: [] for name in NAMES}, {name: [] for name in NAMES}
        next_obs, actions = np.asarray(trajectory.next_obs), np.asarray(trajectory.action)
        for t in range(actions.shape[0]):
            for n, episode in enumerate(self.episodes):
                position, time, limit = next_obs[t, n]
                episode.append(measured(position, time, actions[t, n]))
                assert time == len(episode)
                if position >= GOAL or time >= limit:
                    for name in NAMES:
                        values = [step[name] for step in episode]
                        means[name].append(sum(values) / len(values))
                        last[name].append(values[-1])
                    episode.clear()
        return [
            {name: np.mean(values) if values else np.nan for name, values in group.items()}
            for group in (means, last)
        ]


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(Walk(), CONFIG)


@pytest.fixture(scope="module")
def first_states(agent):
    return jax.vmap(agent.init)(jax.vmap(jax.random.key)(jnp.arange(SEEDS)))


@pytest.fixture(scope="module")
def reference(agent, first_states):
    """What the updates of the seeds report, and what it should be: [update][seed]."""
    collect, learn = jax.jit(jax.vmap(agent.rollout)), jax.jit(jax.vmap(agent.learn))
    loops = [Reference(CONFIG.num_envs) for _ in range(SEEDS)]
    states, reported, expected = first_states, [], []
    for _ in range(UPDATES):
        states, trajectories = collect(states)
        lanes = [jax.tree.map(lambda leaf: leaf[i], trajectories) for i in range(SEEDS)]  # noqa: B023
        expected.append([loop.update(lane) for loop, lane in zip(loops, lanes, strict=True)])
        states, metrics = learn(states, trajectories)
        reported.append(metrics)
        unfinished = np.asarray(states.actor.episodes.metrics["time"])
        sums = [[sum(step["time"] for step in e) for e in loop.episodes] for loop in loops]
        np.testing.assert_allclose(unfinished, sums)
    return reported, expected


@pytest.fixture(scope="module")
def run(agent, tmp_path_factory):
    """The same updates in a run directory, interrupted once."""
    path = tmp_path_factory.mktemp("runs") / "walk"
    options = RunOptions(eval_every=4, eval_episodes=5)
    settings = {"num_seeds": SEEDS, "options": options, "quiet": True}
    trpo_jax.train_run(agent, path, total_steps=5 * CONFIG.batch_size, **settings)
    return trpo_jax.train_run(
        agent, path, total_steps=UPDATES * CONFIG.batch_size, resume=True, **settings
    )


def test_averages_are_those_of_a_loop_over_the_episodes(reference):
    for metrics, expected in zip(*reference, strict=True):
        assert tuple(metrics.env_metrics) == tuple(metrics.env_metrics_last) == NAMES
        for seed, (means, last) in enumerate(expected):
            for name in NAMES:
                ours = metrics.env_metrics[name][seed], metrics.env_metrics_last[name][seed]
                theirs = [-np.inf if np.isnan(x) else x for x in (means[name], last[name])]
                np.testing.assert_allclose(ours, theirs, 1e-5)
        assert not np.asarray(metrics.alarms.invalid_data).any()
    successes = np.array([last["success"] for update in reference[1] for _, last in update])
    assert 0 < np.nanmean(successes) < 1
    assert np.isnan(successes).any()  # an update without an end


def test_a_trajectory_may_lack_metrics(agent):
    state, trajectory = jax.eval_shape(agent.rollout, jax.eval_shape(agent.init, jax.random.key(0)))
    fields = {name: value for name, value in vars(trajectory).items() if "metrics" not in name}
    after, metrics = jax.eval_shape(agent.learn, state, trpo_jax.Trajectory(**fields))
    assert metrics.env_metrics == metrics.env_metrics_last == {}
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_evaluation_averages_within_each_episode(agent):
    state = agent.init(jax.random.key(1))
    stats = agent.evaluate(
        state, jax.random.key(2), num_episodes=32, deterministic=False, max_steps=8
    )
    assert {3, 8} <= set(np.asarray(stats.lengths).tolist())  # some ended, some were cut
    assert tuple(stats.metrics) == tuple(stats.metrics_last) == NAMES
    succeeded = 0
    for i, (total, length) in enumerate(zip(stats.returns, stats.lengths, strict=True)):
        steps, right = int(length), round(float(total) / EFFORT)
        success = float(2 * right - steps >= GOAL)
        succeeded += success
        mean = {name: float(values[i]) for name, values in stats.metrics.items()}
        last = {name: float(values[i]) for name, values in stats.metrics_last.items()}
        assert last["time"] == steps
        assert last["odd"] == (0 if steps % 2 else steps)
        assert last["success"] == success
        assert last["effort/step"] in (0, EFFORT)
        np.testing.assert_allclose(mean["time"], (steps + 1) / 2, 1e-6)
        np.testing.assert_allclose(mean["odd"], sum(range(2, steps + 1, 2)) / steps, 1e-6)
        np.testing.assert_allclose(mean["effort/step"], total / steps, 1e-6)
        np.testing.assert_allclose(mean["success"], success / steps, 1e-6)
    assert 0 < succeeded < 32


def test_the_run_records_them_across_a_resume(run, reference):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == SEEDS * UPDATES
    for line in lines:
        for prefix, group in zip(
            ("env_metrics/", "env_metrics_last/"),
            reference[1][line["update"] - 1][line["seed"]],
            strict=True,
        ):
            for name, value in group.items():
                wanted = None if np.isnan(value) else pytest.approx(value, rel=1e-5)
                assert line[prefix + name] == wanted
    assert run.history[1]["env_metrics_last/success"].shape == (UPDATES,)
    assert isinstance(trpo_jax.diagnose(run.history, CONFIG), trpo_jax.Diagnosis)


def test_evaluations_record_them(run, agent):
    lines = load_run(run.path).evaluations()
    stored = json.loads((run.path / "evaluation.json").read_text())
    assert [line["update"] for line in lines] == [4, 8, 12]
    for record in (*lines, stored, run.evaluation._asdict()):
        assert sorted(record["metrics"]) == sorted(record["metrics_last"]) == list(NAMES)
        assert record["metrics_last"]["time"] == pytest.approx(record["mean_length"])
        assert 0 <= record["metrics"]["success"] <= record["metrics_last"]["success"] <= 1
    assert stored["mean"] == run.evaluation.mean


def test_tensorboard_shows_them_in_groups_of_their_own(run):
    files = sorted((run.path / "tensorboard" / "seed-1").iterdir())
    assert len(files) == 2  # before and after the resume
    logged, data = {}, b"".join(file.read_bytes() for file in files)
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]
        for value in event.summary.value:
            logged[value.tag, event.step] = value.simple_value
    for group in ("env_metrics", "env_metrics_last"):
        for name in NAMES:
            tag = f"{group}/{name}"
            for update, value in enumerate(run.history[1][tag], start=1):
                wanted = None if np.isnan(value) else pytest.approx(value)
                assert logged.get((tag, update)) == wanted


def test_pictures_have_a_panel_for_each(run, tmp_path, monkeypatch):
    loaded = load_run(run.path)
    curves = plots._curves([loaded])
    every = topics.topics_of(curves)
    assert every[: len(topics.TOPICS)] == topics.TOPICS
    assert [topic.title for topic in every[len(topics.TOPICS) :]] == list(NAMES)
    titles = [ax.get_title() for ax in plots._overview(curves).axes]
    assert titles == [topic.title for topic in every]
    (ax,) = plots._picture(every[-1], curves).axes
    drawn = [line.get_ydata() for line in ax.lines]
    for group in ("env_metrics", "env_metrics_last"):
        values = np.array([history[f"{group}/time"] for history in run.history])
        counted = np.isfinite(values)
        mean = np.where(counted, values, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
        shown = np.where(counted.any(axis=0), mean, np.nan)
        assert any(
            len(line) == UPDATES and np.allclose(line, shown, equal_nan=True) for line in drawn
        ), group
    monkeypatch.setattr(topics, "TOPICS", topics.TOPICS[:1])
    files = plots.plot_runs([loaded], tmp_path, ["png"])
    assert [file.name for file in files] == [
        "return.png",
        *(f"env_metric-{name}.png" for name in ("effort-step", "odd", "success", "time")),
        "overview.png",
    ]
    assert all(file.stat().st_size > 5000 for file in files)


def test_without_metrics_everything_is_empty():
    env = trpo_jax.make_env("CartPole-v1")
    agent = trpo_jax.make_trpo(env, CONFIG)

    def play(key):
        state, trajectory = agent.rollout(agent.init(key))
        _, metrics = agent.learn(state, trajectory)
        return state, trajectory, metrics, agent.evaluate(state, key, num_episodes=2)

    state, trajectory, metrics, stats = jax.eval_shape(play, jax.random.key(0))
    assert trajectory.metrics == trajectory.episode_metrics == {}
    assert metrics.env_metrics == metrics.env_metrics_last == {}
    assert stats.metrics == stats.metrics_last == {}
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state.actor.episodes)]
    assert paths == [
        *(".returns", ".lengths", ".discounted", ".num_begun", ".last_mean_return", ".any_ended")
    ]
    assert trpo_jax.EpisodeStats(jnp.ones(2), jnp.ones(2)).metrics == {}


class Measuring(Counter):
    """A brax environment with metrics, of which one is a vector."""

    def reset(self, rng):
        return super().reset(rng).replace(metrics={"half": jnp.zeros(()), "two": jnp.zeros(2)})

    def step(self, state, action):
        state = super().step(state, action)
        return state.replace(metrics={**state.metrics, "half": state.pipeline_state / 2})


def test_brax_reports_its_scalars():
    env = trpo_jax.make_env(Measuring(), episode_length=4)
    assert metric_names(env) == ("half",)
    steps = play(env, [0.0], 4)
    np.testing.assert_array_equal(steps.metrics["half"], [0.5, 1, 1.5, 2])
    assert list(steps.metrics) == ["half"]


class Reporting(Walk):
    """A walk whose steps report the given metrics."""

    def __init__(self, reported, announced=None):
        self.reported, self.metrics = reported, announced

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(metrics=self.reported)


@pytest.mark.parametrize(
    ("reported", "announced", "words"),
    [
        ([1.0], None, r"step of walk returns metrics=\[1.0\]; a dict of scalars by name"),
        ({1: 1.0}, None, "a dict of scalars by name"),
        ({"x": np.zeros(2)}, None, r"metrics\['x'\] of shape \(2,\)"),
        ({"x": "good"}, None, r"metrics\['x'\]='good'"),
        ({"x": jax.random.key(0)}, None, r"metrics\['x'\]="),
        ({"x": 1.0}, ("y",), r"metrics=\('y',\) of walk, but step returns \('x',\)"),
    ],
)
def test_metrics_of_another_kind_are_refused(reported, announced, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(Reporting(reported, announced), CONFIG)


def test_a_run_with_metrics_is_loaded_again(run, agent):
    loaded = trpo_jax.load_run(run.path, env=agent.parts.env)
    for stored, kept in zip(
        jax.tree.leaves(loaded.state.actor.episodes),
        jax.tree.leaves(run.state.actor.episodes),
        strict=True,
    ):
        np.testing.assert_array_equal(stored, kept)
    assert make_agent(load_run(run.path).spec, env=agent.parts.env) is agent
