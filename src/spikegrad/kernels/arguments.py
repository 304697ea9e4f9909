"""What a layer is given, checked: the same words in PyTorch and JAX for whatever does not fit."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

from spikegrad.vocabulary import Array, cast, fits, library, namespace, widen

OWNERS = {"torch": "a PyTorch tensor", "jax": "a JAX array"}


def inputs(names: Sequence[str], given: Any, owner: str) -> tuple[Array, ...]:
    """The sequences that arrive, as a tuple.

    Raises:
        TypeError: one is not of the library, or not of floating point.
        ValueError: there are more or fewer than the neuron takes, one has no time axis or is not dense, or their shapes differ.
    """
    parts: Any = given if isinstance(given, tuple | list) and len(names) > 1 else (given,)  # pyright: ignore[reportUnknownVariableType]
    if len(parts) != len(names):
        raise ValueError(f"this neuron takes {len(names)} inputs as one tuple, ({', '.join(names)}), got {len(parts)}")
    for name, x in zip(names, parts, strict=True):
        label = f"`{name if len(names) > 1 else 'currents'}`"
        expect(label, x, owner)
        if owner == "torch":
            _require_dense(label, x)
        if x.ndim < 2:
            raise ValueError(
                f"{label} must be (time, batch, *features) or (time, features), got shape {tuple(x.shape)}; "
                f"add a time axis with {label[1:-1]}[None]"
            )
        if x.shape != parts[0].shape:
            raise ValueError(f"{label} has shape {tuple(x.shape)}, but `{names[0]}` has {tuple(parts[0].shape)}; all inputs have one shape")
        widen(x if x.dtype.itemsize >= 4 else x[:0])  # refuses what is not of floating point
    return tuple(parts)


def expect(label: str, x: Any, owner: str) -> None:
    """Raise a TypeError unless `x` is an array of the library."""
    try:
        found = library(x)
    except TypeError:
        found = ""
    if found != owner:
        raise TypeError(f"{label} must be {OWNERS[owner]}, got {type(x).__module__}.{type(x).__qualname__}")


def _require_dense(label: str, x: Any) -> None:
    """Raise an error unless a tensor can be taken apart in time steps."""
    torch = namespace("torch")
    if x.is_nested:
        raise ValueError(f"{label} must be dense, got a nested tensor; pad it with torch.nested.to_padded_tensor")
    if x.layout is not torch.strided:
        raise ValueError(f"{label} must be dense, got the layout {x.layout}; convert it with .to_dense()")
    if type(x) is not torch.Tensor and isinstance(x, torch.masked.MaskedTensor):
        raise TypeError(f"{label} must be dense, got a MaskedTensor; fill it with .to_tensor(0)")


def working(x: Array) -> Array:
    """An array of the shape of an input and the dtype in which is computed, for either; its values mean nothing."""
    if library(x) == "torch" and x.dtype.itemsize < 4:
        return x.new_empty((), dtype=namespace("torch").float32).expand(x.shape)
    return widen(x)


def state(names: Sequence[str], given: Any, like: Array) -> tuple[Array, ...]:
    """The states before the first step, in the dtype of `like`, the first input in the working dtype.

    Raises:
        TypeError: one is no array.
        ValueError: it has not one array for each of the `names`, each of the shape of one step.
    """
    shape = tuple(like.shape[1:])
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    wanted = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if len(parts) != len(names):
        raise ValueError(f"`state` must be {wanted}, got {len(parts)} array{'s' * (len(parts) != 1)}")
    for name, part in zip(names, parts, strict=True):
        expect(f"`state` {name}", part, library(like))
        if tuple(part.shape) != shape:
            raise ValueError(
                f"`state` {name} has shape {tuple(part.shape)}, but currents of shape {tuple(like.shape)} need {shape}; "
                "leave `state` out to start from rest"
            )
    return tuple(cast(widen(part), like) for part in parts)


def filled(values: Mapping[str, Any], like: Array) -> tuple[Array, ...]:
    """Resting states, numbers or arrays, as arrays of the shape of one step."""
    arrays = namespace(library(like))
    # In PyTorch of the class of `like`, which may be distributed; in JAX not of a shape: they lie on devices as the data does.
    zero = like.new_zeros(like.shape[1:]) if library(like) == "torch" else arrays.zeros_like(like[:1]).sum(0)
    return tuple(zero + cast(value, like) if library(value) != "number" else arrays.full_like(zero, value) for value in values.values())


def numbers(values: Mapping[str, Any], like: Array) -> None:
    """Raise a ValueError unless every number fits the shape of a step."""
    for name, value in values.items():
        shape = getattr(value, "shape", ())
        if shape and not fits(shape, like.shape[1:]):
            raise ValueError(
                f"`{name}` of shape {tuple(shape)} does not fit one step of currents of shape {tuple(like.shape)}; it must be one number "
                f"or broadcast to {tuple(like.shape[1:])}"
            )


def weights(given: Array, like: Array) -> None:
    """Raise a ValueError unless recurrent weights connect as many neurons as there are features."""
    features = like.shape[-1]
    if tuple(given.shape) not in ((features,), (features, features)):
        raise ValueError(
            f"recurrent weights of shape {tuple(given.shape)} do not fit currents of shape {tuple(like.shape)}, which have {features} "
            f"features; they must be ({features}, {features}), or ({features},) for one-to-one"
        )


def _rebuilt(name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return state_type(name, fields)(*values)


_state_types: dict[tuple[str, tuple[str, ...]], Any] = {}


def state_type(name: str, fields: tuple[str, ...]) -> Any:
    """The class of the states of a neuron: a tuple with names, which pickles."""
    found = _state_types.get((name, fields))
    if found is None:
        found = namedtuple(name, fields)  # pyright: ignore[reportUntypedNamedTuple]
        found.__reduce__ = lambda self: (_rebuilt, (name, fields, tuple(self)))  # pyright: ignore
        _state_types[name, fields] = found
    return found
