"""Randman: classes of spike trains that lie on smooth random manifolds, as many and as hard as asked for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.dataset import Dataset, split
from spikegrad.data.events import Events
from spikegrad.errors import InputError, meant

SPECTRA = ("paper", "torch", "numpy")
"""Whose power spectrum: the paper's, or those of the two programs that its authors published, which differ from it and from each other."""
LONGEST = 1000
PRECISION = 1e-3
BLOCK = 16
"""Samples that are computed at once, whose waves stay in the cache."""


def randman(
    *,
    classes: int = 10,
    units: int = 20,
    steps: int = 100,
    samples: int = 1000,
    dimensions: int = 1,
    alpha: float = 1.0,
    spectrum: str = "paper",
    used: float = 0.5,
    seed: int = 0,
) -> Dataset:
    r"""Every class is a random smooth manifold; a sample is a point on it, told by when each unit spikes, once.

    Unit i of a class spikes in step :math:`\lfloor f_i(x) \cdot used \cdot steps \rfloor`, where x is uniform in
    :math:`[0, 1]^{dimensions}` and f runs from 0 to 1 over the samples of the class:

    .. math:: f_i(x) \propto \prod_j \sum_k s_k A_{ijk} \sin(2 \pi (k x_j B_{ijk} + C_{ijk})), \qquad A, B, C \sim U(0, 1)

    No unit's number of spikes tells anything: what is learned is time.

    Args:
        classes: number of classes.
        units: input neurons.
        steps: time steps.
        samples: of each class, of which 10 % are for validation and 10 % for the test.
        dimensions: of the manifolds; more are harder.
        alpha: how fast the spectrum falls; smaller is rougher, and harder.
        spectrum: ``"paper"``: :math:`s_k = k^{-\alpha}`, k from 1 to 1000. ``"torch"`` and ``"numpy"`` as the authors' programs have it:
            k from 0 to F - 1 without the constant, :math:`s_k = 1 / ((k + 1)^\alpha + 1)` and :math:`s_k = (k + 1)^{-\alpha}`, with F the
            smaller of 1000 and :math:`1000^{1 / \alpha}`.
        used: share of the steps in which spikes may be.
        seed: of the manifolds and the points on them, which the seed of a training does not change.

    Returns:
        The data, each sample (time, unit).

    Raises:
        InputError: a number is out of range, or the spectrum unknown.

    References:
        Zenke & Vogels 2021, https://doi.org/10.1162/neco_a_01367

    Example:
        >>> from spikegrad.data import randman
        >>> data = randman(classes=3, samples=20)
        >>> data.train[0].shape, data.train[0][:5].sum(axis=1).tolist() == [[1.0] * 20] * 5
        ((48, 100, 20), True)
    """
    for name, value in {"classes": classes, "samples": samples}.items():
        _whole(name, value, least=2 if name == "classes" else 3)
    for name, value in {"units": units, "steps": steps, "dimensions": dimensions, "seed": seed}.items():
        _whole(name, value, least=0 if name == "seed" else 1)
    for name, value, most in (("alpha", alpha, math.inf), ("used", used, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most or math.isinf(value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"`{name}` of randman must be a number greater than 0{' and at most 1' if most == 1 else ''}, got {value!r}")
    if spectrum not in SPECTRA:
        raise InputError(f"`spectrum` of randman must be one of {', '.join(SPECTRA)}, got {spectrum!r}{meant(str(spectrum), SPECTRA)}")
    random = np.random.default_rng(seed)
    wave, size = _spectrum(spectrum, float(alpha))
    times = [_class(random, wave, size, (samples, units, dimensions)) for _ in range(classes)]
    step = np.minimum((np.concatenate(times) * used * steps).astype(np.int32), steps - 1)
    total = classes * samples
    channel = np.tile(np.arange(units, dtype=np.int32), total)
    x, y = Events(step.reshape(-1), channel, np.arange(total + 1) * units, steps, units), np.repeat(np.arange(classes), samples)
    test, validation, train = split(y, (0.1, 0.1))
    parts = [(x.take(part), y[part]) for part in (train, validation, test)]
    return Dataset("randman", parts[0], parts[1], parts[2])


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"`{name}` of randman must be a whole number of at least {least}, got {value!r}")


def _spectrum(name: str, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of waves, and the size of each."""
    if name == "paper":
        k = np.arange(1.0, LONGEST + 1)
        return k, k**-alpha
    k = np.arange(float(min(math.ceil(PRECISION ** (-1 / alpha)), LONGEST))) if 1 / alpha < 100 else np.arange(float(LONGEST))
    size = 1 / ((k + 1) ** alpha + (name == "torch"))
    return k, np.where(k > 0, size, 0)


def _class(
    random: np.random.Generator, wave: NDArray[np.float64], size: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """When each unit spikes in the samples of one class, from 0 to 1, (sample, unit)."""
    samples, units, dimensions = shape
    a, b, c = random.random((3, units, dimensions, len(wave)))
    x = random.random((samples, dimensions))
    f = np.ones((samples, units))
    for unit, d in np.ndindex(units, dimensions):
        turns, phase, height = 2 * np.pi * wave * b[unit, d], 2 * np.pi * c[unit, d], size * a[unit, d]
        for start in range(0, samples, BLOCK):
            block = slice(start, start + BLOCK)
            f[block, unit] *= np.sin(x[block, d, None] * turns + phase) @ height
    low, high = f.min(axis=0), f.max(axis=0)
    return (f - low) / (high - low + 1e-7)
