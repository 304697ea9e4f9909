"""The catalogues printed as JavaScript: every formula of a surrogate, and of a neuron every program of its passes, in each structure.

As `spikegrad.kernels.interpret` runs the plan's programs on arrays, the page's ``model.js`` runs these functions on numbers; neither holds
any mathematics. A function that several neurons need is printed once.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

from spikegrad import definition, derive, facts, printing, ranges, trace
from spikegrad.formulas.rational import ATan
from spikegrad.kernels.plan import Call, Plan
from spikegrad.neuron import Neuron
from spikegrad.printing import DIALECTS
from spikegrad.ranges import Between
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Program, Record, argument

_ONE = DIALECTS["javascript"]
_SEVERAL = dataclasses.replace(_ONE, result="  return [{value}];\n}}", several="{}")
"""Of a program a list of results, even of one."""

_ERF = {"erf": "erf({0})"}
_NUMBER = "number"
_WORDS = {
    **_ERF,
    "fire": "this.fire({0})",
    "fire_above": "this.fire({0})",
    "derivative": "this.derivative({0})",
    f"primitive_by_{_NUMBER}": "this.by({0})",
}
"""Words of a step in the page: what is the surrogate's comes as `this`, so that each neuron goes with each of them."""


class Catalogue:
    """JavaScript functions, and by the names of neurons and surrogates what they are and which of the functions are theirs."""

    def __init__(self, surrogates: Mapping[str, type[Surrogate]], neurons: Mapping[str, Neuron]) -> None:
        """The neurons have the numbers that the page begins with."""
        self._functions: dict[str, tuple[str, str]] = {}
        self.surrogates = {name: self._surrogate(kind) for name, kind in sorted(surrogates.items(), key=lambda each: each[0].lower())}
        self.neurons = {name: self._neuron(each) for name, each in sorted(neurons.items(), key=lambda each: each[0].lower())}

    def source(self) -> str:
        """All of it as one script, the same for the same catalogues: functions, then the constants ``SURROGATES`` and ``NEURONS``."""
        functions = [text.replace("function f(", f"function {name}(", 1) for text, name in self._functions.values()]
        tables = (f"const {name} = {_literal(table)};\n" for name, table in (("SURROGATES", self.surrogates), ("NEURONS", self.neurons)))
        return "".join((*functions, *tables))

    def _function(self, name: str, program: Program, arguments: Sequence[str], *, several: bool = True) -> _Name:
        dialect, words = (_SEVERAL, _WORDS) if several else (_ONE, _ERF)
        text = printing.function(program, arguments, "f", dialect, words)
        return _Name(self._functions.setdefault(text, (text, f"{name}_{len(self._functions)}"))[1])

    def _surrogate(self, kind: type[Surrogate]) -> dict[str, object]:
        fields = [field.name for field in dataclasses.fields(kind)]
        structure = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in kind.numbers}
        stated = {name: text for name, text in facts.section(kind, "Facts").items() if name != "noise"}
        variants: list[object] = []
        for when in _combinations(kind, structure):
            record = _at_mean_noise(kind(**when).structure)
            programs = {"derivative": record.derivative}
            if record.primitive is not None:
                by = {f"by_{number}": derive.derivative_by(record.primitive, record.arguments, number) for number in kind.numbers}
                programs |= {"primitive": record.primitive, **by}
            functions = {
                part: self._function(f"{kind.__name__}_{part}", program, record.arguments, several=False)
                for part, program in programs.items()
            }
            variants.append({"when": when, **functions})
        return {
            "about": "".join(facts.prose(kind)[:1]),
            "numbers": {name: _number(within, getattr(kind(), name)) for name, within in kind.numbers.items()},
            "options": {name: {"value": value, "choices": _choices(kind, name, value)} for name, value in structure.items()},
            "facts": {name: _Name(f"({{{', '.join(fields)}}}) => {_expression(text)}") for name, text in stated.items()},
            "noise": facts.section(kind, "Facts").get("noise", "unknown"),
            "variants": variants,
        }

    def _neuron(self, neuron: Neuron) -> dict[str, object]:
        kind = type(neuron)
        own = {name: getattr(neuron, name) for name in definition.structure_of(kind)}
        variants, read = list[object](), set[str]()
        for when, record, reads in _structures(neuron, own):
            read.update(reads)
            variants.append({"when": when, **self._passes(neuron, record, when)})
        fields = [field.name for field in dataclasses.fields(kind) if field.name in (*own, *kind.numbers)]
        options = {
            name: {"value": own[name], "choices": _choices(kind, name, own[name])} for name in fields if name in own and name in read
        }
        return {
            "about": "".join(facts.prose(kind)[:1]),
            "said": _said((Neuron, "Attributes"), (kind, "Args"), (kind, "States"), (kind, "Options"), of=(*kind.states, *fields)),
            "inputs": kind.inputs,
            "states": kind.states,
            "numbers": {name: _number(within, getattr(neuron, name)) for name, within in kind.numbers.items()},
            "options": options,
            "spiking": "spike" in read,
            "rests": {name: getattr(neuron, name) for name in kind.states},
            "variants": variants,
        }

    def _passes(self, neuron: Neuron, record: trace.StepRecord, when: Mapping[str, Hashable]) -> dict[str, object]:
        plan, name = Call(record, ATan().structure, record.recorded).plan, type(neuron).__name__
        passes = plan.passes(frozenset((*plan.parameters, *[f"spike.{_NUMBER}"] * _fires(record.step))))
        bars = [f"bar_{each}" for each in (*map(str, range(plan.outputs)), *plan.states, *record.recorded)]
        read = (*passes.kept, *passes.reread, *passes.restored)
        return {
            "outputs": plan.outputs,
            "recorded": record.recorded,
            "parameters": plan.parameters,
            "reread": passes.reread,
            "restored": passes.restored,
            "adjoints": passes.adjoints,
            "constants": self._function(f"{name}_constants", plan.constants, plan.numbers),
            "resting": self._function(f"{name}_resting", plan.resting, (*plan.numbers, *plan.states)),
            "forward": self._function(f"{name}_forward", passes.keeping, (*plan.inputs, *plan.states, *plan.parameters)),
            "restore": self._function(f"{name}_restore", passes.restore, (*passes.kept, *plan.parameters)),
            "reverse": self._function(f"{name}_reverse", passes.reverse, (*read, *plan.parameters, *bars)),
            "pull": self._function(f"{name}_pull", *_pulled_back(plan)),
            "valid": self._valid(neuron, when),
        }

    def _valid(self, neuron: Neuron, when: Mapping[str, Hashable]) -> dict[str, object]:
        """The conditions between numbers, by what they ask for."""
        kind = type(neuron)
        symbols = {name: argument(name, within.sign) for name, within in kind.numbers.items()}
        conditions = neuron.bind({**symbols, **when}).valid()
        return {
            words.replace("`", ""): self._function(f"{kind.__name__}_valid", trace.flatten([holds]), tuple(kind.numbers), several=False)
            for words, holds in conditions.items()
            if isinstance(holds, trace.Symbol)
        }


class _Name(str):
    """What stands in the script as it is: the name of a function, or a function."""


def _literal(value: Any) -> str:
    """A value as JavaScript."""
    if isinstance(value, _Name):
        return value
    if isinstance(value, Mapping):
        return "{" + ",\n".join(f"{json.dumps(name)}: {_literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value).replace("<", "\\u003c")


def _number(within: Between, value: float) -> dict[str, object]:
    return {"value": value, "low": within.low, "high": within.high, "above": within.above, "words": within.words}


def _said(*sections: tuple[type, str], of: Collection[str]) -> dict[str, str]:
    """What sections of docstrings say of some fields, without the marks; the last one counts."""
    return {name: text.replace("`", "") for kind, title in sections for name, text in facts.section(kind, title).items() if name in of}


def _choices(kind: type[Surrogate | Neuron], name: str, value: Hashable) -> list[Hashable]:
    """Values of a field of the structure that the page offers: all of them, or whole numbers around the default."""
    given = definition.choices(ranges.hints(kind)[name])
    if not given and isinstance(value, int):
        return list(range(1, 2 * value + 1))
    return list(given) or [value]


def _combinations(kind: type[Surrogate], structure: Mapping[str, Hashable]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}]
    for name, value in structure.items():
        found = [{**each, name: choice} for each in found for choice in _choices(kind, name, value)]
    return found


def _structures(neuron: Neuron, own: Mapping[str, Hashable]) -> Iterator[tuple[dict[str, Hashable], trace.StepRecord, Collection[str]]]:
    """What a step reads of its structure with which values, its record, and all that it reads; once for each different choice.

    Whether a potential at the threshold spikes is the business of `fire`, in the page.
    """
    kind = type(neuron)
    waiting, seen, known = [dict(own)], [dict(own)], list[dict[str, Hashable]]()
    while waiting:
        given = waiting.pop(0)
        record, read = definition.recorded(kind, tuple(given.items()))
        varied = [name for name in given if name in read and name != "spike_at_threshold"]
        when = {name: given[name] for name in varied}
        if when in known:
            continue
        known.append(when)
        yield when, record, read
        for name in varied:
            for value in _choices(kind, name, own[name]):
                other = given | {name: value}
                if other not in seen:
                    seen.append(other)
                    waiting.append(other)


def _fires(step: Program) -> bool:
    return any(operation in ("fire", "fire_above") for operation, *_ in step.instructions)


def _at_mean_noise(record: Record) -> Record:
    """The formula without its argument `noise`."""
    names = tuple(name for name in record.arguments if name != "noise")
    given = {name: argument(name) for name in names} | {"noise": 0.5}

    def program(formula: Program) -> Program:
        return trace.flatten(trace.symbols(formula, given)[0])

    return Record(names, program(record.derivative), record.primitive and program(record.primitive))


def _pulled_back(plan: Plan) -> tuple[Program, tuple[str, ...]]:
    """The gradients of the numbers from those of the parameters, then of the first states; and its arguments."""
    names = dict.fromkeys((*plan.numbers, *plan.states))
    given = {name: argument(name) for name in names}
    results = [x for program in (plan.constants, plan.resting) for x in trace.symbols(program, given)[0]]
    bars = [f"bar_{place}" for place in range(len(results))]
    found = derive.reverse(results, [argument(bar) for bar in bars], [given[name] for name in plan.numbers])
    return trace.flatten([0.0 if value is None else value for value in found]), (*names, *bars)


_CALLS = {"sqrt": "Math.sqrt", "log": "Math.log", "exp": "Math.exp", "abs": "Math.abs", "max": "Math.max", "min": "Math.min"}
_NAMES = {"pi": "Math.PI", "inf": "Infinity"}
_SIGNS: Mapping[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.USub: "-",
    ast.Gt: ">",
    ast.Lt: "<",
    ast.GtE: ">=",
    ast.LtE: "<=",
}


def _expression(text: str) -> str:
    """A stated fact, an expression of Python over the fields, in JavaScript."""

    def written(node: ast.expr) -> str:
        match node:
            case ast.Constant(value=int() | float() as value):
                return repr(value)
            case ast.Name(id=name):
                return _NAMES.get(name, name)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in _CALLS:
                return f"{_CALLS[name]}({', '.join(map(written, arguments))})"
            case ast.BinOp(left=left, op=op, right=right):
                return f"({written(left)} {_SIGNS[type(op)]} {written(right)})"
            case ast.UnaryOp(op=op, operand=operand):
                return f"({_SIGNS[type(op)]}{written(operand)})"
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return f"({written(left)} {_SIGNS[type(op)]} {written(right)})"
            case ast.IfExp(test=test, body=body, orelse=other):
                return f"({written(test)} ? {written(body)} : {written(other)})"
            case ast.Tuple(elts=parts):
                return f"[{', '.join(map(written, parts))}]"
            case _:
                raise ValueError(f"a fact is stated as `{text}`, of which `{ast.unparse(node)}` cannot be written in JavaScript")

    return written(ast.parse(text, mode="eval").body)
