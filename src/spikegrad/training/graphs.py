"""Training steps on a GPU as one CUDA graph, where that changes nothing.

A small network's step launches hundreds of kernels, each of which takes less time than its launch. A graph launches all of a forward and of
a backward pass at once; what it computes is fixed when it is captured: shapes, numbers that are no tensors, what Python decided. So it is
taken for a network of this package alone, whose steps have one shape again and again, and only if it gives the same bits as the same step
without it. Everything else runs as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from spikegrad import nn
from spikegrad.training.network import Activity, Network

REPEATS = 8
"""Steps of one shape before it is captured."""

Run = Callable[[Tensor], Activity]


class Captured:
    """A network, run as a graph once its steps repeat.

    Args:
        network: whose forward and backward passes they are.
        capture: makes the graph of a network for an input, None if it does not compute the same.

    Attributes:
        reason: why there is no graph yet, or none any more.
    """

    def __init__(self, network: Network, capture: Callable[[Network, Tensor], Run | None] | None = None) -> None:
        self.network, self.reason = network, "no step has repeated yet"
        self._capture = capture
        self._seen: dict[Hashable, int] = {}
        self._graph: tuple[Hashable, Hashable, Run] | None = None
        self._done = False

    def __call__(self, x: Tensor, *, alone: bool = True) -> Activity:
        """Answer a batch; `alone` is whether no other process takes part, and each step's gradients are used before the next."""
        if self._done:
            return self.network(x)
        if (reason := obstacle(self.network, x, alone=alone)) is not None:
            self.reason = reason
            return self.network(x)
        shape = x.shape, x.stride(), x.dtype, x.device
        if self._graph is not None:
            known, state, run = self._graph
            if shape != known:
                return self.network(x)  # the last batch of an epoch
            if fingerprint(self.network) == state:
                return run(x)
            self._end("the network has been changed since")
            return self.network(x)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        if self._seen[shape] <= REPEATS:
            self.reason = "no step has repeated yet"
            return self.network(x)
        state = fingerprint(self.network)
        try:
            made = (self._capture or captured)(self.network, x)
        except RuntimeError as error:  # whatever cannot be captured, or too little memory for a second copy
            self._end(f"it cannot be captured: {str(error).strip().splitlines()[0]}")
            return self.network(x)
        if made is None:
            self._end("it does not compute the same bits")
            return self.network(x)
        self._graph, self.reason = (shape, state, made), ""
        return made(x)

    def _end(self, reason: str) -> None:
        self._graph, self._done, self.reason = None, True, reason

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph, which is of this process."""
        return {"network": self.network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew."""
        self.__init__(state["network"])


def obstacle(network: Network, x: Tensor, *, alone: bool) -> str | None:
    """Why a step of a network may not be taken from a graph now, or None."""
    if not x.is_cuda:
        return "it does not run on a GPU of CUDA"
    if type(network) is not Network:
        return "it is a network of one's own"
    if not alone:
        return "several processes or several batches make a step"
    if not torch.is_grad_enabled() or x.requires_grad:
        return "nothing is to be learned"
    if torch.is_autocast_enabled(x.device.type):
        return "it runs under autocast"
    if network.config.memory != "save":
        return "it computes its hidden layers anew"
    for module in network.modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:  # pyright: ignore
            return "it has hooks"
        if isinstance(module, nn.Layer) and module.spike.surrogate.stochastic:
            return "its surrogate draws noise"
    return None


def fingerprint(network: Network) -> Hashable:
    """All that a graph has taken for granted: where parameters and buffers lie, what learns, and numbers that are no tensors."""
    tensors = tuple((x.data_ptr(), x.shape, x.requires_grad) for x in (*network.parameters(), *network.buffers()))
    neurons = tuple((m.neuron, m.spike.surrogate) for m in network.modules() if isinstance(m, nn.Layer))
    return tensors, neurons, network.training, network.dropout.p


class _Whole(torch.nn.Module):
    """The network, whose own `forward` stays as it is; of the spikes that no loss asks for no gradient arrives."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Activity:
        """Answer a batch."""
        made = self.network(x)
        penalised = self.network.config.rate_weight > 0
        return Activity(made.scores, made.trace.detach(), made.spikes if penalised else [s.detach() for s in made.spikes])


def captured(network: Network, x: Tensor) -> Run | None:
    """The graph of a network on the current CUDA device, if it computes the same bits; buffers and random numbers are left as they were."""
    kept = [b.clone() for b in network.buffers()]
    random = torch.cuda.get_rng_state(x.device)

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), kept, strict=True):
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, x.device)

    whole = _Whole(network)

    def looked(run: Run) -> list[Tensor]:
        restore()
        made = run(x)
        learned = [p for p in network.parameters() if p.requires_grad]
        total = made.scores.square().sum() + sum((s.square().sum() for s in made.fired if s.requires_grad), torch.zeros_like(x[:1]).sum())
        grads = torch.autograd.grad(total, learned, allow_unused=True, materialize_grads=True)
        found = [made.scores, *made.fired, *grads, *network.buffers()]
        return [each.detach().clone() for each in found]

    graph: Any = torch.cuda.make_graphed_callables(_Whole(network), (x.clone(),), allow_unused_input=True)
    equal = same(looked(whole), looked(graph)) and same(looked(whole), looked(graph))  # a second time: what is left by the first is used
    restore()
    return graph if equal else None


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether tensors are equal and no number of them is NaN."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
