"""Memory that is used again: only when nothing refers to it, up to a limit, the sizes used lately for longest."""

import gc
import multiprocessing

import numpy as np
import pytest

from spikegrad.kernels.cpu import memory

torch = pytest.importorskip("torch")

from spikegrad import nn  # noqa: E402
from spikegrad.kernels.cpu import results  # noqa: E402

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
