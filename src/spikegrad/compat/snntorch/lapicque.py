"""``snntorch.Lapicque``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikegrad.compat.snntorch import formulas
from spikegrad.compat.snntorch.leaky import LIF
from spikegrad.compat.snntorch.neuron import Elementwise


class Lapicque(LIF):
    """Leaky integrate-and-fire neurons by their circuit, as ``snntorch.Lapicque``; there is no immediate reset.

    ``u = input_ time_step / C + (1 - time_step / (R C)) mem``, the forward Euler step, with ``beta = exp(-time_step / (R C))``. Give
    `beta`, and R or C or neither (then R is 1); or R and C. False, None and 0 mean that a number is not given.

    Args:
        beta: decay of the potential over one step of the exact solution, more than 0 and less than 1.
        R: resistance.
        C: capacitance.
        time_step: length of a step.
        learn_beta: make beta a parameter, from which the circuit follows in every step.
        threshold, spike_grad, surrogate_disable, init_hidden, inhibition, learn_threshold, reset_mechanism, state_quant, output: as in
            `Leaky`.

    Raises:
        ValueError: too few or too many of `beta`, `R` and `C` are given, or `beta` is to be learned and not given.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.Lapicque(R=5.0, C=2.0)
        >>> spk, mem = lif(torch.tensor([0.5]), torch.tensor([0.9]))
        >>> mem
        tensor([1.0600])
    """

    STATES = ("mem",)
    FORMULA = formulas.Lapicque
    R: Tensor
    C: Tensor
    time_step: Tensor
    mem: Tensor

    def __init__(
        self,
        beta: float | Tensor = False,
        R: float | Tensor = False,  # noqa: N803
        C: float | Tensor = False,  # noqa: N803
        time_step: float | Tensor = 1,
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
    ) -> None:
        numbers = {"beta": beta, "R": R, "C": C}
        known = {name: value for name, value in numbers.items() if (isinstance(value, Tensor) and value.ndim) or value}
        if len(known) == 3 or not ("beta" in known or len(known) == 2):
            raise ValueError(f"give `beta`, or two of `beta`, `R` and `C`, got {', '.join(known) or 'none of them'}")
        if learn_beta and "beta" not in known:
            raise ValueError("learn_beta=True needs `beta`: with R and C it is not what the neuron is computed from")
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output
        super().__init__(beta if "beta" in known else 0.0, *firing, *rest)
        self._follows = "C" if "C" not in known else "R" if "R" not in known else "beta"
        self._hold("time_step", time_step)
        self._hold("R", known.get("R", 1))
        self._hold("C", known.get("C", 1))
        if self._follows == "beta":
            self.beta = torch.exp(torch.ones(1) * (-self.time_step / (self.R * self.C)))
        else:
            self._refresh()
        self._begin()

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """One time step, as `Leaky.forward`: ``(spk, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, mem)

    def numbers(self, x: Tensor) -> dict[str, Tensor]:
        """See `SpikingNeuron.numbers`; what follows from a beta that learns is computed anew."""
        numbers = super().numbers(x)
        return numbers | ({self._follows: self._circuit().to(x.dtype)} if self._learns() else {})

    def _learns(self) -> bool:
        """Whether a gradient flows to what R or C follows from."""
        source = self.R if self._follows == "C" else self.C
        return self._follows != "beta" and (self.beta.requires_grad or source.requires_grad)

    def _circuit(self) -> Tensor:
        """What follows from beta: C from R, or R from C."""
        return self.time_step / ((self.R if self._follows == "C" else self.C) * torch.log(1 / self.beta))

    def _refresh(self) -> None:
        self.register_buffer(self._follows, self._circuit().detach())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self._learns():
            self._refresh()  # so that a file holds the circuit of the beta that was learned
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def init_lapicque(self) -> Tensor:
        """`reset_mem` by its older name."""
        return self.reset_mem()
