"""Published numbers: what the paper's tables say, and that each has a source."""

import pytest

from groupnorm.spec import NormSpec
from groupnorm.study.results import published
from groupnorm.study.results.published import PublishedValue, values
from groupnorm.study.results.wording import unit_in_full
from groupnorm.study.schema import LABELS
from groupnorm.training.metric import MASK_DETECTION, VIDEO


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
    assert dict(zip(norms["norm"], norms["result"], strict=True)) == {
        "bn": 23.6, "ln": 25.3, "in": 28.4, "gn": 24.1,
    }  # fmt: skip
    groups = published.load("imagenet-groups").data
    assert groups["groups"]["result"] == [24.6, 24.1, 24.6, 24.4, 24.6, 24.7, 25.3]
    assert groups["size"]["result"] == [24.4, 24.5, 24.2, 24.3, 24.8, 25.6, 28.4]


def test_tables_agree_where_they_overlap():
    sizes, norms = published.load("imagenet-batch-size").data, published.load("imagenet-norms").data
    by_norm = dict(zip(norms["norm"], norms["result"], strict=True))
    assert (sizes["bn"][0], sizes["gn"][0]) == (by_norm["bn"], by_norm["gn"])
    groups = published.load("imagenet-groups").data
    assert groups["groups"]["result"][1] == by_norm["gn"]
    assert groups["groups"]["result"][-1] == by_norm["ln"]
    assert groups["size"]["result"][-1] == by_norm["in"]
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
    assert table.dataset in ("ImageNet", "CIFAR-10", "Pets", "COCO", "Kinetics", "private data")
    assert (table.model is None) == ("model" in table.data)
    blocks = list(table.data.values())
    columns = [table.data] if isinstance(blocks[0], list) else blocks
    for block in columns:
        assert len({len(column) for column in block.values()}) == 1


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'table-9'.*imagenet-batch-size"):
        published.load("table-9")


OF_ARMS = [name for name in published.ids() if published.has_arms(published.load(name))]
OF_CLIPS = [name for name in published.ids() if published.has_clips(published.load(name))]
OF_NORMS = [name for name in published.ids() if name not in (*OF_ARMS, *OF_CLIPS)]


@pytest.mark.parametrize("name", OF_NORMS)
def test_every_number_is_an_error_in_percent_of_a_norm_that_can_be_built(name):
    table = published.load(name)
    assert table.unit == "top-1 error %"
    assert published.results_by_arm(table) == {}
    found = values(table)
    columns = [c for b in table.data.values() for c in (b.values() if isinstance(b, dict) else [b])]
    assert len(columns) >= 2
    assert found
    for value in found:
        assert str(NormSpec.parse(value.norm)) == value.norm
        assert 5 < value.result < 95
        assert value.model


def test_values_of_every_form():
    def first(name):
        return values(published.load(name))[0]

    assert first("imagenet-norms") == PublishedValue("bn", 23.6, None, "ResNet-50", 32)
    assert first("imagenet-resnet101") == PublishedValue("bn", 22.0, None, "ResNet-101", 32)
    assert first("cifar10-he2016") == PublishedValue("bn", 8.75, None, "resnet20", 64)
    assert first("cifar10-resnet20-batch-size") == PublishedValue("bn", 13.6, 0.34, "ResNet-20", 32)
    groups = values(published.load("imagenet-groups"))
    assert len(groups) == 14
    assert groups[1] == PublishedValue("gn", 24.1, None, "ResNet-50", 32, "groups", 32)
    assert groups[-1] == PublishedValue("gn:size=1", 28.4, None, "ResNet-50", 32, "size", 1)


def test_a_number_the_source_lacks_is_left_out():
    found = values(published.load("imagenet-switchable-8-gpus"))
    assert [v.norm for v in found if v.batch_per_worker == 1] == ["gn"]


def test_errors_made_from_accuracies():
    by = {v.norm: v.result for v in values(published.load("imagenet-large-batch"))}
    accuracies = {"bn": 75.6, "bn+ws": 75.8, "gn": 70.2, "gn+ws": 76.0}
    assert by == {norm: round(100 - accuracy, 1) for norm, accuracy in accuracies.items()}


def test_the_tables_of_resnet56_have_their_labels_put_right():
    sizes = published.load("cifar10-resnet56-batch-size").data
    place = sizes["batch_per_worker"].index(32)
    order = sorted(list(sizes)[1:], key=lambda norm: sizes[norm][place])
    assert order == ["bn", "in", "gn:groups=16", "in:affine=false"]
    groups = published.load("cifar10-resnet56-groups").data["groups"]
    assert groups["result"][0] == sizes["gn:groups=16"][place]
    assert dict(zip(groups["value"], groups["result"], strict=True))[1] == 12.3


def test_only_the_paper_is_called_so():
    assert published.load("imagenet-groups").owner == "the paper"
    assert published.load("cifar10-he2016").owner == "He et al. 2016"


AP = {metric.name: metric for metric in MASK_DETECTION}


@pytest.mark.parametrize("name", OF_ARMS)
def test_every_number_of_an_arm_is_a_metric_in_percent(name):
    table = published.load(name)
    by_arm = published.results_by_arm(table)
    assert list(by_arm) == table.data["arm"]
    first = next(metric for metric in table.data if metric != "arm")
    if name.startswith("coco"):
        assert table.unit == unit_in_full(AP[first])
        assert all(metric in AP for numbers in by_arm.values() for metric in numbers)
    else:
        assert (table.unit, list(table.data)) == ("recall %", ["arm", "recall", "precision"])
    for numbers in by_arm.values():
        assert first in numbers
        assert all(20 < number < 70 for number in numbers.values())
    assert values(table) == []
    assert published.results_by_norm(table, None) == {}
    assert not published.has_norms(table, None)


def test_the_papers_detection_tables():
    c4 = published.results_by_arm(published.load("coco-c4"))
    assert c4["frozen BN"] == {
        "box_ap": 37.7, "box_ap50": 57.9, "box_ap75": 40.9,
        "mask_ap": 32.8, "mask_ap50": 54.3, "mask_ap75": 34.7,
    }  # fmt: skip
    assert c4["LN"] == {"box_ap": 36.9}, "1.9 below GN, 0.8 below frozen BN"
    assert round(c4["frozen BN"]["box_ap"] - c4["LN"]["box_ap"], 1) == 0.8
    systems = published.results_by_arm(published.load("coco-systems"))
    assert [(n["box_ap"], n["mask_ap"]) for n in systems.values()] == [
        (38.6, 34.5), (40.3, 35.7), (40.8, 36.1), (40.9, 36.4), (41.8, 36.8), (42.3, 37.2)
    ]  # fmt: skip
    scratch = published.results_by_arm(published.load("coco-scratch"))
    assert scratch["R50, GN"]["mask_ap"] == 35.2
    assert "mask_ap" not in scratch["R50, synchronized BN"], "a detector without masks"


def test_the_release_has_the_papers_numbers():
    systems = published.results_by_arm(published.load("coco-systems"))
    release = published.results_by_arm(published.load("coco-systems-detectron"))
    for arm, numbers in systems.items():
        assert release[arm].items() <= numbers.items()


def test_the_gains_of_group_norm_in_the_pyramid():
    gains = []
    for name in ("retinanet-first-set", "retinanet-second-set"):
        before, after = published.results_by_arm(published.load(name)).values()
        gains += [round(100 * (after[m] / before[m] - 1), 1) for m in ("recall", "precision")]
    assert gains == [8.6, 9.2, 5.1, 10.6]


def test_the_papers_table_of_clips():
    assert OF_CLIPS == ["kinetics-clips"]
    table = published.load("kinetics-clips")
    assert table.unit == unit_in_full(VIDEO[0])
    assert tuple(table.data) == (*LABELS["clips"], *(metric.name for metric in VIDEO[:2]))
    rows = list(zip(*table.data.values(), strict=True))
    assert rows[2] == ("bn", 4, 64, 1, 73.3, 90.8)
    assert rows[-1] == ("gn", 4, 64, 1, 74.5, 91.7)
    assert {frames * stride for _, _, frames, stride, *_ in rows} == {64}, "one span"
    assert values(table) == []
    assert published.results_by_norm(table, 4) == published.results_by_arm(table) == {}
    assert not published.has_batches(table)
