"""Processes of our own that share work, and end with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from spikegrad.errors import InputError

WAIT = 0.5
"""Seconds between two looks at how others stand."""


def run_all(
    target: str,
    arguments: list[str],
    jobs: int,
    log: Path,
    told: Callable[[], object],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Let processes run a function until all have ended.

    Args:
        target: the function, as ``module:name``; it calls `serve`.
        arguments: what it finds in ``sys.argv[1:]``.
        jobs: number of processes, each of which computes in one thread.
        log: what they print is added there.
        told: called again and again meanwhile.
        environment: what else they find in their environment.

    Raises:
        InputError: one of them failed; the message is its last line.
    """
    module, _, name = target.partition(":")
    # Threads that wait for each other take the time of those that work.
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", f"from {module} import {name}; {name}()", *arguments]
    workers: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as errors:
        began = errors.tell()
        try:
            for _ in range(jobs):
                given = {**os.environ, **threads, **(environment or {})}
                workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, env=given))
            while True:
                codes = [worker.poll() for worker in workers]
                if failed := [code for code in codes if code]:
                    raise InputError(_last(log, began) or f"a process ended with code {failed[0]}, see {log}")
                told()
                if None not in codes:
                    return
                time.sleep(WAIT)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
                if worker.stdin is not None:
                    worker.stdin.close()


def _last(log: Path, began: int) -> str:
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("spikegrad: ") if lines else ""


def serve(work: Callable[[], object]) -> None:
    """Work in a process of `run_all`: it ends when whoever started it is gone, and says in one line what the user can put right."""

    def watch() -> None:
        while os.read(0, 1):  # standard input ends with the process at its other end
            pass
        os._exit(1)  # a run folder is whole at every moment

    threading.Thread(target=watch, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    try:
        work()
    except InputError as error:
        print(f"spikegrad: {error}", file=sys.stderr)
        sys.exit(2)
