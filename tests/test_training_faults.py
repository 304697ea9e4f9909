"""What goes wrong around a run, or is asked for wrongly, is said in one line; no half folder is left."""

import errno
import json
import math
import os
import shutil
import stat
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.forked import ALL, ended

from spikegrad import Triangle, plots
from spikegrad.cli import main
from spikegrad.training import Config, DivergedError, callbacks, folder, resume, train
from spikegrad.training.measure import measure
from spikegrad.training.module import SpikingModule
from spikegrad.training.network import Network

TINY = ["--hidden", "4", "--steps", "3", "--epochs", "2", "--batch-size", "8", "--pictures", "none"]


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    config = Config(data=small, hidden=(4,), steps=3, epochs=2, batch=8, pictures="none")
    return train(config, tmp_path_factory.mktemp("runs") / "run").run


@pytest.mark.parametrize("settings", [["--lr", "1e9", "--optimizer", "sgd"], ["--weight-decay", "1e300"], ["--lr", "1e30", "--no-norm"]])
def test_a_diverging_run_says_when_and_what_to_try(small, tmp_path, told, settings):
    out = tmp_path / "run"
    code, printed, said = told("train", "--data", small, *TINY, "--epochs", 2, *settings, "--out", out)
    assert code == 2
    assert printed == "" or printed.startswith("epoch 1/2  loss")
    assert "spikegrad: training diverged " in said
    assert " of epoch " in said or " after epoch " in said
    assert "start anew with " in said
    assert ("a lower --weight-decay" in said) == ("--weight-decay" in settings)
    assert "--lr" in said
    assert "--clip 1" in said
    for file in out.rglob("*.*"):
        assert file.suffix == ".ckpt" or b"nan" not in file.read_bytes().lower(), file
    assert told("train", "--resume", out)[2] == said
    assert told("train", "--resume", out, "--epochs", 3)[2].split(":")[1] == said.split(":")[1]


def test_data_out_of_all_proportion_are_named(tmp_path, told):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", x=random.random((40, 4)) * 1e38, y=np.arange(40) % 2)
    said = told("train", "--data", tmp_path / "large.npz", *TINY, "--out", tmp_path / "run")[2]
    assert "start anew with data on a smaller scale, which reach 9.9" in said


def test_a_validation_loss_that_is_no_number_is_not_written(small, tmp_path, monkeypatch):
    log = SpikingModule._log

    def logged(self, part, value, scores, y):
        log(self, part, value + (math.nan if (part, self.current_epoch) == ("validation", 1) else 0), scores, y)

    monkeypatch.setattr(SpikingModule, "_log", logged)
    with pytest.raises(DivergedError, match=r"training diverged after epoch 2: the loss is nan, guessing has 0\.693"):
        train(Config(data=small, hidden=(4,), steps=3, epochs=3, pictures="none"), tmp_path / "run")
    assert [row["epoch"] for row in folder.Run.open(tmp_path / "run").metrics()] == [1]


def test_runs_that_older_versions_let_diverge_say_so(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "old")
    metrics = tmp_path / "old" / "metrics.csv"
    lines = [line.split(",") for line in metrics.read_text().split()]
    lines[2][lines[0].index("validation_loss")] = "nan"
    metrics.write_text("\n".join(map(",".join, lines)) + "\n")
    with pytest.raises(DivergedError, match="after epoch 2: the loss is nan"):
        resume(tmp_path / "old", epochs=4)


@pytest.mark.parametrize("settings", [["--hidden", "1000000000,1000000000"], ["--hidden", "1000000", "--steps", "1000000000"]])
def test_more_memory_than_there_is(small, tmp_path, told, settings):
    code, _, said = told("train", "--data", small, *settings, "--out", tmp_path / "new" / "run")
    assert code == 2
    assert "GiB of memory at least, and there are" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory\nat"), OSError(errno.EIO, "broken")]
)
def test_no_half_folder_is_left(small, tmp_path, monkeypatch, error):
    def fail(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(SpikingModule, "training_step", fail)
    with pytest.raises((ValueError, OSError)) as caught:
        train(Config(data=small, hidden=(4,), steps=3, epochs=2), tmp_path / "new" / "run")
    assert str(caught.value).startswith("there is not enough memory; take fewer neurons" if not isinstance(error, OSError) else "[Errno 5]")
    assert os.listdir(tmp_path) == []


def full_disk(monkeypatch, after):
    """A disk on which this many files have room."""
    left = [after]
    replace = folder.Run.replace

    def limited(self, target, write):
        left[0] -= 1

        def writing(path):
            write(path)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        replace(self, target, writing)

    monkeypatch.setattr(folder.Run, "replace", limited)


@pytest.mark.parametrize("after", [0, 1, 4, 5, 9])
def test_a_full_disk(small, tmp_path, monkeypatch, told, finished, after):
    out = tmp_path / "runs" / "run"
    with monkeypatch.context() as patched:
        full_disk(patched, after)
        code, _, said = told("train", "--data", small, *TINY[:-2], "--out", out)
    assert code == 2
    assert ": no space left on device" in said
    assert f"spikegrad: cannot write {out}" in said
    if after < 5:  # two descriptions, metrics, weights and the checkpoint of the first epoch
        assert os.listdir(tmp_path) == []
        return
    assert not list(out.rglob(".*.new"))
    resume(out)
    assert (out / "best.safetensors").read_bytes() == finished.weights.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="no umask elsewhere")
def test_files_have_the_mode_of_the_umask(small, tmp_path):
    before = os.umask(0o026)
    try:
        run = train(Config(data=small, hidden=(4,), steps=3, epochs=1, pictures="none"), tmp_path / "run").run
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.path.rglob("*.*")}
    assert modes == dict.fromkeys(modes, 0o640)
    assert "best.safetensors" in modes


def test_single_samples_cannot_be_normalised(small, tmp_path, told):
    for more in ([], ["--steps", "1"]):
        given = ["--data", small, "--hidden", "4", "--epochs", "1", "--batch-size", "1", *more, "--out", tmp_path / "run"]
        code, _, said = told("train", *given)
        assert code == 2
        assert "batch normalisation learns nothing from single samples, and --batch-size 1 gives no others" in said
    assert os.listdir(tmp_path) == []
    assert told("train", *given, "--no-norm")[0] == 0


def test_batches_larger_than_the_data(small, tmp_path):
    outcome = train(Config(data=small, hidden=(4,), steps=3, epochs=1, batch=10**9, pictures="none"), tmp_path / "run")
    assert outcome.epochs == 1


def test_a_line_for_each_epoch_where_there_is_no_terminal(small, tmp_path, told):
    _, printed, _ = told("train", "--data", small, *TINY[:-1], "pdf", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "confusion.pdf").read_bytes().startswith(b"%PDF")
    assert "confusion.pdf  learning_curves.pdf  raster.pdf" in printed
    lines = printed.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    assert all(word in lines[0] for word in ("loss 0.", "validation ", " %  firing "))


def test_the_line_of_an_epoch_is_there_when_it_has_ended(small, tmp_path, monkeypatch, capsys):
    seen, keep = [], callbacks.Keeper.on_train_start
    start = SpikingModule.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            seen.append(capsys.readouterr().out.count("epoch"))
        return start(self, batch, batch_idx)

    monkeypatch.setattr(SpikingModule, "on_train_batch_start", on_train_batch_start)
    monkeypatch.setattr(sys, "argv", ["spikegrad", "train", "--data", small, *TINY, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main()
    assert keep is callbacks.Keeper.on_train_start
    assert seen == [0, 1]


def damage(finished, target, name, content):
    shutil.copytree(finished.path, target)
    path = target / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return target


FACTS = b'{"features": 4, "classes": 2, "steps": "three", "fingerprint": "x"}'
DAMAGES = {
    ("config.json", None): "is not a run: it has no config.json",
    ("config.json", b"{"): "config.json is not JSON",
    ("config.json", b"[" * 100_000): "config.json is not JSON",
    ("config.json", b'{"epochs": "2"}'): "config.json: `epochs` must be a whole number, got '2'",
    ("run.json", b"[]"): "run.json must hold one JSON object, got list",
    ("run.json", b"{"): "run.json cannot be read",
    ("run.json", b"\xff\xfe"): "run.json cannot be read",
    ("run.json", b"{}"): "run.json is damaged: it has no `features`",
    ("run.json", FACTS): "run.json is damaged: it has no `steps`, or it is of the wrong type",
    ("metrics.csv", b""): "metrics.csv has no epochs, though",
    ("metrics.csv", b"epoch,loss\n1,x\n"): "metrics.csv cannot be read: could not convert string to float: 'x'",
    ("metrics.csv", b"epoch,loss\n1,2\n"): "metrics.csv must have the columns",
    ("metrics.csv", b"epoch,loss\n1\n"): "metrics.csv cannot be read",
    ("metrics.csv", b"\xff\xff"): "metrics.csv cannot be read",
    ("checkpoints/last.ckpt", b"broken"): "last.ckpt cannot be read as a checkpoint",
    ("checkpoints/last.ckpt", b""): "last.ckpt cannot be read as a checkpoint",
    ("best.safetensors", None): "best.safetensors is missing; the run is damaged",
    ("best.safetensors", b"broken"): "best.safetensors does not hold this network's weights",
}


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_damaged_runs_are_named(finished, tmp_path, told, name, content):
    run = damage(finished, tmp_path / "run", name, content)
    for command in ("train --resume", "evaluate"):
        code, printed, said = told(*command.split(), run)
        if command == "evaluate" and name in ("metrics.csv", "checkpoints/last.ckpt"):
            assert code == 0
            continue
        assert (code, printed) == (2, "")
        assert DAMAGES[name, content] in said


def test_a_checkpoint_of_another_network_is_named(finished, tmp_path, told):
    run = damage(finished, tmp_path / "run", "checkpoints/last.ckpt", None)
    for change in ("state_dict", "optimizer_states"):
        content = torch.load(finished.checkpoint, weights_only=True)
        content[change] = {} if change == "state_dict" else [{"state": {}, "param_groups": []}]
        torch.save(content, run / "checkpoints" / "last.ckpt")
        code, _, said = told("train", "--resume", run, "--epochs", 3)
        assert code == 2
        assert "last.ckpt does not fit this run" in said
    torch.save([1], run / "checkpoints" / "last.ckpt")
    assert "last.ckpt cannot be read as a checkpoint" in told("train", "--resume", run)[2]
    weights = load_file(finished.weights)
    save_file({name: each[:1] for name, each in weights.items() if each.ndim}, run / "best.safetensors")
    assert "does not hold this network's weights" in told("evaluate", run)[2]


def test_a_run_whose_folder_of_checkpoints_is_gone_begins_again(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    shutil.rmtree(run / "checkpoints")
    assert resume(run).run.checkpoint.exists()
    assert (run / "best.safetensors").read_bytes() == finished.weights.read_bytes()


def test_evaluate_says_when_the_data_are_others(small, finished, tmp_path, told):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    moved = tmp_path / "moved.npz"
    config = json.loads((run / "config.json").read_text())
    with np.load(small) as content:
        np.savez(moved, x=content["x"] / 2, y=content["y"])
    (run / "config.json").write_text(json.dumps({**config, "data": str(moved)}))
    code, _, said = told("evaluate", run)
    assert code == 2
    assert f"moved.npz is not what {run} was trained on; evaluate it on what it is now with --data {moved}" in said
    assert told("evaluate", run, "--data", moved)[0] == 0


def test_ties_are_counted_and_said(small, tmp_path, told):
    network = Network(Config(hidden=(4,), loss="count", threshold=100.0, steps=3), 4, 3)
    x, y = np.zeros((5, 4), "float32"), np.array([0, 1, 2, 0, 1])
    assert measure(network, (x, y), 0).ties == 5
    out = tmp_path / "run"
    arguments = ["--loss", "count", "--threshold", "100", "--out", out]
    printed = told("train", "--data", small, *TINY, *arguments)[1]
    assert "ties           8 answers, where two classes had the highest score; more --steps, a lower --threshold" in printed
    assert json.loads((out / "results.json").read_text())["ties"] == 8
    network = Network(Config(hidden=(4,)), 4, 2)
    assert measure(network, (np.random.default_rng(0).random((5, 4)).astype("float32"), y % 2), 0).ties == 0


STOPPED = """
import os, signal
from spikegrad.cli import main
from spikegrad.training import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit that it is ignored
whole = run.measure

def measure(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return whole(*arguments)

run.measure = measure
main()
"""


def test_ctrl_c_after_the_last_epoch(small, finished, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "--data", small, *TINY, "--out", str(out)]
    (done,) = ended(f"import sys\nsys.argv[1:] = {arguments!r}\n{STOPPED}", libraries=ALL)
    assert (done.code, done.err) == (130, "")
    assert f"Stopped, 2 epochs kept. Continue with:\n  spikegrad train --resume {out}" in done.out
    assert not (out / "results.json").exists()
    resume(out)
    assert (out / "results.json").exists()
    assert (out / "best.safetensors").read_bytes() == finished.weights.read_bytes()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(figure, path, format):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(plots, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.save(plots.curves([Triangle()]), tmp_path / "curves.png")
    assert os.listdir(tmp_path) == []
