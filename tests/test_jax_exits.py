"""A process may end while JAX still runs our kernels: nothing hangs, nothing aborts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from tests.test_docs import ROOT, blocks

pytest.importorskip("jax")
pytest.importorskip("numba")

PROGRAM = """
import sys, time
import jax, jax.numpy as jnp
from spikegrad import jax as sj

kind, wait, ending = sys.argv[1], float(sys.argv[2]), sys.argv[3]
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
results = [function(x, weights) for _ in range(12)]
time.sleep(wait)
print(sum(not result.is_ready() for result in results), flush=True)
if ending == "error":
    raise SystemExit("as it should")
"""
KINDS = ("forward", "gradient", "all to all forward", "all to all gradient")


class Exit(NamedTuple):
    """How a process ended: what it ran, how many calls were under way, and its code, or None if it did not end."""

    kind: str
    under_way: int
    code: int | None
    errors: str


def ended(k: int) -> Exit:
    """The `k`-th way to end: in the midst of other work each time, and every fifth by an error."""
    kind, ending = KINDS[k % len(KINDS)], "error" if k % 5 == 4 else "end"
    command = [sys.executable, "-c", PROGRAM, kind, str(k % 7 * 0.004), ending]
    try:
        process = subprocess.run(command, text=True, capture_output=True, timeout=240, check=False)
    except subprocess.TimeoutExpired as timeout:
        return Exit(kind, -1, None, str(timeout))
    under_way = int(process.stdout.split()[0]) if process.stdout.split() else -1
    right = process.returncode == (1 if ending == "error" else 0) and process.stderr.strip() == (
        "as it should" if ending == "error" else ""
    )
    return Exit(kind, under_way, 0 if right else process.returncode or 1, "" if right else process.stderr)


def exits(wanted: int) -> None:
    """Let processes end until so many did with calls under way."""
    counted, done = Counter[str](), 0
    with ThreadPoolExecutor(2) as pool:
        while counted.total() < wanted and done < 2 * wanted:
            count = min(wanted - counted.total(), 20)
            for found in pool.map(ended, range(done, done + count)):
                assert found.code == 0, f"{found.kind}: {found.under_way} calls under way, code {found.code}\n{found.errors}"
                counted[found.kind] += found.under_way > 0
            done += count
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
    process = subprocess.run([sys.executable, "-c", code], env=os.environ, text=True, capture_output=True, timeout=240, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
