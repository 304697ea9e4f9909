"""Whether a kernel may take the address of a tensor now.

An address is taken only of dense tensors of PyTorch's own class, with memory of their own on the CPU, and outside of everything that wants
to see operations instead of numbers: modes, transforms, tracers, exporters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack  # pyright: ignore[reportPrivateUsage]
from torch.utils._device import DeviceContext

_PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_modes = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage]
_function_modes = torch._C._len_torch_function_stack  # pyright: ignore[reportPrivateUsage]
_transform = torch._C._functorch.peek_interpreter_stack  # pyright: ignore
_tracing = torch._C._get_tracing_state  # pyright: ignore


def surroundings() -> str | None:
    """What around a call wants to see operations, or None."""
    if _transform() is not None or forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return "it runs inside a torch.func transform or forward-mode differentiation"
    if _dispatch_modes():
        return "it runs inside a dispatch mode, such as that of fake tensors or a tracer"
    if _tracing():
        return "it is traced by torch.jit"
    if _function_modes() and not all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()):
        return "it runs inside a function mode"
    return None


def obstacle(*tensors: Tensor) -> str | None:
    """Why a kernel cannot take the addresses of these tensors, or None."""
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return f"it is given a {type(tensor).__name__}"
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return f"its input is on {tensor.device}" if tensor.layout is torch.strided else f"its input has the layout {tensor.layout}"
        if tensor.is_neg() or torch._is_functional_tensor(tensor) or torch._is_zerotensor(tensor):  # pyright: ignore
            return "it is given a tensor without memory of its own"
    return None
