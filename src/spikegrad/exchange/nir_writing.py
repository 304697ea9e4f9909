"""A network as a graph of NIR, the Neuromorphic Intermediate Representation."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikegrad.exchange import nir_metadata
from spikegrad.exchange.nir_equations import Elementwise
from spikegrad.exchange.nir_neurons import Equations, Floats, equations, sayable
from spikegrad.nn.convolution import SpikingConv2d
from spikegrad.nn.layer import Layer
from spikegrad.nn.linear import SpikingLinear
from spikegrad.nn.sequential import Sequential

POOLS = {"AvgPool2d": nn.AvgPool2d, "MaxPool2d": nn.MaxPool2d}


def package() -> ModuleType:
    """The package `nir`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError:
        raise ImportError("NIR files need the package nir; install it with `pip install spikegrad[nir]`") from None


def to_nir(
    net: nn.Module,
    sample: Tensor | None = None,
    dt: float = 1e-4,
    *,
    fold_resistance: bool = True,
    strict: bool = False,
) -> Any:
    """A network as a graph of NIR, which other simulators and chips read: write it with ``nir.write("net.nir", graph)``.

    `Leaky` becomes an LIF with resistance 1, its incoming weights divided by 1 - beta, which is what other tools' importers read alike;
    `Synaptic` a CubaLIF with ``r = tau_mem / dt`` and ``w_in = tau_syn / dt``; `IntegrateAndFire` an IF; `LeakyIntegrator` an LI. Recurrent
    weights are a Linear node from the neurons to themselves. Linear, convolutions, pools and Flatten are themselves; Dropout, which does
    nothing once a network is trained, is left out.

    What NIR cannot say (a reset by subtraction, a spike at the threshold exactly, resets that come later, all other neurons) is written
    into the metadata, from which `from_nir` makes the same network again, bit for bit; one warning names it all, since other tools will
    compute something else. Networks of neurons with ``reset="zero", spike_at_threshold=False`` are said wholly.

    Args:
        net: an `nn.Sequential`, also of others, or a layer; neurons, `SpikingLinear`, `SpikingConv2d`, and stateless modules of PyTorch.
        sample: an input, ``(time, batch, *features)``, of which only the shape of the features counts; needed where the network does not
            begin with a Linear.
        dt: length of a step in seconds; importers of snnTorch know no other than the default.
        fold_resistance: write resistances of 1. Without it weights stay as they are, and LIF nodes have ``r = tau / dt``, which Norse
            ignores. Where there are no weights to fold into, as before the first layer, it is written so anyway.
        strict: refuse what NIR cannot say.

    Returns:
        A ``nir.NIRGraph``.

    Raises:
        ImportError: the package nir is missing.
        TypeError: a module that has no counterpart, or something that no file can hold; the message names it.
        ValueError: the shape of the input is not known; what NIR cannot say, if `strict`.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> net = nn.Sequential(torch.nn.Linear(3, 2), nn.Leaky(0.9, reset="zero", spike_at_threshold=False))
        >>> graph = spikegrad.to_nir(net)
        >>> {name: type(node).__name__ for name, node in graph.nodes.items()}
        {'input': 'Input', 'linear_0': 'Affine', 'leaky_1': 'LIF', 'output': 'Output'}
        >>> lif = graph.nodes["leaky_1"]
        >>> [float(x) for x in (lif.tau[0].round(6), lif.r[0], lif.v_threshold[0])]
        [0.001, 1.0, 1.0]
    """
    nir = package()
    if not 0 < dt < float("inf"):
        raise ValueError(f"`dt` must be the length of a step in seconds, positive and finite, got {dt}")
    if sample is not None and sample.ndim < 3 and not (sample.ndim == 2 and isinstance(net, Layer)):
        raise ValueError(f"`sample` must be (time, batch, *features), got shape {tuple(sample.shape)}; add a batch with sample[:, None]")
    modules = [*_flat(net, "")]
    shape = _shape_of(sample, modules)
    writer = _Writer(nir, dt, fold_resistance, shape)
    for place, (path, module) in enumerate(modules):
        writer.add(module, f"{type(module).__name__.lower()}_{place}", path)
    if writer.unsaid:
        told = "; ".join(f"{what} ({', '.join(where)})" for what, where in writer.unsaid.items())
        if strict:
            raise ValueError(
                f"NIR cannot say {told}; use reset='zero' and spike_at_threshold=False, or leave out strict=True to write it for spikegrad "
                "alone to read"
            )
        warnings.warn(
            f"NIR cannot say {told}. It is in the metadata, from which spikegrad.from_nir makes the same network again; other tools will "
            "compute something else",
            stacklevel=2,
        )
    return writer.graph("layer" if isinstance(net, Layer) else "sequential")


def _flat(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a chain one after the other, with their names."""
    if isinstance(module, Sequential) or type(module) is nn.Sequential:
        for name, inner in module.named_children():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(module, SpikingLinear):
        linear: Any = nn.Linear(1, 1, device="meta")
        linear.weight, linear.bias = module.weight, module.bias
        linear.out_features, linear.in_features = module.weight.shape
        yield path, linear
        yield f"{path}.neuron" if path else "neuron", module.neuron
    elif isinstance(module, SpikingConv2d):
        yield f"{path}.conv" if path else "conv", module.conv
        yield f"{path}.neuron" if path else "neuron", module.neuron
    elif not isinstance(module, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout):
        yield path, module


def _shape_of(sample: Tensor | None, modules: Sequence[tuple[str, nn.Module]]) -> tuple[int, ...]:
    """The shape of the features that a network is given."""
    if not modules:
        raise ValueError("the network has no modules")
    if sample is not None:
        return tuple(sample.shape[2:]) if sample.ndim > 2 else tuple(sample.shape[1:])
    first = modules[0][1]
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if isinstance(first, Layer) and first.weight is not None:
        return (len(first.weight),)
    raise ValueError("the shape of the input is not known; give a sample: to_nir(net, torch.zeros(1, 1, ...))")


_KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Flatten, nn.AvgPool2d, nn.MaxPool2d, Elementwise)


@dataclass
class _Weights:
    """A node of weights that a resistance may yet be folded into."""

    name: str
    path: str
    module: Any  # a Linear, or a convolution
    before: tuple[int, ...]
    after: tuple[int, ...]
    flattened: bool = False


class _Writer:
    """A graph that grows by a module at a time."""

    def __init__(self, nir: ModuleType, dt: float, fold: bool, shape: tuple[int, ...]) -> None:
        self.nir, self.dt, self.fold, self.shape = nir, dt, fold, shape
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.unsaid: dict[str, list[str]] = {}
        self.apart: dict[str, nir_metadata.Metadata] = {}
        self.first, self.last, self.inputs = shape, ["input"], ["input"]
        self.weights: _Weights | None = None

    def add(self, module: nn.Module, name: str, path: str) -> None:
        """The next module of the chain."""
        if isinstance(module, Layer):
            self._neurons(module, name)
            return
        if not isinstance(module, _KNOWN):
            raise TypeError(
                f"module {path or name}, a {type(module).__name__}, has no counterpart in NIR; what has: neurons, Linear, Conv1d, Conv2d, "
                "AvgPool2d, MaxPool2d, Flatten, in an nn.Sequential. A BatchNorm is made part of the layer before it by "
                "torch.nn.utils.fusion.fuse_conv_bn_eval or fuse_linear_bn_eval"
            )
        before = self.shape
        with torch.no_grad():
            self.shape = self._after(module, path)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            self.weights = _Weights(name, path, module, before, self.shape)
            self._put(name, self._weighted(self.weights, None))
            if len(set(module.weight.shape[2:])) > 1:
                self._cannot("a kernel that is not square, whose shape the package nir gets wrong, so that it refuses to read it", name)
        elif isinstance(module, nn.Flatten):
            start, end = (each - 1 if each > 0 else each for each in (module.start_dim, module.end_dim))
            self._put(name, self.nir.Flatten(input_type={"input": np.array(before)}, start_dim=start, end_dim=end))
            if self.weights is not None:
                self.weights.flattened = True
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            self._pool(module, name, before)
        else:
            if module.shift is not None:
                raise TypeError(f"{path}, a shift of every feature, has no counterpart in NIR; give the Linear before it a bias")
            self._put(name, self.nir.Scale(scale=np.broadcast_to(nir_metadata.array_of(module.scale), before).copy()))
            self.weights = None

    def _after(self, module: nn.Module, path: str) -> tuple[int, ...]:
        """The shape of the features after a module."""
        parameter = next(iter((*module.parameters(), *module.buffers())), torch.zeros(()))
        try:
            return tuple(module(torch.zeros(1, *self.shape, dtype=parameter.dtype, device=parameter.device)).shape[1:])
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise ValueError(f"module {path}, {type(module).__name__}, cannot take features of shape {self.shape}: {error}") from None

    def _put(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges += [(before, name) for before in self.last]
        self.last = [name]

    def _cannot(self, what: str, name: str) -> None:
        self.unsaid.setdefault(what, []).append(name)

    def _pool(self, module: nn.AvgPool2d | nn.MaxPool2d, name: str, before: tuple[int, ...]) -> None:
        """A pool; what is none of NIR's is an AvgPool2d of the same window."""
        kernel, stride, padding = (_pair(each) for each in (module.kernel_size, module.stride, module.padding))
        window = {"kernel_size": np.array(kernel), "stride": np.array(stride), "padding": np.array(padding)}
        options: dict[str, Any] = {"ceil_mode": module.ceil_mode}
        if isinstance(module, nn.MaxPool2d):
            options |= {"dilation": module.dilation}
            self._cannot("a MaxPool2d", name)
        else:
            options |= {"count_include_pad": module.count_include_pad, "divisor_override": module.divisor_override}
            if module.divisor_override not in (None, 1):
                self._cannot("divisor_override of a pool", name)
            if any(padding) and not module.count_include_pad and module.divisor_override is None:
                self._cannot("count_include_pad=False of a pool", name)
        if module.ceil_mode:
            plain = torch.nn.functional.avg_pool2d(torch.zeros(1, *before), kernel, stride, padding)
            if tuple(plain.shape[1:]) != self.shape:
                raise TypeError(f"ceil_mode=True of {name} gives features of a shape that NIR cannot say; pad the input instead")
        kind = "SumPool2d" if isinstance(module, nn.AvgPool2d) and module.divisor_override == 1 else "AvgPool2d"
        said = nir_metadata.said(module=type(module).__name__, options=options)
        self._put(name, nir_metadata.node(getattr(self.nir, kind), said, self.apart, name, **window))
        self.nodes[name].input_type, self.nodes[name].output_type = {"input": np.array(before)}, {"output": np.array(self.shape)}

    def _neurons(self, layer: Layer, name: str) -> None:
        """Neurons, with what they feed back, and the weights before them times the factor that makes the resistance 1."""
        if len(layer.neuron.inputs) > 1:
            self.inputs = self.last = [f"input_{each}" for each in layer.neuron.inputs]
        if layer.weight is not None and len(self.shape) != 1:
            raise ValueError(
                f"{name}, recurrent, is given features of shape {self.shape}, and NIR knows vectors alone; put a Flatten before it"
            )
        said = equations(layer, self.shape)
        for what in said.unsaid:
            self._cannot(what, name)
        factor = self._foldable(said, layer)
        if factor is not None and (factor != 1).any() and self.weights is not None:
            self.nodes[self.weights.name] = self._weighted(self.weights, factor)
        metadata = nir_metadata.of_layer(layer, name, folded=factor is not None)
        kind = getattr(self.nir, said.kind)
        fields = said.fields(self.dt, factor is not None, "v_reset" in kind.__dataclass_fields__)
        inner = name if layer.weight is None else f"{name}.lif"
        node = nir_metadata.node(kind, metadata, self.apart, inner, **fields)
        self._put(name, node if layer.weight is None else self._fed_back(name, node, layer.weight, None if factor is None else said.factor))
        self.weights = None

    def _fed_back(self, name: str, node: Any, weight: Tensor, factor: Floats | None) -> Any:
        """Neurons and the weights that lead back to them, as a graph of their own: so snnTorch, Norse and SpikingJelly read them alike."""
        nir, shape = self.nir, np.array(self.shape)
        matrix = nir_metadata.array_of(weight if weight.ndim == 2 else torch.diag(weight.detach()))
        folded, extra = _folded(matrix, factor, weight.dtype)
        arrays = {"factor": factor, "remainder": extra}
        metadata = nir_metadata.said(module="recurrent") | {key: x for key, x in arrays.items() if x is not None}
        back = nir_metadata.node(nir.Linear, metadata, self.apart, f"{name}.w_rec", weight=folded)
        nodes = {
            "input": nir.Input(input_type={"input": shape}),
            "lif": node,
            "w_rec": back,
            "output": nir.Output(output_type={"output": shape}),
        }
        return nir.NIRGraph(nodes=nodes, edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")])

    def _foldable(self, said: Equations, layer: Layer) -> Floats | None:
        """The factor of each output of the weights before a layer, if they can take it; a layer other than an LIF or LI has none."""
        factor = said.factor
        if not self.fold or factor is None or not sayable(layer):
            return None
        if (factor == 1).all():
            return np.ones(1)
        if self.weights is None:
            return None
        flat = factor.reshape(len(factor), -1) if factor.ndim else factor.reshape(1, 1)
        if (factor == factor.reshape(-1)[0]).all():
            return factor.reshape(-1)[:1]
        return None if self.weights.flattened or (flat != flat[:, :1]).any() else flat[:, 0]

    def _weighted(self, weights: _Weights, factor: Floats | None) -> Any:
        """The node of a Linear or a convolution, its rows times a factor."""
        module, name, path = weights.module, weights.name, weights.path
        kind, groups = type(module).__name__, getattr(module, "groups", 1)
        weight, extra = _folded(nir_metadata.array_of(module.weight), factor, module.weight.dtype)
        bias, of_bias = np.zeros(len(weight), dtype=weight.dtype), None
        biased = module.bias is not None
        if biased:
            bias, of_bias = _folded(nir_metadata.array_of(module.bias), factor, module.weight.dtype)
        dtype = str(module.weight.dtype).removeprefix("torch.")
        metadata = nir_metadata.said(module=kind, bias=biased, dtype=dtype, groups=groups)
        arrays = {"factor": factor, "remainder": extra if extra is None else _dense(extra, groups), "bias_remainder": of_bias}
        metadata |= {key: x for key, x in arrays.items() if x is not None}
        if isinstance(module, nn.Linear):
            if len(weights.before) != 1:
                raise ValueError(
                    f"module {path}, Linear, is given features of shape {weights.before}; NIR knows vectors alone: put a Flatten before"
                )
            fields = {"weight": weight, "bias": bias} if biased else {"weight": weight}
            return nir_metadata.node(self.nir.Affine if biased else self.nir.Linear, metadata, self.apart, name, **fields)
        if module.padding_mode != "zeros":
            raise TypeError(f"module {path}, {kind}, has padding_mode={module.padding_mode!r}; NIR knows zeros alone")
        flat, space = isinstance(module, nn.Conv1d), weights.before[1:]
        window = {"stride": module.stride, "padding": _padding(module), "dilation": module.dilation}
        # Groups are written as zeros between them: some importers know no others, and NIR's own check of shapes forgets them.
        fields = {"input_shape": int(space[0]) if flat else tuple(space), "weight": _dense(weight, groups), "groups": 1, "bias": bias}
        fields |= {key: x if isinstance(x, str) else x[0] if flat else tuple(x) for key, x in window.items()}
        node = nir_metadata.node(getattr(self.nir, kind), metadata, self.apart, name, **fields)
        node.output_type = {"output": np.array(weights.after)}
        return node

    def graph(self, root: str) -> Any:
        """The graph, whole."""
        nir = self.nir
        ends = {name: nir.Input(input_type={"input": np.array(self.first)}) for name in self.inputs}
        nodes = {**ends, **self.nodes, "output": nir.Output(output_type={"output": np.array(self.shape)})}
        edges = [*self.edges, *((name, "output") for name in self.last)]
        metadata = nir_metadata.said(dt=self.dt, root=root) | ({nir_metadata.NODES: self.apart} if self.apart else {})
        # Shapes are as the modules made them; those that the package infers are wrong for kernels that are not square.
        plain = {} if "type_check" not in inspect.signature(nir.NIRGraph).parameters else {"type_check": False}
        return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, **plain)


def _padding(module: Any) -> Any:
    """The padding of a convolution; as numbers, unless there is more on one side."""
    if not isinstance(module.padding, str):
        return module.padding
    both = [d * (k - 1) * (module.padding == "same") for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return module.padding if any(each % 2 for each in both) else tuple(each // 2 for each in both)


def _dense(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """The weights of a convolution in groups as one without."""
    if groups == 1:
        return weight
    out, inner = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), inner * groups, *weight.shape[2:]), dtype=weight.dtype)
    for group in range(groups):
        rows, columns = slice(group * out, (group + 1) * out), slice(group * inner, (group + 1) * inner)
        dense[rows, columns] = weight[rows]
    return dense


def _folded(x: NDArray[Any], factor: Floats | None, dtype: torch.dtype) -> tuple[NDArray[Any], Floats | None]:
    """Rows times a factor, in float64, and what is missing when they are divided by it again: something for weights in float64 alone.

    Without a factor they are as they were.
    """
    if factor is None:
        return (x if dtype is torch.float64 else x.astype(np.float32)), None
    x, rows = x.astype(np.float64), factor.reshape(-1, *[1] * (x.ndim - 1))
    made = x * rows
    missing = x - made / rows
    return made, missing if dtype is torch.float64 and missing.any() else None


def _pair(x: Any) -> tuple[int, int]:
    return (int(x), int(x)) if isinstance(x, int) else (int(x[0]), int(x[1]))
