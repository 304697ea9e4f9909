"""A network as a graph of ONNX: one step with states going in and out, or a sequence of any length as one Scan."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikegrad.kernels import arguments
from spikegrad.nn.layer import Layer, Stateful

OLDEST = 18
"""The lowest version of ONNX's operators that is written."""


def to_onnx(
    net: Stateful,
    sample: Tensor,
    path: str | PathLike[str] | None = None,
    *,
    form: Literal["sequence", "step"] = "sequence",
    states: bool | None = None,
    opset: int | None = None,
) -> Any:
    """A trained network as a graph of ONNX, for onnxruntime and whatever else reads it; of any batch size.

    A sequence is one Scan, as long as the input is. Spikes are those of the network in evaluation, but where a product of matrices, which
    every library sums in an order of its own, leaves a potential at the threshold to rounding. Gradients are not written.

    Args:
        net: an `nn.Sequential`, layer, or other `nn.Stateful`.
        sample: an input, ``(time, batch, *features)``, of which the shape of the features and the dtype count.
        path: of the file, ``.onnx``; None writes none.
        form: ``"sequence"``, from ``input`` of ``(time, batch, *features)`` to ``output`` of all steps; or ``"step"``, one step of it, for
            streams: ``input`` is ``(batch, *features)``.
        states: whether states go in and come out: inputs ``state…`` and outputs ``after…``, with the place of the layer and the name of the
            state, as in ``state.1`` and ``after.3.i``. A step always has them; a sequence begins at rest unless they are asked for.
        opset: version of ONNX's operators, at least 18; PyTorch's default if None.

    Returns:
        The ``torch.onnx.ONNXProgram``.

    Raises:
        ImportError: the packages onnx and onnxscript are missing; or this version of PyTorch has no scan, for a sequence.
        TypeError: `net` is no Stateful module, or the sample no tensor.
        ValueError: a sample of another shape, an unknown form, or an older version of the operators.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import nn
        >>> net = nn.Sequential(torch.nn.Linear(3, 2), nn.Leaky(0.9))
        >>> program = spikegrad.to_onnx(net, torch.rand(10, 1, 3), "net.onnx", form="step")  # doctest: +SKIP
        >>> [value.name for value in program.model.graph.inputs]  # doctest: +SKIP
        ['input', 'state.1']
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ImportError(f"to_onnx needs {' and '.join(missing)}; install with `pip install spikegrad[onnx]`")
    if not isinstance(net, Stateful):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`net` must be a layer or an nn.Sequential, got {type(net).__name__}; other modules PyTorch itself exports")
    arguments.expect("`sample`", sample, "torch")
    if sample.ndim < 3 or not sample.numel():
        raise ValueError(f"`sample` must be (time, batch, *features), got shape {tuple(sample.shape)}; add a batch with sample[:, None]")
    if form not in ("sequence", "step"):
        raise ValueError(f"`form` must be 'sequence' or 'step', got {form!r}")
    if opset is not None and opset < OLDEST:
        raise ValueError(f"`opset` must be at least {OLDEST}, got {opset}")
    if form == "step" and states is False:
        raise ValueError("a step without its states starts at rest every time; leave out states=False")
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for layer in net.modules():
        if isinstance(layer, Layer):
            layer.backend = "reference"
    # A size of 1 would be taken for one that is always 1.
    example = sample.detach()[:1].repeat(3, 1, *[1] * (sample.ndim - 2))[:, :1].repeat(1, 2, *[1] * (sample.ndim - 2))
    with torch.no_grad():
        made, rest = net(example[:0, :1])
    graph = _Step(net, rest) if form == "step" else _Sequence(net, rest, _scan(), states=bool(states))
    names, tensors = ["state" + path for path, _ in _leaves(rest)], [x for _, x in _leaves(rest)]
    stateful = form == "step" or bool(states)
    given = (example[0] if form == "step" else example, *(x.repeat(2, *[1] * (x.ndim - 1)) for x in tensors if stateful))
    batch = torch.export.Dim("batch")
    sizes = ({0: batch} if form == "step" else {0: torch.export.Dim("time"), 1: batch}, *({0: batch} for _ in given[1:]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what PyTorch's own exporter will no longer do in its next versions
        exported = torch.export.export(graph, given, dynamic_shapes=(sizes,), strict=True)
        program: Any = torch.onnx.export(exported, (), dynamo=True, opset_version=opset, verbose=False)
    outputs = ["output" + path for path, _ in _leaves(made)]
    after = ["after" + name.removeprefix("state") for name in names] if stateful else []
    for values, words in (program.model.graph.inputs, ["input", *names]), (program.model.graph.outputs, [*outputs, *after]):
        for value, word in zip(values, words, strict=False):
            value.name = word
    if path is not None:
        program.save(path)
    return program


def _leaves(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state, with where they are in it."""
    if isinstance(state, Tensor):
        yield path, state
    elif state is not None:
        for name, part in zip(getattr(state, "_fields", range(len(state))), state, strict=True):
            yield from _leaves(part, f"{path}.{name}")


def _filled(like: Any, tensors: Iterator[Tensor]) -> Any:
    """A state of this form with these tensors."""
    if isinstance(like, Tensor):
        return next(tensors)
    return None if like is None else tuple(_filled(part, tensors) for part in like)


def _scan() -> Callable[..., Any]:
    """PyTorch's loop over time that is one operation of a graph."""
    try:
        from torch._higher_order_ops.scan import scan
    except ImportError:
        raise ImportError("this version of PyTorch has no scan; update it, or export one step with form='step'") from None
    return scan


class _Step(nn.Module):
    """One step of a network, from tensors to tensors."""

    def __init__(self, net: Stateful, rest: Any) -> None:
        super().__init__()
        self.net, self.form = net, _filled(rest, iter([torch.zeros(())] * len([*_leaves(rest)])))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs, then the states."""
        made, after = self.net(given[0][None], _filled(self.form, iter(given[1:])))
        return (*(x[0] for _, x in _leaves(made)), *(x for _, x in _leaves(after)))


class _Sequence(nn.Module):
    """A network over all steps."""

    def __init__(self, net: Stateful, rest: Any, scan: Callable[..., Any], *, states: bool) -> None:
        super().__init__()
        self.step, self.scan, self.states = _Step(net, rest), scan, states
        self.count = len([*_leaves(rest)])
        for place, (_, x) in enumerate(_leaves(rest)):
            self.register_buffer(f"rest{place}", x.clone())

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs, then the states if they are asked for."""
        sequence = given[0]
        rest: Sequence[Tensor] = given[1:]
        if not self.states:
            each = [getattr(self, f"rest{place}") for place in range(self.count)]
            rest = [x.expand(sequence.shape[1], *x.shape[1:]).clone() for x in each]

        def step(carry: tuple[Tensor, ...], x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            made = [y.clone() for y in self.step(x, *carry)]  # what a loop returns may not share memory
            split = len(made) - self.count
            return tuple(made[split:]), tuple(made[:split])

        last, made = self.scan(step, tuple(rest), sequence)
        return (*made, *last) if self.states else tuple(made)
