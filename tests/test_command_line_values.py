"""What options and names may say: contradictions and nonsense are one line, and what Python accepts is accepted."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from tests.forked import ALL, ended

from spikegrad import MultiGaussian, Triangle, nn, plots
from spikegrad.training import Config, evaluate, train
from spikegrad.training import run as running
from spikegrad.training.named import neuron_class, parsed, value

CONTRADICTIONS = {
    "--threshold 1 --set threshold=2": "`threshold` is given twice, as 1.0 and as 2 in `parameters`",
    "--beta 0.5 --set beta=0.7": "`beta` is given twice, as 0.5 and as 0.7",
    "--reset zero --set reset=subtract": "`reset` is given twice, as zero and as subtract",
    "--set slope=1 --set slope=2": "--set gives slope twice, as 1 and as 2",
    "--set slope=1 --set spike.slope=2": "`slope` is given twice, as 1 and as 2",
    "--surrogate ATan(5) --set slope=2": "`slope` is given twice, as 5 and as 2",
    "--neuron Adaptive(0.8) --beta 0.7": "`beta` is given twice, as 0.7 and as 0.8",
    "--epochs 1 --epochs 2": "--epochs is given twice, as 1 and as 2",
    "--norm --no-norm": "--norm and --no-norm contradict each other",
    "--out a --out b": "--out is given twice, as a and as b",
    "--learn beta,beta": "`learn` names beta twice",
    "--alpha 0.5": "Leaky has no alpha; it has beta, threshold",
    "--rate-upper 0.2": "--rate-upper bounds nothing without a weight; give --rate-weight",
    "--config twice.json": "twice.json: 'lr' is given twice",
    "--config deep.json": "deep.json is not JSON",
    "--config threshold.json --threshold 1 --set threshold=2": "`threshold` is given twice",
    "--learn beta,": "--learn must be names with commas, got 'beta,'",
    "--data= ": "--data: must not be empty",
    "--out= ": "--out: must not be empty",
    "--set slope=nan": "`slope` of ATan must be positive, got nan",
    "--set slope=-inf": "`slope` of ATan must be finite, got -inf",
    "--surrogate ATan(nan)": "`slope` of ATan must be positive, got nan",
    "--surrogate ATan(1,2)": "ATan takes 1 values by position, slope, got 2",
    "--surrogate ATan(1,slope=1)": "`slope` of ATan is given twice",
    "--surrogate ATan(slop=1)": "ATan has no parameter 'slop'; did you mean slope?",
    "--surrogate ATan(slope=1,slope=2)": "must be a name with values in parentheses, each given once",
    "--neuron exits.py:Own": "exits.py fails: SystemExit: 3",
    "--precision 16-mixed --accelerator cpu": "`precision` 16-mixed is not to be had here; take bf16-mixed",
    "--lr 1e300": "`lr` must be greater than 0 and at most 1e+30, got 1e+300",
    "--accelerator xla": "`accelerator` must be one of auto, cpu, gpu, cuda, mps, tpu, got 'xla'",
}


@pytest.mark.parametrize("arguments", CONTRADICTIONS)
def test_contradictions_and_nonsense(tmp_path, monkeypatch, told, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.json").write_text('{"lr": 1, "lr": 2}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "threshold.json").write_text('{"threshold": 3}')
    (tmp_path / "exits.py").write_text("import sys; sys.exit(3)")
    before = sorted(os.listdir())
    code, printed, said = told("train", *(each.replace("=", "= ") if each.endswith("=") else each for each in arguments.split()))
    assert (code, printed) == (2, "")
    assert CONTRADICTIONS[arguments] in said
    assert sorted(os.listdir()) == before


def test_options_win_over_the_file_however_it_says_the_same(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(running, "train", lambda config, out, console: seen.append(config) or pytest.skip.Exception)
    from spikegrad.cli import training

    monkeypatch.setattr(training, "_tell", lambda outcome, console: 0)
    from spikegrad.cli.app import run

    file = tmp_path / "config.json"

    def given(settings, *arguments):
        file.write_text(json.dumps(settings))
        assert run(["train", "--config", str(file), *arguments]) == 0
        return seen[-1].cell

    assert given({"threshold": 3}, "--set", "threshold=2").threshold == 2
    assert given({"parameters": {"threshold": 3}}, "--threshold", "2").threshold == 2
    assert given({"parameters": {"slope": 3}}, "--set", "spike.slope=2").spike.slope == 2
    assert given({"parameters": {"slope": 3}}, "--surrogate", "ATan(5)").spike.slope == 5
    assert given({"parameters": {"slope": 3}, "beta": 0.7}, "--neuron", "Adaptive(0.8)").beta == 0.8
    cell = given({"neuron": "Adaptive(0.8, jump=0.3)"}, "--set", "rho=0.5")
    assert (cell.beta, cell.jump, cell.rho) == (0.8, 0.3, 0.5)
    assert given({"neuron": "Adaptive(0.8, jump=0.3)"}, "--neuron", "leaky").beta == 0.9


def test_what_python_accepts_the_command_line_accepts(told):
    for text, shown in {
        "ATan(5)": "ATan(slope=5.0)",
        "Adaptive(0.8, jump=.2, reset=zero)": "Adaptive(reset='zero', beta=0.8, rho=0.95, jump=0.2, threshold=1.0)",
        "Adaptive(0.8, spike=FastSigmoid(10))": "Adaptive(spike=FastSigmoid(slope=10.0, height=1.0), beta=0.8, rho=0.95",
    }.items():
        code, printed, _ = told("show", text)
        assert code == 0
        assert " ".join(printed.split()).startswith(shown)
    config = Config(surrogate="ATan(5)", neuron="Adaptive(0.8)")
    assert (config.cell.beta, config.spike.slope, config.surrogate, config.neuron) == (0.8, 5.0, "ATan", "Adaptive")
    assert value("1e3") == 1000
    assert parsed("dir(1)/x.py:M(3)") == ("dir(1)/x.py:M", (3,), {})


OWN = """
import sys
sys.path.append("/of/the/file")
import lib.deep
from shared import DECAY
from spikegrad import Neuron, State, Step

class Own(Neuron):
    v: State = 0.0

    def step(self, current, v):
        import shared
        u = shared.DECAY * v + lib.deep.GAIN * current
        s = self.fire(u - 1)
        return Step(s, v=self.after_spike(u, s, 1.0), u=u)
"""


def write_neuron(folder, decay):
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "deep.py").write_text("GAIN = 2.0\n")
    (folder / "shared.py").write_text(f"DECAY = {decay}\n")
    (folder / "own.py").write_text(OWN)
    return f"{folder}/own.py:Own"


def test_a_neuron_s_file_imports_what_lies_beside_it(small, tmp_path, monkeypatch):
    path = list(sys.path)
    first, second = (write_neuron(tmp_path / name, decay) for name, decay in (("a", 0.5), ("b", 0.25)))
    monkeypatch.chdir(tmp_path / "a")
    a, b = neuron_class("own.py:Own"), neuron_class(second)
    monkeypatch.chdir("/")
    assert [each for each in sys.path if each != "/of/the/file"] == path  # what the file itself did to it stays
    sys.path[:] = path
    assert neuron_class(second) is b
    for kind, decay in ((a, 0.5), (b, 0.25)):  # though both have a `shared`
        _, state = nn.Layer(kind(reset="zero"), backend="reference")(torch.full((2, 1, 1), 0.1))
        assert float(state) == pytest.approx(0.2 * decay + 0.2)
    assert not list(tmp_path.rglob("*.pyc"))
    outcome = train(Config(data=small, neuron=first, hidden=(4,), steps=3, epochs=1), tmp_path / "run")
    place = f"import os; os.chdir({str(tmp_path)!r}); p = {str(outcome.run.path)!r}"
    code = "from spikegrad.training import *; print(resume(p, epochs=2).epochs, evaluate(p).samples)"
    (done,) = ended(f"{place}\n{code}", libraries=ALL)
    assert (done.out, done.err) == ("2 8\n", "")
    (tmp_path / "a" / "shared.py").write_text("DECAY = 0.7\n")
    with pytest.raises(ValueError, match=r"own\.py:Own is no longer the neuron that .*run was trained with"):
        evaluate(outcome.run.path)
    (tmp_path / "a" / "shared.py").unlink()
    with pytest.raises(ValueError, match=r"own\.py fails: ModuleNotFoundError: No module named 'shared'"):
        neuron_class(first)
    sys.path[:] = path


def test_pictures_say_what_they_show():
    counts = np.diag([36] * 10)
    counts[8, 1] = 1
    figure = plots.confusion(counts)
    axes, bar = figure.axes
    mistakes = axes.images[1]
    assert bar.get_ylabel() == "mistakes, share of their row"
    assert mistakes.norm.vmin == 0
    assert mistakes.norm.vmax == 1  # one of 37 is as faint in every picture
    assert float(mistakes.norm(1 / 37)) < 0.2
    for surrogate, title in ((MultiGaussian(), "Its tails, negative ones thin"), (Triangle(), "Its tails")):
        tails = plots.curves([surrogate]).axes[1]
        assert tails.get_title(loc="left") == title
    line = plots.curves([MultiGaussian()]).axes[1].lines[1]
    x, y = line.get_data()
    derivative = MultiGaussian().derivative(x)
    assert np.allclose(y[derivative < 0], -derivative[derivative < 0])
    assert (y[derivative >= 0] <= 1e-30).all()
    plots.curves([Triangle(width=1e-300, scale=1e300)])  # without a warning
