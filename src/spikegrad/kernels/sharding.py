"""How a layer is shared out over the devices of a mesh: each takes some of the samples, and some of the neurons where none feeds another.

JAX has three ways to say how an array lies on devices. Inside of `shard_map` each device runs the program on its own part, and types say
over which axes of the mesh a value varies (`alike`). With explicit axes the type of an array says where it lies (`by_type`). With automatic
axes the compiler decides, and a primitive tells it what it can be cut into (`partitioned`); else it would gather everything.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Kind = Literal["sequence", "step", "whole"]
"""What an array of a layer is: ``(time, *step)``; of the shape of a step, or one number; or the same for all samples, such as weights."""

T = TypeVar("T")
Arrays = Sequence[jax.Array]
Run = Callable[..., Arrays]
Axes = str | tuple[str, ...] | None
"""The axes of a mesh that a dimension is cut along."""


class Placed(Protocol):
    """An array as a partitioner tells of it."""

    shape: tuple[int, ...]
    sharding: NamedSharding | None


def _varying(x: jax.Array) -> frozenset[str]:
    return getattr(getattr(jax.typeof(x), "mat", None), "varying", frozenset())


def alike(given: T) -> T:
    """The same arrays, all of which vary over those devices of a `shard_map` over which one of them does.

    So a number that all devices share receives the sum of their gradients, and what a loop over time carries keeps its type.
    """
    arrays = [x for x in jax.tree.leaves(given) if isinstance(x, jax.Array)]
    axes = frozenset[str]().union(*map(_varying, arrays))

    def cast(x: object) -> object:
        missing = axes - _varying(x) if isinstance(x, jax.Array) else ()
        return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x

    return jax.tree.map(cast, given) if axes else given


def _spec(spec: Iterable[Axes], kind: Kind, count: int, *, fed: bool) -> PartitionSpec:
    """How an array of a kind lies if a sequence of so many dimensions lies so: time is never cut, neurons only if none feeds another."""
    parts = [None, *list(spec)[1:], *(None,) * count][:count]
    if fed:
        parts[-1] = None
    return PartitionSpec(*(parts if kind == "sequence" else parts[1:] if kind == "step" else ()))


def by_type(run: Run, given: Arrays, kinds: tuple[Sequence[Kind], Sequence[Kind]], *, fed: bool) -> Arrays:
    """Run a function of arrays of these kinds to arrays of these kinds, by `shard_map` on the axes over which types say that sequences lie.

    Where some arrays lie otherwise, they are moved.
    """
    where = jax.typeof(given[0]).sharding
    axes = {axis for axis, kind in zip(where.mesh.axis_names, where.mesh.axis_types, strict=True) if kind is AxisType.Explicit}
    if not axes:
        return run(*given)
    count = given[0].ndim
    lies = _spec(where.spec, "sequence", count, fed=fed)
    before = [_spec(lies, kind, count, fed=fed) if x.ndim else PartitionSpec() for x, kind in zip(given, kinds[0], strict=True)]
    after = [_spec(lies, kind, count, fed=fed) for kind in kinds[1]]
    moved = [jax.sharding.reshard(x, NamedSharding(where.mesh, spec)) for x, spec in zip(given, before, strict=True)]
    return jax.shard_map(run, mesh=where.mesh, axis_names=axes, in_specs=tuple(before), out_specs=after)(*moved)


def spread(x: jax.Array, like: jax.Array) -> jax.Array:
    """An array in the shape of a step of a sequence."""
    where = jax.typeof(like).sharding
    known = AxisType.Explicit in where.mesh.axis_types and x.shape != like.shape[1:]
    more = {"out_sharding": NamedSharding(where.mesh, PartitionSpec(*where.spec[1:]))} if known else {}
    return jnp.broadcast_to(x, like.shape[1:], **more)


def needs_devices(primitive: Primitive) -> None:
    """Have JAX tell the lowering of a primitive on which devices it will run, as it does for `custom_partitioning` itself."""
    importlib.import_module("jax._src.dispatch").prim_requires_devices_during_lowering.add(primitive)


def partitioned(run: Run, given: Sequence[Kind], made: Sequence[Kind], *, fed: bool) -> Callable[..., Sequence[Any]]:
    """How to lower a function of arrays of these kinds to arrays of these kinds, of which each device runs its part.

    A whole result is the sum of those of all parts. Where the parts of a dimension would not be of one size it is not cut.
    """

    def lower(context: mlir.LoweringRuleContext, *values: Any) -> Sequence[Any]:
        around = context.module_context.axis_context
        if not isinstance(around, mlir.ShardingContext) or around.device_assignment is None or around.num_devices == 1:
            return mlir.lower_fun(run, multiple_results=True)(context, *values)
        bare = [
            [ShapedArray(x.shape, x.dtype) for x in avals if isinstance(x, ShapedArray)] for avals in (context.avals_in, context.avals_out)
        ]
        found = mlir.lower_fun(_cut(run, given, made, bare, fed=fed), multiple_results=True)(context, *values)
        # JAX finds `run` through an address in the operation. Whoever caches the program without it must not mistake it for another.
        key = hashlib.sha256(str(jax.make_jaxpr(run)(*bare[0])).encode()).hexdigest()
        found[0].owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get({"spikegrad": mlir.ir.StringAttr.get(key)})
        return found

    return lower


def _cut(
    run: Run, given: Sequence[Kind], made: Sequence[Kind], avals: Sequence[Sequence[ShapedArray]], *, fed: bool
) -> Callable[..., Arrays]:
    count = next(x.ndim for x, kind in zip(avals[0], given, strict=True) if kind == "sequence")
    shape = avals[0][0].shape

    def chosen(mesh: Mesh, arrays: Sequence[Placed], kinds: Sequence[Kind]) -> PartitionSpec:
        """How sequences shall lie, by the first of these that is cut."""
        for x, kind in zip(arrays, kinds, strict=True):
            spec = () if kind == "whole" or not x.shape or x.sharding is None else tuple(x.sharding.spec)
            parts = _spec((None,) * (kind == "step") + spec, "sequence", count, fed=fed)
            sizes = [math.prod(mesh.shape[axis] for axis in _axes(part)) for part in parts]
            parts = [part if size % n == 0 else None for part, size, n in zip(parts, shape, sizes, strict=True)]
            if any(part is not None for part in parts):
                return PartitionSpec(*parts)
        return PartitionSpec()

    def placed_by(mesh: Mesh, spec: PartitionSpec, arrays: Sequence[Placed], kinds: Sequence[Kind]) -> list[NamedSharding]:
        one = PartitionSpec()
        return [NamedSharding(mesh, _spec(spec, kind, count, fed=fed) if x.shape else one) for x, kind in zip(arrays, kinds, strict=True)]

    def partition(
        mesh: Mesh, arguments: Sequence[Placed], results: Sequence[Placed]
    ) -> tuple[Mesh, Callable[..., Arrays], list[NamedSharding], tuple[NamedSharding, ...]]:
        spec = chosen(mesh, (*arguments, *results), (*given, *made))
        axes = tuple(axis for part in spec for axis in _axes(part))

        def part(*arrays: jax.Array) -> list[jax.Array]:
            return [jax.lax.psum(x, axes) if kind == "whole" and axes else x for x, kind in zip(run(*arrays), made, strict=True)]

        return mesh, part, placed_by(mesh, spec, results, made), tuple(placed_by(mesh, spec, arguments, given))

    # Asked only by the partitioner before Shardy.
    def infer(mesh: Mesh, arguments: Sequence[Placed], results: Sequence[Placed]) -> list[NamedSharding]:
        return placed_by(mesh, chosen(mesh, arguments, given), results, made)

    names = ["t", *(f"d{k}" for k in range(1, count))]
    whole: list[str] = []

    def factors(x: ShapedArray, kind: Kind) -> str:
        if kind == "whole":
            own = [f"w{len(whole) + k}" for k in range(x.ndim)]
            whole.extend(own)
            return " ".join(own)
        return " ".join(names[kind == "step" :]) if x.ndim else ""

    left, right = (", ".join(map(factors, *side)) for side in ((avals[0], given), (avals[1], made)))

    def positional(*arrays: jax.Array) -> Arrays:
        return run(*arrays)

    split = custom_partitioning(positional)
    split.def_partition(
        partition,
        infer_sharding_from_operands=infer,
        sharding_rule=f"{left} -> {right}",
        need_replication_factors=("t", *names[-1:] * fed, *whole),
    )
    return split


def _axes(part: Axes) -> tuple[str, ...]:
    """The axes of the mesh that a dimension is cut along."""
    return () if part is None else part if isinstance(part, tuple) else (part,)
