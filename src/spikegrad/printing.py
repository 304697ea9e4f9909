"""Print a recorded program as straight-line source, for a language that knows numbers and nothing else."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spikegrad.trace import FUNCTIONS, Operand, Program

_ATOM, _UNARY, _PRODUCT, _SUM, _LOGIC = range(5)
"""How tightly a text holds together; whatever holds less than its place asks for stands in parentheses."""

_INFIX = {
    "add": ("+", _SUM),
    "subtract": ("-", _SUM),
    "multiply": ("*", _PRODUCT),
    "divide": ("/", _PRODUCT),
    "less": ("<", _LOGIC),
    "less_equal": ("<=", _LOGIC),
    "greater": (">", _LOGIC),
    "greater_equal": (">=", _LOGIC),
    "equal": ("==", _LOGIC),
    "not_equal": ("!=", _LOGIC),
    "and": ("&", _LOGIC),
    "or": ("|", _LOGIC),
}
_LONGEST = 60
"""Characters of an expression that is not given a name of its own."""


@dataclass(frozen=True)
class Dialect:
    """How one language writes a function, an assignment, a literal and each operation that is no infix operator.

    An operation's text has its operands as ``{0}``, ``{1}``; one that repeats an operand gets it as a name. Where the language would
    branch on the condition of a `where`, both values are `chosen` from: they have names, so that a loop can be vectorised.
    """

    head: str
    line: str
    result: str
    several: str
    literal: str
    comment: str
    words: Mapping[str, str]
    infinity: str = "inf"
    infix: Mapping[str, str] = field(default_factory=dict[str, str])
    reserved: frozenset[str] = frozenset()
    chosen: bool = False

    def taken(self, *texts: str) -> frozenset[str]:
        """Names that mean something in the language, or in these texts."""
        written = " ".join((*self.words.values(), self.literal, self.infinity, *texts))
        return self.reserved | {*re.findall(r"(?<![\w.])[A-Za-z]\w*", written)}


def _calls(template: str, **names: str) -> dict[str, str]:
    """Functions by their names, and what changes no value."""
    calls = {name: template.format(names.get(name, name)) for name in ("abs", *FUNCTIONS)}
    return {**calls, "hold": "{0}", "quantized": "{0}"}


_PYTHON: dict[str, Any] = {
    "head": "def {name}({arguments}):",
    "line": "    {target} = {value}",
    "result": "    return {value}",
    "several": "{}",
    "comment": "    # {}",
    "reserved": frozenset(keyword.kwlist),
}

_RESERVED = """
abstract arguments await boolean break byte case catch char class const continue debugger default delete do double else enum eval
export extends false final finally float for function goto if implements import in instanceof int interface let long native new
null package private protected public return short static super switch synchronized this throw throws transient true try typeof
undefined var void volatile while with yield
"""

DIALECTS = {
    "numba": Dialect(
        **_PYTHON,
        literal="real({})",
        chosen=True,
        words={
            **_calls("{}({{0}})", round="np.rint"),
            "not": "(not {0})",
            "where": "({1} if {0} else {2})",
            "step": "(real(1.0) if {0} >= real(0.0) else real(0.0))",
            "minimum": "({0} if ({0} < {1}) | ({0} != {0}) else {1})",
            "maximum": "({0} if ({0} > {1}) | ({0} != {0}) else {1})",
            # One instruction of the processor each: of a number that is neither 0 nor NaN, and of what is 0 where it is not above 0, of
            # which a sum makes the negative zero a positive one.
            "minimum_number": "({1} if {1} < {0} else {0})",
            "maximum_number": "({1} if {1} > {0} else {0})",
            "rectified": "((real(0.0) if {2} < real(0.0) else {2}) + real(0.0))",
            "fire": "((real(1.0) if {0} >= real(0.0) else real(0.0)) if {0} == {0} else {0})",
            "fire_above": "((real(1.0) if {0} > real(0.0) else real(0.0)) if {0} == {0} else {0})",
        },
    ),
    "triton": Dialect(
        **_PYTHON,
        literal="{}",
        infinity='float("inf")',
        words={
            **{name: text for name, text in _calls("tl.{}({{0}})").items() if name not in ("arctan", "tanh", "round")},
            "not": "({0} == 0)",
            "where": "tl.where({0}, {1}, {2})",
            "step": "tl.where({0} >= 0, 1.0, 0.0)",
            "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
            "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
            "fire": "tl.where({0} == {0}, tl.where({0} >= 0, 1.0, 0.0), {0})",
            "fire_above": "tl.where({0} == {0}, tl.where({0} > 0, 1.0, 0.0), {0})",
        },
    ),
    "javascript": Dialect(
        head="function {name}({arguments}) {{",
        line="  const {target} = {value};",
        result="  return {value};\n}}",
        several="[{}]",
        literal="{}",
        infinity="Infinity",
        comment="  // {}",
        infix={"and": "&&", "or": "||"},
        words={
            **{name: text for name, text in _calls("Math.{}({{0}})", arctan="atan").items() if name != "erf"},
            "not": "(!{0})",
            "where": "({0} ? {1} : {2})",
            "step": "({0} >= 0 ? 1 : 0)",
            "sigmoid": "(1 / (1 + Math.exp(-({0}))))",
            "round": "({0} - Math.floor({0}) == 0.5 ? 2 * Math.round({0} / 2) : Math.round({0}))",
            "minimum": "Math.min({0}, {1})",
            "maximum": "Math.max({0}, {1})",
            "fire": "({0} >= 0 ? 1 : {0} < 0 ? 0 : NaN)",
            "fire_above": "({0} > 0 ? 1 : {0} <= 0 ? 0 : NaN)",
        },
        reserved=frozenset(_RESERVED.split()),
    ),
}


def dialect(name: str) -> Dialect:
    """The dialect of this name."""
    if name not in DIALECTS:
        raise ValueError(f"unknown dialect {name!r}; there are {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]


class Names:
    """Names for the variables of one function, each given out once."""

    def __init__(self, taken: Iterable[str] = (), reserved: frozenset[str] = frozenset()) -> None:
        self.taken = {*taken, *reserved}

    def fresh(self, wanted: str) -> str:
        """The wanted name, or, where that is taken, it with underscores behind it."""
        if not (wanted.isidentifier() and wanted.isascii()):
            raise ValueError(f"{wanted!r} is not a name")
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted


def body(
    program: Program, language: Dialect, known: Mapping[str, str], names: Names, words: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """The program as assignments, and the texts of its results.

    Args:
        program: what to print.
        language: in which to print it.
        known: what stands for each argument: a name or a number.
        names: where the names of variables are taken from.
        words: texts for operations that this program has beyond those of the language.

    Returns:
        Lines without indentation, and an expression for each result. What is used once stands where it is used.

    Raises:
        ValueError: the language has no word for an operation.
    """
    templates = {**language.words, **(words or {})}
    uses = [0] * len(program.instructions)
    by_name = [False] * len(program.instructions)
    for operation, *operands in program.instructions:
        template = templates.get(str(operation), "")
        for place, o in enumerate(operands):
            if isinstance(o, int):
                uses[o] += 1
                by_name[o] |= template.count(f"{{{place}}}") > 1 or (language.chosen and operation == "where" and place > 0)
    for o in program.results:
        if isinstance(o, int):
            uses[o] += 1
    wanted = dict(program.names)
    lines: list[str] = []
    texts: list[tuple[str, int]] = []

    def operand(o: Operand) -> tuple[str, int]:
        if isinstance(o, str):
            return known[o], _ATOM
        if isinstance(o, int):
            return texts[o]
        text = language.literal.format(language.infinity if math.isinf(o) else repr(abs(o)))
        return (text, _ATOM) if math.copysign(1.0, o) > 0 else (f"(-{text})", _ATOM)

    for index, (operation, *operands) in enumerate(program.instructions):
        special = _special(str(operation), operands, program)
        operation = special if special in templates else operation
        text, held = _expression(str(operation), [operand(o) for o in operands], templates, language)
        if index in wanted or uses[index] > 1 or by_name[index] or len(text) > _LONGEST:
            name = names.fresh(wanted.get(index, f"t{index}"))
            lines.append(f"{name} = {text}")
            text, held = name, _ATOM
        texts.append((text, held))
    return lines, [operand(o)[0] for o in program.results]


def _special(operation: str, operands: Sequence[Operand], program: Program) -> str:
    """What an operation is with these operands, for languages that have a word for that."""
    first, second, last = operands[0], operands[-2:][0], operands[-1]
    if operation == "where" and isinstance(first, int) and isinstance(second, float) and str(second) == "0.0":
        return "rectified" if program.instructions[first] == ("less_equal", last, 0.0) else operation
    return f"{operation}_number" if isinstance(last, float) and abs(last) > 0.0 else operation


def _expression(operation: str, operands: list[tuple[str, int]], templates: Mapping[str, str], language: Dialect) -> tuple[str, int]:
    def within(place: int, most: int) -> str:
        text, held = operands[place]
        return text if held <= most else f"({text})"

    if operation in _INFIX and operation not in templates:
        symbol, held = _INFIX[operation]
        most = _ATOM if operation in ("and", "or") else _SUM if held == _LOGIC else held
        right = _UNARY - 1 if most == _ATOM else most if held == _LOGIC else held - 1
        return f"{within(0, most)} {language.infix.get(operation, symbol)} {within(1, right)}", held
    if operation == "negative":
        return f"-{within(0, _ATOM)}", _UNARY
    if operation not in templates:
        raise ValueError(f"there is no word for {operation}")
    template = templates[operation]
    separate = [operation == "where" or re.search(rf"[(,] ?\{{{place}\}}[,)]", template) for place in range(len(operands))]
    return template.format(
        *(text if free or held == _ATOM else f"({text})" for (text, held), free in zip(operands, separate, strict=True))
    ), _ATOM


def function(
    program: Program,
    arguments: Sequence[str],
    name: str,
    of: str | Dialect,
    words: Mapping[str, str] | None = None,
    comment: str = "",
) -> str:
    """The program as the source of one function ``name(*arguments)`` that returns its results.

    An argument that is called like a word of the language gets an underscore behind its name.

    Raises:
        ValueError: if the dialect is unknown or has no word for an operation.
    """
    language = dialect(of) if isinstance(of, str) else of
    names = Names(reserved=language.taken(name, *(text.partition("(")[0] for text in (words or {}).values())))
    known = {argument: names.fresh(argument) for argument in arguments}
    try:
        lines, results = body(program, language, known, names, words)
    except ValueError as error:
        raise ValueError(f"{of} cannot write {name}: {error}") from None
    text = [language.head.format(name=name, arguments=", ".join(known.values()))]
    text += [language.comment.format(comment)] if comment else []
    text += [language.line.format(target=target, value=value) for target, value in (line.split(" = ", 1) for line in lines)]
    value = results[0] if len(results) == 1 else language.several.format(", ".join(results))
    return "\n".join([*text, language.result.format(value=value)]) + "\n"
