"""First calls from several threads at once, in processes whose cache is empty; and forks beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.forked import NUMBA, finish

pytest.importorskip("torch")
pytest.importorskip("numba")

FIRST = """
import threading
import torch
from spikegrad import nn

torch.set_num_threads(1)
x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
layers = [nn.Leaky(0.9), nn.Leaky(0.8, 1.5), nn.LeakyIntegrator(0.9)] * 2
barrier, found, failed = threading.Barrier(6), [None] * 6, []


def work(place):
    try:
        currents = x.clone().requires_grad_()
        barrier.wait()
        out, _ = layers[place](currents)
        out.sum().backward()
        found[place] = out.detach(), currents.grad
    except BaseException as error:
        failed.append(error)


threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
for layer, (out, gradient) in zip(layers, found):
    layer.backend = "reference"
    currents = x.clone().requires_grad_()
    wanted, _ = layer(currents)
    wanted.sum().backward()
    assert torch.equal(out, wanted)
    torch.testing.assert_close(gradient, currents.grad)
from spikegrad.kernels import cache
from spikegrad.kernels.cpu import compiler

kernels = [name for name in cache._modules if "forward" in name or "backward" in name]
assert len(kernels) == 4, kernels
assert compiler.compiled.cache_info().currsize == 4
print("six")
"""


def first_calls(cache: Path) -> None:
    assert finish(FIRST, environment={"SPIKEGRAD_CACHE": str(cache)}, warnings="error", limit=300) == "six\n"
    written = [path.name for path in cache.rglob("spikegrad_generated_*.py")]
    assert len(written) == len({*written}) == 6  # with those of elementary functions and of the team
    assert not list(cache.rglob("*.tmp"))


def test_six_threads_call_first(tmp_path):
    """Each kernel is compiled once, by whoever comes first; the others wait for it."""
    first_calls(tmp_path)


@pytest.mark.slow
def test_six_threads_call_first_fifty_times(tmp_path):
    for run in range(50):
        first_calls(tmp_path / str(run))
        print(f"run {run + 1}: six threads, six right results, each kernel compiled once", flush=True)


FIRST_IN_JAX = """
import threading
import time
import jax
import jax.numpy as jnp
from spikegrad import jax as sj
from spikegrad.kernels import handler

x = jnp.linspace(0, 1, 24).reshape(4, 2, 3)
resets, barrier, failed = ["subtract", "zero", "none"] * 2, threading.Barrier(6), []
made = handler.Table.__init__


def slowly(self):
    made(self)
    time.sleep(0.2)  # while the others come


handler.Table.__init__ = slowly


def gradient(reset, backend):
    return jax.grad(lambda x: sj.leaky(x, 0.9, reset=reset, backend=backend)[0].sum())


def work(reset):
    try:
        barrier.wait()
        assert jnp.allclose(gradient(reset, "numba")(x), jax.jit(gradient(reset, "reference"))(x))
    except BaseException as error:
        failed.append(error)


threads = [threading.Thread(target=work, args=(reset,)) for reset in resets]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""


def test_six_threads_call_first_in_jax():
    """There is one table of kernels, however many threads come before it is there."""
    pytest.importorskip("jax")
    finish(FIRST_IN_JAX, libraries=NUMBA, warnings="error")


HELD = """
import os
import threading
import torch
from spikegrad import nn
from spikegrad.kernels.cpu import memory, results
from spikegrad.kernels.lock import LOCK

torch.set_num_threads(1)
layer, x = nn.Leaky(0.9), torch.ones(4, 2, 3)
layer(x)
for lock in (memory._lock, results._lock, LOCK):
    held, done = threading.Event(), threading.Event()

    def hold(lock=lock, held=held, done=done):
        with lock:
            held.set()
            done.wait(0.3)  # a fork waits as long

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        layer(x)
        memory.give(memory.take(64))
        results.empty((2**19,), torch.float32)
        os._exit(0)
    done.set()
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_while_another_thread_holds_a_lock():
    """A child that inherits a lock from a thread that it does not have would wait for it for ever."""
    finish(HELD, warnings="ignore", limit=60)


FULL = """
import torch
from spikegrad import nn
from spikegrad.kernels import cache

torch.set_num_threads(1)


def full(*_):
    raise OSError(28, "No space left on device")


cache.written = full
assert nn.LeakyIntegrator(0.5, backend="numba")(torch.ones(3, 1))[0].ravel().tolist() == [1.0, 1.5, 1.75]
"""


def test_a_full_disk_is_no_obstacle(tmp_path):
    """What cannot be written is compiled in memory."""
    finish(FULL, environment={"SPIKEGRAD_CACHE": str(tmp_path)}, warnings="error")
    assert not list(tmp_path.rglob("*.nb*"))
