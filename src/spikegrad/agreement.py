"""Whether every backend computes a neuron alike, and its derivatives are those of the soft network: what `spikegrad.check` asks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from spikegrad.kernels import interpret
from spikegrad.kernels.plan import Call
from spikegrad.neuron import Neuron
from spikegrad.simulation import FLOAT64, Values, rest, simulated, words
from spikegrad.trace import TRANSCENDENTAL
from spikegrad.vocabulary import Array

STEPS, COLUMNS = 24, 32
"""Time steps and neurons."""


@dataclass(frozen=True)
class Agreement:
    """What a neuron was compared by.

    Attributes:
        backends: those that gave what the plain loop gives.
        skipped: what was left out, and why.
        rate: share of steps at which the neurons that were compared gave an output that is not 0.
        error: the largest difference between derivatives and finite differences of the soft network, as a share of the derivatives.
    """

    backends: tuple[str, ...]
    skipped: Mapping[str, str]
    rate: float
    error: float


@dataclass(frozen=True)
class Case:
    """A neuron and what it is run on, by name and in float64.

    Attributes:
        inputs: ``(time, column)``.
        start: states before the first step.
        numbers: those that can be learned, of the surrogate too.
        weights: of outputs and last states in the loss that is differentiated.
        rate: share of outputs that are not 0.
    """

    neuron: Neuron
    call: Call
    inputs: Values
    start: Values
    numbers: Values
    weights: Values
    rate: float


def compared(neuron: Neuron) -> tuple[Agreement, list[str]]:
    """Compare every backend with the plain loop, and derivatives with finite differences: what agreed, and all that is wrong."""
    case, agreed = case_of(neuron), list[str]()
    expected: tuple[Values, Values] | None = None
    error, wrong, skipped = _by_differences(case)
    plan = case.call.plan
    rounded = TRANSCENDENTAL & {str(operation) for program in (plan.step, plan.constants) for operation, *_ in program.instructions}
    for name, (why_not, run) in _backends(neuron).items():
        if why_not:
            skipped[name] = why_not
            continue
        agreed.append(name)
        found = run(case)
        expected = expected or found
        off = _off(f"{name}: the", found[0], expected[0], 1e-3 if rounded else 0.0)
        wrong += off or _off(f"{name}: the gradient of", found[1], expected[1], 1e-3)
    return Agreement(tuple(agreed), skipped, case.rate, error), wrong


def case_of(neuron: Neuron) -> Case:
    """Random inputs, as large as makes a quarter of the outputs spikes, for columns in which a little more of them changes none."""
    call, random, spiking = Call(neuron.record, neuron.spike.structure), np.random.default_rng(0), "excess" in neuron.record.recorded
    sizes = 2.0 ** np.arange(-8, 13) if spiking else np.ones(1)
    first, inputs = ({k: np.multiply.outer(random.normal(0.5, 1, (STEPS, COLUMNS)), sizes) for k in neuron.inputs} for _ in range(2))
    states = simulated(neuron, first, rest(neuron))[1]
    start = {k: x[-1] + 0.01 * abs(x[-1]).mean(0) * random.normal(size=x[-1].shape) for k, x in states.items()}  # off kinks
    made, states = simulated(neuron, inputs, start)
    output, other = (x["output 0"] for x in (made, simulated(neuron, {k: 1.001 * x for k, x in inputs.items()}, start)[0]))
    best = int(abs((output != 0).mean((0, 1)) - 0.25).argmin())
    same = np.isclose(output, other, rtol=0.1, atol=1e-3).all(0)[:, best]
    chosen = [
        {k: x[..., same if same.sum() >= 4 else same | True, best] for k, x in part.items()}
        for part in (inputs, start, made | {k: x[-1] for k, x in states.items()})
    ]
    weights = {k: random.normal(size=x.shape) / (abs(x).mean() or 1.0) for k, x in chosen[2].items()}
    numbers = {k: x for k, x in neuron.parameters.items() if neuron.learnable(k)}
    if spiking and neuron.spike.has_primitive:
        numbers |= {f"spike.{k}": x for k, x in neuron.spike.parameters.items()}
    return Case(neuron, call, chosen[0], chosen[1], numbers, weights, float((chosen[2]["output 0"] != 0).mean()))


def _off(what: str, found: Values, expected: Values, tolerance: float) -> list[str]:
    """Where the results of a backend are not those of the plain loop, to within a share of the largest of each."""
    wrong: list[str] = []
    for name, given in expected.items():
        x, y = np.asarray(found[name]), np.asarray(given)
        largest = float(np.max(abs(y), initial=0, where=np.isfinite(y)))
        off = ~np.isclose(x, y, rtol=0, atol=tolerance * largest, equal_nan=True)
        if x.dtype != y.dtype:
            wrong.append(f"{what} {name} is {x.dtype}, in the plain loop {y.dtype}")
        elif off.any():
            most = f"{float(abs(x - y)[off].max()):.3g}"
            wrong.append(f"{what} {name} is not that of the plain loop at {off.sum()} of {off.size} places, off by up to {most}")
    return wrong


def _by_differences(case: Case) -> tuple[float, list[str], dict[str, str]]:
    """How far the derivatives of the soft network are from finite differences; what is wrong, and what could not be compared.

    Each column has a loss of its own, whose derivative along a random direction of one input, state or parameter is compared.
    """
    neuron, plan, random = case.neuron, case.call.plan, np.random.default_rng(1)
    if neuron.spike.stochastic or not neuron.spike.has_primitive:
        why_not = "draws noise" if neuron.spike.stochastic else "has no primitive"
        return 0.0, [], {"finite differences": f"{type(neuron.spike).__name__} {why_not}"}
    spike = {k: np.float64(x) for k, x in case.numbers.items() if k.startswith("spike.")}
    parameters = {k: np.float64(x) for k, x in plan.computed(neuron.parameters, FLOAT64).items()}
    given = [*case.inputs.values()], [*case.start.values()], parameters, [*case.weights.values()]
    derived = interpret.run(case.call, words(neuron, soft=True), *given, frozenset((*parameters, *spike))).gradients
    values: Values = case.inputs | case.start | parameters | spike
    held, h = list[Array](), 5e-6

    def loss(values: Values, hold: Callable[[Array], Array], moved: int = 4) -> Array:
        run = words(neuron, {k[6:]: values[k] for k in spike}, soft=True) | {"hold": hold}
        inputs, start = {k: values[k] * np.ones((moved, 1)) for k in plan.inputs}, {k: values[k] for k in plan.states}
        made, states = simulated(neuron, inputs, start, {k: values[k] for k in plan.parameters}, run)
        made |= {k: x[-1] for k, x in states.items()}
        return sum((case.weights[k][..., None, :] * x).reshape(-1, *x.shape[-2:]).sum(0) for k, x in made.items())

    rows = {k: x[..., None, :] if k in case.inputs or k in case.start else x for k, x in values.items()}
    rounding = 1e-15 / h * abs(loss(rows, lambda x: held.append(x) or x, 1)[0])
    found: dict[str, tuple[Array, Array, Array]] = {}
    for name, x in values.items():
        direction = random.normal(size=derived[name].shape) * (np.sqrt(np.mean(x**2)) or 1.0)
        moved = rows[name] + h * np.array([-2, -1, 1, 2])[:, None] * direction[..., None, :]
        replayed = iter(held)
        down2, down, up, up2 = loss(rows | {name: moved}, lambda _, replayed=replayed: next(replayed))
        near, far = (up - down) / (2 * h), (up2 - down2) / (4 * h)
        ours = (derived[name] * direction).reshape(-1, direction.shape[-1]).sum(0)
        found[name] = ours, (4 * near - far) / 3, abs(near - far) + rounding
    sizes = {name: float(np.median(np.nan_to_num(abs(ours) + abs(exact)))) for name, (ours, exact, _) in found.items()}
    error, wrong, skipped = 0.0, list[str](), dict[str, str]()
    for name, (ours, exact, change) in found.items():
        size = max(sizes[name], 1e-2 * max(sizes.values())) or 1.0
        # Differences over a kink or a jump depend on the step, and those of a large loss are of rounding.
        smooth = change < 1e-6 * (size + abs(exact))
        if smooth.sum() < 4:
            skipped[f"finite differences by {name}"] = "the soft network is too rough"
            continue
        off = np.where(smooth, abs(ours - exact) / (size + abs(exact)), 0)
        place = int(off.argmax())
        error = max(error, float(off[place]))
        if not off[place] <= 1e-5:
            wrong.append(f"the derivative by {name} is {ours[place]:.6g}, finite differences of the soft network give {exact[place]:.6g}")
    return error, wrong, skipped


def _backends(neuron: Neuron) -> dict[str, tuple[str | None, Callable[[Case], tuple[Values, Values]]]]:
    """Every backend: why it cannot run the neuron here, if it cannot, and what does; the first is the plain loop."""

    def absent(*modules: str) -> str | None:
        return next((f"{module} is not installed" for module in modules if find_spec(module) is None), None)

    def elsewhere() -> str | None:
        import jax

        return None if jax.default_backend() == "cpu" else f"JAX runs on {jax.default_backend()}"

    noise = f"{type(neuron.spike).__name__} draws noise" if neuron.spike.stochastic else None
    return {
        "PyTorch": (absent("torch"), _torch),
        "PyTorch kernels": (absent("torch", "numba") or noise, functools.partial(_torch, fused=True)),
        "JAX": (absent("jax"), _jax),
        "JAX kernels": (absent("jax", "numba") or noise or elsewhere(), functools.partial(_jax, fused=True)),
    }


def _torch(case: Case, fused: bool = False) -> tuple[Values, Values]:
    """Outputs and last states, and gradients, in PyTorch and float32."""
    import torch

    from spikegrad.kernels import loop

    neuron, call = case.neuron, case.call
    inputs, start, numbers, weights = (
        {k: torch.tensor(x, dtype=torch.float32) for k, x in part.items()} for part in (case.inputs, case.start, case.numbers, case.weights)
    )
    wanted = {k: x.requires_grad_() for k, x in (inputs | start | numbers).items()}
    own = neuron.parameters | {k: getattr(neuron, k) for k in neuron.states} | {k: x for k, x in numbers.items() if k in neuron.numbers}
    spike: Values = {k[6:]: x for k, x in numbers.items() if k not in own}

    def fire(x: Array, spike_at_threshold: bool, _: None) -> Array:
        return neuron.spike(x, spike_at_threshold=spike_at_threshold, **spike)

    given = [*inputs.values()], [*start.values()]
    if fused:
        from spikegrad.kernels import torch as kernels

        made = kernels.run(call, *given, own, neuron.spike.parameters | spike)
    else:
        outputs, last, _ = loop.run(call, fire, *given, call.plan.computed(own, given[0][0]), rested=False)
        made = [*outputs, *last]
    results = dict(zip(weights, made, strict=True))
    loss: Array = sum((x * weights[k]).sum() for k, x in results.items())
    gradients = torch.autograd.grad(loss, [*wanted.values()], materialize_grads=True)
    return {k: x.detach() for k, x in results.items()}, dict(zip(wanted, gradients, strict=True))


def _jax(case: Case, fused: bool = False) -> tuple[Values, Values]:
    """The same in JAX."""
    import jax
    import jax.numpy as jnp

    from spikegrad.jax import run

    def loss(inputs: Values, start: Values, numbers: Values) -> Array:
        currents: Array = tuple(inputs[k] for k in case.inputs)  # JAX sorts dicts by their keys
        given, state = currents if len(currents) > 1 else currents[0], [start[k] for k in case.start]
        made, last = run(case.neuron, given, values=numbers, state=state, backend="numba" if fused else "reference")
        made, last = (x if isinstance(x, tuple) else (x,) for x in (made, last))
        results = dict(zip(case.weights, (*made, *last), strict=True))
        return sum((x * case.weights[k].astype("float32")).sum() for k, x in results.items()), results

    given = ({k: jnp.asarray(x, "float32") for k, x in part.items()} for part in (case.inputs, case.start, case.numbers))
    gradients, results = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)
    return results, gradients[0] | gradients[1] | gradients[2]
