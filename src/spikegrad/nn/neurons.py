"""Spiking layers as PyTorch modules. The equations stand in `spikegrad.kernels.reference`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from spikegrad.formulas.rational import ATan
from spikegrad.kernels import reference
from spikegrad.kernels.call import INTEGRATOR, Call, called
from spikegrad.kernels.reference import Options, Reset
from spikegrad.nn.backend import check, fused, run_fused
from spikegrad.nn.parameters import DECAY, POSITIVE, held, hold
from spikegrad.nn.spike import Spike
from spikegrad.surrogate import Surrogate

Connection = Literal["all-to-all", "one-to-one"]


class Stateful(nn.Module):
    """A layer that takes a whole sequence and a state, and returns an output of the same shape and the state after it.

    Nothing is stored between calls. `Sequential` threads the state through every layer of this class.
    """

    def forward(self, currents: Tensor, state: Any = None) -> tuple[Any, ...]:
        """Output ``(time, batch, *features)`` and state."""
        raise NotImplementedError


class Neuron(Stateful):
    """What spiking layers share: threshold, decay of the potential, spike, reset options, recurrent weights."""

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        reset: Reset = "subtract",
        reset_delay: bool = False,
        detach_reset: bool = True,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        spike_at_threshold: bool = True,
        inhibition: bool = False,
        quantize: Callable[[Tensor], Tensor] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check(backend)
        hold(self, "beta", beta, DECAY, learn=learn_beta)
        hold(self, "threshold", threshold, POSITIVE, learn=learn_threshold)
        spike = ATan() if spike is None else spike
        self.spike = spike if isinstance(spike, Spike) else Spike(spike)
        self.quantize = quantize
        self.options = Options(reset, reset_delay, detach_reset, spike_at_threshold, inhibition, quantize)
        self.backend = backend
        self.weight: nn.Parameter | None = None

    @property
    def beta(self) -> float | Tensor:
        """Decay of the potential per step."""
        return held(self, "beta", DECAY)

    @property
    def threshold(self) -> float | Tensor:
        """Potential at which a neuron spikes."""
        return held(self, "threshold", POSITIVE)

    def _connect(self, features: int, connection: Connection) -> None:
        """Recurrent weights, uniform within one over the root of the number of inputs of a neuron."""
        if connection not in get_args(Connection):
            raise ValueError(f"`connection` must be one of {', '.join(map(repr, get_args(Connection)))}, got {connection!r}")
        if features < 1:
            raise ValueError(f"`features` must be at least 1, got {features}")
        shape = (features, features) if connection == "all-to-all" else (features,)
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)

    def _run(self, currents: Tensor, state: Any, decays: tuple[float | Tensor, ...], record: bool) -> tuple[Any, ...]:
        """The layer of the kind that has these decays: Leaky one, Synaptic two."""
        if self.weight is not None:
            self._check_features(currents, self.weight)
        kind = "leaky" if len(decays) == 1 else "synaptic"
        parameters = (*decays, self.threshold)
        spike: Any = self._modules["spike"]  # a module's getattr costs as much as a small kernel
        if fused(self.backend, currents, spike, self.options):
            compiling = torch.compiler.is_compiling()  # compilers trace through a cache, and warn of it
            call = (Call if compiling else called)(kind, spike.surrogate, self.options, state is not None, record)
            text = self._text(kind, state is not None, record) if compiling else ""
            names = ("i", "v")[2 - len(decays) :] + (() if self.weight is None else ("s",))
            return run_fused(call, text, currents, state, names, parameters, self.weight)
        layer: Any = reference.leaky if kind == "leaky" else reference.synaptic
        out = layer(currents, state, *parameters, self._fire, self.options, self.weight, record=record)
        return out if record else out[:2]

    @torch.compiler.assume_constant_result
    def _text(self, kind: str, started: bool, record: bool) -> str:
        """The static part of a call as text, which a compiler takes for a constant."""
        return called(kind, self.spike.surrogate, self.options, started, record).text

    def _check_features(self, currents: Tensor, weight: Tensor) -> None:
        if currents.shape[-1] != len(weight):
            raise ValueError(
                f"`currents` of shape {tuple(currents.shape)} have {currents.shape[-1]} features, but the recurrent weights of shape "
                f"{tuple(weight.shape)} connect {len(weight)}"
            )

    def _fire(self, x: Tensor, draw: None) -> Tensor:
        return self.spike(x, spike_at_threshold=self.options.spike_at_threshold)

    def extra_repr(self) -> str:
        """Decays, threshold and the options that differ from their defaults."""
        names = ("alpha", "beta", "threshold") if hasattr(self, "alpha") else ("beta", "threshold")
        values = {name: getattr(self, name) for name in names}
        shown = [f"{k}={f'{tuple(v.shape)}' if isinstance(v, Tensor) and v.ndim else f'{float(v):.4g}'}" for k, v in values.items()]
        default = Options()
        shown += [f"{k}={v!r}" for k, v in vars(self.options).items() if v != getattr(default, k)]
        return ", ".join(shown)


class Leaky(Neuron):
    """Leaky integrate-and-fire neurons.

    ``u[t] = beta v[t-1] + I[t]``; spike where ``u[t]`` reaches the threshold; ``v[t]`` is ``u[t]`` after the reset. With `reset_delay` the
    reset acts on the next step, as in snnTorch. All equations: `spikegrad.kernels.reference`.

    Args:
        beta: decay of the potential per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        threshold: potential at which a neuron spikes, positive; likewise.
        spike: the surrogate, or an `nn.Spike` that learns its slope; ``ATan()`` by default.
        reset: what a spike does to the potential: ``"subtract"`` the threshold, ``"zero"`` it, or ``"none"``.
        reset_delay: let the reset act one step later.
        detach_reset: keep gradients from flowing through the spike that resets.
        learn_beta: make beta a parameter, kept between 0 and 1 by learning its logit.
        learn_threshold: make the threshold a parameter, kept positive by learning its logarithm.
        spike_at_threshold: whether a potential equal to the threshold spikes (snnTorch, Norse and spyx: no).
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

    def forward(self, currents: Tensor, state: Tensor | None = None, *, record: bool = False) -> tuple[Any, ...]:
        """Run the layer over a sequence.

        Args:
            currents: ``(time, batch, *features)`` or ``(time, features)``, floating point.
            state: the potential ``v`` to start from, of the shape of one step; rest if None.
            record: also return the potentials before reset, with gradient.

        Returns:
            ``(spikes, state)`` or ``(spikes, state, potentials)``; spikes have the shape and dtype of the currents, states and potentials
            are at least float32.

        Raises:
            ValueError: shapes that do not fit; the message names both.
        """
        return self._run(currents, state, (self.beta,), record)


class Synaptic(Neuron):
    """Leaky integrate-and-fire neurons with an exponential synapse: ``i[t] = alpha i[t-1] + I[t]``, ``u[t] = beta v[t-1] + i[t]``.

    Args:
        alpha: decay of the synaptic current per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        beta: decay of the potential; it and all other arguments are those of `Leaky`.
        threshold: see `Leaky`.
        spike: see `Leaky`.
        learn_alpha: make alpha a parameter, kept between 0 and 1 by learning its logit.
        **options: see `Leaky`.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> spikes, (i, v) = nn.Synaptic(alpha=0.5, beta=0.5)(torch.tensor([[1.5], [0.0], [0.0]]))
        >>> spikes.ravel(), i, v
        (tensor([1., 1., 0.]), tensor([0.3750]), tensor([0.3750]))
    """

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        learn_alpha: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(beta, threshold, spike, **options)
        hold(self, "alpha", alpha, DECAY, learn=learn_alpha)

    @property
    def alpha(self) -> float | Tensor:
        """Decay of the synaptic current per step."""
        return held(self, "alpha", DECAY)

    def forward(self, currents: Tensor, state: tuple[Tensor, Tensor] | None = None, *, record: bool = False) -> tuple[Any, ...]:
        """As `Leaky.forward`; the state is ``(i, v)``."""
        return self._run(currents, state, (self.alpha, self.beta), record)


class RecurrentLeaky(Neuron):
    """`Leaky` neurons that also receive their own spikes of the step before, through the learned `weight`.

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
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        connection: Connection = "all-to-all",
        **options: Any,
    ) -> None:
        super().__init__(beta, threshold, spike, **options)
        self._connect(features, connection)

    def forward(self, currents: Tensor, state: tuple[Tensor, Tensor] | None = None, *, record: bool = False) -> tuple[Any, ...]:
        """As `Leaky.forward`; the state is ``(v, s)``, potential and spikes of the step before."""
        return self._run(currents, state, (self.beta,), record)


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
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike: Surrogate | Spike | None = None,
        *,
        connection: Connection = "all-to-all",
        **options: Any,
    ) -> None:
        super().__init__(alpha, beta, threshold, spike, **options)
        self._connect(features, connection)

    def forward(self, currents: Tensor, state: tuple[Tensor, ...] | None = None, *, record: bool = False) -> tuple[Any, ...]:
        """As `Leaky.forward`; the state is ``(i, v, s)``."""
        return self._run(currents, state, (self.alpha, self.beta), record)


class LeakyIntegrator(Stateful):
    """A readout that does not spike: ``u[t] = beta u[t-1] + I[t]``.

    Args:
        beta: decay per step, between 0 and 1: a number, or a tensor that broadcasts over the features.
        learn_beta: make beta a parameter, kept between 0 and 1 by learning its logit.
        backend: see `Leaky`.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> potentials, state = nn.LeakyIntegrator(beta=0.5)(torch.ones(3, 1))
        >>> potentials.ravel()
        tensor([1.0000, 1.5000, 1.7500])
    """

    def __init__(self, beta: float | Tensor, *, learn_beta: bool = False, backend: str = "auto") -> None:
        super().__init__()
        check(backend)
        self.backend = backend
        hold(self, "beta", beta, DECAY, learn=learn_beta)

    @property
    def beta(self) -> float | Tensor:
        """Decay of the potential per step."""
        return held(self, "beta", DECAY)

    def forward(self, currents: Tensor, state: Tensor | None = None) -> tuple[Any, ...]:
        """Potentials of the shape and dtype of the currents, and the last of them as the state."""
        if fused(self.backend, currents, None, None):
            return run_fused(INTEGRATOR, INTEGRATOR.text, currents, state, ("v",), (self.beta,))
        return reference.leaky_integrator(currents, state, self.beta)
