"""A graph of NIR as a network."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spikegrad import neurons
from spikegrad.exchange import nir_equations, nir_metadata
from spikegrad.exchange.nir_equations import Elementwise
from spikegrad.exchange.nir_neurons import differs, equations, uniform
from spikegrad.exchange.nir_writing import POOLS, package
from spikegrad.neuron import Neuron
from spikegrad.nn.layer import Layer
from spikegrad.nn.neurons import Leaky, LeakyIntegrator, Synaptic
from spikegrad.nn.sequential import Sequential

SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
NEURONS = (*SPIKING, "I", "LI", "CubaLI")
_LAYERS: dict[type[Neuron], type[Layer]] = {
    neurons.Leaky: Leaky,
    neurons.LeakyIntegrator: LeakyIntegrator,
    neurons.Synaptic: Synaptic,
}


def from_nir(
    graph: Any,
    dt: float | None = None,
    *,
    reset: Literal["zero", "subtract"] = "zero",
    use_metadata: bool = True,
    norse_dt: float | None = None,
    classes: Collection[type] = (),
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The network that a graph of NIR describes.

    What `to_nir` wrote becomes the same network again, bit for bit. What other tools wrote becomes what NIR's equations say, by Euler's
    step of `dt`: an LIF with ``r = 1`` a `Leaky` with ``scale_input=True``, one with ``r = tau / dt`` a `Leaky`; with other resistances,
    leak or reset potentials whatever computes the same. Spikes are where a potential exceeds its threshold, and set it to ``v_reset``.

    Args:
        graph: a ``nir.NIRGraph``, or the path of its file.
        dt: length of a step in seconds; if None what the file says, as those of `to_nir` do, else 1e-4.
        reset: what a spike does where the graph names no ``v_reset``, or 0: ``"subtract"`` is what NIR's package said before its version
            1.0.5, in files that look no different.
        use_metadata: whether to read what `to_nir` wrote beside NIR's own fields; without it the file is read as that of another tool.
        norse_dt: for files of Norse: the `dt` that its ``to_nir`` was given, 0.001 by default. Norse 1.1.0 writes time constants times
            `dt`.
        classes: neurons and surrogates of your own that the metadata name.
        dtype: of the weights; what `to_nir` wrote keeps its own.

    Returns:
        An `nn.Sequential`; or a layer, if `to_nir` was given one.

    Raises:
        ImportError: the package nir is missing.
        ValueError: a node that is not known, connections that are no chain of modules, time constants shorter than a step, numbers out
            of range, metadata that contradict their node; the message names the node.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> net = nn.Sequential(torch.nn.Linear(3, 2), nn.Leaky(0.9, reset="zero", spike_at_threshold=False))
        >>> spikegrad.from_nir(spikegrad.to_nir(net))
        Sequential(
          (0): Linear(in_features=3, out_features=2, bias=True)
          (1): Leaky(
            beta=0.9, threshold=1, reset='zero', spike_at_threshold=False
            (spike): Spike(ATan(slope=2.0))
          )
        )
    """
    nir = package()
    if isinstance(graph, str | PathLike):
        plain = {} if "type_check" not in inspect.signature(nir.read).parameters else {"type_check": False}
        try:
            graph = nir.read(graph, **plain)
        except (TypeError, AssertionError, KeyError) as error:  # a field or a node that this version of the package does not know
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"nir {nir.version} cannot read {graph}, {what}; a newer version may: pip install --upgrade nir") from None
    if type(graph).__name__ != "NIRGraph":
        raise TypeError(f"`graph` must be a nir.NIRGraph or the path of its file, got {type(graph).__name__}")
    if reset not in ("zero", "subtract"):
        raise ValueError(f"`reset` must be 'zero' or 'subtract', got {reset!r}")
    try:
        told = (nir_metadata.words(_metadata(graph)) if use_metadata else None) or {}
    except ValueError as error:
        raise ValueError(f"the graph cannot be read: {error}; use_metadata=False reads what NIR itself says") from None
    step = float(told.get("dt", 1e-4) if dt is None else dt)
    if not 0 < step < float("inf"):
        raise ValueError(f"`dt` must be the length of a step in seconds, positive and finite, got {step}")
    apart = _metadata(graph).get(nir_metadata.NODES, {}) if use_metadata else {}
    modules = _Reader(step, reset, use_metadata, apart, norse_dt, classes, dtype).chain(*_inlined(graph, ""))
    if told.get("root") == "layer" and len(modules) == 1:
        return modules[0]
    return Sequential(*modules)


def _metadata(node: Any) -> Mapping[str, Any]:
    found = getattr(node, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def _inlined(graph: Any, prefix: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The nodes and edges of a graph, those of graphs inside of it among them."""
    nodes: dict[str, Any] = {}
    edges = [(f"{prefix}{a}", f"{prefix}{b}") for a, b in graph.edges]
    for name, node in graph.nodes.items():
        full = f"{prefix}{name}"
        if type(node).__name__ != "NIRGraph":
            nodes[full] = node
            continue
        inner, more = _inlined(node, f"{full}.")
        ends = {
            kind: [each for each, x in inner.items() if type(x).__name__ == kind and "." not in each[len(full) + 1 :]]
            for kind in ("Input", "Output")
        }
        if any(len(each) != 1 for each in ends.values()):
            raise ValueError(f"the graph {full} inside of the graph must have one Input and one Output")
        (into,), (out,) = ends["Input"], ends["Output"]
        after, before = [b for a, b in more if a == into], [a for a, b in more if b == out]
        edges = [pair for a, b in edges for pair in ([(a, each) for each in after] if b == full else [(a, b)])]
        edges = [pair for a, b in edges for pair in ([(each, b) for each in before] if a == full else [(a, b)])]
        edges += [(a, b) for a, b in more if a != into and b != out]
        nodes |= {each: x for each, x in inner.items() if each not in (into, out)}
    return nodes, list(dict.fromkeys(edges))


class _Reader:
    """What makes modules of nodes."""

    def __init__(
        self,
        dt: float,
        reset: str,
        use_metadata: bool,
        apart: Mapping[str, Any],
        norse_dt: float | None,
        classes: Collection[type],
        dtype: torch.dtype,
    ) -> None:
        self.dt, self.reset, self.use_metadata, self.apart = dt, reset, use_metadata, apart
        self.norse_dt, self.classes, self.dtype = norse_dt, classes, dtype

    def _metadata(self, name: str, node: Any) -> Mapping[str, Any]:
        """What stands beside a node's own fields, if it is to be read."""
        return (_metadata(node) or self.apart.get(name, {})) if self.use_metadata else {}

    def chain(self, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> list[nn.Module]:
        """The modules from the graph's input to its output."""
        if lost := [each for edge in edges for each in edge if each not in nodes]:
            raise ValueError(f"an edge leads to {lost[0]!r}, which is no node")
        kinds = {name: type(node).__name__ for name, node in nodes.items()}
        fed: dict[str, str] = {}
        for a, b in edges:
            if kinds[a] in NEURONS and kinds[b] in ("Linear", "Affine") and (b, a) in edges:
                fed[a] = b
        loops = {*fed.items()} | {(b, a) for a, b in fed.items()}
        edges = [edge for edge in edges if edge not in loops]
        inputs = [name for name, kind in kinds.items() if kind == "Input"]
        after = {name: [b for a, b in edges if a == name] for name in nodes}
        before = {name: [a for a, b in edges if b == name] for name in nodes}
        starts = {b for name in inputs for b in after[name]}
        if not inputs or len(starts) != 1:
            raise ValueError(f"the graph has {len(inputs)} inputs that lead to {len(starts)} nodes; a network here begins with one")
        modules: list[nn.Module] = []
        name, seen = starts.pop(), set(inputs) | set(fed.values())
        while kinds[name] != "Output":
            if len(before[name]) > 1 and not set(before[name]) <= set(inputs):
                raise ValueError(f"node {name!r} is given the sum of {', '.join(before[name])}; a network here is a chain of nodes")
            seen.add(name)
            back = fed.get(name, "")
            modules += self._modules(name, nodes[name], nodes.get(back), self._metadata(back, nodes.get(back)))
            if len(after[name]) != 1:
                what = f"leads to {', '.join(after[name])}" if after[name] else "leads nowhere"
                raise ValueError(f"node {name!r} {what}; a network here is a chain of nodes")
            name = after[name][0]
        seen.add(name)
        if rest := [each for each in nodes if each not in seen]:
            raise ValueError(f"node {rest[0]!r} is not on the way from the input to the output; a network here is a chain of nodes")
        return modules

    def _modules(self, name: str, node: Any, fed: Any, of_fed: Mapping[str, Any]) -> list[nn.Module]:
        """The modules of one node, with the weights that lead from it to itself."""
        kind = type(node).__name__
        try:
            found = self._metadata(name, node)
            words = nir_metadata.words(found) or {}
            if "layer" in words:
                weight = None if fed is None else _unfolded(fed.weight, of_fed, "remainder")
                return [self._own(node, words, found, weight)]
            if kind in ("Linear", "Affine", "Conv1d", "Conv2d"):
                return [self._weights(kind, node, words, found)]
            if kind in ("AvgPool2d", "SumPool2d"):
                return [_pool(kind, node, words)]
            if kind == "Flatten":
                start, end = (int(each) + (int(each) >= 0) for each in (node.start_dim, node.end_dim))
                return [nn.Flatten(start, end)]
            if kind == "Scale":
                return [Elementwise(self._tensor(node.scale))]
            if kind in NEURONS:
                return self._neurons(kind, node, fed)
        except (ValueError, TypeError) as error:
            raise ValueError(f"node {name!r}, {kind}: {error}") from None
        known = ("Affine", "AvgPool2d", "Conv1d", "Conv2d", "Flatten", "Linear", "Scale", "SumPool2d", *NEURONS)
        raise ValueError(f"node {name!r} is a {kind}, which spikegrad does not know; it knows {', '.join(sorted(known))}")

    def _tensor(self, x: Any) -> Tensor:
        return nir_metadata.tensor_of(np.asarray(x), self.dtype)

    def _own(self, node: Any, words: dict[str, Any], found: Mapping[str, Any], weight: Any) -> Layer:
        """A layer that `to_nir` wrote."""
        if weight is not None and words.get("connection") == "one-to-one":
            weight = np.diag(weight)
        layer = nir_metadata.layer_of(words, found.get(nir_metadata.TENSORS, {}), weight, self.classes)
        said = equations(layer, tuple(np.asarray(node.r).shape))
        fields = said.fields(self.dt, bool(words.get("folded")), hasattr(node, "v_reset"))
        if (what := differs(node, said.kind, fields)) is not None:
            raise ValueError(
                f"{what} than its metadata says, so that one of them was changed later; use_metadata=False reads what NIR itself says"
            )
        return layer

    def _weights(self, kind: str, node: Any, words: Mapping[str, Any], found: Mapping[str, Any]) -> nn.Module:
        """A Linear or a convolution."""
        dtype = nir_metadata.dtype_of(words.get("dtype", str(self.dtype).removeprefix("torch.")))
        weight = _unfolded(node.weight, found, "remainder")
        bias = None if kind == "Linear" else _unfolded(node.bias, found, "bias_remainder")
        if kind in ("Linear", "Affine"):
            if weight.ndim != 2:
                raise ValueError(f"its weights have shape {weight.shape}, and a Linear here has (out, in)")
            made: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
        else:
            groups = int(words.get("groups", 1))
            if groups > 1:
                weight = _grouped(weight, groups)
            groups *= int(node.groups)
            bias = bias if words.get("bias", True) else None
            conv, count = (nn.Conv1d, 1) if kind == "Conv1d" else (nn.Conv2d, 2)
            options = {key: _window(getattr(node, key), count) for key in ("stride", "padding", "dilation")}
            sizes = weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:])
            made = conv(*sizes, groups=groups, bias=bias is not None, dtype=dtype, **options)
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(weight))
            if bias is not None:
                made.bias.copy_(torch.from_numpy(bias))
        return made

    def _neurons(self, kind: str, node: Any, fed: Any) -> list[nn.Module]:
        """Neurons as NIR's equations say, and before them what scales their input."""
        threshold = None if kind not in SPIKING else np.asarray(node.threshold if kind == "Threshold" else node.v_threshold, float)
        before: list[nn.Module] = []
        if kind == "CubaLI":
            alpha, w_in = self._decay(node.tau_syn, "tau_syn"), np.asarray(node.w_in, float)
            first = self._integrator(alpha, w_in, np.zeros_like(w_in), None)
            return [*first, *self._integrator(self._decay(node.tau_mem, "tau_mem"), np.asarray(node.r, float), node.v_leak, fed)]
        if kind in ("LI", "I"):
            r = np.asarray(node.r, float)
            if kind == "LI":
                return self._integrator(self._decay(node.tau, "tau"), r, node.v_leak, fed)
            gain = r * self.dt
            before = [] if np.allclose(gain, 1) else [Elementwise(self._tensor(gain))]
            return [*before, self._layer(neurons.LeakyIntegrator, {"beta": 1.0}, {}, fed, kind)]
        assert threshold is not None
        leak = np.asarray(getattr(node, "v_leak", 0.0), float)
        reset = np.asarray(v, float) if (v := getattr(node, "v_reset", None)) is not None else np.zeros_like(threshold)
        options: dict[str, Any] = {"reset": self.reset, "spike_at_threshold": False}
        if kind == "Threshold":
            return [self._layer(neurons.Leaky, {"beta": 0.0, "threshold": threshold}, options | {"reset": "zero"}, fed, kind)]
        plain = not leak.any() and not reset.any() and bool((threshold > 0).all())
        if self.reset == "subtract" and reset.any():
            raise ValueError("its v_reset is not 0, so that its reset is no subtraction; leave out reset='subtract'")
        if kind == "IF":
            gain = np.asarray(node.r, float) * self.dt
            before = [] if np.allclose(gain, 1) else [Elementwise(self._tensor(gain))]
            if plain:
                return [*before, self._layer(neurons.IntegrateAndFire, {"threshold": threshold}, options, fed, kind)]
            raise ValueError("its v_reset is not 0, or its threshold not above it, for which spikegrad has no neuron")
        numbers: dict[str, Any] = {"threshold": threshold}
        if kind == "LIF":
            numbers["beta"] = beta = self._decay(node.tau, "tau")
            r = np.asarray(node.r, float)
            unscaled = np.allclose(r * (1 - beta), 1, rtol=1e-5)
            if not unscaled and not np.allclose(r, 1, rtol=1e-5):
                before = [Elementwise(self._tensor(r))]
            if plain and unscaled:
                return [self._layer(neurons.Leaky, numbers, options, fed, kind)]
            if fed is not None and before:
                raise ValueError("its resistance is neither 1 nor tau / dt, which spikegrad does not know of recurrent neurons")
            if plain:
                return [*before, self._layer(neurons.Leaky, numbers, options | {"scale_input": True}, fed, kind)]
        else:
            numbers["alpha"] = alpha = self._decay(node.tau_syn, "tau_syn")
            numbers["beta"] = beta = self._decay(node.tau_mem, "tau_mem")
            w_in, r = np.asarray(node.w_in, float), np.asarray(node.r, float)
            if plain and np.allclose(w_in * (1 - alpha), 1, rtol=1e-5) and np.allclose(r * (1 - beta), 1, rtol=1e-5):
                return [self._layer(neurons.Synaptic, numbers, options, fed, kind)]
            numbers |= {"w_in": w_in, "r": r}
        if self.reset == "subtract":
            raise ValueError("with its leak potential, gains or threshold spikegrad knows no reset by subtraction")
        numbers |= {"leak": leak, "reset_potential": reset}
        cls = nir_equations.LIF if kind == "LIF" else nir_equations.CubaLIF
        return [*before, self._layer(cls, numbers, {}, fed, kind)]

    def _integrator(self, beta: Any, r: Any, leak: Any, fed: Any) -> list[nn.Module]:
        """A leaky integrator, and before it the resistance if that is another than 1."""
        unscaled, leak = np.allclose(r * (1 - beta), 1, rtol=1e-5), np.asarray(leak, float)
        if not leak.any() and (unscaled or np.allclose(r, 1, rtol=1e-5)):
            return [self._layer(neurons.LeakyIntegrator, {"beta": beta}, {"scale_input": not unscaled}, fed, "LI")]
        if fed is not None:
            raise ValueError("its leak potential or resistance is one that spikegrad does not know of recurrent neurons")
        before = [] if np.allclose(r, 1, rtol=1e-5) else [Elementwise(self._tensor(r))]
        if not leak.any():
            return [*before, self._layer(neurons.LeakyIntegrator, {"beta": beta}, {"scale_input": True}, fed, "LI")]
        return [*before, self._layer(nir_equations.LI, {"beta": beta, "leak": leak}, {}, fed, "LI")]

    def _decay(self, tau: Any, name: str) -> Any:
        """What is left after a step of Euler's."""
        tau = np.asarray(tau, dtype=float)
        tau = tau if self.norse_dt is None else tau / self.norse_dt
        if (tau < self.dt * (1 - 1e-6)).any() or not (tau > 0).all():
            shortest = float(tau.min())
            raise ValueError(
                f"`{name}` is {shortest:.3g} s, shorter than a step of {self.dt:.3g} s, so that Euler's step oscillates. Norse 1.1.0 "
                "inverts time constants, and so writes its dt times the right ones: if the file is Norse's, give the dt of its to_nir, by "
                "default norse_dt=0.001; else give a shorter `dt`"
            )
        return np.clip(1 - self.dt / tau, 0, 1)

    def _layer(self, cls: type[Neuron], numbers: Mapping[str, Any], options: Mapping[str, Any], fed: Any, kind: str) -> Layer:
        """A layer of a neuron with these numbers, one or an array each."""
        given = {name: uniform(x) for name, x in numbers.items()}
        arrays = {name: self._tensor(x) for name, x in given.items() if isinstance(x, np.ndarray)}
        floats = {name: float(x.reshape(-1)[0]) if isinstance(x, np.ndarray) else x for name, x in given.items()}
        layer_class = _LAYERS.get(cls, Layer)
        layer = layer_class.__new__(layer_class)
        weight = None if fed is None else np.asarray(fed.weight, dtype=float)
        if weight is not None and (weight.ndim != 2 or weight.shape[0] != weight.shape[1]):
            raise ValueError(f"the weights that lead back to it have shape {weight.shape}, and must have as many rows as columns")
        if fed is not None and np.asarray(getattr(fed, "bias", 0.0)).any():
            raise ValueError("the weights that lead back to it have a bias; add it to that of the weights before it")
        recurrent, features = (None, None) if weight is None else ("all-to-all", len(weight))
        Layer.__init__(layer, cls(**floats, **options), values=arrays, recurrent=recurrent, features=features)
        if weight is not None:
            layer.weight = nn.Parameter(self._tensor(weight))
        return layer


def _unfolded(weight: Any, found: Mapping[str, Any], remainder: str) -> Any:
    """Weights without the factor that their metadata say they were multiplied by."""
    weight = np.array(np.asarray(weight))
    if "factor" in found:
        weight = weight / np.asarray(found["factor"]).reshape(-1, *[1] * (weight.ndim - 1))
    return weight + np.asarray(found[remainder]) if remainder in found else weight


def _grouped(weight: Any, groups: int) -> Any:
    """The weights of a convolution in groups, from those with zeros between them."""
    out, inner = len(weight) // groups, weight.shape[1] // groups
    return np.concatenate([weight[k * out : (k + 1) * out, k * inner : (k + 1) * inner] for k in range(groups)])


def _window(x: Any, count: int) -> Any:
    """Strides and the like as PyTorch takes them."""
    if isinstance(x, str | bytes):
        return x.decode() if isinstance(x, bytes) else x
    given = [int(each) for each in np.asarray(x).reshape(-1)]
    return tuple(given * count if len(given) == 1 else given)


def _pool(kind: str, node: Any, words: Mapping[str, Any]) -> nn.Module:
    """A pool; NIR's sum is an average divided by 1."""
    window = {key: _window(getattr(node, key), 2) for key in ("kernel_size", "stride", "padding")}
    if "module" in words:
        options: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in words["options"].items()}
        return POOLS[words["module"]](**window, **options)
    return nn.AvgPool2d(**window, divisor_override=1 if kind == "SumPool2d" else None)
