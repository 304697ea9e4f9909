"""What JAX's primitives know of a layer besides its arrays, and the same layer by way of the plain loop."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from spikegrad.kernels import loop
from spikegrad.kernels.plan import FED, Call
from spikegrad.kernels.sharding import Kind
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array


@dataclass(frozen=True)
class Static:
    """What the primitives know of a layer besides its arrays.

    These are the inputs, sequences ``(time, *step)``; the states before the first step and the parameters, each of the shape of a step or
    one number; and the numbers of the surrogate that are arrays, likewise.

    Attributes:
        call: the layer.
        surrogate: of its spikes, with the numbers that are not arrays.
        given: names of those that are.
        backend: whose kernels it insists on; with ``"auto"`` what they cannot do is left to the plain loop.
        learned: of a layer with ``"all-to-all"`` connections, which keeps what the backward pass needs, the parameters whose gradients will
            be asked for; None if none will.
    """

    call: Call
    surrogate: Surrogate
    given: tuple[str, ...]
    backend: Literal["auto", "numba", "triton"]
    learned: frozenset[str] | None = None

    @property
    def strict(self) -> bool:
        """Whether it refuses what the kernels cannot do."""
        return self.backend != "auto"

    @property
    def fed(self) -> bool:
        """Whether neurons receive the outputs of all of them."""
        return self.call.connection == "all-to-all"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sequences that are given."""
        return tuple(name for name in self.call.plan.inputs if name != FED)

    @property
    def states(self) -> tuple[str, ...]:
        """The states, what is fed back last."""
        return (*self.call.plan.states, *("recurrent",) * self.fed)

    @property
    def names(self) -> tuple[str, ...]:
        """What the arrays are, as the kernels call it; recurrent weights, by sender, are the last."""
        numbers = (*self.call.plan.parameters, *(f"spike.{name}" for name in self.given))
        return (*self.inputs, *(f"first.{name}" for name in self.states), *numbers, *("weights",) * self.fed)

    @property
    def kept(self) -> tuple[str, ...]:
        """What a layer with connections leaves for the backward pass besides its output."""
        return () if self.learned is None else tuple(f"kept.{name}" for name in self.call.plan.passes(self.learned).kept)

    @property
    def results(self) -> tuple[str, ...]:
        """What comes out: outputs, states after the last step, recorded values, and what is kept."""
        outputs = map(str, range(self.call.plan.outputs))
        return (*outputs, *(f"last.{name}" for name in self.states), *self.call.recorded, *self.kept)

    @property
    def not_kept(self) -> Static:
        """The same layer, which keeps nothing for a backward pass."""
        return dataclasses.replace(self, learned=None)

    def kind(self, name: str) -> Kind:
        """What kind of array is given by this name."""
        return "sequence" if name in self.inputs else "whole" if name == "weights" else "step"

    def split(self, arrays: Sequence[jax.Array]) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        """The inputs, and the rest by name."""
        count = len(self.inputs)
        return list(arrays[:count]), dict(zip(self.names[count:], arrays[count:], strict=True))


def working_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which a layer of inputs of this dtype computes."""
    return np.dtype("float64") if dtype == "float64" else np.dtype("float32")


def plain(*given: jax.Array, static: Static) -> list[jax.Array]:
    """The same layer by way of the plain loop."""
    plan, call = static.call.plan, static.call
    inputs, named = static.split(given)
    real, dtype = working_dtype(inputs[0].dtype), inputs[0].dtype
    wide = [x.astype(real) for x in inputs]
    zero = jnp.zeros_like(wide[0][:1]).sum(0)  # not of a shape: what a loop carries lies on devices as its inputs do
    state = [zero + named[f"first.{name}"] for name in static.states]
    numbers: dict[str, Array] = {name: named[f"spike.{name}"] for name in static.given}

    def fire(x: jax.Array, spike_at_threshold: bool, _: None) -> jax.Array:
        return static.surrogate(x, spike_at_threshold=spike_at_threshold, **numbers)

    weights = named["weights"].T if static.fed else None
    outputs, last, recorded = loop.run(call, fire, wide, state, {name: named[name] for name in plan.parameters}, weights)
    kept = [jnp.zeros_like(wide[0]) for _ in static.kept]  # nothing: the plain loop's derivatives begin anew
    return [*(x.astype(dtype) for x in outputs), *last, *recorded, *kept]


def plain_tangent(*given: jax.Array, static: Static, present: tuple[bool, ...]) -> list[jax.Array]:
    """How the results change with those inputs whose tangents are present."""
    inputs, dots = given[: len(present)], iter(given[len(present) + static.fed + len(static.kept) :])
    moving = [(x, next(dots) if there else jnp.zeros_like(x)) for x, there in zip(inputs, present, strict=True)]
    # Under `vmap` one of the two may have become an array of the shape of a step.
    primals, tangents = zip(*(jnp.broadcast_arrays(*both) for both in moving), strict=True)
    return jax.jvp(functools.partial(plain, static=static.not_kept), primals, tangents)[1]


def plain_backward(*given: jax.Array, static: Static, present: tuple[bool, ...], zero: tuple[str, ...]) -> list[jax.Array]:
    """Gradients of those inputs that are present, from those of the results."""
    count = len(static.names)
    inputs, arriving = given[:count], given[count + static.fed + len(static.kept) :]
    outputs, transpose = jax.vjp(functools.partial(plain, static=static.not_kept), *inputs)
    found = transpose([(jnp.zeros_like(o) + g).astype(o.dtype) for g, o in zip(arriving, outputs, strict=True)])
    empty = jnp.zeros_like(inputs[0][:1]).sum(0)
    wanted = [(g, name) for g, name, there in zip(found, static.names, present, strict=True) if there]
    # As a kernel: of what is one number, the gradient is that of each column, whose sum is taken elsewhere.
    alone = {name for name in static.names if name not in (*static.inputs, "weights")}
    return [empty.astype(g.dtype).at[(0,) * empty.ndim].set(g) if name in alone and not g.ndim else g for g, name in wanted]
