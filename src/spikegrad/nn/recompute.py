"""Running a module again exactly as it ran, so that the backward pass needs only what went into it.

The second run has what the first one had, whatever became of it since: parameters as PyTorch saves them, with an error if they were changed
in place; buffers, modes, numbers and surrogates from a copy of the modules; autocast; random numbers.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate

Run = Callable[..., tuple[Tensor, ...]]
"""A module and tensors to tensors. All else that it depends on belongs to the module."""


def recomputed(module: nn.Module, *arguments: Any) -> Any:
    """``module(*arguments)``, for which only the tensors among the arguments are kept; the backward pass runs the module again.

    Gradients are those of the plain call, to every order: under autocast, with dropout, with parameters that `torch.func.functional_call`
    put in place. Inside of compilers and torch.func transforms it is the plain call, and keeps what that keeps. Hooks inside of the module
    run twice, and what it assigns to itself is assigned once. Buffers are copied, so that running statistics move once.

    Args:
        module: any module that computes alike from equal arguments, buffers and random numbers of PyTorch.
        *arguments: tensors, or trees of them; others are handed on.

    Returns:
        What the module returns.

    Raises:
        RuntimeError: in the backward pass, if an argument or a parameter was changed in place since.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> from spikegrad.nn.recompute import recomputed
        >>> net = nn.Sequential(torch.nn.Linear(4, 8), nn.Leaky(0.9), torch.nn.Linear(8, 2), nn.LeakyIntegrator(0.9))
        >>> out, state = recomputed(net, torch.rand(10, 3, 4))
        >>> out.sum().backward()
    """
    leaves, structure = tree.tree_flatten(arguments)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if not torch.is_grad_enabled() or not all(visible(leaves[place]) for place in places):
        return module(*arguments)
    made: list[tuple[tree.TreeSpec, list[object]]] = []

    def run(module: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = list(leaves)
        for place, x in zip(places, tensors, strict=True):
            given[place] = x
        results, shape = tree.tree_flatten(module(*tree.tree_unflatten(given, structure)))
        if not made:
            made.append((shape, [... if isinstance(result, Tensor) else result for result in results]))
        return tuple(result for result in results if isinstance(result, Tensor))

    tensors = [leaves[place] for place in places]
    for place in places:
        leaves[place] = None  # the closure must not keep them alive
    results = iter(replayed(run, module, tensors))
    ((shape, others),) = made
    return tree.tree_unflatten([next(results) if other is ... else other for other in others], shape)


def visible(x: Tensor) -> bool:
    """Whether a run with this tensor may be recomputed: it has numbers, and nobody traces or transforms what is done with them."""
    if torch.compiler.is_compiling() or gate.surroundings() is not None:
        return False
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta


class Blocks:
    """How the inputs of a run are split into blocks along one dimension each, and its outputs are put together again.

    Args:
        size: of a block.
        total: of all of them.
        inputs: the dimension of each input.
        outputs: that of each output; of those beyond the last of these, that of the last.
    """

    def __init__(self, size: int, total: int, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.starts = [(start, min(size, total - start)) for start in range(0, total, size)] or [(0, 0)]
        self.inputs, self.outputs = inputs, outputs


class Packed:
    """A dense form of the first input that is not kept, and how it is made again from what is.

    Args:
        dense: the input.
        kept: a tensor from which `unpack` makes it, for a block from a start of a length.
    """

    def __init__(self, dense: Tensor, kept: Tensor, unpack: Callable[[Tensor, int, int], Tensor]) -> None:
        self.dense: Tensor | None = dense
        self.kept, self.unpack = kept, unpack


def replayed(
    run: Run, module: nn.Module, inputs: Sequence[Tensor], blocks: Blocks | None = None, packed: Packed | None = None
) -> tuple[Tensor, ...]:
    """``run(module, *inputs)``, computed in blocks, keeping the inputs; with `packed` the first input only stands for the dense one."""
    snapshot = Snapshot(module, inputs[0] if inputs else torch.empty(0))
    kept = None if packed is None else packed.kept
    job = _Job(run, module, snapshot, len(inputs), blocks, packed)
    return _Replayed.apply(job, kept, *inputs, *snapshot.tensors)


class _Job:
    def __init__(self, run: Run, module: nn.Module, snapshot: Snapshot, count: int, blocks: Blocks | None, packed: Packed | None) -> None:
        self.run, self.snapshot, self.count, self.blocks, self.packed = run, snapshot, count, blocks, packed
        self.module: nn.Module | None = module

    def parts(self, inputs: Sequence[Tensor]) -> Generator[tuple[tuple[int, int] | None, list[Tensor]]]:
        """The inputs of each block."""
        if self.blocks is None or len(self.blocks.starts) == 1:
            yield (None if self.blocks is None else self.blocks.starts[0]), list(inputs)
            return
        for start, length in self.blocks.starts:
            yield (start, length), [x.narrow(dim, start, length) for x, dim in zip(inputs, self.blocks.inputs, strict=True)]

    def first(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The run as the module itself does it."""
        module, dense = self.module, None if self.packed is None else self.packed.dense
        assert module is not None
        with self.snapshot.first():
            made = [self.run(module, *given) for _, given in self.parts(inputs if dense is None else (dense, *inputs[1:]))]
        self.module = None
        if self.packed is not None:
            self.packed.dense = None
        if len(made) == 1:
            return made[0]
        return tuple(torch.cat(parts, self._dim(place)) for place, parts in enumerate(zip(*made, strict=True)))

    def _dim(self, place: int) -> int:
        assert self.blocks is not None
        return self.blocks.outputs[min(place, len(self.blocks.outputs) - 1)]

    def given_back(self, arriving: Sequence[Tensor | None], block: tuple[int, int] | None) -> list[Tensor | None]:
        """The gradients that arrive at a block."""
        if block is None or self.blocks is None or len(self.blocks.starts) == 1:
            return list(arriving)
        return [None if g is None else g.narrow(self._dim(place), *block) for place, g in enumerate(arriving)]

    def joined(self, parts: list[Tensor | None], place: int) -> Tensor | None:
        """The gradient of an input from those of its blocks."""
        if len(parts) == 1 or self.blocks is None or not any(part is not None for part in parts):
            return parts[0]
        like = next(part for part in parts if part is not None)
        dim, sizes = self.blocks.inputs[place], (length for _, length in self.blocks.starts)
        shaped = [
            like.new_zeros(*like.shape[:dim], n, *like.shape[dim + 1 :]) if p is None else p for p, n in zip(parts, sizes, strict=True)
        ]
        return torch.cat(shaped, dim)


class _Context(Context, Protocol):
    job: _Job


class _Replayed(Function):
    @staticmethod
    def forward(ctx: _Context, job: _Job, kept: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = job.first(tensors[: job.count])
        ctx.job = job
        ctx.save_for_backward(kept, *tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in outputs if not x.is_floating_point() and not x.is_complex()))
        return outputs

    @staticmethod
    def backward(ctx: _Context, *arriving: Tensor | None) -> Gradients:
        """First derivatives on tensors cut off from the graph; where these are to be differentiated again, on the graph itself."""
        job = ctx.job
        if gate.surroundings() == gate.TRANSFORM:
            raise RuntimeError("what is recomputed cannot be differentiated inside a torch.func transform; keep it, with memory='save'")
        kept, *tensors = ctx.saved_tensors
        needs, again = ctx.needs_input_grad[2:], torch.is_grad_enabled()
        # An alias each: the derivative by one is not to include what flows through another that was computed from it.
        base = [x.view_as(x) if again else x.detach().requires_grad_(need) for x, need in zip(tensors, needs, strict=True)]
        inputs, own = base[: job.count], base[job.count :]
        of_inputs: list[list[Tensor | None]] = [[] for _ in inputs]
        of_own: list[Tensor | None] = [None for _ in own]
        with job.snapshot.again(own) as module, torch.enable_grad():
            for block, parts in job.parts(inputs):
                if job.packed is not None:
                    start, length = block or (0, 0)
                    dense = job.packed.unpack(kept, start, length)
                    parts[0] = _Dense.apply(parts[0], dense) if again else dense
                if not again:
                    parts = [x.detach().requires_grad_(need) for x, need in zip(parts, needs, strict=False)]
                made = job.run(module, *parts)
                pairs = [(x, g) for x, g in zip(made, job.given_back(arriving, block), strict=True) if g is not None and x.requires_grad]
                wanted = [x for x, need in zip((*parts, *own), needs, strict=True) if need]
                found: list[Tensor | None] = [None] * len(wanted)
                if pairs and wanted:
                    heads, given = zip(*pairs, strict=True)
                    found = list(torch.autograd.grad(heads, wanted, given, create_graph=again, allow_unused=True))
                gradients = iter(found)
                each = [next(gradients) if need else None for need in needs]
                for total, g in zip(of_inputs, each, strict=False):
                    total.append(g)
                of_own = [
                    g if total is None else total if g is None else total + g for total, g in zip(of_own, each[job.count :], strict=True)
                ]
        return None, None, *(job.joined(parts, place) for place, parts in enumerate(of_inputs)), *of_own


class _Dense(Function):
    """A tensor in the place of one that only stands for it: its gradient goes to that."""

    @staticmethod
    def forward(ctx: Context, stand_in: Tensor, dense: Tensor) -> Tensor:
        return dense.view_as(dense)

    @staticmethod
    def backward(ctx: Context, *arriving: Tensor) -> Gradients:
        return arriving[0], None


class Snapshot:
    """A module and what is around it, as they are now.

    Attributes:
        tensors: its parameters, and what else of it carries a gradient, each once: to be saved by whoever has it run again.
    """

    def __init__(self, module: nn.Module, like: Tensor) -> None:
        self.tensors: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._places: dict[int, tuple[list[Tensor], int]] = {}
        self._slots: list[tuple[Any, Any, list[Tensor], int]] = []
        self._random = [_Source(torch.get_rng_state, torch.set_rng_state)]
        if not like.is_cpu:
            device: Any = torch.get_device_module(like.device)
            at = like.device
            self._random.append(_Source(lambda: device.get_rng_state(at), lambda state: device.set_rng_state(state, at)))
        self._module = self._copied(module, {})
        self._places.clear()
        kinds = dict.fromkeys(("cpu", like.device.type))
        self._autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]

    def _copied(self, module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
        """The module with all attributes, and a slot where a tensor was."""
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{type(module).__name__} is compiled by torch.jit and cannot be run again as it was")
        inner = module._modules.get("_orig_mod")  # pyright: ignore[reportPrivateUsage]
        if isinstance(inner, nn.Module):  # of what torch.compile wraps: it would call the module itself, not the copy
            return self._copied(inner, known)
        found = known.get(id(module))
        if found is not None:
            return found
        copy = known[id(module)] = object.__new__(type(module))  # not the class's own, which may want more
        attributes = copy.__dict__
        attributes.update(module.__dict__)
        attributes["_compiled_call_impl"] = None  # likewise
        if getattr(attributes.get("forward"), "__self__", None) is module:
            attributes["forward"] = types.MethodType(attributes["forward"].__func__, copy)
        for holder in ("_parameters", "_buffers"):
            attributes[holder] = dict(attributes[holder])
            self._empty(attributes[holder], checked=holder == "_parameters")
        self._empty(attributes, checked=False)
        children: dict[str, Any] = attributes["_modules"]
        attributes["_modules"] = {name: None if child is None else self._copied(child, known) for name, child in children.items()}
        return copy

    def _empty(self, holder: dict[str, Any], *, checked: bool) -> None:
        """Take tensors out of a dictionary, or out of lists in it, and note where each belongs."""
        for name, value in holder.items():
            if isinstance(value, Tensor):
                self._take(holder, name, value, checked)
            elif type(value) is list and any(isinstance(x, Tensor) for x in value):
                items = holder[name] = list[Any](value)
                for place, x in enumerate(items):
                    if isinstance(x, Tensor):
                        self._take(items, place, x, checked)
            elif isinstance(value, torch.Generator):
                self._random.append(_Source(value.get_state, value.set_state))

    def _take(self, holder: Any, name: Any, x: Tensor, checked: bool) -> None:
        if id(x) not in self._places:
            into = self.tensors if checked or x.requires_grad else self._copies
            into.append(x if into is self.tensors else x.clone())
            self._places[id(x)] = into, len(into) - 1
        self._slots.append((holder, name, *self._places[id(x)]))
        holder[name] = None

    @contextlib.contextmanager
    def first(self) -> Generator[None]:
        """The first run: weights that autocast converts are not kept, since they would be without a graph; then what it drew is known."""
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in self._autocast:
                if enabled:
                    stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield
        self._random = [source for source in self._random if not torch.equal(source.state, source.get())]

    @contextlib.contextmanager
    def again(self, tensors: Sequence[Tensor]) -> Generator[nn.Module]:
        """The module as it was, with these tensors in the place of `tensors`."""
        copies = [x.clone() for x in self._copies]
        now = [source.get() for source in self._random]
        try:
            for holder, name, of, place in self._slots:
                holder[name] = (tensors if of is self.tensors else copies)[place]
            for source in self._random:
                source.set(source.state)
            with contextlib.ExitStack() as stack:
                for kind, enabled, dtype in self._autocast:
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
                yield self._module
        finally:
            for holder, name, *_ in self._slots:
                holder[name] = None
            for source, state in zip(self._random, now, strict=True):
                source.set(state)


class _Source:
    """Where random numbers come from, and what it was like before the run."""

    def __init__(self, get: Callable[[], Tensor], set: Callable[[Tensor], object]) -> None:
        self.get, self.set, self.state = get, set, get()
