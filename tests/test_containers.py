"""Containers find what keeps a state, however deep: it sees the sequence and its state, or they say how to write it. No sample mixes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from spikegrad import nn  # noqa: E402
from spikegrad.compat import snntorch as compat  # noqa: E402


def leaky(**options: Any) -> Any:
    return nn.Leaky(0.9, **options, backend="reference")


class Block(torch.nn.Module):
    """A residual block as one would write it without having read anything."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.neuron = torch.nn.Linear(4, 4), leaky()

    def forward(self, x):
        return x + self.neuron(self.linear(x))[0]


class Stage(nn.Stateful):
    """The same as it should be written."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(torch.nn.Linear(4, 4), leaky())

    def forward(self, currents, state=None):
        spikes, state = self.inner(currents, state)
        return currents + spikes, state


class Deep(torch.nn.Module):
    """A module that calls a recurrent layer of PyTorch, which takes two dimensions for one sequence without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.ModuleList([torch.nn.LSTM(4, 4)])

    def forward(self, x):
        return self.rnn[0](x)[0]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a block": (Block, r"module 1 of the chain, Block, has a layer with a state inside, neuron \(Leaky\).* nn.Residual.*nn.Stateful"),
    "a chain of PyTorch's": (
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), leaky()),
        r"torch.nn.Sequential, has a layer with a state inside, 1 \(Leaky\).*Write spikegrad.nn.Sequential in its place",
    ),
    "a block in a chain of PyTorch's": (
        lambda: torch.nn.Sequential(torch.nn.Identity(), torch.nn.Sequential(Block())),
        r"inside, 1.0.neuron \(Leaky\)",
    ),
    "chains in a list": (lambda: ListOf([nn.Sequential(leaky())]), r"inside, parts.0 \(Sequential\)"),
    "a neuron of compat": (lambda: compat.Leaky(0.9, init_hidden=True), "module 1 of the chain, Leaky, keeps a state .*nn.Steps"),
    "a neuron of compat inside": (
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), compat.Leaky(0.9, init_hidden=True)),
        r"inside, 1 \(Leaky\)",
    ),
    "a cell of PyTorch's": (lambda: torch.nn.GRUCell(4, 4), "GRUCell, keeps a state .*nn.Steps"),
    "a recurrent layer inside": (Deep, r"Deep, has a layer with a state inside, rnn.0 \(torch.nn.LSTM\)"),
    "a recurrent layer with the batch first": (lambda: torch.nn.GRU(4, 4, batch_first=True), r"batch_first=True, but .*\(time, batch"),
    "replicas that would split time": (lambda: torch.nn.DataParallel(leaky()), "DataParallel, has a layer with a state inside"),
}


class ListOf(torch.nn.Module):
    def __init__(self, parts) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x):
        return self.parts[0](x[None])[0][0]


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_mix_samples_is_refused(what):
    make, words = REFUSED[what]
    net = nn.Sequential(torch.nn.Linear(4, 4), make())
    with pytest.raises(TypeError, match=words):
        net(torch.rand(5, 3, 4))


FOREIGN = {
    "snntorch": lambda: pytest.importorskip("snntorch").Leaky(0.9, init_hidden=True),
    "sinabs": lambda: pytest.importorskip("sinabs.layers").LIF(20.0),
    "spikingjelly": lambda: pytest.importorskip("spikingjelly.activation_based.neuron").LIFNode(),
    "norse": lambda: pytest.importorskip("norse.torch").LIFCell(),
}


@pytest.mark.parametrize("library", FOREIGN)
def test_neurons_of_other_libraries(library):
    neuron = FOREIGN[library]()
    for net in (nn.Sequential(neuron), nn.Sequential(torch.nn.Sequential(torch.nn.Identity(), neuron))):
        with pytest.raises(TypeError, match=f"{type(neuron).__name__}.* mix the samples"):
            net(torch.rand(5, 3, 4))


@pytest.mark.parametrize("library", ["snntorch", "sinabs", "spikingjelly", "norse"])
def test_other_libraries_are_told_by_name_where_they_are_not_installed(library):
    """Of a class that only looks like theirs, so that the test runs without them."""
    name = {"snntorch": "SpikingNeuron", "sinabs": "StatefulLayer", "spikingjelly": "MemoryModule", "norse": "SNNCell"}[library]
    base = type(name, (torch.nn.Module,), {"__module__": f"{library}.somewhere"})
    neuron = type("Neuron", (base,), {"forward": lambda self, x: x})()
    with pytest.raises(TypeError, match="Neuron, keeps a state"):
        nn.Sequential(neuron)(torch.rand(5, 3, 4))


ACCEPTED: dict[str, Callable[[], Any]] = {
    "one's own": Stage,
    "a chain": lambda: nn.Sequential(torch.nn.Linear(4, 4), leaky(), torch.nn.Linear(4, 4)),
    "chains in chains": lambda: nn.Sequential(nn.Sequential(nn.Sequential(leaky()), torch.nn.Linear(4, 4)), leaky()),
    "a way past": lambda: nn.Residual(torch.nn.Linear(4, 4), leaky()),
    "a way past with neurons": lambda: nn.Residual(leaky(), shortcut=nn.Sequential(torch.nn.Linear(4, 4), leaky())),
    "a way past without": lambda: nn.Residual(torch.nn.Linear(4, 6), leaky(), torch.nn.Linear(6, 5), shortcut=torch.nn.Linear(4, 5)),
    "two states": lambda: nn.Residual(nn.Synaptic(0.8, 0.9, backend="reference")),
    "a neuron of compat": lambda: nn.Steps(compat.Leaky(0.9)),
    "a neuron of compat with two states": lambda: nn.Steps(compat.Synaptic(0.8, 0.9)),
    "a recurrent layer of PyTorch's": lambda: torch.nn.GRU(4, 5),
    "one with two states": lambda: torch.nn.LSTM(4, 5),
    "weights and neurons": lambda: nn.Sequential(leaky(), nn.SpikingLinear(4, 5, leaky())),
    "a layer that PyTorch compiles": lambda: torch.compile(leaky(), backend="eager"),
    "averaged weights": lambda: torch.optim.swa_utils.AveragedModel(nn.Sequential(torch.nn.Linear(4, 4), leaky())),
    "what knows no time": lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8).eval(), torch.nn.Identity()),
}


def network(what: str) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(torch.nn.Linear(4, 4), ACCEPTED[what]())


@pytest.fixture
def nothing_compiles():
    """What `torch.compile` wraps is called as it is: what matters here is that it is found, and compiling takes a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("what", ACCEPTED)
def test_samples_do_not_mix_and_a_sequence_may_come_in_parts(what):
    net, x = network(what), 3 * torch.rand(8, 3, 4)
    out, state = net(x)
    assert out.shape[:2] == (8, 3)
    for sample in range(3):
        torch.testing.assert_close(net(x[:, sample : sample + 1])[0], out[:, sample : sample + 1])
    first, between = net(x[:5])
    second, last = net(x[5:], between)
    torch.testing.assert_close(torch.cat([first, second]), out)
    torch.testing.assert_close(last, state)
    changed = net(torch.cat([x[:5], torch.zeros(3, 3, 4)]))[0]
    torch.testing.assert_close(changed[:5], first)  # nothing of what follows


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("what", ACCEPTED)
def test_a_state_is_tensors_in_tuples(what):
    """So that it can be walked, detached and copied."""

    def leaves(state: Any) -> list[Any]:
        return [state] if isinstance(state, torch.Tensor) else [] if state is None else [x for part in state for x in leaves(part)]

    def detached(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return state.detach()
        assert state is None or isinstance(state, tuple)
        parts = state if state is None else [detached(part) for part in state]
        return parts if parts is None else type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)

    net, x = network(what), torch.rand(4, 2, 4, requires_grad=True)
    state = net(x)[1]
    assert bool(leaves(state)) == (what != "what knows no time")
    assert all(part.requires_grad for part in leaves(state))
    again = net(x, detached(state))[0]
    torch.testing.assert_close(again, net(x, state)[0])
    torch.testing.assert_close(net(x, copy.deepcopy(detached(state)))[0], again)


@pytest.mark.parametrize("what", [what for what in ACCEPTED if "compiles" not in what])
def test_copies_and_checkpoints(what):
    net, x = network(what), torch.rand(4, 2, 4)
    torch.manual_seed(1)
    other = nn.Sequential(torch.nn.Linear(4, 4), ACCEPTED[what]())
    assert str(other.load_state_dict(net.state_dict())) == "<All keys matched successfully>"
    for same in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(same(x)[0], net(x)[0])


def test_names_and_words():
    block = nn.Residual(torch.nn.Linear(4, 6), nn.Leaky(0.9), shortcut=torch.nn.Linear(4, 6, bias=False))
    assert [name for name, _ in block.named_parameters()] == ["body.0.weight", "body.0.bias", "shortcut.0.weight"]
    assert repr(block).splitlines()[:3] == [
        "Residual(",
        "  (body): Sequential(",
        "    (0): Linear(in_features=4, out_features=6, bias=True)",
    ]
    assert "(step): Leaky()" in repr(nn.Steps(compat.Leaky(0.9)))
    assert isinstance(nn.Sequential()[:0], nn.Stateful)
    with pytest.raises(NotImplementedError, match=r"Empty does not define forward\(self, currents, state=None\)"):
        type("Empty", (nn.Stateful,), {})()(torch.rand(2, 2))


def test_a_residual_block_is_the_sum():
    torch.manual_seed(0)
    linear, past, x = torch.nn.Linear(4, 6), torch.nn.Linear(4, 6), torch.rand(7, 3, 4)
    neuron = leaky()
    out, (inner, other) = nn.Residual(linear, neuron, shortcut=past)(x)
    spikes, v = neuron(linear(x))
    torch.testing.assert_close(out, spikes + past(x))
    torch.testing.assert_close(inner[1], v)
    assert other == (None,)


@pytest.mark.parametrize(
    "make", [lambda: compat.Leaky(0.9), lambda: compat.Alpha(0.9, 0.8), lambda: compat.RLeaky(0.9, V=0.5, all_to_all=False)]
)
def test_steps_are_the_loop(make):
    """Also of a neuron that was called before: its own state does not leak in."""
    x, cell = 2 * torch.rand(9, 3, 4), make()
    layer = nn.Steps(make())
    layer(x)
    made, last = layer(x)
    state, outputs = cell.reset_mem(), []
    for current in x:
        out, *state = cell(current, *(state if isinstance(state, tuple | list) else (state,)))
        outputs.append(out)
    torch.testing.assert_close(made, torch.stack(outputs))
    torch.testing.assert_close(list(last), state)


def test_steps_of_snntorch_itself():
    snn = pytest.importorskip("snntorch")
    x = 2 * torch.rand(9, 3, 4)
    layer = nn.Steps(snn.Leaky(0.9))
    layer(x)
    torch.testing.assert_close(layer(x)[0], nn.Steps(compat.Leaky(0.9))(x)[0])


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "samples lost": (
        lambda: nn.Sequential(torch.nn.Flatten(0))(torch.rand(5, 3, 4)),
        ValueError,
        r"module 0 of the chain, torch.nn.Flatten, is given time and batch as one dimension of 15, .*got shape \(60,\)",
    ),
    "more than a tensor": (
        lambda: nn.Sequential(torch.nn.MaxPool1d(2, return_indices=True))(torch.rand(5, 3, 4)),
        ValueError,
        "MaxPool1d, .*must return a tensor .*got tuple",
    ),
    "a sum of two shapes": (
        lambda: nn.Residual(torch.nn.Linear(4, 1))(torch.rand(5, 3, 4)),
        ValueError,
        r"output of shape \(5, 3, 1\) to its input of shape \(5, 3, 4\).*`shortcut`",
    ),
    "a sum of two shapes, one of the shortcut": (
        lambda: nn.Residual(leaky(), shortcut=torch.nn.Linear(4, 2))(torch.rand(5, 3, 4)),
        ValueError,
        r"\(5, 3, 4\) to what its shortcut makes of it, of shape \(5, 3, 2\)",
    ),
    "half of a state": (lambda: nn.Residual(leaky())(torch.rand(5, 3, 4), (None,)), ValueError, "got 1 entries"),
    "a step that keeps its state": (
        lambda: nn.Steps(compat.Leaky(0.9, init_hidden=True))(torch.rand(5, 3, 4)),
        TypeError,
        "Leaky .*init_hidden",
    ),
    "a step without one": (
        lambda: nn.Steps(torch.nn.Linear(4, 4))(torch.rand(5, 3, 4)),
        TypeError,
        r"Linear must return \(output, \*state\)",
    ),
    "no step": (lambda: nn.Steps(compat.Leaky(0.9))(torch.rand(0, 3, 4)), ValueError, r"at least one step, got shape \(0, 3, 4\)"),
    "no module": (lambda: nn.Steps(lambda x: x), TypeError, "must be a torch.nn.Module"),
}


@pytest.mark.parametrize("what", WRONG)
def test_words(what):
    attempt, error, words = WRONG[what]
    with pytest.raises(error, match=words):
        attempt()


@pytest.mark.slow
def test_compiled_whole():
    torch._dynamo.reset()
    net = nn.Sequential(torch.nn.Linear(4, 4), nn.Residual(torch.nn.Linear(4, 4), leaky()), Stage())
    x = torch.rand(2, 3, 4, requires_grad=True)
    out, state = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    wanted, after = net(x)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(state, after)
    (made,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(made, torch.autograd.grad(wanted.sum(), x)[0])
