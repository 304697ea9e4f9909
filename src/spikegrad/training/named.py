"""Surrogates and neurons as configurations and the command line name them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from spikegrad import formulas, trace
from spikegrad.definition import OPTIONS
from spikegrad.errors import InputError, meant
from spikegrad.neuron import Neuron
from spikegrad.surrogate import Surrogate

F = TypeVar("F", bound=Surrogate | Neuron)

USUAL: Mapping[str, float] = {"alpha": 0.8, "beta": 0.9}
"""Decays for neurons that have no default."""


def surrogate_class(name: str) -> type[Surrogate]:
    """A surrogate of the catalogue by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in formulas.CATALOGUE:
        raise InputError(f"unknown surrogate {name!r}{meant(name, formulas.CATALOGUE)}")
    return formulas.CATALOGUE[name]


def neuron_class(name: str) -> type[Neuron]:
    """A neuron of the catalogue by its name, of which ``leaky`` and ``synaptic`` are older ones, or of the user's own as ``file.py:Class``.

    Raises:
        InputError: there is no such neuron, or its file fails.

    Example:
        >>> from spikegrad.training.named import neuron_class
        >>> neuron_class("Adaptive")(0.9)
        Adaptive(beta=0.9, rho=0.95, jump=0.1, threshold=1.0)
    """
    from spikegrad.neurons import CATALOGUE

    path, _, kind = name.rpartition(":")
    if not path and not name.endswith(".py"):
        name = {"leaky": "Leaky", "synaptic": "Synaptic"}.get(name, name)
        if name not in CATALOGUE:
            raise InputError(f"unknown neuron {name!r}{meant(name, CATALOGUE)}")
        return CATALOGUE[name]
    if not path.endswith(".py"):
        raise InputError(f"a neuron of your own is named as file.py:Class, got {name!r}")
    try:
        module = _module(str(Path(path).absolute()), Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    own = {
        key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Neuron) and value is not Neuron
    }
    if kind in vars(module) and kind not in own:
        raise InputError(f"{kind} of {path} is not a Neuron; {'its neurons are ' + ', '.join(own) if own else 'it has none'}")
    if kind not in own:
        raise InputError(f"{path} has no neuron {kind!r}{meant(kind, own) if own else ', nor any other'}")
    return own[kind]


@functools.lru_cache(maxsize=64)
def _module(path: str, written: int) -> ModuleType:
    """What a file defines; it runs once for each time at which it was written."""
    spec = importlib.util.spec_from_file_location(f"neurons_{trace.digest(path, written)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # annotations are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise InputError(f"{path} fails: {type(error).__name__}: {error}") from None
    return module


def settable(kind: type[Surrogate | Neuron]) -> list[str]:
    """The names of what can be set: numbers, states, structure and options, but not a neuron's surrogate."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "spike"]
    return sorted(names, key=lambda name: name in ("scale", *OPTIONS))  # own fields first


def built(kind: type[F], values: Mapping[str, Any]) -> F:
    """A surrogate or a neuron with these values; decays that are neither given nor have a default are the usual ones.

    Raises:
        InputError: a value is missing, of the wrong type or out of its range.
    """
    usual = {"alpha": 0.9, "beta": 0.8} if kind.__name__ == "Alpha" else USUAL  # whose alpha is above its beta
    missing = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING and field.name not in values]
    if lacking := [name for name in missing if name not in usual]:
        raise InputError(f"{kind.__name__} needs a value for {', '.join(lacking)}, as in {lacking[0]}=1.0")
    try:
        return kind(**{name: usual[name] for name in missing}, **values)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
