"""A network that is run to be recorded, left as it was."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator

import numpy as np
import torch
from torch import nn

from spikegrad.compat.snntorch.fusion.operations import Tree, refused
from spikegrad.compat.snntorch.neuron import SpikingNeuron

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of PyTorch, which is one operation, rather than a network of them."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    return type(module).__module__.startswith("torch.nn.modules") and not isinstance(module, containers)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called along with a module."""
    return any(getattr(module, kind) for kind in _HOOKS)


@contextlib.contextmanager
def undisturbed(
    root: nn.Module, neurons: Collection[SpikingNeuron], instead: Callable[[nn.Module], Callable[..., Tree]]
) -> Generator[None]:
    """Run a network with other functions in place of its layers, and leave it as it was: states, statistics, hooks, random numbers.

    Args:
        root: the network.
        neurons: its spiking layers; they are at rest.
        instead: what a layer calls in place of its `forward`.

    Raises:
        FusionError: the network kept something, or drew numbers that PyTorch does not know of.
    """
    counting = [m for m in root.modules() if m.training and not isinstance(m, SpikingNeuron)]
    buffers = [(buffer, buffer.clone()) for m in counting for buffer in m.buffers(recurse=False)]
    stored, elsewhere = list(_attributes(root)), (random.getstate(), _numpy_state())
    inner = {child for neuron in neurons for child in neuron.modules()}
    layers = [m for m in root.modules() if is_layer(m) and m not in inner]
    hooks = [(m, kind, getattr(m, kind)) for m in (*neurons, *layers) for kind in _HOOKS]
    for module, kind, _ in hooks:
        setattr(module, kind, OrderedDict[int, Callable[..., Tree]]())
    own = {m: m.__dict__.get("forward") for m in (*neurons, *layers)}
    for module in own:
        module.__dict__["forward"] = instead(module)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices), own_state(*neurons):
            for neuron in neurons:
                for name in neuron.STATES:
                    setattr(neuron, name, getattr(neuron, name).new_zeros(0))
            yield
        if elsewhere != (random.getstate(), _numpy_state()):
            raise refused(root, "its forward draws random numbers from Python or NumPy", None, "draw them with PyTorch")
        changed = [path for module, path, name, value, size in stored if getattr(module, name, None) is not value or _size(value) != size]
        changed += {path for _, path, *_ in _attributes(root)} - {path for _, path, *_ in stored}
        if changed:
            raise refused(root, f"its forward stores {', '.join(sorted(changed))} on the module", None, "return it instead")
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward")
            if forward is not None:
                module.__dict__["forward"] = forward
        for module, kind, kept in hooks:
            setattr(module, kind, kept)
        for module, _, name, value, size in stored:
            if getattr(module, name, None) is not value:
                setattr(module, name, value)
            elif isinstance(value, list):
                del value[size:]
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)


def _attributes(root: nn.Module) -> Generator[tuple[nn.Module, str, str, Tree, int]]:
    """What modules keep outside of their parameters: module, path, name, value, and length of a list or dict."""
    for prefix, module in root.named_modules():
        if isinstance(module, SpikingNeuron):
            continue
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
            if name not in ("training", "forward") and name[0] != "_":
                yield module, f"{prefix}.{name}" if prefix else name, name, value, _size(value)


def _size(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


@contextlib.contextmanager
def own_state(*neurons: SpikingNeuron, rest: bool = False) -> Generator[None]:
    """Give layers their own state back afterwards; begin at rest, if told."""
    kept = [(neuron, name, getattr(neuron, name)) for neuron in neurons for name in (*neuron.STATES, "_home")]
    try:
        for neuron in neurons if rest else ():
            neuron.reset_mem()
        yield
    finally:
        for neuron, name, state in kept:
            setattr(neuron, name, state)


def _numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state())
