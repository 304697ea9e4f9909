"""What the passes of weights and neurons over events are given; `spikegrad.kernels.cpu.event_loops` prints them.

Threads claim units: a sample, backward a group of samples, and a block of columns, of which there are several where weights are larger
than a core's cache; see `spikegrad.kernels.choice.pieces`. Of a sample come the time steps one after the other, so that its states,
currents and adjoints are rows in a first-level cache. Forward, the rows of weights of the senders that spiked are added, all neurons make
a step, and the places of those that spiked are listed, and of those that a backward pass will have to look at: the *pairs*. Backward, all
neurons make the quiet reverse of a step, and pairs the full one in its place; see `spikegrad.quiet`.

A kernel is called with the address of a job, see `spikegrad.kernels.cpu.threads`. Its arguments, a word each, are addresses unless said
otherwise, 0 for what is not given or not wanted:

=============================  ========================================================================================================
``samples``, ``features``,     how many; ``line``: bytes of a row of scratch; ``room``: places that lists have for each unit
``senders``
``breadth``, ``parts``,        columns of a block, and blocks; groups of samples, and samples of a group
``groups``, ``together``
``weights``, ``bias``          by sender, a block of columns after the other
``index``, ``base``,           events that arrive: places of senders; where in the list a sample begins, 64 bits each, and, counted from
``since``                      there, where a step does, 32 bits each, one more than there are steps
``numbers``                    the parameters, then the numbers of the surrogate
``window``                     the interval outside of which the surrogate's derivative is 0
``first.v``, ``columns.v``,    states before the first step (gradients after the last): their address, and how many elements lie between
``samples.v``                  two neurons and between two samples; ``last.v``, those at the other end of time
``currents``                   a sequence that is added to what arrives, forward; to which the gradient of currents is written, backward
``out``                        a sequence of outputs that are numbers, or of their gradients
``column.beta``                a parameter that has a value for each neuron; backward ``sum.beta``, its gradient for each sample
``every.u``                    what is kept for all neurons, by sample
``spikes``, ``spiked``         lists of what spiked; where in a unit's a step begins
``pairs``, ``near``,           likewise of pairs; where those begin that are pairs for a spike alone; what is kept at them; backward these
``active``, ``kept.u``,        are lists of samples, in which a step has its blocks one after the other, and begin at the origin
``origin``
``record.u``                   a sequence to which a recorded value is written, or of its gradients
``flags``                      for each unit, whether a potential was not a number
``arriving``                   backward: the gradients of the outputs at pairs
``grad.weights``,              for each group of samples its share
``grad.bias``
``recurrent``,                 weights of what the layer's own spikes bring a step later, by sender; what these bring to the first step,
``fed``, ``own.base``,         forward, and backward its gradient, that of the first currents; backward, where a sample's spikes
``grad.recurrent``             begin in their list; the gradient of the weights, for each group of samples its share
``below``, ``below.base``,     the pairs of the layer below, how many, and of how many blocks, at which the gradient of the events that
``below.near``,                arrive is computed: ``grad.below``, for each block of columns its share
``below.active``,
``below.parts``,
``below.count``
=============================  ========================================================================================================
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from spikegrad.kernels.plan import Call
from spikegrad.quiet import Split, split


@functools.lru_cache(maxsize=1024)
def split_of(call: Call, learned: tuple[str, ...] = ()) -> Split:
    """The programs of a layer over events."""
    return split(call.plan.step, call.plan.inputs, call.plan.states, call.plan.parameters, learned, call.recorded)


@dataclass(frozen=True)
class Variant:
    """What one compiled kernel is made of.

    Attributes:
        call: the layer, with one input and one output.
        backward: which pass.
        rare: whether the full reverse runs at pairs alone; else for all neurons.
        given: how wide the places of senders are, ``"narrow"`` or ``"wide"``.
        own: the same of the layer's neurons.
        fed: whether neurons receive the spikes of all of them a step later.
        learned: parameters whose gradients are wanted.
        columns: parameters that have a value for each neuron; the others are one number.
    """

    call: Call
    backward: bool
    rare: bool
    given: str
    own: str
    fed: bool = False
    learned: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @functools.cached_property
    def split(self) -> Split:
        """The programs."""
        return split_of(self.call, self.learned)

    @functools.cached_property
    def everywhere(self) -> tuple[str, ...]:
        """What is kept for all neurons and steps."""
        return self.split.everywhere if self.rare else (*self.split.everywhere, *self.split.pairs)

    @functools.cached_property
    def pairs(self) -> tuple[str, ...]:
        """What is kept at pairs."""
        return self.split.pairs if self.rare else ()

    def numbers(self) -> tuple[str, ...]:
        """The parameters, and the numbers of the surrogate."""
        return (*self.call.plan.parameters, *(f"spike.{name}" for name in self.call.surrogate.arguments[1:]))

    @functools.cached_property
    def arguments(self) -> tuple[str, ...]:
        """The names of what the kernel is given, in their order."""
        each = [f"{what}.{name}" for name in self.call.plan.states for what in ("first", "columns", "samples", "last")]
        kept = (*(f"every.{name}" for name in self.everywhere), *(f"kept.{name}" for name in self.pairs))
        shared = (
            "samples",
            "features",
            "senders",
            "line",
            "room",
            "breadth",
            "groups",
            "parts",
            "weights",
            "index",
            "base",
            "since",
            "numbers",
            *each,
            "currents",
            "out",
            *kept,
            *(f"record.{name}" for name in self.call.recorded),
        )
        shared += ("recurrent", "fed", "spikes", "spiked", *(f"column.{name}" for name in self.columns))
        lists = ("pairs", "near", "active")
        if not self.backward:
            return (*shared, "bias", "window", *lists, "flags")
        below = ("below", "below.base", "below.near", "below.active", "below.parts", "below.count", "grad.below")
        return (
            *shared,
            *lists,
            "together",
            "origin",
            "own.base",
            "arriving",
            "grad.weights",
            "grad.recurrent",
            "grad.bias",
            *below,
            *(f"sum.{n}" for n in self.learned),
        )

    def adjoints(self) -> tuple[str, ...]:
        """The rows into which a reverse writes, after that of the current."""
        return (*(f"adjoint {name}" for name in self.call.plan.states), *(f"part {name}" for name in self.learned))

    @functools.cached_property
    def rows(self) -> tuple[str, ...]:
        """What the rows of scratch are that a thread needs."""
        states = self.call.plan.states
        if self.backward:
            full = [f"full {name}" for name in ("current", *states, *self.learned)]
            return ("bar", *self.adjoints(), *("sent", "received") * self.fed, *full)
        watched = dict.fromkeys((*self.split.watched, *self.pairs))
        return ("current", *(f"state {name}" for name in states), *(f"watched {name}" for name in watched))
