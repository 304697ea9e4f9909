"""The words of a formula: one meaning for numbers and for arrays of every library, and the dtype that went in."""

from __future__ import annotations

import fractions
import math

import jax
import numpy as np
import pytest
import torch

from spikegrad import ATan, vocabulary
from spikegrad.vocabulary import library, step, where, widen

FUNCTIONS = {
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "arctan": math.atan, "erf": math.erf,
    "floor": math.floor, "step": lambda x: float(x >= 0), "tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "round": round,
}  # fmt: skip


class Subclass(torch.Tensor):
    """A user's own tensor."""


class SubclassOfArray(np.ndarray):
    """A user's own array."""


CONTAINERS = {
    "array": lambda x, dtype: np.asarray([x], dtype),
    "subclass of array": lambda x, dtype: np.asarray([x], dtype).view(SubclassOfArray),
    "zero-dimensional array": lambda x, dtype: np.asarray(x, dtype),
    "scalar": lambda x, dtype: np.dtype(dtype).type(x),
    "tensor": lambda x, dtype: torch.tensor([x], dtype=getattr(torch, dtype)),
    "subclass of tensor": lambda x, dtype: torch.tensor([x], dtype=getattr(torch, dtype)).as_subclass(Subclass),
    "parameter": lambda x, dtype: torch.nn.Parameter(torch.tensor([x], dtype=getattr(torch, dtype))),
    "jax": lambda x, dtype: jax.numpy.asarray([x], dtype),
}


def test_every_word_is_tested():
    assert {*FUNCTIONS, "where", "minimum", "maximum", "inf", "pi"} == set(vocabulary.__all__)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name, container, dtype):
    word, expected = getattr(vocabulary, name), FUNCTIONS[name](0.7)
    with jax.enable_x64(True):
        given = CONTAINERS[container](0.7, dtype)
        result = word(given)
        assert result.dtype == given.dtype
        assert result.shape == given.shape
        assert abs(float(getattr(result, "detach", lambda: result)().reshape(())) - expected) <= 4 * float(np.finfo(dtype).eps) * max(
            1, abs(expected)
        )
        assert type(result) is type(given) or container in ("parameter", "zero-dimensional array", "scalar")
    assert math.isclose(word(0.7), expected, rel_tol=1e-15)


@pytest.mark.parametrize("container", CONTAINERS)
def test_dtype_is_never_widened(container):
    """Python numbers do not promote: not in where, not in step, not in a whole formula."""
    x = CONTAINERS[container](0.3, "float32")
    for result in (
        where(x > 0, 1.0, x),
        where(x > 0, x, 0.0),
        step(-x),
        ATan().derivative(x),
        ATan(2.0, scale=0.5).primitive(x),
        ATan()(x),
    ):
        assert result.dtype == x.dtype
    assert widen(x) is x
    half = CONTAINERS[container](0.3, "float16")
    assert widen(half).dtype == x.dtype
    assert ATan().derivative(half).dtype == half.dtype


def test_where_and_step_of_numbers():
    assert (where(True, 1.0, 2.0), where(False, 1.0, 2.0), step(-1.0), step(0)) == (1.0, 2.0, 0.0, 1.0)
    for condition in (np.array([True]), torch.tensor([True]), jax.numpy.asarray([True])):
        with pytest.raises(TypeError, match="of two numbers has no dtype"):
            where(condition, 1.0, 0.0)


@pytest.mark.parametrize("x", [fractions.Fraction(1, 2), "1", None, [1.0], (1.0,), 1j, torch.float32])
def test_unknown_type_is_an_error(x):
    with pytest.raises(TypeError, match=rf"expected a NumPy, PyTorch or JAX array or a number, got .*{type(x).__name__}"):
        library(x)
    with pytest.raises(TypeError):
        vocabulary.exp(x)


def test_library_looks_at_base_classes():
    names = {name: library(make(0.5, "float32")) for name, make in CONTAINERS.items()}
    assert names == {
        name: "jax" if name == "jax" else "torch" if "tensor" in name or name == "parameter" else "numpy" for name in CONTAINERS
    }
    assert jax.jit(lambda x: x * (library(x) == "jax"))(1.0) == 1.0
    assert library(np.float64(1)) == "numpy"  # though it is a float too


def test_subclass_of_tensor_keeps_its_class():
    x = CONTAINERS["subclass of tensor"](0.3, "float32").requires_grad_()
    spikes = ATan()(x)
    assert type(spikes) is Subclass
    spikes.sum().backward()
    assert torch.allclose(x.grad, ATan().derivative(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_minimum_and_maximum(container, dtype):
    """Of an array and a number or two arrays, in the array's dtype; NaN wins, as in NumPy."""
    with jax.enable_x64(True):
        x = CONTAINERS[container](0.7, dtype)
        for word, low, high in ((vocabulary.minimum, 0.3, 0.7), (vocabulary.maximum, 0.7, 1.5)):
            for result, expected in (
                (word(x, 0.3), low),
                (word(0.3, x), low),
                (word(x, 1.5), high),
                (word(1.5, x), high),
                (word(x, x), 0.7),
            ):
                assert result.dtype == x.dtype
                assert float(np.asarray(getattr(result, "detach", lambda result=result: result)()).reshape(())) == pytest.approx(expected)
            assert bool((word(x * math.nan, 0.3) != word(x * math.nan, 0.3)).all())
            assert word(0.3, math.nan) != word(0.3, math.nan)
    assert (vocabulary.minimum(1.0, 2.0), vocabulary.maximum(1.0, 2.0)) == (1.0, 2.0)


def test_round_is_to_even_and_sigmoid_has_tails():
    halves = [-1.5, -0.5, 0.5, 1.5, 2.5]
    for make in (np.array, torch.tensor, jax.numpy.array):
        assert [float(x) for x in vocabulary.round(make(halves))] == [-2.0, 0.0, 0.0, 2.0, 2.0]
        assert [float(x) for x in vocabulary.sigmoid(make([-700.0, 700.0]))] == [pytest.approx(0.0, abs=1e-300), 1.0]
    assert [vocabulary.round(x) for x in halves] == [-2.0, 0.0, 0.0, 2.0, 2.0]
