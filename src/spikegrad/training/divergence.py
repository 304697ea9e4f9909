"""Where a loss leaves all bounds, found without waiting for a GPU in every step."""

from __future__ import annotations

import torch
from torch import Tensor

INTERVAL = 50
"""Steps between two looks at the losses of a GPU: each look waits for all that it has to do."""


def due(device: torch.device, step: int, last: bool) -> bool:
    """Whether to look after this step of an epoch, perhaps the `last`: after each on the CPU, where nothing waits."""
    return device.type == "cpu" or last or (step + 1) % INTERVAL == 0


class FirstBeyond:
    """The first loss beyond a bound, or that is no number, noted where the loss is.

    Example:
        >>> import torch
        >>> from spikegrad.training.divergence import FirstBeyond
        >>> first = FirstBeyond(10.0)
        >>> for step, loss in enumerate([2.0, 11.0, 12.0]):
        ...     first.note(torch.tensor(loss), step)
        >>> first.found()
        (1, 11.0)
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._noted: tuple[Tensor, Tensor] | None = None

    def note(self, loss: Tensor, step: int) -> None:
        """Note the step, at least 0, if its loss is the first one beyond the bound. Nothing is read."""
        loss = loss.float()  # in which half types have numbers beyond the bound
        beyond = ~(loss.abs() <= self.bound)  # also where it is NaN
        at, which = self._noted or (torch.full_like(loss, -1, dtype=torch.int64), loss)
        first = beyond & (at < 0)
        self._noted = torch.where(first, step, at), torch.where(first, loss, which)

    def found(self) -> tuple[int, float] | None:
        """The step and its loss, or None; this is what waits."""
        if self._noted is None or int(self._noted[0]) < 0:
            return None
        return int(self._noted[0]), float(self._noted[1])
