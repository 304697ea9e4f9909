"""Options of commands: each setting of a run as one, and values that are given once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from spikegrad.errors import InputError
from spikegrad.training.config import Config

FLAGS = {"parameters": "--set", "batch": "--batch-size"}
"""Options that are not named like their setting."""
METAVARS = {
    "parameters": "NAME=VALUE",
    "data": "NAME|FILE",
    "hidden": "N,N",
    "sensor": "N,N",
    "model": "FILE:FUNCTION",
    "neuron": "NAME|FILE:CLASS",
    "learn": "NAMES",
    "surrogate": "NAME",
    "devices": "N",
}
N = TypeVar("N", int, float)


class Commands(Protocol):
    """Where a command is added."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser: ...  # noqa: D102


def add_settings(parser: argparse.ArgumentParser, groups: dict[str, Any], without: Collection[str] = ()) -> None:
    """All settings of `Config` but some, in their groups."""
    for entry in dataclasses.fields(Config):
        title = entry.metadata["group"].lower()
        if entry.name in without:
            continue
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_setting(groups[title].add_argument, entry)


def add_setting(add: Callable[..., argparse.Action], entry: dataclasses.Field[Any]) -> None:
    """One setting of `Config` as an option; its default is filled in there, so that a file's settings are told from it."""
    kind, limits, default = str(entry.type).removesuffix(" | None"), entry.metadata, entry.default
    flag = FLAGS.get(entry.name, "--" + entry.name.replace("_", "-"))
    shown = "" if default in (None, (), "", dataclasses.MISSING) else f" ({default})"
    if isinstance(default, tuple) and default:
        shown = f" ({','.join(map(str, default))})"
    help = (limits["help"][:1].lower() if limits["help"][1:2].islower() else limits["help"][:1]) + limits["help"][1:].rstrip(".")
    if kind == "bool":
        add(flag, action=OnceOrNot, default=None, help=f"{help} ({'on' if default else 'off'})")
        return
    numbers = {"int": int, "float": float}
    metavar = METAVARS.get(entry.name, {"int": "N", "float": "X"}.get(kind, "KIND"))
    choices = limits.get("choices", ())
    if not all(choice in help for choice in choices):
        help += f": {', '.join(choices[:-1])} or {choices[-1]}"
    help = f"{help}{shown}".replace("%", "%%")
    if entry.name == "parameters":
        add(flag, dest=entry.name, metavar=metavar, help=help, action="append")
        return
    add(flag, dest=entry.name, metavar=metavar, help=help, action=Once, type=number_of(numbers[kind]) if kind in numbers else text_of)


class Once(argparse.Action):
    """An option that is given once, or each time alike: which of two values was meant nobody knows."""

    def __call__(  # noqa: D102
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        if (before := getattr(namespace, self.dest)) not in (None, values):
            raise InputError(f"{option_string} is given twice, as {before} and as {values}; leave out one")
        setattr(namespace, self.dest, values)


class OnceOrNot(argparse.BooleanOptionalAction):
    """Likewise an option that can be switched on and off."""

    def __call__(  # noqa: D102
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        super().__call__(parser, namespace, values, option_string)
        if before not in (None, getattr(namespace, self.dest)):
            raise InputError(f"{' and '.join(self.option_strings)} contradict each other; leave out one")


def text_of(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def number_of(kind: type[N]) -> Callable[[str], N]:
    """What reads a number of a kind."""

    def read(text: str) -> N:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a {'whole ' if kind is int else ''}number, got {text!r}") from None

    return read
