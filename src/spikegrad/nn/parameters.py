"""Numbers of a module: fixed, given as tensors, or learned without ever leaving their range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from spikegrad.ranges import Between


def named(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names, of which one may be given by itself."""
    if not isinstance(names, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"what is learned is said by name, as in learn=('beta', 'spike.slope'), got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def has_values(x: Tensor) -> bool:
    """Whether a tensor has numbers to look at: not on the meta device, nor where tensors are only imagined."""
    return not (x.is_meta or isinstance(x, FakeTensor))


def coordinate(value: Tensor, within: Between) -> Tensor:
    """A number of a range as any real number."""
    if within.coordinate == "logit":
        return torch.logit(value if (within.low, within.high) == (0, 1) else (value - within.low) / (within.high - within.low))
    if within.coordinate == "log":
        return torch.log(value - within.low if within.low > -torch.inf else within.high - value)
    return value


def number(coordinate: Tensor, within: Between) -> Tensor:
    """The number of a range that has this coordinate; the inverse of `coordinate`."""
    if within.coordinate == "logit":
        share = torch.sigmoid(coordinate)
        return share if (within.low, within.high) == (0, 1) else within.low + (within.high - within.low) * share
    if within.coordinate == "log":
        distance = torch.exp(coordinate)
        return distance if within.low == 0 else within.low + distance if within.low > -torch.inf else within.high - distance
    return coordinate


def checked(name: str, value: float | Tensor | None, within: Between, *, learn: bool) -> Tensor:
    """A tensor for a number.

    Raises:
        TypeError: the value is neither a number nor a floating-point tensor.
        ValueError: it is out of range, at an end of it although it is learned, or a parameter, or requires a gradient, although it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Tensor | int | float):
        raise TypeError(f"`{name}` must be a number or a tensor, got {type(value).__name__}")
    if not isinstance(value, Tensor):
        value = torch.tensor(within.checked(f"`{name}`", value))
    elif not value.dtype.is_floating_point:
        raise TypeError(f"`{name}` must be of floating point, got {value.dtype}; convert it with .float()")
    elif not learn and (value.requires_grad or isinstance(value, nn.Parameter)):
        what = "requires a gradient" if value.requires_grad else "is a Parameter"
        raise ValueError(f"`{name}` {what}, but a fixed number never learns; learn it with learn=({name!r},), or give {name}.detach()")
    tensor = value.detach().clone()
    if not has_values(tensor):
        return tensor
    if not bool(within.holds(tensor).all()):
        raise ValueError(f"`{name}` must be {within.words}, got {value}")
    if learn and not bool(within.inside(tensor).all()):
        raise ValueError(f"`{name}` is learned inside of its range, so it cannot start at the edge: got {value}")
    return tensor


def hold(module: nn.Module, name: str, value: float | Tensor | None, within: Between, *, learn: bool) -> None:
    """Give a module a number that `held` reads back: the parameter ``<name>_<coordinate>`` if learned, else a buffer ``<name>_fixed``."""
    tensor = checked(name, value, within, learn=learn)
    if learn:
        module.register_parameter(f"{name}_{within.coordinate}", nn.Parameter(coordinate(tensor, within)))
    else:
        module.register_buffer(f"{name}_fixed", tensor)


def held(module: nn.Module, name: str, within: Between) -> Tensor:
    """The value of a number given to a module by `hold`, with gradient where it is learned.

    Raises:
        AttributeError: somebody took the parameter from the module.
    """
    # Looked up where it is: a getattr that a module fails costs as much as a small kernel.
    label = f"{name}_{within.coordinate}"
    learned = module._parameters.get(label)  # pyright: ignore[reportPrivateUsage]
    if learned is not None:
        return number(learned, within)
    fixed = module._buffers.get(f"{name}_fixed")  # pyright: ignore[reportPrivateUsage]
    if fixed is not None:
        return fixed
    # Parametrised, pruned, sharded, or in a replica of the module on another device, a parameter is an attribute like any other.
    learned = getattr(module, label, None)
    if learned is None:
        raise AttributeError(f"{type(module).__name__} has lost its parameter `{label}`, which says what `{name}` is")
    return number(learned, within)
