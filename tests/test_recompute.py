"""What is computed anew in the backward pass is what was computed: gradients are those of keeping it, whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch.nn.utils import parametrizations, prune  # noqa: E402

from spikegrad import ATan, FastSigmoid, NoisyThreshold, nn  # noqa: E402
from spikegrad.nn import linear  # noqa: E402
from spikegrad.nn.recompute import recomputed  # noqa: E402

with torch.device("meta"):
    torch.empty(0)  # with this PyTorch notes what makes tensors; later `poison` would be in the place of some of it


def spikes(*shape: int) -> Any:
    return torch.bernoulli(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(0))


def layer(memory: str, **options: Any) -> Any:
    torch.manual_seed(0)
    neuron = nn.Leaky(0.9, learn=("beta", "threshold", "spike.slope"), backend="reference")
    return nn.SpikingLinear(13, 7, neuron, memory=memory, **options)


def total(out: Any, last: Any) -> Any:
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return (out.float() * weights).sum() + (last * weights[0]).sum()


def gradients(made: Any, x: Any, net: Any) -> list[Any]:
    return list(torch.autograd.grad(total(*made), [x, *net.parameters()]))


def equal(a: Any, b: Any) -> None:
    assert len(a) == len(b)
    for ours, theirs in zip(a, b, strict=True):
        assert ours.dtype == theirs.dtype
        assert theirs.abs().sum() > 0
        assert torch.equal(ours, theirs)


@pytest.fixture
def x() -> Any:
    return spikes(20, 4, 13).requires_grad_()


# Autocast.


@pytest.mark.parametrize("block", [10**9, 300])
def test_under_autocast(x, block, monkeypatch):
    """With weights in bfloat16 as in the forward pass, also where the backward pass runs outside of autocast, or inside of another."""
    monkeypatch.setattr(linear, "_BLOCK", block)
    found: dict[str, Any] = {}
    for memory in ("recompute", "save"):
        net = layer(memory)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = net(x)
        assert made[0].dtype == torch.bfloat16
        found[memory] = made[0].detach(), gradients(made, x, net)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = gradients(net(x), x, net)
        if block > 300:
            equal(inside, found[memory][1])
    torch.testing.assert_close(found["recompute"][0], found["save"][0])
    if block > 300:
        equal(found["recompute"][1], found["save"][1])
    else:
        for a, b in zip(found["recompute"][1], found["save"][1], strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())


def test_autocast_does_not_cut_weights_off(x):
    """Weights that autocast converted where nothing is recorded would be used again by what comes after."""
    net = layer("recompute")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(x)
        after = torch.nn.functional.linear(torch.ones(2, 13), net.weight)
    assert after.requires_grad


def test_autocast_that_is_off_stays_off(x):
    net = layer("recompute")
    wanted = gradients(net(x), x, net)
    made = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        equal(gradients(made, x, net), wanted)


# What was changed in between.


def test_with_parameters_of_a_function(x):
    """`functional_call` takes its parameters away again before the backward pass."""
    found = []
    for memory in ("recompute", "save"):
        net = layer(memory)
        given = {name: (p.detach() + 0.1).requires_grad_() for name, p in net.named_parameters()}
        made = torch.func.functional_call(net, given, (x,))
        found.append(torch.autograd.grad(total(*made), [x, *given.values()]))
    equal(*found)


@pytest.mark.parametrize("name", ["weight", "bias", "neuron.beta_logit", "neuron.threshold_log", "neuron.spike.slope_log"])
def test_a_parameter_that_was_changed_is_an_error(name, x):
    """As where PyTorch keeps it, instead of a gradient of another network."""
    net = layer("recompute")
    made = net(x)
    with torch.no_grad():
        net.get_parameter(name).add_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(made, x, net)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another surrogate": lambda net: setattr(net.neuron.spike, "surrogate", FastSigmoid(3.0)),
    "another neuron": lambda net: setattr(net.neuron, "neuron", type(net.neuron.neuron)(0.1, reset="zero")),
    "another backend": lambda net: setattr(net.neuron, "backend", "numba"),
    "rounding": lambda net: setattr(net.neuron, "quantize", nn.Quantize(2)),
    "inhibition": lambda net: setattr(net.neuron, "inhibition", True),
    "other weights": lambda net: setattr(net, "weight", torch.nn.Parameter(torch.zeros(7, 13))),
    "other decays": lambda net: net.neuron.beta_fixed.fill_(0.1),
    "evaluation": lambda net: net.eval(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_options_are_those_of_the_forward_pass(what, x):
    """An annealed slope, for one, is set between the passes of an accumulated gradient."""
    torch.manual_seed(0)
    net = nn.SpikingLinear(13, 7, nn.Leaky(torch.full((7,), 0.9), 0.7, spike=ATan(2.0)), dropout=0.2)
    parameters = list(net.parameters())

    def run() -> Any:
        torch.manual_seed(1)
        return net(x)

    wanted = torch.autograd.grad(total(*run()), [x, *parameters])
    made = run()
    CHANGES[what](net)
    equal(torch.autograd.grad(total(*made), [x, *parameters]), wanted)


def test_twice_and_elsewhere(x):
    net = layer("recompute")
    with torch.autograd.graph.save_on_cpu():
        made = net(x)
    first = torch.autograd.grad(total(*made), [x, *net.parameters()], retain_graph=True)
    equal(gradients(made, x, net), first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        gradients(made, x, net)


# Derivatives of derivatives, and transforms.


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("block", [10**9, 300])
def test_second_derivatives(x, block, dropout, monkeypatch):
    monkeypatch.setattr(linear, "_BLOCK", block)
    found = []
    for memory in ("recompute", "save"):
        net = layer(memory, dropout=dropout).double()
        inputs = x.detach().double().requires_grad_(), (0.5 * spikes(4, 7)).double().requires_grad_()
        torch.manual_seed(1)
        first = torch.autograd.grad(total(*net(*inputs)), [*inputs, *net.parameters()], create_graph=True)
        penalty = sum((g**2).sum() for g in first)
        found.append([*first, *torch.autograd.grad(penalty, [*inputs, *net.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_state_that_comes_from_the_weights(x):
    """What flows to the weights through the state is counted once, in both derivatives."""
    found = []
    for memory in ("recompute", "save"):
        net = layer(memory).double()
        inputs = x.detach().double().requires_grad_()
        first = torch.autograd.grad(total(*net(inputs, 0.1 * net.weight[:, :4].t())), [inputs, *net.parameters()], create_graph=True)
        found.append([*first, *torch.autograd.grad(sum((g**2).sum() for g in first), [inputs, *net.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


TRANSFORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "grad": lambda f, p, x: torch.func.grad(f)(p, x),
    "grad of grad": lambda f, p, x: torch.func.grad(lambda p, x: torch.func.grad(f)(p, x)["weight"].square().sum())(p, x),
    "vmap": lambda f, p, x: torch.func.vmap(f, in_dims=(None, 0))(p, torch.stack([x, 1 - x])),
    "gradients for each": lambda f, p, x: torch.func.vmap(torch.func.grad(f), in_dims=(None, 0))(p, torch.stack([x, 1 - x])),
    "jvp": lambda f, p, x: torch.func.jvp(lambda p: f(p, x), (p,), ({name: torch.ones_like(v) for name, v in p.items()},)),
    "jacrev": lambda f, p, x: torch.func.jacrev(f)(p, x),
    "vjp": lambda f, p, x: torch.func.vjp(f, p, x)[1](torch.tensor(1.0)),
}


@pytest.mark.parametrize("what", TRANSFORMS)
def test_transforms(what, x):
    found = []
    for memory in ("recompute", "save"):
        net = layer(memory)

        def f(p: Any, x: Any, net: Any = net) -> Any:
            return total(*torch.func.functional_call(net, p, (x,)))

        given = {name: p.detach() for name, p in net.named_parameters()}
        found.append(torch.utils._pytree.tree_leaves(TRANSFORMS[what](f, given, x.detach())))
    equal(*found)


def test_dropout_for_each_of_many(x):
    net = layer("recompute", dropout=0.5)
    both = torch.stack([x.detach()] * 2)
    out = torch.func.vmap(lambda x: net(x)[0], randomness="different")(both)
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled(dropout, x):
    """Without a break: no value is looked at."""
    torch._dynamo.reset()
    x = x.detach()[:2].requires_grad_()
    net = layer("recompute", dropout=dropout).train(dropout > 0)
    torch.manual_seed(1)
    made = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    found = gradients(made, x, net)
    torch.manual_seed(1)
    plain = net(x)
    assert torch.equal(made[0], plain[0])
    for a, b in zip(found, gradients(plain, x, net), strict=True):
        torch.testing.assert_close(a, b)


def test_without_numbers(x):
    """On the meta device, and for fake tensors: shapes."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        assert layer("recompute")(torch.zeros(5, 2, 13))[0].shape == (5, 2, 7)
    with FakeTensorMode() as mode:
        assert layer("recompute")(mode.from_tensor(torch.zeros(5, 2, 13)))[0].shape == (5, 2, 7)


# Random numbers.


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_noise_is_drawn_again_as_it_was(generator, x):
    found, states = [], []
    for memory in ("recompute", "save"):
        torch.manual_seed(0)
        net = nn.SpikingLinear(13, 7, nn.Leaky(0.9, spike=nn.Spike(NoisyThreshold(), generator=generator)), memory=memory)
        (generator or torch.random.default_generator).manual_seed(3)
        made = net(x)
        torch.rand(2)
        between = torch.get_rng_state(), (generator or torch.random.default_generator).get_state()
        found.append([*made, *gradients(made, x, net)])
        states.append(torch.equal(between[0], torch.get_rng_state()))
        states.append(torch.equal(between[1], (generator or torch.random.default_generator).get_state()))
    equal(*found)
    assert all(states)  # as if it had not been drawn again


# Any module.


class Wild(torch.nn.Module):
    """What a module may be: statistics, dropout, recurrent layers, weights computed from others, one weight twice, a tree of results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(torch.nn.Conv2d(1, 3, 3))
        self.norm, self.drop = torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.4)
        self.rnn = torch.nn.GRU(12, 6)
        self.linear = torch.nn.Linear(6, 6)
        self.same = self.linear
        prune.l1_unstructured(self.linear, "weight", 0.5)
        self.neuron = nn.Leaky(0.9, learn="beta", backend="reference")
        self.compiled = torch.compile(torch.nn.Linear(6, 6), backend="eager")
        self.inner = nn.SpikingLinear(6, 6, nn.Leaky(0.8, backend="reference"))

    def forward(self, given, factor):
        x = given["x"]
        x = self.drop(self.norm(self.conv(x.flatten(0, 1)))).flatten(1).unflatten(0, x.shape[:2])
        x, last = self.rnn(x)
        spiked, state = self.neuron(self.same(self.linear(x)) * factor)
        out, more = self.inner(spiked, None)
        return {"out": self.compiled(out), "states": [state, more, last], "count": 3, "fired": spiked > 0}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_any_module():
    made, found = [], []
    for run in (recomputed, lambda module, *given: module(*given)):
        torch._dynamo.reset()
        torch.manual_seed(0)
        module = Wild()
        x = torch.rand(5, 3, 1, 4, 4).requires_grad_()
        tree = run(module, {"x": x}, 4.0)
        assert tree["count"] == 3
        assert not tree["fired"].requires_grad
        leaves = [tree["out"], *tree["states"]]
        torch.rand(1)  # other numbers than those to be drawn again
        loss = sum((leaf * torch.linspace(0.5, 2, leaf.numel()).view(leaf.shape)).sum() for leaf in leaves)
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
        made.append([*leaves, *module.buffers()])
    for ours, theirs in zip(*made, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs, name in zip(*found, ["x", *(name for name, _ in module.named_parameters())], strict=True):
        assert theirs.abs().sum() > 0, name
        torch.testing.assert_close(ours, theirs, msg=name)


def test_what_is_kept_of_any_module():
    def kept(run: Callable[..., Any]) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Any) -> Any:
            if t.untyped_storage().data_ptr() not in weights:
                sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        net = nn.Sequential(*(torch.nn.Linear(32, 32) if k % 2 else nn.Leaky(0.9) for k in range(8)))
        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        x = torch.rand(50, 4, 32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = run(net, x)  # noqa: F841
        return sum(sizes.values())

    whole = kept(lambda net, x: net(x))
    assert whole >= 7 * 50 * 4 * 32 * 4
    assert kept(recomputed) == 50 * 4 * 32 * 4


def test_any_module_under_transforms_and_without_gradient(x):
    net = nn.Sequential(torch.nn.Linear(13, 5), nn.Leaky(0.9, backend="reference"))
    with torch.no_grad():
        assert torch.equal(recomputed(net, x)[0], net(x)[0])
    found = torch.func.grad(lambda x: recomputed(net, x)[0].sum())(x.detach())
    assert torch.equal(found, torch.func.grad(lambda x: net(x)[0].sum())(x.detach()))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_what_cannot_be_copied_is_refused():
    traced = torch.jit.trace(torch.nn.Linear(3, 3), torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"compiled by torch\.jit"):
        recomputed(torch.nn.Sequential(traced), torch.rand(2, 3))
