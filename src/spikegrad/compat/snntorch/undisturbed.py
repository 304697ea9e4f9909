"""A network that is run to be recorded, left as it was."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from spikegrad.compat.snntorch.operations import refused

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of PyTorch, which is one operation, rather than a network of them."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    return type(module).__module__.startswith("torch.nn.modules") and not isinstance(module, containers)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called along with a module."""
    return any(getattr(module, kind) for kind in _HOOKS)


@contextlib.contextmanager
def undisturbed(root: nn.Module, neurons: Mapping[nn.Module, Any], instead: Callable[[nn.Module], Callable[..., Any]]) -> Generator[None]:
    """Run a network with other functions in place of its layers, and leave it as it was: states, statistics, hooks, random numbers.

    Args:
        root: the network.
        neurons: its spiking layers with the names of their states; they are at rest.
        instead: what a layer calls in place of its `forward`.

    Raises:
        FusionError: the network kept something, or drew numbers that PyTorch does not know of.
    """
    hidden = {(m, name): getattr(m, name) for m, names in neurons.items() for name in names}
    counting = [m for m in root.modules() if m.training and m not in neurons]
    buffers = [(buffer, buffer.clone()) for m in counting for buffer in m.buffers(recurse=False)]
    stored, elsewhere = _attributes(root, neurons), (random.getstate(), _numpy_state())
    inner = {child for neuron in neurons for child in neuron.modules()}
    layers = [m for m in root.modules() if is_layer(m) and m not in inner]
    hooks = [(m, kind, getattr(m, kind)) for m in (*neurons, *layers) for kind in _HOOKS]
    for module, kind, _ in hooks:
        setattr(module, kind, OrderedDict[int, Any]())
    own = {m: m.__dict__.get("forward") for m in (*neurons, *layers)}
    for module in own:
        module.__dict__["forward"] = instead(module)
    for (module, name), state in hidden.items():
        setattr(module, name, torch.zeros(0, dtype=state.dtype, device=state.device))
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
            yield
        if elsewhere != (random.getstate(), _numpy_state()):
            raise refused(root, "its forward draws random numbers from Python or NumPy", None, "draw them with PyTorch")
        changed = [key for key, was in _attributes(root, neurons).items() if stored.get(key) != was]
        if changed:
            names = ", ".join(sorted({".".join(filter(None, (path, name))) for path, name in changed}))
            raise refused(root, f"its forward stores {names} on the module", None, "return it instead")
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward")
            if forward is not None:
                module.__dict__["forward"] = forward
        for module, kind, kept in hooks:
            setattr(module, kind, kept)
        for (module, name), state in hidden.items():
            setattr(module, name, state)
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)


def _attributes(root: nn.Module, neurons: Mapping[nn.Module, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """What modules keep outside of their parameters: identity, and length of lists, so that a change shows."""
    skipped = ("training", "forward")
    return {
        (path, name): (id(value), len(value) if isinstance(value, list | dict) else 0)  # pyright: ignore[reportUnknownArgumentType]
        for path, module in root.named_modules()
        if module not in neurons
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))
        if name not in skipped and not name.startswith("_")
    }


def _numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state())
