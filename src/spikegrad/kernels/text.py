"""A call as text, which an operator of PyTorch can take and a file can hold, and back.

The text is JSON. What is read may come from a file, and the printers put its names and operations into source, so that reading checks every
word of it: operations are those of `spikegrad.trace`, names are plain identifiers, operands are earlier instructions or declared arguments.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Sequence
from typing import TypeAlias, get_args

from spikegrad.kernels.plan import Call, Connection
from spikegrad.trace import BOOLEANS, OPERATIONS, STEP_ONLY, Operand, Program, Record, StepRecord, is_added, is_name

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

CONNECTIONS: tuple[Connection, ...] = get_args(Connection)

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


def _program(program: Program) -> Json:
    def operand(o: Operand) -> Json:
        return [o.hex()] if isinstance(o, float) else o  # exact, and not to be taken for an index

    instructions: list[Json] = [[operation, *map(operand, operands)] for operation, *operands in program.instructions]
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


def _call(data: Json) -> Call:
    keys = ("spikegrad", "inputs", "states", "numbers", "outputs", "recorded", "step", "resting", "surrogate", "record", "quantized")
    found = _fields(data, (*keys, "connection"))
    _require(found["spikegrad"] == _VERSION, f"it has version {str(found['spikegrad'])[:40]}, this is {_VERSION}")
    inputs, states, numbers, recorded = (_names(found[key], key) for key in ("inputs", "states", "numbers", "recorded"))
    outputs, quantized, connection = found["outputs"], found["quantized"], found["connection"]
    if type(outputs) is not int or not 0 < outputs < _MOST:
        raise ValueError("`outputs` is no number of outputs")
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
    if type(quantized) is not bool:
        raise ValueError("`quantized` is neither true nor false")
    known: list[Connection] = [each for each in CONNECTIONS if each == connection]
    _require(bool(known), f"there is no connection {str(connection)[:40]!r}")
    record = StepRecord(inputs, states, numbers, outputs, recorded, steps, resting)
    return Call(record, Record(arguments, derivative, primitive), wanted, quantized, known[0])


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(words)


def _fields(data: Json, keys: Sequence[str]) -> dict[str, Json]:
    if not isinstance(data, dict) or data.keys() != {*keys}:
        raise ValueError(f"its fields are not {', '.join(keys)}")
    return data


def _list(data: Json, words: str) -> list[Json]:
    if not isinstance(data, list) or len(data) > _MOST:
        raise ValueError(words)
    return data


def _names(data: Json, key: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in _list(data, f"`{key}` is no list of names"):
        free = key == "arguments" or (key in ("recorded", "record") and name == "excess")
        if not isinstance(name, str) or not is_name(name) or not (free or not is_added(name)):
            raise ValueError(f"{str(name)[:40]!r} is no name")
        names.append(name)
    _require(len({*names}) == len(names), f"`{key}` has a name twice")
    return tuple(names)


def _read(data: Json, arguments: Collection[str], count: int, operations: Collection[str]) -> Program:
    found = _fields(data, ("instructions", "results"))
    code = _list(found["instructions"], "`instructions` is no list of instructions")
    results = _list(found["results"], f"a program has not {count} results")
    _require(len(results) == count, f"a program has not {count} results")
    booleans: list[bool] = []

    def operand(o: Json, wanted: str) -> Operand:
        if isinstance(o, list):
            if len(o) != 1 or not isinstance(o[0], str):
                raise ValueError("a literal is no number")
            value = float.fromhex(o[0])
            _require(wanted == "n" and not math.isnan(value), "a literal is no number")
            return value
        if isinstance(o, str):
            _require(wanted == "n" and o in arguments, f"{o[:40]!r} is no argument")
            return o
        if type(o) is not int or not 0 <= o < len(booleans):
            raise ValueError(f"{str(o)[:40]} is no earlier instruction")
        _require(booleans[o] == (wanted == "b"), "a number and a comparison are mixed up")
        return o

    instructions: list[tuple[Operand, ...]] = []
    for each in code:
        if not isinstance(each, list) or not each or not isinstance(each[0], str):
            raise ValueError("an instruction is an operation and its operands")
        operation, operands = each[0], each[1:]
        _require(operation in operations, f"there is no operation {operation[:40]!r}")
        wanted = OPERATIONS[operation]
        _require(len(operands) == len(wanted), f"{operation} takes {len(wanted)} operands")
        instructions.append((operation, *map(operand, operands, wanted)))
        booleans.append(operation in BOOLEANS)
    return Program(tuple(instructions), tuple(operand(o, "n") for o in results))
