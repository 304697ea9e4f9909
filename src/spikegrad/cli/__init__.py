"""The command line. It parses, calls and prints; whatever it does can be done from Python too."""

from __future__ import annotations

import io
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line: exit code 0, 2 for what the user can put right, 130 after Ctrl-C."""
    from spikegrad.errors import InputError

    code = 0
    for stream in (sys.stdout, sys.stderr):  # not every console and file can take a plus-minus sign, or the name of a folder
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from spikegrad.cli.app import run

        code = run(sys.argv[1:])
    except InputError as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spikegrad"):
            raise
        extra = "tune" if error.name in ("optuna", "sqlalchemy") else "train"
        _refuse(f'this needs {error.name}, which is not installed: pip install "spikegrad[{extra}]"')
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `spikegrad list | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename} cannot be used: {(error.strerror or str(error)).lower()}")
    except MemoryError as error:
        _refuse(f"there is not enough memory: {error}")
    sys.exit(code)


def _refuse(message: str) -> NoReturn:
    print(f"spikegrad: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
