"""Memory that is used again: only when nothing refers to it, up to a limit, the sizes used lately for longest."""

import copy
import gc
import io
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from spikegrad.kernels.cpu import memory

torch = pytest.importorskip("torch")

from spikegrad import nn  # noqa: E402
from spikegrad.kernels.cpu import passes, results  # noqa: E402

EMPTY, TAKE = results.empty, memory.take  # without the poison that the tests of kernels put in their place
FLOATS = 2**18
"""float32 numbers that are one MiB, the smallest result that is kept."""

pytestmark = pytest.mark.skipif(results._count is None, reason="this PyTorch does not say who uses a tensor's memory")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(results, "_kept", type(results._kept)())
    monkeypatch.setattr(memory, "_free", type(memory._free)())
    monkeypatch.setattr(memory, "_kept", 0)


def kept() -> dict[tuple[int, ...], int]:
    return {shape: len(tensors) for (shape, _), tensors in results._kept.items()}


def test_a_result_takes_memory_that_nothing_refers_to():
    first = EMPTY((4, FLOATS // 4), torch.float32)
    assert first.shape == (4, FLOATS // 4)
    assert first.is_contiguous()
    assert not first._is_view()
    view, where = first[1:, ::2], first.data_ptr()
    del first
    second = EMPTY((4, FLOATS // 4), torch.float32)
    assert second.data_ptr() != where, "a view still refers to it"
    del view
    third = EMPTY((4, FLOATS // 4), torch.float32)
    assert third.data_ptr() == where
    array = third.numpy()
    del third
    assert EMPTY((4, FLOATS // 4), torch.float32).data_ptr() not in (where, second.data_ptr()), "an array still refers to it"
    assert array.shape == (4, FLOATS // 4)


def test_a_storage_in_other_hands_is_not_taken():
    first = EMPTY((FLOATS,), torch.float32)
    storage, where = first.untyped_storage(), first.data_ptr()
    del first
    second = EMPTY((FLOATS,), torch.float32)
    assert second.data_ptr() != where
    del storage
    assert EMPTY((FLOATS,), torch.float32).data_ptr() == where


def test_what_autograd_saved_is_not_taken():
    layer, currents = nn.Leaky(0.9), torch.rand(16, 16, 1024, requires_grad=True)
    weight = torch.ones((), requires_grad=True)
    spikes = layer(currents)[0]
    where, total = spikes.data_ptr(), (spikes * weight).sum()  # the product needs the spikes for the gradient of the weight
    expected = spikes.sum().item()
    del spikes
    assert layer(torch.zeros(16, 16, 1024))[0].data_ptr() != where
    assert torch.autograd.grad(total, weight)[0].item() == expected


def test_small_results_are_pytorchs_own():
    assert EMPTY((FLOATS - 1,), torch.float32).shape == (FLOATS - 1,)
    assert EMPTY((0, 5), torch.float64).shape == (0, 5)
    assert not kept()


def test_past_the_limit_shapes_not_used_lately_go_first(monkeypatch):
    monkeypatch.setattr(results, "_LIMIT", 6 * 2**20)
    several = [EMPTY((FLOATS,), torch.float32) for _ in range(3)]
    assert kept() == {(FLOATS,): 3}
    large = EMPTY((2, FLOATS), torch.float32)
    assert kept() == {(FLOATS,): 3, (2, FLOATS): 1}
    more = EMPTY((2, FLOATS), torch.float32)
    assert kept() == {(FLOATS,): 2, (2, FLOATS): 2}
    huge = EMPTY((7, FLOATS), torch.float32)
    assert kept() == {}, "more than is ever kept"
    for tensor in (*several, large, more, huge):
        tensor.fill_(1)  # who has it keeps it


def test_a_result_that_moved_is_left_alone():
    shared = EMPTY((FLOATS,), torch.float32).share_memory_()
    del shared
    fresh = EMPTY((FLOATS,), torch.float32)
    assert not fresh.is_shared()


def test_results_of_inference_mode_serve_training():
    with torch.inference_mode():
        EMPTY((FLOATS,), torch.float32)
    again = EMPTY((FLOATS,), torch.float32)
    assert kept() == {(FLOATS,): 1}
    assert not again.is_inference()


LARGE = (16, 64, 2048)
"""Of a layer whose results are 8 MiB each."""


def resized(made):
    made.resize_(2 * made.numel() + 2**20)
    return made[: np.prod(LARGE)].view(LARGE)


def reset(made):
    other = torch.empty(0)
    other.set_(made.untyped_storage(), made.storage_offset(), made.shape, made.stride())
    made.set_()
    assert made.numel() == 0
    return other


def saved(made):
    file = io.BytesIO()
    torch.save(made, file)
    assert file.tell() <= made.nbytes + 4 * 2**20 + 2**13  # the pages on which a result lies are written whole
    file.seek(0)
    return torch.load(file)


def from_storage(made):
    storage, offset = made.untyped_storage(), made.storage_offset()
    assert storage.data_ptr() + 4 * offset == made.data_ptr()
    assert storage.nbytes() >= 4 * offset + made.nbytes
    assert storage.resizable()
    del made
    return torch.empty(0).set_(storage, offset, LARGE)


@pytest.mark.parametrize(
    "use", [resized, reset, lambda made: made.share_memory_(), saved, copy.deepcopy, from_storage],
    ids=["resize_", "set_", "share_memory_", "save", "deepcopy", "untyped_storage"],
)  # fmt: skip
@pytest.mark.parametrize("which", ["spikes", "gradient"])
def test_a_large_result_is_a_tensor_like_any_other(which, use):
    """Large results lie in memory that is used again; from_numpy's, of which it once was made, cannot be resized."""
    layer = nn.Leaky(0.9)

    def result(currents, fused=layer):
        currents.requires_grad_(which == "gradient")
        spikes = fused(currents)[0]
        if which == "spikes":
            return spikes
        spikes.backward(torch.ones(()).expand(LARGE))
        return currents.grad

    currents = torch.rand(LARGE, generator=torch.Generator().manual_seed(0))
    expected = result(currents.clone(), nn.Leaky(0.9, backend="reference"))
    found = use(result(currents.clone()))
    for _ in range(3):  # of which each takes what memory there is
        result(torch.zeros(LARGE))
    torch.testing.assert_close(found, expected)


def test_kept_memory_can_be_given_back():
    held = EMPTY((FLOATS,), torch.float32).fill_(7)
    EMPTY((2, FLOATS), torch.float32)
    memory.give(TAKE(2**20))
    assert kept()
    assert memory._kept
    nn.free_memory()
    assert (kept(), memory._free, memory._kept) == ({}, {}, 0)
    EMPTY((FLOATS,), torch.float32).fill_(0)
    assert held.eq(7).all(), "what is in use stays with who has it"


def test_what_the_environment_lets_layers_keep(monkeypatch):
    assert results._LIMIT == memory.limit() == 4 * memory._LIMIT
    for given, wanted in (("0", 0), ("12", 12 * 2**20)):
        monkeypatch.setenv("SPIKEGRAD_KEEP", given)
        assert memory.limit() == wanted
    for given in ("", "-1", "1.5", "much"):
        monkeypatch.setenv("SPIKEGRAD_KEEP", given)
        with pytest.raises(ValueError, match=f"SPIKEGRAD_KEEP must be a whole number of MiB.*got '{given}'"):
            memory.limit()
    program = (
        "import torch; from spikegrad import nn; nn.Leaky(.9)(torch.rand(16, 16, 1024));"
        "from spikegrad.kernels.cpu import memory, results; print(len(results._kept), memory._kept)"
    )
    environment = os.environ | {"SPIKEGRAD_KEEP": "0"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "0"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_result_read_in_another_process_is_not_overwritten():
    layer = nn.Leaky(0.9)
    expected = layer(torch.ones(16, 16, 1024))[0].clone()
    queue = torch.multiprocessing.get_context("fork").Queue()
    sent = layer(torch.ones(16, 16, 1024))[0]
    queue.put(sent)
    received = queue.get(timeout=60)
    del sent
    gc.collect()
    layer(torch.zeros(16, 16, 1024))
    layer(torch.zeros(16, 16, 1024))
    assert torch.equal(received, expected)


def test_scratch_is_taken_again_by_size():
    block = TAKE(3 * 2**20)
    where = block.data_ptr()
    assert where == block.bytes.ctypes.data
    memory.give(block)
    del block
    assert TAKE(2**20).data_ptr() != where
    assert TAKE(3 * 2**20).data_ptr() == where


def test_past_the_limit_scratch_not_used_lately_goes_first(monkeypatch):
    monkeypatch.setattr(memory, "_LIMIT", 6 * 2**20)
    for size, count in ((2**20, 3), (2**21, 2)):
        for block in [TAKE(size) for _ in range(count)]:
            memory.give(block)
    assert {size: len(spare) for size, spare in memory._free.items()} == {2**20: 2, 2**21: 2}
    memory.give(TAKE(7 * 2**20))
    assert memory._kept == 0


@pytest.mark.skipif(memory._madvise is None, reason="the system has no huge pages to ask for")
def test_large_memory_begins_on_a_huge_page():
    for size in (memory._LARGE, memory._HUGE, 3 * memory._HUGE + 1):
        made = memory.allocate(size)
        assert made.nbytes == size
        assert made.ctypes.data % memory._HUGE == 0
        made.view(np.uint8).fill(1)
    assert memory.allocate(5).nbytes == 5


def test_free_memory_goes_back_now_and_then(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(memory, "_trim", calls.append)
    monkeypatch.setattr(memory, "_came_and_went", 0)
    for size in (2**25, 2**26, 2**24, 2**24, 2**24):
        memory.used(size)
    assert calls == [0]
    assert memory._came_and_went == 2**24
    monkeypatch.setattr(memory, "_trim", None)
    memory.used(2**25)
    assert memory._came_and_went == 2**24


def test_a_block_has_a_page_of_each_row_of_a_sequence():
    def columns(scratch: int, narrowest: int, threads: int = 1) -> int:
        return passes._shares(passes.Sizes(500, 2**16, threads), scratch, narrowest)[1]

    assert columns(4 * 100, 1024) == passes.WIDEST
    assert columns(4 * 2000, 1024) == 1024  # 8 MB of scratch
    assert columns(4 * 2000, 2048) == 2048  # half types, whose page has twice as many
    assert columns(4 * 2**16, 1024) == 256  # as much as `ROOM` allows
    assert columns(4 * 2**22, 1024) == 64
    assert columns(4 * 2000, 1024, threads=64) == 256  # everybody has some
