"""The fused kernels on the CPU against the plain loop: spikes, states and recorded values bit for bit, gradients to rounding."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from tests.conftest import VARYING, driving, example, pairwise, spread  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.library import opcheck  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from spikegrad import ATan, Decay, Neuron, NoisyThreshold, State, Step, Surrogate, from_formula, nn  # noqa: E402
from spikegrad.formulas import CATALOGUE as FORMULAE  # noqa: E402
from spikegrad.kernels.cpu.compiler import compiled  # noqa: E402
from spikegrad.kernels.plan import Call  # noqa: E402
from spikegrad.neurons import CATALOGUE  # noqa: E402

FORMULAS = [name for name in FORMULAE if not FORMULAE[name]().stochastic]
KINDS = ("Leaky", "Synaptic", "RecurrentLeaky", "RecurrentSynaptic", "LeakyIntegrator")
SPIKING = KINDS[:4]
FLOATS = {"float32": torch.float32, "float64": torch.float64}


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def build(kind: str, spike: Any = None, features: Any = 5, *, learn: bool = True, random: bool = False, **options: Any) -> Any:
    """A layer with decays and threshold per neuron.

    Recurrent weights are dyadic, so that their sums are exact, unless `random`.
    """
    shape = (features,) if isinstance(features, int) else features
    count = math.prod(shape)

    def between(low: float, high: float) -> torch.Tensor:
        return torch.linspace(low, high, count, dtype=torch.float64).reshape(shape)

    learned = {"learn_beta": learn}
    if kind == "LeakyIntegrator":
        return nn.LeakyIntegrator(between(0.5, 0.95), **learned)
    numbers = {"beta": between(0.7, 0.95), "threshold": between(0.8, 1.2)}
    if "Synaptic" in kind:
        numbers["alpha"] = between(0.4, 0.8)
        learned["learn_alpha"] = learn
    before = (shape[-1],) if "Recurrent" in kind else ()
    layer = getattr(nn, kind)(*before, **numbers, spike=spike, learn_threshold=learn, **learned, **options)
    if before:
        set_weights(layer, random=random)
    return layer


def set_weights(layer: Any, *, random: bool = False) -> None:
    given = randn(*layer.weight.shape, seed=1) / 3
    layer.weight.data.copy_(given if random else (given * 16).round() / 16)


def threshold(layer: Any) -> torch.Tensor:
    """That of each neuron, of at least one dimension."""
    return torch.atleast_1d(torch.as_tensor(layer.threshold, dtype=torch.float64).detach())


def drive(layer: Any, *shape: int, dtype: str = "float64") -> torch.Tensor:
    """Currents that make about a third spike, some of them from rest exactly at the threshold."""
    currents = (randn(*shape) * 0.8 + 0.4).to(FLOATS[dtype])
    if len(currents) and "threshold" in layer.neuron.numbers:
        currents[0, ..., :1] = threshold(layer)[..., :1].to(currents)
    return currents


def start(layer: Any, currents: torch.Tensor) -> Any:
    """A state of each kind; the first sample's potential is at the threshold, spikes are 0 or 1."""
    v, i = (randn(*currents.shape[1:], seed=seed).to(currents) for seed in (2, 3))
    if isinstance(layer, nn.LeakyIntegrator):
        return v
    v[:1] = threshold(layer).to(currents).expand(v.shape)[:1]
    parts = ((i,) if "i" in layer.neuron.states else ()) + (v,) + (() if layer.weight is None else ((i > 0).to(currents),))
    return parts if len(parts) > 1 else v


def leaves(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


def turned(x: torch.Tensor) -> torch.Tensor:
    """With the last two axes exchanged, where there are two: what flows back through it is not contiguous."""
    return x.mT if x.ndim > 1 else x


@dataclasses.dataclass
class Outcome:
    """What a layer returned, and the gradients of a random function of it, by name."""

    outputs: list[torch.Tensor]
    gradients: dict[str, torch.Tensor]


def weighted(outputs: list[torch.Tensor]) -> torch.Tensor:
    """A random function of some outputs; the gradients that it sends are not contiguous."""
    return sum((turned(part) * turned(randn(*part.shape, seed=9).to(part))).sum() for part in outputs)


def outcome(
    layer: Any,
    backend: str,
    currents: Any,
    state: Any = None,
    *,
    record: Any = False,
    used: slice = slice(None),
    wanted: Iterable[str] | None = None,
    call: Callable[..., Any] | None = None,
    total: Callable[[list[torch.Tensor]], torch.Tensor] = weighted,
) -> Outcome:
    """Run a layer in one backend, and differentiate a function of the outputs `used` by what is given and learned, or what is `wanted`."""
    layer.backend = backend
    wanted = None if wanted is None else list(wanted)
    several = isinstance(currents, tuple)
    given = {f"currents {k}" if several else "currents": part for k, part in enumerate(currents if several else (currents,))}
    count = len(given)
    given |= {f"state {k}": part for k, part in enumerate(leaves(() if state is None else state))}
    given = {name: part.detach().requires_grad_(wanted is None or name in wanted) for name, part in given.items()}
    inputs, parts = tuple(given.values())[:count], tuple(given.values())[count:]
    state = None if state is None else parts[0] if isinstance(state, torch.Tensor) else parts
    learned = dict(layer.named_parameters())
    for name, parameter in learned.items():
        parameter.requires_grad_(wanted is None or name in wanted)
    more = {"record": record} if record else {}
    outputs = leaves((layer if call is None else call)(inputs if several else inputs[0], state, **more))
    loss = total(outputs[used])
    leaf = {name: part for name, part in (given | learned).items() if part.requires_grad}
    layer.zero_grad()
    if loss.requires_grad:
        loss.backward()
    gradients = {name: torch.zeros_like(part) if part.grad is None else part.grad for name, part in leaf.items()}
    return Outcome([part.detach() for part in outputs], gradients)


def tolerances(reference: Outcome, eps: float, steps: int) -> dict[str, float]:
    """How far the gradients may be from the plain loop's, which sums the same terms in another order.

    A gradient is a sum over paths through time: at each of the steps it is multiplied and added to a few times, so that its error is within
    two eps for each step of the largest gradient among those of the same loop. A parameter sums over steps and samples, and each term is
    the product of such a gradient and a potential.
    """
    flowing = [g.abs().max().item() for name, g in reference.gradients.items() if name.startswith(("currents", "state")) and g.numel()]
    potential = max([1.0] + [part.abs().max().item() for part in reference.outputs if part.numel()])
    size = max([1.0, *flowing])
    count = max(1, reference.outputs[0].numel())
    limits = {}
    for name, g in reference.gradients.items():
        terms = potential * count / max(1, g.numel()) if "_" in name or "weight" in name else 1
        limits[name] = 2 * max(eps, torch.finfo(g.dtype).eps) * max(1, steps) * size * terms
    return limits


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
        assert gradient.dtype == wanted.gradients[name].dtype
        torch.testing.assert_close(
            gradient, wanted.gradients[name], rtol=0, atol=limits[name], equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
        )


def both(layer: Any, *arguments: Any, exact: bool = True, **options: Any) -> Outcome:
    """Run a layer fused and in the plain loop, and compare."""
    wanted = outcome(layer, "reference", *arguments, **options)
    agree(outcome(layer, "numba", *arguments, **options), wanted, exact=exact)
    return wanted


# Every neuron.

OPTIONS: dict[str, tuple[Any, ...]] = {
    "reset": ("subtract", "zero", "none"),
    "detach_reset": (True, False),
    "spike_at_threshold": (True, False),
    "reset_delay": (False, True),
    "scale_input": (False, True),
    "reset_phase": (True, False),
    "levels": (4, 1),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "neuron": tuple(CATALOGUE),
    "numbers": ("floats", "each", "mixed"),
    "dtype": tuple(FLOATS),
    "record": ((), ("u",), ("excess", "u")),
    "spike": ("floats", "learned", "learned for each"),
    "formula": tuple(FORMULAS),
    "given": (False, True),
    **OPTIONS,
}
STEPS, BATCH, FEATURES = 9, 3, 5


@functools.cache
def readable(name: str) -> frozenset[str]:
    """The options that a neuron reads, by asking for another value than any default."""
    other = {option: "none" if option == "reset" else values[1] for option, values in OPTIONS.items()}
    found = set()
    for option in OPTIONS:
        try:
            example(name, **{"reset_phase": False} if name == "ResonateAndFire" and option == "reset" else {}, **{option: other[option]})
            found.add(option)
        except (TypeError, ValueError):
            continue
    return frozenset(found | ({"detach_reset", "spike_at_threshold"} & fields_read(name)))


def fields_read(name: str) -> set[str]:
    found = set()
    for option in ("detach_reset", "spike_at_threshold"):
        try:
            example(name, **{option: False})
            found.add(option)
        except ValueError:
            continue
    return found


@functools.cache
def near(name: str) -> bool:
    """Whether a neuron is driven so that its potential is where a surrogate's derivative is not flat."""
    return all(x.std() < 1.25 for x in driving(example(name), 100))


def allowed(choice: str, value: Any, row: Any) -> bool:
    if row.get("neuron") == "LeakyIntegrator" and (choice in ("spike", "formula") or value == ("excess", "u")):
        return False  # it does not spike
    if choice == "reset" and row.get("reset_phase"):
        return False
    if choice == "formula":
        return near(row["neuron"]) and row.get("spike") != "floats"
    return choice not in OPTIONS or choice in readable(row["neuron"])


def allowed_few(choice: str, value: Any, row: Any) -> bool:
    """Neurons without a choice of resets have two rows, in which as many of their numbers as can be are arrays, or learned, or both."""
    return allowed(choice, value, row) and (value != "floats" or choice != "numbers" or "reset" in readable(row["neuron"]))


ONCE = ("formula", "reset_phase", "levels")
ROWS = pairwise(CHOICES, allowed=allowed_few, without=[("neuron", other) for other in ("spike", "dtype", "record")], once=ONCE)


def built(row: dict[str, Any], features: int = FEATURES, **more: Any) -> Any:
    """A layer of any neuron, as a row says.

    Its numbers are floats; or all of them learned, different for each neuron; or by turns learned, fixed for each neuron, and a float.
    """
    options = {name: row[name] for name in OPTIONS if row.get(name) is not None}
    if row["neuron"] == "ResonateAndFire" and options.get("reset_phase"):
        options.pop("reset", None)
    surrogate = ATan(3.0) if row.get("formula") is None else FORMULAE[row["formula"]]()
    if row["spike"] is not None:
        options["spike"] = surrogate
    neuron = example(row["neuron"], **options)
    learn, values = [], {}
    for k, name in enumerate(neuron.numbers if row["numbers"] != "floats" else ()):
        turn = k % 3 if row["numbers"] == "mixed" else -1
        if turn in (0, -1) and learnable(neuron, name):
            learn.append(name)
        if turn in (1, -1):
            values[name] = torch.from_numpy(spread(neuron, name, features))
    for name in learnable_numbers(surrogate) if row["spike"] in ("learned", "learned for each") else ():
        learn.append(f"spike.{name}")
        if row["spike"] == "learned for each":
            values[f"spike.{name}"] = torch.from_numpy(spread(surrogate, name, features))
    return nn.Layer(neuron, learn=learn, values=values, **more)


def learnable_numbers(surrogate: Surrogate) -> list[str]:
    """What can be learned of a surrogate with these numbers."""
    return [name for name, within in surrogate.numbers.items() if within.inside(getattr(surrogate, name)) and learnable(surrogate, name)]


def learnable(neuron: Neuron | Surrogate, name: str) -> bool:
    try:
        neuron.require_learnable(name)
    except ValueError:
        return False
    return True


def arriving(layer: Any, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """Inputs of a layer of any neuron."""
    scale = 1 / (1 - layer.neuron.beta) if getattr(layer.neuron, "scale_input", False) else 1
    found = tuple(scale * torch.from_numpy(x).to(dtype) for x in driving(layer.neuron, *shape, seed=seed))
    return found if len(found) > 1 else found[0]


def reached(layer: Any, dtype: torch.dtype, batch: int = BATCH, features: int = FEATURES) -> Any:
    """A state that the neurons come into."""
    layer.backend = "reference"
    with torch.no_grad():
        return layer(arriving(layer, 4, batch, features, dtype=dtype, seed=3))[1]


def rounds_alike(layer: Any) -> bool:
    """Whether a step takes only operations that are rounded correctly, and so alike everywhere."""
    step = Call(layer.neuron.record, layer.neuron.spike.structure).plan.step
    return not any(operation in VARYING for operation, *_ in step.instructions)


def named(row: dict[str, Any]) -> str:
    return "-".join(str(value) for value in row.values() if value is not None).replace(" ", "")


@functools.cache
def all_rows() -> list[dict[str, Any]]:
    """Rows in which every two choices meet, but for the formulas; to choose them takes a second."""
    return pairwise(CHOICES, allowed=allowed, once=ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_neuron_with_everything(name):
    for row in all_rows():
        if row["neuron"] == name:
            test_every_neuron(row)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_neuron(row):
    """Every two choices meet, those of a neuron and what it computes with; here not its dtype, what is recorded and the surrogate.

    Where a step has functions that libraries round differently, sequences agree to rounding, and one step is compared as well.
    """
    layer, dtype = built(row), FLOATS[row["dtype"]]
    exact = rounds_alike(layer)
    record = row["record"] if exact else ONE_STEP
    inputs = arriving(layer, STEPS, BATCH, FEATURES, dtype=dtype)
    state = reached(layer, dtype) if row["given"] else None
    result = both(layer, inputs, state, record=record, exact=exact)
    if row["neuron"] != "LeakyIntegrator":
        assert 0.02 < (result.outputs[0] != 0).double().mean() < 0.98
    moved = [name for name, gradient in result.gradients.items() if gradient.abs().max() > 0]
    assert {name for name in result.gradients if name.startswith("currents")} <= {*moved}
    if row.get("formula") is not None and row.get("reset") != "none":  # without one, potentials may stay where a formula is flat
        assert len([name for name in moved if name.startswith("spike.")]) == len(learnable_numbers(layer.neuron.spike))
    if not exact:
        one_step(layer, dtype)
    # One sample meets what is not finite; the others do not notice.
    strange = [x.clone() for x in leaves(inputs)]
    for x in strange:
        x[2, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    strange = tuple(strange) if len(strange) > 1 else strange[0]
    wanted, got = (outcome(layer, backend, strange, state, record=record) for backend in ("reference", "numba"))
    for a, b, before in zip(got.outputs, wanted.outputs, result.outputs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **{"rtol": 0, "atol": 0} if exact else {})
        assert torch.equal(b[..., 1:, :], before[..., 1:, :])
    for name in (name for name in got.gradients if name.startswith(("currents", "state"))):
        a, b = got.gradients[name], wanted.gradients[name]
        assert torch.equal(a.isfinite(), b.isfinite()), name
        limits = tolerances(Outcome(result.outputs, {name: b.nan_to_num(0, 0, 0)}), torch.finfo(dtype).eps, STEPS)
        torch.testing.assert_close(a, b, rtol=0, atol=limits[name], equal_nan=True)
        assert a[..., 1:, :].isfinite().all()


ONE_STEP = ("excess", "u")
"""What is recorded where one step is compared."""


def one_step(layer: Any, dtype: torch.dtype) -> None:
    """One step from equal states: within a few units in the last place, and spikes equal away from the threshold."""
    batch, eps = 200, torch.finfo(dtype).eps
    inputs, state = arriving(layer, 1, batch, FEATURES, dtype=dtype, seed=5), reached(layer, dtype, batch)
    wanted, got = (outcome(layer, backend, inputs, state, record=ONE_STEP) for backend in ("reference", "numba"))
    *_, excess, u = wanted.outputs
    unit = 8 * eps * max(1.0, u.abs().max().item())
    away = excess[0].abs() > unit
    assert away.double().mean() > 0.99
    for a, b in zip(got.outputs, wanted.outputs, strict=True):
        assert (a - b).abs()[..., away].max() <= unit
    for name, gradient in got.gradients.items():
        if name.startswith(("currents", "state")):
            scale = max(1.0, wanted.gradients[name].abs().max().item())
            assert (gradient - wanted.gradients[name]).abs()[..., away].max() <= 64 * eps * scale, name


def structures(name: str) -> list[dict[str, Any]]:
    read = [option for option in OPTIONS if option in readable(name)]
    rows = [dict(zip(read, values, strict=True)) for values in itertools.product(*(OPTIONS[option] for option in read))]
    return [row for row in rows if not (row.get("reset_phase") and row["reset"] != "none")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_structure(name):
    """The full product of a neuron's options and of how its numbers are given; all else by turns."""
    rest = itertools.cycle(itertools.product(*(CHOICES[choice] for choice in ("given", "record", "dtype", "spike"))))
    for structure, numbers in itertools.product(structures(name), CHOICES["numbers"]):
        given, record, dtype, spike = next(itertools.islice(rest, 4, 5))
        spike = None if name == "LeakyIntegrator" else spike
        test_every_neuron(
            {"neuron": name, "numbers": numbers, "dtype": dtype, "record": record, "spike": spike, "given": given, **structure}
        )


def test_state_and_rest_are_data():
    """A kernel does not depend on whether a state is given, which gradients of states are wanted, or what the numbers are."""
    row = next(row for row in ROWS if row["neuron"] == "Adaptive" and row["numbers"] == "each")
    layer, dtype, record = built(row), FLOATS[row["dtype"]], row["record"]
    inputs = arriving(layer, STEPS, BATCH, FEATURES, dtype=dtype)
    state = reached(layer, dtype)
    both(layer, inputs, record=record)
    before = compiled.cache_info().misses
    both(layer, inputs, state, record=record)
    both(layer, inputs, state, record=record, wanted=["currents", "beta_logit", "rho_logit", "jump_value", "threshold_log", "state 1"])
    both(layer, torch.cat([inputs, inputs]), record=record)
    with torch.no_grad():
        layer.beta_logit.mul_(0.5)
    both(layer, inputs, record=record)
    assert compiled.cache_info().misses == before


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula(name):
    """With what of it can be learned, which takes its primitive; beside a neuron each is in a row of `test_every_neuron`."""
    kind, dtype = list(itertools.product(("Leaky", "Synaptic"), FLOATS))[FORMULAS.index(name) % 4]
    surrogate = FORMULAE[name]()
    learn = learnable_numbers(surrogate)
    layer = build(kind, nn.Spike(surrogate, learn=learn), learn=False, detach_reset=False)
    result = both(layer, drive(layer, 12, 4, 5, dtype=dtype))
    assert 0.1 < result.outputs[0].mean() < 0.9
    assert result.gradients["currents"].abs().max() > 0.01
    assert len(result.gradients) == 1 + len(learn)


def test_random_numbers_that_a_formula_cannot_learn():
    """A surrogate's numbers that are tensors are numbers of each neuron, learned or not."""
    spike = nn.Spike(ATan(), values={"slope": torch.linspace(1.0, 4.0, 5)})
    layer = build("Leaky", spike, learn=False)
    one = [both(layer, drive(layer, 9, 3, 5)).gradients["currents"]]
    one.append(both(build("Leaky", ATan(), learn=False), drive(layer, 9, 3, 5)).gradients["currents"])
    assert not torch.allclose(*one)


# Connections.

CONNECTED = ("RecurrentLeaky", "RecurrentSynaptic")
CONNECTIONS: dict[str, tuple[Any, ...]] = {
    "kind": CONNECTED,
    "connection": ("all-to-all", "one-to-one"),
    "reset": ("subtract", "zero", "none"),
    "reset_delay": (False, True),
    "detach_reset": (True, False),
    "spike_at_threshold": (True, False),
    "learn": (True, False),
    "record": (False, True),
    "dtype": tuple(FLOATS),
}


@pytest.mark.parametrize("row", pairwise(CONNECTIONS), ids=named)
def test_connected(row):
    """Every two options; dyadic weights make the sums exact, so that spikes are equal bit for bit.

    From rest, and from potentials at the threshold, where a delayed reset is due.
    """
    options = {name: row[name] for name in ("connection", "reset", "reset_delay", "detach_reset", "spike_at_threshold")}
    layer = build(row["kind"], ATan(), learn=row["learn"], **options)
    currents = drive(layer, 9, 3, 5, dtype=row["dtype"])
    for state in (None, start(layer, currents)):
        result = both(layer, currents, state, record=row["record"])
        assert result.gradients["weight"].abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Leaky", *CONNECTED])
def test_every_reset(kind):
    """With everything learned, for each has its gradients."""
    choices = [CONNECTIONS[name] for name in ("connection", "reset", "reset_delay", "detach_reset")]
    for connection, reset, delay, detach in itertools.product(*choices):
        more = {"connection": connection} if "Recurrent" in kind else {}
        layer = build(kind, ATan(), reset=reset, reset_delay=delay, detach_reset=detach, spike_at_threshold=reset != "zero", **more)
        currents = drive(layer, 9, 3, 5)
        for state in (None, start(layer, currents)):
            both(layer, currents, state)


@pytest.mark.parametrize("kind", CONNECTED)
def test_random_recurrent_weights(kind):
    """Their sums are taken in another order than a matrix product takes them, so that potentials are only close."""
    layer = build(kind, ATan(), features=7, random=True)
    both(layer, drive(layer, 11, 3, 7), record=True, exact=False)


class Pair(Neuron):
    """Two inputs and two outputs, of which the second is no spike."""

    beta: Decay
    mix: float = 0.5
    v: State = 0.0
    trace: State = 0.0

    def step(self, current, gate, v, trace):
        u = self.beta * v + self.mix * current + gate * trace
        s = self.fire(u - 1)
        trace = self.beta * trace + s
        return Step(s, trace * gate, v=self.after_spike(u, s, 1.0), trace=trace, u=u)


@pytest.mark.parametrize(
    ("neuron", "recurrent"),
    [
        pytest.param(Pair(0.75), None, marks=pytest.mark.slow),
        (Pair(0.75), "all-to-all"),
        (Pair(0.75), "one-to-one"),
        pytest.param(example("GatedLeaky"), "all-to-all", marks=pytest.mark.slow),
        (example("GatedLeaky"), "one-to-one"),
        (example("Adaptive"), "all-to-all"),
    ],
    ids=lambda value: value if isinstance(value, str | None) else type(value).__name__,
)
def test_several_inputs_and_outputs(neuron, recurrent):
    """With connections, which feed the first output back into the first input."""
    more = {} if recurrent is None else {"recurrent": recurrent, "features": 4}
    layer = nn.Layer(neuron, learn="beta", values={"beta": torch.tensor([0.5, 0.625, 0.75, 0.875])}, **more)
    if recurrent is not None:
        set_weights(layer)
    currents = tuple((randn(8, 3, 4, seed=seed) * 16).round() / 8 for seed in range(len(neuron.inputs)))
    currents = currents if len(currents) > 1 else currents[0]
    result = both(layer, currents, record=("u", "excess"))
    assert len(result.outputs) == neuron.record.outputs + len(neuron.states) + (recurrent is not None) + 2
    assert 0.05 < result.outputs[0].mean() < 0.95
    state = tuple(part.detach() for part in leaves(layer(currents, record=("u", "excess"))[1]))
    both(layer, currents, state, record=("u", "excess"))
    if isinstance(neuron, Pair) and recurrent == "all-to-all":
        for used in range(2):  # of what else a layer returns see `test_one_output_is_used`
            both(layer, currents, record=("u", "excess"), used=slice(used, used + 1))


# What a user's own step may be.


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


class Clashing(Neuron):
    """Names that mean something in the printed source."""

    j: float = 0.5
    real: float = 0.25
    count: float = 1.5
    constant0: float = 0.75
    rows: State = 0.0
    steps: State = 0.0

    def step(self, np, t, rows, steps):
        load = self.j * rows + np * self.real
        job = load + t
        store = self.fire(job - self.count)
        U = steps * self.j + self.constant0 * store  # noqa: N806
        return Step(store, U, rows=self.after_spike(job, store, self.count), steps=U, line=load)


def test_names_that_mean_something_else_in_the_printed_source():
    layer = nn.Layer(Clashing(), learn=("j", "count"), values={"real": torch.linspace(0.1, 0.4, 4)})
    currents = randn(8, 3, 4) * 2, randn(8, 3, 4, seed=1)
    both(layer, currents, record=("line", "excess"))


class Stateless(Neuron):
    gain: float = 2.0

    def step(self, current):
        return Step(self.fire(self.gain * current - 1), current * current)


class Still(Neuron):
    """Whose output does not depend on its input."""

    rate: float = 0.25
    phase: State = 0.5

    def step(self, current, phase):
        ahead = phase + self.rate
        s = self.fire(ahead - 1)
        return Step(s, phase=ahead - s, u=ahead)


def test_steps_without_states_and_without_a_use_for_their_input():
    layer = nn.Layer(Stateless(), learn="gain")
    _, state = layer(randn(5, 2, 3))
    assert state == ()
    both(layer, randn(5, 2, 3))
    still = nn.Layer(Still(), learn="rate")
    result = both(still, randn(9, 2, 3), torch.linspace(0, 1, 6).reshape(2, 3).double())
    assert (result.gradients["currents"] == 0).all()
    assert result.gradients["rate_value"].abs() > 0


# Sizes, strides, and what is asked of a layer.

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
    "expanded in time and batch": (3, lambda: randn(1, 1, 3).expand(6, 4, 3)),
    "one number": (3, lambda: randn(1, 1, 1).expand(6, 4, 3)),
    "expanded in batch": (3, lambda: randn(6, 1, 3).expand(6, 4, 3)),
    "every second of one step": (4, lambda: randn(1, 3, 8)[..., ::2].expand(5, 3, 4)),
    "negative": (3, lambda: torch._neg_view(randn(4, 2, 3))),
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
    if currents.is_neg():
        layer.backend = "auto"
        assert torch.equal(layer(currents, record=True)[0], layer(currents.clone(), record=True)[0])
        return
    both(layer, currents, record=True)
    both(layer, currents, start(layer, currents.clone()), record=True)
    assert currents.numel() == 0 or layer(currents, record=True)[0].isfinite().all()


ARRIVING: dict[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {
    "sum of spikes": lambda outputs: outputs[0].sum(),
    "sum of potentials": lambda outputs: outputs[-1].sum() + weighted(outputs[:1]),
    "sums of all": lambda outputs: sum(part.sum() for part in outputs),
    "mean over time": lambda outputs: (outputs[0].mean(0) * randn(*outputs[0].shape[1:]).to(outputs[0])).sum(),
    "mean over batch": lambda outputs: (outputs[0].mean(1) * randn(len(outputs[0]), outputs[0].shape[-1]).to(outputs[0])).sum(),
    "one step": lambda outputs: (outputs[0][3] * randn(*outputs[0].shape[1:]).to(outputs[0])).sum(),
    "one spike": lambda outputs: outputs[0][1, 1, 1] * 3,
    "a part of the state": lambda outputs: outputs[1][:, ::2].sum(),
}


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic"])
@pytest.mark.parametrize("how", ARRIVING)
def test_gradients_that_are_expanded_or_missing(how, kind):
    """`sum` sends one number for all steps, a mean over time one row, a choice zeros; what is not used sends nothing."""
    layer = build(kind, ATan())
    result = both(layer, drive(layer, 9, 3, 5), record=True, total=ARRIVING[how])
    assert result.gradients["currents"].abs().max() > 0


def test_a_gradient_of_one_element():
    layer = nn.Leaky(0.9)
    both(layer, randn(1, 1), total=lambda outputs: outputs[0].sum())
    both(layer, randn(1, 1) + 3, total=lambda outputs: outputs[0].sum() * 2)


WANTED = [
    *("currents", "state 0", "state 1", "state 2", "beta_logit", "weight"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("alpha_logit", "threshold_log")),
]


@pytest.mark.parametrize("wanted", WANTED)
def test_one_input_wants_a_gradient(wanted):
    layer = build("RecurrentSynaptic", ATan())
    currents = drive(layer, 9, 3, 5)
    result = both(layer, currents, start(layer, currents), wanted=[wanted])
    assert result.gradients.keys() == {wanted}
    assert result.gradients[wanted].abs().max() > 0


@pytest.mark.parametrize("wanted", ["currents 0", "currents 1", "a number"])
def test_one_of_several_inputs_wants_a_gradient(wanted):
    layer, currents, _, record = fitted("GatedLeaky", 9)
    wanted = next(iter(dict(layer.named_parameters()))) if wanted == "a number" else wanted
    result = both(layer, currents, wanted=[wanted], record=record)
    assert result.gradients[wanted].abs().max() > 0


@pytest.mark.parametrize(("kind", "used"), [(kind, k) for kind in ("Leaky", "RecurrentSynaptic", "LeakyIntegrator") for k in range(5)])
def test_one_output_is_used(kind, used):
    layer = build(kind, ATan())
    currents = drive(layer, 9, 3, 5)
    outputs = 1 + len(layer.neuron.states) + (layer.weight is not None) + 1
    if used < outputs:
        both(layer, currents, record=True, used=slice(used, used + 1))


def test_no_gradient_is_asked():
    layer = nn.RecurrentLeaky(5, 0.9)
    set_weights(layer)
    currents = drive(layer, 9, 3, 5, dtype="float32")
    both(layer, currents, wanted=[])
    layer.backend = "numba"
    with torch.no_grad():
        assert not layer(currents)[0].requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(layer(currents)[0], layer(currents.clone())[0])


def test_tensors_of_inference_mode():
    """They are not tracked, but read."""
    layer = build("Leaky", ATan(), learn=False)
    with torch.inference_mode():
        currents = drive(layer, 9, 3, 5)
    both(layer, currents.clone())
    layer.backend = "numba"
    assert torch.equal(layer(currents)[0], layer(currents.clone())[0])


def held(run: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that autograd holds for a backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = run()
    return sum(storages.values()), made


def test_what_is_saved_for_the_backward_pass():
    """The currents, and with all-to-all recurrence the spikes and one value a neuron and step; nothing without a gradient to come."""
    currents = randn(50, 4, 32, dtype=torch.float32)
    size, small = currents.nbytes, 4 * 4 * 32
    leaky, recurrent, integrator = nn.Leaky(0.9), nn.RecurrentLeaky(32, 0.9), nn.LeakyIntegrator(0.9)
    for layer, most in ((leaky, size), (recurrent, 2 * size + 32 * 32 * 4), (integrator, 0)):
        layer.backend = "numba"
        with_gradient, _ = held(lambda layer=layer: layer(currents.clone().requires_grad_()))
        assert most <= with_gradient <= most + small, layer
        layer.requires_grad_(False)
        assert held(lambda layer=layer: layer(currents))[0] == 0
        with torch.no_grad():
            assert held(lambda layer=layer: layer(currents.clone().requires_grad_()))[0] == 0


def test_a_saved_input_that_changed_is_noticed():
    layer = build("Leaky", ATan(), learn=False)
    layer.backend = "numba"
    leaf = drive(layer, 9, 3, 5).requires_grad_()
    currents = leaf * 1
    spikes, _ = layer(currents)
    currents.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()
    connected = build("RecurrentLeaky", ATan())
    spikes, *_ = connected(leaf, record=True)
    spikes.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


def test_differentiating_again():
    layer = build("RecurrentSynaptic", ATan())
    layer.backend = "numba"
    currents = drive(layer, 9, 3, 5).requires_grad_()
    total = weighted(leaves(layer(currents, record=True)))
    first = torch.autograd.grad(total, currents, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(total, currents)[0])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(total, currents)


def test_numbers_as_parameters():
    """Plain numbers are rounded to the dtype of the currents, as PyTorch does."""
    currents = randn(20, 3, 5, dtype=torch.float32)
    both(nn.Synaptic(0.7, 0.9, 0.3), currents, record=True)
    both(nn.LeakyIntegrator(0.9), currents)


# Threads.


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Synaptic", "float32"), ("RecurrentSynaptic", "float64"), ("RecurrentLeaky", "float32"), ("LeakyIntegrator", "float64")],
)
def test_threads_do_not_matter(kind, dtype):
    """Not to a bit, and neither does the time at which they come."""
    wide = "Recurrent" not in kind
    features = 2311 if wide else 37 if kind == "RecurrentLeaky" else 3
    layer = build(kind, ATan(), features, random=True)
    currents = drive(layer, 30, 3 if wide else 1111, features, dtype=dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4, 2):
            torch.set_num_threads(threads)
            results.append(outcome(layer, "numba", currents, record=True))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0].outputs, result.outputs, strict=True):
            assert torch.equal(a, b)
        for name, gradient in results[0].gradients.items():
            if name == "weight" or "_" not in name or not wide:
                assert torch.equal(gradient, result.gradients[name]), name


def test_called_from_two_threads():
    layer = build("Leaky", ATan(), 1024, learn=False)
    layer.backend = "numba"
    inputs = [randn(40, 2, 1024, seed=seed).requires_grad_() for seed in range(6)]

    def work(currents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((layer(currents)[0] * currents.detach()).sum(), currents)

    alone = [work(currents) for currents in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, inputs * 3))
    for k, (gradient,) in enumerate(together):
        assert torch.equal(gradient, alone[k % len(alone)][0])


def test_layers_of_one_graph_in_threads():
    """Made in threads, differentiated at once, in PyTorch's own threads and in others."""
    layers = [build(kind, ATan(), 64) for kind in ("Leaky", "Synaptic", "RecurrentLeaky")]
    currents = randn(30, 8, 64).requires_grad_()
    for layer in layers:
        layer.backend = "numba"

    def total() -> torch.Tensor:
        return sum(weighted(leaves(layer(currents, record=True))) for layer in layers)

    (expected,) = torch.autograd.grad(total(), currents)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda layer: weighted(leaves(layer(currents, record=True))), layers))
        # The layers' gradients are added in the order in which they were made.
        torch.testing.assert_close(torch.autograd.grad(sum(parts), currents)[0], expected, rtol=1e-12, atol=1e-12 * expected.abs().max())
        for found in pool.map(lambda _: torch.autograd.grad(total(), currents)[0], range(6)):
            assert torch.equal(found, expected)


def test_a_first_call_from_several_threads_compiles_once():
    surrogate = from_formula(lambda x, k: 1 / (1 + abs(k * x)) ** 5, k=2.0)
    layers = [build("Leaky", surrogate, learn=False) for _ in range(4)]
    currents = drive(layers[0], 9, 3, 5)
    barrier = threading.Barrier(4)

    def work(layer: Any) -> Outcome:
        barrier.wait()
        return outcome(layer, "numba", currents)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, layers))
    wanted = outcome(layers[0], "reference", currents)
    for each in found:
        agree(each, wanted)


def test_results_are_the_same_every_time():
    layer = build("RecurrentSynaptic", ATan(), features=37, random=True)
    currents = drive(layer, 20, 40, 37)
    first = outcome(layer, "numba", currents, record=True)
    for _ in range(3):
        again = outcome(layer, "numba", currents, record=True)
        assert all(torch.equal(a, b) for a, b in zip(first.outputs, again.outputs, strict=True))
        assert all(torch.equal(first.gradients[name], again.gradients[name]) for name in first.gradients)


# Dtypes; half types have a file of their own.


@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_dtypes_of_state_and_parameters_differ_from_the_currents(given):
    layer = build("Leaky", ATan()).to(given)
    for dtype in FLOATS.values():
        currents = randn(6, 2, 5, dtype=dtype)
        both(layer, currents, randn(2, 5, dtype=given), record=True)


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentLeaky"])
def test_autocast(kind):
    layer, linear = build(kind, ATan()).float(), torch.nn.Linear(5, 5)
    currents = randn(9, 3, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = both(layer, currents, call=lambda x, state: layer(linear(x) * 3, state))
    assert result.outputs[0].dtype == torch.bfloat16
    assert 0 < result.outputs[0].mean() < 1


@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", FLOATS.values())
def test_dtypes_of_resting_numbers_differ_from_the_currents(dtype, given):
    """A layer that rests at a number computes in the dtype of the currents, whatever that of the number."""
    layer = nn.Layer(example("QuadraticIF"), values={"rest": torch.linspace(-0.25, 0.25, 5, dtype=given)})
    result = both(layer, arriving(layer, 6, 2, 5, dtype=dtype), record=True)
    assert {part.dtype for part in result.outputs} == {dtype}


# Compilers, transforms, modes.


@pytest.fixture(autouse=True)
def forgetful() -> Any:
    """A compiler gives up on a function that it has compiled a few times; each test is a first time."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def plain(layer: Any, currents: torch.Tensor, state: Any = None) -> torch.Tensor:
    """A layer as a function with one output."""
    return layer(currents, state)[0] * (torch.arange(currents.numel()).to(currents).cos().view(currents.shape))


def operated(layer: Any, currents: Any, state: Any, **options: Any) -> tuple[Any, ...]:
    """The arguments with which a compiled layer calls the operator."""
    found: list[Any] = []

    class Watched(torch.fx.Interpreter):
        def call_function(self, target: Any, arguments: Any, keywords: Any) -> Any:
            if "spikegrad.layer" in str(target):
                found.append(arguments)
            return super().call_function(target, arguments, keywords)

    torch.compile(layer, fullgraph=True, backend=lambda graph, _: Watched(graph).run)(currents, state, **options)
    (arguments,) = found
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone().requires_grad_(x.requires_grad), arguments)


def fitted(kind: str, steps: int) -> tuple[Any, Any, Any, tuple[str, ...]]:
    """A layer, what arrives, a state, and what to record; of other neurons than `KINDS` as a row says, whose kernels there are already."""
    if kind in KINDS:
        layer = build(kind, ATan())
        currents = drive(layer, steps, 2, 5)
        return layer, currents, start(layer, currents), ("u",)
    row = next(row for row in ROWS if row["neuron"] == kind and row["numbers"] == "mixed")
    layer, dtype = built(row), FLOATS[row["dtype"]]
    return layer, arriving(layer, steps, 2, 5, dtype=dtype), reached(layer, dtype, 2), row["record"] if rounds_alike(layer) else ONE_STEP


OPERATED = [
    *("Leaky", "RecurrentSynaptic", "LeakyIntegrator", "GatedLeaky"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("Synaptic", "RecurrentLeaky")),  # these two: `test_inductor`
]


@pytest.mark.parametrize("kind", OPERATED)
def test_operator(kind):
    layer, currents, state, record = fitted(kind, 5)
    layer.backend = "auto"
    for part in (*leaves(currents), *leaves(state)):
        part.requires_grad_()
    opcheck(torch.ops.spikegrad.layer.default, operated(layer, currents, state, record=record))


@pytest.mark.parametrize("kind", [*OPERATED, "Lapicque", "AdEx"])
def test_compile(kind):
    """Numbers that a step computes of its numbers, and resting states that do, travel with the operator as well."""
    layer, currents, reached, record = fitted(kind, 6)
    for state in (None, reached):
        wanted = outcome(layer, "numba", currents, state, record=record)
        compiled_layer = torch.compile(layer, fullgraph=True, backend="aot_eager")
        agree(outcome(layer, "numba", currents, state, record=record, call=compiled_layer), wanted)


def test_compiled_with_other_numbers_and_sizes():
    """A slope that changes, and times and batches of other lengths, do not compile again; another structure does."""
    layer = build("Leaky", ATan(), learn=False)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for steps, batch, slope in ((6, 3, 2.0), (9, 4, 2.0), (11, 7, 5.0)):
        layer.spike.surrogate = ATan(slope)
        currents = drive(layer, steps, batch, 5)
        agree(outcome(layer, "numba", currents, call=function), outcome(layer, "reference", currents))
        counts.append(counter.frame_count)
    assert counts[0] == counts[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Synaptic", "RecurrentLeaky"])
def test_inductor(kind):
    layer = build(kind, ATan())
    currents = drive(layer, 6, 2, 5, dtype="float32")
    wanted = outcome(layer, "numba", currents, start(layer, currents), record=True)
    agree(outcome(layer, "numba", currents, start(layer, currents), record=True, call=torch.compile(layer, fullgraph=True)), wanted)


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


@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")  # weights that lie by sender
@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic"])
def test_export(kind, tmp_path):
    """A layer of any length in time and batch, from a file."""
    layer = build(kind, ATan(), learn=False)
    currents = drive(layer, 6, 2, 5)
    steps, batch = torch.export.Dim("steps"), torch.export.Dim("batch")
    exported = torch.export.export(layer, (currents,), dynamic_shapes={"currents": {0: steps, 1: batch}})
    assert "spikegrad.layer" in str(exported.graph)
    torch.export.save(exported, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    for shape in ((6, 2, 5), (9, 4, 5)):
        given = drive(layer, *shape)
        for a, b in zip(leaves(loaded(given)), leaves(layer(given)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    layer = build("RecurrentSynaptic", ATan())
    currents = drive(layer, 6, 2, 5)

    def recomputed(x: torch.Tensor, _: None, record: bool) -> Any:  # the reentrant form sees no tensors within tuples
        return checkpoint(lambda x: tuple(leaves(layer(x, record=record))), x, use_reentrant=reentrant)

    agree(outcome(layer, "numba", currents, record=True, call=recomputed), outcome(layer, "numba", currents, record=True))


TRANSFORMS: dict[str, Callable[[Callable[..., torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f, 1, 1)(x),
    "vmap(grad)": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()), 1, 1)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "jacrev": lambda f, x: torch.func.jacrev(lambda x: f(x).sum((1, 2)))(x),
    "dual": lambda f, x: dual(f, x),
}


def dual(f: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic", "LeakyIntegrator"])
def test_transforms_take_the_plain_loop(kind, transform):
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


def test_transforms_are_right():
    """A Jacobian in reverse and in forward mode, and the gradient of each sample by what is learned."""
    layer = build("Leaky", ATan(), features=3)
    currents = drive(layer, 5, 2, 3)

    def f(x: torch.Tensor) -> torch.Tensor:
        return layer(x)[0].sum(1)

    rows = torch.func.jacrev(f)(currents)
    torch.testing.assert_close(rows, torch.func.jacfwd(f)(currents))
    leaf = currents.clone().requires_grad_()
    for t, k in itertools.product(range(5), range(3)):
        layer.backend = "numba"
        torch.testing.assert_close(torch.autograd.grad(f(leaf)[t, k], leaf)[0], rows[t, k])
    layer.backend = "auto"
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    weights = randn(5, 3, seed=9)

    def of_one(parameters: Any, x: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(layer, parameters, (x,))[0] * weights).sum()

    samples = torch.func.vmap(torch.func.grad(of_one), (None, 1))(parameters, currents)
    for k in range(2):
        layer.zero_grad()
        layer.backend = "numba"
        (layer(currents[:, k])[0] * weights).sum().backward()
        for name, p in layer.named_parameters():
            torch.testing.assert_close(samples[name][k], p.grad)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        seen.append(str(function))
        return function(*arguments, **(kwargs or {}))


class Listening(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        seen.append(str(function))
        return function(*arguments, **(kwargs or {}))


class Wrapped(torch.Tensor):
    pass


seen: list[str] = []


@pytest.mark.parametrize("mode", [Watching, Listening])
def test_modes_see_operations(mode):
    layer = build("Leaky", ATan(), learn=False)
    currents = drive(layer, 4, 2, 5)
    wanted = layer(currents)[0]
    seen.clear()
    with mode():
        assert torch.equal(layer(currents)[0], wanted)
        assert len(seen) > 4
        layer.backend = "numba"
        with pytest.raises(ValueError, match=r"inside a (dispatch|function) mode"):
            layer(currents)


def test_a_default_device_is_no_obstacle():
    layer = nn.Leaky(0.9, backend="numba")
    with torch.device("cpu"):
        assert layer(torch.ones(4, 2, 3))[0].shape == (4, 2, 3)


OTHERS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "subclass": (lambda x: x.as_subclass(Wrapped), "it is given a Wrapped"),
    "meta": (lambda x: x.to("meta"), "its input is on meta"),
    "negative": (lambda x: torch._neg_view(-x), "without memory of its own"),
    "zero": (lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype), "without memory of its own"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("where", ["currents", "state"])
def test_other_tensors_are_not_taken(kind, where):
    """A kernel takes addresses of what has one; a state counts like an input."""
    make, reason = OTHERS[kind]
    layer = nn.Leaky(0.9)
    currents, state = randn(4, 2, 3), randn(2, 3, seed=1)
    if kind == "meta":
        layer, currents, state = layer.to("meta"), make(currents), make(state)
    currents, state = (make(currents), state) if where == "currents" else (currents, make(state))
    spikes, _ = layer(currents, state)
    assert spikes.shape == (4, 2, 3)
    assert spikes.device == currents.device
    if kind != "meta":
        expected = layer(currents.as_subclass(torch.Tensor).clone(), state.as_subclass(torch.Tensor).clone())
        assert torch.equal(spikes.as_subclass(torch.Tensor), expected[0])
    layer.backend = "numba"
    with pytest.raises(ValueError, match=reason):
        layer(currents, state)


def test_fake_tensors():
    """Of any layer; a program is planned with them before it runs."""
    layers = [build("RecurrentSynaptic", ATan()), nn.Layer(example("GatedLeaky"))]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for layer in layers:
            currents = tuple(mode.from_tensor(torch.zeros(4, 2, 5, dtype=torch.float16)) for _ in layer.neuron.inputs)
            spikes, state = layer(currents if len(currents) > 1 else currents[0])
            assert (spikes.shape, spikes.dtype) == ((4, 2, 5), torch.float16)
            assert all(part.shape == (2, 5) and part.dtype == torch.float32 for part in state)


def test_sparse_currents_are_refused_in_words():
    layer = nn.Leaky(0.9, backend="numba")
    with pytest.raises(ValueError, match="layout"):
        layer(torch.ones(4, 2, 3).to_sparse())


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "LeakyIntegrator", "one-to-one", "GatedLeaky"])
def test_second_derivatives(kind):
    """They fall to the plain loop, from a first pass that was fused."""
    if kind == "one-to-one":
        layer = build("RecurrentSynaptic", ATan(), connection=kind, detach_reset=False)
        given, record = drive(layer, 6, 2, 5), ("u",)
        state = start(layer, given)
    else:
        layer, given, state, record = fitted(kind, 6)
    layer = layer.to(leaves(given)[0].dtype)
    given = leaves(given)
    second = []
    for backend in ("numba", "reference"):
        layer.backend = backend
        currents, inputs = [x.clone().requires_grad_() for x in given], [*layer.parameters()]
        outputs = leaves(layer(tuple(currents) if len(currents) > 1 else currents[0], state, record=record))
        total = weighted(outputs[:1] if kind in ("Leaky", "LeakyIntegrator") else outputs)  # their other outputs are not used
        first = torch.autograd.grad(total.square(), [*currents, *inputs], create_graph=True, allow_unused=True)
        loss = sum(g.square().sum() for g in first if g is not None)
        second.append(torch.autograd.grad(loss, [*currents, *inputs], allow_unused=True))
    for a, b in zip(*second, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * b.abs().max().item())
    assert any(a is not None and a.abs().max() > 0 for a in second[0])


@pytest.mark.parametrize("kind", CONNECTED)
def test_second_derivatives_of_all_to_all_are_refused(kind):
    """What they would need was not kept; in the plain loop they are right."""
    layer = build(kind, ATan(), detach_reset=False)
    currents = drive(layer, 6, 2, 5).requires_grad_()
    layer.backend = "numba"
    with pytest.raises(RuntimeError, match=r"all-to-all.*backend='reference'"):
        torch.autograd.grad(weighted(leaves(layer(currents, record=True))), currents, create_graph=True)
    layer.backend = "reference"
    (first,) = torch.autograd.grad(weighted(leaves(layer(currents, record=True))), currents, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), currents)[0].abs().max() > 0


# Backends, copies.


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda **o: nn.Leaky(0.9, spike=NoisyThreshold(), **o), "NoisyThreshold draws noise"),
        (lambda **o: nn.Layer(example("Adaptive", spike=NoisyThreshold()), **o), "NoisyThreshold draws noise"),
        (lambda **o: nn.Synaptic(0.8, 0.9, inhibition=True, **o), "inhibition"),
        (lambda **o: nn.Leaky(0.9, quantize=torch.round, **o), "quantised by a function of its own"),
    ],
)
def test_refusals(make, reason):
    currents = randn(4, 2, 3)
    with pytest.raises(ValueError, match=f"backend='numba' cannot run this layer: .*{reason}.*; use backend='auto' or 'reference'"):
        make(backend="numba")(currents)
    assert make()(currents)[0].shape == currents.shape  # auto takes the plain loop


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic"])
@pytest.mark.parametrize("bits", [1, 4])
def test_quantised_states(kind, bits):
    """Levels are numbers of the kernel, so that other ones compile nothing. What is at or beyond an end has the gradient of a clamp."""
    layer = build(kind, ATan(), quantize=nn.Quantize(bits, -1.0, 1.5))
    currents = drive(layer, 9, 3, 5)
    currents[4, 0] = 5.0
    result = both(layer, currents, record=True)
    levels = torch.linspace(-1, 1.5, 2**bits, dtype=torch.float64)
    assert (result.outputs[-1][..., None] - levels).abs().min(-1).values.max() < 1e-12
    before = compiled.cache_info().misses
    layer.quantize = nn.Quantize(bits, -2.0, 2.0)
    both(layer, currents, record=True)
    assert compiled.cache_info().misses == before


def test_quantised_numbers_off_every_grid():
    """A level half way between two goes to the even one, and products of numbers that are no powers of two are rounded alike."""
    layer = nn.Leaky(0.9, reset="none", quantize=nn.Quantize(3, -0.7, 1.3))
    both(layer, randn(30, 3, 5, dtype=torch.float32), record=True)
    grid = nn.Leaky(0.5, reset="none", quantize=nn.Quantize(2, 0.0, 3.0))
    result = both(grid, torch.tensor([[0.5, 1.5, 2.5, -1.0, 4.0]]), record=True)
    assert result.outputs[-1].tolist() == [[0.0, 2.0, 2.0, 0.0, 3.0]]
    assert result.gradients["currents"].ne(0).tolist() == [[True, True, True, False, False]]


def test_unknown_backend():
    for make in (lambda **o: nn.Leaky(0.9, **o), lambda **o: nn.LeakyIntegrator(0.9, **o), lambda **o: nn.Layer(example("AdEx"), **o)):
        with pytest.raises(ValueError, match="`backend` must be one of 'auto', 'numba', 'triton', 'reference', got 'cuda'"):
            make(backend="cuda")


@pytest.mark.parametrize("kind", [*KINDS, "GatedLeaky"])
def test_copies(kind):
    (layer, currents, _, record), (other, *_) = fitted(kind, 6), fitted(kind, 6)
    wanted = outcome(layer, "numba", currents, record=record)
    other.load_state_dict({name: value * 0.9 for name, value in layer.state_dict().items()})
    other.load_state_dict(layer.state_dict())
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        agree(outcome(same, "numba", currents, record=record), wanted)
