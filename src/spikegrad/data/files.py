"""Files and folders of labelled samples, as they lie on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikegrad.data.events import Recording
from spikegrad.data.recordings import FIELDS, SAMPLES, hdf5, opened, sample
from spikegrad.errors import InputError, meant

HDF5 = (".h5", ".hdf5")
FILES = (".npz", *HDF5)
"""Endings of files that hold samples and labels."""
PARTS = {"train": "train", "training": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
"""What folders and files of parts are called, and the part that it is."""
SPLITS = ("x_train", "y_train", "x_test", "y_test")
VALIDATED = ("x_val", "y_val")

Raw = NDArray[np.generic] | list[Recording]


@dataclass(frozen=True)
class Found:
    """What lies somewhere, before it is binned, checked and divided.

    Attributes:
        name: what the data are called.
        parts: ``train``, ``test`` and perhaps ``val``, or ``""`` for all samples: what the samples are called in messages, the samples,
            what the labels are called, and the labels, if there are any.
        names: what the classes are called, where they have names.
        files: those of the samples, where each has its own.
    """

    name: str
    parts: Mapping[str, tuple[str, Raw, str, NDArray[np.generic] | None]]
    names: tuple[str, ...] = ()
    files: list[str] = field(default_factory=list[str])


def read(path: Path, labelled: bool = True, names: tuple[str, ...] = ()) -> Found:
    """Samples and labels of a file or a folder; see `spikegrad.data.load`.

    Args:
        path: of the file or the folder.
        labelled: whether samples without labels are refused.
        names: what the classes are called, to number them alike; if empty, they are numbered in the order of their names.

    Raises:
        InputError: a file is broken or of an unknown kind, or something is missing.
    """
    name = path.resolve().stem if path.is_file() else path.resolve().name
    if path.is_dir():
        return _folder(path, name, labelled, names)
    if path.suffix in HDF5:
        recordings, labels = hdf5(path)
        return Found(name, {"": (str(path), recordings, f"{path}: `labels`", labels)})
    return _arrays(str(path), name, _npz(path), labelled)


def _folder(path: Path, name: str, labelled: bool, names: tuple[str, ...]) -> Found:
    try:
        inside = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    folders, files = [each for each in inside if each.is_dir()], [each for each in inside if each.is_file()]
    if found := [each for each in files if each.suffix in HDF5]:
        return _heidelberg(path, name, found)
    if (path / "x.npy").is_file() or (path / "x_train.npy").is_file():
        return _arrays(str(path), name, {each.stem: _plain(each) for each in files if each.suffix == ".npy"}, labelled)
    loose = [each for each in files if each.suffix in SAMPLES]
    if loose and not labelled and not folders:
        raw = _stacked(str(path), loose)
        return Found(name, {"": (str(path), raw, "", None)}, files=[str(each) for each in loose])
    if loose:
        raise InputError(f"{loose[0]} lies in no class; put samples into a folder for each class, as in {path}/0/{loose[0].name}")
    if not folders:
        raise InputError(f"{path} has neither folders of samples nor .h5 files; it has {', '.join(f.name for f in files[:5]) or 'nothing'}")
    parts = {PARTS[each.name.lower()]: each for each in folders if each.name.lower() in PARTS}
    if not parts:
        raw, y, names, paths = _classes(path, folders, names)
        return Found(name, {"": (str(path), raw, str(path), y)}, names, paths)
    if other := [each for each in folders if each not in parts.values()]:
        raise InputError(f"{path} has `{other[0].name}` beside `{min(parts.values()).name}`, which is not read; leave it out")
    if labelled and (missing := [part for part in ("train", "test") if part not in parts]):
        raise InputError(f"{path} has no folder `{missing[0]}`; it has {', '.join(each.name for each in parts.values())}")
    made: dict[str, tuple[str, Raw, str, NDArray[np.generic] | None]] = {}
    all_paths: list[str] = []
    for part in (each for each in ("train", "test", "val") if each in parts):
        raw, y, names, paths = _classes(parts[part], _subfolders(parts[part]), names)
        made[part] = str(parts[part]), raw, str(parts[part]), y
        all_paths += paths
    return Found(name, made, names, all_paths)


def _subfolders(path: Path) -> list[Path]:
    found = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not found:
        raise InputError(f"{path} has no folders, one for each class")
    return found


def _classes(path: Path, folders: list[Path], names: tuple[str, ...]) -> tuple[Raw, NDArray[np.int64], tuple[str, ...], list[str]]:
    """Samples of a folder for each class, their labels, the names of the classes and the files."""
    if all(each.name.isdigit() for each in folders):
        folders = sorted(folders, key=lambda each: int(each.name))
    names = names or tuple(each.name for each in folders)
    if unknown := [each for each in folders if each.name not in names]:
        raise InputError(f"{unknown[0]} is no class of these data{meant(unknown[0].name, names)}")
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        own = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        if wrong := [each for each in own if each.suffix not in SAMPLES or not each.is_file()]:
            raise InputError(f"{wrong[0]} is not a sample; those are files that end in {', '.join(SAMPLES)}")
        if not own:
            raise InputError(f"{folder} has no samples")
        paths += own
        labels += [names.index(folder.name)] * len(own)
    return _stacked(str(path), paths), np.array(labels), names, [str(each) for each in paths]


def _stacked(said: str, paths: list[Path]) -> Raw:
    """Samples of one kind and shape, one a file."""
    recordings, arrays = list[Recording](), list[NDArray[np.generic]]()
    for path in paths:
        content = sample(path)
        if isinstance(content, Recording):
            recordings.append(content)
        else:
            if content.ndim not in (1, 2):
                raise InputError(f"{path} must be (feature,) or (time, channel), or events of x, y, t, p, got shape {content.shape}")
            if arrays and content.shape != arrays[0].shape:
                raise InputError(f"{paths[0]} has shape {arrays[0].shape}, {path} has {content.shape}; bring all to one shape")
            arrays.append(content)
        if recordings and arrays:
            raise InputError(f"{said} has events in some files and plain arrays in others, as in {path}; keep them apart")
    return recordings or np.stack(arrays)


def _heidelberg(path: Path, name: str, files: list[Path]) -> Found:
    """The parts of SHD or SSC."""
    parts: dict[str, Path] = {}
    for file in files:
        part = PARTS.get(file.stem.lower().rpartition("_")[2])
        if part is None or part in parts:
            what = "is none of _train, _test, _valid" if part is None else f"would be the same part as {parts[part].name}"
            raise InputError(f"{path}: {file.name} {what}; give the file itself, or a folder with one set of them")
        parts[part] = file
    if missing := [part for part in ("train", "test") if part not in parts]:
        raise InputError(f"{path} has no file that ends in _{missing[0]}.h5; it has {', '.join(each.name for each in files)}")
    read = {part: hdf5(file) for part, file in sorted(parts.items(), key=lambda each: ["train", "test", "val"].index(each[0]))}
    return Found(name, {part: (f"{parts[part]}", x, f"{parts[part]}: `labels`", y) for part, (x, y) in read.items()})


def _arrays(said: str, name: str, arrays: Mapping[str, NDArray[np.generic]], labelled: bool) -> Found:
    """Arrays by their names."""
    if not labelled and {*arrays} == {*FIELDS}:
        return Found(name, {"": (said, [sample_of(said)], "", None)}, files=[said])
    if not labelled and {*arrays} == {"x"}:
        return Found(name, {"": (f"{said}: `x`", arrays["x"], "", None)})
    ready = [*SPLITS, *VALIDATED] if not {"x", "y"} <= arrays.keys() and any(key in arrays for key in (*SPLITS, *VALIDATED)) else []
    needed = [key for key in ready or ("x", "y") if key not in VALIDATED or any(other in arrays for other in VALIDATED)]
    if missing := [key for key in needed if key not in arrays]:
        found = f"it has {', '.join(arrays)}" if arrays else "it is empty"
        raise InputError(f"{said} has no {' and '.join(f'`{key}`' for key in missing)}; {found}")
    if {*arrays} == {*FIELDS}:
        raise InputError(f"{said} is one sample without a label; give the folder that has a folder of such files for each class")
    if unread := [key for key in arrays if key not in needed]:
        raise InputError(f"{said} has `{unread[0]}`, which is not read beside {', '.join(f'`{key}`' for key in needed)}; leave it out")
    pairs = {x.partition("_")[2]: (x, y) for x, y in zip(needed[::2], needed[1::2], strict=True)}
    return Found(name, {part: (f"{said}: `{x}`", arrays[x], f"{said}: `{y}`", arrays[y]) for part, (x, y) in pairs.items()})


def sample_of(path: str) -> Recording:
    """The events of a file that is known to hold some."""
    found = sample(Path(path))
    assert isinstance(found, Recording)
    return found


def _plain(path: Path) -> NDArray[np.generic]:
    found = sample(path)
    if isinstance(found, Recording):
        raise InputError(f"{path} holds events of one sample; put it into the folder of its class")
    return found


def _npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    with opened(path) as content:
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array; write an .npz file with numpy.savez(path, x=samples, y=labels)")
        return {key: _array(path, content, key) for key in content.files}


def _array(path: Path, content: Any, key: str) -> NDArray[np.generic]:
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
