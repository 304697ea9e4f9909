"""spikegrad's surrogates in Norse's own neurons: ``with_surrogate(norse.torch.LIFCell(), ATan())``.

Norse chooses its surrogate by a word, ``LIFParameters(method="super", alpha=100)``, and no function of it takes a callable. What a module
does hold is the function that makes its steps, its `activation`. That is replaced by the same code with another `threshold` among its
globals, and nothing else: Norse itself stays as it is, and other modules in the same process keep their surrogates.

As in Norse a neuron spikes above its threshold, not at it.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from spikegrad.surrogate import Surrogate

__all__ = ["with_surrogate"]

_REPLACED = ("norse.torch.functional.threshold", "threshold")


def with_surrogate(target: Any, surrogate: Surrogate) -> Any:
    """A function of `norse.torch.functional`, or all neurons of a module, with one of spikegrad's surrogates.

    Args:
        target: a step function such as ``norse.torch.functional.lif.lif_feed_forward_step``, or a module: a neuron such as `LIFCell`,
            `LIFRecurrent` or `LSNN`, or a network that contains some, whose other modules stay as they are. The `method` and `alpha`
            of their parameters no longer matter.
        surrogate: the surrogate. It draws no noise.

    Returns:
        A function that takes what the given one takes; or the module, changed in place. Both copy and pickle.

    Raises:
        TypeError: the target is neither, or `surrogate` is no surrogate.
        ValueError: nothing in it decides spikes by Norse's `threshold`, which is so for ``method="adjoint"``; or something does it where
            nothing can be replaced, as in `LIFMCRecurrentCell`, `LIFCorrelation` and `CobaLIFCell`.

    Example:
        >>> from spikegrad import ATan
        >>> from spikegrad.compat.norse import with_surrogate
        >>> import norse.torch as norse  # doctest: +SKIP
        >>> cell = with_surrogate(norse.LIFCell(), ATan())  # doctest: +SKIP
        >>> spikes, state = cell(torch.ones(2, 3))  # doctest: +SKIP
    """
    if not isinstance(surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan(), got {surrogate!r}")
    if isinstance(target, _Step):
        target = target.function
    if isinstance(target, types.FunctionType):
        return _Step(target, surrogate)
    if not isinstance(target, torch.nn.Module):
        raise TypeError(f"expected a function or a module of Norse, got {type(target).__name__}")
    for module in target.modules():
        if _spikes(getattr(type(module), "forward", None)):
            raise ValueError(
                f"{type(module).__name__} decides its spikes in its own `forward`, where its surrogate cannot be replaced; leave it out, "
                "by giving the other neurons one at a time"
            )
    steps = [(m, name, getattr(m, name, None)) for m in target.modules() for name in ("activation", "activation_sparse")]
    made = [(m, name, with_surrogate(step, surrogate)) for m, name, step in steps if _spikes(step)]
    if not made:
        raise ValueError(
            f"there is no spiking neuron of Norse in {type(target).__name__}: none of its modules has an `activation` that spikes"
        )
    for module, name, step in made:  # all or none
        setattr(module, name, step)
    return target


def _spikes(step: object) -> bool:
    """Whether this is a function of Norse and spikes; leaky integrators do not. The adjoint ones do, and are refused later on."""
    if isinstance(step, types.FunctionType) and step.__module__.startswith("norse."):
        return "adjoint" in step.__module__ or _rebound(step, _unused, {}) is not step
    return isinstance(step, _Step)


class _Step:
    """A function of Norse that decides spikes by a surrogate; a value, known by the two."""

    def __init__(self, function: types.FunctionType, surrogate: Surrogate) -> None:
        self.function, self.surrogate = function, surrogate

        def threshold(x: Tensor, method: str, alpha: float) -> Tensor:
            return surrogate(x, spike_at_threshold=False)

        self._run = _rebound(function, threshold, {})
        if self._run is function:
            raise ValueError(
                f"{function.__module__}.{function.__qualname__} does not decide spikes by {'.'.join(_REPLACED)}, so its surrogate "
                "cannot be replaced; take parameters whose `method` is not 'adjoint'"
            )

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._run(*arguments, **named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Step) and (self.function, self.surrogate) == (other.function, other.surrogate)

    def __hash__(self) -> int:
        return hash((self.function, self.surrogate))

    def __repr__(self) -> str:
        return f"with_surrogate({self.function.__name__}, {self.surrogate!r})"

    def __reduce__(self) -> tuple[type[_Step], tuple[types.FunctionType, Surrogate]]:
        return _Step, (self.function, self.surrogate)


def _rebound(
    function: types.FunctionType, threshold: Callable[..., Tensor], made: dict[types.FunctionType, types.FunctionType]
) -> types.FunctionType:
    """The function with another `threshold`, also in the functions of Norse that it calls; itself where none of them uses it."""
    if function in made:
        return made[function]
    made[function] = function  # a function that calls itself
    replaced: dict[str, Callable[..., Tensor]] = {}
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if not isinstance(value, types.FunctionType):
            continue
        if (value.__module__, value.__name__) == _REPLACED:
            replaced[name] = threshold
        elif value.__module__.startswith("norse.") and (other := _rebound(value, threshold, made)) is not value:
            replaced[name] = other
    if replaced:
        scope = {**function.__globals__, **replaced}
        scope.pop("__name__", None)  # by which torch.compile would look the globals up in Norse's module, and guard the wrong ones
        # A code of its own: torch.compile keeps what it compiled by code, and does not see that two functions have other globals.
        copy = types.FunctionType(function.__code__.replace(), scope, function.__name__, function.__defaults__, function.__closure__)
        copy.__kwdefaults__, copy.__module__, copy.__qualname__ = function.__kwdefaults__, function.__module__, function.__qualname__
        made[function] = copy
    return made[function]


def _unused(*_: object) -> NoReturn:
    raise AssertionError("only asked whether it would be called")


def _names(code: types.CodeType) -> set[str]:
    """The globals that code uses, and the code inside it: comprehensions, inner functions."""
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)
