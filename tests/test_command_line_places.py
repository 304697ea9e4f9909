"""Files, folders and consoles as they are elsewhere: long names, links to nowhere, too little memory, data that moved, two at one run."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from spikegrad.data.events import Binning, Recording
from spikegrad.errors import InputError
from spikegrad.kernels.cpu import memory
from spikegrad.training import Config, evaluate, resume, train
from spikegrad.training import run as running
from spikegrad.training.folder import Run

TINY = Config(hidden=(4,), epochs=1, steps=3, pictures="none")


@pytest.fixture(scope="module")
def done(tmp_path_factory, small):
    """A run."""
    return train(TINY.changed(data=small), tmp_path_factory.mktemp("done") / "run").run.path


@pytest.fixture
def copied(done, tmp_path):
    """A copy of it."""
    return shutil.copytree(done, tmp_path / "copy")


LONG = "x" * 300
"""A name that no file can have: looking for it fails, as it does in a folder that one may not enter."""


@pytest.mark.parametrize(
    "command",
    ["train --out {}", "train --data {}", "train --data {}.npz", "train --config {}", "train --resume {}", "evaluate {}", "diagnose {}",
     "predict {run} {small} --out {}.csv", "predict {run} {}.npz", "plot ATan --out {}.png", "explore {}.html", "compare --out {}",
     "compare --data {small} --out {}", "tune --out {}", "show {}.py:Own", "quantize-report {}"],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_one_line(told, done, small, command):
    arguments = [part.replace("{run}", str(done)).replace("{small}", small).replace("{}", LONG) for part in command.split()]
    code, printed, said = told(*arguments)
    assert (code, printed) == (2, "")
    assert said.endswith("file name too long")


def test_too_little_memory_for_the_data_is_one_line(told, monkeypatch, tmp_path):
    def load(*_):
        raise MemoryError("Unable to allocate 7.28 TiB for an array")

    monkeypatch.setattr(running, "load", load)
    code, _, said = told("train", "--out", tmp_path / "run")
    assert (code, said) == (2, "spikegrad: there is not enough memory: Unable to allocate 7.28 TiB for an array")
    assert not (tmp_path / "run").exists()


def test_a_console_that_cannot_take_every_sign_gets_the_others():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "spikegrad", "list"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (made.returncode, made.stderr) == (0, "")
    assert "\\u221e" in made.stdout


@pytest.mark.parametrize("runs", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_runs_that_are_no_folder_are_named_and_not_looked_for_for_ever(told, small, tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    runs(tmp_path / "runs")
    code, _, said = told("train", "--data", small, "--hidden", 4, "--epochs", 1)
    assert (code, said) == (2, "spikegrad: cannot write runs/small-1: file exists")
    if (tmp_path / "runs").is_symlink():
        assert "cannot write runs/mine" in told("train", "--data", small, "--hidden", 4, "--epochs", 1, "--out", "runs/mine")[2]


def test_a_run_goes_on_with_data_that_have_moved(told, small, tmp_path):
    before, now, other = (str(tmp_path / f"{name}.npz") for name in ("before", "now", "other"))
    shutil.copy(small, before)
    run = train(TINY.changed(data=before), tmp_path / "run").run.path
    shutil.move(before, now)
    assert told("train", "--resume", run, "--epochs", 2) == (2, "", f"spikegrad: no such file: {before}")
    np.savez(other, x=np.load(now)["x"] / 2, y=np.load(now)["y"])
    assert f"{other} is not what {run} was trained on" in told("train", "--resume", run, "--epochs", 2, "--data", other)[2]
    assert told("train", "--resume", run, "--epochs", 2, "--data", now)[0] == 0
    assert (Config.read(run / "config.json").data, len(Run(run).metrics())) == (now, 2)
    assert evaluate(run).samples == 8
    assert resume(run, epochs=3, data=now).epochs == 3


def test_two_do_not_train_one_run(told, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    with Run(copied).alone():
        code, _, said = told("train", "--resume", copied, "--epochs", 3)
        assert (code, said) == (2, f"spikegrad: {copied} is being trained by another process; wait until it has ended, or stop it")
        assert told("evaluate", copied)[0] == 0  # what only reads may
    assert {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()} == before
    assert resume(copied, epochs=2).epochs == 2


def test_a_run_is_locked_while_it_is_trained(small, tmp_path, monkeypatch):
    seen = []
    complete = running._complete

    def look(run, *others):
        with pytest.raises(InputError, match="is being trained by another process"):
            resume(run.path, epochs=5)
        seen.append(run.path)
        return complete(run, *others)

    monkeypatch.setattr(running, "_complete", look)
    train(TINY.changed(data=small), tmp_path / "run")
    assert seen == [tmp_path / "run"]


def test_weights_that_cannot_be_read_are_not_called_missing(told, copied):
    (copied / "best.safetensors").unlink()
    (copied / "best.safetensors").symlink_to("best.safetensors")
    said = told("evaluate", copied)[2]
    assert said.endswith("best.safetensors does not hold this network's weights: too many levels of symbolic links")


def test_of_other_weights_it_is_said_which(told, copied):
    weights = load_file(copied / "best.safetensors")
    save_file({"mine" if name == "readout.0.weight" else name: x for name, x in weights.items()}, copied / "best.safetensors")
    assert 'Missing key(s) in state_dict: "readout.0.weight". Unexpected key(s) in state_dict: "mine".' in told("evaluate", copied)[2]


def test_where_answers_cannot_be_written_is_said_before_they_are_sought(told, done, small, tmp_path):
    code, printed, said = told("predict", done, small, "--out", tmp_path / "absent" / "a.csv")
    assert (code, printed, said) == (2, "", f"spikegrad: cannot write to {tmp_path / 'absent'}: there is no such folder")


@pytest.mark.parametrize(("command", "shown"), [("diagnose", "layers.0.2"), ("quantize-report", "8 bits")])
def test_what_was_found_is_shown_though_it_cannot_be_written(told, done, monkeypatch, command, shown):
    def write(self, name, content):
        raise InputError(f"cannot write {name}: permission denied")

    monkeypatch.setattr(Run, "write", write)
    code, printed, said = told(command, done)
    assert code == 2
    assert shown in printed
    assert said.endswith(".json: permission denied")


@pytest.mark.parametrize("step_ms", [1e-320, 1e-9])
def test_more_steps_than_there_can_be_are_laid_to_their_duration(step_ms):
    recording = Recording("own", np.array([0.0, 900.0]), (np.array([0, 1]),))
    with pytest.raises(InputError, match=rf"`step_ms` {step_ms:g} makes more than 1000000000 steps of the longest sample, of 900 ms"):
        Binning(step_ms=step_ms).fitted([recording])
    assert Binning(step_ms=1e-6).fitted([recording]).steps == 900_000_001


def test_a_configuration_from_windows_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"epochs": 3}', encoding="utf-8-sig")  # with a byte order mark
    assert Config.read(tmp_path / "config.json").epochs == 3


def test_an_environment_that_says_nonsense_is_one_line(monkeypatch):
    monkeypatch.setenv("SPIKEGRAD_KEEP", "much")
    with pytest.raises(InputError, match="SPIKEGRAD_KEEP must be a whole number of MiB"):  # which the command line tells
        memory.limit()
