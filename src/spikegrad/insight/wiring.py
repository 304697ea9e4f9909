"""What stands between the spiking layers of a model: which feed which, and through which parameters, read from the graph of one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spikegrad.insight.recording import Recording


@dataclass(frozen=True)
class Wires:
    """What leads to a layer.

    Attributes:
        before: names of the layers whose output it is given, through whatever stands between.
        parameters: names of the parameters between these and it.
        last: the names of those of them that belong to the module next to it: a linear map, a convolution, a normalisation.
    """

    before: tuple[str, ...]
    parameters: tuple[str, ...]
    last: tuple[str, ...]


def wiring(model: nn.Module, recording: Recording) -> dict[str, Wires]:
    """The wires of each layer that was called, from a recording with its graph.

    Args:
        model: what was recorded.
        recording: made with ``gradient=True``.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    ends = _ends(recording)
    found: dict[str, Wires] = {}
    for name, layer in recording.items():
        if layer.called:
            before, parameters = _behind(layer.parts("current"), ends, names)
            owner = parameters[0].rpartition(".")[0] if parameters else ""
            last = tuple(each for each in parameters if each.rpartition(".")[0] == owner)
            found[name] = Wires(tuple(each for each in before if each != name), tuple(parameters), last)
    return found


def ordered(wires: Mapping[str, Wires]) -> list[str]:
    """The layers, each after those that feed it, as far as no loop forbids that."""
    done: dict[str, None] = {}

    def visit(name: str, above: frozenset[str]) -> None:
        if name in done or name in above or name not in wires:
            return
        for each in wires[name].before:
            visit(each, above | {name})
        done[name] = None

    for name in wires:
        visit(name, frozenset())
    return [*done]


def behind(name: str, wires: Mapping[str, Wires]) -> set[str]:
    """All layers from which something reaches a layer."""
    found, waiting = set[str](), [name]
    while waiting:
        for each in wires[waiting.pop()].before:
            if each not in found and each in wires:
                found.add(each)
                waiting.append(each)
    return found - {name}


def _ends(recording: Recording) -> dict[Any, str]:
    """The nodes of the graph at which a layer's output begins."""
    return {x.grad_fn: name for name, layer in recording.items() for x in layer.parts("spikes") if x.grad_fn is not None}


def _behind(tensors: Iterable[Tensor], ends: Mapping[Any, str], names: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Layers and parameters that tensors come from, the nearest first, without going through a layer."""
    level = [x.grad_fn for x in tensors if x.grad_fn is not None]
    seen, layers, parameters = set[Any](level), dict[str, None](), dict[str, None]()
    while level:
        following: list[Any] = []
        for node in level:
            if node in ends:
                layers[ends[node]] = None
                continue
            name = names.get(id(getattr(node, "variable", None)))
            if name is not None:
                parameters[name] = None
            for each, _ in node.next_functions:
                if each is not None and each not in seen:
                    seen.add(each)
                    following.append(each)
        level = following
    return [*layers], [*parameters]
