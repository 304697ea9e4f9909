"""The picture of a study: what mattered, and how the search went."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from spikegrad import plots

if TYPE_CHECKING:
    import optuna

TITLES = {"lr": "learning rate", "tau": "time constant", "tau_syn": "synaptic time constant"}


def importances(study: optuna.Study) -> dict[str, float]:
    """How much of the accuracy's variance over the complete trials each number accounts for, the largest first; nothing if none varied."""
    import optuna

    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
    varied = len({trial.value for trial in done}) > 1
    names = [name for name in (done[0].params if done else {}) if len({trial.params[name] for trial in done}) > 1]
    if not varied or not names:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(x) for name, x in found.items() if math.isfinite(x)}


def draw(study: optuna.Study, folder: Path) -> Path | None:
    """Write ``importance.png``; nothing while no two trials are complete and different."""
    found = importances(study)
    if not found:
        return None
    plots.save(importance(study, found), folder / "importance.png")
    return folder / "importance.png"


def importance(study: optuna.Study, found: dict[str, float]) -> Figure:
    """Bars of importance, and the accuracy of each trial with the best so far."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.6, 1.6 + 0.34 * max(len(found), 6)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        names = [TITLES.get(name, name.replace("_", " ")) for name in reversed(found)]
        bars = left.barh(names, [100 * x for x in reversed(found.values())], color=plots.COLOURS[0], height=0.65)
        left.bar_label(bars, fmt="%.0f", padding=3, color=plots.MUTED)
        left.set(xlabel="share of the variance, %", xlim=(0, 112 * max(found.values())))
        left.set_title("Importance")
        left.grid(False, axis="y")
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and trial.intermediate_values]
        for name, mark, colour in (("complete", "o", plots.COLOURS[0]), ("pruned", "x", plots.MUTED)):
            own = [trial for trial in ended if trial.state.name.lower() == name]
            x, y = [trial.number for trial in own], [100 * max(trial.intermediate_values.values()) for trial in own]
            right.plot(x, y, mark, markersize=4, color=colour, label=name)
        best, course = 0.0, list[tuple[int, float]]()
        for trial in ended:
            best = max(best, 100 * (trial.value or 0.0) if trial.state.name == "COMPLETE" else 0.0)
            course.append((trial.number, best))
        right.plot(
            *zip(*[point for point in course if point[1]], strict=True), color=plots.COLOURS[1], drawstyle="steps-post", label="best so far"
        )
        right.set(xlabel="trial", ylabel="validation accuracy, %")
        right.set_title("Search")
        right.legend(loc="lower right")
    return figure
