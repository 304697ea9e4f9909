"""``snntorch.surrogate``: the names, defaults and argument order of snnTorch 1.0.0, on spikegrad's formulas.

Every function returns a `SpikeGradient`, which a neuron calls with potential minus threshold. As in snnTorch a neuron spikes above its
threshold, not at it. Unlike there, spikes have the dtype of the potential, NaN stays NaN and an infinite potential has gradient 0, every
PyTorch transform applies, and what a function returns is a value: it compares, hashes, copies and pickles.

Example:
    >>> import torch
    >>> from spikegrad.compat.snntorch import surrogate
    >>> spike_grad = surrogate.fast_sigmoid(slope=25)
    >>> x = torch.tensor([-0.04, 0.0, 0.04], requires_grad=True)
    >>> spikes = spike_grad(x)
    >>> spikes.tolist()
    [0.0, 0.0, 1.0]
    >>> torch.autograd.grad(spikes.sum(), x)[0]
    tensor([0.2500, 1.0000, 0.2500])
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import spikegrad
from spikegrad import Surrogate
from spikegrad.compat.functions import Subclassable, floating
from spikegrad.compat.snntorch.spike_gradient import CustomGradient as CustomGradient
from spikegrad.compat.snntorch.spike_gradient import SpikeGradient as SpikeGradient
from spikegrad.compat.snntorch.spike_gradient import step
from spikegrad.gradient.function import Context, Gradients


def _gradient(cls: type[Surrogate], /, generator: torch.Generator | None = None, **numbers: float) -> SpikeGradient:
    for name, value in numbers.items():
        if not isinstance(value, Tensor):
            continue
        if value.requires_grad or value.numel() != 1:
            raise TypeError(
                f"`{name}` of spikegrad.{cls.__name__} must be one fixed number here, got a tensor of shape {tuple(value.shape)}"
                f"{' that requires a gradient' if value.requires_grad else ''}; to learn it, or to have one per neuron, pass "
                f"spike_grad=spikegrad.nn.Spike(spikegrad.{cls.__name__}(...), learn={name!r}, shape=(...))"
            )
        numbers[name] = value.item()
    return SpikeGradient(cls(**numbers), generator)


def straight_through_estimator() -> SpikeGradient:
    """Gradient 1 everywhere: `spikegrad.StraightThrough`.

    Example:
        >>> straight_through_estimator()
        SpikeGradient(StraightThrough())
    """
    return _gradient(spikegrad.StraightThrough)


def triangular(threshold: float = 1) -> SpikeGradient:
    """Gradient threshold max(0, 1 - |x|): `spikegrad.Triangle`.

    snnTorch's function of this name returns the *slope* of this triangle, plus `threshold` on its rising side and minus `threshold` on its
    falling one and for ever after, which trains every neuron that fires backwards. To go on with a network that was trained so, take
    ``SpikeGradient(spikegrad.LeakyStep(leak=threshold, height=-threshold))``.

    Args:
        threshold: height of the triangle, positive; it has nothing to do with the neuron's threshold.

    Example:
        >>> triangular()
        SpikeGradient(Triangle(width=1.0, height=1.0))
    """
    return _gradient(spikegrad.Triangle, height=threshold)


def fast_sigmoid(slope: float = 25) -> SpikeGradient:
    """Gradient 1 / (1 + slope |x|)^2: `spikegrad.FastSigmoid`.

    Args:
        slope: steepness k, positive, in 1/potential.

    Raises:
        ValueError: `slope` is not positive.
        TypeError: `slope` is a tensor that requires a gradient or has several elements.

    Example:
        >>> fast_sigmoid()
        SpikeGradient(FastSigmoid(slope=25.0, height=1.0))
    """
    return _gradient(spikegrad.FastSigmoid, slope=slope)


def atan(alpha: float = 2.0) -> SpikeGradient:
    """Gradient (alpha / 2) / (1 + (pi/2 alpha x)^2), as snnTorch computes it rather than as it documents it: `spikegrad.ATan`.

    Args:
        alpha: steepness, positive, in 1/potential. snnTorch's neurons use 2 when they are given no `spike_grad`.

    Raises:
        ValueError: `alpha` is not positive.
        TypeError: `alpha` is a tensor that requires a gradient or has several elements.

    Example:
        >>> atan(alpha=2.0)
        SpikeGradient(ATan(slope=2.0))
    """
    return _gradient(spikegrad.ATan, slope=alpha)


def heaviside() -> SpikeGradient:
    """Gradient 1 above threshold, 0 at it and below: `spikegrad.Heaviside`.

    Example:
        >>> heaviside()
        SpikeGradient(Heaviside(height=1.0, shift=0.0, closed=False))
    """
    return _gradient(spikegrad.Heaviside, closed=False)


def sigmoid(slope: float = 25) -> SpikeGradient:
    """Gradient of the logistic function with this slope, finite for every potential: `spikegrad.Sigmoid`.

    Args:
        slope: steepness k, positive, in 1/potential; the peak is slope / 4.

    Raises:
        ValueError: `slope` is not positive.
        TypeError: `slope` is a tensor that requires a gradient or has several elements.

    Example:
        >>> sigmoid()
        SpikeGradient(Sigmoid(slope=25.0))
    """
    return _gradient(spikegrad.Sigmoid, slope=slope)


def spike_rate_escape(beta: float = 1, slope: float = 25) -> SpikeGradient:
    """Gradient slope exp(-beta |x - 1|), whose peak lies one potential above threshold, as in snnTorch: `spikegrad.Exponential`.

    Args:
        beta: how fast it falls, positive, in 1/potential.
        slope: its peak, positive.

    Raises:
        ValueError: a number is not positive.
        TypeError: a number is a tensor that requires a gradient or has several elements.

    Example:
        >>> spike_rate_escape()
        SpikeGradient(Exponential(slope=1.0, height=25.0, shift=1.0, two_sided=True))
    """
    return _gradient(spikegrad.Exponential, slope=beta, height=slope, shift=1)


def SSO(mean: float = 0, variance: float = 0.2, *, generator: torch.Generator | None = None) -> SpikeGradient:  # noqa: N802
    """Gradient 1 above threshold and (u + mean) variance at it and below, u uniform on (-1/2, 1/2): `spikegrad.StochasticLeak`.

    Unlike in snnTorch the noise is drawn when spikes are computed, not when gradients are: two backward passes through one graph agree,
    and a backward pass leaves the random state alone.

    Args:
        mean: mean of the noise in units of `variance`.
        variance: how wide the noise is: its range, not its variance. Not negative.
        generator: where the noise comes from; PyTorch's default generator if None.

    Raises:
        ValueError: `variance` is negative.
        TypeError: a number is a tensor that requires a gradient or has several elements.

    Example:
        >>> SSO(mean=1)
        SpikeGradient(StochasticLeak(leak=0.2, spread=0.2))
    """
    return _gradient(spikegrad.StochasticLeak, generator, leak=mean * variance, spread=variance)


def LSO(slope: float = 0.1) -> SpikeGradient:  # noqa: N802
    """Gradient 1 above threshold and `slope` at it and below, as snnTorch documents it but fails to do: `spikegrad.LeakyStep`.

    Args:
        slope: gradient of a neuron that does not fire.

    Raises:
        TypeError: `slope` is a tensor that requires a gradient or has several elements.

    Example:
        >>> LSO()
        SpikeGradient(LeakyStep(leak=0.1, height=1.0, closed=False))
    """
    return _gradient(spikegrad.LeakyStep, leak=slope, closed=False)


def SFS(slope: float = 25, B: float = 1) -> SpikeGradient:  # noqa: N802, N803
    """Gradient 1 / (1 + slope |x|)^2 where x is above `B`, else 0: `spikegrad.SparseFastSigmoid`.

    As in snnTorch, only neurons far above threshold learn, while the paper that it cites means those near it: for that take
    ``SpikeGradient(spikegrad.SparseFastSigmoid(slope=slope, lower=-0.2, upper=0.2))``.

    Args:
        slope: steepness k, positive, in 1/potential.
        B: potential above threshold at which the gradient begins.

    Raises:
        ValueError: `slope` is not positive, or `B` is not a number below infinity.
        TypeError: a number is a tensor that requires a gradient or has several elements.

    Example:
        >>> SFS()
        SpikeGradient(SparseFastSigmoid(slope=25.0, lower=1.0, upper=inf))
    """
    return _gradient(spikegrad.SparseFastSigmoid, slope=slope, lower=B, upper=math.inf)


def custom_surrogate(custom_surrogate_function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> CustomGradient:
    """A step whose backward pass is the given function.

    It is called in the backward pass as ``f(input_, grad_input, spikes)``: potential minus threshold, the gradient with respect to the
    spikes (a copy that may be changed in place), and the spikes, all of one shape and dtype; it returns the gradient with respect to
    `input_`. It works under `torch.compile`, and under `torch.func.grad`, `vmap` and `jacrev`, but not under both, nor in forward mode.
    ``SpikeGradient(spikegrad.from_formula(...))`` works everywhere and is fused into kernels.

    Args:
        custom_surrogate_function: the function; the returned value pickles if it does.

    Raises:
        TypeError: it is not callable, or, in the backward pass, returns no tensor.

    Example:
        >>> import torch
        >>> spike_grad = custom_surrogate(lambda input_, grad_input, spikes: grad_input / (1 + input_.abs()) ** 2)
        >>> x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
        >>> spike_grad(x).sum().backward()
        >>> x.grad
        tensor([0.2500, 1.0000, 0.2500])
    """
    return CustomGradient(custom_surrogate_function)


def _operator(
    of: Callable[..., SpikeGradient | CustomGradient], saves: tuple[str, ...] = ("input_",)
) -> Callable[[type[Subclassable]], type[Subclassable]]:
    """Give a class `apply`, with the defaults of `of`, and for subclasses `forward` and `backward`, which save what snnTorch's do."""
    signature = inspect.signature(of)
    numbers = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    def apply(input_: Tensor, *numbers: float, **named: float) -> Tensor:
        return of(*numbers, **named)(input_)

    def forward(ctx: Context, input_: Tensor, *given: float) -> Tensor:
        bound = signature.bind(*given)
        bound.apply_defaults()
        vars(ctx).update({name: bound.arguments[name] for name in numbers})
        spikes = step(floating(input_))
        ctx.save_for_backward(*({"input_": input_, "out": spikes}[name] for name in saves))
        return spikes

    def backward(ctx: Context, *grad_outputs: Tensor) -> Gradients:
        made = of(**{name: getattr(ctx, name) for name in numbers})
        x, *spikes = ctx.saved_tensors or (grad_outputs[0].detach(),)  # without one, the gradient is the same everywhere
        if isinstance(made, CustomGradient):
            slope = made.function(x, grad_outputs[0].clone(), *spikes)
        else:
            noise = (torch.rand_like(x),) if made.surrogate.stochastic else ()
            slope = grad_outputs[0] * made.surrogate.derivative(x, *noise)
        return slope, *(None for _ in numbers)

    def finish(cls: type[Subclassable]) -> type[Subclassable]:
        first = inspect.Parameter("input_", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Tensor")
        shown: Any = apply
        shown.__signature__ = inspect.Signature([first, *signature.parameters.values()], return_annotation="Tensor")
        shown.__doc__ = f"Spikes of the shape and dtype of `input_`, potential minus threshold; see `{of.__name__}`."
        forward.__doc__ = (
            f"What PyTorch calls in a subclass: spikes of `input_`. `ctx` saves {' and '.join(saves) or 'nothing'}, and holds the numbers."
        )
        backward.__doc__ = "What PyTorch calls in a subclass: the gradient with respect to `input_`, and none for the numbers."
        methods: list[Callable[..., Tensor | Gradients]] = [apply, forward, backward]
        for method in methods:
            method.__qualname__ = f"{cls.__name__}.{method.__name__}"  # so that it pickles by name
            setattr(cls, method.__name__, staticmethod(method))
        if all(p.default is not p.empty for p in signature.parameters.values()) and isinstance(plain := of(), SpikeGradient):
            shown.surrogate = plain.surrogate  # what ``spike_grad=ATan.apply`` stands for
        return cls

    return finish


@_operator(straight_through_estimator, saves=())
class StraightThroughEstimator(Subclassable):
    """``StraightThroughEstimator.apply(input_)``: see `straight_through_estimator`."""


@_operator(triangular)
class Triangular(Subclassable):
    """``Triangular.apply(input_, threshold=1)``: see `triangular`."""


@_operator(fast_sigmoid)
class FastSigmoid(Subclassable):
    """``FastSigmoid.apply(input_, slope=25)``: see `fast_sigmoid`."""


@_operator(atan)
class ATan(Subclassable):
    """``ATan.apply(input_, alpha=2.0)``: see `atan`."""


@_operator(heaviside, saves=("out",))
class Heaviside(Subclassable):
    """``Heaviside.apply(input_)``: see `heaviside`."""


@_operator(sigmoid)
class Sigmoid(Subclassable):
    """``Sigmoid.apply(input_, slope=25)``: see `sigmoid`."""


@_operator(spike_rate_escape)
class SpikeRateEscape(Subclassable):
    """``SpikeRateEscape.apply(input_, beta=1, slope=25)``: see `spike_rate_escape`."""


@_operator(SSO, saves=("input_", "out"))
class StochasticSpikeOperator(Subclassable):
    """``StochasticSpikeOperator.apply(input_, mean=0, variance=0.2, generator=None)``: see `SSO`."""


@_operator(LSO, saves=("out",))
class LeakySpikeOperator(Subclassable):
    """``LeakySpikeOperator.apply(input_, slope=0.1)``: see `LSO`."""


@_operator(SFS)
class SparseFastSigmoid(Subclassable):
    """``SparseFastSigmoid.apply(input_, slope=25, B=1)``: see `SFS`."""


@_operator(custom_surrogate, saves=("input_", "out"))
class CustomSurrogate(Subclassable):
    """``CustomSurrogate.apply(input_, custom_surrogate_function)``: see `custom_surrogate`."""
