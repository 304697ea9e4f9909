"""braintools 0.3.0's `surrogate` on spikegrad: ``from spikegrad.compat import braintools`` takes the place of ``import braintools``.

Only the surrogates are ours: they import neither braintools nor brainstate, and leave JAX's configuration alone. Everything else,
``braintools.metric`` and the like, is the installed braintools's own, which is imported, with brainstate, when it is first asked for.
"""

from __future__ import annotations

from typing import Any

from spikegrad.compat.braintools import surrogate as surrogate
from spikegrad.compat.forwarding import Peer

_PEER = Peer(__name__, "braintools", "braintools", modules=("surrogate",))


def __getattr__(name: str) -> Any:
    return _PEER.attribute(name)


def __dir__() -> list[str]:
    return _PEER.names()
