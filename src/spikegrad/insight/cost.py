"""What a network costs where zeros are skipped: operations of synapses and neurons, memory and sparsity, as NeuroBench counts them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikegrad.insight.recording import LayerRecord, Recording, record
from spikegrad.kernels.spikes import Spikes
from spikegrad.nn import Layer, SpikingLinear

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
ACTIVATIONS = (nn.ReLU, nn.Sigmoid)
"""What NeuroBench takes for activations beside spiking neurons."""


@dataclass
class LayerCost:
    """One layer, all counts over all samples; those of connections are 0 for neurons, and the other way round.

    Attributes:
        name: where it stands in the model; of what a layer feeds back to itself, with ``.recurrent`` after it.
        kind: its class.
        dense: operations of connections if nothing were skipped.
        macs: multiply-accumulates that have to be done, where neither weight nor input is zero, and the inputs are numbers.
        acs: accumulates likewise, in time steps in which the inputs are spikes: 0, 1 or -1.
        weights: number of weights of connections, without biases.
        zeros: how many of them are zero.
        updates: how often a neuron's potential changed, all of them counting in the first step.
        outputs: of neurons that spike and of activations, their number times time steps.
        silent: how many of these were zero.
    """

    name: str
    kind: str
    dense: int = 0
    macs: int = 0
    acs: int = 0
    weights: int = 0
    zeros: int = 0
    updates: int = 0
    outputs: int = 0
    silent: int = 0

    @property
    def connection_sparsity(self) -> float:
        """Share of weights that are zero; NaN without weights."""
        return self.zeros / self.weights if self.weights else math.nan

    @property
    def activation_sparsity(self) -> float:
        """Share of outputs that are zero; NaN without outputs."""
        return self.silent / self.outputs if self.outputs else math.nan


@dataclass
class Cost:
    """What a model costs: operations per sample, memory in bytes.

    Attributes:
        layers: connections and neurons in the order in which the model has them; their counts are over all samples.
        samples: number of samples.
        footprint: bytes of parameters and buffers.
        parameters: number of parameters.
        uncounted: modules with weights of which no operations are counted, such as normalisations, which a chip folds into others.
    """

    layers: list[LayerCost] = field(default_factory=list[LayerCost])
    samples: int = 0
    footprint: int = 0
    parameters: int = 0
    uncounted: tuple[str, ...] = ()

    def _sum(self, name: str) -> int:
        return sum(getattr(layer, name) for layer in self.layers)

    @property
    def dense(self) -> float:
        """Operations of connections per sample, were nothing skipped."""
        return self._sum("dense") / self.samples

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return self._sum("macs") / self.samples

    @property
    def acs(self) -> float:
        """Accumulates per sample."""
        return self._sum("acs") / self.samples

    @property
    def updates(self) -> float:
        """Changes of potentials per sample."""
        return self._sum("updates") / self.samples

    @property
    def connection_sparsity(self) -> float:
        """Share of all weights that are zero; NaN without weights."""
        return self._sum("zeros") / count if (count := self._sum("weights")) else math.nan

    @property
    def activation_sparsity(self) -> float:
        """Share of all outputs of spiking neurons and activations that are zero; NaN without any."""
        return self._sum("silent") / count if (count := self._sum("outputs")) else math.nan

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it: totals per sample, and the layers."""
        totals = ("dense", "macs", "acs", "updates", "connection_sparsity", "activation_sparsity")
        found: dict[str, Any] = {name: _known(getattr(self, name)) for name in totals}
        found |= {"samples": self.samples, "footprint": self.footprint, "parameters": self.parameters, "uncounted": list(self.uncounted)}
        found["layers"] = [
            {each.name: getattr(layer, each.name) for each in fields(LayerCost)}
            | {"connection_sparsity": _known(layer.connection_sparsity), "activation_sparsity": _known(layer.activation_sparsity)}
            for layer in self.layers
        ]
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A table with a line for each layer, per sample."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("layer, per sample", overflow="fold")
        for name in ("dense", "MACs", "ACs", "updates", "zero weights", "zero outputs"):
            table.add_column(name, justify="right")
        n = self.samples
        for layer in self.layers:
            counts = (_short(count / n) for count in (layer.dense, layer.macs, layer.acs, layer.updates))
            shares = (_percent(layer.connection_sparsity), _percent(layer.activation_sparsity))
            table.add_row(f"{layer.name} [dim]{layer.kind}[/]", *counts, *shares)
        counts = (_short(count) for count in (self.dense, self.macs, self.acs, self.updates))
        table.add_row("all", *counts, _percent(self.connection_sparsity), _percent(self.activation_sparsity), style="bold")
        yield table
        yield f"footprint {_bytes(self.footprint)}, {self.parameters:,} parameters, {self.samples} samples"
        if self.uncounted:
            yield f"not counted, as in NeuroBench: {', '.join(self.uncounted)}"


def cost(model: nn.Module, batches: Tensor | Spikes | Iterable[Tensor | Spikes]) -> Cost:
    """Count what a model does with samples, as NeuroBench 2.3 does (Yik et al. 2025): the same numbers for the same network.

    Connections are linear maps, convolutions, the weights of `nn.SpikingLinear`, and what a recurrent layer feeds back to itself. In each
    time step they do an operation for each weight and each input that it meets; *effective* are those in which neither is zero. They are
    accumulates in steps in which all inputs of the batch are 0, 1 or -1, since these need no multiplication, else multiply-accumulates.
    Biases count for nothing. A neuron is updated when its potential after a step is another than before.

    The model runs in evaluation mode and without gradients, and is left as it was.

    Args:
        model: any with spiking layers that `record` sees.
        batches: what it is given, a batch or several; counts are over all of them.

    Returns:
        The counts, for each layer and in all.

    Raises:
        ValueError: the model has no spiking layer, or none was called, or there is no batch.
        TypeError: it has an `RNN`, `LSTM` or `GRU`, whose operations are not counted.

    References:
        Yik et al. 2025, "The neurobench framework for benchmarking neuromorphic computing algorithms and systems",
        https://doi.org/10.1038/s41467-025-56739-4

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Leaky(0.9), torch.nn.Linear(8, 2), nn.Leaky(0.9))
        >>> found = spikegrad.cost(net, torch.ones(10, 3, 4))
        >>> found.dense, found.acs <= found.dense, found.macs
        (480.0, True, 0.0)
        >>> [(layer.name, layer.kind, layer.dense) for layer in found.layers]
        [('0', 'Linear', 960), ('1', 'Leaky', 0), ('2', 'Linear', 480), ('3', 'Leaky', 0)]
    """
    if refused := [name for name, module in model.named_modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase)]:
        raise TypeError(f"operations of `{refused[0]}` are not counted; take a recurrent layer of spikegrad.nn")
    found = Cost(parameters=sum(p.numel() for p in model.parameters()))
    layers: dict[str, LayerCost] = {}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for batch in [batches] if isinstance(batches, Tensor | Spikes) else batches:
            with torch.no_grad(), record(model) as seen, _watching(model) as (rows, calls, values):
                model(batch)
            steps, samples = _size(seen)
            found.samples += samples
            for name, module in model.named_modules():
                _connections(layers, name, module, rows.get(name, []), steps, samples)
                if name in seen and seen[name].called:
                    _neurons(layers, seen[name], calls.get(name, []))
                for x in values.get(name, []):
                    _add_outputs(_layer(layers, name, module), x)
    finally:
        for module, training in modes.items():
            module.training = training
    if not found.samples:
        raise ValueError("there is no batch to count")
    found.layers = [layer for layer in layers.values() if layer.dense or layer.weights or layer.updates or layer.outputs]
    found.footprint = sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    counted = {layer.name for layer in found.layers}
    found.uncounted = tuple(
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if not isinstance(module, Layer) and name not in counted and any(p.numel() for p in module.parameters(recurse=False))
    )
    return found


Rows = list[tuple[Tensor, Tensor, int]]
"""Of a call of a connection: effective operations of each row of its input, whether the row is spikes alone, dense operations of a row."""


@contextlib.contextmanager
def _watching(model: nn.Module) -> Generator[tuple[dict[str, Rows], dict[str, list[Any]], dict[str, list[Tensor]]]]:
    """Count at every connection while the model runs, and note what is needed to count more.

    That is how layers were called, the potentials of neurons that take a step, and what activations put out.
    """
    rows: dict[str, Rows] = {}
    calls: dict[str, list[Any]] = {}
    values: dict[str, list[Tensor]] = {}
    with contextlib.ExitStack() as undo:

        def hook(module: nn.Module, function: Any) -> None:
            undo.callback(module.register_forward_hook(function, with_kwargs=True).remove)

        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | SpikingLinear | Convolution):

                def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any, name: str = name) -> None:
                    rows.setdefault(name, []).append(_rows(module, (*args, *kwargs.values())[0]))

                hook(module, count)
            elif isinstance(module, Layer):

                def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any, name: str = name) -> None:
                    calls.setdefault(name, []).append((args, {key: x for key, x in kwargs.items() if key != "record"}))

                hook(module, note)
            elif isinstance(module, ACTIVATIONS):

                def keep(module: Any, args: Any, kwargs: Any, made: Tensor, name: str = name) -> None:
                    values.setdefault(name, []).append(made)

                hook(module, keep)
            elif hasattr(module, "spike_grad"):

                def potential(module: Any, args: Any, kwargs: Any, made: Any, name: str = name) -> None:
                    calls.setdefault(name, []).append((made[-1] if isinstance(made, tuple) else module.mem).detach().clone())

                hook(module, potential)
        yield rows, calls, values


def _rows(module: Any, given: Tensor | Spikes) -> tuple[Tensor, Tensor, int]:
    x = given.dense() if isinstance(given, Spikes) else given
    ones, weight = x.detach() != 0, module.weight.detach() != 0
    spikes = ~(ones & (x.detach().abs() != 1))
    if isinstance(module, Convolution):
        dimensions = module.weight.ndim - 2
        ones, spikes = (each.reshape(-1, *each.shape[each.ndim - dimensions - 1 :]) for each in (ones, spikes))
        one = torch.ones_like(ones[:1], dtype=torch.float32)
        run: Any = module._conv_forward  # pyright: ignore[reportPrivateUsage]  # with its padding, whichever
        effective = run(ones.float(), weight.float(), None).flatten(1).sum(1, dtype=torch.float64)
        return effective, spikes.flatten(1).all(1), int(run(one, torch.ones_like(weight, dtype=torch.float32), None).double().sum())
    ones, spikes = ones.reshape(-1, ones.shape[-1]), spikes.reshape(-1, spikes.shape[-1])
    return ones.double() @ weight.sum(0).double(), spikes.all(1), weight.numel()


def _size(seen: Recording) -> tuple[int, int]:
    """Number of time steps and samples, from what arrived at the first layer of neurons."""
    first = next((layer for layer in seen.values() if layer.called), None)
    if first is None:
        raise ValueError("no spiking layer was called, so there are no time steps to count")
    shape = first.current.shape
    return shape[0], shape[1] if len(shape) > 2 else 1


def _layer(layers: dict[str, LayerCost], name: str, module: nn.Module | str) -> LayerCost:
    return layers.setdefault(name, LayerCost(name, module if isinstance(module, str) else type(module).__name__))


def _connections(layers: dict[str, LayerCost], name: str, module: nn.Module, calls: Rows, steps: int, samples: int) -> None:
    """Add what a connection did: in whole sequences, or one step a call."""
    if not isinstance(module, nn.Linear | SpikingLinear | Convolution):
        return
    layer = _layer(layers, name, module)
    layer.weights, layer.zeros = module.weight.numel(), int((module.weight == 0).sum())
    for effective, spikes, dense in calls:
        layer.dense += dense * len(effective)
        whole = steps if len(effective) % (steps * samples) == 0 else 1  # time steps in this call
        for part, spiking in zip(effective.reshape(whole, -1), spikes.reshape(whole, -1), strict=True):
            if bool(spiking.all()):
                layer.acs += int(part.sum())
            else:
                layer.macs += int(part.sum())


def _neurons(layers: dict[str, LayerCost], seen: LayerRecord, calls: list[Any]) -> None:
    """Add what neurons did: their outputs, the changes of their potentials, and what they feed back to themselves."""
    layer = _layer(layers, seen.name, seen.module)
    if isinstance(seen.module, Layer):
        with torch.no_grad():
            for args, kwargs in calls:
                _changes(layer, _potentials(seen.module, *args, **kwargs))
    else:
        _changes(layer, torch.stack(calls))
    spikes = seen.spikes
    if spikes is None:
        return
    _add_outputs(layer, spikes)
    if not isinstance(seen.module, Layer) or seen.module.connection == "none":
        return
    fed = _layer(layers, f"{seen.name}.recurrent", seen.module.connection)
    given: Any = seen.module.weight
    weight: Tensor = given.detach()
    fed.weights, fed.zeros = weight.numel(), int((weight == 0).sum())
    before = spikes[:-1] != 0  # what arrives in the first step is that of the rest, nothing
    onto = (weight != 0).sum(0) if weight.ndim == 2 else weight != 0
    fed.dense += weight.numel() * spikes[..., 0].numel()
    effective = int((before.double() * onto.double()).sum())
    if bool(((spikes.abs() == 1) | (spikes == 0)).all()):
        fed.acs += effective
    else:
        fed.macs += effective


def _add_outputs(layer: LayerCost, x: Tensor) -> None:
    layer.outputs += x.numel()
    layer.silent += x.numel() - int(x.count_nonzero())


def _changes(layer: LayerCost, potentials: Tensor) -> None:
    """Potentials after each step, the first dimension."""
    layer.updates += potentials[0].numel() + int((potentials[1:] != potentials[:-1]).sum())


def _potentials(layer: Layer, currents: Any, state: Any = None, **options: Any) -> Tensor:
    """Potentials after each step: after the reset where the neuron keeps them as v, else what its step calls u, else its first state."""
    names, several = layer.neuron.states, isinstance(currents, tuple | list)
    if "v" not in names and "u" in layer.neuron.record.recorded:
        return layer(currents, state, record="u", **options)[2]
    place, after = names.index("v") if "v" in names else 0, list[Tensor]()
    for t in range(len(currents[0] if several else currents)):
        step = tuple(each[t : t + 1] for each in currents) if several else currents[t : t + 1]
        _, state = layer(step, state)
        after.append(state[place] if isinstance(state, tuple) else state)
    return torch.stack(after)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _short(number: float) -> str:
    return "" if not number else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def _bytes(number: int) -> str:
    return f"{number / 2**20:.2f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB" if number >= 2**10 else f"{number} bytes"
