"""Where and with what a benchmark ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "spikegrad", "torch", "triton", "numba", "numpy", "jax", "jaxlib", "snntorch", "spikingjelly", "norse", "sinabs", "spyx", "braintools",
    "brainpy", "brainstate",
)  # fmt: skip


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_cuda() -> str | None:
    """Why there is nothing to measure on a GPU, in one line, or None."""
    import importlib.util

    import torch

    if not torch.cuda.is_available():
        return f"--device cuda: PyTorch {torch.__version__} sees no GPU here, torch.cuda.is_available() is False"
    return (
        None if importlib.util.find_spec("triton") is not None else "--device cuda: Triton is not installed, pip install 'spikegrad[gpu]'"
    )


def card(device: str) -> dict[str, str]:
    """The name of a GPU, and whose driver it has."""
    import torch

    if device != "cuda":
        return {}
    return {"card": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def commit_of(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def commit() -> str:
    """The commit of the working tree this file lies in; `+` where the tree differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src", ".", ":!results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """The installed ones of `PACKAGES`."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def described(threads: int) -> dict[str, object]:
    """Everything a reader needs to judge or repeat a run."""
    return {
        "machine": {"cpu": cpu(), "cores": cores(), "threads": threads, "system": f"{platform.system()} {platform.machine()}"},
        "versions": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
