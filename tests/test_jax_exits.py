"""A process may end while JAX still runs our kernels: nothing hangs, nothing aborts."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.forked import NUMBA, ended
from tests.test_docs import ROOT, blocks

pytest.importorskip("jax")
pytest.importorskip("numba")

PROGRAM = """
import time
import jax, jax.numpy as jnp
from spikegrad import jax as sj

weights = jnp.ones((1024, 1024)) / 1024


def layer(x):
    if kind.startswith("all to all"):
        return sj.recurrent_leaky(x[..., :64], weights[:64, :64], 0.9, backend="numba")[0]
    return sj.leaky(x, 0.9, backend="numba")[0]


def loss(x, a):
    return layer(x + 0 * (a @ a)[0, 0]).sum()  # with a product in it, or the call would not return before all is done


function = jax.jit(loss if kind.endswith("forward") else jax.grad(loss))
x = jnp.ones((100, 16, 1024))
jax.block_until_ready(function(x, weights))
start = time.perf_counter()
jax.block_until_ready(function(x, weights))
count = min(12, 2 + int(0.3 / (time.perf_counter() - start)))  # which take longer than the end of Python, and hardly more
results = [function(x, weights) for _ in range(count)]
time.sleep(wait)
print(sum(not result.is_ready() for result in results), flush=True)
if ending == "error":
    raise SystemExit("as it should")
"""
KINDS = ("forward", "all to all forward", "gradient", "all to all gradient")


def exits(wanted: int) -> None:
    """Let processes end until so many did with calls under way: in the midst of other work each time, and every fifth by an error."""
    counted, done = Counter[str](), 0
    while counted.total() < wanted and done < 2 * wanted:
        two = [(KINDS[k % len(KINDS)], k % 7 * 0.004, "error" if k % 5 == 4 else "end") for k in (done, done + 1)]
        programs = (f"kind, wait, ending = {each!r}\n{PROGRAM}" for each in two)
        for (kind, _, ending), process in zip(two, ended(*programs, libraries=NUMBA, limit=240), strict=True):
            under_way = int(process.out or -1)
            right = (1, "as it should\n") if ending == "error" else (0, "")
            assert (process.code, process.err) == right, f"{kind}: {under_way} calls under way, code {process.code}\n{process.err}"
            counted[kind] += under_way > 0
        done += 2
    print(f"{counted.total()} of {done} processes ended with calls under way, and none hung or aborted: {dict(counted)}")
    assert counted.total() >= wanted, f"only {counted.total()} of {done} processes had calls under way when they ended"
    assert all(counted[kind] for kind in KINDS)


def test_ten_exits():
    exits(10)


@pytest.mark.slow
def test_two_hundred_exits():
    """`tests/evidence/jax_exits.txt` is what it has said."""
    exits(200)


def test_the_quickstart_ends():
    """As a script, in a process of its own, which ends while the last step may be under way."""
    (code,) = [block for _, block in blocks(ROOT / "README.md") if "from spikegrad.jax import" in block]
    (process,) = ended(code, libraries=NUMBA, limit=240)
    assert process == (0, "", "")
