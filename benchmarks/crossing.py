"""Each product of a layer, by events and dense, over the share of senders that spike or of pairs that are active; and what the rule takes.

Times are of a pass with the neurons in it, of a convolution of both passes, in processor time of one thread, which other work on the
machine disturbs least.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import BETA
from benchmarks.measure import DisagreementError, Effort, Report, Section, alternate, quartiles, rows
from spikegrad.kernels.choice import Chosen, crossing

LAYERS = ((700, 256), (256, 256), (256, 64), (300, 40), (256, 20), (256, 10), (2312, 512), (1024, 1024))
SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
CONVOLUTIONS = (
    (2, 16, 5, 34),
    (2, 32, 5, 34),
    (1, 32, 3, 28),
    (8, 4, 3, 28),
    (16, 32, 3, 17),
    (32, 64, 3, 15),
    (32, 64, 1, 15),
    (64, 128, 3, 8),
)
"""Channels in and out, and the side of the kernel and of the image; the gradient of the input is wanted where it has more than two."""
PRODUCTS = {"currents": "currents", "weights": "gradient of the weights", "inputs": "gradient of the input"}


def passes(product: str, size: tuple[int, int], share: float, steps: int, batch: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """A pass that has one product, by events and dense; and which of them the rule takes."""
    import torch

    from spikegrad import Spikes, Triangle, nn
    from spikegrad.kernels.places import Pairs
    from spikegrad.nn import events

    generator = torch.Generator().manual_seed(0)
    layer = nn.SpikingLinear(*size, nn.Leaky(BETA, spike=Triangle(width=0.3)), bias=False)
    given = Spikes.of((torch.rand(steps, batch, size[0], generator=generator) < share).float()).detach()
    pairs = Pairs(given.index, given.base, given.since, given.since[:, 1:].contiguous(), 1)
    found: dict[str, Callable[[], Any]] = {}
    arriving: Any = None
    for way in ("event", "dense"):
        ways = Chosen("event", "event", "event", "")._replace(**{product: way})
        if product == "currents":

            def forward(ways: Chosen = ways) -> Any:
                with torch.no_grad():
                    return events.run(layer.neuron, 0.0, ways, given, layer.weight, None, None)

            found[way] = forward
            continue
        weight, below = layer.weight.detach(), given.detach()
        if product == "weights":
            weight.requires_grad_()
        else:
            below.pairs, below.carrier = pairs, torch.zeros(len(given), requires_grad=True)
        made = events.run(layer.neuron, 0.0, ways, below, weight, None, None)
        assert made is not None
        carrier, of = made[0].carrier, weight if product == "weights" else below.carrier
        arriving = torch.rand(carrier.shape, generator=generator) if arriving is None else arriving  # the same for both
        found[way] = lambda carrier=carrier, of=of, g=arriving: torch.autograd.grad(carrier, of, g, retain_graph=True)
    return found, "event" if share < crossing(product, *size) else "dense"


def prove(product: str, calls: dict[str, Callable[[], Any]]) -> str:
    """That both ways compute the same."""
    import torch

    ours, theirs = ([call()[0].dense()] if product == "currents" else call() for call in calls.values())
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        apart = (a - b).abs()
        worst = max(worst, float(apart.mean() if product == "currents" else apart.max() / b.abs().max().clamp(min=1e-30)))
        if not worst <= 1e-4 or not torch.isfinite(a).all():
            raise DisagreementError(f"{product}: by events and dense differ by {worst:.2g}")
    return f"{worst:.1g} of the spikes differ" if product == "currents" else f"within {worst:.1g} of the largest"


def convolved(sizes: tuple[int, int, int, int], share: float, steps: int, batch: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """The same of a convolution, forward and backward."""
    import torch

    from spikegrad import Triangle, nn

    senders, receivers, kernel, side = sizes
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(steps, batch, senders, side, side, generator=generator) < share).float().requires_grad_(senders > 2)
    layers: dict[str, Any] = {}
    for way in ("event", "dense", "auto"):
        torch.manual_seed(0)
        neuron = nn.Leaky(BETA, spike=Triangle(width=0.3))
        layers[way] = nn.SpikingConv2d(senders, receivers, kernel, neuron, padding=kernel // 2, size=(side, side), backend=way)
    arriving = torch.rand(steps, batch, receivers, side, side, generator=generator)
    found: dict[str, Callable[[], Any]] = {}
    for way in ("event", "dense"):
        wanted = [layers[way].conv.weight, *([x] if x.requires_grad else [])]
        found[way] = lambda layer=layers[way], wanted=wanted: torch.autograd.grad(layer(x)[0], wanted, arriving)
    return found, layers["auto"].chosen(x.detach()).currents


def section(
    name: str, shares: tuple[float, ...], make: Callable[[float], Any], agreed: Callable[[Any], str], effort: Effort, report: Report
) -> None:
    """Time both ways over the shares, as `make` gives them with what the rule takes, each proved to compute the same."""
    points, worst = [], 1.0
    for share in shares:
        calls, taken = make(share)
        report.checked.append(f"{name}, {share:.1%}: {agreed(calls)}")
        samples = alternate(calls, effort, time.thread_time)
        lost = quartiles([a / b for a, b in zip(samples[taken], samples["event" if taken == "dense" else "dense"], strict=True)])[0]
        worst = max(worst, lost)
        for row in rows(samples, "event"):
            row.x, row.note = 100 * share, f"the rule takes it, {lost:.2f} times the other" if row.name == taken else ""
            points.append(row)
    text = f"The rule's way costs at most {worst:.2f} times what the other does."
    report.sections.append(Section(name, "ms", points, "event", text, "% of senders that spike, or of pairs that are active"))


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    import torch

    report, threads = Report(), torch.get_num_threads()
    torch.set_num_threads(1)
    some, shares = (1, SHARES[:2]) if effort.quick else (None, SHARES)
    steps, batch = (4, 2) if effort.quick else (100, 16)
    for product, title in PRODUCTS.items():
        for size in LAYERS[:some]:
            name = f"{title[0].upper()}{title[1:]} of {size[0]}-{size[1]}, T = {steps}, B = {batch}"
            made = functools.partial(passes, product, size, steps=steps, batch=batch)
            section(name, shares, made, functools.partial(prove, product), effort, report)
    steps, batch = (4, 2) if effort.quick else (20, 8)
    for sizes in CONVOLUTIONS[:some]:
        name = "Convolution of {} to {} channels, kernel {}, image {}".format(*sizes) + f", T = {steps}, B = {batch}"
        made = functools.partial(convolved, sizes, steps=steps, batch=batch)
        section(name, shares, made, functools.partial(prove, "weights"), effort, report)
    torch.set_num_threads(threads)
    return report
