"""Layers on several devices; how many there are is decided before JAX starts, so they have a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import FAST

pytest.importorskip("jax")
pytest.importorskip("numba")

HERE = Path(__file__).parent


def test_on_four_devices():
    options = {"xla_force_host_platform_device_count": 4, **FAST}
    flags = {"XLA_FLAGS": " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(HERE / "on_devices.py")]
    process = subprocess.run(command, env=os.environ | flags, cwd=HERE.parent, text=True, capture_output=True, timeout=500, check=False)
    assert process.returncode == 0, process.stdout[-20000:] + process.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", process.stdout)[0]) > 40
