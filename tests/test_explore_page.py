"""The explorer page as a page: its links, the line of Python it copies, its file, and the command that writes it.

The slow tests show it to Chromium, if there is one.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
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


CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = """
<script>
window.requestAnimationFrame = draw => setTimeout(draw, 16); // a browser without a window draws no frames
const errors = [], told = {};
addEventListener("error", event => errors.push(event.message));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
console.error = console.warn = (...words) => errors.push(words.join(" "));
const pause = time => new Promise(done => setTimeout(done, time));
const picture = id => document.getElementById(id).innerHTML;
const changes = async (id, act) => { const before = picture(id); act(); await pause(400); return picture(id) !== before; };
const slide = (input, value) => { input.value = value; input.dispatchEvent(new Event("input", {bubbles: true})); };
const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change", {bubbles: true})); };
const numbers = () => [...document.querySelectorAll("main section:not([hidden]) .svg, main section:not([hidden]) svg path")].map(each => each.getAttribute("d") ?? "");
const drive = async () => {
DRIVE
};
addEventListener("load", () => drive().catch(error => errors.push(String(error.stack))).then(() => {
  const result = btoa(unescape(encodeURIComponent(JSON.stringify({...told, errors}))));
  document.body.replaceChildren(Object.assign(document.createElement("pre"), {id: "result", textContent: result}));
}));
</script>
</body>
"""


def in_chromium(folder: Any, drive: str, hash: str = "", text: str | None = None, width: int = 1280) -> dict[str, Any]:
    """What a script that plays the user tells."""
    driver = DRIVER.replace("DRIVE", drive)
    file = folder / "page.html"
    file.write_text((text or explore.page()).replace("</body>", driver))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=600000", f"--window-size={width},900"]
    address = f"{file.as_uri()}{hash}"
    run = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    return json.loads(base64.b64decode(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_user_in_a_browser(tmp_path, width):
    """Everything is chosen once, sliders move curves, an input is drawn by mouse and by keyboard; nothing is wider than the screen."""
    told = in_chromium(
        tmp_path,
        """
        await pause(400);
        told.wide = [];
        const narrow = what => { if (document.documentElement.scrollWidth > innerWidth) told.wide.push(what); };
        told.neurons = [];
        for (const name of Object.keys(NEURONS)) {
          choose(document.querySelector("#neuron-choose select"), name);
          await pause(300);
          told.neurons.push([name, numbers().some(path => /NaN|undefined|Infinity/.test(path)), document.getElementById("summary").textContent, location.hash]);
          narrow(name);
          for (const slider of document.querySelectorAll("#neuron-numbers input[type=range]")) {
            for (const value of [0, 1000, 500]) { slide(slider, value); await pause(40); }
          }
        }
        open("neuron=Leaky()&input=step(0.2)&steps=200&loss=all");
        await pause(300);
        const sliders = [...document.querySelectorAll("#neuron-numbers input[type=range]")];
        told.slider = [];
        for (const id of ["state-0", "flow", "flow-states", "gate", "rate"]) told.slider.push(await changes(id, () => slide(sliders[0], Number(sliders[0].value) - 10)));
        told.surrogate = await changes("flow", () => slide(sliders[2], 900));
        told.still = await changes("state-0", () => slide(sliders[2], 800));
        told.reset = await changes("state-0", () => choose(document.querySelectorAll("#neuron-numbers select")[0], "zero"));
        const host = document.getElementById("input-0"), box = host.getBoundingClientRect();
        host.setPointerCapture = () => {};
        const point = (kind, x, y) => host.dispatchEvent(new PointerEvent(kind, {clientX: box.left + x * box.width, clientY: box.top + y * box.height, button: 0, bubbles: true}));
        told.drawn = await changes("state-0", () => { point("pointerdown", 0.3, 0.3); point("pointermove", 0.6, 0.1); point("pointerup", 0.6, 0.1); });
        told.shape = view.inputs[0].shape;
        host.focus();
        const press = key => host.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        press("Home"); press("ArrowRight");
        told.keyboard = await changes("input-0", () => { press("ArrowUp"); press("ArrowUp"); });
        told.said = host.getAttribute("aria-valuetext");
        const field = document.querySelector("#neuron-numbers input[type=text]");
        field.value = "7"; field.dispatchEvent(new Event("change"));
        told.refused = [document.getElementById("message").textContent, field.value, view.neuron.numbers.beta];
        document.getElementById("tab-surrogates").click();
        await pause(300);
        told.surrogates = [];
        for (const name of Object.keys(SURROGATES)) {
          choose(document.querySelector("#surrogate-controls select"), name);
          await pause(300);
          told.surrogates.push([name, numbers().some(path => /NaN|undefined/.test(path)), document.querySelector("#facts tbody").textContent]);
          narrow(name);
        }
        told.curve = await changes("derivative", () => slide(document.querySelector("#surrogate-controls fieldset input[type=range]"), 700));
        for (let k = 0; k < 9; k++) document.getElementById("add-curve").click();
        told.curves = view.curves.length;
        narrow("six curves");
        for (const [, entries] of PRESETS) for (const [name, text] of entries) { location.hash = text; await pause(300); narrow(name); }
        location.hash = "neuron=Nobody()";
        await pause(100);
        told.wrong = document.getElementById("message").textContent;
        told.unlabelled = [...document.querySelectorAll("input, select, button")].filter(each =>
          !each.labels?.length && !each.getAttribute("aria-label") && !each.textContent.trim()).length;
        """,
        width=width,
    )
    assert told["errors"] == []
    assert told["wide"] == []
    assert [name for name, *_ in told["neurons"]] == sorted(neurons.CATALOGUE, key=str.lower)
    for name, broken, summary, link in told["neurons"]:
        assert not broken, name
        assert summary.startswith(f"{name}: "), name
        assert f"neuron={name}(" in link
        assert re.search(r"[1-9]\d* spikes in 200 steps|output up to", summary), name
    assert told["slider"] == [True] * 5
    assert (told["surrogate"], told["still"], told["reset"], told["drawn"], told["keyboard"]) == (True, False, True, True, True)
    assert told["shape"] == "drawn"
    assert told["said"].startswith("step 1: ")
    assert told["refused"][0] == "beta must be between 0 and 1"
    assert float(told["refused"][1]) == told["refused"][2] < 1
    assert all(facts and not broken for _, broken, facts in told["surrogates"])
    assert told["curve"]
    assert told["curves"] == 6
    assert told["wrong"] == "This link cannot be shown: there is no neuron “Nobody”."
    assert told["unlabelled"] == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_saved_page_and_a_link_open_the_same_view(tmp_path):
    hash = "#show=neuron&neuron=Adaptive(jump=0.25,reset=zero)&input=drawn(0.1,0.9,0.4)&steps=50&loss=output&at=20"
    told = in_chromium(
        tmp_path,
        """
        await pause(400);
        let blob;
        URL.createObjectURL = each => { blob = each; return "#"; };
        const copied = [];
        Object.defineProperty(navigator, "clipboard", {value: {writeText: async text => { copied.push(text); }}});
        for (const id of ["copy-python", "copy-link", "save"]) document.getElementById(id).click();
        await pause(100);
        Object.assign(told, {copied, saved: await blob.text(), view: address(view), paths: numbers()});
        """,
        hash,
    )
    assert told["errors"] == []
    line, link = told["copied"]
    assert made_by(line) == neurons.Adaptive(0.9, jump=0.25, reset="zero")
    assert link.partition("#")[2] == told["view"]
    assert "neuron=Adaptive(jump=0.25,reset=zero)" in told["view"]
    look = "await pause(400); Object.assign(told, {view: address(view), paths: numbers()});"
    saved = re.sub(r"<script>\s*const errors.*?</script>", "", told["saved"], flags=re.DOTALL)  # the script that played the user
    assert abs(len(saved) - len(explore.page())) < 1000
    for again in (in_chromium(tmp_path, look, text=saved), in_chromium(tmp_path, look, "#" + link.partition("#")[2])):
        assert again["errors"] == []
        assert (again["view"], again["paths"]) == (told["view"], told["paths"])
