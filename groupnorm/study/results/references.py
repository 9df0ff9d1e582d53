"""The BibTeX entries of the published tables (`references.bib`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from groupnorm.study.results.published import Published, Source

NOTHING = "% This study is compared with no published numbers.\n"


def references(tables: Iterable[Published]) -> str:
    """The entries of what published these tables, each once, in the tables' order."""
    found = dict.fromkeys(entry_of(table.source) for table in tables)
    return "\n".join(found) or NOTHING


def entry_of(source: Source) -> str:
    """The entry of a source: that of its paper, or of its repository or web page.

    Raises:
        LookupError: not exactly one entry has its arXiv number, its repository or its page.
    """
    marks: tuple[str, ...] = (f"eprint    = {{{source.arxiv}}}",)
    if source.arxiv is None:
        name = source.paper.partition(", commit ")[0]
        marks = (f"https://github.com/{name}}}", f"https://{name}}}")
    found = [entry for entry in entries() if any(mark in entry for mark in marks)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} entries for {source.paper!r}")
    return found[0]


@cache
def entries() -> tuple[str, ...]:
    """Every entry, each ending with a line break."""
    text = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
    return tuple(entry.strip() + "\n" for entry in text.split("\n\n"))
