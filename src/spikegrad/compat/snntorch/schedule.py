"""A recorded network, put in order for whole sequences: what each step does alike is done once for all of them.

Operations are alike if they do the same to what is alike: the same layer, or function with the same numbers, applied to tensors that
came of alike operations. Spiking layers are sequences by themselves. Whatever is left, such as a running sum over the steps, runs as it
was recorded. Nothing here is approximate: an operation over all steps is `torch.vmap` of the one that each step does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.neuron import SpikingNeuron
from spikegrad.compat.snntorch.operations import Constant, FusionError, Named, Node, Out, Recording, Tree, leaves, over, refused
from spikegrad.compat.snntorch.recording import has_hooks
from spikegrad.compat.snntorch.sequence import run as run_neuron


@dataclass(eq=False)
class Unit:
    """Operations that run together: alike ones, the steps of a spiking layer, or a single one.

    Attributes:
        nodes: the operations in the order in which they were recorded.
        batched: whether the outputs have a first dimension, one place for each node.
        loop: why alike operations run one by one, or None where they run at once.
    """

    nodes: list[Node]
    batched: bool = False
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


class Values:
    """What units have computed in one run of a program."""

    def __init__(self, place: Mapping[Node, tuple[Unit, int]]) -> None:
        self.place = place
        self.of: dict[Unit, Any] = {}
        self.steps: dict[tuple[Unit, int], tuple[Tensor, ...]] = {}

    def one(self, ref: Out | Named | Constant) -> Tensor:
        """A single tensor."""
        if isinstance(ref, Named):
            return getattr(ref.owner, ref.name)
        if isinstance(ref, Constant):
            return ref.value
        unit, place = self.place[ref.node]
        return self.at(unit, ref.output, place)

    def at(self, unit: Unit, output: int, place: int) -> Tensor:
        """An output of one of a unit's operations."""
        value = self.of[unit][output]
        if not unit.batched:
            return value
        if (unit, output) not in self.steps:  # one unbind: the backward pass of each single index would cost as much as all of them
            self.steps[unit, output] = value.unbind(0)
        return self.steps[unit, output][place]

    def all(self, pick: Pick) -> Tensor:
        """The tensors of all steps as one, ``(steps, ...)``."""
        if pick.fixed is not None:
            return self.one(pick.fixed).expand(pick.count, *([-1] * self.one(pick.fixed).ndim))
        parts = [self._piece(piece) for piece in pick.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _piece(self, piece: Piece) -> Tensor:
        unit = piece.source
        value = self.of[unit][piece.output] if isinstance(unit, Unit) else self.one(unit)
        if not isinstance(unit, Unit) or not unit.batched:
            return value.expand(piece.stop - piece.start, *([-1] * value.ndim))
        whole = piece.start == 0 and piece.stop == len(unit.nodes)
        return value if whole else value[piece.start : piece.stop]


class Program:
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
        self.how: dict[str, str] = {}
        inputs = [Unit([node]) for node in recording.inputs]
        units = self._group(inputs)
        for unit in units:
            self._plan(unit)
        used = [ref for unit in units for node in unit.nodes for ref in leaves((node.args, node.kwargs, dict(node.start or {})))]
        for ref in (*used, *leaves(recording.result)):
            if isinstance(ref, Out) and ref.node in self.place:
                self.place[ref.node][0].wanted.add(ref.output)
        self.inputs = inputs
        self.units = self._ordered(units)

    @property
    def random(self) -> bool:
        """Whether any operation draws random numbers."""
        return any(node.random for unit in self.units for node in unit.nodes)

    def _group(self, inputs: list[Unit]) -> list[Unit]:
        """Find what is alike."""
        found: dict[Any, Unit] = {}
        chains: dict[nn.Module, Unit] = {}
        varying: set[Node] = set()
        units: list[Unit] = []
        for unit in inputs:
            self.place[unit.nodes[0]] = (unit, 0)
        for node in self.recording.nodes:
            if isinstance(node.target, SpikingNeuron):
                unit = chains.get(node.target)
                if unit is None or node.start is not None:
                    self._check_start(node, unit, varying)
                    unit = chains[node.target] = Unit([], batched=True)
                    units.append(unit)
                varying.add(node)
            else:
                changes = any(isinstance(ref, Out) and ref.node in varying for ref in leaves((node.args, node.kwargs)))
                steps = node.target is torch.select and not changes
                if changes or steps:
                    varying.add(node)
                key = self._key(node, steps)
                alone = not changes and (node.random or _counts(node))
                unit = None if alone else found.get(key)
                if unit is not None and not changes:  # the same again
                    places = [n.args[2:] for n in unit.nodes] if steps else [()]
                    if node.args[2:] in places or not steps:
                        self.place[node] = (unit, places.index(node.args[2:] if steps else ()))
                        continue
                if unit is None:
                    unit = found[key] = Unit([])
                    units.append(unit)
            self.place[node] = (unit, len(unit.nodes))
            unit.nodes.append(node)
        for unit in units:
            unit.batched = len(unit.nodes) > 1 or unit.neuron is not None
        return units

    def _check_start(self, node: Node, before: Unit | None, varying: set[Node]) -> None:
        """Refuse a layer whose state is changed between its steps."""
        for name, ref in (node.start or {}).items():
            if before is not None and isinstance(ref, Out) and ref.node in varying:
                what = f"state {name} of `{self.paths[node.target]}`"
                changed = f"is changed by {self._label(Unit([ref.node]))}" if ref.node.target is not node.target else "is another output"
                place = ref.node if ref.node.where is not None else node
                raise refused(self.root, f"{what} {changed} between two steps", place, "a state may only be passed on as it is")

    def _key(self, node: Node, steps: bool) -> Any:
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
            for name, ref in (unit.nodes[0].start or {}).items():
                unit.start[name] = self._pick([ref])
            if len({node.grad for node in unit.nodes}) > 1:
                raise refused(self.root, f"{self._label(unit)} runs with gradients in some steps and without in others", unit.nodes[-1])
        elif not unit.batched:
            args = unit.nodes[0].args
            if unit.nodes[0].target is torch.stack and args and isinstance(args[0], list | tuple):
                unit.slots = [self._pick(list(args[0]))]  # pyright: ignore[reportUnknownArgumentType]
        else:
            columns = zip(*(leaves((node.args, node.kwargs)) for node in unit.nodes), strict=True)
            unit.slots = [self._pick(list(column)) for column in columns]

    def _pick(self, refs: list[Out | Named | Constant]) -> Pick:
        first = refs[0]
        alike = all(type(ref) is type(first) and ref[0] is first[0] and ref[1:] == first[1:] for ref in refs)
        if alike and not (isinstance(first, Out) and self.place[first.node][0].batched):
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

    def _ordered(self, units: list[Unit]) -> list[Unit]:
        """An order in which each unit comes after those it needs."""
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
        refs = [ref for node in unit.nodes for ref in leaves((node.args, node.kwargs, dict(node.start or {})))]
        return iter(dict.fromkeys(self.place[ref.node][0] for ref in refs if isinstance(ref, Out)))

    def _cyclic(self, cycle: list[Unit]) -> FusionError:
        """`cycle`: each needs the next, the last needs the first."""
        at = next(place for place, unit in enumerate(cycle) if unit.neuron is not None)
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

    def run(self, inputs: Sequence[Tensor]) -> Tree:
        """What the network returns for these inputs."""
        values = Values(self.place)
        for unit, value in zip(self.inputs, inputs, strict=True):
            values.of[unit] = [value]
        recording = torch.is_grad_enabled()
        for unit in self.units:
            with torch.set_grad_enabled(recording and unit.nodes[0].grad):
                values.of[unit] = self._run(unit, values)
        return over(self.recording.result, values.one)

    def _run(self, unit: Unit, values: Values) -> Any:
        node = unit.nodes[0]
        if unit.neuron is not None:
            return self._sequence(unit, values)
        if node.target is torch.stack and unit.slots and not unit.batched:
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            stacked = values.all(unit.slots[0])
            return [stacked.movedim(0, dim) if dim else stacked]
        if not unit.batched:
            return leaves(node.target(*over(node.args, values.one), **over(dict(node.kwargs), values.one)))
        if node.target is torch.select and unit.slots[0].fixed is not None:
            return [self._steps(unit, values)]
        return self._alike(unit, values)

    def _steps(self, unit: Unit, values: Values) -> Tensor:
        """Steps of a sequence: a view of it, where they are all of them in order."""
        sequence, dim = values.one(unit.nodes[0].args[0]), unit.nodes[0].args[1]
        indices = [node.args[2] for node in unit.nodes]
        first, last = indices[0], indices[-1] + 1
        moved = sequence.movedim(dim, 0) if dim else sequence
        if indices == list(range(first, last)):
            return moved if last - first == len(moved) else moved[first:last]
        return moved.index_select(0, torch.tensor(indices, device=moved.device))

    def _sequence(self, unit: Unit, values: Values) -> list[Tensor | None]:
        neuron = unit.neuron
        assert neuron is not None
        names = ("spk", *(name for name in neuron.STATES if name != "spk"))
        wanted = frozenset(name for index, name in enumerate(names) if index in unit.wanted)
        start = {name: values.all(pick)[0] for name, pick in unit.start.items()}
        found, why = run_neuron(neuron, values.all(unit.slots[0]), start, wanted)
        self.how[self.paths[neuron]] = "fused" if why is None else f"step loop, because {why}"
        return [found.get(name) for name in names]

    def _alike(self, unit: Unit, values: Values) -> list[Tensor]:
        """The same operation at all steps."""
        node, count = unit.nodes[0], len(unit.nodes)
        fixed = [pick.fixed is not None for pick in unit.slots]
        if all(fixed):
            fixed[0] = False  # draws numbers of its own at each step
        given = [
            values.one(pick.fixed) if same and pick.fixed is not None else values.all(pick)
            for pick, same in zip(unit.slots, fixed, strict=True)
        ]

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            filled = iter(tensors)
            args, kwargs = over((node.args, dict(node.kwargs)), lambda _: next(filled))
            return tuple(leaves(node.target(*args, **kwargs)))

        unit.loop = unit.loop or _one_by_one(node)
        out: Any = None
        if unit.loop is None:
            try:
                out = torch.vmap(step, tuple(None if same else 0 for same in fixed), randomness="different")(*given)
            except RuntimeError as error:
                unit.loop = f"torch.vmap refuses it: {str(error).splitlines()[0]}"
        if out is None:
            each = [step(*(t if same else t[place] for t, same in zip(given, fixed, strict=True))) for place in range(count)]
            out = [torch.stack(parts) for parts in zip(*each, strict=True)]
        if isinstance(node.target, nn.Module):
            drawn = "whole sequence; its random numbers are drawn in another order than step by step" if node.random else "whole sequence"
            self.how[self.paths[node.target]] = drawn if unit.loop is None else f"step loop, because {unit.loop}"
        return list(out)


class _Leaf:
    """What stands for a tensor in a key; a tuple would be taken apart."""

    def __init__(self, value: Any) -> None:
        self.value = value


def frozen(tree: Tree) -> Any:
    """A tree as something that hashes."""
    if isinstance(tree, _Leaf):
        return ("leaf", tree.value)
    if isinstance(tree, tuple | list):
        return (type(tree).__name__, *map(frozen, tree))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(tree, dict):
        return ("dict", *((key, frozen(value)) for key, value in tree.items()))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(tree, slice):
        return ("slice", frozen(tree.start), frozen(tree.stop), frozen(tree.step))
    return (type(tree).__name__, tree)


def _counts(node: Node) -> bool:
    """Whether an operation changes what its layer keeps, so that it must run as often as it was called."""
    target = node.target
    if isinstance(target, nn.Module):
        return target.training and any(True for _ in target.buffers())
    return getattr(target, "__name__", "") in ("batch_norm", "instance_norm")


def _one_by_one(node: Node) -> str | None:
    """Why alike operations must run one after the other."""
    target = node.target
    if isinstance(target, nn.Module) and has_hooks(target):
        return "it has hooks, which are called at each step"
    if _counts(node):
        return "in training its statistics are those of each step"
    if any(isinstance(value, torch.Generator) for value in node.kwargs.values()):
        return "it draws from a generator of its own"
    return None
