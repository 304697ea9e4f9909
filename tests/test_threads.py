"""How threads share out work: whoever comes late, or not at all, every column is done, and done once."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.forked import ended

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from spikegrad import nn  # noqa: E402
from spikegrad.kernels.cpu import threads  # noqa: E402
from spikegrad.kernels.cpu.compiler import header, loaded  # noqa: E402

STEPS = 40

COUNTING = """
@entry(2)
def kernel(address, mine):
    job = words(address)
    blocks, members = words(job[ARGUMENTS]), words(job[ARGUMENTS + 2])
    members[mine] += U(1)
    start = {claimed}(job, mine)
    while start < job[COLUMNS]:
        blocks[start // job[BLOCK]] += U(1)
        start = {claimed}(job, mine)
"""


def counted(claimed: str, workers: int, columns: int, block: int) -> tuple[list[int], list[int]]:
    """How often a job's blocks are done, and how often each thread begins."""
    kernel = loaded("counting", header("float32") + COUNTING.format(claimed=claimed)).kernel
    blocks, members = np.zeros(-(-columns // block) + 1, np.uint64), np.zeros(workers + 1, np.uint64)
    arguments = (blocks.ctypes.data, 0, members.ctypes.data, 0)
    threads.run(threads.job(kernel.address, workers, 1, columns, block, 0, arguments))
    return blocks.tolist(), members.tolist()


@pytest.fixture(params=["PyTorch's team", "an executor"])
def team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Both ways to more threads: the second where PyTorch's libgomp is not to be found."""
    if request.param == "an executor":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif threads.openmp() is None:
        pytest.skip("PyTorch has another OpenMP here")
    threads._launcher.cache_clear()
    yield request.param
    monkeypatch.undo()
    threads._launcher.cache_clear()


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("claimed", ["claimed", "claimed_back"])
@pytest.mark.parametrize(("columns", "block"), [(1, 64), (64, 64), (65, 64), (640, 64), (1000, 64), (4096, 2048), (100, 1)])
def test_every_block_is_done_once_and_every_thread_takes_part(columns, block, claimed, workers, team):
    for _ in range(5):
        blocks, members = counted(claimed, workers, columns, block)
        assert blocks == [1] * (len(blocks) - 1) + [0]
        assert members == [1] * workers + [0]


def test_nothing_to_do(team):
    assert counted("claimed", 2, 0, 64) == ([0], [1, 1, 0])


def integrate(currents: torch.Tensor, workers: int) -> torch.Tensor:
    """Sums over time, by a layer that forgets nothing; a column that is left out stays NaN."""
    before = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        with torch.no_grad():
            return nn.LeakyIntegrator(1.0, backend="numba")(currents)[0]
    finally:
        torch.set_num_threads(before)


def whole(columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-8, 8, (STEPS, columns), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("columns", [1, 3277, 4096, 4097, 20011])
def test_any_number_of_threads(columns, workers, team):
    for seed in range(5):
        given = whole(columns, seed)
        assert torch.equal(integrate(given, workers), given.cumsum(0))


def test_after_a_matrix_product(team):
    """When PyTorch's own threads have just worked; in `SCRIPT` they are still awake."""
    a, given = torch.rand(300, 300), whole(20011)
    for _ in range(10):
        torch.mm(a, a)
        assert torch.equal(integrate(given, 2), given.cumsum(0))


def test_callers_at_once(team):
    layer = nn.LeakyIntegrator(1.0, backend="numba")

    def work(seed: int) -> None:
        torch.set_num_threads(2 + seed % 2)  # PyTorch has a team for each of them
        for k in range(30):
            given = whole(4096 + 64 * (seed % 3), seed * 50 + k)
            with torch.no_grad():
                assert torch.equal(layer(given)[0], given.cumsum(0))

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(work, range(8)))
    finally:
        torch.set_num_threads(before)


def test_the_library_is_the_one_that_pytorch_has_loaded():
    """A second one would have a team of its own."""
    path = threads.openmp()
    if not sys.platform.startswith("linux"):
        assert path is None
        return
    assert path is not None
    assert path.name.startswith(("libgomp", "libiomp5"))
    assert path in threads.loaded_libraries("libgomp", "libiomp5")
    threads._launcher()
    assert len({os.path.realpath(each) for each in threads.loaded_libraries(path.name)}) == 1


SCRIPT = """
    import sys
    import torch
    from spikegrad import nn
    from spikegrad.kernels.cpu import threads

    if {alone}:
        threads.openmp = lambda: None
    torch.set_num_threads(3)
    layer = nn.LeakyIntegrator(1.0, backend="numba")
    a = torch.rand(300, 300)
    with torch.no_grad():
        for _ in range(3):
            torch.mm(a, a)
            potentials, _ = layer(torch.ones(40, 8192))
            assert (potentials[-1] == 40).all()
"""


@pytest.mark.parametrize("alone", [False, True])
def test_a_process_ends_while_its_workers_are_awake(alone):
    script = SCRIPT.format(alone=alone)
    for process in ended(script, script, before={"OMP_WAIT_POLICY": "ACTIVE"}, warnings="error"):
        assert (process.code, process.err) == (0, "")
