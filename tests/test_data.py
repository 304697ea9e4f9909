import os
from pathlib import Path

import numpy as np
import pytest

from spikegrad import data
from spikegrad.errors import InputError

X = np.random.default_rng(0).random((40, 5)).astype("float32")
Y = np.arange(40) % 4


@pytest.fixture
def write(tmp_path):
    def written(**arrays):
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return str(path)

    return written


def changed(array, index, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return array


def test_digits_are_the_real_images_in_stratified_parts():
    digits = data.load("digits")
    assert [len(part[1]) for part in (digits.train, digits.validation, digits.test)] == [1259, 179, 359]
    assert (digits.features, digits.steps, digits.classes, digits.name) == (64, None, 10, "digits")
    for x, y in (digits.train, digits.validation, digits.test):
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert (x.min(), x.max()) == (0, 1)
        assert np.ptp(np.bincount(y) / len(y)) < 0.02


def test_the_split_is_a_partition_and_does_not_change():
    parts = data.split(Y, (0.2, 0.1))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(40))
    assert [part.tolist() for part in parts[:2]] == [part.tolist() for part in data.split(Y, (0.2, 0.1))[:2]]
    assert data.load("digits").fingerprint.startswith("9ef70e32f4be")


def test_validation_samples_of_ones_own(write):
    parts = {"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:28], "y_test": Y[20:28], "x_val": X[28:], "y_val": Y[28:]}
    own = data.load(write(**parts))
    for part, key in ((own.train, "train"), (own.test, "test"), (own.validation, "val")):
        assert np.array_equal(part[0], parts[f"x_{key}"])
        assert np.array_equal(part[1], parts[f"y_{key}"])


def test_own_files(write):
    own = data.load(write(x=X, y=Y))
    assert (own.name, own.features, own.steps, own.classes) == ("own", 5, None, 4)
    series = data.load(write(x=X[:, :, None], y=Y.astype("float64")))
    assert (series.features, series.steps) == (1, 5)
    ready = data.load(write(x_train=X[:30], y_train=Y[:30], x_test=X[30:], y_test=Y[30:]))
    assert np.array_equal(ready.test[0], X[30:])
    assert len(ready.train[1]) + len(ready.validation[1]) == 30


WRONG = {
    "`x` must be .sample, feature. or .sample, time, channel., got shape .40,.": {"x": X[:, 0], "y": Y},
    "one label a sample, shape .40,., got shape .39,.": {"x": X, "y": Y[:39]},
    "`x` is empty, got shape .0, 5.": {"x": X[:0], "y": Y[:0]},
    "`x` must be real numbers, got complex64": {"x": X.astype(complex).astype("complex64"), "y": Y},
    "`x` must be finite, got nan in sample 7": {"x": changed(X, (7, 1), np.nan), "y": Y},
    "`x` must be finite, got inf in sample 3": {"x": changed(X, (3, 0), np.inf), "y": Y},
    "`x` must be finite, got 1e.300 in sample 3": {"x": changed(X, (3, 0), 1e300, "float64"), "y": Y},
    "`y` must be whole numbers from 0, got 1.5 in sample 2": {"x": X, "y": changed(Y, 2, 1.5, float)},
    "`y` must be whole numbers from 0, got nan in sample 2": {"x": X, "y": changed(Y, 2, np.nan, float)},
    "`y` must be whole numbers from 0, got <U1": {"x": X, "y": Y.astype("U1")},
    "`y` must not be negative, got -1 in sample 4": {"x": X, "y": changed(Y, 4, -1)},
    "every label from 0 to the largest, 99; 4 does not occur": {"x": X, "y": changed(Y, 4, 99)},
    "a single class": {"x": X, "y": Y * 0},
    "class 0 has 2 sample.s., too few": {"x": X, "y": np.array([0, 0] + [1] * 38)},
    "has no `x` and `y`; it has z": {"z": X},
    "has no `y_test`; it has x_train, y_train, x_test": {"x_train": X, "y_train": Y, "x_test": X},
    "`x_train` has samples of shape .5,., `x_test` of shape .4,.": {"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y},
    "has no `y_val`; it has x_train": {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X},
    "has no `x_test` and `y_test`; it has": {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y},
    "`x_train` has samples of shape .5,., `x_val` of shape .4,.": {
        **{"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X[:, :4], "y_val": Y}
    },
    "has `labels`, which is not read beside `x`, `y`; leave it out": {"x": X, "y": Y, "labels": Y},
    "has `x_val`, which is not read beside `x`, `y`; leave it out": {"x": X, "y": Y, "x_val": X, "y_val": Y},
    "label 9 of `y_test` does not occur": {"x_train": X, "y_train": Y, "x_test": X[:1], "y_test": np.array([9])},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arrays_are_named(write, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load(write(**WRONG[message]))
    assert "\n" not in str(caught.value)


def test_wrong_files_are_named(tmp_path, write):
    empty, broken, array, cut, pickled = (tmp_path / name for name in ("empty.npz", "broken.npz", "array.npz", "cut.npz", "pickled.npz"))
    empty.touch()
    broken.write_text("not a zip file")
    with array.open("wb") as file:
        np.save(file, X)
    cut.write_bytes(Path(write(x=X, y=Y)).read_bytes()[:500])
    np.savez(pickled, x=np.array([{}], dtype=object), y=Y)
    for path, message in {
        empty: "not a readable .npz file: it is empty",
        broken: "not a readable .npz file",
        array: "is a single array",
        cut: "not a readable .npz file",
        pickled: "pickled.npz: `x` holds Python objects, as of samples of different lengths; bring all to one shape",
        tmp_path / "absent.npz": "no such file",
        "digit": "unknown data 'digit'; did you mean digits?",
        "cifar": "unknown data 'cifar'; choose from digits, randman, the path of an .npz or .h5 file or of a folder",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            data.load(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the owner of everything may read everything")
def test_a_forbidden_file_is_named(write):
    path = write(x=X, y=Y)
    os.chmod(path, 0)
    with pytest.raises(InputError, match="permission denied"):
        data.load(path)
