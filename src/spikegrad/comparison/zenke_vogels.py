"""Figure 3 of Zenke and Vogels 2021 again: does the shape of a surrogate matter, does its slope, and does its height?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spikegrad.comparison.folder import Comparison, Result
from spikegrad.comparison.grid import Cell, Label
from spikegrad.comparison.table import best_setting, ranked, settings
from spikegrad.comparison.work import compare
from spikegrad.ranges import decay
from spikegrad.training import claims
from spikegrad.training.config import Config

if TYPE_CHECKING:
    from rich.console import Console

SUPERSPIKE, SIGMOID, ESSER = "SuperSpike", "Sigmoid'", "Esser"
ASYMPTOTIC, CONSTANT, NO_HIDDEN = "SuperSpike, peak beta", "constant", "no hidden layer"
SHAPES: dict[str, Callable[[float], tuple[str, dict[str, float]]]] = {
    SUPERSPIKE: lambda beta: ("FastSigmoid", {"slope": beta}),
    SIGMOID: lambda beta: ("Sigmoid", {"slope": beta, "spike.scale": 1 / beta}),
    ESSER: lambda beta: ("Triangle", {"width": 1 / beta, "spike.height": 1.0}),
}
"""The shapes of the paper by its names for them, each with the peak that it has there, from which the last two fall faster and faster."""
BETAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1000.0)
RATES = (1e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
ATTACHED_BETAS = (10.0, 20.0, 50.0, 100.0)
QUICK_BETAS = (0.1, 1.0, 5.0, 10.0, 20.0, 100.0)
QUICK_RATES = (2e-2, 5e-2, 1e-1)
QUICK_ATTACHED_BETAS = (10.0, 100.0)
SEEDS = (0, 1, 2)
"""One seed a setting, and all of them of those, at most `FINALISTS`, that this one's validation samples do not tell from the best, and of
the best of each shape."""
FINALISTS = 10


def base(quick: bool) -> Config:
    """The network and the training of the paper, on its data; of a quarter of it in smaller batches, for as many updates in an epoch.

    Current-based neurons with a reset to zero in the step after a spike, integrators as the readout, no biases, the largest potential of
    a readout as the score, Adam, batches of 250, and the paper's lower bound of activity: lambda 100 of (1e-3 - spikes of a neuron)^2.
    """
    steps = 100
    return Config(
        data="randman(samples=250)" if quick else "randman",
        hidden=(100,),
        neuron="Synaptic",
        alpha=decay(5.0),
        beta=decay(10.0),
        readout_beta=decay(20.0),
        threshold=1.0,
        reset="zero",
        parameters={"reset_delay": True, "scale_input": True, "spike_at_threshold": False},
        bias=False,
        norm=False,
        dropout=0.0,
        loss="max",
        smoothing=0.0,
        rate_weight=100.0 * steps**2,  # rates are spikes per step
        rate_lower=1e-3 / steps,
        rate_upper=1.0,
        optimizer="adam",
        weight_decay=0.0,
        schedule="constant",
        epochs=25,
        batch=64 if quick else 250,
        accelerator="cpu",
    )


def cells(quick: bool) -> list[Cell]:
    """What is trained, one seed a setting: figure 3b, its controls, and resets that gradients pass."""
    common = base(quick)
    betas, rates = (QUICK_BETAS, QUICK_RATES) if quick else (BETAS, RATES)
    made: list[Cell] = []

    def add(name: str, beta: float | None, rate: float, surrogate: str, numbers: dict[str, float], reset: str = "detached") -> None:
        parameters = common.parameters | numbers | {"detach_reset": reset == "detached"}
        hidden = () if name == NO_HIDDEN else common.hidden
        config = common.changed(surrogate=surrogate, parameters=parameters, lr=rate, hidden=hidden, seed=SEEDS[0])
        labels: dict[str, Label] = {"surrogate": name, "slope": beta, "reset": reset, "lr": rate, "seed": SEEDS[0]}
        made.append(Cell(labels, config))

    for name, shape in SHAPES.items():
        for beta in betas:
            for rate in rates:
                add(name, beta, rate, *shape(beta))
    for rate in rates:
        add(CONSTANT, None, rate, "StraightThrough", {})
        add(NO_HIDDEN, None, rate, "FastSigmoid", {})
    for beta in QUICK_ATTACHED_BETAS if quick else ATTACHED_BETAS:
        for rate in rates:
            add(SUPERSPIKE, beta, rate, *SHAPES[SUPERSPIKE](beta), "attached")
            add(ASYMPTOTIC, beta, rate, "FastSigmoid", {"slope": beta, "spike.height": beta}, "attached")
    return made


def again(results: Sequence[Result], quick: bool) -> list[Cell]:
    """Settings within two standard errors of the best on the validation samples, with the other seeds: which is best is not known yet.

    And the best of each shape, which are compared.
    """
    order = [group[0] for group in ranked([result for result in results if result.cell.labels["seed"] == SEEDS[0]])]
    best = order[0].validation
    least = best - 2 * math.sqrt(best * (1 - best) / (250 if quick else 1000))  # a tenth of all samples
    finalists = [result.cell for result in order[:FINALISTS] if result.validation >= least]
    finalists += [cell for name in SHAPES if (cell := best_setting(_of(results, name))[0].cell) not in finalists]
    return [Cell(cell.labels | {"seed": seed}, cell.config.changed(seed=seed)) for cell in finalists for seed in SEEDS[1:]]


@dataclass(frozen=True)
class Finding:
    """One statement of the paper, and whether it holds here.

    Attributes:
        what: the statement.
        holds: whether it does.
        numbers: those it was decided by.
    """

    what: str
    holds: bool
    numbers: str


def _of(results: Sequence[Result], name: str, reset: str = "detached") -> list[Result]:
    """One seed of each setting."""
    return [
        result
        for result in results
        if (result.cell.labels["surrogate"], result.cell.labels["reset"]) == (name, reset) and result.cell.labels["seed"] == SEEDS[0]
    ]


def _test(results: Sequence[Result]) -> float:
    """Test accuracy of the setting that is best on the validation samples."""
    return best_setting(results)[0].test


def _with_seeds(results: Sequence[Result], name: str) -> float:
    """The same of a shape, the mean over the seeds of that setting."""
    chosen = best_setting(_of(results, name))[0].cell.labels
    return statistics.fmean(result.test for result in results if result.cell.labels | {"seed": SEEDS[0]} == chosen)


def findings(results: Sequence[Result], quick: bool) -> list[Finding]:
    """What the paper found, decided by the numbers that were measured here. Accuracies are of test samples, settings chosen on others.

    Args:
        results: of `cells`, and of those of `again`, all of which must have ended.
        quick: which of the two there are.
    """
    shapes = {name: _with_seeds(results, name) for name in SHAPES}
    spread = max(shapes.values()) - min(shapes.values())
    usable = {name: statistics.fmean(result.test >= best - 0.05 for result in _of(results, name)) for name, best in shapes.items()}
    falls = usable[SUPERSPIKE] > usable[SIGMOID] > usable[ESSER]
    constant, without = _test(_of(results, CONSTANT)), _test(_of(results, NO_HIDDEN))
    found = [
        Finding("1 the shape does not matter: the best of each is within 0.02 of the others'", spread <= 0.02, _listed(shapes)),
        Finding("2 a sharper shape is good at fewer (beta, learning rate): within 0.05 of its best", falls, _listed(usable, "share ")),
        Finding(
            "3 a constant trains no hidden layer: at most 0.05 above a network without one",
            constant <= without + 0.05,
            f"constant {constant:.3f}, no hidden layer {without:.3f}",
        ),
        *_of_resets(results, quick),
    ]
    finalists = [result for group in settings(results) if len(group) == len(SEEDS) for result in group]
    best, wanted = best_setting(finalists), 0.95 if quick else 0.98
    said, seeds = best[0].cell.labels, [result.test for result in best]
    setting = f"{said['surrogate']}, beta {said['slope']:g}, learning rate {said['lr']:g}, reset {said['reset']}"
    numbers = f"{setting}: {', '.join(f'{each:.3f}' for each in seeds)}, mean {statistics.fmean(seeds):.3f}"
    found.append(Finding(f"the best setting over {len(seeds)} seeds reaches {wanted}", statistics.fmean(seeds) >= wanted, numbers))
    return found


def _of_resets(results: Sequence[Result], quick: bool) -> list[Finding]:
    """Finding 4: through the reset gradients may flow if the surrogate's peak is 1, and not if it is beta; each beta at its best rate."""
    betas = QUICK_ATTACHED_BETAS if quick else ATTACHED_BETAS

    def at(name: str, reset: str) -> dict[str, float]:
        own = _of(results, name, reset)
        return {f"beta {beta:g}": _test([result for result in own if result.cell.labels["slope"] == beta]) for beta in betas}

    high, one, detached = at(ASYMPTOTIC, "attached"), at(SUPERSPIKE, "attached"), at(SUPERSPIKE, "detached")
    apart = {beta: one[beta] - detached[beta] for beta in one}
    told = "; ".join(f"{beta}: attached {one[beta]:.3f}, detached {detached[beta]:.3f}" for beta in one)
    return [
        Finding("4a a reset that gradients pass, of a surrogate with peak beta: at most 0.6", max(high.values()) <= 0.6, _listed(high)),
        Finding("4b with peak 1, within 0.05 of a detached reset", max(map(abs, apart.values())) <= 0.05, told),
    ]


def _listed(numbers: dict[str, float], what: str = "") -> str:
    return ", ".join(f"{name} {what}{number:.3f}" for name, number in numbers.items() if not math.isnan(number))


def reproduce(out: str | Path, *, quick: bool = False, jobs: int = 1, console: Console | None = None) -> tuple[Comparison, list[Finding]]:
    """Train all of it, or what is left, then the best settings with other seeds, and say what holds.

    Args:
        out: the folder, as for `compare`, which is also given ``findings.txt``.
        quick: a quarter of the samples, and fewer settings.
        jobs: as for `compare`.
        console: as for `compare`.

    Raises:
        InputError: as `compare`.
        KeyboardInterrupt: it was stopped.
    """
    first = cells(quick)
    comparison = compare(first, out, jobs=jobs, console=console)
    names = {cell.name for cell in first}
    more = again([result for result in comparison.results if result.cell.name in names], quick)
    comparison = compare([*first, *more], out, jobs=jobs, console=console)
    found = findings(comparison.results, quick)
    claims.write(comparison.path / "findings.txt", told(found))
    return comparison, found


def told(found: Sequence[Finding]) -> str:
    """The findings as lines of text."""
    return "".join(f"{'pass' if each.holds else 'FAIL'}  {each.what}\n      {each.numbers}\n" for each in found)
