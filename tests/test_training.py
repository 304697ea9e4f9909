import itertools
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from tests.forked import ALL, ended

from spikegrad import ATan, plots
from spikegrad.errors import InputError
from spikegrad.neurons import AdEx, Alpha, Lapicque, Leaky, Synaptic
from spikegrad.training import Config, evaluate, resume, train
from spikegrad.training.batches import Batches, derived
from spikegrad.training.folder import Run
from spikegrad.training.loss import rate_penalty
from spikegrad.training.network import Network

TINY = {"hidden": (12,), "steps": 4, "epochs": 3, "batch": 16, "dropout": 0.2, "encoding": "rate", "seed": 3, "pictures": "none"}
DRAWN = {**TINY, "pictures": "png"}
FILES = {
    "best.safetensors",
    "checkpoints",
    "config.json",
    "confusion.png",
    "learning_curves.png",
    "metrics.csv",
    "raster.png",
    "results.json",
    "run.json",
}

DIE = """
import os, signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit that it is ignored
torch.set_num_threads(1)
from spikegrad.training import callbacks, module
from spikegrad.cli import main

sys.argv[1:] = arguments
step = module.SpikingModule.training_step
save = callbacks.save_file

def dying_step(self, batch, batch_idx):
    if self.trainer.global_step == 13 and where != "SIGKILL while writing":
        os.kill(os.getpid(), getattr(signal, where))
    return step(self, batch, batch_idx)

def dying_save(weights, path):
    save(weights, path)
    if where == "SIGKILL while writing" and os.path.exists(os.path.join(os.path.dirname(path), "metrics.csv")):
        with open(path, "r+b") as file:
            file.truncate(100)
        os.kill(os.getpid(), signal.SIGKILL)

module.SpikingModule.training_step = dying_step
callbacks.save_file = dying_save
main()
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Sums over two threads and over one may differ in their last bits; the killed processes below use one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of 160 noisy samples of three classes, values 0 to 1."""
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.clip(random.random((3, 10))[y] + 0.15 * random.standard_normal((120, 10)), 0, 1)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x=x.astype("float32"), y=y)
    return str(path)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(Config(data=small, **DRAWN), tmp_path_factory.mktemp("runs") / "whole")


def state(run):
    return torch.load(run.checkpoint, weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(run, other):
    for part in ("state_dict", "optimizer_states"):
        assert same(state(run)[part], state(other)[part])
    assert run.weights.read_bytes() == other.weights.read_bytes()
    rows, others = ([{key: value for key, value in row.items() if key != "seconds"} for row in r.metrics()] for r in (run, other))
    assert rows == others
    results, expected = run.read_json("results.json"), other.read_json("results.json")
    assert {**results, "training_seconds": 0} == {**expected, "training_seconds": 0}


def test_a_run_leaves_its_folder(whole, small):
    run = whole.run
    assert {path.name for path in run.path.iterdir()} == FILES
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"last.ckpt", "lock"}
    assert Config.read(run.path / "config.json") == Config(data=small, **DRAWN)
    results = run.read_json("results.json")
    assert (results["test_accuracy"], results["test_samples"], results["epochs"]) == (whole.test.accuracy, 24, 3)
    assert len(results["firing_rates"]) == 1
    assert 0 < results["firing_rates"][0] < 1
    assert np.sum(results["confusion"]) == 24
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "rate_1", "seconds"} < rows[0].keys()
    for picture in run.path.glob("*.png"):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_same_configuration_gives_the_same_weights(whole, tmp_path):
    again = train(Config.read(whole.run.path / "config.json"), tmp_path / "again")
    assert_same_run(again.run, whole.run)


def test_evaluate_repeats_the_test(whole, small):
    measured = evaluate(whole.run.path)
    assert measured.confusion.tolist() == whole.test.confusion.tolist()
    assert measured.rates == whole.test.rates
    assert evaluate(whole.run.path, small).samples == 120
    with pytest.raises(InputError, match=r"digits has samples of shape .64,., but .* was trained on 10 features"):
        evaluate(whole.run.path, "digits")


@pytest.mark.parametrize("where", ["SIGKILL", "SIGKILL while writing", "SIGINT"])
def test_a_stopped_run_ends_with_the_same_weights(whole, small, tmp_path, where):
    run = Run(tmp_path / "run")
    options = ["--data", small, "--config", str(whole.run.path / "config.json"), "--out", str(run.path)]
    (stopped,) = ended(f"where, arguments = {where!r}, {['train', *options]!r}\n{DIE}", libraries=ALL)
    assert not (run.path / "results.json").exists()
    if where == "SIGINT":
        assert stopped.code == 130
        assert "Stopped, 2 epochs kept." in stopped.out
        assert f"spikegrad train --resume {run.path}" in stopped.out
        assert stopped.err == ""
    else:
        assert stopped.code == -signal.SIGKILL, stopped.err
    outcome = resume(run.path)
    assert_same_run(outcome.run, whole.run)
    assert not list(run.path.rglob("*.new"))


def test_a_run_stopped_before_its_first_epoch_resumes(whole, small, tmp_path):
    run = Run.create(Config(data=small, **TINY), "small", tmp_path / "run")
    assert_same_run(resume(run.path).run, whole.run)


def test_a_finished_run_goes_on_with_more_epochs(whole, small, tmp_path):
    short = train(Config(data=small, **{**TINY, "schedule": "constant", "epochs": 1}), tmp_path / "short")
    long = train(Config(data=small, **{**TINY, "schedule": "constant", "epochs": 2}), tmp_path / "long")
    resumed = resume(short.run.path, epochs=2)
    assert_same_run(resumed.run, long.run)
    assert Config.read(short.run.path / "config.json").epochs == 2
    assert resume(short.run.path).test.accuracy == long.test.accuracy
    with pytest.raises(InputError, match="has done 2 epochs already"):
        resume(short.run.path, epochs=1)


def test_resume_refuses_another_run(whole, small, tmp_path):
    with pytest.raises(InputError, match="a resumed run keeps its `lr`"):
        resume(whole.run.path, lr=1.0)
    with pytest.raises(InputError, match="is not a run: there is no such folder"):
        resume(tmp_path / "absent")
    with pytest.raises(InputError, match=r"is not a run: it has no config\.json"):
        resume(tmp_path)
    copy = tmp_path / "moved.npz"
    shutil.copy(small, copy)
    run = Run.create(Config(data=str(copy), **TINY), "moved", tmp_path / "run")
    facts = whole.run.read_json("run.json")
    run.write("run.json", json.dumps({**facts, "fingerprint": "of other data"}))
    with pytest.raises(InputError, match=r"is not what .* was trained on"):
        resume(run.path)
    run.write("checkpoints/last.ckpt", b"broken")
    run.write("run.json", json.dumps(facts))
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        resume(run.path)
    with pytest.raises(InputError, match="has no weights yet; continue it with --resume"):
        evaluate(run.path)


def test_nothing_is_overwritten(whole, small, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in whole.run.path.rglob("*")}
    with pytest.raises(InputError, match="exists already and nothing is overwritten; continue it with --resume"):
        train(Config(data=small, **TINY), whole.run.path)
    assert before == {path: path.stat().st_mtime_ns for path in whole.run.path.rglob("*")}


@pytest.mark.parametrize(
    "settings",
    [
        {"neuron": "synaptic", "recurrent": "all-to-all", "learn": ("alpha", "beta", "threshold"), "loss": "max"},
        {"recurrent": "one-to-one", "loss": "count", "surrogate": "FastSigmoid", "parameters": {"slope": 5}, "encoding": "latency"},
        {
            "norm": False,
            "optimizer": "sgd",
            "schedule": "one-cycle",
            "reset": "zero",
            "hidden": (8, 6),
            "rate_weight": 1.0,
            "clip": 1.0,
            "threshold": 0.2,
        },
        {"surrogate": "NoisyThreshold", "learn": ("slope",), "encoding": "current", "precision": "64-true", "optimizer": "rmsprop"},
        {"surrogate": "StochasticLeak", "precision": "bf16-mixed", "optimizer": "adam", "schedule": "constant"},
        {"neuron": "Adaptive", "learn": ("rho", "jump", "slope"), "parameters": {"jump": 0.2, "slope": 3}, "recurrent": "all-to-all"},
        {"neuron": "Ternary", "rate_weight": 1.0, "loss": "count"},
    ],
)
def test_settings_train(small, tmp_path, settings):
    config = Config(data=small, **{**TINY, "epochs": 1, **settings})
    outcome = train(config, tmp_path / "run")
    assert np.isfinite(outcome.run.metrics()[0]["train_loss"])
    assert len(outcome.test.rates) == len(config.hidden)
    assert evaluate(outcome.run.path).confusion.tolist() == outcome.test.confusion.tolist()


OWN = """
from spikegrad import Neuron, Positive, State, Step

class Own(Neuron):
    slope: Positive = 2.0
    v: State = 0.0

    def step(self, current, v):
        u = 0.5 * v + self.slope * current
        s = self.fire(u - 1)
        return Step(s, v=self.after_spike(u, s, 1.0), u=u)

class Other:
    pass
"""


def test_a_neuron_of_ones_own(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.py"
    file.write_text(OWN)
    numbers = {"parameters": {"slope": 1.5, "spike.slope": 3}, "learn": ("slope", "spike.slope")}
    config = Config(data=small, **{**TINY, "epochs": 1}, neuron="own.py:Own", **numbers)
    assert (config.cell.slope, config.spike.slope, config.learned) == (1.5, 3.0, ("slope", "spike.slope"))
    outcome = train(config, tmp_path / "run")
    assert Config.read(tmp_path / "run/config.json").neuron == f"{file}:Own"
    monkeypatch.chdir("/")
    assert evaluate(outcome.run.path).correct == outcome.test.correct
    assert resume(outcome.run.path, epochs=2).epochs == 2
    file.write_text(OWN.replace("0.5", "0.6"))
    for again in (evaluate, resume):
        with pytest.raises(InputError, match=rf"{file}:Own is no longer the neuron that .*run was trained with"):
            again(outcome.run.path)
    file.rename(tmp_path / "moved.py")
    for again in (evaluate, resume):
        with pytest.raises(InputError, match=rf"config\.json: cannot read {file}: no such file"):
            again(outcome.run.path)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (OWN, "Owm", "has no neuron 'Owm'; did you mean Own?"),
        (OWN, "Other", "own.py is not a Neuron; its neurons are Own"),
        ("", "Own", "own.py has no neuron 'Own', nor any other"),
        ("class Own(", "Own", "own.py fails: SyntaxError"),
        ("import nowhere", "Own", "own.py fails: ModuleNotFoundError: No module named 'nowhere'"),
        (OWN.replace("0.5 *", "0.5 if v > 0 else"), "Own", "own.py fails: TypeError: Own.step: a formula cannot branch"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, monkeypatch, text, kind, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError) as caught:
        Config(neuron=f"own.py:{kind}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OLD = {"neuron": "synaptic", "recurrent": "none", "beta": 0.9, "alpha": 0.8, "threshold": 1.0, "reset": "subtract", "surrogate": "ATan"}
"""The network's settings as every configuration had them before neurons were formulas; some of its other ones had the same meaning."""


def test_configurations_of_old_still_mean_the_same(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**OLD, "parameters": {"slope": 5}, "learn": ["alpha", "beta", "threshold", "slope"]}))
    config = Config.read(path)
    assert config.cell == Synaptic(0.8, 0.9, spike=ATan(5.0))
    names = {"alpha_logit", "beta_logit", "threshold_log", "spike.slope_log"}
    assert names < {name.removeprefix("layers.0.2.") for name in Network(config, 3, 2).state_dict()}
    path.write_text(json.dumps({**OLD, "neuron": "leaky"}))  # whose alpha meant nothing
    assert Config.read(path).cell == Leaky(0.9)
    assert Config(neuron="Leaky").cell == Config().cell == Leaky(0.9)


def test_what_is_not_given_is_the_neuron_s_own():
    assert Config(neuron="AdEx").cell == AdEx()
    assert Config(neuron="Alpha", threshold=2).cell == Alpha(0.9, 0.8, 2.0)
    assert Config(neuron="Lapicque", parameters={"reset": "zero", "slope": 3}).cell == Lapicque(reset="zero", spike=ATan(3.0))
    assert Config(neuron="AdEx", beta=0.5).decay == 0.5  # of the readout
    assert Config(neuron="AdEx").decay == 0.9


def test_data_in_time(tmp_path):
    y = np.arange(60) % 2
    x = np.random.default_rng(0).random((60, 7, 3)) < 0.2 + 0.5 * y[:, None, None]
    np.savez(tmp_path / "series.npz", x=x, y=y)
    outcome = train(Config(data=str(tmp_path / "series.npz"), hidden=(8,), epochs=1, pictures="none"), tmp_path / "run")
    assert Config.read(outcome.run.path / "config.json").steps == 7
    with pytest.raises(InputError, match="`steps` is 9, but the data have 7"):
        train(Config(data=str(tmp_path / "series.npz"), steps=9), tmp_path / "other")
    with pytest.raises(InputError, match="`encoding` rate is for data without a time axis"):
        train(Config(data=str(tmp_path / "series.npz"), encoding="rate"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_encodings_need_values_from_0_to_1(tmp_path):
    np.savez(tmp_path / "wide.npz", x=np.linspace(-3, 8, 60).reshape(30, 2), y=np.arange(30) % 2)
    with pytest.raises(InputError, match="`encoding` latency needs values from 0 to 1, got -3 to 8"):
        train(Config(data=str(tmp_path / "wide.npz"), encoding="latency"), tmp_path / "run")


def test_two_epochs_on_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = train(Config(epochs=2))
    assert outcome.run.path.as_posix() == "runs/digits-1"
    assert outcome.test.samples == 359
    assert outcome.test.accuracy > 0.9


@pytest.mark.slow
def test_digits_reach_their_accuracy(tmp_path):
    outcomes = [train(Config(seed=seed), tmp_path / str(seed)) for seed in range(3)]
    assert np.mean([outcome.test.accuracy for outcome in outcomes]) >= 0.97
    assert max(outcome.seconds for outcome in outcomes) < 60


def test_batches_depend_on_seed_and_epoch_alone():
    def epoch(seed, number, **share):
        batches = Batches(23, 5, seed, **share)
        batches.set_epoch(number)
        return [batch.tolist() for batch in batches]

    def samples(seed, number, **share):
        return list(itertools.chain.from_iterable(epoch(seed, number, **share)))

    assert epoch(1, 4) == epoch(1, 4)
    assert epoch(1, 4) != epoch(1, 5) != epoch(2, 5)
    assert sorted(samples(1, 4)) == list(range(23))
    shares = [samples(1, 4, rank=rank, world=4) for rank in range(4)]
    assert {len(share) for share in shares} == {5, 6} or {len(share) for share in shares} == {5}
    assert len(Batches(21, 5, 0)) == 4  # a last batch of one sample cannot be normalised
    assert [batch.tolist() for batch in Batches(3, 2)] == [[0, 1], [2]]
    assert derived(1, "step", 2) != derived(1, "step", 3)


def test_rate_penalty_wakes_the_silent_and_quiets_the_loud():
    spikes = torch.zeros(10, 1, 2)
    spikes[:, :, 0] = 1
    spikes.requires_grad_()
    penalty = rate_penalty(spikes, 0.1, 0.3)
    assert penalty.item() == pytest.approx(0.1**2 / 2 + 0.2**2)
    penalty.backward()
    assert (spikes.grad[:, 0, 0] > 0).all()
    assert rate_penalty(spikes.detach(), 0.0, 1.0) == 0


def test_the_network_is_what_the_configuration_says():
    network = Network(Config(hidden=(8, 4), neuron="synaptic", recurrent="all-to-all", learn=("slope",)), 5, 3)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("BatchNorm1d") == 2
    assert kinds.count("LeakyIntegrator") == 1
    assert [repr(layer[-1].neuron) for layer in network.layers] == ["Synaptic(alpha=0.8, beta=0.9, threshold=1.0)"] * 2
    assert [layer[-1].connection for layer in network.layers] == ["all-to-all"] * 2
    assert sum(name.endswith("slope_log") for name, _ in network.named_parameters()) == 2


WRONG = {
    "`beta` must be at least 0 and at most 1, got 1.5": {"beta": 1.5},
    "`epochs` must be a whole number, got 2.5": {"epochs": 2.5},
    "`epochs` must be at least 1 and at most 1000000000, got 0": {"epochs": 0},
    "`batch` must be at least 1 and at most 1000000000, got 1000": {"batch": 10**30},
    "`threads` must be at least 1 and at most 4096, got 99999": {"threads": 99999},
    "`hidden` must be at least 1 and at most 1000000000, got 0": {"hidden": (0,)},
    "`hidden` must be a list, got 5": {"hidden": 5},
    "`norm` must be true or false, got 1": {"norm": 1},
    "`lr` must be a finite number, got nan": {"lr": float("nan")},
    "unknown neuron 'Leeky'; did you mean Leaky?": {"neuron": "Leeky"},
    "a neuron of your own is named as file.py:Class, got 'own.py'": {"neuron": "own.py"},
    "absent.py: no such file": {"neuron": "absent.py:Own"},
    "ConductanceLeaky takes excitation and inhibition, but neurons of a layer here have one input": {"neuron": "ConductanceLeaky"},
    "LeakyIntegrator does not spike": {"neuron": "LeakyIntegrator"},
    "AdEx has no use for `reset`": {"neuron": "AdEx", "reset": "zero"},
    "AdEx has no alpha; it has tau, tau_w": {"neuron": "AdEx", "alpha": 0.5},
    "AdEx has no beta; it has tau, tau_w": {"neuron": "AdEx", "beta": 0.5, "loss": "count"},
    "`rho` of Adaptive must be between 0 and 1, got 2.0": {"neuron": "Adaptive", "parameters": {"rho": 2}},
    "Adaptive with ATan has no parameter 'rh'; did you mean rho?": {"neuron": "Adaptive", "parameters": {"rh": 0.5}},
    "BalancedResonateAndFire needs": {"neuron": "BalancedResonateAndFire", "parameters": {"omega": 1000}},
    "unknown surrogate 'Sigmid'; did you mean Sigmoid?": {"surrogate": "Sigmid"},
    "ATan has no parameter 'slop'; did you mean slope?": {"parameters": {"slop": 1}},
    "`slope` of ATan must be positive, got -1.0": {"parameters": {"slope": -1}},
    "`slope` of ATan must be a number, got str": {"parameters": {"slope": "steep"}},
    "`learn`: Leaky with ATan has no parameter 'gamma'; choose from beta": {"learn": ("gamma",)},
    "`learn`: Leaky with ATan has no parameter 'alpha'": {"learn": ("alpha",)},
    "`learn`: Leaky has no number 'v'": {"learn": ("v",)},
    "`learn`: beta is learned inside of its range and cannot start at its edge, 1.0": {"learn": ("beta",), "beta": 1},
    "`rate_lower` must not be above `rate_upper`": {"rate_lower": 0.5, "rate_upper": 0.1},
    "unknown setting 'epoch'; did you mean epochs?": {"epoch": 3},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_settings_are_named(message):
    with pytest.raises(InputError) as caught:
        Config().changed(**WRONG[message])
    assert message in str(caught.value)


def test_wrong_configuration_files_are_named(tmp_path):
    path = tmp_path / "config.json"
    for content, message in {
        "": "is not JSON",
        "[1]": "must hold one JSON object of settings, got list",
        '{"epoch": 3}': "unknown setting 'epoch'; did you mean epochs?",
        '{"epochs": "3"}': "`epochs` must be a whole number, got '3'",
    }.items():
        path.write_text(content)
        with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
            Config.read(path)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match=r"cannot read .*absent\.json: no such file"):
        Config.read(tmp_path / "absent.json")


def test_figures_of_many_classes_and_layers():
    assert plots.confusion(np.eye(40, dtype=int)).axes
    row = {"epoch": 1, "train_loss": 1, "validation_loss": 1, "train_accuracy": 0, "validation_accuracy": 0, "rate_1": 0, "rate_2": 0}
    assert len(plots.learning_curves([row]).axes) == 3
