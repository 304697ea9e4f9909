"""The fused kernels on the CPU against the reference: spikes, potentials and states bit for bit, gradients to rounding."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch.autograd import forward_ad  # noqa: E402
from torch.library import opcheck  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from spikegrad import ATan, Gaussian, NoisyThreshold, StraightThrough, Surrogate, from_formula, nn  # noqa: E402
from spikegrad.formulas import CATALOGUE  # noqa: E402
from spikegrad.kernels.call import Call  # noqa: E402
from spikegrad.kernels.reference import Options  # noqa: E402

FORMULAS = [name for name in CATALOGUE if not CATALOGUE[name]().stochastic]
KINDS = ("Leaky", "Synaptic", "RecurrentLeaky", "RecurrentSynaptic", "LeakyIntegrator")
SPIKING = KINDS[:4]
FLOATS = {"float32": torch.float32, "float64": torch.float64}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def build(
    kind: str, spike: Surrogate | None = None, features: Any = 5, *, learn: bool = True, random: bool = False, same: bool = False,
    **options: Any,
) -> Any:  # fmt: skip
    """A layer with decays and threshold per neuron, or the `same` numbers for all.

    Recurrent weights are dyadic, so that their sums are exact, unless `random`.
    """
    shape = (features,) if isinstance(features, int) else features
    count = math.prod(shape)

    def spread(low: float, high: float) -> float | torch.Tensor:
        if same:
            return (low + high) / 2
        return torch.linspace(low, high, count, dtype=torch.float64).reshape(shape)

    learned = {"learn_beta": learn}
    if kind == "LeakyIntegrator":
        return nn.LeakyIntegrator(spread(0.5, 0.95), **learned)
    decays = {"beta": spread(0.7, 0.95), "threshold": spread(0.8, 1.2)}
    if "Synaptic" in kind:
        decays["alpha"] = spread(0.4, 0.8)
        learned["learn_alpha"] = learn
    before = (shape[-1],) if "Recurrent" in kind else ()
    layer = getattr(nn, kind)(*before, **decays, spike=spike, learn_threshold=learn, **learned, **options)
    if before:
        given = randn(*layer.weight.shape, seed=1) / 3
        layer.weight.data = given if random else (given * 16).round() / 16
    return layer


def threshold(layer: Any) -> torch.Tensor:
    """That of each neuron, of at least one dimension."""
    return torch.atleast_1d(torch.as_tensor(layer.threshold, dtype=torch.float64).detach())


def drive(layer: Any, *shape: int, dtype: str = "float64") -> torch.Tensor:
    """Currents that make about a third spike, some of them from rest exactly at the threshold."""
    currents = (randn(*shape) * 0.8 + 0.4).to(FLOATS[dtype])
    if len(currents) and hasattr(layer, "threshold"):
        currents[0, ..., :1] = threshold(layer)[..., :1].to(currents)
    return currents


def start(layer: Any, currents: torch.Tensor) -> Any:
    """A state of each kind; the first sample's potential is at the threshold, spikes are 0 or 1."""
    v, i = (randn(*currents.shape[1:], seed=seed).to(currents) for seed in (2, 3))
    if isinstance(layer, nn.LeakyIntegrator):
        return v
    v[:1] = threshold(layer).to(currents).expand(v.shape)[:1]
    parts = ((i,) if hasattr(layer, "alpha") else ()) + (v,) + (() if layer.weight is None else ((i > 0).to(currents),))
    return parts if len(parts) > 1 else v


def leaves(tree: Any) -> list[torch.Tensor]:
    return [tree] if isinstance(tree, torch.Tensor) else [leaf for part in tree for leaf in leaves(part)]


def turned(x: torch.Tensor) -> torch.Tensor:
    """With the last two axes exchanged, where there are two: what flows back through it is not contiguous."""
    return x.mT if x.ndim > 1 else x


@dataclasses.dataclass
class Outcome:
    """What a layer returned, and the gradients of a random function of it, by name."""

    outputs: list[torch.Tensor]
    gradients: dict[str, torch.Tensor]


def outcome(
    layer: Any,
    backend: str,
    currents: torch.Tensor,
    state: Any = None,
    *,
    record: bool = False,
    used: slice = slice(None),
    wanted: Iterable[str] | None = None,
    call: Callable[..., Any] | None = None,
) -> Outcome:
    """Run a layer in one backend. The outputs `used` are weighted; incoming gradients are not contiguous."""
    layer.backend = backend
    wanted = None if wanted is None else list(wanted)
    given = {"currents": currents} | {f"state {k}": part for k, part in enumerate(leaves(() if state is None else state))}
    given = {name: part.detach().requires_grad_(wanted is None or name in wanted) for name, part in given.items()}
    parts = tuple(given.values())[1:]
    state = None if state is None else parts[0] if isinstance(state, torch.Tensor) else parts
    learned = dict(layer.named_parameters())
    for name, parameter in learned.items():
        parameter.requires_grad_(wanted is None or name in wanted)
    more = {"record": True} if record else {}
    outputs = leaves((layer if call is None else call)(given["currents"], state, **more))
    total = sum((turned(part) * turned(randn(*part.shape, seed=9).to(part))).sum() for part in outputs[used])
    inputs = {name: part for name, part in (given | learned).items() if part.requires_grad}
    layer.zero_grad()
    if total.requires_grad:
        total.backward()
    gradients = {name: torch.zeros_like(part) if part.grad is None else part.grad for name, part in inputs.items()}
    return Outcome([part.detach() for part in outputs], gradients)


def tolerances(reference: Outcome, eps: float, steps: int) -> dict[str, float]:
    """How far the gradients may be from the reference's, which sums the same terms in another order.

    A gradient is a sum over paths through time: at each of the steps it is multiplied and added to a few times, so that its error is within
    two eps for each step of the largest gradient among those of the same loop. A parameter sums over steps and samples, and each term is
    the product of such a gradient and a potential.
    """
    loop = [g.abs().max().item() for name, g in reference.gradients.items() if name.startswith(("currents", "state")) and g.numel()]
    potential = max([1.0] + [part.abs().max().item() for part in reference.outputs if part.numel()])
    size = max([1.0, *loop])
    count = max(1, reference.outputs[0].numel())
    terms = {
        name: potential * count / max(1, g.numel()) if "_" in name or "weight" in name else 1 for name, g in reference.gradients.items()
    }
    return {name: 2 * eps * max(1, steps) * size * terms[name] for name in reference.gradients}


def agree(got: Outcome, wanted: Outcome, *, exact: bool = True, eps: float | None = None) -> None:
    for a, b in zip(got.outputs, wanted.outputs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if exact:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            torch.testing.assert_close(a, b)
    eps = torch.finfo(wanted.outputs[0].dtype).eps if eps is None else eps
    limits = tolerances(wanted, eps, len(wanted.outputs[0]))
    assert got.gradients.keys() == wanted.gradients.keys()
    for name, gradient in got.gradients.items():
        torch.testing.assert_close(
            gradient, wanted.gradients[name], rtol=0, atol=limits[name], equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
        )


def both(layer: Any, *arguments: Any, exact: bool = True, **options: Any) -> Outcome:
    """Run a layer fused and in the reference, and compare."""
    wanted = outcome(layer, "reference", *arguments, **options)
    agree(outcome(layer, "numba", *arguments, **options), wanted, exact=exact)
    return wanted


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula(name):
    kind, dtype = list(itertools.product(("Leaky", "Synaptic"), FLOATS))[FORMULAS.index(name) % 4]
    layer = build(kind, CATALOGUE[name](), learn=False, detach_reset=False)
    result = both(layer, drive(layer, 12, 4, 5, dtype=dtype))
    assert 0.1 < result.outputs[0].mean() < 0.9
    assert result.gradients["currents"].abs().max() > 0.01


OPTIONS: dict[str, tuple[Any, ...]] = {
    "kind": ("Leaky", "Synaptic"),
    "connection": (None, "all-to-all", "one-to-one"),
    "reset": ("subtract", "zero", "none"),
    "reset_delay": (False, True),
    "detach_reset": (False, True),
    "spike_at_threshold": (False, True),
    "given": (False, True),
    "record": (False, True),
    "learn": (True, False),
    "same": (False, True),
    "spike": (ATan(), Gaussian()),
}


def covering(strength: int) -> list[tuple[Any, ...]]:
    """Few rows of `OPTIONS` in which every combination of so many options occurs: each takes the best of some random rows.

    Kinds and resets occur in all their combinations while parameters learn, for each has gradients of its own.
    """
    names, random = list(OPTIONS), Random(0)
    core = tuple(names.index(name) for name in ("kind", "reset", "reset_delay", "detach_reset", "learn"))
    chosen = [core, *itertools.combinations(range(len(names)), strength)]
    missing = {(c, values) for c in chosen for values in itertools.product(*(range(len(OPTIONS[names[k]])) for k in c))}
    missing = {(c, values) for c, values in missing if c != core or values[-1] == 0}
    rows: list[tuple[Any, ...]] = []
    while missing:
        wanted = dict(zip(*min(missing), strict=True))
        tries = [[wanted.get(k, random.randrange(len(OPTIONS[name]))) for k, name in enumerate(names)] for _ in range(20)]
        found = [{(c, tuple(row[k] for k in c)) for c in chosen} & missing for row in tries]
        best = max(range(len(tries)), key=lambda k: len(found[k]))
        missing -= found[best]
        rows.append(tuple(OPTIONS[name][k] for name, k in zip(names, tries[best], strict=True)))
    return rows


@pytest.mark.parametrize(
    "row", [*covering(2), *(pytest.param(row, marks=pytest.mark.slow) for row in covering(3))], ids=lambda row: "-".join(map(str, row))
)
def test_options(row):
    """Every two options meet, and all of how a reset acts; with the slow rows, every three."""
    kind, connection, *_, given, record, learn, same, spike = row
    options = dict(zip(OPTIONS, row, strict=True))
    options = {name: options[name] for name in ("reset", "reset_delay", "detach_reset", "spike_at_threshold")}
    more = {} if connection is None else {"connection": connection}
    layer = build(kind if connection is None else f"Recurrent{kind}", spike, learn=learn, same=same, **options, **more)
    currents = drive(layer, 9, 3, 5, dtype="float64" if isinstance(spike, ATan) else "float32")
    both(layer, currents, start(layer, currents) if given else None, record=record)


@pytest.mark.parametrize("kind", ["RecurrentLeaky", "RecurrentSynaptic"])
def test_random_recurrent_weights(kind):
    """Their sums are taken in another order than a matrix product takes them, so that potentials are only close."""
    layer = build(kind, ATan(), features=7, random=True)
    both(layer, drive(layer, 11, 3, 7), record=True, exact=False)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_integrator(dtype, learn, given):
    layer = build("LeakyIntegrator", learn=learn)
    currents = drive(layer, 9, 3, 5, dtype=dtype)
    both(layer, currents, start(layer, currents) if given else None)


class Own(Surrogate):
    slope: float = 3.0
    kind: str = "odd"

    def derivative(self, x):
        return self.slope / (1 + abs(self.slope * x)) ** (2 if self.kind == "even" else 3)


def twin(power: int) -> type[Surrogate]:
    class Twin(Surrogate):
        slope: float = 2.0

        def derivative(self, x):
            return 1 / (1 + abs(self.slope * x)) ** power

    return Twin


def test_users_own_formulas():
    surrogates = [Own(), Own(kind="even"), twin(2)(), twin(3)(slope=1.0), from_formula(lambda x, k: 1 / (1 + (k * x) ** 2), k=3.0)]
    found = []
    for surrogate in surrogates:
        layer = build("Leaky", surrogate, learn=False)
        found.append(both(layer, drive(layer, 9, 3, 5)).gradients["currents"])
    for a, b in itertools.combinations(found, 2):
        assert not torch.allclose(a, b)


SHAPES: dict[str, tuple[Any, Callable[[], torch.Tensor]]] = {
    "one step": (3, lambda: randn(1, 2, 3)),
    "one neuron": (1, lambda: randn(5, 1, 1)),
    "primes": (13, lambda: randn(7, 11, 13)),
    "more than a block": (2311, lambda: randn(3, 2, 2311)),
    "no steps": (3, lambda: randn(0, 2, 3)),
    "no samples": (3, lambda: randn(4, 0, 3)),
    "unbatched": (5, lambda: randn(6, 5)),
    "images": ((3, 1, 1), lambda: randn(5, 2, 3, 4, 6)),
    "transposed": (5, lambda: randn(5, 2, 7).permute(2, 1, 0)),
    "every second": (4, lambda: randn(9, 3, 8)[::2, :, 1::2]),
    "expanded in time": (3, lambda: randn(1, 2, 3).expand(6, 2, 3)),
    "expanded in batch": (3, lambda: randn(6, 1, 3).expand(6, 4, 3)),
}


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic", "LeakyIntegrator"])
@pytest.mark.parametrize("shape", SHAPES)
def test_awkward_shapes(shape, kind):
    features, make = SHAPES[shape]
    currents = make()
    recurrent = "Recurrent" in kind
    if recurrent and features == (3, 1, 1):
        features = currents.shape[-1]  # neurons of a row are connected
    more = {"connection": "one-to-one"} if recurrent and features == 2311 else {}
    layer = build(kind, ATan(), features, **more)
    both(layer, currents)
    both(layer, currents, start(layer, currents))
    assert currents.numel() == 0 or layer(currents)[0].isfinite().all()


@pytest.mark.parametrize("wanted", ["currents", "state 0", "state 1", "beta_logit", "alpha_logit", "threshold_log", "weight"])
def test_one_input_wants_a_gradient(wanted):
    layer = build("RecurrentSynaptic", ATan())
    currents = drive(layer, 9, 3, 5)
    result = both(layer, currents, start(layer, currents), wanted=[wanted])
    assert result.gradients[wanted].abs().max() > 0


@pytest.mark.parametrize(("kind", "used"), [(kind, k) for kind in KINDS for k in range(5)][:-3])
def test_one_output_is_used(kind, used):
    layer = build(kind, ATan())
    currents = drive(layer, 9, 3, 5)
    record = kind != "LeakyIntegrator"
    if used < len(leaves(layer(currents, **({"record": True} if record else {})))):
        both(layer, currents, record=record, used=slice(used, used + 1))


def test_no_gradient_is_asked():
    layer = build("RecurrentLeaky", ATan())
    currents = drive(layer, 9, 3, 5)
    both(layer, currents, wanted=[])
    layer.backend = "numba"
    with torch.no_grad():
        assert not layer(currents)[0].requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(layer(currents)[0], layer(currents.clone())[0])


def test_numbers_as_parameters():
    """Plain numbers are rounded to the dtype of the currents, as PyTorch does."""
    currents = randn(20, 3, 5, dtype=torch.float32)
    both(nn.Synaptic(0.7, 0.9, 0.3), currents, record=True)
    both(nn.LeakyIntegrator(0.9), currents)


@pytest.mark.parametrize("kind", ["Synaptic", "RecurrentSynaptic", "LeakyIntegrator"])
def test_threads_do_not_matter(kind):
    features = 2311 if "Recurrent" not in kind else 3
    layer = build(kind, ATan(), features, random=True)
    currents = drive(layer, 30, 3 if features == 2311 else 2311, features, dtype="float32")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(layer, "numba", currents))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0].outputs, result.outputs, strict=True):
            assert torch.equal(a, b)
        for name in ("currents", "beta_logit"):
            assert torch.equal(results[0].gradients[name], result.gradients[name]), name
    assert sum(thread.name.startswith("spikegrad") for thread in threading.enumerate()) >= 2


def test_called_from_two_threads():
    layer = build("Leaky", ATan(), 1024, learn=False)
    layer.backend = "numba"
    inputs = [randn(40, 2, 1024, seed=seed).requires_grad_() for seed in range(6)]

    def work(currents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((layer(currents)[0] * currents.detach()).sum(), currents)

    alone = [work(currents) for currents in inputs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, inputs * 3))
    for k, (gradient,) in enumerate(together):
        assert torch.equal(gradient, alone[k % len(alone)][0])


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize(("delay", "detach"), [(False, True), (True, False)])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "LeakyIntegrator"])
def test_nan_and_infinity_propagate(kind, delay, detach, reset):
    """StraightThrough is not 0 at infinity, where the gradient through the spike is nevertheless 0."""
    options = {"reset": reset, "reset_delay": delay, "detach_reset": detach} if kind != "LeakyIntegrator" else {}
    layer = build(kind, StraightThrough(), 4, learn=False, **options)
    currents = drive(layer, 6, 2, 4)
    currents[2, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    result = both(layer, currents)
    assert result.outputs[0][2, 0, 0].isnan()
    assert result.gradients["currents"][:, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Synaptic", "RecurrentLeaky", "LeakyIntegrator"])
def test_half_types_are_widened(kind, dtype):
    layer = build(kind, ATan())
    currents = drive(layer, 9, 3, 5, dtype="float32").to(dtype)
    both(layer, currents)
    both(layer, currents, start(layer, currents))
    both(layer.to(dtype), currents)  # parameters in half precision too
    assert layer(currents)[0].dtype == dtype
    assert leaves(layer(currents)[1])[0].dtype == torch.float32


@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_dtypes_of_state_and_parameters_differ_from_the_currents(given):
    layer = build("Leaky", ATan()).to(given)
    for dtype in FLOATS.values():
        currents = randn(6, 2, 5, dtype=dtype)
        both(layer, currents, randn(2, 5, dtype=given))


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentLeaky"])
def test_autocast(kind):
    layer, linear = build(kind, ATan()).float(), torch.nn.Linear(5, 5)
    currents = randn(9, 3, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = both(layer, currents, call=lambda x, state: layer(linear(x) * 3, state))
    assert result.outputs[0].dtype == torch.bfloat16
    assert 0 < result.outputs[0].mean() < 1


def plain(layer: Any, currents: torch.Tensor, state: Any = None) -> torch.Tensor:
    """A layer as a function with one output."""
    return layer(currents, state)[0] * (torch.arange(currents.numel()).to(currents).cos().view(currents.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_operator(kind):
    layer = build(kind, ATan())
    currents = drive(layer, 5, 2, 5).requires_grad_()
    state = [part.requires_grad_() for part in leaves(start(layer, currents.detach()))]
    spiking = kind != "LeakyIntegrator"
    of = kind.removeprefix("Recurrent").lower() if spiking else "integrator"
    call = Call(of, ATan(), Options(reset_delay=True), True, spiking)
    decays = [layer.alpha] if hasattr(layer, "alpha") else []
    parameters = [p.detach().requires_grad_() for p in (*decays, layer.beta, *((layer.threshold,) if spiking else ()))]
    weights = getattr(layer, "weight", None)
    weights = None if weights is None else weights.detach().double().requires_grad_()
    opcheck(torch.ops.spikegrad.layer.default, (currents, weights, state, parameters, call.text, list(call.surrogate.parameters.values())))


@pytest.mark.parametrize("kind", KINDS)
def test_compile(kind):
    layer = build(kind, ATan())
    currents = drive(layer, 6, 2, 5)
    wanted = outcome(layer, "numba", currents, start(layer, currents))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    agree(outcome(layer, "numba", currents, start(layer, currents), call=compiled), wanted)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor():
    layer = build("Synaptic", ATan())
    currents = drive(layer, 6, 2, 5, dtype="float32")
    wanted = outcome(layer, "numba", currents, record=True)
    agree(outcome(layer, "numba", currents, record=True, call=torch.compile(layer, fullgraph=True)), wanted)


def test_compile_knows_formulas_by_what_they_are():
    """Classes of the same name, local ones too, and one that is defined again."""
    found = []
    for power in (2, 3):
        layer = build("Leaky", twin(power)(), learn=False)
        currents = drive(layer, 6, 2, 5)
        wanted = outcome(layer, "reference", currents)
        agree(outcome(layer, "numba", currents, call=torch.compile(layer, fullgraph=True, backend="aot_eager")), wanted)
        found.append(wanted.gradients["currents"])
    assert not torch.allclose(*found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    layer = build("RecurrentSynaptic", ATan())
    currents = drive(layer, 6, 2, 5)

    def recomputed(x: torch.Tensor, _: None) -> Any:  # the reentrant form sees no tensors within tuples
        return checkpoint(lambda x: tuple(leaves(layer(x))), x, use_reentrant=reentrant)

    agree(outcome(layer, "numba", currents, call=recomputed), outcome(layer, "numba", currents))


TRANSFORMS: dict[str, Callable[[Callable[..., torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f, 1, 1)(x),
    "vmap(grad)": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()), 1, 1)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "dual": lambda f, x: dual(f, x),
}


def dual(f: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", ["Leaky", "LeakyIntegrator"])
def test_transforms_take_the_reference(kind, transform):
    layer = build(kind, ATan(), learn=False)
    currents = drive(layer, 6, 2, 5)
    f = TRANSFORMS[transform]
    got = f(lambda x: plain(layer, x), currents)
    layer.backend = "reference"
    torch.testing.assert_close(got, f(lambda x: plain(layer, x), currents), rtol=0, atol=0)
    assert got.abs().max() > 0
    layer.backend = "numba"
    with pytest.raises(ValueError, match=r"torch\.func transform or forward-mode"):
        f(lambda x: plain(layer, x), currents)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    layer = build(kind, ATan(), detach_reset=False) if kind != "LeakyIntegrator" else build(kind)
    given = drive(layer, 6, 2, 5)
    second = []
    for backend in ("numba", "reference"):
        layer.backend = backend
        currents, inputs = given.clone().requires_grad_(), [*layer.parameters()]
        state = start(layer, given)
        first = torch.autograd.grad(plain(layer, currents, state).square().sum(), [currents, *inputs], create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), [currents, *inputs], allow_unused=True))
    for a, b in zip(*second, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * b.abs().max().item())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda **o: nn.Leaky(0.9, spike=NoisyThreshold(), **o), "NoisyThreshold draws noise"),
        (lambda **o: nn.Leaky(0.9, spike=nn.Spike(ATan(), learn="slope"), **o), "its surrogate learns slope"),
        (lambda **o: nn.Synaptic(0.8, 0.9, inhibition=True, **o), "inhibition"),
        (lambda **o: nn.Leaky(0.9, quantize=nn.Quantize(8, -1.0, 1.0), **o), "quantised"),
    ],
)
def test_refusals(make, reason):
    currents = randn(4, 2, 3)
    with pytest.raises(ValueError, match=f"backend='numba' cannot run this layer: .*{reason}.*; use backend='auto' or 'reference'"):
        make(backend="numba")(currents)
    assert make()(currents)[0].shape == currents.shape  # auto takes the reference


def test_unknown_backend():
    for make in (lambda **o: nn.Leaky(0.9, **o), lambda **o: nn.LeakyIntegrator(0.9, **o)):
        with pytest.raises(ValueError, match="`backend` must be one of 'auto', 'numba', 'reference', got 'cuda'"):
            make(backend="cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind):
    layer = build(kind, ATan())
    currents = drive(layer, 6, 2, 5)
    wanted = outcome(layer, "numba", currents)
    other = build(kind, ATan())
    other.load_state_dict({name: value * 0.9 for name, value in layer.state_dict().items()})
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        agree(outcome(twin, "numba", currents), wanted)
