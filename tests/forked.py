"""Programs in processes of their own, forked from one that has loaded libraries of others: PyTorch alone takes two seconds.

It has done nothing else, and loaded nothing of ours; each process ends as any other does. Where forks are not safe each is started anew.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

NUMBA = ("numba", "jax.numpy")
TORCH = ("torch",)
ALL = ("lightning", "torch._functorch.aot_autograd", "torch.export")
"""With PyTorch's compiler."""

_PARENT = """
import gc, importlib, json, os, signal, sys, warnings

for library in sys.argv[1:]:
    importlib.import_module(library)
gc.freeze()
for line in sys.stdin:
    wanted, running = json.loads(line), []
    for program in wanted["programs"]:
        printed = [os.memfd_create(name) for name in ("out", "err")]
        child = os.fork()
        if child == 0:
            break
        running.append((child, printed))
    else:
        ended = []
        for child, printed in running:
            ended.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
            for place in printed:
                os.lseek(place, 0, os.SEEK_SET)
                with open(place) as file:
                    ended[-1].append(file.read())
        print(json.dumps(ended), flush=True)
        continue
    break
else:
    sys.exit()
signal.alarm(wanted["limit"])
os.environ.clear()
os.environ.update(wanted["environment"])
for place, file in enumerate((os.open(os.devnull, os.O_RDONLY), *printed)):
    os.dup2(file, place)
if wanted["warnings"]:
    warnings.simplefilter(wanted["warnings"])
exec(compile(program, "<program>", "exec"))
"""


class Ended(NamedTuple):
    """How a process ended: its code, negative where a signal ended it, and what it printed."""

    code: int
    out: str
    err: str


def _here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@functools.cache
def _parent(libraries: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PARENT, *libraries]
    started = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_here() | dict(environment))
    atexit.register(started.communicate)
    return started


def ended(
    *programs: str,
    libraries: tuple[str, ...] = TORCH,
    before: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    warnings: str = "",
    limit: int = 300,
) -> list[Ended]:
    """Run programs at once and wait for them.

    Args:
        programs: the programs, each for a process of its own.
        libraries: what is loaded before.
        before: environment in which it is loaded.
        environment: what each program finds in its environment.
        warnings: what becomes of them, as in ``python -W``.
        limit: seconds, after which a process is ended.
    """
    texts = [textwrap.dedent(program) for program in programs]
    given = _here() | dict(environment or {})
    if not sys.platform.startswith("linux"):
        command = [sys.executable, *(["-W", warnings] if warnings else []), "-c"]
        started = [subprocess.Popen([*command, each], text=True, stdout=-1, stderr=-1, env=given | dict(before or {})) for each in texts]
        printed = [process.communicate(timeout=limit) for process in started]
        return [Ended(process.returncode, *each) for process, each in zip(started, printed, strict=True)]
    parent = _parent(libraries, tuple((before or {}).items()))
    assert parent.stdin is not None
    assert parent.stdout is not None
    wanted = {"programs": texts, "environment": given, "warnings": warnings, "limit": limit}
    parent.stdin.write(json.dumps(wanted) + "\n")
    parent.stdin.flush()
    return [Ended(*each) for each in json.loads(parent.stdout.readline())]


def finish(program: str, **options: Any) -> str:
    """What a program prints that ends well."""
    (found,) = ended(program, **options)
    assert found.code == 0, found.err[-3000:] or found
    return found.out
