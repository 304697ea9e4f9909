"""Where spikegrad's neurons differ from snnTorch 1.0.0 on purpose, and what they keep: both libraries side by side.

The numbers are those of ``docs/migrating.md``.
"""

from __future__ import annotations

import copy
import gc
import inspect
import io
import weakref

import pytest
import torch
from torch import nn

from spikegrad.compat import snntorch as ours

theirs = pytest.importorskip("snntorch")
utils = pytest.importorskip("snntorch.utils")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),  # snnTorch's autograd functions, compiled
]

NEURONS = {
    "Leaky": {"beta": 0.5},
    "Synaptic": {"alpha": 0.5, "beta": 0.5},
    "RLeaky": {"beta": 0.5, "linear_features": 3},
    "RSynaptic": {"alpha": 0.5, "beta": 0.5, "linear_features": 3},
    "Alpha": {"alpha": 0.9, "beta": 0.8},
    "Lapicque": {"beta": 0.5},
}
ABSENT = {
    "instances",  # a list that keeps every neuron alive
    "reset_dict",
}
"""Public names of snnTorch's classes that ours leave out."""


@pytest.fixture(autouse=True)
def forget():
    yield
    theirs.SpikingNeuron.instances.clear()


def both(name="Leaky", **options):
    options = {**NEURONS[name], **options}
    return getattr(theirs, name)(**options), getattr(ours, name)(**options)


def values(outputs):
    return [out.tolist() for out in outputs]


@pytest.mark.parametrize("name", NEURONS)
def test_names_and_signatures(name):
    """Every public name of the class; every constructor argument, in its order, with its default."""
    peer, mine = getattr(theirs, name), getattr(ours, name)
    public = {what for what in dir(peer) if not what.startswith("_")} - set(dir(nn.Module))
    assert public - ABSENT <= set(dir(mine))

    def arguments(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    assert arguments(mine.__init__) == arguments(peer.__init__)
    assert arguments(mine.forward) == arguments(peer.forward)
    a, b = both(name)
    assert list(a.state_dict()) == list(b.state_dict())
    for key, value in a.state_dict().items():
        assert (value.shape, value.dtype) == (b.state_dict()[key].shape, b.state_dict()[key].dtype), key


def test_what_neither_has_says_so():
    with pytest.raises(AttributeError, match=r"neither spikegrad.compat.snntorch nor snntorch of snnTorch 1\.\d\.\d has 'Leeky'"):
        ours.Leeky  # noqa: B018
    assert not hasattr(ours, "export_to_nir")


@pytest.mark.parametrize("name", NEURONS)
def test_dtype(name):
    """T-1, T-2, Y-3: there, spikes are float32 whatever the input, and rounded gradients with them."""
    peer, mine = both(name)
    x = torch.full((2, 3), 3.0, dtype=torch.float64)
    assert mine.double()(x)[0].dtype == torch.float64
    assert peer.double()(x)[0].dtype == torch.float32
    if name == "Leaky":
        half = x.half()
        outputs = [neuron.half()(half, neuron(half)[1]) for neuron in (peer, mine)]
        assert [out.dtype for out in outputs[0]] == [torch.float32, torch.float32]
        assert [out.dtype for out in outputs[1]] == [torch.float16, torch.float32]  # a state is never kept in half precision


@pytest.mark.parametrize("name", NEURONS)
def test_copying_and_saving(name):
    """Y-10, S-10: there, neither works after a forward with gradient."""
    peer, mine = both(name)
    x = torch.ones(2, 3, requires_grad=True)
    for neuron in (peer, mine):
        neuron(x)
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(peer)
    copy.deepcopy(mine)
    with pytest.raises(AttributeError, match=r"Can't (get|pickle) local object"):
        torch.save(peer, io.BytesIO())
    torch.save(mine, io.BytesIO())


def test_transforms():
    """T-4: there, no torch.func transform."""
    peer, mine = both()
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="setup_context staticmethod"):
        torch.func.vmap(peer)(x)
    assert values(torch.func.vmap(mine)(x)) == values(mine(x))


def test_state_stays_in_the_neuron():
    """Y-1 is kept: a call without a state goes on from that of the call before, graph and all. `reset_mem` starts over."""
    for neuron in both(learn_beta=True):
        assert [round(neuron(torch.tensor([0.4]))[1].item(), 4) for _ in range(2)] == [0.4, 0.6]
        x = torch.tensor([0.4], requires_grad=True)
        neuron(x)[1].sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            neuron(x)[1].sum().backward()
        neuron.reset_mem()
        neuron(x)[1].sum().backward()


def test_given_state_of_another_shape():
    """Y-2: there, it is dropped without a word."""
    peer, mine = both()
    x = torch.zeros(2, 3)
    assert values(peer(x, torch.tensor([2.0])))[1] == [[0.0] * 3] * 2
    assert values(mine(x, torch.tensor([2.0])))[1] == [[0.0] * 3] * 2 == values(mine(x, torch.full((2, 3), 2.0)))[1]
    assert values(mine(x, torch.tensor([1.0])))[1] == [[0.5] * 3] * 2
    assert values(peer(x, torch.ones(7, 3)))[1] == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match=r"`mem` of shape \(7, 3\) does not fit the input of shape \(2, 3\)"):
        mine(x, torch.ones(7, 3))
    # Zeros mean rest in both, of whatever shape.
    assert values(mine(x, torch.zeros(7, 3))) == values(peer(x, torch.zeros(7, 3)))


def test_refused_state_is_not_kept():
    """There, a state given with init_hidden=True has already replaced the neuron's own when it is refused."""
    for neuron, kept in zip(both(init_hidden=True), (9.0, 1.0), strict=True):
        neuron(torch.ones(1))
        with pytest.raises(TypeError, match="init_hidden=True"):
            neuron(torch.ones(1), torch.full((1,), 9.0))
        assert neuron.mem.item() == kept


def test_immediate_reset_is_snntorch_own():
    """Y-4 is kept: what the reset of the step before took is given back, so that a potential given above threshold doubles."""
    for neuron in both(reset_mechanism="zero", reset_delay=False):
        assert neuron(torch.tensor([0.3]), torch.tensor([2.0]))[1].item() == pytest.approx(0.6)
    for neuron in both(reset_delay=False):
        spk, mem = neuron(torch.tensor([0.3]), torch.tensor([2.0]))
        assert (spk.item(), mem.item()) == (0.0, pytest.approx(1.3))


def test_graded_factor_of_zero():
    """Y-5: there, the immediate reset divides by it."""
    peer, mine = both(graded_spikes_factor=0.0, reset_delay=False)
    assert peer(torch.tensor([1.5]))[1].isnan()
    assert values(mine(torch.tensor([1.5]))) == [[0.0], [0.5]]
    peer, mine = both(graded_spikes_factor=0.0, reset_delay=False, inhibition=True)
    x = torch.tensor([[1.5, 1.2]])
    assert peer(x)[1].isnan().any()
    spk, mem = mine(x)
    assert values((spk, mem)) == [[[1.0, 0.0]], [[0.5, pytest.approx(1.2)]]]
    # Kept, for the same numbers: under inhibition the factor does not scale the spike, but divides its reset.
    for neuron in both(graded_spikes_factor=2.5, reset_delay=False, inhibition=True):
        spk, mem = neuron(x)
        assert values((spk, mem)) == [[[1.0, 0.0]], [[pytest.approx(1.1), pytest.approx(1.2)]]]


def test_inhibition():
    """Y-6: there, only for two dimensions: anything else raises, or lets every neuron win."""
    peer, mine = both(inhibition=True)
    generator = torch.Generator().manual_seed(0)
    for shape in ((5,), (3, 2, 2, 2)):
        x = 2 + torch.rand(shape, generator=generator)
        with pytest.raises(IndexError):
            peer(x)
        spikes = mine(x)[0].reshape(-1 if len(shape) == 1 else 3, 5 if len(shape) == 1 else 8)
        assert torch.equal(spikes.argmax(1), x.reshape(spikes.shape).argmax(1))
        assert spikes.sum(1).tolist() == [1.0] * len(spikes)
    x = 2 + torch.rand(2, 3, 2, 2, generator=generator)
    assert (peer(x)[0].sum((1, 2, 3)) > 1).all()
    assert mine(x)[0].sum((1, 2, 3)).tolist() == [1.0, 1.0]
    # Kept, for the same numbers: a neuron above threshold that loses is reset in the next step all the same.
    for neuron in both(inhibition=True):
        neuron.reset_mem()
        x = torch.tensor([[1.5, 1.2]])
        _, mem = neuron(x)
        assert values(neuron(0 * x, mem))[1] == [[-0.25, pytest.approx(-0.4)]]


def test_quantised_once():
    """Y-7: there, the potential is quantised again before it spikes, but not under inhibition. It matters where q(q(u)) is not q(u)."""
    x = torch.tensor([[2.0]])
    peer, mine = both(state_quant=lambda u: 0.6 * u)
    assert values(peer(x)) == [[[0.0]], [[pytest.approx(1.2)]]]
    assert values(mine(x)) == [[[1.0]], [[pytest.approx(1.2)]]]
    assert values(both(state_quant=lambda u: 0.6 * u, inhibition=True)[0](x)) == values(mine(x, mine.reset_mem()))


def test_reset_that_is_loaded_or_assigned():
    """Y-8: there, the name changes and the equation does not."""
    x = torch.tensor([[1.5]])
    for change in (
        lambda neuron, other: neuron.load_state_dict(other.state_dict()),
        lambda neuron, _: setattr(neuron, "reset_mechanism", "zero"),
    ):
        peer, mine = both()
        peer_zero, mine_zero = both(reset_mechanism="zero")
        change(peer, peer_zero)
        change(mine, mine_zero)
        outputs = [[neuron(0 * x, neuron(x)[1])[1].item() for neuron in pair] for pair in ((peer, peer_zero), (mine, mine_zero))]
        assert outputs == [[-0.25, 0.0], [0.0, 0.0]]


def test_process_wide_registry():
    """Y-9: there, neurons live for ever, failed ones too, and `utils.reset` resets other networks, but no nested layer."""
    for library, expected in ((theirs, [True, True]), (ours, [False, False])):
        neuron = library.Leaky(0.5)
        neuron(torch.ones(1))
        alive = [weakref.ref(neuron), weakref.ref(neuron.mem)]
        del neuron
        gc.collect()
        assert [reference() is not None for reference in alive] == expected
        with pytest.raises(ValueError, match="reset_mechanism"):
            library.Leaky(0.5, reset_mechanism="soft")
    with pytest.raises(AttributeError, match="has no attribute 'mem'"):
        theirs.Leaky.reset_hidden()
    ours.Leaky.reset_hidden()
    theirs.SpikingNeuron.instances.clear()

    for library, reset, expected in ((theirs, utils.reset, [0.0, 0.0, 1.0]), (ours, ours.utils.reset, [0.0, 1.0, 0.0])):
        flat, other = (nn.Sequential(library.Leaky(0.5, init_hidden=True)) for _ in range(2))
        nested = nn.Sequential(nn.Sequential(library.Synaptic(0.5, 0.5, init_hidden=True)))
        for net in (flat, other, nested):
            net(torch.ones(1))
        reset(flat)
        reset(nested)
        assert [flat[0].mem.item(), other[0].mem.item(), nested[0][0].mem.item()] == expected


def test_copies_are_reached():
    """Y-9: there, `reset_hidden` does not know of a copy; and after `init` of the class, of any neuron made later."""
    for library, expected in ((theirs, 1.0), (ours, 0.0)):
        neuron = library.Leaky(0.5)
        other = copy.deepcopy(neuron)
        other(torch.ones(1))
        library.Leaky.reset_hidden()
        assert other.mem.item() == expected
        library.Leaky.init()
        later = library.Leaky(0.5)
        for made in (neuron, later):
            made(torch.ones(1))
        library.Leaky.reset_hidden()
        assert (neuron.mem.item(), later.mem.item()) == (1.0, expected)
    del theirs.Leaky.instances


def test_compiled_immediate_reset():
    """Y-11: there, it branches on the value of a tensor."""
    x = torch.ones(1, 3)
    torch.compiler.reset()
    peer, mine = both(reset_delay=False)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"[Dd]ata-dependent"):
        torch.compile(peer, fullgraph=True, backend="aot_eager")(x)
    assert values(torch.compile(mine, fullgraph=True, backend="aot_eager")(x, mine.reset_mem())) == values(mine(x, mine.reset_mem()))


def test_beta_out_of_range():
    """Y-12 is kept: beta is clamped, outside of 0 to 1 it has no gradient, and NaN passes."""
    for beta, slope in ((-0.1, 0.0), (0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (1.1, 0.0)):
        outputs = []
        for neuron in both(beta=beta, learn_beta=True):
            mem = neuron(torch.zeros(1), torch.full((1,), 0.5))[1]
            mem.sum().backward()
            outputs.append((mem.item(), neuron.beta.grad.item()))
        assert outputs[0] == outputs[1]
        assert outputs[1][1] == slope
    assert all(neuron(torch.zeros(1), torch.ones(1))[1].isnan() for neuron in both(beta=float("nan")))


def test_float64_parameters():
    """Kept: a number given for a parameter is held in float32, so `.double()` has its digits; a float64 tensor has all of its own."""
    for neuron in both(beta=0.9):
        assert neuron.double().beta.item() == 0.8999999761581421
    assert ours.Leaky(torch.tensor(0.9, dtype=torch.float64))(torch.zeros(1).double(), torch.ones(1).double())[1].item() == 0.9


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_recurrent_synaptic_with_immediate_reset(reset):
    """There, the reset is taken from the spikes that were passed in and lost: it raises, or does nothing."""
    x = torch.tensor([[2.0, 0.3, 0.9]])
    peer, mine = both("RSynaptic", reset_mechanism=reset, reset_delay=False)
    with pytest.raises(TypeError, match="unsupported operand"):
        peer(x)
    peer.load_state_dict(mine.state_dict())
    zeros = [torch.zeros(1, 3) for _ in range(3)]
    lost = peer(x, *zeros)[2]
    without = both("RSynaptic", reset_mechanism="none")[1]
    without.recurrent.load_state_dict(peer.recurrent.state_dict())
    assert values((lost,)) == values(without(x, *zeros)[2:])
    assert lost[0, 0] > 1.0
    # Ours is RLeaky's reset: with alpha = 0 and no recurrence the two are the same neuron.
    mine = ours.RSynaptic(0.0, 0.5, V=0.0, all_to_all=False, reset_mechanism=reset, reset_delay=False)
    leaky = ours.RLeaky(0.5, V=0.0, all_to_all=False, reset_mechanism=reset, reset_delay=False)
    for drive in (x, 0.5 * x, 3 * x, -x):
        spk, _, mem = mine(drive)
        assert values((spk, mem)) == values(leaky(drive))


def test_alpha_that_learns():
    """There, the constructor raises. The gradient is the one that flows to a tensor passed as alpha, which snnTorch can."""
    with pytest.raises(TypeError, match=r"cannot assign .* as parameter 'alpha'"):
        theirs.Alpha(0.9, 0.8, learn_alpha=True)
    currents = 2 * torch.rand(20, 4, 3, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor(0.9, requires_grad=True)
    peer, mine = theirs.Alpha(alpha, 0.8), ours.Alpha(0.9, 0.8, learn_alpha=True)
    totals = []
    for neuron in (peer, mine):
        states = neuron.reset_mem()
        total = torch.zeros(())
        for current in currents:
            spk, *states = neuron(current, *states)
            total = total + spk.sum() + (states[-1] ** 2).sum()
        totals.append(total)
        total.backward()
    assert torch.equal(*totals)
    torch.testing.assert_close(mine.alpha.grad, alpha.grad, rtol=1e-5, atol=0.0)


def test_lapicque_that_learns():
    """There, the capacitance is computed once: a second backward pass raises, and what is learned changes nothing."""
    x = torch.ones(1, 3)
    peer, mine = both("Lapicque", learn_beta=True)
    gradients = []
    for neuron in (peer, mine):
        neuron(x, neuron(x)[1])[1].sum().backward()
        gradients.append(neuron.beta.grad.item())
        neuron.reset_mem()
        neuron.beta.data.fill_(0.9)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-6)
    assert peer(x, 0 * x)[1][0, 0].item() == pytest.approx(-torch.tensor(0.5).log().item())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        peer(x, 0 * x)[1].sum().backward()
    mem = mine(x, 0 * x)[1]
    mem.sum().backward()
    assert mem[0, 0].item() == pytest.approx(-torch.tensor(0.9).log().item())
    assert mine.state_dict()["C"].item() == pytest.approx(-1 / torch.tensor(0.9).log().item())


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.7}, {"R": 2, "C": 3}, {"R": 5.1, "C": 0.4, "time_step": 0.5}, {"beta": 0.7, "R": 2.0}, {"beta": 0.7, "C": 3.0}],
    ids=lambda options: ",".join(options),
)
def test_circuits_of_lapicque(options):
    peer, mine = theirs.Lapicque(**options), ours.Lapicque(**options)
    x = 2 * torch.rand(10, 4, 3, generator=torch.Generator().manual_seed(0))
    assert {key: value.tolist() for key, value in peer.state_dict().items()} == {k: v.tolist() for k, v in mine.state_dict().items()}
    for current in x:
        assert values(peer(current)) == values(mine(current))


def test_lapicque_is_told_what_it_needs():
    for options in ({}, {"R": 1.0}, {"C": 1.0}, {"beta": 0.5, "R": 1.0, "C": 1.0}):
        with pytest.raises(ValueError, match="give `beta`, or two of `beta`, `R` and `C`, got"):
            ours.Lapicque(**options)
    with pytest.raises(ValueError, match="learn_beta=True needs `beta`"):
        ours.Lapicque(R=1.0, C=2.0, learn_beta=True)
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value"):
        theirs.Lapicque(torch.tensor([0.5, 0.6]))
    mem = ours.Lapicque(torch.tensor([0.5, 0.6]))(torch.ones(4, 2))[1]
    torch.testing.assert_close(mem, -torch.tensor([0.5, 0.6]).log().expand(4, 2))


def test_learned_parameters_are_their_own():
    """There, two layers that learn from one tensor write into each other; a whole number cannot be learned at all."""
    for library, expected in ((theirs, 0.1), (ours, 0.5)):
        beta = torch.tensor(0.5)
        one, two = (library.Leaky(beta, learn_beta=True) for _ in range(2))
        one.beta.data.fill_(0.1)
        assert two.beta.item() == pytest.approx(expected)
    with pytest.raises(RuntimeError, match="floating point"):
        theirs.Leaky(1, learn_beta=True)
    assert ours.Leaky(1, learn_beta=True, threshold=1, learn_threshold=True).beta.dtype == torch.float32
    # A tensor that is part of a graph is not copied: its gradient arrives, in both.
    for library in (theirs, ours):
        raw = torch.tensor(0.0, requires_grad=True)
        library.Leaky(raw.sigmoid())(torch.zeros(1), torch.ones(1))[1].sum().backward()
        assert raw.grad.item() == 0.25


def test_one_to_one_weights_move_with_the_neuron():
    """There, weights that do not learn stay behind when the neuron is converted or moved."""
    options = {"V": 0.5, "all_to_all": False, "linear_features": None, "learn_recurrent": False}
    peer, mine = both("RLeaky", **options)
    x = torch.full((1, 3), 3.0, dtype=torch.float64)
    assert peer.double().recurrent.V.dtype == torch.float32
    mine.double().V.fill_(2.0)
    spk, mem = mine(x)
    assert mine(0 * x, spk, mem)[1].tolist() == [[0.5 * 3 + 2.0 - 1.0] * 3]


@pytest.mark.parametrize(
    "options",
    [
        {"all_to_all": True},
        {"conv2d_channels": 3},
        {"kernel_size": 3},
        {"linear_features": 3, "kernel_size": 3},
        {"all_to_all": False, "linear_features": 3},
    ],
    ids=lambda options: ",".join(options),
)
def test_connections_that_are_not_clear(options):
    for library in (theirs, ours):
        for make in (lambda o, library=library: library.RLeaky(0.5, **o), lambda o, library=library: library.RSynaptic(0.5, 0.5, **o)):
            with pytest.raises(TypeError, match=r"linear_features|conv2d_channels"):
                make(options)


def test_connections_that_do_not_fit():
    with pytest.raises(ValueError, match=r"is among 3 neurons, but the input has shape \(2, 4\)"):
        ours.RLeaky(0.5, linear_features=3)(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"makes \(1, 2, 6, 6\) of spikes of shape \(1, 2, 5, 5\), .* an odd `kernel_size`"):
        ours.RLeaky(0.5, conv2d_channels=2, kernel_size=2)(torch.ones(1, 2, 5, 5))
    with pytest.raises(ValueError, match=r"`beta` of shape \(4,\) does not fit the input of shape \(2, 3\)"):
        ours.Leaky(torch.ones(4))(torch.ones(2, 3))


@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic"])
@pytest.mark.parametrize("kernel_size", [3, (1, 5)])
def test_convolutional_recurrence(name, kernel_size):
    decays = {key: value for key, value in NEURONS[name].items() if key != "linear_features"}
    peer, mine = (getattr(library, name)(**decays, conv2d_channels=2, kernel_size=kernel_size) for library in (theirs, ours))
    mine.load_state_dict(peer.state_dict())
    x = torch.rand(8, 3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    outputs = [sum(neuron(current)[-1].sum() for current in x) for neuron in (peer, mine)]
    assert torch.equal(*outputs)
    for out in outputs:
        out.backward()
    torch.testing.assert_close(mine.recurrent.weight.grad, peer.recurrent.weight.grad, rtol=1e-4, atol=1e-4)


def test_nan_potential():
    """T-12: there, it gives no spike."""
    x = torch.tensor([float("nan"), 2.0])
    peer, mine = both()
    assert values(peer(x))[0] == [0.0, 1.0]
    assert mine(x)[0].isnan().tolist() == [True, False]


def test_surrogate_that_spikes_twice():
    """Kept: what is reset is decided by the given function, which may return 2."""
    for neuron in both(spike_grad=lambda x: 2 * (x > 0).float()):
        _, mem = neuron(torch.zeros(1), neuron(torch.tensor([3.0]))[1])
        assert mem.item() == 0.5 * 3.0 - 2.0


def test_static_methods():
    """There, `zeros` does nothing."""
    for library, expected in ((theirs, 0.4), (ours, 0.0)):
        state = torch.tensor([0.4], requires_grad=True) * 1
        library.SpikingNeuron.detach(state)
        assert not state.requires_grad
        library.SpikingNeuron.zeros(state)
        assert state.item() == pytest.approx(expected)


@pytest.mark.parametrize("delayed", [True, False])
def test_methods_for_subclasses(delayed):
    """`fire`, `fire_inhibition` and `mem_reset`, which neurons of a user's own are made from."""
    options = {"threshold": 0.5, "graded_spikes_factor": 2.5, "reset_delay": delayed, "state_quant": lambda u: u.round()}
    peer, mine = both(**options)
    mem = torch.tensor([[0.7, 0.4, 1.6], [0.1, 0.3, 0.2]])
    assert torch.equal(peer.fire(mem), mine.fire(mem))
    assert torch.equal(peer.fire_inhibition(2, mem), mine.fire_inhibition(2, mem))
    assert torch.equal(peer.mem_reset(mem), mine.mem_reset(mem))


def test_recurrent_states_are_all_reset_and_detached():
    """There, `RSynaptic` forgets about its spikes."""
    for library, expected in ((theirs, (True, True)), (ours, (False, False))):
        neuron = library.RSynaptic(0.5, 0.5, V=1.0, all_to_all=False)
        neuron(torch.full((1,), 2.0, requires_grad=True))
        library.RSynaptic.detach_hidden()
        attached = neuron.spk.requires_grad
        library.RSynaptic.reset_hidden()
        assert (attached, bool(neuron.spk.any())) == expected
