"""The states that a neuron keeps: zeroed, detached, copied and saved, and never kept alive by anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self
from weakref import WeakSet, proxy

import torch
from torch import Tensor, nn
from torch._functorch import pyfunctorch

from spikegrad.compat.likeness import Alike
from spikegrad.gradient.torch import constant, traced, transforming
from spikegrad.vocabulary import fits


class WithStates(Alike, nn.Module):
    """A module that keeps the tensors that its `STATES` name from one call to the next: buffers that are not saved, as in snnTorch.

    To `isinstance` it is the neuron of snnTorch of the same name, and snnTorch's own `reset_hidden` and `detach_hidden` reach it.
    """

    PEER = "snntorch"
    STATES: ClassVar[tuple[str, ...]] = ()

    _alive: ClassVar[WeakSet[WithStates]] = WeakSet()
    """Every neuron there is, for `reset_hidden` and `detach_hidden`. It keeps none of them alive."""

    _strangers: ClassVar[WeakSet[WithStates]] = WeakSet()
    """Those that snnTorch has not been told of."""

    _home: tuple[str, ...] = ()
    """The torch.func transforms inside which the states were stored: outside of them they have no value."""

    init_hidden: bool

    def _begin(self) -> None:
        """Set the neuron at rest. The last thing that a constructor does, so that one that fails is not among the living."""
        for name in self.STATES:
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self._live()

    def _live(self) -> None:
        self._alive.add(self)
        self._strangers.add(self)

    def _recognised(self, cls: Any) -> None:
        """Who asks whether this is one of snnTorch's means to reset or detach all of them: let it find ours in its list."""
        while self._strangers:
            _introduce(self._strangers.pop(), cls.instances)

    def _before(self, input_: Tensor, x: Tensor, given: tuple[Tensor | None, ...], stack: tuple[str, ...]) -> tuple[Tensor, ...]:
        """The states to start this step from, in the shape of the input."""
        own = self._living(stack) and (self.init_hidden or not stack)
        states: list[Tensor] = []
        for name, state in zip(self.STATES, given, strict=True):
            if state is None:
                state: Any = self._buffers[name]
                if not own or state.shape != x.shape:
                    state = torch.zeros_like(x)
            elif self.init_hidden:
                raise TypeError(
                    f"`{name}` was given to a {type(self).__name__} with init_hidden=True, which keeps its own states; leave it out, "
                    "or make the neuron with init_hidden=False"
                )
            elif not isinstance(state, Tensor):
                raise TypeError(
                    f"`{name}` must be a tensor, got {type(state).__name__}; each of {', '.join(self.STATES)} is passed by itself"
                )
            elif state.shape != x.shape:
                state = _fitted(name, state, x)
            states.append(state.to(input_.dtype if name == "spk" else x.dtype))
        return tuple(states)

    def _keep(self, states: tuple[Tensor, ...], stack: tuple[str, ...] = ()) -> None:
        if stack and not self.init_hidden:
            return  # inside a transform it is a pure function: its states go out as results alone
        if stack and torch.compiler.is_compiling():
            raise RuntimeError(
                f"a {type(self).__name__} with init_hidden=True cannot keep its states inside a torch.func transform that is compiled; "
                "make it with init_hidden=False and pass the states, or leave torch.compile out"
            )
        # What assigning them does, without looking through parameters and modules first.
        self._buffers.update(zip(self.STATES, states, strict=True))
        if self._home != stack:
            self._home = stack

    def _living(self, stack: tuple[str, ...]) -> bool:
        return self._home == stack[: len(self._home)]

    def reset_mem(self) -> Any:
        """Set the neuron's own states to zeros, and return them: one tensor, or a tuple in the order in which a call takes them.

        Before the first call, for a compiler and inside of a transform they are empty. A call of any shape takes empty states, or zeros.
        """
        shaped = self._living(()) and not traced()  # zeros could not be told from other states there
        states = tuple(torch.zeros_like(getattr(self, name)) if shaped else torch.zeros(0) for name in self.STATES)
        self._keep(states, transforms() if transforming() else ())
        if len(states) == 1:
            return states[0]
        return states

    def _detach(self) -> None:
        if not self._living(transforms() if transforming() else ()):
            self.reset_mem()
        for name in self.STATES:
            state: Tensor = getattr(self, name)
            if state._is_view():
                setattr(self, name, state.detach())  # PyTorch detaches no view in place
            else:
                state.detach_()

    @classmethod
    def _instances(cls) -> Iterator[Self]:
        return (neuron for neuron in list(WithStates._alive) if isinstance(neuron, cls))

    @classmethod
    def init(cls) -> None:
        """Forget the living neurons of this class: `reset_hidden` and `detach_hidden` reach only those that are made from now on."""
        for neuron in cls._instances():
            WithStates._alive.discard(neuron)

    @classmethod
    def reset_hidden(cls) -> None:
        """Set the states of every neuron of this class to zeros, in all networks; `utils.reset` resets those of one."""
        for neuron in cls._instances():
            neuron.reset_mem()

    @classmethod
    def detach_hidden(cls) -> None:
        """Detach the states of every neuron of this class, in all networks, in place: for truncated backpropagation through time."""
        for neuron in cls._instances():
            neuron._detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if not self._living(()):
            self.reset_mem()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a file has the values of the states, not the graph that they came from.
        living = self._living(())
        states = {name: getattr(self, name).detach() if living else torch.zeros(0) for name in self.STATES}
        return {**self.__dict__, "_buffers": {**self._buffers, **states}, "_home": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._live()


@constant
def transforms() -> tuple[str, ...]:
    """The torch.func transforms that run, from the outermost."""
    return tuple(interpreter.key().name for interpreter in pyfunctorch.retrieve_all_functorch_interpreters())


def _introduce(neuron: WithStates, instances: list[Any]) -> None:
    """Enter a neuron in snnTorch's list of all of them, without keeping it alive. It leaves None there, which is no neuron to anybody."""

    def forget(dead: object) -> None:
        for place, entry in enumerate(instances):
            if entry is dead:
                instances[place] = None

    instances.append(proxy(neuron, forget))


def _fitted(name: str, state: Tensor, x: Tensor) -> Tensor:
    """A state that was given in another shape than the input's: broadcast to it; or zeros for empty ones and zeros, which mean rest."""
    if state.numel() == 1:
        state = state.reshape(())
    if fits(state.shape, x.shape):
        return state.expand(x.shape)
    if state.numel() == 0 or not (traced() or bool(state.any())):
        return torch.zeros_like(x)
    raise ValueError(
        f"`{name}` of shape {tuple(state.shape)} does not fit the input of shape {tuple(x.shape)}; pass a state that broadcasts to it, "
        "or none to start from rest"
    )
