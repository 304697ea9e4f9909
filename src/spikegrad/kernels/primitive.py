"""The fused kernels in JAX: a primitive for a layer, with rules for differentiation, `vmap` and every platform.

Reverse mode saves the inputs and nothing else: `layer` differentiates into `tangent`, which is linear, and that transposes into `backward`.
What no kernel does, forward mode and second derivatives, lowers to the reference, as does everything on a platform other than the CPU;
a layer that insists on the kernels refuses there instead.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from spikegrad.kernels import ffi, reference
from spikegrad.kernels import numba as kernels
from spikegrad.kernels.call import Call
from spikegrad.kernels.numba import Incoming, Sizes, Weights

Arrays = Sequence[Any]


@dataclass(frozen=True)
class Static:
    """What the primitives know of a layer besides its arrays.

    Attributes:
        call: the layer.
        recurrent: whether it has recurrent weights.
        strict: whether it refuses what the kernels cannot do, instead of leaving it to the reference.
    """

    call: Call
    recurrent: bool
    strict: bool

    @property
    def states(self) -> int:
        """Number of arrays in the state."""
        return self.call.states(self.recurrent)

    @property
    def parameters(self) -> int:
        """Number of decays and thresholds."""
        return {"leaky": 2, "synaptic": 3, "integrator": 1}[self.call.kind]

    @property
    def inputs(self) -> str:
        """A letter for each input: a (t)ime sequence, one (s)tep, or (w)eights."""
        return "t" + "s" * (self.states + self.parameters) + "w" * self.recurrent

    @property
    def outputs(self) -> str:
        """Likewise for the outputs: spikes, potentials if recorded, and the state."""
        return "t" + "t" * self.call.record + "s" * self.states

    def backward(self, learned: bool) -> tuple[str, str]:
        """Inputs and results of the backward pass: inputs, spikes if recurrent and gradients of the outputs; gradients of the inputs."""
        return self.inputs + "t" * self.recurrent + self.outputs, "t" + "s" * (self.states + learned * self.parameters)

    def name(self, *more: Any) -> str:
        """Names a kernel for compiled programs: by the surrogate's formula and numbers, which a class's name does not determine."""
        call = self.call
        numbers = tuple(call.surrogate.parameters.items())
        text = repr((call.kind, call.surrogate.structure.key, numbers, call.options, call.started, call.record, self.recurrent, more))
        return hashlib.sha256(text.encode()).hexdigest()


def _flat(array: Any) -> Any:
    return array.reshape(len(array), -1) if array.size else array.reshape(len(array), int(np.prod(array.shape[1:])))


class _Inputs(NamedTuple):
    """The inputs as the kernels take them."""

    layer: kernels.Layer
    currents: Any
    state: tuple[Any, ...]
    parameters: tuple[Any, ...]
    weights: Weights | None


def _inputs(static: Static, given: Arrays) -> _Inputs:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    currents, count = _flat(given[0]), 1 + static.states
    rows = tuple(part.reshape(-1) for part in given[1 : count + static.parameters])
    connections, features, senders = None, 0, 0
    if static.recurrent:
        weights, features = given[count + static.parameters], given[0].shape[-1]
        both = weights if weights.ndim == 2 else weights[None]
        senders = len(both)
        connections = Weights(np.ascontiguousarray(both.T) if weights.ndim == 2 else both, both)
    sizes = Sizes(currents.dtype.name, len(currents), currents.shape[1], threads, (), features, senders)
    started = static.call.started or static.recurrent or static.call.kind == "integrator"  # else the state is that of rest
    state = rows[: count - 1] if started else ()
    return _Inputs(kernels.layer(static.call, sizes), currents, state, rows[count - 1 :], connections)


def _forward(static: Static, given: Arrays, results: Arrays) -> None:
    """Run a layer: inputs in, outputs filled."""
    inputs, recorded = _inputs(static, given), static.call.record
    spikes, *potentials = map(_flat, results[: 1 + recorded])
    last = results[1 + recorded :]
    kernels.forward(*inputs, tuple(last), spikes, *potentials)
    if static.recurrent:
        last[-1].reshape(-1)[:] = spikes[-1] if len(spikes) else inputs.state[-1]


def _backward(static: Static, learned: bool, given: Arrays, results: Arrays) -> None:
    """Gradients of currents, state and, if learned, parameters; from the inputs, if recurrent the spikes, and the outputs' gradients."""
    inputs, rest = _inputs(static, given), list(given[len(static.inputs) :])
    spikes = _flat(rest.pop(0)) if static.recurrent else None
    arriving = _flat(rest.pop(0))
    potentials = rest.pop(0) if static.call.record else None
    if static.recurrent:  # the last spikes are part of the state
        arriving = arriving.copy()
        arriving[-1:] += rest[-1].reshape(-1)
    grad, state, grads = results[0], results[1 : 1 + static.states], results[1 + static.states :]
    into = kernels.Gradients(grad, tuple(state), tuple(grads) if learned else ())
    kernels.backward(*inputs, spikes, Incoming(arriving, tuple(rest), potentials), into)
    if static.recurrent and not len(arriving):
        state[-1][:] = rest[-1]


def _reference(static: Static, *given: Any) -> list[Any]:
    """The same layer by way of the reference."""
    call, count = static.call, 1 + static.states
    state, parameters = tuple(given[1:count]), given[count : count + static.parameters]
    if call.kind == "integrator":
        return list(reference.leaky_integrator(given[0], state, parameters[0]))

    def fire(x: Any, _: Any) -> Any:
        return call.surrogate(x, spike_at_threshold=call.options.spike_at_threshold)

    run: Any = reference.leaky if call.kind == "leaky" else reference.synaptic
    weights = given[-1] if static.recurrent else None
    start = state if call.started else None
    spikes, last, potentials = run(given[0], start, *parameters, fire, call.options, weights, record=call.record)
    return [spikes, *([potentials] if call.record else []), *(last if isinstance(last, tuple) else (last,))]


def _reference_tangent(*given: Any, static: Static, present: tuple[bool, ...]) -> list[Any]:
    inputs, dots = given[: len(present)], iter(given[len(present) :])
    tangents = [next(dots) if there else jnp.zeros_like(x) for x, there in zip(inputs, present, strict=True)]
    return jax.jvp(functools.partial(_reference, static), inputs, tuple(tangents))[1]


def _reference_backward(*given: Any, static: Static, learned: bool) -> list[Any]:
    inputs = given[: len(static.inputs)]
    cotangents = given[len(static.inputs) + static.recurrent :]
    _, transpose = jax.vjp(functools.partial(_reference, static), *inputs)
    gradients = transpose(list(cotangents))
    return list(gradients[: 1 + static.states + learned * static.parameters])


_TWICE = "this is forward mode or a second derivative"


def _refuse(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"backend='numba' differentiates once, in reverse mode, on the CPU; {what}: use backend='auto' or 'reference'"
    )


def _layer_shapes(*given: Any, static: Static) -> list[Any]:
    like = {"t": given[0], "s": given[1]}
    return [like[letter] for letter in static.outputs]


def _tangent_shapes(*given: Any, static: Static, present: tuple[bool, ...]) -> list[Any]:
    return _layer_shapes(*given, static=static)


def _backward_shapes(*given: Any, static: Static, learned: bool) -> list[Any]:
    return [given[0], *[given[1]] * (static.states + learned * static.parameters)]


def _ready(function: Callable[[list[Any], list[Any]], None], given: Arrays, results: Arrays, letters: tuple[str, str]) -> None:
    """Compile the kernels now, on this thread and not on one of XLA's, by running them on one step."""

    def small(letter: str, x: Any) -> Any:
        shape = {"t": (1, *x.shape[-1:]), "s": x.shape[-1:], "w": x.shape}[letter] if x.ndim > (letter == "t") else x.shape
        return np.zeros(shape, x.dtype)

    first, second = ([small(letter, x) for letter, x in zip(ls, xs, strict=True)] for ls, xs in zip(letters, (given, results), strict=True))
    function(first, second)


def _call(name: str, function: ffi.Function, letters: tuple[str, str], given: Arrays, results: Arrays) -> list[Any]:
    _ready(function, given, results, letters)
    return ffi.call(name, function, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results], *given)


def _fused_layer(*given: Any, static: Static) -> list[Any]:
    results = _layer_shapes(*given, static=static)
    return _call(static.name(), functools.partial(_forward, static), (static.inputs, static.outputs), given, results)


def _fused_backward(*given: Any, static: Static, learned: bool) -> list[Any]:
    results = _backward_shapes(*given, static=static, learned=learned)
    return _call(static.name("backward", learned), functools.partial(_backward, static, learned), static.backward(learned), given, results)


def _layer_reference(*given: Any, static: Static) -> list[Any]:
    if static.strict:
        raise _refuse("this program is for another platform")
    return _reference(static, *given)


def _backward_reference(*given: Any, static: Static, learned: bool) -> list[Any]:
    if static.strict:
        raise _refuse("this program is for another platform")
    return _reference_backward(*given, static=static, learned=learned)


def _tangent_reference(*given: Any, static: Static, present: tuple[bool, ...]) -> list[Any]:
    if static.strict:
        raise _refuse(_TWICE)
    return _reference_tangent(*given, static=static, present=present)


def _layer_jvp(primals: Arrays, tangents: Arrays, *, static: Static) -> tuple[Any, Any]:
    present = tuple(type(tangent) is not ad.Zero for tangent in tangents)
    moving = [tangent for tangent, there in zip(tangents, present, strict=True) if there]
    return layer.bind(*primals, static=static), tangent.bind(*primals, *moving, static=static, present=present)


def _tangent_transpose(cotangents: Arrays, *given: Any, static: Static, present: tuple[bool, ...]) -> list[Any]:
    inputs = given[: len(present)]
    spikes = layer.bind(*inputs, static=static)[:1] if static.recurrent else []  # not saved: they are the next layer's to keep
    learned = any(present[1 + static.states : 1 + static.states + static.parameters])
    arriving = map(ad.instantiate_zeros, cotangents)
    gradients = backward.bind(*inputs, *spikes, *arriving, static=static, learned=learned)
    gradients += [None] * (len(present) - len(gradients))
    if static.recurrent and present[-1]:
        sent = jnp.concatenate([inputs[static.states][None], spikes[0]])[: len(spikes[0])]
        samples = tuple(range(sent.ndim - 1))
        square = inputs[-1].ndim == 2
        gradients[-1] = jnp.tensordot(gradients[0], sent, (samples, samples)) if square else (gradients[0] * sent).sum(samples)
    return [None] * len(present) + [gradient for gradient, there in zip(gradients, present, strict=True) if there]


def _reference_jvp(function: Callable[..., Any], primals: Arrays, tangents: Arrays, *, static: Static, **more: Any) -> tuple[Any, Any]:
    """A derivative of what is itself a derivative: the reference's."""
    if static.strict:
        raise _refuse(_TWICE)
    run = functools.partial(function, static=static, **more)
    return jax.jvp(run, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _folded(primitive: Primitive, given: Arrays, dims: Arrays, letters: tuple[str, str], **static: Any) -> tuple[Any, Any]:
    """`vmap`: samples are independent, so the mapped axis becomes one more of the batch; weights of each sample need a loop."""
    if any(letter == "w" and dim is not None for letter, dim in zip(letters[0], dims, strict=True)):
        mapped = [jnp.moveaxis(x, dim, 0) for x, dim in zip(given, dims, strict=True) if dim is not None]

        def one(parts: Any) -> Any:
            rest = iter(parts)
            return primitive.bind(*(x if dim is None else next(rest) for x, dim in zip(given, dims, strict=True)), **static)

        return jax.lax.map(one, mapped), [0] * len(letters[1])
    size = next(x.shape[dim] for x, dim in zip(given, dims, strict=True) if dim is not None)

    def fold(letter: str, x: Any, dim: int | None) -> Any:
        axis = int(letter == "t")
        if letter == "w":
            return x
        if dim is not None:
            return jnp.moveaxis(x, dim, axis)
        return jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], size, *x.shape[axis:]))

    out = primitive.bind(*(fold(*each) for each in zip(letters[0], given, dims, strict=True)), **static)
    return out, [int(letter == "t") for letter in letters[1]]


def _layer_batch(given: Arrays, dims: Arrays, *, static: Static) -> tuple[Any, Any]:
    return _folded(layer, given, dims, (static.inputs, static.outputs), static=static)


def _tangent_batch(given: Arrays, dims: Arrays, *, static: Static, present: tuple[bool, ...]) -> tuple[Any, Any]:
    moving = "".join(letter for letter, there in zip(static.inputs, present, strict=True) if there)
    return _folded(tangent, given, dims, (static.inputs + moving, static.outputs), static=static, present=present)


def _backward_batch(given: Arrays, dims: Arrays, *, static: Static, learned: bool) -> tuple[Any, Any]:
    return _folded(backward, given, dims, static.backward(learned), static=static, learned=learned)


@functools.lru_cache(maxsize=4096)
def _jitted(primitive: Primitive, static: frozenset[tuple[str, Any]]) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **dict(static)))


def _primitive(name: str, shapes: Callable[..., Any], jvp: Any, batch: Any, other: Any, cpu: Any = None) -> Primitive:
    """A primitive with its rules: `other` is how it runs on any platform, `cpu` on the CPU."""
    made = Primitive(f"spikegrad_{name}")
    made.multiple_results = True
    made.def_abstract_eval(shapes)

    def run(*given: Any, **static: Any) -> Any:
        return _jitted(made, frozenset(static.items()))(*given)

    made.def_impl(run)
    ad.primitive_jvps[made] = jvp
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(other, multiple_results=True))
    if cpu is not None:
        mlir.register_lowering(made, mlir.lower_fun(cpu, multiple_results=True), platform="cpu")
    return made


layer = _primitive("layer", _layer_shapes, _layer_jvp, _layer_batch, _layer_reference, _fused_layer)
tangent = _primitive("tangent", _tangent_shapes, functools.partial(_reference_jvp, _reference_tangent), _tangent_batch, _tangent_reference)
backward = _primitive(
    "backward",
    _backward_shapes,
    functools.partial(_reference_jvp, _reference_backward),
    _backward_batch,
    _backward_reference,
    _fused_backward,
)
ad.primitive_transposes[tangent] = _tangent_transpose


def run(
    call: Call, currents: jax.Array, state: tuple[jax.Array, ...], parameters: Arrays, weights: jax.Array | None, *, strict: bool
) -> list[jax.Array]:
    """A layer: its output, its potentials if recorded, and its last state.

    Args:
        call: the layer.
        currents: ``(time, *step)``, float32 or float64.
        state: arrays of the shape of one step and the dtype of the currents.
        parameters: decays and threshold, numbers or arrays that broadcast to a step.
        weights: recurrent weights or None.
        strict: whether to refuse what the kernels cannot do, instead of leaving it to the reference.
    """
    shape, dtype = currents.shape[1:], currents.dtype
    columns = [jnp.broadcast_to(jnp.asarray(parameter, dtype), shape) for parameter in parameters]
    connections = () if weights is None else (weights.astype(dtype),)
    static = Static(call, weights is not None, strict)
    return layer.bind(currents, *state, *columns, *connections, static=static)
