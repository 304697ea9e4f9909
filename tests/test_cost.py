"""What a network costs: counted by hand, and equal to NeuroBench's counts of the same network."""

from __future__ import annotations

import math

import pytest
import torch
from rich.console import Console

import spikegrad
from spikegrad import Spikes, nn
from spikegrad.training import Config, evaluate_cost, train


def weighted(module: torch.nn.Module, value: list) -> torch.nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.tensor(value))
    return module


def by_name(found) -> dict:
    return {layer.name: layer for layer in found.layers}


def test_operations_are_those_where_neither_weight_nor_input_is_zero():
    """Two steps of one sample; a step of spikes accumulates, one with other numbers multiplies, whatever stands in the rest of it."""
    net = nn.Sequential(
        weighted(torch.nn.Linear(3, 2), [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
        nn.Leaky(0.5, threshold=1.5, backend="reference"),
        weighted(torch.nn.Linear(2, 1, bias=False), [[1.0, 1.0]]),
        nn.LeakyIntegrator(0.5, backend="reference"),
    )
    net[0].bias.data.zero_()
    x = torch.tensor([[[1.0, 0.0, 1.0]], [[0.5, 1.0, 0.0]]])
    found = spikegrad.cost(net, x)
    first, neurons, second, readout = found.layers
    # Step 1: inputs 0 and 2 meet 2 and 1 weights that are not zero. Step 2: inputs 0 and 1 meet 2 and 1.
    assert (first.name, first.kind, first.dense, first.acs, first.macs) == ("0", "Linear", 12, 3, 3)
    assert (first.weights, first.zeros, first.connection_sparsity) == (6, 2, 1 / 3)
    # Currents (2, 1), then (0.5, 1.5): potentials (2, 1), spikes (1, 0), reset to (0.5, 1); then (0.75, 2), spikes (0, 1), (0.75, 0.5).
    assert (neurons.kind, neurons.updates, neurons.outputs, neurons.silent, neurons.activation_sparsity) == ("Leaky", 4, 4, 2, 0.5)
    assert (second.dense, second.acs, second.macs) == (4, 2, 0)
    assert (readout.updates, readout.outputs) == (2, 0)  # (1), then (1.5); it does not spike
    assert math.isnan(readout.activation_sparsity)
    assert (found.samples, found.dense, found.acs, found.macs, found.updates) == (1, 16, 5, 3, 6)
    assert (found.connection_sparsity, found.activation_sparsity) == (2 / 8, 0.5)
    parameters = 6 + 2 + 2
    assert found.parameters == parameters
    assert found.footprint == sum(x.numel() * x.element_size() for x in (*net.parameters(), *net.buffers()))
    assert found.uncounted == ()


def test_a_potential_that_stays_is_no_update():
    layer = nn.Leaky(1.0, threshold=1.0, backend="reference")
    found = spikegrad.cost(layer, torch.tensor([0.0, 0.0, 0.5, 0.0, 0.25, 0.0]).reshape(6, 1, 1))
    assert found.layers[0].updates == 1 + 2
    several = nn.Synaptic(0.5, 0.5, backend="reference")  # whose current changes on, while the potential is what counts
    found = spikegrad.cost(several, torch.tensor([0.5, 0.0]).reshape(2, 1, 1))
    assert found.layers[0].updates == 1  # i = 0.5, 0.25; v = 0.5, 0.25 + 0.25


def test_convolutions_count_no_border_and_samples_are_averaged():
    net = nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1, stride=2), nn.Leaky(0.9, backend="reference"))
    with torch.no_grad():
        net[0].weight.fill_(1.0)[1, 0, 0].zero_()
    x = torch.zeros(3, 2, 1, 4, 4)
    x[0, 0, 0, 0, 0] = 1.0  # in a corner: it meets the middle of one place only
    x[1, 0, 0, 1, 1] = 1.0  # it meets all four places
    x[2, 1, 0, 3, 3] = 0.5
    found = spikegrad.cost(net, x)
    layer = found.layers[0]
    # Of 2 x 2 places, 9 weights each: the padding takes 5, 3 and 3, so that 4 + 6 + 6 + 9 are met, by each of 2 filters.
    assert layer.dense == 3 * 2 * 2 * 25
    # The weights met at (1, 1) are [2, 2], [2, 0], [0, 2], [0, 0] of the kernel; the second filter's first row is zero.
    assert layer.acs == 1 + 1 + 4 + 2
    assert layer.macs == 1 + 1  # in the third step only the last place, whose kernel it meets at [2, 2]
    assert found.dense == layer.dense / 2
    assert (layer.weights, layer.zeros) == (18, 3)


def test_what_a_layer_feeds_back_is_counted_from_the_second_step():
    layer = nn.RecurrentLeaky(2, 0.5, backend="reference")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.25], [0.25, 0.25]]))
    found = by_name(spikegrad.cost(layer, torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]], [[0.0, 0.0]]])))
    fed = found[".recurrent"] if ".recurrent" in found else found["recurrent"]
    assert (fed.dense, fed.weights, fed.zeros) == (3 * 4, 4, 1)
    assert (fed.acs, fed.macs) == (1 + 2, 0)  # of neuron 0 one weight is not zero, of neuron 1 two


def test_whole_sequences_in_one_call_and_steps_in_many_count_alike():
    """Our layers get time folded into the batch, networks of snnTorch one step a call."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 3)
    x = torch.rand(6, 5, 4).round()
    x[2, 3, 1] = 0.5  # the whole step multiplies, of all samples
    whole = by_name(spikegrad.cost(nn.Sequential(linear, nn.Leaky(0.9, backend="reference")), x))["0"]
    assert whole.macs == 3 * int(x[2].count_nonzero())
    assert whole.acs == 3 * int(x.count_nonzero()) - whole.macs
    given = spikegrad.cost(nn.Sequential(linear, nn.Leaky(0.9, backend="reference")), [x, x[:, :2]])
    assert (given.samples, by_name(given)["0"].dense) == (7, 12 * 6 * 7)


def test_the_model_is_left_as_it_was_and_what_is_not_counted_is_named():
    net = nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), nn.Leaky(0.9, backend="reference"), torch.nn.Dropout(0.5), torch.nn.Linear(3, 2)
    )
    net[1].eval()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = spikegrad.cost(net.requires_grad_(), torch.rand(5, 6, 4))
    assert found.uncounted == ("1 (BatchNorm1d)",)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    console = Console(width=110)
    with console.capture() as shown:
        console.print(found)
    assert "not counted, as in NeuroBench: 1 (BatchNorm1d)" in shown.get()
    assert "footprint" in shown.get()
    told = found.to_dict()
    assert told["layers"][0]["macs"] == found.layers[0].macs
    assert told["layers"][0]["activation_sparsity"] is None


def test_cost_refuses():
    with pytest.raises(TypeError, match="operations of `0` are not counted"):
        spikegrad.cost(nn.Sequential(torch.nn.LSTM(4, 3), nn.Leaky(0.9)), torch.rand(5, 6, 4))
    with pytest.raises(ValueError, match="no spiking layers to record"):
        spikegrad.cost(torch.nn.Linear(4, 3), torch.rand(5, 6, 4))
    with pytest.raises(ValueError, match="there is no batch"):
        spikegrad.cost(nn.Leaky(0.9), [])


def networks() -> dict:
    """snnTorch's networks, and ours with the same weights and data: (time, batch, ...)."""
    import snntorch as snn

    torch.manual_seed(3)
    hidden = {"init_hidden": True}
    end = {"init_hidden": True, "output": True}
    options = {"reset_delay": True, "spike_at_threshold": False, "backend": "reference"}
    spikes, numbers = (torch.rand(12, 6, 10) < 0.1).float(), torch.rand(12, 6, 1, 8, 8)
    numbers *= torch.rand_like(numbers) < 0.05
    numbers[4:8] = numbers[4:8].ceil()  # steps of spikes among others
    one, two = torch.nn.Linear(10, 16, bias=False), torch.nn.Linear(16, 4, bias=False)
    one.weight.data *= 4
    one.weight.data[torch.rand_like(one.weight) < 0.4] = 0.0
    conv, last = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.Linear(64, 5, bias=False)
    conv.weight.data *= 4
    fed = snn.RLeaky(0.8, linear_features=16, **hidden)
    fed.recurrent.bias.data.zero_()
    ours = nn.RecurrentLeaky(16, 0.8, **options)
    ours.weight.data.copy_(fed.recurrent.weight.data)
    pool, flat = torch.nn.MaxPool2d(2), torch.nn.Flatten()
    return {
        "feed-forward": (
            torch.nn.Sequential(one, snn.Leaky(0.9, **hidden), two, snn.Leaky(0.7, **end)),
            nn.Sequential(one, nn.Leaky(0.9, **options), two, nn.Leaky(0.7, **options)),
            spikes,
        ),
        "convolutional": (
            torch.nn.Sequential(conv, snn.Leaky(0.9, **hidden), pool, flat, last, snn.Leaky(0.7, reset_mechanism="zero", **end)),
            nn.Sequential(conv, nn.Leaky(0.9, **options), pool, flat, last, nn.Leaky(0.7, reset="zero", **options)),
            numbers,
        ),
        "recurrent": (
            torch.nn.Sequential(one, fed, two, snn.Leaky(0.7, **end)),
            nn.Sequential(one, ours, two, nn.Leaky(0.7, **options)),
            2 * spikes,
        ),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what NeuroBench imports
@pytest.mark.parametrize("name", ["feed-forward", "convolutional", "recurrent"])
def test_cost_is_neurobenchs(name):
    """With `pip install --no-deps neurobench==2.3.0`; printed with -s: evidence/cost.txt."""
    pytest.importorskip("neurobench")
    import snntorch.utils
    from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
    from neurobench.metrics.workload import ActivationSparsity, ActivationSparsityByLayer, MembraneUpdates, SynapticOperations
    from neurobench.models import SNNTorchModel

    theirs, ours, x = networks()[name]
    model = SNNTorchModel(theirs)
    model.register_hooks()
    batch = (x.transpose(0, 1), torch.zeros(x.shape[1]))
    predictions = model(batch[0])
    metrics = {kind.__name__: kind() for kind in (ActivationSparsity, ActivationSparsityByLayer, MembraneUpdates, SynapticOperations)}
    measured = {key: metric(model, predictions, batch) for key, metric in metrics.items()}
    measured |= {kind.__name__: kind()(model) for kind in (Footprint, ConnectionSparsity, ParameterCount)}
    model.cleanup_hooks()

    class OverTime(torch.nn.Module):
        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            snntorch.utils.reset(self.net)
            return torch.stack([self.net(step)[0] for step in x])

    operations = measured["SynapticOperations"]
    rows = {"dense": operations["Dense"], "macs": operations["Effective_MACs"], "acs": operations["Effective_ACs"]}
    rows |= {"updates": measured["MembraneUpdates"], "activation_sparsity": measured["ActivationSparsity"]}
    rows |= {"connection_sparsity": measured["ConnectionSparsity"], "parameters": measured["ParameterCount"]}
    rows["footprint"] = measured["Footprint"]
    of_theirs, of_ours = spikegrad.cost(OverTime(theirs), x), spikegrad.cost(ours, x)
    print(f"\n{name}, {x.shape[1]} samples of {x.shape[0]} steps\n{'':<22}{'NeuroBench':>14}{'of snnTorch':>14}{'of spikegrad':>14}")
    for key, value in rows.items():
        print(f"{key:<22}{value:>14.6g}{getattr(of_theirs, key):>14.6g}{getattr(of_ours, key):>14.6g}")
    every = sum(layer.outputs for layer in of_ours.layers) / of_ours.samples
    assert 0 < rows["acs"] < rows["dense"]
    assert 0 < rows["updates"] < every, "a test of updates needs potentials that stay"
    for key, value in rows.items():
        # NeuroBench rounds the sparsity of connections to 4 digits.
        assert getattr(of_theirs, key) == (pytest.approx(value, abs=5e-5) if key == "connection_sparsity" else value), key
    same = [key for key in rows if key not in ("footprint", "parameters")]  # what each keeps beside weights differs
    assert [getattr(of_ours, key) for key in same] == [getattr(of_theirs, key) for key in same]
    by_layer = {layer.name.removeprefix("net."): layer.activation_sparsity for layer in of_theirs.layers if layer.outputs}
    assert by_layer == measured["ActivationSparsityByLayer"]


def test_events_cost_what_their_dense_tensor_does():
    x = (torch.rand(10, 3, 8, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    net = nn.SpikingLinear(8, 4, nn.Leaky(0.9))
    dense, found = spikegrad.cost(net, x), spikegrad.cost(net, Spikes.of(x))
    assert found.acs > 0
    assert found.to_dict() == dense.to_dict()
    assert spikegrad.cost(net, [x, Spikes.of(x)]).samples == 6


def test_evaluate_tells_the_cost_of_a_run(small, tmp_path, told):
    config = Config(data=small, hidden=(4,), steps=3, epochs=1, encoding="rate", accelerator="cpu", pictures="none")
    run = train(config, tmp_path / "run").run
    code, printed, _ = told("evaluate", run.path, "--cost")
    assert code == 0
    assert "test accuracy" in printed
    assert "not counted, as in NeuroBench: layers.0.1 (BatchNorm1d)" in printed
    found = evaluate_cost(run.path)
    samples, layers = 8, by_name(found)  # a fifth of 40
    assert found.samples == samples
    assert (layers["layers.0.0"].dense, layers["readout.0"].dense) == (samples * 3 * 4 * 4, samples * 3 * 4 * 2)
    assert layers["layers.0.0"].macs == 0  # the encoding gives spikes
    assert found.to_dict() == evaluate_cost(run.path).to_dict()  # of the same noise
    assert evaluate_cost(run.path, small).samples == 40
