"""The explorer page as a page: its links, the line of Python it copies, its file, and the command that writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.test_explore import CATALOGUE, SURROGATES, Page, of_neuron, of_surrogate, structures

from spikegrad import explore, formulas, neurons
from spikegrad.cli.app import run as command
from spikegrad.errors import InputError
from spikegrad.training.named import built


@pytest.fixture(scope="module")
def page():
    return Page()


def presets(page: Page) -> list[tuple[str, str]]:
    return [(name, text) for _, entries in page.value("PRESETS") for name, text in entries]


def test_presets_open_spike_and_come_back_from_their_links(page):
    start = page.value("START")
    for name, text in presets(page):
        view = f"readAddress({json.dumps(text)}, readAddress({json.dumps(start)}, {{}}))"
        again = page.value(f"readAddress('#' + encodeURIComponent(address({view})), {view})")
        assert again == page.value(view), name
        if "neuron=" in text:
            outputs = page.value(f"forward(neuronOf({view}.neuron), sequences({view})).outputs[0]")
            silent = name in ("Gone after twenty steps", "Remembered: a slow leak")
            assert any(outputs) != silent, name
            assert np.isfinite(outputs).all()


def made_by(line: str) -> Any:
    names: dict[str, Any] = {}
    exec(line, names)
    return names["layer"].neuron


@pytest.mark.parametrize("name", neurons.CATALOGUE)
def test_the_line_of_python_makes_what_is_on_the_screen(page, name):
    kind, spike = neurons.CATALOGUE[name], formulas.CATALOGUE["FastSigmoid"](slope=3.5)
    for neuron in (built(kind, {}), *structures(name)[-1:]):
        wanted = dataclasses.replace(neuron, spike=spike) if CATALOGUE.neurons[name]["spiking"] else neuron
        view = f"{{tab: 'neuron', neuron: {json.dumps(of_neuron(wanted))}}}"
        assert made_by(page.engine.eval(f"python({view})")) == wanted
        link = page.value(f"parsed(written(NEURONS, {view}.neuron))")
        again = page.value(f"named(NEURONS, {json.dumps(link)}, 'neuron')")
        assert again == of_neuron(wanted)


def test_the_line_of_python_draws_the_surrogates(page):
    spikes = SURROGATES[::7]
    line = page.engine.eval(f"python({{tab: 'surrogates', curves: {json.dumps([of_surrogate(each) for each in spikes])}}})")
    assert line.startswith("from spikegrad import ")
    assert re.search(r"; figure = plots.curves\(\[(.*)\]\)$", line)
    names: dict[str, Any] = {}
    exec(line.replace("plots.curves", "list"), names)
    assert names["figure"] == spikes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("neuron=Nobody()", "there is no neuron “Nobody”"),
        ("neuron=constructor()", "there is no neuron “constructor”"),
        ("neuron=Leaky(beta=2)", "beta of Leaky must be between 0 and 1, not 2"),
        ("neuron=Leaky(beta=nan)", "beta of Leaky must be between 0 and 1, not nan"),
        ("neuron=Leaky(__proto__=1)", "Leaky has no “__proto__”"),
        ("neuron=Leaky(reset=maybe)", "reset of Leaky cannot be maybe"),
        ("neuron=Leaky(0.9", "is not understood"),
        ("neuron=Leaky(spike=Nobody())", "there is no surrogate “Nobody”"),
        ("neuron=Alpha(alpha=0.2,beta=0.5)", "Alpha needs alpha above beta"),
        ("neuron=" + "a(" * 5000, "is not understood"),
        ("curves=ATan(slope=-1)", "slope of ATan must be positive, not -1"),
        ("steps=1e9", "steps must be from 10 to 1000, not 1e9"),
        ("steps=ten", "steps must be from 10 to 1000, not ten"),
        ("input=drawn(1,a)", "is no input"),
        ("input=noise(1)", "is no input"),
        ("loss=toString", "there is no loss “toString”"),
        ("reach=0", "reach must be from 0.01 to 1000, not 0"),
        ("%E0%A4%A", "the link is cut short"),
    ],
)
def test_a_wrong_link_says_what_is_wrong(page, text, said):
    opened = f"""(() => {{ try {{ readAddress({json.dumps("#" + text)}, readAddress(START, {{}})); return "opened"; }}
        catch (error) {{ return error.constructor.name + ": " + error.message; }} }})()"""
    found = page.engine.eval(opened)
    assert found.startswith("Error: ")
    assert said in found


def test_the_page_is_one_small_file_the_same_each_time():
    text = explore.page()
    assert len(text.encode()) < 500_000
    assert not re.search(r"https?://|//cdn|@import|\bfetch\(|XMLHttpRequest|import\(", text)
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=\"(?!data:)", text)
    assert text.count("<script>") == text.count("</script>") == 1
    code = "import hashlib; from spikegrad import explore; print(hashlib.sha256(explore.page().encode()).hexdigest())"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


def test_colours_are_those_of_the_figures():
    from spikegrad import plots

    light = explore.page().partition('data-theme="dark"')[0]
    assert tuple(re.findall(r"--c\d: (#\w+);", light)) == plots.COLOURS
    assert re.search(r"--ink: (#\w+); --muted: (#\w+); --line: (#\w+);", light).groups() == (plots.INK, plots.MUTED, plots.LINE)


def test_page_files_are_short_and_all_are_used():
    from importlib.resources import files

    found = {each.name: each.read_text() for each in files("spikegrad.explore").joinpath("page").iterdir()}
    assert {*found} == {"page.html", "page.css", *explore.MODEL, *explore.PAGE}
    assert max(len(text.splitlines()) for text in found.values()) <= 400


def test_the_command_writes_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "page", lambda: '<!doctype html><meta name="spikegrad-view" content="">')
    assert command(["explore"]) == 0
    assert capsys.readouterr().out == "spikegrad-explore.html\n"
    assert command(["explore", "spikegrad-explore.html"]) == 0  # an older page is replaced
    assert os.listdir() == ["spikegrad-explore.html"]
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(shown.append(address)) or len(shown) == 1)
    assert command(["explore", "--open"]) == 0
    assert shown == [(tmp_path / "spikegrad-explore.html").as_uri()]
    with pytest.raises(InputError, match=r"there is no browser to show spikegrad-explore\.html in; it is written, open it by hand"):
        command(["explore", "--open"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.html", "folder.html is a folder; name a file in it, as folder.html/explore.html"),
        ("absent/page.html", "there is no folder absent"),
        ("thesis.html", "thesis.html exists already and is no page of spikegrad; nothing is overwritten, choose another name"),
        ("pipe.html", "pipe.html exists already and is no page of spikegrad"),
        ("page.pdf", "a page's name must end in .html, got 'page.pdf'"),
        ("page", "a page's name must end in .html, got 'page'"),
        ("thesis.html/page.html", "there is no folder thesis.html"),
        ("x" * 300 + ".html", "cannot write x+.html: file name too long"),
    ],
)
def test_the_command_refuses(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "page", lambda: "nothing")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "thesis.html").write_text("<p>mine</p>")
    os.mkfifo(tmp_path / "pipe.html")
    before = {*os.listdir()}
    with pytest.raises(InputError, match=said):
        command(["explore", name])
    assert {*os.listdir()} == before
    assert (tmp_path / "thesis.html").read_text() == "<p>mine</p>"
