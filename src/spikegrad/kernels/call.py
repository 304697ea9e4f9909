"""What a fused layer is apart from its arrays."""

from __future__ import annotations

import base64
import dataclasses
import functools
import pickle
from typing import Any

from spikegrad.formulas.leaky import StraightThrough
from spikegrad.kernels.reference import Options
from spikegrad.surrogate import Surrogate


@dataclasses.dataclass(frozen=True)
class Call:
    """The static part of a call: everything but arrays.

    Attributes:
        kind: ``"leaky"``, ``"synaptic"`` or ``"integrator"``, which does not spike: its potentials stand in place of spikes.
        surrogate: whose derivative the backward pass takes.
        options: how the layer fires and resets.
        started: whether a state is given.
        record: whether potentials are returned.
    """

    kind: str
    surrogate: Surrogate
    options: Options
    started: bool = False
    record: bool = False

    @functools.cached_property
    def layers(self) -> dict[Any, Any]:
        """What kernels keep of the call between its runs, by the sizes of arrays."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def states(self, recurrent: bool) -> int:
        """Number of arrays in the state."""
        return (2 if self.kind == "synaptic" else 1) + recurrent

    @functools.cached_property
    def text(self) -> str:
        """The call as a string, which an operator can take; `read` reads it.

        The formula's hash is part of it: a class defined a second time has the same name. Where a class does not pickle, only this process
        can read the text.
        """
        try:
            rest = base64.b64encode(pickle.dumps(self)).decode()
        except (AttributeError, pickle.PicklingError):
            rest = repr(self)
        text = f"{self.surrogate.structure.key} {rest}"
        _WRITTEN[text] = self
        return text


@functools.lru_cache(maxsize=1024)
def called(kind: str, surrogate: Surrogate, options: Options, started: bool, record: bool) -> Call:
    """The call with these, the same object each time: what is found out about it stays with it."""
    return Call(kind, surrogate, options, started, record)


_WRITTEN: dict[str, Call] = {}

INTEGRATOR = Call("integrator", StraightThrough(), Options())
"""The call of a layer that does not spike."""


def read(text: str) -> Call:
    """The call that this is the text of."""
    if text not in _WRITTEN:
        _WRITTEN[text] = pickle.loads(base64.b64decode(text.split()[1]))
    return _WRITTEN[text]
