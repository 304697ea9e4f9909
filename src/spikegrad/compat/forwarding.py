"""What a peer has and its compatible package does not: found in the peer itself, where it is installed, under the package's name.

``spikegrad.compat.snntorch.spikegen`` is ``snntorch.spikegen``, the same module, also in ``from … import`` and ``import … as``. The peer is
imported when the first of its names is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Peer:
    """Where a module looks for the names that it does not have itself.

    Args:
        here: the module's own name; of a package, submodules are forwarded, too.
        theirs: the peer's module.
        whose: the peer's name in words.
        modules: its submodules that are public.
    """

    def __init__(self, here: str, theirs: str, whose: str, modules: Sequence[str] = ()) -> None:
        self.here, self.theirs, self.whose, self.modules = here, theirs, whose, modules
        sys.meta_path.insert(0, _Submodules(self))  # before the finder of files, which would load a peer's file a second time

    def attribute(self, name: str) -> Any:
        """The peer's own, for the `__getattr__` of a module.

        Raises:
            AttributeError: the peer does not have it, or is not installed.
        """
        if name == "__all__":
            return self.names()
        # Attributes are asked for to find out whether they are there: what is private or missing may raise nothing but AttributeError.
        if name.startswith("_") and name != "__version__":
            raise AttributeError(f"module {self.here!r} has no attribute {name!r}")
        if not self.is_installed():
            raise AttributeError(self._missing(name))
        peer = importlib.import_module(self.theirs)
        if hasattr(peer, name):
            return getattr(peer, name)
        if _exists(f"{self.theirs}.{name}"):
            return self.submodule(f"{self.theirs}.{name}")
        version = getattr(sys.modules[self.theirs.partition(".")[0]], "__version__", "")
        raise AttributeError(f"neither {self.here} nor {self.theirs} of {self.whose} {version}".rstrip() + f" has {name!r}")

    def submodule(self, name: str) -> ModuleType:
        """A module of the peer."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{name} needs {error.name}, which is not installed", name=error.name) from error

    def names(self) -> list[str]:
        """What ``from … import *`` imports, and `dir` shows: the module's own names, and the peer's where it is installed."""
        listed = {name: getattr(value, "__module__", None) for name, value in vars(sys.modules[self.here]).items() if name[0] != "_"}
        own = {*self.modules, *(name for name, module in listed.items() if str(module).startswith(self.here))}
        if not self.is_installed():
            return sorted(own)
        peer = importlib.import_module(self.theirs)
        return sorted(own | {name for name in getattr(peer, "__all__", dir(peer)) if name[0] != "_"})

    def is_installed(self) -> bool:
        """Whether the peer can be imported."""
        return _exists(self.theirs.partition(".")[0])

    def require(self, name: str) -> None:
        """Raise an error that says why nothing can be imported from the peer, unless it is installed."""
        if not self.is_installed():
            raise ModuleNotFoundError(self._missing(name), name=self.theirs.partition(".")[0])

    def _missing(self, name: str) -> str:
        project = self.theirs.partition(".")[0]
        return (
            f"{self.here} has no {name!r} of its own and takes it from {self.whose}, which is not installed; pip install {project.lower()}"
        )


class _Submodules(MetaPathFinder, Loader):
    """Finds modules below a compatible package that are the peer's."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent, below, name = fullname.partition(f"{self.peer.here}.")
        if parent or not below or any(part.startswith("_") for part in name.split(".")):
            return None
        if "." not in name and PathFinder.find_spec(fullname, path) is not None:
            return None  # a file of ours
        self.peer.require(name)
        if not _exists(f"{self.peer.theirs}.{name}"):
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty one, in whose place comes the peer's."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = self.peer.submodule(self.peer.theirs + module.__name__.removeprefix(self.peer.here))


def _exists(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None  # pyright: ignore[reportUnnecessaryComparison] # None is how an import is forbidden
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is no package, or its spec is unset
        return False
