"""Cells of other libraries, which take one step, as layers over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spikegrad.nn.layer import Stateful


class Steps(Stateful):
    """A module that takes one step and returns its state, run over a whole sequence in a plain loop.

    Args:
        step: a module that is called as ``step(x, *state)`` with the input of one step, ``(batch, *features)``, and returns
            ``(output, *state)``; as ``step(x)`` it begins at rest. snnTorch's neurons do so, as does `spikegrad.compat.snntorch`, and so do
            cells of Norse, whose state is one named tuple. It must not keep a state to itself (``init_hidden=True``).

    The state is a tuple of what the step returns after its output.

    Raises:
        TypeError: `step` is no module.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.compat import snntorch as snn
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Steps(snn.Synaptic(alpha=0.8, beta=0.9)))
        >>> spikes, (_, (syn, mem)) = net(torch.rand(10, 3, 4))
        >>> spikes.shape, mem.shape
        (torch.Size([10, 3, 8]), torch.Size([3, 8]))
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        if not isinstance(step, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`step` must be a torch.nn.Module that takes one step, got {type(step).__name__}")
        self.step = step

    def forward(self, currents: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the module over a sequence.

        Args:
            currents: ``(time, batch, *features)`` or ``(time, features)``, of one step or more.
            state: as it was returned before; None starts from rest.

        Returns:
            The outputs, ``(time, batch, ...)``, and the state.

        Raises:
            TypeError: the module does not return its state.
            ValueError: there is no step.
        """
        if currents.ndim < 2 or not len(currents):
            raise ValueError(f"`currents` must be (time, batch, *features) of at least one step, got shape {tuple(currents.shape)}")
        if state is None:
            rest: Tensor | tuple[Tensor, ...] = getattr(
                self.step, "reset_mem", tuple
            )()  # snnTorch's neurons go on from their last call if they are given nothing
            state = rest if isinstance(rest, tuple) else (rest,)
        outputs: list[Tensor] = []
        for current in currents.unbind(0):
            made: Tensor | tuple[Tensor, ...] = self.step(current, *state)
            if not isinstance(made, tuple) or len(made) < 2:
                raise TypeError(
                    f"{type(self.step).__name__} must return (output, *state) from a step, got {type(made).__name__}; "
                    "one that keeps its state to itself cannot be run over sequences (of snnTorch's: leave init_hidden=True out)"
                )
            outputs.append(made[0])
            state = made[1:]
        return torch.stack(outputs), tuple(state)
