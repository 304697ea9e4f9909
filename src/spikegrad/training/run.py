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
from spikegrad.training.callbacks import Bar, Keeper, Watch
from spikegrad.training.config import Config
from spikegrad.training.feasible import enough_memory, fitted, require_encodable, require_possible
from spikegrad.training.folder import PICTURES, Run, first_process
from spikegrad.training.measure import Measurement, look, measure
from spikegrad.training.module import DivergedError, SpikingModule
from spikegrad.training.network import Network

CHANGEABLE = ("epochs", "accelerator", "devices", "num_nodes", "strategy", "pictures")
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
        console: where progress is told, by a bar on a terminal, else by a line for each epoch; nowhere if None.

    Raises:
        InputError: the data, a setting or the folder is at fault, or memory or the disk does not suffice; nothing is overwritten, and a
            folder is left only if an epoch has ended.
        DivergedError: an `InputError`; the folder keeps what was there before.

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
        if first:
            run.write("run.json", _description(data, config))
        return _complete(run, config, data, trainer, module, console)
    except DivergedError:
        raise
    except Exception:
        if first and not run.checkpoint.exists():
            run.discard()
        raise


def resume(path: str | Path, *, console: Console | None = None, **changes: Any) -> Outcome:
    """Continue a run after its last whole epoch, to the same weights as if it had never stopped; a finished one if it gets more epochs.

    With more `epochs` than before, the learning rate goes on as if the run had been that long from the start.

    Args:
        path: folder of the run.
        console: where the progress bar is drawn; nowhere if None.
        **changes: other values of `epochs`, `accelerator`, `devices`, `num_nodes`, `strategy` or `pictures`.

    Raises:
        InputError: it is no run or a damaged one, its data or the file of its neuron have changed, or another setting was given.
        DivergedError: an `InputError`; also where the run had diverged before.
    """
    run = Run.open(path)
    before = Config.read(run.path / "config.json")
    config = before.changed(**changes)
    if other := [name for name in changes if name not in CHANGEABLE and getattr(config, name) != getattr(before, name)]:
        raise InputError(f"a resumed run keeps its `{other[0]}`; only {', '.join(CHANGEABLE)} can change")
    data = load(config.data)
    if (run.path / "run.json").exists():
        facts = _facts(run)
        _require_same_data(run, config, facts, data, "a run is resumed on the same data")
        _require_same_neuron(run, config, facts)
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
    return _complete(run, config, data, trainer, module, console)


def evaluate(path: str | Path, data: str | None = None) -> Measurement:
    """The best weights of a run on its test samples, or on all samples of other data.

    Args:
        path: folder of the run.
        data: name or file of other data, of which every sample is used; those of the run if None.

    Raises:
        InputError: it is no run with weights, its data or the file of its neuron have changed, or the data do not fit the network.
    """
    run = Run.open(path)
    config = Config.read(run.path / "config.json")
    facts = _facts(run)
    _require_same_neuron(run, config, facts)
    other, data = data is not None, data or config.data
    samples = load(data)
    if not other:
        _require_same_data(run, config, facts, samples, f"evaluate it on what it is now with --data {config.data}")
    if samples.features != facts["features"] or (samples.steps is None) != (facts["steps"] is None):
        raise InputError(
            f"{data} has samples of shape {samples.train[0].shape[1:]}, but {path} was trained on {facts['features']} "
            f"{'features' if facts['steps'] is None else 'channels in time'}"
        )
    if samples.classes > facts["classes"]:
        raise InputError(f"{data} has {samples.classes} classes, but {path} was trained on {facts['classes']}")
    require_encodable(config, samples)
    network = _network(run, config, facts["features"], facts["classes"])
    return measure(network, samples.whole if other else samples.test, config.seed)


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
    run: Run, config: Config, data: Dataset, trainer: lightning.Trainer, module: SpikingModule, console: Console | None
) -> Outcome:
    """Train what is left, then test the best weights and draw the pictures."""
    keeper = Keeper(run)
    trainer.callbacks += [keeper, Watch(run, console)]  # pyright: ignore[reportAttributeAccessIssue]
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
    network = _network(run, config, data.features, data.classes)
    test = measure(network, data.test, config.seed)
    run.write("results.json", _results(test, rows, network))
    figures = plots.learning_curves(rows), plots.confusion(test.confusion), plots.raster(look(network, data.test, 0, config.seed))
    for name, figure in zip(PICTURES, figures, strict=True):
        for ending in ("png", "svg", "pdf"):
            path = run.path / f"{name}.{ending}"
            if ending == config.pictures or path.exists():
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
        raise InputError(f"{checkpoint} does not fit this run: {str(error).strip().splitlines()[0]}") from error


def _network(run: Run, config: Config, features: int, classes: int) -> Network:
    """The network with its best weights, in the precision it was trained in."""
    network = Network(config, features, classes)
    try:
        network.load_state_dict(load_file(run.weights), assign=True)
    except FileNotFoundError:
        if (run.path / "metrics.csv").exists():
            raise InputError(f"{run.weights} is missing; the run is damaged, start anew") from None
        raise InputError(f"{run.path} has no weights yet; continue it with --resume {run.path}") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{run.weights} does not hold this network's weights: {str(error).splitlines()[0]}") from None
    return network.requires_grad_(False)


def _epochs_done(run: Run) -> int:
    if not run.checkpoint.exists():
        return 0
    try:
        with run.checkpoint.open("rb") as file:
            return 1 + int(torch.load(file, map_location="cpu", weights_only=True)["epoch"])
    except Exception as error:  # a broken file makes the unpickler fail in any way
        why = str(error).partition("\n")[0]
        raise InputError(f"{run.checkpoint} cannot be read as a checkpoint: {type(error).__name__}: {why}") from None


def _facts(run: Run) -> dict[str, Any]:
    """What the data of a run were."""
    facts = run.read_json("run.json")
    kinds = {"features": int, "classes": int, "steps": int | None, "fingerprint": str}
    if wrong := [name for name, kind in kinds.items() if name not in facts or not isinstance(facts[name], kind)]:
        raise InputError(f"{run.path / 'run.json'} is damaged: it has no `{wrong[0]}`, or it is of the wrong type")
    return facts


def _require_same_data(run: Run, config: Config, facts: dict[str, Any], data: Dataset, advice: str) -> None:
    if facts["fingerprint"] != data.fingerprint:
        raise InputError(f"{config.data} is not what {run.path} was trained on; {advice}")


def _neuron(config: Config) -> dict[str, str]:
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
    facts = {
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
    results = {
        "test_accuracy": test.accuracy,
        "test_correct": test.correct,
        "test_samples": test.samples,
        "validation_accuracy": best["validation_accuracy"],
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
