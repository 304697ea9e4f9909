"""The definition of every layer: its recorded step, evaluated on arrays in a plain loop over time.

The same lines serve PyTorch (a Python loop) and JAX (`jax.lax.scan`); every faster kernel is held against them. Numbers and literals are
arrays without dimensions in the working dtype, so that ``1 - beta`` is rounded as a kernel rounds it.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence

from spikegrad import derive, trace
from spikegrad.kernels.plan import Call, Plan, array
from spikegrad.remembering import remember
from spikegrad.trace import Instruction, Operand, Program, Symbol, Value, argument
from spikegrad.vocabulary import OPERATIONS, Array, cast, detach, library, namespace

Given = tuple[tuple[Array, ...], Array | None]
"""The inputs of a step, and what its noise is drawn from."""

Sequences = tuple[list[Array], ...]
"""Outputs and recorded values: of a step, or of all of them."""

Fire = Callable[[Array, bool, Array | None], Array]
"""Spikes from potential minus threshold, given whether one at the threshold spikes, and what its noise is drawn from, if any is."""


def run(
    call: Call,
    fire: Fire,
    inputs: Sequence[Array],
    state: Sequence[Array],
    parameters: Mapping[str, Array],
    weights: Array | None = None,
    *,
    quantize: Callable[[Array], Array] | None = None,
    inhibition: bool = False,
    noisy: bool = False,
    draws: Array | None = None,
    rested: bool = True,
    lengths: Array | None = None,
) -> tuple[list[Array], list[Array], list[Array]]:
    """A layer over all time steps.

    Args:
        call: the layer.
        fire: how its `fire` runs.
        inputs: sequences ``(time, *step)`` in the working dtype.
        state: the states before the first step, each of the shape of a step; of an ``"all-to-all"`` layer the fed back outputs last.
        parameters: see `Plan.computed`.
        weights: of an ``"all-to-all"`` layer, ``(features, features)``, used as ``weights @ s``.
        quantize: how `quantized` values are rounded, if not by the call's own levels.
        inhibition: whether of the features of a sample only the one furthest above its threshold may spike.
        noisy: whether `fire` draws noise, so that a spike that is due a step later must not be drawn again.
        draws: in JAX the keys that noise is drawn from, one for the start and one for each step.
        rested: whether the state is rest, after which no reset is due.
        lengths: in JAX the number of steps of each sample, after which its state stays and all else is 0.

    Returns:
        Sequences of the outputs, the states after the last step, and sequences of the recorded values.
    """
    plan, like = call.plan, inputs[0]
    program, emitted, due = carried(call) if noisy else (plan.step, (), None)
    arrays = {name: array(value, like) for name, value in parameters.items()}

    def evaluator(program: Program, draw: Array | None) -> Callable[[Mapping[str, Array]], list[Array]]:
        count = itertools.count()

        def fired(spike_at_threshold: bool, x: Array) -> Array:
            place = next(count)  # each fire of a step draws for itself
            s = fire(x, spike_at_threshold, sys.modules["jax"].random.fold_in(draw, place) if place and draw is not None else draw)
            return s * cast(_winner(detach(x)), x) if inhibition else s

        fires = {"fire": functools.partial(fired, True), "fire_above": functools.partial(fired, False)}
        words = {**fires, "quantized": quantize or _same}
        return functools.partial(trace.evaluator(program, lambda x: array(x, like)), words=OPERATIONS | words)

    jax = library(like) == "jax"
    program = _uncontracted(program, frozenset((*plan.inputs, *plan.states))) if jax else program
    known = None if jax else evaluator(program, None)
    names, outputs = (*plan.states, *emitted), plan.outputs

    def step(carry: tuple[Array, ...], given: Given) -> tuple[tuple[Array, ...], Sequences]:
        current, draw = given
        states = carry[: len(names)]
        if weights is not None:
            current = (*current, fed_back(carry[-1], weights))
        evaluate = evaluator(program, draw) if known is None else known
        values = evaluate({**arrays, **dict(zip(plan.inputs, current, strict=True)), **dict(zip(names, states, strict=True))})
        values = [x if x.shape == like.shape[1:] else namespace(library(like)).broadcast_to(x, like.shape[1:]) for x in values]
        after = values[outputs : outputs + len(names)]
        fed = values[:1] if weights is not None else []
        return (*after, *fed), (values[:outputs], values[outputs + len(names) :])

    def until(carry: tuple[Array, ...], given: Given) -> tuple[tuple[Array, ...], Sequences]:
        """The step of samples that go on."""
        (*current, going), draw = given
        after, made = step(carry, (tuple(current), draw))
        where = namespace("jax").where
        return tuple(where(going, new, old) for new, old in zip(after, carry, strict=True)), tuple(
            [where(going, x, 0) for x in each] for each in made
        )

    states, fed = list(state[: len(plan.states)]), list(state[len(plan.states) :])
    if due is not None:
        first = evaluator(due, None if draws is None else draws[0])({**arrays, **dict(zip(plan.states, states, strict=True))})
        states += [x * 0 for x in first] if rested else first
    draws = None if draws is None else draws[1:]
    numbers = [x if weights is None else x + weights.sum() for x in arrays.values() if x.ndim < like.ndim] if like.shape[0] == 0 else []
    if lengths is not None:
        arrays_of = namespace("jax")
        going = (arrays_of.arange(like.shape[0])[:, None] < lengths).reshape(*like.shape[:2], *[1] * (like.ndim - 2))
        inputs = [*(arrays_of.where(going, x, 0) for x in inputs), going]  # what fills a batch up may be NaN
    last, (out, recorded) = _scan(
        step if lengths is None else until, (*states, *fed), tuple(inputs), draws, (outputs, len(call.recorded)), numbers
    )
    return list(out), [*last[: len(plan.states)], *last[len(names) :]], list(recorded)


def fed_back(spikes: Array, weights: Array) -> Array:
    """What all neurons receive of the step before, in the working dtype, whatever autocast says: it is added to a state."""
    if library(spikes) == "torch":
        torch, device = namespace("torch"), spikes.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return spikes @ weights.T
    return spikes @ weights.T


def _same(x: Array) -> Array:
    return x


def _winner(excess: Array) -> Array:
    """True at the largest value of each sample, over all its features; of equals at the first."""
    flat = excess.reshape(excess.shape[0], math.prod(excess.shape[1:])) if excess.ndim > 1 else excess
    if not flat.shape[-1]:  # of no features none wins
        return excess == excess
    places = namespace(library(excess)).arange(flat.shape[-1])
    places = places.to(excess.device) if library(excess) == "torch" else places
    return (places == flat.argmax(-1)[..., None]).reshape(excess.shape)


_carried_of: dict[str, tuple[Program, tuple[str, ...], Program | None]] = {}


def carried(call: Call) -> tuple[Program, tuple[str, ...], Program | None]:
    """`_carried`, found again; by hand, since a compiler that traces through a layer warns of the caches of functools."""
    found = _carried_of.get(call.key)
    if found is None:
        found = _carried(call.plan)
        remember(_carried_of, call.key, found)
    return found


def _carried(plan: Plan) -> tuple[Program, tuple[str, ...], Program | None]:
    """The step in which spikes that are due from the step before are states of their own, not computed again.

    Returns:
        The step, the names of these states, and the program of the spikes that are due from given states.
    """
    given = {name: argument(name) for name in (*plan.inputs, *plan.states, *plan.parameters)}
    results, names = trace.symbols(plan.step, given)
    after = dict(zip(plan.states, results[plan.outputs :], strict=False))
    fires = [node for node in trace.ordered(results) if node.operation.startswith("fire")]

    def later(node: Symbol, arguments: tuple[Value, ...]) -> Value:
        """What a value of this step is in the next, where it comes from states alone."""
        if node.operation == "argument":
            return after.get(node.name, node)
        return Symbol(node.operation, *arguments)

    moved, _ = derive.rewritten([fire.arguments[0] for fire in fires], later, {})
    told, _ = derive.rewritten([*moved, *(fire.arguments[0] for fire in fires)], derive.plain, {})
    due: dict[int, tuple[str, Symbol, Symbol]] = {}
    for place, fire in enumerate(fires):
        reads = {node.name for node in trace.ordered(fire.arguments) if node.operation == "argument"}
        if not reads & set(plan.inputs):
            for other, value in zip(fires, told[len(fires) :], strict=True):
                if value is told[place]:
                    due[id(fire)] = (f"emitted{len(due)}", fire, other)
    if not due:
        return plan.step, (), None
    results[plan.outputs + len(plan.states) : plan.outputs + len(plan.states)] = [other for _, _, other in due.values()]
    replaced = {key: argument(name) for key, (name, _, _) in due.items()}
    start = trace.flatten([fire for _, fire, _ in due.values()])
    rest, names = derive.rewritten(results, lambda node, a: replaced[id(node)] if id(node) in replaced else derive.again(node, a), names)
    return trace.flatten(rest, names), tuple(name for name, _, _ in due.values()), start


_THROUGH = ("negative", "hold", "quantized")
"""Operations that XLA sees through when it looks for a product and a sum."""


@functools.lru_cache(maxsize=256)
def _uncontracted(program: Program, sources: frozenset[str]) -> Program:
    """The same values, in a program whose products and sums XLA does not contract into one rounding on the CPU.

    A product is chosen again where the varying one of its factors equals itself, and that is always, but XLA cannot know: it may be NaN.
    """
    summed: set[int] = set()
    for index in range(len(program.instructions) - 1, -1, -1):
        operation, *operands = program.instructions[index]
        if operation in ("add", "subtract") or (operation in _THROUGH and index in summed):
            summed |= {o for o in operands if isinstance(o, int)}
    made: list[Instruction] = []
    place: list[int] = []
    varying: list[bool] = []

    def varies(o: Operand) -> bool:
        return o in sources if isinstance(o, str) else isinstance(o, int) and varying[o]

    for index, (operation, *operands) in enumerate(program.instructions):
        varying.append(any(map(varies, operands)))
        moved = [place[o] if isinstance(o, int) else o for o in operands]
        made.append((operation, *moved))
        if operation == "multiply" and index in summed and varying[index]:
            factor = next(new for new, old in zip(moved, operands, strict=True) if varies(old))
            made += [("equal", factor, factor), ("where", len(made), len(made) - 1, factor)]
        place.append(len(made) - 1)
    results = tuple(place[o] if isinstance(o, int) else o for o in program.results)
    return Program(tuple(made), results)


def _scan(
    step: Callable[[tuple[Array, ...], Given], tuple[tuple[Array, ...], Sequences]],
    carry: tuple[Array, ...],
    inputs: tuple[Array, ...],
    draws: Array | None,
    sizes: tuple[int, int],
    numbers: Sequence[Array],
) -> tuple[tuple[Array, ...], Sequences]:
    """Fold `step` over time: `jax.lax.scan`, or the same in a Python loop for PyTorch."""
    if library(inputs[0]) == "jax":
        from jax import lax

        return lax.scan(step, carry, (inputs, draws))
    import torch

    steps: list[Sequences] = []
    # unbind, not indexing: the backward pass of currents[t] costs as much as all of them.
    for current in zip(*(x.unbind(0) for x in inputs), strict=True):
        carry, made = step(carry, (current, None))
        steps.append(made)
    if not steps:
        # Without elements, and part of the graph, as the results of steps are.
        nothing = functools.reduce(lambda made, x: made + x, numbers, sum(inputs))
        return carry, tuple([nothing] * size for size in sizes)
    return carry, tuple([torch.stack(parts) for parts in zip(*each, strict=True)] for each in zip(*steps, strict=True))
