"""Print the passes of weights and neurons over events as loops for Numba.

A kernel is given what `spikegrad.kernels.cpu.events` says, one word for each argument, which is a variable of the kernel.
"""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping, Sequence

from spikegrad import printing
from spikegrad.kernels.cpu import rows
from spikegrad.kernels.cpu.events import Variant
from spikegrad.kernels.cpu.source import with_constants
from spikegrad.kernels.formulas import with_formulas
from spikegrad.kernels.lock import LOCK
from spikegrad.printing import DIALECTS, Names
from spikegrad.trace import Program

_NUMBA = DIALECTS["numba"]
_WORDS = frozenset(("column", "count", "i", "j", "places", "real", "np", "inf", "U", *_NUMBA.words, *keyword.kwlist))
"""Names that mean something else where a program is printed."""

_IMPORTS = """
from spikegrad.kernels.cpu.rows import beyond, flushing, narrow, ones, put_narrow, put_values, put_wide, restored, wide, within
# Their version is {version}.
from spikegrad.kernels.cpu.compiler import inner
ints, longs = pointer(numba.int32), pointer(numba.int64)
given, own, put_own = {given}, {own}, put_{own}
"""
_PLACE = "((t * samples + b) * features + column) * SIZE"
"""Where in a sequence the row of a step begins."""
_FEW = 24
"""By how much fewer columns are to be listed than there are, as in the step before, for sixteen without any to be left out by a branch.

At rates of 0.1 % the forward pass takes 0.64 times as long with it, and 1.35 times at 1.5 %, where nobody can foretell it."""
_TEMPLATE = """
@entry(2)
def kernel(address, mine):
    job = words(address)
    steps, units = job[STEPS], job[COLUMNS]
    rows = job[SCRATCH] + mine * job[SHARE]
{before}
    before = flushing()
    unit = claimed(job, mine)
    while unit < units:
        part, group = unit // groups, unit % groups
        column = part * breadth
        width = min(breadth, features - column)
        share = group * features + column
        own_weights = weights + column * senders * SIZE
{body}
        unit = claimed(job, mine)
    restored(before)
"""


class _Printer:
    """The text of one variant's kernel. Where a value lives has a label: a row of scratch, a sequence, or what is kept."""

    def __init__(self, variant: Variant) -> None:
        self.variant, self.split, self.plan = variant, variant.split, variant.call.plan
        self.scratch = variant.rows
        self.functions: list[str] = []
        self.current = self.plan.inputs[0]

    def source(self) -> str:
        variant = self.variant
        body = (self._backward if variant.backward else self._forward)()
        before = [f"{_variable(name)} = job[ARGUMENTS + {place}]" for place, name in enumerate(variant.arguments)]
        before += [
            f"one_{_variable(name)} = reals(numbers)[{place}]"
            for place, name in enumerate(variant.numbers())
            if name not in variant.columns
        ]
        texts = ("\n".join(" " * by + line for line in lines) for by, lines in ((4, before), (8, body)))
        imports = _IMPORTS.format(version=rows.version(), given=variant.given, own=variant.own)
        return "\n\n".join([imports, with_constants(self.functions), _TEMPLATE.format(**dict(zip(("before", "body"), texts, strict=True)))])

    def _forward(self) -> list[str]:
        split, variant, states = self.split, self.variant, self.plan.states
        recorded = variant.call.recorded
        told = 1 + len(states) + len(recorded)
        watched = [f"watched {name}" for name in dict.fromkeys((*split.watched, *variant.pairs))]
        known = dict(zip((*split.watched, *split.everywhere, *split.pairs), split.forward.results[told:], strict=True))
        results = [*split.forward.results[1:told], *(known[label.removeprefix("watched ")] for label in watched)]
        writes = [*(f"state {name}" for name in states), *(f"record {name}" for name in recorded), *watched]
        if split.emits is None:
            results, writes = [split.forward.results[0], *results], ["out", *writes]
        results += [known[name] for name in variant.everywhere]
        writes += [f"every {name}" for name in variant.everywhere]
        reads = {self.current: "current"} | {name: f"state {name}" for name in states}
        step = self._row("advance", Program(split.forward.instructions, tuple(results)), reads, writes)
        body = ["b = group", *self._begin("state"), "spiked_here = paired = listed = U(0)", "wrong = np.uint32(0)"]
        if split.emits:
            body += ["ints(spiked)[unit * (steps + U(1))] = 0"]
        if variant.rare:
            body += ["ints(near)[unit * (steps + U(1))] = 0"]
        body += [
            "for t in range(steps):",
            f"    if bias: fill(width, reals({self._at('current')}), reals(bias + column * SIZE), U(1))",
            f"    else: clear(width, reals({self._at('current')}))",
            "    if index:",
            "        first = U(longs(base)[b])",
            "        here = b * (steps + U(1)) + t",
            "        end = first + U(ints(since)[here + U(1)])",
            f"        gather_{variant.given}({self._at('current')}, own_weights, index, first + U(ints(since)[here]), end, width)",
            "    if currents:",
            f"        add(width, reals({self._at('current')}), reals(currents + {_PLACE}))",
            *(f"    {line}" for line in self._fed_forward()),
            f"    {step}",
        ]
        self.functions.append("@row\ndef add(count, into, row):\n    for j in range(count):\n        into[j] += row[j]")
        if split.emits:
            body += [f"    {line}" for line in self._listed()]
        return [*body, *(["reals(flags)[unit] = real(wrong)"] if split.emits else []), *self._end("state")]

    def _fed_forward(self) -> list[str]:
        """Lines that add what the spikes of the step before bring."""
        if not self.variant.fed:
            return []
        current, own = self._at("current"), self.variant.own
        return [
            "if t > U(0):",
            "    here = b * (steps + U(1)) + t",
            "    begin, end = U(ints(spiked)[here - U(1)]), U(ints(spiked)[here])",
            f"    gather_{own}({current}, recurrent, spikes + b * room * {self._place_size()}, begin, end, features)",
            "elif fed:",
            f"    add(features, reals({current}), reals(fed + b * features * SIZE))",
        ]

    def _fed_backward(self) -> list[str]:
        """Lines that add to the gradient of spikes at pairs what those of the step after bring back, and to that of the weights."""
        bar, own, item = self._at("bar"), self.variant.own, self._place_size()
        there = f"reals({self._at('sent')})"
        return [
            f"fill(count, {there}, reals(arriving + first * SIZE), U(1))",
            "if i > U(0):",
            "    near_end = U(ints(active)[b * steps + t]) - U(ints(near)[here])",
            f"    dots_{own}({self._at('received')}, recurrent, {bar}, pairs + first * {item}, U(0), near_end, features)",
            f"    add(near_end, {there}, reals({self._at('received')}))",
            "    if grad_recurrent:",
            "        origin_here = U(longs(own_base)[b])",
            "        begin, end = origin_here + U(ints(spiked)[here]), origin_here + U(ints(spiked)[here + U(1)])",
            f"        spread_{own}({bar}, grad_recurrent + share * features * SIZE, spikes, begin, end, features)",
        ]

    def _place_size(self) -> str:
        return "U(2)" if self.variant.own == "narrow" else "U(4)"

    def _listed(self) -> list[str]:
        """Lines that list spikes and pairs of a step, and the function that does it."""
        split, variant = self.split, self.variant
        labels = list(dict.fromkeys((*split.watched, *variant.pairs)))
        row = {name: f"row{k}" for k, name in enumerate(labels)}
        kept = {name: f"kept{k}" for k, name in enumerate(variant.pairs)}

        def fired(name: str, operation: str) -> str:
            return (
                f"within({row[name]} + j * SIZE, real(0.0), inf)" if operation == "fire" else f"beyond({row[name]} + j * SIZE, real(0.0))"
            )

        def near(name: str) -> str:
            return f"within({row[name]} + j * SIZE, low, high)"

        lines = ["lanes = np.uint32(0xFFFF) if count - j >= U(16) else (np.uint32(1) << np.uint32(count - j)) - np.uint32(1)"]
        append = ["put_own(pairs + place * PLACE, column + j, mask)"]
        append += [f"put_values({kept[name]} + place * SIZE, {row[name]} + j * SIZE, mask)" for name in variant.pairs]
        append += ["place += ones(mask)"]
        out = split.watched[0]
        assert split.emits is not None
        spike = ["put_own(spikes + found * PLACE, column + j, mask)", "found += ones(mask)"]
        spike += [f"wrong |= beyond({row[out]} + j * SIZE, inf) & lanes"]  # what is not a number counts as a spike here
        looked = [(f"{fired(out, split.emits)} & lanes", spike)] + [(f"{near(out)} & lanes", append)] * variant.rare
        text = [
            f"def listed_here(count, column, spikes, found, pairs, place, low, high, few, {', '.join([*row.values(), *kept.values()])}):",
            "    wrong = np.uint32(0)",
        ]
        for few, begin in ((True, "    if few:"), (False, "    else:")):
            text += [begin, "        for j in range(U(0), count, U(16)):", *(f"            {line}" for line in lines)]
            for mask, then in looked:
                text += [
                    f"            mask = {mask}",
                    *["            if mask:"] * few,
                    *(f"            {'    ' * few}{line}" for line in then),
                ]
        text += ["    only_near = place"]
        others = [near(name) for name in split.watched[1 : split.near]]
        others += [fired(name, operation) for name, operation in zip(split.watched[split.near :], split.fires, strict=True)]
        if variant.rare and others:
            text += ["    for j in range(U(0), count, U(16)):", *(f"        {line}" for line in lines)]
            text += [f"        mask = ({' | '.join(others)}) & lanes & ~{near(out)}", *(f"        {line}" for line in append)]
        text += ["    return found, only_near, place, wrong"]
        self.functions.append("\n".join(["@inner()", *text]).replace("PLACE", self._place_size()))
        size = self._place_size()
        given = [self._at(f"watched {name}") for name in labels]
        rooms = [f"kept_{_variable(name)} + unit * room * SIZE" for name in variant.pairs]
        found = [f"spikes + unit * room * {size}", "spiked_here", f"pairs + unit * room * {size}", "paired"]
        call = ["width", "column", *found, "reals(window)[0]", "reals(window)[1]", f"listed * U({_FEW}) < width", *given, *rooms]
        lines = [
            "so_far = spiked_here + paired",
            f"spiked_here, only_near, paired, nan = listed_here({', '.join(call)})",
            "listed = spiked_here + paired - so_far",
            "wrong |= nan",
            "ints(spiked)[unit * (steps + U(1)) + t + U(1)] = spiked_here",
        ]
        if variant.rare:
            lines += ["ints(active)[unit * steps + t] = only_near", "ints(near)[unit * (steps + U(1)) + t + U(1)] = paired"]
        return lines

    def _backward(self) -> list[str]:
        split, variant, states = self.split, self.variant, self.plan.states
        names = ("current", *states, *variant.learned)
        into = ("bar", *variant.adjoints())
        reads = {f"bar_{name}": f"adjoint {name}" for name in states} | {name: f"every {name}" for name in variant.everywhere}
        reads |= {f"bar_{name}": f"record {name}" for name in variant.call.recorded}
        inner: list[str] = []
        if variant.rare:
            at_pairs = reads | {"bar_0": "arriving"} | {name: f"kept {name}" for name in variant.pairs}
            full = self._row("full", split.full, at_pairs, [f"full {name}" for name in names], pairs=True)
            quiet = self._row("quiet", split.quiet, reads, into)
            places = [(label, f"full {name}") for label, name in zip(into, names, strict=True)]
            self.functions.append(_put(places))
            rows_there = ", ".join(f"reals({self._at(label)})" for pair in places for label in pair)
            listed = f"own(pairs + first * {self._place_size()})"
            inner += [
                "here = b * (steps * parts + U(1)) + t * parts + part",
                "first = U(longs(origin)[b]) + U(ints(near)[here])",
                "count = U(ints(near)[here + U(1)] - ints(near)[here])",
                *(self._fed_backward() if variant.fed else []),
                f"{full.replace('places', listed)}",
                f"{quiet}",
                f"put(count, {listed}, column, {rows_there})",
            ]
        else:
            inner += [self._row("full", split.full, reads | {"bar_0": "out"}, into)]
        bar = self._at("bar")
        inner += [
            "if grad_weights:",
            "    begins = U(longs(base)[b])",
            "    step = b * (steps + U(1)) + t",
            "    end = begins + U(ints(since)[step + U(1)])",
            f"    spread_{variant.given}({bar}, grad_weights_here, index, begins + U(ints(since)[step]), end, width)",
            *(f"add(width, reals({self._sum(name)}), reals({self._at(f'part {name}')}))" for name in variant.learned),
            f"if grad_bias: add(width, reals(grad_bias + share * SIZE), reals({bar}))",
            "if grad_below:",
            "    begins = U(longs(below_base)[b])",
            "    into = grad_below + part * below_count * SIZE",
            "    for each in range(t * below_parts, (t + U(1)) * below_parts):",
            "        step = b * (steps * below_parts + U(1)) + each",
            "        begin, end = begins + U(ints(below_near)[step]), begins + U(ints(below_near)[step + U(1)])",
            "        middle = begins + U(ints(below_active)[step - b])",
            f"        dots_{variant.given}(into + begin * SIZE, own_weights, {bar}, below, begin, middle, width)",
            "        clear(end - middle, reals(into + middle * SIZE))",
            f"if currents: fill(width, reals(currents + {_PLACE}), reals({bar}), U(1))",
        ]
        self.functions.append("@row\ndef add(count, into, row):\n    for j in range(count):\n        into[j] += row[j]")
        return [
            "grad_weights_here = grad_weights + share * senders * SIZE",
            "if grad_weights: clear(senders * width, reals(grad_weights_here))",
            "if grad_recurrent: clear(features * features, reals(grad_recurrent + share * features * SIZE))",
            "if grad_bias: clear(width, reals(grad_bias + share * SIZE))",
            "for b in range(group * together, min(group * together + together, samples)):",
            *(f"    {line}" for line in self._begin("adjoint")),
            *(f"    clear(width, reals({self._sum(name)}))" for name in variant.learned),
            "    for i in range(steps):",
            "        t = steps - U(1) - i",
            *(f"        {line}" for line in inner),
            *(f"    {line}" for line in self._end("adjoint")),
            *([f"    if fed: fill(features, reals(fed + b * features * SIZE), reals({bar}), U(1))"] if variant.fed else []),
        ]

    def _row(self, name: str, program: Program, reads: Mapping[str, str], writes: Sequence[str], *, pairs: bool = False) -> str:
        """Print a function over a row, or over pairs, and return the line that calls it."""
        program, words, formulas = with_formulas(self.variant.call.surrogate, program, _NUMBA)
        self.functions += [f"@formulas\n{formula}" for formula in formulas]
        used = program.arguments()
        names = Names(reserved=_WORDS)
        reads = {**reads, **{name: f"column {name}" for name in self.variant.columns}}
        numbers = [number for number in self.variant.numbers() if number in used and number not in self.variant.columns]
        known = {argument: names.fresh(argument.replace(".", "_")) for argument in (*numbers, *reads) if argument in used}
        labels = dict.fromkeys([reads[argument] for argument in known if argument in reads] + list(writes))
        row = {label: names.fresh(f"row_{label.replace(' ', '_')}") for label in labels}

        def element(label: str) -> str:
            return f"{row[label]}[{'i' if pairs and not label.startswith(('adjoint', 'every', 'column', 'record')) else 'j'}]"

        lines, results = printing.body(Program(program.instructions, program.results), _NUMBA, known, names, words)
        body = [f"{known[argument]} = {element(reads[argument])}" for argument in known if argument in reads] + lines
        body += [f"{element(label)} = {result}" for label, result in zip(writes, results, strict=True)]
        loop = ["for i in range(count):", "    j = places[i] - column"] if pairs else ["for j in range(count):"]
        given = ["count", *["places", "column"] * pairs, *(known[number] for number in numbers), *row.values()]
        text = [f"def {name}({', '.join(given)}):", *(f"    {line}" for line in loop), *(f"        {line}" for line in body)]
        self.functions.append("\n".join(["@row", *text]))
        there = [f"one_{_variable(number)}" for number in numbers] + [f"reals({self._at(label)})" for label in row]
        return f"{name}({', '.join(['count' if pairs else 'width', *['places', 'column'] * pairs, *there])})"

    def _sum(self, name: str) -> str:
        """An expression for the address of the gradient of a parameter, of a sample."""
        return f"sum_{name} + (b * features + column) * SIZE"

    def _at(self, label: str) -> str:
        """An expression for the address of a row, at a time of a sample."""
        if label == "arriving":
            return self._at("sent") if self.variant.fed else "arriving + first * SIZE"
        if label in self.scratch:
            return f"rows + U({self.scratch.index(label)}) * line"
        kind, _, name = label.partition(" ")
        if kind == "column":
            return f"column_{_variable(name)} + column * SIZE"
        if kind == "out":
            return f"out + {_PLACE}"
        if kind == "record":
            return f"record_{_variable(name)} + {_PLACE}"
        if kind == "every":
            return f"every_{_variable(name)} + ((b * steps + t) * features + column) * SIZE"
        return f"kept_{_variable(name)} + first * SIZE"

    def _begin(self, kind: str) -> list[str]:
        lines: list[str] = []
        for state in self.plan.states:
            name = _variable(state)
            given = f"reals(first_{name} + (b * samples_{name} + column * columns_{name}) * SIZE)"
            lines.append(f"fill(width, reals({self._at(f'{kind} {state}')}), {given}, columns_{name})")
        return lines

    def _end(self, kind: str) -> list[str]:
        lines: list[str] = []
        for state in self.plan.states:
            into = f"reals(last_{_variable(state)} + (b * features + column) * SIZE)"
            lines.append(f"if last_{_variable(state)}: fill(width, {into}, reals({self._at(f'{kind} {state}')}), U(1))")
        return lines


def _put(places: Sequence[tuple[str, str]]) -> str:
    """A function that writes what pairs have into rows of all neurons."""
    given = [f"{side}{k}" for k in range(len(places)) for side in ("into", "of")]
    text = [f"def put(count, places, column, {', '.join(given)}):", "    for i in range(count):", "        j = places[i] - column"]
    return "\n".join(["@row", *text, *(f"        into{k}[j] = of{k}[i]" for k in range(len(places)))])


def _variable(name: str) -> str:
    return name.replace(".", "_")


def source(variant: Variant) -> str:
    """What follows the header in the module of a kernel."""
    return _Printer(variant).source()


@functools.lru_cache(maxsize=1024)
def compiled(variant: Variant) -> int:
    """The address of a kernel; from the disk cache where it has been compiled before."""
    with LOCK:
        from spikegrad.kernels.cpu import elementary
        from spikegrad.kernels.cpu.compiler import header, loaded

    functions = loaded("elementary", f"{header('float32')}\n\n{elementary.source('float32')}")
    parts = [
        header("float32"),
        f"from {functions.__name__} import {', '.join(elementary.WORDS)}",
        rows.known(variant.given),
        source(variant),
    ]
    return loaded("backward_events" if variant.backward else "forward_events", "\n\n".join(parts)).kernel.address
