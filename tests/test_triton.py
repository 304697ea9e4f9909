"""Triton's kernels of layers against the plain loop: where there is no GPU in Triton's interpreter, on the CPU.

At least three programs each of neurons, options and surrogates, the last of them not full, and of all but surrogates more steps than a
round has. What fires never or always, or has no gradient, would pass whatever a kernel computes, so that is asserted too.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import driving, example, pairwise, spread
from torch import Tensor

from spikegrad import ATan, Decay, FastSigmoid, Neuron, NoisyThreshold, Positive, State, Step, neurons, nn, vocabulary
from spikegrad.formulas import CATALOGUE as SURROGATES

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.gpu if DEVICE == "cuda" else []

SHAPE = (9, 2, 67)
"""134 columns are three programs of 64, and 9 steps two rounds of eight or three of four. The interpreter's time goes by it."""
RECORDED = ("u", "excess")


def given(neuron: Any, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.from_numpy(x).to(DEVICE, dtype) for x in driving(neuron, *shape)]


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def ran(layer: nn.Layer, inputs: list[Tensor], state: Any = None, record: tuple[str, ...] = (), call: Any = None) -> dict[str, Tensor]:
    """Outputs, states, recorded values and every gradient of a layer, of a weighted sum of all that it returns, by name."""
    layer, leaves = layer.to(DEVICE), [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    call = layer if call is None else call
    made, after, recorded = call(tuple(leaves) if len(leaves) > 1 else leaves[0], state, record=record)
    outputs = made if isinstance(made, tuple) else (made,)
    states = after if isinstance(after, tuple) else (after,)
    found = {f"output {k}": x for k, x in enumerate(outputs)} | {f"state {k}": x for k, x in enumerate(states)} | recorded
    random = torch.Generator().manual_seed(3)
    total = sum((x.double() * torch.randn(x.shape, generator=random, dtype=torch.float64).to(DEVICE)).sum() for x in found.values())
    layer.zero_grad()
    assert isinstance(total, Tensor)
    total.backward()
    grads = {f"grad of input {k}": x.grad for k, x in enumerate(leaves)}
    grads |= {f"grad of {name}": p.grad for name, p in layer.named_parameters()}
    return {name: x.detach() for name, x in found.items()} | {name: g for name, g in grads.items() if g is not None}


def require_equal(
    got: dict[str, Tensor], wanted: dict[str, Tensor], *, exact: bool = True, spiking: bool = True, eps: float = 1e-5
) -> None:
    """Values bit for bit, unless a function in them is rounded otherwise; gradients to rounding. And that there is something to see."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape, name
        assert got[name].dtype == value.dtype, name
        if name.startswith("grad"):
            assert value.abs().max() > 0, f"{name} is 0"
        if exact and not name.startswith("grad"):
            assert torch.equal(got[name], value), name
        else:
            size = value.double().abs().max()
            assert (got[name].double() - value.double()).abs().max() <= eps * max(size, 1.0), name
    if spiking:
        assert 0.05 < wanted["output 0"].double().ne(0).double().mean() < 0.95


def compare(neuron: Any, inputs: list[Tensor], state: Any = None, *, exact: bool = True, eps: float = 1e-5, **options: Any) -> None:
    fires = "excess" in neuron.record.recorded
    record = tuple(name for name in RECORDED if name in neuron.record.recorded)
    results = [ran(nn.Layer(neuron, backend=backend, **options), inputs, state, record) for backend in ("triton", "reference")]
    require_equal(*results, exact=exact, spiking=fires, eps=eps)


def learnable(neuron: Any) -> list[str]:
    """The numbers of a neuron or a surrogate that can be learned, from where they are."""
    found: list[str] = []
    for name, within in neuron.numbers.items():
        try:
            neuron.require_learnable(name)
        except (TypeError, ValueError):
            continue
        if bool(within.inside(torch.tensor(getattr(neuron, name)))):
            found.append(name)
    return found


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_neuron(name):
    """Its numbers learned, every second one different for each neuron."""
    neuron = example(name)
    learn = learnable(neuron)
    values = {n: torch.from_numpy(spread(neuron, n, SHAPE[-1])).float() for n in learn[::2]}
    compare(neuron, given(neuron), exact=False, learn=learn, values=values, eps=1e-4)


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_every_neuron_as_it_is(name):
    """Numbers as values, and bit for bit but for rounded functions."""
    neuron = example(name)
    rounded = {"exp", "tanh", "sigmoid", "log"} & {str(operation) for operation, *_ in neuron.record.step.instructions}
    compare(neuron, given(neuron), exact=not rounded)


@pytest.mark.parametrize("name", [name for name, cls in SURROGATES.items() if not cls().stochastic])
def test_every_surrogate(name):
    """With what of it can be learned."""
    surrogate = SURROGATES[name]()
    learn = [f"spike.{n}" for n in learnable(surrogate)]
    compare(neurons.Leaky(0.9, spike=surrogate), given(example("Leaky"), (3, 2, 67)), learn=learn, eps=1e-4)


OPTIONS: dict[str, tuple[Any, ...]] = {
    "kind": ("Leaky", "Adaptive"),
    "reset": ("subtract", "zero", "none"),
    "detach_reset": (True, False),
    "spike_at_threshold": (True, False),
    "reset_delay": (False, True),
}
FEW = pairwise(OPTIONS, allowed=lambda name, value, row: name != "reset_delay" or row["kind"] == "Leaky")
DELAYS = {"Leaky": OPTIONS["reset_delay"], "Adaptive": (None,)}
EVERY = [
    dict(zip(OPTIONS, (kind, *values), strict=True))
    for kind in OPTIONS["kind"]
    for values in itertools.product(*[*OPTIONS.values()][1:-1], DELAYS[kind])
]
MORE = [row for row in EVERY if row not in FEW]


@pytest.mark.parametrize("options", [*FEW, *(pytest.param(row, marks=pytest.mark.slow) for row in MORE)], ids=str)
def test_every_option(options):
    options = {name: value for name, value in options.items() if value is not None}
    neuron = example(options.pop("kind"), **options)
    compare(neuron, [x.round(decimals=1) for x in given(neuron)])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 9, 40])
def test_any_number_of_steps(steps):
    neuron = example("Synaptic")
    compare(neuron, given(neuron, (steps, 3, 67)), learn="threshold")


@pytest.mark.parametrize("shape", [(20, 64), (20, 1), (20, 2, 8, 16), (20, 130, 1)], ids=str)
def test_any_number_of_columns(shape):
    """Also those that fill programs, and are a multiple of 16, which the compiler is told."""
    neuron = example("Leaky")
    inputs = [x.abs() for x in given(neuron, shape)]
    results = [ran(nn.Layer(neuron, learn="beta", backend=backend), inputs) for backend in ("triton", "reference")]
    require_equal(*results, spiking=False)


@pytest.mark.parametrize("shape", [(0, 2, 3), (5, 0, 3)], ids=str)
def test_nothing(shape):
    x, state = torch.ones(shape, device=DEVICE, requires_grad=True), torch.full(shape[1:], 0.5, device=DEVICE)
    layer = nn.Leaky(0.9, learn_beta=True, backend="triton").to(DEVICE)
    spikes, after = layer(x, state)
    assert spikes.shape == shape
    assert torch.equal(after, state)
    spikes.sum().backward()
    assert float(layer.beta_logit.grad) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["Leaky", "Adaptive"])
def test_dtypes(name, dtype):
    """Half types are exact to one unit in the last place, which the interpreter cuts off in place of rounding; states to float32's."""
    neuron = example(name)
    inputs = given(neuron, dtype=dtype)
    results = [ran(nn.Layer(neuron, learn="threshold", backend=b).to(torch.float64 if dtype is torch.float64 else torch.float32), inputs)
               for b in ("triton", "reference")]  # fmt: skip
    require_equal(*results, eps=4 * torch.finfo(dtype).eps if dtype.itemsize < 8 else 1e-12)
    if dtype.itemsize < 4:
        got, wanted = (each["grad of input 0"].view(torch.int16).int() for each in results)
        assert (got - wanted).abs().max() <= 1


@pytest.mark.parametrize("name", ["Leaky", "Adaptive"])
def test_states_go_in_and_out(name):
    neuron = example(name)
    layer = nn.Layer(neuron, backend="triton")
    (x,) = given(neuron, (16, 2, 35))
    whole, last = layer(x)
    first, state = layer(x[:9])
    second, after = layer(x[9:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    for a, b in zip(*(each if isinstance(each, tuple) else (each,) for each in (after, last)), strict=True):
        assert torch.equal(a, b)
    states = tuple(uniform(2, 35, seed=seed).requires_grad_() for seed, _ in enumerate(neuron.states))
    found: list[tuple[Tensor, ...]] = []
    for backend in ("triton", "reference"):
        out = nn.Layer(neuron, backend=backend)(x, states if len(states) > 1 else states[0])[0]
        found.append(torch.autograd.grad((out * x).sum(), states))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def _laid_out() -> dict[str, Tensor]:
    x = uniform(11, 2, 3, 5, 4) * 0.6
    return {
        "channels last": x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        "any order": x.permute(0, 4, 1, 3, 2).contiguous().permute(0, 2, 4, 3, 1),
        "one step for all": x[:1].expand_as(x),
        "rows apart": torch.cat([x, x], 1)[:, :2],
        "batch first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "every second": torch.cat([x, x], -1)[..., ::2],
        "no order at all": x[:, :, :1].expand_as(x),
        "steps backwards": x.flip(0),
    }


@pytest.mark.parametrize("kind", _laid_out())
def test_layouts(kind):
    """A number for each channel reaches its columns wherever they lie; the output's strides are the input's where these are dense."""
    x = _laid_out()[kind]
    beta = torch.linspace(0.5, 0.9, 3).reshape(3, 1, 1)
    theta = torch.linspace(0.8, 1.1, 20).reshape(5, 4)
    layers = [
        nn.Layer(neurons.Leaky(0.9), learn="beta", values={"beta": beta, "threshold": theta}, backend=b) for b in ("triton", "reference")
    ]
    results = [ran(layer, [x]) for layer in layers]
    require_equal(*results)
    if kind in ("channels last", "any order", "one step for all"):
        assert layers[0](x)[0].stride()[1:] == x.stride()[1:]


@pytest.mark.parametrize("arriving", ["sum", "other layout", "none"])
def test_gradients_however_they_arrive(arriving):
    x = uniform(*SHAPE).mul_(0.6).requires_grad_()
    found: list[list[Tensor]] = []
    for backend in ("triton", "reference"):
        layer = nn.Leaky(0.9, learn_threshold=True, backend=backend).to(DEVICE)
        spikes, v = layer(x)
        if arriving == "sum":
            spikes.sum().backward()
        elif arriving == "none":
            v.square().sum().backward()
        else:
            spikes.backward(uniform(2, 67, 9).permute(2, 0, 1))
        assert x.grad is not None
        found.append([x.grad, layer.threshold_log.grad])
        x.grad = None
    assert all(grad.abs().max() > 0 for grad in found[1])
    torch.testing.assert_close(*found)


def test_second_derivatives_run_the_loop():
    x = uniform(5, 67).mul_(0.6).requires_grad_()
    found: list[Tensor] = []
    for backend in ("triton", "reference"):
        (grad,) = torch.autograd.grad(nn.Leaky(0.9, backend=backend)(x)[0].square().sum(), x, create_graph=True)
        found += torch.autograd.grad(grad.square().sum(), x)
    torch.testing.assert_close(*found)


def test_sums_are_the_same_each_time():
    x = uniform(4, 5, 67)
    layer, found = nn.Leaky(0.9, learn_beta=True, learn_threshold=True, backend="triton").to(DEVICE), []
    for _ in range(2):
        layer.zero_grad()
        layer(x)[0].square().sum().backward()
        found.append([p.grad.clone() for p in layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_cannot_run_is_refused_in_words(monkeypatch):
    x = uniform(4, 3)
    refusals = {
        "NoisyThreshold draws noise": nn.Leaky(0.9, spike=NoisyThreshold(), backend="triton"),
        "it has inhibition": nn.Leaky(0.9, inhibition=True, backend="triton"),
    }
    for words, layer in refusals.items():
        with pytest.raises(ValueError, match=rf"backend='triton' cannot run this layer: {words}"):
            layer(x)
    with pytest.raises(ValueError, match=r"inside a torch\.func transform"):
        torch.func.vmap(nn.Leaky(0.9, backend="triton"))(x[None])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = x.cpu()
    with pytest.raises(ValueError, match="its input is on cpu; Triton's kernels run on GPUs, and on the CPU with TRITON_INTERPRET=1"):
        nn.Leaky(0.9, backend="triton")(x)
    assert nn.Leaky(0.9)(x)[0].shape == x.shape


OWN = """
    import torch
    from spikegrad import Decay, Neuron, Positive, State, Step, Surrogate, nn

    class Bump(Surrogate):
        width: float = 0.5

        def derivative(self, x):
            return 1 / (1 + (x / self.width) ** 2)

    class Mine(Neuron):
        beta: Decay = 0.8
        threshold: Positive = 1.0
        v: State = 0.0

        def step(self, current, v):
            u = self.beta * v * v + current
            s = self.fire(u - self.threshold)
            return Step(s, v=self.after_spike(u, s, self.threshold), u=u)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.rand(11, 2, 67, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    found = []
    for backend in ("triton", "reference"):
        spikes, _ = nn.Layer(Mine(spike=Bump()), learn="beta", backend=backend).to(device)(x)
        found.append((spikes, *torch.autograd.grad(spikes.square().sum(), x)))

    assert torch.equal(found[0][0], found[1][0]) and 0.05 < float(found[0][0].mean()) < 0.95
    torch.testing.assert_close(found[0][1], found[1][1])
    print("fused")
"""


@pytest.mark.parametrize("how", ["script", "interactive"])
def test_a_neuron_and_a_surrogate_of_ones_own(how, tmp_path):
    """Neither has a source that could be read again where it is typed in."""
    text, arguments = textwrap.dedent(OWN), [sys.executable, "-i"]
    if how == "script":
        (tmp_path / "own.py").write_text(text)
        arguments = [sys.executable, str(tmp_path / "own.py")]
    environment = os.environ | {"SPIKEGRAD_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert "fused" in ended.stdout, ended.stderr


@pytest.mark.parametrize("recurrent", ["all-to-all", "one-to-one"])
@pytest.mark.parametrize("name", ["Leaky", "Adaptive", "GatedLeaky"])
def test_recurrent(name, recurrent):
    """Weights whose sums are exact, so that spikes agree whatever the order of a product."""
    neuron = example(name)
    shape, features = (5, 2, 9, 72), 72  # several tiles, the last ones not full
    inputs, results = given(neuron, shape), []
    record = tuple(n for n in RECORDED if n in neuron.record.recorded)
    for backend in ("triton", "reference"):
        layer = nn.Layer(neuron, learn="threshold", recurrent=recurrent, features=features, backend=backend).to(DEVICE)
        with torch.no_grad():
            layer.weight.copy_((uniform(*layer.weight.shape) * 17).floor().sub(8).div(64))
        results.append(ran(layer, inputs, None, record))
    require_equal(*results)
    layer.backend = "triton"
    _, state = layer(inputs[0][:3] if len(inputs) == 1 else tuple(x[:3] for x in inputs))
    second, after = layer(inputs[0][3:] if len(inputs) == 1 else tuple(x[3:] for x in inputs), state)
    assert torch.equal(results[0]["output 0"][3:], second)
    ends = [x for name, x in results[0].items() if name.startswith("state")]
    assert all(torch.equal(a, b) for a, b in zip(ends, after, strict=True))
    found = []
    for backend in ("triton", "reference"):  # of the states that it is given, what was sent before the first step among them
        layer.backend = backend
        first = tuple(x.detach().clone().requires_grad_() for x in state)
        made, ends = layer(inputs[0][3:] if len(inputs) == 1 else tuple(x[3:] for x in inputs), first)
        found.append(torch.autograd.grad(made.square().sum() + sum(x.sum() for x in ends), first))
    layer.backend = "triton"
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)
    nothing, same = layer(inputs[0][:0] if len(inputs) == 1 else tuple(x[:0] for x in inputs), after)
    assert nothing.shape == (0, *shape[1:])
    assert all(torch.equal(a, b) for a, b in zip(after, same, strict=True))


LAID = {
    "by receiver": lambda w: w.contiguous(),
    "by sender": lambda w: w.t().contiguous().t(),
    "every other": lambda w: w.repeat_interleave(2, 1)[:, ::2],
    "of another type": lambda w: w.double(),
}


@pytest.mark.parametrize("laid", LAID)
def test_recurrent_weights_however_they_lie(laid):
    (x,), results = given(example("Leaky"), (5, 2, 9)), []
    for backend in ("triton", "reference"):
        layer = nn.Layer(example("Leaky"), recurrent="all-to-all", features=9, backend=backend).to(DEVICE)
        weight = LAID[laid]((uniform(9, 9) * 17).floor().sub(8).div(64))
        layer.weight = torch.nn.Parameter(weight)
        assert layer.weight.stride() == weight.stride()
        results.append(ran(layer, [x], None, ()))
    require_equal(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_recurrent_numbers(dtype):
    """One for all, for each neuron, for each sample; and what is fed back is not rounded to half types, what is returned is."""
    inputs = [x.to(dtype) for x in given(example("Leaky"), (7, 3, 32))]
    real, results = torch.float64 if dtype is torch.float64 else torch.float32, []
    values = {"beta": torch.linspace(0.6, 0.9, 32), "threshold": torch.linspace(0.8, 1.1, 3)[:, None]}
    for backend in ("triton", "reference"):
        neuron = neurons.Leaky(0.8, spike=ATan(scale=0.7))
        layer = nn.Layer(
            neuron, learn=("beta", "threshold", "spike.slope"), values=values, recurrent="all-to-all", features=32, backend=backend
        )
        layer = layer.to(real)
        with torch.no_grad():
            layer.weight.copy_((uniform(32, 32) * 17).floor().sub(8).div(32))
        results.append(ran(layer, inputs, None, ("u",)))
    require_equal(*results, eps=1e-3 if dtype is torch.float16 else 1e-5)


def test_recurrent_as_an_operator():
    """As a compiled program runs it on a GPU: the operator is told that its tensors are on one."""
    from spikegrad.kernels import operator

    layer = nn.Layer(neurons.Leaky(0.8), learn=("beta", "threshold"), recurrent="all-to-all", features=32).to(DEVICE)
    with torch.no_grad():
        layer.weight.copy_((uniform(32, 32) * 17).floor().sub(8).div(32))
    x, asked = uniform(7, 3, 32), list[str]()

    def card(x: Tensor) -> torch.device:
        asked.append(str(x.device))
        return x.device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator, "_card", card)
        found = ran(layer, [x], call=torch.compile(layer, fullgraph=True, backend="aot_eager"))
    assert asked
    layer.backend = "reference"
    require_equal(found, ran(layer, [x]))


class Named(Neuron):
    """Numbers and a state called like functions of the kernels that it calls, and like variables of theirs."""

    exp: Positive = 0.5
    turned: Positive = 1.0
    inside: Decay = 0.9

    tl: State = 0.0

    def step(self, current: Any, tl: Any) -> Step:
        u = self.inside * tl + current * vocabulary.exp(-self.exp * current)
        s = self.fire(u - self.turned)
        return Step(s, tl=self.after_spike(u, s, self.turned), u=u)


def test_numbers_called_like_functions():
    compare(Named(), [uniform(19, 2, 67) * 2], exact=False, learn=("exp", "turned", "inside"))


class Passing(Neuron):
    """A state that is, unchanged, the next value of another."""

    near: State = 0.0
    far: State = 0.0

    def step(self, current: Any, near: Any, far: Any) -> Step:
        u = current + 0.5 * far
        return Step(self.fire(u - 1), near=u, far=near, u=u)


def test_states_are_handed_on_at_once():
    compare(Passing(), [uniform(*SHAPE) * 1.5])


class Elementary(Neuron):
    """A value of each function that kernels write themselves."""

    v: State = 0.0

    def step(self, current: Any, v: Any) -> Step:
        exp, sine, cosine = vocabulary.exp(current), vocabulary.sin(3 * current), vocabulary.cos(3 * current)
        log, tanh, sigmoid = vocabulary.log(current * current + 0.1), vocabulary.tanh(current), vocabulary.sigmoid(current)
        return Step(
            exp + sine + cosine + log + tanh + sigmoid, v=0.0 * v, exp=exp, sine=sine, cosine=cosine, log=log, tanh=tanh, sigmoid=sigmoid
        )


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
def test_elementary_functions(dtype, eps):
    x = (uniform(3, 67) * 12 - 6).to(dtype)
    names = ("exp", "sine", "cosine", "log", "tanh", "sigmoid")
    results = [ran(nn.Layer(Elementary(), backend=b), [x], record=names) for b in ("triton", "reference")]
    for name in (*names, "grad of input 0"):
        torch.testing.assert_close(*(each[name] for each in results), rtol=eps, atol=eps)


def test_a_surrogate_of_an_arc_tangent_learned_in_float64():
    layers = [nn.Layer(neurons.Leaky(0.9, spike=ATan()), learn="spike.slope", backend=b).double() for b in ("triton", "reference")]
    require_equal(*(ran(layer, given(example("Leaky"), dtype=torch.float64)) for layer in layers), eps=1e-12)


def test_without_a_directory_for_kernels(tmp_path, monkeypatch):
    from spikegrad.kernels import cache
    from spikegrad.kernels.gpu import compiler

    monkeypatch.setattr(cache, "directory", lambda name: None)
    monkeypatch.setattr(cache, "_modules", {})
    compiler.kernel.cache_clear()
    compare(neurons.Leaky(0.83, spike=FastSigmoid(3.0)), [uniform(4, 3, 67)])
    assert len(cache._modules) == 2
    assert all(module.__file__.startswith("<") for module in cache._modules.values())
    compiler.kernel.cache_clear()


def test_how_kernels_are_launched():
    from spikegrad.kernels.gpu.choice import choice, work
    from spikegrad.kernels.plan import Call

    def of(name: str, steps: int, columns: int) -> tuple[int, int, int]:
        neuron = example(name)
        return choice(work(Call(neuron.record, neuron.spike.structure).plan.passes()), steps, columns)

    assert of("Leaky", 500, 2**18) == (8, 256, 4)
    assert of("Leaky", 100, 8192) == (8, 64, 2)
    assert of("Adaptive", 100, 8192) == (8, 64, 1)
    assert choice(18, 100, 2**20, bytes_each=2) == (4, 512, 4)
    assert of("Izhikevich", 100, 2**20) == (4, 256, 4)
    assert [of("Leaky", steps, 2**20)[0] for steps in (0, 1, 2, 3, 4, 5, 9)] == [1, 1, 2, 4, 4, 8, 8]


def test_where_rounding_decides_and_where_speed():
    """A surrogate's formula, which no spike depends on, divides as fast as the card can; a step divides as every other backend does."""
    from tests.ahead_of_time import variants

    from spikegrad.kernels.gpu.source import Printer

    (_, backward), _ = variants(example("Leaky"), torch.float32, 2)
    text = Printer(backward).source()
    assert "/ (" in text
    assert "div_rn" not in text
    (forward, _), _ = variants(example("ConductanceLeaky"), torch.float32, 2)
    assert "div_rn" in Printer(forward).source()


def test_kept_for_the_backward_pass():
    """The inputs, which autograd shares, and states where rounds begin; nothing of the size of the sequence beside."""
    x = uniform(40, 2, 67).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nn.Layer(neurons.Leaky(0.9, spike=ATan()), backend="triton")(x)
    assert [t.shape for t in saved] == [x.shape, (4, 1, 134)]
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nn.Layer(neurons.Leaky(0.9, spike=ATan()), backend="triton")(x[:8])
    assert [t.shape for t in saved] == [x[:8].shape]


def test_numbers_in_every_place():
    """One for all, for each channel, for each neuron, for each sample and neuron."""
    x = uniform(11, 3, 4, 11) * 0.6
    for shape in ((), (1,), (11,), (4, 1), (4, 11), (3, 1, 1), (3, 4, 11)):
        value = uniform(*shape, seed=1).cpu() * 0.3 + 0.6
        results = [
            ran(nn.Layer(neurons.Leaky(0.9), learn=("beta", "threshold"), values={"beta": value, "threshold": value + 0.2}, backend=b), [x])
            for b in ("triton", "reference")
        ]
        require_equal(*results)


def test_against_the_kernels_of_the_cpu():
    """The polynomials of functions that libraries round differently are the same, but that the CPU's fuse products and sums."""
    neuron = example("ConductanceLeaky")
    (e, i), found = given(neuron), []
    for backend, device in (("triton", DEVICE), ("numba", "cpu")):
        spikes, _, u = nn.Layer(neuron, backend=backend)((e.to(device), i.to(device)), record=True)
        found.append((spikes.cpu(), u.cpu()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)
