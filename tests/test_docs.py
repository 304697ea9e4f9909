"""The Python of the documentation runs, and prints what it says it does."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["backends.md", "diagnosis.md", "exchange.md", "explore.md", "neurons.md"]


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page, capsys, tmp_path, monkeypatch):
    """The blocks of a page one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
        promised = re.findall(r"^# (.+)$", block, re.MULTILINE)
        if promised and block.endswith(f"# {promised[-1]}\n"):
            assert capsys.readouterr().out.strip() == promised[-1]
