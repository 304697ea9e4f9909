"""What a run is made from: one flat record that is checked, written to JSON and read back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spikegrad.data.events import MOST, Binning
from spikegrad.errors import InputError, meant
from spikegrad.neuron import Neuron
from spikegrad.surrogate import Surrogate
from spikegrad.training.named import USUAL, built, named, neuron_class, parsed, settable, surrogate_class

if TYPE_CHECKING:
    from spikegrad.kernels.text import Json

T = TypeVar("T")
BOUNDS = {"least": ("at least", ge), "above": ("greater than", gt), "most": ("at most", le), "below": ("below", lt)}


def _setting(default: T, help: str, **limits: str | float | tuple[str, ...]) -> T:
    """A field with its one-line description and the values it may have: `choices`, or `least`, `above`, `most`, `below`."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run does; two runs of one configuration on one machine end with the same weights.

    Each field is an option of ``spikegrad train``, which prints what they mean. What is None is left to the data (`steps`: 10, or their
    own number where they have a time axis) or to the neuron (`alpha`, `beta`, `threshold`, `reset`, `surrogate`: its defaults, and decays
    of 0.8 and 0.9 where it has none). `parameters` are numbers of the neuron and of the surrogate, those as ``spike.leak`` where both
    have one of the name; ``neuron="Adaptive(0.8)"`` and ``surrogate="ATan(slope=5)"`` put theirs there.

    Raises:
        InputError: a value is of the wrong type or out of range, a name is unknown, or a number is given twice; the message names the
            option.

    Example:
        >>> from spikegrad.training import Config
        >>> Config(hidden=(128,), surrogate="FastSigmoid", neuron="Adaptive", parameters={"slope": 5, "rho": 0.9}).cell
        Adaptive(spike=FastSigmoid(slope=5.0, height=1.0), beta=0.9, rho=0.9, jump=0.1, threshold=1.0)
        >>> Config(loss="maximum")
        Traceback (most recent call last):
        spikegrad.errors.InputError: `loss` must be one of mean, max, count, got 'maximum'; did you mean max?
    """

    data: str = _setting(
        "digits",
        "`digits`, `randman`, an .npz file with x and y, an .h5 file of SHD or SSC, or a folder with a folder of samples for each class.",
        group="Data",
    )
    encoding: str = _setting("current", "How values become input in time.", choices=("current", "latency", "rate"), group="Data")
    steps: int | None = _setting(
        None,
        "Time steps (10, or as many as the data have; of events 100, or as --step-ms has it).",
        least=1,
        most=MOST,
        group="Data",
    )
    step_ms: float | None = _setting(
        None, "Duration of a time step of event data in milliseconds (the longest sample's over the steps).", above=0, group="Data"
    )
    sensor: tuple[int, ...] = _setting(
        (), "Channels of event data, as in 700, or width and height, as in 34,34 (what the data reach).", least=1, most=10**6, group="Data"
    )
    pool: int = _setting(1, "Neighbouring channels of events, or squares with this side, that are counted together.", least=1, group="Data")
    binary: bool = _setting(False, "Let a bin of events be 1 for any number of them, in place of their number.", group="Data")

    model: str = _setting(
        "",
        "Your own network, as file.py:function, in place of all that is said of it here and of its neurons. The function gets features and "
        "classes, or also steps and shape, and returns a module from (time, batch, feature) to (time, batch, class).",
        group="Network",
    )
    hidden: tuple[int, ...] = _setting((256,), "Neurons of each hidden layer, as in 256,128.", least=1, most=10**9, group="Network")
    neuron: str = _setting("leaky", "Kind of neuron, of which `spikegrad list` shows all, or your own as file.py:Class.", group="Neuron")
    recurrent: str = _setting("none", "Connections within a layer.", choices=("none", "all-to-all", "one-to-one"), group="Network")
    beta: float | None = _setting(
        None, "Decay of the potential per step, also of the readout (the neuron's, or 0.9).", least=0, most=1, group="Neuron"
    )
    readout_beta: float | None = _setting(None, "Decay of the readout per step, if it is another.", least=0, most=1, group="Neuron")
    alpha: float | None = _setting(None, "Decay of the synaptic current per step (the neuron's, or 0.8).", least=0, most=1, group="Neuron")
    threshold: float | None = _setting(None, "Potential at which a neuron spikes (the neuron's).", above=0, group="Neuron")
    reset: str | None = _setting(
        None, "What a spike does to the potential (the neuron's).", choices=("subtract", "zero", "none"), group="Neuron"
    )
    bias: bool = _setting(True, "Biases of the linear maps, where no batch normalisation has them.", group="Network")
    norm: bool = _setting(True, "Batch normalisation of the currents of hidden layers; needs batches of 2 or more.", group="Network")
    dropout: float = _setting(0.3, "Share of a hidden layer's spikes dropped in training.", least=0, below=1, group="Network")

    surrogate: str | None = _setting(None, "Surrogate gradient, of which `spikegrad list` shows all (ATan).", group="Neuron")
    parameters: dict[str, Any] = field(
        default_factory=dict[str, Any],
        metadata={
            "help": "Number of the neuron or of the surrogate, as in rho=0.9 or slope=10, spike.slope=10 if both have one; repeatable.",
            "group": "Neuron",
        },
    )
    learn: tuple[str, ...] = _setting(
        (), "What else to learn, as in beta,slope: numbers of the neuron or of the surrogate.", group="Neuron"
    )

    loss: str = _setting(
        "mean",
        "A class's score, in cross entropy: the mean of the readout's potential over time, to try first; its max, for classes that one "
        "moment tells apart; or the count of its spikes, over many steps, for hardware without potentials",
        choices=("mean", "max", "count"),
        group="Training",
    )
    smoothing: float = _setting(0.1, "Share of every label that is spread over all classes.", least=0, below=1, group="Training")
    rate_weight: float = _setting(0.0, "Weight of the penalty on firing rates outside their bounds.", least=0, group="Training")
    rate_lower: float = _setting(0.01, "Mean spikes per step of each neuron should not be below.", least=0, most=1, group="Training")
    rate_upper: float = _setting(0.3, "Mean spikes per step of a layer should not be above.", least=0, most=1, group="Training")
    optimizer: str = _setting("adamw", "Optimiser.", choices=("adam", "adamw", "sgd", "rmsprop"), group="Training")
    lr: float = _setting(4e-3, "Learning rate at its highest.", above=0, most=1e30, group="Training")
    weight_decay: float = _setting(1e-2, "Decay of weights, not of biases nor of numbers that are learned.", least=0, group="Training")
    schedule: str = _setting("cosine", "Course of the learning rate.", choices=("constant", "cosine", "one-cycle"), group="Training")
    clip: float = _setting(0.0, "Largest norm of a gradient step; 0 for no limit.", least=0, group="Training")
    epochs: int = _setting(30, "Passes over the training data.", least=1, most=10**9, group="Training")
    batch: int = _setting(32, "Samples in a step of the optimiser.", least=1, most=10**9, group="Training")
    seed: int = _setting(0, "Seed of weights, order and noise.", least=0, most=2**32 - 1, group="Training")

    accelerator: str = _setting(
        "auto",
        "Where to compute.",
        choices=("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
        group="Machine",
    )
    devices: str = _setting("1", "Number of devices, or their list as in 0,1, or auto.", group="Machine")
    threads: int | None = _setting(None, "Threads of the processor (as many as PyTorch takes).", least=1, most=4096, group="Machine")
    num_nodes: int = _setting(1, "Number of machines.", least=1, most=10**6, group="Machine")
    precision: str = _setting(
        "32-true",
        "Precision of the computation.",
        choices=("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"),
        group="Machine",
    )
    memory: str = _setting(
        "save",
        "What hidden layers keep for the backward pass: `recompute` for their input alone, spikes as bits; it costs a second forward pass.",
        choices=("save", "recompute"),
        group="Machine",
    )
    graphs: bool = _setting(
        True, "On a GPU of CUDA, steps that repeat run as one graph, where that computes the same bits.", group="Machine"
    )
    pictures: str = _setting("png", "Format of the run's pictures.", choices=("png", "svg", "pdf", "none"), group="Run")
    strategy: str = _setting("auto", "How several devices share the work: any strategy of Lightning, such as ddp or fsdp.", group="Machine")

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = _typed(entry.name, str(entry.type), getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
            for each in value if isinstance(value, tuple) else (value,):
                _check_limits(entry.name, each, entry.metadata)
        if self.rate_lower > self.rate_upper:
            raise InputError(f"`rate_lower` must not be above `rate_upper`, got {self.rate_lower} and {self.rate_upper}")
        if self.readout_beta is not None and self.loss == "count":
            raise InputError(
                "`readout_beta` has no use beside `loss` count, whose readout are neurons like the others; leave one of them out"
            )
        if len(self.sensor) > 2:
            raise InputError(f"`sensor` must be a number of channels, or width and height, got {','.join(map(str, self.sensor))}")
        if self.model:
            self._take_model()
            return
        self._take_values()
        path, _, kind = self.neuron.rpartition(":")
        if path:
            object.__setattr__(self, "neuron", f"{Path(path).absolute()}:{kind}")
        if twice := [name for name in self.learn if self.learn.count(name) > 1]:
            raise InputError(f"`learn` names {twice[0]} twice; leave out one")
        cell, name = self.cell, self.neuron.rpartition(":")[2]
        if len(cell.inputs) > 1 or cell.record.outputs > 1:
            raise InputError(f"{name} takes {' and '.join(cell.inputs)}, but neurons of a layer here have one input and one output")
        if "excess" not in cell.record.recorded:
            raise InputError(f"{name} does not spike, but the neurons of a hidden layer must; choose another")
        try:
            for each in self.learned:
                owner, number = (cell.spike, each[6:]) if each.startswith("spike.") else (cell, each)
                owner.require_learnable(number)
                if not owner.numbers[number].inside(value := getattr(owner, number)):
                    raise InputError(f"{each} is learned inside of its range and cannot start at its edge, {value}")
        except (TypeError, ValueError) as error:
            raise InputError(f"`learn`: {error}") from None

    def _take_model(self) -> None:
        """Name the file from the root, and refuse what only a network that is built from this configuration has."""
        path, _, function = self.model.rpartition(":")
        if not (path.endswith(".py") and function.isidentifier()):
            raise InputError(f"a network of your own is named as file.py:function, got {self.model!r}")
        object.__setattr__(self, "model", f"{Path(path).absolute()}:{function}")
        for entry in dataclasses.fields(self):
            default = {} if entry.name == "parameters" else entry.default
            if entry.metadata["group"] in ("Network", "Neuron") and entry.name != "model" and getattr(self, entry.name) != default:
                raise InputError(f"`{entry.name}` has no use beside `model`, whose function decides it; leave one of them out")

    def _take_values(self) -> None:
        """Leave the names alone where fields say ``ATan(slope=5)``, and put the values among the parameters."""
        found: list[tuple[str, type[Surrogate | Neuron], dict[str, Any]]] = []
        for setting, find in (("neuron", neuron_class), ("surrogate", surrogate_class)):
            name, given, values = parsed(getattr(self, setting) or "")
            object.__setattr__(self, setting, name or getattr(self, setting))
            if given or values:
                found.append((setting, find(name), named(find(name), given, values)))
        for setting, kind, values in found:
            for name, value in values.items():
                if name not in settable(kind):
                    raise InputError(f"{kind.__name__} has no parameter {name!r}{meant(name, settable(kind))}")
                key = name if setting == "neuron" else f"spike.{name}"
                for other in (key, name):
                    if other in self.parameters and self.owner(other) == setting and self.parameters[other] != value:
                        raise InputError(f"`{name}` is given twice, as {value} and as {self.parameters[other]}; leave out one")
                self.parameters[key] = value

    def owner(self, name: str) -> str:
        """Whose the number `name` is: ``"neuron"`` or, if that has none of the name or it begins with ``spike.``, ``"surrogate"``.

        Raises:
            InputError: neither has it.
        """
        kind, surrogate = neuron_class(self.neuron), type(self._surrogate)
        own, of_spike = settable(kind), settable(surrogate)
        if name in own or name.removeprefix("spike.") in of_spike:
            return "neuron" if name in own else "surrogate"
        known = (*own, *(f"spike.{each}" if each in own else each for each in of_spike))
        raise InputError(f"{kind.__name__} with {surrogate.__name__} has no parameter {name!r}{meant(name, known)}")

    @property
    def learned(self) -> tuple[str, ...]:
        """What to learn, as `spikegrad.nn.Layer` calls it."""
        return tuple(name if self.owner(name) == "neuron" else f"spike.{name.removeprefix('spike.')}" for name in self.learn)

    @property
    def _surrogate(self) -> Surrogate:
        """The one named, or the neuron's own, with its defaults."""
        if self.surrogate is not None:
            return surrogate_class(self.surrogate)()
        return neuron_class(self.neuron).__dataclass_fields__["spike"].default

    @property
    def spike(self) -> Surrogate:
        """The surrogate with its numbers."""
        values = dict[str, Any]()
        for name, x in self.parameters.items():
            plain = name.removeprefix("spike.")
            if self.owner(name) == "surrogate" and (first := values.setdefault(plain, x)) is not x and first != x:
                raise InputError(f"`{plain}` is given twice, as {first} and as {x}; leave out one")
        try:
            return dataclasses.replace(self._surrogate, **values)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None

    @property
    def cell(self) -> Neuron:
        """The neuron of the hidden layers, with its numbers and its surrogate."""
        kind = neuron_class(self.neuron)
        flags = {name: value for name in ("alpha", "beta", "threshold", "reset") if (value := getattr(self, name)) is not None}
        beside = {"beta"} if self.loss != "count" else set[str]()  # the readout has one, whatever the neuron
        if unknown := flags.keys() - settable(kind) - beside:
            raise InputError(f"{kind.__name__} has no {min(unknown)}; it has {', '.join(settable(kind))}")
        own = {name: x for name, x in self.parameters.items() if self.owner(name) == "neuron"}
        if twice := [name for name in flags.keys() & own.keys() if flags[name] != own[name]]:
            raise InputError(f"`{twice[0]}` is given twice, as {flags[twice[0]]} and as {own[twice[0]]} in `parameters`; leave out one")
        return built(kind, {name: x for name, x in flags.items() if name in settable(kind)} | own | {"spike": self.spike})

    @property
    def binning(self) -> Binning:
        """How events become numbers."""
        return Binning(self.steps, self.step_ms, self.sensor, self.pool, self.binary)

    @property
    def decay(self) -> float:
        """What is left of the readout after a step."""
        given = self.beta if self.readout_beta is None else self.readout_beta
        return USUAL["beta"] if given is None else given

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
            values = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
        except OSError as error:
            raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"{path} must hold one JSON object of settings, got {type(values).__name__}")
        if values.get("neuron") == "leaky" and all(values.get(name) is not None for name in _ALWAYS_WRITTEN):
            del values["alpha"]
        try:
            return cls().changed(**values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


_ALWAYS_WRITTEN = ("alpha", "beta", "threshold", "reset", "surrogate")
"""Settings that every configuration had before neurons were formulas: also an alpha beside neurons that have none."""


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """The names and values of a JSON object, in which JSON itself lets the last of several win."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice; leave out one")
    return values


def _typed(name: str, kind: str, value: Any) -> Any:
    """The value in the type that its field is annotated with; JSON has lists for tuples and whole numbers for floats."""
    if kind.endswith(" | None"):
        return None if value is None else _typed(name, kind.removesuffix(" | None"), value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "float" and number and math.isfinite(value):
        return float(value)
    if kind == "int" and isinstance(value, int) and number:
        return value
    if (kind == "str" and isinstance(value, str)) or (kind == "bool" and isinstance(value, bool)):
        return value
    if kind == "dict[str, Any]" and isinstance(value, dict):
        return dict(value)
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        element = "int" if "int" in kind else "str"
        return tuple(_typed(name, element, each) for each in value)
    wanted = {"float": "a finite number", "int": "a whole number", "str": "text", "bool": "true or false"}
    expected = wanted.get(kind, "a list" if kind.startswith("tuple") else "names with values")
    raise InputError(f"`{name}` must be {expected}, got {value!r}")


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
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
