"""States that layers return, cut off from what they were computed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

from spikegrad.vocabulary import detach as detach_array
from spikegrad.vocabulary import library

S = TypeVar("S")


def detach(state: S) -> S:
    """A state through which no gradient flows: for truncated backpropagation, where a long sequence is learned part by part.

    Args:
        state: what a layer or a network returned: a tensor of PyTorch or array of JAX, None, a number, or tuples, named tuples, lists and
            dicts of them. In JAX it goes through `jax.lax.stop_gradient`.

    Returns:
        The same, of the same classes, sharing its memory.

    Raises:
        TypeError: something in it is none of these.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> net = spikegrad.nn.Sequential(torch.nn.Linear(4, 8), spikegrad.nn.Leaky(0.9), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> sequence, state = torch.rand(100, 3, 4), None
        >>> for part in sequence.split(25):
        ...     out, state = net(part, spikegrad.detach(state))
        ...     optimizer.zero_grad()
        ...     out.pow(2).mean().backward()
        ...     optimizer.step()
        >>> state[1].shape
        torch.Size([3, 8])
    """
    found: object = state
    if isinstance(state, Mapping):
        found = type(state)({key: detach(part) for key, part in state.items()})  # type: ignore[call-arg]
    elif isinstance(state, tuple | list):
        parts = [detach(part) for part in state]
        found = type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    elif state is not None:
        try:
            library(state)
        except TypeError:
            raise TypeError(
                f"a state is of tensors, arrays, None, and tuples, lists and dicts of them, got {type(state).__name__}"
            ) from None
        found = detach_array(state)
    return cast(S, found)
