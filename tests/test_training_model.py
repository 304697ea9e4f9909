"""A network of one's own in the trainer: by a file and its function, or any module on Lightning."""

import lightning
import numpy as np
import pytest
import torch

from spikegrad import nn
from spikegrad.data import load
from spikegrad.errors import InputError
from spikegrad.training import Config, SpikingModule, evaluate, predict, resume, train

OWN = """
import torch
from spikegrad import nn

def net(features, classes, shape):
    assert shape == (features,)
    return nn.Sequential(torch.nn.Linear(features, 6), nn.Leaky(0.9), torch.nn.Linear(6, classes), nn.LeakyIntegrator(0.9))

def dense(features, classes):
    return torch.nn.Sequential(torch.nn.Flatten(0, 0), Mean(), torch.nn.Linear(features, classes))

class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean(0)

def wide(features, classes):
    return torch.nn.Linear(features, classes + 1)

def greedy(features, colour): ...
def nothing(features): ...
def fails(features): raise KeyError(features)
def still(features): return torch.nn.Identity()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.mark.filterwarnings("ignore:the loss has not moved")  # which is not asked of so few steps
def test_a_network_of_ones_own(small, file, tmp_path, told):
    out = tmp_path / "run"
    options = ("--steps", 4, "--epochs", 2, "--pictures", "none")
    code, printed, _ = told("train", "--data", small, "--model", "own.py:net", *options, "--out", out)
    assert code == 0
    assert "firing rate " in printed
    config = Config.read(out / "config.json")
    assert config.model == f"{file}:net"
    measured = evaluate(out)
    assert len(measured.rates) == 1
    assert predict(out, small).right("test") == (measured.correct, measured.samples)
    assert resume(out, epochs=3).epochs == 3
    measured = evaluate(out)
    file.write_text(OWN + "# changed\n")
    for again in (["evaluate", out], ["train", "--resume", out], ["predict", out, small]):
        code, _, said = told(*again)
        assert code == 2
        assert f"own.py:net has changed since {out} was trained with it; undo that, or take it as it is now with --model {file}:net" in said
    assert told("evaluate", out, "--model", "own.py:net")[0] == 0
    moved = file.rename(tmp_path / "moved.py")
    assert f"cannot read {file}: no such file" in told("evaluate", out)[2]
    assert evaluate(out, model=f"{moved}:net").correct == measured.correct
    assert resume(out, epochs=4, model=f"{moved}:net").epochs == 4
    assert evaluate(out).samples == measured.samples


def test_a_network_without_spikes_of_ours(small, file, tmp_path, told):
    outcome = train(Config(data=small, model="own.py:dense", steps=3, epochs=1), tmp_path / "run")
    assert outcome.test.rates == []
    assert (tmp_path / "run" / "learning_curves.png").exists()
    assert (tmp_path / "run" / "raster.png").exists()
    code, _, error = told("diagnose", tmp_path / "run")
    assert (code, "has no spiking layers to record" in error, "Traceback" in error) == (2, True, False)


WRONG = {
    "own.py:nett": "has no function 'nett'; did you mean net?",
    "own.py": "a network of your own is named as file.py:function, got 'own.py'",
    "absent.py:net": "absent.py: no such file",
    "own.py:greedy": "asks for 'colour', and gets features, classes, steps, shape",
    "own.py:nothing": "must return a torch.nn.Module, got NoneType",
    "own.py:fails": "own.py:fails fails: KeyError: 4",
    "own.py:still": "returns a Identity that has nothing to learn",
    "own.py:wide": "the network must return (time, batch, class) or (batch, class), here (..., 28, 2) for an input",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_networks_are_named(small, file, tmp_path, name):
    with pytest.raises(InputError) as caught:
        train(Config(data=small, model=name, steps=3, epochs=1), tmp_path / "run")
    assert WRONG[name] in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_the_function_decides_is_not_set_beside_it():
    for settings in ({"hidden": (3,)}, {"beta": 0.5}, {"norm": False}, {"parameters": {"slope": 2}}, {"surrogate": "ATan"}):
        with pytest.raises(InputError, match=f"`{next(iter(settings))}` has no use beside `model`"):
            Config(model="own.py:net", **settings)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers", "ignore:.*predicted value")  # Lightning's own
def test_any_module_on_lightning(small, tmp_path):
    model = nn.Sequential(torch.nn.Linear(4, 6), nn.Leaky(0.9), torch.nn.Linear(6, 2), nn.LeakyIntegrator(0.9))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0, "use_distributed_sampler": False, **quiet}
    before = model[0].weight.detach().clone()
    trainer = lightning.Trainer(**options)
    trainer.fit(SpikingModule(Config(steps=3), load(small), model))
    assert not torch.equal(before, model[0].weight)
    assert np.isfinite(float(trainer.callback_metrics["validation_loss"]))
    assert "rate_1" in trainer.callback_metrics
    with pytest.raises(ValueError, match="needs data, or a `model` and its number of `classes`"):
        SpikingModule(Config(), model=model)
