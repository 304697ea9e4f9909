"""Running a module again exactly as it ran, so that the backward pass needs only what went into it.

The second run has what the first one had, whatever became of it since: parameters as PyTorch saves them, with an error if they were changed
in place; buffers, modes, numbers and surrogates from a copy of the modules; autocast; random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.module import _has_any_global_hook as hooked_globally  # pyright: ignore[reportPrivateUsage]
from torch.utils import _pytree as tree

from spikegrad.gradient.function import Context, Function, Gradients
from spikegrad.kernels import gate
from spikegrad.kernels.cpu import memory
from spikegrad.nn.snapshot import Snapshot

Memory = Literal["save", "recompute"]

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
    if not torch.is_grad_enabled() or not all(visible(x) for x in tree.tree_leaves(arguments) if isinstance(x, Tensor)):
        return module(*arguments)
    return replayed_tree(_called, module, arguments)


def _called(module: nn.Module, *arguments: Any) -> Any:
    return module(*arguments)


def replayed_tree(
    run: Callable[..., Any],
    module: nn.Module,
    arguments: Sequence[Any],
    blocks: Blocks | None = None,
    packed: Packed | None = None,
    *,
    draws: bool = True,
) -> Any:
    """`replayed` of trees to a tree: the tensors in both are what it is about."""
    leaves, structure = tree.tree_flatten(tuple(arguments))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    made: list[tuple[tree.TreeSpec, list[object]]] = []

    def flat(module: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = list(leaves)
        for place, x in zip(places, tensors, strict=True):
            given[place] = x
        results, shape = tree.tree_flatten(run(module, *tree.tree_unflatten(given, structure)))
        if not made:
            made.append((shape, [... if isinstance(result, Tensor) else result for result in results]))
        return tuple(result for result in results if isinstance(result, Tensor))

    tensors = [leaves[place] for place in places]
    for place in places:
        leaves[place] = None  # the closure must not keep them alive
    results = iter(replayed(flat, module, tensors, blocks, packed, draws=draws))
    ((shape, others),) = made
    return tree.tree_unflatten([next(results) if other is ... else other for other in others], shape)


def check(memory: str) -> None:
    """Refuse an unknown word for what is kept."""
    if memory not in get_args(Memory):
        raise ValueError(f"`memory` must be one of {', '.join(map(repr, get_args(Memory)))}, got {memory!r}")


def visible(x: Tensor) -> bool:
    """Whether a run with this tensor may be recomputed: it has numbers, and nobody traces or transforms what is done with them."""
    if torch.compiler.is_compiling() or gate.surroundings() is not None:
        return False
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta


def watched(module: nn.Module) -> bool:
    """Whether somebody has hooks inside of a module. What they see, perhaps for a loss, has a graph only if the module runs as it is."""
    if hooked_globally():
        return True
    return any(
        each._forward_hooks or each._forward_pre_hooks or each._backward_hooks or each._backward_pre_hooks  # pyright: ignore
        for each in module.modules()
    )


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
    run: Run,
    module: nn.Module,
    inputs: Sequence[Tensor],
    blocks: Blocks | None = None,
    packed: Packed | None = None,
    *,
    draws: bool = True,
) -> tuple[Tensor, ...]:
    """``run(module, *inputs)``, computed in blocks, keeping the inputs; with `packed` the first input only stands for the dense one.

    What `draws` no random numbers need not look at their sources, which cannot be done while a CUDA graph is captured.
    """
    snapshot = Snapshot(module, inputs[0] if inputs else torch.empty(0), draws=draws)
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
        versions = [0 if x.is_inference() else x._version for x in inputs]
        joined: list[_Joined] = []
        with self.snapshot.first():
            for block, given in self.parts(inputs if dense is None else (dense, *inputs[1:])):
                for place, x in enumerate(self.run(module, *given)):
                    if len(joined) == place:
                        joined.append(_Joined(self._dim(place), self.blocks))
                    joined[place].add(x, block)
        if versions != [0 if x.is_inference() else x._version for x in inputs]:
            raise RuntimeError(
                "a module changed its input in place, from which it is to be computed anew in the backward pass; give it inplace=False, or "
                "keep what autograd keeps"
            )
        self.module = None
        if self.packed is not None:
            self.packed.dense = None
        return tuple(x for each in joined if (x := each.whole) is not None)

    def of_block(
        self,
        module: nn.Module,
        parts: Sequence[Tensor],
        dense: Tensor | None,
        own: Sequence[Tensor],
        needs: Sequence[bool],
        arriving: Sequence[Tensor | None],
        again: bool,
    ) -> list[Tensor | None]:
        """Gradients by the inputs of a block and by what belongs to the module, to be differentiated again or not."""
        given = parts if dense is None else (_Dense.apply(parts[0], dense), *parts[1:])
        made = self.run(module, *given)
        pairs = [(get_gradient_edge(x), g) for x, g in zip(made, arriving, strict=True) if g is not None and x.requires_grad]
        del made  # their numbers are needed no more
        wanted = [x for x, need in zip((*parts, *own), needs, strict=True) if need]
        found: list[Tensor | None] = [None] * len(wanted)
        if pairs and wanted:
            heads, gradients = zip(*pairs, strict=True)
            found = list(torch.autograd.grad(heads, wanted, gradients, create_graph=again, allow_unused=True))
        each = iter(found)
        return [next(each) if need else None for need in needs]

    def _dim(self, place: int) -> int:
        return 0 if self.blocks is None else self.blocks.outputs[min(place, len(self.blocks.outputs) - 1)]

    def given_back(self, arriving: Sequence[Tensor | None], block: tuple[int, int] | None) -> list[Tensor | None]:
        """The gradients that arrive at a block."""
        if block is None or self.blocks is None or len(self.blocks.starts) == 1:
            return list(arriving)
        return [None if g is None else g.narrow(self._dim(place), *block) for place, g in enumerate(arriving)]


class _Joined:
    """A tensor from its blocks along a dimension, laid out as they are; blocks that are None are zero.

    It is allocated once, and each block is copied into it as soon as it is there, so that never all of them are there twice.
    """

    def __init__(self, dim: int, blocks: Blocks | None) -> None:
        self.dim, self.blocks = dim, blocks
        self.whole: Tensor | None = None

    def add(self, x: Tensor | None, block: tuple[int, int] | None) -> None:
        """Take the block from a start of a length."""
        if block is None or self.blocks is None or len(self.blocks.starts) == 1:
            self.whole = x
            return
        if self.whole is None and x is not None:
            order = sorted(range(x.ndim), key=lambda dim: -x.stride(dim))
            sizes = [sum(length for _, length in self.blocks.starts) if dim == self.dim else x.shape[dim] for dim in order]
            room = x.new_zeros(sizes) if block[0] else x.new_empty(sizes)
            self.whole = room.permute([order.index(dim) for dim in range(x.ndim)])
        if self.whole is not None:
            part = self.whole.narrow(self.dim, *block)
            part.zero_() if x is None else part.copy_(x)


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
        of_inputs = [_Joined(0 if job.blocks is None else job.blocks.inputs[place], job.blocks) for place in range(job.count)]
        of_own: list[Tensor | None] = [None for _ in own]
        with job.snapshot.again(own) as module, torch.enable_grad():
            for block, parts in job.parts(inputs):
                if not again:
                    parts = [x.detach().requires_grad_(need) for x, need in zip(parts, needs, strict=False)]
                dense = None if job.packed is None else job.packed.unpack(kept, *(block or (0, 0)))
                each = job.of_block(module, parts, dense, own, needs, job.given_back(arriving, block), again)
                del parts, dense
                for whole, g in zip(of_inputs, each, strict=False):
                    whole.add(g, block)
                of_own = [
                    g if total is None else total if g is None else total + g for total, g in zip(of_own, each[job.count :], strict=True)
                ]
        if inputs and inputs[0].is_cpu and (job.blocks is None or len(job.blocks.starts) == 1):
            size = inputs[0].nbytes
            del base, inputs, own, tensors, kept, module
            memory.used(size)
        return None, None, *(each.whole for each in of_inputs), *of_own


class _Dense(Function):
    """A tensor in the place of one that only stands for it: its gradient goes to that."""

    @staticmethod
    def forward(ctx: Context, stand_in: Tensor, dense: Tensor) -> Tensor:
        return dense.detach()  # which may be changed in place, as a view may not

    @staticmethod
    def backward(ctx: Context, *arriving: Tensor) -> Gradients:
        return arriving[0], None
