"""Which implementation runs a layer: the plain loop, or the fused kernels on the CPU."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikegrad.kernels import gate
from spikegrad.kernels.lock import LOCK
from spikegrad.nn.spike import Spike

BACKENDS = ("auto", "numba", "reference")
INSTALLED = importlib.util.find_spec("numba") is not None


@functools.cache
def kernels() -> Any:
    """The fused kernels, which are imported when a layer first wants them."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.torch")


def check(backend: str) -> None:
    """Refuse an unknown backend, and one that is not installed."""
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if backend == "numba" and not INSTALLED:
        raise ValueError("backend='numba' needs Numba; install it with `pip install numba`")
    if backend != "reference" and INSTALLED:
        with LOCK:
            importlib.import_module("spikegrad.kernels.operator")  # it is registered before a compiler sees the layer


def fused(backend: str, reason: str | None) -> bool:
    """Whether the fused kernels run a layer, if there is no reason why they cannot.

    Raises:
        ValueError: they were asked for by name and cannot; the message says why.
    """
    if backend == "reference":
        return False
    if reason is not None and backend == "numba":
        raise ValueError(f"backend='numba' cannot run this layer: {reason}; use backend='auto' or 'reference'")
    return reason is None and INSTALLED


def obstacle(spike: Spike, inhibition: bool, own_quantize: bool, tensors: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot run a layer with these, or None."""
    if spike.surrogate.stochastic:
        return f"{type(spike.surrogate).__name__} draws noise"
    if inhibition:
        return "it has inhibition"
    if own_quantize:
        return "its state is quantised by a function of its own"
    if torch.compiler.is_compiling():
        return None if tensors[0].is_cpu else f"its input is on {tensors[0].device}"
    return gate.surroundings() or gate.obstacle(*tensors)
