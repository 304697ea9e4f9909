"""Surrogates and neurons as configurations and the command line name them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
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
        module = _module(str(Path(path).absolute()))
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


def function_of(name: str) -> Callable[..., Any]:
    """A function of a user's file, named as ``file.py:function``.

    Raises:
        InputError: there is no such file or function, or the file fails.
    """
    path, _, function = name.rpartition(":")
    try:
        module = _module(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    found = getattr(module, function, None)
    if not callable(found):
        own = [key for key, each in vars(module).items() if callable(each) and getattr(each, "__module__", "") == module.__name__]
        raise InputError(f"{path} has no function {function!r}{meant(function, own) if own else ', nor any other'}")
    return found


def digest_of(name: str) -> str:
    """SHA-256 of a user's file that has been read, ``file.py:function``, and of the files beside it that it imports."""
    path = name.rpartition(":")[0]
    contents = [Path(file).read_bytes() for file in sorted(_files[path][0])]
    return hashlib.sha256(b"\0".join(hashlib.sha256(each).digest() for each in contents)).hexdigest()


_files: dict[str, tuple[dict[str, int], ModuleType]] = {}
"""What each file defines, with the times at which it and what it imports from beside it were written; of the last `_KEPT` files."""
_KEPT = 64
_beside: set[str] = set()
"""Names of the modules that the last of them imported from beside it."""
_reads = itertools.count()


def _module(path: str) -> ModuleType:
    """What a file defines; it runs again when it, or a file beside it that it imports, has changed."""
    written, module = _files.get(path, ({}, None))
    if module is not None and all(_written(file) == time for file, time in written.items()):
        return module
    written = {path: Path(path).stat().st_mtime_ns}
    spec = importlib.util.spec_from_file_location(f"neurons_{trace.digest(path)}_{next(_reads)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # annotations are looked up there
    with _importing_from(str(Path(path).parent)) as found:
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever a user's file raises
            raise InputError(f"{path} fails: {type(error).__name__}: {error}") from None
    past = [path] * (path in _files) or list(_files)[: len(_files) - _KEPT + 1]
    for _, old in map(_files.pop, past):
        sys.modules.pop(old.__name__, None)
    _files[path] = written | {file: _written(file) for file in found}, module
    return module


def _written(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0


@contextmanager
def _importing_from(folder: str) -> Generator[set[str]]:
    """Imports find what lies in a folder, as they do for a script there; the files they found are known at the end.

    Afterwards the path is as it was. Modules of the folder stay, as imported ones do, until the next file is read: another folder may have
    others of their names. Nothing is compiled into a user's folder.
    """
    for name in _beside:
        sys.modules.pop(name, None)
    _beside.clear()
    before, found, writes = set(sys.modules), set[str](), sys.dont_write_bytecode
    importlib.invalidate_caches()  # a file may be younger than the last look at its folder
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    try:
        yield found
    finally:
        sys.dont_write_bytecode = writes
        if folder in sys.path:  # the file may have changed the path, too
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            owner = name.partition(".")[0]
            places = [getattr(sys.modules.get(owner), "__file__", None), *getattr(sys.modules.get(owner), "__path__", ())]
            if any(place in _places(folder, owner) for place in places):
                _beside.add(name)
                found.update(filter(None, [getattr(sys.modules[name], "__file__", None)]))


def _places(folder: str, name: str) -> tuple[str, str]:
    """Where a module or a package lies that was found in a folder itself, and not in an environment somewhere below it."""
    return str(Path(folder, f"{name}.py")), str(Path(folder, name))


def parsed(text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """``ATan``, ``ATan(5)`` or ``file.py:Mine(0.9, tau=5)`` as a name and its values, by position and by name.

    Raises:
        InputError: what follows the name are no values.

    Example:
        >>> from spikegrad.training.named import parsed
        >>> parsed("Adaptive(0.8, reset=zero)")
        ('Adaptive', (0.8,), {'reset': 'zero'})
    """
    start = text.find("(", text.rfind(".py:") + 1)  # a folder's name may have brackets
    if start < 0:
        return text.strip(), (), {}
    try:
        call = ast.parse("f" + text[start:], mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        names = [each.arg for each in call.keywords]
        if None in names or len(names) > len(set(names)):
            raise ValueError
        given = tuple(value(ast.unparse(each)) for each in call.args)
        return text[:start].strip(), given, {str(each.arg): value(ast.unparse(each.value)) for each in call.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        wanted = "a name with values in parentheses, each given once, as in ATan(5) or ATan(slope=5)"
        raise InputError(f"{text!r} must be {wanted}") from None


def value(text: str) -> Any:
    """A value as the command line and Python write it: a number, true or false, else text.

    Example:
        >>> from spikegrad.training.named import value
        >>> value("5"), value("nan"), value("true"), value("zero")
        (5, nan, True, 'zero')
    """
    text = text.strip()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def named(kind: type[Surrogate | Neuron], given: tuple[Any, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by position and by name, all by name.

    Raises:
        InputError: there are more than the class takes by position, or one is given twice.
    """
    takes = [field.name for field in dataclasses.fields(kind) if field.init and not field.kw_only]
    if len(given) > len(takes):
        raise InputError(f"{kind.__name__} takes {len(takes)} values by position, {', '.join(takes)}, got {len(given)}")
    by_position = dict(zip(takes, given, strict=False))
    if twice := by_position.keys() & values.keys():
        raise InputError(f"`{min(twice)}` of {kind.__name__} is given twice")
    return by_position | dict(values)


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
