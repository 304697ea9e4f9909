"""What NIR cannot say of a layer, as the metadata of its node: everything that makes the layer again, bit for bit.

The file may come from anybody, and nothing in it becomes code: neurons are looked up by name, among ours and those that the caller gives;
formulas are checked word by word (`spikegrad.kernels.text`); numbers are checked by the neuron.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize

from spikegrad import formulas, neurons, recorded
from spikegrad.exchange import nir_equations
from spikegrad.kernels import text
from spikegrad.kernels.plan import Call
from spikegrad.neuron import Neuron
from spikegrad.nn.backend import rewritten
from spikegrad.nn.layer import Layer
from spikegrad.nn.neurons import Leaky, LeakyIntegrator, RecurrentLeaky, RecurrentSynaptic, Synaptic
from spikegrad.nn.parameters import number
from spikegrad.nn.quantize import Quantize
from spikegrad.nn.spike import Spike
from spikegrad.surrogate import Surrogate
from spikegrad.trace import Record

Metadata = dict[str, Any]

KEY = "spikegrad"
"""Where our words are among the metadata of a node or of the graph, as JSON."""

TENSORS = "spikegrad_tensors"
"""Where the tensors of a layer are, by the names of its parameters and buffers."""

NODES = "spikegrad_nodes"
"""Where the graph keeps the metadata of nodes that have no place for them, as some have not in NIR's package before 1.0.5."""

VERSION = 1

_LAYERS = {each.__name__: each for each in (Layer, Leaky, LeakyIntegrator, RecurrentLeaky, RecurrentSynaptic, Synaptic)}
_EQUATIONS = (nir_equations.CubaLIF, nir_equations.LI, nir_equations.LIF)


def array_of(x: Tensor) -> NDArray[Any]:
    """A tensor as an array that HDF5 can hold: bfloat16, which NumPy does not know, as float32; never without dimensions."""
    x = x.detach().cpu()
    return np.atleast_1d((x.float() if x.dtype is torch.bfloat16 else x).numpy())


def tensor_of(x: Any, dtype: torch.dtype, shape: Collection[int] | None = None) -> Tensor:
    """An array of a file as a tensor."""
    tensor = torch.from_numpy(np.array(x)).to(dtype)
    return tensor if shape is None else tensor.reshape(tuple(shape))


def dtype_of(name: object) -> torch.dtype:
    """The dtype of floating point that is called so.

    Raises:
        ValueError: there is none.
    """
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"{str(name)[:40]!r} is no dtype of floating point")
    return found


def node(kind: type, metadata: Metadata, apart: dict[str, Metadata], name: str, **fields: Any) -> Any:
    """A node of NIR with metadata, or without, and those for the graph to keep."""
    if "metadata" in getattr(kind, "__dataclass_fields__", ()):
        return kind(**fields, metadata=metadata)
    apart[name] = metadata
    return kind(**fields)


def words(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Our words in the metadata of a node or a graph, or None.

    Raises:
        ValueError: they are broken, or of another version.
    """
    said = metadata.get(KEY)
    if said is None:
        return None
    found: Any = json.loads(said if isinstance(said, str | bytes) else str(said))
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise ValueError(f"its metadata is of version {version!r}, and this spikegrad reads version {VERSION}")
    return found


def said(**entries: Any) -> Metadata:
    """Metadata with these words."""
    return {KEY: json.dumps({"version": VERSION, **entries})}


def of_layer(layer: Layer, name: str, **more: Any) -> Metadata:
    """Everything that makes this layer again, but for its recurrent weights.

    Raises:
        TypeError: it has something that no file can hold: a function, or a class of module of somebody's own.
    """
    neuron, spike, quantize = layer.neuron, layer.spike, layer.quantize
    if type(layer).forward is not Layer.forward:
        raise TypeError(f"{name} is a {type(layer).__name__}, which has a `forward` of its own; a file cannot hold it")
    if (written := rewritten(spike, Spike)) is not None:
        raise TypeError(f"the `spike` of {name} {written}; a file cannot hold it")
    if quantize is not None and (not isinstance(quantize, Quantize) or rewritten(quantize, Quantize) is not None):
        raise TypeError(f"`quantize` of {name} is a function of your own, which a file cannot hold; use nn.Quantize")
    if any(parametrize.is_parametrized(module) for module in layer.modules()):
        raise TypeError(f"{name} has parametrised tensors; bake them in with torch.nn.utils.parametrize.remove_parametrizations")
    tensors = {key: x for key, x in (*layer.named_parameters(), *layer.named_buffers()) if key != "weight"}
    made = said(
        layer=next(kind.__name__ for kind in type(layer).__mro__ if kind.__name__ in _LAYERS),
        neuron=type(neuron).__name__,
        fields=_fields(neuron),
        surrogate=type(neuron.spike).__name__,
        surrogate_fields=_fields(neuron.spike),
        learn=list(layer.learn),
        of_spike=[f"spike.{each}" for each in spike.given],
        learned_by_spike=[f"spike.{each}" for each in spike.learn],
        inhibition=layer.inhibition,
        quantize=None if quantize is None else [quantize.bits, quantize.low, quantize.high],
        connection=layer.connection,
        weight=None if layer.weight is None else str(layer.weight.dtype).removeprefix("torch."),
        tensors={key: [str(x.dtype).removeprefix("torch."), *x.shape] for key, x in tensors.items()},
        record=text.written(Call(neuron.record, neuron.spike.structure)),
        **more,
    )
    return made | ({TENSORS: {key: array_of(x) for key, x in tensors.items()}} if tensors else {})


def _fields(value: Neuron | Surrogate) -> dict[str, Any]:
    """The fields of a neuron or surrogate, its surrogate apart."""
    found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name != "spike"}
    for name, given in found.items():
        if not isinstance(given, bool | int | float | str):
            raise TypeError(f"`{name}` of {type(value).__name__} is {given!r}; a file can hold numbers, strings, True and False")
    return found


def layer_of(found: Mapping[str, Any], tensors: Mapping[str, Any], weight: NDArray[Any] | None, classes: Collection[type]) -> Layer:
    """The layer that these words make.

    Args:
        found: what `words` found.
        tensors: what is under `TENSORS`.
        weight: its recurrent weights, if it has any.
        classes: the caller's own neurons and surrogates.

    Raises:
        ValueError: they make none; the message says why.
    """
    try:
        return _made(found, tensors, weight, classes)
    except (KeyError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        what = f"it says nothing of {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"its metadata makes no layer: {what}") from None


def _made(found: Mapping[str, Any], tensors: Mapping[str, Any], weight: NDArray[Any] | None, classes: Collection[type]) -> Layer:
    call = text.read(found["record"])
    surrogate = _surrogate(str(found["surrogate"]), found["surrogate_fields"], call.surrogate, classes)
    known = {each.__name__: each for each in (*_EQUATIONS, *neurons.CATALOGUE.values(), *classes) if issubclass(each, Neuron)}
    name = str(found["neuron"])
    if name not in known:
        raise ValueError(f"its neuron {name[:40]!r} is none of spikegrad's; give its class: from_nir(graph, classes=[{name[:40]}])")
    neuron = known[name](**found["fields"], spike=surrogate)
    if neuron.record != call.record:
        raise ValueError(f"{name} is not the neuron that it was when the file was written: its step computes something else")
    held = {key: tensor_of(tensors[key], dtype_of(dtype), shape) for key, (dtype, *shape) in found["tensors"].items()}
    numbers: dict[str, float | Tensor] = {}
    for key, x in held.items():
        # Where learning starts is overwritten below; here it has the shape and dtype, and a value inside of every range. The neuron's own
        # may be at the end of one, where each neuron was given another.
        stem, _, kind = key.rpartition("_")
        of, name = (neuron, stem) if stem in neuron.numbers else (surrogate, stem.removeprefix("spike."))
        start, within = torch.full_like(x, of.parameters[name]), of.numbers[name]
        start = start if bool(within.inside(start).all()) else number(torch.zeros_like(x), within)
        numbers[stem] = x if kind == "fixed" else start
    of_spike = [each for each in found["of_spike"] if each in numbers]
    learned = [*found["learn"], *(each for each in found["learned_by_spike"] if each not in found["learn"])]
    kind, recurrent = _LAYERS[found["layer"]], found["connection"] if found["connection"] != "none" else None
    layer = kind.__new__(kind)
    Layer.__init__(
        layer,
        neuron,
        learn=learned,
        values={key: numbers[key] for key in (*(k for k in numbers if not k.startswith("spike.")), *of_spike)},
        recurrent=recurrent,
        features=None if recurrent is None or weight is None else len(weight),
        inhibition=bool(found["inhibition"]),
        quantize=None if found["quantize"] is None else Quantize(*found["quantize"]),
    )
    layer.learn = tuple(found["learn"])
    places = dict((*layer.named_parameters(), *layer.named_buffers()))
    with torch.no_grad():
        for key, x in held.items():
            places[key].copy_(x)
    if recurrent is not None:
        if weight is None:
            raise ValueError(f"its neurons are connected {recurrent}, and no weights lead from it to itself")
        layer.weight = torch.nn.Parameter(tensor_of(weight, dtype_of(found["weight"])))
    return layer


def _surrogate(name: str, fields: Mapping[str, Any], record: Record, classes: Collection[type]) -> Surrogate:
    """A surrogate of this name, or else one that is its formula."""
    known = {each.__name__: each for each in (*formulas.CATALOGUE.values(), *classes) if issubclass(each, Surrogate)}
    if name in known:
        made = known[name](**fields)
        if made.structure == record:
            return made
        if name in formulas.CATALOGUE:
            raise ValueError(f"the surrogate {name} is not what it was when the file was written: its formula is another")
    if record.arguments[1:2] == ("noise",):
        raise ValueError(f"its surrogate {name[:40]!r} draws noise; give its class: from_nir(graph, classes=[{name[:40]}])")
    return recorded.from_record(record)(**{key: fields[key] for key in record.arguments[1:]})
