"""``spikegrad quantize-report``: what few bits do to a run."""

from __future__ import annotations

import io
import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from spikegrad import nn  # noqa: E402
from spikegrad.exchange.fixed_point import FixedPoint, quantized  # noqa: E402
from spikegrad.training import Config, QuantizeReport, evaluate  # noqa: E402
from spikegrad.training.network import OwnNetwork  # noqa: E402
from spikegrad.training.quantizing import Row  # noqa: E402
from spikegrad.training.trained import reopened  # noqa: E402


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run of a few epochs, whose network has two hidden layers, normalisation, and noise in its input."""
    from spikegrad.training import train

    path = tmp_path_factory.mktemp("runs") / "run"
    config = Config(data=small, epochs=4, hidden=(12, 8), steps=8, encoding="rate", norm=True, neuron="Leaky", lr=0.02)
    train(config, path, console=None)
    return path


def test_a_run_with_few_bits(trained, told):
    code, printed, error = told("quantize-report", trained, "--weights", "8,2", "--states", "12")
    assert (code, error) == (0, "")
    data = json.loads((trained / "quantize.json").read_text())
    assert [(row["weights"], row["states"]) for row in data["rows"]] == [(None, None), (8, None), (8, 12), (2, None), (2, 12)]
    assert (trained / "quantize.png").stat().st_size > 10_000
    first, *rest = data["rows"]
    own = evaluate(trained)
    assert (first["correct"], first["samples"], first["changed"]) == (own.correct, own.samples, [0.0, 0.0])
    assert first["rates"] == pytest.approx(own.rates)
    assert all(len(row["changed"]) == len(row["rates"]) == 2 for row in rest)
    assert sum(rest[0]["changed"]) < 0.5 * sum(rest[2]["changed"])  # 8 bits change less than 2
    assert sum(rest[1]["changed"]) > 0
    for word in ("2 bits", "12 bits", "float", "quantize.json", f"{100 * own.accuracy:.2f} %"):
        assert word in printed


def test_a_run_without_normalisation_whose_network_may_run_by_events(small, tmp_path):
    from spikegrad.training import quantize_report, train

    run = train(Config(data=small, epochs=1, hidden=(12,), steps=8, norm=False, surrogate="Triangle"), tmp_path / "run").run
    first, *rest = quantize_report(run.path, (16,), (16,)).rows
    assert first.correct == evaluate(run.path).correct
    assert [row.states for row in rest] == [None, 16]
    assert all(abs(row.correct - first.correct) <= 1 and row.changed[0] < 0.05 for row in rest)


def test_every_layer_of_a_run_is_in_whole_numbers(trained):
    network = reopened(trained).network()
    made = quantized(network, 4, 12)
    layers = [module for module in made.network.modules() if isinstance(module, nn.Layer)]
    assert [type(layer) for layer in layers] == [FixedPoint] * 3
    assert made.notes == {}
    x = torch.rand(5, 4).double()
    torch.manual_seed(0)
    activity = made.network(x)
    assert activity.scores.shape == (5, 2)
    for weight in (module.weight for module in made.network.modules() if isinstance(module, torch.nn.Linear)):
        assert torch.equal(weight, weight.round())
        assert weight.abs().max() <= 7


def test_a_network_of_ones_own_is_seen_through():
    """Spikes of its layers are counted there as well; what has no form in whole numbers stays, and is named."""
    model = nn.Sequential(
        torch.nn.Linear(6, 8), nn.Leaky(0.9), nn.SpikingLinear(8, 5, nn.Leaky(0.8)), torch.nn.Linear(5, 2), nn.LeakyIntegrator(0.9)
    )
    network = OwnNetwork(Config(steps=7), model, classes=2)
    activity = quantized(network, 8, 16).network(torch.rand(3, 6).double())
    assert [tuple(spikes.shape) for spikes in activity.spikes] == [(7, 3, 8), (7, 3, 5)]
    assert activity.scores.shape == (3, 2)


def test_bits_out_of_range_are_one_line(trained, told, tmp_path):
    for arguments, words in (
        (("--weights", "1"), "--weights must be between 2 and 16 bits, got 1"),
        (("--states", "12,40"), "--states must be between 4 and 32 bits, got 40"),
        (("--states", "many"), "--states: must be a whole number, got 'many'"),
    ):
        code, _, error = told("quantize-report", trained, *arguments)
        assert code == 2
        assert words in error
    code, _, error = told("quantize-report", tmp_path)
    assert code == 2
    assert "is not a run" in error


def test_notes_are_told():
    from rich.console import Console

    found = QuantizeReport(
        (Row(None, None, 9, 10, (0.5,), (0.0,)), Row(8, 12, 8, 10, (0.25,), (math.inf,))), {"layers.0.1": "it has inhibition"}
    )
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"][1]["changed"] == [None]
    found.figure()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found)
    words = " ".join(console.export_text().split())
    assert "90.00 % 50.0 %" in words
    assert "8 bits 12 bits 80.00 % -10.0 25.0 % -" in words
    assert "layers.0.1: it has inhibition; its states stay in floating point" in words
