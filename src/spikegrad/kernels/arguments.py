"""What a layer is given, checked: the same words in PyTorch and JAX for whatever does not fit."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spikegrad.remembering import remember
from spikegrad.trace import StepRecord
from spikegrad.vocabulary import Array, cast, fits, library, namespace, widen

OWNERS = {"torch": "a PyTorch tensor", "jax": "a JAX array"}
_CONVERTED = {
    ("torch", "list"): "stack them with torch.stack(...), or write torch.tensor(...)",
    ("torch", "tuple"): "stack them with torch.stack(...), or write torch.tensor(...)",
    ("torch", "ndarray"): "convert it with torch.from_numpy(...)",
    ("torch", "PackedSequence"): "pad it, x, lengths = torch.nn.utils.rnn.pad_packed_sequence(x), and give layer(x, lengths=lengths)",
    ("torch", "Spikes"): "give its dense form, spikes.dense()",
    ("jax", "list"): "convert it with jax.numpy.asarray(...)",
    ("jax", "tuple"): "convert it with jax.numpy.asarray(...)",
    ("jax", "ndarray"): "convert it with jax.numpy.asarray(...)",
}
"""What to do about a value of another class, by the library that is wanted."""


def layer(neuron: Any, quantize: object) -> None:
    """Check what a layer is made of.

    Raises:
        TypeError: one is of another class.
        ValueError: the neuron's step never says `quantized`.
    """
    if not isinstance(getattr(neuron, "record", None), StepRecord):
        raise TypeError(f"`neuron` must be a neuron such as Leaky(0.9), got {neuron!r}")
    if quantize is not None and not callable(quantize):
        raise TypeError(f"`quantize` must be a function of the state, got {quantize!r}")
    if quantize is not None and all(operation != "quantized" for operation, *_ in neuron.record.step.instructions):
        raise ValueError(f"{type(neuron).__name__} has no place where its state could be quantised")


def inputs(names: Sequence[str], given: Any, owner: str) -> tuple[Array, ...]:
    """The sequences that arrive, as a tuple.

    Raises:
        TypeError: one is not of the library, or not of floating point.
        ValueError: there are more or fewer than the neuron takes, one has no time axis or is not dense, or their shapes differ.
    """
    parts = _apart(given, several=len(names) > 1)
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
        floating(label, x)
    return parts


def _apart(given: Any, *, several: bool) -> tuple[Array, ...]:
    return tuple(given) if several and isinstance(given, tuple | list) else (given,)


def expect(label: str, x: Any, owner: str) -> None:
    """Raise a TypeError unless `x` is an array of the library."""
    try:
        found = library(x)
    except TypeError:
        found = ""
    if found != owner:
        what_to_do = _CONVERTED.get((owner, type(x).__name__))
        given = f"{type(x).__module__}.{type(x).__qualname__}" + (f"; {what_to_do}" if what_to_do else "")
        raise TypeError(f"{label} must be {OWNERS[owner]}, got {given}")
    if owner == "torch" and x.is_nested:
        raise TypeError(f"{label} is a nested tensor; pad it with torch.nested.to_padded_tensor(x, 0.0), and give layer(x, lengths=...)")


def floating(label: str, x: Array) -> None:
    """Raise a TypeError unless an array is of floating point, with 16 bits or more."""
    dtype = x.dtype
    if library(x) == "torch":
        known, kind, convert = dtype.is_floating_point, "tensor", "x.float()"
    else:
        known, kind, convert = dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")), "array", "x.astype('float32')"
    if not known:
        raise TypeError(f"{label}: expected a floating-point {kind}, got {dtype}; convert it with {convert}")
    if dtype.itemsize < 2:
        raise TypeError(f"{label} has the dtype {dtype}, in which nothing can be computed; convert it with {convert}")


def _require_dense(label: str, x: Array) -> None:
    """Raise an error unless a tensor can be taken apart in time steps."""
    torch = namespace("torch")
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
    parts = _apart(given, several=True)
    wanted, owner = names[0] if len(names) == 1 else f"({', '.join(names)})", library(like)
    if isinstance(given, Mapping):
        raise TypeError(f"`state` must be {wanted}, as it was returned, got a dict; give its values in this order")
    if len(parts) != len(names):
        raise ValueError(f"`state` must be {wanted}, got {len(parts)} array{'s' * (len(parts) != 1)}")
    for name, part in zip(names, parts, strict=True):
        expect(f"`state` {name}", part, owner)
        floating(f"`state` {name}", part)
        if tuple(part.shape) != shape:
            raise ValueError(
                f"`state` {name} has shape {tuple(part.shape)}, but currents of shape {tuple(like.shape)} need {shape}; "
                "leave `state` out to start from rest"
            )
        if owner == "torch":
            _together(f"`state` {name}", part, like)
    return tuple(cast(widen(part), like) for part in parts)


def real(label: str, value: Any) -> None:
    """Raise a TypeError unless what is given to JAX in place of a number is real: a number, an array, or a list of numbers."""
    dtype = str(value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype)
    if not dtype.startswith(("float", "bfloat", "int", "uint")):
        raise TypeError(f"{label} must be a real number or a JAX array of them, got {type(value).__name__} of {dtype}")


def ends(lengths: Any, like: Array) -> list[int]:
    """The lengths of the samples of a batch, as numbers.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there is no batch, or not one length for each sample, or one is longer than the input.
    """
    steps, shape = like.shape[0], tuple(like.shape)
    if len(shape) < 3:
        raise ValueError(f"`lengths` are of the samples of a batch, currents are (time, batch, *features), got shape {shape}")
    found = lengths.tolist() if hasattr(lengths, "tolist") else list(lengths) if isinstance(lengths, tuple | list) else lengths
    if not isinstance(found, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in found):
        raise TypeError(f"`lengths` must be whole numbers, one for each sample, got {lengths!r}")
    if len(found) != shape[1]:
        raise ValueError(f"`lengths` must be one for each of the {shape[1]} samples of currents of shape {shape}, got {len(found)}")
    if wrong := [each for each in found if not 0 <= each <= steps]:
        raise ValueError(f"`lengths` must be between 0 and the {steps} steps of currents of shape {shape}, got {wrong[0]}")
    return found


def filled(values: Mapping[str, Array], like: Array) -> tuple[Array, ...]:
    """Resting states, numbers or arrays, as arrays of the shape of one step."""
    arrays = namespace(library(like))
    # In PyTorch of the class of `like`, which may be distributed; in JAX not of a shape: they lie on devices as the data does.
    zero = like.new_zeros(like.shape[1:]) if library(like) == "torch" else arrays.zeros_like(like[:1]).sum(0)
    return tuple(zero + cast(value, like) if library(value) != "number" else arrays.full_like(zero, value) for value in values.values())


def numbers(values: Mapping[str, Array], like: Array) -> None:
    """Raise a ValueError unless every number fits the shape of a step."""
    for name, value in values.items():
        shape = getattr(value, "shape", ())
        if shape and not fits(shape, like.shape[1:]):
            raise ValueError(
                f"`{name}` of shape {tuple(shape)} does not fit one step of currents of shape {tuple(like.shape)}; it must be one number "
                f"or broadcast to {tuple(like.shape[1:])}"
            )
        if shape and library(value) == "torch":
            _together(f"`{name}`", value, like)


def _together(label: str, x: Array, like: Array) -> None:
    """Raise a ValueError unless a tensor lies where the input does, and is dense."""
    if x.device != like.device:
        raise ValueError(f"{label} is on {x.device}, but currents are on {like.device}; move one with .to({str(like.device)!r})")
    if x.layout is not namespace("torch").strided:
        raise TypeError(f"{label} has the layout {x.layout}; make it dense with .to_dense()")


def weights(given: Array, like: Array) -> None:
    """Raise an error unless recurrent weights are real numbers that connect as many neurons as there are features."""
    features, owner = like.shape[-1], library(like)
    if owner != "jax" or not hasattr(given, "dtype") or library(given) != "numpy":
        expect("recurrent weights", given, owner)
    if "complex" in str(given.dtype):
        raise TypeError(f"recurrent weights must be real, got {given.dtype}")
    # One by one: a compiler to which the features are a symbol finds no tuple of them in a tuple of tuples.
    if given.ndim not in (1, 2) or any(n != features for n in given.shape):
        raise ValueError(
            f"recurrent weights of shape {tuple(given.shape)} do not fit currents of shape {tuple(like.shape)}, which have {features} "
            f"features; they must be ({features}, {features}), or ({features},) for one-to-one"
        )


def _rebuilt(name: str, fields: tuple[str, ...], values: tuple[Array, ...]) -> tuple[Array, ...]:
    return state_type(name, fields)(*values)


_state_types: dict[tuple[str, tuple[str, ...]], Callable[..., tuple[Array, ...]]] = {}


def state_type(name: str, fields: tuple[str, ...]) -> Callable[..., tuple[Array, ...]]:
    """The class of the states of a neuron: a tuple with names, which pickles."""
    found = _state_types.get((name, fields))
    if found is None:
        found = namedtuple(name, fields)  # pyright: ignore[reportUntypedNamedTuple]
        found.__reduce__ = lambda self: (_rebuilt, (name, fields, tuple(self)))
        remember(_state_types, (name, fields), found)
    return found
