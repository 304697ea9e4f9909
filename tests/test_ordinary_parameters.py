"""Learned numbers are parameters like any other, for everything in PyTorch that does something to parameters."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch.nn.utils import parametrizations, prune  # noqa: E402

from spikegrad import ATan, nn  # noqa: E402
from spikegrad.neurons import Adaptive, Leaky  # noqa: E402

with torch.device("meta"):
    torch.empty(0)  # with this PyTorch notes what makes tensors; later `poison` would be in the place of some of it


def one(value: float) -> Any:
    return torch.tensor([value])


def network(backend: str = "auto") -> Any:
    """Every kind of learned number, each a tensor of one element, and weights of each kind."""
    torch.manual_seed(0)
    values = {"beta": one(0.9), "threshold": one(1.0), "spike.slope": one(2.0)}
    net = nn.Sequential(
        torch.nn.Linear(4, 6),
        nn.Layer(Leaky(0.9), learn=("beta", "threshold", "spike.slope"), values=values, backend=backend),
        nn.RecurrentLeaky(6, one(0.8), learn="beta", backend=backend),
        nn.SpikingLinear(6, 5, nn.Leaky(one(0.9), learn_beta=True, backend=backend)),
        nn.LeakyIntegrator(0.9, backend=backend),
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("weight"):
                p.copy_(torch.rand(p.shape) - 0.3)  # enough for every layer to spike
    return net


@pytest.fixture
def x() -> Any:
    return 3 * torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))


def trained(net: Any, x: Any) -> dict[str, Any]:
    net(x)[0].square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters()}


# Checkpoints, and what is printed.


def test_a_number_is_loaded():
    layer = nn.Leaky(0.5)
    assert str(layer.load_state_dict(nn.Leaky(0.9).state_dict())) == "<All keys matched successfully>"
    assert layer.beta == 0.9
    currents = torch.rand(6, 2, 3)
    assert torch.equal(layer(currents)[0], nn.Leaky(0.9)(currents)[0])
    assert str(layer.load_state_dict({})) == "<All keys matched successfully>"  # as older versions wrote it
    assert layer.beta == 0.9


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: nn.Leaky(0.9, learn_beta=True), "beta=0.9, threshold=1, learn=('beta',)"),
        (lambda: nn.LeakyIntegrator(0.9), "LeakyIntegrator(\n  beta=0.9\n"),
        (lambda: nn.LeakyIntegrator(0.9, learn_beta=True), "beta=0.9, learn=('beta',)"),
        (lambda: nn.Leaky(torch.full((3,), 0.9), learn_beta=True), "beta=(3,)"),
        (lambda: nn.Layer(Adaptive(0.9), learn="rho"), "Adaptive, beta=0.9, rho=0.95"),
    ],
)
def test_printing_says_what_there_is_and_warns_of_nothing(make, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown in repr(make())


# One way to say what learns.

SPELLINGS: dict[str, Callable[[], Any]] = {
    "the long names": lambda: nn.Leaky(0.9, learn=("beta", "spike.slope")),
    "short ones": lambda: nn.Leaky(0.9, learn=("beta", "slope")),
    "switches": lambda: nn.Leaky(0.9, learn_beta=True, learn="slope"),
    "a module": lambda: nn.Leaky(0.9, spike=nn.Spike(ATan(), learn="slope"), learn="beta"),
    "a module, as a layer names it": lambda: nn.Leaky(0.9, spike=nn.Spike(ATan(), learn=("spike.slope",)), learn_beta=True),
    "any layer": lambda: nn.Layer(Leaky(0.9), learn=("slope", "beta")),
    "values": lambda: nn.Layer(Leaky(0.9), learn=("slope", "beta"), values={"slope": torch.tensor(2.0)}),
    "a connected one": lambda: nn.RecurrentLeaky(3, 0.9, learn=("beta", "spike.slope")),
    "two states": lambda: nn.Synaptic(0.8, 0.9, learn=("beta", "slope")),
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_every_spelling_learns_the_same(how):
    names = {name for name, _ in SPELLINGS[how]().named_parameters()}
    assert names - {"weight"} == {"beta_logit", "spike.slope_log"}


def test_a_number_of_the_neuron_goes_before_one_of_its_surrogate():
    from spikegrad import Neuron, State, Step

    class Slow(Neuron):
        slope: float = 0.5
        v: State = 0.0

        def step(self, current, v):
            s = self.fire(self.slope * v + current - 1)
            return Step(s, v=self.slope * v + current)

    assert [name for name, _ in nn.Layer(Slow(), learn=("slope", "scale")).named_parameters()] == ["slope_value", "spike.scale_value"]
    with pytest.raises(ValueError, match="no number 'slop'"):
        nn.Leaky(0.9, learn="slop")
    with pytest.raises(TypeError, match="no parameter 'beta'"):
        nn.Spike(ATan(), learn=("beta", "spike.slope"))


@pytest.mark.parametrize("learn", [("beta", "slope"), ("beta", "spike.slope")])
def test_a_configuration_names_them_alike(learn):
    pytest.importorskip("lightning")
    from spikegrad.training import Config
    from spikegrad.training.network import Network

    names = [name for name, _ in Network(Config(hidden=(4,), learn=learn), features=3, classes=2).named_parameters()]
    assert [name.split(".", 3)[3] for name in names if name.endswith(("_log", "_logit"))] == ["beta_logit", "spike.slope_log"]


# What PyTorch does to parameters.


def test_all_are_dense():
    """Optimisers and vectors of parameters take views of them, and sharding asks for it."""
    net = network()
    assert all(p.is_contiguous() for p in net.parameters())
    vector = torch.nn.utils.parameters_to_vector(net.parameters())
    torch.nn.utils.vector_to_parameters(vector, net.parameters())


def test_line_search(x):
    net = network()
    optimiser = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)

    def loss() -> Any:
        optimiser.zero_grad()
        value = (net(x)[0] - 1).square().mean()
        value.backward()
        return value

    before = optimiser.step(loss).item()
    assert loss().item() < before


ALTERED: dict[str, Callable[[Any], Any]] = {
    "pruned weights": lambda net: prune.l1_unstructured(net[2], "weight", 0.5),
    "pruned weights of a linear layer": lambda net: prune.l1_unstructured(net[3], "weight", 0.5),
    "a pruned number": lambda net: prune.custom_from_mask(net[1], "beta_logit", torch.tensor([0.0])),
    "a pruned slope": lambda net: prune.custom_from_mask(net[1].spike, "slope_log", torch.tensor([0.0])),
    "normed weights": lambda net: parametrizations.weight_norm(net[2], "weight"),
    "normed weights of a linear layer": lambda net: parametrizations.weight_norm(net[3], "weight"),
    "spectral": lambda net: parametrizations.spectral_norm(net[2].eval(), "weight"),
    "orthogonal": lambda net: parametrizations.orthogonal(net[2], "weight"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_altered_parameters(what, x):
    """The kernels as the plain loop; all that is learned gets a gradient, but for what is masked."""
    found = []
    for backend in ("auto", "reference"):
        net = network(backend)
        before = net(x)[0].detach()
        ALTERED[what](net)
        out = net(x)[0]
        held_otherwise = "normed" in what or "slope" in what  # what is put out is the same
        assert torch.equal(out.round(decimals=4), before.round(decimals=4)) == held_otherwise
        found.append((out.detach(), trained(net, x)))
    (out, grads), (wanted, expected) = found
    torch.testing.assert_close(out, wanted)
    assert grads.keys() == expected.keys()
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-4, atol=1e-5)
        assert g.abs().sum() > 0 or what.startswith("a pruned"), name
    if what == "a pruned number":
        assert net[1].beta.item() == 0.5


def test_normed_as_it_used_to_be(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = torch.nn.utils.weight_norm(nn.RecurrentLeaky(4, 0.9))
    assert trained(layer, x).keys() == {"weight_g", "weight_v"}


def test_a_parameter_that_is_gone():
    """It does not become a number without a word."""
    layer = nn.Leaky(0.9, learn=("beta", "spike.slope"))
    del layer.beta_logit
    with pytest.raises(AttributeError, match="Leaky has lost its parameter `beta_logit`, which says what `beta` is"):
        layer(torch.rand(3, 2, 4))
    del layer.spike.slope_log
    with pytest.raises(AttributeError, match="Spike has lost its parameter `slope_log`"):
        layer.spike(torch.rand(3))


def test_memory_that_comes_later(x):
    """Numbers that no checkpoint holds are not left without memory; compiled, they travel as tensors."""
    with torch.device("meta"):
        net = network()
    assert net[1].spike.numbers.device.type == "cpu"
    net.to_empty(device="cpu").load_state_dict(network().state_dict())
    assert torch.equal(net(x)[0], network()(x)[0])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_replicas(backend, x, monkeypatch):
    """Whole networks as `DataParallel` replicates them, with weights and neurons that are recomputed."""
    net = network(backend)
    wanted, expected = net(x)[0].detach(), trained(net, x)
    net.zero_grad()
    module = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(module, "_get_device_index", lambda device, _: device)
    monkeypatch.setattr(
        module, "_broadcast_coalesced_reshape", lambda tensors, devices, detach: [[t * 1 for t in tensors] for _ in devices]
    )
    parts = module.replicate(net, [0, 1])
    out = torch.cat([part(given)[0] for part, given in zip(parts, x.split((2, 1), 1), strict=True)], 1)
    torch.testing.assert_close(out, wanted)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-5)


# Sharded, on one process.


@pytest.fixture(scope="module")
def process() -> Iterator[Any]:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this PyTorch cannot distribute")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what it will remove and of a group of one process
@pytest.mark.parametrize("original", [False, True])
def test_flat_parameters(original, process, x):
    from torch.distributed.fsdp import FullyShardedDataParallel

    net = network()
    wanted, expected = net(x)[0], trained(net, x)
    sharded = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=original)
    out = sharded(x)[0]
    assert torch.equal(out, wanted)
    out.square().sum().backward()
    with FullyShardedDataParallel.summon_full_params(sharded, with_grads=original):
        assert "threshold=(1,)" in repr(sharded)
        if original:
            for name, p in sharded.module.named_parameters():
                torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-5)
    if not original:
        (flat,) = sharded.parameters()
        total = torch.cat([g.flatten() for g in expected.values()])
        torch.testing.assert_close(flat.grad.sort()[0][-total.numel() :].sum(), total.sum(), rtol=1e-3, atol=1e-3)
    torch.optim.SGD(sharded.parameters(), 0.1).step()
    assert not torch.equal(sharded(x)[0], wanted)
    chained = nn.Sequential(
        FullyShardedDataParallel(nn.Leaky(one(0.9), learn="beta"), device_id=torch.device("cpu"), use_orig_params=original)
    )
    assert chained(x)[0].shape == x.shape  # as a part of a chain it is handed the sequence


@pytest.mark.filterwarnings("ignore")
def test_parameters_for_each_process(process, x):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    net = network()
    wanted, expected = net(x)[0], trained(net, x)
    sharded = network()
    for module in sharded:
        fully_shard(module, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    out = sharded(x)[0]
    assert torch.equal(out, wanted)
    out.square().sum().backward()
    for name, p in sharded.named_parameters():
        torch.testing.assert_close(p.grad.full_tensor(), expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"scalar parameters\. Change beta_logit to a 1D tensor with numel equal to 1"):
        fully_shard(nn.Leaky(0.9, learn="beta"), mesh=mesh)
