"""The main job: train and resume."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console

from spikegrad import plots
from spikegrad.data import Dataset, load
from spikegrad.errors import InputError
from spikegrad.training.callbacks import Bar, Keeper, Watch
from spikegrad.training.config import Config
from spikegrad.training.feasible import enough_memory, fitted, require_possible
from spikegrad.training.folder import PICTURES, Run, first_process, reason
from spikegrad.training.measure import Measurement, look, measure
from spikegrad.training.module import DivergedError as DivergedError
from spikegrad.training.module import SpikingModule as SpikingModule
from spikegrad.training.network import Network
from spikegrad.training.trained import (
    facts_of,
    model_of,
    network_of,
    neuron_of,
    require_same_data,
    require_same_model,
    require_same_neuron,
)

CHANGEABLE = ("data", "epochs", "accelerator", "devices", "num_nodes", "strategy", "pictures", "model")
"""Settings that a resumed run may change."""
RUN_VARIABLE = "SPIKEGRAD_RUN"
"""Tells the processes that Lightning starts on one machine which folder the first of them made."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        run: its folder.
        test: the best weights on the test samples; None if the run was interrupted before its end, or in a process that is not the
            first.
        interrupted: whether Ctrl-C ended it; `resume` goes on.
        epochs: epochs done.
        seconds: time spent training, over all sittings.
    """

    run: Run
    test: Measurement | None
    interrupted: bool
    epochs: int
    seconds: float


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    data: Dataset | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    console: Console | None = None,
) -> Outcome:
    """Train a network and leave everything about it in a folder.

    Args:
        config: what to do.
        out: the new folder; ``runs/<data>-<number>`` if None.
        data: what ``config.data`` names, where it is loaded already.
        callbacks: what else happens at the end of every epoch, after the run's files are written; what they raise ends the run.
        console: where progress is told, by a bar on a terminal, else by a line for each epoch; nowhere if None.

    Raises:
        InputError: the data, a setting or the folder is at fault, or memory or the disk does not suffice; nothing is overwritten, and a
            folder is left only if an epoch has ended.
        DivergedError: an `InputError`; the folder keeps what was there before.

    Example:
        >>> import tempfile
        >>> from spikegrad.training import Config, evaluate, predict, quantize_report, resume, train
        >>> folder = tempfile.mkdtemp()
        >>> outcome = train(Config(hidden=(32,), epochs=1), f"{folder}/run")
        >>> outcome.test.samples, (outcome.run.path / "best.safetensors").exists()
        (359, True)
        >>> resume(outcome.run.path, epochs=2).epochs
        2
        >>> evaluate(outcome.run.path).samples, predict(outcome.run.path, "digits").answers.shape
        (359, (1797,))
        >>> [row.weights for row in quantize_report(outcome.run.path, weights=(8,), states=()).rows]
        [None, 8]
    """
    first = first_process()
    if out is not None and first:
        Run.check(out)
    data = load(config.data, config.binning) if data is None else data
    config = fitted(config, data)
    if console is not None and first and data.left_out:
        console.print(f"[yellow]warning[/]  {data.left_out} events come after the last of {config.steps} steps and are left out")
    trainer = _trainer(config)
    require_possible(config, data, trainer)
    with enough_memory():
        module = SpikingModule(config, data)
    if first:
        run = Run.create(config, data.name, out)
        os.environ[RUN_VARIABLE] = str(run.path)
    elif out is None and RUN_VARIABLE not in os.environ:
        raise InputError("several machines need one folder: give it with --out")
    else:
        run = Run(Path(os.environ.get(RUN_VARIABLE) or str(out)))
    try:
        with run.alone():
            if first:
                run.write("run.json", _description(data, config))
            return _complete(run, config, data, trainer, module, console, callbacks)
    except DivergedError:
        raise
    except Exception:
        if first and not run.checkpoint.exists():
            run.discard()
        raise


def resume(
    path: str | Path,
    *,
    data: Dataset | str | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    console: Console | None = None,
    **changes: Any,
) -> Outcome:
    """Continue a run after its last whole epoch, to the same weights as if it had never stopped; a finished one if it gets more epochs.

    With more `epochs` than before, the learning rate goes on as if the run had been that long from the start.

    Args:
        path: folder of the run.
        data: as for `train`, or where they are now, if they have moved.
        callbacks: as for `train`.
        console: where the progress bar is drawn; nowhere if None.
        **changes: other values of `epochs`, `accelerator`, `devices`, `num_nodes`, `strategy` or `pictures`; or `model`, for a network of
            one's own whose file has moved or changed and is to be taken as it is.

    Raises:
        InputError: it is no run or a damaged one, its data or the file of its neuron or network have changed, another setting was
            given, or another process trains it.
        DivergedError: an `InputError`; also where the run had diverged before.
    """
    run = Run.open(path)
    if isinstance(data, str):
        changes["data"], data = data, None
    with run.alone():
        return _resumed(run, data, callbacks, console, changes)


def _resumed(
    run: Run, data: Dataset | None, callbacks: Sequence[lightning.Callback], console: Console | None, changes: dict[str, Any]
) -> Outcome:
    before = Config.read(run.path / "config.json")
    config = before.changed(**changes)
    if other := [name for name in changes if name not in CHANGEABLE and getattr(config, name) != getattr(before, name)]:
        raise InputError(f"a resumed run keeps its `{other[0]}`; only {', '.join(CHANGEABLE)} can change")
    data = load(config.data, config.binning) if data is None else data
    if (run.path / "run.json").exists():
        facts = facts_of(run)
        require_same_data(run, config, facts, data, "a run is resumed on the same data")
        require_same_neuron(run, config, facts)
        require_same_model(run, config, facts, "model" in changes)
    done = _epochs_done(run)
    if config.epochs < done:
        raise InputError(f"{run.path} has done {done} epochs already; give --epochs {done} or more")
    trainer = _trainer(config)
    with enough_memory():
        module = SpikingModule(config, data)
    for row in run.metrics():  # versions that did not look at it trained on with a loss that was no number
        module.require_learning(row["validation_loss"], f"after epoch {row['epoch']:.0f}")
    if first_process():
        run.checkpoint.parent.mkdir(exist_ok=True)
        run.write("config.json", config.json())
        run.write("run.json", _description(data, config))
    return _complete(run, config, data, trainer, module, console, callbacks)


def _trainer(config: Config) -> lightning.Trainer:
    with _calm():
        try:
            trainer = lightning.Trainer(
                accelerator=config.accelerator,
                devices=config.devices,
                num_nodes=config.num_nodes,
                strategy=config.strategy,
                precision=config.precision,  # pyright: ignore[reportArgumentType]
                max_epochs=config.epochs,
                gradient_clip_val=config.clip or None,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
            )
        except Exception as error:  # Lightning has no common class for what it refuses
            raise InputError(str(error).strip().splitlines()[0]) from error
    if trainer.precision != config.precision:  # which Lightning says in a warning
        raise InputError(f"`precision` {config.precision} is not to be had here; take {trainer.precision}, or another accelerator")
    return trainer


def _complete(
    run: Run,
    config: Config,
    data: Dataset,
    trainer: lightning.Trainer,
    module: SpikingModule,
    console: Console | None,
    callbacks: Sequence[lightning.Callback],
) -> Outcome:
    """Train what is left, then test the best weights and draw the pictures."""
    keeper = Keeper(run)
    trainer.callbacks += [keeper, Watch(run, console), *callbacks]  # pyright: ignore[reportAttributeAccessIssue]
    if console is not None and trainer.is_global_zero:
        trainer.callbacks.append(Bar(console))  # pyright: ignore[reportAttributeAccessIssue]
    interrupted = False
    try:
        if _epochs_done(run) < config.epochs:
            with _calm(), _threads(config.threads), enough_memory():
                _fit(trainer, module, run.checkpoint if run.checkpoint.exists() else None, keeper)
        interrupted = trainer.interrupted
        test = _finish(run, config, data) if trainer.is_global_zero and not interrupted else None
    except KeyboardInterrupt:
        test, interrupted = None, True
    rows = run.metrics()
    epochs, seconds = (int(rows[-1]["epoch"]), rows[-1]["seconds"]) if rows else (0, 0.0)
    return Outcome(run, test, interrupted, epochs, seconds)


def _finish(run: Run, config: Config, data: Dataset) -> Measurement:
    """Test the best weights and draw the pictures, also anew in formats that they were drawn in before."""
    rows = run.metrics()
    if not rows:
        raise InputError(f"{run.path / 'metrics.csv'} has no epochs, though {run.checkpoint} has; the run is damaged, start anew")
    trained = network_of(run, config, data.features, data.classes, data.shape)
    test = measure(trained, data.test, config.seed)
    run.write("results.json", _results(test, rows, trained))
    drawings = (
        lambda: plots.learning_curves(rows),
        lambda: plots.confusion(test.confusion),
        lambda: plots.raster(look(trained, data.test, 0, config.seed)),
    )
    for name, draw in zip(PICTURES, drawings, strict=True):
        for ending in ("png", "svg", "pdf"):
            path = run.path / f"{name}.{ending}"
            if ending == config.pictures or path.exists():
                figure = draw()
                run.replace(path, lambda new, figure=figure, ending=ending: plots.write(figure, new, ending))
    return test


def _fit(trainer: lightning.Trainer, module: SpikingModule, checkpoint: Path | None, keeper: Keeper) -> None:
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise
    except Exception as error:
        if checkpoint is None or keeper.started:
            raise
        raise InputError(f"{checkpoint} does not fit this run: {reason(error)}") from error


def _epochs_done(run: Run) -> int:
    if not run.checkpoint.exists():
        return 0
    try:
        with run.checkpoint.open("rb") as file:
            return 1 + int(torch.load(file, map_location="cpu", weights_only=True)["epoch"])
    except Exception as error:  # a broken file makes the unpickler fail in any way
        raise InputError(f"{run.checkpoint} cannot be read as a checkpoint: {type(error).__name__}: {reason(error)}") from None


def _description(data: Dataset, config: Config) -> str:
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    facts = {
        "data": data.name,
        "features": data.features,
        "steps": data.steps,
        "classes": data.classes,
        "samples": {name: len(part[1]) for name, part in parts.items()},
        "fingerprint": data.fingerprint,
        "shape": data.shape,
        "names": data.names,
        "events_left_out": data.left_out,
        "neuron": None if config.model else neuron_of(config),
        "model": model_of(config),
        "spikegrad": version("spikegrad"),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return json.dumps(facts, indent=2) + "\n"


def _results(test: Measurement, rows: list[dict[str, float]], network: Network) -> str:
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"], -row["epoch"]))
    results = {
        "test_accuracy": test.accuracy,
        "test_correct": test.correct,
        "test_samples": test.samples,
        "validation_accuracy": best["validation_accuracy"],
        "validation_loss": best["validation_loss"],
        "best_epoch": int(best["epoch"]),
        "epochs": int(rows[-1]["epoch"]),
        "training_seconds": rows[-1]["seconds"],
        "firing_rates": test.rates,
        "silent_neurons": test.silent,
        "ties": test.ties,
        "parameters": sum(p.numel() for p in network.parameters()),
        "confusion": test.confusion.tolist(),
    }
    return json.dumps(results, indent=2, allow_nan=False) + "\n"


@contextmanager
def _threads(number: int | None) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _calm() -> Generator[None]:
    """Keep Lightning's advice from the terminal: none of it is for the user of this command."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
