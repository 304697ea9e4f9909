"""What the driver is told when a program launches a kernel on a GPU: a call frame is made by hand, and the driver's functions record."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytest.importorskip("jax")
pytest.importorskip("numba")
pytest.importorskip("triton")

import torch

from spikegrad.kernels import handler, launcher
from spikegrad.kernels.gpu import driver

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here, and does not interpret")

U = ctypes.c_uint64


class Frame:
    """A call frame as XLA makes one, with a stream, and functions of its own in place of XLA's."""

    def __init__(self, recipe: list[int], given: list[int], made: list[int], stream: int = 77) -> None:
        self.errors: list[tuple[int, str]] = []

        def created(address: int) -> int:
            words = (U * 4).from_address(address)
            self.errors.append((words[3] & 0xFFFFFFFF, ctypes.string_at(words[2]).decode()))
            return 4242

        def streamed(address: int) -> int:
            words = (U * 4).from_address(address)
            assert (words[0], words[2]) == (32, 1234)
            words[3] = stream
            return 0 if stream else 99

        answer = ctypes.CFUNCTYPE(U, U)
        self.kept: list[Any] = [answer(created), answer(streamed)]
        api = (U * 24)()
        api[6], api[10] = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in self.kept)
        numbers = (ctypes.c_int64 * len(recipe))(*recipe)
        array = (U * 3)(5, len(recipe), ctypes.addressof(numbers))
        attributes = (U * 1)(ctypes.addressof(array))
        buffers = [[(U * 6)(48, 0, 11, data, 0, 0) for data in each] for each in (given, made)]
        lists = [(U * max(len(each), 1))(*map(ctypes.addressof, each)) for each in buffers]
        self.words = (U * 22)()
        self.words[2], self.words[3] = ctypes.addressof(api), 1234
        self.words[7], self.words[9] = len(given), ctypes.addressof(lists[0])
        self.words[12], self.words[14] = len(made), ctypes.addressof(lists[1])
        kinds = (ctypes.c_int32 * 1)(1)
        self.words[17], self.words[18], self.words[20] = 1, ctypes.addressof(kinds), ctypes.addressof(attributes)
        self.kept += [api, numbers, array, kinds, attributes, buffers, lists]


class Recorder:
    """Functions in place of the driver's, in the interpreter's table, and what they were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.context, codes = 5000, codes or {}
        self.name = ctypes.create_string_buffer(b"CUDA_ERROR_OUT_OF_MEMORY")

        def stream_context(stream: int, found: int) -> None:
            U.from_address(found).value = self.context

        def load(found: int, image: int) -> None:
            self.calls.append(("image", ctypes.string_at(image)))
            U.from_address(found).value = 6000

        def function(found: int, module: int, name: int) -> None:
            self.calls.append(("name", module, ctypes.string_at(name)))
            U.from_address(found).value = 7000 + self.context

        def launch(*given: int) -> None:
            self.calls.append(("parameters", [U.from_address(U.from_address(given[9] + 8 * k).value).value for k in range(5)]))

        def name(code: int, found: int) -> None:
            U.from_address(found).value = ctypes.addressof(self.name)

        own = {"STREAM_CONTEXT": stream_context, "LOAD": load, "FUNCTION": function, "LAUNCH": launch, "NAME": name}
        memory, kept = driver.interpreter().memory, list[Any]()
        assert driver.interpreter().target
        for word in ("STREAM_CONTEXT", "PUSH", "POP", "LOAD", "FUNCTION", "ATTRIBUTE", "LAUNCH", "NAME"):

            def called(*given: int, word: str = word) -> int:
                if word != "NAME":
                    self.calls.append((word, *(given if word not in ("LOAD", "FUNCTION") else ())))
                own.get(word, lambda *_: None)(*given)
                return codes.get(word, 0)

            place = getattr(launcher, word)
            kept.append(driver.SIGNATURES[place](called))
            monkeypatch.setitem(ProxyOf(memory), place, ctypes.cast(kept[-1], ctypes.c_void_p).value)
        self.kept = kept

    def said(self, word: str) -> list[tuple[Any, ...]]:
        return [given for name, *given in self.calls if name == word]


class ProxyOf(dict[int, int]):
    """A table as a dict, which pytest knows how to put back."""

    def __init__(self, memory: Any) -> None:
        super().__init__(enumerate(memory))
        self.memory = memory

    def __setitem__(self, place: int, value: int) -> None:
        super().__setitem__(place, value)
        self.memory[place] = value


RECIPE = [3, 11, 128, 1, 2, 5, 0, 0, 1, 1, 1, 0, 2, 19, 2, 134]
"""Programs and so on of a kernel that is given one buffer and makes two, the second of which it takes first, and two whole numbers."""


def handled(frame: Frame) -> int:
    return ctypes.CFUNCTYPE(U, U)(launcher.handle()[0])(ctypes.addressof(frame.words))


def test_the_driver_is_told_what_the_recipe_says(monkeypatch):
    """Stream and context, programs, threads, shared memory, and each parameter by its address; a kernel is loaded once a context."""
    recorder = Recorder(monkeypatch)
    driver.interpreter().add(2**62 + 17, b"machine code", "forward", 60_000)
    driver.interpreter().add(2**62 + 17 + handler.BUCKETS, b"of another in its bucket", "backward", 100)
    recipe = [2**62 + 17, 1, *RECIPE[1:]]
    for context in (5000, 5001, 5000):
        recorder.context = context
        assert handled(Frame(recipe, [64], [128, 256])) == 0
    loads = 2
    assert recorder.said("image") == [[b"machine code"]] * loads
    assert recorder.said("name") == [[6000, b"forward"]] * loads
    assert recorder.said("ATTRIBUTE") == [[12_000, 8, 60_000], [12_001, 8, 60_000]]
    assert [context for (context,) in recorder.said("PUSH")] == [5000, 5001, 5000]
    assert len(recorder.said("POP")) == 3
    assert [stream for stream, _ in recorder.said("STREAM_CONTEXT")] == [77] * 3
    assert [given[:9] for given in recorder.said("LAUNCH")] == [
        [7000 + context, 11, 1, 1, 128, 1, 1, 60_000, 77] for context in (5000, 5001, 5000)
    ]
    assert all(given[10] == 0 for given in recorder.said("LAUNCH"))
    assert recorder.said("parameters") == [[[64, 256, 128, 19, 134]]] * 3
    assert handled(Frame([recipe[0] + handler.BUCKETS, *recipe[1:]], [64], [128, 256])) == 0
    assert recorder.said("image")[-1] == [b"of another in its bucket"]
    assert len(recorder.said("ATTRIBUTE")) == 2  # what every kernel may have need not be asked for


@pytest.mark.parametrize("failing", ["STREAM_CONTEXT", "PUSH", "LOAD", "FUNCTION", "ATTRIBUTE", "LAUNCH"])
def test_what_the_driver_refuses(failing, monkeypatch):
    """Is an error of XLA's with the driver's word for it; the context is left as it was, and nothing is remembered of a failed load."""
    recorder = Recorder(monkeypatch, {failing: 2})
    key = 2**61 + hash(failing) % 2**32
    driver.interpreter().add(key, b"machine code", "forward", 60_000)
    frame = Frame([key, 1, *RECIPE[1:]], [64], [128, 256])
    for _ in range(2):
        assert handled(frame) == 4242
    assert frame.errors == [(13, "spikegrad: a kernel could not be launched: the driver says CUDA_ERROR_OUT_OF_MEMORY")] * 2
    pushed = 0 if failing in ("STREAM_CONTEXT", "PUSH") else 2
    assert len(recorder.said("POP")) == pushed
    assert len(recorder.said("LOAD")) == (1 if failing == "LAUNCH" else pushed)


def test_what_does_not_fit_is_not_launched(monkeypatch):
    recorder = Recorder(monkeypatch)
    driver.interpreter().add(2**60 + 1, b"machine code", "forward", 0)
    recipe = [2**60 + 1, 1, *RECIPE[1:]]
    for frame, code, words in (
        (Frame([2**60 + 2, *recipe[1:]], [64], [128, 256]), 5, "traced in another process"),
        (Frame(recipe, [64, 64], [128, 256]), 3, "other buffers than its kernel takes"),
        (Frame(recipe, [64], [128]), 3, "other buffers than its kernel takes"),
        (Frame(recipe, [64], [128, 260]), 13, "does not begin at a multiple of 16 bytes"),
    ):
        assert handled(frame) == 4242
        ((found, text),) = frame.errors
        assert found == code
        assert words in text
    assert handled(Frame(recipe, [64], [128, 256], stream=0)) == 99  # XLA's own error
    assert recorder.said("LAUNCH") == []


COMPILED = """
    import sys
    sys.modules["torch"] = None  # what launches kernels for JAX does not need it

    import ctypes, json, re
    import jax, jax.numpy as jnp
    from spikegrad import jax as sj
    from spikegrad.kernels import launcher
    from spikegrad.kernels.gpu import arrays, driver

    jax.default_backend = lambda: "gpu"
    arrays.capability = lambda: 90
    nothing = driver.Driver({}, "CUDA")
    driver.cuda = lambda: nothing
    x = jnp.ones((20, 4, 64))
    call = jax.jit(jax.grad(lambda x, beta: (sj.leaky(x, beta, backend="triton")[0] ** 2).sum(), (0, 1)))
    text = call.trace(x, 0.8).lower(lowering_platforms=("cuda",)).as_text()
    assert nothing.target in text and "while" not in text
    recipes = [json.loads(numbers) for numbers in re.findall(r"recipe = dense<(\\[[^>]*\\])>", text)]
    kernels = []
    for key, entry in nothing.kernels.entries.items():
        image, called = (ctypes.string_at(entry[place]) for place in (launcher.IMAGE, launcher.CALLED))
        kernels.append((key, image[:4].hex(), called.decode(), entry[launcher.SHARED]))
    print(json.dumps([recipes, kernels]))
"""


def test_compiled_for_a_gpu(tmp_path):
    """A program that is lowered for a GPU carries recipes of kernels that Triton compiled for it, without PyTorch."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(COMPILED)], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    recipes, kernels = json.loads(ended.stdout)
    known = {key: rest for key, *rest in kernels}
    assert [known[key][1].split("_")[0] for key, *_ in recipes] == ["forward", "forward", "backward"]
    assert all(image == bytes.fromhex("7f454c46").hex() for image, *_ in known.values())
    for _, streamed, programs, threads, given, made, count, *parameters in recipes:
        assert (streamed, programs, threads) == (1, 4, 64)
        assert len(parameters) == 2 * count
        pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
        buffers = [pair for pair in pairs if pair[0] != launcher.NUMBER]
        assert sorted(buffers) == [(launcher.GIVEN, k) for k in range(given)] + [(launcher.MADE, k) for k in range(made)]
        assert pairs[len(buffers) : len(buffers) + 2] == [(launcher.NUMBER, 20), (launcher.NUMBER, 256 // 16)]
        assert all(pair == (launcher.NUMBER, 0) for pair in pairs[len(buffers) + 2 :])
    assert recipes[1][5] == 1  # the states at the beginnings of rounds, and nothing else
