"""The command line. It parses, calls and prints; whatever it does can be done from Python too."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> None:
    """Run the command line: exit code 0, 2 for what the user can put right, 130 after Ctrl-C."""
    from spikegrad.errors import InputError

    code = 0
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
    sys.exit(code)


def _refuse(message: str) -> NoReturn:
    print(f"spikegrad: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
