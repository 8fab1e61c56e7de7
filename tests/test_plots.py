"""Pictures of runs: what is in them, and what they say of themselves."""

import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from trpo_jax import HParams, TRPOConfig, make_env, make_trpo
from trpo_jax.cli import main
from trpo_jax.experiments import figures, plots, topics
from trpo_jax.experiments.evaluation import bootstrap_interval
from trpo_jax.experiments.loggers import JsonLines, to_records
from trpo_jax.experiments.run_directory import write_run
from trpo_jax.experiments.specification import RunSpec

NUM_UPDATES = 24
TOPICS = {topic.name: topic for topic in topics.TOPICS}


@pytest.fixture(scope="module")
def shapes():
    """A record of one update as it would be: names, shapes and types, without the update."""
    config = TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(16, 16), value_minibatch_size=16)
    agent = make_trpo(make_env("CartPole-v1"), config)

    def update(key):
        return agent.update(agent.init(key), HParams())[1]

    return config, jax.eval_shape(update, jax.random.key(0))


@pytest.fixture
def make_run(shapes, tmp_path):
    """A factory of runs with plausible numbers: positive ones, falling residuals, some NaN."""
    config, one_update = shapes

    def make(name="run", num_seeds=2, updates=NUM_UPDATES, metrics=None, **hparams):
        path = tmp_path / name
        path.mkdir()
        rng = np.random.default_rng(0)

        def fill(leaf):
            values = rng.uniform(0.001, 0.009, (num_seeds, updates, *leaf.shape))
            if leaf.dtype == bool:
                return values > 0.002
            return -np.sort(-values, axis=-1) if leaf.shape else values

        history = jax.tree.map(fill, one_update)
        spec = RunSpec("CartPole-v1", {}, config, HParams(**hparams), 0, num_seeds)
        records = to_records(history, 0, config.batch_size, spec.seeds)
        log = JsonLines(path / "metrics.jsonl")
        log.write([record | (metrics or {}) for record in records])
        log.close()
        return write_run(path, spec, updates * config.batch_size)

    return make


def text_of(file):
    """The strings in an SVG; matplotlib draws letters as shapes, beside a comment."""
    return file.read_text(encoding="utf-8")


def axes_of(name, *runs):
    (ax,) = plots._picture(TOPICS[name], plots._curves(runs)).axes
    return ax


def legend_of(ax):
    return ax.get_legend_handles_labels()[1]


def test_the_overview_goes_into_the_run(make_run):
    run = make_run()
    assert plots.overview(run) == run.path / "overview.png"
    with Image.open(run.path / "overview.png") as image:
        assert min(image.size) > 1000
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_every_topic_is_drawn_in_every_format(make_run, tmp_path):
    files = plots.plot_runs([make_run()], tmp_path / "new" / "pictures")
    stems = [*TOPICS, "overview"]
    assert sorted(f.name for f in files) == sorted(
        f"{s}.{e}" for s in stems for e in ("png", "svg")
    )
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert len(image.convert("RGB").getcolors(1 << 20)) > 5, file
        else:
            assert "environment steps" in text_of(file)
            assert "CartPole-v1, 2 seeds" in text_of(file)
            assert "95 % bootstrap interval" in text_of(file)
            assert "moving average over 3 updates" in text_of(file)
    overview = text_of(tmp_path / "new" / "pictures" / "overview.svg")
    assert all(topic.title in overview for topic in TOPICS.values())
    assert "δ = 0.01" in overview


def test_several_runs_are_told_apart_by_what_differs(make_run, tmp_path):
    wide = make_run("wide", max_kl=0.05, num_seeds=1)
    narrow = make_run("narrow", max_kl=0.001, updates=10)
    curves = plots._curves([wide, narrow])
    figures.save_figure(plots._picture(TOPICS["kl"], curves), tmp_path / "kl", ["svg"])
    figures.save_figure(plots._overview(curves), tmp_path / "overview", ["svg"])
    for name in ("kl", "overview"):
        text = text_of(tmp_path / f"{name}.svg")
        assert "max_kl 0.05 (1 seed)" in text
        assert "max_kl 0.001 (2 seeds)" in text
        assert "δ = 0.05" in text
        assert "δ = 0.001" in text


def test_runs_with_the_same_settings_are_named_by_their_directories(make_run):
    runs = [make_run("first"), make_run("second")]
    assert plots._labels(runs) == [str(run.path) for run in runs]


def test_the_kl_is_shown_whole_below_its_bound(make_run):
    run = make_run("run")
    ax = axes_of("kl", run)
    mean = np.mean([history["kl"] for history in run.histories()], axis=0)
    raw = next(line for line in ax.lines if len(line.get_ydata()) == NUM_UPDATES)
    np.testing.assert_allclose(raw.get_ydata(), mean)
    np.testing.assert_array_equal(raw.get_xdata(), 64 * np.arange(1, NUM_UPDATES + 1))
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] >= max(0.01, mean.max())
    assert ax.get_xlim()[0] == 0
    assert ax.get_xlim()[1] >= 64 * NUM_UPDATES


def test_residuals_are_relative_to_the_gradient_and_logarithmic(make_run):
    run = make_run("run", num_seeds=1, updates=5)
    ax = axes_of("cg_residual", run)
    (history,) = run.histories()
    norms = history["cg_residual_norms"]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    drawn = {label: values for label, values in drawn.items() if len(values) == 5}
    assert list(drawn) == [f"iteration {k}" for k in (1, 2, 5, 10)]
    for k in (1, 2, 5, 10):
        np.testing.assert_allclose(drawn[f"iteration {k}"], norms[:, k] / norms[:, 0])
    assert ax.get_yscale() == "log"


def test_rejected_updates_are_counted(make_run):
    run = make_run("run", metrics={"accepted": False, "step_fraction": 0.0})
    assert "rejected: 100.0% of updates" in legend_of(axes_of("step_fraction", run))
    assert "rejected: 0.0% of updates" in legend_of(
        axes_of("step_fraction", make_run("other", metrics={"accepted": True}))
    )


@pytest.mark.parametrize("refused", [True, False])
def test_refused_batches_are_marked_however_small_their_gap(make_run, refused):
    run = make_run(metrics={"alarm_off_policy": refused, "on_policy_gap": 0.0})
    labels = legend_of(axes_of("on_policy_gap", run))
    assert ("refused: 100.0% of updates" in labels) == refused


@pytest.mark.parametrize("updates", [1, NUM_UPDATES])
def test_a_run_in_which_no_episode_has_ended_says_so(make_run, tmp_path, updates):
    nothing = {"episode_return": None, "episode_length": None}
    run = make_run("run", num_seeds=1, updates=updates, metrics=nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("return", "episode_length", "kl", "cg_residual"):
            figure = plots._picture(TOPICS[name], plots._curves([run]))
            figures.save_figure(figure, tmp_path / name, ["svg"])
    assert "no value so far" in text_of(tmp_path / "return.svg")
    assert "no value so far" not in text_of(tmp_path / "kl.svg")
    assert ("moving average" in text_of(tmp_path / "kl.svg")) == (updates > 1)
    assert "bootstrap" not in text_of(tmp_path / "kl.svg")


def test_a_single_update_is_a_dot(make_run):
    for name in ("kl", "cg_residual", "value_loss"):
        lines = [line for line in axes_of(name, make_run(name, updates=1)).lines]
        dots = [line for line in lines if len(line.get_ydata()) == 1]
        assert dots
        assert all(line.get_marker() == "o" for line in dots)


def test_updates_that_one_seed_lacks_are_left_out(make_run):
    run = make_run("run")
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:-1]))
    (curves,) = plots._curves([run])
    assert curves.stack("kl").shape == (2, NUM_UPDATES - 1)
    assert curves.steps[-1] == 64 * (NUM_UPDATES - 1)


def test_the_band_is_the_bootstrap_interval_of_the_mean():
    """Against scipy's; both resample at random, so that they agree only roughly."""
    values = np.random.default_rng(1).normal(size=(12, 3))
    low, high = figures.bootstrap_interval(values)
    for column in range(3):
        interval = bootstrap_interval(values[:, column])
        assert (low[column], high[column]) == pytest.approx(interval, abs=0.1)
    values[0, 1] = np.nan
    low, high = figures.bootstrap_interval(values)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True, False]


@pytest.mark.parametrize("num_updates", [21, 200])
def test_the_moving_average_skips_gaps(num_updates):
    values = np.random.default_rng(0).normal(size=num_updates)
    values[[3, 4, 5, 6, -1]] = np.nan
    window = figures.smoothing_window(num_updates)
    half = window // 2
    around = [values[max(0, i - half) : i + half + 1] for i in range(num_updates)]
    expected = [np.mean(part[np.isfinite(part)]) if np.isfinite(part).any() else np.nan
                for part in around]  # fmt: skip
    np.testing.assert_allclose(figures.moving_average(values, window), expected, atol=1e-12)


def test_pyplot_keeps_no_figure(make_run):
    import matplotlib.pyplot

    before = matplotlib.pyplot.get_fignums()
    plots._picture(TOPICS["kl"], plots._curves([make_run()]))
    assert matplotlib.pyplot.get_fignums() == before


def test_mistakes_are_one_line(make_run, tmp_path, capsys):
    run = make_run("run")
    (tmp_path / "file").touch()
    assert main(["plot", str(run.path), "--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be written" in error
    (run.path / "metrics.jsonl").write_text("")
    assert main(["plot", str(run.path)]) == 2
    assert "no update yet" in capsys.readouterr().err


def test_evaluations_are_marked_on_the_learning_curve(make_run):
    run = make_run()
    evaluations = [{"steps": 640, "mean": 20.5}, {"steps": 1280, "mean": 31.0}]
    text = "".join(json.dumps(line) + "\n" for line in evaluations)
    (run.path / "evaluations.jsonl").write_text(text)
    ax = axes_of("return", run)
    (marks,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert list(marks.get_xdata()) == [640, 1280]
    assert list(marks.get_ydata()) == [20.5, 31.0]
    assert marks.get_label() in legend_of(ax)


def test_the_command_draws_what_it_says(make_run, capsys, monkeypatch):
    monkeypatch.setattr(topics, "TOPICS", topics.TOPICS[:2])
    monkeypatch.setattr(plots, "_overview", lambda curves: plots._picture(topics.TOPICS[0], curves))
    run = make_run()
    assert main(["plot", str(run.path), "--formats", "png"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(run.path / f"{name}.png") for name in ("return", "kl", "overview")]
    assert all(Path(file).stat().st_size > 5000 for file in printed)
