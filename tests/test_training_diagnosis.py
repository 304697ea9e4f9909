"""A run says of itself why it does not learn."""

import contextlib
import json
import warnings

import pytest

from spikegrad.training import Config, DivergedError, resume, train
from spikegrad.training.examine import course_says, examine, examine_start, warning
from spikegrad.training.folder import Run

TINY = {"hidden": (6, 5), "steps": 3, "epochs": 2, "batch": 8, "dropout": 0.0, "pictures": "none"}
DEAD = {**TINY, "norm": False, "threshold": 50.0, "surrogate": "Triangle", "parameters": {"spike.width": 0.1}}


def test_a_run_that_does_not_learn_says_so_once_and_why(small, tmp_path, told):
    settings = tmp_path / "config.json"
    settings.write_text(Config(data=small, **DEAD).json())
    code, out, _ = told("train", "--config", settings, "--out", tmp_path / "dead", "--diagnose")
    assert code == 0
    assert out.count("layer 1 was silent throughout epoch 1; for why: spikegrad diagnose") == 1
    assert out.count("warning") == 1
    before, after = out.split("after training")
    for part in (before, after):
        assert "1. silent" in part
        assert "Layer `layers.0.1`: 100 % of neurons never spike" in " ".join(part.split())
    assert "Layer 1 has been silent since epoch 1." in after
    code, again, _ = told("diagnose", tmp_path / "dead")
    assert code == 0
    assert "1. silent" in again
    kept = json.loads((tmp_path / "dead" / "diagnosis.json").read_text())
    assert kept["findings"][0]["kind"] == "silent"
    assert "Layer 2 has been silent since epoch 1." in kept["course"]
    assert (tmp_path / "dead" / "diagnosis.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "warning" not in told("train", "--resume", tmp_path / "dead", "--epochs", 3)[1]


def test_a_run_that_learns_says_nothing(small, tmp_path, told):
    code, out, _ = told(
        *("train", "--data", small, "--out", tmp_path / "run", "--pictures", "none"),
        *("--hidden", "8", "--steps", 4, "--epochs", 3, "--batch-size", 8),
    )
    assert code == 0
    assert "warning" not in out
    found, course = examine(tmp_path / "run")
    assert found.healthy
    assert [layer.kind for layer in found.layers] == ["Leaky", "LeakyIntegrator"]
    assert course[0].startswith("In 3 epochs the training loss went from")


def test_from_python_it_is_a_warning(small, tmp_path):
    with pytest.warns(UserWarning, match="layer 1 was silent throughout epoch 1; for why: spikegrad diagnose") as seen:
        train(Config(data=small, **DEAD), tmp_path / "dead")
    assert len(seen) == 1
    resume(tmp_path / "dead", epochs=3)


def rows(*changes, **same):
    base = {"train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5, "rate_1": 0.2}
    return [{"epoch": number, **base, **same, **change} for number, change in enumerate(changes, 1)]


def test_what_a_course_says():
    assert course_says([], 2) == ["No epoch has ended yet."]
    assert course_says(rows({}, {}), 2)[1:] == []
    assert course_says(rows({}, {}, {}), 2)[1:] == ["The loss has not moved since the first epoch."]
    assert course_says(rows({}, {}, {"train_accuracy": 0.6}), 2)[1:] == []
    assert course_says(rows({}, {"rate_1": 1.0}, {"rate_1": 0.95}, train_accuracy=0.9), 2)[1:] == [
        "Layer 1 has been saturated since epoch 2."
    ]
    heart = rows({}, {"train_loss": 0.1, "validation_loss": 1.5})
    assert course_says(heart, 2)[1:] == ["Since epoch 1 the training loss has fallen while the validation loss rose: it learns by heart."]


def test_what_is_warned_of():
    assert warning(rows({}), 2) is None
    assert warning(rows({}, {"rate_1": 0.0}), 2) == "layer 1 was silent throughout epoch 2"
    assert warning(rows({"rate_1": 0.99}), 2) == "layer 1 was saturated throughout epoch 1"
    assert warning(rows({}, {}, {}), 2) == "the loss has not moved in 3 epochs"


def test_what_is_no_run(tmp_path, told):
    code, _, error = told("diagnose", tmp_path / "nothing")
    assert (code, error) == (2, f"spikegrad: {tmp_path / 'nothing'} is not a run: there is no such folder")


WAYS = [
    {},
    {"hidden": (64, 64, 64), "norm": False},
    {"loss": "max"},
    {"loss": "count", "norm": False},
    {"encoding": "rate", "steps": 20},
    {"encoding": "latency", "steps": 20, "norm": False},
    {"recurrent": "all-to-all"},
    *({"neuron": name} for name in ("Synaptic", "Adaptive", "AdEx", "ResonateAndFire", "Ternary", "RefractoryLeaky", "IntegerLeaky")),
    *({"neuron": name} for name in ("SigmaDelta", "TwoCompartment", "Izhikevich")),
    *({"surrogate": "FastSigmoid", "parameters": {"slope": slope}} for slope in (25, 100)),
    {"surrogate": "StraightThrough"},
    {"surrogate": "Sigmoid", "parameters": {"slope": 25}},
    {"learn": ("beta", "slope")},
    {"optimizer": "sgd", "lr": 0.1},
    {"lr": 0.03},
    {"lr": 30.0},
    {"beta": 0.5},
    {"hidden": (64,) * 6},
    {"norm": False, "threshold": 30.0, "surrogate": "Triangle"},
]


@pytest.mark.slow
def test_a_verdict_where_it_does_not_learn_and_none_where_it_does(tmp_path):
    """On digits, before and after training; its output lies in tests/evidence/runs_diagnosed.txt."""
    print("\n`pytest -m slow -n 0 -s tests/test_training_diagnosis.py -k verdict`; digits, 4 epochs")
    for number, way in enumerate(WAYS):
        config = Config(**{"hidden": (64,), "epochs": 4, **way})
        before = examine_start(config)
        with warnings.catch_warnings(), contextlib.suppress(DivergedError):
            warnings.simplefilter("ignore")
            train(config, tmp_path / str(number))
        run = Run.open(tmp_path / str(number))
        learned = max((row["validation_accuracy"] for row in run.metrics()), default=0.0)
        after = examine(run.path)[0]
        kinds = [[finding.kind for finding in found.findings] for found in (before, after)]
        print(f"{way!s:<75} {learned:.3f}  {' '.join(kinds[0]) or '-'}  {' '.join(kinds[1]) or '-'}", flush=True)
        assert (learned >= 0.85) == before.healthy, (way, learned, before)
        assert learned < 0.85 or after.healthy, (way, after)
