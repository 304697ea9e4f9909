"""Objects of ours that `isinstance` takes for a peer's, so that the peer's own tools see them.

`isinstance` asks an object for its `__class__` where its type does not say enough. What it gets is a class that is both: the object's own
type, and the peer's class of the same name, as soon as the peer has been imported. Nothing of the peer is changed, and it is not imported.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar, SupportsIndex, TypeVar

T = TypeVar("T")


class Alike:
    """Base class of objects that count as the peer's of the same name.

    A subclass of a user counts as what it is derived from. `type` tells ours from theirs.
    """

    PEER: ClassVar[str]
    """The peer's module that has the classes."""

    @property
    def __class__(self) -> Any:
        """The class, which is the peer's, too, once there is a peer."""
        cls, own = like(type(self), self.PEER), type(self)
        if cls is not own:
            self._recognised(cls)
        return cls

    @__class__.setter
    def __class__(self, value: type) -> None:
        # Who puts back a `__class__` that he saw, as `torch.nn.utils.parametrize` does, means the type behind it.
        object.__dict__["__class__"].__set__(self, vars(value).get("_of_ours", value))

    def _recognised(self, cls: Any) -> None:
        """Called with the class that is both, when somebody sees it."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        # Pickle compares `__class__` with the type that it would call by itself.
        return _blank, (type(self),), self.__getstate__()


def like(cls: type, peer: str) -> type:
    """A class that is `cls` and the peer's class of its name, or of that of its nearest ancestor among ours; `cls` if there is none."""
    module = sys.modules.get(peer)
    if module is None:
        return cls
    package = Alike.__module__.rpartition(".")[0]
    for ours in cls.__mro__:
        theirs = getattr(module, ours.__name__, None) if ours.__module__.startswith(package) else None
        if isinstance(theirs, type):
            return cls if issubclass(cls, theirs) else _both(cls, theirs)
    return cls


def _both(cls: Any, theirs: type) -> type:
    known = vars(cls).get("_both", {})
    if theirs not in known:
        blank: Any = cls.__new__

        def __new__(made: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            # ``obj.__class__(...)``, which `dataclasses.replace` does, makes one of ours, which its own constructor has then set up.
            return cls(*args, **kwargs) if made is both else blank(made)

        names = {"__new__": __new__, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        both = type(cls.__name__, (cls, theirs), {**names, "_of_ours": cls})
        known = {**known, theirs: both}
        cls._both = known  # the class keeps it, so that both are forgotten with it
    return known[theirs]


def _blank(cls: type[T]) -> T:
    return cls.__new__(cls)
