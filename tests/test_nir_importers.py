"""Our files in the importers of snnTorch, Norse and SpikingJelly, and their files in ours: see docs/exchange.md for the environment."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

pytestmark = pytest.mark.importers

torch = pytest.importorskip("torch")

import spikegrad  # noqa: E402
from spikegrad import neurons, nn  # noqa: E402

SAID = {"reset": "zero", "spike_at_threshold": False}
STEPS = 500
Linear = torch.nn.Linear


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What importers print, log and warn of is not what is tested."""
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError):
        from loguru import logger

        logger.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def in_snntorch(graph: Any) -> Callable[[Any], Any]:
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        return import_from_nir(graph)


def in_norse(graph: Any) -> Callable[[Any], Any]:
    import norse.torch

    return norse.torch.from_nir(graph, dt=1e-4)


def in_spikingjelly(graph: Any) -> Callable[[Any], Any]:
    from spikingjelly.activation_based.nir_exchange import from_nir

    return from_nir.import_from_nir(graph)


IMPORTERS = {"snntorch": in_snntorch, "norse": in_norse, "spikingjelly": in_spikingjelly}

NETS = {
    "Leaky": (lambda: nn.Sequential(Linear(20, 30), nn.Leaky(0.9, **SAID), Linear(30, 10), nn.Leaky(0.8, **SAID)), (20,)),
    "Leaky, thresholds 0.5 and 2, no bias": (
        lambda: nn.Sequential(Linear(20, 30, bias=False), nn.Leaky(0.9, 0.5, **SAID), Linear(30, 10), nn.Leaky(0.8, 2.0, **SAID)),
        (20,),
    ),
    "Leaky, learned and scaled": (
        lambda: nn.Sequential(Linear(20, 30), nn.Leaky(0.9, 0.2, scale_input=True, learn_beta=True, **SAID)),
        (20,),
    ),
    "Synaptic": (
        lambda: nn.Sequential(Linear(20, 30), nn.Synaptic(0.7, 0.9, **SAID), Linear(30, 10), nn.Synaptic(0.5, 0.8, **SAID)),
        (20,),
    ),
    "RecurrentLeaky": (lambda: nn.Sequential(Linear(20, 30), nn.RecurrentLeaky(30, 0.9, **SAID)), (20,)),
    "RecurrentLeaky, one-to-one": (
        lambda: nn.Sequential(Linear(20, 30), nn.RecurrentLeaky(30, 0.9, connection="one-to-one", **SAID)),
        (20,),
    ),
    "RecurrentSynaptic": (lambda: nn.Sequential(Linear(20, 30), nn.RecurrentSynaptic(30, 0.7, 0.9, **SAID)), (20,)),
    "convolutional": (
        lambda: nn.Sequential(torch.nn.Conv2d(2, 4, 3), nn.Leaky(0.9, **SAID), torch.nn.Flatten(), Linear(144, 5), nn.Leaky(0.8, **SAID)),
        (2, 8, 8),
    ),
    "convolutional, AvgPool2d": (
        lambda: nn.Sequential(
            torch.nn.Conv2d(2, 4, 3), nn.Leaky(0.9, **SAID), torch.nn.AvgPool2d(2), torch.nn.Flatten(), Linear(36, 5), nn.Leaky(0.8, **SAID)
        ),
        (2, 8, 8),
    ),
    "IntegrateAndFire": (lambda: nn.Sequential(Linear(20, 30), nn.Layer(neurons.IntegrateAndFire(**SAID))), (20,)),
}
REFUSED = {
    ("snntorch", "IntegrateAndFire"): "r != 1 not supported",
    ("norse", "convolutional, AvgPool2d"): "cannot be multiplied|is invalid for input of size",
}
"""What an importer does not read, and what it says; Norse leaves the node out, and the network may end there, by the order of a set."""


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("name", NETS)
def test_our_files_spike_alike_elsewhere(importer, name):
    pytest.importorskip(importer)
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2).add_(0.02)
    x = (torch.rand(STEPS, 1, *shape) < 0.3).float()
    wanted = net(x)[0].detach()
    graph = copy.deepcopy(spikegrad.to_nir(net, x, strict=True))

    def run() -> Any:
        other, state, steps = IMPORTERS[importer](graph), None, []
        for current in x:
            made, state = other(current) if state is None else other(current, state)
            steps.append(made)
        return torch.stack(steps).reshape(wanted.shape).detach()

    if (importer, name) in REFUSED:
        with pytest.raises((AssertionError, RuntimeError), match=REFUSED[importer, name]) as caught:
            run()
        print(f"\n{importer} {version(importer)}, nir {version('nir')}, {name}: not read, {str(caught.value)[:60]}")
        return
    found = run()
    print(
        f"\n{importer} {version(importer)}, nir {version('nir')}, {name}: {(found != wanted).sum().item()} of {wanted.numel()} differ, "
        f"{wanted.sum().item():.0f} spikes in {STEPS} steps"
    )
    assert 0.005 < wanted.mean() < 0.8
    assert torch.equal(found, wanted)


def norse_cells() -> dict[str, Any]:
    import norse.torch as norse

    return {"LIFBoxCell": norse.LIFBoxCell(), "LIBoxCell": norse.LIBoxCell()}


@pytest.mark.parametrize("cell", ["LIFBoxCell", "LIBoxCell"])
def test_files_of_norse(cell):
    """Whose time constants are inverted; put right, they compute what Norse computes."""
    norse = pytest.importorskip("norse.torch")
    torch.manual_seed(0)
    net = norse.SequentialState(Linear(20, 30), norse_cells()[cell])
    with torch.no_grad():
        net[0].weight.mul_(8).add_(0.5)
    x = (torch.rand(STEPS, 1, 20) < 0.3).float()
    graph = norse.to_nir(net, x[0])
    with pytest.raises(ValueError, match=r"shorter than a step of 0.0001 s.*Norse 1.1.0 inverts time constants.*norse_dt=0.001"):
        spikegrad.from_nir(graph)
    state, steps = None, []
    for current in x:
        made, state = net(current, state)
        steps.append(made.detach())
    found, wanted = spikegrad.from_nir(graph, dt=1e-3, norse_dt=1e-3)(x)[0].detach(), torch.stack(steps)
    largest = (found - wanted).abs().max().item()
    print(f"\nnorse {version('norse')}'s {cell} here: largest difference {largest:.2g}, sum of the output {wanted.sum().item():.6g}")
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("cell", ["Leaky", "Synaptic"])
def test_files_of_snntorch(cell):
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)
    options: dict[str, Any] = {"threshold": torch.ones(30), "reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    decays = {"beta": 0.9 * torch.ones(30)} | ({"alpha": 0.7 * torch.ones(30)} if cell == "Synaptic" else {})
    net = torch.nn.Sequential(Linear(20, 30), getattr(snn, cell)(**decays, **options))
    with torch.no_grad():
        net[0].weight.mul_(2).add_(0.02)
    x = (torch.rand(STEPS, 1, 20) < 0.3).float()
    graph = export_to_nir(net, x[0], ignore_dims=[0])
    net[1].reset_mem()
    wanted = torch.stack([net(current) for current in x]).detach()
    found = spikegrad.from_nir(graph)(x)[0].detach()
    differ = f"{(found != wanted).sum().item()} of {wanted.numel()} differ, {wanted.sum().item():.0f} spikes"
    print(f"\nsnntorch {version('snntorch')}'s {cell} here: {differ}")
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("LIFNode", {"tau": 5.0}),
        ("LIFNode", {"tau": 5.0, "decay_input": False}),
        ("LIFNode", {"tau": 5.0, "v_reset": -0.5}),
        ("IFNode", {}),
        ("CUBALIFNode", {"c_decay": 0.5, "v_decay": 0.75}),
    ],
)
def test_files_of_spikingjelly(cell, options):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.nir_exchange import to_nir

    torch.manual_seed(0)
    net = torch.nn.Sequential(Linear(20, 30), getattr(neuron, cell)(**options))
    with torch.no_grad():
        net[0].weight.mul_(4).add_(0.2)
    x = (torch.rand(STEPS, 1, 20) < 0.3).float()
    graph = to_nir.export_to_nir(net, x[0])
    functional.reset_net(net)
    wanted = torch.stack([net(current) for current in x]).detach()
    back = spikegrad.from_nir(graph)
    found = back(x)[0].detach()
    told = ", ".join(f"{name}={value}" for name, value in options.items())
    differ = f"{(found != wanted).sum().item()} of {wanted.numel()} differ, {wanted.sum().item():.0f} spikes"
    print(f"\nspikingjelly {version('spikingjelly')}'s {cell}({told}) here: {differ}")
    assert torch.equal(found, wanted)
