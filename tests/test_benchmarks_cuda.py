"""The benchmarks for GPUs, by a card that is none: what they run, compare, count and say, with times that are made up."""

import itertools

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import card, cuda, layer, machine, page
from benchmarks.contenders import Contender
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section

from spikegrad import neurons

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own

QUICK = Effort(rounds=2, seconds=0.0, quick=True)


class Paper:
    """A card on which each call takes a millisecond more than the one before, and a copy moves 1e9 bytes a second."""

    device = "cpu"

    def __init__(self, left: float = 100.0) -> None:
        self.times, self.remaining, self.graphs = itertools.count(1), left, 0

    def seconds(self, task):
        task()
        return 1e-3 * next(self.times)

    def graphed(self, task):
        self.graphs += 1
        return task

    def compiled(self, module):
        return module

    def bandwidth(self):
        return 1e9

    def left(self):
        return self.remaining


@pytest.fixture(autouse=True)
def only_snntorch(monkeypatch):
    """Peers that load slowly are missing here; `tests/test_neurons_bench_peers.py` has all of them."""
    monkeypatch.setattr(Contender, "installed", lambda self: self.package == "snntorch")
    monkeypatch.setattr(cuda, "_jax", lambda *_: None)


@pytest.mark.parametrize("name", ["layer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("network", "neurons"))])
def test_runs_and_says_which_share_of_a_copy_it_is(name, tmp_path):
    paper = Paper(left=60.0)
    command.measure(name, QUICK, tmp_path, card=paper)
    found, about = command.report.read(tmp_path / f"{name}-cpu.json")
    assert about["quick"]
    assert found.checked
    assert all(section.rows for section in found.sections)
    if name == "network":
        assert [row.name for row in found.sections[0].rows][:2] == ["spikegrad", "spikegrad in a graph"]
        assert paper.graphs == 2
        assert found.sections[-1].title.startswith("SEW-ResNet18")
        assert "spikegrad, compiled: no time was left" in found.skipped  # compiling comes last
        return
    rows = [row for section in found.sections for row in section.rows]
    assert all("of the copy's bandwidth" in row.note for row in rows)
    if name == "layer":
        (peer,) = [row for row in rows if row.name == "snnTorch Leaky"]
        assert "ours as such" in peer.note
        size = card.moved(neurons.Leaky(0.9), 12, 16, 4)
        ours = rows[0]
        assert ours.note.startswith(f"{size / (ours.value * 1e-3) / 1e9:.0%} of")


def test_bytes_that_must_move():
    """Currents twice, gradients in and out, spikes; a state where a round begins, written and read, and one at the end."""
    steps, columns = 500, 2**18
    assert card.moved(neurons.Leaky(0.9), steps, columns, 4) == columns * 4 * (5 * steps + 2 * (-(-steps // 8) - 1) + 1)
    assert card.moved(neurons.Leaky(0.9), steps, columns, 2) == columns * (10 * steps + 4 * (2 * (-(-steps // 4) - 1) + 1))
    assert card.moved(neurons.Leaky(0.9), 4, columns, 4) == columns * 4 * (5 * 4 + 1)  # one round, no states
    # What it keeps does not depend on the input, and is not read again.
    assert card.moved(neurons.LeakyIntegrator(0.9), steps, columns, 4) == columns * 4 * (4 * steps + 1)


def test_as_many_rounds_as_there_is_time_for():
    paper = Paper()
    assert {len(v) for v in card.alternate({"a": lambda: 0, "b": lambda: 0}, Effort(rounds=5), paper).values()} == {5}
    assert len(card.alternate({"a": lambda: 0}, Effort(rounds=50), Paper(left=0.0))["a"]) == 3
    assert len(card.alternate({"a": lambda: 0}, Effort(rounds=50), Paper(left=0.0105))["a"]) == 10
    found = card.alternate({"a": lambda: 0, "b": lambda: 0}, Effort(rounds=3), Paper())
    assert found == {"a": pytest.approx([0.005, 0.007, 0.009]), "b": pytest.approx([0.006, 0.008, 0.01])}


def test_a_copy():
    assert card.copied(lambda: 0, 10**6, Paper()) == 10**6 / 5e-3  # the median of the first nine


def test_who_cannot_run_is_left_out_in_words():
    report = Report()

    def refuses():
        raise TypeError("no float16 here\nand more")

    found = card.tried({"a peer": refuses, "another": lambda: lambda: None}, report)
    assert list(found) == ["another"]
    assert report.skipped == ["a peer: TypeError: no float16 here"]
    with pytest.raises(TypeError):
        card.tried({"spikegrad": refuses}, report)


def test_what_differs_is_not_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(layer, "prove", lambda *_: (_ for _ in ()).throw(DisagreementError("a peer spikes otherwise")))
    with pytest.raises(DisagreementError, match="otherwise"):
        command.measure("layer", QUICK, tmp_path, card=Paper())
    assert not list(tmp_path.iterdir())


def test_the_page_names_the_card(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "card", lambda device: {"card": "A card", "cuda": "13.0"})
    row = Row("spikegrad", 1.0, 1.0, 1.0, note="90% of the copy's bandwidth")

    def stopped(effort, card, report):
        report.sections.append(Section("Leaky", "ms", [row]))
        raise KeyboardInterrupt

    monkeypatch.setitem(cuda.RUN, "layer", stopped)
    command.measure("layer", QUICK, tmp_path, card=Paper())  # what was measured is kept
    (tmp_path / "layer-cpu.json").rename(tmp_path / "layer-cuda.json")
    page.write(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "A card, CUDA 13.0; " in text
    assert "90% of the copy's bandwidth" in text
    assert "- the rest: it was stopped" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys, tmp_path):
    assert command.main(["layer", "network", "neurons", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{machine.without_cuda()}\n"
    assert "sees no GPU here" in machine.without_cuda()
    for arguments in (["memory", "--device", "cuda"], ["all", "layer"], ["kernels", "layer", "--against", "."]):
        with pytest.raises(SystemExit):
            command.main(arguments)
    assert not list(tmp_path.iterdir())
