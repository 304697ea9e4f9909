"""How the site is made: ``python -m sphinx -W --keep-going docs site``. Nothing on it is fetched, when it is made or when it is read."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "spikegrad"
author = "The spikegrad developers"
copyright = author
version = release = installed("spikegrad")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "docstrings", "generated", "tutorials", "others"]
exclude_patterns = ["conf.py", "extensions"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".py": "tutorial"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

default_role = "py:obj"  # `Leaky` in a docstring is a link where there is something of that name
maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("States", "params_style"), ("Options", "params_style")]

html_theme = "furo"
html_title = "spikegrad"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["spikegrad.css"]
html_js_files = ["copy.js"]
html_copy_source = False
html_domain_indices = False
html_show_search_summary = False  # it is read with `fetch`, which browsers refuse to a page opened from a folder
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0969b5", "color-brand-content": "#0969b5", "color-brand-visited": "#0969b5"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff", "color-brand-visited": "#6cb6ff"},
}
