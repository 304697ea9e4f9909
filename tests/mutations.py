"""Small faults, put into the code on purpose, one at a time: which of them does the suite not see?

    python -m tests.mutations --count 30 --seed 1 --out tests/mutations.json

Draws mutations of training, kernels and compat, each file with the weight of its length, and runs the tests that are named after the
mutated part, then, where these pass, the rest of the suite. Each run has a copy of the sources and a cache of its own. What has been tried
already is read from ``--out`` and not tried again, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "spikegrad"
NEAR = {
    "training": ["test_training*", "test_cli*", "test_data*", "test_option*"],
    "kernels/jax": ["test_jax*", "test_layer*"],
    "kernels/handler": ["test_jax*"],
    "kernels": [f"test_{name}*" for name in ["kernels", "layer", "products", "halves", "threads", "memory", "text", "compiler", "jax"]],
    "compat/snntorch": ["test_compat_snntorch*", "test_snntorch*"],
    "compat/sinabs": ["test_compat_sinabs*"],
    "compat/braintools": ["test_compat_braintools*"],
    "compat/spikede": ["test_compat_spikede*"],
    "compat": ["test_neurons*", "test_compat*"],
}  # fmt: skip
"""Tests that are run first, by the beginning of the mutated file's path."""

COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
COMBINED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.BitOr: "&", ast.BitAnd: "|"}
Edit = tuple[tuple[int, int], tuple[int, int], str]
"""Where it begins and ends, as line and column, and what comes in its place."""


def _span(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _unmeant(tree: ast.AST) -> set[ast.AST]:
    """Nodes that nothing depends on while the program runs, or that only say something: annotations, texts, errors, imports for types."""
    found: set[ast.AST] = set()

    def drop(node: ast.AST | None) -> None:
        if node is not None:
            found.update(ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            drop(node.returns)
            for a in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                drop(a.annotation)
        elif isinstance(node, ast.AnnAssign):
            drop(node.annotation)
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            drop(node)
    return found


def mutations(text: str) -> Iterator[Edit]:
    """Every mutation of a file that is known here."""
    tree = ast.parse(text)
    unmeant = _unmeant(tree)

    def between(a: ast.AST, b: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
        return _span(a)[1], _span(b)[0]

    for node in ast.walk(tree):
        if node in unmeant:
            continue
        match node:
            case ast.Compare(left=left, ops=[operation], comparators=[right]):
                yield *between(left, right), f" {COMPARED[type(operation)]} "
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in COMBINED:
                yield *between(left, right), f" {COMBINED[type(operation)]} "
            case ast.BoolOp(op=operation, values=[first, second, *_]):
                yield *between(first, second), " or " if isinstance(operation, ast.And) else " and "
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield _span(node)[0], _span(operand)[0], ""
            case ast.Constant(value=bool() as value):
                yield *_span(node), str(not value)
            case ast.Constant(value=int() | float() as value):
                yield *_span(node), repr(value + 1)
            case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test):
                yield *_span(test), f"(not ({ast.unparse(test)}))"
            case ast.Expr(value=ast.Call()) | ast.AugAssign():
                yield *_span(node), "pass"
            case _:
                pass


def mutated(text: str, edit: Edit) -> str | None:
    """The text with the edit, or None where what stands there cannot be replaced so, as between brackets."""
    (first, begin), (last, end), new = edit
    lines = text.encode().splitlines(keepends=True)
    start, stop = (sum(map(len, lines[: line - 1])) + column for line, column in ((first, begin), (last, end)))
    made = (text.encode()[:start] + new.encode() + text.encode()[stop:]).decode()
    try:
        return made if ast.dump(ast.parse(made)) != ast.dump(ast.parse(text)) else None
    except SyntaxError:
        return None


def drawn(seed: int, count: int) -> Iterator[tuple[Path, Edit, str]]:
    """Mutations, without end if `count` allows."""
    files = [path for part in ("training", "kernels", "compat") for path in sorted((SOURCES / part).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    every = {path: list(mutations(text)) for path, text in texts.items()}
    chance = random.Random(seed)
    found = 0
    while found < count:
        (path,) = chance.choices(files, [len(every[path]) for path in files])
        edit = chance.choice(every[path])
        made = mutated(texts[path], edit)
        if made is not None:
            found += 1
            yield path, edit, made


def killed(path: Path, made: str, processes: int) -> str:
    """The first test that fails with this mutation, or an empty text."""
    name = path.relative_to(SOURCES).as_posix()
    near = next(patterns for start, patterns in NEAR.items() if name.startswith(start))
    first = sorted({str(found) for pattern in near for found in (ROOT / "tests").glob(f"{pattern}.py")})
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder) / "src")
        (Path(folder) / "src" / "spikegrad" / name).write_text(made, encoding="utf-8")
        paths = os.pathsep.join((str(Path(folder) / "src"), str(ROOT)))
        environment = {**os.environ, "PYTHONPATH": paths, "SPIKEGRAD_CACHE": str(Path(folder) / "cache")}
        if given := os.environ.get("SPIKEGRAD_CACHE"):
            shutil.copytree(given, environment["SPIKEGRAD_CACHE"])
        for tests in (first, [str(ROOT / "tests")]):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", str(processes), "-p", "no:cacheprovider", *tests]
            try:
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
            except subprocess.TimeoutExpired:
                return "the suite does not end"
            if done.returncode:
                failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].split(" - ")[0] if failed else (done.stdout + done.stderr).strip().splitlines()[-1]
    return ""


def main() -> None:
    """Draw, run and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--count", type=int, default=30, help="how many")
    parser.add_argument("--processes", type=int, default=2, help="of a test run")
    parser.add_argument("--list", action="store_true", help="only say what would be tried")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of what was found")
    given = parser.parse_args()
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else []
    for path, ((line, column), (last, end), new), made in drawn(given.seed, given.count):
        lines = path.read_text(encoding="utf-8").splitlines()
        old = lines[line - 1].encode()[column:end].decode() if line == last else lines[line - 1].strip()
        entry = {"file": path.relative_to(ROOT).as_posix(), "line": line, "column": column, "old": old.strip(), "new": new.strip()}
        if any(entry.items() <= each.items() for each in known):
            continue
        print(f"{entry['file']}:{line}: {old.strip()!r} -> {new.strip()!r}", end=" ", flush=True)
        if given.list:
            print()
            continue
        by = killed(path, made, given.processes)
        print(f"killed by {by}" if by else "SURVIVED", flush=True)
        known.append({**entry, "killed by": by})
        given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
