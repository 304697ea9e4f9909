"""``spikegrad train`` by events: the same course as by dense products, in less time where there is something to gain.

Accuracies, rates, active shares and times of whole runs are in tests/evidence/events_training.txt:
``pytest -n 0 -s -m slow tests/test_events_training.py``.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from spikegrad import Spikes
from spikegrad.data import Events, load
from spikegrad.nn import SpikingLinear
from spikegrad.training import Config, evaluate, predict, quantize_report, resume, train
from spikegrad.training.network import Network
from spikegrad.training.trained import reopened

SMALL = {
    "data": "randman(units=37,classes=3,samples=20,steps=12)",
    "surrogate": "Triangle(width=0.5)",
    "hidden": (40, 24),
    "norm": False,
    "threshold": 0.3,
    "pictures": "none",
}


def metrics(run: Any) -> list[dict[str, float]]:
    return [{name: x for name, x in row.items() if name not in ("seconds", "epoch_seconds")} for row in run.metrics()]


@pytest.fixture
def densely(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function after which networks do not run by events."""

    def set_() -> None:
        monkeypatch.setattr(Network, "takes_events", property(lambda self: False))
        monkeypatch.setattr(Network, "_may_list", property(lambda self: False))

    return set_


def test_the_course_of_a_run_is_that_of_dense_products(tmp_path, by_events, densely):
    config = Config(**SMALL, epochs=2, dropout=0.0)
    events = train(config, tmp_path / "events")
    assert len({id(neuron) for neuron in by_events}) >= 3  # both hidden layers and the readout
    del by_events[:]
    densely()
    dense = train(config, tmp_path / "dense")
    assert not by_events
    for ours, theirs in zip(metrics(events.run), metrics(dense.run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert events.test is not None
    assert dense.test is not None
    assert events.test.rates == pytest.approx(dense.test.rates, rel=1e-4)


def test_a_run_by_events_with_dropout_goes_on_and_is_looked_at(tmp_path, by_events):
    train(Config(**SMALL, epochs=1, rate_weight=1.0, schedule="constant"), tmp_path / "part")
    whole = train(Config(**SMALL, epochs=2, rate_weight=1.0, schedule="constant"), tmp_path / "whole")
    resumed = resume(tmp_path / "part", epochs=2)
    assert by_events
    assert metrics(resumed.run) == metrics(whole.run)
    assert whole.test is not None
    assert evaluate(whole.run.path).correct == whole.test.correct
    assert predict(whole.run.path, SMALL["data"]).right("test")[0] == whole.test.correct
    assert quantize_report(whole.run.path, weights=(8,), states=()).rows[0].correct == whole.test.correct


def test_which_networks_take_events_as_they_are(by_events):
    config = Config(**SMALL, steps=12)
    data = load(config.data)
    net = Network(config, 37, 3)
    assert isinstance(data.train[0], Events)
    made = net(data.train[0].take(torch.arange(4).numpy()))
    assert all(isinstance(s, Spikes) for s in made.spikes)
    assert made.fired[0].shape == (12, 4, 40)
    for other in ({"norm": True}, {"memory": "recompute"}):
        assert not Network(config.changed(**other), 37, 3).takes_events
    assert not net.double().takes_events


DIGITS = {"data": "digits", "encoding": "latency", "surrogate": "Triangle(width=0.3)", "norm": False, "epochs": 10, "pictures": "none"}
LARGE = {
    "data": "randman(units=700,classes=20,samples=100)",
    "surrogate": "Triangle(width=0.15)",
    "threshold": 0.3,
    "norm": False,
    "hidden": (256, 256),
    "batch": 64,
    "epochs": 6,
    "pictures": "none",
}


def active(run: Path) -> list[str]:
    """Rates and active shares of a trained network's hidden layers on test samples, and the ways of their products."""
    trained = reopened(run)
    net, data = trained.network().train(), load(trained.config.data, trained.config.binning)
    net.requires_grad_().dropout.eval()
    x = data.test[0][:64]
    spikes = Spikes.of(x.ordered() if isinstance(x, Events) else net.encode(torch.from_numpy(x)).contiguous())
    found: list[str] = []
    for place, layer in enumerate(net.layers):
        linear, neuron = layer.children()
        one: Any = SpikingLinear.of(linear, neuron)  # pyright: ignore
        ways = one.chosen(spikes)
        one.backend = "event"
        spikes, _ = one(spikes)
        text = f"layer {place + 1}: {spikes.density:.1%} spike, {spikes.share:.1%} are active"
        found.append(f"{text}; currents {ways.currents}, weights {ways.weights}, inputs {ways.inputs}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("settings", [DIGITS, LARGE], ids=["digits", "randman"])
def test_accuracy_and_time_of_whole_runs(settings, tmp_path, densely):
    seeds, times, right, kept = range(3), {"events": [], "dense": []}, {"events": [], "dense": []}, {}
    loaded = load(settings["data"])
    before = torch.get_num_threads()
    for way in ("events", "dense"):
        if way == "dense":
            densely()
        for seed in seeds:
            start = time.process_time()
            made = train(Config(**settings, seed=seed, threads=1), tmp_path / f"{way}{seed}", data=loaded)
            times[way].append((time.process_time() - start) / settings["epochs"])
            assert made.test is not None
            right[way].append(made.test.accuracy)
            kept[way] = made.run.path
    assert torch.get_num_threads() == before
    name = f"{settings['data']}, hidden {'-'.join(map(str, settings.get('hidden', (256,))))}"
    print(f"\n{name}, {settings['epochs']} epochs, seeds 0 to 2, one thread")
    for way in ("events", "dense"):
        accuracy = ", ".join(f"{100 * x:.1f}" for x in right[way])
        print(
            f"  {way:>6}: test accuracy {accuracy} %; {statistics.median(times[way]):.2f} s of processor time an epoch, evaluation included"
        )
    print(f"  dense over events: {statistics.median(times['dense']) / statistics.median(times['events']):.2f}")
    for line in active(kept["events"]):
        print(f"  trained, {line}")
    assert statistics.mean(right["events"]) == pytest.approx(statistics.mean(right["dense"]), abs=0.02)
