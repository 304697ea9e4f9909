"""Which implementation runs a layer: the plain loop, or the fused kernels, Numba's on the CPU and Triton's on GPUs."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as hooked_globally  # pyright: ignore[reportPrivateUsage]

from spikegrad.kernels import gate
from spikegrad.kernels.lock import LOCK
from spikegrad.nn.spike import Spike
from spikegrad.surrogate import Surrogate

BACKENDS = ("auto", "numba", "triton", "reference")
INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("numba", "triton")}
"""Compilers of kernels."""


@functools.cache
def kernels() -> ModuleType:
    """The fused kernels, which are imported when a layer first wants them."""
    with LOCK:
        return importlib.import_module("spikegrad.kernels.torch")


def free_memory() -> None:
    """Give back the memory that fused layers keep to use it again; the next layers take new memory, slower by its page faults.

    Layers keep the memory of their large results when nothing refers to them any more, up to 256 MiB, and a quarter of that for scratch.
    The environment variable ``SPIKEGRAD_KEEP`` says another number of MiB, 0 for nothing, when spikegrad's kernels are first used.
    Results of 1 MiB and more lie on pages of 2 MiB, which `torch.save` writes whole, up to 4 MiB more: save ``spikes.clone()``.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, state = nn.Leaky(0.9)(torch.rand(100, 16, 512))
        >>> del spikes, state
        >>> nn.free_memory()
    """
    for name in ("results", "memory"):
        module = sys.modules.get(f"spikegrad.kernels.cpu.{name}")
        if module is not None:
            module.release()


def check(backend: str) -> None:
    """Refuse an unknown backend, and one that is not installed."""
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if not INSTALLED.get(backend, True):
        raise ValueError(f"backend={backend!r} needs {backend.capitalize()}; install it with `pip install {backend}`")
    if backend != "reference" and any(INSTALLED.values()):
        with LOCK:
            importlib.import_module("spikegrad.kernels.operator")  # it is registered before a compiler sees the layer


def compiler(backend: str, like: Tensor) -> str:
    """Whose kernels would run a layer with such an input: ``"numba"`` or ``"triton"``."""
    return backend if backend in INSTALLED else "numba" if like.is_cpu else "triton"


def fused(backend: str, of: str, reason: str | None) -> bool:
    """Whether the fused kernels of a compiler run a layer, if there is no reason why they cannot.

    Raises:
        ValueError: they were asked for by name and cannot; the message says why.
    """
    if backend == "reference":
        return False
    if reason is not None and backend == of:
        raise ValueError(f"backend={backend!r} cannot run this layer: {reason}; use backend='auto' or 'reference'")
    return reason is None and INSTALLED[of]


def obstacle(of: str, spike: Spike, inhibition: bool, own_quantize: bool, tensors: Sequence[Tensor]) -> str | None:
    """Why the kernels of a compiler cannot run a layer with these, the input first, or None."""
    if (reason := unlike(spike, inhibition, own_quantize)) is not None:
        return reason
    device = gate.CPU
    if of == "triton":
        device = tensors[0].device
        if (reason := _off_the_gpu(device)) is not None:
            return reason
    if torch.compiler.is_compiling():
        return gate.compiling(*tensors, device=device)
    return gate.surroundings() or gate.obstacle(*tensors, device=device)


def unlike(spike: Spike, inhibition: bool, own_quantize: bool) -> str | None:
    """What neurons do that no kernel does, or None."""
    surrogate = spike.surrogate
    if surrogate.stochastic:
        return f"{type(surrogate).__name__} draws noise"
    if type(surrogate).__call__ is not Surrogate.__call__:
        return f"{type(surrogate).__name__} has a __call__ of its own"
    if (written := rewritten(spike, Spike)) is not None:
        return f"its `spike` {written}"
    if inhibition:
        return "it has inhibition"
    if own_quantize:
        return "its state is quantised by a function of its own"
    return None


def _off_the_gpu(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run a layer there, or None; on the CPU they run in Triton's interpreter."""
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"its input is on {device}; Triton's kernels run on GPUs, and on the CPU with TRITON_INTERPRET=1, slowly, to be tested"
    if device.type == "cpu" and torch.compiler.is_compiling():
        return "Triton's interpreter does not run where operations are compiled"
    return None


def rewritten(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """What is called along with a module, or in place of what its class in this package does; None if nothing is.

    Kernels do not call `nn.Spike` and `nn.Quantize` but compute what these compute. Where somebody's own code would run, they may not.
    """
    own = type(module)
    if own is not kind and (own.forward is not kind.forward or own.__call__ is not kind.__call__):
        return f"is a {own.__name__}, which has a `forward` of its own"
    if "forward" in module.__dict__:
        return "has a `forward` that somebody set"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:  # pyright: ignore
        return "has hooks"
    return "is called along with hooks of all modules" if hooked_globally() else None
