"""Layers in files: programs of `torch.export` whose words were changed, ONNX, and layers compiled for the first time in a process."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from tests.forked import ALL, finish  # noqa: E402

from spikegrad import ATan, nn  # noqa: E402

RUNS = "__import__('sys').modules.setdefault('it_ran', 1)"


def given(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "layer.pt2"
    torch.export.save(torch.export.export(nn.Leaky(0.9), (given(4, 2, 3),)), path)
    return path


def changed(path: Path, to: Path, change: Any) -> None:
    """The program in another file, each text that its operations are given put through `change`."""

    def walk(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: change(value) if key == "as_string" else walk(value) for key, value in data.items()}
        return [walk(each) for each in data] if isinstance(data, list) else data

    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if "models/" in entry.filename and entry.filename.endswith(".json"):
                data = json.dumps(walk(json.loads(data))).encode()
            new.writestr(entry, data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"slope"', json.dumps(f"slope={RUNS}")),
        ('"current"', json.dumps(f"current={RUNS}")),
        ('"beta"', json.dumps(RUNS)),
        ('"multiply"', json.dumps(f"multiply({RUNS})")),
        ('"fire"', '"system"'),
        ("{", "("),
    ],
)
def test_a_changed_program_runs_nothing(old, new, exported, tmp_path):
    """Whoever may change the file may not run code by it; where it is refused, it says what to do."""
    changed(exported, tmp_path / "other.pt2", lambda text: text.replace(old, new))
    with pytest.raises((ValueError, RuntimeError), match="export it again"):
        torch.export.load(tmp_path / "other.pt2").module()(given(4, 2, 3))
    assert "it_ran" not in sys.modules


def test_the_operator_takes_only_what_a_layer_gives():
    """Sizes that do not fit would be read beyond their memory."""
    layer, x = nn.RecurrentLeaky(3, 0.9), given(4, 2, 3)
    found: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        class Watched(torch.fx.Interpreter):
            def call_function(self, target: Any, arguments: Any, keywords: Any) -> Any:
                if "spikegrad.layer" in str(target):
                    found.append(arguments)
                return super().call_function(target, arguments, keywords)

        return Watched(graph).run

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(layer, fullgraph=True, backend=backend)(x, (x[0] * 0, x[0] * 0))
    ((inputs, tensors, floats, surrogate, text, names),) = found
    run = torch.ops.spikegrad.layer
    with torch.no_grad():
        assert torch.equal(run(inputs, tensors, floats, surrogate, text, names)[0], layer(x)[0])
        words = names.split()

        def other(name: str, x: Any) -> list[Any]:
            return [x if word == name else t for word, t in zip(words, tensors, strict=True)]

        wrong = [
            ([], tensors, floats, surrogate, text, names),
            ([x, x], tensors, floats, surrogate, text, names),
            ([x.double()], tensors[:-1], floats, surrogate, text, names),
            ([x[..., :2]], tensors, floats, surrogate, text, names),
            ([x[0, 0]], tensors, floats, surrogate, text, names),
            (inputs, other("weights", torch.ones(2, 2)), floats, surrogate, text, names),
            (inputs, other("first.v", torch.ones(1, 3)), floats, surrogate, text, names),
            (inputs, tensors, floats[:-1], surrogate, text, names),
            (inputs, tensors, floats, surrogate[:-1], text, names),
            (inputs, tensors, floats, surrogate, text, names.replace("first.v", "first.w")),
            (inputs, tensors, floats, surrogate, text, names + " beta"),
        ]
        for arguments in wrong:
            with pytest.raises((ValueError, IndexError), match=r"no call of a layer|list index"):
                run(*arguments)
        made = [torch.ones_like(t) for t in run(inputs, tensors, floats, surrogate, text, names)]
        back, wanted = torch.ops.spikegrad.layer_backward, [False] * len(tensors)
        assert back(inputs, tensors, floats, surrogate, text, names, made, wanted)[0].shape == x.shape
        for gradients in ([], made[:-1], [made[0][:2], *made[1:]], [made[0].double(), *made[1:]]):
            with pytest.raises(ValueError, match="no call of a layer"):
                back(inputs, tensors, floats, surrogate, text, names, gradients, wanted)
        with pytest.raises(ValueError, match="no call of a layer"):
            back([x[:2]], tensors, floats, surrogate, text, names, made, wanted)


TRANSFORMS = {
    "grad": lambda f: lambda x: torch.func.grad(lambda x: f(x).square().sum())(x),
    "vmap": lambda f: lambda x: torch.func.vmap(f, 1, 1)(x),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x.cos(),))[1],
}


@pytest.mark.parametrize("transform", [name if name == "jvp" else pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS])
def test_a_compiled_transform_is_the_plain_one(transform):
    """A compiled jvp through the operator was 0 everywhere."""
    x = given(2, 2, 3)
    fs = [TRANSFORMS[transform](lambda x, layer=layer: layer(x)[0] * x) for layer in (nn.Leaky(0.9), nn.LeakyIntegrator(0.9))]

    def both(x: Any) -> Any:
        return [f(x) for f in fs]

    torch.compiler.reset()
    for found, wanted in zip(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x), strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.abs().max() > 0


OLD = pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="PyTorch 2.11 compiles the plain loop for each float anew")


@pytest.mark.parametrize("backend", ["auto", pytest.param("reference", marks=OLD)])
def test_numbers_that_change_every_epoch_compile_nothing(backend):
    """A slope, and a number of the neuron; the first change may compile once more, no other one does."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter, layer, x = CompileCounterWithBackend("aot_eager"), nn.Leaky(0.9, backend=backend), given(2, 2, 3)
    run = torch.compile(layer, fullgraph=True, backend=counter)
    counts = []
    for epoch in range(11):
        layer.spike.surrogate = ATan(1.0 + epoch / 3)
        if epoch > 5:
            layer.neuron = dataclasses.replace(layer.neuron, beta=0.5 + epoch / 30)
        found, wanted = (x.clone().requires_grad_() for _ in range(2))
        spikes = run(found)[0]
        expected = nn.Leaky(layer.beta, spike=ATan(1.0 + epoch / 3), backend="reference")(wanted)[0]
        assert torch.equal(spikes, expected)
        spikes.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(found.grad, wanted.grad)
        counts.append(counter.frame_count)
    assert counts[1] == counts[5] or counts[2] == counts[5]
    assert counts[7] == counts[10]


ONNX = """
import warnings

warnings.simplefilter("ignore")
import torch
from torch.onnx._internal.exporter import _flags
from spikegrad import nn

x = torch.randn(4, 2, 3)
for layer in (nn.Leaky(0.9), nn.RecurrentLeaky(3, 0.9), nn.LeakyIntegrator(0.9)):
    _flags._is_onnx_exporting = True  # as torch.onnx.export does
    program = torch.export.export(layer, (x,))
    _flags._is_onnx_exporting = False
    assert "spikegrad" not in str(program.graph), program.graph
    assert torch.equal(program.module()(x)[0], layer(x)[0])
    assert "spikegrad" in str(torch.export.export(layer, (x,)).graph)
"""


def test_what_is_exported_to_onnx_is_the_plain_loop():
    pytest.importorskip("torch.onnx._internal.exporter._flags")
    finish(ONNX, libraries=ALL)


@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False])  # the former also: tests/test_exported.py
def test_onnx_computes_the_same(dynamo, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")

    class Net(torch.nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Any) -> Any:
            return self.layer(x)[0]

    for layer in (nn.Leaky(0.9), nn.RecurrentLeaky(3, 0.9), nn.Sequential(torch.nn.Linear(3, 3), nn.Leaky(0.9), nn.LeakyIntegrator(0.9))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(Net(layer), (given(4, 2, 3),), tmp_path / "net.onnx", dynamo=dynamo)
        session = runtime.InferenceSession(tmp_path / "net.onnx")
        x = given(4, 2, 3, seed=1)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), layer(x)[0].detach())


COLD = """
import torch
from spikegrad import nn, neurons

torch.set_num_threads(1)
x = torch.rand(3, 2, 4)
net = {net}
compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
found = compiled(x)[0]
(found[0] if isinstance(found, tuple) else found).sum()
wanted = net(x)[0]
for a, b in zip(found if isinstance(found, tuple) else [found], wanted if isinstance(wanted, tuple) else [wanted]):
    torch.testing.assert_close(a, b)
"""
NETS = {
    "LeakyIntegrator": "nn.LeakyIntegrator(0.9)",
    "a network that ends in one": "nn.Sequential(torch.nn.Linear(4, 4), nn.Leaky(0.9), nn.LeakyIntegrator(0.9))",
}
MORE = {
    **{name: f"nn.{name}" for name in ("Leaky(0.9)", "Synaptic(0.8, 0.9)", "RecurrentLeaky(4, 0.9)", "RecurrentSynaptic(4, 0.8, 0.9)")},
    "learned": 'nn.Leaky(torch.full((4,), 0.9), learn=("beta", "spike.slope"))',
    "one-to-one": 'nn.RecurrentLeaky(4, 0.9, connection="one-to-one")',
    "quantized": "nn.Leaky(0.9, quantize=nn.Quantize(4, -1.0, 1.0))",
    "reference": 'nn.LeakyIntegrator(0.9, backend="reference")',
    "inhibition": "nn.Leaky(0.9, inhibition=True)",
    **{name: f"nn.Layer(neurons.{name}(0.9))" for name in ("Adaptive", "RefractoryLeaky")},
    **{name: f"nn.Layer(neurons.{name}())" for name in ("AdEx", "Izhikevich", "Lapicque", "QuadraticIF", "SigmaDelta", "Ternary")},
}


@pytest.mark.parametrize("net", NETS)
def test_compiled_cold(net):
    """As the first thing in a process: nothing that a compiler cannot trace is left to a first call."""
    finish(COLD.format(net=NETS[net]), libraries=ALL)


@pytest.mark.slow
@pytest.mark.parametrize("net", MORE)
def test_every_layer_compiled_cold(net):
    finish(COLD.format(net=MORE[net]), libraries=ALL)


def test_recurrent_layers_of_several_sizes_compile():
    """The second size of a layer is a symbol to the compiler."""
    torch.compiler.reset()
    for features, steps in ((3, 5), (6, 7), (8, 9)):
        layer, x = nn.RecurrentLeaky(features, 0.9), torch.rand(steps, 2, features)
        assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0], layer(x)[0])
