"""The site: `sphinx-build -W -b html docs build/docs`, with the packages of the extra `docs`."""

from __future__ import annotations

import re

import torch
from sphinx.util import inspect

project = "groupnorm"
author = "The groupnorm contributors"
html_title = "groupnorm"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "code"  # docstrings have single backticks around code, as Markdown has
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "groupwise"
python_use_unqualified_type_names = True
html_show_copyright = False
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
add_module_names = False


def escape_shapes(app, what, name, obj, options, lines):
    """Shapes such as (N, C, *) begin no emphasis, and "C." begins no list."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"(?<![\w*])\*(?=[),\w])", r"\*", part) for part in parts[::2]]
    text = re.sub(r": ([A-Z])\.$", r": \\\1.", "`".join(parts), flags=re.MULTILINE)
    lines[:] = text.split("\n")


def show_initializer(app, what, name, obj, options, signature, returned):
    """Modules show the arguments of `__init__`, not those of a base class's `__new__`."""
    if what == "class" and issubclass(obj, torch.nn.Module):
        initializer = inspect.signature(obj.__init__, bound_method=True)
        text = inspect.stringify_signature(initializer, show_return_annotation=False)
        return text, returned
    return None


def name_records(app, docname, source):
    """Links to folders of results/, which are no part of the site, become their paths."""
    source[0] = re.sub(r"(?<!!)\[[^\]]*\]\(\.\./(results/[^)]*)\)", r"`\1`", source[0])


def setup(app):
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", show_initializer)
    app.connect("source-read", name_records)
