"""How kernels read and write half types: as PyTorch converts them, for each pattern of bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import torch
from numba.core import types

from spikegrad import nn
from spikegrad.kernels.cpu import compiler
from spikegrad.kernels.cpu.instructions import instruction

CONVERSIONS: dict[str, tuple[torch.dtype, Any]] = {
    "float16": (torch.float16, compiler.float16[:2]),
    "float16 without instructions for it": (
        torch.float16,
        (
            instruction(types.float32, types.uint16)(compiler._widened_by_bits),
            instruction(types.uint16, types.float32)(compiler._narrowed_by_bits),
        ),
    ),
    "bfloat16": (torch.bfloat16, compiler.bfloat16[:2]),
}


def applied(convert: Any, given: np.ndarray, made: type) -> np.ndarray:
    @numba.njit(error_model="numpy")
    def run(given, out):
        for j in range(given.size):
            out[j] = convert(given[j])

    out = np.empty(given.shape, made)
    run(given, out)
    return out


@pytest.fixture(params=CONVERSIONS)
def conversion(request: pytest.FixtureRequest) -> tuple[torch.dtype, Any]:
    return CONVERSIONS[request.param]


def patterns() -> np.ndarray:
    return np.arange(2**16, dtype=np.uint16)


def as_torch(bits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.view("int16")).view(dtype)


def require_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """To the bit, the sign of zero too; NaN is NaN, whatever its bits."""
    assert torch.equal(got.isnan(), wanted.isnan())
    kind = {2: torch.int16, 4: torch.int32}[wanted.dtype.itemsize]
    number = ~wanted.isnan()
    assert torch.equal(got.view(kind)[number], wanted.view(kind)[number])


def test_every_pattern_is_read(conversion):
    dtype, (load, _) = conversion
    require_same(torch.from_numpy(applied(load, patterns(), np.float32)), as_torch(patterns(), dtype).float())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_spikes_are_written_without_rounding(dtype):
    """Also what is no number: whatever bits it has once an operation made it quiet."""
    nan = np.array([0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF], "uint32").view("float32")
    spikes = np.concatenate([np.array([0.0, 1.0], "float32"), nan])
    *_, emit = getattr(compiler, dtype)
    of = getattr(torch, dtype)
    require_same(as_torch(applied(emit, spikes, np.uint16), of), torch.from_numpy(spikes).to(of))


def test_numbers_are_rounded_half_to_even(conversion):
    """Any bits of float32; half types themselves; what lies half way between two of them, and the neighbours of that."""
    dtype, (_, store) = conversion
    own = as_torch(patterns(), dtype).float()
    own = own[own.isfinite()].sort().values
    middle = (own[1:].double() + own[:-1].double()).div(2).float()
    beyond = torch.finfo(dtype).max * torch.tensor([1.0, 1.0001, 1.0005, 1.001, 1.002, 1.004, 1.01])
    infinity = torch.tensor(torch.inf)
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    numbers = torch.cat(
        [
            torch.from_numpy(bits.view("float32").copy()), own, middle, middle.nextafter(infinity), middle.nextafter(-infinity),
            beyond, -beyond, torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 1e-45, -1e-45]),
        ]
    )  # fmt: skip
    require_same(as_torch(applied(store, numbers.numpy(), np.uint16), dtype), numbers.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_rounds_once(dtype):
    """It is the layer in float32 on the same numbers: outputs and gradients are rounded at the end, states are not."""
    layer = nn.LeakyIntegrator(0.9, backend="numba")
    half = torch.randn(40, 3, 17, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = torch.randn(40, 3, 17, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = []
    for x in (half.clone().requires_grad_(), half.float().requires_grad_()):
        potentials, last = layer(x)
        (potentials * weight.to(x.dtype)).sum().backward()
        found.append((potentials, last, x.grad))
    (potentials, last, gradient), (wide, wide_last, wide_gradient) = found
    assert torch.equal(potentials, wide.to(dtype))
    assert torch.equal(last, wide_last)
    assert last.dtype == torch.float32
    assert torch.equal(gradient, wide_gradient.to(dtype))
