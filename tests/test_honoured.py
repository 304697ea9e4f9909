"""What a user wrote around a spike runs, on every backend: subclasses, hooks, a surrogate's own call, another way to round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from torch.nn.modules.module import (  # noqa: E402
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

from spikegrad import ATan, Surrogate, nn  # noqa: E402


class Halved(nn.Spike):
    """Spikes of half the height."""

    def forward(self, x, *, spike_at_threshold=True):
        return 0.5 * super().forward(x, spike_at_threshold=spike_at_threshold)


class CallsTwice(nn.Spike):
    def __call__(self, *given, **named):
        return 0.5 * super().__call__(*given, **named)


class OwnCall(ATan):
    """A surrogate that puts out spikes of half the height."""

    def __call__(self, x, *given, **named):
        return 0.5 * super().__call__(x, *given, **named)


def replaced(layer: Any) -> Any:
    forward = layer.spike.forward
    layer.spike.forward = lambda x, **named: 0.5 * forward(x, **named)
    return layer


def hooked(register: str, hook: Callable[..., Any]) -> Callable[[Any], Any]:
    def change(layer: Any) -> Any:
        getattr(layer.spike, register)(hook)
        return layer

    return change


def halve_gradient(module, before, after):
    return tuple(g if g is None else 0.5 * g for g in before)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a subclass's forward": lambda layer: setattr(layer, "spike", Halved(ATan())) or layer,
    "a subclass's call": lambda layer: setattr(layer, "spike", CallsTwice(ATan())) or layer,
    "a forward that was set": replaced,
    "a surrogate's own call": lambda layer: setattr(layer.spike, "surrogate", OwnCall()) or layer,
    "a forward hook": hooked("register_forward_hook", lambda module, given, out: 0.5 * out),
    "a forward hook with keywords": lambda layer: (
        layer.spike.register_forward_hook(lambda m, a, k, out: 0.5 * out, with_kwargs=True) and layer
    ),
    "a forward pre-hook": hooked("register_forward_pre_hook", lambda module, given: (given[0] + 0.3,)),
    "a backward hook": hooked("register_full_backward_hook", halve_gradient),
    "a backward pre-hook": hooked("register_full_backward_pre_hook", lambda module, after: tuple(0.5 * g for g in after)),
}


@contextmanager
def everywhere(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(lambda module, *given: hook(module, *given) if isinstance(module, nn.Spike) else None)
    try:
        yield
    finally:
        handle.remove()


GLOBAL: dict[str, Any] = {
    "forward": (register_module_forward_hook, lambda module, given, out: 0.5 * out),
    "pre": (register_module_forward_pre_hook, lambda module, given: (given[0] + 0.3,)),
    "backward": (register_module_full_backward_hook, halve_gradient),
}


def outcome(layer: Any, backend: str, x: Any) -> list[Any]:
    layer.backend = backend
    x = x.clone().requires_grad_()
    spikes, state = layer(x)
    (gradient,) = torch.autograd.grad((spikes * torch.linspace(0.5, 1.5, spikes.numel()).view(spikes.shape)).sum(), x)
    return [spikes.detach(), state.detach(), gradient]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def x() -> Any:
    return torch.rand(9, 3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("what", CHANGES)
def test_what_stands_around_a_spike_runs(what, x):
    """Under "auto" as in the plain loop; the kernels asked for by name refuse, and say why. Also in a layer that has run before."""
    plain = nn.Leaky(0.9)
    before = outcome(plain, "reference", x)
    assert torch.equal(outcome(plain, "auto", x)[0], before[0])
    layer = CHANGES[what](plain)
    wanted = outcome(layer, "reference", x)
    assert not same(wanted, before)
    assert same(outcome(layer, "auto", x), wanted)
    with pytest.raises(ValueError, match=r"backend='numba' cannot run this layer: .*(of its own|somebody set|has hooks)"):
        outcome(layer, "numba", x)


@pytest.mark.parametrize("what", GLOBAL)
def test_hooks_of_all_modules_run(what, x):
    layer = nn.Leaky(0.9)
    before = outcome(layer, "reference", x)
    with everywhere(*GLOBAL[what]):
        wanted = outcome(layer, "reference", x)
        assert not same(wanted, before)
        assert same(outcome(layer, "auto", x), wanted)
        with pytest.raises(ValueError, match="hooks of all modules"):
            outcome(layer, "numba", x)
    assert torch.equal(outcome(layer, "numba", x)[0], before[0])  # the kernels again


def test_a_hook_that_only_looks_is_called_at_every_step_and_can_be_removed(x):
    layer, seen = nn.Leaky(0.9), []
    handle = layer.spike.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    spikes = layer(x)[0]
    assert seen == [(3, 5)] * 9
    handle.remove()
    assert torch.equal(layer(x)[0], spikes)
    assert len(seen) == 9
    outcome(layer, "numba", x)


@pytest.mark.parametrize("what", ["a subclass's forward", "a surrogate's own call", "a forward hook"])
def test_compiled(what, x):
    layer = CHANGES[what](nn.Leaky(0.9))
    torch._dynamo.reset()
    made = torch.compile(layer, backend="eager", fullgraph=True)(x)[0]
    assert torch.equal(made, layer(x)[0])
    assert made.unique().tolist() == [0.0, 0.5]


def test_a_surrogate_with_a_formula_of_its_own_still_runs_in_the_kernels(x):
    class Narrow(Surrogate):
        width: float = 0.5

        def derivative(self, x):
            return 1 / (1 + (x / self.width) ** 2) ** 2

    class Named(nn.Spike):
        """A subclass that changes nothing of the step."""

        def extra_repr(self):
            return "mine"

    layer = nn.Leaky(0.9, spike=Named(ATan()))
    assert torch.equal(outcome(layer, "numba", x)[0], outcome(nn.Leaky(0.9), "reference", x)[0])
    assert nn.backend.obstacle("numba", nn.Spike(Narrow()), False, False, (x,)) is None


class Third(nn.Quantize):
    def forward(self, state):
        return state / 3


ROUNDING: dict[str, Callable[[], Any]] = {
    "a subclass": lambda: Third(4),
    "a hook": lambda: _with_hook(nn.Quantize(4)),
}


def _with_hook(quantize: Any) -> Any:
    quantize.register_forward_hook(lambda module, given, out: out / 3)
    return quantize


@pytest.mark.parametrize("what", ROUNDING)
def test_rounding_of_ones_own(what, x):
    """It is no spike, but rounding in the step is skipped alike."""
    layer, plain = nn.Leaky(0.9, quantize=ROUNDING[what]()), nn.Leaky(0.9, quantize=nn.Quantize(4))
    wanted = outcome(layer, "reference", x)
    assert not same(wanted, outcome(plain, "reference", x))
    assert same(outcome(layer, "auto", x), wanted)
    with pytest.raises(ValueError, match="its state is quantised by a function of its own"):
        outcome(layer, "numba", x)


def test_rounding_may_be_changed_after_a_call(x):
    layer = nn.Leaky(0.9, quantize=nn.Quantize(3))
    layer(x)
    for quantize in (None, Third(4), nn.Quantize(3)):
        layer.quantize = quantize
        assert torch.equal(layer(x)[0], nn.Leaky(0.9, quantize=quantize, backend="reference")(x)[0])


def test_jax_asks_the_surrogate_too(x):
    jax = pytest.importorskip("jax")
    from spikegrad import jax as sj
    from spikegrad.neurons import Leaky

    currents = jax.numpy.asarray(x.numpy())
    spikes = sj.run(Leaky(0.9, spike=OwnCall()), currents)[0]
    assert set(spikes.ravel().tolist()) == {0.0, 0.5}
    with pytest.raises(ValueError, match="OwnCall has a __call__ of its own"):
        sj.run(Leaky(0.9, spike=OwnCall()), currents, backend="numba")
