"""Convolution over events: what an event of an image adds to the currents around it, and the gradient of the weights there.

A row of the output around an event is one stretch of memory where channels lie last. So are the weights that belong to it, if they lie
by the event's channel, by row of the kernel and by what the event's column leaves over after division by the stride, columns reversed. An
event is an addition of such a stretch for each row of the kernel. Weights that are not there, of strides, are 0.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from spikegrad.kernels.cpu import threads
from spikegrad.kernels.lock import LOCK

_NAMES = (
    "index", "base", "since", "weights", "out", "height", "width", "rows", "stride", "pad_y", "pad_x", "reach", "channels", "out_height",
    "out_width", "samples", "together", "share", "bias",
)  # fmt: skip
"""Arguments of a kernel, a word each: rows of the kernel; `reach`, how many columns of the output an event reaches; samples of a group."""

_KERNEL = """
ints, longs = pointer(numba.int32), pointer(numba.int64)
places = pointer(numba.{places})


@row
def add(count, into, of):
    for j in range(count):
        into[j] += of[j]


@row
def tile(pixels, channels, into, bias):
    for i in range(pixels):
        for j in range(channels):
            into[i * channels + j] = bias[j]


@entry(2)
def kernel(address, mine):
    job = words(address)
    steps, groups = job[STEPS], job[COLUMNS]
{arguments}
    size = out_height * out_width * channels
    group = claimed(job, mine)
    while group < groups:
        own = weights + group * share * SIZE
        {before}
        for b in range(group * together, min(group * together + together, samples)):
            begin = U(longs(base)[b])
            for t in range(steps):
                image = out + (t * samples + b) * size * SIZE
                {each}
                here = b * (steps + U(1)) + t
                for e in range(begin + U(ints(since)[here]), begin + U(ints(since)[here + U(1)])):
                    place = U(places(index)[e])
                    channel, rest = place // (height * width), place % (height * width)
                    y, x = rest // width + pad_y, rest % width + pad_x
                    end = x // stride  # the last column that it reaches, counted up to it
                    skipped = reach - U(1) - end if end < reach - U(1) else U(0)
                    first = end + skipped + U(1) - reach
                    if first >= out_width:
                        continue
                    count = (min(end, out_width - U(1)) - first + U(1)) * channels
                    k = y % stride
                    while k < rows and k <= y:
                        line = (y - k) // stride
                        if line < out_height:
                            there = reals(image + (line * out_width + first) * channels * SIZE)
                            tap = ((channel * rows + k) * stride + x % stride) * reach + skipped
                            with_them = reals(own + tap * channels * SIZE)
                            {add}
                        k += stride
        group = claimed(job, mine)
"""
_PASSES = {
    "currents": (
        "pass",
        "if bias: tile(out_height * out_width, channels, reals(image), reals(bias))\n                else: clear(size, reals(image))",
        "add(count, there, with_them)",
    ),
    "weights": ("clear(share, reals(own))", "pass", "add(count, with_them, there)"),
}


@functools.cache
def _kernel(name: str, narrow: bool) -> int:
    with LOCK:
        from spikegrad.kernels.cpu.compiler import header, loaded

    before, each, add = _PASSES[name]
    arguments = "\n".join(f"    {argument} = job[ARGUMENTS + {place}]" for place, argument in enumerate(_NAMES))
    text = _KERNEL.format(places="uint16" if narrow else "int32", arguments=arguments, before=before, each=each, add=add)
    address: int = loaded("patches", header("float32") + text).kernel.address
    return address


def run(name: str, narrow: bool, steps: int, groups: int, given: Mapping[str, int]) -> None:
    """Compute ``"currents"``, or the gradient of the ``"weights"``, a share for each group of samples."""
    most = min(torch.get_num_threads(), threads.MOST, groups)
    threads.run(threads.job(_kernel(name, narrow), most, steps, groups, 1, 0, [given[name] for name in _NAMES]))
