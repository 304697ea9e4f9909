"""``docs/benchmarks.md``, written from the JSON files."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.__main__ import AGAINST, NAMES, ON_CARDS
from benchmarks.measure import Section
from benchmarks.report import QUICK, cells, columns, read

HEAD = """# Benchmarks

<!-- Written by `python -m benchmarks docs` from benchmarks/results/*.json; do not edit. -->

Every benchmark first proves that both sides compute the same spikes and the same gradients, with ours set to the options of each peer,
and reports nothing while that fails. Then it times all of them in alternation in one run, so that what disturbs the machine disturbs
everyone alike. Times are medians with their quartiles; a ratio is the median of the ratios taken round by round. In each round a task is
repeated for a tenth of a second, after one call that is not timed: it finds the caches full of the others' data. A task that takes longer
than that is called once.

Peers are run the way that costs them least: step loops are given `currents.unbind(0)`, since the backward pass of an index `currents[t]`
would add up a tensor of the size of the whole sequence at each step. sinabs' own layer indexes, so that its step is looped over here.
The floor is a copy of the same bytes by the same threads in the same blocks: read the currents, write spikes, read their gradient and the
currents, write a gradient.

## How to repeat it

```sh
pip install -c constraints.txt "spikegrad[bench]"
python -m benchmarks all     # or one of: NAMES
python -m benchmarks kernels --against CHECKOUT    # this checkout's layers and training step against another's: `against`
python -m benchmarks layer network neurons --device cuda    # on a GPU, at most three minutes each
python -m benchmarks docs    # this page
```

On a GPU, times are those of events on the device, which has gigabytes to write over its caches until all is launched; training steps, and
what says so, are timed by the clock until their results are ready. Beside a layer stands its share of the bandwidth that a copy of a
gigabyte has there, counted in the bytes that must move: currents, spikes, gradients, and the states at the beginnings of rounds.

All six peers of the extra install beside the PyTorch and JAX of `constraints.txt`; one that is missing is left out, with a line that
says so. `--quick` takes tiny sizes, to see that everything runs. Compare within a run only.
"""


def table(section: Section) -> str:
    """A section as a table of Markdown."""
    heads = columns(section)
    aligned = [":--" if place == 0 or head == "remarks" else "--:" for place, head in enumerate(heads)]
    rows = [cells(section, row) for row in section.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (heads, aligned, *rows))


def chapter(path: Path, page: Path) -> str:
    """One benchmark."""
    report, about = read(path)
    machine = about["machine"]
    card = f"{machine['card']}, CUDA {machine['cuda']}; " if "card" in machine else ""
    parts = [
        f"## {about['benchmark']}",
        f"{card}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['system']}; commit `{about['commit']}`, "
        f"{about['date']}, {about['rounds']} rounds. "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + ".",
    ]
    if about["quick"]:
        parts.append(f"**{QUICK}**")
    for place, section in enumerate(report.sections, 1):
        parts += [f"### {section.title}", section.text, table(section)]
        figure = path.with_name(f"{path.stem}-{place}.svg")
        if figure.exists():
            parts.append(f"![{section.title}]({Path(os.path.relpath(figure.resolve(), page.resolve().parent)).as_posix()})")
    if report.checked:
        parts += ["Checked before anything was timed:", "\n".join(f"- {line}" for line in report.checked)]
    if report.skipped:
        parts += ["Left out:", "\n".join(f"- {line}" for line in dict.fromkeys(report.skipped))]
    return "\n\n".join(part for part in parts if part)


def write(results: Path, page: Path) -> None:
    """Write the page from the results there are.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [
        results / f"{name}.json" for name in (*NAMES, AGAINST, *(f"{n}-cuda" for n in ON_CARDS)) if (results / f"{name}.json").exists()
    ]
    if not found:
        raise FileNotFoundError(f"no results in {results}; run `python -m benchmarks all` first")
    chapters = [chapter(path, page) for path in found]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join([HEAD.replace("NAMES", ", ".join(NAMES)).strip(), *chapters]) + "\n")
