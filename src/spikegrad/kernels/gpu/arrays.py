"""A layer on a GPU in JAX: from arrays to launches of its kernels.

Whether a program runs on a GPU is known when it is lowered, and what a layer leaves for its backward pass is decided before that. So the
backward pass is given the inputs, as on the CPU, and no states: where a sequence is longer than a round, the forward kernel first runs
again and writes nothing but the states at the beginnings of rounds.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import triton
from triton.backends.compiler import GPUTarget

from spikegrad.kernels.gpu import compiler, driver
from spikegrad.kernels.gpu.choice import Choice, choice, work
from spikegrad.kernels.gpu.source import Given, How, Variant, labels, recomputing
from spikegrad.kernels.handler import key_of
from spikegrad.kernels.launcher import GIVEN, MADE, NUMBER
from spikegrad.kernels.plan import Call
from spikegrad.kernels.static import Static, working_dtype

_UNIT = 16
"""Elements of which the number of columns is a multiple, where the compiler is told so."""


class _Ready(NamedTuple):
    """A kernel that its driver knows: its hash, the labels of its buffers, and how many parameters the compiler added."""

    key: int
    buffers: tuple[str, ...]
    more: int


def capability() -> int:
    """What code the GPUs of this process take, 90 for one whose capability is 9.0.

    Raises:
        NotImplementedError: they differ, or there is none.
    """
    try:
        found = {str(device.compute_capability) for device in jax.local_devices(backend="gpu")}
    except RuntimeError as none:
        raise NotImplementedError(f"backend='triton' compiles for the GPUs of this process; use backend='auto'. {none}") from none
    if len(found) > 1:
        raise NotImplementedError(f"backend='triton' wants GPUs of one kind, here are {', '.join(sorted(found))}; use backend='auto'")
    return int(found.pop().replace(".", ""))


@functools.lru_cache(maxsize=4096)
def _ready(variant: Variant, chosen: Choice, unit: int, width: str) -> _Ready:
    """The kernel, compiled and known to the driver."""
    function, arguments = compiler.kernel(variant)
    interpreted = driver.interpreting()
    target = 0 if interpreted else capability()
    types = (*(a.type for a in arguments), "i32", width)
    # The name of the module has the hash of its text, which does not say what type that is which is only read.
    text = f"{function.fn.__module__} {types} {chosen} {unit} {target} {triton.__version__}"
    key = key_of(text)
    buffers, constants = tuple(a.label for a in arguments), {"BLOCK": chosen.block, "UNIT": unit}
    if interpreted:
        driver.interpreter().interpret(key, driver.Interpreted(function, types, constants))
        return _Ready(key, buffers, 0)
    made = compiler.built(variant, GPUTarget("cuda", target, 32), warps=chosen.warps, width=width, BLOCK=chosen.block, UNIT=unit)
    head = re.search(r"\.entry\s+\w+\s*\(([^)]*)\)", made.asm["ptx"])
    bits = re.findall(r"\.param\s+\.[a-z](\d+)", "" if head is None else head[1])
    own, more = ["64"] * len(arguments) + ["32", width[1:]], len(bits) - len(arguments) - 2
    if bits != own + ["64"] * more or made.metadata.global_scratch_size:
        raise NotImplementedError(f"a kernel of Triton {triton.__version__} wants other parameters than it was given; use backend='auto'")
    driver.cuda().add(key, made.asm["cubin"], made.metadata.name, made.metadata.shared)
    return _Ready(key, buffers, more)


def _run(
    variant: Variant, chosen: Choice, shape: Sequence[int], given: Mapping[str, jax.Array], made: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Launch a kernel for sequences of a shape, from its arrays to its results, by label."""
    columns = math.prod(shape[1:])
    unit = _UNIT if columns % _UNIT == 0 else 1
    ready = _ready(variant, chosen, unit, "i32" if columns // unit < 2**31 else "i64")
    programs, own = -(-columns // chosen.block), [n for n in given if n in ready.buffers]
    of = {name: (GIVEN, k) for k, name in enumerate(own)} | {name: (MADE, k) for k, name in enumerate(made)}
    parameters = [*(of[name] for name in ready.buffers), (NUMBER, shape[0]), (NUMBER, columns // unit), *[(NUMBER, 0)] * ready.more]
    known = driver.interpreter() if driver.interpreting() else driver.cuda()
    # As `spikegrad.kernels.launcher` reads it.
    head = (ready.key, not driver.interpreting(), programs, 32 * chosen.warps, len(own), len(made), len(parameters))
    recipe = np.array([*map(int, head), *(x for pair in parameters for x in pair)], np.int64)
    results = jax.ffi.ffi_call(known.target, list(made.values()))(*(given[name] for name in own), recipe=recipe)
    return dict(zip(made, results, strict=True))


def _variant(
    static: Static, learned: frozenset[str], how: Mapping[str, How], dtype: str, chosen: Choice, *, backward: bool, saves: bool
) -> Variant:
    given: Given = tuple((name, how.get(name, "none")) for name in labels(static.call, learned, backward=backward))
    return Variant(static.call, backward, dtype, chosen.steps, given, learned, saves)


def _how(static: Static, arrays: Mapping[str, jax.Array]) -> dict[str, How]:
    """How what is given is given."""
    return {name: "rows" if name in static.inputs else "columns" if x.ndim else "one" for name, x in arrays.items()}


def _chosen(call: Call, shape: Sequence[Any], bytes_each: int) -> Choice:
    if not all(isinstance(n, int) for n in shape):
        raise NotImplementedError(f"backend='triton' must know the sizes of an exported program, got {tuple(shape)}; use backend='auto'")
    return choice(work(call.plan.passes()), shape[0], math.prod(shape[1:]), bytes_each)


def layer(*given: jax.Array, static: Static) -> list[jax.Array]:
    """Outputs, states after the last step and recorded values."""
    x, plan = given[0], static.call.plan
    real = working_dtype(x.dtype)
    arrays = dict(zip(static.names, given, strict=True))
    sequences = {**dict.fromkeys(map(str, range(plan.outputs)), x.dtype), **dict.fromkeys(static.call.recorded, real)}
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape if name in sequences else x.shape[1:], sequences.get(name, real)) for name in static.results
    }
    if not math.prod(x.shape[1:]):
        return [jnp.zeros(shape.shape, shape.dtype) for shape in shapes.values()]
    how = _how(static, arrays)
    for name in shapes:
        how[name] = "rows" if name in sequences else "columns"
    chosen = _chosen(static.call, x.shape, x.dtype.itemsize)
    variant = _variant(static, frozenset(), how, x.dtype.name, chosen, backward=False, saves=False)
    return [*_run(variant, chosen, x.shape, arrays, shapes).values()]


def backward(*given: jax.Array, static: Static, present: tuple[bool, ...], zero: tuple[str, ...]) -> list[jax.Array]:
    """Gradients of those inputs that are present, of a number that of each column."""
    x, plan, count = given[0], static.call.plan, len(static.names)
    real = working_dtype(x.dtype)
    arrays = dict(zip(static.names, given, strict=False))
    asked = [name for name, there in zip(static.names, present, strict=True) if there]
    shapes = {name: jax.ShapeDtypeStruct(*((x.shape, x.dtype) if name in static.inputs else (x.shape[1:], real))) for name in asked}
    if not math.prod(x.shape[1:]):
        return [jnp.zeros(shape.shape, shape.dtype) for shape in shapes.values()]
    learned = frozenset(n for n in asked if n not in static.inputs and not n.startswith("first."))
    chosen, passes = _chosen(static.call, x.shape, x.dtype.itemsize), plan.passes(learned)
    for name, value in static.surrogate.parameters.items():
        arrays.setdefault(f"spike.{name}", jnp.full((), value, real))  # not `asarray`, which makes a constant of the program around
    how, carried = _how(static, arrays), len(recomputing(static.call, passes)[0])
    saves = bool(passes.kept or passes.restored) and x.shape[0] > chosen.steps and carried > 0
    if saves:
        rounds = -(-x.shape[0] // chosen.steps)
        made = {"checkpoints": jax.ShapeDtypeStruct((rounds - 1, carried, math.prod(x.shape[1:])), real)}
        how["checkpoints"] = "columns"
        again = _variant(static, learned, how, x.dtype.name, chosen, backward=False, saves=True)
        arrays |= _run(again, chosen, x.shape, arrays, made)
    for name, g in zip(static.results, given[count:], strict=True):
        if name not in zero:
            label = f"bar.{name.removeprefix('last.')}"
            arrays[label], how[label] = g, "columns" if name.startswith("last.") else "rows"
    grads = {name: f"grad.{name.removeprefix('first.')}" for name in asked}
    made = {label: shapes[name] for name, label in grads.items()}
    for name, label in grads.items():
        how[label] = "rows" if name in static.inputs else "columns"
    variant = _variant(static, learned, how, x.dtype.name, chosen, backward=True, saves=saves)
    results = _run(variant, chosen, x.shape, arrays, made)
    return [results[label] for label in grads.values()]
