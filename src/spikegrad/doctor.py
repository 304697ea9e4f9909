"""What of spikegrad runs on this machine, and whether it runs right: for people who install it, and for reports of bugs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from spikegrad import simulation
from spikegrad.neurons import Leaky
from spikegrad.vocabulary import Array

PACKAGES = ("spikegrad", "numpy", "torch", "numba", "triton", "jax", "lightning", "matplotlib", "rich", "optuna", "nir", "onnx")
STEPS, SAMPLES, NEURONS = 20, 3, 67
"""Of what is checked; a number of neurons that is no multiple of any block."""
SIZE = (500, 16, 512)
"""Of what is timed: steps, samples and neurons."""


@dataclass(frozen=True)
class Check:
    """What was tried, and what came of it.

    Attributes:
        name: the library, and which implementation of it.
        result: ``"ok"``; ``"absent"`` where something is not installed or there is no such device; ``"failed"``.
        detail: what is absent or went wrong.
        seconds: it took, compilation included.
    """

    name: str
    result: Literal["ok", "absent", "failed"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Examination:
    """What was found; `str` of it is the text for a report.

    Attributes:
        machine: its system, processor, cores and Python.
        packages: versions of what is installed.
        cache: where compiled kernels lie, and how much.
        checks: of every implementation.
        times: milliseconds by what was timed; empty unless asked for.
    """

    machine: Mapping[str, str]
    packages: Mapping[str, str]
    cache: str
    checks: tuple[Check, ...]
    times: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(check.result != "failed" for check in self.checks)

    def __str__(self) -> str:
        rows = [*self.machine.items(), ("packages", ", ".join(f"{name} {version}" for name, version in self.packages.items()))]
        rows.append(("kernels", self.cache))
        lines = [f"{name + ':':<12} {text}" for name, text in rows]
        for check in self.checks:
            took = f"{check.seconds:.1f} s" if check.result == "ok" else check.detail
            lines.append(f"{check.result:<8} {check.name:<44} {took}".rstrip())
        if self.times:
            shape = " x ".join(map(str, SIZE))
            lines.append(f"milliseconds, forward and backward, {shape} (time, batch, neurons), float32:")
            lines += [f"         {name:<44} {value:.2f}" for name, value in self.times.items()]
        return "\n".join(lines)


def examine(*, timed: bool = False) -> Examination:
    """Try every implementation on a small layer, each against the plain arithmetic of NumPy in float64.

    Args:
        timed: measure the fused kernels against the plain loop as well, for about twenty seconds.

    Example:
        >>> from spikegrad import doctor
        >>> found = doctor.examine()
        >>> found.healthy
        True
    """
    checks = tuple(_tried(name, check) for name, check in CHECKS.items())
    return Examination(_machine(), _packages(), _cache(), checks, _times() if timed else {})


def _machine() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"system": f"{platform.platform()}, {platform.machine()}, {cores} cores", "python": platform.python_version()}
    if importlib.util.find_spec("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        found["gpu"] = ", ".join(gpus) or "none that PyTorch sees"
    return found


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "spikegrad":
                found[name] = "not installed, run from its source"
    return found


def _cache() -> str:
    from spikegrad.kernels import cache

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inside = cache.directory("doctor")
    if inside is None:
        return f"kept nowhere: {said[0].message}" if said else "kept nowhere: the directory for them cannot be written"
    inside.rmdir()
    cache.directory.cache_clear()
    files = [file.stat() for file in inside.parent.rglob("*") if file.is_file()]
    return f"{inside.parent}, {len(files)} files, {sum(file.st_size for file in files) / 2**20:.0f} MiB"


class _AbsentError(Exception):
    """Something is not there; the message says what."""


def _tried(name: str, check: Callable[[], None]) -> Check:
    start = time.perf_counter()
    try:
        check()
    except _AbsentError as absent:
        return Check(name, "absent", str(absent))
    except Exception as error:  # whatever goes wrong on a machine is what is to be found out
        return Check(name, "failed", f"{type(error).__name__}: {error}".partition("\n")[0], time.perf_counter() - start)
    return Check(name, "ok", "", time.perf_counter() - start)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise _AbsentError(f"{package} is not installed")


_NEURON = Leaky(0.875)


def _given() -> Array:
    """Currents of few bits, so that no sum of them is rounded in float64."""
    return np.random.default_rng(0).integers(-32, 64, (STEPS, SAMPLES, NEURONS)) / 64


def _compare(found: Any, wanted: Any, what: str, tolerance: float = 1e-12) -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    worst = np.max(np.abs(found - wanted))
    if not worst <= tolerance * max(1.0, np.max(np.abs(wanted))):
        raise ArithmeticError(f"{what} differ by {worst:.3g}")


def _wanted() -> tuple[Array, Array]:
    """Spikes, and the gradient of their sum weighted with the currents: autograd of the step, by hand."""
    x = _given()
    spikes = simulation.simulated(_NEURON, {"current": x}, simulation.rest(_NEURON))[0]["output 0"]
    beta, theta, v = _NEURON.beta, _NEURON.threshold, np.zeros(x.shape[1:])
    excess = np.empty_like(x)
    for t, current in enumerate(x):
        u = beta * v + current
        excess[t] = u - theta
        v = u - spikes[t] * theta
    gradient, carried = np.empty_like(x), np.zeros(x.shape[1:])
    for t in reversed(range(len(x))):  # the reset is detached
        carried = beta * carried + x[t] * _NEURON.spike.derivative(excess[t])
        gradient[t] = carried
    return spikes, gradient


def _numpy() -> None:
    spikes, _ = _wanted()
    rate = spikes.mean()
    if not 0.05 < rate < 0.95:
        raise ArithmeticError(f"neurons spike in {rate:.1%} of the steps, which shows nothing")


def _torch(backend: str) -> None:
    """In float64, where everything is exact but for the surrogate's own rounding."""
    import torch

    from spikegrad import nn

    device = "cuda" if backend == "triton" else "cpu"
    currents = torch.from_numpy(_given()).to(device).requires_grad_()
    made, _ = nn.Layer(_NEURON, backend=backend)(currents)
    made.backward(currents.detach())
    spikes, gradient = _wanted()
    _compare(made.detach().cpu(), spikes, "spikes", 0.0)
    assert currents.grad is not None
    _compare(currents.grad.cpu(), gradient, "gradients")


def _plain_torch() -> None:
    _need("torch")
    _torch("reference")


def _fused_torch() -> None:
    _need("torch")
    _need("numba")
    _torch("numba")


def _triton() -> None:
    _need("torch")
    import torch

    if not torch.cuda.is_available():
        raise _AbsentError("PyTorch sees no GPU")
    _need("triton")
    _torch("triton")


def _jax(backend: Any) -> None:
    """In float32, as JAX has it; the currents' few bits leave the spikes as they are."""
    import jax
    import jax.numpy as jnp

    from spikegrad import jax as layers

    currents = jnp.asarray(_given(), jnp.float32)

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        made, _ = layers.run(_NEURON, x, backend=backend)
        return (made * currents).sum(), made

    gradient, made = jax.grad(total, has_aux=True)(currents)
    spikes, wanted = _wanted()
    _compare(made, spikes, "spikes", 0.0)
    _compare(gradient, wanted, "gradients", 1e-5)


def _plain_jax() -> None:
    _need("jax")
    _jax("reference")


def _fused_jax() -> None:
    _need("jax")
    _need("numba")
    import jax

    if jax.default_backend() != "cpu":
        raise _AbsentError(f"JAX runs on {jax.default_backend()}")
    _jax("numba")


CHECKS: dict[str, Callable[[], None]] = {
    "NumPy": _numpy,
    "PyTorch, plain loop": _plain_torch,
    "PyTorch, fused on the CPU (Numba)": _fused_torch,
    "PyTorch, fused on the GPU (Triton)": _triton,
    "JAX, scan": _plain_jax,
    "JAX, fused on the CPU (Numba)": _fused_jax,
}


def _times() -> dict[str, float]:
    """Medians; of the plain loop, which is slow, of few runs."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from spikegrad import nn

    devices = {"reference": "cpu", "numba": "cpu"} if importlib.util.find_spec("numba") else {"reference": "cpu"}
    if torch.cuda.is_available() and importlib.util.find_spec("triton"):
        devices["triton"] = "cuda"
    found: dict[str, float] = {}
    for backend, device in devices.items():
        layer, currents = nn.Layer(_NEURON, backend=backend), torch.rand(SIZE, device=device, requires_grad=True)

        def once(layer: Any = layer, currents: Any = currents) -> float:
            start = time.perf_counter()
            made, _ = layer(currents)
            made.backward(made.detach())
            if currents.is_cuda:
                torch.cuda.synchronize()
            return (time.perf_counter() - start) * 1000

        once()
        end, runs = time.perf_counter() + 6, list[float]()
        while len(runs) < 3 or (time.perf_counter() < end and len(runs) < 200):
            runs.append(once())
        where = f"PyTorch, {backend} on the {'GPU' if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}"
        found[where] = float(np.median(runs))
    return found
