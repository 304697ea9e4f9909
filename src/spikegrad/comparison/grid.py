"""What is compared: every combination of surrogates, slopes, neurons, learning rates and seeds, as configurations with labels."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spikegrad.errors import InputError
from spikegrad.training.config import Config
from spikegrad.training.named import parsed, surrogate_class

Label = str | float | int | None
LABELS = ("surrogate", "slope", "neuron", "lr", "seed")
"""What every cell says of itself, in this order."""


@dataclass(frozen=True)
class Cell:
    """One training of a comparison.

    Attributes:
        labels: how its row is called: those of `LABELS`; `slope` is None where the surrogate has none.
        config: what is trained.
    """

    labels: dict[str, Label]
    config: Config

    @cached_property  # asked of hundreds of cells, twice a second
    def name(self) -> str:
        """The name of its folder, for people and unique: what it says of itself, and a hash of its configuration."""
        said = "-".join(str(f"{x:g}" if isinstance(x, float) else x) for x in self.labels.values() if x is not None)
        told = re.sub(r"[^A-Za-z0-9.+-]+", "_", said.replace("/", "_"))[-80:]
        # Of what differs from the defaults: a later version may have more settings.
        usual = dataclasses.asdict(Config())
        own = {name: value for name, value in dataclasses.asdict(self.config).items() if value != usual[name]}
        return f"{told}-{hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]}"


def grid(
    base: Config,
    *,
    surrogates: Sequence[str] = ("ATan",),
    slopes: Sequence[float] = (),
    neurons: Sequence[str] = (),
    lrs: Sequence[float] = (),
    seeds: Sequence[int] = (0,),
) -> list[Cell]:
    """Every combination, as a list of cells; those that are the same training are one.

    A slope of s sets a surrogate's `slope` to s or, where it has a `width` instead, that to 1 / s. A surrogate with neither is trained
    once for all slopes.

    Args:
        base: what all have in common.
        surrogates: names, perhaps with values, as in ``"FastSigmoid(height=2)"``.
        slopes: in 1 / potential; the surrogates' own if there are none.
        neurons: as in `Config`; the base's if there are none.
        lrs: learning rates; the base's if there are none.
        seeds: of weights, order and noise.

    Raises:
        InputError: a name is unknown, a value out of range, or nothing is compared.

    Example:
        >>> from spikegrad.comparison import grid
        >>> from spikegrad.training import Config
        >>> cells = grid(Config(), surrogates=["ATan", "Boxcar", "StraightThrough"], slopes=[2, 5], seeds=[0, 1])
        >>> len(cells), cells[2].labels["slope"], cells[7].config.parameters
        (10, 5.0, {'spike.width': 0.2})
    """
    found: dict[str, Cell] = {}
    for surrogate, slope, neuron, lr, seed in itertools.product(
        surrogates, slopes or (None,), neurons or (base.neuron,), lrs or (base.lr,), seeds
    ):
        cell = _cell(base, surrogate, None if slope is None else float(slope), neuron, float(lr), seed)
        found.setdefault(cell.name, cell)
    if not found:
        raise InputError("nothing is compared: give at least one surrogate, and one seed")
    return list(found.values())


def _cell(base: Config, surrogate: str, slope: float | None, neuron: str, lr: float, seed: int) -> Cell:
    name, by_position, by_name = parsed(surrogate)
    numbers = surrogate_class(name)().numbers
    if slope is not None and not slope > 0:
        raise InputError(f"slopes must be greater than 0, got {slope:g}")
    sets = next((each for each in ("slope", "width") if each in numbers), None)
    if sets is None:
        slope = None
    parameters: dict[str, Any] = dict(base.parameters)
    if slope is not None and sets is not None:
        if sets in by_name or by_position or {sets, f"spike.{sets}"} & parameters.keys():
            raise InputError(f"the {sets} of {surrogate} is given beside slopes to compare; leave one of them out")
        parameters[f"spike.{sets}"] = slope if sets == "slope" else 1 / slope
    config = base.changed(surrogate=surrogate, neuron=neuron, lr=lr, seed=seed, parameters=parameters)
    labels: dict[str, Label] = dict(zip(LABELS, (surrogate, slope, neuron.rpartition("/")[2], lr, seed), strict=True))
    return Cell(labels, config)


def of_dict(values: dict[str, Any]) -> Cell:
    """A cell as `as_dict` wrote it."""
    return Cell(values["labels"], Config().changed(**values["config"]))


def as_dict(cell: Cell) -> dict[str, Any]:
    """A cell as JSON has it."""
    return {"labels": cell.labels, "config": dataclasses.asdict(cell.config)}
