"""The fused kernels in JAX: a primitive for a layer, with rules for differentiation, `vmap` and every platform.

Reverse mode saves the inputs and nothing else: `layer` differentiates into `tangent`, which is linear, and that transposes into `backward`.
What no kernel does, forward mode and second derivatives, lowers to the plain loop, as does everything on a platform other than the CPU and
GPUs of NVIDIA; a layer that insists on kernels refuses there instead.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike, DTypeLike

from spikegrad.kernels import handler, sharding
from spikegrad.kernels.cpu.passes import SAMPLES
from spikegrad.kernels.cpu.source import Variant
from spikegrad.kernels.plan import FED, Call
from spikegrad.kernels.sharding import Kind
from spikegrad.kernels.static import Static, plain, plain_backward, plain_tangent, working_dtype
from spikegrad.surrogate import Surrogate

Arrays = Sequence[jax.Array]
Dims = Sequence[int | None]
Shape = ShapedArray | jax.ShapeDtypeStruct
Run = Callable[..., Sequence[jax.Array]]
"""Of arrays, and of what else a primitive is bound with by name."""


_TWICE, _ELSEWHERE = "this is forward mode or a second derivative", "this program is for another platform"


def _refuse(static: Static, what: str) -> NotImplementedError:
    where = "GPUs of NVIDIA" if static.backend == "triton" else "the CPU"
    return NotImplementedError(
        f"backend={static.backend!r} differentiates once, in reverse mode, on {where}; {what}: use backend='auto' or 'reference'"
    )


def _shaped(like: ShapedArray, shape: Sequence[int], dtype: DTypeLike) -> ShapedArray:
    return like.update(shape=tuple(shape), dtype=np.dtype(dtype), weak_type=False)


def _layer_shapes(*given: ShapedArray, static: Static) -> list[ShapedArray]:
    like, plan = given[0], static.call.plan
    sequence, real = like.shape, working_dtype(like.dtype)
    return [
        *(_shaped(like, sequence, like.dtype) for _ in range(plan.outputs)),
        *(_shaped(like, sequence[1:], real) for _ in static.states),
        *(_shaped(like, sequence, real) for _ in (*static.call.recorded, *static.kept)),
    ]


def _tangent_shapes(*given: ShapedArray, static: Static, present: tuple[bool, ...]) -> list[ShapedArray]:
    return _layer_shapes(*given, static=static.not_kept)


def _backward_shapes(*given: ShapedArray, static: Static, present: tuple[bool, ...], zero: tuple[str, ...]) -> list[ShapedArray]:
    like, real = given[0], working_dtype(given[0].dtype)
    shapes = {"sequence": (like.shape, like.dtype), "step": (like.shape[1:], real), "whole": (like.shape[-1:] * 2, real)}
    kinds = (static.kind(name) for name, there in zip(static.names, present, strict=True) if there)
    return [_shaped(like, *shapes[kind]) for kind in kinds]


def _layer_kinds(static: Static) -> tuple[list[Kind], list[Kind]]:
    given: list[Kind] = [static.kind(name) for name in static.names]
    made: list[Kind] = ["step" if name.startswith("last.") else "sequence" for name in static.results]
    return given, made


def _backward_kinds(static: Static, present: tuple[bool, ...], zero: tuple[str, ...]) -> tuple[list[Kind], list[Kind]]:
    given, arriving = _layer_kinds(static)
    residuals: list[Kind] = ["sequence"] * (static.fed + len(static.kept))
    made: list[Kind] = [kind for kind, there in zip(given, present, strict=True) if there]
    return [*given, *residuals, *arriving[: len(arriving) - len(static.kept)]], made


def _call(variant: Variant, given: Mapping[str, jax.Array], made: Mapping[str, Shape]) -> list[jax.Array]:
    """Have XLA run a kernel; the first of what it makes is a sequence."""
    kernel = np.array([handler.registered(variant, tuple(given), tuple(made))], np.int64)
    call = jax.ffi.ffi_call(handler.handler().target, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made.values()])
    return list(call(*given.values(), kernel=kernel))


def _arguments(static: Static, given: Arrays) -> tuple[dict[str, jax.Array], frozenset[str]]:
    """What a kernel is given, by name, and which of it has a value for each column."""
    named = dict(zip(static.names, given, strict=True))
    real = working_dtype(given[0].dtype)
    for name, value in static.surrogate.parameters.items():
        named.setdefault(f"spike.{name}", jnp.full((), value, real))  # not `asarray`, which makes a constant of the program around
    columns = {name for name, x in named.items() if name not in (*static.inputs, "weights") and not name.startswith("first.") and x.ndim}
    return named, frozenset(columns)


def _fused_layer(*given: jax.Array, static: Static) -> list[jax.Array]:
    named, columns = _arguments(static, given)
    columns, learned = frozenset(n for n in columns if not n.startswith("spike.")), static.learned or frozenset()
    variant = Variant(static.call, False, given[0].dtype.name, columns, learned, keeps=static.learned is not None)
    wanted = set(variant.arguments())
    made = dict(zip(static.results, _layer_shapes(*map(jax.typeof, given), static=static), strict=True))
    return _call(variant, {name: x for name, x in named.items() if name in wanted}, made)


def _fused_backward(*given: jax.Array, static: Static, present: tuple[bool, ...], zero: tuple[str, ...]) -> list[jax.Array]:
    count = len(static.names)
    named, columns = _arguments(static, given[:count])
    residuals = ("0", *static.kept) if static.fed else ()
    named |= dict(zip(residuals, given[count:], strict=False))
    if static.fed:
        named["weights"] = named["weights"].T  # by receiver
    asked = [name for name, there in zip(static.names, present, strict=True) if there]
    learned = _learned(static, present)
    single = frozenset(name for name in zero if not name.startswith("last."))
    variant = Variant(static.call, True, given[0].dtype.name, columns, learned, single)
    results = static.results[: len(static.results) - len(static.kept)]
    arriving = {f"bar.{name.removeprefix('last.')}": g for name, g in zip(results, given[count + len(residuals) :], strict=True)}
    shapes = dict(zip(asked, _backward_shapes(*map(jax.typeof, given), static=static, present=present, zero=zero), strict=True))
    made: dict[str, Shape] = {f"grad.{name}": jax.typeof(given[0]) for name in static.inputs}  # a kernel writes them all
    if static.fed and not variant.fed_alike:
        made[f"grad.{FED}"] = jax.ShapeDtypeStruct(given[0].shape, working_dtype(given[0].dtype))
    made |= {f"grad.{name.removeprefix('first.')}": shape for name, shape in shapes.items() if name not in (*static.inputs, "weights")}
    if "weights" in asked:
        features, samples = given[0].shape[-1], int(np.prod(given[0].shape[1:-1], dtype=np.int64))
        made["grad.weights"] = jax.ShapeDtypeStruct((-(-samples // SAMPLES), features, features), working_dtype(given[0].dtype))
    wanted = set(variant.arguments())
    found = dict(zip(made, _call(variant, {name: x for name, x in (named | arriving).items() if name in wanted}, made), strict=True))
    if "weights" in asked:
        found["grad.weights"] = found["grad.weights"].sum(0)
    return [found[f"grad.{name.removeprefix('first.')}"] for name in asked]


def _learned(static: Static, present: Sequence[bool]) -> frozenset[str]:
    """The parameters whose gradients are asked for."""
    asked = (name for name, there in zip(static.names, present, strict=True) if there)
    return frozenset(name for name in asked if name not in (*static.inputs, "weights") and not name.startswith("first."))


def _unless_strict(function: Run, what: str) -> Run:
    """The plain loop's way, for a layer that does not insist on the kernels."""

    def run(*given: jax.Array, static: Static, **more: Any) -> Arrays:
        if static.strict:
            raise _refuse(static, what)
        return function(*given, static=static, **more)

    return run


def _layer_jvp(primals: Arrays, tangents: Arrays, *, static: Static) -> tuple[Arrays, Arrays]:
    if static.learned is not None:  # the forward pass of a derivative; what it keeps is not asked for again
        if static.strict:
            raise _refuse(static, _TWICE)
        made, given = layer.bind(*primals, static=static), tuple(map(ad.instantiate_zeros, tangents))
        return made, jax.jvp(functools.partial(plain, static=static), tuple(primals), given)[1]
    present = tuple(not _is_zero(tangent) for tangent in tangents)
    moving = [tangent for tangent, there in zip(tangents, present, strict=True) if there]
    if not static.fed:
        return layer.bind(*primals, static=static), tangent.bind(*primals, *moving, static=static, present=present)
    keeping = dataclasses.replace(static, learned=_learned(static, present))
    made = layer.bind(*primals, static=keeping)
    count = len(static.results)
    residuals = (made[0], *made[count:])
    return made[:count], tangent.bind(*primals, *residuals, *moving, static=keeping, present=present)


def _is_zero(x: object) -> bool:
    """Whether a tangent or cotangent is zero because nothing depends on it."""
    return type(x) is ad.Zero


def _tangent_transpose(cotangents: Sequence[Any], *given: jax.Array, static: Static, present: tuple[bool, ...]) -> list[jax.Array | None]:
    inputs, residuals = given[: len(present)], given[len(present) : len(present) + static.fed + len(static.kept)]
    zero = tuple(name for name, g in zip(static.results, cotangents, strict=False) if _is_zero(g))
    arriving = [jnp.zeros((), g.aval.dtype) if _is_zero(g) else g for g in cotangents]
    arriving = sharding.alike((inputs[0], arriving))[1]
    found = iter(backward.bind(*inputs, *residuals, *arriving, static=static, present=present, zero=zero))
    gradients: list[jax.Array | None] = []
    for x in (x for x, there in zip(inputs, present, strict=True) if there):
        g = next(found)
        gradients.append(g if g.shape == x.shape else g.sum().astype(x.dtype).reshape(x.shape))
    return [None] * (len(present) + len(residuals)) + gradients


def _plain_jvp(function: Run, primals: Arrays, tangents: Arrays, *, static: Static, **more: Any) -> tuple[Arrays, Arrays]:
    """A derivative of what is itself a derivative: the plain loop's."""
    if static.strict:
        raise _refuse(static, _TWICE)
    run = functools.partial(function, static=static, **more)
    return jax.jvp(run, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _folded(
    primitive: Primitive, given: Arrays, dims: Dims, step: tuple[int, ...], results: Sequence[bool], **static: Any
) -> tuple[Arrays, list[int]]:
    """`vmap`: samples are independent, so the mapped axis becomes one more of the batch.

    `step` is the shape of a step; an array with a dimension more than that is a sequence. `results` says which of the results are.
    """
    size = next(x.shape[dim] for x, dim in zip(given, dims, strict=True) if dim is not None)
    count = len(static["static"].names)
    weights = count - 1 if static["static"].fed else None
    asked = primitive is backward and static["present"][-1]
    if weights is not None and (dims[weights] is not None or asked):  # weights, or gradients of weights, of each sample need a loop
        mapped = [jnp.moveaxis(x, dim, 0) for x, dim in zip(given, dims, strict=True) if dim is not None]

        def one(parts: Arrays) -> Arrays:
            rest = iter(parts)
            return primitive.bind(*(x if dim is None else next(rest) for x, dim in zip(given, dims, strict=True)), **static)

        return jax.lax.map(one, mapped), [0] * len(results)

    def fold(x: jax.Array, dim: int | None) -> jax.Array:
        own = x.ndim - (dim is not None)
        if own == 0 and dim is not None and step:  # one number for each sample
            return jnp.broadcast_to(x.reshape(size, *(1,) * len(step)), (size, *step))
        axis = int(own > len(step))
        if dim is not None:
            return jnp.moveaxis(x, dim, axis)
        return x if own == 0 else jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], size, *x.shape[axis:]))

    folded = [x if k == weights else fold(x, dim) for k, (x, dim) in enumerate(zip(given, dims, strict=True))]
    return primitive.bind(*folded, **static), [int(sequence) for sequence in results]


def _step(given: Arrays, dims: Dims) -> tuple[int, ...]:
    shape = list(given[0].shape)
    if dims[0] is not None:
        del shape[dims[0]]
    return tuple(shape[1:])


def _layer_batch(given: Arrays, dims: Dims, *, static: Static) -> tuple[Arrays, list[int]]:
    rows = [not name.startswith("last.") for name in static.results]
    return _folded(layer, given, dims, _step(given, dims), rows, static=static)


def _tangent_batch(given: Arrays, dims: Dims, *, static: Static, present: tuple[bool, ...]) -> tuple[Arrays, list[int]]:
    rows = [not name.startswith("last.") for name in static.not_kept.results]
    return _folded(tangent, given, dims, _step(given, dims), rows, static=static, present=present)


def _backward_batch(
    given: Arrays, dims: Dims, *, static: Static, present: tuple[bool, ...], zero: tuple[str, ...]
) -> tuple[Arrays, list[int]]:
    rows = [name in static.inputs for name, there in zip(static.names, present, strict=True) if there]
    return _folded(backward, given, dims, _step(given, dims), rows, static=static, present=present, zero=zero)


@functools.lru_cache(maxsize=4096)
def _jitted(primitive: Primitive, static: frozenset[tuple[str, Hashable]]) -> Run:
    return jax.jit(functools.partial(primitive.bind, **dict(static)))


def _primitive(
    name: str,
    shapes: Callable[..., list[ShapedArray]],
    jvp: Callable[..., tuple[Arrays, Arrays]],
    batch: Callable[..., tuple[Arrays, list[int]]],
    other: Run,
) -> Primitive:
    """A primitive with its rules; `other` is how it runs on any platform."""
    made = Primitive(f"spikegrad_{name}")
    made.multiple_results = True
    made.def_abstract_eval(shapes)

    def run(*given: jax.Array, **static: Hashable) -> Arrays:
        found = _jitted(made, frozenset(static.items()))
        if not jax.config.jax_disable_jit:  # pyright: ignore
            return found(*given)
        with jax.disable_jit(False):  # a kernel is called by a compiled program or not at all
            return found(*given)

    made.def_impl(run)
    ad.primitive_jvps[made] = jvp
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(other, multiple_results=True))
    return made


def _in_kernels(primitive: Primitive, numba: Run, triton: str, kinds: Callable[..., tuple[list[Kind], list[Kind]]], other: Run) -> None:
    """Have a primitive run in kernels: Numba's on the CPU, Triton's on GPUs of NVIDIA, by the function of this name.

    In a program that is exported, and may run elsewhere, only if it must.
    """

    def chosen(platform: str, static: Static, exported: bool) -> Run:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # which happens on the CPU
        freely = static.backend == "auto" and not exported
        asked = static.backend == "triton" and platform == ("cpu" if interpreted else "cuda")
        if asked or (freely and platform == "cuda" and not static.fed and not interpreted):
            try:
                return getattr(importlib.import_module("spikegrad.kernels.gpu.arrays"), triton)
            except ModuleNotFoundError:  # there is no Triton
                return other
        return numba if platform == "cpu" and (static.backend == "numba" or freely) else other

    def lower(context: mlir.LoweringRuleContext, *given: Any, platform: str, static: Static, **more: Any) -> Sequence[Any]:
        function = chosen(platform, static, context.module_context.lowering_parameters.for_export)
        run = functools.partial(function, static=static, **more)
        if function is other:
            return mlir.lower_fun(run, multiple_results=True)(context, *given)
        try:
            return sharding.partitioned(run, *kinds(static, **more), fed=static.fed)(context, *given)
        except NotImplementedError:  # GPUs of several kinds, a driver that is not there
            if static.backend != "auto" or platform == "cpu":
                raise
            return mlir.lower_fun(functools.partial(other, static=static, **more), multiple_results=True)(context, *given)

    sharding.needs_devices(primitive)
    for platform in ("cpu", "cuda"):
        mlir.register_lowering(primitive, functools.partial(lower, platform=platform), platform=platform)


_layer_elsewhere, _backward_elsewhere = (_unless_strict(function, _ELSEWHERE) for function in (plain, plain_backward))
_tangent_jvp, _backward_jvp = (functools.partial(_plain_jvp, function) for function in (plain_tangent, plain_backward))
layer = _primitive("layer", _layer_shapes, _layer_jvp, _layer_batch, _layer_elsewhere)
tangent = _primitive("tangent", _tangent_shapes, _tangent_jvp, _tangent_batch, _unless_strict(plain_tangent, _TWICE))
backward = _primitive("backward", _backward_shapes, _backward_jvp, _backward_batch, _backward_elsewhere)
ad.primitive_transposes[tangent] = _tangent_transpose
_in_kernels(layer, _fused_layer, "layer", _layer_kinds, _layer_elsewhere)
_in_kernels(backward, _fused_backward, "backward", _backward_kinds, _backward_elsewhere)


def run(
    call: Call,
    surrogate: Surrogate,
    inputs: Sequence[jax.Array],
    state: Sequence[ArrayLike],
    parameters: Mapping[str, ArrayLike],
    numbers: Mapping[str, jax.Array],
    weights: jax.Array | None = None,
    *,
    backend: Literal["auto", "numba", "triton"],
) -> tuple[Arrays, Arrays, Arrays]:
    """A layer: its outputs, its states after the last step, and its recorded values.

    Args:
        call: the layer.
        surrogate: of its spikes.
        inputs: sequences ``(time, *step)`` of one dtype.
        state: the states before the first step: arrays of the shape of a step, or numbers.
        parameters: see `Plan.computed`.
        numbers: arrays in place of the surrogate's numbers, by name.
        weights: of ``"all-to-all"`` connections, ``(receivers, senders)``.
        backend: whose kernels to insist on, instead of leaving what they cannot do to the plain loop, as ``"auto"`` does.
    """
    real = working_dtype(inputs[0].dtype)

    def fitted(x: ArrayLike) -> jax.Array:
        array = jnp.asarray(x, real)
        return sharding.spread(array, inputs[0]) if array.ndim else array

    static = Static(call, surrogate, tuple(numbers), backend)
    connections = () if weights is None else (weights.astype(real).T,)
    given = (*inputs, *map(fitted, (*state, *parameters.values(), *numbers.values())), *connections)

    def bound(*given: jax.Array) -> Arrays:
        return layer.bind(*sharding.alike(given), static=static)

    found = sharding.by_type(bound, given, _layer_kinds(static), fed=static.fed)
    n, m = call.plan.outputs, call.plan.outputs + len(static.states)
    return found[:n], found[n:m], found[m:]
