"""The reverse of a step taken apart: what every neuron does, and what only the few near threshold do.

In the reverse of a step the surrogate's derivative and the step itself stand for rare things: almost everywhere both are 0. Set them to 0
and simplify, and the *quiet* reverse is left, for Leaky a product. The *full* one runs only at pairs of neuron and step where a derivative
or a spike that it reads may be other than 0. What the quiet one reads is kept for every neuron and step, nothing for neurons that are
linear between spikes; what only the full one reads is kept at those pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from spikegrad import trace
from spikegrad.cut import differentiated, minimum_cut, needed_by, varying_with
from spikegrad.derive import again, rewritten
from spikegrad.trace import Program, Symbol, Value, argument, ordered

SPIKES = ("fire", "fire_above")


@dataclass(frozen=True)
class Split:
    """What the passes over events compute in each step of a layer with one output.

    Attributes:
        emits: the operation that made the output of 0 and 1, ``"fire"`` or ``"fire_above"``; None for an output that is a number.
        rare: whether the gradient of the output is only ever multiplied by a derivative, so that it is read at active pairs alone.
        watched: names of what is looked at: first, if there are spikes, what decided about them; a pair is *active* where one of the
            first `near` is inside the surrogate's window, and *exceptional* where one of the rest made a spike, as `fires` says.
        near: how many of them a derivative is taken of.
        fires: for each of the rest the operation that made the spike.
        everywhere: names of what is kept for every neuron and step.
        pairs: names of what is kept at pairs.
        forward: from inputs, states and parameters: the output, the states after the step, the recorded values, then what is watched and
            what is kept.
        quiet: from parameters, adjoints, those of recorded values and what is kept everywhere: the adjoints, named in `adjoints`.
        full: the same, also from what is kept at pairs.
        adjoints: the names, of inputs, states and learned parameters; 0.0 stands for those that always are.
    """

    emits: str | None
    rare: bool
    watched: tuple[str, ...]
    near: int
    fires: tuple[str, ...]
    everywhere: tuple[str, ...]
    pairs: tuple[str, ...]
    forward: Program
    quiet: Program
    full: Program
    adjoints: tuple[str, ...]


def split(
    step: Program,
    inputs: Sequence[str],
    states: Sequence[str],
    parameters: Sequence[str],
    learned: Collection[str] = (),
    recorded: Sequence[str] = (),
) -> Split:
    """Take the reverse of a step apart, whose results are one output, the states after it and the recorded values.

    The inputs lie nowhere in memory: they are sums of weights. `learned` are the parameters whose adjoints are wanted, too.
    """
    known = differentiated(step, inputs, states, parameters, 1, recorded, learned)
    found = dict(zip(known.adjoints, known.back, strict=True))
    adjoints = (*inputs, *states, *learned)
    full: list[Value] = [found.get(name, 0.0) for name in adjoints]
    quiet, _ = rewritten(full, functools.partial(_without, (*SPIKES, "derivative")), known.names)
    sources = {id(known.given[name]) for name in (*inputs, *states)}
    varying = varying_with([*known.forward, *known.conditions], sources)
    everywhere = minimum_cut(varying, sources, set(), needed) if (needed := needed_by(quiet, varying)) else []
    kept = {id(node) for node in everywhere}
    others = {key: node for key, node in varying.items() if key not in kept}
    needed = {key: node for key, node in needed_by(full, varying).items() if key not in kept}
    pairs = minimum_cut(others, sources, set(), needed) if needed else []
    kept |= {id(node) for node in pairs}

    output = known.forward[0]
    emits = output.operation if isinstance(output, Symbol) and output.operation in SPIKES else None
    decided = [output.arguments[0]] if emits and isinstance(output, Symbol) else []
    near = _unique([*decided, *(node.arguments[0] for node in _rare(full) if node.operation == "derivative")])
    linear, _ = rewritten(full, functools.partial(_without, ("derivative",)), known.names)
    fired = [node for node in _rare(linear) if node.operation in SPIKES]
    watched = [*near, *(node.arguments[0] for node in fired)]
    names: dict[int, str] = {}
    for node in (*_symbols(watched), *everywhere, *pairs):
        name = known.names.get(id(node)) or (node.name if node.operation == "argument" else "kept")
        while name in names.values() or (name in known.given and node is not known.given[name]):
            name += "_"
        names.setdefault(id(node), name)
    replaced = {key: argument(names[key]) for key in kept}

    def from_kept(roots: Sequence[Value]) -> Program:
        given, called = rewritten(roots, lambda node, a: replaced[id(node)] if id(node) in replaced else again(node, a), known.names)
        return trace.flatten(given, called)

    return Split(
        emits=emits,
        rare=emits is not None and "bar_0" not in from_kept(quiet).arguments(),
        watched=tuple(names[id(node)] for node in watched),
        near=len(near),
        fires=tuple(node.operation for node in fired),
        everywhere=tuple(names[id(node)] for node in everywhere),
        pairs=tuple(names[id(node)] for node in pairs),
        forward=trace.flatten([*known.forward, *watched, *everywhere, *pairs], known.names),
        quiet=from_kept(quiet),
        full=from_kept(full),
        adjoints=adjoints,
    )


def _without(rare: Collection[str], node: Symbol, given: tuple[Value, ...]) -> Value:
    """A symbol where such operations give 0, simplified where a 0 or a 1 stands among its arguments."""
    if node.operation in rare:
        return 0.0
    numbers = [x if isinstance(x, float) else None for x in given]  # a comparison of symbols would be a symbol
    match node.operation, *numbers:
        case ("multiply", 0.0, _) | ("multiply", _, 0.0) | ("divide", 0.0, _):
            return 0.0
        case ("add", 0.0, _) | ("multiply", 1.0, _):
            return given[1]
        case ("add" | "subtract", _, 0.0) | ("multiply" | "divide", _, 1.0):
            return given[0]
        case ("subtract", 0.0, None):
            return Symbol("negative", given[1])
        case ("add" | "subtract" | "multiply", float() as x, float() as y):
            return {"add": x + y, "subtract": x - y, "multiply": x * y}[node.operation]
        case ("negative", float() as x):
            return -x
        case ("where", _, x, y) if given[1] is given[2] or (x is not None and x == y):
            return given[1]
        case _:
            return again(node, given)


def _rare(roots: Iterable[Value]) -> list[Symbol]:
    """The spikes and derivatives that values depend on, but for those that only decided about these."""
    found: dict[int, Symbol] = {}
    waiting = [root for root in roots if isinstance(root, Symbol)]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += [a for a in node.arguments if isinstance(a, Symbol) and node.operation not in (*SPIKES, "derivative")]
    return [node for node in ordered(roots) if id(node) in found and node.operation in (*SPIKES, "derivative")]


def _symbols(values: Iterable[Value]) -> list[Symbol]:
    return [value for value in values if isinstance(value, Symbol)]


def _unique(values: Iterable[Value]) -> list[Symbol]:
    return list({id(value): value for value in _symbols(values)}.values())
