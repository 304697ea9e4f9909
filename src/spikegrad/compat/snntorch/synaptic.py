"""``snntorch.Synaptic``."""

from __future__ import annotations

from torch import Tensor

from spikegrad.compat.snntorch import formulas
from spikegrad.compat.snntorch.leaky import LIF
from spikegrad.compat.snntorch.neuron import Elementwise


class Synaptic(LIF):
    """Neurons with an exponential synapse, as ``snntorch.Synaptic``: ``syn = alpha syn + input_``, ``u = beta mem + syn``.

    The reset acts on the potential after the input is added, also "zero": ``u = (1 - R) (beta mem + syn)``.

    Args:
        alpha: decay of the synaptic current per step, clamped to 0 to 1: a number, or a tensor that broadcasts to the input.
        learn_alpha: make alpha a parameter.
        beta, threshold, spike_grad, surrogate_disable, init_hidden, inhibition, learn_beta, learn_threshold, reset_mechanism, state_quant,
            output, reset_delay: as in `Leaky`.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.Synaptic(alpha=0.5, beta=0.5)
        >>> syn, mem = lif.reset_mem()
        >>> for current in (1.5, 0.0, 0.0):
        ...     spk, syn, mem = lif(torch.tensor([current]), syn, mem)
        ...     print(spk.item(), syn.item(), mem.item())
        1.0 1.5 1.5
        0.0 0.75 0.5
        0.0 0.375 0.625
    """

    STATES = ("syn", "mem")
    FORMULA = formulas.Synaptic
    alpha: Tensor
    syn: Tensor
    mem: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        reset_delay: bool = True,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output
        super().__init__(beta, *firing, *rest)
        self._hold("alpha", alpha, learn_alpha)
        self.reset_delay = reset_delay
        self._begin()

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """One time step, as `Leaky.forward`: ``(spk, syn, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, syn, mem)

    def init_synaptic(self) -> tuple[Tensor, Tensor]:
        """`reset_mem` by its older name."""
        return self.reset_mem()
