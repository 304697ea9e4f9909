"""Cut a recorded step into the straight-line programs that a layer's passes are made of, and find the least that must be kept for that.

Where each value lives, in a register, a cache or in memory, is whose business prints loops around them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spikegrad import trace
from spikegrad.derive import again, plain, reverse, rewritten
from spikegrad.trace import BOOLEANS, TRANSCENDENTAL, Program, Symbol, Value, argument, ordered


@dataclass(frozen=True)
class Passes:
    """What the passes of a layer compute in each step.

    Attributes:
        kept: names of what the forward step leaves for the reverse one.
        reread: the inputs that the reverse step reads again.
        restored: the states before a step that the reverse step reads, which follow from what the step before it kept.
        forward: from inputs, states and parameters: outputs, states after the step, recorded values.
        keeping: from the same: these, and what is kept.
        recompute: from the same: what is kept, and the states after the step.
        restore: from what is kept and parameters: the restored states after the step.
        reverse: from what is kept, inputs read again, restored states, parameters and the adjoints of all results (``bar_`` and the name;
            of outputs their place, ``bar_0``): the adjoints of inputs, states and learned parameters, but for those that are always 0.
    """

    kept: tuple[str, ...]
    reread: tuple[str, ...]
    restored: tuple[str, ...]
    forward: Program
    keeping: Program
    recompute: Program
    restore: Program
    reverse: Program
    adjoints: tuple[str, ...]
    """Names of the results of `reverse` that are not always 0, in their order."""


def passes(
    step: Program,
    inputs: Sequence[str],
    states: Sequence[str],
    parameters: Sequence[str],
    outputs: int,
    recorded: Sequence[str],
    learned: Collection[str] = (),
    passing: Collection[str] = (),
) -> Passes:
    """Cut a step, whose results are the outputs, the states after it and the recorded values, into passes.

    `learned` are the parameters whose adjoints are wanted, those of the surrogate as ``spike.slope``; `passing` the inputs that are in no
    memory after the step, so that they cannot be read again.
    """
    known = differentiated(step, inputs, states, parameters, outputs, recorded, learned)
    given, forward, back, adjoints, conditions, names = (
        known.given,
        known.forward,
        known.back,
        known.adjoints,
        known.conditions,
        known.names,
    )
    after = dict(zip(states, forward[outputs : outputs + len(states)], strict=True))
    cut = _least(
        [*forward, *conditions],
        back,
        [given[n] for n in inputs],
        [given[n] for n in inputs if n not in passing],
        {n: given[n] for n in states},
        after,
        cheaply=not set(passing) & set(inputs),
    )
    called: dict[int, str] = {}
    for node in cut.kept:
        name = names.get(id(node)) or (node.name if node.operation == "argument" else "kept")
        while name in called.values() or (name in given and node is not given[name]):
            name += "_"
        called[id(node)] = name
    replaced = {key: argument(name) for key, name in called.items()}

    def from_kept(roots: Sequence[Value]) -> Program:
        return trace.flatten(*rewritten(roots, lambda node, a: replaced[id(node)] if id(node) in replaced else again(node, a), names))

    return Passes(
        kept=tuple(called.values()),
        reread=tuple(node.name for node in cut.reread),
        restored=cut.restored,
        forward=trace.flatten(forward, names),
        keeping=trace.flatten([*forward, *cut.kept], names),
        recompute=trace.flatten([*cut.kept, *after.values()], names),
        restore=from_kept([after[name] for name in cut.restored]),
        reverse=from_kept(back),
        adjoints=tuple(adjoints),
    )


@dataclass(frozen=True)
class Differentiated:
    """A step and its reverse, as symbols, each value once.

    Attributes:
        given: the arguments of both by name.
        forward: the results of the step.
        adjoints: names of the adjoints that are not always 0: of inputs, states and learned parameters.
        back: these adjoints.
        conditions: what decides about gradients.
        names: of symbols, by their id.
    """

    given: dict[str, Symbol]
    forward: list[Value]
    adjoints: tuple[str, ...]
    back: list[Value]
    conditions: list[Value]
    names: dict[int, str]


def differentiated(
    step: Program,
    inputs: Sequence[str],
    states: Sequence[str],
    parameters: Sequence[str],
    outputs: int,
    recorded: Sequence[str],
    learned: Collection[str] = (),
) -> Differentiated:
    """The reverse of a step; the arguments are those of `passes`."""
    given = {name: argument(name) for name in (*inputs, *states, *parameters)}
    results, names = trace.symbols(step, given)
    bars = [argument(f"bar_{name}") for name in (*map(str, range(outputs)), *states, *recorded)]
    own = [name for name in parameters if name in learned]
    spiking = [name.removeprefix("spike.") for name in learned if name.startswith("spike.")]
    back = reverse(results, bars, [given[name] for name in (*inputs, *states, *own)], spiking)
    adjoints = dict(zip((*inputs, *states, *own, *(f"spike.{name}" for name in spiking)), back, strict=True))
    adjoints = {name: value for name, value in adjoints.items() if value is not None}
    # Where a condition decides about gradients alone, nothing else of the step leads to it.
    conditions = [node.arguments[0] for node in ordered(results) if node.operation == "where"]
    values, names = rewritten([*results, *adjoints.values(), *conditions], plain, names)
    forward, back = values[: len(results)], values[len(results) : len(results) + len(adjoints)]
    used = {id(node) for node in ordered(back)}
    conditions = [c for c in values[len(results) + len(adjoints) :] if id(c) in used]
    given |= {node.name: node for node in ordered([*forward, *back]) if node.operation == "argument"}
    return Differentiated(given, forward, tuple(adjoints), back, conditions, names)


@dataclass(frozen=True)
class _Cut:
    kept: list[Symbol]
    reread: list[Symbol]
    restored: tuple[str, ...] = ()

    @property
    def cost(self) -> int:
        """What is in memory anyway costs half of what must be stored."""
        return 2 * len(self.kept) + len(self.reread)


def _least(
    forward: Sequence[Value],
    back: Sequence[Value],
    inputs: Sequence[Symbol],
    in_memory: Sequence[Symbol],
    states: Mapping[str, Symbol],
    after: Mapping[str, Value],
    cheaply: bool,
) -> _Cut:
    """The fewest values of the forward step from which, and from inputs `in_memory`, all that the adjoints use can be computed.

    Either all from this step, a minimum cut; or with states that follow from what the step before has kept, found by trying. What is kept
    `cheaply`, in a cache or registers, also holds values that take a dozen instructions to compute again.
    """
    sources = {id(node) for node in (*inputs, *states.values())}
    varying = varying_with(forward, sources)
    needed = needed_by(back, varying)
    if not needed:
        return _Cut([], [])
    cheap = {id(node) for node in in_memory}
    cut = minimum_cut(varying, sources, cheap, needed)
    best = _Cut([n for n in cut if id(n) not in cheap], [n for n in cut if id(n) in cheap])
    best = min([best, *_with_restored(varying, needed, in_memory, states, after, best.cost)], key=lambda found: found.cost)
    if not cheaply:
        return best
    known = {*(id(node) for node in (*best.kept, *best.reread)), *(id(states[name]) for name in best.restored)}
    computed = _needs(needed.values(), known, varying)
    dear = [varying[key] for key in varying if key in computed and varying[key].operation in TRANSCENDENTAL]
    return dataclasses.replace(best, kept=[*best.kept, *dear])


def varying_with(forward: Sequence[Value], sources: set[int]) -> dict[int, Symbol]:
    """What of a step depends on its sources, by id."""
    varying: dict[int, Symbol] = {}
    for node in ordered(forward):
        if id(node) in sources or any(id(a) in varying for a in node.arguments):
            varying[id(node)] = node
    return varying


def needed_by(back: Sequence[Value], varying: Mapping[int, Symbol]) -> dict[int, Symbol]:
    """What of it a reverse reads, by id."""
    uses = [a for node in ordered(back) if id(node) not in varying for a in node.arguments]
    return {id(a): varying[id(a)] for a in (*uses, *back) if id(a) in varying}


_Place = str | tuple[int, int]
"""Of the graph that is cut: its source, its sink, or where a value begins (0) and ends (1), by its id."""


def minimum_cut(varying: Mapping[int, Symbol], sources: set[int], cheap: set[int], needed: Mapping[int, Symbol]) -> list[Symbol]:
    """The least costly set of values between the sources and what is needed, the one nearest to what is needed."""
    endless = 10**6
    room: dict[tuple[_Place, _Place], int] = {}
    near: dict[_Place, set[_Place]] = {"source": set(), "sink": set()}

    def edge(a: _Place, b: _Place, capacity: int) -> None:
        room[a, b] = room.get((a, b), 0) + capacity
        room.setdefault((b, a), 0)
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)

    for key, node in varying.items():
        edge((key, 0), (key, 1), endless if node.operation in BOOLEANS else 1 if key in cheap else 2)
        for a in node.arguments:
            if id(a) in varying:
                edge((id(a), 1), (key, 0), endless)
    for key in sources & varying.keys():
        edge("source", (key, 0), endless)
    for key in needed:
        edge((key, 1), "sink", endless)

    def reached(start: _Place, forwards: bool) -> dict[_Place, _Place | None]:
        before: dict[_Place, _Place | None] = {start: None}
        queue = deque([start])
        while queue:
            a = queue.popleft()
            for b in near[a]:
                if b not in before and room[(a, b) if forwards else (b, a)] > 0:
                    before[b] = a
                    queue.append(b)
        return before

    while "sink" in (before := reached("source", forwards=True)):
        path: list[_Place] = ["sink"]
        while (place := before[path[-1]]) is not None:
            path.append(place)
        steps = list(itertools.pairwise(reversed(path)))
        by = min(room[step] for step in steps)
        for a, b in steps:
            room[a, b] -= by
            room[b, a] += by
    after = reached("sink", forwards=False)
    return [node for key, node in varying.items() if (key, 1) in after and (key, 0) not in after]


def _with_restored(
    varying: Mapping[int, Symbol],
    needed: Mapping[int, Symbol],
    inputs: Sequence[Symbol],
    states: Mapping[str, Symbol],
    after: Mapping[str, Value],
    most: int,
) -> Sequence[_Cut]:
    """The cheapest sets to keep that cost less than `most`, where states before a step may follow from what the step before has kept."""
    reads = {key: {id(a) for a in node.arguments} & varying.keys() for key, node in varying.items() if node.operation != "argument"}

    def computable(known: set[int]) -> set[int]:
        found = set(known)
        for key, read in reads.items():
            if read <= found:
                found.add(key)
        return found

    def cost(size: int, reread: Sequence[Symbol]) -> int:
        return 2 * size + len(reread)

    candidates = [node for node in varying.values() if node.operation not in BOOLEANS and all(node is not i for i in inputs)]
    tries = sorted(((size, reread) for size in (1, 2) for reread in ([], list(inputs))), key=lambda each: cost(*each))
    for size, reread in tries:
        found: list[tuple[int, _Cut]] = []
        for kept in itertools.combinations(candidates, size) if cost(size, reread) < most else ():
            own = {id(node) for node in kept}
            follows = computable(own)
            restored = [name for name, value in after.items() if id(value) in follows or id(value) not in varying]
            known = computable({*own, *(id(node) for node in reread), *(id(states[name]) for name in restored)})
            if needed.keys() <= known:
                used = _needs(needed.values(), own, varying)
                names = tuple(name for name in restored if id(states[name]) in used)
                work = len(used) + len(_needs([after[name] for name in names], own, varying))
                found.append((work, _Cut(list(kept), [i for i in reread if id(i) in used], names)))
        if found:
            return min(found, key=lambda each: each[0])[1:]
    return ()


def _needs(roots: Iterable[Value], known: set[int], varying: Mapping[int, Symbol]) -> set[int]:
    """What must be computed for the roots where some values are known."""
    found: set[int] = set()
    stack = [root for root in roots if isinstance(root, Symbol)]
    while stack:
        node = stack.pop()
        if id(node) in varying and id(node) not in known and id(node) not in found:
            found.add(id(node))
            stack += [a for a in node.arguments if isinstance(a, Symbol)]
    return found
