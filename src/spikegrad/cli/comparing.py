"""``spikegrad compare`` and ``spikegrad tune``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spikegrad.cli.training import console_of, parsed_setting
from spikegrad.errors import InputError
from spikegrad.training.config import Config
from spikegrad.training.named import parsed

if TYPE_CHECKING:
    from rich.console import Console

    from spikegrad.comparison.folder import Comparison

T = TypeVar("T")
PRESETS = ("zenke-vogels-2021",)


def compare(**options: Any) -> int:
    """Train every combination, or a preset's, and tell what came out."""
    out, jobs, preset, check, quick = (options.pop(name) for name in ("out", "jobs", "preset", "check", "quick"))
    given = {name: each for name, each in options.items() if each not in (None, [], ())}
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}; there is {', '.join(PRESETS)}")
        if given:
            raise InputError(f"--{next(iter(given)).replace('_', '-')} is decided by --preset {preset}; leave one of them out")
        return _preset(out or f"comparisons/{preset}{'-quick' if quick else ''}", quick, check, jobs)
    if quick or check:
        raise InputError(f"--{'quick' if quick else 'check'} goes with --preset, as in --preset {PRESETS[0]}")
    console = console_of()
    from spikegrad.comparison import folder, grid, work

    if not given and out is not None:
        cells = folder.Comparison(out).cells
    else:
        lists = {name: given.pop(name) for name in ("surrogates", "slopes", "neurons", "lrs", "seeds") if name in given}
        readers: dict[str, Callable[[str], Any]] = {"slopes": float, "lrs": float, "seeds": int}
        swept: dict[str, Any] = {name: listed(name, text, readers.get(name, str)) for name, text in lists.items()}
        first = {
            setting: parsed(swept[name][0])[0] for setting, name in (("surrogate", "surrogates"), ("neuron", "neurons")) if name in swept
        }
        base = _base(given, first)
        from spikegrad.data.source import check_name

        check_name(base.data)
        cells = grid(base, **swept)
        if out is None:
            out = f"comparisons/{_short(base.data)}-{hashlib.sha256(''.join(sorted(cell.name for cell in cells)).encode()).hexdigest()[:6]}"
    try:
        comparison = work.compare(cells, out, jobs=_jobs(jobs), console=console)
    except KeyboardInterrupt:
        return _stopped(out, console)
    _tell(comparison, console)
    return 0


def _base(given: dict[str, Any], first: dict[str, str]) -> Config:
    """What all have in common; whose numbers are set by their names are the first of those that are compared."""
    return Config().changed(**first, **{name: parsed_setting(name, each) for name, each in given.items()})


def _preset(out: str, quick: bool, check: bool, jobs: int | None) -> int:
    console = console_of()
    from spikegrad.comparison.zenke_vogels import reproduce

    try:
        comparison, found = reproduce(out, quick=quick, jobs=_jobs(jobs), console=console)
    except KeyboardInterrupt:
        return _stopped(out, console)
    _tell(comparison, console)
    for each in found if check else ():
        console.print(f"[{'green' if each.holds else 'bold red'}]{'pass' if each.holds else 'FAIL'}[/]  {each.what}", soft_wrap=True)
        console.print(f"      [dim]{each.numbers}[/]", soft_wrap=True)
    return int(check and not all(each.holds for each in found))


def _jobs(given: int | None) -> int:
    if given is not None:
        return given
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stopped(out: str, console: Console) -> int:
    from spikegrad.comparison.folder import Comparison

    results = Comparison(out).results
    ended = sum(result.state != "open" for result in results)
    console.print(f"Stopped, {ended} of {len(results)} ended. Start the same command again to continue, or:", soft_wrap=True)
    console.print(f"  spikegrad compare --out {out}", soft_wrap=True)
    return 130


def _tell(comparison: Comparison, console: Console) -> None:
    from spikegrad.comparison.table import best_setting, best_table, said

    results = comparison.results
    console.print(best_table(results))
    if found := best_setting(results):
        tests = [result.test for result in found]
        over = f", mean of {len(tests)} seeds" if len(tests) > 1 else ""
        labels = {name: x for name, x in found[0].cell.labels.items() if name != "seed" or len(tests) == 1}
        mean = sum(tests) / len(tests)
        console.print(f"best on the validation samples: {said(labels)}")
        console.print(f"test accuracy  [bold green]{100 * mean:.2f} %[/]{over}")
    if diverged := sum(result.state == "diverged" for result in results):
        console.print(f"{diverged} of {len(results)} diverged and count as 0")
    drawn = sorted(each.name for each in comparison.path.iterdir() if each.suffix in (".png", ".svg", ".pdf"))
    console.print(f"comparison     [bold]{comparison.path}[/]\n               {'  '.join(['results.csv', *drawn])}", soft_wrap=True)


def tune(**options: Any) -> int:
    """Search, and tell what is best."""
    out, jobs, trials, storage, name = (options.pop(each) for each in ("out", "jobs", "trials", "storage", "study"))
    given = {name: each for name, each in options.items() if each not in (None, [], ())}
    for flag, number in (("jobs", jobs), ("trials", trials)):
        if number is not None and number < 1:
            raise InputError(f"--{flag} must be at least 1, got {number}")
    console = console_of()
    from spikegrad.tuning.space import Space
    from spikegrad.tuning.study import Tuning
    from spikegrad.tuning.study import tune as start

    if not given and out is not None and (Path(out) / "tuning.json").exists():
        tuning = Tuning.at(out, storage or "")
        tuning = dataclasses.replace(tuning, trials=trials or tuning.trials, study=name or tuning.study)
    else:
        searched = {field: given.pop(field) for field in ("surrogates", "slope", "tau", "tau_syn", "size", "lr") if field in given}
        swept: dict[str, Any] = {field: _range(field, text) for field, text in searched.items() if field != "surrogates"}
        if "surrogates" in searched:
            swept["surrogates"] = listed("surrogates", searched["surrogates"], str) if searched["surrogates"] != "off" else ()
        space = Space(**swept)
        named = {"parameters", "learn"} & given.keys() and space.surrogates
        base = _base(given, {"surrogate": space.surrogates[0]} if named else {})
        from spikegrad.data.source import check_name

        check_name(base.data)
        tuning = Tuning(Path(out or f"tunings/{_short(base.data)}"), base, space, trials or 50, name or "spikegrad", storage or "")
    try:
        study = start(tuning, jobs=_jobs(jobs), console=console)
    except KeyboardInterrupt:
        console.print(f"Stopped. Start the same command again to continue, or:\n  spikegrad tune --out {tuning.path}", soft_wrap=True)
        return 130
    from spikegrad.tuning.figure import importances
    from spikegrad.tuning.progress import best

    found = best(study)
    console.print(f"[bold green]{found}[/]" if found else "no trial is complete yet: others train all of them", soft_wrap=True)
    for number, share in importances(study).items():
        console.print(f"{number:<14} {100 * share:3.0f} % of the variance")
    run = tuning.path / "runs" / str(study.best_trial.number) if found else None
    if run is not None and (run / "config.json").exists():  # else it is on another machine
        console.print(f"its run        [bold]{run}[/]", soft_wrap=True)
    files = [name for name in ("trials.csv", "importance.png") if (tuning.path / name).exists()]  # no picture if nothing varied
    console.print(f"study          [bold]{tuning.path}[/]  {'  '.join(files)}", soft_wrap=True)
    return 0


def _range(name: str, text: str) -> tuple[float, float] | None:
    if text == "off":
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        flag = name.replace("_", "-")
        raise InputError(f"--{flag} must be a range, as in 0.5:50, a number, or off, got {text!r}") from None


def _short(data: str) -> str:
    return re.sub(r"\W+", "-", Path(data).stem).strip("-")


def listed(name: str, text: str, read: Callable[[str], T]) -> list[T]:
    """A list with commas, those in brackets aside, as in ``ATan(slope=2,scale=1),Boxcar``.

    Raises:
        InputError: something in it is empty, given twice, or not of the kind.
    """
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", text)]
    if "" in parts:
        raise InputError(f"--{name} must be values with commas, got {text!r}")
    try:
        values = [read(part) for part in parts]
    except ValueError:
        raise InputError(f"--{name} must be {'whole ' if read is int else ''}numbers with commas, got {text!r}") from None
    if twice := [part for k, part in enumerate(parts) if values[k] in values[:k]]:
        raise InputError(f"--{name} names {twice[0]} twice; leave out one")
    return values
