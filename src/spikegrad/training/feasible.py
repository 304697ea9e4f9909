"""What is settled before a run makes its folder: whether its settings fit the data and the machine."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise

import lightning
import torch

from spikegrad.data import Dataset
from spikegrad.data.dataset import Array
from spikegrad.errors import InputError
from spikegrad.training.config import Config

SMALLER = "take fewer neurons with --hidden, fewer --steps or a smaller --batch-size"


def fitted(config: Config, data: Dataset) -> Config:
    """The configuration with what the data decide: the number of time steps.

    Raises:
        InputError: the encoding or the steps do not fit the data.
    """
    for x, _ in (data.train, data.validation, data.test):
        require_encodable(config, x)
    if data.binning is not None:
        return config.changed(steps=data.binning.steps, step_ms=data.binning.step_ms, sensor=data.binning.sensor)
    if data.steps is None:
        return config.changed(steps=config.steps or 10)
    if config.steps not in (None, data.steps):
        raise InputError(f"`steps` is {config.steps}, but the data have {data.steps} time steps; leave it out")
    return config.changed(steps=data.steps)


def require_encodable(config: Config, x: Array) -> None:
    """Refuse an encoding that is not for these samples.

    Raises:
        InputError: and says what to do.
    """
    if config.encoding == "current":
        return
    if x.ndim == 3:
        raise InputError(f"`encoding` {config.encoding} is for data without a time axis; leave it at current")
    low, high = float(x.min()), float(x.max())
    if not 0 <= low <= high <= 1:
        raise InputError(f"`encoding` {config.encoding} needs values from 0 to 1, got {low:g} to {high:g}; scale them, or use current")


def require_possible(config: Config, data: Dataset, trainer: lightning.Trainer) -> None:
    """Refuse what cannot end well: a normalisation of single samples, and more memory than there is.

    Raises:
        InputError: and says what to change.
    """
    batch = min(config.batch, -(-len(data.train[1]) // trainer.world_size))
    if config.model:  # whose size only its function knows
        return
    if config.norm and batch == 1:
        share = f"{len(data.train[1])} training samples in {trainer.world_size} processes" if config.batch > 1 else "--batch-size 1"
        raise InputError(
            f"batch normalisation learns nothing from single samples, and {share} gives no others; take larger batches or --no-norm"
        )
    sizes = (data.features, *config.hidden, data.classes)
    weights = sum(a * b for a, b in pairwise(sizes)) + sum(n * n for n in config.hidden if config.recurrent == "all-to-all")
    # Weights, their gradients and at least one average of these; a spike of each neuron in each step.
    numbers = 3 * weights + batch * (config.steps or 1) * sum(config.hidden)
    size = numbers * {"64-true": 8, "bf16-true": 2}.get(config.precision, 4)
    names = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if names <= getattr(os, "sysconf_names", {}).keys() else size
    if size > memory and trainer.strategy.root_device.type == "cpu":
        raise InputError(f"this needs {size // 2**30:,} GiB of memory at least, and there are {memory // 2**30:,}; {SMALLER}")


@contextmanager
def enough_memory() -> Generator[None]:
    """Say in one line that there is not enough memory, which PyTorch says in many ways."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
            raise
        raise InputError(f"there is not enough memory; {SMALLER}") from error
