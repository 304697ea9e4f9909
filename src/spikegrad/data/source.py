"""Where data come from: the digits that scikit-learn ships, and a user's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.dataset import Dataset, Part, split
from spikegrad.errors import InputError, meant

NAMES = ("digits",)
"""Data that are asked for by name."""
TEST, VALIDATION = 0.2, 0.1
SPLITS = ("x_train", "y_train", "x_test", "y_test")
VALIDATED = ("x_val", "y_val")


def check_name(data: str) -> None:
    """Refuse, without reading anything, what is neither known data nor an existing ``.npz`` file.

    Raises:
        InputError: and says what was meant.
    """
    if data in NAMES:
        return
    path = Path(data)
    if path.suffix != ".npz" and not path.exists():
        raise InputError(f"unknown data {data!r}{meant(data, (*NAMES, 'the path of an .npz file'))}")
    if not path.is_file():
        raise InputError(f"no such file: {data}" if not path.exists() else f"{data} is not a file; give an .npz file with `x` and `y`")
    if path.suffix != ".npz":
        raise InputError(f"{data} is not an .npz file; write one with numpy.savez(path, x=samples, y=labels)")


def load(data: str) -> Dataset:
    """Data by name or from a file, checked and split into training, validation and test.

    ``"digits"`` are the 1797 handwritten digits of scikit-learn, 8 by 8 pixels, scaled to 0..1 (nothing is downloaded). A path leads to an
    ``.npz`` file with `x`, (sample, feature) or (sample, time, channel), and `y`, whole numbers from 0; or with `x_train`, `y_train`,
    `x_test`, `y_test` and, if you like, `x_val`, `y_val`. Of the samples 20 % become the test set, 10 % (of the training samples, where a
    test set is given) validation, by the rule of `split`. A file with anything else in it is refused: nothing is left out unsaid.

    Args:
        data: ``"digits"`` or the path of an ``.npz`` file.

    Returns:
        The data. Samples become float32.

    Raises:
        InputError: the name is unknown, the file is broken, an array is missing, unknown or has the wrong shape or type, a value is not
            finite, a label is negative or not whole, or there are too few samples.

    Example:
        >>> from spikegrad.data import load
        >>> digits = load("digits")
        >>> digits.train[0].shape, digits.classes
        ((1259, 64), 10)
    """
    check_name(data)
    if data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return _divided("digits", _checked("digits", np.asarray(x) / 16, np.asarray(y), ("x", "y")))
    arrays = _read(data)
    name = Path(data).stem
    ready = [*SPLITS, *VALIDATED] if not {"x", "y"} <= arrays.keys() and any(key in arrays for key in (*SPLITS, *VALIDATED)) else []
    needed = [key for key in ready or ("x", "y") if key not in VALIDATED or any(other in arrays for other in VALIDATED)]
    if missing := [key for key in needed if key not in arrays]:
        found = f"it has {', '.join(arrays)}" if arrays else "it is empty"
        raise InputError(f"{data} has no {' and '.join(f'`{key}`' for key in missing)}; {found}")
    if unread := [key for key in arrays if key not in needed]:
        raise InputError(f"{data} has `{unread[0]}`, which is not read beside {', '.join(f'`{key}`' for key in needed)}; leave it out")
    if not ready:
        return _divided(name, _checked(data, arrays["x"], arrays["y"], ("x", "y")))
    known = _checked(data, arrays["x_train"], arrays["y_train"], ("x_train", "y_train"))
    others: list[Part] = []
    for x, y in zip(needed[2::2], needed[3::2], strict=True):
        part = _checked(data, arrays[x], arrays[y], (x, y))
        if known[0].shape[1:] != part[0].shape[1:]:
            raise InputError(f"{data}: `x_train` has samples of shape {known[0].shape[1:]}, `{x}` of shape {part[0].shape[1:]}")
        if extra := sorted(set(part[1].tolist()) - set(known[1].tolist())):
            raise InputError(f"{data}: label {extra[0]} of `{y}` does not occur in `y_train`")
        others.append(part)
    if len(others) == 2:
        return Dataset(name, known, others[1], others[0])
    validation, train = split(known[1], (VALIDATION,))
    return Dataset(name, _part(known, train), _part(known, validation), others[0])


def _divided(name: str, whole: Part) -> Dataset:
    test, validation, train = split(whole[1], (TEST, VALIDATION))
    return Dataset(name, _part(whole, train), _part(whole, validation), _part(whole, test))


def _part(whole: Part, indices: NDArray[np.int64]) -> Part:
    return whole[0][indices], whole[1][indices]


def _read(path: str) -> Mapping[str, NDArray[np.generic]]:
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single array; write an .npz file with numpy.savez(path, x=samples, y=labels)")
            with content:
                return {key: _array(path, content, key) for key in content.files}
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except Exception as error:  # a broken archive makes its reader fail in any way
        why = "it is empty" if Path(path).stat().st_size == 0 else f"{error}".partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a readable .npz file: {why}") from None


def _array(path: str, content: Any, key: str) -> NDArray[np.generic]:
    try:
        found = content[key]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise InputError(
            f"{path}: `{key}` holds Python objects, as of samples of different lengths; bring all to one shape, say with zeros"
        ) from None
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: `{key}` is not an array; write the file with numpy.savez(path, x=samples, y=labels)")
    return found


def _checked(source: str, x: NDArray[np.generic], y: NDArray[np.generic], names: tuple[str, str]) -> Part:
    """Samples as float32 and labels as int64, or the first thing that is wrong with them."""
    samples, labels = (f"{source}: `{name}`" for name in names)
    if x.ndim not in (2, 3):
        raise InputError(f"{samples} must be (sample, feature) or (sample, time, channel), got shape {x.shape}")
    if 0 in x.shape:
        raise InputError(f"{samples} is empty, got shape {x.shape}")
    if y.shape != x.shape[:1]:
        raise InputError(f"{labels} must have one label a sample, shape {x.shape[:1]}, got shape {y.shape}")
    if x.dtype.kind not in "fiub":
        raise InputError(f"{samples} must be real numbers, got {x.dtype}")
    if y.dtype.kind not in "fiub":
        raise InputError(f"{labels} must be whole numbers from 0, got {y.dtype}")
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    if not np.isfinite(narrow).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(narrow))[0])
        raise InputError(f"{samples} must be finite, got {x[at]} in sample {at[0]}; remove or replace it")
    whole = np.isfinite(y) & (y == np.floor(y)) if y.dtype.kind == "f" else np.ones(y.shape, bool)
    if not whole.all():
        at = int(np.flatnonzero(~whole)[0])
        raise InputError(f"{labels} must be whole numbers from 0, got {y[at]} in sample {at}")
    if y.min() < 0:
        raise InputError(f"{labels} must not be negative, got {int(y.min())} in sample {int(y.argmin())}; number the classes from 0")
    classes = len(np.unique(y))
    if names[0] in ("x_test", "x_val"):  # whose labels are compared with those of the training samples
        return narrow, y.astype(np.int64)
    if classes < 2:
        raise InputError(f"{labels} has a single class; a classifier needs at least two")
    if int(y.max()) >= classes:
        absent = next(label for label in range(classes) if not (y == label).any())
        raise InputError(f"{labels} must use every label from 0 to the largest, {int(y.max())}; {absent} does not occur")
    return narrow, y.astype(np.int64)
