"""A neuron of `spikegrad.compat.snntorch` is a good PyTorch module: it copies, saves, loads, compiles, and lives in one network alone."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn

from spikegrad.compat import snntorch as snn

STEPS, BATCH, FEATURES = 6, 4, 5
MAKE = {
    "Leaky": lambda **options: snn.Leaky(0.9, **options),
    "Synaptic": lambda **options: snn.Synaptic(0.8, 0.9, **options),
    "RLeaky": lambda **options: snn.RLeaky(0.9, linear_features=FEATURES, **options),
    "RLeaky one-to-one": lambda **options: snn.RLeaky(0.9, all_to_all=False, **options),
    "RSynaptic": lambda **options: snn.RSynaptic(0.8, 0.9, linear_features=FEATURES, **options),
    "Alpha": lambda **options: snn.Alpha(0.9, 0.8, threshold=0.3, **options),
    "Lapicque": lambda **options: snn.Lapicque(0.9, threshold=0.3, **options),
}
IMMEDIATE = [name for name in MAKE if name not in ("Alpha", "Lapicque")]


@pytest.fixture(autouse=True)
def one_thread():
    """Several only get in each other's way here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=MAKE)
def make(request):
    torch.manual_seed(0)
    return MAKE[request.param]


@pytest.fixture
def currents():
    return torch.randn(STEPS, BATCH, FEATURES, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.5


def run(neuron, currents):
    """Spikes of all steps, from rest."""
    states = neuron.reset_mem()
    states = states if isinstance(states, tuple) else (states,)
    count, spikes = len(states), []
    for current in currents.unbind(0):
        out = neuron(current) if neuron.init_hidden else neuron(current, *states)
        spikes.append(out if neuron.init_hidden else out[0])
        if not neuron.init_hidden:
            states = out[len(out) - count :]
    return torch.stack(spikes)


def own(neuron):
    return [getattr(neuron, name) for name in neuron.STATES]


def gradient(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).square().sum(), x)[0]


def saved_and_loaded(neuron):
    file = io.BytesIO()
    torch.save(neuron, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda neuron: pickle.loads(pickle.dumps(neuron)), "torch.save": saved_and_loaded}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("hidden", [False, True], ids=["", "init_hidden"])
def test_copies_after_a_forward_with_gradient(make, how, hidden, currents):
    """The copy goes on from the same states, on its own, and is reached by `reset_hidden` as the original is."""
    neuron = make(init_hidden=hidden, learn_beta=True)
    run(neuron, currents.requires_grad_())
    assert own(neuron)[-1].requires_grad
    other = COPIES[how](neuron)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(own(neuron), own(other), strict=True))
    with torch.no_grad():
        first = neuron(currents[0]), other(currents[0])
    assert torch.equal(*(out if hidden else out[0] for out in first))
    other(currents[1])
    assert not torch.equal(own(neuron)[-1], own(other)[-1])
    kept = other.beta.item()
    neuron.beta.data.fill_(0.1)
    assert other.beta.item() == kept != neuron.beta.item()
    type(neuron).reset_hidden()
    assert not any(state.any() for state in own(neuron) + own(other))
    assert torch.equal(other.state_dict()["reset_mechanism_val"], neuron.state_dict()["reset_mechanism_val"])


@pytest.mark.parametrize("into", ["subtract", "zero", "none"])
def test_loading_changes_the_reset(make, into, currents):
    """Loaded, assigned or given to the constructor, a reset mechanism is the same."""
    spikes = {}
    for reset in ("subtract", "zero", "none"):
        torch.manual_seed(0)
        neuron = make(reset_mechanism=reset)
        wanted = run(neuron, 3 * currents)
        other = make(reset_mechanism=into)
        other.load_state_dict(neuron.state_dict())
        assert other.reset_mechanism == reset
        assert torch.equal(run(other, 3 * currents), wanted)
        torch.manual_seed(0)
        other = make(reset_mechanism=into)
        other.reset_mechanism = reset
        assert torch.equal(run(other, 3 * currents), wanted)
        assert other.state_dict()["reset_mechanism_val"] == neuron.state_dict()["reset_mechanism_val"]
        spikes[reset] = wanted.sum().item()
    assert spikes["subtract"] != spikes["none"] != spikes["zero"], "the resets cannot be told apart"


def test_what_is_loaded_must_be_a_reset():
    state = {**snn.Leaky(0.5).state_dict(), "reset_mechanism_val": torch.tensor(7)}
    with pytest.raises(RuntimeError, match=r"reset_mechanism_val must be the place of one of .*, got 7"):
        snn.Leaky(0.5).load_state_dict(state)


@pytest.mark.parametrize("hidden", [False, True], ids=["", "init_hidden"])
def test_batch_size_changes(make, hidden, currents):
    """What a neuron keeps does not fit another batch, so that starts from rest; also where `reset_mem` is of the batch before."""
    neuron = make(init_hidden=hidden)
    wanted = run(make(init_hidden=hidden), currents[:, :2]) if neuron.STATES[0] != "spk" else None
    run(neuron, currents)
    got = run(neuron, currents[:, :2])
    assert got.shape == (STEPS, 2, FEATURES)
    assert wanted is None or torch.equal(got, wanted)
    run(neuron, currents)
    without_reset = neuron(currents[0, :2])
    assert torch.equal(without_reset if hidden else without_reset[0], got[0])


def test_given_states_must_fit(make, currents):
    neuron = make()
    wrong = torch.full((7, FEATURES), 0.5)
    for position, name in enumerate(neuron.STATES):
        states = [None] * len(neuron.STATES)
        states[position] = wrong
        with pytest.raises(ValueError, match=rf"`{name}` of shape \(7, 5\) does not fit the input of shape \(4, 5\); pass a state"):
            neuron(currents[0], *states)
    assert not any(state.numel() for state in own(neuron)), "a refused state was kept"
    one, broadcast, full = ([torch.full(shape, 0.25) for _ in neuron.STATES] for shape in ((1,), (FEATURES,), (BATCH, FEATURES)))
    outputs = [neuron(currents[0], *states) for states in (one, broadcast, full)]
    assert all(torch.equal(a, b) for out in outputs[:2] for a, b in zip(out, outputs[2], strict=True))
    assert not torch.equal(outputs[2][-1], neuron(currents[0], *neuron.reset_mem() if len(one) > 1 else [neuron.reset_mem()])[-1])
    hidden = make(init_hidden=True)
    with pytest.raises(TypeError, match=r"with init_hidden=True, which keeps its own states; leave it out"):
        hidden(currents[0], *full)
    assert not any(state.numel() for state in own(hidden)), "a refused state was kept"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0.5, 1.0],), "`input_` of Synaptic must be a tensor, got list"),
        ((torch.ones(3, dtype=torch.complex64),), "expected a floating-point tensor, got torch.complex64"),
        ((torch.ones(3), (torch.ones(3), torch.ones(3))), "`syn` must be a tensor, got tuple; each of syn, mem is passed by itself"),
    ],
)
def test_what_is_no_tensor(arguments, match):
    with pytest.raises(TypeError, match=match):
        snn.Synaptic(0.5, 0.5)(*arguments)
    with pytest.raises(TypeError, match="`beta` of Leaky must be a number or a tensor, got 'a'"):
        snn.Leaky("a")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_dtype_in_dtype_out(make, dtype, reset, currents):
    """Spikes have the dtype of the input, states too but for half types; a converted network runs and trains."""
    neuron = make(reset_mechanism=reset, learn_beta=True).to(dtype)
    states = ()
    for current in currents.to(dtype).unbind(0):
        out = neuron(current, *states)
        states = out[len(out) - len(neuron.STATES) :]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert out[0].dtype == dtype
    assert {state.dtype for name, state in zip(neuron.STATES, states, strict=True) if name != "spk"} == {wide}
    out[-1].sum().backward()
    assert neuron.beta.grad.dtype == dtype
    converted = make(init_hidden=True)
    run(converted, currents)
    assert {state.dtype for state in own(converted.double())} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_whole_numbers_count_as_float32(make, dtype):
    spikes, neuron = torch.tensor([[0, 1, 1, 0, 1]]).to(dtype), make()
    whole, wanted = run(neuron, spikes[None]), run(neuron, spikes[None].float())
    assert whole.dtype == torch.float32
    assert torch.equal(whole, wanted)


def test_half_precision_is_computed_in_float32(currents):
    neuron = snn.Leaky(0.9)
    half = currents.bfloat16()
    wanted = run(neuron, half.float())
    assert torch.equal(run(neuron, half).float(), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        spk, mem = neuron(nn.Linear(FEATURES, FEATURES)(currents[0]))
    assert (spk.dtype, mem.dtype) == (torch.bfloat16, torch.float32)


def test_two_networks_in_one_process(currents):
    """`utils.reset` reaches every layer of its network, however deep, and none of another; the class methods reach them all."""

    def network():
        inner = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Sequential(snn.Leaky(0.9, init_hidden=True)))
        return nn.Sequential(snn.Synaptic(0.8, 0.9, init_hidden=True), inner, snn.Leaky(0.9, init_hidden=True))

    one, two = network(), network()
    one(currents[0]), two(currents[0])
    kept = [state.clone() for module in two.modules() if isinstance(module, snn.SpikingNeuron) for state in own(module)]
    snn.utils.reset(one)

    def states(net, kind=snn.SpikingNeuron):
        return [state for module in net.modules() if isinstance(module, kind) for state in own(module)]

    assert not any(state.any() or state.requires_grad for state in states(one))
    assert all(torch.equal(a, b) for a, b in zip(states(two), kept, strict=True))
    snn.utils.reset(two[1][1][0])
    assert not own(two[1][1][0])[0].any()
    one(currents[0]), two(currents[0])
    snn.Leaky.reset_hidden()
    assert not any(state.any() for net in (one, two) for state in states(net, snn.Leaky))
    assert all(state.any() for net in (one, two) for state in states(net, snn.Synaptic))
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module"):
        snn.utils.reset([one])


def test_truncated_backpropagation(make, currents):
    """`detach_hidden` cuts the graph for the states that a user holds too, and leaves their values."""
    neuron = make(learn_beta=True)
    neuron(currents[0])
    out = neuron(currents[1])
    held = out[-1]
    held.sum().backward()
    before = held.clone()
    type(neuron).detach_hidden()
    assert not any(state.requires_grad for state in own(neuron))
    assert not held.requires_grad
    assert torch.equal(held, before)
    neuron(currents[2])[-1].sum().backward()
    neuron.STATES and setattr(neuron, "mem", torch.ones(1, requires_grad=True).expand(BATCH, FEATURES))
    type(neuron).detach_hidden()  # of a view, which PyTorch detaches not in place
    assert not neuron.mem.requires_grad


def test_nothing_is_kept_alive(currents):
    def dead(name):
        gone = MAKE[name](init_hidden=True)
        run(gone, currents)
        copy.deepcopy(gone)
        return weakref.ref(gone), weakref.ref(own(gone)[-1])

    references = {name: [dead(name) for _ in range(3)] for name in MAKE}
    gc.collect()  # once for all: it takes a second
    assert [name for name, pairs in references.items() for pair in pairs for reference in pair if reference() is not None] == []


def test_a_failed_constructor_is_not_among_the_living():
    attempts = [
        lambda: snn.Leaky(0.5, reset_mechanism="soft"),
        lambda: snn.Synaptic(0.5, None),
        lambda: snn.RLeaky(0.5),
        lambda: snn.Alpha(0.5, 0.6),
        lambda: snn.Lapicque(),
    ]
    alive = len(snn.SpikingNeuron._alive)
    errors = []
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)) as error:
            attempt()
        errors.append(error)  # its traceback keeps the half-made neuron alive
    assert len(snn.SpikingNeuron._alive) == alive
    for kind in (snn.Leaky, snn.Synaptic, snn.RLeaky, snn.Alpha, snn.Lapicque):
        kind.reset_hidden()
        kind.detach_hidden()


ALONE = [{"inhibition": True}, {"reset_delay": False}]
OPTIONS = [{}, {"init_hidden": True}, {"learn_beta": True, "reset_mechanism": "zero"}, {"inhibition": True, "reset_delay": False}, *ALONE]
FEW = [(name, {}) for name in MAKE] + [("Leaky", options) for options in OPTIONS if options not in ALONE] + [("Synaptic", ALONE[1])]
CASES = [
    pytest.param(name, options, id=f"{name}-{','.join(options)}", marks=() if (name, options) in FEW else pytest.mark.slow)
    for name in MAKE
    for options in OPTIONS
    if name in IMMEDIATE or "reset_delay" not in options
]
"""Every neuron as it is, Synaptic with an immediate reset; with all options Leaky, some of them together; the rest when there is time."""


# PyTorch's, of a layer compiled by itself whose own state has a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_compiles_in_one_graph(name, options, currents):
    """A whole loop over time, with the reset in it, for Leaky without a gradient and for another batch size too; the neuron by itself."""
    torch.compiler.reset()
    neuron, currents = MAKE[name](**options), currents[:2]
    loop = torch.compile(lambda x: run(neuron, x), fullgraph=True, backend="aot_eager")
    plain = name == "Leaky" and not options
    for x in (currents, currents[:, :2]) if plain else (currents,):
        leaf = x.clone().requires_grad_()
        spikes, wanted = loop(leaf), run(neuron, x)
        assert torch.equal(spikes, wanted)
        torch.testing.assert_close(torch.autograd.grad(spikes.square().sum(), leaf)[0], gradient(lambda x: run(neuron, x), x))
        assert not plain or torch.equal(loop(x), wanted)
    wanted, compiled = run(neuron, currents), torch.compile(neuron, fullgraph=True, backend="aot_eager")
    neuron.reset_mem()
    spikes = [compiled(current) for current in currents.unbind(0)]
    assert torch.equal(torch.stack([s if neuron.init_hidden else s[0] for s in spikes]), wanted)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_transforms(name, options, currents):
    """vmap over the samples is the batch, vmap(grad) its gradients, and the same again when compiled."""
    neuron, currents = MAKE[name](**options), currents[:2]
    vmap, grad = torch.func.vmap, torch.func.grad

    def loss(x):
        return run(neuron, x).square().sum()

    wanted, slopes = run(neuron, currents), gradient(lambda x: run(neuron, x), currents)
    before = own(neuron)
    assert torch.equal(vmap(lambda x: run(neuron, x), 1, 1)(currents), wanted)
    per_sample = vmap(grad(loss), 1, 1)
    torch.testing.assert_close(per_sample(currents), slopes)
    torch.testing.assert_close(grad(loss)(currents), slopes)
    if neuron.init_hidden:
        return
    assert all(a is b for a, b in zip(own(neuron), before, strict=True)), "a transform changed the neuron"
    tangent = torch.func.jvp(lambda x: run(neuron, x), (currents,), (torch.ones_like(currents),))[1]
    assert tangent.shape == wanted.shape
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(per_sample, fullgraph=True, backend="aot_eager")(currents), slopes)


LEAVE = {
    "vmap": lambda neuron, x: torch.func.vmap(neuron)(x.expand(3, *x.shape)),
    "grad": lambda neuron, x: torch.func.grad(lambda x: neuron(x).sum())(x),
    "vmap(grad)": lambda neuron, x: torch.func.vmap(torch.func.grad(lambda x: neuron(x).sum()))(x.expand(3, *x.shape)),
}


@pytest.mark.parametrize("leave", LEAVE)
def test_what_a_transform_leaves_behind_means_nothing_outside(make, leave, currents):
    """States that a neuron kept inside are rest in the next call, also of the same shape, in a copy, and in a conversion."""
    neuron = make(init_hidden=True, output=True)
    wanted = [out.clone() for out in neuron(currents[0])]

    def left():
        neuron.reset_mem()
        LEAVE[leave](lambda x: neuron(x)[0], currents[0])
        return neuron

    for take in (lambda neuron: neuron, copy.deepcopy, nn.Module.float):
        again = take(left())(currents[0])
        assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))
    left()
    type(neuron).detach_hidden()
    assert not any(state.numel() for state in own(neuron))
    left()
    snn.utils.reset(neuron)
    assert not any(state.numel() for state in own(neuron))


def test_a_pure_neuron_starts_from_rest_inside_a_transform(make, currents):
    """Also where the states it has outside would fit."""
    neuron = make()
    wanted = neuron(currents[0])[-1].detach()
    inside = []
    torch.func.grad(lambda x: inside.append(neuron(x)[-1]) or inside[0].sum())(currents[0])
    assert torch.equal(torch._C._functorch.get_unwrapped(inside[0]).detach(), wanted)


def test_a_transform_of_one_call_starts_from_rest(make, currents):
    neuron = make()
    neuron(currents[0])
    fresh, got = make(), torch.func.vmap(neuron)(currents[0])
    fresh.load_state_dict(neuron.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(got, fresh(currents[0]), strict=True))


def test_states_kept_in_a_compiled_transform_are_refused(currents):
    neuron = snn.Leaky(0.9, init_hidden=True)
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"cannot keep its states inside a torch.func transform that is compiled|Observed exception"):
        torch.compile(torch.func.vmap(neuron), fullgraph=True, backend="aot_eager")(currents[0])


def test_ensembles_of_parameters(currents):
    """`functional_call` under vmap, over stacked parameters and buffers."""
    neurons = [snn.Leaky(beta, threshold=threshold, learn_beta=True) for beta, threshold in ((0.5, 1.0), (0.9, 0.7))]
    parameters, buffers = torch.func.stack_module_state(neurons)

    def call(parameters, buffers, x):
        return torch.func.functional_call(neurons[0], (parameters, buffers), (x,))[0]

    got = torch.func.vmap(call, (0, 0, None))(parameters, buffers, currents[0])
    assert torch.equal(got, torch.stack([neuron(currents[0])[0] for neuron in neurons]))


@pytest.mark.parametrize("hidden", [False, True], ids=["", "init_hidden"])
def test_a_network_in_the_style_of_sequential_trains(hidden):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        snn.Leaky(0.8, init_hidden=True),
        nn.Flatten(),
        nn.Linear(3 * 8 * 8, 4),
        snn.Leaky(0.8, init_hidden=True, output=hidden),
    )
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 4
    images += torch.nn.functional.one_hot(labels, 64).reshape(16, 1, 8, 8) * 3
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        snn.utils.reset(net)
        outputs = [net(images) for _ in range(6)]
        counted = sum(out[0] if hidden else out for out in outputs)
        loss = torch.nn.functional.cross_entropy(counted, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
