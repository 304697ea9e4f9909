"""What a compatible package does not have itself is the peer's own, however it is imported; and who has no peer is told so."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

from spikegrad.compat import sinabs
from spikegrad.compat import snntorch as snn

peer = pytest.importorskip("snntorch")
sinabs_peer = pytest.importorskip("sinabs")

OURS = ("Leaky", "Synaptic", "RLeaky", "RSynaptic", "Alpha", "Lapicque", "LIF", "SpikingNeuron", "fuse", "surrogate", "utils")
THEIRS = (
    "SLSTM",
    "SConv2dLSTM",
    "DeltaLeaky",
    "StateLeaky",
    "LinearLeaky",
    "LeakyParallel",
    "BatchNormTT1d",
    "BatchNormTT2d",
    "GradedSpikes",
)
MODULES = ("functional", "functional.probe", "functional.loss", "spikegen", "import_nir", "export_nir")


@pytest.mark.parametrize("name", [*THEIRS, "__version__"])
def test_what_is_not_ours_is_theirs(name):
    assert getattr(snn, name) is getattr(peer, name)


@pytest.mark.parametrize("name", MODULES)
def test_submodules_are_theirs_and_loaded_once(name):
    theirs = importlib.import_module(f"snntorch.{name}")
    assert importlib.import_module(f"spikegrad.compat.snntorch.{name}") is theirs
    assert theirs.__spec__.name == f"snntorch.{name}"  # of which nothing is changed
    first = name.partition(".")[0]
    namespace = {}
    exec(f"from spikegrad.compat.snntorch import {first}\nimport spikegrad.compat.snntorch.{name} as M", namespace)
    assert namespace[first] is getattr(peer, first)
    assert namespace["M"] is theirs


def test_utils_has_both():
    from spikegrad.compat.snntorch.utils import data_subset, reset, valid_split

    assert data_subset is peer.utils.data_subset
    assert valid_split is peer.utils.valid_split
    assert reset is snn.utils.reset is not peer.utils.reset

    class Numbers:
        data = torch.arange(12.0)
        targets = torch.arange(12)

        def __len__(self):
            return len(self.data)

    assert snn.utils.data_subset(Numbers(), 3, idx=1).data.tolist() == [4.0, 5.0, 6.0, 7.0]


def test_star_import():
    mine, theirs = {}, {}
    exec("from spikegrad.compat.snntorch import *", mine)
    exec("from snntorch import *", theirs)
    assert {name for name in theirs if name[0] != "_"} <= {*mine}
    assert all(mine[name] is getattr(snn, name) for name in OURS)
    assert mine["SLSTM"] is peer.SLSTM
    assert {"formulas", "state", "fusion", "Any", "annotations", "Peer"}.isdisjoint(mine)
    assert {*OURS, *THEIRS} <= {*dir(snn)}
    utils = {}
    exec("from spikegrad.compat.snntorch.utils import *", utils)
    assert utils["reset"] is snn.utils.reset
    assert utils["data_subset"] is peer.utils.data_subset


def test_ours_stay_ours():
    for name in OURS[:8]:
        assert getattr(snn, name).__module__.startswith("spikegrad.compat.snntorch")
        assert getattr(snn, name) is not getattr(peer, name, None)
    with pytest.raises(ModuleNotFoundError):  # private modules have neurons that ours take the place of
        importlib.import_module("spikegrad.compat.snntorch._neurons.leaky")
    assert importlib.import_module("spikegrad.compat.snntorch.utils").__file__.endswith("utils.py")


def test_neither_has_it():
    with pytest.raises(AttributeError, match=r"neither spikegrad.compat.snntorch.utils nor snntorch.utils of snnTorch \S+ has 'subset'"):
        snn.utils.subset  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Leeky'"):
        exec("from spikegrad.compat.snntorch import Leeky")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'spikegrad.compat.snntorch.spikegin'"):
        importlib.import_module("spikegrad.compat.snntorch.spikegin")
    assert not hasattr(snn, "__wrapped__")
    assert not hasattr(snn, "_neurons")


@pytest.fixture
def without_snntorch(monkeypatch):
    """A process in which snnTorch cannot be imported."""
    for name in [name for name in sys.modules if name.startswith("snntorch.") or name.startswith("spikegrad.compat.snntorch.functional")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(snn, "functional", raising=False)
    monkeypatch.setitem(sys.modules, "snntorch", None)


@pytest.mark.parametrize(
    "statement",
    [
        "from spikegrad.compat.snntorch import SLSTM",
        "from spikegrad.compat.snntorch import functional",
        "import spikegrad.compat.snntorch.functional as SF",
        "from spikegrad.compat.snntorch.functional import loss",
        "from spikegrad.compat.snntorch.utils import data_subset",
    ],
)
@pytest.mark.usefixtures("without_snntorch")
def test_not_installed(statement):
    words = r"spikegrad.compat.snntorch\S* has no '\S+' of its own and takes it from snnTorch, which is not installed; pip install snntorch"
    with pytest.raises(ModuleNotFoundError, match=words) as raised:
        exec(statement)
    assert raised.value.name == "snntorch"
    name = statement.split()[-1]
    module = snn.utils if "utils" in statement else snn
    if name in ("SLSTM", "data_subset"):
        with pytest.raises(AttributeError, match=words):
            getattr(module, name)
        assert not hasattr(module, name)


@pytest.mark.usefixtures("without_snntorch")
def test_what_is_ours_needs_no_peer():
    from spikegrad.compat.snntorch import Leaky, surrogate, utils

    layer = Leaky(0.9, spike_grad=surrogate.atan(), init_hidden=True)
    layer(torch.ones(1, 2))
    utils.reset(torch.nn.Sequential(layer))
    assert layer.__class__ is Leaky
    assert {*OURS} <= {*snn.__all__}
    assert "SLSTM" not in dir(snn)


def test_a_peer_that_lacks_something_says_what(monkeypatch):
    monkeypatch.delitem(sys.modules, "snntorch.export_nir", raising=False)
    monkeypatch.delitem(sys.modules, "spikegrad.compat.snntorch.export_nir", raising=False)
    monkeypatch.delattr(snn, "export_nir", raising=False)
    monkeypatch.delattr(peer, "export_nir", raising=False)
    monkeypatch.setitem(sys.modules, "nirtorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"snntorch.export_nir needs nirtorch, which is not installed"):
        exec("from spikegrad.compat.snntorch.export_nir import export_to_nir")
    with pytest.raises(ModuleNotFoundError, match=r"snntorch.export_nir needs nirtorch, which is not installed"):
        snn.export_nir  # noqa: B018


def test_sinabs():
    from spikegrad.compat.sinabs import activation, layers

    assert layers is sinabs_peer.layers
    assert sinabs.from_model is sinabs_peer.from_model
    assert activation.__name__ == "spikegrad.compat.sinabs.activation"


def test_braintools():
    """In a process of its own, since brainstate changes JAX's configuration where it is imported."""
    pytest.importorskip("braintools")
    code = (
        "import sys, jax\n"
        "from spikegrad.compat import braintools\n"
        "from spikegrad.compat.braintools import surrogate\n"
        "assert 'braintools' not in sys.modules and 'brainstate' not in sys.modules\n"
        "from spikegrad.compat.braintools import metric\n"
        "import spikegrad.compat.braintools.metric as again, braintools as peer\n"
        "assert metric is again is peer.metric is braintools.metric\n"
        "assert braintools.PoissonEncoder is peer.PoissonEncoder and braintools.__version__ == peer.__version__\n"
        "assert surrogate is braintools.surrogate is not peer.surrogate\n"
        "assert 'surrogate' in braintools.__all__ and 'metric' in dir(braintools)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
