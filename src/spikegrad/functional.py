"""Every surrogate of the catalogue as a function of the potential: ``spikegrad.functional.atan(x, slope=2.0)``.

The functions are made from the registry when they are asked for, so that none can differ from its class. Their names are those of
the classes in lower case, where underscores do not matter: ``fast_sigmoid``, ``log_tailed_relu``, ``s2nn``.

Example:
    >>> import numpy as np
    >>> from spikegrad import functional
    >>> functional.fast_sigmoid(np.array([-1.0, 0.0, 1.0]), slope=10.0)
    array([0., 1., 1.])
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from spikegrad.formulas import CATALOGUE
from spikegrad.surrogate import Surrogate
from spikegrad.vocabulary import Array

__all__ = sorted(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("ReLU", "Relu")).lower() for name in CATALOGUE)  # pyright: ignore

_CLASSES = {name.lower(): cls for name, cls in CATALOGUE.items()}


@functools.cache
def _function(cls: type[Surrogate], name: str) -> Callable[..., Array]:
    fields = list(inspect.signature(cls).parameters.values())
    call = [p for p in inspect.signature(cls.__call__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    x = inspect.Parameter("x", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([x, *fields, *call])
    options = {p.name for p in call}

    def function(*arguments: Array, **named: Array) -> Array:
        given = signature.bind(*arguments, **named).arguments
        potential = given.pop("x")
        how = {n: given.pop(n) for n in options & given.keys()}
        # An array in place of a number travels beside the surrogate, and is given its gradient.
        arrays = {n: given.pop(n) for n in cls.numbers.keys() & given.keys() if not isinstance(given[n], (int, float))}
        return cls(**given)(potential, **how, **arrays)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Spikes with the gradient of `spikegrad.{cls.__name__}`.\n\n{inspect.cleandoc(cls.__doc__ or '')}"
    function.__signature__ = signature
    return function


def __getattr__(name: str) -> Any:
    cls = None if name.startswith("_") else _CLASSES.get(name.replace("_", ""))
    if cls is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return _function(cls, name)


def __dir__() -> list[str]:
    return __all__
