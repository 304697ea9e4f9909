"""The passes of a layer, run step by step on NumPy arrays: what every printer of loops must reproduce.

It keeps nothing from the forward pass but what the plan says, and so shows whether that is enough.
"""
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spikegrad import trace
from spikegrad.derive import derivative_by
from spikegrad.kernels.plan import Call
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Program
from spikegrad.vocabulary import OPERATIONS, Array

Arrays = Sequence[Array]
Words = Mapping[str, Callable[..., Array]]


@dataclass
class Result:
    """Sequences of outputs and recorded values, states after the last step, and gradients by the names of inputs, states, parameters."""

    outputs: list[Array]
    state: list[Array]
    recorded: list[Array]
    gradients: dict[str, Array]


def words(surrogate: Surrogate, parameters: Mapping[str, Array] | None = None, *, soft: bool = False) -> Words:
    """How the operations that are the surrogate's run; `soft` puts the primitive in place of the step."""
    bound = surrogate.bind(dict(parameters or {}))
    numbers = surrogate.parameters | dict(parameters or {})
    record = surrogate.structure

    def by(name: str) -> Callable[..., Array]:
        @functools.cache  # which few need, and derive then
        def program() -> Program:
            assert record.primitive is not None
            return derivative_by(record.primitive, record.arguments, name)

        return lambda x: trace.evaluate(program(), OPERATIONS, {"x": x, **numbers})[0]

    learnable = {f"primitive_by_{name}": by(name) for name in surrogate.numbers} if record.primitive is not None else {}
    return {
        **OPERATIONS,
        **learnable,
        "fire": bound.primitive if soft else lambda x: np.where(x == x, (x >= 0).astype(x.dtype), x),
        "fire_above": bound.primitive if soft else lambda x: np.where(x == x, (x > 0).astype(x.dtype), x),
        "derivative": bound.derivative,
    }


def run(
    call: Call,
    words: Words,
    inputs: Arrays,
    state: Arrays,
    parameters: Mapping[str, Array],
    arriving: Arrays,
    learned: frozenset[str] = frozenset(),
) -> Result:
    """Both passes of a layer.

    Args:
        call: the layer, without ``"all-to-all"`` connections.
        words: how operations run.
        inputs: sequences ``(time, *step)`` of one dtype.
        state: the states before the first step.
        parameters: arrays that broadcast to a step.
        arriving: the gradients of outputs, of states and of recorded values.
        learned: parameters, and numbers of the surrogate as ``spike.slope``, whose gradients are wanted.
    """
    plan = call.plan
    passes = plan.passes(learned)
    n, m, like = plan.outputs, len(plan.states), inputs[0]

    def full(values: Arrays) -> list[Array]:
        return [np.broadcast_to(np.asarray(x, like.dtype), like.shape[1:]) for x in values]

    def evaluator(program: Program) -> Callable[..., list[Array]]:
        evaluate = trace.evaluator(program, like.dtype.type)

        def evaluated(*given: Mapping[str, Array]) -> list[Array]:
            together: dict[str, Array] = dict(parameters)
            for each in given:
                together |= each
            return full(evaluate(together, words))

        return evaluated

    forward, recompute, restore, reverse = map(evaluator, (passes.forward, passes.recompute, passes.restore, passes.reverse))
    made, kept, now = [], [], dict(zip(plan.states, full(state), strict=True))
    for t in range(len(like)):
        current = {name: x[t] for name, x in zip(plan.inputs, inputs, strict=True)}
        values = forward(current, now)
        kept.append(dict(zip(passes.kept, recompute(current, now), strict=False)))
        made.append((*values[:n], *values[n + m :]))
        now = dict(zip(plan.states, values[n : n + m], strict=True))
    ends, rest = arriving[n : n + m], (*arriving[:n], *arriving[n + m :])
    bars = dict(zip(plan.states, full(ends), strict=True))
    sums = {name: np.zeros_like(like[0]) for name in learned}
    gradients = {name: np.zeros_like(x) for name, x in zip(plan.inputs, inputs, strict=True)}
    for t in reversed(range(len(like))):
        start = dict(zip(plan.states, state, strict=True)) if t == 0 else {}
        before = dict(zip(passes.restored, restore(kept[t - 1]), strict=True)) if t else {k: start[k] for k in passes.restored}
        again = {name: x[t] for name, x in zip(plan.inputs, inputs, strict=True) if name in passes.reread}
        coming = {f"bar_{name}": g[t] for name, g in zip((*map(str, range(n)), *call.recorded), rest, strict=True)}
        coming |= {f"bar_{name}": g for name, g in bars.items()}
        found = dict(zip(passes.adjoints, reverse(kept[t], again, before, coming), strict=True))
        for name, gradient in gradients.items():
            gradient[t] = found.get(name, 0.0)
        bars = {name: found.get(name, np.zeros_like(like[0])) for name in plan.states}
        for name in sums:
            sums[name] = sums[name] + found.get(name, 0.0)
    sequences = [np.stack(parts) for parts in zip(*made, strict=True)] if made else [like[:0]] * (n + len(call.recorded))
    return Result(sequences[:n], list(now.values()), sequences[n:], gradients | bars | sums)
