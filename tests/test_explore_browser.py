"""The explorer page in Chromium, where there is one: a user is played, and what is saved or linked opens the same view."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.test_explore_page import made_by

from spikegrad import explore, neurons

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
HERE = Path(__file__).parent


def in_chromium(folder: Any, drive: str, hash: str = "", text: str | None = None, width: int = 1280) -> dict[str, Any]:
    """What a script that plays the user tells."""
    driver = (HERE / "explore_driver.js").read_text()
    file = folder / "page.html"
    file.write_text((text or explore.page()).replace("</body>", f"<script>{driver}{drive}</script></body>"))
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
        (HERE / "explore_user.js").read_text(),
        width=width,
    )
    assert told["errors"] == []
    assert told["wide"] == []
    assert told["extreme"] == []
    assert told["size"] == [True, 0.56]
    assert told["steps"] == [True, 102, 101, "101"]
    assert told["half"] == ["steps must be a whole number from 10 to 1000", 102]
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
        """play(async () => {
        await pause(400);
        let blob;
        URL.createObjectURL = each => { blob = each; return "#"; };
        const copied = [];
        Object.defineProperty(navigator, "clipboard", {value: {writeText: async text => { copied.push(text); }}});
        for (const id of ["copy-python", "copy-link", "save"]) document.getElementById(id).click();
        await pause(100);
        Object.assign(told, {copied, saved: await blob.text(), view: address(view), paths: numbers()});
        });""",
        hash,
    )
    assert told["errors"] == []
    line, link = told["copied"]
    assert made_by(line) == neurons.Adaptive(0.9, jump=0.25, reset="zero")
    assert link.partition("#")[2] == told["view"]
    assert "neuron=Adaptive(jump=0.25,reset=zero)" in told["view"]
    look = "play(async () => { await pause(400); Object.assign(told, {view: address(view), paths: numbers()}); });"
    saved = re.sub(r"<script>// Plays.*?</script>", "", told["saved"], flags=re.DOTALL)  # the script that played the user
    assert abs(len(saved) - len(explore.page())) < 1000
    for again in (in_chromium(tmp_path, look, text=saved), in_chromium(tmp_path, look, "#" + link.partition("#")[2])):
        assert again["errors"] == []
        assert (again["view"], again["paths"]) == (told["view"], told["paths"])
