"""The step with a surrogate's gradient as a module, whose slope or width may learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikegrad.nn.parameters import held, hold, named
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array


class Spike(nn.Module):
    """Spikes where potential minus threshold reaches 0, with a surrogate's gradient.

    Numbers of the surrogate named in `learn` become `nn.Parameter`, scalar or of the given shape, whose gradient is that of the
    surrogate's primitive; positive ones are learned as their logarithm. In training mode a stochastic surrogate draws noise; in
    evaluation it steps at the threshold.

    Args:
        surrogate: the surrogate.
        learn: names of the numbers to learn, ``"slope"`` or, as a layer calls it, ``"spike.slope"``.
        shape: shape of each of them; it must broadcast against the input, ``(channels, 1, 1)`` for one per channel.
        values: tensors in place of the surrogate's numbers, by name, where learning starts or which stay as they are.
        generator: where noise is drawn from; PyTorch's default generator if None.

    Raises:
        TypeError: `surrogate` is not a `Surrogate`, or a name is not one of its numbers.
        ValueError: the surrogate has no primitive, so that nothing of it can be learned.

    Example:
        >>> import torch
        >>> from spikegrad import ATan, nn
        >>> spike = nn.Spike(ATan(slope=2.0), learn="slope")
        >>> spike(torch.tensor([-0.5, 0.5])).sum().backward()
        >>> [name for name, p in spike.named_parameters() if p.grad is not None]
        ['slope_log']
    """

    def __init__(
        self,
        surrogate: Surrogate,
        learn: str | Sequence[str] = (),
        shape: Sequence[int] = (),
        *,
        values: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"expected a surrogate such as ATan(), got {surrogate!r}")
        with torch.inference_mode(False):
            self.numbers = torch.tensor([*surrogate.parameters.values()], dtype=torch.float64, device="cpu")
        """Of the surrogate. Where a layer is compiled they travel beside the formula, so that another slope compiles nothing."""
        self.surrogate = surrogate
        self.generator = generator
        self.learn = tuple(name.removeprefix("spike.") for name in named(learn))
        values = {name.removeprefix("spike."): x for name, x in (values or {}).items()}
        self.given: tuple[str, ...] = tuple(dict.fromkeys([*self.learn, *values]))
        for name in self.given:
            surrogate.require_learnable(name)
            start = values.get(name, torch.full(tuple(shape), surrogate.parameters[name]))
            hold(self, name, start, surrogate.numbers[name], learn=name in self.learn)

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate; another may take its place at any time."""
        return self._surrogate

    @surrogate.setter
    def surrogate(self, surrogate: Surrogate) -> None:
        self._surrogate, self.structure, self.floats = surrogate, surrogate.structure, surrogate.parameters
        with torch.inference_mode(False):
            values = torch.tensor([*self.floats.values()], dtype=torch.float64, device="cpu")
            self.numbers = self.numbers.copy_(values) if len(values) == len(self.numbers) else values

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled before the class of its surrogate was edited computes as that class does now."""
        super().__setstate__(state)
        if self._surrogate.structure != self.structure:
            self.surrogate = self._surrogate

    def learned(self) -> dict[str, Array]:
        """The tensors in place of numbers by name, with gradient where they are learned."""
        return {name: held(self, name, self.surrogate.numbers[name]) for name in self.given}

    def forward(self, x: Tensor, *, spike_at_threshold: bool = True) -> Tensor:
        """Spikes of the shape and dtype of `x`, potential minus threshold."""
        return self.surrogate(x, spike_at_threshold=spike_at_threshold, training=self.training, random=self.generator, **self.learned())

    def extra_repr(self) -> str:
        """The surrogate, and what of it is learned."""
        return repr(self.surrogate) + (f", learn={self.learn}" if self.learn else "")
