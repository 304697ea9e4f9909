"""Delayed reset is snnTorch's default: its spikes bit for bit, its gradients to float32 accuracy."""

import pytest
import torch

from spikegrad import ATan, nn

snn = pytest.importorskip("snntorch")

STEPS, BATCH, FEATURES = 25, 4, 5
FUSED = (("Leaky", "subtract"), ("Synaptic", "zero"))
"""Layers whose kernels are compared; those of the others are compared with the plain loop in test_kernels.py."""


def gradients(outputs, inputs):
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((outputs * weights).sum(), inputs)


def drive(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(STEPS, BATCH, FEATURES, generator=generator).mul_(0.8).add_(0.3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_delayed_reset_is_snntorch(kind, reset, seed):
    decays = {"beta": 0.85} if kind == "Leaky" else {"alpha": 0.7, "beta": 0.85}
    learned = {f"learn_{name}": True for name in (*decays, "threshold")}
    theirs = getattr(snn, kind)(**decays, **learned, threshold=0.9, reset_mechanism=reset, spike_grad=snn.surrogate.atan(alpha=2.0))
    backend = "numba" if (kind, reset) in FUSED else "reference"
    options = {"reset": reset, "reset_delay": True, "spike_at_threshold": False, "spike": ATan(2.0), "backend": backend}
    ours = getattr(nn, kind)(**decays, **learned, threshold=0.9, **options)
    # The learned coordinate rounds the value by an ulp; bit for bit means the same numbers in.
    for name in decays:
        getattr(theirs, name).data.copy_(getattr(ours, name).detach())
    theirs.threshold.data.copy_(ours.threshold.detach())

    currents = drive(seed).requires_grad_()
    state = theirs.init_leaky() if kind == "Leaky" else theirs.init_synaptic()
    state = state if isinstance(state, tuple) else (state,)
    spikes, potentials = [], []
    for current in currents.unbind(0):
        spike, *state = theirs(current, *state)
        spikes.append(spike)
        potentials.append(state[-1])
    spikes, potentials = torch.stack(spikes), torch.stack(potentials)
    out, _, recorded = ours(currents, record=True)

    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(out, spikes)
    assert torch.equal(recorded, potentials)

    names = (*decays, "threshold")
    peers = gradients(spikes, [currents, *(getattr(theirs, name) for name in names)])
    coordinates = [f"{name}_logit" for name in decays] + ["threshold_log"]
    mine = gradients(out, [currents, *(getattr(ours, name) for name in coordinates)])
    torch.testing.assert_close(mine[0], peers[0], rtol=1e-5, atol=1e-6)
    for name, gradient, peer in zip(names, mine[1:], peers[1:], strict=True):
        # Chain rule through the coordinate: d beta / d logit = beta (1 - beta), d theta / d log = theta.
        value = getattr(ours, name).detach()
        inner = value if name == "threshold" else value * (1 - value)
        torch.testing.assert_close(gradient, peer * inner, rtol=2e-5, atol=1e-5)


def test_traces_written_down_for_snntorch():
    """What snnTorch 1.0.0 prints for alpha = beta = 0.5 and input 1.5, 0, 0, 0."""
    currents = torch.tensor([[1.5], [0.0], [0.0], [0.0]])
    traces = {"subtract": [1.5, 0.5, 0.625, 0.5], "zero": [1.5, 0.0, 0.375, 0.375], "none": [1.5, 1.5, 1.125, 0.75]}
    for reset, expected in traces.items():
        _, (i, v), potentials = nn.Synaptic(0.5, 0.5, reset=reset, reset_delay=True)(currents, record=True)
        assert potentials.ravel().tolist() == expected
        assert (i.item(), v.item()) == (0.1875, expected[-1])
