"""snnTorch's surrogates under their own names: equal to the installed snnTorch but for its defects, each of which is shown beside ours.

The numbers of the defects (S-1, T-4 ...) are those of docs/migrating.md.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch

import spikegrad
from spikegrad import nn
from spikegrad.compat.snntorch import surrogate as ours

# PyTorch says this of its own compiler's work on snnTorch's autograd functions.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

theirs = pytest.importorskip("snntorch").surrogate

PUBLIC = {name: value for name, value in vars(theirs).items() if getattr(value, "__module__", None) == theirs.__name__}
FUNCTIONS = sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value))
CLASSES = sorted(name for name, value in PUBLIC.items() if inspect.isclass(value))


def steep(input_, grad_input, spikes):
    """Not linear in the gradient, and uses the spikes: only a function that is run as it is gets this right."""
    return (grad_input.clamp(-0.75, 0.75) / (3 * input_.abs() + 1) ** 2) * (1 + spikes)


# Arguments to compare at, besides the defaults. A function of snnTorch that is missing here fails the comparison. Where snnTorch
# multiplies them with the gradient of the spikes, which it keeps in float32, they are exact in float32: the rest is test_t2. Its triangular
# differs on purpose: test_s5.
ARGUMENTS = {
    "LSO": [(0.75,), (-0.25,)],
    "SFS": [(3.3, -0.7), (100.0, 0.0)],
    "SSO": [(1.0, 0.2), (-0.3, 1.7)],
    "atan": [(0.3,), (7.1,)],
    "custom_surrogate": [(steep,)],
    "fast_sigmoid": [(1.0,), (100.0,)],
    "heaviside": [],
    "sigmoid": [(1.0,), (7.125,)],
    "spike_rate_escape": [(3.3, 0.75)],
    "straight_through_estimator": [],
    "triangular": [(3.0,)],
}
OPERATOR = {
    "LSO": "LeakySpikeOperator",
    "SFS": "SparseFastSigmoid",
    "SSO": "StochasticSpikeOperator",
    "atan": "ATan",
    "straight_through_estimator": "StraightThroughEstimator",
    **{name: "".join(word.title() for word in name.split("_")) for name in FUNCTIONS if name.islower() and name not in ("atan",)},
}


def named(value):
    """The same in every process, which an address is not."""
    return value if isinstance(value, str) else ", ".join(getattr(v, "__name__", str(v)) for v in value)


CASES = [
    (name, a)
    for name in FUNCTIONS
    if name != "triangular"
    for a in [*([()] if name != "custom_surrogate" else []), *ARGUMENTS.get(name, [])]
]


def some(name):
    """Arguments other than the defaults, where there are any."""
    return ARGUMENTS[name][0] if ARGUMENTS[name] else ()


def points(dtype=torch.float64):
    """Kinks and their neighbours, and random potentials."""
    kinks = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, -0.7, 1e-30, -1e-30, 1.0 + 2**-20, 1.0 - 2**-20, -0.7 + 2**-20], dtype=torch.float64)
    return torch.cat([kinks, torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2]).to(dtype)


def cotangents(x):
    """Exact in every float type, since snnTorch rounds them to float32."""
    return (torch.randint(-8, 9, x.shape, generator=torch.Generator().manual_seed(5)) / 4).to(x.dtype)


def run(spike_grad, x, seed=11):
    """Spikes and gradient; seeded, so that the stochastic one draws the same noise whether forward or backward."""
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    spikes = spike_grad(x)
    torch.manual_seed(seed)
    (gradient,) = torch.autograd.grad(spikes, x, cotangents(x).to(spikes.dtype))
    return spikes.detach(), gradient


def peer(name, arguments):
    """Snntorch's own; LSO, which fails, as its documentation has it: its operator, whose backward pass works under a compiler only."""
    if name != "LSO":
        return getattr(theirs, name)(*arguments)
    slope = arguments[0] if arguments else 0.1
    return torch.compile(lambda x: theirs.LeakySpikeOperator.apply(x, slope), backend="aot_eager")


def test_every_name_is_there():
    assert len(FUNCTIONS) == len(CLASSES) == 11
    assert {*PUBLIC} == {name for name in PUBLIC if hasattr(ours, name)}
    assert {*ARGUMENTS} == {*FUNCTIONS}
    assert {*OPERATOR.values()} == {*CLASSES}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_is_theirs(name):
    def shown(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default, p.kind) for p in parameters if p.kind is not p.KEYWORD_ONLY]

    mine = getattr(ours, name)
    assert shown(mine) == shown(getattr(theirs, name))
    # What is added has a default and must be named; a class takes what its function takes, in the order of its own `forward`.
    assert all(p.default is not p.empty for p in inspect.signature(mine).parameters.values() if p.kind is p.KEYWORD_ONLY)
    apply = getattr(ours, OPERATOR[name]).apply
    assert shown(apply) == [("input_", inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD), *shown(mine)]
    assert list(inspect.signature(getattr(theirs, OPERATOR[name]).forward).parameters)[1:] == [p[0] for p in shown(apply)]
    for documented in (mine, getattr(ours, OPERATOR[name]), apply):
        assert documented.__doc__


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=named)
def test_equals_snntorch(name, arguments, dtype):
    dtype = getattr(torch, dtype)
    x = points(dtype)
    spikes, gradient = run(getattr(ours, name)(*arguments), x)
    wide = x.float() if dtype.itemsize < 4 else x  # in half precision theirs overflows and loses digits: what it means is its formula
    their_spikes, their_gradient = run(peer(name, arguments), wide)
    assert spikes.dtype == gradient.dtype == dtype
    assert torch.equal(spikes, their_spikes.to(dtype))
    finite = their_gradient.isfinite()
    assert finite.all() or name == "sigmoid"  # S-1
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    if (name, arguments) == ("LSO", ()):  # T-2: 0.1 times the gradient, in float32
        tolerance = max(tolerance, 1e-7)
    expected = their_gradient.to(dtype).to(torch.float64)
    torch.testing.assert_close(gradient.double()[finite], expected[finite], rtol=tolerance, atol=1e-300 if dtype == torch.float64 else 1e-7)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=named)
def test_operator_is_the_function(name, arguments):
    operator = getattr(ours, OPERATOR[name]).apply
    by_function, by_operator = run(getattr(ours, name)(*arguments), points()), run(lambda x: operator(x, *arguments), points())
    assert all(map(torch.equal, by_function, by_operator))
    names = list(inspect.signature(getattr(ours, name)).parameters)[: len(arguments)]
    by_keyword = run(lambda x: operator(input_=x, **dict(zip(names, arguments, strict=True))), points())
    assert all(map(torch.equal, by_function, by_keyword))
    if not arguments:
        assert operator.surrogate == getattr(ours, name)().surrogate
    assert pickle.loads(pickle.dumps(operator)) is operator


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=named)
def test_is_a_value(name, arguments):
    """S-10: what snnTorch returns is a closure, which pickles as little as a layer that holds it, and equals nothing."""
    mine, again = getattr(ours, name)(*arguments), getattr(ours, name)(*arguments)
    assert mine == again
    assert hash(mine) == hash(again)
    assert pickle.loads(pickle.dumps(mine)) == copy.deepcopy(mine) == mine
    assert mine != getattr(ours, "atan" if name != "atan" else "sigmoid")(3.3)
    with pytest.raises(AttributeError, match="cannot assign"):
        mine.surrogate = None
    their = getattr(theirs, name)(*arguments)
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        pickle.dumps(their)
    assert their != getattr(theirs, name)(*arguments)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_whole(name):
    torch._dynamo.reset()
    mine = getattr(ours, name)(*some(name))
    eager, compiled = run(mine, points()), run(torch.compile(mine, backend="aot_eager", fullgraph=True), points())
    assert torch.equal(eager[0], compiled[0])
    if name != "SSO":  # a compiler draws other numbers
        torch.testing.assert_close(eager[1], compiled[1], rtol=1e-14, atol=0)


def test_a_compiler_tells_surrogates_apart():
    """All are called through the same code."""
    torch._dynamo.reset()
    x = points()
    for mine in (ours.atan(2.0), ours.atan(0.3), ours.sigmoid(), ours.ATan.apply, ours.Sigmoid.apply, ours.LSO()):
        compiled = run(torch.compile(mine, backend="aot_eager", fullgraph=True), x)
        torch.testing.assert_close(compiled[1], run(mine, x)[1], rtol=1e-14, atol=0)


# What differs on purpose: the number of the defect, what snnTorch does, what ours does.


def test_t1_spikes_have_the_dtype_of_the_potential():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.tensor([-1.0, 1.0], dtype=dtype)
        assert theirs.atan()(x).dtype == torch.float32
        assert ours.atan()(x).dtype == dtype
    for spike_grad in (theirs.atan(), ours.atan(), ours.custom_surrogate(lambda input_, grad_input, spikes: grad_input)):
        for whole in (torch.tensor([-1, 0, 2]), torch.tensor([-1, 0, 2], dtype=torch.int8)):
            assert spike_grad(whole).dtype == torch.float32
            assert spike_grad(whole).tolist() == [0, 0, 1]


def test_t2_a_float64_gradient_is_not_rounded():
    def change(spike_grad):
        x = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        one, other = (torch.autograd.grad(spike_grad(x).double().sum() * scale, x)[0] for scale in (1, 1 + 1e-9))
        return (other / one - 1).item()

    assert change(theirs.atan()) == 0
    assert change(ours.atan()) == pytest.approx(1e-9, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("LSO", "SSO", "custom_surrogate")])
def test_t4_every_transform_applies(name):
    x = points()
    mine, their = getattr(ours, name)(), getattr(theirs, name)()
    gradient = run(lambda x: mine(x) * 1.0, x)[1] / cotangents(x)
    known = gradient.isfinite()
    for transformed in (torch.func.vmap(torch.func.grad(mine)), lambda x: torch.func.jvp(mine, (x,), (torch.ones_like(x),))[1]):
        torch.testing.assert_close(transformed(x)[known], gradient[known], rtol=1e-14, atol=0)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: their(x).sum())(x)


def test_t5_second_derivatives():
    x = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)

    def second_of_square(spike_grad):
        (first,) = torch.autograd.grad((spike_grad(x) ** 2).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0].item()

    assert second_of_square(theirs.heaviside()) == 4  # through the saved spikes
    assert second_of_square(ours.heaviside()) == 2  # 2 g^2 + 2 s g' with g = 1, g' = 0
    assert second_of_square(ours.atan()) == pytest.approx(second_of_square(theirs.atan()), rel=1e-6)


def test_t6_a_parameter_that_would_never_move_is_refused():
    slope = torch.nn.Parameter(torch.tensor(25.0))
    x = torch.tensor([0.3], requires_grad=True)
    theirs.fast_sigmoid(slope)(x).sum().backward()
    assert slope.grad is None
    with pytest.raises(TypeError, match=r"`slope` of spikegrad.FastSigmoid must be one fixed number.*requires a gradient.*nn.Spike"):
        ours.fast_sigmoid(slope)
    with pytest.raises(TypeError, match=r"tensor of shape \(3,\); to learn it, or to have one per neuron"):
        ours.SFS(B=torch.zeros(3))
    assert ours.fast_sigmoid(torch.tensor(10.0)) == ours.fast_sigmoid(10)
    learned = nn.Spike(spikegrad.FastSigmoid(25), learn="slope")
    learned(x).sum().backward()
    assert learned.slope_log.grad != 0


def test_t8_spikes_may_be_changed_in_place():
    for name in ("heaviside", "SSO", "custom_surrogate"):
        for module, fails in ((theirs, True), (ours, False)):
            x = torch.tensor([0.3, -0.2], requires_grad=True)
            spikes = getattr(module, name)(*some(name))(x)
            spikes.mul_(2)
            if fails:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    spikes.sum().backward()
            else:
                spikes.sum().backward()
                assert x.grad.isfinite().all()


def test_t9_custom_surrogate_saves_its_input_only():
    def saved(module):
        tensors = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.append(t) or t, lambda t: t):
            module.custom_surrogate(steep)(torch.zeros(1000, requires_grad=True))
        return sum(t.numel() for t in tensors)

    assert saved(theirs) == 2000
    assert saved(ours) == 1000


@pytest.mark.parametrize("name", FUNCTIONS)
def test_t12_t13_nan_stays_nan_and_infinity_has_no_gradient(name):
    x = torch.tensor([math.nan, math.inf, -math.inf])
    spikes, gradient = run(getattr(ours, name)(*some(name) if name == "custom_surrogate" else ()), x)
    assert spikes[0].isnan()
    assert spikes[1:].tolist() == [1, 0]
    if name != "custom_surrogate":
        assert gradient[0].isnan()
        assert gradient[1:].tolist() == [0, 0]
    if name != "LSO":
        their_spikes, their_gradient = run(peer(name, some(name)), x)
        assert their_spikes[0] == 0
        hidden = name in ("straight_through_estimator", "heaviside", "triangular", "SSO")
        assert their_gradient[0].isnan() != hidden


@pytest.mark.parametrize(("dtype", "x"), [("float32", -3.6), ("float64", -28.5), ("bfloat16", -3.6), ("float16", -0.5)])
def test_s1_sigmoid_is_finite(dtype, x):
    x = torch.tensor([x], dtype=getattr(torch, dtype))
    x = x.requires_grad_()
    assert torch.autograd.grad(theirs.sigmoid()(x).sum(), x)[0].isnan()
    (gradient,) = torch.autograd.grad(ours.sigmoid()(x).sum(), x)
    exact = 25 * math.exp(25 * x.item()) / (1 + math.exp(25 * x.item())) ** 2
    # The exponent's rounding error counts as often as the exponent is large; half types are computed in float32 and rounded.
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    tolerance = 25 * abs(x.item()) * torch.finfo(wide).eps + 2 * torch.finfo(x.dtype).eps
    assert gradient.item() == pytest.approx(exact, rel=tolerance, abs=1e-7 if dtype == "float16" else 0)


def test_s2_lso_runs():
    x = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'variance'"):
        theirs.LSO()(x)
    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        theirs.LeakySpikeOperator.apply(x, 0.1).sum().backward()
    for spike_grad in (ours.LSO(), ours.LeakySpikeOperator.apply):
        assert torch.equal(torch.autograd.grad(spike_grad(x).sum(), x)[0], torch.tensor([0.1, 0.1, 1.0]))


def test_s3_operators_have_the_defaults_that_are_documented():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'slope'"):
        theirs.FastSigmoid.apply(points())
    assert torch.equal(ours.FastSigmoid.apply(points()), ours.fast_sigmoid()(points()))


@pytest.mark.parametrize("threshold", [1.0, 3.0])
def test_s5_triangular_is_the_triangle_whose_slope_snntorch_returns(threshold):
    x = points()
    spikes, gradient = run(ours.triangular(threshold), x)
    their_spikes, their_gradient = run(theirs.triangular(threshold), x)
    assert torch.equal(spikes, their_spikes.double())
    assert torch.equal(their_gradient, torch.where(x < 0, threshold, -threshold) * cotangents(x))
    torch.testing.assert_close(gradient, threshold * (1 - x.abs()).clamp(0) * cotangents(x), rtol=1e-12, atol=1e-15)
    within = (x.abs() < 1) & (x != 0)
    curve = torch.func.vmap(torch.func.grad(torch.func.grad(ours.triangular(threshold))))(x)
    torch.testing.assert_close(curve[within], torch.where(x < 0, threshold, -threshold)[within].double())


def test_s4_s6_are_kept():
    """Formulas that hardly anybody means, but that snnTorch computes and documents: a network trained with them keeps its gradients."""
    x = torch.tensor([-0.1, 0.0, 0.1, 1.01])
    for module in (theirs, ours):
        assert run(module.SFS(), x)[1].ne(0).tolist()[:3] == [False] * 3
        curve = torch.func.vmap(torch.func.grad(ours.spike_rate_escape()))(torch.tensor([0.9, 1.0, 1.1]))
        assert curve.argmax() == 1
    assert spikegrad.SparseFastSigmoid().derivative(0.1) > 0


def test_s9_noise_is_drawn_forward_from_a_generator_of_ones_own():
    def twice(spike_grad):
        x = torch.full((50,), -0.5, requires_grad=True)
        total = spike_grad(x).sum()
        return [torch.autograd.grad(total, x, retain_graph=True)[0] for _ in range(2)]

    def next_after_backward(spike_grad):
        x = torch.full((50,), -0.5, requires_grad=True)
        total = spike_grad(x).sum()
        torch.manual_seed(0)
        total.backward()
        return torch.rand(1).item()

    torch.manual_seed(0)
    undisturbed = torch.rand(1).item()
    assert not torch.equal(*twice(theirs.SSO()))
    assert torch.equal(*twice(ours.SSO()))
    assert next_after_backward(theirs.SSO()) != undisturbed
    assert next_after_backward(ours.SSO()) == undisturbed
    assert ours.SSO()(torch.ones(3)).tolist() == [1, 1, 1]
    assert ours.SSO()(torch.ones(3)).grad_fn is None

    one, other = (twice(ours.SSO(generator=torch.Generator().manual_seed(seed)))[0] for seed in (1, 1))
    assert torch.equal(one, other)
    assert one.std() > 0
    torch.manual_seed(0)
    twice(ours.SSO(generator=torch.Generator().manual_seed(1)))
    assert torch.rand(1).item() == undisturbed
    state = pickle.loads(pickle.dumps(ours.SSO(generator=torch.Generator().manual_seed(7))))
    assert torch.equal(twice(state)[0], twice(ours.SSO(generator=torch.Generator().manual_seed(7)))[0])


def test_s11_custom_surrogate_says_what_it_got():
    x = torch.ones(3, requires_grad=True)
    theirs.custom_surrogate(lambda *_: None)(x).sum().backward()
    assert x.grad is None  # silently nothing
    with pytest.raises(TypeError, match=r"must return the gradient, a tensor of shape \(3,\), got NoneType"):
        ours.custom_surrogate(lambda *_: None)(x).sum().backward()
    with pytest.raises(RuntimeError, match="expected shape compatible with"):
        ours.custom_surrogate(lambda *_: torch.ones(2))(x).sum().backward()
    with pytest.raises(TypeError, match=r"f\(input_, grad_input, spikes\) is needed, got 25"):
        ours.custom_surrogate(25)


def test_custom_surrogate_transforms_or_refuses():
    spike_grad = ours.custom_surrogate(steep)
    x = points()
    gradient = torch.autograd.grad(spike_grad(x.requires_grad_()).sum(), x)[0]
    x = x.detach()

    def total(x):
        return spike_grad(x).sum()

    assert torch.equal(torch.func.grad(total)(x), gradient)
    assert torch.equal(torch.func.vmap(torch.func.grad(spike_grad))(x), gradient)
    # A compiler would drop the gradient of an autograd function inside a transform; ours leaves it to eager mode, or fails.
    assert torch.equal(torch.compile(torch.func.grad(total), backend="aot_eager")(x), gradient)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(torch.func.grad(total), backend="aot_eager", fullgraph=True)(x)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(spike_grad, (x,), (x,))
    assert torch.autograd.gradgradcheck(ours.custom_surrogate(lambda x, g, s: g / (1 + x**2)), points()[10:20].requires_grad_())


def test_bad_arguments_are_named():
    for make in (lambda: ours.atan(alpha=-1), lambda: ours.fast_sigmoid(0), lambda: ours.sigmoid(math.nan), lambda: ours.SSO(variance=-1)):
        with pytest.raises(ValueError, match=r"`(slope|spread)` of \w+ must be (zero or )?positive, got"):
            make()
    with pytest.raises(ValueError, match="`lower` of SparseFastSigmoid must be less than `upper`"):
        ours.SFS(B=math.inf)
    with pytest.raises(TypeError, match=r"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan\(\), got"):
        ours.SpikeGradient(torch.sigmoid)


def test_any_surrogate_can_be_used_as_snntorch_uses_its_own():
    spike_grad = ours.SpikeGradient(spikegrad.Triangle(width=0.5))
    assert spike_grad(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 0, 1]
    soft = ours.SpikeGradient(spikegrad.NoisyThreshold())
    assert soft(torch.tensor([-0.1, 0.1], requires_grad=True)).tolist() == [0, 1]
