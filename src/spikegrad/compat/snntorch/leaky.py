"""``snntorch.Leaky`` and the base class of the neurons whose potential decays by `beta`."""

from __future__ import annotations

from torch import Tensor

from spikegrad.compat.snntorch import formulas
from spikegrad.compat.snntorch.neuron import Elementwise, SpikingNeuron


class LIF(SpikingNeuron):
    """Base class of the neurons whose potential decays by `beta` per step; `Leaky` documents the arguments."""

    beta: Tensor

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_threshold, reset_mechanism, state_quant, output, graded_spikes_factor, learn_graded_spikes_factor
        super().__init__(*firing, *rest)
        self._hold("beta", beta, learn_beta)


class Leaky(LIF):
    """Leaky integrate-and-fire neurons, as ``snntorch.Leaky``: ``u = beta mem + input_``.

    The reset "subtract" takes the threshold off one step after a spike; "zero" does ``u = beta (1 - R) mem + input_``: it clears the
    potential before the input is added, whatever snnTorch's documentation says. All steps of the equations stand in
    `spikegrad.compat.snntorch.neuron`.

    Args:
        beta: decay of the potential per step, clamped to 0 to 1: a number, or a tensor that broadcasts to the input.
        threshold: potential above which a neuron spikes; at it, it does not. A number or a tensor, likewise.
        spike_grad: the surrogate, called with potential minus threshold: one of `surrogate`, which default to ``atan()``, or any function.
        surrogate_disable: spike without a gradient, whatever `spike_grad` is.
        init_hidden: keep the states in the neuron: calls take the input alone, and return the spikes alone unless `output` is set.
        inhibition: let only the neuron with the largest potential of each sample spike. The reset of the others goes on.
        learn_beta: make beta a parameter. Outside of 0 to 1 its gradient is 0.
        learn_threshold: make the threshold a parameter.
        reset_mechanism: ``"subtract"`` the threshold, set to ``"zero"``, or ``"none"``.
        state_quant: a function that quantises the states, such as one of ``snntorch.functional.quant.state_quant``.
        output: return the states too where `init_hidden` is set.
        graded_spikes_factor: what spikes are multiplied by; not under inhibition.
        learn_graded_spikes_factor: make it a parameter.
        reset_delay: reset in the step after the spike; otherwise in the same step, where the gradient flows through the reset.

    Raises:
        TypeError: a parameter is neither a number nor a tensor.
        ValueError: `reset_mechanism` is unknown.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.Leaky(beta=0.5)
        >>> mem = lif.reset_mem()
        >>> for current in (0.8, 0.8, 0.0):
        ...     spk, mem = lif(torch.tensor([current]), mem)
        ...     print(spk.item(), round(mem.item(), 4))
        0.0 0.8
        1.0 1.2
        0.0 -0.4
    """

    STATES = ("mem",)
    FORMULA = formulas.Leaky
    mem: Tensor

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output, graded_spikes_factor, learn_graded_spikes_factor
        super().__init__(beta, *firing, *rest)
        self.reset_delay = reset_delay
        self._begin()

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """One time step.

        Args:
            input_: current, ``(batch, *features)`` or ``(features,)``. Integers and booleans count as float32.
            mem: potential after the step before, of the shape of the input or broadcast to it; the neuron's own if None, which is at rest
                where the shape of the input has changed.

        Returns:
            ``(spk, mem)``, spikes in the dtype of the input and the potential in at least float32; ``spk`` alone with `init_hidden`.

        Raises:
            TypeError: the input is not a tensor of real numbers, or `mem` is given with `init_hidden`.
            ValueError: a state or a parameter does not fit the input.
        """
        return self._step(input_, mem)

    def init_leaky(self) -> Tensor:
        """`reset_mem` by its older name."""
        return self.reset_mem()
