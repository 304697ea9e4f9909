"""`nn.SpikingLinear` and the neurons of `compat` in every mode and with every kind of tensor of `test_modes`, in the same way."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from tests import test_modes as modes  # noqa: E402
from tests.forked import ALL, ended  # noqa: E402

from spikegrad import nn  # noqa: E402
from spikegrad.compat import snntorch as snn  # noqa: E402

LEARNED: dict[str, Any] = {"learn_beta": True, "learn_threshold": True}
NEURONS: dict[str, Any] = {
    "Leaky": lambda **o: snn.Leaky(0.9, **LEARNED, **o),
    "Synaptic": lambda **o: snn.Synaptic(0.8, 0.9, learn_alpha=True, **LEARNED, **o),
    "Alpha": lambda **o: snn.Alpha(0.9, 0.8, learn_alpha=True, **LEARNED, **o),
    "Lapicque": lambda **o: snn.Lapicque(0.9, **LEARNED, **o),
    "RLeaky": lambda **o: snn.RLeaky(0.9, linear_features=3, **LEARNED, **o),
    "one-to-one": lambda **o: snn.RSynaptic(0.8, 0.9, V=0.5, all_to_all=False, learn_alpha=True, **LEARNED, **o),
    "inhibition": lambda **o: snn.Leaky(0.9, inhibition=True, **LEARNED, **o),
}


class Stepped(torch.nn.Module):
    """A neuron of snnTorch's style over a sequence, its states passed or kept."""

    connection = "none"

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, currents: Any) -> Any:
        if self.neuron.init_hidden:
            self.neuron.reset_mem()
            made = torch.stack([self.neuron(x) for x in currents])
            return made, made
        given = self.neuron.reset_mem()
        state = given if isinstance(given, tuple) else (given,)
        out = []
        for x in currents:
            found = self.neuron(x, *state)
            out.append(found[0])
            state = found[-len(state) :]
        return torch.stack(out), state


class Whole(torch.nn.Module):
    """The same, fused, and recorded."""

    connection = "none"

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.network = snn.fuse(torch.nn.Sequential(neuron))
        self.network(torch.zeros(modes.SHAPE))

    def forward(self, currents: Any) -> Any:
        made = self.network(currents)
        return made, made


def linear(**options: Any) -> Any:
    return lambda backend: nn.SpikingLinear(3, 3, nn.Leaky(0.9, learn=("beta",), backend=backend), **options)


def kept(make: Any) -> Any:
    return lambda backend: Stepped(make(init_hidden=True))


LAYERS: dict[str, Any] = {
    "SpikingLinear": linear(),
    "SpikingLinear that saves": linear(memory="save"),
    **{f"snn.{name}": lambda backend, make=make: Stepped(make()) for name, make in NEURONS.items()},
    **{f"snn.{name} that keeps": kept(make) for name, make in NEURONS.items()},
    **{
        f"fused snn.{name}": lambda backend, make=make: (Whole if backend == "auto" else Stepped)(make(init_hidden=True))
        for name, make in NEURONS.items()
        if name != "inhibition"
    },
}

FEW = ("SpikingLinear", "snn.Synaptic that keeps", "snn.RLeaky", "fused snn.Leaky")

WORDS = {
    "snn.RLeaky": "a fused layer with all-to-all connections cannot be differentiated",
    "snn.one-to-one": "get value out of a tracing tensor",
    "inhibition": "get value out of a tracing tensor",
    "SpikingLinear": "what is recomputed cannot be differentiated inside",
    "fused": "records it, which it cannot inside a torch.func transform|torch.jit.trace does not see what it runs",
}
"""Refusals besides those of `test_modes`: PyTorch's own where one number is read while a tracer looks on."""


def left_out(what: str, kind: str) -> bool:
    """Autocast makes products of half types, a flop counter counts them; the others are made for `nn.Leaky` alone."""
    products = kind.startswith("Spiking") or "RLeaky" in kind
    return what in ("parameters of a subclass", "what is saved in another dtype") or (what.startswith(("autocast", "a flop")) and products)


def walk(kinds: Sequence[str]) -> None:
    """Every kind in every mode; the last line that is printed says where it ended."""
    modes.LAYERS = LAYERS
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    spikes, currents = (modes.given(0) > 0).float(), modes.given(0)
    for what, run in (modes.SAFE | modes.CRASHED).items():
        for kind in kinds:
            if left_out(what, kind):
                continue
            modes.X = spikes if kind.startswith("Spiking") else currents
            print(what, "|", kind, flush=True)
            try:
                modes.require_right(what, kind, run)
            except AssertionError as error:
                words = "|".join(words for name, words in WORDS.items() if name in kind)
                if not (words and re.search(f"{words}|get value out of a tracing tensor", str(error))):
                    raise
    print("all of them")


def require_all_right(kinds: Sequence[str]) -> None:
    program = f"from tests import test_modes_elsewhere as here; here.walk({list(kinds)!r})"
    (found,) = ended(program, libraries=ALL, limit=600)
    assert found.out.endswith("all of them\n"), (found.code, found.out[-300:], found.err[-3000:])


def test_every_kind_of_layer_in_every_mode():
    require_all_right(FEW)


@pytest.mark.slow
def test_every_layer_in_every_mode():
    require_all_right([*LAYERS])


def test_a_fused_network_is_recorded_outside_of_transforms():
    network = snn.fuse(torch.nn.Sequential(snn.Leaky(0.9, init_hidden=True)))
    x = torch.rand(5, 2, 3)
    with pytest.raises(snn.FusionError, match=r"its first call .* records it, which it cannot inside a torch\.func"):
        torch.func.vmap(network, 1, 1)(x)
    expected = network(x)
    network(x[:, 0])
    assert torch.equal(torch.func.vmap(network, 1, 1)(x), expected)
