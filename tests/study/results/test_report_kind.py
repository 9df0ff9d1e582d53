"""What a report shows: as the manifest says, else as reports of older records were."""

import pytest

from groupnorm.study.results.report_kind import KINDS, compared_tables, report_kind
from groupnorm.study.store import StoreError


def manifest(*batches, study="batch-size", **keys):
    cells = [{"labels": {"norm": "bn", "batch_per_worker": batch}} for batch in batches]
    return {"study": study, "cells": cells, **keys}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (manifest(32, 2), "batch-size"),
        (manifest(32, 32), "norms"),
        (manifest(), "norms"),
        (manifest(32, 2, study="vgg", shows=None), "batch-size"),
        (manifest(32, study="groups"), "groups"),
        (manifest(32, study="cifar-groups", shows="groups"), "groups"),
        (manifest(32, shows="batch-size"), "batch-size"),
        (manifest(32, 2, shows="norms"), "norms"),
    ],
)
def test_the_kind_of_report(record, kind):
    assert report_kind(record) == kind


def test_an_unknown_kind_is_refused():
    with pytest.raises(StoreError, match=r"'curves'; known kinds: batch-size, norms, groups"):
        report_kind(manifest(32, shows="curves"))


def test_the_tables_are_those_named_else_the_papers_of_that_kind():
    named = manifest(32, 2, published=["imagenet-resnet101", "imagenet-norms"])
    assert [t.id for t in compared_tables(named)] == ["imagenet-resnet101", "imagenet-norms"]
    assert compared_tables(manifest(32, 2, published=[])) == []
    for kind, table in KINDS.items():
        assert [t.id for t in compared_tables(manifest(32, shows=kind))] == [table]


def test_an_unknown_table_is_refused():
    with pytest.raises(StoreError, match=r"study.json: no published table is called 'table-9'"):
        compared_tables(manifest(32, published=["table-9"]))
