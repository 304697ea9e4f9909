"""What the recording of a network is made of: operations, and the flow of tensors between them."""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

Tree = Any
"""Tensors, or what stands for them, nested in tuples, lists, dicts and slices among anything else."""


class FusionError(ValueError):
    """A network cannot be turned into whole-sequence calls; the message says where and why."""


class Out(NamedTuple):
    """A tensor that a recording knows: one output of one of its nodes."""

    node: Node
    output: int = 0


class Named(NamedTuple):
    """A parameter or buffer, by where it is kept: what is kept there may be replaced."""

    owner: nn.Module
    name: str


class Constant(NamedTuple):
    """Any other tensor that was there before."""

    value: Tensor


@dataclass(eq=False)
class Node:
    """One recorded operation.

    Attributes:
        target: a function, a module, or the name of an input.
        args: its arguments, with `Out`, `Named` and `Constant` in place of tensors.
        kwargs: likewise.
        where: file and line of the user's code.
        grad: whether gradients were being recorded.
        random: whether it drew random numbers.
        before: of a spiking layer: the call that left the states of this one.
        start: if there is none: the states by name, rest if left out.
    """

    target: Any
    args: Tree = ()
    kwargs: Mapping[str, Tree] = field(default_factory=dict[str, Tree])
    where: tuple[str, int] | None = None
    grad: bool = True
    random: bool = False
    before: Node | None = None
    start: Mapping[str, Out | Named | Constant] = field(default_factory=dict[str, "Out | Named | Constant"])

    def place(self) -> str:
        """Where in the user's code this is, for a message."""
        if self.where is None:
            return ""
        name, line = self.where
        text = linecache.getline(name, line).strip()
        return f" ({os.path.basename(name)}:{line}{f': `{text}`' if text else ''})"


def over(tree: Tree, leaf: Callable[[Tree], Tree]) -> Tree:
    """The same tree with each tensor, or what stands for one, replaced."""
    if isinstance(tree, Tensor | Out | Named | Constant):
        return leaf(tree)
    if isinstance(tree, tuple | list):
        parts = [over(part, leaf) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {key: over(part, leaf) for key, part in tree.items()}
    if isinstance(tree, slice):
        return slice(over(tree.start, leaf), over(tree.stop, leaf), over(tree.step, leaf))
    return tree


def leaves(tree: Tree) -> list[Tree]:
    """All tensors of a tree, or what stands for them."""
    found: list[Tree] = []
    over(tree, found.append)
    return found


@dataclass(eq=False)
class Recording:
    """All operations of a run, and what it returned."""

    inputs: list[Node]
    nodes: list[Node]
    result: Tree


def refused(root: nn.Module, why: str, node: Node | None, instead: str = "") -> FusionError:
    """The error that says why a network cannot be fused, where, and what to do."""
    return FusionError(f"cannot fuse {type(root).__name__}: {why}{node.place() if node else ''}{f'; {instead}' if instead else ''}")
