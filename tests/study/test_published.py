"""Published numbers: what the paper's tables say, and that each has a source."""

import pytest

from groupnorm.study import published


def test_the_papers_batch_size_table():
    table = published.load("imagenet-batch-size")
    assert table.data == {
        "batch_per_worker": [32, 16, 8, 4, 2],
        "bn": [23.6, 23.7, 24.8, 27.3, 34.7],
        "gn": [24.1, 24.2, 24.0, 24.2, 24.1],
    }
    assert str(table.source) == "Wu & He 2018, Table 2"
    assert table.source.arxiv == "1803.08494"


def test_the_papers_norms_and_groups_tables():
    norms = published.load("imagenet-norms").data
    assert dict(zip(norms["norm"], norms["error"], strict=True)) == {
        "bn": 23.6, "ln": 25.3, "in": 28.4, "gn": 24.1,
    }  # fmt: skip
    groups = published.load("imagenet-groups").data
    assert groups["groups"]["error"] == [24.6, 24.1, 24.6, 24.4, 24.6, 24.7, 25.3]
    assert groups["size"]["error"] == [24.4, 24.5, 24.2, 24.3, 24.8, 25.6, 28.4]


def test_tables_agree_where_they_overlap():
    sizes, norms = published.load("imagenet-batch-size").data, published.load("imagenet-norms").data
    by_norm = dict(zip(norms["norm"], norms["error"], strict=True))
    assert (sizes["bn"][0], sizes["gn"][0]) == (by_norm["bn"], by_norm["gn"])
    groups = published.load("imagenet-groups").data
    assert groups["groups"]["error"][1] == by_norm["gn"]
    assert groups["groups"]["error"][-1] == by_norm["ln"]
    assert groups["size"]["error"][-1] == by_norm["in"]
    four = sizes["batch_per_worker"].index(4)
    renorm = published.load("imagenet-batch-renorm").data
    assert (renorm["bn"], renorm["gn"]) == ([sizes["bn"][four]], [sizes["gn"][four]])


@pytest.mark.parametrize("name", published.ids())
def test_every_table_has_a_source_a_setting_and_columns_of_one_length(name):
    table = published.load(name)
    assert table.id == name
    assert table.title
    assert table.source.paper
    assert table.source.where
    assert table.setting
    assert table.unit == "top-1 error %"
    blocks = list(table.data.values())
    columns = [table.data] if isinstance(blocks[0], list) else blocks
    for block in columns:
        assert len({len(column) for column in block.values()}) == 1


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'table-9'.*imagenet-batch-size"):
        published.load("table-9")
