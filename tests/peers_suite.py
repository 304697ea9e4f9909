"""Runs another library's own tests and notebooks against `spikegrad.compat`, with nothing but their import lines changed.

    python tests/peers_suite.py snntorch PATH/TO/ITS/REPOSITORY            # its tests, then its notebooks
    python tests/peers_suite.py sinabs PATH/TO/ITS/REPOSITORY --tests 'tests/test_activations.py'
    python tests/peers_suite.py braintools installed                       # tests that come with the installed package

Everything runs twice in a temporary folder: as it is, and with the imports changed. What fails only the second time is ours, and so is a
number that a notebook prints differently; both make the exit status 1. Nothing is downloaded: image sets of torchvision are replaced by
random images (``--samples``), torchvision itself where it cannot be loaded and displays of notebooks by as much as notebooks need; a
notebook that needs another module that is missing is skipped.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PEERS = {
    "snntorch": ("snntorch", "spikegrad.compat.snntorch", "tests", "examples"),
    "sinabs": ("sinabs.activation", "spikegrad.compat.sinabs.activation", "tests", "docs"),
    "braintools": ("braintools.surrogate", "spikegrad.compat.braintools.surrogate", "braintools/surrogate", "examples"),
    "spikede": ("spikeDE.surrogate", "spikegrad.compat.spikede.surrogate", "tests", "examples"),
}
"""What is replaced, by what, and where in a repository tests and notebooks lie."""

PREAMBLE = """\
import random, sys, types
import numpy, torch
random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
torch.set_num_threads(1)
try:
    import IPython.display
except ModuleNotFoundError:
    sys.modules["IPython"] = types.ModuleType("IPython")
    sys.modules["IPython.display"] = shown = types.ModuleType("IPython.display")
    shown.HTML = shown.display = shown.Image = lambda *arguments, **named: None
try:
    import torchvision
except (ImportError, OSError, RuntimeError):  # not there, or of another PyTorch
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in ("", ".datasets", ".transforms", ".utils"):
        sys.modules["torchvision" + name] = module = types.ModuleType("torchvision" + name)
        if name:
            setattr(torchvision, name[1:], module)
        else:
            torchvision = module
    T = torchvision.transforms
    T.Compose = lambda steps: lambda image: [image := step(image) for step in steps][-1]
    T.Lambda = lambda function: function
    T.ToTensor = lambda: lambda image: torch.from_numpy(numpy.array(image, dtype=numpy.float32))[None] / 255
    T.Normalize = lambda mean, std: lambda x: (x - mean[0]) / std[0]
    T.Resize = lambda size: lambda image: image.resize(size if isinstance(size, tuple) else (size, size))
    T.Grayscale = T.RandomRotation = lambda *arguments: lambda image: image
    torchvision.utils.save_image = lambda *arguments, **named: None
import matplotlib.animation
for name in ("save", "to_html5_video", "to_jshtml"):  # which need ffmpeg
    setattr(matplotlib.animation.Animation, name, lambda self, *arguments, **named: setattr(self, "_draw_was_started", True))
from PIL import Image
class Images(torch.utils.data.Dataset):
    def __init__(self, root=None, train=True, transform=None, target_transform=None, download=False):
        draw = torch.Generator().manual_seed(int(train))
        self.data = torch.randint(256, ({samples}, 28, 28), generator=draw, dtype=torch.uint8)
        self.targets = torch.randint(10, ({samples},), generator=draw)
        self.transform, self.classes = transform, [str(digit) for digit in range(10)]
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        image = Image.fromarray(self.data[index].numpy())
        return image if self.transform is None else self.transform(image), int(self.targets[index])
for name in ("MNIST", "FashionMNIST", "KMNIST"):
    setattr(torchvision.datasets, name, Images)
"""

TIMES = re.compile(r"\d+(\.\d+)?\s*(it/s|s/it|ms|µs|seconds?|s\b)|\d\d:\d\d|0x[0-9a-f]+|Elapsed.*|[Tt]ime.*")


def ported(source: str, theirs: str, ours: str) -> str:
    """A program whose imports of `theirs` are imports of `ours`, each on the lines that it had. Private modules stay theirs."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) and (changed := list(_changed(node, theirs, ours))):
            assert node.end_lineno is not None
            last = lines[node.end_lineno - 1].encode()
            rest = last[node.end_col_offset :].decode()
            before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
            lines[node.lineno - 1] = before + "; ".join(changed) + rest
            lines[node.lineno : node.end_lineno] = [""] * (node.end_lineno - node.lineno)
    return "\n".join(lines) + "\n"


def _changed(node: ast.Import | ast.ImportFrom, theirs: str, ours: str) -> Iterator[str]:
    """The statements that take the place of an import; none if it stays as it is."""

    def renamed(module: str) -> str | None:
        below = module.removeprefix(theirs)
        is_theirs = module == theirs or (below != module and below.startswith("."))
        return ours + below if is_theirs and not any(part.startswith("_") for part in below.split(".")) else None

    parent, _, name = theirs.rpartition(".")
    our_parent, _, our_name = ours.rpartition(".")
    if isinstance(node, ast.ImportFrom):
        names = [(alias.name, alias.asname) for alias in node.names]
        if node.level == 0 and node.module and (module := renamed(node.module)):
            yield f"from {module} import {_listed(names)}"
        elif node.level == 0 and node.module == parent and any(given == name for given, _ in names):
            others = [pair for pair in names if pair[0] != name]
            if others:
                yield f"from {parent} import {_listed(others)}"
            yield f"from {our_parent} import {_listed([(our_name, bound or name) for given, bound in names if given == name])}"
        return
    if not any(renamed(alias.name) for alias in node.names):
        return
    for alias in node.names:
        module = renamed(alias.name)
        if module is None:
            yield f"import {_listed([(alias.name, alias.asname)])}"
        elif alias.asname:
            yield f"import {module} as {alias.asname}"
        elif parent:
            raise ValueError(f"`import {alias.name}` binds all of {parent.partition('.')[0]}, of which only {theirs} is replaced")
        else:
            yield f"import {module}"
            yield f"from {our_parent} import {our_name} as {theirs}"


def _listed(names: list[tuple[str, str | None]]) -> str:
    return ", ".join(name if bound in (None, name) else f"{name} as {bound}" for name, bound in names)


def program(notebook: str) -> str:
    """The code of a notebook as one program, without its magic commands."""
    cells = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    plain = [re.sub(r"^(\s*)[!%].*$", r"\1pass", cell, flags=re.MULTILINE) for cell in cells if not cell.lstrip().startswith("%%")]
    return "\n".join(plain) + "\n"


@dataclasses.dataclass
class Run:
    """What a run printed, its exit status, and of tests which ended how."""

    status: int
    output: str
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict[str, str])


def run(command: list[str], folder: Path, limit: float) -> Run:
    """A program in a folder of its own."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Run(124, f"took more than {limit:.0f} s")
    return Run(done.returncode, done.stdout + (done.stderr if done.returncode else ""))


def tests(root: Path, pattern: str, theirs: str, ours: str, port: bool, limit: float) -> Run:
    """Tests of a folder or of files that match, by pytest, in a copy of the folder that they lie in."""
    found = sorted(path for path in root.glob(pattern) if path.exists())
    if not found:
        raise FileNotFoundError(f"no tests: nothing in {root} matches {pattern}")
    files = [file for path in found for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                copy = folder / "suite" / file.relative_to(root)  # a folder named as the library would be taken for it
                copy.parent.mkdir(parents=True, exist_ok=True)
                if port and file.suffix == ".py":
                    copy.write_text(ported(file.read_text(), theirs, ours))
                else:
                    copy.write_bytes(file.read_bytes())
        options = ["-q", "-rA", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", name, "-c", os.devnull]
        options += ["--import-mode=importlib", "-o", "python_files=test_*.py *_test.py"]
        done = run([sys.executable, "-m", "pytest", *options, "."], folder, limit)
    done.outcomes = {test: outcome for outcome, test in re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+)", done.output, re.MULTILINE)}
    return done


def notebook(path: Path, theirs: str, ours: str, port: bool, samples: int, limit: float) -> Run:
    """The code of a notebook, run as a program."""
    code = program(path.read_text())
    if port:
        code = ported(code, theirs, ours)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.py").write_text(PREAMBLE.replace("{samples}", str(samples)) + code)
        return run([sys.executable, "program.py"], folder, limit)


def differences(theirs: str, ours: str) -> list[str]:
    """Lines that two runs printed differently, times left out."""

    def lines(output: str) -> list[str]:
        return [TIMES.sub("", line.rstrip()) for line in output.splitlines() if "\r" not in line]

    mine, peers = lines(ours), lines(theirs)
    wrong = [f"theirs: {a}\n      ours:   {b}" for a, b in zip(peers, mine, strict=False) if a != b]
    return wrong + ([f"theirs printed {len(peers)} lines, ours {len(mine)}"] if len(peers) != len(mine) else [])


def report_tests(root: Path, pattern: str, peer: str, limit: float) -> bool:
    """Whether every test that passes as it is passes with the imports changed, too."""
    theirs, ours, *_ = PEERS[peer]
    before, after = (tests(root, pattern, theirs, ours, port, limit) for port in (False, True))
    passing = {name for name, outcome in before.outcomes.items() if outcome in ("PASSED", "XFAIL", "XPASS")}
    if not passing:
        print(f"no test passes with {peer} itself; the last lines were\n{before.output[-2000:]}")
        return False
    lost = sorted(name for name in passing if after.outcomes.get(name) not in ("PASSED", "XFAIL", "XPASS"))
    print(f"tests: {len(passing)} of {len(before.outcomes)} pass with {peer}, {len(passing) - len(lost)} of these with spikegrad.compat")
    for name in lost:
        print(f"  {after.outcomes.get(name, 'missing')} {name}")
    if lost:
        print(after.output[-6000:])
    return not lost


def report_notebook(path: Path, peer: str, samples: int, limit: float) -> bool:
    """Whether a notebook that runs as it is runs with the imports changed, too, and prints the same."""
    theirs, ours, *_ = PEERS[peer]
    if theirs not in program(path.read_text()):
        return True
    before = notebook(path, theirs, ours, False, samples, limit)
    if before.status:
        print(f"{path.name}: skipped, it fails with {peer} itself: {(before.output.strip().splitlines() or ['without a word'])[-1][:200]}")
        return True
    after = notebook(path, theirs, ours, True, samples, limit)
    wrong = [after.output[-2000:]] if after.status else differences(before.output, after.output)
    print(f"{path.name}: {'FAILED' if wrong else f'equal in {len(after.output.splitlines())} lines'}", *wrong, sep="\n  ", flush=True)
    return not wrong


def main(arguments: list[str] | None = None) -> int:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("path", help="a copy of its repository, or 'installed'")
    parser.add_argument("--tests", metavar="GLOB", help="tests to run, relative to the path; '' for none")
    parser.add_argument("--notebooks", metavar="GLOB", help="notebooks to run, relative to the path; '' for none")
    parser.add_argument("--samples", type=int, default=256, help="random images in the place of each half of an image set (default: 256)")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each run (default: 600)")
    given = parser.parse_args(arguments)
    *_, at_tests, at_notebooks = PEERS[given.peer]
    if given.path == "installed":
        spec = importlib.util.find_spec(PEERS[given.peer][0].partition(".")[0])
        if spec is None or spec.origin is None:
            parser.error(f"{given.peer} is not installed")
        root = Path(spec.origin).parents[1]
    else:
        root = Path(given.path)
        if not root.is_dir():
            parser.error(f"{root} is not a folder; give a copy of the repository of {given.peer}")
    right = True
    pattern = at_tests if given.tests is None else given.tests
    if pattern:
        right = report_tests(root, pattern, given.peer, given.limit)
    pattern = f"{at_notebooks}/**/*.ipynb" if given.notebooks is None else given.notebooks
    for path in sorted(root.glob(pattern)) if pattern and given.path != "installed" else ():
        right = report_notebook(path, given.peer, given.samples, given.limit) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
