"""Currents, potentials and spikes of every spiking layer of a model, by the name under which it stands there.

Layers of `spikegrad.nn` are asked for their potentials with the call that the model makes. Neurons that take one step, those of snnTorch
and of `spikegrad.compat.snntorch`, are watched from step to step. Nothing of the model is changed but for hooks, and these only meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.errors import InputError
from spikegrad.nn import Layer, SpikingLinear
from spikegrad.nn.record import Record, names, returned
from spikegrad.surrogate import Surrogate

WHAT = ("current", "spikes", "potential", "excess")
"""What is recorded of a layer; as its spikes, whatever it puts out."""


class LayerRecord:
    """What one layer did while it was recorded.

    Attributes:
        name: where it stands in the model.
        module: the layer.
        spiking: whether it spikes; of one that does not, a readout, the potentials are the output.
        stepwise: whether each call of it is one time step.

    Several calls in one recording follow each other in time.
    """

    def __init__(self, name: str, module: nn.Module, spiking: bool, stepwise: bool, gradient: bool) -> None:
        self.name, self.module, self.spiking, self.stepwise = name, module, spiking, stepwise
        self._gradient = gradient
        self._calls: dict[str, list[Tensor]]
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._calls = {what: [] for what in WHAT}

    def parts(self, what: str) -> Sequence[Tensor]:
        """The tensors of each call as the model computed them: sequences, or single steps of a `stepwise` layer."""
        return self._calls[what]

    def take(self, **values: Tensor | None) -> None:
        """Add what a call did."""
        for what, x in values.items():
            if x is None:
                continue
            if self._gradient and what in ("current", "spikes") and x.requires_grad and x.grad_fn is not None:
                x.retain_grad()
            self._calls[what].append(x if self._gradient else x.detach())

    def _joined(self, parts: Sequence[Tensor], what: str) -> Tensor:
        if not parts:
            why = "has none" if self._calls["current"] else "was not called while it was recorded"
            raise ValueError(f"there is no {what} of `{self.name}`: it {why}")
        shapes = {tuple(x.shape if self.stepwise else x.shape[1:]) for x in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"`{self.name}` was called with steps of shapes {' and '.join(map(str, sorted(shapes)))}, which are no one sequence; "
                "call clear() of the recording between batches"
            )
        return torch.stack(list(parts)) if self.stepwise else parts[0] if len(parts) == 1 else torch.cat(list(parts))

    def _has(self, what: str) -> Tensor | None:
        return self._joined(self._calls[what], what) if self._calls[what] or not self._calls["current"] else None

    @property
    def called(self) -> bool:
        """Whether it was called at all."""
        return bool(self._calls["current"])

    @property
    def current(self) -> Tensor:
        """What arrived, ``(time, batch, *features)``, the first input if it has several; without what a recurrent layer feeds back."""
        return self._joined(self._calls["current"], "current")

    @property
    def spikes(self) -> Tensor | None:
        """Its output, likewise; of a layer that does not spike None."""
        return self._has("spikes") if self.spiking else None

    @property
    def potential(self) -> Tensor | None:
        """The potential before the reset, at least float32; None if the step names none."""
        return self._has("potential")

    @property
    def excess(self) -> Tensor | None:
        """The potential over the threshold, that is minus it; None if it does not spike."""
        return self._has("excess") if self.spiking else None

    def gradient(self, what: str = "current") -> Tensor:
        """What the backward pass brought to its ``"current"`` or its ``"spikes"``; 0 where nothing arrived.

        Raises:
            ValueError: the recording was not made with ``gradient=True``, or `what` is neither.
        """
        if what not in ("current", "spikes") or not self._gradient:
            raise ValueError(
                f"gradients are of 'current' and 'spikes', in a recording made with record(model, gradient=True), got {what!r}"
            )
        zero = [torch.zeros_like(x) if not (x.requires_grad and x.grad is not None) else x.grad for x in self._calls[what]]
        return self._joined(zero, what)

    def fire(self, x: Tensor) -> Tensor:
        """What it makes of a potential over the threshold: spikes with the gradient of its surrogate."""
        module: Any = self.module
        spike: Any = getattr(module, "spike" if isinstance(module, Layer) else "spike_grad")
        return spike(x)

    def derivative(self, x: Tensor) -> Tensor:
        """Its surrogate's derivative at potentials over the threshold, whoever wrote it."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            fired = self.fire(x).sum()
            return torch.autograd.grad(fired, x)[0].detach() if fired.requires_grad else torch.zeros_like(x)

    @property
    def surrogate(self) -> Surrogate | None:
        """Its surrogate, with what is learned of it as it is now, the mean where neurons differ; None if it is not one of spikegrad's."""
        module: Any = self.module
        spike: Any = getattr(module, "spike" if isinstance(module, Layer) else "spike_grad", None)
        surrogate = getattr(spike, "surrogate", None)
        if not isinstance(surrogate, Surrogate):
            return None
        learned = spike.learned() if hasattr(spike, "learned") else {}
        return dataclasses.replace(surrogate, **{name: float(x.detach().mean()) for name, x in learned.items()})

    def __repr__(self) -> str:
        shape = tuple(self.current.shape) if self.called else "not called"
        return f"LayerRecord({self.name!r}, {type(self.module).__name__}, {shape})"


class Recording(Mapping[str, LayerRecord]):
    """The layers of a model by name, in the order in which the model has them."""

    def __init__(self, layers: Mapping[str, LayerRecord]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> LayerRecord:
        if name not in self._layers:
            raise KeyError(f"there is no spiking layer {name!r}; there are {', '.join(map(repr, self._layers))}")
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def clear(self) -> None:
        """Forget what was recorded, before the next batch."""
        for layer in self._layers.values():
            layer.clear()

    def __repr__(self) -> str:
        return f"Recording({', '.join(map(repr, self._layers.values()))})"


@contextlib.contextmanager
def record(model: nn.Module, *, gradient: bool = False) -> Generator[Recording]:
    """Collect currents, potentials and spikes of every spiking layer of a model while it runs.

    Layers of `spikegrad.nn` wherever they stand, also readouts that do not spike, and neurons of snnTorch and `spikegrad.compat.snntorch`,
    whose steps are put together to sequences. What is recorded stays when the context ends. A model compiled by `torch.compile` runs
    as written meanwhile; an `nn.SpikingLinear` keeps what autograd keeps.

    Args:
        model: a layer or any module with layers inside.
        gradient: keep the tensors in the graph, so that a loss may be computed of them, and what the backward pass brings to currents and
            spikes: ``layer.gradient("current")``. Without, they are detached.

    Yields:
        A mapping from the name of each layer to its `LayerRecord`.

    Raises:
        ValueError: there is no spiking layer.
        TypeError: a layer is of a class with a `forward` that takes no `record`.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Leaky(0.9), torch.nn.Linear(8, 2), nn.LeakyIntegrator(0.9))
        >>> with spikegrad.record(net, gradient=True) as seen:
        ...     out, _ = net(torch.rand(10, 3, 4))
        >>> list(seen), seen["1"].spikes.shape, seen["1"].potential.shape
        (['1', '3'], torch.Size([10, 3, 8]), torch.Size([10, 3, 8]))
        >>> (out.mean() + seen["1"].spikes.mean()).backward()
        >>> seen["1"].gradient("current").shape
        torch.Size([10, 3, 8])
    """
    layers: dict[str, LayerRecord] = {}
    with contextlib.ExitStack() as undo:
        for name, module in model.named_modules():
            if isinstance(module, Layer):
                layers[name] = _sequences(name, module, gradient, undo)
            elif is_stepwise(module):
                layers[name] = _steps(name, module, gradient, undo)
            elif isinstance(module, SpikingLinear):
                undo.callback(module.__dict__.update, memory=module.memory, backend=module.backend)
                module.memory = "save"
                module.backend = "dense" if module.backend == "dense" else "auto"  # by events nobody sees currents
        if not layers:
            raise InputError(
                f"{type(model).__name__} has no spiking layers to record: neither layers of spikegrad.nn nor neurons of snnTorch or "
                "spikegrad.compat.snntorch"
            )
        if any("_orig_mod" in module._modules or module._compiled_call_impl for module in model.modules()):  # pyright: ignore
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield Recording(layers)


def is_stepwise(module: nn.Module) -> bool:
    """Whether a module is a neuron of snnTorch, or like one."""
    return any(
        cls.__name__ == "SpikingNeuron" and cls.__module__.partition(".")[0] in ("snntorch", "spikegrad") for cls in type(module).__mro__
    )


class _Wanted(tuple[str, ...]):
    """Names of values for a layer to record, and those that its caller asked for."""

    asked: Record


def _sequences(name: str, layer: Layer, gradient: bool, undo: contextlib.ExitStack) -> LayerRecord:
    """Have a layer's calls return potentials, and take them out of what its caller gets."""
    spiking = "excess" in layer.neuron.record.recorded
    found = LayerRecord(name, layer, spiking, False, gradient)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        asked = kwargs.get("record", False)
        wanted = _Wanted(dict.fromkeys((*names(asked), *(each for each in ("u", "excess") if each in layer.neuron.record.recorded))))
        wanted.asked = asked
        return args, {**kwargs, "record": wanted}

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: tuple[Any, ...]) -> tuple[Any, ...]:
        made, state, recorded = result
        currents, outputs = args[0] if args else kwargs["currents"], made[0] if isinstance(made, tuple) else made
        if not _in_backward():
            first = currents[0] if isinstance(currents, tuple | list) else currents
            found.take(current=first, spikes=outputs, potential=recorded.get("u"), excess=recorded.get("excess"))
        asked = kwargs["record"].asked
        return made, state, *returned(asked, names(asked), [recorded[each] for each in names(asked)])

    own = type(layer).forward
    if own is not Layer.forward and "record" not in own.__code__.co_varnames:
        raise TypeError(
            f"`{name}` cannot be recorded: {type(layer).__name__}.forward takes no `record`; give it **options that it hands to that of "
            f"{type(layer).__mro__[1].__name__}"
        )
    undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
    undo.callback(layer.register_forward_hook(after, with_kwargs=True, prepend=True).remove)
    return found


def _in_backward() -> bool:
    """Whether this is a second run of the same, for the backward pass."""
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]


def _steps(name: str, neuron: nn.Module, gradient: bool, undo: contextlib.ExitStack) -> LayerRecord:
    """Watch the steps of a neuron, and what it gives its surrogate: that is the potential over the threshold."""
    found, fired = LayerRecord(name, neuron, True, True, gradient), list[Tensor]()
    given: Any = neuron.spike_grad

    def watched(x: Tensor) -> Tensor:
        fired.append(x)
        return given(x)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        fired.clear()

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if _in_backward():
            return
        spikes = result[0] if isinstance(result, tuple) else result
        emitted = spikes.detach() != 0
        agreeing = [x for x in fired if torch.equal(x.detach() > 0, emitted)] or fired
        excess = agreeing[-1] if agreeing else None
        threshold: Any = neuron.threshold
        potential = None if excess is None else excess + threshold
        found.take(current=args[0] if args else next(iter(kwargs.values())), spikes=spikes, potential=potential, excess=excess)
        fired.clear()

    if isinstance(given, nn.Module):
        undo.callback(given.register_forward_pre_hook(lambda module, args: fired.append(args[0])).remove)
    else:
        undo.callback(setattr, neuron, "spike_grad", given)
        neuron.spike_grad = watched  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    undo.callback(neuron.register_forward_pre_hook(before).remove)
    undo.callback(neuron.register_forward_hook(after, with_kwargs=True).remove)
    return found
