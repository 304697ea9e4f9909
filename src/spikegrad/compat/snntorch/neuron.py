"""What snnTorch's neurons share: parameters, state, firing and reset. One call is one time step.

The equations are snnTorch 1.0.0's. With R the spikes of the potential before the step, without gradient, and F the step with its
surrogate gradient, every neuron does

1. ``u = decayed potential + current``, and the reset of the step before: ``u - R threshold`` (subtract), ``u - R u`` (zero) or ``u``;
2. ``u = state_quant(u)`` if given; ``s = F(u - threshold)``, under `inhibition` for the largest potential of a sample alone;
3. without `reset_delay`: ``u - (s - R) threshold`` or ``u - (s - R) u``, with the gradient of s; what R took is given back.

States are kept in the dtype of the input, in float32 for half types; spikes have the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.surrogate import atan
from spikegrad.gradient.torch import transforming
from spikegrad.vocabulary import widen

RESETS = ("subtract", "zero", "none")
"""The reset mechanisms; a state_dict holds the index."""

SpikeFunction = Callable[[Tensor], Tensor]


class SpikingNeuron(nn.Module):
    """Base class of the neurons; see `Leaky` for the arguments.

    A subclass names its `STATES`, of which the potential is the last, ends its constructor with `_begin`, and gives `_integrate`.
    """

    STATES: ClassVar[tuple[str, ...]] = ()
    reset_delay: bool = True

    _alive: ClassVar[WeakSet[SpikingNeuron]] = WeakSet()
    """Every neuron there is, for `reset_hidden` and `detach_hidden`. It keeps none of them alive."""

    threshold: Tensor
    graded_spikes_factor: Tensor
    reset_mechanism_val: Tensor
    spike_grad: SpikeFunction

    def __init__(
        self,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeFunction | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: SpikeFunction | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        super().__init__()
        self.spike_grad = bypass if surrogate_disable else atan() if spike_grad is None else spike_grad
        self.init_hidden = init_hidden
        self.inhibition = inhibition
        self.output = output
        self.surrogate_disable = surrogate_disable
        self.state_quant = state_quant
        self._hold("threshold", threshold, learn_threshold)
        self._hold("graded_spikes_factor", graded_spikes_factor, learn_graded_spikes_factor)
        self._reset_mechanism = checked_reset(reset_mechanism)
        self.register_buffer("reset_mechanism_val", torch.tensor(RESETS.index(reset_mechanism)))

    def _begin(self) -> None:
        """Rest, as the last thing a constructor does, so that one that fails leaves nothing behind."""
        for name in self.STATES:
            setattr(self, name, torch.zeros(0))
        self._alive.add(self)

    def _hold(self, name: str, value: float | Tensor, learn: bool) -> None:
        """Give the neuron a parameter if it is learned, else a buffer. Tensors are copied, unless a gradient flows on through them."""
        tensor = torch.as_tensor(value)
        if tensor is value and (learn or not value.requires_grad):
            tensor = value.detach().clone()
        if learn and not tensor.dtype.is_floating_point:
            tensor = tensor.to(torch.get_default_dtype())
        if learn:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    @property
    def reset_mechanism(self) -> str:
        """``"subtract"``, ``"zero"`` or ``"none"``; may be changed at any time, and is loaded with a state_dict."""
        return self._reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, value: str) -> None:
        self._reset_mechanism = checked_reset(value)
        self.reset_mechanism_val = torch.full_like(self.reset_mechanism_val, RESETS.index(value))

    def _step(self, input_: Tensor, *given: Tensor | None) -> Any:
        """One time step from the given states, or from the neuron's own where they are None."""
        if not input_.dtype.is_floating_point:
            input_ = input_.to(torch.get_default_dtype())
        x = widen(input_)
        before = self._before(input_, x, given)
        threshold = self.threshold.to(x.dtype)
        mechanism = self._reset_mechanism
        reset: Any = None
        if mechanism != "none":
            with torch.no_grad():
                reset = self.spike_grad(before[-1] - threshold)
        *currents, mem = self._advance(x, before, reset, threshold)
        if self.state_quant:
            currents, mem = [self.state_quant(current) for current in currents], self.state_quant(mem)
        fired, spikes = self._fire(mem, threshold)
        if not self.reset_delay and mechanism != "none":
            mem = mem - (fired - reset) * (threshold if mechanism == "subtract" else mem)
        spikes = spikes.to(input_.dtype)
        after = (*currents, mem) if self.STATES[0] != "spk" else (spikes, *currents, mem)
        for name, state in zip(self.STATES, after, strict=True):
            setattr(self, name, state)
        if self.init_hidden and not self.output:
            return spikes
        return after if self.STATES[0] == "spk" else (spikes, *after)

    def _before(self, input_: Tensor, x: Tensor, given: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        states: list[Tensor] = []
        for name, state in zip(self.STATES, given, strict=True):
            if state is None:
                state = getattr(self, name)
                if state.shape != x.shape:
                    state = torch.zeros_like(x)
            elif self.init_hidden:
                raise TypeError(
                    f"`{name}` was given to a {type(self).__name__} with init_hidden=True, which keeps its own states; "
                    "leave it out, or make the neuron with init_hidden=False"
                )
            elif state.shape != x.shape:
                state = _fitted(name, state, x)
            states.append(state.to(input_.dtype if name == "spk" else x.dtype))
        return tuple(states)

    def _integrate(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Synaptic currents, if any, and the potential, after this input and before any reset."""
        raise NotImplementedError

    def _advance(self, x: Tensor, states: tuple[Tensor, ...], reset: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        """Synaptic currents, if any, and the potential, after this input and the reset of the step before."""
        *currents, u = self._integrate(x, *states)
        if self._reset_mechanism == "subtract":
            u = u - reset * threshold
        elif self._reset_mechanism == "zero":
            u = u - reset * u
        return (*currents, u)

    def _fire(self, mem: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """What resets, and what is put out: spikes before and after the graded factor."""
        shift = mem - threshold
        spikes = self.spike_grad(shift)
        factor = self.graded_spikes_factor.to(mem.dtype)
        if not self.inhibition:
            return spikes, spikes * factor
        spikes = spikes * _winner(shift.detach()).to(mem.dtype)
        # As in snnTorch the factor leaves the winner's spike alone, but divides its immediate reset; 0 / 0 is left out.
        return spikes / torch.where(factor == 0, 1.0, factor), spikes

    def reset_mem(self) -> Any:
        """Set the neuron's own state to zeros, and return it; empty before the first step, which means rest in any shape."""
        for name in self.STATES:
            setattr(self, name, torch.zeros_like(getattr(self, name)))
        states = tuple(getattr(self, name) for name in self.STATES)
        return states if len(states) > 1 else states[0]

    @classmethod
    def _instances(cls) -> Iterator[Self]:
        return (neuron for neuron in list(SpikingNeuron._alive) if isinstance(neuron, cls))

    @classmethod
    def reset_hidden(cls) -> None:
        """Set the state of every living neuron of this class to zeros, also in other networks; `utils.reset` resets one network."""
        for neuron in cls._instances():
            neuron.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Cut the state of every living neuron of this class from its graph, in place, for truncated backpropagation."""
        for neuron in cls._instances():
            for name in cls.STATES:
                getattr(neuron, name).detach_()


def bypass(x: Tensor) -> Tensor:
    """Spikes without a gradient, which take the place of `spike_grad` under ``surrogate_disable=True``."""
    return (x > 0).to(x.dtype)


def checked_reset(value: str) -> str:
    """The reset mechanism, or an error that names those there are."""
    if value not in RESETS:
        raise ValueError(f"`reset_mechanism` must be one of {', '.join(map(repr, RESETS))}, got {value!r}")
    return value


def _fitted(name: str, state: Tensor, x: Tensor) -> Tensor:
    """A given state of another shape than the input: broadcast, or zeros where it is empty or zero itself, as `reset_mem` returns it."""
    if state.numel() == 1:
        state = state.reshape(())
    if state.ndim <= x.ndim and all(a in (1, b) for a, b in zip(state.shape[::-1], x.shape[::-1], strict=False)):
        return state.expand(x.shape)
    if state.numel() == 0 or not (torch.compiler.is_compiling() or transforming() or bool(state.any())):
        return torch.zeros_like(x)
    raise ValueError(
        f"`{name}` of shape {tuple(state.shape)} does not fit the input of shape {tuple(x.shape)}; pass a state that broadcasts to it, "
        "or none to start from rest"
    )


def _winner(shift: Tensor) -> Tensor:
    """True at the largest value of each sample, over all its features; of equals at the first."""
    flat = shift.reshape(shift.shape[0], -1) if shift.ndim > 1 else shift.reshape(1, -1)
    places = torch.arange(flat.shape[-1], device=shift.device)
    return (places == flat.argmax(-1, keepdim=True)).reshape(shift.shape)
