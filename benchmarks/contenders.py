"""Who is compared: one table of spiking layers, ours and the peers', each with the options under which ours computes the same.

Every peer runs a sequence the way that costs it least: step loops are fed ``currents.unbind(0)``, since the backward pass of an index
``currents[t]`` adds up a tensor of the size of the sequence for each step, which would be no fault of the peer's neuron.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spikegrad import ATan, FastSigmoid, Surrogate

BETA, ALPHA = 0.9, 0.8
Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Twin:
    """The layer of ours that computes what a peer computes.

    Attributes:
        surrogate: its surrogate.
        options: its keywords.
        lag: by how many steps the peer's spikes are late.
    """

    surrogate: Surrogate = field(default_factory=ATan)
    options: Mapping[str, Any] = field(default_factory=dict)
    lag: int = 0


@dataclass(frozen=True)
class Contender:
    """A spiking layer.

    Attributes:
        name: what the tables call it.
        package: what must be installed.
        make: given the number of features, a function from currents to spikes, from rest each time.
        twin: ours with its options.
        gain: what the peer multiplies its input by; it is fed currents divided by this.
        batch_first: whether it wants ``(batch, time, features)``; it is given that layout from the start.
        note: where its model differs from ``nn.Leaky()``.
    """

    name: str
    package: str
    make: Callable[[int], Run]
    twin: Twin = field(default_factory=Twin)
    gain: float = 1.0
    batch_first: bool = False
    note: str = ""

    def installed(self) -> bool:
        """Whether its package can be found."""
        return importlib.util.find_spec(self.package) is not None

    def missing(self) -> str:
        """What to say where it is not installed."""
        return f"{self.name}: {self.package} is not installed"

    def native(self, array: Any) -> Any:
        """A time-major array in the peer's layout."""
        return array.transpose(0, 1).contiguous() if self.batch_first else array

    def major(self, array: Any) -> Any:
        """The reverse of `native`."""
        return array.transpose(0, 1) if self.batch_first else array


def steps(make_step: Callable[[int], tuple[Callable[[], Any], Callable[[Any, Any], tuple[Any, Any]]]]) -> Callable[[int], Run]:
    """A layer from its first state and its step ``(current, state) -> (spikes, state)``."""

    def make(features: int) -> Run:
        import torch

        first, step = make_step(features)

        def run(currents: Any) -> Any:
            state, spikes = first(), []
            for current in currents.unbind(0):
                spike, state = step(current, state)
                spikes.append(spike)
            return torch.stack(spikes)

        return run

    return make


def ours(kind: str, twin: Twin, backend: str = "auto") -> Run:
    """A layer of ours in PyTorch, ``"Leaky"`` or ``"Synaptic"``."""
    from spikegrad import nn

    decays = (BETA,) if kind == "Leaky" else (ALPHA, BETA)
    layer = getattr(nn, kind)(*decays, spike=twin.surrogate, backend=backend, **twin.options)
    return lambda currents: layer(currents)[0]


def ours_jax(kind: str, twin: Twin, **backend: str) -> Run:
    """The same in JAX."""
    import spikegrad.jax

    layer = getattr(spikegrad.jax, kind.lower())
    decays = (BETA,) if kind == "Leaky" else (ALPHA, BETA)
    return lambda currents: layer(currents, *decays, spike=twin.surrogate, **twin.options, **backend)[0]


def snntorch_layer(kind: str, *decays: float, **options: Any) -> Callable[[Any], Run]:
    """A neuron of snnTorch over a sequence."""

    def make_step(_: Any) -> Any:
        import snntorch
        from snntorch import surrogate

        layer = getattr(snntorch, kind)(*decays, **{"spike_grad": surrogate.atan(2.0), **options})

        def first() -> Any:
            state = layer.reset_mem()
            return state if isinstance(state, tuple) else (state,)

        def step(current: Any, state: Any) -> Any:
            spike, *state = layer(current, *state)
            return spike, state

        return first, step

    return steps(make_step)


def spikingjelly_layer(node: str, **options: Any) -> Callable[[int], Run]:
    """A node of SpikingJelly over a sequence."""

    def make(features: int) -> Run:
        from spikingjelly.activation_based import functional, neuron, surrogate

        decays = {"tau": 1 / (1 - BETA), "decay_input": False} if node == "LIFNode" else {"c_decay": ALPHA, "v_decay": BETA}
        layer = getattr(neuron, node)(**decays, v_threshold=1.0, **{"surrogate_function": surrogate.ATan(2.0), **options})
        layer.step_mode, layer.detach_reset = "m", True  # not every node takes them as arguments

        def run(currents: Any) -> Any:
            functional.reset_net(layer)
            return layer(currents)

        return run

    return make


def flex(features: int) -> Run:
    """A leaky neuron in SpikingJelly's FlexSN, which compiles a step that is written as a function."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    def core(x: Any, v: Any) -> Any:  # it may not close over a module
        u = 0.9 * v + x
        s = surrogate.ATan.spiking_function(u - 1.0, 2.0)
        return s, u - s

    layer = neuron.FlexSN(core, num_states=1, step_mode="m")

    def run(currents: Any) -> Any:
        functional.reset_net(layer)
        found = layer(currents)
        return found[0] if isinstance(found, tuple) else found

    return run


FLEX = Contender(
    "SpikingJelly FlexSN", "spikingjelly", flex, Twin(options={"detach_reset": False}), note="gradients flow through the reset"
)
"""Beside `LEAKY` where there is a GPU, for which it was made."""


def _norse(kind: str) -> Any:
    def make_step(features: int) -> Any:
        import torch
        from norse.torch import LIFBoxCell, LIFBoxParameters, LIFCell, LIFParameters

        leak, synapse = torch.tensor(1 - BETA), torch.tensor(1 - ALPHA)
        if kind == "LIFBox":
            cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=leak), dt=1.0)
        else:
            cell = LIFCell(LIFParameters(tau_mem_inv=leak, tau_syn_inv=synapse), dt=1.0)
        return (lambda: None), cell

    return steps(make_step)


def _sinabs_atan() -> Any:
    """Our surrogate as sinabs calls one."""
    surrogate = ATan()
    return lambda v_mem, spike_threshold: surrogate.derivative(v_mem - spike_threshold)


def _sinabs(features: int) -> Run:
    import math

    import torch
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers.functional.lif import lif_forward_single

    alpha, theta, reset, surrogate = torch.tensor(math.e ** math.log(BETA)), torch.tensor(1.0), MembraneSubtract(), _sinabs_atan()

    def run(currents: Any) -> Any:
        # The loop of `sinabs.layers.LIF`, which indexes its input.
        state, spikes = {"v_mem": torch.zeros_like(currents[:, 0])}, []
        for current in currents.unbind(1):
            spike, state = lif_forward_single(current, alpha, None, state, theta, SingleSpike, reset, surrogate, None, norm_input=False)
            spikes.append(spike)
        return torch.stack(spikes, 1)

    return run


DELAYED = {"reset_delay": True, "spike_at_threshold": False}
NORSE = Twin(FastSigmoid(slope=1.0), {"reset": "zero", "detach_reset": False, "spike_at_threshold": False})

LEAKY = (
    Contender(
        "snnTorch Leaky", "snntorch", snntorch_layer("Leaky", BETA), Twin(options=DELAYED),
        note="resets one step later, spikes above threshold only",
    ),
    Contender(
        "SpikingJelly LIFNode", "spikingjelly", spikingjelly_layer("LIFNode", v_reset=None),
        note="multi-step, its own choice of a backend; soft reset",
    ),
    Contender(
        "SpikingJelly LIFNode, hard", "spikingjelly", spikingjelly_layer("LIFNode", v_reset=0.0), Twin(options={"reset": "zero"}),
        note="resets to zero, its default",
    ),
    Contender(
        "Norse LIFBox", "norse", _norse("LIFBox"), NORSE, gain=1 - BETA,
        note="resets to zero, through which gradients flow; surrogate 1 / (1 + |x|)², its default as it is computed",
    ),
    Contender(
        "sinabs LIF", "sinabs", _sinabs, Twin(options={"detach_reset": False}), batch_first=True,
        note="gradients flow through the reset; our formula of ATan, which it does not have",
    ),
)  # fmt: skip
"""Peers of ``nn.Leaky``."""

SYNAPTIC = (
    Contender(
        "snnTorch Synaptic", "snntorch", snntorch_layer("Synaptic", ALPHA, BETA), Twin(options=DELAYED), note="resets one step later"
    ),
    Contender(
        "SpikingJelly CUBALIFNode",
        "spikingjelly",
        spikingjelly_layer("CUBALIFNode", v_reset=None),
        note="multi-step, CPU backend; soft reset",
    ),
    Contender(
        "Norse LIF", "norse", _norse("LIF"), NORSE, gain=1 - BETA, note="resets to zero, through which gradients flow; 1 / (1 + |x|)²"
    ),
)
"""Peers of ``nn.Synaptic``."""


def _spyx(features: int) -> Run:
    import jax
    from flax import nnx
    from spyx import axn
    from spyx.nn import LIF

    layer = LIF((features,), beta=BETA, activation=axn.arctan(1), rngs=nnx.Rngs(0))

    def run(currents: Any) -> Any:
        def step(v: Any, current: Any) -> Any:
            spikes, v = layer(current, v)
            return v, spikes

        return jax.lax.scan(step, layer.initial_state(currents.shape[1]), currents)[1]

    return run


def _braintools(features: int) -> Run:
    import jax
    import jax.numpy as jnp
    from braintools.surrogate import Arctan

    spike = Arctan(alpha=2.0)

    def run(currents: Any) -> Any:
        def step(v: Any, current: Any) -> Any:
            u = BETA * v + current
            spikes = spike(u - 1.0)
            return u - jax.lax.stop_gradient(spikes), spikes

        return jax.lax.scan(step, jnp.zeros_like(currents[0]), currents)[1]

    return run


JAX = (
    Contender(
        "spyx LIF", "spyx", _spyx, Twin(ATan(scale=0.3183098861837907), {**DELAYED, "detach_reset": False}, lag=1),
        note="spikes come one step late, gradients flow through the reset; its arctan is ATan / π",
    ),
    Contender(
        "braintools Arctan in lax.scan", "braintools", _braintools, note="braintools has surrogates and no neurons: ours, written by hand"
    ),
)  # fmt: skip
"""Peers of ``spikegrad.jax.leaky``, all under ``jax.jit``."""
