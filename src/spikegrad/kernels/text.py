"""A call as text, which an operator of PyTorch can take and a file can hold, and back.

The text is JSON. What is read may come from a file, and the printers put its names and operations into source, so that reading checks every
word of it: operations are those of `spikegrad.trace`, names are plain identifiers, operands are earlier instructions or declared arguments.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Sequence
from typing import Any, get_args

from spikegrad.kernels.plan import Call, Connection
from spikegrad.trace import BOOLEANS, OPERATIONS, STEP_ONLY, Operand, Program, Record, StepRecord, is_added, is_name

_VERSION = 1
_MOST = 10_000
"""Instructions of a program, and names of a kind, at most."""


@functools.lru_cache(maxsize=512)
def written(call: Call) -> str:
    """The call as text."""
    record, surrogate = call.record, call.surrogate
    return json.dumps(
        {
            "spikegrad": _VERSION,
            "inputs": record.inputs,
            "states": record.states,
            "numbers": record.numbers,
            "outputs": record.outputs,
            "recorded": record.recorded,
            "step": _program(record.step),
            "resting": _program(record.resting),
            "surrogate": {
                "arguments": surrogate.arguments,
                "derivative": _program(surrogate.derivative),
                "primitive": None if surrogate.primitive is None else _program(surrogate.primitive),
            },
            "record": call.recorded,
            "quantized": call.quantized,
            "connection": call.connection,
        }
    )


def _program(program: Program) -> dict[str, Any]:
    def operand(o: Operand) -> Any:
        return [o.hex()] if isinstance(o, float) else o  # exact, and not to be taken for an index

    instructions = [[operation, *map(operand, operands)] for operation, *operands in program.instructions]
    return {"instructions": instructions, "results": [operand(o) for o in program.results]}


@functools.lru_cache(maxsize=512)
def read(text: str) -> Call:
    """The call that this is the text of.

    Raises:
        ValueError: the text is not that of a call, or was written by another version of spikegrad; the message says what is wrong.
    """
    try:
        return _call(json.loads(text))
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"this is no layer of spikegrad: {error}; if it comes from an older file, export it again") from None


def _call(data: Any) -> Call:
    keys = ("spikegrad", "inputs", "states", "numbers", "outputs", "recorded", "step", "resting", "surrogate", "record", "quantized")
    found = _fields(data, (*keys, "connection"))
    _require(found["spikegrad"] == _VERSION, f"it has version {str(found['spikegrad'])[:40]}, this is {_VERSION}")
    inputs, states, numbers, recorded = (_names(found[key], key) for key in ("inputs", "states", "numbers", "recorded"))
    outputs = found["outputs"]
    _require(type(outputs) is int and 0 < outputs < _MOST, "`outputs` is no number of outputs")
    _require(len({*inputs, *states, *numbers}) == len(inputs) + len(states) + len(numbers), "a name means two things")
    _require(bool(inputs) and not {*inputs, *states, *numbers} & {*recorded}, "an input is missing, or a name means two things")
    steps = _read(found["step"], (*inputs, *states, *numbers), outputs + len(states) + len(recorded), OPERATIONS)
    plain = [operation for operation in OPERATIONS if operation not in STEP_ONLY]
    resting = _read(found["resting"], (*states, *numbers), len(states), plain)
    formula = _fields(found["surrogate"], ("arguments", "derivative", "primitive"))
    arguments = _names(formula["arguments"], "arguments")
    _require(arguments[:1] == ("x",), "a surrogate's first argument is x")
    derivative = _read(formula["derivative"], arguments, 1, plain)
    primitive = None if formula["primitive"] is None else _read(formula["primitive"], arguments, 1, plain)
    wanted = _names(found["record"], "record")
    _require({*wanted} <= {*recorded}, "`record` has a value that the step does not name")
    _require(type(found["quantized"]) is bool, "`quantized` is neither true nor false")
    _require(found["connection"] in get_args(Connection), f"there is no connection {str(found['connection'])[:40]!r}")
    record = StepRecord(inputs, states, numbers, outputs, recorded, steps, resting)
    return Call(record, Record(arguments, derivative, primitive), wanted, found["quantized"], found["connection"])


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(words)


def _fields(data: Any, keys: Sequence[str]) -> dict[str, Any]:
    _require(isinstance(data, dict) and data.keys() == {*keys}, f"its fields are not {', '.join(keys)}")
    return data


def _names(data: Any, key: str) -> tuple[str, ...]:
    _require(isinstance(data, list) and len(data) <= _MOST, f"`{key}` is no list of names")
    for name in data:
        free = key == "arguments" or (key in ("recorded", "record") and name == "excess")
        _require(is_name(name) and (free or not is_added(name)), f"{str(name)[:40]!r} is no name")
    _require(len({*data}) == len(data), f"`{key}` has a name twice")
    return tuple(data)


def _read(data: Any, arguments: Collection[str], count: int, operations: Collection[str]) -> Program:
    found = _fields(data, ("instructions", "results"))
    _require(isinstance(found["instructions"], list) and len(found["instructions"]) <= _MOST, "`instructions` is no list of instructions")
    _require(isinstance(found["results"], list) and len(found["results"]) == count, f"a program has not {count} results")
    booleans: list[bool] = []

    def operand(o: Any, wanted: str) -> Operand:
        if isinstance(o, list):
            _require(len(o) == 1 and isinstance(o[0], str), "a literal is no number")
            value = float.fromhex(o[0])
            _require(wanted == "n" and not math.isnan(value), "a literal is no number")
            return value
        if isinstance(o, str):
            _require(wanted == "n" and o in arguments, f"{o[:40]!r} is no argument")
            return o
        _require(type(o) is int and 0 <= o < len(booleans), f"{str(o)[:40]} is no earlier instruction")
        _require(booleans[o] == (wanted == "b"), "a number and a comparison are mixed up")
        return o

    instructions: list[tuple[Operand, ...]] = []
    for each in found["instructions"]:
        _require(isinstance(each, list) and bool(each) and isinstance(each[0], str), "an instruction is an operation and its operands")
        operation, *operands = each
        _require(operation in operations, f"there is no operation {operation[:40]!r}")
        wanted = OPERATIONS[operation]
        _require(len(operands) == len(wanted), f"{operation} takes {len(wanted)} operands")
        instructions.append((operation, *map(operand, operands, wanted)))
        booleans.append(operation in BOOLEANS)
    return Program(tuple(instructions), tuple(operand(o, "n") for o in found["results"]))
