"""Second-order neurons."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spikegrad.compat.snntorch.leaky import LIF
from spikegrad.compat.snntorch.neuron import SpikeFunction


class Synaptic(LIF):
    """Leaky integrate-and-fire neurons with an exponential synapse."""

    STATES = ("syn", "mem")
    alpha: Tensor
    syn: Tensor
    mem: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeFunction | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: SpikeFunction | bool = False,
        output: bool = False,
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
        )
        self._hold("alpha", alpha, learn_alpha)
        self.reset_delay = reset_delay
        self._begin()

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Any:
        """One step: ``(spk, syn, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, syn, mem)

    def _integrate(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        syn = self._decay("alpha", x) * states[0] + x
        return syn, self._decay("beta", x) * states[1] + syn

    def init_synaptic(self) -> Any:
        """`reset_mem`, by its older name."""
        return self.reset_mem()
