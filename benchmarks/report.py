"""What a benchmark found, as a table on the terminal, a JSON file and a page of the documentation."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, Row, Section

QUICK = "These are tiny sizes that only show that the benchmark runs; their figures mean nothing."


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def spread(low: float | None, high: float | None) -> str:
    """An interval, or nothing where there is none."""
    return "" if low is None or high is None or low == high else f"{number(low)} to {number(high)}"


def columns(section: Section) -> list[str]:
    """The heads of a section's table."""
    heads = [""] + ([section.axis] if section.axis else []) + [section.unit, "quartiles"]
    return (
        heads + ([f"times {section.reference}", "quartiles"] if section.reference else []) + ["remarks"] * any(r.note for r in section.rows)
    )


def cells(section: Section, row: Row) -> list[str]:
    """One line of that table."""
    line = [row.name] + ([f"{row.x:g}" if row.x is not None else ""] if section.axis else [])
    line += [number(row.value), spread(row.low, row.high)]
    if section.reference:
        line += [number(row.ratio), spread(row.ratio_low, row.ratio_high)]
    return line + ([row.note] if any(r.note for r in section.rows) else [])


def show(name: str, report: Report) -> None:
    """Print tables to the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for section in report.sections:
        table = Table(title=escape(section.title), caption=escape(section.text) or None, title_justify="left", caption_justify="left")
        for place, head in enumerate(columns(section)):
            table.add_column(escape(head), justify="left" if place == 0 or head == "remarks" else "right")
        for row in section.rows:
            table.add_row(*map(escape, cells(section, row)))
        console.print(table)
    for line in (f"{name}: checked: {line}" for line in report.checked):
        console.print(escape(line), style="green")
    for line in (f"{name}: left out: {line}" for line in report.skipped):
        console.print(escape(line), style="yellow")


def write(name: str, report: Report, about: dict[str, Any], folder: Path) -> Path:
    """``NAME.json`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, **about, **dataclasses.asdict(report)}, indent=1) + "\n")
    return path


def read(path: Path) -> tuple[Report, dict[str, Any]]:
    """What `write` wrote."""
    data = json.loads(path.read_text())
    sections = [Section(**{**s, "rows": [Row(**r) for r in s["rows"]]}) for s in data.pop("sections")]
    return Report(sections, data.pop("skipped"), data.pop("checked")), data
