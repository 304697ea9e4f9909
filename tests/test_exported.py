"""Networks as ONNX in onnxruntime, as programs of `torch.export`, and compiled ahead of time by Inductor."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import spikegrad  # noqa: E402
from spikegrad import neurons, nn  # noqa: E402

Linear = torch.nn.Linear

NETS = {
    "Leaky": (lambda: nn.Sequential(Linear(6, 8), nn.Leaky(0.9), Linear(8, 4), nn.Leaky(0.8, reset="zero")), (6,)),
    "readout": (lambda: nn.Sequential(Linear(6, 8), nn.Leaky(0.9, reset_delay=True), Linear(8, 4), nn.LeakyIntegrator(0.8)), (6,)),
    "Synaptic": (lambda: nn.Sequential(Linear(6, 8), nn.Synaptic(0.7, 0.9, spike_at_threshold=False)), (6,)),
    "Adaptive": (lambda: nn.Sequential(Linear(6, 8), nn.Layer(neurons.Adaptive(0.9, reset="zero"), learn="beta")), (6,)),
    "convolutional": (
        lambda: nn.Sequential(
            torch.nn.Conv2d(1, 3, 3), nn.Leaky(0.9), torch.nn.MaxPool2d(2), torch.nn.Flatten(), Linear(27, 4), nn.Leaky(0.8)
        ),
        (1, 8, 8),
    ),
    "recurrent": (
        lambda: nn.Sequential(Linear(6, 8), nn.RecurrentLeaky(8, 0.9), nn.RecurrentSynaptic(8, 0.5, 0.8, connection="one-to-one")),
        (6,),
    ),
}


def given(*shape: int, seed: int = 1) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


def written(name: str, path: Path, **options: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """A network, a session of onnxruntime that runs it from a file, and the shape of its features."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make()
    spikegrad.to_onnx(net, given(5, 1, *shape, seed=3), path / "net.onnx", **options)
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3
    return net, runtime.InferenceSession(path / "net.onnx", quiet), shape


def nothing(session: Any, batch: int) -> list[Any]:
    """Rest, of the shapes that the session states."""
    return [torch.zeros([batch, *value.shape[1:]]).numpy() for value in session.get_inputs()[1:]]


def one_step_is_the_layer(name: str, path: Path) -> str:
    """100 steps, one after the other, of another batch size than the exported one."""
    net, session, shape = written(name, path, form="step")
    assert session.get_modelmeta() is not None
    names = [value.name for value in session.get_inputs()]
    x = given(100, 3, *shape)
    state, steps = nothing(session, 3), []
    for current in x:
        made, *state = session.run(None, dict(zip(names, [current.numpy(), *state], strict=True)))
        steps.append(torch.from_numpy(made))
    return _compared(net, torch.stack(steps), x, f"{name}, one step 100 times, inputs {', '.join(names)}")


def a_scan_is_the_layer(name: str, path: Path, states: bool = False) -> str:
    """Longer than the exported sequence, and of another batch size."""
    net, session, shape = written(name, path, states=states)
    names = [value.name for value in session.get_inputs()]
    x = given(120, 3, *shape)
    made, *_ = session.run(None, dict(zip(names, [x.numpy(), *nothing(session, 3)], strict=False)))
    return _compared(net, torch.from_numpy(made), x, f"{name}, a Scan exported at 5 steps run at 120, inputs {', '.join(names)}")


def _compared(net: Any, found: Any, x: Any, what: str) -> str:
    wanted = net(x)[0].detach()
    assert wanted.sum() > 20
    if set(wanted.unique().tolist()) <= {0.0, 1.0}:
        assert torch.equal(found, wanted), what
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    return f"{what}: {(found != wanted).sum().item()} of {wanted.numel()} outputs differ, their sum is {wanted.sum().item():.6g}"


def test_one_step_in_onnxruntime(tmp_path):
    one_step_is_the_layer("Synaptic", tmp_path)


def test_a_scan_in_onnxruntime(tmp_path):
    a_scan_is_the_layer("Leaky", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_network_in_onnxruntime(name, tmp_path, capsys):
    told = [one_step_is_the_layer(name, tmp_path), a_scan_is_the_layer(name, tmp_path), a_scan_is_the_layer(name, tmp_path, states=True)]
    with capsys.disabled():
        print("", *told, sep="\n")


def test_what_to_onnx_refuses(monkeypatch):
    pytest.importorskip("onnxscript")
    net, sample = nn.Sequential(nn.Leaky(0.9)), given(5, 1, 3)
    for words, change in {
        "`form` must be 'sequence' or 'step', got 'steps'": {"form": "steps"},
        "`opset` must be at least 18, got 17": {"opset": 17},
        "a step without its states": {"form": "step", "states": False},
    }.items():
        with pytest.raises(ValueError, match=words):
            spikegrad.to_onnx(net, sample, **change)
    with pytest.raises(ValueError, match=r"`sample` must be \(time, batch, \*features\), got shape \(5, 3\)"):
        spikegrad.to_onnx(net, sample[:, 0])
    with pytest.raises(TypeError, match=r"`net` must be a layer or an nn\.Sequential, got Linear"):
        spikegrad.to_onnx(Linear(3, 3), sample)
    with pytest.raises(TypeError, match="`sample`"):
        spikegrad.to_onnx(net, sample.numpy())
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.scan", None)
    with pytest.raises(ImportError, match="this version of PyTorch has no scan"):
        spikegrad.to_onnx(net, sample)


def test_to_onnx_leaves_the_network_as_it_was():
    pytest.importorskip("onnxscript")
    net = nn.Sequential(Linear(3, 2), nn.Leaky(0.9)).train()
    with pytest.raises(ValueError, match="`opset`"):
        spikegrad.to_onnx(net, given(5, 1, 3), opset=3)
    assert net.training
    assert net[1].backend == "auto"
    assert net[0].weight.requires_grad


def test_an_exported_network_computes_the_same(tmp_path):
    """With the fused kernels as an operator, which a process knows that has imported spikegrad."""
    for name in ("Leaky", "recurrent"):
        make, shape = NETS[name]
        net, x = make(), given(9, 2, *shape)
        torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
        assert "spikegrad" in str(torch.export.load(tmp_path / "net.pt2").graph)
        other = given(9, 2, *shape, seed=7)
        assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(other)[0], net(other)[0])


@pytest.mark.slow
def test_a_network_compiled_ahead_of_time_computes_the_same(tmp_path):
    """By AOTInductor, whose program has no Python in it: the plain loop, unrolled."""
    torch.manual_seed(0)
    net = nn.Sequential(Linear(6, 8), nn.Leaky(0.9, backend="reference"), Linear(8, 4), nn.Synaptic(0.7, 0.9, backend="reference"))
    x = given(20, 2, 6)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = torch._inductor.aoti_compile_and_package(torch.export.export(net, (x,)), package_path=str(tmp_path / "net.pt2"))
        program = torch._inductor.aoti_load_package(package)
        other = given(20, 2, 6, seed=7)
        assert torch.equal(program(other)[0], net(other)[0])
        assert net(other)[0].sum() > 5
