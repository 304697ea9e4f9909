"""A run that is looked at again: whether all that it was made from is as it was, and its network with the best weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from spikegrad.data import Dataset, samples
from spikegrad.data.dataset import Array
from spikegrad.errors import InputError
from spikegrad.training.config import Config
from spikegrad.training.feasible import require_encodable
from spikegrad.training.folder import Run, reason
from spikegrad.training.named import digest_of, function_of
from spikegrad.training.network import Network, network


@dataclass(frozen=True)
class Trained:
    """A run that is looked at again.

    Attributes:
        run: its folder.
        config: its configuration.
        facts: what its data were.
    """

    run: Run
    config: Config
    facts: dict[str, Any]

    def network(self) -> Network:
        """The network with its best weights.

        Raises:
            InputError: there are none, or they do not fit.
        """
        return network_of(self.run, self.config, self.facts["features"], self.facts["classes"], tuple(self.facts.get("shape") or ()))


def reopened(path: str | Path, model: str | None = None) -> Trained:
    """A run whose neurons and network are still those that it was trained with, or whose network is to be taken from another file.

    Raises:
        InputError: it is no run, or they have changed.
    """
    run = Run.open(path)
    config = Config.read(run.path / "config.json")
    if model is not None:
        if not config.model:
            raise InputError(f"{path} has no network of its own; leave out --model")
        config = config.changed(model=model)
    facts = facts_of(run)
    require_same_neuron(run, config, facts)
    require_same_model(run, config, facts, model is not None)
    return Trained(run, config, facts)


def samples_for(trained: Trained, data: str) -> tuple[Array, NDArray[np.int64] | None, list[str]]:
    """All samples of other data, as the network of a run takes them; see `spikegrad.data.samples`.

    Raises:
        InputError: they do not fit it.
    """
    config, facts, path = trained.config, trained.facts, trained.run.path
    binning = config.binning if config.sensor else None
    x, y, files = samples(data, binning, tuple(facts.get("names") or ()), 2 if facts["steps"] is None else 3)
    if x.shape[-1] != facts["features"] or (x.ndim == 2) != (facts["steps"] is None):
        raise InputError(
            f"{data} has samples of shape {tuple(x.shape[1:])}, but {path} was trained on {facts['features']} "
            f"{'features' if facts['steps'] is None else 'channels in time'}"
        )
    if y is not None and (classes := 1 + int(y.max())) > facts["classes"]:
        raise InputError(f"{data} has {classes} classes, but {path} was trained on {facts['classes']}")
    require_encodable(config, x)
    return x, y, files


def network_of(run: Run, config: Config, features: int, classes: int, shape: tuple[int, ...]) -> Network:
    """The network with its best weights, in the precision it was trained in."""
    made = network(config, features, classes, shape or (features,))
    try:
        run.weights.open("rb").close()  # of a file that may not be read safetensors says that it is missing
        made.load_state_dict(load_file(run.weights), assign=True)
    except FileNotFoundError:
        if (run.path / "metrics.csv").exists():
            raise InputError(f"{run.weights} is missing; the run is damaged, start anew") from None
        raise InputError(f"{run.path} has no weights yet; continue it with --resume {run.path}") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{run.weights} does not hold this network's weights: {reason(error)}") from None
    return made.requires_grad_(False)


def facts_of(run: Run) -> dict[str, Any]:
    """What the data of a run were."""
    facts = run.read_json("run.json")
    kinds = {"features": int, "classes": int, "steps": int | None, "fingerprint": str}
    if wrong := [name for name, kind in kinds.items() if name not in facts or not isinstance(facts[name], kind)]:
        raise InputError(f"{run.path / 'run.json'} is damaged: it has no `{wrong[0]}`, or it is of the wrong type")
    return facts


def require_same_data(run: Run, config: Config, facts: dict[str, Any], data: Dataset, advice: str) -> None:
    """Refuse data that have changed since the run began.

    Raises:
        InputError: they have; the message ends with the advice.
    """
    if facts["fingerprint"] != data.fingerprint:
        raise InputError(f"{config.data} is not what {run.path} was trained on; {advice}")


def neuron_of(config: Config) -> dict[str, str]:
    """What decides what the neurons do: the hash of their step, and all that is set."""
    cell = config.cell
    return {"step": cell.record.key} | {field.name: str(getattr(cell, field.name)) for field in fields(cell)}


def require_same_neuron(run: Run, config: Config, facts: dict[str, Any]) -> None:
    """Refuse a file whose neuron has changed since the run began, as far as this version can tell."""
    known = facts.get("neuron") if facts.get("spikegrad") == version("spikegrad") else None
    if ".py:" in config.neuron and known not in (None, neuron_of(config)):
        raise InputError(f"{config.neuron} is no longer the neuron that {run.path} was trained with; undo what was changed in that file")


def model_of(config: Config) -> dict[str, str] | None:
    """Which function made the network, and what stood in its file."""
    if not config.model:
        return None
    function_of(config.model)
    return {"function": config.model, "sha256": digest_of(config.model)}


def require_same_model(run: Run, config: Config, facts: dict[str, Any], given: bool) -> None:
    """Refuse a file whose network has changed since the run began, unless it was given anew."""
    now, known = model_of(config), facts.get("model")
    if not given and now is not None and isinstance(known, dict) and known.get("sha256") != now["sha256"]:
        raise InputError(
            f"{config.model} has changed since {run.path} was trained with it; undo that, or take it as it is now with "
            f"--model {config.model}"
        )
