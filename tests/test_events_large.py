"""Networks of 20,000 hidden neurons at 1 % activity: what a training step takes by events, and what dense products take.

Figures of a run are in tests/evidence/events_large.txt: ``pytest -n 0 -s -m slow tests/test_events_large.py``. Each network trains in a
process of its own, whose peak of memory is told by the system.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import pytest
import torch

from spikegrad import Triangle, nn

GIB = 2**30
MOST = 8 * GIB
ONE, TWO = (700, 20_000, 20), (700, 10_000, 10_000, 20)
DENSITY, RATE, THREADS = 0.02, 0.01, 2


def network(sizes: tuple[int, ...], x: torch.Tensor, way: str) -> nn.Sequential:
    """Layers whose weights are scaled so that 1 % of the neurons spike; the same weights whichever way they run."""
    hidden = [nn.Leaky(0.95, spike=Triangle(width=0.3)) for _ in sizes[1:-1]]
    neurons = [*hidden, nn.LeakyIntegrator(0.95)]
    layers = [nn.SpikingLinear(a, b, n, bias=False, memory="save", backend=way) for a, b, n in zip(sizes, sizes[1:], neurons, strict=False)]
    with torch.no_grad():
        for layer in layers[:-1]:
            currents = x @ layer.weight.normal_().t()
            low, high = 0.0, 10.0
            for _ in range(20):
                middle = (low + high) / 2
                fired = layer.neuron(middle * currents)[0]
                low, high = (middle, high) if fired.mean() < RATE else (low, middle)
            layer.weight.mul_(low)
            x = layer.neuron(low * currents)[0]
        layers[-1].weight.normal_(std=0.01)
    return nn.Sequential(*layers)


def train(way: str, sizes: tuple[int, ...], steps: int, batch: int) -> dict[str, float]:
    """Seconds of a training step after the first, in processor time and by the clock, its loss, and the peak of memory."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    x = (torch.rand(steps, batch, sizes[0]) < DENSITY).float()
    y = torch.randint(sizes[-1], (batch,))
    net = network(sizes, x[:100, :2], way)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
    for _ in range(2):
        processor, wall = time.process_time(), time.perf_counter()
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x)[0].amax(0), y)
        loss.backward()
        optimiser.step()
        took = time.process_time() - processor, time.perf_counter() - wall
    return {"loss": loss.item(), "processor": took[0], "wall": took[1], "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def apart(*given: object, limit: int | None = None) -> dict[str, float] | str:
    """The same in another process; what it complained about if it had too little memory."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit or resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", __name__, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound, check=False)
    if done.returncode and "can't allocate memory" in done.stderr:
        return done.stderr.strip().splitlines()[-1]
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def told(way: str, sizes: tuple[int, ...], steps: int, batch: int, found: dict[str, float] | str) -> None:
    what = f"{'-'.join(map(str, sizes))}, T = {steps}, B = {batch}, {way:>5}: "
    if isinstance(found, str):
        print(f"{what}does not fit into 8 GiB")
        return
    took = f"{found['processor']:6.2f} s of processor time a step, {found['wall']:6.2f} s by the clock"
    print(f"{what}{took}, peak {found['peak'] / GIB:.2f} GiB")


@pytest.mark.slow
def test_20000_neurons_train_within_8_gib_where_a_dense_stack_does_not_fit():
    found = apart("event", ONE, 1000, 64)
    told("event", ONE, 1000, 64, found)
    assert isinstance(found, dict)
    assert found["peak"] < MOST
    dense = apart("dense", ONE, 1000, 64, limit=MOST)
    told("dense", ONE, 1000, 64, dense)
    assert isinstance(dense, str)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "steps", "batch", "least"), [(ONE, 1000, 8, 2.0), (TWO, 100, 16, 1.5)], ids=["one layer", "two layers"])
def test_what_it_takes_where_both_fit(sizes, steps, batch, least):
    events, dense = apart("event", sizes, steps, batch), apart("dense", sizes, steps, batch)
    told("event", sizes, steps, batch, events)
    told("dense", sizes, steps, batch, dense)
    print(f"dense over events: {dense['processor'] / events['processor']:.1f} times the processor time")
    assert events["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert dense["processor"] > least * events["processor"]


if __name__ == "__main__":
    way, sizes, steps, batch = json.loads(sys.argv[1])
    print(json.dumps(train(way, tuple(sizes), steps, batch)))
