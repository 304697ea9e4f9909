"""What a network's `forward` does over all of its time steps, recorded as a flat list of operations.

The network runs once on example values while a `TorchFunctionMode` sees every operation. Spiking layers do not run: they hand out
placeholders, and what is recorded of them is which of their states came from where. Layers of `torch.nn` are one operation each.
Python's own control flow may look at shapes, but not at values: one recording stands for all inputs of the same shapes.
"""

from __future__ import annotations

import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import spikegrad
from spikegrad.compat.snntorch.fusion.operations import Constant, FusionError, Named, Node, Out, Recording, Tree, leaves, over, refused
from spikegrad.compat.snntorch.fusion.undisturbed import undisturbed
from spikegrad.compat.snntorch.neuron import SpikingNeuron
from spikegrad.kernels import gate
from spikegrad.vocabulary import fits

_LIBRARIES = tuple(os.path.dirname(str(package.__file__)) + os.sep for package in (torch, spikegrad))

METADATA = {"size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device", "type"} | {
    f"__{name}__" for name in ("len", "repr", "format", "hash")
}
"""Functions of a tensor that return no tensor and do not look at its values; so do those called ``is_…``, but for `is_nonzero`."""

KEEPS_STATISTICS = ("batch_norm", "instance_norm")
"""Functions that write to running statistics among their arguments."""

SIZED_BY_VALUES = frozenset(["nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"])
"""Functions whose result has a shape that depends on values."""


class Recorder(TorchFunctionMode):
    """Records what is called while it is entered.

    Args:
        root: the network.
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root = root
        self.neurons = {module: module.STATES for module in root.modules() if isinstance(module, SpikingNeuron)}
        self.paths = {module: path for path, module in root.named_modules()}
        self.nodes: list[Node] = []
        self.known: dict[int, Out] = {}
        self.kept: list[Tensor] = []  # an id is good for as long as its object lives
        self.attached: dict[int, bool] = {}
        self.memory: defaultdict[int, set[int]] = defaultdict(set)
        kept = ((m, pair) for m in root.modules() for pair in (*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)))
        # The states are no such tensors: they come from the step before.
        self.named = {id(t): Named(m, name) for m, (name, t) in kept if not (isinstance(m, SpikingNeuron) and name in m.STATES)}
        self.writes: dict[int, tuple[int, dict[int, Out]]] = {}
        self.last: dict[nn.Module, list[Node]] = {}
        self.paused = False
        self.autocast = autocast()

    def record(self, function: Callable[..., Tree], args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Recording:
        """Call a function and record it. Its tensor arguments become the inputs."""
        if gate.surroundings() == gate.TRANSFORM:
            why = "its first call with arguments of these shapes records it, which it cannot inside a torch.func transform"
            raise refused(self.root, why, None, "call it once outside of that")
        inputs: list[Node] = []

        def take(given: Tensor) -> Tensor:
            fresh = given.detach().clone() if given.is_inference() else given.detach()
            if fresh.is_floating_point():
                fresh.requires_grad_()  # what is computed out of sight of the recorder shows by its gradient
            inputs.append(Node(f"input {len(inputs)}"))
            self.keep(fresh, Out(inputs[-1]))
            return fresh

        with torch.inference_mode(False):
            args, kwargs = over(args, take), over(dict(kwargs), take)
        self.inputs = set(inputs)
        with torch.inference_mode(False), undisturbed(self.root, self.neurons, self._layer), torch.enable_grad(), self:
            result = function(*args, **kwargs)
        return Recording(inputs, self.nodes, over(result, self.refer))

    def keep(self, tensor: Tensor, out: Out) -> None:
        """Know a tensor from now on."""
        self.known[id(tensor)] = out
        self.attached[id(tensor)] = tensor.requires_grad
        self.kept.append(tensor)
        self.memory[self._place(tensor)].add(id(tensor))

    def refer(self, tensor: Tensor) -> Out | Named | Constant:
        """What stands for a tensor.

        Raises:
            FusionError: it was computed from the inputs by something that the recorder does not see.
        """
        if id(tensor) in self.writes:
            raise self.refuse("a tensor is read before all of its steps have been written", "collect the steps in a list and stack it")
        known = self.known.get(id(tensor)) or self.named.get(id(tensor))
        was = self.attached.get(id(tensor), isinstance(known, Named) or not tensor.requires_grad or tensor.is_leaf)
        if (tensor.requires_grad and not was) or (known is None and tensor.grad_fn is not None):
            raise self.refuse(
                "a tensor was computed out of sight, as by a torch.autograd.Function or compiled code",
                "run that part outside of the network",
            )
        self.kept.append(tensor)
        return Constant(tensor) if known is None else known

    def refuse(self, why: str, instead: str = "") -> FusionError:
        """An error that tells the line."""
        return refused(self.root, why, Node(None, where=_where()), instead)

    def __torch_function__(
        self, func: Callable[..., Tree], types: object, args: tuple[Tree, ...] = (), kwargs: Mapping[str, Tree] | None = None
    ) -> Tree:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.paused or name in METADATA or (name.startswith("is_") and name != "is_nonzero"):
            return func(*args, **kwargs)
        if name == "__set__" or "out" in kwargs:
            raise self.refuse(f"`{'out=' if 'out' in kwargs else 'an attribute of a tensor'}` is written to")
        if name == "__setitem__":
            return self._write(*args)
        plain = _IN_PLACE.get(name) or (name[:-1] if name.endswith("_") and not name.startswith("_") else None)
        if plain is not None:
            return self._in_place(name, plain, args, kwargs)
        if name in SIZED_BY_VALUES or (name == "__getitem__" and any(t.dtype in (torch.bool, torch.uint8) for t in leaves(args[1]))):
            raise self.refuse(f"the shape of `{name}`'s result depends on values")
        if name in _FILLED:
            return self._filled(func, name, args, kwargs)
        if name in ("__getitem__", "unbind", "split", "chunk") and not kwargs and isinstance(args[0], Tensor):
            chosen = self._select(name, args)
            if chosen is not None:
                return chosen
        return self.call(func, args, kwargs)

    def call(self, target: Any, args: tuple[Tree, ...], kwargs: Mapping[str, Tree], function: Callable[..., Tree] | None = None) -> Tree:
        """Run an operation and record it, if it returns tensors."""
        before, versions = _random_state(), [(t, t._version) for t in leaves((args, kwargs))]
        self.paused = True
        try:
            result = (function or target)(*args, **kwargs)
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise self.refuse("an input is written to in place", "make a new tensor") from error
            raise
        finally:
            self.paused = False
        tensors = leaves(result)
        if not tensors:
            if getattr(target, "__name__", "") in ("__get__", "__eq__", "__ne__") or not any(
                id(t) in self.known for t in leaves((args, kwargs))
            ):
                return result
            raise self.refuse(f"`{getattr(target, '__name__', target)}` reads values, on which the next steps may depend")
        written = [t for t, version in versions if t._version != version]
        if written and getattr(target, "__name__", "") not in KEEPS_STATISTICS:
            args = over(args, lambda t: self._copied(t) if any(t is w for w in written) else t)
        elif all(id(t) in self.known for t in tensors):
            return result  # as x.contiguous() returns x itself
        moved = not torch.equal(before, _random_state())
        if autocast() != self.autocast:
            raise self.refuse("autocast is entered within forward", "enter it around the whole network")
        node = Node(target, over(args, self.refer), over(dict(kwargs), self.refer), _where(), torch.is_grad_enabled(), moved)
        self.nodes.append(node)
        for index, tensor in enumerate(tensors):
            self.keep(tensor, Out(node, index))
        return result

    def _select(self, name: str, args: tuple[Tree, ...]) -> Tree:
        """One step of a sequence, however it is written, so that all of them are seen to be alike; None if it is something else."""
        source, *rest = args
        if name == "__getitem__":
            return self._indexed(source, rest[0])
        dim = rest[-1] if len(rest) == (1 if name == "unbind" else 2) else 0
        if name == "unbind":
            return tuple(self.call(torch.select, (source, dim, place), {}) for place in range(source.shape[dim]))
        if rest[0] != (1 if name == "split" else source.shape[dim]):
            return None
        return tuple(self._kept(source, dim, place) for place in range(source.shape[dim]))

    def _indexed(self, source: Tensor, index: Tree) -> Tree:
        index = index if isinstance(index, tuple) else (index,)
        if not all(i is Ellipsis or isinstance(i, slice) or (isinstance(i, int) and not isinstance(i, bool)) for i in index):
            return None
        before: tuple[Tree, ...] = index[: index.index(Ellipsis)] if Ellipsis in index else index
        chosen = [(dim, i) for dim, i in enumerate(before) if i != slice(None)]
        after = index[len(before) + 1 :] if Ellipsis in index else ()
        if len(chosen) != 1 or any(i != slice(None) for i in after) or len(before) + len(after) > source.ndim:
            return None
        dim, i = chosen[0]
        size = source.shape[dim]
        if isinstance(i, int):
            return self.call(torch.select, (source, dim, i % size), {}) if -size <= i < size else None
        start, stop, step = i.indices(size)
        return self._kept(source, dim, start) if stop - start == 1 == step else None

    def _kept(self, source: Tensor, dim: int, place: int) -> Tensor:
        """One step that keeps its dimension."""
        return self.call(torch.unsqueeze, (self.call(torch.select, (source, dim, place), {}), dim), {})

    def _filled(self, func: Callable[..., Tensor], name: str, args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Tensor:
        """A constant of the shape of another tensor, on which it does not depend."""
        like = func(*args, **kwargs)
        value = _FILLED[name]
        value = (kwargs["fill_value"] if "fill_value" in kwargs else args[-1]) if value is None else value
        given = {"dtype": like.dtype, "device": like.device, "requires_grad": like.requires_grad}
        return self.call(torch.full, (tuple(like.shape), value), given)

    def _in_place(self, name: str, plain: str, args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Tensor:
        """An operation in place as the operation that returns a new value, which the old object stands for from then on."""
        target: Tree = args[0] if args else None
        function = getattr(Tensor, plain, None)
        if not callable(function):
            raise self.refuse(f"`{name}` writes in place to a tensor that was there before")
        self._check_write(target, name)
        result = self.call(function, args, kwargs)
        if result.shape != target.shape:
            raise self.refuse(f"`{name}` writes a result of shape {tuple(result.shape)} in place to one of shape {tuple(target.shape)}")
        if result is not target:
            if result.dtype != target.dtype:
                result = self.call(Tensor.to, (result, target.dtype), {})
            self.known[id(target)] = self.known[id(result)]
            self.attached[id(target)] = target.requires_grad
        return target

    def _check_write(self, target: Tensor, name: str) -> Out:
        """What is written to, if nothing else sees the write."""
        out = self.known.get(id(target))
        if out is None:
            raise self.refuse(f"`{name}` writes in place to a tensor that was there before")
        if out.node in self.inputs:
            raise self.refuse(f"`{name}` writes in place to an input", "make a new tensor")
        if len(self.memory[self._place(target)]) > 1:
            raise self.refuse(f"`{name}` writes in place to a tensor that shares its memory with another", "make a new tensor")
        return out

    def _place(self, tensor: Tensor) -> int:
        """Where a tensor's numbers are; each empty one is by itself."""
        paused, self.paused = self.paused, True
        place = tensor.untyped_storage().data_ptr()
        self.paused = paused
        return place or -id(tensor)

    def _copied(self, tensor: Tensor) -> Tensor:
        """A copy of what a layer has just written to, which it will write to in its place."""
        out = self._check_write(tensor, "inplace=True")
        copy = tensor.detach()
        self.nodes.append(Node(torch.clone, (out,), {}, _where(), torch.is_grad_enabled()))
        self.known[id(copy)], self.attached[id(copy)] = Out(self.nodes[-1]), copy.requires_grad
        self.kept.append(copy)
        return copy

    def _write(self, target: Tensor, index: Tree, value: Tree) -> None:
        """One step written into a tensor for all of them; when each has been written once, they are a stack."""
        out = self.known.get(id(target))
        lead: Tree = index[0] if isinstance(index, tuple) and index else index
        rest = index[1:] if isinstance(index, tuple) else ()
        dim = 0
        if isinstance(index, tuple) and len(index) > 1 and index[0] == slice(None) and isinstance(index[1], int):
            dim, lead, rest = 1, index[1], index[2:]
        simple = isinstance(lead, int) and not isinstance(lead, bool) and all(i == slice(None) or i is Ellipsis for i in rest)
        if (
            out is None
            or not simple
            or out.node in self.inputs
            or len(self.memory[self._place(target)]) > 1
            or not isinstance(value, Tensor)
        ):
            raise self.refuse("a tensor is written to in place", "collect the steps in a list and stack it")
        shape = target.shape[:dim] + target.shape[dim + 1 :]
        if value.dtype != target.dtype:
            value = self.call(Tensor.to, (value, target.dtype), {})
        if value.shape != shape:
            value = self.call(Tensor.expand, (value, shape), {})
        found, steps = self.writes.setdefault(id(target), (dim, {}))
        referred = self.refer(value)
        if found != dim or lead % target.shape[dim] in steps or not isinstance(referred, Out):
            raise self.refuse("a tensor is written to in place more than once", "collect the steps in a list and stack it")
        steps[lead % target.shape[dim]] = referred
        if len(steps) == target.shape[dim]:
            del self.writes[id(target)]
            node = Node(torch.stack, ([steps[place] for place in range(len(steps))], dim), {}, _where(), torch.is_grad_enabled())
            self.nodes.append(node)
            self.known[id(target)] = Out(node)

    def _layer(self, module: nn.Module) -> Callable[..., Tree]:
        if isinstance(module, SpikingNeuron):
            return lambda *args, **kwargs: self._neuron(module, *args, **kwargs)
        forward = module.forward
        return lambda *args, **kwargs: self.call(module, args, kwargs, forward)

    def _neuron(self, module: SpikingNeuron, input_: Tensor, *given: Tensor | None, **named: Tensor | None) -> Tree:
        """A call of a spiking layer, of which only the flow of its states is recorded."""
        names, path = self.neurons[module], self.paths[module]
        states = {name: state for name, state in (*zip(names, given, strict=False), *named.items()) if state is not None}
        if len(given) > len(names) or set(states) - set(names):
            raise self.refuse(f"`{path}` is given more than its input and {', '.join(names)}")
        if states and module.init_hidden:
            raise self.refuse(f"`{path}` keeps its state itself (init_hidden=True), and is given {', '.join(states)}")
        given_states: dict[str, Tensor] = {name: states[name] if name in states else getattr(module, name) for name in names}
        for name, state in given_states.items():
            if state.numel() and not (
                (state.numel() == 1 or fits(state.shape, input_.shape)) if name in states else state.shape == input_.shape
            ):
                raise self.refuse(f"state {name} of `{path}` has shape {tuple(state.shape)}, and its input {tuple(input_.shape)}")
        refs = {name: self.refer(state) for name, state in given_states.items()}
        node = Node(module, (self.refer(input_),), {}, _where(), torch.is_grad_enabled())
        node.before = self._before(module, refs)
        if node.before is None:  # an empty state is rest, unless it is an argument, in whose place another may be given
            own = {name for name, ref in refs.items() if isinstance(ref, Out) and ref.node in self.inputs}
            node.start = {name: ref for name, ref in refs.items() if name in own or given_states[name].numel()}
        self.nodes.append(node)
        self.last.setdefault(module, []).append(node)
        self.paused = True
        wide = input_.dtype if input_.is_floating_point() else torch.get_default_dtype()
        outputs = {name: torch.zeros_like(input_, dtype=wide).requires_grad_() for name in self.outputs(module)}
        self.paused = False
        for index, tensor in enumerate(outputs.values()):
            self.keep(tensor, Out(node, index))
        for name in names:
            setattr(module, name, outputs[name])
        return outputs["spk"] if module.init_hidden and not module.output else tuple(outputs.values())

    def _before(self, module: SpikingNeuron, refs: Mapping[str, Out | Named | Constant]) -> Node | None:
        """The call whose states these are, which is then no longer the last of its sequence."""
        names = self.outputs(module)
        for last in self.last.get(module, ()):
            passed = [name for name, ref in refs.items() if isinstance(ref, Out) and ref == Out(last, names.index(name))]
            if len(passed) == len(refs):
                self.last[module].remove(last)
                return last
            if passed:
                changed = [name for name in refs if name not in passed]
                words = f"{', '.join(changed)} of the states of `{self.paths[module]}` {'is' if len(changed) == 1 else 'are'}"
                raise self.refuse(f"only {words} changed between two steps")
        return None

    def outputs(self, module: SpikingNeuron) -> tuple[str, ...]:
        """Names of what a spiking layer returns, in order."""
        return ("spk", *(name for name in self.neurons[module] if name != "spk"))


_FILLED: dict[str, float | None] = {"zeros_like": 0, "ones_like": 1, "full_like": None, "new_zeros": 0, "new_ones": 1, "new_full": None}

_IN_PLACE = {f"__i{name}__": f"__{name}__" for name in ["add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or", "xor"]}


def recorded(module: nn.Module, function: Callable[..., Tree], args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Recording:
    """What a module does when this function, the module or a loop around it, is called."""
    return Recorder(module).record(function, args, kwargs)


def autocast() -> tuple[tuple[bool, torch.dtype], ...]:
    """What of automatic mixed precision is in force."""
    return tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda"))


def _random_state() -> Tensor:
    if torch.cuda.is_initialized():
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state()])
    return torch.get_rng_state()


def _where() -> tuple[str, int] | None:
    """The innermost line of code that is neither PyTorch's nor ours."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        if frame.f_code is Recorder.record.__code__:
            return None
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)
