"""A chain with memory="recompute": the numbers of the chain without, from the bits at the borders of its segments."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch.nn.utils import parametrizations  # noqa: E402

from spikegrad import NoisyThreshold, neurons, nn  # noqa: E402
from spikegrad.compat import snntorch as compat  # noqa: E402
from spikegrad.nn import bits, segments  # noqa: E402

T, B, C, S = 6, 5, 4, 6
"""Steps, samples, channels, and pixels along each side."""


def conv(channels: int = C, *, bias: bool = True) -> Any:
    made = torch.nn.Conv2d(channels, C, 3, padding=1, bias=bias)
    torch.nn.init.normal_(made.weight, 0.05, 0.3)
    return made


def leaky(**options: Any) -> Any:
    return nn.Leaky(0.9, 0.6, **options)


def head() -> list[Any]:
    return [torch.nn.Flatten(), torch.nn.Linear(C * S * S, 3), nn.LeakyIntegrator(0.9)]


CHAINS: dict[str, Callable[[], list[Any]]] = {
    "convolutions": lambda: [conv(), leaky(), conv(), leaky(learn_beta=True), *head()],
    "pools": lambda: [conv(), leaky(), torch.nn.MaxPool2d(2), conv(), leaky(), torch.nn.AvgPool2d(3), torch.nn.Flatten(), leaky()],
    "statistics": lambda: [each for _ in range(2) for each in (conv(bias=False), torch.nn.BatchNorm2d(C), leaky())] + head(),
    "dropout": lambda: [conv(), leaky(), torch.nn.Dropout(0.4), conv(), torch.nn.Dropout2d(0.2), leaky(), torch.nn.Dropout(0.3), *head()],
    "dropout of what comes in": lambda: [torch.nn.Dropout(0.4), conv(), leaky()],
    "chains in chains": lambda: [nn.Sequential(conv(), nn.Sequential(leaky(), conv())), torch.nn.Sequential(torch.nn.ReLU()), leaky()],
    "a chain that recomputes": lambda: [nn.Sequential(conv(), leaky(), conv(), leaky(), memory="recompute"), *head()],
    "ways past": lambda: [conv(), leaky(), nn.Residual(conv(), leaky()), nn.Residual(conv(), leaky(), shortcut=conv()), *head()],
    "weights and neurons": lambda: [
        torch.nn.Flatten(),
        nn.SpikingLinear(C * S * S, 7, leaky(), dropout=0.2),
        torch.nn.Linear(7, 5),
        leaky(),
    ],
    "recurrent layers": lambda: [*head()[:2], nn.RecurrentLeaky(3, 0.9, 0.5), torch.nn.GRU(3, 4), torch.nn.LSTM(4, 2)],
    "steps": lambda: [*head()[:2], nn.Steps(compat.Leaky(0.9, threshold=0.2)), torch.nn.Linear(3, 2), nn.LeakyIntegrator(0.9)],
    "noise": lambda: [conv(), nn.Leaky(0.9, spike=NoisyThreshold()), *head()],
    "two states and options": lambda: [conv(), nn.Synaptic(0.8, 0.9, reset="zero", reset_delay=True, backend="reference"), *head()],
    "three values": lambda: [conv(), nn.Layer(neurons.Ternary(), backend="reference"), *head()],
    "computed weights": lambda: [parametrizations.weight_norm(conv()), leaky(), *head()],
    "one module twice": lambda: [(same := conv()), leaky(), same, leaky(), *head()],
}


def net(what: str, memory: Any, chunk: int | None = None) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(*CHAINS[what](), memory=memory, chunk=chunk)


def spikes(*shape: int) -> Any:
    return torch.bernoulli(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x() -> Any:
    return spikes(T, B, C, S, S)


def leaves(tree: Any) -> list[Any]:
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


def total(made: Any) -> Any:
    return sum((each.float() * torch.linspace(-1, 1, each.numel()).view(each.shape)).sum() for each in leaves(made))


def everything(net: Any, x: Any, state: Any = None, **options: Any) -> dict[str, Any]:
    """All numbers that a pass forward and backward leaves."""
    torch.manual_seed(1)
    x = x.detach().requires_grad_()
    made = net(x, state, **options)
    total(made).backward()
    found = {f"made {place}": each.detach() for place, each in enumerate(leaves(made))}
    found |= {"x": x.grad, **{f"state {k}": s.grad for k, s in enumerate(leaves(state)) if s.requires_grad}}
    return found | {name: p.grad for name, p in net.named_parameters()} | dict(net.named_buffers())


def same(found: dict[str, Any], wanted: dict[str, Any], *, exactly: bool) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if exactly:
            assert torch.equal(found[name], value), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * float(value.detach().abs().max()) + 1e-5, msg=name)


# The numbers.


@pytest.mark.parametrize("what", CHAINS)
def test_bit_for_bit_in_one_block(what, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", 10**9)
    wanted = everything(net(what, "save"), x)
    assert wanted["x"].abs().sum() > 0
    assert wanted["made 0"].any()
    same(everything(net(what, "recompute"), x), wanted, exactly=True)


@pytest.mark.parametrize("what", CHAINS)
def test_to_rounding_in_blocks_of_samples(what, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", 1)
    same(everything(net(what, "recompute"), x), everything(net(what, "save"), x), exactly=False)


@pytest.mark.parametrize("what", ["convolutions", "ways past", "a chain that recomputes"])
def test_states_go_in_and_out_in_blocks_too(what, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", 2000)
    between = net(what, "save")(x)[1]
    found = []
    for memory in ("recompute", "save"):
        state = torch.utils._pytree.tree_map(lambda s: None if s is None else s.detach().clone().requires_grad_(), between)
        found.append(everything(net(what, memory), x, state))
    assert sum(name.startswith("state") for name in found[0]) >= 3
    same(*found, exactly=False)


@pytest.mark.parametrize("held", [1, 10**9])
@pytest.mark.parametrize("chunk", [None, 2])
def test_samples_of_different_lengths(held, chunk, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", held)
    lengths = [6, 0, 3, 1, 4]
    found = everything(net("convolutions", "recompute", chunk), x, lengths=lengths)
    same(found, everything(net("convolutions", "save"), x, lengths=torch.tensor(lengths)), exactly=False)


def test_without_a_batch():
    found = []
    for memory in ("recompute", "save"):
        torch.manual_seed(0)
        found.append(everything(nn.Sequential(torch.nn.Linear(9, 7), leaky(), torch.nn.Linear(7, 2), leaky(), memory=memory), spikes(T, 9)))
    same(*found, exactly=True)


@pytest.mark.parametrize("what", ["convolutions", "statistics", "dropout"])
def test_channels_last_stays_so(what, x, monkeypatch):
    """As the convolutions saw them in the forward pass; those of another layout may round otherwise."""
    monkeypatch.setattr(segments, "_HELD", 10**9)
    laid = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (T, B))
    ours, theirs = (net(what, memory).to(memory_format=torch.channels_last) for memory in ("recompute", "save"))
    same(everything(ours, laid), everything(theirs, laid), exactly=True)


def test_under_autocast(x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", 10**9)
    found = []
    for memory in ("recompute", "save"):
        chain = net("convolutions", memory)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = chain(x)
            again = torch.nn.functional.conv2d(x[0], chain[0].weight)
        assert again.requires_grad, "weights that were converted where nothing is recorded are used again by what comes after"
        found.append([*leaves(made), *torch.autograd.grad(total(made), list(chain.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("held", [1, 10**9])
def test_second_derivatives(held, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", held)
    found = []
    for memory in ("recompute", "save"):
        torch.manual_seed(0)
        chain = nn.Sequential(conv(), leaky(backend="reference"), conv(), leaky(backend="reference"), memory=memory).double()
        given = x[:3, :3].double().requires_grad_()
        first = torch.autograd.grad(total(chain(given)), [given, *chain.parameters()], create_graph=True)
        found.append([*first, *torch.autograd.grad(sum((g**2).sum() for g in first), [given, *chain.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_under_transforms_it_is_the_plain_chain(x):
    chain = net("convolutions", "recompute")
    given = {name: p.detach() for name, p in chain.named_parameters()}
    found = torch.func.grad(lambda p: total(torch.func.functional_call(chain, p, (x,))))(given)
    wanted = everything(net("convolutions", "save"), x)
    for name, g in found.items():
        torch.testing.assert_close(g, wanted[name], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(chain(x)[0], net("convolutions", "save")(x)[0])


# What is kept.


def kept(chain: Any, x: Any, **options: Any) -> int:
    """Bytes that autograd holds between forward and backward, without parameters, each storage once."""
    storages: dict[int, Any] = {}
    own = {p.untyped_storage().data_ptr() for p in (*chain.parameters(), *chain.buffers())}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = chain(x, **options)
    assert made[0].requires_grad
    return sum(storage.nbytes() for storage in storages.values())


BLOCKS: dict[str, tuple[Callable[[], list[Any]], float, float]] = {
    "convolutions": (lambda: [conv(), leaky()], 0.125, 8),
    "statistics": (lambda: [conv(), torch.nn.BatchNorm2d(C), leaky()], 0.125, 12),
    "dropout": (lambda: [conv(), leaky(), torch.nn.Dropout(0.2)], 0.25, 8),
    "pools": (lambda: [conv(), leaky(), torch.nn.MaxPool2d(1)], 0.125, 8),
}


@pytest.mark.parametrize("what", BLOCKS)
def test_bytes_kept_per_neuron_and_step(what):
    """Of eight equal layers."""
    make, few, many = BLOCKS[what]
    x = spikes(4, 4, C, 16, 16).requires_grad_()
    chain = [each for _ in range(8) for each in make()]
    assert kept(nn.Sequential(*chain), x) / (8 * x.numel()) >= many
    assert few <= kept(nn.Sequential(*chain, memory="recompute"), x) / (8 * x.numel()) <= few + 0.03


@pytest.mark.parametrize("what", ["convolutions", "weights and neurons", "chains in chains"])
def test_what_hooks_see_may_be_part_of_a_loss(what, x, monkeypatch):
    """Such as firing rates, which would have no gradient if the layer ran where nothing is recorded."""
    monkeypatch.setattr(segments, "_HELD", 1)
    found = []
    for memory in ("recompute", "save"):
        chain, seen = net(what, memory), list[Any]()
        for module in chain.modules():
            if isinstance(module, nn.Leaky):
                module.register_forward_hook(lambda module, given, made, seen=seen: seen.append(made[0]))
        torch.manual_seed(1)
        chain(x)
        assert all(each.shape[:2] == x.shape[:2] for each in seen)
        found.append(torch.autograd.grad(sum(each.mean() for each in seen), list(chain.parameters()), allow_unused=True))
    assert any(g is not None and g.any() for g in found[0])
    for ours, theirs in zip(*found, strict=True):
        assert ours is theirs or torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_parameters_that_the_first_call_makes():
    chain = nn.Sequential(torch.nn.LazyLinear(8), leaky(), torch.nn.LazyLinear(3), leaky(), memory="recompute")
    for _ in range(2):
        total(chain(spikes(T, B, 4))).backward()
    assert chain[0].weight.grad.any()


# Chunks of steps.


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_of_steps(chunk, x):
    found = everything(net("convolutions", "recompute", chunk), x)
    same(found, everything(net("convolutions", "save"), x), exactly=False)


def test_chunks_of_several_outputs():
    class Both(nn.Stateful):
        def forward(self, currents: Any, state: Any = None) -> Any:
            return (currents, 2 * currents), None

    x = torch.rand(5, 2, 3, requires_grad=True)
    (one, two), _ = nn.Sequential(torch.nn.Linear(3, 3), leaky(), Both(), memory="recompute", chunk=2)(x)
    assert one.shape == (5, 2, 3)
    assert torch.equal(two, 2 * one)


def test_chunks_need_a_chain_without_statistics(x):
    chain = net("statistics", "recompute", 2)
    with pytest.raises(
        ValueError, match=r"module 1 of the chain, torch.nn.BatchNorm2d, takes statistics over all steps .*leave `chunk` out"
    ):
        chain(x)
    assert chain.eval()(x)[0].shape == (T, B, 3)


# What was changed in between.


def test_a_weight_that_was_changed_is_an_error(x):
    for place in (0, 2, 5):
        chain = net("convolutions", "recompute")
        made = chain(x)
        with torch.no_grad():
            chain[place].weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total(made).backward()


def test_options_are_those_of_the_forward_pass(x):
    chain = net("statistics", "recompute")
    wanted = everything(chain, x)
    for p in chain.parameters():
        p.grad = None
    chain[1].reset_running_stats()
    chain[4].reset_running_stats()
    given = x.detach().requires_grad_()
    made = chain(given)
    chain.eval()
    chain[2].neuron = neurons.Leaky(0.1, reset="zero")
    chain[3] = torch.nn.Identity()
    total(made).backward()
    assert torch.equal(given.grad, wanted["x"])


def test_a_module_that_changes_its_input_is_refused(x):
    chain = nn.Sequential(torch.nn.Dropout(0.5, inplace=True), conv(), leaky(), memory="recompute")
    with pytest.raises(RuntimeError, match=r"changed its input in place.*inplace=False"):
        chain(torch.rand(T, B, C, S, S))
    wanted = nn.Sequential(conv(), leaky(), torch.nn.ReLU(inplace=True), conv(), leaky())
    ours = nn.Sequential(*copy.deepcopy(wanted), memory="recompute")
    same(everything(ours, x), everything(wanted, x), exactly=False)  # spikes are made anew from bits


# Options.


def test_words_and_copies(x):
    chain = net("convolutions", "recompute", 3)
    chain(x)
    assert repr(chain).splitlines()[1] == "  memory='recompute', chunk=3"
    for each in (chain[:2], copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        assert (each.memory, each.chunk) == ("recompute", 3)
    assert repr(nn.Sequential(torch.nn.ReLU())).splitlines()[1] == "  (0): ReLU()"
    plain = nn.Sequential(conv(), leaky())
    vars(plain).pop("memory")  # of a file that was written before
    vars(plain).pop("chunk")
    assert plain(x)[0].shape == x.shape
    for options, words in (
        ({"memory": "none"}, "`memory` must be one of 'save', 'recompute', got 'none'"),
        ({"chunk": 3}, "`chunk` .*goes with memory='recompute', got 3 and 'save'"),
        ({"memory": "recompute", "chunk": 0}, "`chunk` is a number of steps, at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            nn.Sequential(conv(), **options)


def test_errors_speak_of_the_modules_and_shapes_of_the_chain(x):
    for memory in ("save", "recompute"):
        chain = nn.Sequential(conv(), nn.Sequential(leaky(), torch.nn.Flatten(0)), memory=memory)
        with pytest.raises(ValueError, match=r"module 1 of the chain, torch.nn.Flatten, .*one dimension of 30, .*got shape \(4320,\)"):
            chain(x)
        with pytest.raises(ValueError, match="`state` must have one entry for each of the 2 modules, got 1"):
            chain(x, [None])
        with pytest.raises(RuntimeError, match=r"input\[30, 4, 6, 6\] to have 9 channels"):
            nn.Sequential(leaky(), conv(9), memory=memory)(x)


def test_the_trainer_has_it():
    from spikegrad.training import Config
    from spikegrad.training.network import Network

    found = []
    for memory in ("recompute", "save"):
        torch.manual_seed(0)
        network = Network(Config(hidden=(8, 6), steps=4, memory=memory), features=5, classes=3)
        assert [layer.memory for layer in network.layers] == [memory] * 2
        scores = network(torch.rand(7, 5, generator=torch.Generator().manual_seed(0))).scores
        found.append(
            [scores, *torch.autograd.grad(scores.square().sum(), list(network.parameters()), allow_unused=True), *network.buffers()]
        )
    for ours, theirs in zip(*found, strict=True):
        assert ours is theirs or torch.equal(ours, theirs)


# Where NumPy cannot read.


@pytest.mark.parametrize("what", ["convolutions", "pools", "dropout", "ways past", "three values", "weights and neurons"])
def test_chains_on_devices_that_numpy_cannot_read(what, x, monkeypatch):
    monkeypatch.setattr(segments, "_HELD", 10**9)
    wanted = everything(net(what, "save"), x)
    monkeypatch.setattr(bits, "_by_numpy", lambda x: False)
    same(everything(net(what, "recompute"), x), wanted, exactly=True)


def test_what_is_kept_there(monkeypatch):
    monkeypatch.setattr(bits, "_by_numpy", lambda x: False)
    x = spikes(4, 4, C, 16, 16).requires_grad_()
    chain = [each for _ in range(8) for each in (conv(), leaky(), torch.nn.Dropout(0.2))]
    of_input = x.numel() * 4  # which is not looked at either
    assert kept(nn.Sequential(*chain, memory="recompute"), x) - of_input <= 0.26 * 8 * x.numel()
