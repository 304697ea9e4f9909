"""Sequences of two values, in NumPy and in PyTorch's own operations: the same bits, and the same numbers back."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from spikegrad.nn import bits  # noqa: E402


def spikes(*shape: int) -> Any:
    return torch.bernoulli(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["numpy", "pytorch"])
def elsewhere(request, monkeypatch):
    """As on the CPU, and as on devices that NumPy cannot read."""
    if request.param == "pytorch":
        monkeypatch.setattr(bits, "_by_numpy", lambda x: False)
    return request.param == "pytorch"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("high", [1.0, 1 / 0.7])
@pytest.mark.usefixtures("elsewhere")
def test_bits_and_back(dtype, high):
    for shape in ((3, 4, 13), (3, 4, 8), (5, 7), (2, 3, 5, 4, 3), (1, 1, 1)):
        whole = spikes(*shape).to(dtype) * torch.tensor(high, dtype=dtype)
        for x in (whole, whole.transpose(-1, -2) if len(shape) > 3 else whole, whole[:, :1], torch.zeros_like(whole)):
            made = bits.packed(x, spikes=True)
            assert made is not None
            assert made.kept.dtype == torch.uint8
            back = made.unpack(made.kept, 0, 0)
            assert back.dtype == dtype
            assert torch.equal(back, x)
            assert back.is_contiguous() or back.transpose(-1, -2).is_contiguous() != x.is_contiguous()
            if x.ndim > 2:
                assert torch.equal(made.unpack(made.kept, 0, 1), x[:, :1])
                assert torch.equal(made.unpack(made.kept, x.shape[1] - 1, 1), x[:, -1:])
    assert bits.packed(torch.rand(2, 2, 2), spikes=False) is None


def test_many_numbers_are_looked_at_in_parts():
    x = spikes(2, 2, 2**17 + 1)
    x[0] = 0  # of which nothing says yet what the other value is
    made = bits.packed(x, spikes=False)
    assert made is not None
    assert torch.equal(made.unpack(made.kept, 0, 0), x)
    x[1, 1, -1] = 2
    assert bits.packed(x, spikes=False) is None


def test_both_ways_give_the_same_bits(monkeypatch):
    x = spikes(3, 4, 13) != 0
    by_numpy = bits.pack(x)
    monkeypatch.setattr(bits, "_by_numpy", lambda x: False)
    assert torch.equal(bits.pack(x), by_numpy)
    assert torch.equal(bits.unpack(by_numpy, 13), x.to(torch.uint8))


def test_other_values_are_kept_as_they_are():
    x = spikes(3, 4, 13)
    for place, value in (((0, 0, 0), 2.0), ((2, 3, 12), 0.5), ((1, 1, 1), -1.0), ((2, 0, 0), float("nan")), ((0, 1, 0), -0.0)):
        other = x.clone()
        other[place] = value
        assert bits.packed(other, spikes=True) is None, value
    assert bits.packed(torch.zeros(0, 2, 3), spikes=True) is None
    assert bits.packed(torch.zeros(2, 2, 3, dtype=torch.complex64), spikes=True) is None
    zeros: Any = torch._efficientzerotensor((2, 2, 3))
    assert bits.packed(zeros, spikes=True) is None
    freed = torch.ones(2, 3)
    freed.untyped_storage().resize_(0)
    assert bits.packed(freed, spikes=True) is None
    negative: Any = torch._neg_view(-x)
    assert torch.equal(bits.packed(negative, spikes=True).kept, bits.packed(x, spikes=True).kept)
    bad = torch.where(x > 0, float("nan"), 0.0)
    made = bits.packed(bad, spikes=False)
    assert made is not None
    torch.testing.assert_close(made.unpack(made.kept, 0, 0), bad, equal_nan=True)


def test_nan_is_not_lost_where_numbers_cannot_be_looked_at(monkeypatch):
    monkeypatch.setattr(bits, "_by_numpy", lambda x: False)
    x = spikes(3, 4, 13)
    x[0, 0, 0] = float("nan")
    made = bits.packed(x, spikes=True)
    assert made.unpack(made.kept, 0, 0).isnan().all()
