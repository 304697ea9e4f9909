import numpy as np
import pytest

from spikegrad import encode

LIBRARIES = ("numpy", "torch", "jax")


def array(library, values, dtype="float32"):
    if library == "torch":
        import torch

        return torch.tensor(values, dtype=getattr(torch, dtype))
    if library == "jax":
        import jax.numpy

        return jax.numpy.asarray(values, dtype)
    return np.asarray(values, dtype)


def randomness(library, seed):
    if library == "torch":
        import torch

        return torch.Generator().manual_seed(seed)
    if library == "jax":
        import jax

        return jax.random.key(seed)
    return np.random.default_rng(seed)


def numbers(x):
    return np.asarray(x.float() if "torch" in type(x).__module__ else x).astype("float64")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_shape_dtype_and_library_are_kept(library, dtype):
    x = array(library, np.linspace(0, 1, 6).reshape(2, 3), dtype)
    for code in (encode.current(x, 4), encode.latency(x, 4), encode.rate(x, 4, random=randomness(library, 0))):
        assert type(code) is type(x)
        assert code.shape == (4, 2, 3)
        assert code.dtype == x.dtype
    assert np.array_equal(numbers(encode.current(x, 4)), np.broadcast_to(numbers(x), (4, 2, 3)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_linear_latency_is_one_spike_at_its_time(library):
    x = [1.0, 0.76, 0.5, 0.2, 0.01, 0.0]
    times = [0, 2, 5, 8, 10, None]
    code = numbers(encode.latency(array(library, x), 11))
    for spikes, time in zip(code.T, times, strict=True):
        assert spikes.nonzero()[0].tolist() == ([] if time is None else [time])


@pytest.mark.parametrize("library", LIBRARIES)
def test_latency_of_a_leaky_neuron_agrees_with_integrating_it(library):
    x, tau, threshold, steps = [0.3, 0.45, 0.9, 0.2, 0.201], 20.0, 0.2, 40
    code = numbers(encode.latency(array(library, x), steps, threshold=threshold, tau=tau))
    for spikes, value in zip(code.T, x, strict=True):
        potential = value * (1 - np.exp(-(np.arange(steps) + 1) / tau))  # at the end of each step
        crossed = np.flatnonzero(potential >= threshold)[:1].tolist() if value > threshold else []
        assert spikes.nonzero()[0].tolist() == crossed


@pytest.mark.parametrize("library", LIBRARIES)
def test_rate_has_the_mean_asked_for_and_repeats(library):
    x = array(library, [0.0, 0.1, 0.5, 1.0])
    first, again, other = (numbers(encode.rate(x, 4000, random=randomness(library, seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    error = 4 * np.sqrt(0.25 / 4000)
    assert np.abs(first.mean(0) - [0, 0.1, 0.5, 1]).max() < error
    assert set(np.unique(first)) == {0.0, 1.0}
    assert first[:, 0].sum() == 0
    assert first[:, 3].all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_nan_never_spikes(library):
    x = array(library, [float("nan"), 1.0])
    assert numbers(encode.latency(x, 5)).sum(0).tolist() == [0, 1]
    assert numbers(encode.rate(x, 5, random=randomness(library, 0))).sum(0).tolist() == [0, 5]


@pytest.mark.parametrize("library", LIBRARIES)
def test_mistakes_are_named(library):
    x = array(library, [0.5])
    with pytest.raises(ValueError, match=r"`steps` must be a whole number of at least 1, got 0"):
        encode.current(x, 0)
    for encoder in (encode.rate, encode.latency):
        with pytest.raises(ValueError, match=r"between 0 and 1, got values from -1 to 2"):
            encoder(array(library, [-1.0, 2.0]), 3)
    with pytest.raises(TypeError, match="floating-point"):
        encode.latency(array(library, [1], "int32"), 3)
    with pytest.raises(ValueError, match="`tau` must be greater than 0 and needs"):
        encode.latency(x, 3, tau=2.0)
    if library != "torch":
        with pytest.raises(TypeError, match="`random` is missing"):
            encode.rate(x, 3)


def test_lists_are_refused():
    with pytest.raises(TypeError):
        encode.current([0.5], 3)


def test_under_jit():
    import jax

    spikes = jax.jit(lambda x, key: encode.rate(x, 5, random=key) + encode.latency(x, 5))(array("jax", [1.0]), jax.random.key(0))
    assert numbers(spikes)[:, 0].tolist() == [2, 1, 1, 1, 1]
