"""The layers that most networks are made of, by their names: `Layer` of a neuron, with its numbers as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from spikegrad import neurons
from spikegrad.neuron import Neuron, Reset
from spikegrad.nn.layer import Layer
from spikegrad.nn.parameters import has_values, named
from spikegrad.nn.spike import Spike
from spikegrad.surrogate import Surrogate

Connection = Literal["all-to-all", "one-to-one"]
Number = float | Tensor
Names = str | Sequence[str]


class _Named(Layer):
    """A layer whose constructor takes the numbers of its neuron.

    Args:
        numbers: of the neuron; while a tensor stands for one, any number within the range stands in the neuron.
        spike: the surrogate, or a module.
        options: of the neuron; and ``learn_beta`` and the like.
        learn, inhibition, quantize, backend: see `Layer`.
    """

    kind: type[Neuron]

    def __init__(
        self, numbers: Mapping[str, Number], spike: Surrogate | Spike | None, options: Mapping[str, Any], *, learn: Names = (), **layer: Any
    ) -> None:
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, Tensor | int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"`{name}` must be a number or a tensor, got {type(value).__name__}")
        flags = [name.removeprefix("learn_") for name, told in options.items() if name.startswith("learn_") and told]
        options = {name: value for name, value in options.items() if not name.startswith("learn_")}
        tensors = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}
        firsts = {name: x.reshape(-1)[0].item() if x.numel() and has_values(x) else 0.5 for name, x in tensors.items()}
        if spike is not None:
            options["spike"] = spike.surrogate if isinstance(spike, Spike) else spike
        super().__init__(
            self.kind(**{**numbers, **firsts}, **options),
            learn=(*flags, *named(learn)),
            values=tensors,
            spike=spike if isinstance(spike, Spike) else None,
            **layer,
        )


class Leaky(_Named):
    """Leaky integrate-and-fire neurons: a `Layer` of `spikegrad.neurons.Leaky`.

    ``u[t] = beta v[t-1] + I[t]``; spike where ``u[t]`` reaches the threshold; ``v[t]`` is ``u[t]`` after the reset. With `reset_delay` the
    reset acts on the next step, as in snnTorch.

    Args:
        beta: decay of the potential per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        threshold: potential at which a neuron spikes, positive; likewise.
        spike: the surrogate, or an `nn.Spike` that learns its slope; ``ATan()`` by default.
        reset: what a spike does to the potential: ``"subtract"`` the threshold, ``"zero"`` it, or ``"none"``.
        reset_delay: let the reset act one step later.
        detach_reset: keep gradients from flowing through the spike that resets.
        learn: names of what to learn, as in ``("beta", "spike.slope")``.
        learn_beta: the same as ``learn=("beta",)``.
        learn_threshold: the same as ``learn=("threshold",)``.
        spike_at_threshold: whether a potential equal to the threshold spikes (snnTorch, Norse and spyx: no).
        scale_input: multiply the input by ``1 - beta``, so that the potential's largest value is the input's.
        inhibition: winner takes all among the features of a sample.
        quantize: a function of the state, applied after each integration, such as `nn.Quantize`.
        backend: ``"numba"`` for the fused kernels on the CPU, ``"reference"`` for the plain loop, ``"auto"`` for the fastest that can.

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside of its range, named in the message.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> layer = nn.Leaky(beta=0.5)
        >>> spikes, state = layer(torch.tensor([[0.6], [0.8], [0.0]]))
        >>> spikes.ravel(), state
        (tensor([0., 1., 0.]), tensor([0.0500]))
    """

    kind = neurons.Leaky

    def __init__(
        self,
        beta: Number,
        threshold: Number = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        reset: Reset = "subtract",
        reset_delay: bool = False,
        detach_reset: bool = True,
        learn: Names = (),
        learn_beta: bool = False,
        learn_threshold: bool = False,
        spike_at_threshold: bool = True,
        scale_input: bool = False,
        inhibition: bool = False,
        quantize: Callable[[Tensor], Tensor] | None = None,
        backend: str = "auto",
    ) -> None:
        options = {
            "reset": reset, "reset_delay": reset_delay, "detach_reset": detach_reset, "spike_at_threshold": spike_at_threshold,
            "scale_input": scale_input, "learn_beta": learn_beta, "learn_threshold": learn_threshold,
        }  # fmt: skip
        layer = {"inhibition": inhibition, "quantize": quantize, "backend": backend}
        super().__init__({"beta": beta, "threshold": threshold}, spike, options, learn=learn, **layer)


class Synaptic(_Named):
    """Leaky integrate-and-fire neurons with an exponential synapse: ``i[t] = alpha i[t-1] + I[t]``, ``u[t] = beta v[t-1] + i[t]``.

    Args:
        alpha: decay of the synaptic current per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        beta: decay of the potential; it and all other arguments are those of `Leaky`.
        threshold: see `Leaky`.
        spike: see `Leaky`.
        learn_alpha: the same as ``learn=("alpha",)``.
        **options: see `Leaky`.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, (i, v) = nn.Synaptic(alpha=0.5, beta=0.5)(torch.tensor([[1.5], [0.0], [0.0]]))
        >>> spikes.ravel(), i, v
        (tensor([1., 1., 0.]), tensor([0.3750]), tensor([0.3750]))
    """

    kind = neurons.Synaptic

    def __init__(
        self,
        alpha: Number,
        beta: Number,
        threshold: Number = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        learn_alpha: bool = False,
        **options: Any,
    ) -> None:
        layer = {name: options.pop(name) for name in _LAYER & options.keys()}
        numbers = {"alpha": alpha, "beta": beta, "threshold": threshold}
        super().__init__(numbers, spike, {**options, "learn_alpha": learn_alpha}, **layer)


class RecurrentLeaky(Leaky):
    """`Leaky` neurons that also receive their own spikes of the step before, through the learned `weight`.

    The state is ``(v, recurrent)``: the potential, and the spikes of the step before.

    Args:
        features: number of neurons, the last dimension of the currents.
        beta: as all further arguments, see `Leaky`.
        threshold: see `Leaky`.
        spike: see `Leaky`.
        connection: ``"all-to-all"``, `weight` of shape ``(features, features)`` used as ``weight @ s``; or ``"one-to-one"``, of shape
            ``(features,)``.
        **options: see `Leaky`.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, (v, s) = nn.RecurrentLeaky(3, beta=0.9)(torch.rand(10, 2, 3))
        >>> spikes.shape, v.shape, s.shape
        (torch.Size([10, 2, 3]), torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        features: int,
        beta: Number,
        threshold: Number = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        connection: Connection = "all-to-all",
        **options: Any,
    ) -> None:
        super().__init__(beta, threshold, spike, **options)
        self._connect(connection, features)


class RecurrentSynaptic(Synaptic):
    """`Synaptic` neurons that also receive their own spikes of the step before, through the learned `weight`.

    Args:
        features: number of neurons, the last dimension of the currents.
        alpha: see `Synaptic`.
        beta: see `Leaky`, as all further arguments.
        threshold: see `Leaky`.
        spike: see `Leaky`.
        connection: see `RecurrentLeaky`.
        **options: see `Synaptic`.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> layer = nn.RecurrentSynaptic(3, alpha=0.8, beta=0.9, connection="one-to-one")
        >>> spikes, (i, v, s) = layer(torch.rand(10, 2, 3))
        >>> layer.weight.shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        alpha: Number,
        beta: Number,
        threshold: Number = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        connection: Connection = "all-to-all",
        **options: Any,
    ) -> None:
        super().__init__(alpha, beta, threshold, spike, **options)
        self._connect(connection, features)


class LeakyIntegrator(_Named):
    """A readout that does not spike: ``u[t] = beta u[t-1] + I[t]``.

    Args:
        beta: decay per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        learn_beta: the same as ``learn=("beta",)``.
        **options: see `Leaky`; `scale_input`, `learn` and `backend` have a meaning here.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> potentials, state = nn.LeakyIntegrator(beta=0.5)(torch.ones(3, 1))
        >>> potentials.ravel()
        tensor([1.0000, 1.5000, 1.7500])
    """

    kind = neurons.LeakyIntegrator

    def __init__(self, beta: Number, *, learn_beta: bool = False, scale_input: bool = False, **layer: Any) -> None:
        super().__init__({"beta": beta}, None, {"learn_beta": learn_beta, "scale_input": scale_input}, **layer)


_LAYER = frozenset(("learn", "inhibition", "quantize", "backend"))
