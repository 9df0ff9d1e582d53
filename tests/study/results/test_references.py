"""The BibTeX entries: one for each published table, and none besides."""

import re

import pytest

from groupnorm.study.results import published
from groupnorm.study.results.references import NOTHING, entries, entry_of, references

TABLES = [published.load(name) for name in published.ids()]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_every_table_has_the_entry_of_its_source(table):
    entry = entry_of(table.source)
    author = re.match(r"[\w.-]+", table.source.paper)[0]
    if table.source.arxiv is None:
        owner = table.owner
        assert f"https://{'github.com/' if '/' in owner else ''}{owner}" in entry
    else:
        year = re.search(r"\d{4}", table.source.paper)[0]
        assert f"author    = {{{author}, " in entry
        assert f"year      = {{{year}}}" in entry
    commit = re.search(r", commit (\w+)", table.source.paper)
    if commit:
        assert f"commit {commit[1]}" in entry.lower()


def test_every_entry_is_that_of_a_table():
    assert {entry_of(table.source) for table in TABLES} == set(entries())


def test_entries_are_well_formed():
    keys = []
    for entry in entries():
        assert entry.count("{") == entry.count("}")
        assert entry.endswith("\n}\n")
        keys += re.findall(r"^@(?:article|inproceedings|misc)\{([\w-]+),\n", entry)
        fields = re.findall(r"^  (\w+) +=", entry, flags=re.MULTILINE)
        assert len(fields) == len(set(fields))
        assert {"title", "author"} < set(fields)
        assert not re.search(r"[%&#]", entry)
    assert len(keys) == len(set(keys)) == len(entries())


def test_a_source_is_cited_once_and_nothing_besides():
    names = ("imagenet-batch-size", "imagenet-norms", "cifar10-he2016")
    text = references(published.load(name) for name in names)
    assert re.findall(r"@\w+\{(\S+),", text) == ["wu2018group", "he2016deep"]
    assert references([]) == NOTHING


def test_a_source_without_an_entry_is_an_error():
    with pytest.raises(LookupError, match="0 entries for 'Nobody 2030'"):
        entry_of(published.Source("Nobody 2030", "3001.00001", "Table 1"))
