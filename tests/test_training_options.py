"""What each option of training does: dropping or changing any of them makes a test here fail."""

import itertools
import math
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spikegrad import encode, nn
from spikegrad.data import load
from spikegrad.training import Config, resume, train
from spikegrad.training import run as running
from spikegrad.training.loss import loss
from spikegrad.training.measure import measure
from spikegrad.training.module import SpikingModule, course
from spikegrad.training.network import Activity, Network

TINY = {"hidden": (6,), "steps": 3, "epochs": 2, "batch": 8, "dropout": 0.0, "pictures": "none"}


@pytest.fixture
def watched(monkeypatch):
    """Run with these settings, and give the learning rate, the momentum and the threads of every step, and the weights around it."""

    def run(config, path):
        seen = []
        step = SpikingModule.training_step

        def training_step(self, batch, batch_idx):
            groups = self.optimizers().param_groups
            weights = {name: value.detach().clone() for name, value in self.network.named_parameters()}
            seen.append({"lr": [group["lr"] for group in groups], "threads": torch.get_num_threads(), "batch": batch, "weights": weights})
            value = step(self, batch, batch_idx)
            seen[-1]["loss"] = float(value.detach())
            return value

        with monkeypatch.context() as patched:
            patched.setattr(SpikingModule, "training_step", training_step)
            patched.setattr(running, "_finish", lambda run, config, data: None)  # what comes after is not what is watched
            outcome = train(config, path)
        return outcome, seen

    return run


def test_encoding_and_steps():
    x = torch.rand(5, 4)
    for name in ("current", "latency"):
        network = Network(Config(**{**TINY, "encoding": name, "steps": 7}), 4, 2)
        assert torch.equal(network.encode(x), getattr(encode, name)(x, 7))
    torch.manual_seed(1)
    expected = encode.rate(x, 7)
    network = Network(Config(**{**TINY, "encoding": "rate", "steps": 7}), 4, 2)
    torch.manual_seed(1)
    assert torch.equal(network.encode(x), expected)
    assert Network(Config(hidden=(3,)), 4, 2).encode(x).shape == (10, 5, 4)
    in_time = torch.rand(5, 7, 4)
    assert torch.equal(Network(Config(**TINY), 4, 2).encode(in_time), in_time.transpose(0, 1))


def test_the_layers_of_a_network():
    network = Network(Config(hidden=(5, 3), norm=False, beta=0.7), 4, 2)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert shapes == {
        "layers.0.0.weight": (5, 4),
        "layers.0.0.bias": (5,),
        "layers.1.0.weight": (3, 5),
        "layers.1.0.bias": (3,),
        "readout.0.weight": (2, 3),
        "readout.0.bias": (2,),
    }
    assert [layer[-1].neuron.beta for layer in network.layers] == [0.7, 0.7]
    assert network.readout[-1].beta == 0.7
    normed = Network(Config(hidden=(5, 3)), 4, 2)
    assert [isinstance(layer[1], torch.nn.BatchNorm1d) for layer in normed.layers] == [True, True]
    assert all(layer[0].bias is None for layer in normed.layers)
    assert normed.readout[-1].beta == pytest.approx(0.9)
    counted = Network(Config(hidden=(5,), loss="count", neuron="Synaptic", recurrent="all-to-all"), 4, 2)
    assert repr(counted.readout[-1].neuron) == "Synaptic(alpha=0.8, beta=0.9, threshold=1.0)"
    assert counted.readout[-1].connection == "none"


def test_what_the_neuron_is_told():
    config = Config(neuron="Synaptic", alpha=0.3, beta=0.4, threshold=2.0, reset="zero", surrogate="FastSigmoid", parameters={"slope": 7})
    (layer,) = Network(Config(**{**vars(config), "hidden": (3,)}), 4, 2).layers
    neuron = layer[-1].neuron
    assert (neuron.alpha, neuron.beta, neuron.threshold, neuron.reset) == (0.3, 0.4, 2.0, "zero")
    assert (type(layer[-1].spike.surrogate).__name__, layer[-1].spike.surrogate.slope) == ("FastSigmoid", 7.0)


@pytest.mark.parametrize("connection", ["all-to-all", "one-to-one"])
def test_recurrent_weights_start_within_one_over_the_root_of_their_number(connection):
    torch.manual_seed(0)
    n = 400
    (layer,) = Network(Config(hidden=(n,), recurrent=connection), 4, 2).layers
    weight, bound = layer[-1].weight.detach(), n**-0.5
    assert weight.shape == ((n, n) if connection == "all-to-all" else (n,))
    # Uniform: none outside, some near both ends, the mean and the variance of such a distribution within five deviations of theirs.
    assert float(weight.abs().max()) <= bound
    assert float(weight.min()) < -0.95 * bound < 0.95 * bound < float(weight.max())
    assert abs(float(weight.mean())) < 5 * bound / math.sqrt(3 * weight.numel())
    assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / weight.numel()))


def test_dropout_is_of_hidden_spikes_and_in_training_alone():
    network = Network(Config(hidden=(2000,), dropout=0.25, norm=False, threshold=0.01, steps=4), 4, 2)
    seen = []
    network.readout.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    with torch.no_grad():
        network.layers[0][0].bias.fill_(5.0)
        network.layers[0][0].weight.zero_()
        activity = network.train()(torch.rand(8, 4))
        network.eval()(torch.rand(8, 4))
    assert all(bool((spikes == 1).all()) for spikes in activity.spikes)
    dropped, kept = (seen[0] == 0).float().mean(), seen[0][seen[0] != 0]
    assert float(dropped) == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(kept, torch.tensor(1 / 0.75))
    assert torch.equal(seen[1], torch.ones_like(seen[1]))


def test_scores():
    x = torch.rand(8, 4)
    for name, score in {"mean": lambda t: t.mean(0), "max": lambda t: t.amax(0), "count": lambda t: t.sum(0)}.items():
        torch.manual_seed(0)
        activity = Network(Config(hidden=(16,), loss=name, steps=6, threshold=0.2), 4, 3)(x)
        assert activity.trace.shape == (6, 8, 3)
        assert torch.equal(activity.scores, score(activity.trace))
        assert set(activity.trace.unique().tolist()) <= {0.0, 1.0} or name != "count"


def activity_of(scores, *rates):
    return Activity(scores, scores[None], [torch.full((10, len(scores), 5), rate) for rate in rates])


def test_label_smoothing():
    scores, labels = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -2.0]]), torch.tensor([0, 2])
    for share in (0.0, 0.1, 0.6):
        target = torch.full((2, 3), share / 3)
        target[[0, 1], labels] += 1 - share
        expected = -(target * scores.log_softmax(1)).sum(1).mean()
        assert loss(activity_of(scores), labels, Config(smoothing=share)).item() == pytest.approx(expected.item())
    assert Config().smoothing == 0.1


def test_firing_rates_outside_of_their_bounds_cost_their_weight():
    scores, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    activity = activity_of(scores, 0.5, 0.02)  # two layers, one too loud and one too quiet
    bounds = {"rate_lower": 0.1, "rate_upper": 0.3}
    plain = loss(activity, labels, Config(**bounds))
    assert plain.item() == loss(activity_of(scores), labels, Config()).item()
    for weight in (1.0, 3.0):
        more = loss(activity, labels, Config(**bounds, rate_weight=weight)) - plain
        assert more.item() == pytest.approx(weight * (0.2**2 + 0.08**2), rel=1e-4)
    assert (loss(activity, labels, Config(rate_lower=0.01, rate_upper=0.5, rate_weight=1.0)) - plain).item() == pytest.approx(0, abs=1e-6)
    either = [loss(activity_of(scores, sign * 0.5), labels, Config(rate_weight=1.0)).item() for sign in (1, -1)]
    assert either[0] == either[1] > plain.item()  # spikes of either sign count


KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}


@pytest.mark.parametrize("name", KINDS)
def test_the_optimiser_and_its_learning_rate(small, name):
    module = SpikingModule(Config(data=small, **TINY, optimizer=name, lr=0.03, weight_decay=0.2), load(small))
    optimiser = module.configure_optimizers()
    assert type(optimiser) is KINDS[name]
    assert [group["lr"] for group in optimiser.param_groups] == [0.03, 0.03]
    assert optimiser.defaults.get("momentum", 0) == (0.9 if name == "sgd" else 0)


def test_sgd_has_momentum(small):
    module = SpikingModule(Config(data=small, **TINY, optimizer="sgd", lr=0.5, weight_decay=0.0), load(small))
    optimiser, weight = module.configure_optimizers(), module.network.readout[0].weight
    before = weight.detach().clone()
    moved = []
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        moved.append(float((weight.detach() - before).mean()))
        before = weight.detach().clone()
    assert moved == pytest.approx([-0.5, -0.5 * 1.9, -0.5 * 2.71], rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_weights_decay_and_nothing_else(small, name):
    settings = {"neuron": "Adaptive", "learn": ("beta", "rho", "jump", "threshold", "slope"), "recurrent": "all-to-all", "hidden": (6, 5)}
    module = SpikingModule(Config(data=small, **{**TINY, **settings}, optimizer=name, lr=0.1, weight_decay=0.5), load(small))
    optimiser = module.configure_optimizers()
    before = {key: value.detach().clone() for key, value in module.network.named_parameters()}
    for value in module.parameters():
        value.grad = torch.zeros_like(value)
    optimiser.step()
    after = dict(module.network.named_parameters())
    weights = {"layers.0.0.weight", "layers.1.0.weight", "layers.0.2.weight", "layers.1.2.weight", "readout.0.weight"}
    assert weights < after.keys()
    assert {"layers.0.2.beta_logit", "layers.1.2.spike.slope_log", "layers.0.1.weight", "readout.0.bias"} < after.keys() - weights
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == weights
    if name in ("adamw", "sgd"):  # whose decay is a share of the weight
        for key in weights:
            assert torch.allclose(after[key], 0.95 * before[key])


def test_no_parameter_is_left_out_of_the_optimiser(small):
    module = SpikingModule(Config(data=small, **TINY, learn=("beta", "slope")), load(small))
    groups = module.configure_optimizers().param_groups
    given = [parameter for group in groups for parameter in group["params"]]
    assert len(given) == len({*map(id, given)})
    assert {*map(id, given)} == {*map(id, module.parameters())}


def test_what_is_learned_learns(small, tmp_path, watched):
    config = Config(data=small, **TINY, surrogate="NoisyThreshold", learn=("beta", "slope"), lr=0.05)
    _, seen = watched(config, tmp_path / "run")
    first, last = seen[0]["weights"], seen[-1]["weights"]
    learned = {key for key in first if "norm" not in key}
    assert {"layers.0.2.beta_logit", "layers.0.2.spike.slope_log"} < learned
    assert not [key for key in learned if torch.equal(first[key], last[key])]
    assert not [key for key in first if "threshold" in key]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
def test_the_learning_rate_takes_its_course(small, tmp_path, watched, schedule):
    _, seen = watched(Config(data=small, **TINY, schedule=schedule, lr=0.01, threads=1), tmp_path / "run")
    steps = 2 * math.ceil(28 / 8)
    assert len(seen) == steps
    for number, each in enumerate(seen):
        assert each["lr"] == pytest.approx([0.01 * course(schedule, number / steps)] * 2)
    assert {each["threads"] for each in seen} == {1}
    assert {len(each["batch"][1]) for each in seen} == {8, 4}


def test_courses():
    assert [course("constant", done) for done in (0, 0.5, 0.99)] == [1, 1, 1]
    assert [course("cosine", done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [course("one-cycle", done) for done in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([1e-3, 0.5, 1, 0.5, 0])


def test_threads_are_of_the_training_alone(small, tmp_path, watched):
    before = torch.get_num_threads()
    other = before + 1
    _, seen = watched(Config(data=small, **{**TINY, "epochs": 1}, threads=other), tmp_path / "run")
    assert {each["threads"] for each in seen} == {other}
    assert torch.get_num_threads() == before


def test_clip_bounds_the_step(small, tmp_path, watched):
    def longest(**settings):
        settings = {"optimizer": "sgd", "schedule": "constant", "lr": 1.0, "weight_decay": 0.0, "epochs": 1, **settings}
        _, seen = watched(Config(data=small, **{**TINY, **settings}), tmp_path / f"{len(list(tmp_path.iterdir()))}")
        first, second = (seen[number]["weights"] for number in (0, 1))
        return math.sqrt(sum(float((second[key] - first[key]).square().sum()) for key in first))

    free = longest()
    assert free > 0.05
    assert longest(clip=0.01) == pytest.approx(0.01, rel=1e-3)
    assert longest(clip=1e3) == pytest.approx(free)


def test_seeds_decide_weights_order_and_noise(small, tmp_path, watched):
    def first(**settings):
        _, seen = watched(Config(data=small, **TINY | {"threshold": 0.05} | settings), tmp_path / f"{len(list(tmp_path.iterdir()))}")
        return seen[0]

    a, b, again = first(seed=1), first(seed=2), first(seed=1)
    key = "readout.0.weight"
    assert torch.equal(a["weights"][key], again["weights"][key])
    assert not torch.equal(a["weights"][key], b["weights"][key])
    assert not torch.equal(a["batch"][0], b["batch"][0])


def test_noise_follows_from_the_seed_the_step_and_the_process():
    def drawn(seed, step, rank, evaluation=False):
        optimiser = SimpleNamespace(param_groups=[])
        trainer = SimpleNamespace(global_step=step, global_rank=rank)
        module = SimpleNamespace(config=Config(seed=seed), trainer=trainer, total_steps=10, optimizers=lambda: optimiser)
        start = SpikingModule.on_validation_batch_start if evaluation else SpikingModule.on_train_batch_start
        torch.manual_seed(123456)
        start(module, None, step)
        return torch.initial_seed()

    cases = list(itertools.product((1, 2), (0, 3), (0, 1)))
    seeds = [drawn(*case) for case in cases]
    assert len({*seeds, 123456}) == len(cases) + 1
    assert seeds == [drawn(*case) for case in cases]
    evaluated = [drawn(*case, evaluation=True) for case in cases]  # in every process alike
    assert len({*evaluated, *seeds, 123456}) == len(cases) // 2 + len(cases) + 1
    assert evaluated == [drawn(*case[:2], 0, evaluation=True) for case in cases]


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_precision(small, tmp_path, watched, precision, dtype):
    outcome, seen = watched(Config(data=small, **{**TINY, "epochs": 1}, precision=precision), tmp_path / "run")
    assert {value.dtype for value in seen[0]["weights"].values()} == {dtype}
    assert load_file(outcome.run.weights)["readout.0.weight"].dtype == dtype


def test_the_machine_is_lightning_s_to_choose(monkeypatch):
    given = {}

    class Trainer(lightning.Trainer):
        def __init__(self, **options):
            given.update(options)
            super().__init__(**{**options, "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})

    monkeypatch.setattr(lightning, "Trainer", Trainer)
    settings = {"accelerator": "cuda", "devices": "2", "num_nodes": 3, "strategy": "fsdp", "precision": "bf16-mixed", "epochs": 7}
    running._trainer(Config(**settings, clip=0.5))
    wanted = {**settings, "max_epochs": settings.pop("epochs"), "gradient_clip_val": 0.5}
    wanted.pop("epochs")
    assert {name: given[name] for name in wanted} == wanted
    running._trainer(Config())
    assert given["gradient_clip_val"] is None


def test_the_best_epoch_has_the_highest_accuracy_and_then_the_lowest_loss(small, tmp_path, monkeypatch):
    accuracies, losses = [0.5, 0.8, 0.8, 0.8, 0.6, 0.8], [1.0, 0.9, 0.7, 0.8, 0.1, 0.7]
    after = []

    def validation_step(self, batch, batch_idx):
        after.append({name: value.detach().clone() for name, value in self.network.state_dict().items()})
        for name, values in (("validation_accuracy", accuracies), ("validation_loss", losses), ("rate_1", [0.1] * 6)):
            self.log(name, values[self.current_epoch], on_step=False, on_epoch=True)

    monkeypatch.setattr(SpikingModule, "validation_step", validation_step)

    def check(run):
        kept = load_file(run.weights)
        assert [all(torch.equal(kept[name], weights[name].to(kept[name].dtype)) for name in kept) for weights in after] == [
            number == 2 for number in range(len(after))
        ]
        results = run.read_json("results.json")
        assert (results["best_epoch"], results["validation_accuracy"], results["epochs"]) == (3, 0.8, len(after))

    settings = {**TINY, "schedule": "constant"}
    run = train(Config(data=small, **{**settings, "epochs": 4}), tmp_path / "run").run
    check(run)
    assert len(after) == 4
    resume(run.path, epochs=6)  # of which none is better
    check(run)
    assert len(after) == 6
    assert [(row["validation_accuracy"], row["validation_loss"]) for row in run.metrics()] == list(zip(accuracies, losses, strict=True))


def test_validation_is_on_the_validation_samples(small):
    data = load(small)
    dataset = SpikingModule(Config(data=small, **TINY), data).val_dataloader().dataset
    assert np.array_equal(dataset.x.numpy(), data.validation[0])
    assert np.array_equal(dataset.y.numpy(), data.validation[1])


def test_measuring_is_without_dropout_and_moves_no_statistics(small):
    torch.manual_seed(0)
    network = Network(Config(hidden=(40,), dropout=0.9, steps=3), 4, 2)
    part = load(small).train
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = network.eval()(torch.from_numpy(part[0])).scores
    found = measure(network.train(), part, 0)
    assert [found.confusion[k, k] for k in (0, 1)] == [int(((scores.argmax(1).numpy() == k) & (part[1] == k)).sum()) for k in (0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_pictures_in_the_format_asked_for(small, tmp_path, ending):
    run = train(Config(data=small, **{**TINY, "epochs": 1, "pictures": ending}), tmp_path / "run").run
    start = {"svg": b"<?xml", "pdf": b"%PDF"}[ending]
    drawn = {path.name: path.read_bytes()[:5] for path in run.path.iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    assert drawn.keys() == {f"{name}.{ending}" for name in ("confusion", "learning_curves", "raster")}
    assert all(content.startswith(start) for content in drawn.values())
    old = (run.path / f"learning_curves.{ending}").read_bytes()
    resume(run.path, epochs=2, pictures="png")
    assert {path.suffix for path in run.path.glob("raster.*")} == {".png", f".{ending}"}
    assert (run.path / f"learning_curves.{ending}").read_bytes() != old  # no picture is left that shows an earlier state


def quantised(backend):
    layer = nn.Leaky(0.5, threshold=1e6, quantize=nn.Quantize(bits=2, low=0.0, high=3.0), backend=backend)
    currents = torch.tensor([-1.0, -0.25, 0.0, 0.4, 1.6, 3.0, 3.25, 9.0]).expand(1, 1, 8).clone().requires_grad_()
    _, state = layer(currents)
    state.sum().backward()
    return state.detach()[0].tolist(), currents.grad[0, 0].tolist()


def test_quantised_states_have_the_gradient_of_a_clamp():
    x = torch.tensor([-1.0, -0.25, 0.0, 0.4, 1.6, 3.0, 3.25, 9.0], requires_grad=True)
    y = nn.Quantize(bits=2, low=0.0, high=3.0)(x)
    (y * torch.arange(1.0, 9.0)).sum().backward()
    assert y.tolist() == [0, 0, 0, 0, 2, 3, 3, 3]
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]
    for backend in ("reference", "numba"):
        assert quantised(backend) == ([0, 0, 0, 0, 2, 3, 3, 3], [0, 0, 1, 1, 1, 1, 0, 0]), backend
