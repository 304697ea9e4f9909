"""What commands say of what they left out, refuse before anything is written, and draw where there is little to draw."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest

from spikegrad.comparison import compare, figures, grid
from spikegrad.errors import InputError
from spikegrad.training import Config, train
from spikegrad.training.callbacks import Bar, Watch
from spikegrad.training.examine import examine
from spikegrad.training.folder import Run
from spikegrad.tuning import Space

TINY = Config(hidden=(4,), epochs=1, steps=3, pictures="none")


def test_events_that_are_left_out_are_told(told, tmp_path):
    for k in range(8):
        events = np.zeros(20, dtype=[("x", "u2"), ("y", "u2"), ("t", "i8"), ("p", "?")])
        events["t"] = 1000 * np.arange(20)  # microseconds
        (tmp_path / "data" / f"{k % 2}").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "data" / f"{k % 2}" / f"{k}.npy", events)
    command = ("train", "--data", tmp_path / "data", "--step-ms", 1, "--hidden", 4, "--epochs", 1, "--pictures", "none")
    code, printed, _ = told(*command, "--steps", 5, "--out", tmp_path / "short")
    assert (code, "120 events come after the last of 5 steps and are left out" in printed) == (0, True)
    assert "left out" not in told(*command, "--out", tmp_path / "long")[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [("--set slope=3", "`slope` is given twice, as 3 and as"), ("--learn beta --tau 1e-9:5", "beta is learned inside of its range"),
     ("--model x.py:f", "`hidden` has no use beside `model`")],
)  # fmt: skip
def test_a_search_that_cannot_be_leaves_no_folder(told, small, tmp_path, options, said):
    code, printed, error = told("tune", "--data", small, *options.split(), "--jobs", 1, "--trials", 1, "--out", tmp_path / "tuning")
    assert (code, printed) == (2, "")
    assert said in error
    assert not (tmp_path / "tuning").exists()


def test_both_ends_of_every_range_are_tried():
    Space().require_drawable(Config())
    with pytest.raises(InputError, match="`hidden` must be at least 1"):
        Space(size=(4, 1e10)).require_drawable(Config())
    with pytest.raises(InputError, match="cannot start at its edge, 1"):
        Space(tau=(2, 1e20)).require_drawable(Config(learn=("beta",)))


def test_a_picture_that_is_not_there_is_not_named(told, small, tmp_path, monkeypatch):
    import optuna

    from spikegrad.tuning import study

    def searched(tuning, jobs, console):
        tuning.path.mkdir()
        (tuning.path / "trials.csv").touch()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        made = optuna.create_study()
        made.tell(made.ask(), 0.5)  # of which nothing varied
        return made

    monkeypatch.setattr(study, "tune", searched)
    code, printed, _ = told("tune", "--data", small, "--out", tmp_path / "tuning")
    assert (code, "trials.csv" in printed, "importance.png" in printed) == (0, True, False)


def test_compare_does_not_offer_what_it_must_refuse(told):
    code, printed, said = told("compare", "--model", "own.py:net")
    assert (code, printed, said[:35]) == (2, "", "spikegrad: no such option --model; ")


def test_pictures_of_one_epoch_and_of_near_slopes(small, tmp_path):
    comparison = compare(grid(TINY.changed(data=small), surrogates=["ATan", "Boxcar"], slopes=[2, 5]), tmp_path / "compared")
    curves = figures.learning_curves(comparison)
    assert all(line.get_marker() == "o" for line in curves.axes[0].lines)  # a line of one point cannot be seen
    assert len(curves.axes[0].lines) == 4
    axes = figures.accuracy_by_slope(comparison.results).axes[0]
    figure = axes.get_figure()
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "5"]
    assert [label.get_text() for label in axes.get_xticklabels(minor=True)] == []


def test_what_only_averages_of_a_normalisation_silence_is_explained(small, tmp_path):
    run = train(TINY.changed(data=small, hidden=(6,), lr=1e-9), tmp_path / "run").run
    rows = run.metrics()
    run.write_metrics([{**rows[0], "rate_1": 0.0}])
    found, course = examine(run.path)
    assert found.layers[0].rate > 0.01
    assert "Layer 1 has been silent since epoch 1." in course
    assert re.match(r"Layer 1 has 0\.\d+ spikes a step while it learns: its normalisation takes averages of past batches", course[-1])
    run.write_metrics(rows)
    assert "averages" not in examine(run.path)[1][-1]


def test_a_help_has_no_empty_defaults(told):
    printed = told("train", "--help")[1]
    assert "class) ()" not in " ".join(printed.split())


def test_lines_are_those_of_one_process_also_where_a_strategy_spawns_or_forks_them(capsys, tmp_path):
    from spikegrad.cli.training import console_of

    spawned, watch = pickle.loads(pickle.dumps((Bar(console_of()), Watch(Run(tmp_path), console_of()))))
    assert watch.run == Run(tmp_path)
    for rank in (0, 1):
        metrics = {"train_loss": 1.0, "validation_accuracy": 0.5}
        of_run = {"estimated_stepping_batches": 2, "global_step": 1, "current_epoch": 0, "max_epochs": 3, "callback_metrics": metrics}
        trainer = SimpleNamespace(is_global_zero=rank == 0, **of_run)
        spawned.on_train_start(trainer, None)
        spawned.on_train_epoch_end(trainer, None)
        spawned.teardown(trainer, None, "fit")
    assert capsys.readouterr().out == "epoch 1/3  loss 1.000  validation 50.0 %\n"
