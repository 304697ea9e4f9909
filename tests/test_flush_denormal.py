"""Numbers below the smallest normal one: kernels keep or flush them as the plain loop does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from spikegrad import nn  # noqa: E402


def subnormal(x: Any) -> int:
    """How many are subnormal, by their bits: a comparison may flush them."""
    bits = np.asarray(x.detach().contiguous()).view(np.int32) & 0x7FFFFFFF
    return int(((bits != 0) & (bits < 0x800000)).sum())


def passes(backend: str, features: int) -> list[Any]:
    """Spikes, the state and the gradient where both have decayed below all normal numbers; and a tiny gradient that arrives."""
    currents = torch.zeros(130, 1, features)
    currents[0] = torch.linspace(0.5, 0.9, features)
    currents.requires_grad_()
    spikes, state = nn.Leaky(0.5, backend=backend)(currents)
    (gradient,) = torch.autograd.grad(state.sum(), currents)
    (small,) = torch.autograd.grad(nn.Leaky(0.5, backend=backend)(currents)[0][-1].sum() * 1e-38, currents)
    return [spikes.detach(), state.detach(), gradient, small]


@pytest.fixture(params=[False, True])
def flush(request: pytest.FixtureRequest) -> Iterator[bool]:
    if not torch.set_flush_denormal(request.param):
        pytest.skip("this processor cannot flush")
    yield request.param
    torch.set_flush_denormal(False)


def test_kernels_and_plain_loop_flush_alike(flush):
    fused, plain = passes("numba", 9), passes("reference", 9)
    for a, b in zip(fused, plain, strict=True):
        assert a.view(torch.int32).equal(b.view(torch.int32))
    assert [subnormal(x) > 0 for x in fused] == [False, not flush, not flush, not flush]


PROGRAM = """
import torch
torch.set_num_threads(2)
torch.set_flush_denormal(True)  # before there are workers: the flag is each thread's own, and they take over what its maker has
from tests.test_flush_denormal import passes, subnormal
fused, plain = passes("numba", 2**14), passes("reference", 2**14)
assert all(a.equal(b) for a, b in zip(fused, plain)), "they differ"
assert not any(map(subnormal, fused)), [*map(subnormal, fused)]
assert not subnormal(torch.full((2**20,), 1e-38) * 0.1)
"""


def test_on_several_threads():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_jax_flushes_on_every_backend():
    """XLA does so on the processor, always."""
    jnp = pytest.importorskip("jax.numpy")
    import spikegrad.jax as sj

    currents = jnp.zeros((130, 1, 9)).at[0].set(0.9)
    for backend in ("numba", "reference"):
        _, state = sj.leaky(currents, 0.5, backend=backend)
        assert not np.asarray(state).view(np.int32).any()
