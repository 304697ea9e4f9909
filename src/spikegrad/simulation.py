"""A neuron, step by step on NumPy arrays: for pictures and checks, where no other library is needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spikegrad import trace
from spikegrad.kernels import interpret
from spikegrad.kernels.plan import Call
from spikegrad.neuron import Neuron
from spikegrad.vocabulary import Array

Values = dict[str, Array]

FLOAT64 = np.float64(0)


def rest(neuron: Neuron) -> Values:
    """Where each state rests."""
    numbers = neuron.parameters | {name: getattr(neuron, name) for name in neuron.states}
    return Call(neuron.record, neuron.spike.structure).plan.rested(numbers, FLOAT64)


def words(neuron: Neuron, spike: Mapping[str, Array] | None = None, *, soft: bool = False) -> Values:
    """How the words of the step run, with numbers of the surrogate; `soft` puts its primitive in place of a spike."""
    return {**interpret.words(neuron.spike, spike, soft=soft), "quantized": lambda x: x}  # pyright: ignore[reportUnknownLambdaType]


def simulated(
    neuron: Neuron, inputs: Values, start: Values, parameters: Values | None = None, run: Values | None = None
) -> tuple[Values, Values]:
    """The step as it was recorded, in float64.

    Args:
        neuron: the neuron.
        inputs: sequences ``(time, *step)`` by name.
        start: states before the first step, by name.
        parameters: what the step takes in place of numbers, see `Plan.computed`; the neuron's own if None.
        run: how operations run, see `words`; the neuron's own spikes if None.

    Returns:
        Outputs as ``output 0`` and so on, and states after each step: sequences by name.

    Example:
        >>> import numpy as np
        >>> from spikegrad.neurons import Leaky
        >>> from spikegrad.simulation import simulated
        >>> outputs, states = simulated(Leaky(0.5), {"current": np.array([0.75, 0.75, 0.0])}, {"v": 0.0})
        >>> outputs["output 0"].tolist(), states["v"].tolist()
        ([0.0, 1.0, 0.0], [0.75, 0.125, 0.0625])
    """
    plan = Call(neuron.record, neuron.spike.structure).plan
    fixed = plan.computed(neuron.parameters, FLOAT64) if parameters is None else parameters
    evaluate, run, made = trace.evaluator(plan.step, np.float64), run or words(neuron), list[list[Array]]()
    shape, now = next(iter(inputs.values())).shape[1:], start
    with np.errstate(all="ignore"):
        for given in zip(*(inputs[name] for name in plan.inputs), strict=True):
            step = {name: np.asarray(x) for name, x in (fixed | now).items()} | dict(zip(plan.inputs, given, strict=True))
            made.append([np.broadcast_to(x, shape) for x in evaluate(step, run)])
            now = dict(zip(plan.states, made[-1][plan.outputs :], strict=True))
    sequences = [np.stack(each) for each in zip(*made, strict=True)]
    outputs = {f"output {place}": x for place, x in enumerate(sequences[: plan.outputs])}
    return outputs, dict(zip(plan.states, sequences[plan.outputs :], strict=True))
