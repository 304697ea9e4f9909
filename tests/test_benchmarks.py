"""The benchmarks run, refuse to report what does not agree, and become a page."""

import dataclasses
import json

import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import agreement, contenders, layer, machine, measure, page, plots, report
from benchmarks.contenders import Contender, Twin
from benchmarks.measure import DisagreementError, Effort, Report, Row, Section

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own

TIME, COLUMNS = 6, 100


@pytest.fixture(autouse=True)
def threads():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def only_snntorch(monkeypatch):
    """Peers that load slowly have their own run; here they are missing."""
    monkeypatch.setattr(Contender, "installed", lambda self: self.package == "snntorch")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in ("compat", "kernels", "network", "scaling", "startup") else ()) for n in command.NAMES],
)
def test_runs_and_writes(name, tmp_path, only_snntorch, capsys):
    assert command.main([name, "--quick", "--out", str(tmp_path)]) == 0
    found, about = report.read(tmp_path / f"{name}.json")
    assert found.sections
    assert all(section.rows for section in found.sections)
    assert found.checked
    assert about["quick"]
    assert {"cpu", "cores", "threads"} <= set(about["machine"])
    assert about["versions"]["torch"]
    assert about["commit"]
    assert (tmp_path / f"{name}-1.png").exists()
    assert (tmp_path / f"{name}-1.svg").exists()
    assert command.main(["docs", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 0
    assert f"## {name}" in (tmp_path / "page.md").read_text()


def test_a_checkout_against_itself(tmp_path):
    here = command.RESULTS.parents[1]
    assert command.main(["kernels", "--quick", "--against", str(here), "--out", str(tmp_path)]) == 0
    found, _ = report.read(tmp_path / "against.json")
    assert [row.name.split(":")[1] for row in found.sections[0].rows] == [" the other", " this checkout"] * 3
    assert all(row.ratio > 0 for row in found.sections[0].rows)
    for name in ("Leaky, small", "Leaky in JAX, small"):
        assert f"{name}: both checkouts compute the same, bit for bit" in found.checked
    assert machine.commit().rstrip("+") in found.sections[0].text
    with pytest.raises(SystemExit):
        command.main(["layer", "--against", str(here)])


def agreeing():
    """Spikes and gradients of both sides, and the potentials they come from."""
    generator = np.random.default_rng(0)
    potentials = generator.normal(1, 0.5, (TIME, COLUMNS))
    spikes, gradient = (potentials >= 1).astype(float), generator.normal(size=potentials.shape)
    return [spikes, gradient], [spikes.copy(), gradient.copy()], potentials


def test_agreement():
    ours, theirs, potentials = agreeing()
    assert "same spikes and gradients" in agreement.same("peer", ours, theirs, potentials)


def test_a_spike_that_differs_is_refused():
    ours, theirs, potentials = agreeing()
    theirs[0][3, 5] = 1 - theirs[0][3, 5]
    potentials[3, 5] = 1.1
    with pytest.raises(
        DisagreementError, match=r"1 of 100 neurons spike differently; the first does at step 3, at a potential of 1\.100000"
    ):
        agreement.same("peer", ours, theirs, potentials)


def test_a_potential_at_the_threshold_is_excused_for_few_neurons_only():
    ours, theirs, potentials = agreeing()
    potentials[2] = 1 + 1e-6
    theirs[0][2, :2] = 1 - theirs[0][2, :2]
    theirs[1][:, :2] = 7
    assert "2 of 100 neurons apart by rounding" in agreement.same("peer", ours, theirs, potentials)
    theirs[0][2, 2] = 1 - theirs[0][2, 2]
    with pytest.raises(DisagreementError, match="too many to be chance"):
        agreement.same("peer", ours, theirs, potentials)


def test_a_gradient_that_differs_is_refused():
    ours, theirs, potentials = agreeing()
    theirs[1] *= 1.01
    with pytest.raises(DisagreementError, match="gradients differ by"):
        agreement.same("peer", ours, theirs, potentials)
    theirs[1][:] = np.nan
    with pytest.raises(DisagreementError, match="gradients differ by"):
        agreement.same("peer", ours, theirs, potentials)


def test_silence_proves_nothing():
    ours, theirs, potentials = agreeing()
    ours[0][:] = theirs[0][:] = 0
    with pytest.raises(DisagreementError, match="nothing was compared"):
        agreement.same("peer", ours, theirs, potentials)


def test_a_peer_with_other_options_is_refused_and_not_reported(tmp_path, monkeypatch, capsys):
    pytest.importorskip("snntorch")
    wrong = dataclasses.replace(contenders.LEAKY[0], twin=Twin())  # snnTorch resets one step later
    monkeypatch.setattr(contenders, "LEAKY", (wrong,))
    monkeypatch.setattr(layer, "QUICK", {"small": (30, 2, 16)})
    assert command.main(["layer", "--quick", "--out", str(tmp_path)]) == 1
    assert "both sides do not compute the same" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("peer", [*contenders.LEAKY, *contenders.SYNAPTIC, *contenders.JAX], ids=lambda peer: peer.name)
def test_every_installed_peer_agrees(peer):
    if not peer.installed():
        pytest.skip(peer.missing())
    kind = "Synaptic" if peer in contenders.SYNAPTIC else "Leaky"
    side, make = (layer.JaxSide(), contenders.ours_jax) if peer in contenders.JAX else (layer.TorchSide(), contenders.ours)
    assert "same spikes" in layer.prove(side, kind, peer, layer.inputs((30, 2, 16)), make(kind, peer.twin))


def test_alternation_and_ratios():
    calls = []
    samples = measure.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, Effort(rounds=3, seconds=0))
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    calls.clear()
    measure.alternate({"a": lambda: calls.append("a")}, Effort(rounds=1, seconds=1))
    assert len(calls) == 2 + 1 + 1000, "once before it is timed over several calls"
    rows = measure.rows({"a": [1.0, 2.0, 4.0], "b": [3.0, 6.0, 12.0]}, "a")
    assert [row.ratio for row in rows] == [1, 3]
    assert rows[0].value == 2000


def test_page_of_a_made_result(tmp_path):
    made = Report(
        [Section("A title", "ms", [Row("ours", 1, 0.9, 1.1, 1.0, 1.0, 1.0), Row("a | b", 20, 19, 22, 20, 19, 22, note="why")], "ours")]
    )
    made.skipped = ["peer: not installed"]
    about = {"machine": {"cpu": "c", "cores": 2, "threads": 2, "system": "s"}, "versions": {"torch": "1"}, "commit": "abc", "date": "d"}
    report.write("layer", made, {**about, "quick": False, "rounds": 3}, tmp_path)
    page.write(tmp_path, tmp_path / "docs" / "page.md")
    text = (tmp_path / "docs" / "page.md").read_text()
    assert "| ours | 1.00 | 0.900 to 1.10 | 1.00 |  |  |" in text
    assert "| a \\| b | 20.0 | 19.0 to 22.0 | 20.0 | 19.0 to 22.0 | why |" in text
    assert "- peer: not installed" in text
    assert "svg" not in text
    plots.draw("layer", made, tmp_path)
    page.write(tmp_path, tmp_path / "docs" / "page.md")
    assert "![A title](../layer-1.svg)" in (tmp_path / "docs" / "page.md").read_text()
    assert json.loads((tmp_path / "layer.json").read_text())["commit"] == "abc"


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="benchmarks all"):
        page.write(tmp_path, tmp_path / "page.md")
