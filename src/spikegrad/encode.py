"""Values into spike trains: the same three codes for NumPy, PyTorch and JAX arrays.

Each function takes an array of any shape and puts a time axis in front of it: ``(batch, features)`` becomes
``(time, batch, features)``, what every layer of spikegrad reads. The result has the library, dtype and device of the argument and
carries no gradient, except that of `current`, which is a view.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from spikegrad.vocabulary import Array, cast, floor, library, log, namespace, where, widen

__all__ = ["current", "latency", "rate"]


def current(x: Array, steps: int) -> Array:
    r"""A constant current, :math:`I[t] = x`: the first layer's weights learn to turn it into spikes.

    Args:
        x: currents, any shape and floating dtype, any finite value.
        steps: number of time steps, at least 1.

    Returns:
        Array ``(steps, *x.shape)``, a read-only view of `x` where the library has views. Gradients pass through it.

    Raises:
        TypeError: `x` is not a floating-point array.
        ValueError: `steps` is not a whole number of at least 1.

    Example:
        >>> import numpy as np
        >>> from spikegrad import encode
        >>> encode.current(np.array([0.2, 0.7]), steps=3)
        array([[0.2, 0.7],
               [0.2, 0.7],
               [0.2, 0.7]])
    """
    owner = _checked(x, steps)
    shape = (steps, *x.shape)
    return x.expand(shape) if owner == "torch" else namespace(owner).broadcast_to(x, shape)


def rate(x: Array, steps: int, *, random: Any = None) -> Array:
    r"""Independent spikes with probability `x` in every step: :math:`s[t] \sim \mathrm{Bernoulli}(x)`, so that the mean rate is `x`.

    Args:
        x: probabilities of a spike per step, 0 to 1, any shape and floating dtype.
        steps: number of time steps, at least 1.
        random: where the noise comes from: a `numpy.random.Generator`, a `jax.random.key`, or a `torch.Generator` on the device of `x`
            (default for PyTorch: its own, which `torch.manual_seed` seeds).

    Returns:
        Array ``(steps, *x.shape)`` of zeros and ones in the dtype of `x`. NaN never spikes.

    Raises:
        TypeError: `x` is not a floating-point array, or `random` is missing for NumPy or JAX.
        ValueError: a value of `x` is outside 0 to 1, or `steps` is not a whole number of at least 1.

    Example:
        >>> import numpy as np
        >>> from spikegrad import encode
        >>> spikes = encode.rate(np.array([0.0, 0.25, 1.0]), steps=1000, random=np.random.default_rng(0))
        >>> spikes.mean(axis=0).round(2)
        array([0.  , 0.25, 1.  ])
    """
    owner = _checked(x, steps)
    _within_unit(x)
    wide, shape = widen(x), (steps, *x.shape)
    if owner == "torch":
        torch = sys.modules["torch"]
        draws = torch.rand(shape, generator=random, dtype=wide.dtype, device=wide.device)
    elif random is None:
        wanted = "numpy.random.default_rng(seed)" if owner == "numpy" else "jax.random.key(seed)"
        raise TypeError(f"`random` is missing; pass random={wanted}")
    elif owner == "jax":
        draws = sys.modules["jax"].random.uniform(random, shape, dtype=wide.dtype)
    else:
        draws = random.random(shape)
    return cast(draws < wide, x)


def latency(x: Array, steps: int, *, threshold: float = 0.0, tau: float | None = None) -> Array:
    r"""One spike for each value, the earlier the larger it is.

    Without `tau` the time falls linearly, :math:`t = \mathrm{round}((1 - x)(N - 1))` with N the `steps`. With `tau` it is when a leaky
    neuron driven by the constant current `x` reaches the threshold :math:`\theta`: :math:`t = \lfloor \tau \ln \frac{x}{x - \theta}
    \rfloor` (Zenke's SpyTorch tutorials). Values at or below the threshold, and those whose time is past the last step, stay silent.

    Args:
        x: intensities, 0 to 1, any shape and floating dtype.
        steps: number of time steps, at least 1.
        threshold: values at or below it never spike; 0 to 1, greater than 0 with `tau`.
        tau: membrane time constant in steps, greater than 0; None for the linear code.

    Returns:
        Array ``(steps, *x.shape)`` of zeros and ones in the dtype of `x`, at most one 1 along time. NaN never spikes.

    Raises:
        TypeError: `x` is not a floating-point array.
        ValueError: a value of `x` is outside 0 to 1, or `steps`, `threshold` or `tau` is out of range.

    Example:
        >>> import numpy as np
        >>> from spikegrad import encode
        >>> encode.latency(np.array([1.0, 0.5, 0.0]), steps=3)
        array([[1., 0., 0.],
               [0., 1., 0.],
               [0., 0., 0.]])
    """
    owner = _checked(x, steps)
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be at least 0 and below 1, got {threshold}")
    if tau is not None and not (tau > 0 and threshold > 0):
        raise ValueError(f"`tau` must be greater than 0 and needs a `threshold` greater than 0, got tau={tau} and threshold={threshold}")
    _within_unit(x)
    wide = widen(x)
    fires = wide > threshold
    if tau is None:
        time = namespace(owner).round((1 - wide) * (steps - 1))
    else:
        safe = where(fires, wide, wide * 0 + 1)
        time = floor(tau * log(safe / (safe - threshold)))
    clock = namespace(owner).arange(steps, **({"device": x.device} if owner == "torch" else {}))
    clock = clock.reshape((steps,) + (1,) * x.ndim)
    return cast((time == clock) & fires, x)


def _checked(x: Array, steps: object) -> str:
    """The library of `x`, once it and `steps` are what every encoder takes."""
    owner = library(x)
    if owner not in ("numpy", "torch", "jax"):
        raise TypeError(f"`x` must be a NumPy, PyTorch or JAX array, got a {type(x).__name__}; wrap it with numpy.asarray(x)")
    widen(x)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`steps` must be a whole number of at least 1, got {steps!r}")
    return owner


def _within_unit(x: Array) -> None:
    """Refuse values outside 0 to 1 where they are known; under `jax.jit` they are not."""
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(x, jax.core.Tracer):
        return
    if bool(((x < 0) | (x > 1)).any()):
        raise ValueError(f"`x` must lie between 0 and 1, got values from {float(x.min()):g} to {float(x.max()):g}; scale it first")
