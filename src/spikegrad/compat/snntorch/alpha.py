"""``snntorch.Alpha``."""

from __future__ import annotations

from torch import Tensor

from spikegrad.compat.snntorch import formulas
from spikegrad.compat.snntorch.leaky import LIF
from spikegrad.compat.snntorch.neuron import Elementwise


class Alpha(LIF):
    """Neurons whose potential is a difference of exponentials, as ``snntorch.Alpha``; there is no immediate reset.

    ``syn_exc = alpha syn_exc + input_``, ``syn_inh = beta syn_inh - input_`` and ``u = tau (syn_exc + syn_inh)``, in which
    ``tau = log(alpha) / (log(beta) - log(alpha)) + 1``. The reset "zero" clears all three, one step after a spike; "subtract" takes the
    threshold off `syn_exc`, clears `syn_inh`, and adds the `syn_inh` of before to the potential, as snnTorch does.

    Args:
        alpha: decay of the excitatory current per step, between 0 and 1: a number, or a tensor that broadcasts to the input.
        beta: decay of the inhibitory current, less than `alpha`; likewise.
        learn_alpha: make alpha a parameter; keep it above beta.
        threshold, spike_grad, surrogate_disable, init_hidden, inhibition, learn_beta, learn_threshold, reset_mechanism, state_quant,
            output: as in `Leaky`.

    Raises:
        ValueError: `alpha` is not greater than `beta`.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.Alpha(alpha=0.9, beta=0.8)
        >>> syn_exc, syn_inh, mem = lif.reset_mem()
        >>> for current in (1.0, 0.0, 0.0):
        ...     spk, syn_exc, syn_inh, mem = lif(torch.tensor([current]), syn_exc, syn_inh, mem)
        ...     print(round(mem.item(), 4))
        0.0
        0.1895
        0.3221
    """

    STATES = ("syn_exc", "syn_inh", "mem")
    FORMULA = formulas.Alpha
    alpha: Tensor
    syn_exc: Tensor
    syn_inh: Tensor
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
        reset_mechanism: str = "zero",
        state_quant: Elementwise | bool = False,
        output: bool = False,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output
        super().__init__(beta, *firing, *rest)
        self._hold("alpha", alpha, learn_alpha)
        if self.alpha is not alpha:
            self.alpha.detach().clamp_(0, 1)
        if not bool((self.alpha > self.beta).all()):
            raise ValueError(f"`alpha` must be greater than `beta`, which must be less than 1, got alpha={alpha} and beta={beta}")
        self._begin()

    def forward(
        self, input_: Tensor, syn_exc: Tensor | None = None, syn_inh: Tensor | None = None, mem: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """One time step, as `Leaky.forward`: ``(spk, syn_exc, syn_inh, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, syn_exc, syn_inh, mem)

    def init_alpha(self) -> tuple[Tensor, Tensor, Tensor]:
        """`reset_mem` by its older name."""
        return self.reset_mem()
