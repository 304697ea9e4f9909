"""A chain of modules in which spiking layers see time and all others do not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spikegrad.nn.layer import Stateful


class Sequential(nn.Sequential):
    """`torch.nn.Sequential` over whole sequences.

    Spiking layers are given the sequence and their part of the state. Around every other module time is folded into the batch, so that
    `Conv2d`, `BatchNorm2d`, `MaxPool2d`, `Flatten` and `Dropout` mean what they mean in PyTorch.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> readout = torch.nn.Linear(144, 10)
        >>> net = nn.Sequential(torch.nn.Conv2d(1, 4, 3), nn.Leaky(0.9), torch.nn.Flatten(), readout, nn.LeakyIntegrator(0.9))
        >>> out, state = net(torch.rand(5, 2, 1, 8, 8))
        >>> out.shape
        torch.Size([5, 2, 10])
    """

    def forward(self, input: Tensor, state: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """Run the chain.

        Args:
            input: ``(time, batch, *features)``, or ``(time, features)`` without a batch.
            state: one entry for each module, as returned before (None for modules without state); None starts from rest.

        Returns:
            The output of the last module, ``(time, batch, ...)``, and the state.

        Raises:
            ValueError: the state does not have one entry for each module.
        """
        x = input
        if x.ndim < 2:
            raise ValueError(f"`input` must be (time, batch, *features) or (time, features), got shape {tuple(x.shape)}")
        states = [None] * len(self) if state is None else list(state)
        if len(states) != len(self):
            raise ValueError(f"`state` must have one entry for each of the {len(self)} modules, got {len(states)}")
        for place, module in enumerate(self):
            if isinstance(module, Stateful | Sequential):
                x, states[place] = module(x, states[place])
            elif x.ndim == 2:
                x = module(x)
            else:
                x = module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x, tuple(states)
