"""A layer as text, which a compiled operator carries and a file may hold: nothing is lost, and nothing is run that was not checked."""

from __future__ import annotations

import base64
import builtins
import contextlib
import copy
import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikegrad import ATan, Neuron, State, Step, from_formula, trace
from spikegrad.formulas import CATALOGUE as SURROGATES
from spikegrad.kernels import interpret
from spikegrad.kernels.plan import Call
from spikegrad.kernels.text import read, written
from spikegrad.neurons import CATALOGUE, ConductanceLeaky, Leaky, RefractoryLeaky, Synaptic
from spikegrad.trace import OPERATIONS, Program
from spikegrad.vocabulary import exp


def calls(name: str) -> list[Call]:
    """A layer for each different record of a neuron, in every way it may be connected."""
    records = {record.key: record for record, _ in list(CATALOGUE[name]._records.values())}
    some = []
    for place, record in enumerate(records.values()):
        rounds = any(operation == "quantized" for operation, *_ in record.step.instructions)
        connection = ("none", "one-to-one", "all-to-all")[place % 3]
        some.append(Call(record, ATan().structure, record.recorded[: place % 3], rounds and place % 2 == 0, connection))
    return some


def plain(program: Program) -> tuple[Any, Any]:
    """What is compared by type as well, since to Python the index 1 and the literal 1.0 are equal."""
    return repr(program.instructions), repr(program.results)


def require_same(one: Call, other: Call) -> None:
    assert other == one
    assert (other.key, other.record.key, other.surrogate.key) == (one.key, one.record.key, one.surrogate.key)
    assert plain(other.record.step) == plain(one.record.step)
    assert plain(other.record.resting) == plain(one.record.resting)
    assert plain(other.surrogate.derivative) == plain(one.surrogate.derivative)
    assert (other.recorded, other.quantized, other.connection) == (one.recorded, one.quantized, one.connection)
    sizes = [[len(p.instructions) for p in (call.plan.step, call.plan.constants, call.plan.passes().reverse)] for call in (one, other)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_structure_is_read_as_it_was_written(name):
    for call in calls(name):
        text = written(call)
        found = read(text)
        require_same(call, found)
        assert written(found) == text
        assert json.loads(text)["spikegrad"] == 1
        require_same(call, pickle.loads(pickle.dumps(call)))


def test_every_surrogate_is_read_as_it_was_written(surrogate):
    call = Call(Leaky(0.9).record, surrogate.structure, ("u",))
    found = read(written(call))
    require_same(call, found)
    assert (found.surrogate.primitive is None) == (not surrogate.has_primitive)


def test_a_surrogate_from_functions_is_read_as_it_was_written():
    spike = from_formula(lambda x, slope, shift: slope * exp(-abs(slope * x - shift)) + 1e-320, slope=3.0, shift=-0.0)
    require_same(Call(Leaky(0.9).record, spike.structure), read(written(Call(Leaky(0.9).record, spike.structure))))


class Literals(Neuron):
    """Numbers that decimals would lose."""

    v: State = 0.0

    def step(self, current, v):
        u = v * 0.1 + current * 1e-320 - (current + -0.0) / 3.0 + exp(v) * math.inf + 1 * current
        return Step(self.fire(u - 1e308), 1.0, -0.0, v=0.0, one=1.0 / 3.0)


def test_literals_are_exact():
    call = Call(Literals().record, ATan().structure, ("one",))
    found = read(written(call))
    require_same(call, found)
    literals = [o for i in found.record.step.instructions for o in i if isinstance(o, float)]
    assert {0.1, 1e-320, 1e308, math.inf} <= {*literals}
    assert any(x == 0 and math.copysign(1, x) < 0 for x in literals)
    assert repr(found.record.step.results[1:3]) == "(1.0, -0.0)"


def underscore(self, _, v):
    return Step(self.fire(v), v=_)


BORDERLINE: dict[str, Callable[..., Step]] = {
    "an input called _": underscore,
    "a record that begins with _": lambda self, current, v: Step(self.fire(v), v=current, _u=v),
    "a record with a digit": lambda self, current, v: Step(self.fire(v), v=current, u_1=v),
    "a record in capitals": lambda self, current, v: Step(self.fire(v), v=current, U=v),
    "a long name": lambda self, current, v: Step(self.fire(v), v=current, **{"u" * 200: v}),
    "NaN": lambda self, current, v: Step(self.fire(v * math.nan), v=current),
    "infinity": lambda self, current, v: Step(self.fire(v + math.inf), v=current),
    "fire at rest": lambda self, current, v: Step(self.fire(v), v=current),
}


@pytest.mark.parametrize("what", BORDERLINE)
def test_what_a_definition_allows_is_read(what):
    """What is refused in a file is refused where it is written, too."""
    body = {"resting": lambda self: {"v": self.fire(self.rest)}} if what == "fire at rest" else {}
    body |= {"__annotations__": {"v": State, "rest": float}, "rest": 0.5, "step": BORDERLINE[what], "__module__": __name__}
    if what not in ("a record with a digit", "a record in capitals", "infinity"):
        with pytest.raises(TypeError, match="User"):
            type(Neuron)("User", (Neuron,), body)
        return
    neuron = type(Neuron)("User", (Neuron,), body)()
    call = Call(neuron.record, ATan().structure, neuron.record.recorded)
    require_same(call, read(written(call)))


def test_another_process_reads_it():
    call = calls("Synaptic")[1]
    code = "import sys; from spikegrad.kernels.text import read; call = read(sys.stdin.read()); print(call.key)"
    found = subprocess.run([sys.executable, "-c", code], input=written(call), capture_output=True, text=True, check=True).stdout
    assert found.strip() == call.key


# What is refused.

BASE = json.loads(written(Call(Synaptic(0.8, 0.9).record, ATan().structure, ("u",), True, "one-to-one")))
CODE = (
    "__import__('os').system('false')",
    "x); import os #",
    "x\nimport os",
    "lambda: 0",
    "os.system",
    "v0[0]",
    "x y",
    "",
    "1x",
    "x" * 101,
)


def edited(change: Callable[[Any], Any]) -> str:
    data = copy.deepcopy(BASE)
    change(data)
    return json.dumps(data)


def put(data: Any, *path: Any, value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@contextlib.contextmanager
def nothing_runs() -> Iterator[None]:
    """Neither source nor a command: reading a text executes nothing."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was run")

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((builtins, "exec"), (builtins, "eval"), (builtins, "compile"), (os, "system"), (subprocess, "Popen")):
            patch.setattr(owner, name, forbidden)
        yield


def refused(text: str, match: str = "") -> None:
    message = rf"^this is no layer of spikegrad: .*{match}.*; if it comes from an older file, export it again$"
    with pytest.raises(ValueError, match=message), nothing_runs():
        read(text)


STEP = ("step", "instructions", 0)
WRONG: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "an unknown operation": ((*STEP, 0), "system", "there is no operation 'system'"),
    "an operation of Python": ((*STEP, 0), "__import__", "there is no operation '__import__'"),
    "an operation of the reverse": ((*STEP, 0), "derivative", "there is no operation 'derivative'"),
    "an operation that is code": ((*STEP, 0), "add(__import__('os'), 1) #", "there is no operation"),
    "an argument as an operation": ((*STEP, 0), "argument", "there is no operation 'argument'"),
    "a fire at rest": (("resting", "instructions"), [["fire", "alpha"]], "there is no operation 'fire'"),
    "a fire in a surrogate": (("surrogate", "derivative", "instructions"), [["fire", "x"]], "there is no operation 'fire'"),
    "a held value in a surrogate": (("surrogate", "derivative", "instructions"), [["hold", "x"]], "there is no operation 'hold'"),
    "too few operands": (STEP, ["multiply", "alpha"], "multiply takes 2 operands"),
    "too many operands": (STEP, ["negative", "alpha", "i"], "negative takes 1 operands"),
    "no operation": (STEP, [], "an instruction is"),
    "an operation that is no text": (STEP, [1, "alpha"], "an instruction is"),
    "an instruction that is no list": (STEP, "multiply", "an instruction is"),
    "an undeclared argument": ((*STEP, 1), "gamma", "'gamma' is no argument"),
    "an argument that is code": ((*STEP, 1), CODE[0], "is no argument"),
    "itself": ((*STEP, 1), 0, "0 is no earlier instruction"),
    "a later instruction": ((*STEP, 1), 3, "3 is no earlier instruction"),
    "one out of range": ((*STEP, 1), 10**30, "is no earlier instruction"),
    "one before the first": ((*STEP, 1), -1, "-1 is no earlier instruction"),
    "a truth value": ((*STEP, 1), True, "True is no earlier instruction"),
    "a fraction": ((*STEP, 1), 0.5, "0.5 is no earlier instruction"),
    "null": ((*STEP, 1), None, "None is no earlier instruction"),
    "an object": ((*STEP, 1), {"x": 1}, "is no earlier instruction"),
    "a comparison as a number": (("step", "instructions"), [["less", "i", "v"], ["add", 0, "v"]], "a number and a comparison are mixed up"),
    "a number as a comparison": (
        ("step", "instructions"),
        [["add", "i", "v"], ["where", 0, "i", "v"]],
        "a number and a comparison are mixed up",
    ),
    "an argument as a comparison": (("step", "instructions"), [["where", "i", "i", "v"]], "'i' is no argument"),
    "a literal as a comparison": (("step", "instructions"), [["not", ["0x1p+0"]]], "a literal is no number"),
    "NaN": ((*STEP, 1), ["nan"], "a literal is no number"),
    "a literal that is none": ((*STEP, 1), ["one"], "hexadecimal"),
    "a literal that is code": ((*STEP, 1), [CODE[0]], "hexadecimal"),
    "a literal that is too large": ((*STEP, 1), ["0x1p+99999"], ""),
    "two literals": ((*STEP, 1), ["0x1p+0", "0x1p+0"], "a literal is no number"),
    "no literal": ((*STEP, 1), [], "a literal is no number"),
    "a literal that is a number": ((*STEP, 1), [1.0], "a literal is no number"),
    "lists in lists": ((*STEP, 1), [[[["0x1p+0"]]]], "a literal is no number"),
    "too few results": (("step", "results"), [0], "a program has not 5 results"),
    "results that are no list": (("step", "results"), "01234", "a program has not 5 results"),
    "a result that is not there": (("step", "results", 0), 999, "999 is no earlier instruction"),
    "a result that is no argument": (("step", "results", 0), "gamma", "'gamma' is no argument"),
    "a result of resting that is an input": (("resting", "results", 0), "current", "'current' is no argument"),
    "instructions that are no list": (("step", "instructions"), {"0": ["add", "i", "v"]}, "`instructions` is no list"),
    "too many instructions": (("step", "instructions"), [["negative", "i"]] * 10_001, "`instructions` is no list"),
    "another version": (("spikegrad",), 2, "version .*2.*, this is 1"),
    "no version": (("spikegrad",), None, "version .*None"),
    "no outputs": (("outputs",), 0, "`outputs` is no number of outputs"),
    "outputs that are no number": (("outputs",), "1", "`outputs` is no number of outputs"),
    "outputs that are a truth value": (("outputs",), True, "`outputs` is no number of outputs"),
    "outputs that are a fraction": (("outputs",), 1.0, "`outputs` is no number of outputs"),
    "more outputs than results": (("outputs",), 2, "a program has not 6 results"),
    "no input": (("inputs",), [], "an input is missing"),
    "inputs that are no list": (("inputs",), "current", "`inputs` is no list of names"),
    "an input twice": (("inputs",), ["current", "current"], "`inputs` has a name twice"),
    "a state called like an input": (("states", 0), "current", "a name means two things"),
    "a number called like a state": (("numbers", 0), "v", "a name means two things"),
    "a record called like a number": (("recorded", 0), "beta", "a name means two things"),
    "a record that is not named": (("record",), ["w"], "`record` has a value that the step does not name"),
    "a record twice": (("record",), ["u", "u"], "`record` has a name twice"),
    "levels that are no truth value": (("quantized",), 1, "`quantized` is neither true nor false"),
    "an unknown connection": (("connection",), "some-to-some", "there is no connection 'some-to-some'"),
    "a connection that is no text": (("connection",), ["none"], "there is no connection"),
    "a surrogate of another argument": (("surrogate", "arguments", 0), "y", "a surrogate's first argument is x"),
    "a surrogate without arguments": (("surrogate", "arguments"), [], "a surrogate's first argument is x"),
    "a surrogate that is none": (("surrogate",), "ATan", "its fields are not arguments, derivative, primitive"),
    "a derivative of nothing": (("surrogate", "derivative"), None, "its fields are not instructions, results"),
    "a derivative of two results": (("surrogate", "derivative", "results"), ["x", "x"], "a program has not 1 results"),
    "a primitive that is none": (("surrogate", "primitive"), False, "its fields are not instructions, results"),
}


@pytest.mark.parametrize("what", WRONG)
def test_tampering_is_refused(what):
    path, value, match = WRONG[what]
    refused(edited(lambda data: put(data, *path, value=value)), match)


@pytest.mark.parametrize("name", [*CODE, "if", "None", "größe", "\N{MATHEMATICAL ITALIC SMALL X}", 1, None, ["x"], True])
@pytest.mark.parametrize("key", ["inputs", "states", "numbers", "recorded", "record", "surrogate"])
def test_a_name_that_is_none_is_refused(key, name):
    place = ("surrogate", "arguments", 1) if key == "surrogate" else (key, 0)
    refused(edited(lambda data: put(data, *place, value=name)), "is no name")


@pytest.mark.parametrize("other", ["recurrent", "weight", "weights", "excess", "bar_v"])
def test_a_name_that_a_layer_gives_is_refused(other):
    """As it is at the definition of a neuron: it would mean two things."""
    for name in ("current", "i", "alpha"):
        refused(json.dumps(BASE).replace(f'"{name}"', f'"{other}"'))


def objects(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all objects."""
    if isinstance(data, dict):
        yield path
        for key, value in data.items():
            yield from objects(value, (*path, key))


@pytest.mark.parametrize("path", list(objects(BASE)), ids=lambda path: ".".join(path) or "all")
def test_a_missing_field_and_an_extra_one_are_refused(path):
    def within(data: Any) -> Any:
        for key in path:
            data = data[key]
        return data

    for key in within(BASE):
        refused(edited(lambda data, key=key: within(data).pop(key)), "its fields are not")
    refused(edited(lambda data: within(data).update(more=1)), "its fields are not")


@pytest.mark.parametrize(
    "text",
    ["", "layer", "{", "null", "[]", "1", '"text"', "[" * 100_000, '{"a":' * 100_000, "\x00", "{}", json.dumps(BASE)[:-1], "9" * 5000],
    ids=lambda text: text[:8] + str(len(text)),
)
def test_what_is_no_text_of_a_layer_is_refused(text):
    refused(text)


def test_what_json_calls_numbers_are_none():
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        refused(json.dumps(BASE).replace('["multiply", "alpha", "i"]', f'["multiply", {number}, "i"]', 1), "is no earlier instruction")


def test_a_message_is_short():
    """However long the text: it is shown to a user."""
    for path in (("inputs", 0), (*STEP, 0), (*STEP, 1), ("connection",), ("spikegrad",)):
        with pytest.raises(ValueError, match="this is no layer") as caught:
            read(edited(lambda data, path=path: put(data, *path, value="x" * 50_000)))
        assert len(str(caught.value)) < 500, path


RUNS = "__import__('spikegrad').__dict__.update(ran=True)"
HOSTILE = (RUNS, f"x={RUNS}", f"v]\\n{RUNS}#", "if", "", "\N{MATHEMATICAL ITALIC SMALL X}", 10**30, -1, None, {"x": 1}, [RUNS])


def test_each_word_replaced_is_refused_and_runs_nothing():
    """Every word, key and number of a record, by code and by what is no word; through the operator, as a file would give it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("spikegrad.kernels.operator")
    import spikegrad

    inputs, count = [torch.ones(3, 2)], 0
    numbers, slope = torch.ones(5, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for *path, key in places(BASE):
        owner = BASE
        for each in path:
            owner = owner[each]
        if isinstance(owner[key], (dict, list)) and not isinstance(owner, dict):
            continue  # whose words are replaced one by one
        damaged = [edited(lambda data, value=value, path=(*path, key): put(data, *path, value=value)) for value in HOSTILE]
        if isinstance(owner, dict):
            damaged.append(json.dumps(BASE).replace(f'"{key}":', f"{json.dumps(RUNS)}:"))
        for text in damaged:
            if text == json.dumps(BASE) or (text.count("null") > json.dumps(BASE).count("null") and key == "primitive"):
                continue
            with pytest.raises(ValueError, match=r"this is no layer of spikegrad: .*; if it comes from an older file, export it again"):
                torch.ops.spikegrad.layer(inputs, [], numbers, slope, text, "")
            count += 1
    assert count >= 500
    assert not hasattr(spikegrad, "ran")
    for names in (RUNS, "beta beta", "first.v", "spike.slope", "weights", "x", "quantize.low"):
        with pytest.raises(ValueError, match=r"this is no call of a layer of spikegrad: .*; if it comes from a file, export it again"):
            torch.ops.spikegrad.layer(inputs, [], numbers, slope, json.dumps(BASE), names)
    with nothing_runs(), pytest.raises(ValueError, match="export it again"):  # what older versions wrote
        read(base64.b64encode(pickle.dumps(ATan())).decode())


# Edits that nobody thought of.


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


TEXTS = [
    Call(ConductanceLeaky().record, ATan().structure, ("excess",)),
    Call(RefractoryLeaky(0.9).record, SURROGATES["Sigmoid"]().structure),
]
DATA = [BASE, *(json.loads(written(call)) for call in TEXTS)]
NAMES = sorted({name for data in DATA for key in ("inputs", "states", "numbers", "recorded") for name in data[key]})
TAKEN = (
    "recurrent",
    "weight",
    "weights",
    "fed",
    "excess",
    "bar_0",
    "bar_v",
    "quantize.low",
    "spike.slope",
    "noise",
    "x",
    "kept",
    "constant",
)
VALUES = st.one_of(
    st.sampled_from([*OPERATIONS, *NAMES, *CODE, *TAKEN, "none", "all-to-all"]),
    st.integers(-2, 30),
    st.sampled_from([None, True, False, 0.5, math.nan, [], {}, ["0x1p+0"], ["inf"], ["-0x0p+0"], ["0x1p+2000"], [["add", 0, 1]]]),
    st.lists(st.sampled_from([*OPERATIONS, *NAMES, 0, 1, 2]), max_size=4),
)


def near(value: Any) -> st.SearchStrategy[Any]:
    """Something of the same kind."""
    if isinstance(value, str):
        alike = [operation for operation, kinds in OPERATIONS.items() if kinds == OPERATIONS.get(value)]
        return st.sampled_from(alike or NAMES)
    if isinstance(value, int) and value > 0:
        return st.integers(0, value)
    return st.sampled_from([["0x1p+0"], ["0x0p+0"], ["-0x1p-3"], ["inf"], ["0x1p+1023"], 0])


@st.composite
def tampered(draw: st.DrawFn) -> str:
    """The text of a layer with a few values replaced, removed, repeated or exchanged."""
    data = copy.deepcopy(draw(st.sampled_from(DATA)))
    for _ in range(draw(st.integers(1, 2))):
        *path, key = draw(st.sampled_from(list(places(data))))
        owner = data
        for each in path:
            owner = owner[each]
        how = draw(st.sampled_from(("near", "near", "near", "replace", "remove", "repeat", "exchange")))
        if how == "near":
            owner[key] = draw(near(owner[key]))
        elif how == "replace":
            owner[key] = draw(VALUES)
        elif how == "remove":
            del owner[key]
        elif how == "repeat" and isinstance(owner, list):
            owner.insert(draw(st.integers(0, len(owner))), owner[key])
        else:
            other = draw(st.sampled_from(list(owner) if isinstance(owner, dict) else list(range(len(owner)))))
            owner[key], owner[other] = owner[other], owner[key]
    text = json.dumps(data)
    if draw(st.integers(0, 3)) == 0:
        text = text.replace(f'"{draw(st.sampled_from(NAMES))}"', json.dumps(draw(st.sampled_from([*NAMES, *TAKEN, *CODE]))))
    return text


@settings(max_examples=400, deadline=None, derandomize=True, report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow])
@given(tampered())
def test_tampered_text_is_refused_or_a_layer_that_runs(text):
    call = None
    with contextlib.suppress(ValueError):
        call = read(text)
    if call is None:
        refused(text)
        return
    assert read(written(call)).key == call.key
    plan, step = call.plan, np.linspace(-1, 1, 4)
    random = np.random.default_rng(0)
    numbers = {name: random.uniform(0.5, 1.5, 4) for name in plan.numbers}
    spike = {name: random.uniform(0.5, 1.5, 4) for name in call.surrogate.arguments[1:]}
    words = {
        **interpret.words(ATan()),
        "derivative": lambda x: trace.evaluate(call.surrogate.derivative, interpret.OPERATIONS, spike | {"x": x})[0] + 0 * x,
    }
    with np.errstate(all="ignore"):
        parameters = {name: np.asarray(value, float) for name, value in plan.computed(numbers, step).items()}
        rest = plan.rested(numbers | dict.fromkeys(plan.states, step * 0), step)
        inputs = [random.normal(size=(3, 4)) for _ in plan.inputs]
        sizes = [(3, 4)] * plan.outputs + [(4,)] * len(plan.states) + [(3, 4)] * len(call.recorded)
        arriving = [random.normal(size=size) for size in sizes]
        found = interpret.run(call, words, inputs, [step * 0 + x for x in rest.values()], parameters, arriving, frozenset(plan.parameters))
    assert [x.shape for x in (*found.outputs, *found.state, *found.recorded)] == sizes


def test_fields_of_a_call_are_all_written():
    """What a call is made of and what tells two of them apart."""
    call = Call(Leaky(0.9).record, ATan().structure)
    fields = {field.name for field in dataclasses.fields(call) if field.init}
    assert fields == {"record", "surrogate", "recorded", "quantized", "connection"}
    others = (
        dataclasses.replace(call, record=Leaky(0.9, reset="zero").record),
        dataclasses.replace(call, surrogate=SURROGATES["Sigmoid"]().structure),
        dataclasses.replace(call, recorded=("u",)),
        dataclasses.replace(call, quantized=True),
        dataclasses.replace(call, connection="one-to-one"),
    )
    assert len({written(each) for each in (call, *others)}) == len({each.key for each in (call, *others)}) == 1 + len(others)
