"""The network on Lightning: one step, one epoch, and the random numbers in them."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spikegrad.data import Dataset
from spikegrad.training.batches import Batches, derived, loader
from spikegrad.training.config import Config
from spikegrad.training.loss import loss
from spikegrad.training.network import Network

Batch = tuple[Tensor, Tensor]
EVALUATION_BATCH = 256


class SpikingModule(lightning.LightningModule):
    """Trains a `Network`; its data are in memory, its random numbers a function of (seed, step).

    Args:
        config: see `Config`.
        data: what to train on; the test part is not touched.

    Logged at each epoch's end: ``train_loss``, ``train_accuracy``, ``validation_loss``, ``validation_accuracy`` and, on the validation
    samples, ``rate_1``, ``rate_2`` …, the shares of steps with a spike.
    """

    def __init__(self, config: Config, data: Dataset) -> None:
        super().__init__()
        self.config, self.data = config, data
        torch.manual_seed(derived(config.seed, "weights"))
        self.network = Network(config, data.features, data.classes)
        self.total_steps: float = 1

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch), shared out among the processes."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return loader(self.data.train, Batches(len(self.data.train[1]), self.config.batch, self.config.seed, rank, world))

    def val_dataloader(self) -> DataLoader[Batch]:
        """All validation samples, in every process."""
        return loader(self.data.validation, Batches(len(self.data.validation[1]), EVALUATION_BATCH))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser alone; the learning rate is set in every step."""
        c, weights = self.config, self.parameters()
        if c.optimizer == "sgd":
            return torch.optim.SGD(weights, c.lr, momentum=0.9, weight_decay=c.weight_decay)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[c.optimizer]
        return kind(weights, c.lr, weight_decay=c.weight_decay)

    def on_train_start(self) -> None:
        """The whole length of the run is known now."""
        self.total_steps = self.trainer.estimated_stepping_batches

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random numbers and learning rate follow from the step alone, so that a resumed run continues exactly."""
        step = self.trainer.global_step
        torch.manual_seed(derived(self.config.seed, "step", step, self.trainer.global_rank))
        for group in cast(torch.optim.Optimizer, self.optimizers()).param_groups:
            group["lr"] = self.config.lr * course(self.config.schedule, step / self.total_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        x, y = batch
        activity = self.network(x)
        value = loss(activity, y, self.config)
        self._log("train", value, activity.scores, y)
        return value

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same noise at every evaluation."""
        torch.manual_seed(derived(self.config.seed, "evaluation", batch_idx))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, accuracy and firing rates of one batch."""
        x, y = batch
        activity = self.network(x)
        self._log("validation", loss(activity, y, self.config), activity.scores, y)
        for number, spikes in enumerate(activity.spikes, 1):
            self.log(f"rate_{number}", (spikes != 0).float().mean(), on_step=False, on_epoch=True, batch_size=len(y))

    def _log(self, part: str, value: Tensor, scores: Tensor, y: Tensor) -> None:
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(y), "sync_dist": part == "train"}
        self.log(f"{part}_loss", value.detach(), **options)
        self.log(f"{part}_accuracy", (scores.argmax(1) == y).float().mean(), **options)


def course(schedule: str, done: float) -> float:
    """The learning rate over its highest value, when a share `done` of the steps is done.

    Example:
        >>> from spikegrad.training.module import course
        >>> [round(course("one-cycle", done), 2) for done in (0.0, 0.05, 0.1, 0.55)]
        [0.0, 0.5, 1.0, 0.5]
    """
    if schedule == "constant":
        return 1.0
    warmup = 0.1 if schedule == "one-cycle" else 0.0
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
