"""Where machine code comes from: a cache on disk that many processes share, may not write to, or find empty; threads and forks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from spikegrad import FastSigmoid
from spikegrad.kernels import numba as kernels
from spikegrad.kernels.call import Call
from spikegrad.kernels.compiler import compiled
from spikegrad.kernels.reference import Options

CALL = """
    import numpy as np
    from spikegrad.kernels import numba as kernels
    from spikegrad.kernels.call import INTEGRATOR

    currents, potentials, last = [np.ones(shape, np.float32) for shape in ((3, 4), (3, 4), 4)]
    layer = kernels.layer(INTEGRATOR, kernels.Sizes("float32", 3, 4, numbers=(0.5,)))
    kernels.forward(layer, currents, (), (), None, (last,), potentials)
    assert (potentials == np.array([[1.0], [1.5], [1.75]])).all(), potentials
"""


def launch(script: str, cache: Path | str) -> subprocess.Popen[str]:
    environment = os.environ | {"SPIKEGRAD_CACHE": str(cache), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_two_processes_at_once_and_a_third_that_does_not_compile(tmp_path):
    for process in [launch(CALL, tmp_path) for _ in range(2)]:
        finish(process)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")}
    assert len(list(tmp_path.rglob("*.py"))) == 2  # the kernel, and what shares it out
    assert before
    assert not list(tmp_path.rglob("*.tmp"))
    finish(launch(CALL, tmp_path))
    # A kernel compiled again would be written again. (Times would not tell: on a busy machine any process can be slow.)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")} == before


@pytest.mark.parametrize("place", ["/proc/spikegrad", "file/below", "folder"])
def test_unwritable_cache(place, tmp_path):
    """Below a file no one can write, nor in /proc; root can in a folder of mode r-x, which others cannot."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir(mode=0o555)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    finish(launch(f"import tempfile\ntempfile.tempdir = {str(temporary)!r}\n{textwrap.dedent(CALL)}", tmp_path / place))
    assert not any(temporary.iterdir()), "what a process compiles for itself is removed when it ends"


def test_damaged_source_is_not_trusted(tmp_path):
    """A machine that went down left a file empty."""
    finish(launch(CALL, tmp_path))
    (source,) = tmp_path.rglob("integrator*.py")
    source.write_text("")
    finish(launch(CALL, tmp_path))


def test_a_sweep_compiles_once():
    """Slopes are numbers given to the machine code."""
    gradients, misses = [], []
    for slope in np.linspace(1, 20, 20):
        call, sizes = Call("leaky", FastSigmoid(slope=float(slope)), Options()), kernels.Sizes("float32", 3, 4, numbers=(0.5, 1.0))
        currents, gradient = np.full((3, 4), 0.9, np.float32), np.empty((3, 4), np.float32)
        incoming = kernels.Incoming(np.ones((3, 4), np.float32))
        kernels.backward(kernels.layer(call, sizes), currents, (), (), None, None, incoming, kernels.Gradients(gradient))
        gradients.append(gradient[-1, 0])
        misses.append(compiled.cache_info().misses)
    assert len(set(gradients)) == 20
    assert misses[0] == misses[-1]


# PyTorch's own thread pool does not survive a fork, so NumPy makes and sums what is large.
FORK = """
    import multiprocessing, threading, warnings
    import numpy as np
    import torch
    from spikegrad import nn

    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    torch.set_num_threads(2)
    layer = nn.Leaky(0.9, backend="numba")
    values = np.random.default_rng(0).random((30, 2, 4096), np.float32)

    def work(_=None):
        torch.set_num_threads(2)
        currents = torch.from_numpy(values).requires_grad_()
        return torch.autograd.grad(layer(currents)[0], currents, torch.from_numpy(values))[0].numpy().sum().item()

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return work()

    expected = work()
    assert any(thread.name.startswith("spikegrad") for thread in threading.enumerate())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map_async(work, range(2)).get(60) == [expected] * 2
    loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="fork", timeout=60)
    assert [batch.item() for batch in loader] == [expected] * 2
    assert work() == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_runs_a_layer(tmp_path):
    pytest.importorskip("torch")
    finish(launch(FORK, tmp_path))


def test_a_call_is_read_in_another_process(tmp_path):
    """A compiled graph on disk holds a layer as text."""
    call = Call("leaky", FastSigmoid(slope=3.0), Options(reset="zero"), record=True)
    script = f"from spikegrad.kernels.call import read\nprint(read({call.text!r}))"
    assert finish(launch(script, tmp_path)).strip() == repr(call)
