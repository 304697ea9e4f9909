"""What happens beside training: the run's files at the end of every epoch, and the bar on the terminal."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any, cast

import lightning
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file

from spikegrad.insight import SlopeSchedule
from spikegrad.training.examine import warning
from spikegrad.training.folder import Row, Run
from spikegrad.training.module import SpikingModule


class Keeper(lightning.Callback):
    """At each epoch's end: the metrics, the best weights so far, then the checkpoint; a kill in between loses no more than that epoch.

    The best epoch has the highest validation accuracy and, among equals, the lowest validation loss.

    Attributes:
        best: ``epoch``, ``validation_accuracy`` and ``validation_loss`` of the best epoch.
        seconds: time spent training, over all sittings.
        started: whether training has begun, all that a checkpoint had having been taken up.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.started = False
        self.best: Row = {}
        self.seconds = 0.0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.best, self.seconds = state_dict["best"], state_dict["seconds"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.started = True
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write metrics, weights and checkpoint; validation has run by now."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: Row = {"epoch": trainer.current_epoch + 1, **values, "seconds": self.seconds}
        cast(SpikingModule, pl_module).require_learning(row["validation_loss"], f"after epoch {row['epoch']:.0f}")
        better = not self.best or _merit(row) > _merit(self.best)
        if better:
            self.best = {name: row[name] for name in ("epoch", "validation_accuracy", "validation_loss")}
        # Sharded strategies gather weights and checkpoints from all processes, so every process asks for them; the first one writes.
        weights = trainer.strategy.lightning_module_state_dict() if better else {}
        if trainer.is_global_zero:
            self.run.write_metrics([*(old for old in self.run.metrics() if old["epoch"] < row["epoch"]), row])
            if better:
                bare = {name.removeprefix("network."): value.detach().cpu().clone().contiguous() for name, value in weights.items()}
                self.run.replace(self.run.weights, lambda path: save_file(bare, path))
            self.run.replace(self.run.checkpoint, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.run.beside(self.run.checkpoint))


def _merit(row: Row) -> tuple[float, float]:
    return row["validation_accuracy"], -row["validation_loss"]


class Watch(lightning.Callback):
    """Says once, in one line, when a layer was silent or saturated for an epoch or the loss does not move, and what to do about it.

    Args:
        run: the folder, which the `Keeper` before this has written.
        console: where to say it; a Python warning if None.
    """

    def __init__(self, run: Run, console: Console | None) -> None:
        self.run, self.console, self.told = run, console, False

    def state_dict(self) -> dict[str, Any]:
        """A resumed run says it no second time."""
        return {"told": self.told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.told = state_dict["told"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the epoch."""
        if self.told or not trainer.is_global_zero:
            return
        said = warning(self.run.metrics(), cast(SpikingModule, pl_module).network.classes)
        if said is None:
            return
        self.told = True
        text = f"{said}; for why: spikegrad diagnose {self.run.path}"
        if self.console is None:
            warnings.warn(text, stacklevel=1)  # what is above is Lightning, whose own warnings are not shown
        else:
            self.console.print(f"[yellow]warning[/]  {escape(text)}", soft_wrap=True)


class SlopeCallback(lightning.Callback):
    """Sharpens the surrogates of a Lightning module from its first epoch to its last: a `spikegrad.SlopeSchedule`.

    Args:
        start: factor of the slopes in the first epoch; or one for each layer, by its name in the Lightning module.
        end: factor in the last epoch.

    Example:
        >>> import lightning
        >>> from spikegrad.training import SlopeCallback
        >>> trainer = lightning.Trainer(max_epochs=10, callbacks=[SlopeCallback(0.2)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, start: float | Mapping[str, float], end: float | Mapping[str, float] = 1.0) -> None:
        self.start, self.end = start, end
        self.schedule: SlopeSchedule | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the slopes."""
        self.schedule = SlopeSchedule(pl_module, self.start, self.end, steps=max((trainer.max_epochs or 1) - 1, 1))

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set them: they follow from the epoch alone, so that a resumed run goes on as it was."""
        assert self.schedule is not None
        self.schedule.set(trainer.current_epoch / self.schedule.steps)


class Bar(lightning.Callback):
    """One calm line: epoch, bar, validation accuracy, loss, firing rates, time left. Where there is no terminal, a line for every epoch."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, True
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = TaskID(0)

    def __reduce__(self) -> Any:
        """Anew in a process that a strategy spawns."""
        return Bar, (self.console,)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar where the run stands; of processes that a strategy forks, in the first."""
        self.shown = trainer.is_global_zero
        total = float(trainer.estimated_stepping_batches)
        self.task = self.progress.add_task("", total=total, completed=trainer.global_step, epoch=self._epoch(trainer), said="")
        if self.shown:
            self.progress.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """One step further."""
        self.progress.update(self.task, completed=trainer.global_step, epoch=self._epoch(trainer))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say how it goes."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rates = " ".join(f"{100 * value:.0f}" for name, value in seen.items() if name.startswith("rate_"))
        said = f"loss {seen['train_loss']:.3f}  validation {100 * seen['validation_accuracy']:.1f} %"
        said += f"  firing {rates} %" if rates else ""
        self.progress.update(self.task, said=said)
        if self.shown and not self.console.is_terminal:
            self.console.print(f"epoch {self._epoch(trainer)}  {said}", soft_wrap=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take the bar away at the end."""
        self.progress.stop()

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException) -> None:
        """Take the bar away, whatever happened."""
        self.progress.stop()

    @staticmethod
    def _epoch(trainer: lightning.Trainer) -> str:
        return f"{min(trainer.current_epoch + 1, trainer.max_epochs or 0):>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"
