"""Which implementation runs a layer: the reference loop, or the fused kernels on the CPU."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikegrad.gradient.torch import transforming
from spikegrad.kernels import reference
from spikegrad.kernels.reference import Options
from spikegrad.nn.spike import Spike
from spikegrad.vocabulary import cast

if TYPE_CHECKING:
    from spikegrad.kernels.call import Call

BACKENDS = ("auto", "numba", "reference")
_FLOATS = (torch.float32, torch.float64)
INSTALLED = importlib.util.find_spec("numba") is not None


def check(backend: str) -> None:
    """Refuse an unknown backend, and one that is not installed."""
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if backend == "numba" and not INSTALLED:
        raise ValueError("backend='numba' needs Numba; install it with `pip install numba`")
    if backend != "reference" and INSTALLED:
        importlib.import_module("spikegrad.kernels.operator")  # its operators are registered before a compiler sees the layer


def fused(backend: str, currents: Tensor, spike: Spike | None, options: Options | None) -> bool:
    """Whether the fused kernels run a layer without spikes (None) or with these.

    Raises:
        ValueError: they were asked for by name and cannot; the message says why.
    """
    if backend == "reference":
        return False
    reason = _obstacle(currents, spike, options)
    if reason is not None and backend == "numba":
        raise ValueError(f"backend='numba' cannot run this layer: {reason}; use backend='auto' or 'reference'")
    return reason is None and INSTALLED


def _obstacle(currents: Tensor, spike: Spike | None, options: Options | None) -> str | None:
    if not currents.is_cpu:
        return f"its input is on {currents.device}"
    if transforming():
        return "it runs inside a torch.func transform or forward-mode differentiation"
    if spike is not None and spike.surrogate.stochastic:
        return f"{type(spike.surrogate).__name__} draws noise"
    if spike is not None and spike.learn:
        return f"its surrogate learns {', '.join(spike.learn)}"
    if options is not None and options.inhibition:
        return "it has inhibition"
    if options is not None and options.quantize is not None:
        return "its state is quantised"
    return None


def run_fused(
    call: Call,
    text: str,
    currents: Tensor,
    state: Any,
    names: tuple[str, ...],
    parameters: tuple[Tensor | float, ...],
    weights: Tensor | None = None,
) -> tuple[Any, ...]:
    """A layer in the fused kernels, as the reference would return it; the state has the parts `names`."""
    from spikegrad.kernels import operator

    wide = currents if currents.dtype in _FLOATS and currents.ndim > 1 else reference.checked(currents)
    start = () if state is None else reference.given_state(state, wide, names)
    weights = None if weights is None else weights.to(wide.dtype)
    spikes, *rest = operator.run(call, text, wide, start, parameters, weights)
    spikes = spikes if wide is currents else cast(spikes, currents)
    potentials = [rest.pop(0)] if call.record else []
    return spikes, tuple(rest) if len(names) > 1 else rest[-1], *potentials
