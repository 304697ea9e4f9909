"""What only a GPU shows: streams, graphs, compilers, several types and devices, and how fast kernels are.

``pytest -m "gpu and not slow" -n 8``, since kernels are compiled; ``pytest -m "gpu and slow" -n 0`` for what is timed, alone on the card.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from spikegrad import neurons, nn

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


def drive(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.6).to("cuda", dtype)


def both(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes of a layer and the gradient of a sum of squares."""
    leaf = x.detach().requires_grad_()
    spikes = call(leaf)
    (grad,) = torch.autograd.grad(spikes.square().sum() + (spikes * x).sum(), leaf)
    return spikes.detach(), grad


def first(layer: nn.Layer) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x)[0]


def test_auto_takes_the_kernels():
    with mock.patch("spikegrad.kernels.loop.run", side_effect=AssertionError("the plain loop ran")):
        both(first(nn.Leaky(0.9)), drive(20, 4, 64))


def test_a_network_trains_alike():
    losses: list[list[float]] = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        net = nn.Sequential(
            torch.nn.Linear(40, 64), nn.Leaky(0.9, backend=backend), torch.nn.Linear(64, 10), nn.LeakyIntegrator(0.9, backend=backend)
        ).cuda()
        optimiser, x = torch.optim.SGD(net.parameters(), 0.1), drive(30, 16, 40)
        y = torch.arange(16, device="cuda") % 10
        losses.append([])
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(net(x)[0].mean(0), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[-1].append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_large_layers(dtype):
    """As many neurons are launched, and rounded as PyTorch rounds, which the interpreter does not."""
    x = drive(33, 4, 40_000, dtype=dtype)
    (spikes, grad), (wanted, slopes) = (both(first(nn.Leaky(0.9, backend=backend)), x) for backend in ("triton", "reference"))
    assert torch.equal(spikes, wanted)
    assert 0.05 < float(spikes.float().mean()) < 0.95
    torch.testing.assert_close(grad, slopes, rtol=4 * torch.finfo(dtype).eps, atol=1e-6 if dtype.itemsize > 2 else 1e-3)


def test_more_elements_than_32_bits_count():
    x = torch.full((3, 2**31 // 2 - 5), 0.6, device="cuda", dtype=torch.float16)
    if torch.cuda.mem_get_info()[0] < 8 * x.nbytes:
        pytest.skip("not enough memory")
    with torch.no_grad():
        spikes, _ = nn.Leaky(0.9)(x)
    assert [float(row[-1]) for row in spikes] == [0.0, 1.0, 0.0]
    assert [float(row[0]) for row in spikes] == [0.0, 1.0, 0.0]


def test_memory_that_begins_anywhere():
    """A kernel that was compiled for 16 bytes at a time is not launched on what begins in between."""
    flat, shape = drive(20 * 64 * 4 + 1), (20, 4, 64)
    for start in (0, 1, 0, 1):
        x = flat[start : start + 20 * 64 * 4].view(shape)
        (spikes, grad), (wanted, slopes) = (both(first(nn.Leaky(0.9, backend=backend)), x) for backend in ("triton", "reference"))
        assert torch.equal(spikes, wanted)
        torch.testing.assert_close(grad, slopes)


def test_a_side_stream():
    x, stream = drive(50, 8, 1000), torch.cuda.Stream()
    layer = nn.Leaky(0.9)
    wanted = layer(x)[0]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = layer(x * 1.0)[0]
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("recurrent", [None, "all-to-all"])
def test_a_graph(recurrent: Any):
    """Captured whole, forward and backward, and replayed on other numbers."""
    layer = nn.Layer(neurons.Leaky(0.9), recurrent=recurrent, features=64 if recurrent else None).cuda()
    x = drive(20, 4, 64).requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        spikes = layer(x)[0]
        return spikes, torch.autograd.grad(spikes.square().sum(), x)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        spikes, grad = step()
    with torch.no_grad():
        x.copy_(drive(20, 4, 64).flip(0))
    graph.replay()
    wanted = step()
    assert torch.equal(spikes, wanted[0])
    torch.testing.assert_close(grad, wanted[1])


def test_training_in_graphs(tmp_path):
    """`spikegrad train` comes to the same bits with them as without, dropout and batch normalisation included."""
    pytest.importorskip("lightning")
    from spikegrad.training import Config, graphs, train

    found, taken = list[Any](), list[object]()
    capture = graphs.captured

    def noted(network: Any, x: Tensor) -> Any:
        taken.append(capture(network, x))
        return taken[-1]

    with mock.patch.object(graphs, "captured", noted):
        for wanted in (True, False):
            config = Config(hidden=(32, 32), steps=10, epochs=2, accelerator="gpu", graphs=wanted)
            found.append([row["validation_loss"] for row in train(config, tmp_path / str(wanted)).run.metrics()])
    assert len(taken) == 1
    assert taken[0] is not None
    assert found[0] == found[1]


def test_compiled_in_one_graph():
    x = drive(20, 4, 64)
    layers = nn.Leaky(0.9, learn_beta=True), nn.Synaptic(0.8, 0.9), nn.LeakyIntegrator(0.9), nn.RecurrentLeaky(64, 0.9)
    for layer in (layer.cuda() for layer in layers):
        torch.compiler.reset()
        found, wanted = both(torch.compile(first(layer), fullgraph=True), x), both(first(layer), x)
        torch.testing.assert_close(found, wanted)


def test_autocast():
    net = nn.Sequential(torch.nn.Linear(40, 64), nn.Leaky(0.9)).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        spikes, _ = net(drive(20, 4, 40))
    assert spikes.dtype is torch.bfloat16
    spikes.float().sum().backward()
    assert float(net[0].weight.grad.abs().max()) > 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_another_device():
    x = drive(20, 4, 64)
    wanted, found = both(first(nn.Leaky(0.9)), x), both(first(nn.Leaky(0.9)), x.to("cuda:1"))
    for a, b in zip(wanted, found, strict=True):
        assert torch.equal(a, b.to(a.device))


def milliseconds(call: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call on the device, what it reads not in the cache."""
    flush, times = torch.empty(2**28, dtype=torch.int8, device="cuda"), list[float]()
    call()
    for _ in range(repeats):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(32, 2**20), (500, 2**18), (100, 8192)], ids=str)
def test_the_launch_is_within_a_tenth_of_the_best(shape):
    from spikegrad.kernels import torch as kernels
    from spikegrad.kernels.gpu import layer as gpu
    from spikegrad.kernels.gpu.choice import Choice, choice

    x, found = drive(*shape), dict[str, float]()
    tried = {"chosen": choice(18, *shape)}
    tried |= {str(c): c for c in (Choice(k, *size) for k, size in itertools.product((4, 8), ((64, 1), (128, 4), (256, 4), (512, 4))))}
    for name, each in tried.items():
        kernels.layer_of.cache_clear()
        kernels._at_rest.clear()
        with mock.patch.object(gpu, "choice", return_value=each):
            found[name] = milliseconds(lambda: both(first(nn.Leaky(0.9)), x), 5)
    kernels.layer_of.cache_clear()
    kernels._at_rest.clear()
    best = min(found, key=found.__getitem__)
    assert found["chosen"] <= 1.1 * found[best], f"{best} takes {found[best]:.3f} ms, {tried['chosen']} {found['chosen']:.3f}"


@pytest.mark.slow
def test_jax_launches_the_kernels():
    """At least five times as fast as the scan, at 504 steps and 65,536 neurons and where neither is even; one kernel after the other."""
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU")
    import time

    import numpy as np

    from spikegrad import jax as sj

    for shape in ((504, 65_536), (499, 65_531)):
        x = jax.random.uniform(jax.random.key(0), shape) * 0.6
        calls = {b: jax.jit(jax.value_and_grad(lambda x, b=b: (sj.leaky(x, 0.9, backend=b)[0] * x).sum())) for b in ("triton", "reference")}
        found, times = {name: jax.block_until_ready(call(x)) for name, call in calls.items()}, dict[str, float]()
        np.testing.assert_allclose(found["triton"][0], found["reference"][0], rtol=1e-5)
        np.testing.assert_allclose(found["triton"][1], found["reference"][1], rtol=1e-4, atol=1e-5)
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(10):
                last = call(x)
            jax.block_until_ready(last)
            times[name] = time.perf_counter() - start
        assert times["reference"] > 5 * times["triton"], times
