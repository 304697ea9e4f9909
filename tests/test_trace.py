"""The recorder: what it refuses and how it says so, what its records are, and what it prints."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from spikegrad import ATan, Positive, Surrogate, trace
from spikegrad.formulas import CATALOGUE
from spikegrad.neurons import CATALOGUE as NEURONS
from spikegrad.trace import BOOLEANS, Program, Record, Symbol, argument, evaluator, flatten, symbols
from spikegrad.vocabulary import OPERATIONS, exp, maximum, minimum, sigmoid, where


def surrogate_with(formula):
    """A class is recorded when it is defined, so defining it is the test."""

    class User(Surrogate):
        width: float = 1.0
        slope: Positive = 1.0

        def derivative(self, x):
            return formula(self, x)

    return User


def branches(self, x):
    return 1.0 if x > 0 else 0.0


REFUSED = [
    ("branch on its input .* where", branches),
    ("branch on its input", lambda self, x: (x > 0 and x < 1) * 1.0),
    ("branch on its input .*`min`", lambda self, x: min(x, 1)),
    ("branch on its input", lambda self, x: x if not x > 0 else 1.0),
    ("not `math`", lambda self, x: math.exp(x)),
    ("`numpy.tanh` is outside", lambda self, x: np.tanh(x)),
    ("`torch.tanh` is outside", lambda self, x: torch.tanh(x)),
    ("`.sum` is outside the vocabulary .* erf", lambda self, x: x.sum()),
    ("`.shape` is outside", lambda self, x: x.shape[0] * x),
    ("branch that depends on the input", lambda self, x: where(x > 0, self.slope, self.width)),
    ("branch that depends on the input", lambda self, x: where(x > 0, 1.0, 0.0)),
    ("base known to be positive", lambda self, x: abs(x) ** 0.5),
    ("base known to be positive", lambda self, x: x**1.5),
    ("base known to be positive", lambda self, x: x**self.slope),
    ("base known to be positive", lambda self, x: self.width**0.5 * x),
    ("base known to be positive", lambda self, x: maximum(x, 0.0) ** 1.5),
    ("base known to be positive", lambda self, x: minimum(x, 1.0) ** 1.5),
    ("base known to be positive", lambda self, x: where(x > 1, x, 1.0) ** 1.5),
    ("not with ndarray", lambda self, x: x * np.ones(3)),
    ("not with Tensor|torch", lambda self, x: x * torch.ones(3)),
    ("not with str", lambda self, x: x * "2"),
    ("not with NoneType", lambda self, x: None),
    ("got builtins.list", lambda self, x: exp([x])),
]


@pytest.mark.parametrize(("match", "derivative"), REFUSED, ids=[match for match, _ in REFUSED])
def test_refusal_names_the_culprit(match, derivative):
    with pytest.raises(TypeError, match=rf"User\.derivative: .*({match})"):
        surrogate_with(derivative)


def test_positive_base_takes_any_power():
    for base in (
        lambda s, x: s.slope,
        lambda s, x: 1 + abs(x),
        lambda s, x: exp(x),
        lambda s, x: s.slope / (2 + x**2),
        lambda s, x: maximum(x, 0.5),
        lambda s, x: minimum(exp(x), s.slope),
        lambda s, x: 1 + sigmoid(x),
    ):
        user = surrogate_with(lambda self, x, base=base: base(self, x) ** 1.5 * exp(-abs(x)))(slope=2.0)
        x = np.linspace(-1, 1, 5)
        assert np.allclose(user.derivative(x), base(user, x) ** 1.5 * np.exp(-abs(x)), rtol=1e-14)


def test_record_is_a_value():
    one, other = ATan(2.0).structure, ATan(3.0).structure
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key == pickle.loads(pickle.dumps(one)).key
    assert pickle.loads(pickle.dumps(one)) == one
    everyone = [cls().structure for cls in CATALOGUE.values()]
    assert len({record.key for record in everyone}) == len(set(everyone)) == len(CATALOGUE)


def test_a_program_computes_once_what_is_written_twice():
    x, y = argument("x"), argument("y")
    program = flatten([(x + y) * (x + y), x + y, x + y + 1, x], {})
    assert program.instructions == (("add", "x", "y"), ("multiply", 0, 0), ("add", 0, 1.0))
    assert program.results == (1, 0, 2, "x")
    assert program.arguments() == {"x", "y"}


def test_literals_that_are_equal_to_python_are_told_apart():
    """An index from a number, and one zero from the other."""
    x = argument("x")
    program = flatten([x + 0.0, x + -0.0, x * 1, x * 1.0, (x + 0.0) + 1.0])
    assert [repr(o) for _, _, o in program.instructions] == ["0.0", "-0.0", "1.0", "1.0"]
    one, other = Program((("negative", "x"), ("negative", 0)), (1,)), Program((("negative", "x"), ("negative", 0)), (1.0,))
    assert one == other
    assert Record(("x",), one) != Record(("x",), other)


@pytest.mark.parametrize("name", NEURONS)
def test_symbols_of_a_program_make_the_program_again(name):
    for record, _ in list(NEURONS[name]._records.values()):
        given = {each: argument(each) for each in (*record.inputs, *record.states, *record.numbers)}
        for program in (record.step, record.resting):
            again = flatten(*symbols(program, given))
            assert repr((again.instructions, again.results)) == repr((program.instructions, program.results))
            assert {again.names[k] for k in range(len(again.names))} <= {*program.names}
        kinds = [trace.OPERATIONS[operation] for operation, *_ in record.step.instructions]
        assert [len(kind) for kind in kinds] == [len(i) - 1 for i in record.step.instructions]
        booleans = [operation in BOOLEANS for operation, *_ in record.step.instructions]
        for kind, (_, *operands) in zip(kinds, record.step.instructions, strict=True):
            assert all((isinstance(o, int) and booleans[o]) == (k == "b") for k, o in zip(kind, operands, strict=True))


def test_names_are_for_whoever_reads():
    """Kernels, caches and comparisons know nothing of them."""
    x = argument("x")
    root = x + 1
    one, other = flatten([root], {id(root): "one"}), flatten([root], {id(root): "other"})
    assert one == other
    assert (one.names, other.names) == (((0, "one"),), ((0, "other"),))
    assert Record(("x",), one).key == Record(("x",), other).key


def test_evaluation_makes_each_literal_once():
    made = []
    program = flatten([argument("x") * 2 + 3])
    run = evaluator(program, lambda x: made.append(x) or x)
    assert [run({"x": x}, OPERATIONS) for x in (1.0, 5.0)] == [[5.0], [13.0]]
    assert made == [2.0, 3.0]


def test_operations_say_what_they_take():
    for operation, kinds in trace.OPERATIONS.items():
        assert set(kinds) <= {"n", "b"}
        assert (operation in BOOLEANS) == (operation in ("and", "or", "not") or "equal" in operation or operation in ("less", "greater"))
    x = argument("x")
    for word in (Symbol("fire", x), Symbol("hold", x), Symbol("quantized", x)):
        with pytest.raises(TypeError, match="branch on its input"):
            bool(word)


def test_structure_is_traced_per_value():
    class Power(Surrogate):
        n: int = 2
        width: float = 1.0

        def derivative(self, x):
            return 1 / (1 + (x / self.width) ** 2) ** self.n

    assert Power(width=2.0).structure == Power().structure != Power(n=3).structure
    assert Power().structure.key != Power(n=3).structure.key

    one, other = surrogate_with(lambda self, x: exp(-abs(x))), surrogate_with(lambda self, x: exp(-(x**2)))
    assert one().structure.key != other().structure.key  # keyed by the formula, never by the name


def test_key_is_the_same_in_every_process():
    code = "from spikegrad.formulas import CATALOGUE as c; print({n: k().structure.key for n, k in c.items()})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert run.stdout.strip() == str({name: cls().structure.key for name, cls in CATALOGUE.items()})


def test_record_evaluates_to_the_formula(surrogate):
    """Run by NumPy, the program is the formula: nothing was lost and nothing reordered."""
    x = np.linspace(-3, 3, 61)
    arguments = {"x": x, "noise": np.float64(0.5), **surrogate.parameters}
    for of in ("derivative", "primitive")[: 1 + surrogate.has_primitive]:
        (got,) = trace.evaluate(getattr(surrogate.structure, of), OPERATIONS, arguments)
        expected = getattr(surrogate, of)(x)
        assert np.allclose(got, expected, rtol=1e-14, atol=1e-14 * np.abs(expected).max()), of


def test_numba_source_is_python(surrogate):
    """The printed source for Numba runs as Python and gives the formula; JavaScript has a balanced function for each."""
    words = {name: getattr(np, name) for name in ("exp", "log", "sqrt", "sin", "cos", "arctan", "floor")}
    words |= {"real": float, "inf": math.inf, "erf": math.erf, "step": lambda x: float(x >= 0)}
    x = np.linspace(-3, 3, 61)
    for of in ("derivative", "primitive")[: 1 + surrogate.has_primitive]:
        scope = dict(words)
        exec(surrogate.source("numba", of), scope)
        noise = [0.5] * surrogate.stochastic
        got = [scope[f"{type(surrogate).__name__}_{of}"](v, *noise, *surrogate.parameters.values()) for v in x]
        expected = getattr(surrogate, of)(x)
        assert np.allclose(got, expected, rtol=1e-14, atol=1e-14 * np.abs(expected).max()), of
        if "erf(" not in surrogate.source("numba", of):
            script = surrogate.source("javascript", of)
            assert script.startswith("function ")
            assert script.count("(") == script.count(")")
            assert script.rstrip().endswith("}")


def test_printers_refuse_what_they_lack():
    with pytest.raises(ValueError, match="unknown dialect 'cuda'; there are javascript, numba, triton"):
        ATan().source("cuda")
    with pytest.raises(ValueError, match="triton cannot write ATan_primitive: there is no word for arctan"):
        ATan().source("triton", "primitive")
    with pytest.raises(ValueError, match="has no primitive"):
        surrogate_with(lambda self, x: exp(-abs(x)))().source("numba", "primitive")
