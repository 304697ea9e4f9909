"""Two processes, each with half of a batch, train what one process trains on all of it: by DDP, by FSDP2, and by the command line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.forked import ALL, ended

from spikegrad.training import Config, train

PROGRAM = """
import torch
from torch import distributed
from spikegrad import nn

torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def network():
    torch.manual_seed(0)
    beta = torch.full((16,), 0.9)
    return nn.Sequential(torch.nn.Linear(12, 16), nn.Leaky(beta, learn="beta"), torch.nn.Linear(16, 4), nn.LeakyIntegrator(0.9))


generator = torch.Generator().manual_seed(1)
x, y = 3 * torch.rand(20, 8, 12, generator=generator), torch.randint(4, (8,), generator=generator)


def trained(net, *parts):
    optimiser = torch.optim.SGD(net.parameters(), 0.03, momentum=0.5)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        for part in parts:
            made, _ = net(x[:, part])
            loss = torch.nn.functional.cross_entropy(made.mean(0), y[part]) / len(parts)
            loss.backward()
        losses.append(loss.item())
        optimiser.step()
    return losses


halves = slice(0, 4), slice(4, 8)
whole, accumulated = network(), network()
losses = trained(whole, slice(0, 8))
assert losses[-1] < 0.8 * losses[0], losses
trained(accumulated, *halves)

one = network()
trained(torch.nn.parallel.DistributedDataParallel(one), halves[rank])
for name, p in one.named_parameters():
    assert torch.equal(p, accumulated.get_parameter(name)), name  # a sum of two does not depend on its order
    torch.testing.assert_close(p, whole.get_parameter(name), rtol=1e-4, atol=1e-6)
print("DDP", rank, flush=True)

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

mesh, sharded = init_device_mesh("cpu", (2,)), network()
for module in sharded:
    if next(module.parameters(), None) is not None:
        fully_shard(module, mesh=mesh)
fully_shard(sharded, mesh=mesh)
trained(sharded, halves[rank])
for name, p in sharded.named_parameters():
    assert p.to_local().numel() * 2 == p.numel(), name
    torch.testing.assert_close(p.full_tensor(), whole.get_parameter(name), rtol=1e-4, atol=1e-6)
print("FSDP2", rank, flush=True)
distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch cannot distribute")
def test_two_processes_train_as_one(tmp_path):
    programs = [f"rank, store = {rank}, {str(tmp_path / 'store')!r}\n{PROGRAM}" for rank in range(2)]
    for rank, process in enumerate(ended(*programs, libraries=ALL, limit=240)):
        assert (process.code, process.out) == (0, f"DDP {rank}\nFSDP2 {rank}\n"), process.err[-3000:]


LAUNCHERS = {"Lightning": ["-m"], "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_line_in_two_processes(launcher, tmp_path):
    """Each step is of the same samples; statistics over a batch and masks of a dropout, which each process has of its own, are left out."""
    from safetensors.torch import load_file

    y = np.arange(160) % 2
    x = np.random.default_rng(0).random((160, 10, 6)) < 0.2 + 0.3 * y[:, None, None]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    settings = ["--data", str(tmp_path / "data.npz"), "--hidden", "8", "--epochs", "4", "--no-norm", "--dropout", "0"]
    machine = ["--batch-size", "24", "--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    command = [sys.executable, *LAUNCHERS[launcher], "spikegrad", "train", *settings, *machine, "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    config = Config(data=str(tmp_path / "data.npz"), hidden=(8,), epochs=4, norm=False, dropout=0.0, batch=48)
    one, two = train(config, tmp_path / "one").run, Path(tmp_path / "two")
    assert {path.name for path in one.path.iterdir()} == {path.name for path in two.iterdir()}
    weights = [load_file(next(path.glob("*.safetensors"))) for path in (one.path, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, rtol=1e-4, atol=1e-6)
    losses = [np.genfromtxt(path / "metrics.csv", delimiter=",", names=True)["train_loss"] for path in (one.path, two)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
