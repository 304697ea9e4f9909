"""How threads share out work: whoever is missing, asleep or busy with another caller, every column is done."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from spikegrad.kernels import numba as kernels
from spikegrad.kernels import threads
from spikegrad.kernels.call import INTEGRATOR

STEPS = 40


def integrate(currents: np.ndarray, workers: int) -> np.ndarray:
    """Sums over time, by a layer that forgets nothing; a column that is left out stays NaN."""
    sizes = kernels.Sizes("float32", *currents.shape, threads=workers, numbers=(1.0,))
    potentials, last = np.full_like(currents, np.nan), np.full(currents.shape[1], np.nan, np.float32)
    kernels.forward(kernels.layer(INTEGRATOR, sizes), currents, (), (), None, (last,), potentials)
    return potentials


def currents(columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 8, (STEPS, columns)).astype(np.float32)


def check(columns: int, workers: int, seed: int = 0) -> None:
    given = currents(columns, seed)
    np.testing.assert_array_equal(integrate(given, workers), given.cumsum(0, np.float32))


@pytest.fixture
def pool() -> Any:
    check(4096, 2)
    return threads._pool()


@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("columns", [3277, 4096, 4097, 20011])
def test_any_number_of_threads(columns, workers):
    for seed in range(20):
        check(columns, workers, seed)


def test_a_worker_that_fell_asleep_is_woken(pool):
    for _ in range(5):
        deadline = time.monotonic() + 10
        while pool.states[0] != threads._ASLEEP:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        check(20011, 2)
        assert pool.states[0] in (threads._IDLE, threads._ASLEEP)


def test_a_worker_that_is_asleep_is_not_waited_for(pool, monkeypatch):
    monkeypatch.setattr(pool, "wake", lambda number: None)
    time.sleep(0.05)
    check(20011, 2)


def test_a_job_that_nobody_took_is_taken_back(pool, monkeypatch):
    """The worker is believed awake and is not: it would find the job of a call that has returned long ago."""
    monkeypatch.setattr(pool, "wake", lambda number: None)
    time.sleep(0.05)
    pool.states[0] = threads._IDLE
    check(20011, 2)
    assert pool.states[0] == threads._IDLE
    pool.states[0] = threads._ASLEEP


def test_callers_at_once():
    """One of them has the worker, the others do without."""

    def work(seed: int) -> None:
        for k in range(50):
            check(4096 + 64 * (seed % 3), 2 + seed % 2, seed * 50 + k)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(work, range(8)))


def test_a_process_ends_while_its_workers_are_awake():
    script = """
        import numpy as np
        from spikegrad.kernels import numba as kernels
        from spikegrad.kernels.call import INTEGRATOR

        layer = kernels.layer(INTEGRATOR, kernels.Sizes("float32", 40, 8192, threads=3, numbers=(1.0,)))
        arrays = [np.ones((40, 8192), np.float32) for _ in range(2)]
        for _ in range(3):
            kernels.forward(layer, arrays[0], (), (), None, (), arrays[1])
        assert arrays[1][-1, -1] == 40
    """
    for _ in range(5):
        done = subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
