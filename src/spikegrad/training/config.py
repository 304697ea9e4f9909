"""What a run is made from: one flat record that is checked, written to JSON and read back."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from spikegrad.errors import InputError, meant
from spikegrad.surrogate import Surrogate

BOUNDS = {"least": ("at least", ge), "above": ("greater than", gt), "most": ("at most", le), "below": ("below", lt)}


def _setting(default: Any, help: str, **limits: Any) -> Any:
    """A field with its one-line description and the values it may have: `choices`, or `least`, `above`, `most`, `below`."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run does; two runs of one configuration on one machine end with the same weights.

    Each field is an option of ``spikegrad train``, which prints what they mean. `steps` is None for the default: 10, or the data's
    own number of steps where they have a time axis.

    Raises:
        InputError: a value is of the wrong type or out of range, or a name is unknown; the message names the option.

    Example:
        >>> from spikegrad.training import Config
        >>> Config(hidden=(128,), surrogate="ATan", parameters={"slope": 5}).spike
        ATan(slope=5.0)
        >>> Config(loss="maximum")
        Traceback (most recent call last):
        spikegrad.errors.InputError: `loss` must be one of mean, max, count, got 'maximum'; did you mean max?
    """

    data: str = _setting("digits", "`digits`, or an .npz file with x and y, or with x_train, y_train, x_test, y_test.", group="Data")
    encoding: str = _setting("current", "How values become input in time.", choices=("current", "latency", "rate"), group="Data")
    steps: int | None = _setting(None, "Time steps (10, or as many as the data have).", least=1, group="Data")

    hidden: tuple[int, ...] = _setting((256,), "Neurons of each hidden layer, as in 256,128.", least=1, group="Network")
    neuron: str = _setting("leaky", "Kind of neuron.", choices=("leaky", "synaptic"), group="Network")
    recurrent: str = _setting("none", "Connections within a layer.", choices=("none", "all-to-all", "one-to-one"), group="Network")
    beta: float = _setting(0.9, "Decay of the potential per step.", least=0, most=1, group="Network")
    alpha: float = _setting(0.8, "Decay of the synaptic current per step (synaptic).", least=0, most=1, group="Network")
    threshold: float = _setting(1.0, "Potential at which a neuron spikes.", above=0, group="Network")
    reset: str = _setting("subtract", "What a spike does to the potential.", choices=("subtract", "zero", "none"), group="Network")
    norm: bool = _setting(True, "Batch normalisation of the currents of hidden layers.", group="Network")
    dropout: float = _setting(0.3, "Share of a hidden layer's spikes dropped in training.", least=0, below=1, group="Network")

    surrogate: str = _setting("ATan", "Surrogate gradient; `spikegrad list` shows all.", group="Surrogate")
    parameters: dict[str, Any] = field(
        default_factory=dict[str, Any], metadata={"help": "Number of the surrogate, as in slope=10; repeatable.", "group": "Surrogate"}
    )
    learn: tuple[str, ...] = _setting(
        (), "What else to learn, as in beta,slope: alpha, beta, threshold or numbers of the surrogate.", group="Surrogate"
    )

    loss: str = _setting(
        "mean",
        "Cross entropy of the readout over time, of its",
        choices=("mean", "max", "count"),
        group="Training",
    )
    smoothing: float = _setting(0.1, "Share of every label that is spread over all classes.", least=0, below=1, group="Training")
    rate_weight: float = _setting(0.0, "Weight of the penalty on firing rates outside their bounds.", least=0, group="Training")
    rate_lower: float = _setting(0.01, "Mean spikes per step of each neuron should not be below.", least=0, most=1, group="Training")
    rate_upper: float = _setting(0.3, "Mean spikes per step of a layer should not be above.", least=0, most=1, group="Training")
    optimizer: str = _setting("adamw", "Optimiser.", choices=("adam", "adamw", "sgd", "rmsprop"), group="Training")
    lr: float = _setting(4e-3, "Learning rate at its highest.", above=0, group="Training")
    weight_decay: float = _setting(1e-2, "Weight decay.", least=0, group="Training")
    schedule: str = _setting("cosine", "Course of the learning rate.", choices=("constant", "cosine", "one-cycle"), group="Training")
    clip: float = _setting(0.0, "Largest norm of a gradient step; 0 for no limit.", least=0, group="Training")
    epochs: int = _setting(30, "Passes over the training data.", least=1, group="Training")
    batch: int = _setting(32, "Samples in a step of the optimiser.", least=1, group="Training")
    seed: int = _setting(0, "Seed of weights, order and noise.", least=0, most=2**32 - 1, group="Training")

    accelerator: str = _setting(
        "auto",
        "Where to compute.",
        choices=("auto", "cpu", "gpu", "cuda", "mps", "tpu", "xla"),
        group="Machine",
    )
    devices: str = _setting("1", "Number of devices, or their list as in 0,1, or auto.", group="Machine")
    threads: int | None = _setting(None, "Threads of the processor (as many as PyTorch takes).", least=1, group="Machine")
    num_nodes: int = _setting(1, "Number of machines.", least=1, group="Machine")
    precision: str = _setting(
        "32-true",
        "Precision of the computation.",
        choices=("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"),
        group="Machine",
    )
    strategy: str = _setting("auto", "How several devices share the work: any strategy of Lightning, such as ddp or fsdp.", group="Machine")

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = _typed(entry.name, str(entry.type), getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
            for each in value if isinstance(value, tuple) else (value,):
                _check_limits(entry.name, each, entry.metadata)
        if self.rate_lower > self.rate_upper:
            raise InputError(f"`rate_lower` must not be above `rate_upper`, got {self.rate_lower} and {self.rate_upper}")
        spike = self.spike
        for name in self.learn:
            if name == "alpha" and self.neuron != "synaptic":
                raise InputError("`learn` has alpha, which only synaptic neurons have; add neuron=synaptic")
            if name not in ("alpha", "beta", "threshold", *spike.parameters):
                known = ("alpha", "beta", "threshold", *spike.parameters)
                raise InputError(f"`learn` has no {name!r}{meant(name, known)}")
            if name in spike.parameters and not spike.has_primitive:
                raise InputError(f"{name} of {self.surrogate} cannot be learned: this surrogate has no primitive")

    @property
    def spike(self) -> Surrogate:
        """The surrogate with its numbers."""
        from spikegrad.formulas import CATALOGUE

        if self.surrogate not in CATALOGUE:
            raise InputError(f"unknown surrogate {self.surrogate!r}{meant(self.surrogate, CATALOGUE)}")
        kind = CATALOGUE[self.surrogate]
        known = [f.name for f in dataclasses.fields(kind)]
        for name in self.parameters:
            if name not in known:
                raise InputError(f"{self.surrogate} has no parameter {name!r}{meant(name, known)}")
        try:
            return kind(**self.parameters)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None

    def changed(self, **values: Any) -> Config:
        """A copy with other values; unknown names are refused."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in values:
            if name not in known:
                raise InputError(f"unknown setting {name!r}{meant(name, known)}")
        return dataclasses.replace(self, **values)

    def json(self) -> str:
        """The configuration as JSON, one setting a line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Config:
        """A configuration from a JSON file; settings that it leaves out have their defaults.

        Raises:
            InputError: there is no such file, it is not JSON, or a setting is unknown or wrong.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"{path} must hold one JSON object of settings, got {type(values).__name__}")
        try:
            return cls().changed(**values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _typed(name: str, kind: str, value: Any) -> Any:
    """The value in the type that its field is annotated with; JSON has lists for tuples and whole numbers for floats."""
    if kind == "int | None" and value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float" and number and math.isfinite(value):
        return float(value)
    if kind in ("int", "int | None") and isinstance(value, int) and number:
        return value
    if (kind == "str" and isinstance(value, str)) or (kind == "bool" and isinstance(value, bool)):
        return value
    if kind == "dict[str, Any]" and isinstance(value, dict):
        return dict(value)
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        element = "int" if "int" in kind else "str"
        return tuple(_typed(name, element, each) for each in value)
    wanted = {"float": "a finite number", "int | None": "a whole number", "int": "a whole number", "str": "text", "bool": "true or false"}
    expected = wanted.get(kind, "a list" if kind.startswith("tuple") else "names with values")
    raise InputError(f"`{name}` must be {expected}, got {value!r}")


def _check_limits(name: str, value: Any, limits: Any) -> None:
    if value is None:
        return
    choices = limits.get("choices", ())
    if choices and value not in choices:
        near = meant(value, choices)
        near = near if "did you mean" in near else ""
        raise InputError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}{near}")
    wanted = [(f"{words} {limits[key]}", holds(value, limits[key])) for key, (words, holds) in BOUNDS.items() if key in limits]
    if not all(held for _, held in wanted):
        raise InputError(f"`{name}` must be {' and '.join(words for words, _ in wanted)}, got {value}")
