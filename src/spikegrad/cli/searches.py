"""The options of ``spikegrad compare`` and ``spikegrad tune``."""

from __future__ import annotations

from typing import Any

from spikegrad.cli.options import Commands, Once, add_settings, number_of, text_of

COMPARE = """Train every combination of surrogates, slopes, neurons, learning rates and seeds, each in one thread.

Lists are given with commas. What was killed goes on when the same command is started again; started twice, or on several machines that
share the folder, the commands share the work. A table, results.csv and pictures say what came out."""

TUNE = """Search the best surrogate, slope, learning rate, time constants and sizes with Optuna.

A range is LOW:HIGH, a number fixes what it is for, and off leaves it as it is configured. What was killed goes on when the same command is
started again; started twice on one folder, or on several machines with one --storage, the commands share the study. Trials that lag
behind the others are pruned."""


def add_compare(commands: Commands) -> None:
    """Add ``compare``."""
    parser = commands.add_parser(
        "compare", help="which surrogate, slope, neuron and learning rate to take on some data", description=COMPARE
    )
    group = parser.add_argument_group("comparison")
    lists = {
        "--surrogates": ("NAMES", "surrogates, as in ATan,FastSigmoid (ATan)"),
        "--slopes": ("X,X", "slopes, or 1 / widths, in 1 / potential (the surrogates' own)"),
        "--neurons": ("NAMES", "kinds of neurons (leaky)"),
        "--lrs": ("X,X", "learning rates (0.004)"),
        "--seeds": ("N,N", "seeds of weights, order and noise (0)"),
        "--out": ("FOLDER", "the folder (comparisons/<data>-<hash>); one of the same comparison is continued, by --out alone, too"),
    }
    for flag, (metavar, help) in lists.items():
        group.add_argument(flag, metavar=metavar, action=Once, type=text_of, help=help)
    group.add_argument("--jobs", metavar="N", action=Once, type=number_of(int), help="processes that train (one for each core)")
    group.add_argument("--preset", metavar="NAME", action=Once, type=text_of, help="a published comparison: zenke-vogels-2021")
    group.add_argument(
        "--check", action="store_true", help="say of each finding of the preset whether it holds, with exit code 1 if not all"
    )
    group.add_argument("--quick", action="store_true", help="the preset with fewer samples and settings")
    add_settings(
        parser, {"comparison": group}, without=("surrogate", "neuron", "model", "lr", "seed", "threads", "devices", "num_nodes", "strategy")
    )

    def call(**options: Any) -> int:
        from spikegrad.cli.comparing import compare

        return compare(**options)

    parser.set_defaults(call=call)


def add_tune(commands: Commands) -> None:
    """Add ``tune``."""
    parser = commands.add_parser("tune", help="search the best surrogate, slope, learning rate, time constants and sizes", description=TUNE)
    group = parser.add_argument_group("search")
    given = {
        "--surrogates": ("NAMES", "surrogates (ATan,FastSigmoid,Sigmoid,Triangle)"),
        "--slope": ("RANGE", "slope or 1 / width, in 1 / potential (0.5:50)"),
        "--lr": ("RANGE", "learning rate (3e-4:3e-2)"),
        "--tau": ("RANGE", "time constant of the potential in steps, also of the readout (2:50)"),
        "--tau-syn": ("RANGE", "time constant of the synaptic current in steps, for neurons that have one (1:20)"),
        "--size": ("RANGE", "neurons of each hidden layer, of which there are as many as --hidden has (32:512)"),
        "--out": ("FOLDER", "the folder (tunings/<data>); one of the same study is continued, by --out alone, too"),
        "--storage": ("URL", "the database, as in postgresql+psycopg://user@host/name (SQLite in the folder)"),
        "--study": ("NAME", "the study's name in the database (spikegrad)"),
    }
    for flag, (metavar, help) in given.items():
        group.add_argument(flag, metavar=metavar, action=Once, type=text_of, help=help)
    group.add_argument("--trials", metavar="N", action=Once, type=number_of(int), help="trials in all, by whoever shares the study (50)")
    group.add_argument("--jobs", metavar="N", action=Once, type=number_of(int), help="processes that train (one for each core)")
    without = ("surrogate", "lr", "alpha", "beta", "threads", "devices", "num_nodes", "strategy", "pictures")
    add_settings(parser, {"search": group}, without)

    def call(**options: Any) -> int:
        from spikegrad.cli.comparing import tune

        return tune(**options)

    parser.set_defaults(call=call)
