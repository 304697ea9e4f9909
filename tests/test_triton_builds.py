"""Triton's kernels compiled ahead of time, for GPUs that are not there: what they move, and what they must not have in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.forked import finish

from spikegrad import neurons
from spikegrad.formulas import CATALOGUE as SURROGATES

pytest.importorskip("triton")


def built(cases: list[str], folder: Path) -> list[dict[str, Any]]:
    """Facts of both passes of each case, from a process in which Triton compiles."""
    program = f"from tests.ahead_of_time import main\nmain({cases!r})"
    printed = finish(program, environment={"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}, limit=1800)
    return [json.loads(line) for line in printed.splitlines()]


def require_sound(found: list[dict[str, Any]], count: int) -> None:
    """Every byte that must move is moved once, 16 at a time, and nothing is computed in float64, called, spilt or fused."""
    assert len(found) == 2 * count
    for each in found:
        assert (each["doubles"], each["calls"], each["local"]) == (0, 0, 0), each
        assert each["shared"] <= {"sm_90": 227, "gfx942": 64}[each["target"]] * 1024, each
        if each["target"] == "sm_90":
            # A product's operands are read by many programs, and added up as its units do.
            assert each["connected"] or (each["loaded"], each["stored"]) == (each["loads"], each["stores"]), each
            assert each["connected"] or (each["narrow loaded"], each["narrow stored"], each["fused"]) == (0, 0, 0), each
            assert not each["of"].endswith(" 0") or each["registers"] <= 128, each
        else:
            assert each["spills"] == 0, each


def test_every_neuron(tmp_path):
    require_sound(built([*neurons.CATALOGUE], tmp_path), len(neurons.CATALOGUE))


def test_some_surrogates_types_and_another_maker(tmp_path):
    cases = ["Leaky Fourier", "Leaky Exponential", "Leaky ATan float16", "Leaky ATan bfloat16", "Leaky ATan float32 8"]
    cases += ["Leaky ATan float32 connected", "Adaptive ATan float16 connected", "Leaky ATan float32 connected gfx942"]
    cases += ["Leaky ATan float32 2 gfx942", "AdEx ATan float32 2 gfx942", "Leaky Fourier float32 2 gfx942"]
    require_sound(built(cases, tmp_path), len(cases))


@pytest.mark.slow
def test_everything(tmp_path):
    """Every surrogate, and every neuron for another maker and as it is launched for many neurons, with 16 resident warps."""
    deterministic = [name for name, cls in SURROGATES.items() if not cls().stochastic]
    cases = [f"Leaky {name} float32 2 {target}" for name in deterministic for target in ("sm_90", "gfx942")]
    cases += [f"{name} ATan float32 0" for name in neurons.CATALOGUE]
    cases += [f"{name} ATan float32 2 gfx942" for name in neurons.CATALOGUE]
    require_sound(built(cases, tmp_path), len(cases))
