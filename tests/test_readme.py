"""The README's Python runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["surrogate", "neuron", "pytorch", "jax", "compat"])
def test_block_runs(code):
    names = {"__name__": "readme"}
    exec(compile(code, str(README), "exec"), names)
    if "loss" in names and not callable(names["loss"]):
        assert names["loss"].isfinite()
