"""Slopes that change while a network learns: on their course, for each layer, and without compiling anything."""

import warnings

import lightning
import pytest
import snntorch
import torch

import spikegrad
from spikegrad import ATan, FastSigmoid, StraightThrough, Triangle, nn
from spikegrad.compat import snntorch as ours
from spikegrad.kernels import cache
from spikegrad.training import SlopeCallback


def network(backend="auto"):
    torch.manual_seed(0)
    return nn.Sequential(
        torch.nn.Linear(4, 8),
        nn.Leaky(0.9, spike=FastSigmoid(20), backend=backend),
        torch.nn.Linear(8, 8),
        nn.Leaky(0.9, spike=FastSigmoid(5), backend=backend),
        torch.nn.Linear(8, 2),
        nn.LeakyIntegrator(0.9, backend=backend),
    )


def slopes(net):
    return [net[place].spike.surrogate.slope for place in (1, 3)]


def test_a_course_for_all_layers_and_for_some():
    net = network("reference")
    schedule = spikegrad.SlopeSchedule(net, 0.01, steps=2)
    assert slopes(net) == pytest.approx([0.2, 0.05])
    schedule.step()
    assert slopes(net) == pytest.approx([2.0, 0.5])
    assert net[1].neuron.spike.slope == pytest.approx(2.0)
    schedule.step()
    schedule.step()
    assert slopes(net) == pytest.approx([20.0, 5.0])
    net = network("reference")
    schedule = spikegrad.SlopeSchedule(net, {"1": 0.5}, {"1": 2.0}, steps=1)
    assert slopes(net) == pytest.approx([10.0, 5.0])
    schedule.step()
    assert slopes(net) == pytest.approx([40.0, 5.0])
    again = network("reference")
    resumed = spikegrad.SlopeSchedule(again, {"1": 0.5}, {"1": 2.0}, steps=1)
    resumed.load_state_dict(schedule.state_dict())
    assert slopes(again) == pytest.approx([40.0, 5.0])


def test_widths_and_neurons_of_snntorch():
    theirs = snntorch.Leaky(beta=0.9, spike_grad=snntorch.surrogate.fast_sigmoid(slope=8))
    like = ours.Leaky(beta=0.9, spike_grad=ours.surrogate.atan(8.0))
    wide, fixed = nn.Leaky(0.9, spike=Triangle(0.5)), nn.Leaky(0.9, spike=StraightThrough())
    net = nn.Sequential(nn.Steps(theirs), nn.Steps(like), wide, fixed)
    schedule = spikegrad.SlopeSchedule(net, 0.25, steps=1)
    assert wide.spike.surrogate.width == pytest.approx(2.0)
    assert like.spike_grad.surrogate.slope == pytest.approx(2.0)
    assert theirs.spike_grad.__closure__[0].cell_contents == pytest.approx(2.0, rel=0.01)
    schedule.step()
    assert wide.spike.surrogate.width == pytest.approx(0.5)
    assert theirs.spike_grad.__closure__[0].cell_contents == pytest.approx(8.0, rel=0.01)
    assert fixed.spike.surrogate == StraightThrough()


def test_fifty_epochs_compile_nothing_after_the_first():
    net, x = network(), torch.rand(6, 3, 4)
    schedule = spikegrad.SlopeSchedule(net, 0.05, steps=50)
    known, gradients = None, []
    for _ in range(50):
        net.zero_grad()
        net(x)[0].sum().backward()
        gradients.append(net[0].weight.grad.norm().item())
        known = known or set(cache._modules)
        schedule.step()
    assert set(cache._modules) == known
    assert len(set(gradients)) == 50


def test_a_compiled_network_is_not_compiled_again():
    net, x, traced = network(), torch.rand(6, 3, 4), []

    def backend(graph, inputs):
        traced.append(1)
        return graph.forward

    compiled = torch.compile(net, backend=backend)
    schedule = spikegrad.SlopeSchedule(net, 0.05, steps=5)
    counts = []
    for _ in range(5):
        compiled(x)[0].sum().backward()
        counts.append(len(traced))
        schedule.step()
    assert counts == [counts[0]] * 5


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.seen = network("reference"), []

    def training_step(self, batch, _):
        self.seen.append(self.net[1].spike.surrogate.slope)
        return self.net(batch[0])[0].square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(4, 3, 4)), batch_size=4)


def test_the_callback_of_lightning():
    module = Module()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", callbacks=[SlopeCallback(0.01)], **options)
        trainer.fit(module)
    assert module.seen == pytest.approx([0.2, 2.0, 20.0])


def test_refusals():
    with pytest.raises(ValueError, match="there is no spiking layer '7'; there are '1', '3', '5'"):
        spikegrad.SlopeSchedule(network("reference"), {"7": 0.1}, steps=3)
    with pytest.raises(ValueError, match="factors of slopes must be positive"):
        spikegrad.SlopeSchedule(network("reference"), 0.0, steps=3)
    with pytest.raises(ValueError, match="the slope of `` is learned"):
        spikegrad.SlopeSchedule(nn.Leaky(0.9, spike=ATan(), learn="slope"), 0.1, steps=3)
    with pytest.raises(ValueError, match="no layer of Leaky has a surrogate with a slope"):
        spikegrad.SlopeSchedule(nn.Leaky(0.9, spike=StraightThrough()), 0.1, steps=3)
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        spikegrad.SlopeSchedule(network("reference"), 0.1, steps=0)
