"""The networks of braintools' documentation, on our surrogates: they learn digits in one epoch, and compute what they do on theirs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conftest import FAST

_x64 = jax.config.jax_enable_x64
theirs = pytest.importorskip("braintools.surrogate")
brainstate = pytest.importorskip("brainstate")
jax.config.update("jax_enable_x64", _x64)  # which brainstate switches off

from spikegrad.compat.braintools import surrogate as ours  # noqa: E402

ROOT = Path(__file__).parents[1]
PATH, GUIDE = ROOT / "examples" / "braintools_networks.py", ROOT / "docs" / "migrating.md"


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("braintools_networks", PATH)
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    with jax.enable_x64(False):
        specification.loader.exec_module(module)
        yield module
    del sys.modules[specification.name]


@pytest.mark.slow
def test_three_networks_learn_digits_and_the_comparison_is_drawn(example, tmp_path, capsys):
    picture = tmp_path / "surrogates.png"
    results = example.main(["--out", str(picture), "--steps", "12"])
    assert set(results) == {"LIF layer", "AdEx neurons", "multi-layer network"}
    for name, (losses, accuracy) in results.items():
        assert len(losses) == 1259 // 16
        assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10]), name
        assert accuracy > 0.7, f"{name} is right on {accuracy:.0%} of the test digits"  # chance is 10 %
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    out = capsys.readouterr().out
    assert out.count("test accuracy") == 3
    assert str(picture) in out


@pytest.mark.parametrize("name", ["LIF layer", "AdEx neurons", pytest.param("multi-layer network", marks=pytest.mark.slow)])
def test_same_losses_and_gradients_as_with_braintools(example, name, monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).random((8, 64)))

    def run(module):
        monkeypatch.setattr(example, "surrogate", module)
        brainstate.random.seed(3)
        network = example.networks()[name]()
        assert type(network.neurons[0].spk_fun).__module__.startswith(module.__name__.partition(".surrogate")[0])
        weights = network.states(brainstate.ParamState)

        @brainstate.transform.jit(compiler_options=FAST)
        def compute():
            return brainstate.transform.grad(lambda: (network(x, 8) ** 2).sum(), weights, return_value=True)(), network.step(x)

        return jax.tree.leaves(compute())

    with jax.enable_x64(True):
        mine, peer = run(ours), run(theirs)
    assert all(np.abs(leaf).max() > 0 for leaf in mine[:-1])
    for got, wanted in zip(mine, peer, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_code_of_the_migration_guide_runs(capsys):
    """And prints what the comments beside it say."""
    section = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    (text,) = [part for part in section if part.startswith("braintools\n")]
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 4
    with jax.enable_x64(False):
        for block in blocks:
            exec(block, {})
            printed = capsys.readouterr().out.splitlines()
            for told, line in zip(re.findall(r"^print.*  # (.*)$", block, re.M), printed, strict=False):
                assert told == line
    assert re.search(r"GaussianGrad\(sigma=0.5, alpha=0.5\).spikegrad  # (.*)", text).group(1) == repr(ours.GaussianGrad().spikegrad)


def test_adex_neurons_fire_and_tire(example):
    """A constant current: a train of spikes whose intervals grow, more spikes for more current, and a gradient that says so."""
    neurons = example.AdEx(3, example.surrogate.GaussianGrad(sigma=0.5))

    def spikes(current):
        neurons.rest(1)
        return brainstate.transform.for_loop(lambda _: neurons.update(current[None]), jnp.arange(400))[:, 0]

    @brainstate.transform.jit(compiler_options=FAST)
    def compute(current):
        return spikes(current), brainstate.transform.grad(lambda current: spikes(current).sum())(current)

    with jax.enable_x64(False):
        train, slope = (np.asarray(part) for part in compute(jnp.asarray([0.3, 0.8, 1.2])))
    silent, slow, fast = train.sum(0)
    assert silent == 0 < slow < fast
    intervals = np.diff(np.flatnonzero(train[:, 2]))
    assert intervals[-1] > intervals[0]
    assert np.isfinite(slope).all()
    assert (slope[1:] > 0).all()
