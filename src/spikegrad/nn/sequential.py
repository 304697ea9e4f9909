"""Chains of modules in which spiking layers see time and all others do not, and blocks with a way past them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from spikegrad.gradient.torch import constant
from spikegrad.kernels import arguments
from spikegrad.kernels.spikes import Spikes
from spikegrad.nn.backend import rewritten
from spikegrad.nn.convolution import SpikingConv2d
from spikegrad.nn.layer import Layer, State, Stateful
from spikegrad.nn.lengths import Lengths
from spikegrad.nn.linear import SpikingLinear
from spikegrad.nn.recompute import Memory, check, visible
from spikegrad.nn.segments import Link, Measured, Role, recomputed, statistics

_WHOLE = {("norse", "SNN"), ("norse", "SNNRecurrent")}
"""Classes of other libraries, by package and name, that take a sequence and a state as a `Stateful` does."""

_STEPWISE = {
    ("norse", "Lift"), ("norse", "SNNCell"), ("norse", "SNNRecurrentCell"), ("norse", "SequentialState"), ("sinabs", "StatefulLayer"),
    ("snntorch", "SpikingNeuron"), ("spikegrad", "WithStates"), ("spikingjelly", "MemoryModule"),
}  # fmt: skip
"""Classes, likewise, that keep a state but take one step, or keep the state to themselves."""

_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Where PyTorch's own wrappers, of compilers and of training on several devices, have the module that they call."""


class Sequential(nn.Sequential, Stateful):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`torch.nn.Sequential` over whole sequences.

    Spiking layers are given the sequence and their part of the state: every `Stateful`, so another `nn.Sequential` or an `nn.Residual`,
    too, and recurrent layers of PyTorch. Around every other module time is folded into the batch, so that `Conv2d`, `BatchNorm2d`,
    `MaxPool2d`, `Flatten` and `Dropout` mean what they mean in PyTorch. A module that is not `Stateful` and has spiking layers inside would
    mix the samples of a batch, so it is refused; the message says how to write it.

    With ``memory="recompute"`` the chain is cut into segments, each up to and with a spiking layer, and nothing is saved for the backward
    pass but what goes into each: spikes as bits, 1/8 byte each, where autograd saves 8 bytes and more for each neuron and step. When a
    segment's turn comes, the backward pass computes it anew exactly as it was: with the parameters, which may not have been changed in
    place since (an error, as in PyTorch), and with options, buffers, autocast and random numbers of the forward pass. Running statistics
    move once. Gradients are exact, to every order; the price is a second forward pass. Segments that treat each sample by itself, of
    PyTorch's own modules and of spiking layers, are run some samples at a time, forward and backward alike, so that the peak falls as well;
    sums over the batch are then rounded otherwise. Those with `BatchNorm` in training, random numbers, or modules of your own run whole.
    Inside of compilers, tracers and torch.func transforms the chain keeps what these keep, and of a segment with hooks what autograd keeps.

    Args:
        *modules: the chain, or an ordered dict of it.
        memory: ``"recompute"``, or ``"save"`` to keep what autograd keeps.
        chunk: with ``memory="recompute"``, steps that are run through the whole chain before the next: for long sequences, of which only
            so many steps are computed anew at once. About the root of their number is a good one. The state between two chunks is kept.

    Raises:
        ValueError: an argument outside of its range.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> readout = torch.nn.Linear(144, 10)
        >>> net = nn.Sequential(torch.nn.Conv2d(1, 4, 3), nn.Leaky(0.9), torch.nn.Flatten(), readout, nn.LeakyIntegrator(0.9))
        >>> out, state = net(torch.rand(5, 2, 1, 8, 8))
        >>> out.shape
        torch.Size([5, 2, 10])
    """

    memory: Memory = "save"
    chunk: int | None = None

    def __init__(self, *modules: Any, memory: Memory = "save", chunk: int | None = None) -> None:
        super().__init__(*modules)
        check(memory)
        if chunk is not None and (memory != "recompute" or not isinstance(chunk, int) or chunk < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"`chunk` is a number of steps, at least 1, and goes with memory='recompute', got {chunk!r} and {memory!r}")
        self.memory, self.chunk = memory, chunk
        self._measured: Measured = {}

    def forward(self, input: Tensor | Spikes, state: State = None, *, lengths: Lengths = None) -> tuple[Any, tuple[State, ...]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the chain.

        Args:
            input: ``(time, batch, *features)``, or ``(time, features)`` without a batch; or `Spikes`.
            state: one entry for each module, as returned before (None for modules without state); None starts from rest.
            lengths: of each sample, see `Layer.forward`; other modules are given the zeros that fill the batch up, too, so that a
                `BatchNorm2d` counts them.

        Returns:
            The output of the last module, ``(time, batch, ...)``, and the state; `Spikes` if those were given and the last module makes
            them.

        Raises:
            TypeError: a module keeps a state, or has one inside, but does not take a sequence and a state; the input is no tensor, or
                the state no tuple.
            ValueError: the state does not have one entry for each module; a module changes the number of samples; a module takes
                statistics of the batch, which a `chunk` is not.
        """
        if isinstance(input, Spikes):
            x, states = _chained(self._links(), input, self._states(state), lengths)
            return x, tuple(states)
        arguments.expect("`input`", input, "torch")
        if input.ndim < 2:
            raise ValueError(f"`input` must be (time, batch, *features) or (time, features), got shape {tuple(input.shape)}")
        if self.memory == "recompute" and torch.is_grad_enabled() and visible(input):
            return self._recomputed(input, state, lengths)
        links = self._links()
        x, states = _chained(links, input, self._states(state), lengths)
        return x, tuple(states)

    def __getitem__(self, place: Any) -> Any:
        """A module, or a chain of some, which keeps what this one keeps."""
        found: Any = super().__getitem__(place)
        if isinstance(place, slice):
            found.memory, found.chunk = self.memory, self.chunk
        return found

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        return "" if self.memory == "save" else f"memory={self.memory!r}" + (f", chunk={self.chunk}" if self.chunk else "")

    def _recomputed(self, x: Any, state: State, lengths: Lengths) -> tuple[Any, tuple[State, ...]]:
        """The chain in segments, from the inputs of which the rest is computed anew; one chunk of steps after the other."""
        links, states = self._flat(state)
        if self.chunk is None or len(x) <= self.chunk:
            made, last = recomputed(links, x, states, lengths, _chained, self._measured)
            return made, self._nested(iter(last))
        for link in links:
            if (norm := statistics(link.module)) is not None:
                raise ValueError(
                    f"{link.name}, {_kind(link.module)}, takes statistics over all steps ({_kind(norm)} in training), so that the chain "
                    "cannot be computed in chunks of them; leave `chunk` out"
                )
        ends = None if lengths is None else torch.tensor(arguments.ends(lengths, x))
        parts: list[Any] = []
        for number, part in enumerate(x.split(self.chunk)):
            left = None if ends is None else (ends - number * self.chunk).clamp(0, len(part))
            made, states = recomputed(links, part, states, left, _chained, self._measured)
            parts.append(made)
        several = isinstance(parts[0], tuple)
        made = tuple(torch.cat(each) for each in zip(*parts, strict=True)) if several else torch.cat(parts)
        return made, self._nested(iter(states))

    def _states(self, state: State) -> list[State]:
        """A state for each module."""
        if not isinstance(state, tuple | list | None):
            raise TypeError(f"`state` must be a tuple with one entry for each of the {len(self)} modules, got {type(state).__name__}")
        states: list[State] = [None] * len(self) if state is None else list(state)
        if len(states) != len(self):
            raise ValueError(f"`state` must have one entry for each of the {len(self)} modules, got {len(states)}")
        return states

    def _links(self) -> list[Link]:
        return [Link(module, role, _name(place)) for place, (module, role) in enumerate(zip(self, self._roles(), strict=True))]

    @constant
    def _roles(self) -> tuple[Role, ...]:
        """What each module is given. Found anew in every call, since modules may be changed; a compiler asks once."""
        return tuple(role(module, _name(place)) for place, module in enumerate(self))

    def _flat(self, state: State) -> tuple[list[Link], list[State]]:
        """All links, those of chains in the chain in their places, and a state for each."""
        links: list[Link] = []
        states: list[State] = []
        for link, each in zip(self._links(), self._states(state), strict=True):
            inner, of_inner = link.module._flat(each) if _plain(link.module) else ([link], [each])
            links += inner
            states += of_inner
        return links, states

    def _nested(self, states: Iterator[State]) -> tuple[State, ...]:
        """The reverse for the states."""
        return tuple(module._nested(states) if _plain(module) else next(states) for module in self)


def _name(place: int) -> str:
    return f"module {place} of the chain"


def _plain(module: nn.Module) -> TypeGuard[Sequential]:
    """Whether a module is a chain, which nobody changed or watches, so that its modules may be run in its place."""
    return type(module) is Sequential and module.chunk is None and rewritten(module, Sequential) is None


def _chained(links: Sequence[Link], x: Any, states: Sequence[State], lengths: Lengths) -> tuple[Any, list[State]]:
    """Modules, one after the other: the output and their states."""
    lasts, given, merged = list(states), x, None
    for place, (module, kind, name) in enumerate(links):
        if merged is not None:
            module, merged = merged, None
        elif isinstance(x, Spikes) and lengths is None and place + 1 < len(links):
            if (merged := joined(module, links[place + 1].module)) is not None:
                continue
            if type(module) is nn.Dropout and rewritten(module, nn.Dropout) is None:
                x = x.dropped(module.p) if module.training else x
                continue
        if kind == "sequence":
            if _takes_events(module):
                if isinstance(x, Tensor) and lengths is None and place + 1 < len(links) and _takes_events(links[place + 1].module):
                    x = module.handed_on(x)
            elif isinstance(x, Spikes) and (lengths is not None or not (_plain(module) or isinstance(module, SpikingConv2d))):
                x = x.dense()
            if lengths is not None and not isinstance(module, Layer | Sequential):
                raise TypeError(f"{name}, {_kind(module)}, does not take `lengths`")
            x, lasts[place] = module(x, lasts[place]) if lengths is None else module(x, lasts[place], lengths=lengths)
            continue
        x = x.dense() if isinstance(x, Spikes) else x
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}, {_kind(module)}, takes one tensor, got {_kind(x)} from what is before it")
        folded = x if x.ndim == 2 else x.flatten(0, 1)
        made = module(folded)
        if not isinstance(made, Tensor) or not made.ndim or made.shape[0] != folded.shape[0]:
            got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else _kind(made)
            raise ValueError(
                f"{name}, {_kind(module)}, is given time and batch as one dimension of {folded.shape[0]}, and "
                f"must return a tensor with the same first dimension, got {got}"
            )
        x = made if x.ndim == 2 else made.unflatten(0, x.shape[:2])
    return x.dense() if isinstance(x, Spikes) and not isinstance(given, Spikes) else x, lasts


def joined(module: nn.Module, neurons: nn.Module) -> SpikingLinear | None:
    """A linear layer and the neurons behind it as one layer for events, of the same weights; None for other modules, or watched ones."""
    if type(module) is not nn.Linear or not isinstance(neurons, Layer) or rewritten(module, nn.Linear) is not None:
        return None
    return SpikingLinear.of(module, neurons)


def _takes_events(module: nn.Module) -> TypeGuard[SpikingLinear]:
    """Whether a module may be given events in place of a dense tensor: nobody who would see them has changed or watches it."""
    return type(module) is SpikingLinear and rewritten(module, SpikingLinear) is None


class Residual(Stateful):
    """A block whose output is the sum of what its modules make of the input and of the input itself.

    ``Residual(torch.nn.Linear(64, 64), nn.Leaky(0.9))`` adds spikes to its input, as SEW-ResNet does (Fang et al. 2021,
    https://arxiv.org/abs/2102.04159).

    Args:
        *modules: the chain, as in `Sequential`.
        shortcut: what the input goes through on the way past, if it changes shape there, such as a ``Conv2d(…, kernel_size=1, stride=2)``.

    The state is a pair: that of the chain, and that of the shortcut.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> block = nn.Residual(torch.nn.Linear(8, 8), nn.Leaky(0.9))
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Leaky(0.9), block, torch.nn.Linear(8, 2), nn.LeakyIntegrator(0.9))
        >>> out, state = net(torch.rand(10, 3, 4))
        >>> out.shape
        torch.Size([10, 3, 2])
    """

    def __init__(self, *modules: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = Sequential(*modules)
        self.shortcut = None if shortcut is None else Sequential(shortcut)

    def forward(self, currents: Tensor, state: Sequence[State] | None = None) -> tuple[Tensor, tuple[State, State]]:
        """Run the block.

        Args:
            currents: ``(time, batch, *features)`` or ``(time, features)``.
            state: the pair that was returned before; None starts from rest.

        Returns:
            The sum, ``(time, batch, ...)``, and the state.

        Raises:
            TypeError: the input is no tensor.
            ValueError: what is to be added has different shapes, or the state is no pair.
        """
        arguments.expect("`currents`", currents, "torch")
        if state is not None and len(state) != 2:
            raise ValueError(f"`state` of a Residual must be that of its chain and that of its shortcut, got {len(state)} entries")
        inner, past = (None, None) if state is None else state
        out, inner = self.body(currents, inner)
        direct = currents
        if self.shortcut is not None:
            direct, past = self.shortcut(currents, past)
        if out.shape != direct.shape:
            other = "its input" if self.shortcut is None else "what its shortcut makes of it,"
            raise ValueError(
                f"a Residual adds its output of shape {tuple(out.shape)} to {other} of shape {tuple(direct.shape)}; they must be of one "
                "shape: give `shortcut` a module that makes it so"
            )
        return out + direct, (inner, past)


def role(module: nn.Module, name: str) -> Role:
    """Whether a module is given the whole sequence and a state, or time folded into the batch.

    Raises:
        TypeError: it can have neither; the message calls it by this name.
    """
    what, children = _of_class(type(module)), module._modules  # pyright: ignore[reportPrivateUsage]
    if what is None and not children:
        return "folded"
    if what == "sequence" and not (isinstance(module, nn.RNNBase) and module.batch_first):
        return "sequence"
    if what == "sequence":
        raise TypeError(f"{name}, {_kind(module)}, has batch_first=True, but sequences here are (time, batch, features); leave it out")
    mixed = "it would be given time folded into the batch, and mix the samples"
    if what == "state":
        raise TypeError(
            f"{name}, {_kind(module)}, keeps a state but takes no sequence with its state; {mixed}. Use a layer of spikegrad.nn, or wrap "
            "it in nn.Steps if it takes one step and returns its state"
        )
    # PyTorch's own wrappers pass their arguments on to the module inside; `DataParallel` would split time.
    transparent = type(module).__module__.startswith("torch.") and not isinstance(module, nn.DataParallel)
    inside = next((children[place] for place in _INSIDE if place in children), None) if transparent else None
    if inside is not None:
        return role(inside, f"{name}, inside of {_kind(module)}")
    for path, each in module.named_modules():
        if _of_class(type(each)) is not None:
            raise TypeError(
                f"{name}, {_kind(module)}, has a layer with a state inside, {path} ({_kind(each)}); {mixed}. "
                + (_CHAIN if type(module) is nn.Sequential else _BLOCK)
            )
    return "folded"


_CHAIN = "Write spikegrad.nn.Sequential in its place"
_BLOCK = (
    "Build it of spikegrad.nn.Sequential and nn.Residual, or make it a subclass of nn.Stateful, whose forward(currents, state=None) takes "
    "the whole sequence and returns the output and the state"
)


@functools.cache
def _of_class(kind: type[nn.Module]) -> Literal["sequence", "state"] | None:
    """Whether modules of a class take a sequence and a state, keep a state otherwise, or neither."""
    names = {(each.__module__.partition(".")[0], each.__name__) for each in kind.__mro__}
    if issubclass(kind, Stateful | nn.RNNBase) or names & _WHOLE:
        return "sequence"
    return "state" if issubclass(kind, nn.RNNCellBase) or names & _STEPWISE else None


def _kind(given: object) -> str:
    kind = type(given)
    return f"{'torch.nn.' if kind.__module__.startswith('torch.nn.modules') else ''}{kind.__name__}"
