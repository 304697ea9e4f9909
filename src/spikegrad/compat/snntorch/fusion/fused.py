"""snnTorch-style networks as whole-sequence calls.

A network written for snnTorch computes one time step after the other, and no kernel can span steps that Python's loop drives. `fuse`
records what the loop does, checks that steps depend on each other through the states of spiking layers alone, and runs the layers one
after the other instead, each over all steps. It says why where it cannot.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from spikegrad.compat.snntorch.fusion.onestep import Steps, find_steps
from spikegrad.compat.snntorch.fusion.operations import Tree, leaves, over, refused
from spikegrad.compat.snntorch.fusion.program import Program
from spikegrad.compat.snntorch.fusion.recording import autocast, recorded
from spikegrad.compat.snntorch.fusion.schedule import frozen
from spikegrad.compat.snntorch.fusion.sequence import obstacle
from spikegrad.compat.snntorch.fusion.undisturbed import has_hooks, is_layer, own_state
from spikegrad.compat.snntorch.neuron import SpikingNeuron
from spikegrad.kernels import gate

KEPT_PROGRAMS = 64
"""Recordings that a fused network keeps, one for each combination of shapes it was called with lately."""


_READ = (bool, int, float, str, type(None))
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


class FusionWarning(UserWarning):
    """A network was fused, but none of its spiking layers is any faster for it."""


def fuse(module: nn.Module, example: Tree = None, *, step: bool | None = None) -> Fused:
    """Turn a network written in snnTorch's style into one that computes whole sequences, with the same parameters.

    Three kinds of networks are understood:

    - `torch.nn.Sequential` with spiking layers that keep their state (``init_hidden=True``);
    - a module whose `forward` is one time step, its states kept by the layers or passed in and out;
    - a module whose `forward` loops over the steps itself, as snnTorch's tutorials do.

    The first two become a function of the whole sequence ``(time, batch, ...)``, and of states to start from, which may be left out;
    it returns what the loop around them would have stacked. The third is called as before. Every call starts from rest, or from the states
    given or made in `forward`, and stores nothing.

    Layers between the spiking ones are applied to all steps at once, exactly (`torch.vmap`), except those whose result depends on how often
    they run, as batch normalisation in training. Spiking layers run in the fused kernels where these compute exactly what they do:
    those with a surrogate that has a formula, and without inhibition, quantised states or hooks. Others run step by step within.
    `Fused.report` says which is which. Random numbers, as of dropout, are drawn in another order than step by step.

    `forward` is recorded for each combination of shapes, training mode and numbers among the modules' attributes; other attributes and
    globals that it reads are those of the first call.

    Args:
        module: the network. It stays usable, and shares its parameters with what is returned.
        example: what ``module(example)`` or ``module(*example)`` takes: a tensor, or a tuple of arguments. The result is compared with
            `module` on it. Needed unless `module` is a `torch.nn.Sequential` or `step` says what `forward` is.
        step: whether ``module(...)`` is one time step; found out from the example if None: it is if each spiking layer runs once.

    Returns:
        The fused network.

    Raises:
        FusionError: the structure does not allow it; the message names the layer and the line.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snn.Leaky(beta=0.9, init_hidden=True))
        >>> fused = snn.fuse(net)
        >>> fused(torch.rand(100, 16, 4)).shape
        torch.Size([100, 16, 8])
        >>> fused.report()
        {'1': 'fused', '0': 'whole sequence'}
    """
    neurons = [m for m in module.modules() if isinstance(m, SpikingNeuron)]
    _check_modules(module, neurons)
    given = () if example is None else example if isinstance(example, tuple) else (example,)
    if type(module).forward is nn.Sequential.forward or isinstance(module, SpikingNeuron):
        step = True if step is None else step
        _check_chain(module)
    if step is None:
        if example is None:
            raise refused(
                module, "its forward may be one time step or a whole loop", None, "give an `example` of its arguments, or `step=`"
            )
        calls = [node.target for node in recorded(module, module, given, {}).nodes if isinstance(node.target, SpikingNeuron)]
        step = 0 < len(calls) == len(set(calls))
    fused = Fused(module, step)
    if example is not None:
        fused.verify(*given)
    fused.warn_if_slow(3)
    return fused


class Fused(nn.Module):
    """A network as whole-sequence calls; see `fuse`, which makes it.

    Its parameters, buffers and submodules are those of the original, under the same names. It copies, pickles and moves like any module.
    """

    def __init__(self, module: nn.Module, step: bool) -> None:
        super().__init__()
        self.__dict__["original"] = module
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.training = module.training
        self._step = step
        self._steps: Steps | None = None
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()
        self._how: dict[str, str] = {}
        self._as_written = False
        self._warned = False

    original: nn.Module
    """The network as it was written."""

    def forward(self, *args: Tree, **kwargs: Tree) -> Tree:
        """All steps of the network.

        Args:
            *args: if the original is one step: the sequence ``(time, batch, ...)``, then states to start from, if any; else what the
                original takes.
            **kwargs: likewise, by name.

        Returns:
            If the original is one step: each of its outputs, stacked over time; else what the original returns.

        Raises:
            FusionError: with arguments of these shapes the structure does not allow it.
        """
        if gate.tracing():
            raise refused(self.original, "torch.jit.trace does not see what it runs", None, "trace the original network")
        function, args, kwargs = self._called(args, kwargs)
        if self._as_written:
            with own_state(*(m for m in self.original.modules() if isinstance(m, SpikingNeuron)), rest=True):
                return function(*args, **kwargs)
        program = self._program(function, args, kwargs)
        result = program.run(leaves((args, kwargs)))
        self.__dict__["_how"] = program.how
        if not program.ran:
            program.ran = True
            self.warn_if_slow(5)
        return result

    def warn_if_slow(self, stacklevel: int) -> None:
        """Warn, once, if no spiking layer runs in the fused kernels."""
        how = self.report()
        spiking = [path for path, m in self.original.named_modules() if isinstance(m, SpikingNeuron)]
        if not self._warned and not any(how[path] == "fused" for path in spiking):
            self._warned = True
            reasons = "; ".join(f"`{path}`: {how[path]}" for path in spiking)
            message = f"none of the spiking layers of {type(self.original).__name__} runs in the fused kernels: {reasons}"
            warnings.warn(message, FusionWarning, stacklevel=stacklevel)

    def _program(self, function: Callable[..., Tree], args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Program:
        key = self._key(args, kwargs)
        if key not in self._programs:
            self._programs[key] = Program(recorded(self.original, function, args, kwargs), self.original)
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
                warnings.warn(
                    f"{type(self.original).__name__} was called with more than {KEPT_PROGRAMS} combinations of shapes, each of which is "
                    "recorded at the cost of a step-by-step run; pad sequences to few lengths",
                    FusionWarning,
                    stacklevel=3,
                )
        self._programs.move_to_end(key)
        return self._programs[key]

    def report(self) -> dict[str, str]:
        """How each layer ran in the last call: ``"fused"``, ``"whole sequence"``, or ``"step loop, because …"``."""
        named = {path: m for path, m in self.original.named_modules() if isinstance(m, SpikingNeuron)}
        reasons = {path: obstacle(m) for path, m in named.items()}
        expected = {path: "fused" if why is None else f"step loop, because {why}" for path, why in reasons.items()}
        return expected | self._how

    def verify(self, *args: Tree, **kwargs: Tree) -> None:
        """Compare with the original on arguments as the original takes them: one step of the input, if it is one step.

        Both compute in float64, so that rounding decides no spike, and without dropout. Outputs that come of other random numbers are not
        compared.

        Raises:
            FusionError: they differ.
        """
        if self._step and args and isinstance(args[0], Tensor):
            scales = (1.0, 0.5, 1.5, 1.0) if args[0].is_floating_point() else (1, 1, 1, 1)
            args = (torch.stack([args[0] * scale for scale in scales]), *args[1:])
        self._program(*self._called(args, kwargs))  # what is refused is refused in the user's own dtype
        dropout = [m for m in self.original.modules() if isinstance(m, _DROPOUT) and m.training]
        for module in dropout:
            module.training = False
        before = self._programs.copy()
        try:
            self._compare(args, kwargs)
        finally:
            self._programs = before
            for module in dropout:
                module.training = True

    def _compare(self, args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> None:
        def run(as_written: bool, dtype: torch.dtype | None) -> list[Tensor]:
            def copied(tensor: Tensor) -> Tensor:
                return tensor.detach().to(dtype if tensor.is_floating_point() else None, copy=True)

            self._as_written = as_written
            state = {name: copied(t) for name, t in (*self.named_parameters(), *self.named_buffers())}
            try:
                with torch.no_grad(), torch.random.fork_rng(()):
                    return leaves(torch.func.functional_call(self, state, over(args, copied), over(kwargs, copied)))
            finally:
                self._as_written = False

        dtype, stray = torch.float64, 0.0
        try:
            run(True, dtype)
        except RuntimeError:  # forward names a dtype; in that one rounding may decide a spike
            dtype, stray = None, 0.02
        fused = run(False, dtype)
        if next(reversed(self._programs.values())).random:
            return
        for place, (ours, theirs) in enumerate(zip(fused, run(True, dtype), strict=True)):
            alike = ours.shape == theirs.shape and torch.isclose(ours.double(), theirs.double(), rtol=1e-6, atol=1e-6, equal_nan=True)
            if isinstance(alike, bool) or float((~alike).double().mean()) > stray:
                raise refused(self.original, f"the fused network's output {place} is not the original's; this is a defect of `fuse`", None)

    def _called(self, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> tuple[Callable[..., Tree], tuple[Tree, ...], dict[str, Tree]]:
        """What is to be recorded, and its arguments."""
        if not self._step:
            return self.original, args, kwargs
        bound = inspect.signature(self.original.forward).bind_partial(*args, **kwargs).arguments
        sequence = next(iter(bound.values()), None)
        if not isinstance(sequence, Tensor) or sequence.ndim < 2 or not len(sequence):
            shape = f"shape {tuple(sequence.shape)}" if isinstance(sequence, Tensor) else type(sequence).__name__
            raise ValueError(f"a fused one-step network takes a sequence (time, batch, ...) with at least one step, got {shape}")
        if self._steps is None:
            self._steps = find_steps(self.original, dict(bound))
        for name in self._steps.filled:
            bound.setdefault(name, sequence.new_zeros(0))
        return self._unrolled, (dict(bound),), {}

    def _unrolled(self, arguments: dict[str, Tree]) -> Tree:
        """The loop over time that the user of a one-step module would write."""
        steps, outputs = self._steps, list[list[Tensor]]()
        assert steps is not None
        current, result = leaves(arguments), None
        for x in current[0].unbind(0):
            filled = iter([x, *current[1:]])
            result = self.original(**over(arguments, lambda _, filled=filled: next(filled)))
            outputs.append(leaves(result))
            for place, output in steps.feeds.items():
                current[place] = outputs[-1][output]
        stacked = iter([torch.stack(column) for column in zip(*outputs, strict=True)])
        return over(result, lambda _: next(stacked))

    def _key(self, args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> Hashable:
        """What a recording depends on."""
        shapes = frozen(over((args, kwargs), lambda t: (t.dtype, t.device, *t.shape)))
        return shapes, autocast(), tuple(_attributes(self.original))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["original"], name) if "original" in self.__dict__ else object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What the original has is set on the original: `forward` reads it there."""
        original = self.__dict__.get("original")
        if original is not None and name in vars(original) and name not in vars(self):
            setattr(original, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the original, too."""
        self.original.train(mode)
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.original._apply(fn, recurse)
        return self

    def state_dict(self, *args: Tree, **kwargs: Tree) -> Tree:
        """The original's."""
        return self.original.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Tree, **kwargs: Tree) -> Tree:
        """Into the original."""
        return self.original.load_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """How each layer runs."""
        return "\n".join(f"# {path or type(self.original).__name__}: {how}" for path, how in self.report().items())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": OrderedDict()}


def _check_modules(module: nn.Module, neurons: list[SpikingNeuron]) -> None:
    if not neurons:
        theirs = any(type(m).__module__.split(".")[0] == "snntorch" for m in module.modules())
        why = "its spiking layers are snnTorch's own" if theirs else "it has no spiking layers"
        raise refused(module, why, None, "import them from spikegrad.compat.snntorch")
    package = SpikingNeuron.__module__.rpartition(".")[0]
    for path, m in module.named_modules():
        if isinstance(m, SpikingNeuron) and not type(m).__module__.startswith(package):
            raise refused(module, f"what a step of `{path}` computes is not known, since {type(m).__name__} is a subclass", None)
        if not is_layer(m) and not isinstance(m, SpikingNeuron) and has_hooks(m):
            raise refused(module, f"{f'`{path}`' if path else 'it'} has hooks, which would not be called", None, "register them on layers")


def _check_chain(module: nn.Module) -> None:
    """That the layers of a Sequential keep their state, and only the last returns it."""
    if isinstance(module, SpikingNeuron):
        return
    chain = list(_chained(module, ""))
    for place, (path, layer) in enumerate(chain):
        if not isinstance(layer, SpikingNeuron):
            continue
        if not layer.init_hidden:
            raise refused(module, f"`{path}` would have to be given its state in a Sequential", None, "make it with init_hidden=True")
        if layer.output and place < len(chain) - 1:
            raise refused(module, f"`{path}` returns its state to the next layer", None, "only the last may have output=True")


def _chained(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if type(child).forward is nn.Sequential.forward:
            yield from _chained(child, f"{path}{name}.")
        else:
            yield f"{path}{name}", child


def _attributes(module: nn.Module) -> Iterator[Hashable]:
    """What the modules' `forward` may read besides tensors: numbers, strings, modes."""
    for place, m in enumerate(module.modules()):
        if isinstance(m, SpikingNeuron):
            yield place, m.init_hidden, m.output
            continue
        for name, value in vars(m).items():
            if name[0] == "_":
                continue
            if isinstance(value, _READ):
                yield place, name, value
            elif isinstance(value, Tensor):
                yield place, name, id(value)
