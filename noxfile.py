"""The supported versions, oldest and newest, each in an environment of its own: `nox`, or `nox -s oldest -- tests/test_layer.py`."""

import nox

nox.options.sessions = ["oldest", "newest"]
nox.options.reuse_existing_virtualenvs = True

OLDEST = ("numpy==2.0.*", "torch==2.11.*", "triton==3.6.*", "numba==0.62.*", "jax==0.10.0", "jaxlib==0.10.0")
"""What pyproject.toml says is enough."""


def check(session: nox.Session, *versions: str) -> None:
    """Install with these versions, see what runs, and run the tests, or those that are named after ``--``."""
    session.install("-e", ".[dev]", *versions)
    session.run("spikegrad", "doctor")
    session.run("pytest", *session.posargs)


@nox.session(python=["3.11"])
def oldest(session: nox.Session) -> None:
    """The lowest versions of what computes."""
    check(session, *OLDEST)


@nox.session(python=["3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """The highest, whatever constraints.txt says."""
    check(session)
