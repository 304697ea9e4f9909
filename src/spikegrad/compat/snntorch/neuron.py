"""What snnTorch's neurons share: parameters, states and what they put out. One call is one time step of `formulas`.

The neuron puts out its spikes, with `inhibition` only that of the largest potential of each sample, times the graded factor, in the dtype
of its input. Half types are computed, and their states kept, in float32. All as in snnTorch 1.0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.formulas import Lagging
from spikegrad.compat.snntorch.state import WithStates, transforms
from spikegrad.compat.snntorch.surrogate import SpikeGradient, atan
from spikegrad.definition import Reset
from spikegrad.gradient.torch import constant, spike, traced, transforming
from spikegrad.remembering import remember
from spikegrad.trace import Program, evaluator
from spikegrad.vocabulary import OPERATIONS, fits, widen

RESETS = ("subtract", "zero", "none")
"""The reset mechanisms; a state_dict holds the index."""

Elementwise = Callable[[Tensor], Tensor]


class SpikingNeuron(WithStates):
    """Base class of the neurons; `Leaky` documents the arguments.

    A subclass names its `STATES`, of which the potential is the last, and its `FORMULA`, and ends its constructor with `_begin`.
    """

    FORMULA: ClassVar[type[Lagging]] = Lagging

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

    def _step(self, input_: Tensor, *given: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """One time step from the given states, each by itself from the neuron's own where it is None."""
        if not isinstance(input_, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`input_` of {type(self).__name__} must be a tensor, got {type(input_).__name__}")
        if not (input_.dtype.is_floating_point or input_.dtype.is_complex):
            input_ = input_.to(torch.get_default_dtype())
        x = widen(input_)
        stack = transforms() if transforming() else ()
        before = self._before(input_, x, given, stack)
        spikes, *after = self._formula(x, before)
        if not self.is_plain():
            spikes = spikes if self.inhibition else spikes * self._value("graded_spikes_factor", x)
        spikes = spikes.to(input_.dtype)
        recurrent = self.STATES[0] == "spk"
        after = (spikes, *after) if recurrent else tuple(after)
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

    def structure(self) -> dict[str, str | bool]:
        """The options of the formula."""
        return {"reset": self._reset_mechanism, "reset_delay": self.reset_delay, "inhibition": self.inhibition}

    def numbers(self, x: Tensor) -> dict[str, Tensor]:
        """The numbers of the formula in the dtype of the step."""
        clamped = ("alpha", "beta")
        names = (name for name in self.FORMULA.numbers if name != "factor")
        return {name: self._decay(name, x) if name in clamped else self._value(name, x) for name in names}

    def _inputs(self, x: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What arrives: the current, and what a connection feeds back."""
        return (x,)

    def _formula(self, x: Tensor, before: tuple[Tensor, ...]) -> list[Tensor]:
        """The spikes, and the states after the step in their order."""
        given = self.numbers(x)
        given |= zip(self.FORMULA.inputs, self._inputs(x, before), strict=True)
        given |= zip(self.STATES, before, strict=True)
        if self.inhibition:
            # As in snnTorch the factor does not scale the winner's spike, but divides its immediate reset. 0 / 0 is left out.
            factor = self._value("graded_spikes_factor", x)
            given["factor"] = torch.where(factor == 0, 1.0, factor)
        quantize = self.state_quant if callable(self.state_quant) else _same
        words = {"due": self._due, "fire_above": self._emitted, "hold": _same, "quantized": quantize}
        spikes, *after = _evaluator(self.FORMULA, *self.structure().values())(given, OPERATIONS | words)
        by_name = dict(zip(self.FORMULA.states, after, strict=True))
        return [spikes, *(by_name[name] for name in self.STATES if name != "spk")]

    def _spikes(self, x: Tensor) -> Tensor:
        given: Any = self.spike_grad
        if type(given) is SpikeGradient and not given.surrogate.stochastic:
            return spike(given.surrogate, x, {}, False, False, None)  # as it would itself, without what else it looks at
        return given(x).to(x.dtype)

    def _due(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._spikes(x)

    def _emitted(self, x: Tensor) -> Tensor:
        spikes = self._spikes(x)
        return spikes * _winner(x.detach()).to(x.dtype) if self.inhibition else spikes

    def is_plain(self) -> bool:
        """Whether spikes are put out as they are, as far as that is cheaper to see than to multiply: not for a compiler, nor on a GPU."""
        factor = self.graded_spikes_factor
        return factor.ndim == 0 and factor.is_cpu and not factor.requires_grad and not traced() and factor.item() == 1

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


_EVALUATORS: dict[tuple[Hashable, ...], Callable[..., list[Tensor]]] = {}


def _evaluator(*structure: Any) -> Callable[..., list[Tensor]]:
    """What runs a step of a formula with these options."""
    if torch.compiler.is_compiling() or structure not in _EVALUATORS:
        _record(*structure)
    return _EVALUATORS[structure]


@constant
def _record(formula: type[Lagging], reset: Reset, reset_delay: bool, inhibition: bool) -> bool:
    """Have `_evaluator` find its result, also where a compiler traces it. Fires that only a reset uses are called `due`."""
    record = formula(reset=reset, reset_delay=reset_delay, inhibition=inhibition, spike_at_threshold=False).record
    code, results, count = record.step.instructions, record.step.results, record.outputs + len(record.states)
    due = {place for operation, place, *_ in code if operation == "hold"}
    code = tuple(("due", *operands) if place in due else (name, *operands) for place, (name, *operands) in enumerate(code))
    remember(_EVALUATORS, (formula, reset, reset_delay, inhibition), evaluator(Program(code, results[:count])))
    return True


def _same(x: Tensor) -> Tensor:
    return x


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
