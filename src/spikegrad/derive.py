"""Differentiate a recorded step in reverse, and find the least that must be kept of it for that.

`passes` cuts a step into the straight-line programs that a layer's passes are made of. Where each value lives, in a register, a cache or in
memory, is whose business prints loops around them.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spikegrad import trace
from spikegrad.trace import BOOLEANS, Program, Symbol, argument, ordered

Value = Symbol | float


def _where(condition: Symbol, a: Value, b: Value) -> Symbol:
    return Symbol("where", condition, a, b)


def _shared(g: Symbol, a: Value, b: Value, first: str) -> tuple[Symbol, Symbol]:
    """The gradient to the one that is taken, half of it to each where they are equal."""
    taken, tie = Symbol(first, a, b), Symbol("equal", a, b)
    return _where(taken, g, _where(tie, g * 0.5, g * 0.0)), _where(taken, g * 0.0, _where(tie, g * 0.5, g))


_RULES: Mapping[str, Callable[..., tuple[Value | None, ...]]] = {
    "add": lambda g, n, a, b: (g, g),
    "subtract": lambda g, n, a, b: (g, -g),
    "multiply": lambda g, n, a, b: (g * b, g * a),
    "divide": lambda g, n, a, b: (g / b, -(g * n) / b),
    "negative": lambda g, n, a: (-g,),
    "abs": lambda g, n, a: (_where(a > 0.0, g, _where(a < 0.0, -g, g * a)),),
    "minimum": lambda g, n, a, b: _shared(g, a, b, "less"),
    "maximum": lambda g, n, a, b: _shared(g, a, b, "greater"),
    "exp": lambda g, n, a: (g * n,),
    "log": lambda g, n, a: (g / a,),
    "sqrt": lambda g, n, a: (g / (n + n),),
    "sin": lambda g, n, a: (g * Symbol("cos", a),),
    "cos": lambda g, n, a: (-(g * Symbol("sin", a)),),
    "tanh": lambda g, n, a: (g * (1.0 - n * n),),
    "sigmoid": lambda g, n, a: (g * (n * (1.0 - n)),),
    "arctan": lambda g, n, a: (g / (1.0 + a * a),),
    "erf": lambda g, n, a: (g * (2 / math.sqrt(math.pi) * Symbol("exp", -(a * a))),),
    "where": lambda g, n, c, a, b: (None, _where(c, g, 0.0), _where(c, 0.0, g)),
    # An infinite potential has no gradient, whatever comes in.
    "fire": lambda g, n, a: (_where(abs(a) != math.inf, g * Symbol("derivative", a), 0.0),),
    "fire_above": lambda g, n, a: _RULES["fire"](g, n, a),
    "quantized": lambda g, n, a: (g,),
}
"""For each word the adjoints of its operands, from its own adjoint g and its value n. Words that are not here pass no gradient on."""


def reverse(
    results: Sequence[Value], adjoints: Sequence[Symbol | None], wanted: Sequence[Symbol], learned: Sequence[str] = ()
) -> list[Value | None]:
    """Adjoints of the `wanted` symbols, and of the surrogate's parameters `learned`, from those of the results; None for 0.

    In what they are computed from ``derivative`` is the surrogate's derivative, and ``primitive_by_slope`` that of its primitive by its slope.
    """
    bar: dict[int, Value] = {}
    by: dict[str, Value | None] = dict.fromkeys(learned)

    def give(node: Any, g: Value | None) -> None:
        if isinstance(node, Symbol) and g is not None:
            bar[id(node)] = bar[id(node)] + g if id(node) in bar else g

    for result, g in zip(results, adjoints, strict=True):
        give(result, g)
    for node in reversed(ordered(results)):
        g = bar.get(id(node))
        if g is None or node.operation not in _RULES:
            continue
        for operand, part in zip(node.arguments, _RULES[node.operation](g, node, *node.arguments), strict=True):
            give(operand, part)
        if node.operation in ("fire", "fire_above"):
            x = node.arguments[0]
            for name in learned:
                part = _where(abs(x) != math.inf, g * Symbol(f"primitive_by_{name}", x), 0.0)  # pyright: ignore[reportArgumentType]
                by[name] = part if by[name] is None else by[name] + part  # pyright: ignore[reportOperatorIssue]
    return [bar.get(id(node)) for node in wanted] + list(by.values())


def derivative_by(formula: Program, arguments: Sequence[str], name: str) -> Program:
    """The derivative of a formula by one of its arguments, from the same arguments."""
    given = {each: argument(each) for each in arguments}
    results, _ = trace.symbols(formula, given)
    one = given["x"] * 0.0 + 1.0
    (found,) = reverse(results, [one], [given[name]])
    return trace.flatten([given["x"] * 0.0 if found is None else found])


def rewritten(
    roots: Sequence[Any], rule: Callable[[Symbol, tuple[Any, ...]], Any], names: Mapping[int, str]
) -> tuple[list[Any], dict[int, str]]:
    """The roots with each symbol replaced by what the rule makes of it and its new arguments; equal symbols become one."""
    new: dict[int, Any] = {}
    known: dict[Any, Symbol] = {}
    renamed: dict[int, str] = {}
    for node in ordered(roots):
        arguments = tuple(new[id(a)] if isinstance(a, Symbol) else a for a in node.arguments)
        made = rule(node, arguments)
        if isinstance(made, Symbol):
            key = (made.operation, *((id(a), 0) if isinstance(a, Symbol) else (str(a), 1) for a in made.arguments))
            made = known.setdefault(key, made)
            if id(node) in names:
                renamed.setdefault(id(made), names[id(node)])
        new[id(node)] = made
    return [new[id(r)] if isinstance(r, Symbol) else r for r in roots], renamed


def again(node: Symbol, arguments: tuple[Any, ...]) -> Symbol:
    """The symbol with other arguments; itself where they are its own."""
    same = all(a is b for a, b in zip(arguments, node.arguments, strict=True))
    return node if same else Symbol(node.operation, *arguments)


def plain(node: Symbol, arguments: tuple[Any, ...]) -> Any:
    """A symbol as far as its value goes: what only stops gradients is dropped."""
    if node.operation in ("hold", "quantized"):
        return arguments[0]
    if node.operation == "where" and arguments[1] is arguments[2]:
        return arguments[1]
    return again(node, arguments)


_TAME = {"add", "subtract", "negative", "where", "hold", "fire", "fire_above", "quantized", *BOOLEANS}
"""Operations whose adjoints are finite where what arrives is 0."""


def guarded(roots: Sequence[Value]) -> list[Any]:
    """The same values, without NaN in the gradients of what `where` does not take.

    The gradient of ``where(x > 0, log(x), x)`` at 0 would be 0 / 0: nothing arrives at the branch, but it is divided by x. So what enters an
    operation that only one branch uses becomes ``where(condition, x, hold(x))``.
    """
    nodes = ordered(roots)
    uses: dict[int, list[tuple[Symbol | None, int]]] = {id(root): [(None, 0)] for root in roots if isinstance(root, Symbol)}
    for node in nodes:
        for place, operand in enumerate(node.arguments):
            if isinstance(operand, Symbol):
                uses.setdefault(id(operand), []).append((node, place))
    inside: dict[int, tuple[tuple[Symbol, bool], ...]] = {}
    for node in reversed(nodes):
        found = set[Any]()
        for user, place in uses[id(node)]:
            outer = () if user is None else inside.get(id(user), ())
            found.add((*outer, (user.arguments[0], place == 1)) if user is not None and user.operation == "where" and place else outer)
        if len(found) == 1 and node.operation != "argument":
            inside[id(node)] = found.pop()
    if not any(inside.values()):
        return list(roots)

    new: dict[int, Any] = {}
    for node in nodes:
        made = [new[id(a)] if isinstance(a, Symbol) else a for a in node.arguments]
        here = inside.get(id(node), ())
        if here and node.operation not in _TAME:
            for place, operand in enumerate(node.arguments):
                if isinstance(operand, Symbol) and operand.operation not in BOOLEANS:
                    for condition, taken in here[len(inside.get(id(operand), ())) :]:
                        x, c = made[place], new[id(condition)]
                        held = Symbol("hold", x)
                        made[place] = _where(c, x, held) if taken else _where(c, held, x)
        new[id(node)] = again(node, tuple(made))
    return [new[id(r)] if isinstance(r, Symbol) else r for r in roots]


def hoisted(step: Program, numbers: Sequence[str], others: Iterable[str]) -> tuple[Program, tuple[str, ...], Program]:
    """A step without what depends on numbers alone, which need be computed only once.

    Args:
        step: a program.
        numbers: the arguments that do not vary from step to step.
        others: its other arguments.

    Returns:
        The program of the `parameters`, from the numbers; their names; and the step, from its other arguments and the parameters.
    """
    given = {name: argument(name) for name in (*numbers, *others)}
    results, names = trace.symbols(step, given)
    alone: dict[int, bool] = {id(given[name]): True for name in numbers}
    wanted: dict[int, Symbol] = {}
    for node in ordered(results):
        operands = [a for a in node.arguments if isinstance(a, Symbol)]
        if node.operation != "argument":
            alone[id(node)] = all(alone.get(id(a), False) for a in operands)
        if not alone.get(id(node), False):
            wanted |= {id(a): a for a in operands if alone.get(id(a), False)}
    wanted |= {id(r): r for r in results if isinstance(r, Symbol) and alone.get(id(r), False)}
    taken = {*numbers, *others, *names.values()}
    parameters: dict[str, Symbol] = {}
    for node in wanted.values():
        name = str(node.arguments[0]) if node.operation == "argument" else names.get(id(node), "constant")
        while node.operation != "argument" and (name in parameters or (name in taken and name != names.get(id(node)))):
            name += "_"
        parameters[name] = node
    parameters = {name: parameters[name] for name in sorted(parameters, key=lambda name: name not in numbers)}
    replaced = {id(node): argument(name) for name, node in parameters.items() if node.operation != "argument"}
    rest, names = rewritten(results, lambda node, a: replaced[id(node)] if id(node) in replaced else again(node, a), names)
    return trace.flatten(list(parameters.values())), tuple(parameters), trace.flatten(rest, names)


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
        reverse: from what is kept, inputs read again, restored states, parameters and the adjoints of all results (``bar_`` and the name; of
            outputs their place, ``bar_0``): the adjoints of inputs, states and learned parameters, None where one is always 0.
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
) -> Passes:
    """Cut a step, whose results are the outputs, the states after it and the recorded values, into passes.

    `learned` are the parameters whose adjoints are wanted, those of the surrogate as ``spike.slope``.
    """
    given = {name: argument(name) for name in (*inputs, *states, *parameters)}
    results, names = trace.symbols(step, given)
    bars = [argument(f"bar_{name}") for name in (*map(str, range(outputs)), *states, *recorded)]
    own = [name for name in parameters if name in learned]
    spiking = [name.removeprefix("spike.") for name in learned if name.startswith("spike.")]
    back = reverse(results, bars, [given[name] for name in (*inputs, *states, *own)], spiking)
    adjoints = dict(zip((*inputs, *states, *own, *(f"spike.{name}" for name in spiking)), back, strict=True))
    adjoints = {name: value for name, value in adjoints.items() if value is not None}
    values, names = rewritten([*results, *adjoints.values()], plain, names)
    forward, back = values[: len(results)], values[len(results) :]
    given |= {str(node.arguments[0]): node for node in ordered(values) if node.operation == "argument"}
    after = dict(zip(states, forward[outputs : outputs + len(states)], strict=True))
    cut = _least(forward, back, [given[name] for name in inputs], {name: given[name] for name in states}, after)
    called: dict[int, str] = {}
    for node in cut.kept:
        name = names.get(id(node)) or (str(node.arguments[0]) if node.operation == "argument" else "kept")
        while name in called.values() or (name in given and node is not given[name]):
            name += "_"
        called[id(node)] = name
    replaced = {key: argument(name) for key, name in called.items()}

    def from_kept(roots: Sequence[Any]) -> Program:
        return trace.flatten(*rewritten(roots, lambda node, a: replaced[id(node)] if id(node) in replaced else again(node, a), names))

    return Passes(
        kept=tuple(called.values()),
        reread=tuple(str(node.arguments[0]) for node in cut.reread),
        restored=cut.restored,
        forward=trace.flatten(forward, names),
        keeping=trace.flatten([*forward, *cut.kept], names),
        recompute=trace.flatten([*cut.kept, *after.values()], names),
        restore=from_kept([after[name] for name in cut.restored]),
        reverse=from_kept(back),
        adjoints=tuple(adjoints),
    )


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
    forward: Sequence[Any], back: Sequence[Any], inputs: Sequence[Symbol], states: Mapping[str, Symbol], after: Mapping[str, Any]
) -> _Cut:
    """The fewest values of the forward step from which all that the adjoints use can be computed.

    Either all from this step, a minimum cut; or with states that follow from what the step before has kept, found by trying.
    """
    sources = {id(node) for node in (*inputs, *states.values())}
    varying: dict[int, Symbol] = {}
    for node in ordered(forward):
        if id(node) in sources or any(id(a) in varying for a in node.arguments):
            varying[id(node)] = node
    uses = [a for node in ordered(back) if id(node) not in varying for a in node.arguments]
    needed = {id(a): a for a in (*uses, *back) if id(a) in varying}
    if not needed:
        return _Cut([], [])
    cut = _minimum_cut(varying, sources, {id(node) for node in inputs}, needed)
    is_input = {id(node) for node in inputs}
    best = _Cut([n for n in cut if id(n) not in is_input], [n for n in cut if id(n) in is_input])
    return min([best, *_with_restored(varying, needed, inputs, states, after, best.cost)], key=lambda found: found.cost)


def _minimum_cut(varying: Mapping[int, Symbol], sources: set[int], cheap: set[int], needed: Mapping[int, Symbol]) -> list[Symbol]:
    """The least costly set of values between the sources and what is needed, the one nearest to what is needed."""
    endless = 10**6
    room: dict[tuple[Any, Any], int] = {}
    near: dict[Any, set[Any]] = {}

    def edge(a: Any, b: Any, capacity: int) -> None:
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

    def reached(start: Any, forwards: bool) -> dict[Any, Any]:
        before: dict[Any, Any] = {start: None}
        queue = deque([start])
        while queue:
            a = queue.popleft()
            for b in near[a]:
                if b not in before and room[(a, b) if forwards else (b, a)] > 0:
                    before[b] = a
                    queue.append(b)
        return before

    while "sink" in (before := reached("source", forwards=True)):
        path = ["sink"]
        while before[path[-1]] is not None:
            path.append(before[path[-1]])
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
    after: Mapping[str, Any],
    most: int,
) -> Sequence[_Cut]:
    """The cheapest sets to keep that cost less than `most`, where states before a step may follow from what the step before has kept."""

    def computable(known: set[int]) -> set[int]:
        found = set(known)
        for key, node in varying.items():
            if key not in found and node.operation != "argument" and all(id(a) in found for a in node.arguments if id(a) in varying):
                found.add(key)
        return found

    def cost(size: int, again: Sequence[Symbol]) -> int:
        return 2 * size + len(again)

    candidates = [node for node in varying.values() if node.operation not in BOOLEANS and all(node is not i for i in inputs)]
    tries = sorted(((size, again) for size in (1, 2) for again in ([], list(inputs))), key=lambda each: cost(*each))
    for size, again in tries:
        found: list[tuple[int, _Cut]] = []
        for kept in itertools.combinations(candidates, size) if cost(size, again) < most else ():
            own = {id(node) for node in kept}
            follows = computable(own)
            restored = [name for name, value in after.items() if id(value) in follows or id(value) not in varying]
            known = computable({*own, *(id(node) for node in again), *(id(states[name]) for name in restored)})
            if needed.keys() <= known:
                used = _needs(needed.values(), own, varying)
                names = tuple(name for name in restored if id(states[name]) in used)
                work = len(used) + len(_needs([after[name] for name in names], own, varying))
                found.append((work, _Cut(list(kept), [i for i in again if id(i) in used], names)))
        if found:
            return min(found, key=lambda each: each[0])[1:]
    return ()


def _needs(roots: Iterable[Any], known: set[int], varying: Mapping[int, Symbol]) -> set[int]:
    """What must be computed for the roots where some values are known."""
    found: set[int] = set()
    stack = [root for root in roots if isinstance(root, Symbol)]
    while stack:
        node = stack.pop()
        if id(node) in varying and id(node) not in known and id(node) not in found:
            found.add(id(node))
            stack += [a for a in node.arguments if isinstance(a, Symbol)]
    return found
