"""The functions that launch kernels for JAX: those of the CUDA driver, or, with ``TRITON_INTERPRET=1``, Triton's interpreter on the CPU."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from llvmlite import binding

from spikegrad.kernels import launcher
from spikegrad.kernels.handler import Table, lasting
from spikegrad.kernels.lock import LOCK, once

_FUNCTIONS = {
    launcher.STREAM_CONTEXT: "cuStreamGetCtx",
    launcher.PUSH: "cuCtxPushCurrent_v2",
    launcher.POP: "cuCtxPopCurrent_v2",
    launcher.LOAD: "cuModuleLoadData",
    launcher.FUNCTION: "cuModuleGetFunction",
    launcher.ATTRIBUTE: "cuFuncSetAttribute",
    launcher.LAUNCH: "cuLaunchKernel",
    launcher.NAME: "cuGetErrorName",
}

_word, _whole = ctypes.c_uint64, ctypes.c_uint32
SIGNATURES: dict[int, Any] = {
    launcher.STREAM_CONTEXT: ctypes.CFUNCTYPE(ctypes.c_int, _word, _word),
    launcher.PUSH: ctypes.CFUNCTYPE(ctypes.c_int, _word),
    launcher.POP: ctypes.CFUNCTYPE(ctypes.c_int, _word),
    launcher.LOAD: ctypes.CFUNCTYPE(ctypes.c_int, _word, _word),
    launcher.FUNCTION: ctypes.CFUNCTYPE(ctypes.c_int, _word, _word, _word),
    launcher.ATTRIBUTE: ctypes.CFUNCTYPE(ctypes.c_int, _word, _whole, _whole),
    launcher.LAUNCH: ctypes.CFUNCTYPE(ctypes.c_int, _word, *[_whole] * 7, _word, _word, _word),
    launcher.NAME: ctypes.CFUNCTYPE(ctypes.c_int, _whole, _word),
}
"""How these are called, addresses as words."""


def interpreting() -> bool:
    """Whether Triton interprets kernels, on the CPU, instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Interpreted(NamedTuple):
    """A kernel that the interpreter runs: its function, the types of its parameters, and its constants."""

    function: Any
    types: tuple[str, ...]
    constants: dict[str, int]


class Driver:
    """A table of functions, and the kernels that are known to it."""

    def __init__(self, functions: dict[int, int], platform: str) -> None:
        self.kernels = Table()
        self.memory = lasting((ctypes.c_uint64 * (launcher.KERNELS + 1))())
        for place, address in (functions | {launcher.KERNELS: ctypes.addressof(self.kernels.memory)}).items():
            self.memory[place] = address
        self.platform = platform

    @functools.cached_property
    def target(self) -> str:
        """The name of what XLA calls, registered."""
        binding.add_symbol("spikegrad_driver", ctypes.addressof(self.memory))
        address, name = launcher.handle()
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform=self.platform, api_version=1)
        return name

    def add(self, key: int, image: bytes, name: str, shared: int) -> None:
        """Make a kernel known, by machine code that stays where it is."""
        if key not in self.kernels.entries:
            code, called = (ctypes.addressof(lasting(ctypes.create_string_buffer(each))) for each in (image, name.encode()))
            self.kernels.add(key, (code, called, shared, *[0] * (1 + 2 * launcher.CONTEXTS)))


@once
def cuda() -> Driver:
    """The driver of NVIDIA's GPUs.

    Raises:
        NotImplementedError: there is none.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
        addresses = {place: ctypes.cast(library[name], ctypes.c_void_p).value or 0 for place, name in _FUNCTIONS.items()}
    except (OSError, AttributeError) as missing:
        raise NotImplementedError(f"backend='triton' launches kernels by NVIDIA's driver: {missing}; use backend='auto'") from missing
    return Driver(addresses, "CUDA")


def _nothing(*_: int) -> int:
    """What has no error, and nothing to do."""
    return 0


@once
def interpreter() -> Interpreter:
    """Triton's interpreter in place of a driver."""
    return Interpreter()


class Interpreter(Driver):
    """What takes a driver's calls and runs kernels in Triton's interpreter; a kernel's image is its place among `known`."""

    def __init__(self) -> None:
        self.known: list[Interpreted] = []
        self._lock = threading.Lock()  # the interpreter has one place where it is
        own: dict[int, Callable[..., int]] = {
            **dict.fromkeys(_FUNCTIONS, _nothing),
            launcher.LOAD: self._load,
            launcher.FUNCTION: self._load_from,
            launcher.LAUNCH: self._launch,
        }
        self._callbacks = {place: SIGNATURES[place](function) for place, function in own.items()}
        super().__init__({place: ctypes.cast(f, ctypes.c_void_p).value or 0 for place, f in self._callbacks.items()}, "cpu")

    def interpret(self, key: int, kernel: Interpreted) -> None:
        """Make a kernel known."""
        with LOCK:
            self.known.append(kernel)
            self.add(key, str(len(self.known) - 1).encode(), kernel.function.__name__, 0)

    def _load(self, found: int, image: int) -> int:
        ctypes.c_uint64.from_address(found).value = int(ctypes.string_at(image)) + 1
        return 0

    def _load_from(self, found: int, module: int, _: int) -> int:
        ctypes.c_uint64.from_address(found).value = module
        return 0

    def _launch(self, function: int, *given: int) -> int:
        import torch

        dtypes = {"*fp16": torch.float16, "*bf16": torch.bfloat16, "*fp32": torch.float32, "*fp64": torch.float64}
        kernel, values = self.known[function - 1], list[Any]()
        grid, parameters = given[:3], given[8]
        for place, kind in enumerate(kernel.types):
            address = ctypes.c_uint64.from_address(parameters + 8 * place).value
            if kind in dtypes:  # of a tensor the interpreter only asks where it begins
                begins = ctypes.c_uint64.from_address(address).value
                values.append(torch.frombuffer((ctypes.c_char * 8).from_address(begins), dtype=dtypes[kind], count=1))
            else:
                values.append((ctypes.c_int64 if kind == "i64" else ctypes.c_int32).from_address(address).value)
        try:
            with self._lock:
                kernel.function[grid](*values, **kernel.constants)
        except Exception:  # nothing may be raised through machine code
            traceback.print_exc()
            return 1
        return 0
