"""How the potential of a neuron answers one unit of current, computed from its step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikegrad import trace
from spikegrad.insight.recording import record
from spikegrad.kernels import interpret
from spikegrad.kernels.plan import Call
from spikegrad.neuron import Neuron
from spikegrad.nn import Layer

Kernel = NDArray[np.float64]


def response(neuron: Neuron, steps: int, values: dict[str, Any] | None = None) -> Kernel:
    """The potential over the threshold after a unit of current in the first step, less what it is without: the neuron's kernel.

    Args:
        neuron: any neuron; of one that is not linear, this is the response to a small current at rest, per unit.
        steps: its length.
        values: arrays in place of its numbers, by name, ``(*features)``.

    Returns:
        ``(steps, *features)``; of the first input and, of a neuron that does not spike, of what it names ``u`` or puts out.

    Example:
        >>> from spikegrad.insight.response import response
        >>> from spikegrad.neurons import Leaky, Synaptic
        >>> response(Leaky(0.5), 4).tolist()
        [1.0, 0.5, 0.25, 0.125]
        >>> response(Synaptic(0.5, 0.5), 4).tolist()
        [1.0, 1.0, 0.75, 0.5]
    """
    wanted = next((name for name in ("excess", "u") if name in neuron.record.recorded), None)
    plan = Call(neuron.record, neuron.spike.structure, () if wanted is None else (wanted,)).plan
    given = {**neuron.parameters, **{name: getattr(neuron, name) for name in neuron.states}, **(values or {})}
    numbers: dict[str, Any] = {name: np.asarray(x, dtype=np.float64) for name, x in given.items()}
    shape = np.broadcast_shapes(*(np.shape(x) for x in numbers.values()))
    evaluate = trace.evaluator(plan.step, np.float64)
    run = {**interpret.words(neuron.spike), "quantized": lambda x: x}  # pyright: ignore[reportUnknownLambdaType]
    like = np.float64(0)
    size = 2.0**-20
    sides: list[Kernel] = []
    with np.errstate(all="ignore"):
        fixed, start = plan.computed(numbers, like), plan.rested(numbers, like)
        for sign in (size, -size):
            now, made = start, list[Any]()
            for step in range(steps):
                inputs = dict.fromkeys(plan.inputs, np.zeros(shape))
                inputs[plan.inputs[0]] = np.full(shape, sign if step == 0 else 0.0)
                results = evaluate({name: np.asarray(x) for name, x in (fixed | now | inputs).items()}, run)
                now = dict(zip(plan.states, results[plan.outputs :], strict=False))
                made.append(np.broadcast_to(results[0] if wanted is None else results[-1], shape))
            sides.append(np.stack(made))
    return (sides[0] - sides[1]) / (2 * size)


def response_of(module: nn.Module, steps: int) -> Tensor:
    """The kernel of a layer's neurons with their numbers as they are, ``(steps, *features)`` or ``(steps,)``: float64 on the CPU."""
    if isinstance(module, Layer):
        values = {name: getattr(module, name) for name in module.neuron.numbers}
        arrays = {name: x.detach().double().cpu().numpy() for name, x in values.items() if isinstance(x, Tensor)}
        return torch.from_numpy(response(module.neuron, steps, arrays).copy())
    return _stepwise(module, steps)


def _stepwise(neuron: nn.Module, steps: int) -> Tensor:
    """Likewise of a neuron that takes one step: it is run, from rest, and its own states are left as they were."""
    module: Any = neuron
    kept = dict(neuron._buffers)  # pyright: ignore[reportPrivateUsage]
    numbers = [getattr(module, name).shape for name in ("alpha", "beta", "threshold") if isinstance(getattr(module, name, None), Tensor)]
    shape = torch.broadcast_shapes((getattr(module, "linear_features", None) or 1,), *numbers)
    small, sides = 2.0**-10, list[Tensor]()
    for sign in (small, -small):
        with torch.no_grad(), record(neuron) as seen:
            states: Any = module.reset_mem()
            states = states if isinstance(states, tuple) else (states,)
            for step in range(steps):
                x = torch.full((1, *shape), sign if step == 0 else 0.0, device=module.threshold.device)
                result = module(x) if module.init_hidden else module(x, *states)
                states = result[-len(states) :] if isinstance(result, tuple) else ()
        excess = seen[""].excess
        assert excess is not None
        sides.append(excess[:, 0].squeeze(-1).double().cpu())
    neuron._buffers.update(kept)  # pyright: ignore[reportPrivateUsage]
    return (sides[0] - sides[1]) / (2 * small)


def reach(module: nn.Module) -> Tensor:
    """How far the threshold of a layer's neurons is from where they rest, in the potential's own unit: ``(*features)`` or one number."""
    if not isinstance(module, Layer):
        threshold: Any = module.threshold
        return threshold.detach()
    neuron = module.neuron
    values = {name: getattr(module, name) for name in neuron.numbers}
    values |= {name: getattr(neuron, name) for name in neuron.states}
    numbers: dict[str, Any] = {name: np.asarray(torch.as_tensor(x).detach().double().cpu()) for name, x in values.items()}
    plan = Call(neuron.record, neuron.spike.structure, ("excess",)).plan
    with np.errstate(all="ignore"):
        given = plan.computed(numbers, np.float64(0)) | plan.rested(numbers, np.float64(0)) | dict.fromkeys(plan.inputs, 0.0)
        run = {**interpret.words(neuron.spike), "quantized": lambda x: x}  # pyright: ignore[reportUnknownLambdaType]
        below = trace.evaluator(plan.step, np.float64)({name: np.asarray(x) for name, x in given.items()}, run)[-1]
    return torch.from_numpy(np.array(np.maximum(np.abs(below), 1e-12), dtype=np.float64))


def answered(kernel: Tensor, x: Tensor) -> Tensor:
    """What a kernel makes of a sequence ``(time, any)``."""
    steps = len(x)
    time = torch.arange(steps, device=kernel.device)
    lag = time[:, None] - time
    return torch.where(lag >= 0, kernel[lag.clamp(min=0)], 0.0) @ x
