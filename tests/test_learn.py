"""One spelling of what is learned, everywhere, and the older ones; in `compat` the peer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from spikegrad import ATan, nn  # noqa: E402
from spikegrad.compat import snntorch as snn  # noqa: E402
from spikegrad.neurons import CATALOGUE  # noqa: E402

LAYERS: dict[str, Callable[..., Any]] = {
    "Leaky": lambda **o: nn.Leaky(0.9, **o),
    "Synaptic": lambda **o: nn.Synaptic(0.8, 0.9, **o),
    "RecurrentLeaky": lambda **o: nn.RecurrentLeaky(3, 0.9, **o),
    "RecurrentSynaptic": lambda **o: nn.RecurrentSynaptic(3, 0.8, 0.9, **o),
    "Layer": lambda **o: nn.Layer(CATALOGUE["Adaptive"](0.9), **o),
}


def learned(layer: Any) -> set[str]:
    return {name for name, _ in layer.named_parameters()} - {"weight"}


@pytest.mark.parametrize("kind", LAYERS)
def test_learn_in_every_layer(kind):
    assert learned(LAYERS[kind](learn="beta")) == {"beta_logit"}
    for slope in ("slope", "spike.slope"):
        assert learned(LAYERS[kind](learn=("beta", "threshold", slope))) == {"beta_logit", "threshold_log", "spike.slope_log"}
    if kind != "Layer":
        assert learned(LAYERS[kind](learn_beta=True, learn_threshold=True)) == {"beta_logit", "threshold_log"}
        assert learned(LAYERS[kind](learn_beta=True, learn=("beta", "threshold"))) == {"beta_logit", "threshold_log"}
    if "Synaptic" in kind:
        assert learned(LAYERS[kind](learn_alpha=True)) == learned(LAYERS[kind](learn=("alpha",))) == {"alpha_logit"}


def test_a_spike_by_itself():
    assert learned(nn.Spike(ATan(), learn="slope")) == learned(nn.Spike(ATan(), learn=("spike.slope",))) == {"slope_log"}


def test_what_never_spikes_learns_nothing_of_spikes():
    """It would be a parameter that never has a gradient."""
    assert learned(nn.LeakyIntegrator(0.9, learn_beta=True)) == learned(nn.LeakyIntegrator(0.9, learn=("beta",))) == {"beta_logit"}
    for names in ("slope", "spike.slope"):
        with pytest.raises(ValueError, match=r"^LeakyIntegrator has no number 'spike.slope'; choose from beta$|has no number 'slope'"):
            nn.LeakyIntegrator(0.9, learn=names)


OF_SNNTORCH: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "Leaky": (lambda **o: snn.Leaky(0.9, **o), {"beta", "threshold", "graded_spikes_factor"}),
    "Synaptic": (lambda **o: snn.Synaptic(0.8, 0.9, **o), {"alpha", "beta", "threshold"}),
    "Alpha": (lambda **o: snn.Alpha(0.9, 0.8, **o), {"alpha", "beta", "threshold"}),
    "Lapicque": (lambda **o: snn.Lapicque(0.9, **o), {"beta", "threshold"}),
    "RLeaky": (lambda **o: snn.RLeaky(0.9, V=0.5, all_to_all=False, learn_recurrent=False, **o), {"beta", "threshold"}),
    "RSynaptic": (lambda **o: snn.RSynaptic(0.8, 0.9, V=0.5, all_to_all=False, learn_recurrent=False, **o), {"alpha", "beta", "threshold"}),
}


@pytest.mark.parametrize("kind", OF_SNNTORCH)
def test_snntorch_s_spelling_and_a_learned_slope(kind):
    """All that can be learned at once, and the slope: each has the gradient that the whole sequence has, fused."""
    make, names = OF_SNNTORCH[kind]
    neuron = make(**{f"learn_{name}": True for name in names}, spike_grad=nn.Spike(ATan(), learn="slope"), init_hidden=True)
    assert learned(neuron) == names | {"spike_grad.slope_log"}
    x, found = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0)) * (20 if kind == "Lapicque" else 2), []
    with pytest.warns(snn.FusionWarning, match="its spike_grad, a Spike, is run as it is"):
        fused = snn.fuse(neuron)
    for run in (lambda: torch.stack([neuron(current) for current in x]), lambda: fused(x)):
        spikes = run()
        found.append([spikes.detach(), *torch.autograd.grad(spikes.cumsum(0).sum(), [*neuron.parameters()])])
    assert found[0][0].any()
    for stepped, whole in zip(*found, strict=True):
        torch.testing.assert_close(whole, stepped)
        assert stepped.abs().sum() > 0
