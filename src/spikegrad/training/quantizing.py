"""What few bits do to a trained network: its accuracy and its spikes, as a chip would compute them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikegrad.data import load
from spikegrad.data.dataset import Part
from spikegrad.errors import InputError
from spikegrad.exchange.fixed_point import quantized
from spikegrad.training.batches import Batches, Samples, derived, loader
from spikegrad.training.measure import BATCH
from spikegrad.training.network import Network
from spikegrad.training.trained import reopened, require_same_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

SAMPLES = 256
"""Of the training samples, how many show how large inputs and readouts are."""


@dataclass(frozen=True)
class Row:
    """A network with so many bits on the test samples.

    Attributes:
        weights: bits of each weight; None for floating point.
        states: bits of each state; None for floating point.
        correct: how many samples it answers rightly.
        samples: of how many.
        rates: share of steps with a spike, of each hidden layer.
        changed: of each hidden layer the spikes that are there in only one of the networks, with few bits and without, as a share of those
            without.
    """

    weights: int | None
    states: int | None
    correct: int
    samples: int
    rates: tuple[float, ...]
    changed: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / self.samples


@dataclass(frozen=True)
class QuantizeReport:
    """A trained network in floating point and with fewer and fewer bits. It prints as a table.

    Attributes:
        rows: the first is the network in floating point.
        notes: layers whose states stayed in floating point, and why.
    """

    rows: tuple[Row, ...]
    notes: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; the share of spikes that changed where there were none is None."""

        def told(row: Row) -> dict[str, Any]:
            return {**asdict(row), "changed": [x if math.isfinite(x) else None for x in row.changed], "accuracy": row.accuracy}

        return {"rows": [told(row) for row in self.rows], "notes": self.notes}

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        layers = range(1, len(self.rows[0].rates) + 1)
        for name in ("weights", "states", "accuracy", "change", *(f"rate {k}" for k in layers), *(f"changed {k}" for k in layers)):
            table.add_column(name, justify="right")
        first = self.rows[0]
        for row in self.rows:
            change = 100 * (row.accuracy - first.accuracy)
            shown = "" if row is first else f"{change:+.1f}" if abs(change) >= 0.05 else "0.0"
            colour = "red" if change < -5 else "yellow" if change < -1 else "green"
            rates = [f"{100 * rate:.1f} %" for rate in row.rates]
            changed = [_share(x) if row is not first else "" for x in row.changed]
            bits = [f"{each} bits" if each else "float" for each in (row.weights, row.states)]
            table.add_row(*bits, f"[{colour}]{100 * row.accuracy:.2f} %[/]", shown, *rates, *changed)
        told = ["change: percentage points", "changed: spikes gained and lost, as a share of the layer's in floating point"]
        told += [f"{name or 'the network'}: {why}; its states stay in floating point" for name, why in self.notes.items()]
        table.caption = "\n".join(told)
        return table

    def figure(self) -> Figure:
        """Accuracy, and spikes that changed, over the bits of weights; a line for each number of bits of states."""
        import matplotlib
        from matplotlib.figure import Figure

        from spikegrad.plots import COLOURS, MUTED, STYLE

        weights = list(dict.fromkeys(row.weights for row in self.rows if row.weights is not None))
        states = list(dict.fromkeys(row.states for row in self.rows if row.weights is not None))
        places = {bits: place for place, bits in enumerate(weights)}
        with matplotlib.rc_context(STYLE):
            made = Figure(figsize=(9, 3.6), layout="constrained")
            left, right = made.subplots(1, 2)
            left.axhline(100 * self.rows[0].accuracy, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            left.annotate("floating point", (0.99, 100 * self.rows[0].accuracy), (0, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", fontsize=8, color=MUTED, ha="right")  # fmt: skip
            for number, each in enumerate(states):
                rows = [row for row in self.rows if row.states == each and row.weights is not None]
                label = f"states of {each} bits" if each else "states in floating point"
                style: Any = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 4, "label": label}
                aside = 0.06 * (number - (len(states) - 1) / 2)  # or lines would hide each other
                x = [places[row.weights] + aside for row in rows if row.weights is not None]
                left.plot(x, [100 * row.accuracy for row in rows], **style)
                right.plot(x, [100 * _mean(row.changed) for row in rows], **style)
            left.set(title="Accuracy", ylabel="% of the test samples")
            right.set(title="Spikes that changed", ylabel="% of those in floating point", ylim=(0, None))
            for axes in (left, right):
                axes.set_xticks(range(len(weights)), [str(bits) for bits in weights])
                axes.set(xlabel="bits of a weight", xlim=(-0.3, len(weights) - 0.7))
            low, high = left.get_ylim()
            left.set_ylim(low, high + 0.06 * (high - low))
            right.legend(fontsize=8)
        return made


def _mean(changed: Sequence[float]) -> float:
    known = [x for x in changed if math.isfinite(x)]
    return sum(known) / len(known) if known else math.nan


def _share(x: float) -> str:
    return "-" if not math.isfinite(x) else f"{100 * x:.1f} %"


def quantize_report(
    path: str | Path, weights: Sequence[int] = (8, 4, 2), states: Sequence[int] = (16, 12, 8), *, model: str | None = None
) -> QuantizeReport:
    """The best weights of a run with few bits, on its test samples: see `spikegrad.exchange.fixed_point`.

    Args:
        path: folder of the run.
        weights: numbers of bits of a weight.
        states: numbers of bits of a state, each with each of the weights'; beside them states stay in floating point.
        model: as for `spikegrad.training.evaluate`.

    Raises:
        InputError: it is no run with weights, or its data have changed; a number of bits is out of range.
    """
    for name, given, low, high in (("--weights", weights, 2, 16), ("--states", states, 4, 32)):
        if wrong := [bits for bits in given if not low <= bits <= high]:
            raise InputError(f"{name} must be between {low} and {high} bits, got {wrong[0]}")
    trained = reopened(path, model)
    data = load(trained.config.data, trained.config.binning)
    require_same_data(trained.run, trained.config, trained.facts, data, "train anew on what it is now")
    seed = trained.config.seed
    network = trained.network().eval()
    notes: dict[str, str] = {}
    chosen = torch.randperm(len(data.train[1]), generator=torch.Generator().manual_seed(derived(seed, "quantize")))[:SAMPLES]
    sample = Samples(data.train)[chosen][0]
    rows = [_row(network, network, data.test, seed, None, None)]
    for bits in weights:
        for of_states in (None, *states):
            with torch.random.fork_rng([]):
                torch.manual_seed(derived(seed, "quantize"))
                made = quantized(network, bits, of_states, sample=sample)
            notes |= made.notes
            rows.append(_row(network, made.network, data.test, seed, bits, of_states))
    return QuantizeReport(tuple(rows), notes)


@torch.no_grad()
def _row(network: Network, few: Any, part: Part, seed: int, weights: int | None, states: int | None) -> Row:
    """One network against the other, sample by sample; what they are given is encoded once, and so has the same noise."""
    correct = total = 0
    spikes: list[torch.Tensor] = []
    kept, other = next(network.parameters()).dtype, next(few.parameters()).dtype
    for number, (x, y) in enumerate(loader(part, Batches(len(part[1]), BATCH))):
        torch.manual_seed(derived(seed, "evaluation", number))
        encoded = network.encode(x.to(kept))
        before, after = network.answer(encoded), few.answer(encoded.to(other))
        correct += int((after.scores.argmax(1) == y).sum())
        total += len(y)
        pairs = zip(before.fired, after.fired, strict=True)
        counts = [torch.stack([(a != 0).sum(), (b != 0).sum(), (a != b).sum(), torch.tensor(b.numel())]).double() for a, b in pairs]
        spikes = [old + new for old, new in zip(spikes, counts, strict=True)] if spikes else counts
    rates = tuple(float(after / steps) for _, after, _, steps in spikes)
    return Row(weights, states, correct, total, rates, tuple(float(changed / before) for before, _, changed, _ in spikes))
