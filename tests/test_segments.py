"""How a chain is cut into segments, and which of them are run some samples at a time."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations  # noqa: E402

from spikegrad import NoisyThreshold, neurons, nn  # noqa: E402
from spikegrad.compat import snntorch as compat  # noqa: E402
from spikegrad.nn import segments  # noqa: E402

B, C, S = 5, 4, 6
"""Samples, channels, and pixels along each side."""


def conv() -> Any:
    return torch.nn.Conv2d(C, C, 3, padding=1)


def leaky() -> Any:
    return nn.Leaky(0.9, 0.6, backend="reference")


@pytest.mark.parametrize(
    ("make", "alone"),
    [
        (lambda: torch.nn.BatchNorm2d(C), False),
        (lambda: torch.nn.BatchNorm2d(C).eval(), True),
        (lambda: torch.nn.InstanceNorm2d(C), True),
        (lambda: torch.nn.InstanceNorm2d(C, track_running_stats=True), False),
        (lambda: torch.nn.Dropout(0.5), False),
        (lambda: torch.nn.Dropout(0.5).eval(), True),
        (lambda: torch.nn.Dropout(0.0), True),
        (lambda: torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(C)), False),
        (lambda: torch.nn.Softmax(0), False),
        (lambda: torch.nn.Flatten(0), False),
        (lambda: parametrizations.spectral_norm(conv()), False),
        (lambda: type("Own", (torch.nn.Conv2d,), {})(C, C, 1), False),
        (lambda: nn.Steps(compat.Leaky(0.9)), False),
        (lambda: nn.Residual(conv(), leaky()), True),
        (lambda: nn.Residual(conv(), torch.nn.BatchNorm2d(C), leaky()), False),
        (lambda: nn.Leaky(0.9, spike=NoisyThreshold()), False),
        (lambda: nn.Leaky(0.9, quantize=nn.Quantize(4)), True),
        (lambda: nn.Leaky(0.9, quantize=torch.round), False),
        (lambda: nn.Leaky(torch.full((B, C, S, S), 0.9)), False),
        (lambda: nn.Leaky(torch.full((C, 1, 1), 0.9)), True),
        (lambda: nn.RecurrentLeaky(S, 0.9), True),
    ],
)  # fmt: skip
def test_what_treats_each_sample_by_itself(make, alone):
    """For the rest, blocks would compute something else."""
    module = make()
    assert segments._by_sample(module, B) == alone


def test_blocks_hold_no_more_than_they_should(monkeypatch):
    """Whatever the width between the modules of a segment."""
    monkeypatch.setattr(segments, "_HELD", 3000)
    sizes: list[int] = []

    class Watched(torch.nn.Conv2d):
        def forward(self, input: Any) -> Any:
            made = super().forward(input)
            sizes.append(made.numel())
            return made

    Watched.__module__ = "torch.nn.modules.conv"
    chain = nn.Sequential(Watched(1, 16, 3, padding=1), leaky(), torch.nn.Flatten(), torch.nn.Linear(256, 2), leaky(), memory="recompute")
    x = torch.rand(2, 8, 1, 4, 4)
    chain(x)[0].sum().backward()
    assert sizes[1:] == [2 * 2 * 256] * 8  # after a look at one step of one sample: two samples at a time, forward and again
    sizes.clear()
    chain(x)[0].sum().backward()
    assert sizes == [2 * 2 * 256] * 8  # of which no second look is needed


def test_spikes_are_known_by_what_makes_them():
    """Where numbers are not looked at, since that waits for the device."""
    known = {
        "spikes": (leaky(), True), "of weights and neurons": (nn.SpikingLinear(3, 3, leaky()), True),
        "above": (nn.Leaky(0.9, spike_at_threshold=False), True), "potentials": (nn.LeakyIntegrator(0.9), False),
        "three values": (nn.Layer(neurons.Ternary()), False), "sums": (nn.Residual(leaky()), False),
    }  # fmt: skip
    for what, (module, wanted) in known.items():
        assert segments._spikes(module) == wanted, what


def test_where_a_chain_is_cut():
    """After what sees time; around a dropout of spikes, which draws for all samples together; around what recomputes by itself."""
    dense, drop, own = torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), nn.SpikingLinear(3, 3, leaky())
    chain = [dense, leaky(), drop, dense, drop, leaky(), dense, nn.LeakyIntegrator(0.9), drop, dense, own, dense, leaky(), own, drop, dense]
    links = nn.Sequential(*chain)._links()
    found = [([chain.index(link.module) for link in segment], spikes) for segment, spikes in segments._divided(links)]
    names = {id(dense): "dense", id(drop): "drop", id(own): "own"}
    shown = [(" ".join(names.get(id(chain[place]), "neurons") for place in segment), spikes) for segment, spikes in found]
    assert shown == [
        ("dense neurons", False), ("drop", True), ("dense drop neurons", True), ("dense neurons", True), ("drop dense", False),
        ("own", False), ("dense neurons", True), ("own", True), ("drop", True), ("dense", True),
    ]  # fmt: skip
    evaluated = nn.Sequential(*chain).eval()._links()
    assert [len(segment) for segment, _ in segments._divided(evaluated)] == [2, 4, 2, 2, 1, 2, 1, 2]
