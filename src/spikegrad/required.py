"""What the class of a formula must have: the methods that are called, and structure that can be found again."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence


def unwritten(cls: type, base: type, needed: str) -> tuple[str, ...]:
    """The methods that a class leaves to its subclasses: what it needs and `base` has not, and all that are marked as abstract."""
    abstract = [name for name in dir(cls) if getattr(inspect.getattr_static(cls, name, None), "__isabstractmethod__", False)]
    missing = getattr(cls, needed, None) is getattr(base, needed, None)
    return tuple(dict.fromkeys([*[needed] * missing, *abstract]))


def written(cls: type, names: Sequence[str], needed: str) -> None:
    """Raise a TypeError if a class leaves methods to its subclasses; `needed` is how the one is written that it needs in any case."""
    if names:
        what = " and ".join(f"`{needed if needed.startswith(f'{name}(') else f'{name}(self, ...)'}`" for name in names)
        raise TypeError(f"{cls.__name__} does not define {what}: it is abstract; derive a class from it that does")


def hashable(cls: type, structure: Hashable) -> None:
    """Raise a TypeError if the structure of a formula cannot be found again."""
    try:
        hash(structure)
    except TypeError as error:
        raise TypeError(
            f"{cls.__name__}: a field that is no number is structure, and its value needs a hash: {error}; give a tuple in place of a list"
        ) from None
