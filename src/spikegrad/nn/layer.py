"""A layer of any neuron as a PyTorch module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from spikegrad.errors import meant
from spikegrad.gradient.torch import constant
from spikegrad.kernels import arguments, loop, text
from spikegrad.kernels.gate import ordinary
from spikegrad.kernels.plan import QUANTIZED, WEIGHTS, Call, Connection, array
from spikegrad.neuron import Neuron
from spikegrad.nn.backend import check, compiler, fused, kernels, obstacle
from spikegrad.nn.lengths import Currents, Lengths, to_ends
from spikegrad.nn.parameters import checked, has_values, held, hold, named
from spikegrad.nn.quantize import has_levels
from spikegrad.nn.record import Record, known, returned
from spikegrad.nn.spike import Spike
from spikegrad.vocabulary import Array, cast

State: TypeAlias = "Tensor | Sequence[State] | None"
"""A tensor, a tuple or list of states, or None where there is none."""

Results = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]
"""Outputs, the state after them, and what was recorded."""


class Stateful(nn.Module):
    """What takes a whole sequence and a state, and returns an output over the same steps and the state after it.

    Derive your own blocks from it. Nothing is stored between calls. A state is a tensor, a tuple or list of states, or None where there is
    none; leaving it out starts from rest. `Sequential` hands the sequence to every module of this class, and its part of the state.

    Example:
        >>> import torch
        >>> from spikegrad import nn
        >>> class Gated(nn.Stateful):
        ...     def __init__(self, features):
        ...         super().__init__()
        ...         self.gate = nn.Sequential(torch.nn.Linear(features, features), nn.Leaky(0.9))
        ...
        ...     def forward(self, currents, state=None):
        ...         spikes, state = self.gate(currents, state)
        ...         return spikes * currents, state
        >>> out, state = nn.Sequential(Gated(4), torch.nn.Linear(4, 2))(torch.rand(10, 3, 4))
        >>> out.shape
        torch.Size([10, 3, 2])
    """

    def forward(self, currents: Any, state: Any = None) -> tuple[Any, ...]:
        """Output ``(time, batch, *features)`` and state."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(self, currents, state=None)")


class Layer(Stateful):
    """A layer of neurons over whole sequences, like `torch.nn.LSTM`: any of the catalogue, or one of your own.

    Numbers of the neuron, and those of its surrogate as ``"spike.slope"``, may be learned, and be different for each neuron: a tensor in
    `values` broadcasts over the features of a step, ``(features,)`` or ``(channels, 1, 1)``. What is learned is the coordinate that the
    range of the number gives (see `Between`), the parameter ``beta_logit`` or ``threshold_log``, so that it never leaves its range. The
    numbers as they are now are the layer's attributes: ``layer.beta``.

    Args:
        neuron: the neuron, with its numbers and options.
        learn: names of what to learn, as in ``("beta", "spike.slope")``; ``"slope"`` will do where the neuron has no number of that name.
        values: tensors in place of numbers, by name; where learning starts, or fixed.
        recurrent: connect each neuron's first output to its first input of the next step: ``"all-to-all"`` through `weight` of shape
            ``(features, features)``, used as ``weight @ s``; or ``"one-to-one"``, of shape ``(features,)``.
        features: number of neurons, the last dimension of the input; for recurrent layers.
        spike: a module that spikes, in place of the neuron's surrogate: an `nn.Spike`.
        inhibition: winner takes all: of the features of a sample only the one furthest above its threshold may spike.
        quantize: rounds the states, where the step says `quantized`: an `nn.Quantize`, or any function of a tensor.
        backend: ``"numba"``, on the CPU, or ``"triton"``, on GPUs, for fused kernels; ``"reference"`` for the plain loop; ``"auto"`` for
            the fastest that can.

    Raises:
        TypeError, ValueError: an argument of the wrong type or outside of its range, named in the message.

    Example:
        >>> import torch
        >>> from spikegrad import FastSigmoid, nn
        >>> from spikegrad.neurons import Adaptive
        >>> layer = nn.Layer(Adaptive(0.9, spike=FastSigmoid(10)), learn=("beta", "spike.slope"), values={"beta": torch.full((3,), 0.9)})
        >>> spikes, state, recorded = layer(torch.rand(5, 2, 3), record=("u", "theta"))
        >>> spikes.shape, state._fields, recorded["theta"].shape
        (torch.Size([5, 2, 3]), ('v', 'a'), torch.Size([5, 2, 3]))
        >>> [name for name, _ in layer.named_parameters()]
        ['beta_logit', 'spike.slope_log']
    """

    def __init__(
        self,
        neuron: Neuron,
        *,
        learn: str | Sequence[str] = (),
        values: Mapping[str, float | Tensor] | None = None,
        recurrent: Literal["all-to-all", "one-to-one"] | None = None,
        features: int | None = None,
        spike: Spike | None = None,
        inhibition: bool = False,
        quantize: Callable[[Tensor], Tensor] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        arguments.layer(neuron, quantize)
        if spike is not None and not isinstance(spike, Spike):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`spike` must be an nn.Spike, got {spike!r}; a surrogate is given to the neuron: spike=ATan()")
        known = (*neuron.numbers, *(f"spike.{name}" for name in neuron.spike.numbers if neuron.record.fires))
        full = {
            name: name if name in known or f"spike.{name}" not in known else f"spike.{name}" for name in (*named(learn), *(values or {}))
        }
        learn, values = tuple(dict.fromkeys(full[name] for name in named(learn))), {full[name]: x for name, x in (values or {}).items()}
        for name in (*learn, *values):
            if name not in known:
                raise ValueError(f"{type(neuron).__name__} has no number {name!r}{meant(name, known)}")
        floats = {name: x for name, x in values.items() if name in neuron.numbers and not isinstance(x, Tensor)}
        neuron = dataclasses.replace(neuron, **floats)
        self._calls: dict[Hashable, Call] = {}
        self.connection: Connection = "none"
        self.neuron, self.learn, self.backend, self.inhibition, self.quantize = neuron, learn, backend, inhibition, quantize
        self._tensors = tuple(name for name in neuron.numbers if name in learn or isinstance(values.get(name), Tensor))
        for name in self._tensors:
            if name in learn:
                neuron.require_learnable(name)
            hold(self, name, values.get(name, getattr(neuron, name)), neuron.numbers[name], learn=name in learn)
        neuron.bind({name: held(self, name, neuron.numbers[name]) for name in self._tensors}).require_valid()
        numbers = {f"spike.{name}": within for name, within in neuron.spike.numbers.items()}
        of_spike = {
            name.removeprefix("spike."): checked(name, torch.as_tensor(x), numbers[name], learn=name in learn)
            for name, x in values.items()
            if name in numbers
        }
        learned = [name.removeprefix("spike.") for name in learn if name in numbers]
        if spike is not None and (of_spike or learned):
            raise ValueError("what of the surrogate is learned is said once: by `spike`, an nn.Spike, or by `learn` and `values`")
        self.spike = Spike(neuron.spike, learned, values=of_spike) if spike is None else spike
        self.weight: nn.Parameter | None = None
        if recurrent is not None:
            self._connect(recurrent, features)

    @property
    def neuron(self) -> Neuron:
        """The neuron; another with the same states and connections may take its place at any time."""
        return self._neuron

    @neuron.setter
    def neuron(self, neuron: Neuron) -> None:
        if self.__dict__.get("_record") != neuron.record or len(self._state_names) != len(neuron.states) + (self.connection != "none"):
            self._calls.clear()  # and not for other numbers, which a compiler that has traced the calls would take for other calls
        self._neuron, self._record = neuron, neuron.record
        self._state_names = (*neuron.states, *(("recurrent",) * (self.connection != "none")))
        self._floats: dict[str, float] = neuron.parameters | {name: getattr(neuron, name) for name in neuron.states}
        known: dict[str, Tensor] = self.__dict__.get("_traced", {})
        with torch.inference_mode(False):
            for name, value in self._floats.items():
                known.setdefault(name, torch.zeros((), dtype=torch.float64, device="cpu")).fill_(value)
        self._traced = known
        """The same, for where a layer is compiled: as tensors they travel, so that other numbers compile nothing."""

    def _connect(self, recurrent: str, features: int | None) -> None:
        """Recurrent weights, uniform within one over the root of the number of inputs of a neuron."""
        if recurrent not in ("all-to-all", "one-to-one"):
            raise ValueError(f"the connection of a recurrent layer must be one of 'all-to-all', 'one-to-one', got {recurrent!r}")
        if features is True or not isinstance(features, Integral) or features < 1:
            raise ValueError(f"a recurrent layer needs `features`, the number of its neurons, at least 1, got {features!r}")
        self.connection, self.neuron = recurrent, self.neuron
        weight = torch.empty(features, features) if recurrent == "all-to-all" else torch.empty(features)
        self.weight = nn.Parameter(weight)
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)

    def state_of(self, parts: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """A state as the layer returns it: its one part, or a tuple of them, with names where nobody saves the program in a file."""
        if len(parts) == 1:
            return parts[0]
        return tuple(parts) if torch.compiler.is_exporting() else self._state_type()(*parts)

    def _state_type(self) -> Callable[..., tuple[Tensor, ...]]:
        return arguments.state_type(f"{type(self.neuron).__name__}State", self._state_names)

    def __getattr__(self, name: str) -> Any:
        """A number of the neuron as it is now."""
        neuron = self.__dict__.get("_neuron")
        if neuron is not None and name in neuron.numbers:
            return held(self, name, neuron.numbers[name]) if name in self._tensors else getattr(neuron, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        neuron = self.__dict__.get("_neuron")
        if neuron is not None and name in neuron.numbers:
            held_as = "fixed" if name not in self.learn else neuron.numbers[name].coordinate
            what = f"`{name}_{held_as}`" if name in self._tensors else f"layer.neuron = dataclasses.replace(layer.neuron, {name}=...)"
            raise AttributeError(f"`{name}` of a layer only says what the number is now; what makes it so is {what}")
        if name == "backend":
            check(value)
        super().__setattr__(name, value)

    def forward(self, currents: Currents, state: State = None, *, record: Record = False, lengths: Lengths = None) -> tuple[Any, ...]:
        """Run the layer over a sequence.

        Args:
            currents: ``(time, batch, *features)`` or ``(time, features)``, floating point; several inputs as one tuple.
            state: the states to start from, as they were returned, each of the shape of one step; rest if None.
            record: also return other values of the step: True for the potentials ``u``, or their names for a dict. ``excess`` is the
                potential over the threshold.
            lengths: of each sample, ``(batch,)``, whole numbers, where a batch is filled up to the longest. Each sample runs as it would
                by itself: the state is that at its own end, outputs and recorded values are 0 from there on, what fills up has no
                effect and a gradient of 0. A length of 0 leaves the state as it was.

        Returns:
            ``(spikes, state)`` or ``(spikes, state, recorded)``. Outputs have the shape and dtype of the currents, a tuple of them if the
            neuron has several; states and recorded values are at least float32. One state is a tensor, several are a tuple with names;
            fed back spikes are the last, ``recurrent``.

        Raises:
            TypeError: an input that is no tensor of floating point.
            ValueError: shapes that do not fit, the message names both; or a value to record that the step does not name.
        """
        neuron = self._neuron
        wanted = known(self, record) if record is not False else ()
        given = (currents,) if len(neuron.inputs) == 1 and ordinary(currents) else arguments.inputs(neuron.inputs, currents, "torch")
        found = self._run(wanted, given, state) if lengths is None else self._run_to_ends(wanted, given, state, lengths)
        outputs, last, recorded = found
        after = self.state_of(last)
        made = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return (made, after) if record is False else (made, after, *returned(record, wanted, recorded))

    def _numbers(self, quantize: Callable[[Tensor], Tensor] | None, weight: Tensor | None) -> Mapping[str, Array]:
        """The numbers of the neuron as they are, those that the layer adds, and where states rest."""
        if not self._tensors and quantize is None and weight is None:
            return self._floats
        numbers = self._floats | {name: getattr(self, name) for name in self._tensors}
        if quantize is not None and has_levels(quantize):
            numbers |= dict(zip(QUANTIZED, quantize.numbers, strict=True))
        return numbers if weight is None else numbers | {WEIGHTS[self.connection]: weight}

    def _run(self, wanted: tuple[str, ...], given: tuple[Tensor, ...], state: State) -> Results:
        spike: Any = self._modules["spike"]  # a getattr that a module fails costs as much as a small kernel
        quantize, weight, compiling = self.quantize, self.weight, torch.compiler.is_compiling()
        if compiling:
            self._prepare(wanted)
        call, like = self._call(wanted, spike), given[0] if given[0].dtype is torch.float32 else arguments.working(given[0])
        numbers, learned = self._numbers(quantize, weight), spike.learned()
        if weight is not None:
            arguments.weights(weight, like)
        if self._tensors or learned:
            arguments.numbers({n: numbers[n] for n in self._tensors} | {f"spike.{n}": x for n, x in learned.items()}, like)
        start: tuple[Tensor, ...] = () if state is None else arguments.state(self._state_names, state, like)
        own = None if call.quantized else quantize
        tensors = [*given, *start, *learned.values(), *[numbers[name] for name in self._tensors], *(() if weight is None else (weight,))]
        kind = compiler(self.backend, like)
        if not fused(self.backend, kind, obstacle(kind, spike, self.inhibition, own is not None, tensors)):
            return self._plain(call, given, like, start, numbers, own)
        if len(given) > 1:
            given = tuple(cast(x, given[0]) for x in given)
        if compiling:
            found = self._compiled(wanted, given, start, numbers, learned)
        else:
            surrogate, floats = spike.floats | learned, numbers is self._floats and not learned and not len(start)
            found = kernels().run(call, given, start, numbers, surrogate, constant=floats, triton=kind == "triton")
        n, m = call.plan.outputs, call.plan.outputs + len(self._state_names)
        return found[:n], found[n:m], found[m:]

    def _run_to_ends(self, wanted: tuple[str, ...], given: tuple[Tensor, ...], state: State, lengths: Tensor | Sequence[int]) -> Results:
        """The same, of samples that end at different steps."""
        like = arguments.working(given[0])
        start = None if state is None else arguments.state(self._state_names, state, like)
        if shared := [name for name in self._tensors if (x := getattr(self, name)).ndim == given[0].ndim - 1 and x.shape[0] != 1]:
            raise ValueError(f"`{shared[0]}` differs between the samples of a batch, which does not go with `lengths`")
        count = 0

        def run(inputs: tuple[Tensor, ...], state: tuple[Tensor, ...] | None) -> tuple[list[Tensor], list[Tensor]]:
            nonlocal count
            outputs, last, recorded = self._run(wanted, inputs, state)
            count = len(outputs)
            return [*outputs, *recorded], [*last]

        sequences, last = to_ends(run, given, start, lengths)
        return sequences[:count], last, sequences[count:]

    def _plain(
        self,
        call: Call,
        given: tuple[Tensor, ...],
        like: Tensor,
        state: tuple[Tensor, ...],
        numbers: Mapping[str, Array],
        quantize: Callable[[Tensor], Tensor] | None,
    ) -> Results:
        """The layer in the plain loop, from these states or from rest."""
        weights = numbers.get("weights")
        if torch.compiler.is_compiling():  # in which NumPy cannot be traced
            fixed = self._fixed(like)
            numbers = {name: fixed[name] if name in fixed else array(numbers[name], like) for name in numbers}
        fed = {} if weights is None else {"recurrent": 0.0}
        outputs, last, recorded = loop.run(
            call,
            self._fire,
            tuple(cast(x, like) for x in given),
            state if len(state) else arguments.filled(call.plan.rested(numbers, like) | fed, like),
            call.plan.computed(numbers, like),
            None if weights is None else cast(weights, like),
            quantize=quantize,
            inhibition=self.inhibition,
            noisy=self.spike.surrogate.stochastic and self.training,
            rested=len(state) == 0,
        )
        return [cast(x, given[0]) for x in outputs], last, recorded

    def _fixed(self, like: Tensor) -> dict[str, Tensor]:
        """The numbers that are no tensors as a compiler should see them."""
        return {name: x.to(like) for name, x in self._traced.items() if name not in self._tensors}

    def _compiled(
        self,
        wanted: tuple[str, ...],
        inputs: tuple[Tensor, ...],
        start: tuple[Tensor, ...],
        numbers: Mapping[str, Array],
        learned: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """The layer as an operator."""
        tensors = {name: x for name, x in numbers.items() if isinstance(x, Tensor)} | {f"spike.{name}": x for name, x in learned.items()}
        tensors |= {f"first.{name}": x for name, x in zip(self._state_names, start, strict=False)}
        call = self._call(wanted, self.spike)
        names = [name for name in (*call.plan.numbers, *self._neuron.states) if name not in tensors]
        like = self.spike.numbers
        fixed = self._fixed(like)
        each = [fixed[name] if name in fixed else array(numbers[name], like) for name in names]
        packed = torch.stack(each) if each else like[:0]
        return torch.ops.spikegrad.layer(list(inputs), list(tensors.values()), packed, like, self._text(wanted), " ".join(tensors))

    @constant
    def _text(self, wanted: tuple[str, ...]) -> str:
        return text.written(self._call(wanted, self.spike))

    @constant
    def _prepare(self, wanted: tuple[str, ...]) -> bool:
        """Have `_call` find its result when a compiler traces through it."""
        call = self._call(wanted, self.spike)
        return bool(call.key and self._state_type() and loop.carried(call))

    def _call(self, wanted: tuple[str, ...], spike: Spike) -> Call:
        """The static part of the layer, with these values recorded: the same object each time."""
        levels = self.quantize is not None and has_levels(self.quantize)
        key = (wanted, spike.structure.key, levels)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = Call(self._record, spike.structure, wanted, levels, self.connection)
        return call

    def _fire(self, x: Tensor, spike_at_threshold: bool, _: None) -> Tensor:
        return self.spike(x, spike_at_threshold=spike_at_threshold)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Numbers that are numbers belong to the state as well, exactly, whatever the dtype of the module."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.neuron.parameters.items():
            if name not in self._tensors:
                destination[f"{prefix}{name}_fixed"] = torch.tensor(value, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore
        loaded: dict[str, float] = {}
        for name in self.neuron.numbers:
            value = state_dict.get(f"{prefix}{name}_fixed")
            if name not in self._tensors and value is not None and value.numel() == 1:
                loaded[name] = float(state_dict.pop(f"{prefix}{name}_fixed"))
        if loaded:
            self.neuron = dataclasses.replace(self.neuron, **loaded)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled before the class of its neuron was edited runs as that class is now."""
        super().__setstate__(state)
        if self._neuron.record != self._record:
            self.neuron = self._neuron

    def extra_repr(self) -> str:
        """The neuron with its numbers as they are, and what differs from the defaults."""
        shown: list[str] = []
        for name in self.neuron.numbers:
            value = getattr(self, name)
            value = value.detach() if isinstance(value, Tensor) else value
            unknown = isinstance(value, Tensor) and (value.ndim > 0 or not has_values(value))
            shown.append(f"{name}={tuple(value.shape)}" if unknown else f"{name}={float(value):.4g}")
        fields = {f.name: f.default for f in dataclasses.fields(self.neuron) if f.name not in (*self.neuron.numbers, "spike")}
        shown += [f"{name}={getattr(self.neuron, name)!r}" for name, default in fields.items() if getattr(self.neuron, name) != default]
        shown += [f"recurrent={self.connection!r}"] if self.connection != "none" else []
        shown += [f"learn={self.learn}"] * bool(self.learn) + ["inhibition=True"] * self.inhibition
        return ", ".join([type(self.neuron).__name__, *shown] if type(self) is Layer else shown)
