"""Which products of a layer run over events, and in what pieces: the one rule, from what this call's spikes are and from sizes.

A dense product costs the same whatever is in its tensors; by events it is a row of weights for each sender that spiked, or pair that is
active. So each product has a share of senders, or of pairs, from which the dense one costs less. That share does not depend on the batch,
but on how wide a row is, since each has a cost of its own, and on whether the weights fit into a core's cache; and on the vectors that the
library of dense products uses. Measured by `benchmarks crossing`, each product alone, one thread.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

    from spikegrad.kernels.spikes import Spikes

Way = Literal["event", "dense"]


class Chosen(NamedTuple):
    """The way of each product of a layer, and why.

    Attributes:
        currents: what arrives at the neurons.
        weights: the gradient of the weights.
        inputs: the gradient of the input.
        why: the reason, in words.
    """

    currents: Way
    weights: Way
    inputs: Way
    why: str

    @staticmethod
    def densely(why: str) -> Chosen:
        """All of them dense."""
        return Chosen("dense", "dense", "dense", why)

    @property
    def by_events(self) -> bool:
        """Whether anything runs over events."""
        return "event" in self[:3]


class Crossing(NamedTuple):
    """From which share on a dense product costs less.

    Attributes:
        narrow: the share for rows of very few columns.
        wide: that for wide ones of weights that fit into a core's cache.
        halfway: how many columns a row has for which it is between the two.
        outside: by what it is less where weights do not fit.
    """

    narrow: float
    wide: float
    halfway: float
    outside: float


# Measured on an Intel Xeon with AVX-512 and 2 MiB of second-level cache a core, PyTorch 2.13, by the sketch of these passes; a narrow row
# has become cheaper since, which is put in as it was measured on the other.
_WIDE = {
    "currents": Crossing(0.15, 0.46, 45, 0.7),
    "weights": Crossing(0.07, 0.17, 30, 0.9),
    "inputs": Crossing(0.05, 0.25, 47, 0.8),
}
# Measured on an AMD EPYC 9005 with 1 MiB, where the library computes dense products with vectors of 256 bits: half as fast.
_NARROW = {
    "currents": Crossing(0.35, 0.6, 16, 0.85),
    "weights": Crossing(0.27, 0.48, 12, 0.78),
    "inputs": Crossing(0.1, 0.58, 25, 0.75),
}

FEWEST = 2**23
"""Products of a weight and an input, steps and samples counted, below which dense ones are taken: the calls cost more. Measured on both: a
training step of a layer took 1.3 to 1.6 times as long by events with 2**22, as long with 2**23, 0.8 times with 2**24."""

BREADTHS = (256, 128)
"""Columns of a block of weights, where all of them do not fit into a core's cache: the first of which a block fits, else the last. Blocks
lie in memory one after the other: slices of a matrix gain nothing, since its rows share few sets of the cache. Measured at rates of 1.5 %:
a training step of 1024-1024-1024-10 took 64 ms with 256, 79 with 128, and 65 in one block, where each group of samples has a gradient."""

GROUPS = 4
"""Pieces of a backward pass at least, whose gradients of the weights are added up apart, and then in their order: so sums do not depend on
the number of threads."""

COPIES = 2**29
"""Bytes that these gradients may take together; of larger weights there are fewer."""


@functools.cache
def cache() -> int:
    """Bytes of a core's own second-level cache."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="ascii").strip()
        return int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]]
    except (OSError, ValueError, KeyError):
        return 2**20


@functools.cache
def crossings() -> dict[str, Crossing]:
    """For each product, on this processor."""
    from llvmlite import binding

    wide = binding.get_host_cpu_features().get("avx512f", False) and not binding.get_host_cpu_name().startswith("znver")
    return _WIDE if wide else _NARROW


def crossing(product: str, senders: int, features: int) -> float:
    """The share of senders or pairs from which a dense product costs less."""
    narrow, wide, halfway, outside = crossings()[product]
    share = narrow + (wide - narrow) / (1 + (halfway / features) ** 2)
    return share * outside if 4 * senders * features > cache() else share


def crossing_of_images(terms: int, channels: int) -> float:
    """The share of inputs that spike from which a dense convolution costs less, with outputs of so many terms in so many channels.

    Fitted to ``python -m benchmarks crossing`` on an AMD EPYC 9005, with oneDNN's convolutions in memory with channels last.
    """
    return 0.011 * math.sqrt(terms) * (1 + 4 / channels) if terms >= 16 else 0.0


def small(shape: torch.Size, features: int) -> bool:
    """Whether dense products are taken however few spikes there are: nothing need be looked at."""
    return shape.numel() * features < FEWEST


def chosen(given: Spikes, features: int) -> Chosen:
    """The faster way of each product for these events."""
    if small(given.shape, features):
        return Chosen.densely("it is so small that calls cost more than products")
    shares = {"currents": given.density, "weights": given.density, "inputs": given.share}
    ways: dict[str, Way] = {}
    parts: list[str] = []
    for product, share in shares.items():
        most = crossing(product, given.shape[-1], features)
        ways[product] = "event" if share < most and (product != "inputs" or given.pairs is not None) else "dense"
        parts.append(f"{product} {ways[product]} ({share:.1%} of them, events cost less below {most:.0%})")
    return Chosen(**ways, why="; ".join(parts))


class Pieces(NamedTuple):
    """In what pieces a pass works on a layer: each is a group of samples and a block of columns.

    Attributes:
        breadth: columns of a block.
        parts: blocks.
        together: samples of a group in the backward pass; forward it is one.
        groups: such groups.
    """

    breadth: int
    parts: int
    together: int
    groups: int


def pieces(senders: int, features: int, samples: int, fed: bool) -> Pieces:
    """The pieces; neurons that are `fed` what all of them sent are not taken apart."""
    apart = not fed and 4 * senders * features > cache()
    fitting = [breadth for breadth in BREADTHS if 4 * senders * breadth <= cache()]
    breadth = (fitting or BREADTHS[-1:])[0] if apart else features
    parts = -(-features // breadth)
    weights = 4 * features * (senders + features * fed)
    wanted = max(1, min(-(-GROUPS // parts), COPIES // weights))
    together = max(1, -(-samples // wanted))
    return Pieces(breadth, parts, together, -(-samples // together))
