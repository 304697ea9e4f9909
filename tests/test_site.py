"""The site: it builds without a warning, asks nothing of any network, its links lead somewhere, and its search works from a folder."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "extensions"))
generated = pytest.importorskip("generated")  # wants the extra `docs`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``SPIKEGRAD_SITE`` names, as .ci/run has made it, or one made now."""
    if given := os.environ.get("SPIKEGRAD_SITE"):
        return Path(given)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(target)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return target


class Page(HTMLParser):
    """What a page loads, where it leads, and what can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loads += [given[name] for name in ("src", "srcset", "poster", "data") if name in given and tag != "a"]
        if tag == "link":
            self.loads.append(given.get("href", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@functools.cache
def page(path: Path) -> Page:
    return Page(path)


def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 100
    return found


def elsewhere(address: str) -> bool:
    return re.match(r"[a-z]+:|//", address) is not None


@pytest.mark.slow
def test_nothing_comes_from_a_network(site):
    for path in pages(site):
        assert [each for each in page(path).loads if elsewhere(each) and not each.startswith("data:")] == [], path
        assert not re.search(r"mathjax[^_]*\.js", path.read_text(encoding="utf-8"), re.IGNORECASE), path
    for path in site.rglob("*.css"):
        asked = re.findall(r"@import[^;]*|url\(([^)]*)\)", path.read_text(encoding="utf-8"))
        assert [each for each in asked if elsewhere(each.strip("'\"")) and not each.strip("'\"").startswith("data:")] == [], path


@pytest.mark.slow
def test_links_lead_somewhere(site):
    broken: list[str] = []
    for path in pages(site):
        for link in filter(lambda link: not elsewhere(link), {*page(path).links, *page(path).loads}):
            where, anchor = urldefrag(unquote(link))
            target = (path.parent / where.split("?")[0]).resolve() if where else path
            if not target.is_file() or (target.suffix == ".html" and anchor not in page(target).anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


NAMES = [(module, name) for module in generated.MODULES for name in generated.public(module)]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda each: each)
def test_every_name_has_an_example(module, name):
    """Which `pytest --doctest-modules` runs, since it stands in a docstring."""
    home = generated.home(module, name)
    home = generated.GIVEN_BY.get(home, home)
    value = getattr(importlib.import_module(home.rpartition(".")[0]), home.rpartition(".")[2])
    assert ">>> " in (inspect.getdoc(value) or ""), f"{home} has no example"
    if home == "spikegrad.Between":
        assert re.search(rf"\b{name}\b", (inspect.getdoc(value) or "").partition(">>> ")[2]), f"the example of Between does without {name}"


@pytest.mark.slow
def test_every_name_has_a_page(site):
    for module, name in NAMES:
        text = (site / "reference" / f"{generated.home(module, name)}.html").read_text(encoding="utf-8")
        assert f">{name}<" in text or f"{name}</span>" in text
        assert "&gt;&gt;&gt; " in text
    for which, catalogue in (("surrogates", generated.CATALOGUE), ("neurons", generated.NEURONS)):
        for name in catalogue:
            text = (site / "gallery" / which / f"{name}.html").read_text(encoding="utf-8")
            for wanted in ("<math", f"{name}.svg", "Elsewhere", "References", "&gt;&gt;&gt; ", "BibTeX"):
                assert wanted in text, (name, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("word", "found"), [("adaptation", "gallery/neurons/Adaptive.html"), ("recompute", "explanations/memory.html")])
def test_search_works_from_a_folder(site, word, found):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]
    command = [browser, *quiet, "--dump-dom", f"{(site / 'search.html').as_uri()}?q={word}"]
    shown = subprocess.run(command, text=True, capture_output=True, timeout=120, check=True).stdout
    results = shown.partition('id="search-results"')[2]
    assert f'href="{found}"' in results
