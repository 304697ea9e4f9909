"""A layer as a module: gradients however they arrive, what a checkpoint holds, copies, and words for what does not fit."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from tests.conftest import example  # noqa: E402
from tests.test_kernels import agree, build, drive, leaves, outcome, randn, start  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from spikegrad import ATan, nn  # noqa: E402
from spikegrad.neurons import Adaptive, Leaky  # noqa: E402

with torch.device("meta"):
    torch.empty(0)  # with this PyTorch notes what makes tensors; later `poison` would be in the place of some of it

# Gradients that arrive.

GIVEN: dict[str, Callable[..., Any]] = {
    "one number": lambda *shape: randn(*(1,) * len(shape)).expand(shape),
    "one step for all": lambda *shape: randn(1, *shape[1:]).expand(shape),
    "one sample for all": lambda *shape: randn(*shape[:-2], 1, shape[-1]).expand(shape),
    "a number for each row": lambda *shape: randn(*shape[:-1], 1).expand(shape),
    "a number for each step": lambda *shape: randn(shape[0], *(1,) * (len(shape) - 1)).expand(shape),
    "a number for each neuron": lambda *shape: randn(shape[-1]).expand(shape),
    "transposed": lambda *shape: randn(*shape[:-2], shape[-1], shape[-2]).mT,
    "time last": lambda *shape: randn(*shape[1:], shape[0]).movedim(-1, 0),
    "every second": lambda *shape: randn(*(2 * size for size in shape))[(slice(None, None, 2),) * len(shape)],
    "negative": lambda *shape: torch._neg_view(randn(*shape)),
    "negative and expanded": lambda *shape: torch._neg_view(randn(*(1,) * len(shape)).expand(shape)),
    "zero": lambda *shape: torch._efficientzerotensor(shape, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic"])
@pytest.mark.parametrize("how", GIVEN)
def test_a_gradient_in_any_layout_is_the_dense_one(how, kind):
    """Bit for bit: of spikes, of potentials and of a state, for all that is given and learned."""
    layer = build(kind, ATan())
    layer.backend = "numba"
    currents = drive(layer, 9, 3, 5)
    inputs = [x.requires_grad_() for x in (currents, *leaves(start(layer, currents)))]
    states = tuple(inputs[1:]) if len(inputs) > 2 else inputs[1]
    spikes, state, potentials = layer(currents, states, record=True)
    for output in (spikes, potentials, leaves(state)[0]):
        given = GIVEN[how](*output.shape)
        dense = torch.empty(output.shape, dtype=given.dtype).copy_(given)
        assert dense.is_contiguous()
        assert how in ("negative", "zero") or not given.is_contiguous()
        got, wanted = (
            torch.autograd.grad(output, [*inputs, *layer.parameters()], g, retain_graph=True, allow_unused=True) for g in (given, dense)
        )
        assert how == "zero" or got[0].abs().max() > 0
        for a, b in zip(got, wanted, strict=True):
            assert torch.equal(a, b)


def test_a_gradient_is_not_changed():
    """Whoever sent it may use it again; one that is expanded lies in memory of others."""
    layer = build("RecurrentSynaptic", ATan())
    layer.backend = "numba"
    spikes, *_ = layer(drive(layer, 9, 3, 5).requires_grad_(), record=True)
    one = torch.tensor([0.5], dtype=torch.float64)
    dense = randn(9, 3, 5)
    before = dense.clone()
    for given in (one.expand(9, 3, 5), dense):
        spikes.backward(given, retain_graph=True)
    assert one.item() == 0.5
    assert torch.equal(dense, before)


# What a checkpoint holds.

CASTS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda module: module,
    "double": lambda module: module.double(),
    "half": lambda module: module.half(),
    "bfloat16 and back": lambda module: module.to(torch.bfloat16).float(),
}
THIRD = 0.1 + 0.2
"""A number that takes all digits of double precision."""


def network(beta: float, rho: float, scale: float) -> Any:
    each = scale * torch.linspace(0.5, 1.0, 6)
    return nn.Sequential(torch.nn.Linear(4, 6), nn.Layer(Adaptive(beta, rho, v=-0.25), values={"jump": each}, learn=("threshold",)))


@pytest.mark.parametrize("how", CASTS)
def test_a_checkpoint_carries_every_number_exactly(how, tmp_path):
    """Through a file, whatever dtype the module was brought to; numbers are as they were given, not as that dtype rounds them."""
    written, other = CASTS[how](network(0.9, THIRD, 1.0)), network(0.5, 0.5, 2.0)
    assert (written[1].beta, written[1].rho) == (0.9, THIRD)
    torch.save(written.state_dict(), tmp_path / "file.pt")
    found = torch.load(tmp_path / "file.pt")
    assert sorted(found) == ["0.bias", "0.weight", "1.beta_fixed", "1.jump_fixed", "1.rho_fixed", "1.threshold_log"]
    assert found["1.rho_fixed"].dtype == torch.float64
    keys = list(found)
    assert str(other.load_state_dict(found)) == "<All keys matched successfully>"
    assert list(found) == keys
    assert other[1].neuron == written[1].neuron
    assert torch.equal(other[1].jump, written[1].jump.float())
    x = randn(7, 3, 4, dtype=torch.float32)
    if how != "double":  # whose other tensors are rounded here
        assert torch.equal(other(x)[0], written.float()(x)[0])


@pytest.mark.parametrize("how", CASTS)
def test_a_module_of_another_dtype_computes_with_the_same_numbers(how):
    layer = nn.Leaky(0.9, THIRD)
    x = randn(9, 3, 5, dtype=torch.float64)
    wanted = leaves(layer(x, record=True))
    for backend in ("numba", "reference"):
        cast = CASTS[how](nn.Leaky(0.9, THIRD, backend=backend))
        assert all(torch.equal(a, b) for a, b in zip(leaves(cast(x, record=True)), wanted, strict=True))


OLDER: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "numbers alone": (lambda: nn.Leaky(0.9), {}),
    "a tensor, and what is learned": (
        lambda: nn.Leaky(torch.tensor([0.1, 0.2, 0.3]), learn_threshold=True),
        {"threshold_log": torch.tensor(0.25), "beta_fixed": torch.tensor([0.5, 0.6, 0.7])},
    ),
    "connections": (
        lambda: nn.RecurrentSynaptic(3, 0.8, 0.9, learn_beta=True),
        {"beta_logit": torch.tensor(2.0), "weight": torch.arange(9.0).view(3, 3) / 8},
    ),
    "a learned slope": (lambda: nn.Leaky(0.9, spike=nn.Spike(ATan(), learn="slope")), {"spike.slope_log": torch.tensor(1.5)}),
}


@pytest.mark.parametrize("what", OLDER)
def test_files_of_older_versions_load(what):
    """They lack the numbers that were given as numbers; these stay as the layer has them."""
    make, old = OLDER[what]
    layer = make()
    before = layer.neuron
    assert str(layer.load_state_dict(old)) == "<All keys matched successfully>"
    assert layer.neuron == before
    for name, value in old.items():
        assert torch.equal(layer.state_dict()[name], value)
    layer.backend = "reference"
    assert layer(torch.ones(4, 2, 3))[0].shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"gamma_fixed": torch.tensor(0.9)}, RuntimeError, "Unexpected key"),
        ({"beta_fixed": torch.tensor([0.5, 0.6])}, RuntimeError, "beta_fixed"),
        ({"beta_fixed": torch.tensor(1.5)}, ValueError, "`beta` of Leaky must be between 0 and 1, got 1.5"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(more, error, words):
    layer = nn.Leaky(0.9)
    with pytest.raises(error, match=words):
        layer.load_state_dict(layer.state_dict() | more)
    assert layer.beta == 0.9


# Copies.


class Scaled(torch.nn.Module):
    def forward(self, x):
        return 0.5 * x

    def right_inverse(self, x):
        return 2 * x


def learning(spike: bool) -> Any:
    if spike:
        return build("Leaky", nn.Spike(ATan(), learn="slope"), learn=False, detach_reset=False)
    return build("RecurrentSynaptic", ATan())


@pytest.mark.parametrize(("spike", "name"), [(False, "beta_logit"), (False, "weight"), (True, "slope_log")])
def test_parametrized(spike, name):
    """Numbers, weights and the surrogate's numbers may be functions of other parameters."""
    plain, layer = learning(spike), learning(spike)
    parametrize.register_parametrization(layer.spike if spike else layer, name, Scaled())
    currents = drive(layer, 9, 3, 5)
    wanted = outcome(plain, "numba", currents, record=True)
    for backend in ("numba", "reference"):
        got = outcome(layer, backend, currents, record=True)
        for a, b in zip(got.outputs, wanted.outputs, strict=True):
            assert torch.equal(a, b)
        (of_original,) = (g for each, g in got.gradients.items() if each.endswith(f"{name}.original"))
        (of_number,) = (g for each, g in wanted.gradients.items() if each.endswith(name))
        tolerance = 100 * torch.finfo(of_number.dtype).eps
        torch.testing.assert_close(of_original, 0.5 * of_number, rtol=0, atol=tolerance * of_number.abs().max().item())
        assert of_number.abs().max() > 0


def replicas(layer: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `torch.nn.DataParallel` makes of a module, with the processor in place of its devices."""
    module = sys.modules["torch.nn.parallel.replicate"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_get_device_index", lambda device, _: device)
        patch.setattr(module, "_broadcast_coalesced_reshape", lambda tensors, devices, detach: [[x * 1 for x in tensors] for _ in devices])
        return module.replicate(layer, list(range(count)))


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("spike", [False, True])
def test_replicas_in_threads(spike, backend, monkeypatch):
    """Parameters of a replica are no leaves and no parameters; their gradients arrive at the module's own."""
    layer = learning(spike)
    currents = drive(layer, 9, 6, 5)
    weights = randn(9, 6, 5, seed=4)
    layer.backend = backend
    (layer(currents)[0] * weights).sum().backward()
    wanted = {name: p.grad for name, p in layer.named_parameters()}
    expected = layer(currents)[0].detach()
    layer.zero_grad()
    parts = replicas(layer, 2, monkeypatch)
    assert not any(list(part.parameters()) for part in parts)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda part, x: part(x)[0], parts, currents.chunk(2, 1)))
    spikes = torch.cat(outputs, 1)
    assert torch.equal(spikes, expected)
    (spikes * weights).sum().backward()
    for name, p in layer.named_parameters():
        tolerance = 100 * torch.finfo(p.dtype).eps
        torch.testing.assert_close(p.grad, wanted[name], rtol=0, atol=tolerance * wanted[name].abs().max().item())
        assert p.grad.abs().max() > 0


def test_made_without_memory():
    """On the meta device: shown, run, given memory, and filled from a checkpoint."""

    def make() -> Any:
        values = {"rho": torch.linspace(0.5, 0.9, 3)}
        return nn.Layer(Adaptive(0.9), learn=("beta", "spike.slope"), values=values, recurrent="all-to-all", features=3)

    full = make()
    with torch.device("meta"):
        layer = make()
        spikes, state = layer(torch.empty(4, 2, 3))
    assert spikes.is_meta
    assert [part.shape for part in state] == [(2, 3)] * 3
    assert repr(layer).startswith("Layer(\n  Adaptive, beta=(), rho=(3,), jump=0.1")
    filled = layer.to_empty(device="cpu")
    filled.load_state_dict(full.state_dict())
    x = randn(9, 2, 3, dtype=torch.float32) * 2
    agree(outcome(filled, "numba", x), outcome(full, "numba", x))


def test_states_travel():
    """A tuple with names, also through a copy and a file; what comes back is taken."""
    layer = build("RecurrentSynaptic", ATan())
    currents = drive(layer, 9, 3, 5)
    spikes, state = layer(currents)
    assert state._fields == ("i", "v", "recurrent")
    wanted = layer(currents, state)[0]
    state = type(state)(*(part.detach() for part in state))
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state)), list(state), tuple(state)):
        assert isinstance(other, list) or type(other) in (tuple, type(state))
        assert torch.equal(layer(currents, other)[0], wanted)
    assert torch.equal(spikes[-1], state.recurrent)


@pytest.mark.parametrize("spike", [False, True])
def test_a_copy_learns_for_itself(spike):
    """Of a layer that has run; what is learned there changes nothing here."""
    layer = learning(spike)
    currents = drive(layer, 9, 3, 5)
    wanted = outcome(layer, "numba", currents)
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            for p in same.parameters():
                p.add_(0.5)
        changed = outcome(same, "numba", currents)
        agree(changed, outcome(same, "reference", currents), exact=False)
        assert not torch.allclose(changed.gradients["currents"], wanted.gradients["currents"])
        agree(outcome(layer, "numba", currents), wanted)


# Words for what does not fit.

TENSORS: dict[str, Callable[[], Any]] = {
    "a tensor": lambda: torch.tensor(0.5, requires_grad=True),
    "a result": lambda: torch.tensor([0.5, 0.6], requires_grad=True) * 1,
    "a parameter": lambda: torch.nn.Parameter(torch.tensor(0.5)),
    "a frozen parameter": lambda: torch.nn.Parameter(torch.tensor(0.5), requires_grad=False),
}
PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an argument": (lambda x: nn.Leaky(x), "beta"),
    "a second one": (lambda x: nn.Synaptic(0.9, 0.9, x, learn="beta"), "threshold"),
    "values": (lambda x: nn.Layer(Leaky(0.9), values={"threshold": x}, learn="beta"), "threshold"),
    "values of the surrogate": (lambda x: nn.Layer(Leaky(0.9), values={"spike.slope": x}), "spike.slope"),
    "a surrogate of its own": (lambda x: nn.Spike(ATan(), values={"slope": x}), "slope"),
}


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("place", PLACES)
def test_what_would_be_detached_is_refused_naming_learn(place, what):
    """And the way that the message names works."""
    make, name = PLACES[place]
    given = TENSORS[what]()
    with pytest.raises(ValueError, match=rf"`{name}` .*learn it with learn=\('{name}',\), or give {name}\.detach\(\)"):
        make(given)
    assert make(given.detach()) is not None
    if place.startswith("values"):
        learned = nn.Layer(Leaky(0.9), values={name: given}, learn=(name,))
        assert [p.shape for p in learned.parameters()] == [given.shape]


@pytest.mark.parametrize("make", [Leaky, ATan, lambda x: Adaptive(0.9, rho=x)])
def test_a_formula_takes_no_tensor(make):
    with pytest.raises(
        TypeError, match=r"must be a number, got Parameter; pass (tensors|arrays) beside the (neuron|surrogate): .*spikegrad"
    ):
        make(torch.nn.Parameter(torch.tensor(0.5)))


MISFITS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "a state": (lambda run, ones: run("Leaky", ones(5, 2, 3), state=ones(4, 3)), ("(4, 3)", "(5, 2, 3)", "(2, 3)", "v")),
    "one of the states": (
        lambda run, ones: run("Synaptic", ones(5, 2, 3), state=(ones(2, 3), ones(5, 2, 3))),
        ("`state` v", "(5, 2, 3)", "(2, 3)"),
    ),
    "a state that is one number": (lambda run, ones: run("Leaky", ones(5, 2, 3), state=ones()), ("()", "(5, 2, 3)", "(2, 3)")),
    "too few states": (lambda run, ones: run("Synaptic", ones(5, 2, 3), state=ones(2, 3)), ("(i, v)", "1 array")),
    "no fed back spikes": (
        lambda run, ones: run("Leaky", ones(5, 2, 3), weights=ones(3, 3), state=ones(2, 3)),
        ("(v, recurrent)", "1 array"),
    ),
    "a number": (lambda run, ones: run("Leaky", ones(5, 2, 3), beta=ones(4)), ("`beta`", "(4,)", "(5, 2, 3)", "(2, 3)")),
    "a number for each step": (
        lambda run, ones: run("Leaky", ones(5, 2, 3), threshold=ones(5, 2, 3)),
        ("`threshold`", "(5, 2, 3)", "(2, 3)"),
    ),
    "a number of the surrogate": (
        lambda run, ones: run("Leaky", ones(5, 2, 3), **{"spike.slope": ones(4)}),
        ("`spike.slope`", "(4,)", "(5, 2, 3)", "(2, 3)"),
    ),
    "weights": (lambda run, ones: run("Leaky", ones(5, 2, 3), weights=ones(4, 4)), ("(4, 4)", "(5, 2, 3)", "(3, 3)", "(3,)")),
    "weights of one to one": (lambda run, ones: run("Leaky", ones(5, 2, 3), weights=ones(4)), ("(4,)", "(5, 2, 3)", "(3, 3)", "(3,)")),
    "currents": (lambda run, ones: run("Leaky", ones(5)), ("(5,)", "(time, batch, *features)", "currents[None]")),
    "a second input": (
        lambda run, ones: run("GatedLeaky", (ones(5, 2, 3), ones(5, 2, 4))),
        ("`conductance`", "(5, 2, 4)", "`current`", "(5, 2, 3)"),
    ),
    "one input of two": (lambda run, ones: run("GatedLeaky", ones(5, 2, 3)), ("2 inputs", "(current, conductance)", "got 1")),
}


@pytest.mark.parametrize("what", MISFITS)
def test_shapes_that_do_not_fit(what):
    """One ValueError that names both shapes, in the same words in PyTorch and in JAX, fused and not, traced and not."""
    jax = pytest.importorskip("jax")
    from spikegrad import jax as sj
    from spikegrad.neurons import CATALOGUE

    def neuron(name: str) -> Any:
        return CATALOGUE[name](**{"Leaky": {"beta": 0.9}, "Synaptic": {"alpha": 0.9, "beta": 0.9}}.get(name, {}))

    def in_pytorch(backend: str) -> Any:
        def run(name: str, currents: Any, state: Any = None, weights: Any = None, **values: Any) -> Any:
            connected = {} if weights is None else {"recurrent": ("", "one-to-one", "all-to-all")[weights.ndim], "features": len(weights)}
            return nn.Layer(neuron(name), values=values, backend=backend, **connected)(currents, state)

        return lambda: call(run, lambda *shape: torch.ones(shape))

    def in_jax(backend: str, traced: bool) -> Any:
        def run(name: str, currents: Any, state: Any = None, weights: Any = None, **values: Any) -> Any:
            def made(currents: Any, state: Any, weights: Any, values: Any) -> Any:
                return sj.run(neuron(name), currents, state=state, weights=weights, values=values, backend=backend)

            return (jax.jit(made) if traced else made)(currents, state, weights, values)

        return lambda: call(run, lambda *shape: jax.numpy.ones(shape))

    call, words = MISFITS[what]
    backends = ("numba", "reference", "auto")
    told = set()
    for attempt in (*map(in_pytorch, backends), *itertools.starmap(in_jax, itertools.product(backends, (False, True)))):
        with pytest.raises(ValueError, match=r"must|need|takes|all inputs") as error:
            attempt()
        assert type(error.value) is ValueError
        told.add(str(error.value))
    (text,) = told
    assert all(word in text for word in words), text


def test_inputs_and_numbers_that_are_computed_from_each_other():
    """A gradient that is to be differentiated again comes from the plain loop: each by itself, and what leads from one to another once."""
    x0, found = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(0)), []
    for backend in ("auto", "reference"):
        x = x0.clone().requires_grad_()
        current = x * 1.5
        spikes, _ = nn.Layer(example("GatedLeaky"), backend=backend)((current, torch.sigmoid(current)))
        (grad,) = torch.autograd.grad((spikes * x0).sum(), x, create_graph=True)
        found.append((grad, *torch.autograd.grad(grad.square().sum(), x)))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def test_a_backend_that_there_is_none_of_is_refused_later_too():
    layer = nn.Leaky(0.9)
    with pytest.raises(ValueError, match=r"`backend` must be one of 'auto', .*, got 'nonsense'"):
        layer.backend = "nonsense"
    assert layer.backend == "auto"
    layer.backend = "reference"
