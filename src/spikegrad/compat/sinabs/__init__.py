"""sinabs's activations on spikegrad: ``from spikegrad.compat.sinabs import activation`` for ``from sinabs import activation``.

They go into sinabs's own layers, as `spike_fn`, `reset_fn` and `surrogate_grad_fn`, each on its own or all of them; so does any of
spikegrad's surrogates by `adapt`. Everything else, ``layers`` and the like, is the installed sinabs's own.
"""

from __future__ import annotations

from typing import Any

from spikegrad.compat.forwarding import Peer
from spikegrad.compat.sinabs import activation as activation
from spikegrad.compat.sinabs.adapted import adapt as adapt

_PEER = Peer(__name__, "sinabs", "sinabs", modules=("activation",))


def __getattr__(name: str) -> Any:
    return _PEER.attribute(name)


def __dir__() -> list[str]:
    return _PEER.names()
