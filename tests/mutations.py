"""Small faults, put into the code on purpose, one at a time: which of them does the suite not see?

    python -m tests.mutations --count 30 --seed 1 --out tests/mutations.json

Draws mutations of training, kernels and compat, each file with the weight of its length, and runs the test files that have to do with the
mutated part, those first that name the mutated module, up to the first failure and at most for `--seconds`. Each run has a copy of the
sources and a cache of its own. What no test failed for is written down with an empty text: it needs a test, or a reason why it does not
matter. What has been tried already is read from ``--out`` and not tried again, so a stopped run goes on; what is drawn depends on the
sources, so that they should not change meanwhile.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "spikegrad"
_LAYERS = ("kernels", "layer", "products", "halves", "threads", "memory", "text", "compiler", "concurrency", "arguments", "modes", "jax")
NEAR = {
    "training": ["training*", "cli*", "command_line*", "data*"],
    "kernels/gpu": ["triton*", "jax_triton", "jax_launches"],
    "kernels/jax": ["jax*", "layer*", "kernels*"],
    "kernels/handler": ["jax*", "kernels*"],
    "kernels/sharding": ["jax*"],
    "kernels": [f"{name}*" for name in (*_LAYERS, "ordinary", "recompute", "export", "recurrent", "neurons", "honoured")],
    "gradient": ["torch_gradient", "jax_gradient", "surrogate", "check_surrogates"],
    "compat/snntorch": ["compat_snntorch*", "snntorch*", "compat_forwarding", "compat_subclasses", "compat_other_direction"],
    "compat/sinabs": ["compat_sinabs*", "compat_subclasses", "peers_rows"],
    "compat/braintools": ["compat_braintools*", "compat_subclasses", "compat_forwarding", "peers_rows"],
    "compat/spikede": ["compat_spikede*", "compat_subclasses", "peers_rows"],
    "compat": ["compat*", "neurons*", "peers_rows"],
}
"""Names of the tests that have to do with a file, by the beginning of its path."""

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


def drawn(seed: int, count: int, parts: Sequence[str]) -> Iterator[tuple[Path, Edit, str]]:
    """Mutations of these folders, without end if `count` allows."""
    files = [path for part in parts for path in sorted((SOURCES / part).rglob("*.py"))]
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


def related(path: Path) -> list[str]:
    """Test files that have to do with a source file; first those that name it, the short ones before the long ones."""
    name = path.relative_to(SOURCES).as_posix()
    near = next(patterns for start, patterns in NEAR.items() if name.startswith(start))
    found = {test for pattern in near for test in (ROOT / "tests").glob(f"test_{pattern}.py")}
    module = re.compile(rf"\b{path.parent.name}(\.| import .*\b){path.stem}\b")
    return [str(test) for test in sorted(found, key=lambda test: (not module.search(test.read_text("utf-8")), test.stat().st_size))]


def ended(command: list[str], environment: dict[str, str], log: Path, seconds: float) -> int | None:
    """The exit code of a command, or None after so many seconds; what it started ends with it."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def killed(path: Path, made: str, processes: int, seconds: float) -> str:
    """The first test that fails with this mutation, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder) / "src")
        (Path(folder) / "src" / path.relative_to(ROOT / "src")).write_text(made, encoding="utf-8")
        paths = os.pathsep.join((str(Path(folder) / "src"), str(ROOT)))
        environment = {**os.environ, "PYTHONPATH": paths, "SPIKEGRAD_CACHE": str(Path(folder) / "cache")}
        if given := os.environ.get("SPIKEGRAD_CACHE"):
            # A link is enough: what writes there writes a new file and renames it.
            shutil.copytree(given, environment["SPIKEGRAD_CACHE"], copy_function=os.link)
        parallel = str(processes) if processes > 1 else "0"
        command = [sys.executable, "-m", "pytest", "-v", "-x", "-n", parallel, "-p", "no:cacheprovider", *related(path)]
        log = Path(folder) / "log"
        code = ended(command, environment, log, seconds)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if code is None:
            return f"nothing in {seconds:.0f} s, which ended in {lines[-1][:200]}"
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return "" if code == 0 else failed[0].split(" - ")[0] if failed else lines[-1]


def main() -> None:
    """Draw, run and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--count", type=int, default=30, help="how many")
    parser.add_argument("--processes", type=int, default=2, help="of a test run")
    parser.add_argument("--of", nargs="+", default=["training", "kernels", "compat"], help="folders of the package")
    parser.add_argument("--seconds", type=float, default=600, help="for which a mutation is tested at most")
    parser.add_argument("--list", action="store_true", help="only say what would be tried")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of what was found")
    given = parser.parse_args()
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else []
    for path, ((line, column), (last, end), new), made in drawn(given.seed, given.count, given.of):
        lines = path.read_text(encoding="utf-8").splitlines()
        old = lines[line - 1].encode()[column:end].decode() if line == last else lines[line - 1].strip()
        entry = {"file": path.relative_to(ROOT).as_posix(), "line": line, "column": column, "old": old.strip(), "new": new.strip()}
        if any(entry.items() <= each.items() for each in known):
            continue
        print(f"{entry['file']}:{line}: {old.strip()!r} -> {new.strip()!r}", end=" ", flush=True)
        if given.list:
            print()
            continue
        by = killed(path, made, given.processes, given.seconds)
        print(by or "SURVIVED", flush=True)
        known.append({**entry, "killed by": by})
        given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
