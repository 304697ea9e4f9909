"""Run folders of versions whose optimiser had one group for all parameters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from safetensors.torch import load_file  # noqa: E402

from spikegrad.errors import InputError  # noqa: E402
from spikegrad.training import Config, resume, train  # noqa: E402
from spikegrad.training.module import SpikingModule  # noqa: E402

OPTIONS: dict[str, Any] = {"hidden": (4, 3), "steps": 3, "epochs": 2, "batch": 8, "lr": 0.05, "threads": 1, "pictures": "none"}
RUNS: dict[str, dict[str, Any]] = {
    "adam": {"learn": ("beta", "threshold", "slope"), "optimizer": "adam", "weight_decay": 0.1},
    "sgd": {"recurrent": "all-to-all", "optimizer": "sgd", "norm": False, "threshold": 0.1},
}


def in_one_group(checkpoint: dict[str, Any], names: list[str]) -> None:
    """What older versions wrote: one group, and states in the order of the parameters; `names` are those of the groups of today."""
    (optimizer,) = checkpoint["optimizer_states"]
    before = [name for name in checkpoint["state_dict"] if name in names]
    assert before != names
    assert sorted(before) == sorted(names)
    states = {name: optimizer["state"][place] for place, name in enumerate(names)}
    optimizer["state"] = {place: states[name] for place, name in enumerate(before)}
    group = optimizer["param_groups"][0]
    optimizer["param_groups"] = [{**group, "params": list(range(len(names))), "weight_decay": 0.1}]


def rewritten(source: Path, target: Path, names: list[str] | None, **more: Any) -> Path:
    shutil.copytree(source, target)
    checkpoint = torch.load(target / "checkpoints" / "last.ckpt", weights_only=True)
    if names is not None:
        in_one_group(checkpoint, names)
        for key, value in more.items():
            checkpoint["optimizer_states"][0]["param_groups"][0][key] = value
    torch.save(checkpoint, target / "checkpoints" / "last.ckpt")
    return target


@pytest.fixture(scope="module", params=RUNS)
def begun(request, small, tmp_path_factory):
    """A run of two epochs, and the names of its optimiser's parameters in their order."""
    outcome = train(Config(data=small, **OPTIONS, **RUNS[request.param]), tmp_path_factory.mktemp("older") / "run")
    names: list[str] = []

    class Asked(SpikingModule):
        def configure_optimizers(self) -> Any:
            found = super().configure_optimizers()
            of = {id(p): name for name, p in self.named_parameters()}
            names.extend(of[id(p)] for group in found.param_groups for p in group["params"])
            return found

    from spikegrad.training.run import load

    config = Config.read(outcome.run.path / "config.json")
    Asked(config, load(config.data)).configure_optimizers()
    return outcome.run.path, names


def test_they_go_on_as_those_of_today(begun, tmp_path):
    path, names = begun
    found = {}
    for kind in ("today", "older"):
        target = rewritten(path, tmp_path / kind, names if kind == "older" else None)
        resume(target, epochs=4)
        last = torch.load(target / "checkpoints" / "last.ckpt", weights_only=True)
        found[kind] = last["state_dict"], last["optimizer_states"][0], load_file(target / "best.safetensors")
    weights, optimizer, _ = found["today"]
    for name, weight in weights.items():
        assert torch.equal(found["older"][0][name], weight), name
    assert optimizer["param_groups"] == found["older"][1]["param_groups"]
    assert len(optimizer["param_groups"]) == 2
    for place, state in optimizer["state"].items():
        for key, value in state.items():
            assert value is None or torch.equal(found["older"][1]["state"][place][key], value), (place, key)


def test_of_another_network_they_are_refused(begun, tmp_path):
    path, names = begun
    target = rewritten(path, tmp_path / "other", names, params=list(range(len(names) - 1)))
    with pytest.raises(InputError, match=r"last\.ckpt does not fit this run: "):
        resume(target, epochs=4)
