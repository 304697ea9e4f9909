"""``spikegrad train``, ``spikegrad evaluate`` and ``spikegrad predict``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from spikegrad.errors import InputError
from spikegrad.training.config import Config
from spikegrad.training.named import named, neuron_class, parsed, settable, value

if TYPE_CHECKING:
    from rich.console import Console

    from spikegrad.training.measure import Measurement
    from spikegrad.training.run import Outcome


def train(**options: Any) -> int:
    """Turn options into a configuration, train, and tell what came out."""
    resumed, out, config_file, examined = (options.pop(name) for name in ("resume", "out", "config", "diagnose"))
    given = {name: parsed_setting(name, each) for name, each in options.items() if each not in (None, [], ())}
    if resumed is not None and (out is not None or config_file is not None):
        raise InputError(f"--resume continues {resumed} where it is, as it was configured; leave out --out and --config")
    if resumed is not None:
        return _resume(resumed, given, examined)
    config = Config.read(config_file) if config_file is not None else Config()
    config = config.changed(**_over(config, given))
    if not config.rate_weight and (idle := [name for name in ("rate_lower", "rate_upper") if name in given]):
        raise InputError(f"--{idle[0].replace('_', '-')} bounds nothing without a weight; give --rate-weight, as in --rate-weight 1")
    from spikegrad.data.source import check_name
    from spikegrad.training.folder import Run, first_process

    check_name(config.data)
    if out is not None and first_process():
        Run.check(out)
    console = console_of()
    if examined and first_process():
        from spikegrad.training.examine import examine_start

        console.print("[bold]before training[/]", examine_start(config), "", sep="\n")
    from spikegrad.training.run import train as start

    return _told(start(config, out, console=console), console, examined)


def _over(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """What the command line says, without what the configuration says of the same in another way: a number may be a setting or a parameter.

    What was set of a neuron or of a surrogate is left behind with it.
    """
    name, by_position, by_name = parsed(given.get("neuron", ""))
    spike, *of_spike = parsed(given.get("surrogate", ""))
    kind = neuron_class(name) if name else type(config.cell)
    left = {"neuron"} if kind is not type(config.cell) or by_position or by_name else set[str]()
    left |= {"surrogate"} if spike not in ("", type(config.spike).__name__) or any(of_spike) else set()
    told = {*given, *given.get("parameters", ()), *named(kind, by_position, by_name)}
    for each in [*told]:  # a number that only the surrogate has goes by two names
        plain = each.removeprefix("spike.")
        told |= {plain, f"spike.{plain}"} if plain not in settable(kind) else set()
    kept = {each: x for each, x in config.parameters.items() if each not in told and config.owner(each) not in left}
    unused = {"alpha", "threshold", "reset"} - {*settable(kind)} if kind is not type(config.cell) else set[str]()
    unused |= told & {"alpha", "beta", "threshold", "reset"}
    return {**dict.fromkeys(unused), **given, "parameters": kept | given.get("parameters", {})}


def _resume(path: str, given: dict[str, Any], examined: bool) -> int:
    from spikegrad.training.folder import Run

    Config.read(Run.open(path).path / "config.json").changed(**given)
    console = console_of()
    from spikegrad.training.run import resume

    return _told(resume(path, console=console, **given), console, examined)


def _told(outcome: Outcome, console: Console, examined: bool) -> int:
    """What came out, and if asked why."""
    code = _tell(outcome, console)
    if examined and not code and outcome.test is not None:
        console.print("\n[bold]after training[/]")
        _examine(str(outcome.run.path), console)
    return code


def diagnose(run: str) -> int:
    """Why a run does not learn, on the terminal and in its folder."""
    from spikegrad.training.folder import Run

    Run.open(run)
    _examine(run, console_of())
    return 0


def _examine(path: str, console: Console) -> None:
    import json

    from spikegrad import plots
    from spikegrad.training.examine import examine
    from spikegrad.training.folder import Run

    found, course = examine(path)
    console.print(found)
    console.print()
    for sentence in course:
        console.print(sentence, soft_wrap=True)
    run = Run.open(path)
    run.write("diagnosis.json", json.dumps({**found.to_dict(), "course": course}, indent=2) + "\n")
    drawn = Config.read(run.path / "config.json").pictures
    picture = run.path / f"diagnosis.{'png' if drawn == 'none' else drawn}"
    figure = found.figure()
    run.replace(picture, lambda new: plots.write(figure, new, picture.suffix[1:]))
    console.print(f"[dim]{run.path / 'diagnosis.json'}  {picture.name}[/]", soft_wrap=True)


def quantize(run: str, weights: tuple[int, ...], states: tuple[int, ...], model: str | None) -> int:
    """What few bits do to a run, on the terminal and in its folder."""
    import json

    from spikegrad.training.folder import Run

    opened = Run.open(run)
    console = console_of()
    from spikegrad import plots
    from spikegrad.training.quantizing import quantize_report

    found = quantize_report(run, weights, states, model=model)
    console.print(found)
    opened.write("quantize.json", json.dumps(found.to_dict(), indent=2) + "\n")
    drawn = Config.read(opened.path / "config.json").pictures
    picture = opened.path / f"quantize.{'png' if drawn == 'none' else drawn}"
    figure = found.figure()
    opened.replace(picture, lambda new: plots.write(figure, new, picture.suffix[1:]))
    console.print(f"[dim]{opened.path / 'quantize.json'}  {picture.name}[/]", soft_wrap=True)
    return 0


def evaluate(run: str, data: str | None, model: str | None, cost: bool) -> int:
    """Accuracy, firing rates and confusions of a run's best weights on its test samples, and what they cost."""
    from spikegrad.data.source import check_name
    from spikegrad.training.folder import Run

    Run.open(run)
    if data is not None:
        check_name(data)
    console = console_of()
    from spikegrad.training.answers import evaluate as start

    measured = start(run, data, model=model)
    _tell_measurement(console, measured, "test accuracy" if data is None else "accuracy")
    _tell_confusion(console, measured)
    if cost:
        from spikegrad.training.answers import evaluate_cost

        console.print()
        console.print(evaluate_cost(run, data, model=model))
    return 0


def predict(run: str, data: str, out: str | None, model: str | None) -> int:
    """What a run's best weights answer: a line for each of few samples, how often each class for many; all of them in a file."""
    from pathlib import Path

    from spikegrad.training.folder import Run

    opened = Run.open(run)
    if out is not None and Path(out).suffix != ".csv":
        raise InputError(f"--out must end in .csv, got {out!r}")
    if out is not None and Path(out).exists():
        raise InputError(f"{out} exists already and nothing is overwritten; choose another name with --out")
    if out is not None and not os.access(Path(out).absolute().parent, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write to {Path(out).parent}: {'permission denied' if Path(out).parent.exists() else 'there is no such folder'}"
        )
    console = console_of()
    from spikegrad.training.answers import predict as start

    found = start(run, data, model=model)
    if len(found.scores) <= 20:
        for number, (answer, certain) in enumerate(zip(found.answers, found.certainty, strict=True)):
            wrong = found.labels is not None and found.labels[number] != answer
            right = f"  [red]wrong, it is {found.names[found.labels[number]]}[/]" if wrong and found.labels is not None else ""
            sample = Path(found.files[number]).name if found.files else f"sample {number}"
            console.print(f"{sample}  [bold]{found.names[answer]}[/]  {100 * certain:.0f} %{right}", soft_wrap=True)
    else:
        for label, name in enumerate(found.names):
            console.print(f"{int((found.answers == label).sum()):>7} times {name}", soft_wrap=True)
    for part in dict.fromkeys(found.parts) if found.labels is not None else ():
        right, total = found.right(part)
        console.print(f"{part:<10} accuracy  {100 * right / total:.2f} %  {right} of {total}")
    if found.labels is not None:
        right, total = found.right()
        console.print(f"accuracy       [bold green]{100 * right / total:.2f} %[/]  {right} of {total}")
    if out is not None:
        opened.replace(Path(out), lambda path: path.write_text(found.csv(), encoding="utf-8"))
        console.print(out, soft_wrap=True)
    return 0


def console_of() -> Console:
    """Where to print; PyTorch, which is imported next, is told to let its idle threads sleep.

    They spin otherwise, and small networks then take several times as long where other programs want the same cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    class Ours(Console):
        def __reduce__(self) -> Any:
            return console_of, ()  # a process that a strategy spawns prints by one of its own

    return Ours(highlight=False)


def _tell(outcome: Outcome, console: Console) -> int:
    path = outcome.run.path
    if outcome.test is None:
        if outcome.interrupted:
            done = f"{outcome.epochs} epoch{'s' if outcome.epochs != 1 else ''} kept"
            console.print(f"Stopped, {done}. Continue with:\n  spikegrad train --resume {path}", soft_wrap=True)
            return 130
        return 0
    _tell_measurement(console, outcome.test)
    console.print(f"training       {outcome.seconds:.1f} s, {outcome.epochs} epoch{'s' if outcome.epochs > 1 else ''}")
    console.print(f"run            [bold]{path}[/]", soft_wrap=True)
    drawn = sorted(each.name for each in path.iterdir() if each.suffix in (".png", ".svg", ".pdf"))
    if drawn:
        console.print(f"               {'  '.join(drawn)}", soft_wrap=True)
    return 0


def _tell_measurement(console: Console, measured: Measurement, what: str = "test accuracy") -> None:
    console.print(f"{what:<13}  [bold green]{100 * measured.accuracy:.2f} %[/]  {measured.correct} of {measured.samples}")
    for number, (rate, silent) in enumerate(zip(measured.rates, measured.silent, strict=True), 1):
        quiet = f", {100 * silent:.0f} % of neurons never fire" if silent else ""
        console.print(f"firing rate    {100 * rate:.1f} % of steps in layer {number}{quiet}")
    if measured.ties:
        advice = "more --steps, a lower --threshold or --loss mean tell them apart"
        console.print(f"ties           {measured.ties} answers, where two classes had the highest score; {advice}", soft_wrap=True)


def _tell_confusion(console: Console, measured: Measurement) -> None:
    """The confusion matrix, or for many classes the most frequent mistakes."""
    from rich.table import Table

    counts = measured.confusion
    if len(counts) > 16:
        mistakes = sorted(((int(counts[i, j]), i, j) for i in range(len(counts)) for j in range(len(counts)) if i != j), reverse=True)
        for count, right, answered in mistakes[:10]:
            if count:
                console.print(f"{count:>5} times class {right} was answered {answered}")
        return
    table = Table("right \\ answered", *map(str, range(len(counts))), box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        column.justify = "right"
    for right, row in enumerate(counts):
        cells = [
            f"[green]{count}[/]" if right == answered else f"[bold red]{count}[/]" if count else "[dim]·[/]"
            for answered, count in enumerate(row)
        ]
        table.add_row(f"[dim]{right}[/]", *cells)
    console.print()
    console.print(table)


def parsed_setting(name: str, text: Any) -> Any:
    """An option's text as the value of its setting."""
    if name == "parameters":
        found: dict[str, Any] = {}
        for each in text:
            number, sign, written = each.partition("=")
            number = number.strip()
            if not (sign and number and written.strip()):
                raise InputError(f"--set must be a name and a value, as in slope=10, got {each!r}")
            if found.setdefault(number, read := value(written)) is not read and repr(found[number]) != repr(read):
                raise InputError(f"--set gives {number} twice, as {found[number]} and as {read}; leave out one")
        return found
    if name in ("hidden", "sensor"):
        try:
            return tuple(int(size) for size in text.split(","))
        except ValueError:
            example = "256,128" if name == "hidden" else "34,34"
            raise InputError(f"--{name} must be whole numbers with commas, as in {example}, got {text!r}") from None
    if name == "learn":
        parts = tuple(part.strip() for part in text.split(","))
        if "" in parts:
            raise InputError(f"--learn must be names with commas, got {text!r}")
        return parts
    return text
