"""Files of events: the HDF5 form of the Spiking Heidelberg data, N-MNIST's ``.bin``, and arrays of x, y, t, p."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.events import CHANNELS, Recording
from spikegrad.errors import InputError

HEIDELBERG = 700
"""Channels of the artificial cochlea of SHD and SSC."""
FIELDS = ("x", "y", "t", "p")
SAMPLES = (".bin", ".npy", ".npz")
"""Endings of files that hold one sample each."""


def hdf5(path: str | Path) -> tuple[list[Recording], NDArray[np.generic]]:
    """Samples and labels of a file as the Spiking Heidelberg Digits and the Spiking Speech Commands are published.

    It has ``spikes/times`` (seconds) and ``spikes/units`` (0 to 699), one array a sample in each, and ``labels``
    (Cramer et al. 2022, https://doi.org/10.1109/TNNLS.2020.3044364).

    Raises:
        InputError: it is something else; the message says what, and in which sample.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = {name: _member(path, file, name) for name in ("spikes/times", "spikes/units", "labels")}
    except OSError as error:
        why = (
            "it is empty" if Path(path).is_file() and Path(path).stat().st_size == 0 else f"{error}".partition("(")[2].rstrip(")") or error
        )
        raise InputError(f"{path} is not a readable HDF5 file: {why}; if it is compressed, unpack it first") from None
    times, units, labels = found.values()
    if labels.shape != times.shape or units.shape != times.shape or times.ndim != 1:
        sizes = ", ".join(f"`{name}` {values.shape}" for name, values in found.items())
        raise InputError(f"{path} must have one entry a sample in each of its arrays, got {sizes}")
    if not len(labels):
        raise InputError(f"{path} has no samples")
    recordings: list[Recording] = []
    for k, (time, unit) in enumerate(zip(times, units, strict=True)):
        source = f"{path}, sample {k}"
        if np.shape(time) != np.shape(unit) or np.ndim(time) != 1:
            raise InputError(f"{source}: `spikes/times` has shape {np.shape(time)}, `spikes/units` {np.shape(unit)}; they must be alike")
        recordings.append(_recording(source, {"t": np.asarray(time, np.float64) * 1000, "channel": np.asarray(unit)}, (HEIDELBERG,)))
    return recordings, labels


def _member(path: str | Path, file: Any, name: str) -> NDArray[np.generic]:
    import h5py

    try:
        found = file[name]
    except KeyError:
        has: list[str] = []

        def visit(key: str, item: object) -> None:
            has.extend([key] if isinstance(item, h5py.Dataset) else [])

        file.visititems(visit)
        inside = f"it has {', '.join(has[:8])}" if has else "it is empty"
        raise InputError(f"{path} has no `{name}`, as SHD and SSC have; {inside}") from None
    if not isinstance(found, h5py.Dataset) or found.ndim != 1:
        raise InputError(f"{path}: `{name}` must be a list with one entry a sample, as SHD and SSC have it")
    return np.asarray(found[:])


@contextlib.contextmanager
def opened(path: Path) -> Generator[Any]:
    """What NumPy finds in a file: an array, or an archive of arrays as long as this context lasts.

    Raises:
        InputError: it cannot be read, also inside of the context; the message says why.
    """
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            with content if isinstance(content, np.lib.npyio.NpzFile) else contextlib.nullcontext():
                yield content
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except Exception as error:  # a broken file makes its reader fail in any way
        why = "it is empty" if path.stat().st_size == 0 else f"{error}".partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a readable {path.suffix} file: {why}") from None


def sample(path: Path) -> Recording | NDArray[np.generic]:
    """One sample from a file of its own: events of a ``.bin``, ``.npy`` or ``.npz``, or the plain array that an ``.npy`` holds.

    Raises:
        InputError: it is something else; the message says what.
    """
    if path.suffix == ".bin":
        return _nmnist(path)
    with opened(path) as content:
        if isinstance(content, np.lib.npyio.NpzFile):
            return _of_fields(path, {name: content[name] for name in content.files})
    if content.dtype.names is None:
        return content
    if content.ndim != 1:
        raise InputError(f"{path}: events must be a list of them, (event,), got shape {content.shape}")
    return _of_fields(path, {name: content[name] for name in content.dtype.names})


def _nmnist(path: Path) -> Recording:
    """Five bytes an event: x, y, then the polarity in the highest bit and the time in microseconds in the other 23."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if not len(data) or len(data) % 5:
        raise InputError(f"{path} is not a file of N-MNIST: it has {len(data)} bytes, and must have 5 for each event")
    x, y, high, middle, low = data.reshape(-1, 5).astype(np.int64).T
    time = ((high & 127) << 16) | (middle << 8) | low
    return _recording(str(path), {"t": (time - time.min()) / 1000.0, "x": x, "y": y, "p": high >> 7})


def _of_fields(path: Path, fields: Mapping[str, NDArray[np.generic]]) -> Recording:
    """Events from arrays x, y, t, p; times in whole numbers are microseconds, others seconds, counted from the first event."""
    if missing := [name for name in FIELDS if name not in fields]:
        raise InputError(f"{path} has no field `{missing[0]}`; events have x, y, t and p, and it has {', '.join(fields) or 'nothing'}")
    time, p = fields["t"], fields["p"]
    if len({fields[name].shape for name in FIELDS}) > 1 or time.ndim != 1:
        raise InputError(f"{path}: x, y, t and p must be lists of one length, got {', '.join(str(fields[n].shape) for n in FIELDS)}")
    if not len(time):
        raise InputError(f"{path} has no events")
    if p.dtype.kind in "iuf" and not set(np.unique(p).tolist()) <= {0, 1} and set(np.unique(p).tolist()) <= {-1, 1}:
        p = np.asarray(p == 1)
    if time.dtype.kind not in "iuf":
        raise InputError(f"{path}: t must be numbers, got {time.dtype}")
    time = time.astype(np.float64 if time.dtype.kind == "f" else np.int64)
    elapsed = time - time.min()  # first, while they are as exact as they were recorded
    return _recording(
        str(path), {"t": elapsed * 1000.0 if time.dtype.kind == "f" else elapsed / 1000.0, "x": fields["x"], "y": fields["y"], "p": p}
    )


def _recording(source: str, fields: Mapping[str, NDArray[np.generic]], sensor: tuple[int, ...] = ()) -> Recording:
    """Checked events; `t` in milliseconds."""
    time, *places = (np.asarray(values) for values in fields.values())
    if time.dtype.kind not in "iuf" or not np.isfinite(time).all():
        raise InputError(f"{source}: times must be finite numbers")
    if len(time) and time.min() < 0:
        raise InputError(f"{source}: times must not be negative, got {float(time.min()) / 1000:g} s")
    whole: list[NDArray[np.int64]] = []
    for name, values in zip(list(fields)[1:], places, strict=True):
        if values.dtype.kind not in "biuf" or not (values == np.floor(values)).all() or (len(values) and values.min() < 0):
            raise InputError(f"{source}: {name} must be whole numbers from 0, got {_wrong(values)}")
        if len(values) and values.max() >= CHANNELS:
            raise InputError(f"{source}: {name} must be below {CHANNELS}, got {values.max()}")
        if name == "p" and len(values) and values.max() > 1:
            raise InputError(f"{source}: polarities must be 0 and 1, or -1 and 1, got {values.max()}")
        whole.append(values.astype(np.int64))
    return Recording(source, time.astype(np.float64), tuple(whole), sensor)


def _wrong(values: NDArray[np.generic]) -> object:
    if values.dtype.kind not in "biuf":
        return values.dtype
    return next(value for value in values.tolist() if value != value or value != int(value) or value < 0)
