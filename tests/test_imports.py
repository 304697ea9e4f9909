"""What importing loads, and which way the modules depend on each other."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import spikegrad

SOURCE = Path(spikegrad.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# From the bottom to the top: a module may import from its own layer and from those below it.
LAYERS = (
    {"trace", "evaluation", "errors", "ranges", "remembering", "required"},
    {"vocabulary", "printing", "derive"},
    {"cut"},
    {"quiet"},
    {"facts", "gradient", "citation", "state"},
    {"surrogate"},
    {"formulas", "recorded", "functional"},
    {"definition"},
    {"neuron"},
    {"neurons"},
    {"encode"},
    {"kernels"},
    {"nn", "jax", "simulation"},
    {"agreement"},
    {"checking", "data", "training", "insight", "explore", "doctor", "plots", "exchange"},
    {"comparison"},
    {"tuning"},
    {"compat", "cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY: dict[str, set[str]] = {
    "trace": {"evaluation"},
    "evaluation": set(),
    "remembering": set(),
    "errors": set(),
    "required": set(),
    "ranges": set(),
    "vocabulary": {"trace", "evaluation"},
    "printing": {"trace"},
    "derive": {"trace"},
    "cut": {"trace", "derive"},
    "quiet": {"trace", "derive", "cut"},
    "facts": set(),
    "gradient": {"vocabulary", "evaluation", "gradient"},
    "surrogate": {"remembering", "vocabulary", "trace", "printing", "ranges", "gradient", "facts", "citation", "required"},
    "formulas": {"vocabulary", "ranges", "surrogate", "formulas"},
    "definition": {"remembering", "vocabulary", "trace", "ranges", "errors", "derive", "required"},
    "neuron": {
        "vocabulary",
        "trace",
        "ranges",
        "errors",
        "derive",
        "cut",
        "printing",
        "surrogate",
        "formulas",
        "definition",
        "citation",
        "required",
    },
    "neurons": {"vocabulary", "ranges", "neuron", "neurons"},
    "kernels": {
        "errors",
        "remembering",
        "vocabulary",
        "trace",
        "derive",
        "cut",
        "quiet",
        "printing",
        "gradient",
        "surrogate",
        "recorded",
        "kernels",
    },  # they know no neuron by name
}
"""Modules that may import no more than these."""


def imports(path: Path) -> set[str]:
    """Modules of spikegrad that a file imports when it runs, by the name of their first part; not those for the type checker."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    hints = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for hint in hints for inner in ast.walk(hint)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("spikegrad.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [f for f in FILES if part(f) != "__init__"], ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_points_up(path):
    name = part(path)
    assert name in LEVEL, f"say in this test on which layer {name} is"
    known = {other for other in imports(path) if other in LEVEL}  # the rest are names of the package itself
    assert known <= ONLY.get(name, known), f"{name} may import only {ONLY.get(name)}"
    above = {other for other in known if LEVEL[other] > LEVEL[name]}
    assert not above, f"{name} imports {above}, which are above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_short_and_well_named(path):
    named_by_others = path.relative_to(SOURCE).as_posix() == "compat/snntorch/utils.py"  # as snnTorch calls it
    assert path.stem not in {"utils", "helpers", "common", "base"} or named_by_others
    assert len(path.read_text().splitlines()) <= 400


def test_import_loads_nothing_heavy():
    code = "import spikegrad, sys; print(*sorted({'torch', 'jax', 'numba', 'triton', 'matplotlib', 'scipy', 'lightning'} & {*sys.modules}))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_layers_do_not_load_the_compiler():
    """It takes PyTorch a second; what a compiler is told about a function is what PyTorch's own decorator would tell it."""
    torch = pytest.importorskip("torch")
    code = "import sys, torch; from spikegrad import nn; nn.Leaky(0.9)(torch.ones(2, 3)); print('torch._dynamo' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

    def marked(decorator):
        def function() -> None: ...

        return vars(decorator(function))

    from spikegrad.gradient.torch import constant

    assert marked(constant) == marked(torch.compiler.assume_constant_result)


def test_import_is_fast():
    """Under 0.2 s on top of NumPy. Measured in processor time, in alternation, since other tests run beside this one."""
    code = "import time, {}; print(time.process_time())"

    def seconds(module: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True).stdout)

    extra = [seconds("spikegrad") - seconds("numpy") for _ in range(7)]
    assert statistics.median(extra) < 0.2, extra
