"""What snnTorch's neurons share: parameters, states, firing and reset. One call is one time step.

The equations are those of snnTorch 1.0.0. With F the step with its surrogate gradient, and R the spikes ``F(mem - threshold)`` of the
potential before this call, without a gradient, a step is

1. ``u``, the decayed potential and the input, then the reset of the step before: ``u - R threshold`` ("subtract"), ``u - R u`` ("zero");
2. ``u`` and the synaptic currents quantised, if `state_quant` is given;
3. ``s = F(u - threshold)``, with `inhibition` only for the largest potential of each sample;
4. without `reset_delay`, the reset of this step less what R took before: ``u - (s - R) threshold`` or ``u - (s - R) u``, with the
   gradient of s.

The neuron puts out s times the graded factor, in the dtype of its input. Half types are computed, and their states kept, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.state import WithStates, transforms
from spikegrad.compat.snntorch.surrogate import SpikeGradient, atan
from spikegrad.gradient.torch import spike, traced, transforming
from spikegrad.vocabulary import fits, widen

RESETS = ("subtract", "zero", "none")
"""The reset mechanisms; a state_dict holds the index."""

Elementwise = Callable[[Tensor], Tensor]


class SpikingNeuron(WithStates):
    """Base class of the neurons; `Leaky` documents the arguments.

    A subclass names its `STATES`, of which the potential is the last, gives `_integrate`, and ends its constructor with `_begin`.
    """

    threshold: Tensor
    graded_spikes_factor: Tensor
    reset_mechanism_val: Tensor
    reset_delay: bool = True

    def __init__(
        self,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        super().__init__()
        self.spike_grad: Elementwise = without_gradient if surrogate_disable else atan() if spike_grad is None else spike_grad
        self.init_hidden = init_hidden
        self.inhibition = inhibition
        self.output = output
        self.surrogate_disable = surrogate_disable
        self._hold("threshold", threshold, learn_threshold)
        self._hold("graded_spikes_factor", graded_spikes_factor, learn_graded_spikes_factor)
        self._reset_mechanism = _checked(reset_mechanism)
        self.register_buffer("reset_mechanism_val", torch.tensor(RESETS.index(reset_mechanism)))
        self.state_quant = state_quant

    def _hold(self, name: str, value: float | Tensor, learn: bool = False) -> None:
        """Give the neuron a parameter if it is learned, else a buffer: a copy, unless it is a tensor that a gradient flows on through."""
        if isinstance(value, Tensor):
            tensor = value if value.requires_grad and not learn else value.detach().clone()
        else:
            try:
                tensor = torch.tensor(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"`{name}` of {type(self).__name__} must be a number or a tensor, got {value!r}") from error
        if learn:
            self.register_parameter(name, nn.Parameter(tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())))
        else:
            self.register_buffer(name, tensor)

    @property
    def reset_mechanism(self) -> str:
        """``"subtract"``, ``"zero"`` or ``"none"``. It may be changed at any time, and is loaded with a state_dict."""
        return self._reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, value: str) -> None:
        self._reset_mechanism = _checked(value)
        self.reset_mechanism_val = torch.full_like(self.reset_mechanism_val, RESETS.index(value))

    def _step(self, input_: Tensor, *given: Tensor | None) -> Any:
        """One time step from the given states, each by itself from the neuron's own where it is None."""
        if not isinstance(input_, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`input_` of {type(self).__name__} must be a tensor, got {type(input_).__name__}")
        if not (input_.dtype.is_floating_point or input_.dtype.is_complex):
            input_ = input_.to(torch.get_default_dtype())
        x = widen(input_)
        stack = transforms() if transforming() else ()
        before = self._before(input_, x, given, stack)
        threshold = self._value("threshold", x)
        mechanism = self._reset_mechanism
        reset: Any = None
        if mechanism != "none":
            with torch.no_grad():
                reset = self._spikes(before[-1] - threshold)
        *currents, mem = self._advance(x, before, reset, threshold)
        if callable(self.state_quant):
            currents, mem = [self.state_quant(current) for current in currents], self.state_quant(mem)
        resetting, spikes = self._fire(mem, threshold)
        if not self.reset_delay and mechanism != "none":
            mem = mem - (resetting - reset) * (threshold if mechanism == "subtract" else mem)
        spikes = spikes.to(input_.dtype)
        recurrent = self.STATES[0] == "spk"
        after = (spikes, *currents, mem) if recurrent else (*currents, mem)
        self._keep(after, stack)
        if self.init_hidden and not self.output:
            return spikes
        return after if recurrent else (spikes, *after)

    def _value(self, name: str, x: Tensor) -> Tensor:
        """A parameter in the dtype of the step."""
        value: Tensor = getattr(self, name)
        if value.ndim and not fits(value.shape, x.shape):
            raise ValueError(
                f"`{name}` of shape {tuple(value.shape)} does not fit the input of shape {tuple(x.shape)}; it must be one number or "
                "broadcast to it"
            )
        return value.to(x.dtype)

    def _decay(self, name: str, x: Tensor) -> Tensor:
        return self._value(name, x).clamp(0, 1)

    def _integrate(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The synaptic currents, if any, and the potential after this input, before any reset."""
        raise NotImplementedError

    def _advance(self, x: Tensor, states: tuple[Tensor, ...], reset: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        """The synaptic currents, if any, and the potential after this input and the reset of the step before."""
        *currents, u = self._integrate(x, *states)
        if self._reset_mechanism == "subtract":
            u = u - reset * threshold
        elif self._reset_mechanism == "zero":
            u = u - reset * u
        return (*currents, u)

    def _spikes(self, x: Tensor) -> Tensor:
        given: Any = self.spike_grad
        if type(given) is SpikeGradient and not given.surrogate.stochastic:
            return spike(given.surrogate, x, {}, False, False, None)  # as it would itself, without what else it looks at
        return given(x).to(x.dtype)

    def _fire(self, mem: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """What resets, and what is put out."""
        shift = mem - threshold
        spikes = self._spikes(shift)
        factor = self.graded_spikes_factor
        # Reading one number off is cheaper than multiplying, but not for a compiler or on a GPU.
        plain = factor.ndim == 0 and factor.is_cpu and not factor.requires_grad and not traced() and factor.item() == 1
        if not plain:
            factor = self._value("graded_spikes_factor", mem)
        if not self.inhibition:
            return spikes, spikes if plain else spikes * factor
        spikes = spikes * _winner(shift.detach()).to(mem.dtype)
        # As in snnTorch the factor does not scale the winner's spike, but divides its immediate reset. 0 / 0 is left out.
        return spikes if plain else spikes / torch.where(factor == 0, 1.0, factor), spikes

    def fire(self, mem: Tensor) -> Tensor:
        """Spikes of the potential `mem`, quantised and times the graded factor, with their surrogate gradient."""
        mem = self.state_quant(mem) if callable(self.state_quant) else mem
        return self.spike_grad(mem - self._value("threshold", mem)) * self._value("graded_spikes_factor", mem)

    def fire_inhibition(self, batch_size: int, mem: Tensor) -> Tensor:
        """Spikes of the neuron with the largest potential `mem` of each sample; `batch_size` is not needed."""
        shift = mem - self._value("threshold", mem)
        return self.spike_grad(shift) * _winner(shift.detach()).to(mem.dtype)

    def mem_reset(self, mem: Tensor) -> Tensor:
        """Spikes of the potential `mem`, without a gradient: what resets it in the step after."""
        with torch.no_grad():
            return self.spike_grad(mem - self._value("threshold", mem))

    @staticmethod
    def detach(*args: Tensor) -> None:
        """Detach the given states from their graph, in place."""
        for state in args:
            state.detach_()

    @staticmethod
    def zeros(*args: Tensor) -> None:
        """Set the given states to zero, in place."""
        with torch.no_grad():
            for state in args:
                state.zero_()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        index = int(self.reset_mechanism_val)
        if index in range(len(RESETS)):
            self._reset_mechanism = RESETS[index]
        else:
            error_msgs.append(f"{prefix}reset_mechanism_val must be the place of one of {RESETS}, got {index}")


def without_gradient(x: Tensor) -> Tensor:
    """Spikes that no gradient flows through: what takes the place of `spike_grad` under ``surrogate_disable=True``."""
    return (x > 0).to(x.dtype)


def _checked(mechanism: str) -> str:
    if mechanism not in RESETS:
        raise ValueError(f"`reset_mechanism` must be one of {', '.join(map(repr, RESETS))}, got {mechanism!r}")
    return mechanism


def _winner(shift: Tensor) -> Tensor:
    """True at the largest value of each sample, over all its features; of equals at the first."""
    flat = shift.reshape(shift.shape[0], -1) if shift.ndim > 1 else shift.reshape(1, -1)
    places = torch.arange(flat.shape[-1], device=shift.device)
    return (places == flat.argmax(-1, keepdim=True)).reshape(shift.shape)
