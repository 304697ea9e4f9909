"""Each product of a layer, by events and dense, over the share of senders that spike or of pairs that are active; and what the rule takes.

Times are of a pass with the neurons in it, in processor time of one thread, which other work on the machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import BETA
from benchmarks.measure import DisagreementError, Effort, Report, Section, alternate, quartiles, rows
from spikegrad.kernels.choice import Chosen, crossing

LAYERS = ((700, 256), (256, 256), (256, 64), (300, 40), (256, 20), (256, 10), (2312, 512), (1024, 1024))
SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
PRODUCTS = {"currents": "currents", "weights": "gradient of the weights", "inputs": "gradient of the input"}


def passes(product: str, size: tuple[int, int], share: float, steps: int, batch: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """A pass that has one product, by events and dense; and which of them the rule takes."""
    import torch

    from spikegrad import Spikes, Triangle, nn
    from spikegrad.kernels.spikes import Pairs
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

    found = [call()[0] for call in calls.values()]
    ours, theirs = (x.dense() if product == "currents" else x for x in found)
    worst = float(
        (ours - theirs).abs().mean() if product == "currents" else (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)
    )
    if not worst <= 1e-4 or not torch.isfinite(ours).all():
        raise DisagreementError(f"{product}: by events and dense differ by {worst:.2g}")
    return f"{worst:.1g} of the spikes differ" if product == "currents" else f"within {worst:.1g} of the largest"


def run(effort: Effort) -> Report:
    """The whole benchmark."""
    import torch

    report, threads = Report(), torch.get_num_threads()
    torch.set_num_threads(1)
    steps, batch = (4, 2) if effort.quick else (100, 16)
    for product, title in PRODUCTS.items():
        for size in LAYERS[:1] if effort.quick else LAYERS:
            points, worst = [], 1.0
            for share in SHARES[:2] if effort.quick else SHARES:
                calls, taken = passes(product, size, share, steps, batch)
                report.checked.append(f"{title} of {size[0]}-{size[1]}, {share:.1%}: {prove(product, calls)}")
                samples = alternate(calls, effort, time.thread_time)
                lost = quartiles([a / b for a, b in zip(samples[taken], samples["event" if taken == "dense" else "dense"], strict=True)])[0]
                worst = max(worst, lost)
                for row in rows(samples, "event"):
                    row.x, row.note = 100 * share, f"the rule takes it, {lost:.2f} times the other" if row.name == taken else ""
                    points.append(row)
            name = f"{title[0].upper()}{title[1:]} of {size[0]}-{size[1]}"
            text = f"T = {steps}, B = {batch}. The rule's way costs at most {worst:.2f} times what the other does."
            report.sections.append(Section(name, "ms", points, "event", text, "% of senders that spike, or of pairs that are active"))
    torch.set_num_threads(threads)
    return report
