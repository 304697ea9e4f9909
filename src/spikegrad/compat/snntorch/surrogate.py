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

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

import spikegrad
from spikegrad import Surrogate
from spikegrad.gradient.torch import transforming


@dataclasses.dataclass(frozen=True)
class SpikeGradient:
    """A surrogate as snnTorch's neurons call it: ``spike_grad(potential - threshold)``, which spikes above 0.

    Args:
        surrogate: the surrogate; a stochastic one draws its noise once per call, whether or not anything trains.
        generator: where that noise comes from; PyTorch's default generator if None.

    Raises:
        TypeError: `surrogate` is not a `spikegrad.Surrogate`.

    Example:
        >>> from spikegrad import Triangle
        >>> from spikegrad.compat.snntorch.surrogate import SpikeGradient
        >>> SpikeGradient(Triangle(width=0.5))
        SpikeGradient(Triangle(width=0.5, height=1.0))
    """

    surrogate: Surrogate
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.surrogate, Surrogate):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`surrogate` must be a spikegrad.Surrogate such as spikegrad.ATan(), got {self.surrogate!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of the shape and dtype of `x`, potential minus threshold: 1 where it is above 0, else 0."""
        # A soft surrogate's training output is no spike, and nothing tells here whether the neuron trains.
        drawing = self.surrogate.stochastic and not self.surrogate.soft
        return self.surrogate(x, spike_at_threshold=False, training=drawing, random=self.generator)

    def __repr__(self) -> str:
        return f"SpikeGradient({self.surrogate!r}{'' if self.generator is None else f', generator={self.generator!r}'})"


@dataclasses.dataclass(frozen=True)
class CustomGradient:
    """A step whose backward pass is a function of the user's; see `custom_surrogate`. It is run as it is, so layers never fuse it."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a function f(input_, grad_input, spikes) is needed, got {self.function!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of the shape and dtype of `x`, potential minus threshold: 1 where it is above 0, else 0."""
        if torch.compiler.is_compiling() and transforming():
            raise RuntimeError(
                "a custom_surrogate inside a torch.func transform cannot be compiled: PyTorch would return zeros; leave torch.compile out, "
                "or write the formula with spikegrad.from_formula"
            )
        spikes: Any = _Custom.apply(x, self.function)
        return spikes


def _step(x: Tensor) -> Tensor:
    return spikegrad.StraightThrough()(x.detach(), spike_at_threshold=False)


class _Custom(torch.autograd.Function):
    # Only a Function can run what need not be linear in the gradient. The spikes are computed again in the backward pass, not saved:
    # that is half the memory, and a caller may change the returned ones in place.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[..., Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _step(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x,) = ctx.saved_tensors
        gradient: Any = ctx.function(x, grad_outputs[0].clone(), _step(x))
        if not isinstance(gradient, Tensor):
            raise TypeError(
                f"the function given to custom_surrogate must return the gradient, a tensor of shape {tuple(x.shape)}, "
                f"got {type(gradient).__name__}"
            )
        return gradient, None


def _gradient(cls: type[Surrogate], /, generator: torch.Generator | None = None, **numbers: Any) -> SpikeGradient:
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


class _Operator:
    """What snnTorch writes as an autograd function: a class with `apply`, here with the defaults of the function of the same surrogate."""

    apply: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, of: Callable[..., Any]) -> None:
        signature = inspect.signature(of)

        def apply(input_: Tensor, *numbers: Any, **named: Any) -> Any:
            return of(*numbers, **named)(input_)

        first = inspect.Parameter("input_", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Tensor")
        apply.__signature__ = inspect.Signature([first, *signature.parameters.values()], return_annotation="Tensor")  # type: ignore[attr-defined]
        apply.__doc__ = f"Spikes of the shape and dtype of `input_`, potential minus threshold; see `{of.__name__}`."
        apply.__qualname__ = f"{cls.__name__}.apply"  # so that it pickles by name
        if all(p.default is not p.empty for p in signature.parameters.values()):
            apply.surrogate = of().surrogate  # type: ignore[attr-defined] # what ``spike_grad=ATan.apply`` stands for
        cls.apply = staticmethod(apply)


class StraightThroughEstimator(_Operator, of=straight_through_estimator):
    """``StraightThroughEstimator.apply(input_)``: see `straight_through_estimator`."""


class Triangular(_Operator, of=triangular):
    """``Triangular.apply(input_, threshold=1)``: see `triangular`."""


class FastSigmoid(_Operator, of=fast_sigmoid):
    """``FastSigmoid.apply(input_, slope=25)``: see `fast_sigmoid`."""


class ATan(_Operator, of=atan):
    """``ATan.apply(input_, alpha=2.0)``: see `atan`."""


class Heaviside(_Operator, of=heaviside):
    """``Heaviside.apply(input_)``: see `heaviside`."""


class Sigmoid(_Operator, of=sigmoid):
    """``Sigmoid.apply(input_, slope=25)``: see `sigmoid`."""


class SpikeRateEscape(_Operator, of=spike_rate_escape):
    """``SpikeRateEscape.apply(input_, beta=1, slope=25)``: see `spike_rate_escape`."""


class StochasticSpikeOperator(_Operator, of=SSO):
    """``StochasticSpikeOperator.apply(input_, mean=0, variance=0.2, generator=None)``: see `SSO`."""


class LeakySpikeOperator(_Operator, of=LSO):
    """``LeakySpikeOperator.apply(input_, slope=0.1)``: see `LSO`."""


class SparseFastSigmoid(_Operator, of=SFS):
    """``SparseFastSigmoid.apply(input_, slope=25, B=1)``: see `SFS`."""


class CustomSurrogate(_Operator, of=custom_surrogate):
    """``CustomSurrogate.apply(input_, custom_surrogate_function)``: see `custom_surrogate`."""
