"""PyTorch = JAX = NumPy: spikes bit for bit, derivatives to the rounding of their dtype."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from spikegrad import ATan
from spikegrad.formulas import CATALOGUE

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")


def arrays(x: np.ndarray, dtype: str):
    """The same numbers in each library, as NumPy array, PyTorch tensor and JAX array."""
    tensor = torch.tensor(x, dtype=getattr(torch, dtype))
    return np.asarray(x, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), tensor, jax.numpy.asarray(x, dtype)


def wide(x) -> np.ndarray:
    return x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)


@pytest.mark.parametrize("spike_at_threshold", [True, False])
def test_spikes_agree(surrogate, dtype, spike_at_threshold):
    tiny = float(ml_dtypes.finfo(dtype).tiny)
    x = np.array([-np.inf, -1e4, -1.0, -tiny, -0.0, 0.0, tiny, 1.0, 1e4, np.inf, np.nan])
    with jax.enable_x64(True):
        for given in arrays(x, dtype):
            spikes = surrogate(given, spike_at_threshold=spike_at_threshold)
            assert type(spikes) is type(given) or isinstance(spikes, jax.Array)
            assert (spikes.dtype, spikes.shape) == (given.dtype, given.shape)
            at = float(spike_at_threshold)
            assert np.array_equal(wide(spikes), [0, 0, 0, 0, at, at, 1, 1, 1, 1, np.nan], equal_nan=True)


@pytest.mark.parametrize("of", ["derivative", "primitive"])
def test_formulas_agree(surrogate, dtype, of):
    if of == "primitive" and not surrogate.has_primitive:
        return
    # JAX compiles every operation for every shape: let there be one.
    x = np.array([*np.linspace(-3.1, 3.1, 50), np.nan, *((np.inf, -np.inf) if of == "derivative" else (np.nan, np.nan))])
    with jax.enable_x64(True):
        given = arrays(x, dtype)
        values = [getattr(surrogate, of)(g) for g in given]
        assert all(value.dtype == g.dtype for value, g in zip(values, given, strict=True))
    info = ml_dtypes.finfo(dtype)
    computed = max(2.0**-52, min(2.0**-23, float(info.eps)))  # half types are computed in float32
    expected = wide(values[0])
    steep = np.nanmax(np.abs(np.gradient(expected[:50], x[:50])))
    size = np.nanmax(np.abs(expected)) + 3.1 * steep
    for value in values[1:]:
        error, allowed = np.abs(wide(value) - expected), float(info.eps) * np.abs(expected) + 16 * computed * size
        assert np.array_equal(np.isnan(wide(value)), np.isnan(expected))
        assert (error[np.isfinite(error)] <= allowed[np.isfinite(error)]).all(), np.nanmax(error - allowed)


def test_numbers_and_scalars():
    """A Python number gives a number; a NumPy scalar keeps its dtype; no warning for what overflows."""
    assert ATan()(0.3) == 1.0
    assert ATan()(-1) == 0.0
    assert type(ATan()(0.3)) is type(ATan().derivative(0.3)) is type(ATan().primitive(0)) is float
    assert ATan().derivative(np.float32(0.5)).dtype == np.float32
    assert ATan()(np.float16(0.5)).dtype == np.float16
    for cls in CATALOGUE.values():
        assert np.isfinite(cls().derivative(np.array([-6e4, 6e4], np.float16))).all()


@pytest.mark.parametrize("cls", [cls for cls in CATALOGUE.values() if cls.soft])
def test_soft_output_is_drawn_from_a_generator(cls):
    x, spike = np.linspace(-1, 1, 100), cls()
    drawn = [spike(x, training=True, random=np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(spike(x), x >= 0)
    with pytest.raises(ValueError, match=r"numpy.random.default_rng\(seed\)"):
        spike(x, training=True)


@pytest.mark.parametrize("x", [np.arange(3), np.array([True]), np.array([1j]), [0.5], "0.5", None])
def test_what_is_no_potential_is_refused(x):
    with pytest.raises(TypeError, match=r"expected a"):
        ATan()(x)
