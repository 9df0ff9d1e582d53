"""Tables as Markdown and as LaTeX, for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2212": r"$-$",
    "\u2013": "--",
}
_HEAD = r"""% Needs \usepackage{booktabs}. To look at it alone:
% \documentclass{article} \usepackage[T1]{fontenc} \usepackage{booktabs}
% \begin{document} \input{tables} \end{document}
"""


@dataclass(frozen=True)
class MarkedTable:
    """A table to write: its name, what it shows, and its cells as text."""

    name: str
    caption: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]


def markdown(tables: Iterable[MarkedTable]) -> str:
    """The tables one after the other, each with its caption below."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Iterable[MarkedTable], *, both_columns: bool = False) -> str:
    """The tables as floats with the rules of booktabs; `both_columns` has them span a page."""
    return _HEAD + "".join(_latex(table, "table*" * both_columns or "table") for table in tables)


def escape_latex(text: str) -> str:
    """A text as LaTeX that prints it; the sign of a number is a minus, not a hyphen."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def escape_markdown(text: str) -> str:
    """A text as Markdown that shows it: no letter of it marks, opens code, a formula or a tag."""
    return re.sub(r"[\\`*_<$|]", r"\\\g<0>", text)


def _markdown(table: MarkedTable) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    head, *body = [map(escape_markdown, cells) for cells in (table.header, *table.body)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]
    return "\n".join([*lines, "", f"{escape_markdown(table.caption)}.", ""])


def _latex(table: MarkedTable, environment: str) -> str:
    lines = [_latex_line(line) for line in table.body]
    return "\n".join(
        [
            "",
            rf"\begin{{{environment}}}",
            r"  \centering",
            rf"  \caption{{{escape_latex(table.caption)}.}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"    \toprule",
            _latex_line(table.header),
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            rf"\end{{{environment}}}",
            "",
        ]
    )


def _latex_line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(map(escape_latex, cells))} \\\\"
