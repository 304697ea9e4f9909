"""Differentiate a recorded step in reverse: a rule for each word; and rewrite it, as passes want it."""
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

from spikegrad import trace
from spikegrad.trace import BOOLEANS, Program, Symbol, Value, argument, ordered


def _where(condition: Symbol, a: Value, b: Value) -> Symbol:
    return Symbol("where", condition, a, b)


def _shared(g: Symbol, a: Value, b: Value, first: str) -> tuple[Symbol, Symbol]:
    """The gradient to the one that is taken, half of it to each where they are equal."""
    taken, tie = Symbol(first, a, b), Symbol("equal", a, b)
    return _where(taken, g, _where(tie, g * 0.5, g * 0.0)), _where(taken, g * 0.0, _where(tie, g * 0.5, g))


def _divided(part: Symbol, n: Symbol) -> tuple[Symbol, Symbol]:
    """One division for both: the same symbol twice."""
    return part, -(part * n)


_RULES: Mapping[str, Callable[..., tuple[Value | None, ...]]] = {
    "add": lambda g, n, a, b: (g, g),
    "subtract": lambda g, n, a, b: (g, -g),
    "multiply": lambda g, n, a, b: (g * b, g * a),
    "divide": lambda g, n, a, b: _divided(g / b, n),
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

    In what they are computed from ``derivative`` is the surrogate's derivative, ``primitive_by_slope`` that of its primitive by its slope.
    """
    bar: dict[int, Value] = {}
    by: dict[str, Value | None] = dict.fromkeys(learned)

    def give(node: Value, g: Value | None) -> None:
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
                by[name] = part if (known := by[name]) is None else known + part
    return [bar.get(id(node)) for node in wanted] + list(by.values())


def derivative_by(formula: Program, arguments: Sequence[str], name: str) -> Program:
    """The derivative of a formula by one of its arguments, from the same arguments."""
    given = {each: argument(each) for each in arguments}
    results, _ = trace.symbols(formula, given)
    one = given["x"] * 0.0 + 1.0
    (found,) = reverse(results, [one], [given[name]])
    return trace.flatten([given["x"] * 0.0 if found is None else found])


def rewritten(
    roots: Sequence[Value], rule: Callable[[Symbol, tuple[Value, ...]], Value], names: Mapping[int, str]
) -> tuple[list[Value], dict[int, str]]:
    """The roots with each symbol replaced by what the rule makes of it and its new arguments; equal symbols become one."""
    new: dict[int, Value] = {}
    known: dict[tuple[object, ...], Symbol] = {}
    renamed: dict[int, str] = {}
    for node in ordered(roots):
        arguments = tuple(new[id(a)] if isinstance(a, Symbol) else a for a in node.arguments)
        made = rule(node, arguments)
        if isinstance(made, Symbol):
            key = (made.operation, made.name, *((id(a), 0) if isinstance(a, Symbol) else (str(a), 1) for a in made.arguments))
            made = known.setdefault(key, made)
            if id(node) in names:
                renamed.setdefault(id(made), names[id(node)])
        new[id(node)] = made
    return [new[id(r)] if isinstance(r, Symbol) else r for r in roots], renamed


def again(node: Symbol, arguments: tuple[Value, ...]) -> Symbol:
    """The symbol with other arguments; itself where they are its own."""
    same = all(a is b for a, b in zip(arguments, node.arguments, strict=True))
    return node if same else Symbol(node.operation, *arguments)


def plain(node: Symbol, arguments: tuple[Value, ...]) -> Value:
    """A symbol as far as its value goes: what only stops gradients is dropped."""
    if node.operation in ("hold", "quantized"):
        return arguments[0]
    if node.operation == "where" and arguments[1] is arguments[2]:
        return arguments[1]
    return again(node, arguments)


def with_reciprocals(formula: Program, arguments: Sequence[str]) -> Program:
    """The formula with products in place of quotients.

    A surrogate's derivative and that of its primitive often divide by the same value, of which the compiler computes one reciprocal for
    both: a division costs as much as all the rest of either.
    """

    def rule(node: Symbol, given: tuple[Value, ...]) -> Value:
        if node.operation != "divide":
            return again(node, given)
        above, below = given
        return above * (Symbol("divide", 1.0, below) if isinstance(below, Symbol) else 1.0 / below)

    results, names = trace.symbols(formula, {name: argument(name) for name in arguments})
    return trace.flatten(*rewritten(results, rule, names))


def of_finite(formula: Program, arguments: Sequence[str]) -> Program:
    """The formula without its own rule for an infinite potential, of which no pass takes what it gives; NaN stays NaN."""

    def rule(node: Symbol, given: tuple[Value, ...]) -> Value:
        size, bound = given if node.operation == "less" else (None, None)
        if isinstance(bound, float) and bound == math.inf and isinstance(size, Symbol) and size.operation == "abs":
            return Symbol("equal", size.arguments[0], size.arguments[0])
        return again(node, given)

    results, names = trace.symbols(formula, {name: argument(name) for name in arguments})
    return trace.flatten(*rewritten(results, rule, names))


_TAME = {"add", "subtract", "negative", "minimum", "maximum", "where", "hold", "fire", "fire_above", "quantized"}
"""Operations whose adjoints are finite where what arrives is 0; so is a product or a quotient with a literal."""

_When = frozenset[frozenset[tuple[int, bool]]]
"""When a gradient arrives: one of these choices was made, each of them conditions, by their id, and how they came out."""
_ALWAYS: _When = frozenset((frozenset[tuple[int, bool]](),))


def _either(one: _When, other: _When) -> _When:
    """When one of the two is, without what follows from the rest."""
    found = one | other
    for choice in one | other:
        for condition, came_out in choice:
            rest = choice - {(condition, came_out)}
            if rest | {(condition, not came_out)} in found:
                return _either(found - {choice, rest | {(condition, not came_out)}}, frozenset((rest,)))
    return frozenset(choice for choice in found if not any(each < choice for each in found))


def _tame(node: Symbol) -> bool:
    by = node.arguments[1:] if node.operation == "divide" else node.arguments if node.operation == "multiply" else ()
    return node.operation in _TAME or any(isinstance(a, float) and 0 < abs(a) < math.inf for a in by)


def guarded(roots: Sequence[Value], names: Mapping[int, str]) -> tuple[list[Value], dict[int, str]]:
    """The same values, and their names, without NaN in the gradients of what `where` does not take.

    The gradient of ``where(x > 0, log(x), x)`` at 0 would be 0 / 0: nothing arrives at the branch, but it is divided by x. So what enters
    operations that only branches use becomes ``where(condition, x, hold(x))``.
    """
    roots, names = rewritten(roots, again, names)  # so that equal conditions are one
    nodes = ordered(roots)
    when: dict[int, _When] = {id(root): _ALWAYS for root in roots if isinstance(root, Symbol)}
    edges: dict[int, list[tuple[int, Symbol, _When]]] = {}
    guards: dict[int, dict[int, _When]] = {}
    for node in reversed(nodes):
        here = edges[id(node)] = list[tuple[int, Symbol, _When]]()
        guards[id(node)] = {}
        if id(node) not in when:  # no gradient ever arrives
            continue
        for place, operand in enumerate(node.arguments):
            if not isinstance(operand, Symbol) or node.operation not in _RULES or operand.operation in BOOLEANS:
                continue
            arrives = when[id(node)]
            if node.operation == "where":
                taken = (id(node.arguments[0]), place == 1)
                arrives = frozenset(choice | {taken} for choice in arrives if (taken[0], not taken[1]) not in choice)
            if not arrives:  # what contradicts itself: only a condition and its opposite lead here
                guards[id(node)][place] = arrives
                continue
            here.append((place, operand, arrives))
            when[id(operand)] = _ALWAYS if operand.operation == "argument" else _either(when.get(id(operand), frozenset()), arrives)

    infected: set[int] = set()
    for node in reversed(nodes):
        if when.get(id(node), _ALWAYS) != _ALWAYS and (id(node) in infected or not _tame(node)):
            for place, operand, arrives in edges[id(node)]:
                if when[id(operand)] == arrives:
                    infected.add(id(operand))
                else:
                    guards[id(node)][place] = arrives

    place_of = {id(node): place for place, node in enumerate(nodes)}

    def guard(x: Value, choices: _When) -> Symbol:
        ways, held = list[Symbol](), Symbol("hold", x)
        for choice in sorted(sorted((place_of[condition], out) for condition, out in choice) for choice in choices):
            parts = [nodes[place] if out else ~nodes[place] for place, out in choice]
            ways.append(functools.reduce(operator.and_, parts))
        if not ways:
            return held
        condition = functools.reduce(operator.or_, ways)
        return Symbol("where", condition.arguments[0], held, x) if condition.operation == "not" else _where(condition, x, held)

    new: dict[int, Symbol] = {}
    for node in nodes:
        made: list[Value] = [new[id(a)] if isinstance(a, Symbol) else a for a in node.arguments]
        for place, choices in guards[id(node)].items():
            made[place] = guard(made[place], choices)
        new[id(node)] = node if node.operation in BOOLEANS else again(node, tuple(made))
    renamed = {id(new[key]): name for key, name in names.items() if key in new}
    return [new[id(r)] if isinstance(r, Symbol) else r for r in roots], names | renamed


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

    def want(node: Value) -> None:
        """Conditions are no arrays of the working dtype, and what is held is computed anyway: these stay in the step."""
        if isinstance(node, Symbol) and alone.get(id(node), False):
            if node.operation in ("hold", *BOOLEANS):
                for operand in node.arguments:
                    want(operand)
            else:
                wanted[id(node)] = node

    for node in ordered(results):
        if node.operation != "argument":
            own = node.operation not in ("fire", "fire_above", "quantized")
            alone[id(node)] = own and all(alone.get(id(a), False) for a in node.arguments if isinstance(a, Symbol))
        if not alone.get(id(node), False):
            for operand in node.arguments:
                want(operand)
    for node in results:
        want(node)
    taken = {*numbers, *others, *names.values()}
    parameters: dict[str, Symbol] = {}
    for node in wanted.values():
        name = node.name if node.operation == "argument" else names.get(id(node), "constant")
        while node.operation != "argument" and (name in parameters or (name in taken and name != names.get(id(node)))):
            name += "_"
        parameters[name] = node
    parameters = {name: parameters[name] for name in sorted(parameters, key=lambda name: name not in numbers)}
    replaced = {id(node): argument(name) for name, node in parameters.items() if node.operation != "argument"}
    rest, names = rewritten(results, lambda node, a: replaced[id(node)] if id(node) in replaced else again(node, a), names)
    return trace.flatten(list(parameters.values())), tuple(parameters), trace.flatten(rest, names)
