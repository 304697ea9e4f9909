"""A layer on a GPU whose neurons receive the outputs of all of them: a matrix product and a kernel for each step."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from spikegrad.kernels import layers
from spikegrad.kernels.gpu.layer import Layer as Unconnected
from spikegrad.kernels.layers import Given
from spikegrad.kernels.plan import Call, fed_as_input
from spikegrad.kernels.values import Numbers

_fed_as_input = functools.lru_cache(maxsize=256)(fed_as_input)


class Layer(layers.Layer):
    """It saves the states before each step, what was fed back among them, and the inputs, unless the gradient does not depend on them.

    Attributes:
        one: a layer without connections, of one step in the working dtype, whose last input is what the neurons receive.
    """

    def __init__(self, call: Call, numbers: Numbers, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(call, numbers, shape, dtype, device)
        given = Numbers(numbers.parameters, numbers.surrogate, (None,) * len(call.plan.states))
        self.one = Unconnected(_fed_as_input(call), given, torch.Size((1, *self.step)), self.real, device)

    def saved(self, learned: frozenset[str]) -> tuple[str, ...]:
        """The inputs of the steps that the backward pass is given, and the states before them."""
        return *self.one.saved(learned), *self.states

    def forward(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs, states after the last step and recorded values."""
        made: list[list[Tensor]] = []
        last = self._first(tensors)
        for _, states, results in self._steps(inputs, tensors):
            made.append(results)
            last = states
        return self._results(made, last)

    def saving(
        self, inputs: Sequence[Tensor], tensors: Sequence[Tensor], learned: frozenset[str]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The same; and what `saved` says."""
        made: list[list[Tensor]] = []
        kept: list[list[Tensor]] = []
        last = self._first(tensors)
        for fed, states, results in self._steps(inputs, tensors):
            kept.append([fed, *(x[None] for x in last)])
            made.append(results)
            last = states
        fed, *states = self._joined(kept, 1 + len(self.states))
        of = dict(zip(self.one.inputs, (*inputs, fed), strict=True))
        return self._results(made, last), [*(of[name] for name in self.one.saved(learned)), *states]

    def backward(
        self, saved: Sequence[Tensor], tensors: Sequence[Tensor], arriving: Given, wanted: tuple[bool, ...]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the inputs, and of those tensors that are wanted; from what was saved."""
        one, n, m = self.one, self.call.plan.outputs, len(self.states)
        asked, learned = self.asked(wanted)
        sequences, before, weights = saved[:-m], saved[-m:], tensors[-1].to(self.real)
        numbers, sent = self._numbers(tensors), arriving[n + m - 1]
        bars = [*arriving[n : n + m - 1]]
        found: list[Sequence[Tensor]] = []
        sums: list[Tensor | None] = [None] * len(numbers)
        wants = tuple(name in learned or name in one.firsts for name in one.tensors)
        with torch.autocast(self.device.type, enabled=False):
            for t in reversed(range(self.shape[0])):
                coming = [None if g is None else g[t : t + 1].to(self.real) for g in (*arriving[:n], *arriving[n + m :])]
                if sent is not None:  # the first output went to the other neurons, too
                    coming[0] = sent[None] if coming[0] is None else coming[0] + sent
                given = (*coming[:n], *bars, *coming[n:])
                step, states = [x[t : t + 1].to(self.real) for x in sequences], [x[t] for x in before[:-1]]
                grads, of_tensors = one.backward(step, [*numbers, *states], given, wants)
                found.append(grads)
                sent = grads[-1][0] @ weights
                bars = [*of_tensors[len(numbers) :]]
                sums = [part if total is None or part is None else total + part for total, part in zip(sums, of_tensors, strict=False)]
            *of_inputs, of_fed = self._joined(found[::-1], len(one.inputs))
            features = self.shape[-1]
            of_weights = of_fed.reshape(-1, features).T @ before[-1].reshape(-1, features) if "weights" in asked else None
        by_name = dict(zip((*one.tensors, "first.recurrent", "weights"), (*sums, *bars, sent, of_weights), strict=True))
        shaped = [(by_name[name] if name in asked else None, t) for name, t in zip(self.tensors, tensors, strict=True)]
        gradients = [None if g is None else g.sum_to_size(t.shape).to(t.dtype) for g, t in shaped]
        return [g.to(self.dtype) for g in of_inputs], gradients

    def _numbers(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those tensors that are the same at each step."""
        same = {*self.one.tensors} - {*self.one.firsts}
        return [x for name, x in zip(self.tensors, tensors, strict=True) if name in same]

    def _first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The states before the first step, what is fed back last."""
        named, zero = self.named(tensors), torch.zeros(self.step, dtype=self.real, device=self.device)
        return [zero + named[name] for name in self.firsts]

    def _steps(self, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """What is fed back to each step, the states after it, and what it returns besides them."""
        n, m = self.call.plan.outputs, len(self.states)
        numbers, states, weights = self._numbers(tensors), self._first(tensors), tensors[-1].to(self.real)
        for t in range(self.shape[0]):
            with torch.autocast(self.device.type, enabled=False):  # what is fed back is added to a state
                fed = (states[-1] @ weights.T)[None]
            made = self.one.forward([*(x[t : t + 1].to(self.real) for x in inputs), fed], [*numbers, *states[:-1]])
            states = [*made[n : n + m - 1], made[0][0]]
            yield fed, states, [*made[:n], *made[n + m - 1 :]]

    def _results(self, made: Sequence[Sequence[Tensor]], last: Sequence[Tensor]) -> list[Tensor]:
        n = self.call.plan.outputs
        sequences = self._joined(made, n + len(self.call.recorded))
        return [*(x.to(self.dtype) for x in sequences[:n]), *last, *sequences[n:]]

    def _joined(self, each: Sequence[Sequence[Tensor]], count: int) -> list[Tensor]:
        """Sequences of what each step gives, so many."""
        if not each:
            return [torch.empty(self.shape, dtype=self.real, device=self.device) for _ in range(count)]
        return [torch.cat(parts) for parts in zip(*each, strict=True)]
