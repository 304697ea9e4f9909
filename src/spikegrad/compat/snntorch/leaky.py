"""First-order neurons."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikegrad.compat.snntorch.neuron import SpikeFunction, SpikingNeuron


class LIF(SpikingNeuron):
    """Base class of the neurons whose potential decays by `beta`."""

    beta: Tensor

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeFunction | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: SpikeFunction | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        super().__init__(
            threshold,
            spike_grad,
            surrogate_disable,
            init_hidden,
            inhibition,
            learn_threshold,
            reset_mechanism,
            state_quant,
            output,
            graded_spikes_factor,
            learn_graded_spikes_factor,
        )
        self._hold("beta", beta, learn_beta)

    def _decay(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, name).to(x.dtype).clamp(0, 1)


class Leaky(LIF):
    """Leaky integrate-and-fire neurons."""

    STATES = ("mem",)
    mem: Tensor

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeFunction | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: SpikeFunction | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
    ) -> None:
        super().__init__(
            beta,
            threshold,
            spike_grad,
            surrogate_disable,
            init_hidden,
            inhibition,
            learn_beta,
            learn_threshold,
            reset_mechanism,
            state_quant,
            output,
            graded_spikes_factor,
            learn_graded_spikes_factor,
        )
        self.reset_delay = reset_delay
        self._begin()

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """One step: ``(spk, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, mem)

    def _integrate(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return (self._decay("beta", x) * states[0] + x,)

    def _advance(self, x: Tensor, states: tuple[Tensor, ...], reset: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        if self._reset_mechanism != "zero":
            return super()._advance(x, states, reset, threshold)
        return self._integrate(x, (1 - reset) * states[0])  # the reset comes before this input

    def init_leaky(self) -> Tensor:
        """`reset_mem`, by its older name."""
        return self.reset_mem()
