"""``snntorch.RLeaky`` and ``snntorch.RSynaptic``."""

from __future__ import annotations

from torch import Tensor, nn

from spikegrad.compat.snntorch import formulas
from spikegrad.compat.snntorch.leaky import LIF
from spikegrad.compat.snntorch.neuron import Elementwise


class RecurrentOneToOne(nn.Module):
    """Every neuron feels its own spikes alone, times `V`."""

    def __init__(self, V: Tensor) -> None:  # noqa: N803
        super().__init__()
        self.V = V

    def forward(self, x: Tensor) -> Tensor:
        """The spikes `x` times `V`."""
        return x * self.V


class Recurrent(LIF):
    """What the recurrent neurons share: the connection from their spikes of the step before to their input."""

    V: Tensor
    spk: Tensor
    mem: Tensor

    def _connect(
        self,
        V: float | Tensor,  # noqa: N803
        all_to_all: bool,
        linear_features: int | None,
        conv2d_channels: int | None,
        kernel_size: int | tuple[int, int] | None,
        learn_recurrent: bool,
    ) -> None:
        self.all_to_all = all_to_all
        self.learn_recurrent = learn_recurrent
        self.linear_features = linear_features
        self.kernel_size = kernel_size
        self.conv2d_channels = conv2d_channels
        sizes = {"linear_features": linear_features, "conv2d_channels": conv2d_channels, "kernel_size": kernel_size}
        given = [name for name, size in sizes.items() if size]
        wanted = [["linear_features"], ["conv2d_channels", "kernel_size"]] if all_to_all else [[]]
        if given not in wanted:
            words = "either `linear_features`, or `conv2d_channels` and `kernel_size`" if all_to_all else "`V`, and no sizes"
            raise TypeError(
                f"{type(self).__name__} with all_to_all={all_to_all} needs {words}, got {' and '.join(given) or 'no sizes'}; they must "
                "match the shape of the spikes"
            )
        if not all_to_all:
            self._hold("V", V, learn_recurrent)
            # The neuron reads its own V, so that one which is not learned moves and loads with it; this keeps snnTorch's key for the other.
            self.recurrent: nn.Module = RecurrentOneToOne(self.V)
        elif linear_features:
            self.recurrent = nn.Linear(linear_features, linear_features)
        else:
            assert conv2d_channels
            assert kernel_size
            height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
            self.padding = height // 2, width // 2
            self.recurrent = nn.Conv2d(conv2d_channels, conv2d_channels, kernel_size, padding=self.padding)
        if not learn_recurrent:
            self.recurrent.requires_grad_(False)

    def _inputs(self, x: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return x, self._feedback(before[0], x)

    def _feedback(self, spk: Tensor, x: Tensor) -> Tensor:
        """What the spikes of the step before add to the input."""
        if isinstance(self.recurrent, RecurrentOneToOne):
            return spk.to(x.dtype) * self._value("V", x)
        if isinstance(self.recurrent, nn.Linear) and spk.shape[-1:] != (self.recurrent.in_features,):
            raise ValueError(
                f"the recurrent connection is among {self.recurrent.in_features} neurons, but the input has shape {tuple(spk.shape)}"
            )
        fed = self.recurrent(spk)
        if fed.shape != spk.shape:
            raise ValueError(
                f"the recurrent connection makes {tuple(fed.shape)} of spikes of shape {tuple(spk.shape)}, but must keep their shape; "
                "a convolution does with an odd `kernel_size`"
            )
        return fed.to(x.dtype)


class RLeaky(Recurrent):
    """`Leaky` with a connection from its own spikes, as ``snntorch.RLeaky``: ``u = beta mem + input_ + recurrent(spk)``.

    Unlike in `Leaky`, the reset "zero" acts after the input is added: ``u = (1 - R) (beta mem + input_ + recurrent(spk))``.

    Args:
        beta: as in `Leaky`.
        V: weights of a one-to-one connection: a number, or a tensor that broadcasts to the spikes.
        all_to_all: connect all neurons, by an `nn.Linear` or `nn.Conv2d`; otherwise each to itself.
        linear_features: number of neurons, for a linear connection.
        conv2d_channels: number of channels, for a convolution.
        kernel_size: of the convolution, odd.
        learn_recurrent: let the connection learn.
        threshold, spike_grad, surrogate_disable, init_hidden, inhibition, learn_beta, learn_threshold, reset_mechanism, state_quant,
            output, reset_delay: as in `Leaky`.

    Raises:
        TypeError: the sizes do not say which connection is meant.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.RLeaky(beta=0.5, V=-1.0, all_to_all=False)
        >>> spk, mem = lif.reset_mem()
        >>> for current in (1.5, 1.5):
        ...     spk, mem = lif(torch.tensor([current]), spk, mem)
        ...     print(spk.item(), mem.item())
        1.0 1.5
        0.0 0.25
    """

    STATES = ("spk", "mem")
    FORMULA = formulas.RLeaky

    def __init__(
        self,
        beta: float | Tensor,
        V: float | Tensor = 1.0,  # noqa: N803
        all_to_all: bool = True,
        linear_features: int | None = None,
        conv2d_channels: int | None = None,
        kernel_size: int | tuple[int, int] | None = None,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        learn_recurrent: bool = True,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        reset_delay: bool = True,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output
        super().__init__(beta, *firing, *rest)
        self._connect(V, all_to_all, linear_features, conv2d_channels, kernel_size, learn_recurrent)
        self.reset_delay = reset_delay
        self._begin()

    def forward(self, input_: Tensor, spk: Tensor | None = None, mem: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """One time step, as `Leaky.forward`: ``(spk, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, spk, mem)

    def init_rleaky(self) -> tuple[Tensor, Tensor]:
        """`reset_mem` by its older name."""
        return self.reset_mem()


class RSynaptic(Recurrent):
    """`Synaptic` with a connection from its own spikes, as ``snntorch.RSynaptic``: ``syn = alpha syn + input_ + recurrent(spk)``.

    Args:
        alpha, learn_alpha: as in `Synaptic`.
        beta, V, all_to_all, linear_features, conv2d_channels, kernel_size, threshold, spike_grad, surrogate_disable, init_hidden,
            inhibition, learn_beta, learn_threshold, learn_recurrent, reset_mechanism, state_quant, output, reset_delay: as in `RLeaky`.

    Raises:
        TypeError: the sizes do not say which connection is meant.

    Example:
        >>> import torch
        >>> from spikegrad.compat import snntorch as snn
        >>> lif = snn.RSynaptic(alpha=0.5, beta=0.5, linear_features=3)
        >>> spk, syn, mem = lif(torch.ones(2, 3))
        >>> [name for name, _ in lif.named_parameters()]
        ['recurrent.weight', 'recurrent.bias']
    """

    STATES = ("spk", "syn", "mem")
    FORMULA = formulas.RSynaptic
    alpha: Tensor
    syn: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        V: float | Tensor = 1.0,  # noqa: N803
        all_to_all: bool = True,
        linear_features: int | None = None,
        conv2d_channels: int | None = None,
        kernel_size: int | tuple[int, int] | None = None,
        threshold: float | Tensor = 1.0,
        spike_grad: Elementwise | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        learn_recurrent: bool = True,
        reset_mechanism: str = "subtract",
        state_quant: Elementwise | bool = False,
        output: bool = False,
        reset_delay: bool = True,
    ) -> None:
        firing = threshold, spike_grad, surrogate_disable, init_hidden, inhibition
        rest = learn_beta, learn_threshold, reset_mechanism, state_quant, output
        super().__init__(beta, *firing, *rest)
        self._connect(V, all_to_all, linear_features, conv2d_channels, kernel_size, learn_recurrent)
        self._hold("alpha", alpha, learn_alpha)
        self.reset_delay = reset_delay
        self._begin()

    def forward(
        self, input_: Tensor, spk: Tensor | None = None, syn: Tensor | None = None, mem: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """One time step, as `Leaky.forward`: ``(spk, syn, mem)``, or ``spk`` alone with `init_hidden`."""
        return self._step(input_, spk, syn, mem)

    def init_rsynaptic(self) -> tuple[Tensor, Tensor, Tensor]:
        """`reset_mem` by its older name."""
        return self.reset_mem()
