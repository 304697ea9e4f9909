"""Compile kernels for GPUs that are not there, and say what can be read off the result, one JSON object a line.

``python -m tests.ahead_of_time "NEURON SURROGATE DTYPE STEPS TARGET" ...``, run where Triton compiles: without ``TRITON_INTERPRET``. What
is left out is ``ATan float32 2 sm_90``. In place of steps, ``connected`` is the step of neurons that receive the outputs of all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from tests.conftest import example
from triton.backends.compiler import GPUTarget

from spikegrad import trace
from spikegrad.formulas import CATALOGUE as SURROGATES
from spikegrad.kernels.gpu import compiler, recurrent
from spikegrad.kernels.gpu import layer as gpu
from spikegrad.kernels.gpu.choice import TILE, Choice, choice, work
from spikegrad.kernels.gpu.source import Variant, recomputing
from spikegrad.kernels.plan import Call
from spikegrad.kernels.torch import layer_of
from spikegrad.kernels.values import real, values_of
from spikegrad.trace import Program, argument

TARGETS = {"sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64)}
SHAPE = torch.Size((20, 1024))
MANY = 2**20
"""Columns for which a launch is chosen."""
SHARED = {"sm_90": 227 * 1024, "gfx942": 64 * 1024}
"""Bytes of shared memory that a program may have."""

_WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}


def variants(neuron: Any, dtype: torch.dtype, steps: int) -> tuple[list[Variant], Choice]:
    """Those of both passes of a layer with plain numbers and contiguous inputs, more steps than a round has; and how they are launched.

    With 0 `steps` it is launched as many neurons are.
    """
    call, found = Call(neuron.record, neuron.spike.structure), list[Variant]()
    chosen = Choice(steps, 512, 4) if steps else choice(work(call.plan.passes()), SHAPE[0], MANY, dtype.itemsize)
    resting = {name: getattr(neuron, name) for name in neuron.states}
    numbers, _ = values_of(call, (), neuron.parameters | resting, neuron.spike.parameters, torch.float32)

    def noted(variant: Variant) -> tuple[Any, tuple[()]]:
        found.append(variant)
        return mock.MagicMock(), ()

    with mock.patch.object(gpu, "kernel", noted), mock.patch.object(gpu, "choice", return_value=chosen):
        layer = layer_of(call, numbers, SHAPE, dtype, torch.device("cpu"))
        inputs = [torch.zeros(SHAPE, dtype=dtype) for _ in layer.inputs]
        made, saved = layer.saving(inputs, (), frozenset())
        arriving = (*made[: call.plan.outputs], *[None] * len(call.plan.states))
        layer.backward(saved, (), arriving, ())
    layer_of.cache_clear()
    return found, chosen


def connected(neuron: Any, dtype: torch.dtype) -> list[Variant]:
    """Those of both passes of a layer with all-to-all connections."""
    call, found = Call(neuron.record, neuron.spike.structure, connection="all-to-all"), list[Variant]()
    weights = torch.zeros(64, 64, dtype=real(dtype))
    given = neuron.parameters | {name: getattr(neuron, name) for name in neuron.states} | {"weights": weights}
    numbers, tensors = values_of(call, (), given, neuron.spike.parameters, weights.dtype)

    def noted(variant: Variant) -> tuple[Any, tuple[()]]:
        found.append(variant)
        return mock.MagicMock(), ()

    with mock.patch.object(recurrent, "kernel", noted):
        layer, outputs = layer_of(call, numbers, torch.Size((3, 4, 64)), dtype, torch.device("cpu")), call.plan.outputs
        made, saved = layer.saving([torch.zeros(layer.shape, dtype=dtype) for _ in layer.inputs], tensors, frozenset())
        layer.backward(saved, tensors, (*made[:outputs], *[None] * (len(made) - outputs)), (True,))
    layer_of.cache_clear()
    return found


def moved(variant: Variant) -> tuple[int, int]:
    """Bytes that a round loads and stores for each column, by the plan."""
    item = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[variant.dtype]
    plan, states = variant.call.plan, 4 * len(recomputing(variant.call, variant.call.plan.passes())[0])
    how = dict(variant.given)
    loads = [n for n in how if n in plan.inputs or (n.removeprefix("bar.").isdigit() and n.startswith("bar."))]
    stores = [n for n in how if n.isdigit() or (n.startswith("grad.") and n.removeprefix("grad.") in plan.inputs)]
    counted = [variant.steps * item * sum(how[n] == "rows" for n in names) for names in (loads, stores)]
    if variant.backward:  # of a round's last step what is kept is computed anew, and not the states after it
        passes = plan.passes()
        last = Program(passes.recompute.instructions, passes.recompute.results[: len(passes.kept)])
        read = trace.flatten(trace.symbols(last, {n: argument(n) for n in last.arguments()})[0]).arguments() | {*passes.reread}
        counted[0] -= item * sum(how[n] == "rows" and n in plan.inputs and n not in read for n in loads)
    ends = sum(4 for n in how if how[n] == "columns" and n.startswith(("last.", "grad.")))
    kept = states if how.get("checkpoints", "none") != "none" else 0
    return (counted[0] + kept, counted[1] + ends) if variant.backward else (counted[0], counted[1] + kept + ends)


def _accesses(text: str, word: str) -> list[tuple[int, int]]:
    """How many elements, and of how many bytes, each access of global memory in PTX has."""
    pattern = rf"\b{word}\.global(?:\.[a-zA-Z_0-9:]+)*?(?:\.v(\d))?\.[busf](8|16|32|64)\b"
    return [(int(m[1] or 1), _WIDTHS[m[2]]) for m in re.finditer(pattern, text)]


def facts(variant: Variant, chosen: Choice, target: str) -> dict[str, Any]:
    """What the compiled kernel is like."""
    if variant.connected:
        precision = "ieee" if target == "gfx942" or variant.real == "float64" else "tf32x3"
        constants = {"BLOCK": TILE.rows * TILE.width, "ROWS": TILE.rows, "DEPTH": TILE.depth, "PRECISION": precision, "UNIT": gpu.UNIT}
        made = compiler.built(variant, TARGETS[target], warps=TILE.warps, **constants)
    else:
        made = compiler.built(variant, TARGETS[target], warps=chosen.warps, BLOCK=chosen.block, UNIT=gpu.UNIT)
    loads, stores = (0, 0) if variant.connected else moved(variant)
    found = {"shared": made.metadata.shared, "loads": loads, "stores": stores, "backward": variant.backward, "target": target}
    found["connected"] = variant.connected
    if target == "gfx942":
        text = made.asm["amdgcn"]
        numbers = {"spills": r"\.vgpr_spill_count:\s+(\d+)", "local": r"\.private_segment_fixed_size:\s+(\d+)"}
        found |= {name: int(re.search(pattern, text)[1]) for name, pattern in numbers.items()}  # pyright: ignore[reportOptionalSubscript]
        return found | {"doubles": len(re.findall(r"_f64\b", text)), "calls": text.count("s_swappc")}
    text, columns = made.asm["ptx"], chosen.block // (32 * chosen.warps)
    whole = columns * (2 if "16" in variant.dtype else 4)
    for name, word in (("loaded", "ld"), ("stored", "st")):
        accesses = _accesses(text, word)
        found[name] = sum(count * width for count, width in accesses) / columns
        found[f"narrow {name}"] = sum(count * width < min(16, whole) for count, width in accesses)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        used = subprocess.run([tools / "cuobjdump", "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    found |= {"registers": int(re.findall(r"REG:(\d+)", used)[-1]), "local": sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", used)))}
    return found | {"doubles": text.count(".f64"), "calls": len(re.findall(r"\bcall\b", text)), "fused": text.count("fma.rn.f32")}


def main(arguments: list[str]) -> None:
    """Facts of both passes of each neuron named."""
    for each in arguments:
        name, surrogate, dtype, steps, target = (*each.split(), *("ATan", "float32", "2", "sm_90")[len(each.split()) - 1 :])
        neuron = example(name, spike=SURROGATES[surrogate]())
        together = steps == "connected"
        found, chosen = variants(neuron, getattr(torch, dtype), 1 if together else int(steps))
        found = connected(neuron, getattr(torch, dtype)) if together else found
        for variant in found:
            print(json.dumps({"of": each} | facts(variant, chosen, target)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
