"""What is searched: ranges of numbers, and how what was drawn from them becomes a configuration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

from spikegrad.errors import InputError
from spikegrad.ranges import decay
from spikegrad.training.config import Config
from spikegrad.training.named import surrogate_class

Range = tuple[float, float]


class Drawing(Protocol):
    """Where values come from; an `optuna.Trial` is one."""

    def suggest_categorical(self, name: str, choices: Any, /) -> Any: ...  # noqa: D102
    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool) -> float: ...  # noqa: D102
    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class _End:
    """Draws what is at one end of everything, 0 for the first or -1 for the last."""

    place: int

    def suggest_categorical(self, name: str, choices: Any, /) -> Any:
        return choices[self.place]

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool) -> float:
        return (low, high)[self.place]

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool) -> int:
        return (low, high)[self.place]


@dataclass(frozen=True)
class Space:
    """Ranges to search, each (lowest, highest), on a logarithmic scale; None leaves what it concerns as it is configured.

    Attributes:
        surrogates: names of surrogates.
        slope: slope or 1 / width of the surrogate, in 1 / potential.
        lr: learning rate.
        tau: time constant of the potential, in steps; also of the readout.
        tau_syn: time constant of the synaptic current, in steps, for neurons that have one.
        size: neurons of each hidden layer, by itself.

    Raises:
        InputError: a range is empty or not positive, or a surrogate is unknown.
    """

    surrogates: tuple[str, ...] = ("ATan", "FastSigmoid", "Sigmoid", "Triangle")
    slope: Range | None = (0.5, 50.0)
    lr: Range | None = (3e-4, 3e-2)
    tau: Range | None = (2.0, 50.0)
    tau_syn: Range | None = (1.0, 20.0)
    size: Range | None = (32.0, 512.0)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name == "surrogates":
                object.__setattr__(self, "surrogates", tuple(value))
                for name in value:
                    surrogate_class(name)
            elif value is not None:
                low, high = float(value[0]), float(value[1])
                if not (0 < low <= high < math.inf):
                    raise InputError(f"`{entry.name}` must be searched between two positive numbers, the lower one first, got {low}:{high}")
                object.__setattr__(self, entry.name, (low, high))

    def require_drawable(self, base: Config) -> None:
        """Refuse a configuration with which what is at the ends of the ranges cannot be trained.

        Raises:
            InputError: as `drawn`.
        """
        for place in (0, -1):
            self.drawn(base, _End(place))

    def drawn(self, base: Config, trial: Drawing) -> Config:
        """A configuration with values drawn from the ranges.

        Args:
            base: all else.
            trial: where they come from.

        Raises:
            InputError: the configuration sets what is searched, or its neuron has no such number.
        """
        changes: dict[str, Any] = {}
        if self.surrogates:
            changes["surrogate"] = trial.suggest_categorical("surrogate", list(self.surrogates))
        if self.slope is not None:
            slope = trial.suggest_float("slope", *self.slope, log=True)
            numbers = surrogate_class(changes.get("surrogate") or base.surrogate or "ATan")().numbers
            sets = next((each for each in ("slope", "width") if each in numbers), None)
            if sets is not None:
                changes["parameters"] = base.parameters | {f"spike.{sets}": slope if sets == "slope" else 1 / slope}
        if self.lr is not None:
            changes["lr"] = trial.suggest_float("lr", *self.lr, log=True)
        if self.tau is not None:
            changes["beta"] = decay(trial.suggest_float("tau", *self.tau, log=True))
        if self.tau_syn is not None and "alpha" in type(base.cell).__dataclass_fields__:
            changes["alpha"] = decay(trial.suggest_float("tau_syn", *self.tau_syn, log=True))
        if self.size is not None:
            low, high = (max(round(each), 1) for each in self.size)
            changes["hidden"] = tuple(trial.suggest_int(f"size_{n}", low, high, log=True) for n, _ in enumerate(base.hidden, 1))
        return base.changed(**changes)
