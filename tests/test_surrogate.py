"""A surrogate is a value with a formula: checked, printed, compared, copied, and made good for whatever its author forgot."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from spikegrad import ATan, NonNegative, Positive, Surrogate
from spikegrad.formulas import CATALOGUE
from spikegrad.vocabulary import exp, where


class Hat(Surrogate):
    """Defined under ``from __future__ import annotations``, so that its annotations are strings."""

    width: Positive = 1.0
    floor: NonNegative = 0.0

    def derivative(self, x):
        return exp(-abs(x) / self.width) + self.floor


class Taller(Hat):
    """Inherits a formula and uses it."""

    def derivative(self, x):
        return 3 * super().derivative(x)


class Steep(ATan):
    """Inherits from the catalogue, and keeps its primitive."""

    slope: Positive = 50.0


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (ValueError, "`slope` of ATan must be positive, got 0.0", lambda: ATan(0)),
        (ValueError, "`slope` of ATan must be positive, got -2.0", lambda: ATan(slope=-2.0)),
        (ValueError, "`slope` of ATan must be positive, got nan", lambda: ATan(float("nan"))),
        (ValueError, "`floor` of Hat must be zero or positive, got -1.0", lambda: Hat(floor=-1)),
        (ValueError, "`scale` of ATan must be a number, got nan", lambda: ATan(scale=float("nan"))),
        (TypeError, "`slope` of ATan must be a number, got str", lambda: ATan("2")),
        (
            TypeError,
            r"`slope` of ATan must be a number, got ndarray; pass arrays beside .* spike\(x, slope=array\)",
            lambda: ATan(np.ones(3)),
        ),
        (TypeError, "unexpected keyword argument 'alpha'", lambda: ATan(alpha=2.0)),
        (ValueError, "`width` of Taller must be positive", lambda: Taller(width=0)),
        (ValueError, "`slope` of ATan must be positive", lambda: dataclasses.replace(ATan(), slope=-1)),
    ],
)
def test_parameters_are_checked(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_infinite_parameter_is_refused(surrogate):
    for name, within in surrogate.numbers.items():
        if not within.infinite:
            with pytest.raises(ValueError, match=f"`{name}` .* must be finite, got inf"):
                dataclasses.replace(surrogate, **{name: float("inf")})


def test_is_a_value(surrogate):
    cls = type(surrogate)
    for same in (cls(), pickle.loads(pickle.dumps(surrogate)), copy.deepcopy(surrogate), copy.copy(surrogate)):
        assert same == surrogate
        assert hash(same) == hash(surrogate)
    other = dataclasses.replace(surrogate, scale=0.5)
    assert other != surrogate
    assert eval(repr(other), dict(CATALOGUE)) == other
    assert eval(repr(surrogate), dict(CATALOGUE)) == surrogate
    with pytest.raises(dataclasses.FrozenInstanceError):
        surrogate.scale = 2.0
    assert len({surrogate, cls(), other}) == 2


def test_numbers_become_floats():
    assert repr(ATan(3)) == "ATan(slope=3.0)"
    assert repr(ATan(np.float32(0.5), scale=2)) == "ATan(slope=0.5, scale=2.0)"
    assert ATan(3) == ATan(np.int64(3)) == ATan(3.0)
    assert ATan() != Steep(slope=2.0)
    assert list(Hat().parameters) == ["width", "floor", "scale"]


def test_scale_multiplies_once(surrogate):
    """Also where a formula calls the one that it inherits."""
    x = np.linspace(-2, 2, 9)
    twice = dataclasses.replace(surrogate, scale=2.0)
    assert np.array_equal(twice.derivative(x), 2 * surrogate.derivative(x))
    if surrogate.has_primitive:
        assert np.array_equal(twice.primitive(x), 2 * surrogate.primitive(x))
    assert np.array_equal(Taller(scale=2.0).derivative(x), 6 * Hat().derivative(x))
    assert np.allclose(Taller().bind({"scale": np.float64(2.0)}).derivative(x), 6 * Hat().derivative(x), rtol=1e-15)


def test_inheritance():
    x = np.linspace(-1, 1, 5)
    assert np.array_equal(Steep().derivative(x), ATan(50.0).derivative(x))
    assert Steep.has_primitive
    assert not Hat.has_primitive
    assert Taller().structure != Hat().structure
    assert "Taller.derivative" not in Taller().source("javascript")


def test_formula_is_completed():
    """NaN, infinities and half precision are no concern of who writes a formula."""

    class Window(Surrogate):
        def derivative(self, x):
            return where(abs(x) < 1, x * 0 + 1, 0.5)

    x = np.array([np.nan, np.inf, -np.inf, 0.0, 3.0])
    for dtype in (np.float16, np.float32, np.float64):
        g = Window().derivative(x.astype(dtype))
        assert g.dtype == dtype
        assert np.array_equal(g, [np.nan, 0, 0, 1, 0.5], equal_nan=True)


def test_missing_derivative():
    class Empty(Surrogate):
        slope: float = 1.0

    with pytest.raises(TypeError, match=r"Empty.* does not define `derivative\(self, x\)`"):
        Empty()


def test_no_primitive():
    with pytest.raises(ValueError, match="Hat has no primitive"):
        Hat().primitive(np.zeros(3))


def test_matched_to():
    matched = []
    for surrogate in (cls() for cls in CATALOGUE.values()):
        with contextlib.suppress(ValueError):  # no slope or width, or none that gives this half width
            matched.append(surrogate.matched_to(0.3))
            assert abs(matched[-1].half_width - 0.3) < 1e-9, surrogate
    assert len(matched) > len(CATALOGUE) / 2
    assert Hat().matched_to(ATan()).half_width == pytest.approx(ATan().half_width, rel=1e-9)
    with pytest.raises(ValueError, match=r"no slope gives S2NN a half width of 0\.3"):
        CATALOGUE["S2NN"]().matched_to(0.3)
    with pytest.raises(ValueError, match="InverseAbs has neither a slope nor a width"):
        CATALOGUE["InverseAbs"]().matched_to(0.3)
    with pytest.raises(ValueError, match="inf"):
        ATan().matched_to(CATALOGUE["StraightThrough"]())


def test_needs_no_file_and_no_annotations():
    """A class typed into an interpreter, in a process without PyTorch, works and pickles."""
    code = """
        import pickle, sys
        import numpy as np
        from spikegrad import Surrogate
        class Box(Surrogate):
            width: float = 1.0
            n: int = 2
            def derivative(self, x):
                return 1 / (1 + (x / self.width) ** self.n)
        assert pickle.loads(pickle.dumps(Box(0.5))) == Box(0.5)
        assert Box(0.5, 4).derivative(np.float64(0.5)) == 0.5
        assert Box().peak == 1
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
