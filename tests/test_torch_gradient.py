"""PyTorch: the step has this surrogate's gradient under every transform, in every dtype, compiled or not."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from tests.conftest import DTYPES, TRANSFORMS, product
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from spikegrad import ATan, NoisyThreshold, Surrogate, evaluation, gradient
from spikegrad.formulas import CATALOGUE

LEARNABLE = [(name, number) for name, cls in CATALOGUE.items() if cls.has_primitive for number in cls.numbers]
STOCHASTIC = [cls for cls in CATALOGUE.values() if cls.stochastic]


def array(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def backward(_, f, x):
    x = x.clone().requires_grad_()
    f(x).sum().backward()
    return x.grad


def double_backward(_, f, x):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.autograd.grad(g.sum(), x)[0]


def double_backward_of_the_square(_, f, x):
    return double_backward(_, lambda x: f(x).square(), x)


def dual_numbers(_, f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


COMPILED = (
    "vmap",
    "vmap(grad)",
    "vmap over columns",
    "jvp",
    "jacfwd",
    "jacrev",
    "grad(grad)",
    "jvp(grad)",
    "hessian",
    "hessian of the square",
)
"""Not forward over forward under vmap, at which dynamo fails for ``x * x`` too, and leaves a forward level open behind it."""

AUTOGRAD = [("first", backward), ("second", double_backward), ("square", double_backward_of_the_square), ("first", dual_numbers)]


def check(surrogate, order, run, dtype, points, expected, f=None, keeps_dtype=True):
    x = torch.tensor(points, dtype=getattr(torch, dtype))
    got = run(torch.func, f or surrogate, x)
    assert got.dtype == x.dtype or not keeps_dtype
    expected(surrogate, array(x))[order].check(array(got), dtype)


@pytest.mark.parametrize(("surrogate", "transform", "dtype"), product(list(CATALOGUE), list(TRANSFORMS), DTYPES))
def test_transform(surrogate, transform, dtype, points, expected):
    order, run = TRANSFORMS[transform]
    keeps = transform != "jacfwd(jacfwd)"  # in which PyTorch makes float64 of a float32 `3.0 * x * x` too
    check(CATALOGUE[surrogate](), order, run, dtype, points, expected, keeps_dtype=keeps)


@pytest.mark.parametrize(("order", "run"), AUTOGRAD, ids=lambda value: getattr(value, "__name__", ""))
def test_autograd(surrogate, order, run, dtype, points, expected):
    check(surrogate, order, run, dtype, points, expected)


def compiled(f, backend="aot_eager"):
    torch.compiler.reset()
    return torch.compile(f, fullgraph=True, backend=backend)


def test_compiled(surrogate, transforms, points, expected):
    """A compiled step trains; and `grad` compiles (where others return zeros without a word)."""
    _, grad = transforms["grad"]
    both = compiled(lambda lib, f, x: (f(x), grad(lib, f, x.detach())))
    x = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    spikes, g = both(torch.func, surrogate, x)
    spikes.sum().backward()
    assert x.grad.dtype == g.dtype == x.dtype
    wanted = expected(surrogate, array(x))["first"]
    wanted.check(array(x.grad), "float32", "backward")
    wanted.check(array(g), "float32", "grad")


@pytest.mark.parametrize(
    ("surrogate", "names"),
    [
        pytest.param(surrogate, COMPILED[first::3], id=f"{surrogate!r}-{first}", marks=() if first in few else pytest.mark.slow)
        for surrogate, few in ((ATan(slope=3.0), (0, 1, 2)), (CATALOGUE["StraightThrough"](), (2,)), (NoisyThreshold(), (1,)))
        for first in range(3)
    ],
)
def test_compiled_transform(surrogate, names, transforms, points, expected):
    """Some transforms in each program."""
    x = torch.tensor(points)
    program = compiled(lambda lib, f, x: tuple(transforms[name][1](lib, f, x) for name in names))
    for name, got in zip(names, program(torch.func, surrogate, x), strict=True):
        assert got.dtype == x.dtype, name
        expected(surrogate, points)[transforms[name][0]].check(array(got), "float64", name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning")
@pytest.mark.parametrize("surrogate", [ATan(slope=3.0), NoisyThreshold()], ids=repr)
def test_inductor(surrogate, transforms, points, expected):
    check(surrogate, "first", backward, "float32", points, expected, compiled(surrogate, "inductor"))
    for name in ("grad", "jvp", "hessian"):
        order, run = transforms[name]
        check(surrogate, order, compiled(lambda lib, f, x, run=run: run(lib, f, x), "inductor"), "float32", points, expected)


def test_the_first_call_of_all_may_be_compiled(points, monkeypatch):
    """Our part for PyTorch is imported while the compiler traces; it failed, as what it had looked at was another when it was done."""
    monkeypatch.setattr(evaluation, "pytorch", None)
    monkeypatch.delitem(sys.modules, "spikegrad.gradient.torch", raising=False)
    monkeypatch.delattr(gradient, "torch", raising=False)
    x = torch.tensor(points, requires_grad=True)
    compiled(ATan())(x).sum().backward()
    assert torch.allclose(x.grad, ATan().derivative(x.detach()))


def test_sweep_compiles_twice():
    """A sweep over slopes compiles for the first number and once more for all others; with an array in its place, once."""
    x = torch.linspace(-1, 1, 7, requires_grad=True)
    counter = CompileCounterWithBackend("aot_eager")
    step = compiled(lambda spike, x: spike(x), counter)
    for slope in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        (g,) = torch.autograd.grad(step(ATan(slope), x).sum(), x)
        assert torch.allclose(g, ATan(slope).derivative(x))
    assert counter.frame_count <= 2

    counter = CompileCounterWithBackend("aot_eager")
    step = compiled(lambda x, slope: ATan()(x, slope=slope), counter)
    for slope in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        (g,) = torch.autograd.grad(step(x, torch.tensor(slope)).sum(), x)
        assert torch.allclose(g, ATan(slope).derivative(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize(("name", "number"), LEARNABLE)
def test_learnable_parameter(name, number, points, parameter_transforms, expected_of_parameter):
    surrogate = CATALOGUE[name]()
    p = (getattr(surrogate, number) or 0.1) * np.linspace(0.79, 1.21, 8)

    def f(x, p):
        return surrogate(x, **{number: p})

    wanted = expected_of_parameter(surrogate, number, points, p)
    for what, (order, run) in parameter_transforms.items():
        wanted[order].check(array(run(torch.func, f, torch.tensor(points), torch.tensor(p))), "float64", what)

    x, channels = points.reshape(2, 4), p[:4]
    for of, axis in ((channels, 0), (p[0], None)):
        learned = torch.nn.Parameter(torch.tensor(of))
        f(torch.tensor(x), learned).sum().backward()
        full = np.broadcast_to(of, x.shape)
        expected_of_parameter(surrogate, number, x, full)["first"].sum(axis).check(array(learned.grad), "float64", "backward")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_of_parameter(dtype, points):
    x = torch.tensor(points, dtype=getattr(torch, dtype), requires_grad=True)
    slope = torch.nn.Parameter(torch.tensor(2.0))
    spikes = ATan()(x, slope=slope)
    spikes.sum().backward()
    assert (spikes.dtype, x.grad.dtype, slope.grad.dtype) == (x.dtype, x.dtype, torch.float32)
    assert ATan()(x, slope=3.0).dtype == x.dtype  # a number is a parameter too


def test_autocast(surrogate, points):
    """Under autocast a layer gives bfloat16 and the step keeps it; the weights' gradient is float32."""
    linear = torch.nn.Linear(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        x = linear(torch.tensor(points, dtype=torch.float32))
        spikes = surrogate(x)
    spikes.sum().backward()
    assert spikes.dtype == x.dtype == torch.bfloat16
    assert linear.weight.grad.dtype == torch.float32
    g = surrogate.derivative(x.detach())
    assert torch.equal(linear.bias.grad.bfloat16(), g.bfloat16())


def test_edges(surrogate, dtype):
    """NaN stays NaN, infinities spike or do not and have no gradient, the rest is finite out to 1e4."""
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1e4, -1e4], dtype=getattr(torch, dtype), requires_grad=True)
    spikes = surrogate(x)
    (g,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    assert spikes[0].isnan()
    assert g[0].isnan()
    assert spikes[1:].tolist() == [1, 0, 1, 1, 1, 0]
    assert g[1:3].tolist() == [0, 0]
    assert g[3:].isfinite().all()
    if g.requires_grad:
        assert torch.autograd.grad(g[1:].sum(), x)[0][1:].isfinite().all()
    # A backward pass that is not differentiated itself takes a shorter way.
    for part in (x[:1], x[1:2], x[2:3], x[3:], x):
        (plain,) = torch.autograd.grad(surrogate(part).sum(), x)
        (wanted,) = torch.autograd.grad(surrogate(part).sum(), x, create_graph=True)
        assert torch.equal(plain.nan_to_num(nan=-7.0), wanted.nan_to_num(nan=-7.0))
    far = torch.cat([-torch.logspace(4, -6, 400), torch.logspace(-6, 4, 400)]).to(x.dtype).requires_grad_()
    assert torch.autograd.grad(surrogate(far).sum(), far)[0].isfinite().all()


def test_is_a_well_behaved_operation(surrogate, points):
    x = torch.tensor(points, requires_grad=True)
    before = torch.get_rng_state()
    surrogate(x).mul_(2).sum().backward()
    assert np.allclose(array(x.grad), 2 * surrogate.derivative(points), rtol=1e-12)
    with torch.no_grad():
        assert not surrogate(x).requires_grad
    assert not surrogate(x.detach()).requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    with torch.inference_mode():
        surrogate(x)
    assert surrogate(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("cls", STOCHASTIC)
def test_noise(cls, points):
    x = torch.tensor(np.tile(points, 50), requires_grad=True)
    spike = cls()

    def draw(seed=None, training=True):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        spikes = spike(x, training=training, random=generator)
        return torch.cat([spikes.detach(), torch.autograd.grad(spikes.sum(), x)[0]])

    before = torch.get_rng_state()
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    evaluated = draw(training=False)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert torch.equal(evaluated, torch.cat([(x >= 0).double(), spike.derivative(x)]).detach())
    torch.manual_seed(3)
    first = draw()
    assert not torch.equal(first, draw())
    torch.manual_seed(3)
    assert torch.equal(first, draw())


@pytest.mark.parametrize("cls", STOCHASTIC)
def test_noise_under_vmap(cls):
    x = torch.full((64,), -0.1)

    def grads(randomness):
        torch.manual_seed(0)
        return torch.func.vmap(torch.func.grad(lambda x: cls()(x, training=True)), randomness=randomness)(x)

    assert len(grads("different").unique()) > 1
    assert len(grads("same").unique()) == 1
    with pytest.raises(RuntimeError, match="randomness"):
        grads("error")


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, r"int64; convert it with x.float\(\)", lambda: ATan()(torch.arange(3))),
        (TypeError, "complex64", lambda: ATan()(torch.zeros(1, dtype=torch.complex64))),
        (TypeError, "no parameter 'width'; its parameters are slope, scale", lambda: ATan()(torch.zeros(3), width=torch.ones(3))),
        (ValueError, r"shape of `x`, \(3,\), got shape \(2, 3\)", lambda: ATan()(torch.zeros(3), slope=torch.ones(2, 3))),
        (TypeError, r"pass arrays beside the surrogate: spike\(x, slope=array\)", lambda: ATan(slope=torch.ones(3))),
    ],
)
def test_refused(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_without_primitive_nothing_is_learned():
    class Bump(Surrogate):
        width: float = 1.0

        def derivative(self, x):
            return 1 / (1 + abs(x) / self.width)

    with pytest.raises(ValueError, match=r"`width` of Bump cannot be learned: .* this surrogate has none"):
        Bump()(torch.zeros(3), width=torch.ones(3))


def test_peers_defects(points):
    """What other libraries get wrong: float64 cotangents rounded, second backward different, no leak of the class's name."""
    x = torch.tensor(points, requires_grad=True)
    (one,) = torch.autograd.grad(ATan()(x).sum(), x)
    (more,) = torch.autograd.grad((1 + 1e-9) * ATan()(x).sum(), x)
    assert np.allclose(array(more / one - 1), 1e-9, rtol=1e-6)
    spikes = dataclasses.replace(ATan(), scale=2.0)(x).sum()
    again = [torch.autograd.grad(spikes, x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*again)
    assert torch.equal(again[0], 2 * one)


def eager_derivatives(f, x, orders):
    found = []
    for _ in range(orders):
        (x_grad,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        found.append(x_grad.detach())
        f = x_grad
    return found


@pytest.mark.parametrize("name", ["ATan", "Sigmoid", "Gaussian", "FastSigmoid"])
def test_third_derivative_by_autograd(name, points):
    """Run eagerly a step has every derivative of its curve, of s^2 too."""
    surrogate = CATALOGUE[name]()
    x = torch.tensor(points, requires_grad=True)
    s = surrogate(x)
    g, g1, g2 = eager_derivatives(s, x, 3)
    curve = torch.tensor(points, requires_grad=True)
    w, w1, w2 = [surrogate.derivative(curve), *eager_derivatives(surrogate.derivative(curve), curve, 2)]
    for got, wanted in ((g, w), (g1, w1), (g2, w2)):
        torch.testing.assert_close(got, wanted.detach(), rtol=1e-12, atol=1e-12)
    s = surrogate(x)
    third = eager_derivatives(s * s, x, 3)[2]
    torch.testing.assert_close(third, (6 * w * w1 + 2 * s * w2).detach(), rtol=1e-12, atol=1e-10)


def test_eager_step_keeps_the_potential_alone(surrogate, points):
    x = torch.tensor(points, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        surrogate(x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


def test_eager_step_is_left_to_whoever_traces(points):
    """A batched backward pass, a trace, symbols and fake tensors find a gradient too."""
    x = torch.tensor(points, requires_grad=True)
    wanted = ATan().derivative(x.detach())
    rows = torch.eye(8, dtype=x.dtype)
    assert torch.allclose(torch.autograd.grad(ATan()(x), x, rows, is_grads_batched=True)[0], torch.diag(wanted))
    late = ATan()(x)  # made outside of the transform that differentiates it
    assert torch.allclose(torch.func.vmap(lambda v: torch.autograd.grad(late, x, v, retain_graph=True)[0])(rows), torch.diag(wanted))

    graph = make_fx(lambda x: torch.autograd.grad(ATan()(x).sum(), x)[0])(x)
    assert torch.allclose(graph(x), wanted)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        assert torch.autograd.grad(ATan()(fake).sum(), fake)[0].shape == x.shape


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is not supported:DeprecationWarning")
def test_eager_step_traces(points):
    x = torch.tensor(points, requires_grad=True)
    traced = torch.jit.trace(lambda x: ATan()(x), (x,), check_trace=False)  # which runs without a gradient
    assert "PythonOp" not in str(traced.graph)
    y = torch.tensor(points[::-1].copy(), requires_grad=True)
    traced(y).sum().backward()
    assert torch.allclose(y.grad, ATan().derivative(y.detach()))


@pytest.mark.parametrize("spike_at_threshold", [True, False])
def test_spikes_are_zero_or_one(spike_at_threshold, dtype):
    """To the sign of zero, and next to the threshold."""
    tiny = torch.finfo(getattr(torch, dtype)).tiny
    x = torch.tensor([-0.0, 0.0, tiny, -tiny, 1.0, -1.0, float("inf"), -float("inf")], dtype=getattr(torch, dtype))
    at = float(spike_at_threshold)
    for given in (x, x.clone().requires_grad_()):
        spikes = ATan()(given, spike_at_threshold=spike_at_threshold)
        assert spikes.tolist() == [at, at, 1, 0, 1, 0, 1, 0]
        assert not spikes.signbit().any()


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_infinite_potential_has_no_gradient_whatever_comes_in(create_graph):
    x = torch.tensor([math.inf, -math.inf, 0.5, math.nan], requires_grad=True)
    incoming = torch.tensor([math.nan, math.inf, 2.0, 1.0])
    (gradient,) = torch.autograd.grad(ATan()(x), x, incoming, create_graph=create_graph)
    assert gradient[:2].tolist() == [0, 0]
    assert gradient[2] == 2 * ATan().derivative(torch.tensor(0.5))
    assert gradient[3].isnan()


@pytest.mark.parametrize("name", ["ATan", "Gaussian"])
@pytest.mark.parametrize("how", ["grad", "jacfwd", "make_fx", "learned"])
def test_third_derivative_in_transforms(how, name, points):
    """It came out as 3/2 of this; where the slope learns, outside of transforms as well."""
    surrogate, x = CATALOGUE[name](), torch.tensor(points)
    number = next(iter(surrogate.numbers))
    curve = x.clone().requires_grad_()
    wanted = eager_derivatives(surrogate.derivative(curve), curve, 2)[-1]
    if how in ("grad", "jacfwd"):
        transform, third = getattr(torch.func, how), surrogate
        for _ in range(3):
            third = transform(third)
        found = torch.func.vmap(third)(x)
    else:
        learned = {number: torch.tensor(getattr(surrogate, number), dtype=x.dtype, requires_grad=True)} if how == "learned" else {}

        def third(x):
            return eager_derivatives(surrogate(x, **learned), x, 3)[-1]

        leaf = x.clone().requires_grad_()
        found = third(leaf) if how == "learned" else make_fx(third)(leaf)(leaf)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-10, atol=1e-10)
