"""Recomputing a stack of convolutions: what is kept between the passes, the peak of the process, and what it costs in time."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import BETA
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section, alternate, rows

SIZE, QUICK = (8, 16, 32, 32), (10, 2, 16, 6)
"""Steps, samples, channels, and pixels along each side."""
DEPTH, THRESHOLD, DENSITY = 8, 0.5, 0.2
PLAIN, OURS, CHECKPOINT = "spikegrad", 'spikegrad, memory="recompute"', "spikegrad under torch.utils.checkpoint"
PEER, PEER_SAVING = "SpikingJelly", "SpikingJelly, memopt with bits"
TWICE = "two forwards and one backward of spikegrad"

Net = Callable[[Any], Any]


def convolutions(channels: int, norm: bool) -> list[list[Any]]:
    """The same layers for everyone: a convolution, and batch normalisation if asked for."""
    import torch

    torch.manual_seed(0)
    made: list[list[Any]] = []
    for _ in range(DEPTH):
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        torch.nn.init.normal_(conv.weight, std=0.35 * channels**-0.5)  # enough input to spike
        made.append([conv, torch.nn.BatchNorm2d(channels)] if norm else [conv])
    return made


def ours(channels: int, norm: bool, memory: Any = "save") -> Net:
    """Our network; `weights` are its parameters."""
    from spikegrad import nn

    layers = [x for block in convolutions(channels, norm) for x in (*block, nn.Leaky(BETA, THRESHOLD))]
    net = nn.Sequential(*layers, memory=memory)
    return _named(lambda x: net(x)[0], net)


def checkpointed(channels: int, norm: bool) -> Net:
    """Each layer of our network under PyTorch's own checkpoint."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from spikegrad import nn

    blocks = torch.nn.ModuleList(nn.Sequential(*block, nn.Leaky(BETA, THRESHOLD)) for block in convolutions(channels, norm))

    def run(x: Any) -> Any:
        for block in blocks:
            x = checkpoint(lambda x, block=block: block(x)[0], x, use_reentrant=False)
        return x

    return _named(run, blocks)


def spikingjelly(channels: int, norm: bool, saving: bool = False) -> Net:
    """The same network in SpikingJelly, with or without its memory optimisation."""
    import torch
    from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate

    blocks: list[Any] = []
    for block in convolutions(channels, norm):
        node = neuron.LIFNode(
            tau=1 / (1 - BETA), decay_input=False, v_threshold=THRESHOLD, v_reset=None, surrogate_function=surrogate.ATan(2.0),
            detach_reset=True, step_mode="m",
        )  # fmt: skip
        whole = torch.nn.Sequential(layer.SeqToANNContainer(*block), node)
        blocks.append(memopt.checkpoint_module(whole, compressor=memopt.BitSpikeCompressor()) if saving else whole)
    net = torch.nn.Sequential(*blocks)

    def run(x: Any) -> Any:
        functional.reset_net(net)
        return net(x)

    return _named(run, net)


def _named(run: Net, module: Any) -> Net:
    run.weights = list(module.parameters())  # type: ignore[attr-defined]
    run.buffers = [b for name, b in module.named_buffers() if "running" in name]  # type: ignore[attr-defined]
    return run


def makers() -> dict[str, Callable[..., Net]]:
    """Who is compared."""
    found: dict[str, Callable[..., Net]] = {
        PLAIN: ours,
        OURS: lambda channels, norm: ours(channels, norm, "recompute"),
        CHECKPOINT: checkpointed,
    }
    if importlib.util.find_spec("spikingjelly") is not None:
        found[PEER] = spikingjelly
        found[PEER_SAVING] = lambda channels, norm: spikingjelly(channels, norm, saving=True)
    return found


def given(size: tuple[int, int, int, int]) -> Any:
    """Input spikes."""
    import torch

    steps, samples, channels, side = size
    shape = steps, samples, channels, side, side
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < DENSITY).float()


def passes(net: Net, x: Any) -> None:
    """Forward and backward; the gradient of the spikes is of their size, as any layer after them gives it."""
    out = net(x)
    out.backward(out.detach() - 0.5)


def prove(size: tuple[int, int, int, int], norm: bool) -> list[str]:
    """That all compute the same spikes and gradients; ours bit for bit where a segment is one block of samples."""
    import torch

    from spikegrad.nn import segments

    x, said = given(size), []
    found: dict[str, list[Any]] = {}
    held = segments._HELD  # pyright: ignore[reportPrivateUsage]
    for name, make in {**makers(), "one block": makers()[OURS]}.items():
        segments._HELD = held if name != "one block" else sys.maxsize
        net: Any = make(size[2], norm)
        out = net(x)
        rate = float(out.detach().mean())
        if not 0.02 < rate < 0.9:
            raise DisagreementError(f"{name}: the last layer spikes in {rate:.1%} of the steps, which shows nothing")
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
        # PyTorch's own checkpoint moves running statistics twice.
        found[name] = [out.detach(), *(p.grad for p in net.weights), *(net.buffers if name != CHECKPOINT else [])]
    segments._HELD = held
    wanted = found.pop(PLAIN)
    for name, values in found.items():
        spikes = int((values[0] != wanted[0]).sum())
        worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(values[1:], wanted[1:], strict=False))
        exact = all(torch.equal(a, b) for a, b in zip(values, wanted, strict=False))
        wrong = not exact if name == "one block" else spikes > 1e-4 * wanted[0].numel() or not worst <= (2e-3 if spikes else 1e-4)
        if wrong:
            raise DisagreementError(f"{name}: {spikes} of {wanted[0].numel()} spikes differ, gradients and statistics by {worst:.2g}")
        label = f"{OURS}, one block of samples" if name == "one block" else name
        same = "bit for bit" if exact else f"within {worst:.1g} of the largest"
        differ = f"{spikes} of {wanted[0].numel()} spikes differ" if spikes else "same spikes"
        what = "gradients" + " and running statistics" * (norm and name != CHECKPOINT)
        said.append(f"eight convolutions{' with BatchNorm' * norm}: {label}: {differ}, {what} {same}")
    return said


def kept(name: str, norm: bool, size: tuple[int, int, int, int]) -> int:
    """Bytes between the passes, by what autograd saves."""
    from benchmarks.memory import saved

    return saved(makers()[name](size[2], norm), given(size))


def peak(name: str, norm: bool, size: tuple[int, int, int, int]) -> int:
    """Bytes by which a forward and a backward pass raise the peak of this process."""
    from benchmarks.memory import raised

    make = makers()[name]
    passes(make(size[2], norm), given((2, 1, *size[2:])))  # what is compiled and loaded once is not the layers'
    net, x = make(size[2], norm), given(size)
    return raised(lambda: passes(net, x))


def compare(effort: Effort, report: Report) -> None:
    """All sections, without and with batch normalisation."""
    import torch

    size = QUICK if effort.quick else SIZE
    neurons = DEPTH * size[0] * size[1] * size[2] * size[3] ** 2
    shape = f"T = {size[0]}, B = {size[1]}, {size[2]} channels of {size[3]} x {size[3]}"
    if PEER not in makers():
        report.skipped.append("SpikingJelly's memory optimisation: spikingjelly is not installed")
    small = size if effort.quick else (4, 2, *size[2:])
    for norm in (False, True):
        report.checked += prove(small, norm)
        what = f"eight convolutions{' with BatchNorm' * norm}, {shape}"
        for title, measure, text in (
            (
                "Saved for the backward pass",
                kept,
                "Each storage that autograd saves once, the input spikes among them; parameters are not counted, nor what SpikingJelly "
                "keeps as bits without it.",
            ),
            (
                "Peak",
                _peak_of,
                "By how much a forward and a backward pass raise the peak of a process of its own, outputs and gradients included.",
            ),
        ):
            if effort.quick and measure is not kept:
                continue
            values = {name: measure(name, norm, size) / neurons for name in makers()}
            found = [Row(name, value, value, value, *[value / values[PLAIN]] * 3) for name, value in values.items()]
            report.sections.append(Section(f"{title}, {what}", "bytes per neuron and step", found, PLAIN, text))
        x = given(size)
        nets = {name: make(size[2], norm) for name, make in makers().items()}

        def twice(net: Net = nets[PLAIN], x: Any = x) -> None:
            with torch.no_grad():
                net(x)
            passes(net, x)

        tasks = {TWICE: twice, **{name: lambda net=net, x=x: passes(net, x) for name, net in nets.items()}}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found = rows(alternate(tasks, effort, time.thread_time), TWICE)
        torch.set_num_threads(threads)
        text = "The first line is what recomputing costs at least. Processor time of one thread, since others work here, too."
        report.sections.append(Section(f"Time, {what}", "ms", found, TWICE, text))


def _peak_of(name: str, norm: bool, size: tuple[int, int, int, int]) -> int:
    from benchmarks.memory import elsewhere

    return elsewhere("benchmarks.recompute", name, norm, size)


if __name__ == "__main__":
    print(peak(*json.loads(sys.argv[1])))
