"""What `record=` of a layer asks for, and what is returned for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from spikegrad.nn.layer import Layer

Record: TypeAlias = bool | str | Sequence[str]
"""True for the potentials ``u``; a name for that value; names for a dict; False for nothing."""


def names(record: Record) -> tuple[str, ...]:
    """The names of the values that are asked for."""
    return ("u",) if record is True else () if record is False else (record,) if isinstance(record, str) else tuple(dict.fromkeys(record))


def known(layer: Layer, record: Record) -> tuple[str, ...]:
    """The same, of values that the step of the layer's neuron names.

    Raises:
        ValueError: it does not name one of them.
    """
    wanted, those = names(record), layer._record.recorded  # pyright: ignore[reportPrivateUsage]
    if unknown := [name for name in wanted if name not in those]:
        raise ValueError(f"record={unknown[0]!r}: {type(layer.neuron).__name__}'s step names {', '.join(those) or 'nothing'}")
    return wanted


def returned(record: Record, wanted: Sequence[str], recorded: Iterable[Tensor]) -> tuple[Tensor | dict[str, Tensor], ...]:
    """What a layer returns beside output and state, of the values of these names."""
    if record is False:
        return ()
    found = dict(zip(wanted, recorded, strict=True))
    return (found[wanted[0]] if record is True or isinstance(record, str) else found,)
