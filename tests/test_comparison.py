"""Many trainings beside each other: what is trained, who trains it, what is kept after a kill, and what is told."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.figure
import pytest
import torch
from rich.console import Console

from spikegrad import FastSigmoid, neurons
from spikegrad.comparison import Cell, Comparison, compare, grid
from spikegrad.comparison import work as working
from spikegrad.comparison.figures import accuracy_by_slope, accuracy_map, learning_curves
from spikegrad.comparison.folder import Result
from spikegrad.comparison.table import best_setting, best_table, showing
from spikegrad.comparison.zenke_vogels import ASYMPTOTIC, CONSTANT, NO_HIDDEN, SHAPES, again, base, cells, findings
from spikegrad.errors import InputError
from spikegrad.training import Config, train
from spikegrad.training.claims import claim
from spikegrad.training.loss import rate_penalty
from spikegrad.training.network import Network

TINY = {"hidden": (4,), "steps": 3, "epochs": 2, "norm": False, "dropout": 0.0, "accelerator": "cpu", "pictures": "png"}


def tiny(data: str, **changes) -> Config:
    return Config(data=data, **{**TINY, **changes})


def test_grid_is_every_combination_and_slopes_are_set_where_a_surrogate_has_them():
    found = grid(
        Config(parameters={"threshold": 2.0}),
        surrogates=["ATan", "Boxcar", "StraightThrough"],
        slopes=[2, 5],
        neurons=["leaky", "Adaptive(0.8)"],
        lrs=[0.1],
        seeds=[0, 1],
    )
    assert len(found) == (2 + 2 + 1) * 2 * 2
    assert len({cell.name for cell in found}) == len(found)
    of = {tuple(cell.labels.values()): cell.config for cell in found}
    assert of["ATan", 5.0, "leaky", 0.1, 1].spike.slope == 5
    assert of["Boxcar", 5.0, "leaky", 0.1, 1].spike.width == 0.2
    adaptive = of["StraightThrough", None, "Adaptive(0.8)", 0.1, 0]
    assert (adaptive.cell.beta, adaptive.cell.threshold, adaptive.lr, adaptive.seed) == (0.8, 2.0, 0.1, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"surrogates": ["Atan"]}, "did you mean ATan"),
        ({"surrogates": ["ATan(slope=3)"], "slopes": [2]}, "slope of ATan\\(slope=3\\) is given beside slopes"),
        ({"surrogates": ["FastSigmoid(3)"], "slopes": [2]}, "given beside slopes"),
        ({"slopes": [-1.0]}, "slopes must be greater than 0, got -1"),
        ({"surrogates": []}, "nothing is compared"),
        ({"lrs": [0.0]}, "`lr` must be greater than 0"),
    ],
)
def test_grid_refuses(options, told):
    with pytest.raises(InputError, match=told):
        grid(Config(), **options)


def test_a_comparison_is_trained_as_each_would_be_by_itself_and_continued_where_it_was(small, tmp_path, monkeypatch):
    first = grid(tiny(small), slopes=[2, 5])
    found = compare(first, tmp_path / "out")
    assert [result.state for result in found.results] == ["done"] * 2
    train(first[1].config.changed(threads=1, pictures="none"), tmp_path / "alone")
    weights = Path("best.safetensors")
    assert (found.run(first[1]) / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    told = json.loads((found.run(first[1]) / "results.json").read_text())
    assert [row["slope"] for row in rows] == ["2", "5"]
    assert float(rows[1]["test_accuracy"]) == pytest.approx(told["test_accuracy"], rel=1e-5)
    assert float(rows[1]["validation_loss"]) == pytest.approx(told["validation_loss"], rel=1e-5)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"accuracy_by_slope.png", "learning_curves.png"}

    trained = list[str]()
    whole = working.train_cell
    monkeypatch.setattr(working, "train_cell", lambda comparison, cell: trained.append(cell.name) or whole(comparison, cell))
    more = [*first, *grid(tiny(small), slopes=[2], seeds=[7])]
    assert len(compare(more, tmp_path / "out").results) == 3
    assert trained == [more[2].name]
    with pytest.raises(InputError, match="compares something else: 2 of its 3 cells"):
        compare(more[2:] + grid(tiny(small), slopes=[9]), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="is no comparison"):
        compare(first, tmp_path / "other")
    with pytest.raises(InputError, match=r"it has no comparison\.json"):
        Comparison(tmp_path / "other")


def test_a_cell_that_was_killed_goes_on_after_its_last_epoch_to_the_same_weights(small, tmp_path, monkeypatch):
    config = tiny(small, epochs=3)
    whole = compare(grid(config), tmp_path / "whole")
    cell = whole.cells[0]
    part = Comparison.at(tmp_path / "part", whole.cells)
    train(cell.config.changed(threads=1, pictures="none", epochs=1), part.run(cell))  # a run of one epoch of three, as if it was killed
    (part.run(cell) / "results.json").unlink()
    (part.run(cell) / "config.json").write_bytes((whole.run(cell) / "config.json").read_bytes())
    compare(whole.cells, tmp_path / "part")
    for name in ("best.safetensors",):
        assert (part.run(cell) / name).read_bytes() == (whole.run(cell) / name).read_bytes()
    assert [row["validation_loss"] for row in part.course(cell)] == [row["validation_loss"] for row in whole.course(cell)]

    bare = Comparison.at(tmp_path / "bare", whole.cells)
    bare.run(cell).mkdir(parents=True)  # killed between making the folder and writing into it
    compare(whole.cells, tmp_path / "bare")
    assert (bare.run(cell) / "best.safetensors").read_bytes() == (whole.run(cell) / "best.safetensors").read_bytes()


def test_what_diverges_is_a_result_and_is_not_tried_again(small, tmp_path, monkeypatch):
    wild = tiny(small, optimizer="sgd", weight_decay=0.0)
    found = compare(grid(wild, lrs=[1e18, 1e-3]), tmp_path / "out")
    assert [result.state for result in found.results] == ["diverged", "done"]
    assert found.results[0].test == 0
    assert "the loss is" in (found.run(found.cells[0]) / "diverged.txt").read_text()
    monkeypatch.setattr(working, "train_cell", lambda *each: pytest.fail("it has ended"))
    compare(found.cells, tmp_path / "out")


def test_a_claim_is_held_by_one_and_free_when_its_process_is_gone(tmp_path):
    path = tmp_path / "claims" / "a"
    code = "import sys, time; from pathlib import Path; from spikegrad.training.claims import claim\n"
    code += "with claim(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    with claim(path) as ours:
        assert not ours
    assert json.loads(path.read_text())["process"] == other.pid
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with claim(path) as ours, claim(path) as second:
        assert (ours, second) == (True, False)
        assert json.loads(path.read_text())["process"] == os.getpid()
    with claim(path) as ours:
        assert ours


def test_what_all_write_is_whole_whoever_writes_it(tmp_path):
    """Several processes that start at one moment make the folder and its files together."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".comparison.json.another-1.new").touch()  # another is about to write it
    comparison = Comparison.at(tmp_path / "out", grid(Config()))
    names = [path.name for path in comparison.path.iterdir()]
    assert sorted(names) == [".comparison.json.another-1.new", "comparison.json"]
    code = "import sys; from pathlib import Path; from spikegrad.training.claims import write\n"
    code += "for n in range(300): write(Path(sys.argv[1]), 'x' * 10000)"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "file")]) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        assert not (tmp_path / "file").exists() or len((tmp_path / "file").read_text()) == 10000
    assert [process.wait() for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []


def test_what_another_process_has_is_waited_for(small, tmp_path, monkeypatch):
    """While it is claimed it is left alone; once the claim is free, it is taken over."""
    comparison = Comparison.at(tmp_path / "out", grid(tiny(small, epochs=1)))
    held = claim(comparison.claim(comparison.cells[0]))
    assert held.__enter__()
    looks = list[int]()

    def sleep(seconds: float) -> None:
        looks.append(len(list(comparison.path.glob("cells/*"))))
        if len(looks) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", sleep)
    working.work(comparison)
    assert looks == [0, 0]
    assert comparison.done


def of(values: dict[str, object], test: float, validation: float | None = None, loss: float = 1.0) -> Result:
    measured = {"test_accuracy": test, "validation_accuracy": test if validation is None else validation, "validation_loss": loss}
    return Result(Cell({"surrogate": "ATan", "slope": 1.0, "neuron": "leaky", "lr": 0.1, "seed": 0} | values, Config()), "done", measured)


def test_the_best_setting_is_chosen_on_validation_samples_by_the_mean_of_seeds():
    results = [
        of({"slope": 1.0, "seed": 0}, 0.5, 0.9),
        of({"slope": 1.0, "seed": 1}, 0.6, 0.7),
        of({"slope": 2.0, "seed": 0}, 0.9, 1.0),
        of({"slope": 2.0, "seed": 1}, 0.9, 0.5),
    ]
    assert best_setting(results) == results[:2]
    assert best_setting([of({"lr": 1.0}, 0.1, loss=2.0), of({"lr": 2.0}, 0.1, loss=1.0)])[0].cell.labels["lr"] == 2
    assert best_setting([]) == []
    table = best_table(results)
    assert [str(each) for column in table.columns for each in column.cells] == ["ATan  leaky", "55.0", "90.0"]


def results_like_the_papers(quick: bool = True) -> list[Result]:
    """What would come out if all of it held."""
    fits = {"SuperSpike": 50.0, "Sigmoid'": 20.0, "Esser": 5.0}

    def accuracy(cell: Cell) -> float:
        name, beta, reset = (cell.labels[each] for each in ("surrogate", "slope", "reset"))
        if name in SHAPES:
            return 0.97 if beta <= fits[name] or reset == "attached" or (beta in (10, 20, 100) and name == "SuperSpike") else 0.4
        return {CONSTANT: 0.6, NO_HIDDEN: 0.58, ASYMPTOTIC: 0.5}[name]

    return [Result(cell, "done", of({}, accuracy(cell)).values) for cell in cells(quick)]


def changed(results: list[Result], accuracy: float, **labels: object) -> list[Result]:
    """The results, those with the labels replaced."""
    return [
        Result(r.cell, r.state, of({}, accuracy).values) if labels.items() <= r.cell.labels.items() else r  # type: ignore[operator]
        for r in results
    ]


@pytest.mark.parametrize("quick", [True, False])
def test_findings_hold_and_fail_with_their_numbers(quick):
    whole = results_like_the_papers(quick)
    whole += [Result(cell, "done", of({}, 0.99).values) for cell in again(whole, quick)]
    assert [each.what[:2] for each in findings(whole, quick)] == ["1 ", "2 ", "3 ", "4a", "4b", "th"]

    def failing(results: list[Result]) -> list[str]:
        return [each.what[:2].strip() for each in findings(results, quick) if not each.holds]

    assert failing(whole) == []
    assert failing(changed(whole, 0.5, surrogate="Esser")) == ["1", "2"]  # then every setting of it is as good as its best
    assert failing(changed(whole, 0.7, surrogate=CONSTANT)) == ["3"]
    assert failing(changed(whole, 0.61, surrogate=ASYMPTOTIC, slope=100.0)) == ["4a"]
    assert failing(changed(whole, 0.9, surrogate="SuperSpike", slope=100.0, reset="attached")) == ["4b"]
    best = findings(whole, quick)[-1]
    assert "0.970, 0.990, 0.990, mean 0.983" in best.numbers
    assert failing(changed(whole, 0.1, seed=1)) == ["th"]


def test_what_one_seed_has_best_by_luck_is_not_the_best():
    first = results_like_the_papers()
    others = again(first, quick=True)
    assert len(others) == (10 + 2) * 2  # all that fit are alike, of which ten are taken, and the best of the two other shapes
    worse = {name: x for name, x in first[0].cell.labels.items() if name != "seed"}
    assert all(not worse.items() <= cell.labels.items() for cell in again(changed(first, 0.90, **worse), quick=True))
    lucky = {name: x for name, x in others[0].labels.items() if name != "seed"}
    whole = first + [Result(cell, "done", of({}, 0.2 if lucky.items() <= cell.labels.items() else 0.96).values) for cell in others]
    best = findings(whole, quick=True)[-1]
    assert best.holds
    assert "0.970, 0.960, 0.960" in best.numbers


def test_the_papers_surrogates_have_the_papers_peaks():
    assert [Config(surrogate=name, parameters=dict(numbers)).spike.peak for name, numbers in (make(10.0) for make in SHAPES.values())] == (
        pytest.approx([1.0, 0.25, 1.0])
    )
    made = cells(quick=False)
    assert len(made) == len({cell.name for cell in made}) == 3 * 12 * 6 + 2 * 6 + 2 * 4 * 6
    peaks = {cell.labels["slope"]: cell.config.spike.peak for cell in made if cell.labels["surrogate"] == ASYMPTOTIC}
    assert peaks == {10.0: 10.0, 20.0: 20.0, 50.0: 50.0, 100.0: 100.0}
    assert {cell.config.cell.detach_reset for cell in made if cell.labels["reset"] == "attached"} == {False}
    assert {cell.config.hidden for cell in made if cell.labels["surrogate"] == NO_HIDDEN} == {()}
    cell = base(quick=False).cell
    assert (cell.reset, cell.reset_delay, cell.scale_input, cell.spike_at_threshold, cell.detach_reset) == ("zero", True, True, False, True)
    assert (round(cell.alpha, 4), round(cell.beta, 4), round(base(False).decay, 4)) == (0.8187, 0.9048, 0.9512)


def test_pictures_have_a_line_for_each_surrogate_and_a_map_of_several_rates(small, tmp_path):
    results = [
        of({"surrogate": name, "slope": slope, "lr": rate}, 0.5) for name in ("A", "B") for slope in (1.0, 2.0) for rate in (0.1, 0.2)
    ]
    results += [of({"surrogate": "C", "slope": None}, 0.2)]
    figure = accuracy_by_slope(results)
    axes = figure.axes[0]
    assert axes.get_legend_handles_labels()[1] == ["C", "A", "B"]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("slope of the surrogate, 1 / potential", "log")
    some = [Result(result.cell, "done", result.values | {"classes": 4.0}) for result in results[:2]]
    for given, chance in (([*some, *results], [25.0]), (results, [])):  # of what diverged the number of classes is not known
        texts = [each for each in accuracy_by_slope(given).axes[0].texts if each.get_text() == "guessing"]
        assert [each.xy[1] for each in texts] == chance  # pyright: ignore[reportAttributeAccessIssue]
    maps = accuracy_map(results)
    assert isinstance(maps, matplotlib.figure.Figure)
    assert [each.get_title() or each.get_title("left") for each in maps.axes if each.images] == ["A", "B"]
    assert accuracy_map(results[-1:]) is None
    done = compare(grid(tiny(small)), tmp_path / "out")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with showing(done, terminal):
        pass
    assert "1 of 1 ended" in terminal.file.getvalue()
    assert learning_curves(done).axes[0].get_xlabel() == "epoch"


def test_compare_on_the_command_line(small, tmp_path, told, monkeypatch):
    out = tmp_path / "out"
    tiny_options = ["--data", small, "--hidden", 4, "--steps", 3, "--epochs", 1, "--no-norm", "--jobs", 1]
    code, printed, _ = told("compare", *tiny_options, "--surrogates", "ATan", "--slopes", "2,5", "--out", out)
    assert code == 0
    assert "1/2  surrogate ATan  slope 2" in printed
    assert "results.csv" in printed
    code, printed, _ = told("compare", "--out", out)  # continues with what it was
    assert (code, "1/2" in printed) == (0, False)
    monkeypatch.chdir(tmp_path)
    assert told("compare", *tiny_options, "--slopes", "2")[0] == 0
    assert told("compare", *tiny_options, "--slopes", "2")[0] == 0
    assert len(list((tmp_path / "comparisons").iterdir())) == 1
    numbers = ["--neurons", "Adaptive", "--surrogates", "FastSigmoid", "--set", "rho=0.5", "--set", "height=2", "--learn", "jump"]
    assert told("compare", *tiny_options, *numbers, "--out", tmp_path / "numbers")[0] == 0
    (cell,) = Comparison(tmp_path / "numbers").cells
    assert (cell.config.cell, cell.config.learned) == (neurons.Adaptive(0.9, rho=0.5, spike=FastSigmoid(height=2)), ("jump",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slopes", "2,x"], "--slopes must be numbers with commas, got '2,x'"),
        (["--seeds", "1,,2"], "--seeds must be values with commas"),
        (["--lrs", "0.1,0.1"], "--lrs names 0.1 twice"),
        (["--preset", "zenke"], "unknown preset 'zenke'"),
        (["--preset", "zenke-vogels-2021", "--epochs", "3"], "--epochs is decided by --preset"),
        (["--check"], "--check goes with --preset"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--data", "digit"], "did you mean digits?"),
    ],
)
def test_compare_refuses_on_the_command_line(told, options, said):
    code, _, error = told("compare", *options)
    assert code == 2
    assert said in error


def test_networks_without_biases_hidden_layers_or_pictures_and_with_a_readout_of_its_own(small, tmp_path):
    """What a comparison with a published network needs of the settings."""
    config = tiny(small, hidden=(), bias=False, beta=0.5, readout_beta=0.25, pictures="none", epochs=1)
    outcome = train(config, tmp_path / "run")
    assert sorted(path.name for path in outcome.run.path.iterdir()) == [
        "best.safetensors",
        "checkpoints",
        "config.json",
        "metrics.csv",
        "results.json",
        "run.json",
    ]
    network = Network(config.changed(hidden=(3,)), 4, 2)
    assert [tuple(each.shape) for each in network.parameters()] == [(3, 4), (2, 3)]
    assert network.readout[1].neuron.beta == 0.25
    assert network.layers[0][1].neuron.beta == 0.5
    assert Config(beta=0.5).decay == 0.5
    with pytest.raises(InputError, match="`readout_beta` has no use beside `loss` count"):
        Config(loss="count", readout_beta=0.5)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 1.0]])
def test_the_penalty_on_rates_is_one_formula_for_spikes_of_either_sign(values):
    spikes = torch.tensor(values).reshape(2, 1, 1).requires_grad_()
    rate = sum(map(abs, values)) / 2
    penalty = rate_penalty(spikes, lower=0.75, upper=0.8)
    penalty.backward()
    assert penalty.item() == pytest.approx(max(0.75 - rate, 0) ** 2 + max(rate - 0.8, 0) ** 2)
    slope = -2 * max(0.75 - rate, 0) + 2 * max(rate - 0.8, 0)
    signs = [-1 if value < 0 else 1 for value in values]  # a neuron that is silent is woken, too
    assert spikes.grad.ravel().tolist() == pytest.approx([slope * sign / 2 for sign in signs])


@pytest.mark.slow
def test_commands_that_are_killed_and_started_again_share_the_work(small, tmp_path):
    """Two commands on one folder, one of them with two processes; all are killed, and two others end it."""
    config = ["--data", small, "--hidden", "4", "--steps", "3", "--epochs", "60", "--no-norm"]
    swept = ["--slopes", "1,2,3,4,5,6,7,8,9,10", "--out", str(tmp_path / "out")]

    def start(jobs: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "spikegrad", "compare", *config, *swept, "--jobs", str(jobs)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    cells = grid(Config(data=small, hidden=(4,), steps=3, epochs=60, norm=False), slopes=range(1, 11))
    first, second = start(2), start(1)
    ended = 0
    while not 2 <= ended <= 8:
        time.sleep(0.1)
        ended = len(list((tmp_path / "out" / "cells").glob("*/results.json")))
        assert (first.poll(), second.poll()) == (None, None)
    owners = {json.loads(path.read_text())["process"] for path in (tmp_path / "out" / "claims").iterdir()}
    for process in (first, second):
        process.kill()
        process.communicate()
    time.sleep(1)  # what they had started ends with them
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").glob("*/results.json")}
    assert len(before) < 10
    both = [start(1), start(1)]
    printed = [process.communicate()[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    comparison = Comparison.at(tmp_path / "out", cells)
    assert [result.state for result in comparison.results] == ["done"] * 10
    later = {json.loads(path.read_text())["process"] for path in (tmp_path / "out" / "claims").iterdir()}
    assert len(later - owners) == 2
    assert all("10/10" in text or "best on the validation samples" in text for text in printed)
    one = compare(cells[3:4], tmp_path / "alone")
    for name in ("best.safetensors",):
        assert (comparison.run(cells[3]) / name).read_bytes() == (one.run(cells[3]) / name).read_bytes()
