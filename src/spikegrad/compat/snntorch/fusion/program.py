"""A scheduled network, run: each unit once, over all of its steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.fusion.operations import Constant, Named, Node, Out, Recording, Tree, leaves, over
from spikegrad.compat.snntorch.fusion.recording import autocast
from spikegrad.compat.snntorch.fusion.schedule import Pick, Piece, Schedule, Unit, counts
from spikegrad.compat.snntorch.fusion.sequence import run as run_neuron
from spikegrad.compat.snntorch.fusion.undisturbed import has_hooks
from spikegrad.compat.snntorch.neuron import SpikingNeuron


class Values:
    """What units have computed in one run of a program."""

    def __init__(self, place: Mapping[Node, tuple[Unit, int]]) -> None:
        self.place = place
        self.of: dict[Unit, Sequence[Tree]] = {}
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
    """What computes all steps of a recorded network.

    Args:
        recording: what the network did.
        root: the network.

    Raises:
        FusionError: steps depend on each other in another way than through the states of spiking layers.
    """

    def __init__(self, recording: Recording, root: nn.Module) -> None:
        schedule = Schedule(recording, root)
        self.place, self.inputs, self.units, self.paths = schedule.place, schedule.inputs, schedule.units, schedule.paths
        self.result = recording.result
        self.random = any(node.random for node in recording.nodes)
        self.how: dict[str, str] = {}
        self.ran = False
        self.outputs = {unit: _outputs(unit.neuron, unit.wanted) for unit in self.units if unit.neuron is not None}

    def run(self, inputs: Sequence[Tensor]) -> Tree:
        """What the network returns for these inputs."""
        values = Values(self.place)
        for unit, value in zip(self.inputs, inputs, strict=True):
            values.of[unit] = [value]
        recording = torch.is_grad_enabled()
        for unit in self.units:
            if unit.nodes[0].grad == recording or not recording:
                values.of[unit] = self._run(unit, values)
            else:
                with torch.no_grad():
                    values.of[unit] = self._run(unit, values)
        return over(self.result, values.one)

    def _run(self, unit: Unit, values: Values) -> Sequence[Tensor | None]:
        node = unit.nodes[0]
        if unit in self.outputs:
            return self._sequence(unit, values)
        if node.target is torch.stack and unit.slots and not unit.batched:
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            stacked = values.all(unit.slots[0])
            return [stacked.movedim(0, dim) if dim else stacked]
        if not unit.batched:
            return leaves(node.target(*over(node.args, values.one), **over(dict(node.kwargs), values.one)))
        if unit.places:
            return [self._steps(unit, values)]
        return self._alike(unit, values)

    def _steps(self, unit: Unit, values: Values) -> Tensor:
        """Steps of a sequence: a view of it, where they are all of them in order."""
        sequence, dim = values.one(unit.nodes[0].args[0]), unit.nodes[0].args[1]
        moved = sequence.movedim(dim, 0) if dim else sequence
        if isinstance(unit.places, range):
            return moved if len(unit.places) == len(moved) else moved[unit.places.start : unit.places.stop]
        return moved.index_select(0, torch.tensor(unit.places, device=moved.device))

    def _sequence(self, unit: Unit, values: Values) -> list[Tensor | None]:
        neuron, names, wanted = self.outputs[unit]
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
        out: Sequence[Tensor] | None = None
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


def _outputs(neuron: SpikingNeuron, wanted: Collection[int]) -> tuple[SpikingNeuron, tuple[str, ...], frozenset[str]]:
    """A layer, the names of what it returns, and those of them that are used."""
    names = ("spk", *(name for name in neuron.STATES if name != "spk"))
    return neuron, names, frozenset(name for index, name in enumerate(names) if index in wanted)


def _one_by_one(node: Node) -> str | None:
    """Why alike operations must run one after the other."""
    target = node.target
    if isinstance(target, nn.Module) and has_hooks(target):
        return "it has hooks, which are called at each step"
    if any(enabled for enabled, _ in autocast()):
        return "torch.vmap leaves autocast out"
    if counts(node):
        return "in training its statistics are those of each step"
    if any(isinstance(value, torch.Generator) for value in node.kwargs.values()):
        return "it draws from a generator of its own"
    return None
