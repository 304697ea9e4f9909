"""The commands and their options, and how mistakes in them are told."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from spikegrad.cli.options import Commands, Once, add_settings, number_of, text_of
from spikegrad.cli.searches import add_compare, add_tune
from spikegrad.errors import InputError, meant

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
    for add in (_train, _evaluate, _predict, _diagnose, add_compare, add_tune, _quantize, _list, _show, _plot, _explore, _doctor):
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

    commands: Mapping[str, argparse.ArgumentParser]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=_Formatter)
        self.commands = {}

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
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


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=min(shutil.get_terminal_size().columns, 110))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs, filled one by one."""
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None = None) -> None:
        """Long usages say nothing: the options are listed below."""
        positional = [action for action in actions if not action.option_strings]
        words = ["[options]" if len(positional) < len(list(actions)) else ""]
        for action in positional:
            words.append(f"{action.metavar} ..." if action.nargs in ("+", argparse.PARSER) else str(action.metavar))
        super().add_usage(usage or f"{self._prog} {' '.join(filter(None, words))}", actions, groups, prefix)


def _train(commands: Commands) -> None:
    parser = commands.add_parser("train", help="train a network; with no options, on handwritten digits", description=TRAIN)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--out", metavar="FOLDER", action=Once, type=text_of, help="the new folder; runs/<data>-<number> by default; it must not exist"
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        action=Once,
        type=text_of,
        help="continue the run in this folder; with --epochs also beyond its end, with --data where its file has moved",
    )
    said = "settings from a JSON file, such as a run's config.json; options beside it win"
    group.add_argument("--config", metavar="FILE", action=Once, type=text_of, help=said)
    said = "say before and after training what is wrong with the network, if anything is"
    group.add_argument("--diagnose", action="store_true", help=said)
    add_settings(parser, {"run": group})

    def call(**options: Any) -> int:
        from spikegrad.cli.training import train

        return train(**options)

    parser.set_defaults(call=call)


def _evaluate(commands: Commands) -> None:
    said = "accuracy, firing rates and confusions of a run's best weights on its test samples"
    parser = commands.add_parser("evaluate", help=said, description=said.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", type=text_of, help="folder of a run")
    parser.add_argument("--data", metavar="NAME|FILE", action=Once, type=text_of, help="other data, of which every sample is used")
    said = "also what it costs where zeros are skipped: operations, updates, memory and sparsity of every layer"
    parser.add_argument("--cost", action="store_true", help=said)
    _add_model(parser)

    def call(**options: Any) -> int:
        from spikegrad.cli.training import evaluate

        return evaluate(**options)

    parser.set_defaults(call=call)


def _diagnose(commands: Commands) -> None:
    said = "why a run does not learn: firing, potentials and gradients of every layer, the likely cause and what to try"
    parser = commands.add_parser("diagnose", help=said, description=said.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", type=text_of, help="folder of a run, which is given diagnosis.json and a picture")

    def call(run: str) -> int:
        from spikegrad.cli.training import diagnose

        return diagnose(run)

    parser.set_defaults(call=call)


def _quantize(commands: Commands) -> None:
    said = "what few bits for weights and states, as on a chip, do to a run's accuracy and spikes"
    parser = commands.add_parser("quantize-report", help=said, description=said.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", type=text_of, help="folder of a run, which is given quantize.json and a picture")
    for name, default, of in (("--weights", (8, 4, 2), "a weight, its sign included"), ("--states", (16, 12, 8), "a state, likewise")):
        shown = ",".join(map(str, default))
        parser.add_argument(name, metavar="N,N", action=Once, type=_bits, default=None, help=f"bits of {of} ({shown})")
    _add_model(parser)

    def call(run: str, weights: tuple[int, ...] | None, states: tuple[int, ...] | None, model: str | None) -> int:
        from spikegrad.cli.training import quantize

        return quantize(run, weights or (8, 4, 2), states or (16, 12, 8), model)

    parser.set_defaults(call=call)


def _bits(text: str) -> tuple[int, ...]:
    read = number_of(int)
    return tuple(dict.fromkeys(read(each) for each in text.split(",")))


def _predict(commands: Commands) -> None:
    said = "what a run's best weights answer to each sample of a file, with or without labels"
    parser = commands.add_parser("predict", help=said, description=said.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", type=text_of, help="folder of a run")
    parser.add_argument("data", metavar="FILE", type=text_of, help="data as for train, or samples without labels: .npz with x, .npy, .bin")
    parser.add_argument(
        "--out", metavar="FILE", action=Once, type=text_of, help="a new .csv file for the answers and scores of all samples"
    )
    _add_model(parser)

    def call(**options: Any) -> int:
        from spikegrad.cli.training import predict

        return predict(**options)

    parser.set_defaults(call=call)


def _add_model(parser: argparse.ArgumentParser) -> None:
    said = "the run's own network, whose file has moved or changed and is to be taken as it is"
    parser.add_argument("--model", metavar="FILE:FUNCTION", action=Once, type=text_of, help=said)


def _list(commands: Commands) -> None:
    said = "all surrogates with their facts, and all neurons"
    parser = commands.add_parser("list", help=said, description=said.capitalize() + ".")

    def call() -> int:
        from spikegrad.cli.catalogue import list_all

        return list_all()

    parser.set_defaults(call=call)


def _show(commands: Commands) -> None:
    said = "one surrogate or neuron: formula, facts, sources, names elsewhere"
    parser = commands.add_parser("show", help=said, description=said.capitalize() + ".")
    named = "a surrogate or a neuron, as ATan, 'Adaptive(0.8, jump=0.2)' or file.py:Class"
    parser.add_argument("name", metavar="NAME", type=text_of, help=named)
    language = "print instead what runs, as source: numba, triton or javascript"
    parser.add_argument("--source", metavar="LANGUAGE", action=Once, type=text_of, help=language)
    part = "of which part: forward or backward of a neuron, derivative or primitive of a surrogate"
    parser.add_argument("--of", metavar="PART", action=Once, type=text_of, help=part)

    def call(**options: Any) -> int:
        from spikegrad.cli.catalogue import show

        return show(**options)

    parser.set_defaults(call=call)


def _plot(commands: Commands) -> None:
    said = "draw the curves of surrogates for comparison, or the response of a neuron to current"
    parser = commands.add_parser("plot", help=said, description=said.capitalize() + ".")
    named = "surrogates or one neuron, as ATan, 'Adaptive(0.8, jump=0.2)' or file.py:Class"
    parser.add_argument("names", metavar="NAME", nargs="+", type=text_of, help=named)
    parser.add_argument(
        "--out", metavar="FILE", action=Once, type=text_of, help="the picture: .png, .svg or .pdf (curves.png, or response.png)"
    )
    parser.add_argument(
        "--match-half-width", action="store_true", help="bring all to the half width and peak of the first: compare shapes, not scales"
    )

    def call(**options: Any) -> int:
        from spikegrad.cli.catalogue import plot

        return plot(**options)

    parser.set_defaults(call=call)


def _doctor(commands: Commands) -> None:
    said = "what is installed, which implementations run here, and whether they run right: the text for a report of a bug"
    parser = commands.add_parser("doctor", help=said, description=said.capitalize() + ".")
    parser.add_argument("--benchmark", action="store_true", help="time the fused kernels against the plain loop, too, about 20 seconds")

    def call(benchmark: bool) -> int:
        from spikegrad import doctor

        found = doctor.examine(timed=benchmark)
        print(found)
        return 0 if found.healthy else 1

    parser.set_defaults(call=call)


def _explore(commands: Commands) -> None:
    said = "a page for the browser: every surrogate and neuron with sliders, spikes, phase planes and gradients through time"
    parser = commands.add_parser("explore", help=said, description=said.capitalize() + ". It needs no server and no network.")
    named = "the page, a new file or an older page; spikegrad-explore.html by default"
    parser.add_argument("page", metavar="PAGE.html", nargs="?", default="spikegrad-explore.html", type=text_of, help=named)
    parser.add_argument("--open", action="store_true", help="show it in the browser")

    def call(**options: Any) -> int:
        from spikegrad.cli.catalogue import explore

        return explore(**options)

    parser.set_defaults(call=call)
