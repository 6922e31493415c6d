"""The site: ``make docs``, or ``python -m sphinx -W --keep-going -b html docs OUT``. Nothing comes from another host.

What is generated lies in ``docs/reference``, ``docs/repository`` and ``docs/_build``, which git ignores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prostate_mim import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "prostate-mim"
author = "the authors of prostate-mim"
copyright = "the authors of prostate-mim, Apache-2.0"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "repository_pages",
    "cli_pages",
    "api_pages",
    "notebook_pages",
    "drawings",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".ipynb": "markdown"}
exclude_patterns = ["_build", "extensions", "static", "**/.ipynb_checkpoints"]
nitpicky = True
smartquotes = False  # "--json" must not become a dash

# ------------------------------------------------------------------------------------------------------ Markdown
myst_heading_anchors = 6  # as on code hosts: page.md#a-heading
myst_fence_as_directive = ["mermaid", "math"]
html_math_renderer = "mathml"

# ------------------------------------------------------------------------------------------------------------ API
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
toc_object_entries = False  # every public name has a heading
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# Types in signatures that have no page, most of them of other libraries, are named and lead nowhere: no inventory is
# fetched. Every other reference must lead somewhere.
nitpick_ignore_regex = [("py:(class|exc)", ".*")]

# ----------------------------------------------------------------------------------------------------------- HTML
html_theme = "furo"
html_title = f"prostate-mim {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["offline.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_domain_indices = False
html_last_updated_fmt = None  # the same sources, the same bytes
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
