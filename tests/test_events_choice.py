"""The three products of a layer by events or dense, chosen apart, and weights in blocks of columns: the same gradients in every way."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.test_events import gradients, layer, network, recurrent, same, spikes, take

from spikegrad import Spikes, nn
from spikegrad.kernels import choice

pytest.importorskip("numba")

PRODUCTS = ("currents", "weights", "inputs")


def forced(monkeypatch, dense, *, blocks=False):
    """Have layers but the first take these products dense, whatever spikes; and weights for larger than the cache, or smaller."""
    monkeypatch.setattr(choice, "crossing", lambda product, senders, features: 0.0 if product in dense and senders != 37 else 2.0)
    monkeypatch.setattr(choice, "FEWEST", 0)
    monkeypatch.setattr(choice, "cache", lambda: 0 if blocks else 2**40)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("dense", [each for n in range(3) for each in itertools.combinations(PRODUCTS, n)], ids="+".join)
def test_every_choice(dense, blocks, monkeypatch):
    forced(monkeypatch, dense, blocks=blocks)
    net, x = network((37, 150, 130, 6)), spikes(0.2)
    take(net, "auto")
    given, _ = net[0](Spikes.of(x))
    ways = net[1].chosen(given)
    assert {each for each in PRODUCTS if getattr(ways, each) == "dense"} == set(dense)
    assert given.pairs.parts == (2 if blocks else 1)
    same(gradients(net, x, "auto"), gradients(net, x, "dense"))


def test_recurrent_neurons_with_dense_products(monkeypatch):
    forced(monkeypatch, ())
    ways = choice.Chosen("dense", "dense", "event", "")
    monkeypatch.setattr(nn.SpikingLinear, "_chosen", lambda self, given: ways)
    net, x = recurrent(), spikes(0.2)
    found, expected = gradients(net, x, "auto"), gradients(net, x, "dense")
    same((found[0], (), found[2]), (expected[0], (), expected[2]))


@pytest.mark.parametrize(("features", "batch"), [(129, 5), (256, 1), (300, 3)])
def test_blocks_of_columns(features, batch, monkeypatch):
    """Lists in order, the memory of states that are given, and a last block that is narrower."""
    forced(monkeypatch, (), blocks=True)
    net, x = layer(37, features), spikes(0.2, 12, batch, 37)
    whole, last = net(x)
    first, state = net(x[:5])
    second, state = net(x[5:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state, last)
    events, _ = net(Spikes.of(x))
    expected = Spikes.of(whole.detach())
    assert torch.equal(events.index, expected.index)
    assert torch.equal(events.since, expected.since)
    found = gradients(net, x, "event")
    take(net, "dense")
    same(found, gradients(net, x, "dense"))


def test_blocks_on_one_and_two_threads_bit_for_bit(monkeypatch):
    forced(monkeypatch, (), blocks=True)
    net, x, before = network((37, 300, 130, 6)), spikes(0.2, 12, 9, 37), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(net, x, "event"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][2][name], found[1][2][name]) for name in found[0][2])


def test_a_layer_says_what_it_takes():
    net = layer(256, 256, backend="auto")
    few, many = (net.chosen(Spikes.of(spikes(density, 16, 16, 256))) for density in (0.02, 0.9))
    assert few[:2] == ("event", "event")
    assert "currents event (2.0% of them, events cost less below" in few.why
    assert many[:2] == ("dense", "dense")
    assert net.chosen(torch.full((16, 16, 256), 0.5)).why == "its input has other values than 0 and 1"
    assert nn.SpikingLinear(3, 2, nn.Leaky(0.9), backend="dense").chosen(torch.zeros(4, 1, 3)).why == "backend='dense' was asked for"


@pytest.mark.parametrize("table", [choice._WIDE, choice._NARROW], ids=["512 bits", "256 bits"])
def test_the_rule(table, monkeypatch):
    """Dense from a share on that is less for narrow rows and for weights that do not fit; whatever the batch."""
    monkeypatch.setattr(choice, "crossings", lambda: table)
    monkeypatch.setattr(choice, "cache", lambda: 2**20)
    for product in PRODUCTS:
        shares = [choice.crossing(product, *size) for size in ((256, 20), (256, 64), (256, 256))]
        assert 0.05 < shares[0] < shares[1] < shares[2] < 0.65
        assert choice.crossing(product, 2312, 512) < choice.crossing(product, 512, 512)  # 4.7 MB, and 1 MB
    for batch, density in ((16, 0.05), (64, 0.05), (16, 0.8), (64, 0.8)):
        ways = choice.chosen(Spikes.of(spikes(density, 20, batch, 256)), 256)
        assert ways[:2] == (("event", "event") if density == 0.05 else ("dense", "dense"))
        assert ways.inputs == "dense"  # a dense tensor's gradient is read everywhere


@pytest.mark.parametrize(("senders", "features", "samples", "fed"), [(37, 40, 5, False), (2312, 512, 64, False), (600, 600, 3, True)])
def test_pieces_make_up_a_layer(senders, features, samples, fed, monkeypatch):
    monkeypatch.setattr(choice, "cache", lambda: 2**20)
    cut = choice.pieces(senders, features, samples, fed)
    assert (cut.parts - 1) * cut.breadth < features <= cut.parts * cut.breadth
    assert (cut.groups - 1) * cut.together < samples <= cut.groups * cut.together
    assert (cut.parts > 1) is (4 * senders * features > 2**20 and not fed)
