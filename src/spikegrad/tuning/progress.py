"""How a study stands, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import optuna

    from spikegrad.tuning.study import Tuning


@contextmanager
def showing(tuning: Tuning, study: optuna.Study, console: Console | None) -> Generator[Callable[[], object]]:
    """Show how many trials have ended and which is best; yields what is called when something may have changed."""
    if console is None:
        yield lambda: None
        return
    columns = (TextColumn("trial {task.completed:.0f}/{task.total:.0f}"), BarColumn(bar_width=24), TextColumn("{task.fields[said]}"))
    seen = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    with Progress(*columns, TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=tuning.trials, said="")

        def show() -> None:
            trials = study.get_trials(deepcopy=False)
            ended = [trial for trial in trials if trial.state.is_finished() and trial.state.name != "FAIL"]
            progress.update(task, completed=len(ended), said=best(study))
            for trial in [] if console.is_terminal else ended:
                if trial.number not in seen:
                    seen.add(trial.number)
                    value = "pruned" if trial.value is None or trial.state.name == "PRUNED" else f"validation {100 * trial.value:.1f} %"
                    line = f"trial {trial.number}  {value}  {said(trial.params)}"
                    console.print(line, soft_wrap=True, markup=False)

        show()
        yield show
        show()


def best(study: optuna.Study) -> str:
    """The best trial so far in a few words."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not done:
        return ""
    first = max(done, key=lambda trial: trial.value or 0.0)
    return f"best {100 * (first.value or 0.0):.1f} %, {said(first.params)}"


def said(parameters: dict[str, object]) -> str:
    """What was drawn, in one line."""
    return "  ".join(f"{name} {x:.3g}" if isinstance(x, float) else f"{name} {x}" for name, x in parameters.items())
