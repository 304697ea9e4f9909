"""The script that runs other libraries' own tests and notebooks changes imports, nothing else, and sees what comes out differently."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import peers_suite

THEIRS, OURS = "snntorch", "spikegrad.compat.snntorch"
PORTED = {
    "import snntorch as snn": f"import {OURS} as snn",
    "import snntorch": f"import {OURS}; from spikegrad.compat import snntorch as snntorch",
    "import snntorch.functional as SF": f"import {OURS}.functional as SF",
    "import snntorch.utils": f"import {OURS}.utils; from spikegrad.compat import snntorch as snntorch",
    "import torch, snntorch as snn": f"import torch; import {OURS} as snn",
    "from snntorch import utils, surrogate as s": f"from {OURS} import utils, surrogate as s",
    "from snntorch.functional import loss": f"from {OURS}.functional import loss",
    "from snntorch import *": f"from {OURS} import *",
    "import snntorchvision": "import snntorchvision",
    "from . import snntorch": "from . import snntorch",
    "from snntorch._neurons.stateleaky import StateLeaky": "from snntorch._neurons.stateleaky import StateLeaky",
    "x = 'import snntorch as snn'  # import snntorch": "x = 'import snntorch as snn'  # import snntorch",
    "if 1: import snntorch as snn  # é": f"if 1: import {OURS} as snn  # é",
}


@pytest.mark.parametrize("line", PORTED)
def test_an_import_is_changed(line):
    assert peers_suite.ported(line, THEIRS, OURS) == PORTED[line] + "\n"


def test_lines_stay_where_they_are():
    source = "import os\ndef f():\n    from snntorch import (\n        utils,  # é\n        spikegen as sg,\n    )\n    return utils\n"
    ported = peers_suite.ported(source, THEIRS, OURS).splitlines()
    assert len(ported) == len(source.splitlines())
    assert ported[2] == f"    from {OURS} import utils, spikegen as sg"
    assert ported[3:6] == ["", "", ""]
    assert ported[6] == "    return utils"


def test_a_module_of_a_package():
    def ported(line):
        return peers_suite.ported(line, "sinabs.activation", "spikegrad.compat.sinabs.activation").rstrip()

    assert ported("from sinabs import activation") == "from spikegrad.compat.sinabs import activation"
    assert ported("from sinabs import layers, activation as a") == (
        "from sinabs import layers; from spikegrad.compat.sinabs import activation as a"
    )
    assert ported("from sinabs.activation.quantize import Quantize") == "from spikegrad.compat.sinabs.activation.quantize import Quantize"
    assert ported("from sinabs import layers") == "from sinabs import layers"
    with pytest.raises(ValueError, match=r"`import sinabs\.activation` binds all of sinabs"):
        ported("import sinabs.activation")


def cell(code, kind="code"):
    return {"cell_type": kind, "source": code.splitlines(keepends=True)}


def test_the_code_of_a_notebook():
    magic = cell("!pip install x\nimport a\nif a:\n    %matplotlib inline")
    cells = [cell("# A title", "markdown"), magic, cell("%%bash\nls"), cell("print(1)")]
    assert peers_suite.program(json.dumps({"cells": cells})) == "pass\nimport a\nif a:\n    pass\nprint(1)\n"


def test_what_is_printed_differently():
    assert peers_suite.differences("a 1.5\nloss 2 in 3.5 s\n", "a 1.5\nloss 2 in 9 s\n") == []
    assert peers_suite.differences("a 1.5\n", "a 1.25\n") == ["theirs: a 1.5\n      ours:   a 1.25"]
    assert peers_suite.differences("a\nb\n", "a\n") == ["theirs printed 2 lines, ours 1"]


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """A library, a replacement with one function that is wrong, and a repository of tests and notebooks of the library."""
    modules = tmp_path / "modules"
    (modules / "port").mkdir(parents=True)
    (modules / "tiny.py").write_text("def one():\n    return 1\n\ndef two():\n    return 2\n")
    (modules / "port" / "tiny.py").write_text("def one():\n    return 1\n\ndef two():\n    return 3\n")
    root = tmp_path / "repository"
    (root / "tests").mkdir(parents=True)
    (root / "examples").mkdir()
    test = "import tiny\n\ndef test_one():\n    assert tiny.one() == 1\n\ndef test_{0}():\n    assert tiny.{0}() == {1}\n"
    test += "\ndef test_bad():\n    assert 0\n"
    for name, result in (("one", 1), ("two", 2)):
        (root / "tests" / f"test_{name}.py").write_text(test.format(name, result))
        cells = [cell(f"!pip install tiny\nfrom tiny import {name}"), cell(f"print('number', {name}())")]
        (root / "examples" / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    (root / "examples" / "broken.ipynb").write_text(json.dumps({"cells": [cell("import tiny\nimport no_such_module")]}))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setitem(peers_suite.PEERS, "tiny", ("tiny", "port.tiny", "tests", "examples"))
    monkeypatch.setattr(peers_suite, "PREAMBLE", "")
    return root


def test_what_is_equal_passes(libraries, capsys):
    assert peers_suite.main(["tiny", str(libraries), "--tests", "tests/test_one.py", "--notebooks", "examples/one.ipynb"]) == 0
    printed = capsys.readouterr().out
    assert "tests: 1 of 2 pass with tiny, 1 of these with spikegrad.compat" in printed
    assert "one.ipynb: equal in 1 lines" in printed


def test_what_is_different_is_told(libraries, capsys):
    assert peers_suite.main(["tiny", str(libraries), "--notebooks", ""]) == 1
    printed = capsys.readouterr().out
    assert "pass with tiny" in printed
    assert "FAILED suite/tests/test_two.py::test_two" in printed
    assert "FAILED suite/tests/test_one.py::test_one" not in printed
    assert peers_suite.main(["tiny", str(libraries), "--tests", ""]) == 1
    printed = capsys.readouterr().out
    assert "broken.ipynb: skipped, it fails with tiny itself: ModuleNotFoundError: No module named 'no_such_module'" in printed
    assert "one.ipynb: equal in 1 lines" in printed
    assert "two.ipynb: FAILED\n  theirs: number 2\n      ours:   number 3" in printed


def test_nothing_to_run_is_no_success(libraries, capsys):
    (libraries / "tests" / "test_none.py").write_text("def test_none():\n    assert False\n")
    assert peers_suite.main(["tiny", str(libraries), "--tests", "tests/test_none.py", "--notebooks", ""]) == 1
    assert "no test passes with tiny itself; the last lines were" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"no tests: nothing in .* matches nothing"):
        peers_suite.main(["tiny", str(libraries), "--tests", "nothing"])
    with pytest.raises(SystemExit):
        peers_suite.main(["tiny", str(libraries / "absent")])
    assert "is not a folder; give a copy of the repository of tiny" in capsys.readouterr().err
    assert peers_suite.run([sys.executable, "-c", "import time; time.sleep(9)"], libraries, 0.2).status == 124


@pytest.mark.slow
def test_with_snntorch(tmp_path):
    """From the command line, on files in the style of snnTorch's."""
    pytest.importorskip("snntorch")
    (tmp_path / "tests").mkdir()
    (tmp_path / "examples").mkdir()
    (tmp_path / "tests" / "test_leaky.py").write_text(
        "import snntorch as snn\nimport torch\n\n"
        "def test_leaky():\n    spk, mem = snn.Leaky(0.5)(torch.ones(2) * 3)\n    assert spk.sum() == 2\n"
    )
    code = (
        "%matplotlib inline\nimport snntorch as snn, torch\nfrom snntorch import utils, spikegen\n"
        "from torchvision import datasets, transforms\n"
        "data = datasets.MNIST('x', train=True, download=True, transform=transforms.Compose([transforms.ToTensor()]))\n"
        "x = spikegen.rate(torch.stack([image for image, _ in data]), num_steps=3)\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), snn.Leaky(0.9, init_hidden=True))\n"
        "utils.reset(net)\nprint(sum(net(step) for step in x).sum(0))"
    )
    (tmp_path / "examples" / "mnist.ipynb").write_text(json.dumps({"cells": [cell(code)]}))
    script = [sys.executable, peers_suite.__file__, "snntorch", str(tmp_path), "--samples", "8"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests: 1 of 1 pass with snntorch, 1 of these with spikegrad.compat" in done.stdout
    assert "mnist.ipynb: equal in 1 lines" in done.stdout
