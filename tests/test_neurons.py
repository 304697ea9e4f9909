"""The neurons: their equations written a second time in NumPy, and what users rely on around them."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

from spikegrad import ATan, FastSigmoid, NoisyThreshold, nn

RESETS = ("subtract", "zero", "none")
KINDS = ("Leaky", "Synaptic", "RecurrentLeaky", "RecurrentSynaptic")


def independent(currents, alpha, beta, theta, reset, delay, weights=None, at_threshold=True):
    """Spikes and potentials of one layer in NumPy, straight from the equations; `alpha` None for Leaky."""
    fired = np.greater_equal if at_threshold else np.greater
    i, v, s = (np.zeros_like(currents[0]) for _ in range(3))
    spikes, potentials = [], []
    for current in currents:
        r = s
        feedback = 0 if weights is None else s @ weights.T if weights.ndim == 2 else s * weights
        kept = (1 - r) * v if delay and reset == "zero" and alpha is None else v
        if alpha is None:
            u = beta * kept + (current + feedback)
        else:
            i = alpha * i + (current + feedback)
            u = beta * kept + i
            u = (1 - r) * u if delay and reset == "zero" else u
        u = u - r * theta if delay and reset == "subtract" else u
        s = fired(u - theta, 0).astype(currents.dtype)
        v = u if delay or reset == "none" else u - theta * s if reset == "subtract" else (1 - s) * u
        spikes.append(s)
        potentials.append(u)
    return np.stack(spikes), np.stack(potentials)


def build(kind, features=6, **options):
    """A layer of the kind, with dyadic recurrent weights so that sums are exact in any order."""
    decays = {"alpha": 0.75, "beta": 0.875} if "Synaptic" in kind else {"beta": 0.875}
    if "Recurrent" in kind:
        layer = getattr(nn, kind)(features, **decays, **options)
        layer.weight.data = torch.randint(-4, 5, layer.weight.shape, generator=torch.Generator().manual_seed(1)) / 16
        return layer
    return getattr(nn, kind)(**decays, **options)


def drive(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).add(0.3).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_threshold", [True, False])
@pytest.mark.parametrize(("kind", "reset", "delay"), list(itertools.product(KINDS, RESETS, [False, True])))
def test_equations(kind, reset, delay, at_threshold, dtype):
    # Inputs on a grid of 1/16 make potentials land on the threshold exactly, where `spike_at_threshold` decides.
    currents = (drive(30, 3, 6, dtype=dtype) * 16).round() / 16
    # Kernels are compared with the plain loop in test_kernels.py.
    backend = "auto" if at_threshold and not delay and dtype == torch.float32 and reset == "subtract" else "reference"
    layer = build(kind, reset=reset, reset_delay=delay, spike_at_threshold=at_threshold, backend=backend)
    with torch.no_grad():
        spikes, _, potentials = layer(currents, record=True)
    alpha = getattr(layer, "alpha", None)
    weights = None if layer.weight is None else layer.weight.detach().numpy().astype(currents.numpy().dtype)
    expected = independent(currents.numpy(), alpha, layer.beta, 1.0, reset, delay, weights, at_threshold)
    assert 0.02 < spikes.mean() < 0.98
    np.testing.assert_array_equal(spikes.numpy(), expected[0])
    np.testing.assert_array_equal(potentials.numpy(), expected[1])


@pytest.mark.parametrize("connection", ["all-to-all", "one-to-one"])
@pytest.mark.parametrize("kind", ["RecurrentLeaky", "RecurrentSynaptic"])
def test_connections(kind, connection):
    layer = build(kind, connection=connection)
    assert layer.weight.shape == ((6, 6) if connection == "all-to-all" else (6,))
    currents = drive(10, 2, 6)
    spikes, state = layer(currents)
    expected, _ = independent(currents.numpy(), getattr(layer, "alpha", None), 0.875, 1.0, "subtract", False, layer.weight.detach().numpy())
    np.testing.assert_array_equal(spikes.detach().numpy(), expected)
    torch.testing.assert_close(state[-1], spikes[-1])
    (spikes * currents).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_gradient_through_the_reset(reset, detach):
    """The factor from one step to the next, du[1]/du[0]: beta times (1 - theta g), 1 - s - u g, or 1 where detached.

    Of the plain loop, with which kernels are compared in test_kernels.py.
    """
    spike, u0 = ATan(), 1.25
    currents = torch.tensor([[u0], [0.1]], dtype=torch.float64, requires_grad=True)
    layer = nn.Leaky(0.9, spike=spike, reset=reset, detach_reset=detach, backend="reference")
    _, _, potentials = layer(currents, record=True)
    (gradient,) = torch.autograd.grad(potentials[1].sum(), currents)
    g = 0.0 if detach else spike.derivative(u0 - 1.0)
    factor = {"subtract": 1 - g, "zero": -u0 * g, "none": 1.0}[reset]
    torch.testing.assert_close(gradient[0].item(), 0.9 * factor)


@pytest.mark.parametrize("detach", [True, False])
def test_the_threshold_receives_gradient_through_the_reset(detach):
    """theta moves v by -s even where s is detached: u[1] = beta (u[0] - theta s[0]) + I[1]."""
    layer = nn.Leaky(0.9, threshold=torch.tensor(0.8, dtype=torch.float64), learn="threshold", detach_reset=detach, backend="reference")
    currents = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    _, _, potentials = layer(currents, record=True)
    (of_logarithm,) = torch.autograd.grad(potentials[1].sum(), layer.threshold_log)
    gradient = of_logarithm / layer.threshold
    g = 0.0 if detach else ATan().derivative(0.2)
    torch.testing.assert_close(gradient.item(), 0.9 * (-1 + 0.8 * g))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay", [False, True])
def test_streaming_is_the_whole_sequence(kind, delay):
    layer, currents = build(kind, reset_delay=delay).requires_grad_(False), drive(20, 3, 6)
    whole, last = layer(currents)
    state, pieces = None, []
    for piece in currents.split([1, 7, 12]):
        spikes, state = layer(piece, state)
        pieces.append(spikes)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=0)
    torch.testing.assert_close(state, last, rtol=0, atol=0)
    torch.testing.assert_close(layer(currents)[0], whole, rtol=0, atol=0)  # nothing was kept


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_is_one_sample(kind):
    layer, currents = build(kind), drive(12, 6)
    torch.testing.assert_close(layer(currents)[0], layer(currents[:, None])[0][:, 0])


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("Leaky", dtype) for dtype in DTYPES),
        ("RecurrentSynaptic", torch.float16),
        *(pytest.param("RecurrentSynaptic", dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:]),
    ],
)
def test_dtypes(kind, dtype):
    """Spikes have the dtype of the currents; states and potentials are float32 for half types."""
    layer, currents = build(kind).to(dtype), drive(8, 2, 6, dtype=dtype).requires_grad_()
    spikes, state, potentials = layer(currents, record=True)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = state if isinstance(state, tuple) else (state,)
    assert spikes.dtype == dtype
    assert {s.dtype for s in (*state, potentials)} == {wide}
    expected, _, _ = build(kind)(currents.detach().to(wide), record=True)
    torch.testing.assert_close(spikes, expected.to(dtype), rtol=0, atol=0)
    (spikes * currents.detach() + potentials * currents.detach()).sum().backward()
    assert currents.grad.dtype == dtype
    assert currents.grad.isfinite().all()


def test_autocast_keeps_the_state_in_float32():
    layer, linear = nn.Leaky(0.9), torch.nn.Linear(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        spikes, state = layer(linear(torch.rand(5, 2, 4)))
    assert spikes.dtype == torch.bfloat16
    assert state.dtype == torch.float32


@pytest.mark.parametrize("per_neuron", [False, True])
def test_learned_parameters(per_neuron):
    value = torch.linspace(0.5, 0.95, 6) if per_neuron else 0.9
    layer = nn.Synaptic(value, value, value, learn_alpha=True, learn_beta=True, learn_threshold=True)
    assert sorted(layer.state_dict()) == ["alpha_logit", "beta_logit", "threshold_log"]
    torch.testing.assert_close(layer.beta.detach(), torch.as_tensor(value))
    optimiser = torch.optim.SGD(layer.parameters(), lr=100.0)
    for sign in (1, -1):  # push hard against both ends of the range
        for _ in range(3):
            optimiser.zero_grad()
            (sign * layer(drive(20, 3, 6))[0].mean()).backward()
            assert all(p.grad.isfinite().all() for p in layer.parameters())
            optimiser.step()
        for name in ("alpha", "beta"):
            assert ((getattr(layer, name) >= 0) & (getattr(layer, name) <= 1)).all()
        assert (layer.threshold > 0).all()
    twin = nn.Synaptic(value, value, value, learn_alpha=True, learn_beta=True, learn_threshold=True)
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin(drive(20, 3, 6))[0], layer(drive(20, 3, 6))[0], rtol=0, atol=0)


def test_a_fixed_number_is_exact_in_float64():
    _, _, potentials = nn.Leaky(0.9).double()(torch.ones(2, 1, dtype=torch.float64), record=True)
    _, _, unreset = nn.Leaky(0.9, reset="none").double()(torch.ones(2, 1, dtype=torch.float64), record=True)
    assert unreset[1].item() == 1.9
    assert potentials[1].item() == 1.0


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 4), (2, 3, 2, 2, 2)])
def test_inhibition_lets_one_feature_of_a_sample_spike(shape):
    """`shape` is that of one step: without a batch, (batch, features), or a convolution's (batch, channel, ...)."""
    currents = drive(15, *shape).abs().add(0.5)
    layer = nn.Leaky(0.9, inhibition=True)
    spikes, _, potentials = layer(currents, record=True)
    flat = spikes.reshape(15, shape[0] if len(shape) > 1 else 1, -1)
    per_sample = flat.sum(-1)
    assert per_sample.max() == 1
    assert per_sample.sum() > 0
    winner = potentials.reshape(flat.shape).argmax(-1)
    assert (flat.argmax(-1)[per_sample > 0] == winner[per_sample > 0]).all()
    # A neuron that was kept from spiking is not reset.
    assert potentials.max() > 1.5


def test_quantisation_of_the_state():
    quantize = nn.Quantize(bits=4, low=-2.0, high=2.0)
    currents = drive(10, 2, 6).requires_grad_()
    spikes, _, potentials = nn.Leaky(0.9, quantize=quantize, reset="none")(currents, record=True)
    levels = torch.linspace(-2, 2, 16)
    assert (potentials.detach()[..., None] - levels).abs().min(-1).values.max() < 1e-6
    spikes.sum().backward()
    assert currents.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(), (6,)])
def test_a_layer_learns_its_surrogate(shape):
    layer = nn.Leaky(0.9, spike=nn.Spike(FastSigmoid(5.0), learn="slope", shape=shape))
    before = layer.spike.learned()["slope"].detach().clone()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(drive(10, 3, 6))[0].pow(2).sum().backward()
    optimiser.step()
    after = layer.spike.learned()["slope"].detach()
    assert after.shape == shape
    assert (after != before).all()
    assert "spike.slope_log" in layer.state_dict()


def test_noise_is_drawn_in_training_and_not_in_evaluation():
    layer = nn.Leaky(0.9, spike=nn.Spike(NoisyThreshold(5.0), generator=torch.Generator().manual_seed(0)))
    currents = drive(5, 2, 6)
    soft = layer(currents)[0]
    assert not torch.equal(soft, layer(currents)[0])
    hard = layer.eval()(currents)[0]
    assert set(hard.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(hard, layer(currents)[0])


def test_gradients_are_the_same_in_evaluation():
    layer, currents = nn.Leaky(0.9), drive(5, 2, 6).requires_grad_()
    train = torch.autograd.grad(layer(currents)[0].sum(), currents)[0]
    torch.testing.assert_close(torch.autograd.grad(layer.eval()(currents)[0].sum(), currents)[0], train)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_compilation(kind):
    layer, currents = build(kind, spike=ATan(3.0)), drive(6, 2, 6).requires_grad_()
    weights = drive(6, 2, 6, seed=1)
    spikes = layer(currents)[0]
    (spikes * weights).sum().backward()
    expected = currents.grad.clone()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.compile(layer, fullgraph=True, backend="aot_eager")):
        currents.grad = None
        out = twin(currents)[0]
        torch.testing.assert_close(out, spikes)
        (out * weights).sum().backward()
        torch.testing.assert_close(currents.grad, expected)


@pytest.mark.parametrize(("kind", "options"), [("Leaky", {"backend": "reference"}), ("RecurrentSynaptic", {"inhibition": True})])
def test_the_plain_loop_compiles(kind, options):
    layer, currents = build(kind, **options), drive(6, 2, 6).requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for wanted, found in zip(outcomes(layer, currents), outcomes(compiled, currents), strict=True):
        torch.testing.assert_close(found, wanted)


def outcomes(layer, currents):
    spikes, _ = layer(currents)
    return spikes, torch.autograd.grad(spikes.sum(), currents)[0]


@pytest.mark.parametrize("kind", ["Leaky", "RecurrentSynaptic"])
def test_transforms(kind):
    layer, currents = build(kind), drive(6, 2, 6)
    (expected,) = torch.autograd.grad(layer(currents.requires_grad_())[0].sum(), currents)
    currents = currents.detach()

    def total(x):
        return layer(x)[0].sum()

    torch.testing.assert_close(torch.func.grad(total)(currents), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total), in_dims=1, out_dims=1)(currents), expected)
    _, tangent = torch.func.jvp(total, (currents,), (torch.ones_like(currents),))
    torch.testing.assert_close(tangent, expected.sum(), rtol=1e-4, atol=1e-4)


def test_nan_is_not_hidden():
    currents = drive(5, 1, 6)
    currents[2, 0, 3] = float("nan")
    spikes, state = nn.Leaky(0.9)(currents)
    assert spikes[2:, 0, 3].isnan().all()
    assert state[0, 3].isnan()
    assert spikes[:, 0, :3].isfinite().all()


def test_no_time_steps():
    spikes, state, potentials = nn.Leaky(0.9)(torch.empty(0, 2, 3), record=True)
    assert spikes.shape == potentials.shape == (0, 2, 3)
    assert torch.equal(state, torch.zeros(2, 3))


def test_sequential_threads_state_and_folds_time():
    net = nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        nn.Leaky(0.9),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        nn.Sequential(torch.nn.Linear(36, 8), nn.RecurrentSynaptic(8, 0.8, 0.9)),
        torch.nn.Linear(8, 3),
        nn.LeakyIntegrator(0.9),
    ).eval()
    x = torch.rand(7, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    out, state = net(x)
    assert out.shape == (7, 2, 3)
    assert [s is None for s in state] == [True, True, False, True, True, False, True, False]
    pieces, state = [], None
    for piece in x.split(3):
        part, state = net(piece, state)
        pieces.append(part)
    torch.testing.assert_close(torch.cat(pieces), out)
    # The folded convolution is the convolution of each step.
    torch.testing.assert_close(net[0](x.flatten(0, 1)).unflatten(0, (7, 2)), torch.stack([net[0](step) for step in x]))
    (out * torch.rand(7, 2, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.Leaky(0.9)(torch.rand(700)), ValueError, r"\(time, batch, \*features\).*\(700,\).*currents\[None\]"),
        (lambda: nn.Leaky(0.9)(torch.rand(5, 2, 3), torch.zeros(4, 3)), ValueError, r"\(4, 3\).*\(5, 2, 3\) need \(2, 3\)"),
        (lambda: nn.Synaptic(0.9, 0.9)(torch.rand(5, 2, 3), torch.zeros(2, 3)), ValueError, r"must be \(i, v\), got 1 array"),
        (lambda: nn.Leaky(0.9)(torch.ones(5, 2, 3, dtype=torch.int64)), TypeError, "floating-point.*int64"),
        (lambda: nn.RecurrentLeaky(4, 0.9)(torch.rand(5, 2, 3)), ValueError, r"\(4, 4\) do not fit currents of shape \(5, 2, 3\)"),
        (lambda: nn.Leaky(1.5), ValueError, "`beta` of Leaky must be between 0 and 1, got 1.5"),
        (lambda: nn.Leaky(torch.tensor([0.5, -0.1])), ValueError, "between 0 and 1"),
        (lambda: nn.Leaky(float("nan")), ValueError, "`beta`"),
        (lambda: nn.Leaky(1.0, learn_beta=True), ValueError, "cannot start at the edge"),
        (lambda: nn.Leaky(0.9, 0.0), ValueError, "`threshold` of Leaky must be positive"),
        (lambda: nn.Leaky("0.9"), TypeError, "`beta` must be a number or a tensor, got str"),
        (lambda: nn.Leaky(0.9, reset="substract"), ValueError, "did you mean subtract"),
        (lambda: nn.Leaky(0.9, spike=torch.sigmoid), TypeError, "must be a surrogate"),
        (lambda: nn.Leaky(0.9, backend="cuda"), ValueError, "`backend` must be one of"),
        (lambda: nn.RecurrentLeaky(4, 0.9, connection="ring"), ValueError, "connection of a recurrent layer must be one of"),
        (lambda: nn.Sequential(nn.Leaky(0.9))(torch.rand(3, 2), (None, None)), ValueError, "one entry for each of the 1 modules, got 2"),
        (lambda: nn.Quantize(bits=0), ValueError, "`bits`"),
    ],
)
def test_errors_say_what_was_wrong(make, error, words):
    with pytest.raises(error, match=words):
        make()
