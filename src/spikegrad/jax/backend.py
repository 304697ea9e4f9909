"""Which implementation runs a layer: the reference scan, or the fused kernels on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

import jax

from spikegrad.kernels import reference
from spikegrad.kernels.call import INTEGRATOR, Call
from spikegrad.kernels.reference import Options
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import cast

Backend = Literal["auto", "numba", "reference"]
INSTALLED = importlib.util.find_spec("numba") is not None


def fused(backend: str, reason: str | None = None) -> bool:
    """Whether the fused kernels run a layer; `reason` says why they cannot.

    Raises:
        ValueError: the backend is unknown, or the kernels were asked for by name and cannot.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    if backend == "reference":
        return False
    if not INSTALLED:
        reason = "Numba is not installed (`pip install numba`)"
    elif jax.default_backend() != "cpu":
        reason = f"JAX runs on {jax.default_backend()}"
    if reason is not None and backend == "numba":
        raise ValueError(f"backend='numba' cannot run this layer: {reason}; use backend='auto' or 'reference'")
    return reason is None


def obstacle(spike: Surrogate, options: Options, learned: dict[str, Any]) -> str | None:
    """Why the kernels cannot run a layer with these, or None."""
    if spike.stochastic:
        return f"{type(spike).__name__} draws noise"
    if learned:
        return f"its surrogate is given arrays for {', '.join(learned)}"
    if options.inhibition:
        return "it has inhibition"
    return "its state is quantised" if options.quantize is not None else None


def run_fused(
    backend: str, call: Call, currents: jax.Array, state: Any, parameters: tuple[Any, ...], weights: jax.Array | None
) -> tuple[Any, ...]:
    """A layer in the fused kernels, as the reference would return it."""
    from spikegrad.kernels import primitive

    names = (("i", "v") if call.kind == "synaptic" else ("v",)) + (() if weights is None else ("s",))
    wide = reference.checked(currents)
    start = tuple(cast(part, wide) for part in reference.given_state(state, wide, names))
    found = primitive.run(call, wide, start, parameters, weights, strict=backend == "numba")
    last = tuple(found[1 + call.record :])
    out = cast(found[0], currents), last if len(names) > 1 else last[-1]
    return (*out, found[1]) if call.record else out


def integrate(backend: str, currents: jax.Array, state: Any, beta: Any) -> tuple[jax.Array, jax.Array]:
    """See `spikegrad.jax.leaky_integrator`."""
    if not fused(backend):
        return reference.leaky_integrator(currents, state, beta)
    potentials, last = run_fused(backend, INTEGRATOR, currents, state, (beta,), None)
    return potentials, last
