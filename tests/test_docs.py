"""Every block of code of every page runs, and prints what it says it does; the tutorials do what they are shown to do."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import mpmath
import numpy as np
import pytest
from tests.forked import ALL, finish

from spikegrad import Positive, Surrogate, vocabulary

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "extensions"))
import cells  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
TABLES = {"DERIVATIVE": {}, "PRIMITIVE": {}, "mpmath": mpmath, "atan": mpmath.atan}
KNOWN = {"CONTRIBUTING.md": vars(vocabulary) | {"Surrogate": Surrogate, "Positive": Positive} | TABLES}
"""What a block that goes into a file of ours finds there."""
PEERS = ("norse", "spikingjelly")
"""Libraries of the extra `bench`; .ci/run runs the blocks that need them in the environment that has them."""
ELSEWHERE = (
    r"pip install |git clone |python3? -m venv |\.\w+/bin/pip install ",  # .ci/run runs those of the README
    r"\.peers/bin/|ruff |pyright|pytest",  # .ci/run
    r"python -m benchmarks ",  # tests/test_benchmarks.py
    r"python -m sphinx ",  # tests/test_site.py
    r"TRITON_INTERPRET=1 python -c ",  # a layer in the interpreter, as tests/test_triton.py does
    r"python examples/",  # tests/test_compat_*_examples.py
    r"torchrun |sbatch |spikegrad train --devices ",  # several processes, which tests/test_processes.py starts; SLURM wants its machines
)
"""Commands that another test runs, or .ci/run, or that need what a test must not: the network."""


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page runs once XLA compiles in half the time if it need not be fast, also in another process."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that is for a machine."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in found} <= {"python", "sh"}, f"{page}: a language that no test runs"
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page, told, capsys, monkeypatch, tmp_path):
    """The blocks of a page one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"} | KNOWN.get(page.name, {})
    for number, (language, block) in enumerate(blocks(page)):
        capsys.readouterr()
        if language == "sh":
            for command in block.splitlines():
                if command.startswith("spikegrad ") and "--devices" not in command:
                    assert told(*shlex.split(command, comments=True)[1:])[0] == 0, command
                else:
                    assert re.match("|".join(ELSEWHERE), command), f"no test runs {command!r}"
            continue
        try:
            exec(compile(block, f"{page}, block {number}", "exec"), names)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in PEERS:
                raise
            continue
        promised = re.findall(r"^# (.+)$", block, re.MULTILINE)
        if promised and block.endswith(f"# {promised[-1]}\n"):
            assert capsys.readouterr().out.strip() == promised[-1]
        if "loss" in names and not callable(names["loss"]):
            assert names["loss"].isfinite()


def test_the_surrogate_of_contributing_is_what_its_tables_say():
    names = {"__name__": "page"} | KNOWN["CONTRIBUTING.md"]
    for _, block in (each for each in blocks(ROOT / "CONTRIBUTING.md") if each[0] == "python"):
        exec(block, names)
    sech = names["Sech"](slope=3.0)
    for table, formula in ((names["DERIVATIVE"], sech.derivative), (names["PRIMITIVE"], sech.primitive)):
        assert float(formula(np.array([0.3]))[0]) == pytest.approx(float(table["Sech"](0.3, 3.0)), rel=1e-12)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_prints_what_is_kept(path):
    """Each cell; numbers are those of a machine, so that only where they stand is compared, and the tutorials assert what matters."""
    if path.stem == "9_devices":  # how many devices there are is decided before JAX starts
        code = f"import pathlib, cells; [print(cells.MARK + out, end='') for out, _ in cells.run(pathlib.Path({str(path)!r}))]"
        printed = cells.cells(finish(code, libraries=ALL))
    else:
        printed = [out for out, _ in cells.run(path)]
    assert [shape(each) for each in printed] == [shape(each) for each in cells.kept(path)]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


def shape(printed: str) -> str:
    """What was printed, with a sign for every number."""
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", printed)
