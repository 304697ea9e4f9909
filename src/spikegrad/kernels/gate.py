"""Whether a kernel may take the address of a tensor now.

An address is taken only of dense tensors of PyTorch's own class, with memory of their own on the kernel's device, and outside of everything
that wants to see operations instead of numbers: modes, transforms, tracers, exporters. Before a forward pass it is asked of what a layer is
given; before a backward pass, which may run somewhere else, of the gradients that arrive and of what was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor
from torch._C._functorch import CInterpreter, TransformType, get_interpreter_stack, peek_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack  # pyright: ignore[reportPrivateUsage]
from torch.utils._device import DeviceContext

from spikegrad.gradient.torch import constant

DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
"""What kernels compute with, and how they call it."""

CPU = torch.device("cpu")

_PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_modes = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage]
_function_modes = torch._C._len_torch_function_stack  # pyright: ignore[reportPrivateUsage]
tracing: Callable[[], object] = torch._C._get_tracing_state  # pyright: ignore

_transform: Callable[[], CInterpreter | None] = peek_interpreter_stack


def surroundings() -> str | None:
    """What around a call wants to see operations, or None."""
    if _transform() is not None or forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return TRANSFORM
    if _dispatch_modes():
        return "it runs inside a dispatch mode, such as that of fake tensors or a tracer"
    if tracing():
        return "it is traced by torch.jit"
    if _function_modes() and not all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()):
        return "it runs inside a function mode"
    return None


TRANSFORM = "it runs inside a torch.func transform or forward-mode differentiation"


def functionalizing() -> bool:
    """Whether torch.func.functionalize is at work, inside which PyTorch records nothing for a derivative."""
    return any(level.key() == TransformType.Functionalize for level in get_interpreter_stack() or ())


def compiling(*tensors: Tensor, device: torch.device = CPU) -> str | None:
    """Why a compiler that traces a layer must see its operations, and not the operator that runs the kernels on a device; or None."""
    if _transforming():
        return TRANSFORM
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "it is exported to ONNX"
    for tensor in tensors:
        if type(tensor) not in _PLAIN and not type(tensor).__module__.startswith("torch._subclasses."):  # those of torch.export itself
            return f"it is given a {type(tensor).__name__}"
        if tensor.device != device:
            return f"its input is on {tensor.device}"
        if tensor.dtype not in DTYPES:
            return f"it is given numbers of {tensor.dtype}"
    return None


@constant
def _transforming() -> bool:
    return _transform() is not None or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


def obstacle(*tensors: Tensor, device: torch.device = CPU) -> str | None:
    """Why a kernel for this device cannot take the addresses of these tensors, or None."""
    cpu = device is CPU
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return f"it is given a {type(tensor).__name__}"
        if not (tensor.is_cpu if cpu else tensor.device == device) or tensor.layout is not torch.strided or tensor.is_nested:
            return _elsewhere(tensor)
        if tensor.dtype not in DTYPES:
            return f"it is given numbers of {tensor.dtype}"
        if tensor.is_neg() or not has_memory(tensor):
            return "it is given a tensor without memory of its own"
    return None


def ordinary(x: object) -> TypeGuard[Tensor]:
    """Whether something is, at first sight, a sequence that any layer can run over; what is not may be one or in need of an error."""
    return type(x) is Tensor and x.layout is torch.strided and x.dtype in DTYPES and x.ndim > 1 and not x.is_nested


def _elsewhere(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "its input is nested"
    return f"its input is on {tensor.device}" if tensor.layout is torch.strided else f"its input has the layout {tensor.layout}"


def has_memory(tensor: Tensor) -> bool:
    """Whether there are numbers at the tensor's address: it may stand for zeros or for a tensor of a transform, or its memory was freed."""
    try:
        # Of freed memory the address is what is left, how far into it the tensor began; and its size is 0, which takes longer to ask.
        there = tensor.data_ptr() and (not tensor.storage_offset() or tensor.untyped_storage().nbytes())
        return bool(there) or not tensor.numel()
    except (RuntimeError, NotImplementedError):
        return False
