"""Tensors of every kind, in every mode, given to every layer: what the plain loop computes, or a refusal in words; no garbage, no crash.

A fused layer is compared with the plain loop outside of the mode. What could end the process (an address that is none) runs in a process of
its own; all kinds and layers share it.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from tests.forked import ALL, ended  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_map_only  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from spikegrad import nn  # noqa: E402
from spikegrad.neurons import Adaptive  # noqa: E402

Tensors = list[Any]
SHAPE = (4, 2, 3)

LAYERS: dict[str, Callable[..., Any]] = {
    "Leaky": lambda **o: nn.Leaky(0.9, **o),
    "learned": lambda **o: nn.Leaky(torch.tensor([0.5, 0.75, 0.9]), learn=("beta",), **o),
    "Synaptic": lambda **o: nn.Synaptic(0.8, 0.9, **o),
    "RecurrentLeaky": lambda **o: nn.RecurrentLeaky(3, 0.9, **o),
    "one-to-one": lambda **o: nn.RecurrentLeaky(3, 0.9, connection="one-to-one", **o),
    "LeakyIntegrator": lambda **o: nn.LeakyIntegrator(0.9, **o),
    "Adaptive": lambda **o: nn.Layer(Adaptive(0.9), **o),
}
FED = ("RecurrentLeaky",)
"""Of which the kernels keep too little for the plain loop to differentiate."""


def made(kind: str, backend: str) -> Any:
    torch.manual_seed(0)
    return LAYERS[kind](backend=backend)


def given(seed: int = 0) -> Any:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 1.5


X, W = given(0), given(1)


def gradients(layer: Any, out: Any, x: Any, w: Any) -> Tensors:
    return [out.detach(), *torch.autograd.grad((out * w).sum(), [x, *layer.parameters()])]


def both(layer: Any, x: Any, w: Any) -> Tensors:
    """The output, and the gradients by the input and by what is learned."""
    x = x.clone().requires_grad_()
    return gradients(layer, layer(x)[0], x, w)


class Logged(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        return function(*arguments, **(kwargs or {}))


class Heard(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        return function(*arguments, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


class Wrapper(torch.Tensor):
    """A tensor that holds another one, and has no memory."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device, requires_grad=inner.requires_grad, strides=inner.stride()
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), kwargs=None):
        arguments, kwargs = tree_map_only(Wrapper, lambda x: x.inner, (arguments, kwargs or {}))
        return tree_map_only(torch.Tensor, Wrapper, function(*arguments, **kwargs))


def distributed(x: Any) -> Any:
    from torch import distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return distribute_tensor(x, init_device_mesh("cpu", (1,)), [Replicate()])


def masked(x: Any) -> Any:
    from torch.masked import masked_tensor

    return masked_tensor(x, torch.ones_like(x, dtype=torch.bool))


def plain(x: Any) -> Any:
    """What a tensor of another class holds."""
    if isinstance(x, Wrapper):
        return x.inner
    if hasattr(x, "full_tensor"):
        return x.full_tensor()
    if hasattr(x, "get_data"):
        return x.get_data()
    return x.as_subclass(torch.Tensor)


def as_tensors(convert: Callable[[Any], Any]) -> Callable[..., Tensors]:
    def run(layer: Any) -> Tensors:
        x = convert(X.clone()).requires_grad_()
        return list(map(plain, gradients(layer, layer(x)[0], x, convert(W))))

    return run


def as_gradients(convert: Callable[[Any], Any]) -> Callable[..., Tensors]:
    """A plain forward pass, to which another kind of gradient arrives."""

    def run(layer: Any) -> Tensors:
        x = X.clone().requires_grad_()
        out = layer(x)[0]
        return [out.detach(), *map(plain, torch.autograd.grad(out, [x, *layer.parameters()], convert(W)))]

    return run


def under(forward: Callable[[], Any], backward: Callable[[], Any]) -> Callable[..., Tensors]:
    """A forward pass in one mode, the backward pass in another."""

    def run(layer: Any) -> Tensors:
        x = X.clone().requires_grad_()
        with forward():
            out = layer(x)[0]
        with backward():
            return gradients(layer, out, x, W)

    return run


def backward_by(differentiate: Callable[[Callable[[Any], Any]], Tensors]) -> Callable[..., Tensors]:
    """A plain forward pass, and a transform or a tracer of the backward pass."""

    def run(layer: Any) -> Tensors:
        x = X.clone().requires_grad_()
        out = layer(x)[0]
        found = differentiate(lambda w: torch.autograd.grad(out, [x, *layer.parameters()], w, retain_graph=True))
        return [out.detach(), *found]

    return run


def batched(layer: Any) -> Tensors:
    x = X.clone().requires_grad_()
    out = layer(x)[0]
    return [out.detach(), *(g[0] for g in torch.autograd.grad(out, [x, *layer.parameters()], W[None], is_grads_batched=True))]


def unpacked(layer: Any) -> Tensors:
    """What is saved comes back in half precision."""
    x = X.bfloat16().float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16() if t.shape == SHAPE else t, lambda t: t):
        out = layer(x)[0]
    found = gradients(layer, out, x, W)
    wanted = both(made("Leaky", "reference"), x.detach(), W)
    torch.testing.assert_close(found, wanted)
    return both(made("Leaky", "reference"), X, W)


def counted(layer: Any) -> Tensors:
    """A flop counter sees the operations of the plain loop."""
    x = X.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = layer(x)[0]
        (out * W).sum().backward()
    assert (counter.get_total_flops() > 0) == isinstance(layer, nn.RecurrentLeaky) or layer.connection == "one-to-one"
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters())]


def functional(layer: Any) -> Tensors:
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(x: Any, parameters: Any) -> Any:
        return (torch.func.functional_call(layer, parameters, (x,))[0] * W).sum()

    of_x, of_parameters = torch.func.grad(loss, (0, 1))(X, parameters)
    return [layer(X)[0].detach(), of_x, *of_parameters.values()]


def tangent(layer: Any) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(layer(forward_ad.make_dual(X, W))[0])


def traced(no_grad: bool) -> Callable[..., Tensors]:
    def run(layer: Any) -> Tensors:
        with torch.no_grad() if no_grad else contextlib.nullcontext():
            program = torch.jit.trace(layer, (torch.zeros_like(X),), check_trace=False)
        assert "PythonOp" not in str(program.graph)
        return [program(X)[0].detach()]

    return run


def from_file(layer: Any) -> Tensors:
    with tempfile.NamedTemporaryFile() as file:
        X.numpy().tofile(file.name)
        shared = torch.from_file(file.name, shared=True, size=X.numel()).view(SHAPE)
        return both(layer, shared, W)


def read_only(layer: Any) -> Tensors:
    with tempfile.NamedTemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        X.numpy().tofile(file.name)
        return both(layer, torch.from_numpy(np.memmap(file.name, np.float32, "r", shape=SHAPE)), W)


def with_default(dtype: Any) -> Callable[..., Tensors]:
    def run(layer: Any) -> Tensors:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return both(layer, X, W)
        finally:
            torch.set_default_dtype(before)

    return run


def with_default_device(device: str) -> Callable[..., Tensors]:
    def run(layer: Any) -> Tensors:
        torch.set_default_device(device)
        try:
            return both(layer, X, W)
        finally:
            torch.set_default_device(None)

    return run


@contextlib.contextmanager
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def freed(layer: Any) -> Tensors:
    """Memory that was given back, as FSDP does with its parameters; from its beginning, and from further on."""
    parts = torch.zeros(2, *SHAPE).unbind()
    parts[0].untyped_storage().resize_(0)
    for x in parts:
        with torch.no_grad(), pytest.raises(RuntimeError, match="out of bounds for storage of size 0"):
            layer(x)
    with torch.no_grad():
        return [layer(X)[0]]


def numbers_only(layer: Any) -> Tensors:
    """Of a mode that has no gradients."""
    with torch.inference_mode():
        return [layer(X)[0].clone()]


def parameters_of_a_class(layer: Any) -> Tensors:
    for name, p in list(layer.named_parameters()):
        setattr(layer, name, torch.nn.Parameter(p.detach().as_subclass(Subclass)))
    return list(map(plain, both(layer, X, W)))


none = contextlib.nullcontext
NOT_TWICE = "cannot be differentiated (here|inside)"

SAFE: dict[str, Callable[..., Tensors]] = {
    "a subclass": as_tensors(lambda x: x.as_subclass(Subclass)),
    "gradients of a subclass": as_gradients(lambda x: x.as_subclass(Subclass)),
    "parameters of a subclass": parameters_of_a_class,
    "a parameter": lambda layer: both(layer, torch.nn.Parameter(X), W),
    "negative": as_tensors(lambda x: torch._neg_view(-x)),
    "the imaginary part of a conjugate": lambda layer: both(layer, torch.complex(X, -X).conj().imag, W),
    "copied when it is written": lambda layer: both(layer, torch._lazy_clone(X), W),
    "other strides": lambda layer: both(layer, X.transpose(0, 2).contiguous().transpose(0, 2), W),
    "shared memory": lambda layer: both(layer, X.clone().share_memory_(), W),
    "a file": from_file,
    "a file that is only read": read_only,
    "a dispatch mode": under(Logged, Logged),
    "a dispatch mode forward": under(Logged, none),
    "a dispatch mode backward": under(none, Logged),
    "a function mode": under(Heard, Heard),
    "a function mode forward": under(Heard, none),
    "a function mode backward": under(none, Heard),
    "a device": under(lambda: torch.device("cpu"), lambda: torch.device("cpu")),
    "the meta device around it": under(lambda: torch.device("meta"), lambda: torch.device("meta")),
    "the meta device forward": under(lambda: torch.device("meta"), none),
    "the meta device backward": under(none, lambda: torch.device("meta")),
    "a default device": with_default_device("meta"),
    "a default dtype": with_default(torch.float64),
    "a default of half precision": with_default(torch.float16),
    "autocast": under(lambda: torch.autocast("cpu", torch.bfloat16), none),
    "autocast throughout": under(lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.autocast("cpu", torch.bfloat16)),
    "deterministic": under(deterministic, deterministic),
    "a profiler": under(torch.profiler.profile, none),
    "inference": numbers_only,
    "a flop counter": counted,
    "grad of functional_call": functional,
    "vmap": lambda layer: [torch.func.vmap(lambda x: layer(x)[0], 1, 1)(X).detach()],
    "vjp": lambda layer: [torch.func.vjp(lambda x: layer(x)[0], X)[0].detach(), torch.func.vjp(lambda x: layer(x)[0], X)[1](W)[0]],
    "jvp": lambda layer: [torch.func.jvp(lambda x: layer(x)[0], (X,), (W,))[0].detach()],
    "dual numbers": lambda layer: [tangent(layer).primal.detach()],
    "functionalize": lambda layer: [torch.func.functionalize(lambda x: layer(x)[0])(X).detach()],
    "make_fx": lambda layer: make_fx(lambda x, w: both(layer, x, w))(torch.zeros_like(X), W)(X, W),
    "make_fx before dispatch": lambda layer: [make_fx(lambda x: layer(x)[0], pre_dispatch=True)(torch.zeros_like(X))(X).detach()],
    "what is saved in another dtype": unpacked,
    "freed memory": freed,
}
"""In this process."""

CRASHED: dict[str, Callable[..., Tensors]] = {
    "a wrapper": as_tensors(Wrapper),
    "gradients in a wrapper": as_gradients(Wrapper),
    "distributed": as_tensors(distributed),
    "distributed gradients": as_gradients(distributed),
    "masked gradients": as_gradients(masked),
    "batched gradients": batched,
    "vmap of the backward pass": backward_by(lambda f: [g[0] for g in torch.func.vmap(f)(W[None])]),
    "functionalize of the backward pass": backward_by(lambda f: torch.func.functionalize(f)(W)),
    "make_fx of the backward pass": backward_by(lambda f: make_fx(f)(torch.zeros_like(W))(W)),
    "torch.jit.trace": traced(False),
    "torch.jit.trace without gradients": traced(True),
}
"""In a process of its own, where each began as a crash or as garbage."""

REFUSED = {
    "distributed": "got mixed torch.Tensor and DTensor",  # what PyTorch says of parameters that are not distributed
    "distributed gradients": "got mixed torch.Tensor and DTensor",
    "masked gradients": "MaskedTensor",
    "functionalize of the backward pass": "cannot be differentiated inside torch.func.functionalize",
}


def require_right(what: str, kind: str, run: Callable[..., Tensors]) -> str:
    """The plain loop's numbers, or a refusal that is expected: which of them it was."""
    wanted = both(made(kind, "reference"), X, W)
    try:
        found = run(made(kind, "auto"))
    except (RuntimeError, TypeError, ValueError) as error:
        words = NOT_TWICE if kind in FED and f"{error}".startswith("a fused layer with all-to-all") else REFUSED.get(what, "not refused")
        if not re.search(words, str(error)):
            raise AssertionError(f"{what}, {kind}: {type(error).__name__}: {error}") from error
        return "refused"
    for a, b in zip(found, wanted, strict=False):
        a = a.detach()
        assert a.shape == b.shape, (what, kind)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text: f"{what}, {kind}: {text}")
    return "equal"


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("what", SAFE)
def test_every_layer_in_every_mode(what):
    for kind in LAYERS:
        if what == "what is saved in another dtype" and kind != "Leaky":
            continue
        require_right(what, kind, SAFE[what])


WALK = """
import warnings
import torch
from tests import test_modes as modes

warnings.simplefilter("ignore", DeprecationWarning)
torch.set_num_threads(1)
for what, run in modes.CRASHED.items():
    for kind in modes.LAYERS:
        print(what, "|", kind, flush=True)  # the last line says where it ended
        modes.require_right(what, kind, run)
print("all of them")
"""


def test_every_layer_in_modes_that_crashed():
    (found,) = ended(WALK, libraries=ALL)
    assert found.out.endswith("all of them\n"), (found.code, found.out[-200:], found.err[-2000:])


@pytest.mark.parametrize("kind", LAYERS)
def test_what_has_no_numbers_has_shapes(kind):
    """On the meta device and with fake tensors, forward and backward; also of the backward pass alone."""
    wanted = both(made(kind, "reference"), X, W)
    found = both(made(kind, "auto").to("meta"), X.to("meta"), W.to("meta"))
    assert [(x.shape, x.dtype, x.is_meta) for x in found] == [(x.shape, x.dtype, True) for x in wanted]
    layer = made(kind, "auto")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's own, about tensors that it looks at
        found = both(layer, mode.from_tensor(X), mode.from_tensor(W))
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in wanted]
    with FakeTensorMode() as mode:
        layer = nn.Leaky(0.9, backend="auto") if kind == "learned" else made(kind, "auto")  # whose tensor has no first number there
        assert layer(torch.rand(SHAPE))[0].shape == SHAPE
    x = X.clone().requires_grad_()
    layer = made(kind, "auto")
    out = layer(x)[0]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if kind in FED:
            with pytest.raises(RuntimeError, match=NOT_TWICE):
                torch.autograd.grad(out, x, mode.from_tensor(W))
        else:
            assert torch.autograd.grad(out, x, mode.from_tensor(W))[0].shape == SHAPE


WORDS: dict[str, tuple[Callable[[], Any], str]] = {
    "nested": (lambda: torch.nested.nested_tensor([X[:, 0], X[:, 1]]), r"is a nested tensor; pad it with torch\.nested\.to_padded_tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([X[:, 0], X[:, 1]], layout=torch.jagged),
        r"is a nested tensor; pad it with torch\.nested\.to_padded_tensor",
    ),
    "sparse": (lambda: X.to_sparse(), r"must be dense, got the layout torch\.sparse_coo; convert it with \.to_dense"),
    "compressed": (lambda: X[:, 0].to_sparse_csr(), r"must be dense, got the layout torch\.sparse_csr"),
    "of MKL-DNN": (lambda: X.to_mkldnn(), r"must be dense, got the layout torch\._mkldnn"),
    "masked": (lambda: masked(X), r"must be dense, got a MaskedTensor; fill it with \.to_tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "expected a floating-point tensor, got torch.qint8"),
    "of eight bits": (lambda: X.to(torch.float8_e4m3fn), r"has the dtype torch\.float8_e4m3fn, in which nothing can be computed"),
    "complex": (lambda: torch.complex(X, X), "expected a floating-point tensor, got torch.complex64"),
}


@pytest.mark.parametrize("what", WORDS)
def test_refused_in_words(what):
    make, words = WORDS[what]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = make()
    for kind in LAYERS:
        for backend in ("auto", "reference"):
            with pytest.raises((TypeError, ValueError), match=words):
                made(kind, backend)(x)


def test_nothing_to_compute():
    for kind in LAYERS:
        for shape in ((4, 0, 3), (0, 2, 3)):
            layer, x = made(kind, "auto"), torch.zeros(shape, requires_grad=True)
            out = layer(x)[0]
            assert out.shape == shape
            if out.requires_grad:
                assert torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is not None or not shape[0]
