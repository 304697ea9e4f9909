"""Print one step of a layer whose neurons receive the outputs of all of them.

A program of the grid has some neurons of some samples, a tile of `ROWS` by ``BLOCK / ROWS``, as columns: its own part of the product of
what was sent in the step before, or of the gradients that come back from the step after, and the weights, and then the step of its columns,
which is printed as that of any layer. States and their adjoints wait in memory from one launch to the next.

What is added up decides spikes, so that the product is as exact as float32 is: where a card's units for matrices round to tf32, in three
products, of what is rounded and of what that leaves, ``"tf32x3"``. Where spikes are 0 or 1, a weight loses one part in 2**23 by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from spikegrad.kernels.gpu.source import Printer
from spikegrad.kernels.plan import Call

_PRODUCT = """@triton.jit
def product(left, along, across, weights, row, feature, samples, features, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
            PRECISION: tl.constexpr):
    rows, columns = row + tl.arange(0, ROWS), feature + tl.arange(0, WIDTH)
    total = tl.zeros([ROWS, WIDTH], {real})
    for k in range(0, features, DEPTH):
        depth = k + tl.arange(0, DEPTH)
        there = depth < features
        x = tl.load(
            left + rows[:, None].to(tl.int64) * features + depth[None, :], mask=(rows < samples)[:, None] & there[None, :], other=0.0
        )
        w = tl.load(
            weights + depth[:, None].to(tl.int64) * along + columns[None, :] * across,
            mask=there[:, None] & (columns < features)[None, :],
            other=0.0,
        )
        total = tl.dot(x, w, total, input_precision=PRECISION, out_dtype={real})
    return tl.reshape(total, [ROWS * WIDTH])
"""


def labels(call: Call, learned: frozenset[str], *, backward: bool) -> tuple[str, ...]:
    """The names of what a kernel is given, in their order: as `spikegrad.kernels.gpu.source.labels` has them, but for these.

    ==========================  =========================================================================================================
    the name of the last input  what comes from the others, a sequence, kept for the backward pass
    ``before.v``                the states before each step and after the last, a sequence; or in one place, each after the other
    ``sent``                    likewise the first outputs
    ``weights``                 from the neurons of a row's place to the one of the row
    ``adjoint.v``               of the states, in one place
    ``bar.sent``                the gradient that arrives at what is sent last
    ==========================  =========================================================================================================
    """
    plan, passes = call.plan, call.plan.passes(learned)
    outputs, before = tuple(map(str, range(plan.outputs))), tuple(f"before.{name}" for name in plan.states)
    if not backward:
        return (*plan.inputs, *before, "sent", "weights", *plan.parameters, *outputs, *call.recorded)
    again = passes.kept or passes.restored
    numbers = (*plan.parameters, *(f"spike.{name}" for name in call.surrogate.arguments[1:]))
    bars = (*(f"bar.{name}" for name in (*outputs, *call.recorded)), *(f"adjoint.{name}" for name in plan.states), "bar.sent")
    grads = (f"grad.{name}" for name in (*plan.inputs, *sorted(learned)))
    return (*(plan.inputs if again else passes.reread), *(before if again else ()), "weights", *numbers, *bars, *grads)


class Connected(Printer):
    """The text of the kernel of a step, and its arguments."""

    numbers = ("t", "T", "SAMPLES", "FEATURES")
    constants = ("BLOCK", "ROWS", "DEPTH", "PRECISION", "UNIT")
    within = 0

    def _columns_of_program(self) -> Sequence[str]:
        self.functions["product"] = _PRODUCT.format(real=self.real).rstrip()
        return (
            "features = FEATURES * UNIT",
            "n = tl.cast(SAMPLES, tl.int64) * features",
            "tiles = (features + BLOCK // ROWS - 1) // (BLOCK // ROWS)",
            "row = tl.program_id(0) // tiles * ROWS",
            "feature = tl.program_id(0) % tiles * (BLOCK // ROWS)",
            "place = tl.arange(0, BLOCK)",
            "j = (row + place // (BLOCK // ROWS)).to(tl.int64) * features + feature + place % (BLOCK // ROWS)",
            "inside = (row + place // (BLOCK // ROWS) < SAMPLES) & (feature + place % (BLOCK // ROWS) < features)",
        )

    def _product(self, left: str, *, turned: bool) -> str:
        along, across = ("features", "1") if turned else ("1", "features")
        given = f"{left}, {along}, {across}, {self.local['weights']}, row, feature, SAMPLES, features"
        return f"product({given}, ROWS, BLOCK // ROWS, DEPTH, PRECISION)"

    def _forward(self) -> None:
        plan, fed = self.plan, self.plan.inputs[-1]
        sent = self.local["sent"]
        self._line(f"_fed = {self._product(f'{sent} + t * n', turned=False)}")
        self._store(fed, 0, "_fed")
        read = self.passes.forward.arguments()
        known = {name: self._load(name, 0) for name in plan.inputs[:-1] if name in read} | {fed: "_fed"}
        known |= {name: self._load(f"before.{name}", 0) for name in plan.states}
        made = [*map(str, range(plan.outputs)), *(f"before.{name}" for name in plan.states), *self.variant.call.recorded]
        results = self._call("advance", self.passes.forward, known | self.value, 0, range(len(made)), exact=True)
        for name, result in zip(made, results, strict=True):
            self._write(name, result, after=name.startswith("before."))
        self._write("sent", results[0], after=True)

    def _write(self, label: str, value: str, *, after: bool) -> None:
        if self.how[label] != "none":
            dtype = self.dtypes[label]
            self._line(f"tl.store({self._row(label, int(after))}, ({value}).to(tl.{dtype}), mask=inside)")

    def _backward(self) -> None:
        plan, passes, variant, fed = self.plan, self.passes, self.variant, self.plan.inputs[-1]
        back = self.local[f"grad.{fed}"]
        self._line(f"_sent = {self._columns('bar.sent')}", "if t + 1 < T:")
        self._line(f"_sent = {self._product(f'{back} + (t + 1) * n', turned=True)}", within=1)
        known = {name: self._load(name, 0) for name in plan.inputs if name in self.how} | self.value
        outputs = (*map(str, range(plan.outputs)), *variant.call.recorded)
        known |= {f"bar_{name}": self._load(f"bar.{name}", 0) for name in outputs}
        known["bar_0"] = "_sent" if known["bar_0"] == "zero" else f"{known['bar_0']} + _sent"
        known |= {f"bar_{name}": self._number(f"adjoint.{name}") for name in plan.states}
        if passes.kept or passes.restored:
            known |= {name: self._load(f"before.{name}", 0) for name in self.carried}
            kept = self._call("recompute", self.again, known, 0, exact=True)
            known |= dict(zip(passes.kept, kept, strict=False))
        results = self._call("reverse", passes.reverse, known, 0, range(len(passes.adjoints)), exact=False)
        found = dict(zip(passes.adjoints, results, strict=True))
        for name in plan.inputs:
            self._store(f"grad.{name}", 0, found.get(name, "zero"))
        for name in plan.states:
            self._line(f"tl.store({self.local[f'adjoint.{name}']} + j, {found.get(name, 'zero')}, mask=inside)")
        for name in sorted(variant.learned):
            self._add(f"grad.{name}", found.get(name, "zero"))

    def _add(self, label: str, part: str) -> None:
        """A number's gradient of this step to those of the steps after it, which this program left there."""
        address, mask, other = f"{self.local[label]} + j", ", mask=inside", ", other=0.0"
        if self.how[label] == "one":
            address, mask, other = f"{self.local[label]} + tl.program_id(0)", "", ""
            part = f"tl.sum(tl.where(inside, {part}, 0.0))"
        self._line(f"tl.store({address}, tl.where(t + 1 < T, tl.load({address}{mask}{other}), 0.0) + {part}{mask})")
