"""What is found is remembered, but not for ever: definitions in a loop, as in a notebook or a search, leave nothing behind."""

from __future__ import annotations

import ast
import gc
import pickle
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spikegrad
from spikegrad import Decay, Neuron, State, Step, Surrogate, from_formula
from spikegrad.recorded import from_record
from spikegrad.remembering import KEPT, remember

BOUNDED = {
    "functional._function": "of the catalogue",
    "kernels.cache.directory": "of two compilers",
    "kernels.cpu.products.known": "of dtypes",
    "kernels.cpu.patches._kernel": "of two passes and two widths",
    "kernels.cpu.rows.known": "of two widths",
    "kernels.cpu.lists._kernel": "of a few names, in two widths",
    "kernels.gpu.language.functions": "of dtypes",
    "kernels.gpu.language.dialect": "of dtypes",
    "nn.sequential._of_class": "of classes of modules",
    "compat.snntorch.utils.__path__": "of nothing",
    "kernels.cache._modules": "machine code, which stays where it is as long as it may be called; each has cost its compilation",
    "kernels.cpu.memory._free": "bytes are bounded",
    "kernels.cpu.results._kept": "bytes are bounded",
    "training.named._files": "see below",
    "training.named._beside": "of one file",
}
"""Tables of modules that may have no bound of their own, and what bounds them."""


def tables() -> dict[str, str]:
    """Tables that modules keep and functions with arguments that remember results, without a bound in their line; and the text of each."""
    found: dict[str, str] = {}
    source = Path(spikegrad.__file__).parent
    for path in source.rglob("*.py"):
        module, text = ".".join(path.relative_to(source).with_suffix("").parts), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.args.args and "functools.cache" in map(ast.unparse, node.decorator_list):
                found[f"{module}.{node.name}"] = text
        for node in tree.body:
            if (
                isinstance(node, ast.AnnAssign)
                and node.value is not None
                and ast.unparse(node.value) in ("{}", "[]", "set()", "OrderedDict()")
            ):
                found[f"{module}.{ast.unparse(node.target)}"] = text
    return found


def test_every_table_has_a_bound():
    found = tables()
    assert found.keys() >= BOUNDED.keys() | {"kernels.loop._carried_of", "kernels.arguments._state_types"}
    for name, text in found.items():
        table = name.rpartition(".")[2]
        assert name in BOUNDED or (f"remember({table}, " in text and not re.search(rf"\b{table}\[[^]]*\] = ", text)), (
            f"{name} grows without a bound"
        )


def test_a_table_is_begun_anew():
    table: dict[int, int] = {}
    for k in range(1000 + KEPT):
        remember(table, k, -k)
        assert table[k] == -k
    assert 0 < len(table) <= KEPT


def surrogate(k: int) -> Any:
    class Mine(Surrogate):
        slope: float = 1.0
        twice: bool = False

        def derivative(self, x: Any) -> Any:
            return self.slope * abs(x) + k * 1.0

    assert Mine(twice=True).structure == Mine().structure
    return Mine


def neuron(k: int) -> Any:
    class Mine(Neuron):
        beta: Decay
        v: State = 0.0

        def step(self, current: Any, v: Any) -> Any:
            u = self.beta * v + current
            s = self.fire(u - 1.0)
            return Step(s, v=self.after_spike(u, s, 1.0 + k))

    torch = pytest.importorskip("torch")
    from spikegrad import nn

    layer = nn.Layer(Mine(0.5, reset="zero"), backend="reference")
    layer(torch.ones(2, 1, 1, requires_grad=True))[0].sum().backward()
    return Mine


def function(k: int) -> Any:
    mine = from_formula(lambda x: abs(x) + k * 1.0, lambda x: x * k)
    assert mine.derivative(np.array([1.0])) == 1 + k
    return type(mine)


def neuron_of_snntorch(k: int) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("snntorch")
    from spikegrad.compat import snntorch as snn

    class Mine(snn.Leaky):
        pass

    mine = Mine(0.5)
    mine(torch.ones(1, 1))
    import snntorch

    assert isinstance(mine, snntorch.Leaky)
    assert isinstance(mine, mine.__class__)
    mine.__class__ = mine.__class__  # what parametrize does
    assert type(mine) is Mine
    return Mine


@pytest.mark.parametrize(
    ("define", "count", "kept"), [(surrogate, 30, 0), (neuron, 30, 0), (function, 1000, 64), (neuron_of_snntorch, 30, 0)]
)
def test_definitions_in_a_loop_are_forgotten(define, count, kept):

    alive = [weakref.ref(define(k)) for k in range(count)]
    gc.unfreeze()
    gc.collect()
    assert sum(each() is not None for each in alive) <= kept + 1  # what a local variable of a frame still holds


def test_a_formula_that_was_forgotten_is_still_itself():
    """While somebody has a surrogate of a formula, whatever is made of the same formula is of the same class."""
    mine = from_formula(lambda x: 1 / (1 + abs(x)))
    for k in range(100):
        function(k)
    assert from_record.cache_info().currsize == from_record.cache_info().maxsize == 64
    assert pickle.loads(pickle.dumps(mine)) == mine
    assert type(from_formula(lambda x: 1 / (1 + abs(x)))) is type(mine)


def test_files_of_neurons_in_a_loop(tmp_path):
    pytest.importorskip("torch")
    from spikegrad.training import named

    text = "from spikegrad import Neuron, State, Step\nclass Mine(Neuron):\n    beta: float = {}\n    v: State = 0.0\n"
    text += "    def step(self, current, v):\n        u = self.beta * v + current\n        return Step(u, v=u)\n"
    same = tmp_path / "same.py"

    def modules() -> int:
        return sum(name.startswith("neurons_") for name in sys.modules)

    def read(path: Path, beta: float) -> None:
        path.write_text(text.format(beta))
        assert named.neuron_class(f"{path}:Mine")(v=0.0).beta == beta

    before = modules()
    for k in range(70):
        read(tmp_path / f"other{k}.py", k + 0.5)
    assert modules() - before <= named._KEPT
    for k in range(10):
        same.unlink(missing_ok=True)
        read(same, k + 0.25)
    assert modules() <= before + named._KEPT
