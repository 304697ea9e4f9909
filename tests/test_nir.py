"""NIR: our own networks come back as they were, what the format cannot say is named, and its equations are what the files say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nir = pytest.importorskip("nir")

from tests.conftest import structures  # noqa: E402

import spikegrad  # noqa: E402
from spikegrad import ATan, Decay, FastSigmoid, Neuron, NoisyThreshold, State, Step, Surrogate, from_formula, neurons, nn  # noqa: E402
from spikegrad.exchange.nir_equations import LI, LIF, CubaLIF, Elementwise  # noqa: E402
from spikegrad.formulas import CATALOGUE  # noqa: E402

SAID = {"reset": "zero", "spike_at_threshold": False}
Linear = torch.nn.Linear


def given(*shape: int, seed: int = 0, scale: float = 3.0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def quietly(net: Any, *arguments: Any, **options: Any) -> Any:
    """The graph, whatever it cannot say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spikegrad.to_nir(net, *arguments, **options)


def through_a_file(graph: Any, path: Any) -> Any:
    nir.write(path / "net.nir", graph)
    return path / "net.nir"


def assert_same(net: Any, back: Any, x: Any) -> None:
    """The same parameters, the same outputs and the same states, bit for bit."""
    for layer in (*layers(net), *layers(back)):
        layer.backend = "reference"
    mine, other = net.state_dict(), back.state_dict()
    assert mine.keys() == other.keys()
    for name in mine:
        assert torch.equal(mine[name], other[name]), name
        assert mine[name].dtype == other[name].dtype, name
    out, state = net(x)
    found, after = back(x)
    for a, b in zip(flat((out, state)), flat((found, after)), strict=True):
        assert torch.equal(a, b)
    assert [repr(layer) for layer in layers(net)] == [repr(layer) for layer in layers(back)]


def flat(x: Any) -> list[Any]:
    return [x] if isinstance(x, torch.Tensor) else [each for part in x or () for each in flat(part)]


def layers(net: Any) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, nn.Layer)]


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_neuron_and_option_comes_back(name, tmp_path):
    """Every structure in memory; the first feed-forward, recurrent and convolutional, in a file."""
    cls = neurons.CATALOGUE[name]
    for neuron in structures(cls):
        count = len(neuron.inputs)
        net = nn.Layer(neuron) if count > 1 else nn.Sequential(Linear(2, 3), nn.Layer(neuron))
        x = tuple(given(4, 2, 3, seed=k) for k in range(count)) if count > 1 else given(4, 2, 2)
        graph = quietly(net, torch.zeros(1, 1, 3) if count > 1 else None)
        assert_same(net, spikegrad.from_nir(graph), x)
    neuron = cls(*[0.8, 0.7][: sum(f.default is dataclasses.MISSING for f in dataclasses.fields(cls))])
    if len(neuron.inputs) == 1:
        for connection in ("all-to-all", "one-to-one"):
            layer = nn.Layer(neuron, recurrent=connection, features=3)
            net = nn.Sequential(Linear(2, 3), layer)
            assert_same(net, spikegrad.from_nir(through_a_file(quietly(net), tmp_path)), given(4, 2, 2))
        layer = nn.Layer(neuron)
        net = nn.Sequential(
            torch.nn.Conv2d(1, 2, 2), layer, torch.nn.AvgPool2d(2), torch.nn.Flatten(), Linear(8, 2), nn.LeakyIntegrator(0.9)
        )
        assert_same(net, spikegrad.from_nir(through_a_file(quietly(net, torch.zeros(1, 1, 1, 5, 5)), tmp_path)), given(4, 2, 1, 5, 5))


class Mine(Neuron):
    """A neuron of one's own."""

    beta: Decay
    v: State = 0.0

    def step(self, current: Any, v: Any) -> Step:
        u = self.beta * v + current
        s = self.fire(u - 1.0)
        return Step(s, v=u - s)


class Bump(Surrogate):
    """A surrogate of one's own."""

    slope: float = 2.0

    def derivative(self, x: Any) -> Any:
        return self.slope / (1 + self.slope * x * x)


def noisy() -> Any:
    return nn.Leaky(0.9, spike=NoisyThreshold()).eval()


LAYERS = {
    "learned": lambda: nn.Leaky(torch.tensor([0.8, 0.7, 0.6]), 1.5, learn=("beta", "threshold", "slope")),
    "learned by a neuron at an end": lambda: nn.Layer(neurons.Leaky(1.0), learn="beta", values={"beta": torch.tensor([0.8, 0.7, 0.6])}),
    "learned almost at an end": lambda: nn.Leaky(0.9999, learn="beta"),
    "tensors": lambda: nn.Synaptic(0.3, torch.tensor([0.8, 0.7, 1.0]), torch.tensor([1.0, 2.0, 0.5])),
    "fixed slopes": lambda: nn.Layer(neurons.Leaky(0.9), values={"spike.slope": torch.tensor([1.0, 2.0, 3.0])}),
    "a module that spikes": lambda: nn.Leaky(0.9, spike=nn.Spike(FastSigmoid(3.0), learn="slope", shape=(3,))),
    "inhibition": lambda: nn.Leaky(0.9, inhibition=True),
    "quantised": lambda: nn.Leaky(0.9, quantize=nn.Quantize(3, -1.0, 2.5)),
    "rest": lambda: nn.Layer(neurons.Leaky(0.9, v=0.3)),
    "never decays": lambda: nn.Leaky(1.0, **SAID),
    "never decays, in part": lambda: nn.Leaky(torch.tensor([1.0, 0.5, 0.0]), **SAID),
    "forgets all": lambda: nn.Leaky(0.0, **SAID),
    "current never decays": lambda: nn.Synaptic(1.0, 1.0, **SAID),
    "scaled": lambda: nn.Leaky(0.9, scale_input=True, **SAID),
    "scaled, never decays": lambda: nn.Leaky(1.0, scale_input=True, **SAID),
    "integrator": lambda: nn.LeakyIntegrator(1.0),
    "recurrent": lambda: nn.RecurrentSynaptic(3, 0.8, 0.9, connection="one-to-one", learn_alpha=True),
    "recurrent, learned": lambda: nn.RecurrentLeaky(3, 0.8, learn_beta=True, **SAID),
    "formula": lambda: nn.Leaky(0.9, spike=from_formula(lambda x, slope: slope / (1 + x * x), slope=3.0)),
    "surrogate of one's own": lambda: nn.Leaky(0.9, spike=Bump(5.0)),
    "noise": noisy,
    "equations": lambda: nn.Layer(LIF(0.9, leak=0.2, reset_potential=-0.1)),
    "more equations": lambda: nn.Layer(CubaLIF(0.8, 0.9, w_in=2.0, r=3.0)),
    "integrator with a leak": lambda: nn.Layer(LI(0.9, leak=0.5)),
    "spiking linear": lambda: nn.SpikingLinear(3, 3, nn.Leaky(0.9)),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float64 if k % 2 else torch.float32) for k, name in enumerate(LAYERS)]
    + [(name, dtype) for name in ("learned", "learned almost at an end", "recurrent") for dtype in (torch.bfloat16, torch.float16)],
)
def test_every_layer_comes_back(name, dtype, tmp_path):
    """What is learned, given as tensors, recurrent, quantised, in every dtype; the weights before it are folded, and are as they were."""
    net = nn.Sequential(Linear(2, 3), LAYERS[name]()).to(dtype)
    x = given(9, 2, 2).to(dtype)
    if name == "spiking linear":  # weights and neurons in one, which come back as two
        net = nn.Sequential(LAYERS[name]().to(dtype))
        back = spikegrad.from_nir(through_a_file(quietly(net), tmp_path))
        x = (given(9, 2, 3) > 0).to(dtype)
        assert torch.equal(net(x)[0], back(x)[0])
        return
    back = spikegrad.from_nir(through_a_file(quietly(net), tmp_path), classes=[Bump])
    if name == "noise":
        back.eval()
        net.eval()
    assert_same(net, back, x)
    out, again = net(x)[0], back(x)[0]
    if out.requires_grad:
        weights = torch.rand_like(out)
        for found, wanted in zip(
            torch.autograd.grad((again * weights).sum(), [*back.parameters()], allow_unused=True),
            torch.autograd.grad((out * weights).sum(), [*net.parameters()], allow_unused=True),
            strict=True,
        ):
            assert (found is None and wanted is None) or torch.equal(found, wanted)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_surrogate_comes_back(name):
    net = nn.Sequential(Linear(2, 3), nn.Leaky(0.9, spike=CATALOGUE[name](scale=0.5)))
    assert spikegrad.from_nir(quietly(net))[1].neuron == net[1].neuron


MODULES = {
    "Conv1d": (lambda: [torch.nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2), nn.Leaky(0.9)], (2, 9)),
    "Conv2d": (lambda: [torch.nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, bias=False), nn.Leaky(0.9)], (2, 7, 6)),
    "same": (lambda: [torch.nn.Conv2d(1, 2, 3, padding="same"), nn.Leaky(torch.tensor([0.9, 0.5]).reshape(2, 1, 1))], (1, 5, 5)),
    "each neuron": (lambda: [torch.nn.Conv2d(1, 2, 3), nn.Leaky(torch.rand(2, 3, 3))], (1, 5, 5)),
    "AvgPool2d": (lambda: [torch.nn.AvgPool2d(3, 2, 1), nn.Leaky(0.9)], (2, 7, 7)),
    "SumPool2d": (lambda: [torch.nn.AvgPool2d(2, divisor_override=1), nn.Leaky(0.9)], (2, 6, 6)),
    "padding not counted": (lambda: [torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Leaky(0.9)], (2, 7, 7)),
    "MaxPool2d": (lambda: [torch.nn.MaxPool2d(2, ceil_mode=True), nn.Leaky(0.9)], (2, 6, 6)),
    "Flatten": (lambda: [torch.nn.Flatten(2, -1), torch.nn.Flatten(), Linear(18, 2), nn.Leaky(0.9)], (2, 3, 3)),
    "Scale": (lambda: [Elementwise(torch.rand(3)), nn.Leaky(0.9)], (3,)),
    "nested": (lambda: [nn.Sequential(Linear(3, 3), torch.nn.Dropout(0.0)), torch.nn.Sequential(torch.nn.Identity()), nn.Leaky(0.9)], (3,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_comes_back(name, tmp_path):
    make, shape = MODULES[name]
    net = nn.Sequential(*make())
    back = spikegrad.from_nir(through_a_file(quietly(net, torch.zeros(1, 1, *shape)), tmp_path))
    x = given(9, 2, *shape)
    assert torch.equal(net(x)[0], back(x)[0])
    assert net(x)[0].sum() > 0
    mine, other = list(net.state_dict().values()), list(back.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def simulated(graph: Any, dt: float, x: Any) -> Any:
    """NIR's equations by Euler's step in NumPy, from the fields of the nodes alone; written down from the format's own documentation."""
    x = x.double().numpy()

    def run(nodes: Mapping[str, Any], edges: list[tuple[str, str]], x: Any) -> Any:
        fed = {a: b for a, b in edges if (b, a) in edges and type(nodes[b]).__name__ in ("Linear", "Affine")}
        name = "input"
        while True:
            name = next(b for a, b in edges if a == name and (b, a) not in edges)
            node = nodes[name]
            kind = type(node).__name__
            if kind == "Output":
                return x
            if kind == "NIRGraph":
                x = run(node.nodes, node.edges, x)
            elif kind in ("Linear", "Affine"):
                x = x @ np.asarray(node.weight).T + np.asarray(getattr(node, "bias", 0.0))
            else:
                x = neurons_of(kind, node, x, nodes[fed[name]].weight if name in fed else None)

    def neurons_of(kind: str, node: Any, x: Any, weight: Any) -> Any:
        v, i, out = 0 * x[0], 0 * x[0], []
        spikes = 0 * x[0]
        for current in x:
            current = current if weight is None else current + spikes @ weight.T
            if kind == "CubaLIF":
                i = i + dt / node.tau_syn * (node.w_in * current - i)
                current = i
            leaves = kind in ("LIF", "LI", "CubaLIF")
            v = v + (
                dt / (node.tau_mem if kind == "CubaLIF" else node.tau) * (node.v_leak - v + node.r * current)
                if leaves
                else dt * node.r * current
            )
            if kind in ("LI", "I"):
                out.append(v)
                continue
            spikes = (v > node.v_threshold).astype(float)
            v = np.where(spikes > 0, getattr(node, "v_reset", 0.0), v)
            out.append(spikes)
        return np.stack(out)

    return run(graph.nodes, graph.edges, x)


SAYABLE = {
    "Leaky": lambda: nn.Leaky(0.9, **SAID),
    "delayed": lambda: nn.Leaky(0.9, reset_delay=True, **SAID),
    "scaled": lambda: nn.Leaky(0.9, 0.3, scale_input=True, **SAID),
    "each": lambda: nn.Leaky(torch.rand(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.1, **SAID),
    "Synaptic": lambda: nn.Synaptic(0.6, 0.9, **SAID),
    "scaled Synaptic": lambda: nn.Synaptic(0.6, 0.9, 0.3, scale_input=True, **SAID),
    "Lapicque": lambda: nn.Layer(neurons.Lapicque(3.0, 2.0, 1.0, **SAID)),
    "IntegrateAndFire": lambda: nn.Layer(neurons.IntegrateAndFire(**SAID)),
    "LeakyIntegrator": lambda: nn.LeakyIntegrator(0.9),
    "RecurrentLeaky": lambda: nn.RecurrentLeaky(5, 0.9, **SAID),
    "one-to-one": lambda: nn.RecurrentLeaky(5, torch.rand(5, dtype=torch.float64), connection="one-to-one", **SAID),
    "RecurrentSynaptic": lambda: nn.RecurrentSynaptic(5, 0.5, 0.9, **SAID),
    "LIF": lambda: nn.Layer(LIF(0.9, 0.25, -0.5, 0.75)),
    "CubaLIF": lambda: nn.Layer(CubaLIF(0.5, 0.9, 2.0, 1.5, 0.25, -0.5, 0.75)),
    "LI": lambda: nn.Layer(LI(0.9, 0.5)),
}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", SAYABLE)
def test_what_the_file_says_is_what_we_compute(name, fold):
    """Without a warning, even if strict; and read by the fields alone it is the same again. Potentials to rounding, and so all spikes."""
    net = nn.Sequential(Linear(3, 5), SAYABLE[name]()).double()
    net[1].backend = "reference"
    leak = name in ("LIF", "CubaLIF", "LI")
    if leak and not nir.LIF.__dataclass_fields__.get("v_reset"):
        pytest.skip("this version of nir has no v_reset")
    x = given(80, 2, 3, scale=6.0 if leak else 2.0).double()
    graph = spikegrad.to_nir(net, strict=True, dt=1e-3, fold_resistance=fold)
    wanted = net(x)[0].detach()
    if not leak:  # whose potentials start at the leak potential
        np.testing.assert_allclose(simulated(graph, 1e-3, x), wanted, atol=1e-9)
    assert wanted.abs().sum() > 10
    back = spikegrad.from_nir(graph, 1e-3, use_metadata=False, dtype=torch.float64)
    for layer in layers(back):
        layer.backend = "reference"
    np.testing.assert_allclose(back(x)[0].detach(), wanted, atol=1e-9)
    if fold and graph.nodes.get("leaky_1") is not None:
        assert (graph.nodes["leaky_1"].r == 1).all()


UNSAID = {
    "reset='subtract'": lambda: nn.Leaky(0.9, spike_at_threshold=False),
    "reset='none'": lambda: nn.Leaky(0.9, reset="none", spike_at_threshold=False),
    "spike_at_threshold=True": lambda: nn.Leaky(0.9, reset="zero"),
    "reset_delay=True": lambda: nn.Synaptic(0.8, 0.9, reset_delay=True, **SAID),
    "inhibition=True": lambda: nn.Leaky(0.9, inhibition=True, **SAID),
    "quantised states": lambda: nn.Leaky(0.9, quantize=nn.Quantize(), **SAID),
    "a start elsewhere than at rest, v=0.3": lambda: nn.Layer(neurons.Leaky(0.9, v=0.3, **SAID)),
    "a potential that never decays, beta=1": lambda: nn.Leaky(torch.tensor([1.0, 0.5]), **SAID),
    "a current that never decays, alpha=1": lambda: nn.Synaptic(1.0, 0.9, **SAID),
    **{
        f"the neuron {name}": lambda name=name: nn.Layer(structures(neurons.CATALOGUE[name])[0])
        for name in neurons.CATALOGUE
        if name not in ("IntegrateAndFire", "Lapicque", "Leaky", "LeakyIntegrator", "Synaptic") and len(neurons.CATALOGUE[name].inputs) == 1
    },
    "a kernel that is not square": lambda: torch.nn.Conv2d(2, 1, (1, 2)),
    "several inputs": lambda: nn.Layer(neurons.ConductanceLeaky()),
    "a MaxPool2d": lambda: nn.Sequential(torch.nn.MaxPool2d(1), torch.nn.Flatten(), nn.Leaky(0.9, **SAID)),
    "count_include_pad=False": lambda: torch.nn.AvgPool2d(2, padding=1, count_include_pad=False),
}


@pytest.mark.parametrize("what", UNSAID)
def test_what_nir_cannot_say_is_named(what):
    """By one warning that names it and its node, and refused if strict."""
    net, sample = UNSAID[what](), torch.zeros(1, 1, 2)
    if what.startswith(("a Max", "count", "a kernel")):
        net, sample = nn.Sequential(net), torch.zeros(1, 1, 2, 4, 4)
    with pytest.warns(UserWarning, match="NIR cannot say") as caught:
        spikegrad.to_nir(net, sample)
    (one,) = caught
    assert what in str(one.message)
    assert "other tools will compute something else" in str(one.message)
    assert "_0" in str(one.message)
    with pytest.raises(ValueError, match="NIR cannot say .*" + what.split("'")[0].split("=")[0]):
        spikegrad.to_nir(net, sample, strict=True)


def test_classes_of_ones_own_are_asked_for():
    graph = quietly(nn.Layer(Mine(0.5, spike=ATan(3.0))), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match=r"'layer_0'.*its neuron 'Mine' is none of spikegrad's.*classes=\[Mine\]"):
        spikegrad.from_nir(graph)
    assert spikegrad.from_nir(graph, classes=[Mine]).neuron == Mine(0.5, spike=ATan(3.0))
    points = given(50)
    for scale in (1.0, 0.5):  # a surrogate is its formula
        net = nn.Sequential(Linear(2, 3), nn.Leaky(0.9, spike=Bump(5.0, scale=scale)))
        found = spikegrad.from_nir(quietly(net))[1].neuron.spike
        assert torch.equal(found.derivative(points), Bump(5.0, scale=scale).derivative(points))
    other = type("Mine", (neurons.Leaky,), {"__module__": __name__, "__doc__": "Another of that name."})
    with pytest.raises(ValueError, match=r"Mine is not the neuron that it was|makes no layer"):
        spikegrad.from_nir(graph, classes=[other])


def test_what_was_changed_later_is_noticed():
    net = nn.Sequential(Linear(3, 2), nn.Leaky(0.9, **SAID))
    for name in ("tau", "r", "v_threshold"):
        graph = spikegrad.to_nir(net)
        setattr(graph.nodes["leaky_1"], name, getattr(graph.nodes["leaky_1"], name) * 1.5)
        with pytest.raises(ValueError, match=f"node 'leaky_1', LIF: `{name}` is another than its metadata says.*use_metadata=False"):
            spikegrad.from_nir(graph)
        spikegrad.from_nir(graph, use_metadata=False)
    graph = spikegrad.to_nir(net)
    graph.nodes["linear_0"].weight = graph.nodes["linear_0"].weight * 2  # weights are what the file says
    torch.testing.assert_close(spikegrad.from_nir(graph)[0].weight, net[0].weight * 2)


def test_broken_metadata_are_refused():
    def graph(change: Any) -> Any:
        made = spikegrad.to_nir(nn.Sequential(Linear(3, 2), nn.Leaky(0.9, **SAID)))
        node = made.nodes["leaky_1"]
        words = json.loads(node.metadata["spikegrad"])
        node.metadata = {"spikegrad": json.dumps(change(words))}
        return made

    for change in (
        lambda words: words | {"version": 7},
        lambda words: {key: x for key, x in words.items() if key != "fields"},
        lambda words: words | {"neuron": "os.system"},
        lambda words: words | {"fields": {"beta": 7}},
        lambda words: words | {"fields": words["fields"] | {"gamma": 1}},
        lambda words: words | {"record": words["record"].replace("multiply", "system")},
        lambda words: words | {"surrogate_fields": {}} | {"surrogate": "Gone"},
        lambda words: words | {"tensors": {"beta_fixed": ["float32", 2]}},
        lambda words: words | {"layer": "Gone"},
    ):
        with pytest.raises(ValueError, match="node 'leaky_1', LIF: "):
            spikegrad.from_nir(graph(change))


def test_what_has_no_counterpart_is_refused_by_name():
    class Own(nn.Leaky):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            return super().forward(*arguments, **options)

    sample = torch.zeros(1, 1, 3)
    refused = [
        (nn.Sequential(torch.nn.BatchNorm1d(3)), TypeError, "module 0, a BatchNorm1d, has no counterpart in NIR.*fuse_conv_bn_eval"),
        (nn.Sequential(torch.nn.LSTM(3, 3)), TypeError, "module 0, a LSTM, has no counterpart|cannot take"),
        (nn.Sequential(nn.Residual(Linear(3, 3))), TypeError, "Residual"),
        (nn.Sequential(Own(0.9)), TypeError, "Own, which has a `forward` of its own"),
        (nn.Sequential(nn.Leaky(0.9, quantize=torch.round)), TypeError, "function of your own"),
        (nn.Sequential(Linear(4, 4)), ValueError, r"module 0, Linear, cannot take features of shape \(3,\)"),
        (nn.Sequential(), ValueError, "no modules"),
    ]
    for net, error, words in refused:
        with pytest.raises(error, match=words):
            quietly(net, sample)
    with pytest.raises(ValueError, match=r"shape of the input is not known; give a sample"):
        quietly(nn.Sequential(nn.Leaky(0.9)))
    with pytest.raises(ValueError, match=r"`sample` must be \(time, batch, \*features\), got shape \(3,\)"):
        quietly(nn.Sequential(nn.Leaky(0.9)), torch.zeros(3))
    with pytest.raises(ValueError, match="`dt` must be"):
        quietly(nn.Sequential(Linear(3, 3)), dt=0.0)
    conv = nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(TypeError, match="padding_mode='reflect'"):
        quietly(conv, torch.zeros(1, 1, 1, 4, 4))
    with pytest.raises(ValueError, match="NIR knows vectors alone: put a Flatten before"):
        quietly(nn.Sequential(Linear(4, 4)), torch.zeros(1, 1, 2, 4))


def chained(*nodes: Any, shape: int = 2, more: tuple[tuple[str, str], ...] = ()) -> Any:
    """A graph of these nodes one after the other."""
    names = ["input", *(f"node{k}" for k in range(len(nodes))), "output"]
    ends = [nir.Input(input_type={"input": np.array([shape])}), nir.Output(output_type={"output": np.array([shape])})]
    graph = nir.NIRGraph({"input": ends[0], "output": ends[1]}, [("input", "output")])
    graph.nodes, graph.edges = dict(zip(names, [ends[0], *nodes, ends[1]], strict=True)), [*itertools.pairwise(names), *more]
    return graph


def filled(value: float) -> Any:
    return np.full(2, value)


def lif(tau: float = 1e-3, r: float = 1.0, **other: Any) -> Any:
    node = nir.LIF(tau=filled(tau), r=filled(r), v_leak=filled(other.get("leak", 0.0)), v_threshold=filled(other.get("threshold", 1.0)))
    node.v_reset = filled(other.get("reset", 0.0))
    return node


FILES = {
    "r = 1": (lif(), "Leaky"),
    "r = tau / dt": (lif(r=10.0), "Leaky"),
    "another r": (lif(r=3.0), "Leaky"),
    "leak": (lif(leak=0.25, reset=0.25), "LIF"),
    "reset": (lif(reset=-0.5), "LIF"),
    "leak and r": (lif(r=3.0, leak=0.25), "LIF"),
    "one step": (lif(tau=1e-4), "Leaky"),
    "IF": (nir.IF(r=filled(1e4), v_threshold=filled(1.0)), "IntegrateAndFire"),
    "IF, another r": (nir.IF(r=filled(5e3), v_threshold=filled(1.0)), "IntegrateAndFire"),
    "LI": (nir.LI(tau=filled(1e-3), r=filled(1.0), v_leak=filled(0.0)), "LeakyIntegrator"),
    "LI, another r": (nir.LI(tau=filled(1e-3), r=filled(3.0), v_leak=filled(0.0)), "LeakyIntegrator"),
    "LI with a leak": (nir.LI(tau=filled(1e-3), r=filled(2.0), v_leak=filled(0.5)), "LI"),
    "I": (nir.I(r=filled(5e3)), "LeakyIntegrator"),
    "CubaLIF": (
        nir.CubaLIF(tau_syn=filled(5e-4), tau_mem=filled(1e-3), r=filled(10), v_leak=filled(0), v_threshold=filled(1), w_in=filled(5)),
        "Synaptic",
    ),
    "CubaLIF, other gains": (
        nir.CubaLIF(tau_syn=filled(5e-4), tau_mem=filled(1e-3), r=filled(1), v_leak=filled(0.25), v_threshold=filled(0.5), w_in=filled(2)),
        "CubaLIF",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_load_as_their_equations_say(name):
    """From the leak potential on, as Norse starts; compared with Euler's step in NumPy."""
    node, neuron = FILES[name]
    graph = chained(node)
    back = spikegrad.from_nir(graph, dtype=torch.float64)
    assert type(layers(back)[0].neuron).__name__ == neuron
    layers(back)[0].backend = "reference"
    x = given(80, 1, 2, scale=4.0).double()
    found = back(x)[0][:, 0].numpy()
    leak, v, i, wanted = np.asarray(getattr(node, "v_leak", 0.0)), np.zeros(2), np.zeros(2), []
    v = v + leak
    for current in x[:, 0].numpy():
        kind = type(node).__name__
        if kind == "CubaLIF":
            i = i + 1e-4 / node.tau_syn * (node.w_in * current - i)
            current = i
        if kind in ("IF", "I"):
            v = v + 1e-4 * node.r * current
        else:
            v = v + 1e-4 / (node.tau_mem if kind == "CubaLIF" else node.tau) * (leak - v + node.r * current)
        if kind in ("LI", "I"):
            wanted.append(v)
            continue
        spikes = v > node.v_threshold
        v = np.where(spikes, getattr(node, "v_reset", np.zeros(2)), v)
        wanted.append(spikes)
    np.testing.assert_allclose(found, np.array(wanted, dtype=float), atol=1e-9)
    assert np.abs(wanted).sum() > 3


def test_other_nodes_load():
    graph = chained(nir.Scale(scale=np.array([2.0, 3.0])), nir.Threshold(threshold=filled(1.5)))
    back = spikegrad.from_nir(graph)
    assert back(torch.tensor([[[1.0, 0.4], [0.5, 0.6]]]))[0].tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
    assert spikegrad.from_nir(chained(lif()), reset="subtract")[0].neuron.reset == "subtract"
    with pytest.raises(ValueError, match="`reset` must be"):
        spikegrad.from_nir(chained(lif()), reset="none")
    with pytest.raises(ValueError, match="its v_reset is not 0"):
        spikegrad.from_nir(chained(lif(reset=0.5)), reset="subtract")


def test_inverted_time_constants_of_norse_are_named():
    """Its `to_nir` writes ``dt / tau_inv`` where `tau_inv` is 1 / tau already, inverted: 1e-3 / 100 for 10 ms, with its default dt."""
    graph = chained(lif(tau=1e-3 / 100))
    with pytest.raises(ValueError, match=r"node 'node0', LIF: `tau` is 1e-05 s, shorter than a step.*Norse 1.1.0 inverts.*norse_dt=0.001"):
        spikegrad.from_nir(graph)
    layer = spikegrad.from_nir(graph, dt=1e-3, norse_dt=1e-3)[0]
    assert layer.beta == pytest.approx(0.9)


def test_what_is_not_known_is_refused_by_name():
    class Reset(nir.ir.node.NIRNode):
        def __init__(self) -> None:
            self.input_type, self.output_type, self.metadata = {"input": np.array([2])}, {"output": np.array([2])}, {}

    square = nir.Linear(weight=np.eye(2))
    refused = {
        "node 'node0' is a Reset, which spikegrad does not know; it knows Affine": chained(Reset()),
        "node 'node0' is a Delay, which spikegrad does not know": chained(nir.Delay(delay=filled(1e-3))),
        "the graph has 1 inputs that lead to 2 nodes": chained(square, lif(), more=(("input", "node1"),)),
        "node 'node0' leads to node1, node2": chained(square, square, lif(), more=(("node0", "node2"),)),
        "node 'node0' leads to node1, output": chained(square, lif(), more=(("node0", "output"),)),
        "node 'node0' is given the sum of input, node2": chained(square, lif(), square, more=(("node2", "node0"),)),
        "an edge leads to 'gone', which is no node": chained(lif(), more=(("node0", "gone"),)),
    }
    for words, graph in refused.items():
        with pytest.raises(ValueError, match=words):
            spikegrad.from_nir(graph)
    with pytest.raises(TypeError, match=r"must be a nir.NIRGraph or the path"):
        spikegrad.from_nir(3)


def test_recurrent_graphs_of_others_load():
    """As a loop of two nodes, and as a graph inside of the graph, as snnTorch writes it."""
    weight = np.array([[0.0, 2.0], [-1.0, 0.5]])
    loop = chained(lif(r=10.0), more=(("node0", "w"), ("w", "node0")))
    loop.nodes["w"] = nir.Affine(weight=weight, bias=np.zeros(2))
    inner = {"input": loop.nodes["input"], "lif": loop.nodes["node0"], "w_rec": loop.nodes["w"], "output": loop.nodes["output"]}
    edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    nested = chained(nir.NIRGraph(inner, edges))
    x = given(30, 2, 2)
    wanted = nn.RecurrentLeaky(2, 0.9, **SAID)
    with torch.no_grad():
        wanted.weight.copy_(torch.tensor(weight))
    for graph in (loop, nested):
        back = spikegrad.from_nir(graph)
        assert torch.equal(back(x)[0], wanted(x)[0])
    loop.nodes["w"].bias = np.ones(2)
    with pytest.raises(ValueError, match="the weights that lead back to it have a bias"):
        spikegrad.from_nir(loop)


def test_a_layer_comes_back_as_a_layer(tmp_path):
    layer = nn.Leaky(0.9, **SAID)
    back = spikegrad.from_nir(through_a_file(spikegrad.to_nir(layer, torch.zeros(1, 1, 3)), tmp_path))
    assert isinstance(back, nn.Leaky)
    assert_same(layer, back, given(9, 2, 3))


def test_a_file_that_the_package_cannot_read_says_so(tmp_path):
    """As those of nir 1.0.8 are to 1.0.4, which knows no `v_reset`."""
    import h5py

    path = through_a_file(spikegrad.to_nir(nn.Sequential(Linear(3, 2), nn.Leaky(0.9, **SAID))), tmp_path)
    with h5py.File(path, "r+") as file:
        file["node/nodes/leaky_1"].create_dataset("v_later", data=np.zeros(2))
    with pytest.raises(ValueError, match=r"nir \S+ cannot read .*net.nir, TypeError: .*v_later.*pip install --upgrade nir"):
        spikegrad.from_nir(path)
    with pytest.raises(FileNotFoundError):
        spikegrad.from_nir(tmp_path / "gone.nir")
