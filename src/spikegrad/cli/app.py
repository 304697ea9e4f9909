"""The commands and their options, and how mistakes in them are told."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from spikegrad.errors import InputError, meant
from spikegrad.training.config import Config

FLAGS = {"parameters": "--set", "batch": "--batch-size"}
"""Options that are not named like their setting."""
METAVARS = {
    "parameters": "NAME=VALUE",
    "data": "NAME|FILE",
    "hidden": "N,N",
    "neuron": "NAME|FILE:CLASS",
    "learn": "NAMES",
    "surrogate": "NAME",
    "devices": "N",
}
TRAIN = """Train a spiking network; with no options, on handwritten digits.

A run leaves a folder with its configuration, metrics, checkpoint, best weights and pictures. The best weights are those of the
epoch with the highest accuracy on the validation samples; the test samples are looked at once, at the end."""


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit code.

    Raises:
        InputError: the command or an option is unknown or wrong.
    """
    parser = _Parser(
        prog="spikegrad", description="Train spiking neural networks, and see the neurons and the surrogate gradients they are made of."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", prog="spikegrad")
    for add in (_train, _evaluate, _list, _show, _plot):
        add(commands)
    parser.commands = commands.choices
    options = vars(parser.parse_args(arguments))
    if options.pop("version"):
        from importlib.metadata import version

        print(f"spikegrad {version('spikegrad')}")
        return 0
    call: Callable[..., int] | None = options.pop("call", None)
    if call is None:
        parser.print_help()
        return 0
    return call(**options)


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, with the name that was probably meant."""

    commands: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=_Formatter)
        self.commands = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Name an unknown command or option before anything else is looked at."""
        words = [word for word in args or () if not word.startswith("-")]
        if self.commands and words and words[0] not in self.commands:
            raise InputError(f"no such command {words[0]!r}{meant(words[0], self.commands)}")
        for word in args or ():
            option = word.partition("=")[0]
            if not self.commands and option.startswith("--") and option not in self._option_string_actions:
                near = meant(option, self._option_string_actions)
                raise InputError(f"no such option {option}{near if 'did you mean' in near else f'; see {self.prog} --help'}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Mistakes as an exception."""
        raise InputError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=min(shutil.get_terminal_size().columns, 110))

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Long usages say nothing: the options are listed below."""
        positional = [action for action in actions if not action.option_strings]
        words = ["[options]" if len(positional) < len(list(actions)) else ""]
        for action in positional:
            words.append(f"{action.metavar} ..." if action.nargs in ("+", argparse.PARSER) else str(action.metavar))
        super().add_usage(usage or f"{self._prog} {' '.join(filter(None, words))}", actions, groups, prefix)


def _train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a network; with no options, on handwritten digits", description=TRAIN)
    group = parser.add_argument_group("run")
    group.add_argument("--out", metavar="FOLDER", help="the new folder; runs/<data>-<number> by default; it must not exist")
    group.add_argument("--resume", metavar="RUN", help="continue the run in this folder; with --epochs also beyond its end")
    group.add_argument("--config", metavar="FILE", help="settings from a JSON file, such as a run's config.json; options beside it win")
    groups: dict[str, Any] = {}
    for entry in dataclasses.fields(Config):
        title = entry.metadata["group"].lower()
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_setting(groups[title], entry)

    def call(**options: Any) -> int:
        from spikegrad.cli.training import train

        return train(**options)

    parser.set_defaults(call=call)


def _add_setting(group: Any, entry: dataclasses.Field[Any]) -> None:
    """One setting of `Config` as an option; its default is filled in there, so that a file's settings are told from it."""
    kind, limits, default = str(entry.type).removesuffix(" | None"), entry.metadata, entry.default
    flag = FLAGS.get(entry.name, "--" + entry.name.replace("_", "-"))
    shown = "" if default in (None, (), dataclasses.MISSING) else f" ({default})"
    if isinstance(default, tuple) and default:
        shown = f" ({','.join(map(str, default))})"  # pyright: ignore[reportUnknownArgumentType]
    help = (limits["help"][:1].lower() if limits["help"][1:2].islower() else limits["help"][:1]) + limits["help"][1:].rstrip(".")
    if kind == "bool":
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=f"{help} ({'on' if default else 'off'})")
        return
    numbers = {"int": int, "float": float}
    metavar = METAVARS.get(entry.name, {"int": "N", "float": "X"}.get(kind, "KIND"))
    if choices := limits.get("choices"):
        help += f"{'' if help.endswith('of its') else ':'} {', '.join(choices[:-1])} or {choices[-1]}"
    options: dict[str, Any] = (
        {"action": "append"} if entry.name == "parameters" else {"type": _number(numbers[kind]) if kind in numbers else str}
    )
    group.add_argument(flag, dest=entry.name, metavar=metavar, help=f"{help}{shown}".replace("%", "%%"), **options)


def _number(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a {'whole ' if kind is int else ''}number, got {text!r}") from None

    return read


def _evaluate(commands: Any) -> None:
    said = "accuracy, firing rates and confusions of a run's best weights on its test samples"
    parser = commands.add_parser("evaluate", help=said, description=said.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--data", metavar="NAME|FILE", help="other data, of which every sample is used")

    def call(**options: Any) -> int:
        from spikegrad.cli.training import evaluate

        return evaluate(**options)

    parser.set_defaults(call=call)


def _list(commands: Any) -> None:
    said = "all surrogates with their facts, and all neurons"
    parser = commands.add_parser("list", help=said, description=said.capitalize() + ".")

    def call() -> int:
        from spikegrad.cli.catalogue import list_all

        return list_all()

    parser.set_defaults(call=call)


def _show(commands: Any) -> None:
    said = "one surrogate or neuron: formula, facts, sources, names elsewhere"
    parser = commands.add_parser("show", help=said, description=said.capitalize() + ".")
    parser.add_argument("name", metavar="NAME", help="a surrogate or a neuron, as ATan, 'Adaptive(beta=0.8)' or file.py:Class")
    parser.add_argument("--source", metavar="LANGUAGE", help="print instead what runs, as source: numba, triton or javascript")
    parser.add_argument(
        "--of", metavar="PART", help="of which part: forward or backward of a neuron, derivative or primitive of a surrogate"
    )

    def call(**options: Any) -> int:
        from spikegrad.cli.catalogue import show

        return show(**options)

    parser.set_defaults(call=call)


def _plot(commands: Any) -> None:
    said = "draw the curves of surrogates for comparison, or the response of a neuron to current"
    parser = commands.add_parser("plot", help=said, description=said.capitalize() + ".")
    parser.add_argument("names", metavar="NAME", nargs="+", help="surrogates or one neuron, as ATan, 'Adaptive(beta=0.8)' or file.py:Class")
    parser.add_argument("--out", metavar="FILE", help="the picture: .png, .svg or .pdf (curves.png, or response.png)")
    parser.add_argument(
        "--match-half-width", action="store_true", help="bring all to the half width and peak of the first: compare shapes, not scales"
    )

    def call(**options: Any) -> int:
        from spikegrad.cli.catalogue import plot

        return plot(**options)

    parser.set_defaults(call=call)
