"""The site: `sphinx-build -W -b html docs build/docs`, with the packages of the extra `docs`."""

from __future__ import annotations

import re

project = "groupnorm"
author = "The groupnorm contributors"
html_title = "groupnorm"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "code"  # docstrings have single backticks around code, as Markdown has
napoleon_numpy_docstring = False
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # they stand in the signature
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
add_module_names = False


def escape_stars(app, what, name, obj, options, lines):
    """Shapes such as (N, C, *) begin no emphasis."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"(?<![\w*])\*(?=[),\w])", r"\*", part) for part in parts[::2]]
    lines[:] = "`".join(parts).split("\n")


def name_records(app, docname, source):
    """Links to folders of results/, which are no part of the site, become their paths."""
    source[0] = re.sub(r"(?<!!)\[[^\]]*\]\(\.\./(results/[^)]*)\)", r"`\1`", source[0])


def setup(app):
    """Connect the two functions."""
    app.connect("autodoc-process-docstring", escape_stars, priority=400)  # before napoleon
    app.connect("source-read", name_records)
