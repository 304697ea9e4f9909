"""The network on Lightning: one step, one epoch, and the random numbers in them."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from spikegrad.data import Dataset, Events
from spikegrad.errors import InputError
from spikegrad.nn import Layer
from spikegrad.training.batches import Batches, derived, loader
from spikegrad.training.config import Config
from spikegrad.training.divergence import FirstBeyond, due
from spikegrad.training.graphs import Captured
from spikegrad.training.loss import loss
from spikegrad.training.network import Network, OwnNetwork, network

Batch = tuple[Tensor | Events, Tensor]
EVALUATION_BATCH = 256


class DivergedError(InputError):
    """The loss has left all bounds."""


class SpikingModule(lightning.LightningModule):
    """Trains a network; its data are in memory, its random numbers a function of (seed, step).

    Args:
        config: see `Config`.
        data: what to train on; the test part is not touched. None if `lightning.Trainer.fit` is given loaders of batches, each a pair of
            samples, (batch, feature) or (batch, time, channel), and labels.
        model: a network of one's own, see `OwnNetwork`; None for the one that `config` describes.
        classes: number of classes, where there are no `data`.

    Raises:
        ValueError: there are neither data nor both a model and its number of classes.

    Logged at each epoch's end: ``train_loss``, ``train_accuracy``, ``validation_loss``, ``validation_accuracy`` and, on the validation
    samples, ``rate_1``, ``rate_2`` …, the shares of steps with a spike.

    Example:
        >>> import lightning, torch
        >>> from spikegrad import nn
        >>> from spikegrad.data import load
        >>> from spikegrad.training import Config, SpikingModule
        >>> model = nn.Sequential(torch.nn.Linear(64, 32), nn.Leaky(0.9), torch.nn.Linear(32, 10), nn.LeakyIntegrator(0.9))
        >>> module = SpikingModule(Config(steps=5), load("digits"), model)
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **quiet)
        >>> trainer.fit(module)  # doctest: +SKIP
    """

    def __init__(
        self, config: Config, data: Dataset | None = None, model: torch.nn.Module | None = None, *, classes: int | None = None
    ) -> None:
        super().__init__()
        if data is None and (model is None or classes is None):
            raise ValueError("a SpikingModule needs data, or a `model` and its number of `classes`, got neither")
        self.config, self._data = config, data
        torch.manual_seed(derived(config.seed, "weights"))
        if model is not None:
            self.network: Network = OwnNetwork(config, model, data.classes if data is not None else classes or 0)
        elif data is not None:
            self.network = network(config, data.features, data.classes, data.shape)
        self.total_steps: float = 1
        self._captured = Captured(self.network)
        self._beyond = FirstBeyond(1e6 * (math.log(self.network.classes) + config.rate_weight))

    @property
    def data(self) -> Dataset:
        """What it is trained on.

        Raises:
            ValueError: it has no data of its own.
        """
        if self._data is None:
            raise ValueError("this SpikingModule has no data; give loaders to lightning.Trainer.fit, or `data` to it")
        return self._data

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch), shared out among the processes."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = Batches(len(self.data.train[1]), self.config.batch, self.config.seed, rank, world)
        return loader(self.data.train, batches, self.network.takes_events)

    def val_dataloader(self) -> DataLoader[Batch]:
        """All validation samples, in every process."""
        return loader(self.data.validation, Batches(len(self.data.validation[1]), EVALUATION_BATCH), self.network.takes_events)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser alone; the learning rate is set in every step.

        Only weights decay. Zero means nothing to a bias, a normalisation or the coordinate of a decay, a threshold or a slope.
        """
        c = self.config
        groups = [
            {"params": [parameter for _, parameter in group], "weight_decay": decay}
            for group, decay in zip(self._groups(), (c.weight_decay, 0.0), strict=True)
        ]
        if c.optimizer == "sgd":
            return torch.optim.SGD(groups, c.lr, momentum=0.9)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[c.optimizer]
        return kind(groups, c.lr)

    def _groups(self) -> tuple[list[tuple[str, torch.nn.Parameter]], list[tuple[str, torch.nn.Parameter]]]:
        """Parameters by name: the weights, and all others."""
        weights, others, seen = list[tuple[str, torch.nn.Parameter]](), list[tuple[str, torch.nn.Parameter]](), set[int]()
        for path, module in self.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                weight = name.endswith(".weight") and (isinstance(module, Layer) or parameter.ndim > 1)
                if id(parameter) not in seen and parameter.requires_grad:
                    (weights if weight else others).append((name, parameter))
                    seen.add(id(parameter))
        return weights, others

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the optimiser of a version that knew one group, in the order of the parameters, which had all of them decay."""
        optimizer: dict[str, Any] = next(iter(checkpoint.get("optimizer_states", ())), {"param_groups": ()})
        if len(optimizer["param_groups"]) != 1:
            return
        (group,), groups = optimizer["param_groups"], self._groups()
        names = [name for part in groups for name, _ in part]
        before = [name for name in checkpoint["state_dict"] if name in names]
        if sorted(before) != sorted(names) or group["params"] != list(range(len(names))):
            return  # of another network, which is refused where its weights are loaded
        places = {name: place for place, name in enumerate(names)}
        optimizer["state"] = {places[before[place]]: state for place, state in optimizer["state"].items()}
        counts = [len(part) for part in groups]
        optimizer["param_groups"] = [
            {**group, "params": list(range(sum(counts[:k]), sum(counts[: k + 1]))), "weight_decay": decay}
            for k, decay in enumerate((self.config.weight_decay, 0.0))
        ]

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
        if self.config.graphs and isinstance(x, Tensor):
            one = isinstance(self.trainer.strategy, SingleDeviceStrategy) and self.trainer.accumulate_grad_batches == 1
            activity = self._captured(x, alone=one)
        else:
            activity = self.network(x)
        value = loss(activity, y, self.config)
        # All processes see the same number, so that none waits for one that has stopped.
        self._beyond.note(self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean"), batch_idx)
        if due(value.device, batch_idx, self.trainer.is_last_batch) and (found := self._beyond.found()) is not None:
            raise self._diverged(found[1], f"in step {found[0] + 1} of epoch {self.current_epoch + 1}")
        self._log("train", value, activity.scores, y)
        return value

    def require_learning(self, loss: float, when: str) -> None:
        """Refuse to go on with a loss that is no number or a million times that of guessing.

        Raises:
            DivergedError: and says what to try.
        """
        if not abs(loss) <= self._beyond.bound:
            raise self._diverged(loss, when)

    def _diverged(self, loss: float, when: str) -> DivergedError:
        c, guessing = self.config, math.log(self.network.classes)
        advice = [f"a lower --lr than {c.lr:g}", "--clip 1"]
        if c.weight_decay > 1:
            advice.insert(0, f"a lower --weight-decay than {c.weight_decay:g}")
        if self._data is not None and (reach := max(map(abs, self._data.range))) > 100:
            advice.insert(0, f"data on a smaller scale, which reach {reach:.3g}")
        return DivergedError(
            f"training diverged {when}: the loss is {loss:.3g}, guessing has {guessing:.3g}; start anew with {', or '.join(advice)}"
        )

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same noise at every evaluation."""
        torch.manual_seed(derived(self.config.seed, "evaluation", batch_idx))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, accuracy and firing rates of one batch."""
        x, y = batch
        activity = self.network(x)
        self._log("validation", loss(activity, y, self.config), activity.scores, y)
        for number, spikes in enumerate(activity.fired, 1):
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
