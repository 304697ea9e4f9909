"""Where a run diverged, found without reading the loss in every step."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from spikegrad.training import Config, DivergedError, module, train  # noqa: E402
from spikegrad.training.divergence import INTERVAL, FirstBeyond, due  # noqa: E402
from spikegrad.training.folder import Run  # noqa: E402


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([1.0, 10.0, -10.0], None),
        ([1.0, 11.0, math.nan, 2.0], (1, 11.0)),
        ([-11.0], (0, -11.0)),
        ([1.0, math.inf], (1, math.inf)),
        ([], None),
    ],
)
def test_the_first_loss_beyond_the_bound(losses, found):
    first = FirstBeyond(10.0)
    for step, loss in enumerate(losses):
        first.note(torch.tensor(loss), step)
    assert first.found() == found
    assert first.found() == found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_no_number_is_found_in_every_dtype(dtype):
    for loss in (math.nan, math.inf, -math.inf):
        first = FirstBeyond(1e6)  # beyond all numbers of float16
        first.note(torch.tensor(1.0, dtype=dtype), 0)
        first.note(torch.tensor(loss, dtype=dtype), 1)
        step, value = first.found()
        assert step == 1
        assert math.isnan(loss) == math.isnan(value)


def test_noting_reads_nothing():
    """What has no numbers can be noted, and what would wait for a device fails there."""
    first = FirstBeyond(1.0)
    for step in range(3):
        first.note(torch.ones((), device="meta"), step)
    with pytest.raises(RuntimeError, match=r"meta"):
        first.found()


def test_when_a_loss_is_looked_at():
    assert all(due(torch.device("cpu"), step, False) for step in range(3))
    looks = [step for step in range(3 * INTERVAL - 1) if due(torch.device("cuda"), step, step == 3 * INTERVAL - 2)]
    assert looks == [INTERVAL - 1, 2 * INTERVAL - 1, 3 * INTERVAL - 2]


@pytest.mark.parametrize(("batch", "bad"), [(10, 2), (1, 2)])
def test_a_run_elsewhere_stops_at_the_next_look_and_says_where_it_began(tmp_path, monkeypatch, batch, bad):
    import numpy as np

    y = np.arange(75) % 3
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((75, 4)), y=y)
    steps: list[tuple[int, int]] = []
    step = module.SpikingModule.training_step

    def counted(self: Any, given: Any, batch_idx: int) -> Any:
        steps.append((self.current_epoch, batch_idx))
        return step(self, given, batch_idx)

    def diverging(activity: Any, y: Any, config: Config) -> Any:
        lost = len(steps) and steps[-1][0] == 1 and steps[-1][1] >= bad
        return activity.scores.sum() * (math.nan if lost else 0.0)

    monkeypatch.setattr(module.SpikingModule, "training_step", counted)
    monkeypatch.setattr(module, "loss", diverging)
    monkeypatch.setattr(module, "due", lambda device, step, last: due(torch.device("cuda"), step, last))
    config = Config(data=str(tmp_path / "data.npz"), hidden=(3,), steps=2, epochs=2, batch=batch, norm=False)
    with pytest.raises(DivergedError, match=rf"diverged in step {bad + 1} of epoch 2: the loss is nan"):
        train(config, tmp_path / "run")
    last = [number for epoch, number in steps if epoch == 1][-1]
    assert last + 1 == (INTERVAL if batch == 1 else len([0 for epoch, _ in steps if epoch == 0]))
    assert [row["epoch"] for row in Run.open(tmp_path / "run").metrics()] == [1]
