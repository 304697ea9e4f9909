"""Why a run does not learn: a diagnosis of its network as it is, and what its course says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spikegrad.data import Dataset, load
from spikegrad.errors import InputError
from spikegrad.insight import Diagnosis, diagnose
from spikegrad.training.batches import Samples, derived
from spikegrad.training.config import Config
from spikegrad.training.feasible import fitted
from spikegrad.training.folder import Run, reason
from spikegrad.training.loss import loss
from spikegrad.training.module import SpikingModule

SAMPLES = 256
"""Of the training samples, how many are looked at."""
SILENT, SATURATED, MOVED = 1e-4, 0.9, 0.01
"""Spikes per step below which a layer is silent, and above which it is saturated; and by what share a loss has to move."""


def examine(path: str | Path) -> tuple[Diagnosis, list[str]]:
    """Diagnose the network of a run as it is after its last whole epoch, and read its course.

    Args:
        path: folder of the run.

    Returns:
        The diagnosis, on training samples, with the learning rate at its highest; and what the course says, in sentences.

    Raises:
        InputError: it is no run, or a damaged one.
    """
    run = Run.open(path)
    config = Config.read(run.path / "config.json")
    data = load(config.data, config.binning)
    module = SpikingModule(config, data)
    optimizer = module.configure_optimizers()
    if run.checkpoint.exists():
        try:
            kept = torch.load(run.checkpoint, map_location="cpu", weights_only=True)
            module.load_state_dict(kept["state_dict"])
            optimizer.load_state_dict(kept["optimizer_states"][0])
        except Exception as error:  # a broken file makes the unpickler fail in any way
            raise InputError(f"{run.checkpoint} does not hold this network: {type(error).__name__}: {reason(error)}") from None
        for group in optimizer.param_groups:
            group["lr"] = config.lr
    rows = run.metrics()
    found = _diagnosed(module, data, optimizer)
    normalised = found.layers[: len(config.hidden)] if config.norm and not config.model else ()
    return found, course_says(rows, data.classes) + _averages_say(rows, [layer.rate for layer in normalised])


def examine_start(config: Config) -> Diagnosis:
    """Diagnose a network before it is trained.

    Raises:
        InputError: the data or a setting is at fault.
    """
    data = load(config.data, config.binning)
    module = SpikingModule(fitted(config, data), data)
    return _diagnosed(module, data, module.configure_optimizers())


def _diagnosed(module: SpikingModule, data: Dataset, optimizer: torch.optim.Optimizer) -> Diagnosis:
    network = module.network.train()
    weight = next(network.parameters())
    chosen = torch.randperm(len(data.train[1]), generator=torch.Generator().manual_seed(derived(module.config.seed, "diagnosis")))[:SAMPLES]
    x, y = Samples(data.train)[chosen]

    def value(activity: Any, labels: torch.Tensor) -> torch.Tensor:
        return loss(activity, labels, module.config)

    with torch.random.fork_rng([]):
        torch.manual_seed(derived(module.config.seed, "diagnosis"))
        return diagnose(network, (x.to(weight.dtype), y), value, optimizer)


def course_says(rows: Sequence[Mapping[str, float]], classes: int) -> list[str]:
    """What the metrics of a run's epochs tell, in sentences.

    Args:
        rows: one for each epoch, as in a run's ``metrics.csv``.
        classes: number of classes, to tell what guessing comes to.

    Example:
        >>> from spikegrad.training.examine import course_says
        >>> row = {"train_loss": 2.3, "train_accuracy": 0.1, "validation_loss": 2.3, "validation_accuracy": 0.1, "rate_1": 0.0}
        >>> course_says([{**row, "epoch": 1}, {**row, "epoch": 2}, {**row, "epoch": 3}], 10)[1:]
        ['The loss has not moved since the first epoch.', 'Layer 1 has been silent since epoch 1.']
    """
    if not rows:
        return ["No epoch has ended yet."]
    first, last = rows[0], rows[-1]
    said = [
        f"In {last['epoch']:.0f} epoch{'s' if last['epoch'] > 1 else ''} the training loss went from {first['train_loss']:.4g} to "
        f"{last['train_loss']:.4g}, the validation accuracy from {100 * first['validation_accuracy']:.1f} to "
        f"{100 * last['validation_accuracy']:.1f} %; guessing has {math.log(classes):.4g} and {100 / classes:.1f} %."
    ]
    if unmoved(rows, classes):
        said.append("The loss has not moved since the first epoch.")
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    if last["validation_loss"] > 1.2 * best["validation_loss"] and last["train_loss"] < best["train_loss"]:
        said.append(f"Since epoch {best['epoch']:.0f} the training loss has fallen while the validation loss rose: it learns by heart.")
    for name in first:
        if name.startswith("rate_"):
            states, since = [_state(row[name]) for row in rows], len(rows) - 1
            while since and states[since - 1] == states[-1]:
                since -= 1
            if states[-1]:
                said.append(f"Layer {name[5:]} has been {states[-1]} since epoch {rows[since]['epoch']:.0f}.")
    return said


def _averages_say(rows: Sequence[Mapping[str, float]], rates: Sequence[float]) -> list[str]:
    """Of normalised layers, with their `rates` in training: what is silent or saturated only as it is on validation samples."""
    return [
        f"Layer {number} has {rate:.2g} spikes a step while it learns: its normalisation takes averages of past batches for validation "
        "samples, which are still far off. Train longer, in smaller batches, or with --no-norm."
        for number, rate in enumerate(rates, 1)
        if rows and _state(rows[-1][f"rate_{number}"]) and not _state(rate)
    ]


def _state(rate: float) -> str:
    return "silent" if rate < SILENT else "saturated" if rate > SATURATED else ""


def unmoved(rows: Sequence[Mapping[str, float]], classes: int) -> bool:
    """Whether the training loss is, after three epochs or more, where it was, and no better than that of guessing."""
    losses = [row["train_loss"] for row in rows]
    near = len(losses) >= 3 and all(abs(each - losses[0]) <= MOVED * abs(losses[0]) for each in losses)
    return near and rows[-1]["train_accuracy"] <= 1 / classes + 0.05


def warning(rows: Sequence[Mapping[str, float]], classes: int) -> str | None:
    """What a run should say of itself while it trains, at the end of an epoch; None if nothing.

    Args:
        rows: of all its epochs so far.
        classes: number of classes.
    """
    last = rows[-1]
    for name, rate in last.items():
        if name.startswith("rate_") and (state := _state(rate)):
            return f"layer {name[5:]} was {state} throughout epoch {last['epoch']:.0f}"
    return f"the loss has not moved in {len(rows)} epochs" if unmoved(rows, classes) else None
