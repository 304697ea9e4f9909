"""Where data come from: what is known by name, a user's arrays, and event data in the forms in which they are published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.dataset import Array, Dataset, split, together
from spikegrad.data.events import Binning, Events, Recording
from spikegrad.data.files import FILES, Found, Raw, read
from spikegrad.data.manifolds import randman
from spikegrad.data.recordings import SAMPLES, sample
from spikegrad.errors import InputError, meant

NAMES = ("digits", "randman")
"""Data that are asked for by name."""
TEST, VALIDATION = 0.2, 0.1


def check_name(data: str) -> None:
    """Refuse, without reading anything, what is neither known data nor something that exists and may be data.

    Raises:
        InputError: and says what was meant.
    """
    if data.partition("(")[0] in NAMES and not Path(data).exists():
        _by_name(data)
        return
    path = Path(data)
    if not path.exists() and path.suffix not in (*FILES, *SAMPLES):
        raise InputError(f"unknown data {data!r}{meant(data, (*NAMES, 'the path of an .npz or .h5 file or of a folder'))}")
    if not path.exists():
        raise InputError(f"no such file: {data}")
    if path.is_file() and path.suffix in (".bin", ".npy"):
        raise InputError(f"{data} is one sample without a label; give the folder that has a folder of such files for each class")
    if path.is_file() and path.suffix in (".gz", ".zip"):
        raise InputError(f"{data} is compressed; unpack it first")
    if path.is_file() and path.suffix not in FILES:
        raise InputError(f"{data} is neither an .npz nor an .h5 file; write one with numpy.savez(path, x=samples, y=labels)")


def load(data: str, binning: Binning | None = None) -> Dataset:
    """Data by name or from a path, checked and split into training, validation and test.

    - ``"digits"``: the 1797 handwritten digits of scikit-learn, 8 by 8 pixels, scaled to 0..1 (nothing is downloaded).
    - ``"randman"``, ``"randman(classes=5, alpha=2)"``: see `randman`.
    - An ``.npz`` file with `x`, (sample, feature) or (sample, time, channel), and `y`, whole numbers from 0; or with `x_train`, `y_train`,
      `x_test`, `y_test` and, if you like, `x_val`, `y_val`. A folder with ``x.npy``, ``y.npy`` … is read alike.
    - An ``.h5`` file in the form of the Spiking Heidelberg Digits (see `recordings.hdf5`), or a folder with those for ``_train``,
      ``_test`` and, as SSC has it, ``_valid``.
    - A folder with a folder of samples for each class, or with such folders in ``train``, ``test`` and perhaps ``valid``. A sample is a
      file of N-MNIST, ``.bin``; an ``.npy`` with events of fields x, y, t, p, or an ``.npz`` with these arrays; or an ``.npy`` with a plain
      array, (feature,) or (time, channel).

    Events are put into bins of time step and channel, see `Binning`. Of undivided samples 20 % become the test set, 10 % (of the training
    samples, where a test set is given) validation, by the rule of `split`. Whatever is not read is refused: nothing is left out unsaid.

    Args:
        data: the name or the path.
        binning: how events become numbers; what it leaves open, and all of it if None, follows from the data.

    Returns:
        The data. Samples are float32.

    Raises:
        InputError: the name is unknown, a file is broken, an array is missing, unknown or has the wrong shape or type, a value is not
            finite, an event is outside of the sensor, a label is negative or not whole, or there are too few samples.

    Example:
        >>> from spikegrad.data import load
        >>> digits = load("digits")
        >>> digits.train[0].shape, digits.classes
        ((1259, 64), 10)
    """
    check_name(data)
    if data.partition("(")[0] in NAMES and not Path(data).exists():
        _require_no_events(data, binning)
        made = _by_name(data)
        if made is not None:
            return made()
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        found = Found("digits", {"": ("digits: `x`", np.asarray(x) / 16, "digits: `y`", np.asarray(y))})
    else:
        found = read(Path(data))
    binned = _binned(data, found, binning)
    parts = {part: (x, _labels(said, y, part in ("", "train"))) for part, (x, said, y) in binned.parts.items()}
    known = parts.get("train")
    common: Any = {"binning": binned.binning, "names": found.names, "left_out": binned.left_out}
    if known is None:
        x, y = parts[""]
        test, validation, train = split(y, (TEST, VALIDATION))
        own = [(_taken(x, part), y[part]) for part in (train, validation, test)]
        return Dataset(found.name, own[0], own[1], own[2], **common)
    for part, (_, y) in parts.items():
        said = found.parts[part][2]
        if extra := sorted(set(y.tolist()) - set(known[1].tolist())):
            place, _, array = said.rpartition(": ")
            of_training = found.parts["train"][2].rpartition(": ")[2]
            raise InputError(f"{place or data}: label {extra[0]} of {array} does not occur in {of_training}")
    if "val" in parts:
        return Dataset(found.name, known, parts["val"], parts["test"], **common)
    validation, train = split(known[1], (VALIDATION,))
    own = [(_taken(known[0], part), known[1][part]) for part in (train, validation)]
    return Dataset(found.name, own[0], own[1], parts["test"], **common)


def samples(
    data: str, binning: Binning | None = None, names: tuple[str, ...] = (), ndim: int = 2
) -> tuple[Array, NDArray[np.int64] | None, list[str]]:
    """All samples of data that a trained network is to answer, and their labels where they have any.

    Args:
        data: as for `load`, or a file or a folder of samples without labels: an ``.npz`` with `x` alone, an ``.npy`` with one sample or
            many, a file of events.
        binning: how the events were binned that the network was trained on, None if it was on others.
        names: what the network's classes are called.
        ndim: dimensions of the samples together: 3 if they have a time axis.

    Returns:
        Samples, labels or None, and what the samples are called: their files, or nothing.

    Raises:
        InputError: as `load`.

    Example:
        >>> from spikegrad import data
        >>> x, y, called = data.samples("digits")
        >>> x.shape, y.shape, called
        ((1797, 64), (1797,), [])
    """
    path = Path(data)
    if data.partition("(")[0] in NAMES and not path.exists():
        return *load(data).whole, []
    single = path.suffix in SAMPLES[:2] and path.is_file()
    if not single:
        check_name(data)
    found = _single(path, ndim) if single else read(path, labelled=False, names=names)
    events = any(isinstance(raw, list) for _, raw, _, _ in found.parts.values())
    binned = _binned(data, found, binning if events else None)
    parts = [(x, _labels(said, y, False) if y is not None else None) for x, said, y in binned.parts.values()]
    whole = [(x, np.zeros(len(x), np.int64) if y is None else y) for x, y in parts]
    x, y = together(whole)
    return x, None if any(known is None for _, known in parts) else y, found.files


def _single(path: Path, ndim: int) -> Found:
    content = sample(path)
    raw: Raw = [content] if isinstance(content, Recording) else content[None] if content.ndim == ndim - 1 else content
    return Found(path.stem, {"": (str(path), raw, "", None)}, files=[str(path)] if len(raw) == 1 else [])


def _by_name(data: str) -> Callable[[], Dataset] | None:
    """What makes data of a name, with values in parentheses; None for those that are read."""
    name, _, values = data.partition("(")
    if name == "digits" and not values:
        return None
    from spikegrad.training.named import parsed

    name, by_position, given = parsed(data)
    if name == "digits":
        raise InputError(f"digits take no values, got {data}")
    if by_position:
        raise InputError(f"values of randman are given by name, as in randman(classes=5), got {data}")
    allowed = list(randman.__kwdefaults__ or {})
    for each in given:
        if each not in allowed:
            raise InputError(f"randman has no {each!r}{meant(each, allowed)}")
    return lambda: randman(**given)


@dataclasses.dataclass(frozen=True)
class _Binned:
    parts: dict[str, tuple[Array, str, NDArray[np.generic] | None]]
    binning: Binning | None
    left_out: int


def _require_no_events(data: str, binning: Binning | None) -> None:
    if binning is not None:
        for name in ("step_ms", "sensor", "pool", "binary"):
            if getattr(binning, name) != getattr(Binning(), name):
                raise InputError(f"`{name}` is for event data, and {data} has none; leave it out")


def _binned(data: str, found: Found, binning: Binning | None) -> _Binned:
    """All samples as numbers: arrays checked, events in bins that are the same for all parts."""
    recordings = [each for _, raw, _, _ in found.parts.values() if isinstance(raw, list) for each in raw]
    parts: dict[str, tuple[Array, str, NDArray[np.generic] | None]] = {}
    if not recordings:
        _require_no_events(data, binning)
    fitted = (binning or Binning()).fitted(recordings) if recordings else None
    left_out, shape = 0, None
    for part, (said, raw, of_labels, y) in found.parts.items():
        if isinstance(raw, list):
            assert fitted is not None
            x, late = fitted.apply(raw)
            left_out += late
        else:
            x = _samples(said, raw)
        if y is not None and y.shape != x.shape[:1]:
            raise InputError(f"{of_labels} must have one label a sample, shape {x.shape[:1]}, got shape {y.shape}")
        if shape is not None and x.shape[1:] != shape[1]:
            raise InputError(f"{shape[0]} has samples of shape {shape[1]}, {said.rpartition(': ')[2]} of shape {x.shape[1:]}")
        shape = shape or (said, x.shape[1:])
        parts[part] = x, of_labels, y
    return _Binned(parts, fitted, left_out)


def _taken(x: Array, indices: NDArray[np.int64]) -> Array:
    return x.take(indices) if isinstance(x, Events) else x[indices]


def _samples(said: str, x: NDArray[np.generic]) -> NDArray[np.float32]:
    """Samples as float32, or the first thing that is wrong with them."""
    if x.ndim not in (2, 3):
        raise InputError(f"{said} must be (sample, feature) or (sample, time, channel), got shape {x.shape}")
    if 0 in x.shape:
        raise InputError(f"{said} is empty, got shape {x.shape}")
    if x.dtype.kind not in "fiub":
        raise InputError(f"{said} must be real numbers, got {x.dtype}")
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    if not np.isfinite(narrow).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(narrow))[0])
        raise InputError(f"{said} must be finite, got {x[at]} in sample {at[0]}; remove or replace it")
    return narrow


def _labels(said: str, y: NDArray[np.generic] | None, complete: bool) -> NDArray[np.int64]:
    """Labels as int64, or the first thing that is wrong with them; those of training samples must be complete."""
    assert y is not None
    if y.dtype.kind not in "fiub":
        raise InputError(f"{said} must be whole numbers from 0, got {y.dtype}")
    whole = np.isfinite(y) & (y == np.floor(y)) if y.dtype.kind == "f" else np.ones(y.shape, bool)
    if not whole.all():
        at = int(np.flatnonzero(~whole)[0])
        raise InputError(f"{said} must be whole numbers from 0, got {y[at]} in sample {at}")
    if y.min() < 0:
        raise InputError(f"{said} must not be negative, got {int(y.min())} in sample {int(y.argmin())}; number the classes from 0")
    if complete:
        classes = len(np.unique(y))
        if classes < 2:
            raise InputError(f"{said} has a single class; a classifier needs at least two")
        if int(y.max()) >= classes:
            absent = next(label for label in range(classes) if not (y == label).any())
            raise InputError(f"{said} must use every label from 0 to the largest, {int(y.max())}; {absent} does not occur")
    return y.astype(np.int64)
