"""The main job: train, resume, evaluate."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file

from spikegrad import plots
from spikegrad.data import Dataset, load
from spikegrad.errors import InputError
from spikegrad.training.callbacks import Bar, Keeper
from spikegrad.training.config import Config
from spikegrad.training.folder import Run, first_process
from spikegrad.training.measure import Measurement, look, measure
from spikegrad.training.module import SpikingModule
from spikegrad.training.network import Network

CHANGEABLE = ("epochs", "accelerator", "devices", "num_nodes", "strategy")
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


def train(config: Config, out: str | Path | None = None, *, console: Console | None = None) -> Outcome:
    """Train a network and leave everything about it in a folder.

    Args:
        config: what to do.
        out: the new folder; ``runs/<data>-<number>`` if None.
        console: where the progress bar is drawn; nowhere if None.

    Raises:
        InputError: the data, a setting or the folder is at fault; no folder is made and nothing is overwritten.

    Example:
        >>> import tempfile
        >>> from spikegrad.training import Config, train
        >>> folder = tempfile.mkdtemp()
        >>> outcome = train(Config(hidden=(32,), epochs=2), f"{folder}/run")
        >>> outcome.test.samples, (outcome.run.path / "best.safetensors").exists()
        (359, True)
    """
    first = first_process()
    if out is not None and first:
        Run.check(out)
    data = load(config.data)
    config = fitted(config, data)
    trainer = _trainer(config)
    if first:
        run = Run.create(config, data.name, out)
        run.write("run.json", _description(data, config))
        os.environ[RUN_VARIABLE] = str(run.path)
    elif out is None and RUN_VARIABLE not in os.environ:
        raise InputError("several machines need one folder: give it with --out")
    else:
        run = Run(Path(os.environ.get(RUN_VARIABLE) or str(out)))
    return _complete(run, config, data, trainer, console)


def resume(path: str | Path, *, console: Console | None = None, **changes: Any) -> Outcome:
    """Continue a run after its last whole epoch, to the same weights as if it had never stopped; a finished one if it gets more epochs.

    With more `epochs` than before, the learning rate goes on as if the run had been that long from the start.

    Args:
        path: folder of the run.
        console: where the progress bar is drawn; nowhere if None.
        **changes: other values of `epochs`, `accelerator`, `devices`, `num_nodes` or `strategy`.

    Raises:
        InputError: it is no run, its data or the file of its neuron have changed, or another setting was given.
    """
    run = Run.open(path)
    before = Config.read(run.path / "config.json")
    config = before.changed(**changes)
    if other := [name for name in changes if name not in CHANGEABLE and getattr(config, name) != getattr(before, name)]:
        raise InputError(f"a resumed run keeps its `{other[0]}`; only {', '.join(CHANGEABLE)} can change")
    data = load(config.data)
    facts = run.read_json("run.json") if (run.path / "run.json").exists() else {"fingerprint": data.fingerprint}
    if facts["fingerprint"] != data.fingerprint:
        raise InputError(f"{config.data} is not what {run.path} was trained on; a run is resumed on the same data")
    _require_same_neuron(run, config, facts)
    done = _epochs_done(run)
    if config.epochs < done:
        raise InputError(f"{run.path} has done {done} epochs already; give --epochs {done} or more")
    trainer = _trainer(config)
    if first_process():
        run.write("config.json", config.json())
        run.write("run.json", _description(data, config))
    return _complete(run, config, data, trainer, console)


def evaluate(path: str | Path, data: str | None = None) -> Measurement:
    """The best weights of a run on its test samples, or on all samples of other data.

    Args:
        path: folder of the run.
        data: name or file of other data, of which every sample is used; those of the run if None.

    Raises:
        InputError: it is no run with weights, the file of its neuron has changed, or the data do not fit the network.
    """
    run = Run.open(path)
    config = Config.read(run.path / "config.json")
    facts = run.read_json("run.json")
    _require_same_neuron(run, config, facts)
    samples = load(data or config.data)
    if samples.features != facts["features"] or (samples.steps is None) != (facts["steps"] is None):
        raise InputError(
            f"{data} has samples of shape {samples.train[0].shape[1:]}, but {path} was trained on {facts['features']} "
            f"{'features' if facts['steps'] is None else 'channels in time'}"
        )
    if samples.classes > facts["classes"]:
        raise InputError(f"{data} has {samples.classes} classes, but {path} was trained on {facts['classes']}")
    network = _network(run, config, facts["features"], facts["classes"])
    return measure(network, samples.test if data is None else samples.whole, config.seed)


def fitted(config: Config, data: Dataset) -> Config:
    """The configuration with what the data decide: the number of time steps.

    Raises:
        InputError: the encoding or the steps do not fit the data.
    """
    if data.steps is None:
        low, high = data.range
        if config.encoding != "current" and not 0 <= low <= high <= 1:
            raise InputError(f"`encoding` {config.encoding} needs values from 0 to 1, got {low:g} to {high:g}; scale them, or use current")
        return config.changed(steps=config.steps or 10)
    if config.encoding != "current":
        raise InputError(f"`encoding` {config.encoding} is for data without a time axis; leave it at current")
    if config.steps not in (None, data.steps):
        raise InputError(f"`steps` is {config.steps}, but the data have {data.steps} time steps; leave it out")
    return config.changed(steps=data.steps)


def _trainer(config: Config) -> lightning.Trainer:
    with _calm():
        try:
            return lightning.Trainer(
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


def _complete(run: Run, config: Config, data: Dataset, trainer: lightning.Trainer, console: Console | None) -> Outcome:
    """Train what is left, then test the best weights and draw the pictures."""
    keeper = Keeper(run)
    trainer.callbacks.append(keeper)  # pyright: ignore[reportAttributeAccessIssue]
    if console is not None and trainer.is_global_zero:
        trainer.callbacks.append(Bar(console))  # pyright: ignore[reportAttributeAccessIssue]
    if _epochs_done(run) < config.epochs:
        with _calm(), _threads(config.threads):
            _fit(trainer, SpikingModule(config, data), run.checkpoint if run.checkpoint.exists() else None)
    rows = run.metrics()
    epochs, seconds = (int(rows[-1]["epoch"]), rows[-1]["seconds"]) if rows else (0, 0.0)
    if trainer.interrupted or not trainer.is_global_zero:
        return Outcome(run, None, trainer.interrupted, epochs, seconds)
    network = _network(run, config, data.features, data.classes)
    test = measure(network, data.test, config.seed)
    run.write("results.json", _results(test, rows, network))
    plots.save(plots.learning_curves(rows), run.path / "learning_curves.png")
    plots.save(plots.confusion(test.confusion), run.path / "confusion.png")
    plots.save(plots.raster(look(network, data.test, 0, config.seed)), run.path / "raster.png")
    return Outcome(run, test, False, epochs, seconds)


def _fit(trainer: lightning.Trainer, module: SpikingModule, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise


def _network(run: Run, config: Config, features: int, classes: int) -> Network:
    """The network with its best weights, in the precision it was trained in."""
    network = Network(config, features, classes)
    try:
        network.load_state_dict(load_file(run.weights), assign=True)
    except FileNotFoundError:
        raise InputError(f"{run.path} has no weights yet; continue it with --resume {run.path}") from None
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{run.weights} does not hold this network's weights: {str(error).splitlines()[0]}") from None
    return network.requires_grad_(False)


def _epochs_done(run: Run) -> int:
    if not run.checkpoint.exists():
        return 0
    try:
        with run.checkpoint.open("rb") as file:
            return 1 + int(torch.load(file, map_location="cpu", weights_only=True)["epoch"])
    except Exception as error:  # a broken file makes the unpickler fail in any way
        raise InputError(f"{run.checkpoint} cannot be read: {str(error).splitlines()[0]}") from None


def _neuron(config: Config) -> dict[str, Any]:
    """What decides what the neurons do: the hash of their step, and all that is set."""
    cell = config.cell
    return {"step": cell.record.key} | {field.name: str(getattr(cell, field.name)) for field in fields(cell)}


def _require_same_neuron(run: Run, config: Config, facts: dict[str, Any]) -> None:
    """Refuse a file whose neuron has changed since the run began, as far as this version can tell."""
    known = facts.get("neuron") if facts.get("spikegrad") == version("spikegrad") else None
    if ".py:" in config.neuron and known not in (None, _neuron(config)):
        raise InputError(f"{config.neuron} is no longer the neuron that {run.path} was trained with; undo what was changed in that file")


def _description(data: Dataset, config: Config) -> str:
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    facts: dict[str, Any] = {
        "data": data.name,
        "features": data.features,
        "steps": data.steps,
        "classes": data.classes,
        "samples": {name: len(part[1]) for name, part in parts.items()},
        "fingerprint": data.fingerprint,
        "neuron": _neuron(config),
        "spikegrad": version("spikegrad"),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return json.dumps(facts, indent=2) + "\n"


def _results(test: Measurement, rows: list[dict[str, float]], network: Network) -> str:
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"], -row["epoch"]))
    results: dict[str, Any] = {
        "test_accuracy": test.accuracy,
        "test_correct": test.correct,
        "test_samples": test.samples,
        "validation_accuracy": best["validation_accuracy"],
        "best_epoch": int(best["epoch"]),
        "epochs": int(rows[-1]["epoch"]),
        "training_seconds": rows[-1]["seconds"],
        "firing_rates": test.rates,
        "silent_neurons": test.silent,
        "parameters": sum(p.numel() for p in network.parameters()),
        "confusion": test.confusion.tolist(),
    }
    return json.dumps(results, indent=2) + "\n"


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
