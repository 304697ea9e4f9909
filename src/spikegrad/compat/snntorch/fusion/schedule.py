"""A recorded network, put in order for whole sequences: what each step does alike is done once for all of them.

Operations are alike if they do the same to what is alike: the same layer, or function with the same numbers, applied to tensors that
came of alike operations. Spiking layers are sequences by themselves. Whatever is left, such as a running sum over the steps, runs as it
was recorded. Nothing here is approximate: an operation over all steps is `torch.vmap` of the one that each step does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from spikegrad.compat.snntorch.fusion.operations import Constant, FusionError, Named, Node, Out, Recording, Tree, leaves, over, refused
from spikegrad.compat.snntorch.fusion.recording import KEEPS_STATISTICS
from spikegrad.compat.snntorch.neuron import SpikingNeuron


@dataclass(eq=False)
class Unit:
    """Operations that run together: alike ones, the steps of a spiking layer, or a single one.

    Attributes:
        nodes: the operations in the order in which they were recorded.
        batched: whether the outputs have a first dimension, one place for each node.
        places: which steps of a sequence they select, if they do.
        loop: why alike operations run one by one, or None where they run at once.
    """

    nodes: list[Node]
    batched: bool = False
    places: Sequence[int] = ()
    loop: str | None = None
    slots: list[Pick] = field(default_factory=list["Pick"])
    start: dict[str, Pick] = field(default_factory=dict[str, "Pick"])
    wanted: set[int] = field(default_factory=set[int])

    @property
    def neuron(self) -> SpikingNeuron | None:
        """The spiking layer whose steps these are."""
        target = self.nodes[0].target
        return target if isinstance(target, SpikingNeuron) else None


class Piece(NamedTuple):
    """Places ``start`` to ``stop`` of an output of a unit; of anything but a batched unit all places are the same."""

    source: Unit | Named | Constant
    output: int
    start: int
    stop: int


@dataclass(eq=False)
class Pick:
    """One tensor for each of several steps: pieces of outputs, or something that is the same at each."""

    pieces: Sequence[Piece]
    fixed: Out | Named | Constant | None = None
    count: int = 1


class Schedule:
    """A recording as units in an order in which they can run.

    Args:
        recording: what the network did.
        root: the network, for messages.

    Raises:
        FusionError: steps depend on each other in another way than through the states of spiking layers.
    """

    def __init__(self, recording: Recording, root: nn.Module) -> None:
        self.root, self.recording = root, recording
        self.paths = {module: path for path, module in root.named_modules()}
        self.place: dict[Node, tuple[Unit, int]] = {}
        inputs = [Unit([node]) for node in recording.inputs]
        units = self._group(inputs)
        for unit in units:
            self._plan(unit)
        self.inputs = inputs
        results = [ref for ref in leaves(recording.result) if isinstance(ref, Out)]
        self.units = self._ordered([self.place[ref.node][0] for ref in results] + [unit for unit in units if counts(unit.nodes[0])])
        used = [ref for unit in self.units for node in unit.nodes for ref in leaves((node.args, node.kwargs, dict(node.start)))]
        for ref in (*used, *results):
            if isinstance(ref, Out):
                self.place[ref.node][0].wanted.add(ref.output)

    def _group(self, inputs: list[Unit]) -> list[Unit]:
        """Find what is alike."""
        found: dict[Hashable, Unit] = {}
        started: set[nn.Module] = set()
        varying: set[Node] = set()
        selecting: set[Node] = set()
        units: list[Unit] = []
        for unit in inputs:
            self.place[unit.nodes[0]] = (unit, 0)
        for node in self.recording.nodes:
            if isinstance(node.target, SpikingNeuron):
                if node.before is not None:
                    unit = self.place[node.before][0]
                else:
                    if node.target in started:
                        self._check_start(node, varying)
                    unit = Unit([])
                    units.append(unit)
                    started.add(node.target)
                varying.add(node)
            else:
                changes = any(isinstance(ref, Out) and ref.node in varying for ref in leaves((node.args, node.kwargs)))
                steps = node.target is torch.select and not changes
                if changes or steps:
                    varying.add(node)
                if steps:
                    selecting.add(node)
                key = self._key(node, steps)
                alone = not changes and (node.random or counts(node))
                unit = None if alone else found.get(key)
                if unit is not None and not changes:  # the same again
                    at = next((at for at, other in enumerate(unit.nodes) if other.args[2:] == node.args[2:]), None) if steps else 0
                    if at is not None:
                        self.place[node] = (unit, at)
                        continue
                if unit is None:
                    unit = found[key] = Unit([])
                    units.append(unit)
            self.place[node] = (unit, len(unit.nodes))
            unit.nodes.append(node)
        for unit in units:
            unit.batched = len(unit.nodes) > 1 or unit.neuron is not None
            if unit.nodes[0].target is torch.select and unit.nodes[0] in selecting:
                places = [node.args[2] for node in unit.nodes]
                in_order = range(places[0], places[-1] + 1)
                unit.places = in_order if places == list(in_order) else places
        return units

    def _check_start(self, node: Node, varying: set[Node]) -> None:
        """Refuse a layer whose state is changed between its steps."""
        for name, ref in node.start.items():
            if isinstance(ref, Out) and ref.node in varying:
                what = f"state {name} of `{self.paths[node.target]}`"
                changed = f"is changed by {self._label(Unit([ref.node]))}" if ref.node.target is not node.target else "is another output"
                place = ref.node if ref.node.where is not None else node
                raise refused(self.root, f"{what} {changed} between two steps", place, "a state may only be passed on as it is")

    def _key(self, node: Node, steps: bool) -> Hashable:
        """What operations that are alike have in common: all but which step of a sequence they select."""

        def alike(ref: Out | Named | Constant) -> _Leaf:
            if isinstance(ref, Constant):
                return _Leaf(("constant", id(ref.value)))
            return _Leaf(ref if isinstance(ref, Named) else ("out", id(self.place[ref.node][0]), ref.output))

        args = node.args[:2] if steps else node.args
        try:
            key = (node.target, node.grad, node.random, frozen(over((args, dict(node.kwargs)), alike)))
            hash(key)
        except TypeError:
            return node
        return key

    def _plan(self, unit: Unit) -> None:
        """Say where the tensors of a unit's operations come from."""
        if unit.neuron is not None:
            unit.slots = [self._pick([node.args[0] for node in unit.nodes])]
            for name, ref in unit.nodes[0].start.items():
                unit.start[name] = self._pick([ref])
            if len({node.grad for node in unit.nodes}) > 1:
                raise refused(self.root, f"{self._label(unit)} runs with gradients in some steps and without in others", unit.nodes[-1])
        elif not unit.batched:
            args = unit.nodes[0].args
            if unit.nodes[0].target is torch.stack and args and isinstance(args[0], list | tuple):
                unit.slots = [self._pick(list(args[0]))]
        else:
            columns = zip(*(leaves((node.args, node.kwargs)) for node in unit.nodes), strict=True)
            unit.slots = [self._pick(list(column)) for column in columns]

    def _pick(self, refs: list[Out | Named | Constant]) -> Pick:
        first = refs[0]
        if all(self._source(ref) == self._source(first) for ref in refs) and not (
            isinstance(first, Out) and self.place[first.node][0].batched
        ):
            return Pick((), first, len(refs))
        pieces: list[Piece] = []
        for ref in refs:
            source, at = self.place[ref.node] if isinstance(ref, Out) else (ref, 0)
            output = ref.output if isinstance(ref, Out) else 0
            same = not (isinstance(source, Unit) and source.batched)
            last = pieces[-1] if pieces else None
            if last is not None and last.source is source and last.output == output and (same or last.stop == at):
                pieces[-1] = last._replace(stop=last.stop + 1)
            else:
                pieces.append(Piece(source, output, at, at + 1))
        return Pick(pieces, None, len(refs))

    def _source(self, ref: Out | Named | Constant) -> tuple[Hashable, ...]:
        """The same for two references if they are to the same tensor."""
        return (*self.place[ref.node], ref.output) if isinstance(ref, Out) else (id(ref[0]), *ref[1:])

    def _ordered(self, units: list[Unit]) -> list[Unit]:
        """These units and all that they need, each after those it needs. What nothing needs does not run."""
        done: set[Unit] = set(self.inputs)
        order: list[Unit] = []
        for unit in units:
            path: list[Unit] = []
            stack: list[tuple[Unit, Iterator[Unit]]] = [(unit, self._needs(unit))]
            while stack:
                current, needs = stack[-1]
                if current in done:
                    stack.pop()
                    continue
                if current not in path:
                    path.append(current)
                needed = next(needs, None)
                if needed is None:
                    stack.pop()
                    path.pop()
                    done.add(current)
                    order.append(current)
                elif needed in path:
                    raise self._cyclic(path[path.index(needed) :])
                elif needed not in done:
                    stack.append((needed, self._needs(needed)))
        return order

    def _needs(self, unit: Unit) -> Iterator[Unit]:
        refs = [ref for node in unit.nodes for ref in leaves((node.args, node.kwargs, dict(node.start)))]
        return iter(dict.fromkeys(self.place[ref.node][0] for ref in refs if isinstance(ref, Out)))

    def _cyclic(self, cycle: list[Unit]) -> FusionError:
        """`cycle`: each needs the next, the last needs the first."""
        order = self.recording.nodes.index
        at = min((place for place, unit in enumerate(cycle) if unit.neuron is not None), key=lambda place: order(cycle[place].nodes[0]))
        turned = [*cycle[at:], *cycle[:at]]
        layer, around = self._label(turned[0]), [self._label(unit) for unit in reversed(turned)]
        back = turned[1] if len(turned) > 1 else turned[0]
        way = " -> ".join([layer, *around[:-1], layer])
        why = f"the input of {layer} depends on its own output of an earlier step, {way}"
        return refused(
            self.root, why, back.nodes[-1], "only the states of spiking layers may pass from step to step, or use RLeaky or RSynaptic"
        )

    def _label(self, unit: Unit) -> str:
        target = unit.nodes[0].target
        if isinstance(target, nn.Module):
            return f"`{self.paths.get(target) or type(target).__name__}`"
        return f"`{target if isinstance(target, str) else getattr(target, '__name__', target)}`"


class _Leaf:
    """What stands for a tensor in a key; a tuple would be taken apart."""

    def __init__(self, value: Tree) -> None:
        self.value = value


def frozen(tree: Tree) -> Hashable:
    """A tree as something that hashes."""
    if isinstance(tree, _Leaf):
        return ("leaf", tree.value)
    if isinstance(tree, tuple | list):
        return (type(tree).__name__, *map(frozen, tree))
    if isinstance(tree, dict):
        return ("dict", *((key, frozen(value)) for key, value in tree.items()))
    if isinstance(tree, slice):
        return ("slice", frozen(tree.start), frozen(tree.stop), frozen(tree.step))
    return (type(tree).__name__, tree)


def counts(node: Node) -> bool:
    """Whether an operation changes what its layer keeps, so that it must run as often as it was called."""
    target = node.target
    if isinstance(target, nn.Module):
        return target.training and any(True for _ in target.buffers())
    return getattr(target, "__name__", "") in KEEPS_STATISTICS
