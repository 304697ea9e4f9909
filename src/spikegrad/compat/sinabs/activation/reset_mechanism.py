"""Resets as sinabs's layers call them: ``reset_fn(spikes, state, spike_threshold)`` returns the state after the spikes.

sinabs's own tools, such as the one that prepares a network for a chip, take them for its own (`spikegrad.compat.likeness`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spikegrad.compat.likeness import Alike
from spikegrad.compat.sinabs.activation.surrogate_gradient_fn import Threshold

State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class MembraneReset(Alike):
    """Set the potential of every neuron that spiked to `reset_value`, and leave the others alone.

    sinabs adds the value to the potential of the others.

    Args:
        reset_value: the potential after a spike.

    Example:
        >>> state = {"v_mem": torch.tensor([0.3, 1.2])}
        >>> MembraneReset(reset_value=-0.5)(torch.tensor([0.0, 1.0]), state, 1.0)
        {'v_mem': tensor([ 0.3000, -0.5000])}
    """

    PEER = "sinabs.activation"
    reset_value: float = 0.0

    def __call__(self, spikes: Tensor, state: State, spike_threshold: Threshold) -> State:
        """A new state, whose other entries are those of the given one."""
        return {**state, "v_mem": torch.where(spikes > 0, self.reset_value, state["v_mem"])}


@dataclasses.dataclass(frozen=True)
class MembraneSubtract(Alike):
    """Subtract the threshold, or `subtract_value`, from the potential once per spike. Gradients flow through the spikes, as in sinabs.

    Args:
        subtract_value: what to subtract; the threshold if None.

    Example:
        >>> state = {"v_mem": torch.tensor([0.25, 2.25])}
        >>> MembraneSubtract()(torch.tensor([0.0, 2.0]), state, 1.0)
        {'v_mem': tensor([0.2500, 0.2500])}
    """

    PEER = "sinabs.activation"
    subtract_value: float | None = None

    def __call__(self, spikes: Tensor, state: State, threshold: Threshold) -> State:
        """A new state, whose other entries are those of the given one."""
        amount = threshold if self.subtract_value is None else self.subtract_value
        return {**state, "v_mem": state["v_mem"] - spikes * amount}
