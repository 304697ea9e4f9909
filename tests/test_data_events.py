"""Event data in the forms in which they are published: read, binned, trained on, answered; and what is wrong with them is said."""

import json
import re

import h5py
import numpy as np
import pytest

from spikegrad import data
from spikegrad.data import Binning, Events
from spikegrad.data.recordings import sample
from spikegrad.errors import InputError
from spikegrad.training import Config, evaluate, predict, train

FIELDS = [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")]


def heidelberg(path, labels, seed=0, **changes):
    """A file as SHD is published: 16-bit times in seconds; each class is active in its own part of the 700 units."""
    random = np.random.default_rng(seed)
    times = [np.sort(random.uniform(0, 0.9, 60)).astype("float16") for _ in labels]
    units = [(random.integers(0, 100, 60) + 150 * label).astype("uint16") for label in labels]
    for name, (k, value) in changes.items():
        {"times": times, "units": units}[name][k] = value
    with h5py.File(path, "w") as file:
        for name, values, kind in (("times", times, "float16"), ("units", units, "uint16")):
            stored = file.create_dataset(f"spikes/{name}", (len(labels),), h5py.vlen_dtype(np.dtype(kind)))
            for k, value in enumerate(values):
                stored[k] = value
        file["labels"] = np.asarray(labels, "uint16")
        file["extra/speaker"] = np.zeros(len(labels), "uint16")
    return path


def nmnist(path, x, y, t, p):
    """Five bytes an event, as N-MNIST is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, t, p = (np.asarray(each) for each in (x, y, t, p))
    path.write_bytes(np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], 1).astype("uint8").tobytes())


@pytest.fixture(scope="module")
def shd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shd")
    heidelberg(folder / "shd_train.h5", np.arange(40) % 4)
    heidelberg(folder / "shd_test.h5", np.arange(12) % 4, seed=1)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of events, one with all on the left."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for k in range(24):
        x, y, t, p = (random.integers(0, most, 80) for most in (4, 8, 3000, 2))
        nmnist(folder / str(k % 2) / f"{k:05}.bin", x + 4 * (k % 2), y, t, p)
    return folder


def test_bins_are_counts_by_step_and_channel():
    path = [data.events.Recording("a", np.array([0.0, 0.9, 1.0, 5.0]), (np.array([0, 1, 1, 1]),))]
    events, late = Binning(steps=2, step_ms=1.0, sensor=(3,)).apply(path)
    assert (events[:].tolist(), late) == ([[[1, 1, 0], [0, 1, 0]]], 1)
    whole = Binning().fitted(path)
    assert (whole.steps, whole.sensor) == (100, (2,))
    assert whole.apply(path)[1] == 0
    assert Binning(step_ms=2.0).fitted(path).steps == 3
    camera = [data.events.Recording("b", np.array([0.0, 0.0, 0.0]), (np.array([0, 1, 3]), np.array([0, 0, 2]), np.array([0, 0, 1])))]
    pooled, binary = (Binning(1, 1.0, (4, 3), 2, binary) for binary in (False, True))
    assert pooled.shape == (2, 2, 2)
    assert pooled.apply(camera)[0][:].reshape(2, 2, 2).tolist() == [[[2, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert binary.apply(camera)[0][:].reshape(2, 2, 2).tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]


@pytest.mark.parametrize("step", [100, 300, 1000, 2973])
@pytest.mark.parametrize(
    ("kind", "start"), [("<i8", 0), ("<i8", 123_456_789), ("<u8", 1_764_281_231_000_000), ("<f8", 0), ("<f8", 123_456_789)]
)
def test_an_event_at_the_beginning_of_a_step_is_in_it(tmp_path, step, start, kind):
    number = np.arange(200)
    fields = [("x", "<i2"), ("y", "<i2"), ("t", kind), ("p", "?")]
    events = np.zeros(400, fields)
    time = start + np.concatenate([number * step, number * step + step - 1])
    events["t"] = time / 1e6 if kind == "<f8" else time
    np.save(tmp_path / "a.npy", events)
    recording = sample(tmp_path / "a.npy")
    assert isinstance(recording, data.events.Recording)
    binning = Binning(step_ms=step / 1000).fitted([recording])
    assert binning.steps == 200
    assert binning.apply([recording])[0].step.tolist() == [*number, *number]


def test_places_that_are_too_many_and_numbers_that_are_none():
    def at(x, y):
        return [data.events.Recording("a", np.zeros(1), (np.array([x]), np.array([y]), np.array([1])))]

    with pytest.raises(InputError, match=r"100001 by 100001 has 20000400002 channels with `pool` 1, and must have fewer than 2147483648"):
        Binning().fitted(at(100_000, 100_000))
    binning = Binning(1, 1.0, pool=100).fitted(at(100_000, 100_000))
    assert binning.apply(at(100_000, 100_000))[0].channel.tolist() == [2 * 1001 * 1001 - 1]
    for wrong in ({"steps": 0}, {"steps": 2.5}, {"step_ms": 0.0}, {"step_ms": float("nan")}, {"pool": 0}, {"sensor": (3, -1)}):
        with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must be a"):
            Binning(**wrong)


def test_events_are_an_array_of_what_is_taken():
    random = np.random.default_rng(0)
    dense = random.integers(0, 3, (5, 4, 3))
    dense[2] = 0
    sample, step, channel = np.nonzero(dense)
    repeated = np.repeat(np.stack([sample, step, channel]), dense[sample, step, channel], axis=1)
    events = Events(repeated[1], repeated[2], np.searchsorted(repeated[0], np.arange(6)), 4, 3)
    for indices in (slice(None), np.array([3, 1, 1]), slice(2, 3)):
        assert np.array_equal(events[indices], dense[indices])
    assert np.array_equal(events.take(np.array([4, 2, 0]))[np.array([2, 0])], dense[[0, 4]])
    assert (events.min(), events.max()) == (0, dense.max())
    assert np.array_equal(data.events.joined([events, events.take(np.array([3]))])[:], np.concatenate([dense, dense[3:4]]))


def test_shd_trains_and_predict_says_what_evaluate_says(shd, tmp_path, told):
    out = tmp_path / "run"
    options = ("--hidden", "12", "--steps", 20, "--pool", 7, "--epochs", 6, "--batch-size", 7, "--pictures", "none")
    assert told("train", "--data", shd, *options, "--out", out)[0] == 0
    config = Config.read(out / "config.json")
    assert (config.steps, config.sensor, config.pool, config.binary) == (20, (700,), 7, False)
    assert 40 < config.step_ms < 50
    facts = json.loads((out / "run.json").read_text())
    assert (facts["features"], facts["classes"], facts["samples"]["test"], facts["events_left_out"]) == (100, 4, 12, 0)
    measured = evaluate(out)
    assert measured.accuracy > 0.5
    found = predict(out, str(shd / "shd_test.h5"))
    assert found.right() == (measured.correct, measured.samples)
    assert predict(out, str(shd)).right("test") == (measured.correct, 12)
    answers = tmp_path / "answers.csv"
    code, printed, _ = told("predict", out, shd / "shd_test.h5", "--out", answers)
    assert code == 0
    assert f"accuracy       {100 * measured.accuracy:.2f} %  {measured.correct} of 12" in printed
    rows = [line.split(",") for line in answers.read_text().splitlines()]
    assert rows[0][:3] == ["sample", "label", "answer"]
    assert sum(row[1] == row[2] for row in rows[1:]) == measured.correct
    assert f"accuracy       {100 * measured.accuracy:.2f} %" in told("evaluate", out, "--data", shd / "shd_test.h5")[1]
    assert "exists already" in told("predict", out, shd, "--out", answers)[2]


def test_nmnist_trains_and_single_samples_are_answered(images, tmp_path, told):
    out = tmp_path / "run"
    options = ("--hidden", "8", "--step-ms", 0.5, "--epochs", 6, "--pictures", "none")
    assert told("train", "--data", images, *options, "--out", out)[0] == 0
    config = Config.read(out / "config.json")
    assert (config.steps, config.step_ms, config.sensor) == (6, 0.5, (8, 8))
    assert evaluate(out).accuracy == 1
    code, printed, _ = told("predict", out, images / "1" / "00003.bin")
    assert (code, printed.split()[:2]) == (0, ["00003.bin", "1"])
    assert "accuracy" not in printed
    assert predict(out, str(images / "0")).labels is None
    nmnist(tmp_path / "wide.bin", [9], [0], [0], [1])
    assert "wide.bin: x 9 is outside of the sensor of 8 by 8" in told("predict", out, tmp_path / "wide.bin")[2]
    np.savez(tmp_path / "plain.npz", x=np.zeros((2, 3)))
    assert "has samples of shape (3,), but" in told("predict", out, tmp_path / "plain.npz")[2]


def test_a_sample_is_read_alike_in_every_form(tmp_path):
    x, y, t, p = [1, 30, 33], [0, 33, 7], [100, 70_000, 8_000_000], [0, 1, 1]
    nmnist(tmp_path / "a.bin", x, y, t, p)
    rows = np.array(list(zip(x, y, t, p, strict=True)), FIELDS)
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", x=x, y=y, t=np.array(t) / 1e6, p=2 * np.array(p) - 1)
    for ending in ("bin", "npy", "npz"):
        found = sample(tmp_path / f"a.{ending}")
        assert np.allclose(found.time, [0, 69.9, 7999.9])
        assert [place.tolist() for place in found.places] == [x, y, p]


def test_folders_of_arrays_and_of_parts(tmp_path):
    for k in range(40):
        part = tmp_path / "parts" / ("train" if k < 30 else "test") / ("left", "right")[k % 2]
        part.mkdir(parents=True, exist_ok=True)
        np.save(part / f"{k}.npy", np.full((5, 3), k, "float32"))
    found = data.load(str(tmp_path / "parts"))
    assert (found.names, found.steps, found.features, found.shape) == (("left", "right"), 5, 3, (3,))
    assert [len(part[1]) for part in (found.train, found.validation, found.test)] == [26, 4, 10]
    assert all(x[0, 0] % 2 == y for x, y in zip(*found.whole, strict=True))
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x.npy", np.arange(40.0).reshape(20, 2))
    np.save(tmp_path / "arrays" / "y.npy", np.arange(20) % 2)
    assert data.load(str(tmp_path / "arrays")).features == 2


def put(folder, name, content):
    path = folder / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    return folder / "data"


def with_labels(path, count):
    heidelberg(path, [0, 1, 0, 1])
    with h5py.File(path, "r+") as file:
        del file["labels"]
        if count:
            file["labels"] = np.zeros(count)
    return path


WRONG = {
    "has 7 bytes, and must have 5 for each event": lambda d: put(d, "0/a.bin", b"1234567"),
    "has 0 bytes, and must have 5": lambda d: put(d, "0/a.bin", b""),
    "has no field `t`; events have x, y, t and p, and it has x, y": lambda d: put(d, "0/a.npy", np.zeros(3, FIELDS[:2])),
    "a.npy has no events": lambda d: put(d, "0/a.npy", np.zeros(0, FIELDS)),
    "polarities must be 0 and 1": lambda d: put(d, "0/a.npy", np.array([(0, 0, 0, 3)], [*FIELDS[:3], ("p", "i1")])),
    "x must be whole numbers from 0, got -4": lambda d: put(d, "0/a.npy", np.array([(-4, 0, 0, 1)], FIELDS)),
    "is not a readable .npy file: it is empty": lambda d: put(d, "0/a.npy", b""),
    "a.txt is not a sample; those are files that end in .bin, .npy, .npz": lambda d: put(d, "0/a.txt", b"1"),
    "a.bin lies in no class": lambda d: put(d, "a.bin", b"12345"),
    "has no folder `test`; it has train": lambda d: put(d, "train/0/a.bin", b"12345"),
    "must be (feature,) or (time, channel)": lambda d: put(d, "0/a.npy", np.zeros((2, 2, 2))),
    "has neither folders of samples nor .h5 files": lambda d: put(d, "read.me", b""),
    "is not a readable HDF5 file": lambda d: put(d, "a.h5", b"no") / "a.h5",
    "has no `labels`, as SHD and SSC have; it has extra/speaker, spikes/times": lambda d: with_labels(d / "a.h5", 0),
    "must have one entry a sample in each of its arrays": lambda d: with_labels(d / "a.h5", 3),
    "channel 700 is outside of the sensor of 700": lambda d: heidelberg(d / "a.h5", [0, 1], units=(1, [700] * 60)),
    "sample 1: times must not be negative": lambda d: heidelberg(d / "a.h5", [0, 1], times=(1, [-1.0] * 60)),
    "sample 0: times must be finite": lambda d: heidelberg(d / "a.h5", [0, 1], times=(0, [np.nan] * 60)),
    "sample 1: `spikes/times` has shape (2,), `spikes/units` (60,)": lambda d: heidelberg(d / "a.h5", [0, 1], times=(1, [0.1, 0.2])),
    "has no file that ends in _train.h5; it has shd_test.h5": lambda d: heidelberg(d / "shd_test.h5", [0, 1]).parent,
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_files_are_one_line(tmp_path, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        data.load(str(WRONG[message](tmp_path)))
    assert "\n" not in str(caught.value)


def test_binning_that_does_not_fit(shd, small, images):
    for source, settings, message in (
        (shd, {"sensor": (34, 34)}, "`sensor` is 34,34, but the events of"),
        (images, {"sensor": (64,)}, "`sensor` is 64, but the events of"),
        (small, {"step_ms": 2.0}, "`step_ms` is for event data"),
        ("digits", {"pool": 2}, "`pool` is for event data"),
        ("randman(classs=3)", {}, "randman has no 'classs'; did you mean classes?"),
        ("randman(classes=1)", {}, "`classes` of randman must be a whole number of at least 2, got 1"),
        ("randman(spectrum=papr)", {}, "`spectrum` of randman must be one of paper, torch, numpy, got 'papr'; did you mean paper?"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            data.load(str(source), Config(**settings).binning)


def test_randman_is_what_its_paper_says():
    found = data.randman(classes=3, units=4, samples=30, steps=40)
    x, y = found.whole
    assert (x.shape, found.steps, found.features, found.classes, len(found.test[1])) == ((90, 40, 4), 40, 4, 3, 9)
    dense = x[:]
    assert (dense.sum(1) == 1).all()  # one spike of each unit
    for label in range(3):
        times = dense[y == label].argmax(1)
        assert (times.min(0) == 0).all()
        assert (times.max(0) == 19).all()  # in the first half, all of which is used
    again = data.randman(classes=3, units=4, samples=30, steps=40)
    assert again.fingerprint == found.fingerprint != data.randman(classes=3, units=4, samples=30, steps=40, seed=1).fingerprint


def test_spectra_of_randman():
    from spikegrad.data.manifolds import _spectrum

    for name, first, last in (("paper", 1.0, 1000**-2.0), ("torch", 0.0, 1 / (32**2.0 + 1)), ("numpy", 0.0, 32**-2.0)):
        wave, size = _spectrum(name, 2.0)
        assert (len(wave), wave[0]) == ((1000, 1) if name == "paper" else (32, 0))
        assert (size[0], size[-1]) == (first, pytest.approx(last))


def test_randman_trains(tmp_path):
    settings = {"hidden": (16,), "epochs": 1, "batch": 16, "pictures": "none"}
    outcome = train(Config(data="randman(classes=2,samples=40,steps=20)", **settings), tmp_path / "run")
    assert evaluate(outcome.run.path).correct == outcome.test.correct
