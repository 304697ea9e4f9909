"""Print the passes of a layer as kernels for Triton.

A column is one neuron of one sample, and a program of the grid has `BLOCK` of them, in the order in which they lie in memory. Each of the
plan's programs becomes a function; around them stands a loop over time, `steps` of it unrolled in each round, so that their loads are on
their way together. The forward pass writes the states at the beginning of each round but the first, and nothing where one round is all. The
backward pass goes through the rounds from the last to the first: it computes anew, in registers, what its steps keep, from the inputs and
the states where the round begins, and reads and writes nothing else of the size of the sequence than inputs and gradients.

Gradients of numbers are summed over time in registers; then for each column, or, of one number, over the columns of a program. Whoever
launches the kernel sums the rest, always in the same order.

The arguments are those that `Variant.arguments` lists. Numbers of columns and distances between rows are counted in units of `UNIT`, 16 or
1 elements: that tells the compiler how memory is aligned, and nothing else is specialised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spikegrad import printing, trace
from spikegrad.cut import Passes
from spikegrad.kernels.formulas import with_formulas
from spikegrad.kernels.gpu import language
from spikegrad.kernels.plan import Call, Pass
from spikegrad.printing import Names
from spikegrad.trace import Program, argument, ordered

How = Literal["rows", "apart", "one", "none", "value", "each", "columns"]
"""How an argument is given: a sequence whose rows lie one after the other, or so far ``apart``; ``one`` number in memory; not at all, where
it is 0 or nobody wants it; a ``value``; memory with one number for ``each`` of some of the columns; memory of all columns."""

Given = tuple[tuple[str, How], ...]

POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64"}
"""Triton's names of pointers."""

_OWN = (
    *("T", "N", "BLOCK", "UNIT", "tl", "j", "n", "t", "round", "rounds", "inside", "float", "range", "zero"),
    *(
        "advance",
        "recompute",
        "reverse",
        "product",
        "SAMPLES",
        "FEATURES",
        "ROWS",
        "DEPTH",
        "PRECISION",
        "features",
        "place",
        "tiles",
        "row",
        "feature",
    ),
)


@dataclass(frozen=True)
class Argument:
    """Of a kernel: its name there, its type, and what it is.

    `label` is that of `Variant.given`; `what` is ``"memory"``, a ``"value"``, or a whole number that describes memory: the ``"distance"``
    between two rows; of numbers that differ between columns, how many columns ``"share"`` one before the next, and the ``"count"`` of them.
    """

    name: str
    type: str
    label: str
    what: str


@dataclass(frozen=True)
class Variant(Pass):
    """What one kernel is made of.

    Attributes: those of `Pass`, and
        steps: how many of them are unrolled.
        given: how each argument is given, by the names that `labels` lists.
        learned: the numbers whose gradients are wanted.
        saves: whether the forward pass writes states at the beginning of rounds, and the backward pass reads them.
        connected: whether the kernel computes one step, and its last input itself: `spikegrad.kernels.gpu.connected`.
    """

    steps: int
    given: Given
    learned: frozenset[str] = frozenset()
    saves: bool = False
    connected: bool = False

    @property
    def name(self) -> str:
        """What the kernel is called; the layer's record is all that it depends on."""
        return f"{'backward' if self.backward else 'forward'}_{self.call.key}"


def labels(call: Call, learned: frozenset[str], *, backward: bool) -> tuple[str, ...]:
    """The names of what a kernel is given, in their order.

    ===============================  ===================================================================================================
    the names of inputs, outputs     sequences; outputs by their place, ``"0"``; likewise the names of recorded values
    ``first.v``, ``last.v``          the states before the first and after the last step
    the names of parameters          numbers; those of the surrogate as ``spike.slope``
    ``bar.0``, ``bar.u``, ``bar.v``  the gradients that arrive at outputs, recorded values and last states
    ``grad.current``, ``grad.v`` …   the gradients of inputs, first states and numbers, these to be summed
    ``checkpoints``                  the states at the beginnings of rounds but the first, ``(rounds - 1, states, columns)``
    ===============================  ===================================================================================================
    """
    plan, passes = call.plan, call.plan.passes(learned)
    outputs = tuple(map(str, range(plan.outputs)))
    first = tuple(f"first.{name}" for name in plan.states)
    if not backward:
        last = (f"last.{name}" for name in plan.states)
        return (*plan.inputs, *first, *plan.parameters, *outputs, *call.recorded, *last, "checkpoints")
    again = passes.kept or passes.restored
    inputs = plan.inputs if again else passes.reread
    numbers = (*plan.parameters, *(f"spike.{name}" for name in call.surrogate.arguments[1:]))
    bars = (f"bar.{name}" for name in (*outputs, *call.recorded, *plan.states))
    grads = (f"grad.{name}" for name in (*plan.inputs, *plan.states, *sorted(learned)))
    return (*inputs, *(first if again else ()), *numbers, *bars, *grads, *(("checkpoints",) if again else ()))


def recomputing(call: Call, passes: Passes) -> tuple[tuple[str, ...], Program]:
    """How all that the reverse steps use is computed anew: from which states where a round begins, and what is kept and these states."""
    given = {name: argument(name) for name in sorted(passes.recompute.arguments())}
    results, names = trace.symbols(passes.recompute, given)
    kept = results[: len(passes.kept)]
    after = dict(zip(call.plan.states, results[len(passes.kept) :], strict=True))
    found, roots = {*passes.restored}, [*kept, *(after[name] for name in passes.restored)]
    while True:
        read = {node.name for node in ordered(roots) if node.operation == "argument"} & after.keys()
        if read <= found:
            break
        roots += [after[name] for name in sorted(read - found)]
        found |= read
    states = tuple(name for name in call.plan.states if name in found)
    return states, trace.flatten([*kept, *(after[name] for name in states)], names)


class Printer:
    """The text of one variant's kernel, and its arguments."""

    numbers: tuple[str, ...] = ("T", "N")
    """Whole numbers that follow the arguments."""
    constants: tuple[str, ...] = ("BLOCK", "UNIT")
    within = 1
    """How deep the lines of a step stand."""

    def __init__(self, variant: Variant) -> None:
        self.variant, self.plan, self.passes = variant, variant.call.plan, variant.call.plan.passes(variant.learned)
        self.real = f"tl.{variant.real}"
        self.carried, self.again = recomputing(variant.call, self.passes)
        self.how = dict(variant.given)
        self.names = Names(reserved=language.dialect(variant.real, exact=True).taken(*_OWN))
        self.local = {label: self.names.fresh(label.replace(".", "_") if label[0].isalpha() else f"output_{label}") for label in self.how}
        inputs, outputs = self.plan.inputs[: -1 if variant.connected else None], tuple(map(str, range(self.plan.outputs)))
        halves = {*inputs, *outputs, *(f"grad.{name}" for name in inputs), *(f"bar.{name}" for name in outputs)}
        self.dtypes = {label: variant.dtype if label in halves else variant.real for label in self.how}
        self.arguments = tuple(argument for label, how in variant.given for argument in self._arguments(label, how))
        self.functions: dict[str, str] = {}
        self.lines: list[str] = []

    def _arguments(self, label: str, how: How) -> Iterable[Argument]:
        name = self.local[label]
        if how == "none":
            return
        if how == "value":
            yield Argument(name, "fp32", label, "value")
            return
        yield Argument(name, POINTERS[self.dtypes[label]], label, "memory")
        for what in ("distance",) if how == "apart" else ("share", "count") if how == "each" else ():
            yield Argument(self.names.fresh(f"{name}_{what}"), "i64", label, what)

    def source(self) -> str:
        """The functions of the plan's programs, and the kernel."""
        self._begin()
        (self._backward if self.variant.backward else self._forward)()
        own = [*(a.name for a in self.arguments), *self.numbers, *(f"{name}: tl.constexpr" for name in self.constants)]
        whole = [*(a.name for a in self.arguments if a.what not in ("memory", "value")), *self.numbers]
        head = [f"@triton.jit(do_not_specialize={whole!r})", f"def {self.variant.name}({', '.join(own)}):"]
        return "\n\n\n".join([*self.functions.values(), "\n".join([*head, *(f"    {line}" for line in self.lines)])]) + "\n"

    def _begin(self) -> None:
        """Which columns this program has, and the numbers. Names that begin with an underscore are no argument's."""
        self._line(*self._columns_of_program())
        numbers = (*self.plan.parameters, *(f"spike.{name}" for name in self.variant.call.surrogate.arguments[1:]))
        self.value = {name: f"_{self.local[name]}" for name in numbers if name in self.how}
        self.value |= {label: f"_{self.local[label]}" for label, how in self.how.items() if how == "one" and label.startswith("bar.")}
        for label, name in self.value.items():
            self._line(f"{name} = {self._number(label)}")
        self.single = {name for label, name in self.value.items() if self.how[label] in ("value", "one")}
        if self.variant.backward:
            self._line(f"zero = tl.zeros([BLOCK], {self.real})")

    def _columns_of_program(self) -> Sequence[str]:
        return "j = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)", "n = tl.cast(N, tl.int64) * UNIT", "inside = j < n"

    def _line(self, *lines: str, within: int = 0) -> None:
        self.lines += ["    " * within + line for line in lines]

    def _further(self, label: str) -> list[str]:
        """The whole numbers that describe memory."""
        return [a.name for a in self.arguments if a.label == label and a.what not in ("memory", "value")]

    def _number(self, label: str) -> str:
        """What is given as a value, or in memory for all columns, some or each."""
        name, how = self.local[label], self.how[label]
        if how == "value":
            return f"tl.full((), {name}, {self.real})"
        if how == "one":
            return f"tl.load({name}).to({self.real})"
        place = "j"
        if how == "each":
            share, count = self._further(label)
            place = f"(j // {share}) % {count}"
        # Past the last column a number is 1, by which one can divide.
        return f"tl.load({name} + {place}, mask=inside, other={'1.0' if label in self.value else '0.0'})"

    def _columns(self, label: str) -> str:
        """The same, for each column."""
        if self.how[label] == "none":
            return "zero"
        return f"tl.full([BLOCK], {self._number(label)}, {self.real})" if self.how[label] in ("value", "one") else self._number(label)

    def _row(self, label: str, step: int) -> str:
        """The addresses of the columns of a step of a sequence."""
        distance = "n" if self.how[label] == "rows" else f"(tl.cast({self._further(label)[0]}, tl.int64) * UNIT)"
        return f"{self.local[label]} + {f'(t + {step})' if step else 't'} * {distance} + j"

    def _load(self, label: str, step: int) -> str:
        """A row of a sequence, in a variable."""
        if (known := self.value.get(label)) is not None or self.how[label] == "none":
            return known or "zero"
        name = f"_{self.local[label]}{step}"
        self._line(f"{name} = tl.load({self._row(label, step)}, mask={_mask(step)}, other=0.0).to({self.real})", within=self.within)
        return name

    def _store(self, label: str, step: int, value: str) -> None:
        if self.how[label] == "none":
            return
        dtype = self.dtypes[label]
        value = value if dtype == self.variant.real else f"{value}.to(tl.{dtype})"
        self._line(f"tl.store({self._row(label, step)}, {value}, mask={_mask(step)})", within=self.within)

    def _masks(self) -> None:
        for step in range(1, self.variant.steps):
            self._line(f"_inside{step} = j < tl.where(t + {step} < T, n, 0)", within=1)

    def _state(self, name: str) -> str:
        return f"_state_{name}"

    def _checkpoint(self, place: int) -> str:
        return f"{self.local['checkpoints']} + ((t // {self.variant.steps} - 1) * {len(self.carried)} + {place}) * n + j"

    def _call(
        self, name: str, program: Program, known: Mapping[str, str], step: int, columns: Sequence[int] = (), *, exact: bool
    ) -> list[str]:
        """Texts of a program's results, after a line that computes them; `columns` are the places of those that must be one for each."""
        fast = language.dialect(self.variant.real, exact=False)
        program, words, formulas = with_formulas(self.variant.call.surrogate, program, fast)
        given = {argument: known[argument] for argument in sorted(program.arguments())}
        computed = [o for o in dict.fromkeys(program.results) if isinstance(o, int)]
        made = {o: f"_{name}{step}_{k}" for k, o in enumerate(computed)}
        if computed:
            if name not in self.functions:
                renamed = {argument: argument.replace(".", "_") for argument in given}
                instructions = tuple((i[0], *(renamed[o] if isinstance(o, str) else o for o in i[1:])) for i in program.instructions)
                own = Program(instructions, tuple(computed), program.names)
                text = printing.function(own, [*renamed.values()], name, language.dialect(self.variant.real, exact=exact), words)
                self.functions[name] = "\n\n\n".join(f"@triton.jit\n{each.rstrip()}" for each in (*formulas, text))
            self._line(f"{', '.join(made.values())} = {name}({', '.join(given.values())})", within=self.within)
        varying: set[str | int] = {argument for argument, text in given.items() if text not in self.single}
        for index, (_, *operands) in enumerate(program.instructions):
            if any(o in varying for o in operands if not isinstance(o, float)):
                varying.add(index)
        texts: list[str] = []
        for place, o in enumerate(program.results):
            text = made[o] if isinstance(o, int) else given[o] if isinstance(o, str) else repr(o)
            alone = isinstance(o, float) or o not in varying
            texts.append(f"tl.full([BLOCK], {text}, {self.real})" if alone and place in columns else text)
        return texts

    def _carry(self, variable: str, value: str, step: int) -> None:
        """What goes on to the next step, or to the step before; steps past the last leave it as it is."""
        self._line(f"{variable} = tl.where(t + {step} < T, {value}, {variable})" if step else f"{variable} = {value}", within=1)

    def _forward(self) -> None:
        plan, variant = self.plan, self.variant
        for name in plan.states:
            self._line(f"{self._state(name)} = {self._columns(f'first.{name}')}")
        self._line(f"for t in range(0, T, {variant.steps}):")
        self._masks()
        if variant.saves:
            self._line("if t > 0:", within=1)
            for place, name in enumerate(self.carried):
                self._line(f"tl.store({self._checkpoint(place)}, {self._state(name)}, mask=inside)", within=2)
        read = self.passes.forward.arguments()
        steps = [{name: self._load(name, step) for name in plan.inputs if name in read} for step in range(variant.steps)]
        states = {name: self._state(name) for name in plan.states}
        made = (*map(str, range(plan.outputs)), *states, *variant.call.recorded)
        for step, inputs in enumerate(steps):
            results = self._call("advance", self.passes.forward, inputs | states | self.value, step, range(len(made)), exact=True)
            for name, result in zip(made, results, strict=True):
                if name not in states:
                    self._store(name, step, result)
            after = results[plan.outputs : plan.outputs + len(states)]
            # All at once: what is a state may be, unchanged, another's next value.
            self._line(*(f"{self._state(name)}_after = {x}" for name, x in zip(states, after, strict=True)), within=1)
            for name in states:
                self._carry(states[name], f"{self._state(name)}_after", step)
        for name in plan.states:
            if self.how[f"last.{name}"] == "none":
                continue
            self._line(f"tl.store({self.local[f'last.{name}']} + j, {self._state(name)}, mask=inside)")

    def _backward(self) -> None:
        plan, passes, variant = self.plan, self.passes, self.variant
        bars = {name: f"_bar_{name}" for name in plan.states}
        for name, bar in bars.items():
            self._line(f"{bar} = {self._columns(f'bar.{name}')}")
        sums = {name: f"_sum_{name.replace('.', '_')}" for name in sorted(variant.learned)}
        self._line(*(f"{name} = tl.zeros([BLOCK], {self.real})" for name in sums.values()))
        self._line(f"rounds = (T + {variant.steps - 1}) // {variant.steps}", "for round in range(0, rounds):")
        self._line(f"t = (rounds - 1 - round) * {variant.steps}", within=1)
        self._masks()
        again = passes.kept or passes.restored
        if again:
            self._first_states()
        outputs = (*map(str, range(plan.outputs)), *variant.call.recorded)
        inputs = [{n: self._load(n, k) for n in plan.inputs if n in self.how} for k in range(variant.steps)]
        coming = [{f"bar_{n}": self._load(f"bar.{n}", k) for n in outputs} for k in range(variant.steps)]
        kept: list[dict[str, str]] = [{} for _ in inputs]
        states = {name: self._state(name) for name in self.carried}
        for step in range(variant.steps if again else 0):
            before = {name: f"_before{step}_{name}" for name in states}
            self._line(*(f"{before[name]} = {states[name]}" for name in states), within=1)
            known = inputs[step] | before | self.value
            places = range(len(passes.kept), len(passes.kept) + len(states))
            results = self._call("recompute", self.again, known, step, places, exact=True)
            kept[step] = before | dict(zip(passes.kept, results, strict=False))
            if step + 1 < variant.steps:
                self._line(*(f"{states[name]} = {results[place]}" for name, place in zip(states, places, strict=True)), within=1)
        for step in reversed(range(variant.steps)):
            known = inputs[step] | self.value | kept[step] | coming[step] | {f"bar_{name}": bar for name, bar in bars.items()}
            results = self._call("reverse", passes.reverse, known, step, range(len(passes.adjoints)), exact=False)
            found = dict(zip(passes.adjoints, results, strict=True))
            for name in plan.inputs:
                self._store(f"grad.{name}", step, found.get(name, "zero"))
            for name, total in sums.items():
                part = found.get(name, "zero")
                self._line(f"{total} += tl.where(t + {step} < T, {part}, 0.0)" if step else f"{total} += {part}", within=1)
            self._line(*(f"{bar}_before = {found.get(name, 'zero')}" for name, bar in bars.items()), within=1)
            for bar in bars.values():
                self._carry(bar, f"{bar}_before", step)
        ends = {f"grad.{name}": bar for name, bar in bars.items()} | {f"grad.{name}": total for name, total in sums.items()}
        for label, value in ends.items():
            if self.how[label] == "columns":
                self._line(f"tl.store({self.local[label]} + j, {value}, mask=inside)")
            elif self.how[label] == "one":
                self._line(f"tl.store({self.local[label]} + tl.program_id(0), tl.sum(tl.where(inside, {value}, 0.0)))")

    def _first_states(self) -> None:
        """The states where a round begins."""
        states = self.carried
        first = [f"{self._state(name)} = {self._columns(f'first.{name}')}" for name in states]
        if not self.variant.saves:
            self._line(*first, within=1)
            return
        self._line("if t > 0:", within=1)
        for place, name in enumerate(states):
            self._line(f"{self._state(name)} = tl.load({self._checkpoint(place)}, mask=inside, other=0.0)", within=2)
        self._line("else:", within=1)
        self._line(*first, within=2)


def _mask(step: int) -> str:
    return f"_inside{step}" if step else "inside"
