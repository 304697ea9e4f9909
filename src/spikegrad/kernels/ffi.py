"""NumPy functions as custom calls of XLA on the CPU, on its own buffers: nothing is copied and there is no compiler to install.

XLA calls a handler with the address of a frame; ``xla/ffi/api/c_api.h``, which jaxlib ships, describes it. One handler serves every
function: the call's only attribute is the name of the function, which gets arrays over the memory of arguments and of results.
XLA calls it on threads of its own, also on several at once.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from spikegrad.kernels import memory

Function = Callable[[list[NDArray[Any]], list[NDArray[Any]]], None]
"""Fills its second argument, the results, from its first."""

TARGET = "spikegrad"
_FLOATS = {11: np.dtype("float32"), 12: np.dtype("float64")}  # XLA_FFI_DataType
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INVALID, _INTERNAL = 3, 13  # XLA_FFI_Error_Code
_ERROR_CREATE = 48  # offset in XLA_FFI_Api
_WRITABLE = 0x200  # PyBUF_WRITE
_FRESH = 2**23  # bytes from which XLA's memory comes from the system each time

_HEAD: Any = [("struct_size", c_size_t), ("extension", c_void_p)]


class _Extension(Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("next", c_void_p), ("metadata", c_void_p)]


class _Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("version", c_size_t * 2), ("major", c_int), ("minor", c_int), ("traits", c_uint32)]


class _Buffer(Structure):
    _fields_ = [*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64))]


class _Buffers(Structure):
    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("buffers", POINTER(POINTER(_Buffer)))]


class _Bytes(Structure):
    _fields_ = [("pointer", c_void_p), ("length", c_size_t)]


class _Attributes(Structure):
    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("names", c_void_p), ("values", POINTER(POINTER(_Bytes)))]


class _Frame(Structure):
    _fields_ = [
        *_HEAD, ("api", c_void_p), ("context", c_void_p), ("stage", c_int),
        ("arguments", _Buffers), ("results", _Buffers), ("attributes", _Attributes),
    ]  # fmt: skip


class _ErrorArguments(Structure):
    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


def _version() -> tuple[int, int]:
    """The version of the interface that this jaxlib speaks; what is used of it has been the same since 0.1."""
    try:
        header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
        found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR")]
        return int(found[0][1]), int(found[1][1])  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        return 0, 1


_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype, _view.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, c_int)
_functions: dict[bytes, Function] = {}


def _array(buffer: _Buffer) -> NDArray[Any]:
    """An array over the memory of a buffer."""
    dtype, shape = _FLOATS[buffer.dtype], tuple(buffer.dims[: buffer.rank])
    size = dtype.itemsize
    for length in shape:
        size *= length
    return np.ndarray(shape, dtype, _view(buffer.data, size, _WRITABLE) if size else None)


def _arrays(buffers: _Buffers) -> list[NDArray[Any]]:
    return [_array(pointer.contents) for pointer in buffers.buffers[: buffers.size]] if buffers.size else []


def _handle(address: int) -> int | None:
    """The handler: an address of a frame in, that of an error or none out. An exception must not leave it."""
    frame = _Frame.from_address(address)
    try:
        if frame.extension:
            extension = _Extension.from_address(frame.extension)
            if extension.type == _METADATA:
                metadata = _Metadata.from_address(extension.metadata)
                metadata.major, metadata.minor = _VERSION
                metadata.traits = 0
                return None
        value = frame.attributes.values[0].contents
        function = _functions.get(ctypes.string_at(value.pointer, value.length))
        if function is None:
            return _error(frame, _INVALID, "this program was compiled in another process; trace it again in this one")
        results = _arrays(frame.results)
        for result in results:
            _prefer_huge_pages(result)
        function(_arrays(frame.arguments), results)
    except BaseException as error:
        return _error(frame, _INTERNAL, f"{type(error).__name__}: {error}")
    return None


def _error(frame: _Frame, code: int, message: str) -> int | None:
    create = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))(c_void_p.from_address(frame.api + _ERROR_CREATE).value or 0)
    text = f"spikegrad: {message}".encode()
    return create(_ErrorArguments(ctypes.sizeof(_ErrorArguments), None, text, code))


def _prefer_huge_pages(array: NDArray[Any]) -> None:
    """Ask for huge pages under a large result, whose memory is fresh; that of smaller ones has been used before."""
    if array.nbytes >= _FRESH:
        memory.prefer_huge_pages(array.ctypes.data, array.nbytes)


_VERSION = _version()
_HANDLER = ctypes.CFUNCTYPE(c_void_p, c_void_p)(_handle)
jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(ctypes.cast(_HANDLER, c_void_p).value), platform="cpu")


def call(name: str, function: Function, results: Sequence[jax.ShapeDtypeStruct], *arguments: Any) -> list[jax.Array]:
    """Call a function of NumPy arrays, float32 or float64, from a JAX program on the CPU.

    Args:
        name: the function's name to the compiled program. Programs may be cached on disk, so it must say all there is to the function.
        function: it fills the arrays of its second argument from those of its first, and keeps neither.
        results: shapes and dtypes of the results.
        *arguments: arrays, C-contiguous when they arrive.

    Raises:
        jax.errors.JaxRuntimeError or ValueError: when the program runs and the function raised; which one is jaxlib's choice.
    """
    _functions[name.encode()] = function
    return list(jax.ffi.ffi_call(TARGET, list(results))(*arguments, function=name))
