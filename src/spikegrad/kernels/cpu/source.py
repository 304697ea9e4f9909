"""Print the passes of a layer as loops for Numba.

A column is one neuron of one sample; a sequence is ``(time, columns)``, and a row of it the columns of one time step. Each of the plan's
programs becomes a function over a row, a loop without branches that the vectoriser takes apart. Around them stand loops over time and over
blocks of columns, which threads claim; a block's states, adjoints and kept values are rows of scratch that stays in the cache.

Backward, kept values are computed anew from the inputs, block by block: reading the inputs again costs less than writing what was kept to
memory and reading it.

A kernel is called with the address of a job, see `spikegrad.kernels.cpu.threads`. Its arguments, two words each, an address and how many
elements lie between two rows or columns there, are those that `arguments` names:

===============================  ================================================================================================
the names of inputs, outputs     sequences; outputs by their place, ``"0"``; likewise the names of recorded values
``first.v``, ``last.v``          the states before the first and after the last step
the names of parameters          one number, or one for each column; numbers of the surrogate as ``spike.slope``
``bar.0``, ``bar.u``, ``bar.v``  the gradients that arrive at outputs, recorded values and last states
``grad.current``, ``grad.v`` …   the gradients of inputs, first states and parameters, these for each column
===============================  ================================================================================================

A layer with ``"all-to-all"`` connections has more: the states ``recurrent``, what is fed back; ``weights``, by sender forward and by
receiver backward, whose stride is the number of features; and the sequences ``kept.u`` …, which the forward pass writes and the backward
pass reads instead of computing them anew, since that would take a matrix product for each step; ``grad.fed``, the gradient of what is fed
back; and, where few neurons spike, ``grad.weights``, for each block its share. A block is then some samples, and has the sums of one
thread, whichever that is.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spikegrad import printing
from spikegrad.cut import Passes
from spikegrad.kernels.formulas import with_formulas
from spikegrad.kernels.plan import FED, Pass
from spikegrad.printing import DIALECTS, Names
from spikegrad.trace import Program

_NUMBA = DIALECTS["numba"]
_WORDS = frozenset(("count", "j", "load", "store", "emit", "real", "np", "inf", "U", *_NUMBA.words, *keyword.kwlist))
"""Names that mean something else where a program is printed."""

_FED = ("sent", "fed", "places")
"""Rows of scratch of a layer that feeds back: what was sent, or its gradient; what is received of it; room for lists, two rows."""

_TEMPLATE = """
@entry(2)
def kernel(address, mine):
    job = words(address)
    steps, columns, block = job[STEPS], job[COLUMNS], job[BLOCK]
    line = block * SIZE
    rows = job[SCRATCH] + mine * job[SHARE]
{before}
    start = {claimed}(job, mine)
    while start < columns:
        count = min(block, columns - start)
{body}
        start = {claimed}(job, mine)
"""


@dataclass(frozen=True)
class Variant(Pass):
    """What one compiled kernel is made of.

    Attributes: those of `Pass`, and
        columns: parameters, and numbers of the surrogate, that have a value for each column; the others are one number.
        learned: of these the ones whose gradients are wanted.
        single: incoming gradients of sequences that are one number, by the names of outputs and recorded values.
        keeps: whether the forward pass of an ``"all-to-all"`` layer keeps what the backward pass will need.
    """

    columns: frozenset[str] = frozenset()
    learned: frozenset[str] = frozenset()
    single: frozenset[str] = frozenset()
    keeps: bool = True

    @property
    def passes(self) -> Passes:
        """The programs."""
        return self.call.plan.passes(self.learned)

    @property
    def kept(self) -> tuple[str, ...]:
        """What lies in memory between the passes."""
        return self.passes.kept if self.fed and (self.backward or self.keeps) else ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """The parameters that the pass reads, and those of the surrogate."""
        plan = self.call.plan
        return (*plan.parameters, *(f"spike.{name}" for name in self.call.surrogate.arguments[1:] if self.backward))

    def arguments(self) -> tuple[str, ...]:
        """The names of what the kernel is given, in their order."""
        plan, recorded = self.call.plan, self.call.recorded
        outputs = tuple(map(str, range(plan.outputs)))
        states, kept = (*plan.states, *("recurrent",) * self.fed), tuple(f"kept.{name}" for name in self.kept)
        first, weights = tuple(f"first.{name}" for name in states), ("weights",) * self.fed
        if not self.backward:
            return (*self.inputs, *outputs, *recorded, *first, *(f"last.{name}" for name in states), *self.numbers, *weights, *kept)
        bars = (f"bar.{name}" for name in (*outputs, *recorded, *states))
        received = [name for name in plan.inputs if name != FED or not self.fed_alike]
        grads = (f"grad.{name}" for name in (*received, *states, *sorted(self.learned), *weights))
        return (*self.inputs, *("0",) * self.fed, *first, *self.numbers, *weights, *kept, *bars, *grads)

    @property
    def fed(self) -> bool:
        """Whether neurons receive the outputs of all of them."""
        return self.call.connection == "all-to-all"

    @property
    def fed_alike(self) -> bool:
        """Whether the gradient of what is fed back is that of the first input, to which it is added."""
        of = dict(zip(self.passes.adjoints, self.passes.reverse.results, strict=True))
        first = self.call.plan.inputs[0]
        return first not in (FED, None) and of.get(first) == of.get(FED) and self.dtype in ("float32", "float64")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the pass is given of what arrives at each step."""
        given = self.call.plan.inputs
        if self.backward and (self.fed or not self.passes.kept):
            given = self.passes.reread
        return tuple(name for name in given if name != FED)

    @property
    def sequences(self) -> frozenset[str]:
        """The arguments whose elements are of the sequences' dtype: inputs and outputs, and their gradients."""
        inputs, outputs = [name for name in self.call.plan.inputs if name != FED], tuple(map(str, range(self.call.plan.outputs)))
        return frozenset((*inputs, *outputs, *(f"grad.{name}" for name in inputs), *(f"bar.{name}" for name in outputs)))

    @property
    def rows(self) -> frozenset[str]:
        """The arguments that have a row for each time step: these, recorded values and their gradients, and what is kept in memory."""
        recorded = self.call.recorded
        return self.sequences | {*recorded, *(f"bar.{name}" for name in recorded), *(f"kept.{name}" for name in self.kept), f"grad.{FED}"}

    def working(self) -> tuple[int, int]:
        """How many rows a block needs: for the whole of it, and for each of its steps."""
        states = len(self.call.plan.states)
        whole = 2 * states if self.backward else states
        return (whole + 4, 0) if self.fed else (whole, len(self.passes.kept) if self.backward else 0)


_SPIKED = ("@row", "def spiked(given, row, count):", "    for j in range(count):", "        row[j] = {element}")


class _Printer:
    """The text of one variant's kernel.

    Where a value lives has a label: the name of an argument, or a row of scratch, ``state v``, ``adjoint v`` or ``kept u``.
    """

    def __init__(self, variant: Variant) -> None:
        self.variant, self.plan, self.passes = variant, variant.call.plan, variant.passes
        self.place = {name: k for k, name in enumerate(variant.arguments())}
        self.single = {*(set(variant.numbers) - variant.columns), *(f"bar.{name}" for name in variant.single)}
        self.outputs = (*map(str, range(self.plan.outputs)), *variant.call.recorded)
        self.halves = variant.sequences if variant.dtype in ("float16", "bfloat16") else frozenset[str]()
        self.functions: list[str] = []
        self.added: dict[str, list[str]] = {}

    def source(self) -> str:
        """The functions over rows, and the kernel."""
        of = (self._forward, self._backward, self._fed_forward, self._fed_backward)
        body = of[self.variant.backward + 2 * self.variant.fed]()
        numbers = [f"{_variable(label)} = {self._value(label)}" for label in sorted(self.single)]
        numbers += [f"features = {self._argument('weights')[1]}"] if self.variant.fed else []
        before, inside = ("\n".join(" " * by + line for line in lines) for by, lines in ((4, numbers), (8, body)))
        claimed = "claimed_back" if self.variant.backward else "claimed"
        return "\n\n".join([with_constants(self.functions), _TEMPLATE.format(before=before, body=inside, claimed=claimed)])

    def _forward(self) -> list[str]:
        states = _labels("state", self.plan.states)
        fixed = _same((*self.plan.inputs, *self.plan.parameters))
        outputs, recorded = self.outputs[: self.plan.outputs], self.variant.call.recorded
        step = self._row("advance", self.passes.forward, fixed | states, _set((*outputs, *states.values(), *recorded)))
        return [*self._begin(states, "first"), "for t in range(steps):", f"    {step}", *self._end(states, "last")]

    def _backward(self) -> list[str]:
        passes, learned = self.passes, self.variant.learned
        states, adjoints, kept = _labels("state", self.plan.states), _labels("adjoint", self.plan.states), _labels("kept", passes.kept)
        fixed = _same((*self.plan.inputs, *self.variant.numbers))
        body: list[str] = []
        if kept:
            again = self._row("recompute", passes.recompute, fixed | states, _set((*kept.values(), *states.values())))
            body += [*self._begin(states, "first"), "for t in range(steps):", f"    {again}"]
        body += self._begin(adjoints, "bar")
        body += [f"clear(count, {self._pointer(f'grad.{name}')})" for name in sorted(learned)]
        body += ["for i in range(steps):", "    t = steps - U(1) - i", *(f"    {line}" for line in self._restored(fixed, states, kept))]
        arriving = {f"bar_{name}": f"bar.{name}" for name in self.outputs} | {f"bar_{name}": label for name, label in adjoints.items()}
        body += [f"    {self._reversed(fixed | states | kept | arriving, adjoints)}"]
        return [*body, *self._end(adjoints, "grad")]

    def _restored(self, fixed: Mapping[str, str], states: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
        """Lines that bring back the states before a step from what the step before has kept."""
        passes = self.passes
        if not passes.restored:
            return []
        before = {name: states[name] for name in passes.restored}
        restored = self._row("restore", passes.restore, {**fixed, **kept}, _set(before.values()), "t - U(1)")
        return ["if t > U(0):", f"    {restored}", "else:", *(f"    {line}" for line in self._begin(before, "first"))]

    def _reversed(self, reads: Mapping[str, str], adjoints: Mapping[str, str]) -> str:
        """The line that calls the reverse step."""
        passes, inputs = self.passes, [n for n in self.plan.inputs if n != FED or not (self.variant.fed and self.variant.fed_alike)]
        gradients = {name: (f"grad.{name}", "=") for name in inputs} | {name: (label, "=") for name, label in adjoints.items()}
        gradients |= {name: (f"grad.{name}", "+=") for name in self.variant.learned}
        always0 = [name for name in (*inputs, *adjoints) if name not in passes.adjoints]
        written = [(name, result) for name, result in zip(passes.adjoints, passes.reverse.results, strict=True) if name in gradients]
        results = (*(result for _, result in written), *[0.0] * len(always0))
        places = [gradients[name] for name in (*(name for name, _ in written), *always0)]
        return self._row("reverse", Program(passes.reverse.instructions, results), reads, places)

    def _fed_forward(self) -> list[str]:
        """Forward, with a matrix product for each step; what is kept goes to memory."""
        states, inputs = _labels("state", self.plan.states), self.variant.inputs
        outputs, recorded = self.outputs[: self.plan.outputs], self.variant.call.recorded
        kept, passes = _labels("kept", self.variant.kept), self.passes
        program = passes.keeping if kept else passes.forward
        program = Program(program.instructions, (*program.results, program.results[0]))
        places = (*outputs, *states.values(), *recorded, *kept.values(), "sent")
        step = self._row("advance", program, _same((*inputs, *self.plan.parameters)) | states | {FED: "fed"}, _set(places))
        sent, weights = {"recurrent": "sent"}, self._argument("weights")[0]
        return [
            *self._begin(states | sent, "first"),
            f"examine({weights}, {self._address('places')}, features)",
            "for t in range(steps):",
            f"    feed(count, {self._address('sent')}, {self._address('fed')}, {weights}, {self._address('places')}, features)",
            f"    {step}",
            *self._end(states | sent, "last"),
        ]

    def _fed_backward(self) -> list[str]:
        """Backward from what was kept in memory; the gradient of what was sent arrives through the transposed weights."""
        passes, learned = self.passes, self.variant.learned
        states, adjoints, kept = _labels("state", self.plan.states), _labels("adjoint", self.plan.states), _labels("kept", passes.kept)
        fixed = _same((*self.variant.inputs, *self.variant.numbers))
        sent = {"recurrent": "sent"}
        body = self._begin(adjoints | sent, "bar")
        body += [f"clear(count, {self._pointer(f'grad.{name}')})" for name in sorted(learned)]
        body += ["for i in range(steps):", "    t = steps - U(1) - i", *(f"    {line}" for line in self._restored(fixed, states, kept))]
        arriving = {f"bar_{name}": f"bar.{name}" for name in self.outputs} | {f"bar_{name}": label for name, label in adjoints.items()}
        self.added = {"bar.0": ["sent"]}
        body += [f"    {self._reversed(fixed | states | kept | arriving, adjoints)}"]
        self.added = {}
        gradient = self._address(f"grad.{self.plan.inputs[0] if self.variant.fed_alike else FED}")
        shares = f"{self._argument('grad.weights')[0]} + start // block * features * features * SIZE"
        self.functions.append("\n".join(_SPIKED).format(element="load(given[j])" if "0" in self.halves else "given[j]"))
        return [
            *body,
            f"    send(count, {gradient}, {self._address('sent')}, {self._argument('weights')[0]}, features)",
            f"    if {self._argument('grad.weights')[0]} != U(0):",
            "        if t > U(0):",
            f"            spiked({self._pointer('0', 't - U(1)')}, {self._pointer('fed')}, count)",
            "        else:",
            f"            {self._begin({'recurrent': 'fed'}, 'first')[0]}",
            f"        learn(count, {self._address('fed')}, {gradient}, {shares}, {self._address('places')}, features)",
            *self._end(adjoints | sent, "grad"),
        ]

    def _row(self, name: str, program: Program, reads: Mapping[str, str], writes: Sequence[tuple[str, str]], time: str = "t") -> str:
        """Print a function over a row, and return the line that calls it.

        `reads` has the labels of the program's arguments, `writes` those of its results, and whether they are set, ``=``, or added, ``+=``.
        """
        program, words, formulas = with_formulas(self.variant.call.surrogate, program, _NUMBA)
        self.functions += [f"@formulas\n{formula}" for formula in formulas]
        used = program.arguments()
        names = Names(reserved=_WORDS)
        known = {argument: names.fresh(argument.replace(".", "_")) for argument in reads if argument in used}
        sources = {argument: [reads[argument], *self.added.get(reads[argument], ())] for argument in known}
        labels = dict.fromkeys([label for each in sources.values() for label in each] + [label for label, _ in writes])
        alone = {each[0]: known[argument] for argument, each in sources.items() if each[0] in self.single and len(each) == 1}
        row = {label: alone.get(label) or names.fresh(f"row_{label.replace('.', '_').replace(' ', '_')}") for label in labels}

        def element(label: str) -> str:
            if label in self.single:
                return row[label]
            return f"load({row[label]}[j])" if label in self.halves else f"{row[label]}[j]"

        body = [f"{known[argument]} = {' + '.join(map(element, each))}" for argument, each in sources.items() if each[0] not in alone]
        lines, results = printing.body(Program(program.instructions, program.results), _NUMBA, known, names, words)
        body += lines
        for value, result, (label, how) in zip(program.results, results, writes, strict=True):
            store = "emit" if isinstance(value, int) and program.instructions[value][0] in ("fire", "fire_above") else "store"
            body.append(f"{row[label]}[j] {how} {f'{store}({result})' if label in self.halves else result}")
        text = [f"def {name}({', '.join(['count', *row.values()])}):", "    for j in range(count):", *(f"        {line}" for line in body)]
        self.functions.append("\n".join(["@row", *text]))
        return (
            f"{name}({', '.join(['count', *(_variable(label) if label in self.single else self._pointer(label, time) for label in row)])})"
        )

    def _argument(self, name: str) -> tuple[str, str]:
        """Where the address of an argument is, and its stride."""
        address, stride = (f"job[ARGUMENTS + {2 * self.place[name] + k}]" for k in range(2))
        return address, stride

    def _value(self, label: str) -> str:
        """What is one number."""
        address, _ = self._argument(label)
        return f"load(elements({address})[0])" if label in self.halves else f"reals({address})[0]"

    def _pointer(self, label: str, time: str = "t") -> str:
        """An expression for the pointer to a row, at a time."""
        kind, _, name = label.partition(" ")
        whole, each = self.variant.working()
        if label in _FED:
            return f"reals({self._address(label)})"
        if kind == "kept" and not self.variant.fed:
            return f"reals_held(rows, line, {whole + self.passes.kept.index(name)}, {time}, {each})"
        if kind in ("state", "adjoint"):
            return f"reals_held(rows, line, {self.plan.states.index(name) + len(self.plan.states) * (kind == 'adjoint')}, 0, 0)"
        label = label.replace(" ", ".")
        if label in self.variant.rows:
            return f"{'elements' if label in self.halves else 'reals'}_at(job, {self.place[label]}, {time}, start)"
        return f"reals_from(job, {self.place[label]}, start)"

    def _address(self, label: str) -> str:
        """An expression for the address of a row, now, that a function takes which is compiled by itself."""
        if label in _FED:
            return f"rows + U({self.variant.working()[0] - 4 + _FED.index(label)}) * line"
        address, stride = self._argument(label)
        return f"{address} + (t * {stride} + start) * {'U(2)' if label in self.halves else 'SIZE'}"

    def _begin(self, rows: Mapping[str, str], role: str) -> list[str]:
        """Lines that fill rows of scratch with what is given at one end of time."""
        lines: list[str] = []
        for name, label in rows.items():
            given, stride = self.place[f"{role}.{name}"], self._argument(f"{role}.{name}")[1]
            lines.append(f"fill(count, {self._pointer(label)}, reals_at(job, {given}, start, 0), {stride})")
        return lines

    def _end(self, rows: Mapping[str, str], role: str) -> list[str]:
        """Lines that hand rows of scratch out at the other end of time, to whom asked for them."""
        lines: list[str] = []
        for name, label in rows.items():
            of = f"{role}.{name}"
            into = f"reals_from(job, {self.place[of]}, start)"
            lines += [f"if {self._argument(of)[0]} != U(0):", f"    fill(count, {into}, {self._pointer(label)}, U(1))"]
        return lines


def _labels(kind: str, names: Sequence[str]) -> dict[str, str]:
    return {name: f"{kind} {name}" for name in names}


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


def _set(labels: Iterable[str]) -> list[tuple[str, str]]:
    return [(label, "=") for label in labels]


def with_constants(functions: Sequence[str]) -> str:
    """The text of functions whose literals are constants of their module, each of which Numba then reads, where it would infer a call."""
    text, word = "\n\n".join(functions), "constant"
    while re.search(rf"\b{word}\d", text):
        word += "_"
    found: dict[str, str] = {}
    text = re.sub(r"\breal\((?:[\d.e+-]+|inf)\)", lambda literal: found.setdefault(literal[0], f"{word}{len(found)}"), text)
    return "\n".join([*(f"{name} = {literal}" for literal, name in found.items()), "", text])


def _variable(label: str) -> str:
    """The kernel's name for what is one number; none of its own begins like it."""
    return f"one_{label.replace('.', '_')}"


def source(variant: Variant) -> str:
    """What follows the header in the module of a kernel."""
    return _Printer(variant).source()
