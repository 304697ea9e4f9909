"""A module and what is around it as they were at one time, so that it can be run again as it ran then."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@functools.lru_cache(maxsize=1024)
def _looked_into(kind: type) -> bool:
    """Whether attributes of a type are copied, not only referred to; asked of each of them, it would take longer than a small layer."""
    return issubclass(kind, Tensor | torch.Generator) or kind is list


class Snapshot:
    """A module and what is around it, as they are now.

    Attributes:
        tensors: its parameters, and what else of it carries a gradient, each once: to be saved by whoever has it run again.
    """

    def __init__(self, module: nn.Module, like: Tensor, *, draws: bool = True) -> None:
        self.tensors: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._places: dict[int, tuple[list[Tensor], int]] = {}
        self._slots: list[tuple[Any, Any, list[Tensor], int]] = []
        self._random = [_Source(torch.get_rng_state, torch.set_rng_state)] if draws else []
        if draws and not like.is_cpu:
            device: Any = torch.get_device_module(like.device)
            at = like.device
            self._random.append(_Source(lambda: device.get_rng_state(at), lambda state: device.set_rng_state(state, at)))
        self._module = self._copied(module, {})
        self._places.clear()
        kinds = dict.fromkeys(("cpu", like.device.type))
        self._autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]

    def _copied(self, module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
        """The module with all attributes, and a slot where a tensor was."""
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{type(module).__name__} is compiled by torch.jit and cannot be run again as it was")
        inner = module._modules.get("_orig_mod")  # pyright: ignore[reportPrivateUsage]
        if isinstance(inner, nn.Module):  # of what torch.compile wraps: it would call the module itself, not the copy
            return self._copied(inner, known)
        found = known.get(id(module))
        if found is not None:
            return found
        copy = known[id(module)] = object.__new__(type(module))  # not the class's own, which may want more
        attributes = copy.__dict__
        attributes.update(module.__dict__)
        attributes["_compiled_call_impl"] = None  # likewise
        if getattr(attributes.get("forward"), "__self__", None) is module:
            attributes["forward"] = types.MethodType(attributes["forward"].__func__, copy)
        for holder in ("_parameters", "_buffers"):
            attributes[holder] = dict(attributes[holder])
            self._empty(attributes[holder], checked=holder == "_parameters")
        self._empty(attributes, checked=False)
        children: dict[str, Any] = attributes["_modules"]
        attributes["_modules"] = {name: None if child is None else self._copied(child, known) for name, child in children.items()}
        return copy

    def _empty(self, holder: dict[str, Any], *, checked: bool) -> None:
        """Take tensors out of a dictionary, or out of lists in it, and note where each belongs."""
        for name, value in holder.items():
            if not _looked_into(type(value)):
                continue
            if isinstance(value, Tensor):
                self._take(holder, name, value, checked)
            elif isinstance(value, torch.Generator):
                self._random.append(_Source(value.get_state, value.set_state))
            elif any(isinstance(x, Tensor) for x in value):
                items = holder[name] = list[Any](value)
                for place, x in enumerate(items):
                    if isinstance(x, Tensor):
                        self._take(items, place, x, checked)

    def _take(self, holder: Any, name: Any, x: Tensor, checked: bool) -> None:
        if id(x) not in self._places:
            into = self.tensors if checked or x.requires_grad else self._copies
            into.append(x if into is self.tensors else x.clone())
            self._places[id(x)] = into, len(into) - 1
        self._slots.append((holder, name, *self._places[id(x)]))
        holder[name] = None

    @contextlib.contextmanager
    def first(self) -> Generator[None]:
        """The first run: weights that autocast converts are not kept, since they would be without a graph; then what it drew is known."""
        with uncached(*(kind for kind, *_ in self._autocast)):
            yield
        self._random = [source for source in self._random if not torch.equal(source.state, source.get())]

    @contextlib.contextmanager
    def again(self, tensors: Sequence[Tensor]) -> Generator[nn.Module]:
        """The module as it was, with these tensors in the place of `tensors`."""
        copies = [x.clone() for x in self._copies]
        now = [source.get() for source in self._random]
        try:
            for holder, name, of, place in self._slots:
                holder[name] = (tensors if of is self.tensors else copies)[place]
            for source in self._random:
                source.set(source.state)
            with contextlib.ExitStack() as stack:
                for kind, enabled, dtype in self._autocast:
                    if enabled or torch.is_autocast_enabled(kind):
                        stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
                yield self._module
        finally:
            for holder, name, *_ in self._slots:
                holder[name] = None
            for source, state in zip(self._random, now, strict=True):
                source.set(state)


@contextlib.contextmanager
def uncached(*kinds: str) -> Generator[None]:
    """Autocast as it is, on devices of these kinds, without its cache of converted weights."""
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False))
        yield


class _Source:
    """Where random numbers come from, and what it was like before the run."""

    def __init__(self, get: Callable[[], Tensor], set: Callable[[Tensor], object]) -> None:
        self.get, self.set, self.state = get, set, get()
