"""Measured beside published: the number found is the table's, and says where it differs."""

import json

import pytest

from groupnorm.study.results import published
from groupnorm.study.results.compare import (
    compare_published,
    compared_tables,
    compares_in_size,
    find,
    match,
    same_name,
    trained,
)
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import StoreError
from tests.study.fake_detectors import Arm, detector_study
from tests.study.fake_store import add_to_manifest, arms_study, batch_study, groups_study, spoil
from tests.tolerances import FOUR_DIGITS


def read(out):
    study = load_study(out)
    return study, summarize_study(study)


def lines(out, *names):
    add_to_manifest(out, published=list(names))
    return [one.lines for one in compare_published(*read(out))]


def error(table, **where):
    found = find(published.load(table), **where)
    return found and found.result


@pytest.mark.parametrize(
    ("table", "where", "expected"),
    [
        ("imagenet-norms", {"norm": "ln"}, 25.3),
        ("imagenet-norms", {"norm": "gn", "batch_per_worker": 32}, 24.1),
        ("imagenet-norms", {"norm": "gn", "batch_per_worker": 2}, None),
        ("imagenet-norms", {"norm": "evonorm_s0"}, None),
        ("imagenet-batch-size", {"norm": "bn", "batch_per_worker": 4}, 27.3),
        ("imagenet-batch-size", {"norm": "bn", "batch_per_worker": 64}, None),
        ("imagenet-batch-size", {"norm": "gn:groups=8", "batch_per_worker": 2}, 24.1),
        ("imagenet-batch-size", {"norm": "gn:groups=8+ws", "batch_per_worker": 2}, None),
        ("imagenet-batch-size", {"norm": "bn", "batch_per_worker": 2, "model": "resnet8"}, 34.7),
        ("imagenet-batch-renorm", {"norm": "brn", "batch_per_worker": 4}, 26.3),
        ("imagenet-groups", {"norm": "gn:size=4", "division": "size", "value": 4}, 24.8),
        ("imagenet-groups", {"norm": "gn:groups=4", "division": "groups", "value": 4}, 24.6),
        ("imagenet-groups", {"norm": "gn:groups=3", "division": "groups", "value": 3}, None),
        ("imagenet-groups", {"norm": "gn:groups=8"}, 24.4),
        ("imagenet-groups", {"norm": "ln"}, 25.3),
        ("imagenet-groups", {"norm": "in"}, 28.4),
        ("imagenet-groups", {"norm": "bn"}, None),
        ("imagenet-norms", {"norm": "gn:groups=4", "division": "groups", "value": 4}, None),
        ("imagenet-norms", {"norm": "gn", "division": "groups", "value": 32}, 24.1),
        ("cifar10-he2016", {"norm": "bn", "model": "resnet110"}, 6.43),
        ("cifar10-he2016", {"norm": "bn", "model": "resnet8"}, None),
        ("imagenet-weight-standardization", {"norm": "gn+ws", "model": "resnet101"}, 22.1),
        ("cifar10-resnet56-batch-size", {"norm": "in", "batch_per_worker": 8}, 9.4),
        ("cifar10-resnet56-batch-size", {"norm": "gn", "batch_per_worker": 8}, 8.85),
        ("imagenet-switchable-8-gpus", {"norm": "bn", "batch_per_worker": 1}, None),
    ],
)
def test_a_number_is_found_whatever_the_tables_form(table, where, expected):
    assert error(table, **where) == expected


def test_several_runs_are_their_mean_and_spread():
    found = find(published.load("imagenet-author-reruns"), norm="gn")
    assert found.result == pytest.approx(72.1 / 3)
    assert found.spread == pytest.approx(0.0577, abs=FOUR_DIGITS)


def test_a_norm_matches_itself_then_the_only_one_of_its_kind():
    assert match("gn:groups=8", ["bn", "gn", "gn:groups=8"]) == "gn:groups=8"
    assert match("gn:groups=8", ["bn", "gn"]) == "gn"
    assert match("gn:groups=8", ["gn", "gn:groups=4"]) is None
    assert match("gn+ws", ["gn", "gn:groups=8+ws"]) == "gn:groups=8+ws"
    assert match("in", ["in:affine=false"]) is None
    assert match("no norm", ["bn"]) is None


def test_names_of_models_and_data():
    assert same_name("ResNet-50", "resnet50")
    assert same_name("CIFAR-10", "cifar10")
    assert not same_name("Pre-activation ResNet-110", "resnet110")
    assert not same_name(None, "resnet50")


def test_lines_hold_measured_and_published_and_what_differs(tmp_path):
    out = batch_study(tmp_path, ("bn", "gn:groups=8", "frn"), (32, 2), 2)
    _, rows = read(out)
    (found,) = lines(out, "imagenet-batch-size")
    bn = rows[0]
    assert found[0] == [
        "bn, 32 images per worker",
        f"{bn.mean:.2f} ± {bn.spread:.2f}; recomputed {bn.precise_mean:.2f} "
        f"± {bn.precise_spread:.2f}",
        "23.6",
        "Wu & He 2018, Table 2",
    ]
    assert [line[0] for line in found[1:]] == [
        "bn, 2 images per worker",
        "gn:groups=8, 32 images per worker (trained once)",
        "gn:groups=8, 2 images per worker (trained once)",
    ]
    assert found[3][2] == "24.1 (gn)"


def test_a_table_of_one_batch_size_stands_beside_that_or_the_largest(tmp_path):
    out = batch_study(tmp_path / "a", ("bn", "ln"), (64, 32, 8), 1)
    assert [(line[0], line[2]) for line in lines(out, "imagenet-norms")[0]] == [
        ("bn, 32 images per worker", "23.6"),
        ("ln, 32 images per worker (trained once)", "25.3"),
    ]
    out = batch_study(tmp_path / "b", ("bn", "ln"), (16, 8), 1)
    assert [(line[0], line[2]) for line in lines(out, "imagenet-norms")[0]] == [
        ("bn, 16 images per worker", "23.6 (32 images per worker)"),
        ("ln, 16 images per worker (trained once)", "25.3 (32 images per worker)"),
    ]
    ((line,),) = lines(out, "imagenet-large-batch")
    assert (line[0], line[2]) == ("bn, 16 images per worker", "24.4")


def test_a_groups_study_finds_every_division(tmp_path):
    found = {line[0]: line[2] for line in lines(groups_study(tmp_path, 1), "imagenet-groups")[0]}
    assert len(found) == 10
    assert found["gn:groups=1, 32 images per worker"] == "25.3"
    assert found["gn:size=16, 32 images per worker"] == "24.2"


def test_what_did_not_finish_is_told_in_place_of_a_number(tmp_path):
    out = batch_study(tmp_path, ("bn",), (32, 2), 2)
    for name in ("bn-n32-s0", "bn-n2-s0", "bn-n2-s1"):
        spoil(out / "runs" / name, "diverged")
    (found,) = lines(out, "imagenet-batch-size")
    assert "(1 of 2 not finished)" in found[0][1]
    assert found[1][1] == "diverged"


def test_words_say_what_may_be_compared(tmp_path):
    out = batch_study(tmp_path, ("bn",), (32,), 1)
    add_to_manifest(out, published=["cifar10-he2016", "cifar10-resnet20-batch-size"])
    he, franke = (one.words for one in compare_published(*read(out)))
    assert "resnet110 is the best of five runs" in he
    assert "trained resnet8 on digits: only the direction of differences compares" in he
    manifest = read(out)[0].manifest
    add_to_manifest(out, data={**manifest["data"], "name": "cifar10"})
    he, franke = (one.words for one in compare_published(*read(out)))
    assert "Model and data are those of this study" in he
    assert "only the direction" in franke
    assert trained(read(out)[0]) == (["resnet8"], "cifar10")


def test_a_table_of_two_models_compares_with_a_study_of_both(tmp_path):
    out = arms_study(tmp_path)
    manifest = read(out)[0].manifest
    add_to_manifest(out, data={**manifest["data"], "name": "coco"})
    configs = sorted(out.glob("runs/*/config.json"))

    def compares(table, *models):
        for number, path in enumerate(configs):
            model = models[number % len(models)]
            path.write_text(json.dumps({**json.loads(path.read_text()), "model": model}))
        return compares_in_size(published.load(table), read(out)[0])

    both = ("mask_rcnn_resnet50", "mask_rcnn_resnet101")
    assert compares("coco-systems", *both)
    assert not compares("coco-heads", *both)
    assert compares("coco-heads", both[0])
    assert not compares("coco-systems", both[0])
    assert not compares("coco-c4", both[0])


def test_the_tables_are_those_the_manifest_names():
    named = {"published": ["imagenet-resnet101", "imagenet-norms"]}
    assert [table.id for table in compared_tables(named)] == named["published"]
    assert compared_tables({"published": []}) == []


def test_an_unknown_table_is_refused():
    with pytest.raises(StoreError, match=r"study.json: no published table is called 'table-9'"):
        compared_tables({"published": ["table-9"]})


def test_a_table_of_arms_is_there_as_published_with_what_is_called_the_same(tmp_path):
    arms = {"frozen BN": Arm(31.4, "bn"), "GN": Arm(28.0, "gn:groups=8"), "other": Arm(20.0, "bn")}
    out = detector_study(tmp_path, arms)
    add_to_manifest(out, published=["coco-c4", "coco-systems", "retinanet-first-set"])
    same, others, retinanet = compare_published(*read(out))
    assert same.header == [
        "arm", "box AP, here", "box AP, published", "box AP50, here", "box AP50, published",
        "box AP75, here", "box AP75, published", "mask AP, here", "mask AP, published",
        "mask AP50, published", "mask AP75, published",
    ]  # fmt: skip
    assert [line[:3] for line in same.lines] == [
        ["frozen BN", "31.7 ± 0.4", "37.7"], ["GN", "28.3 ± 0.6", "38.8"],
        ["LN", "\u2013", "36.9"], ["BN trained at 2", "\u2013", "31.7"],
    ]  # fmt: skip
    assert same.lines[2][4] == "\u2013", "the paper has no AP50 of LN"
    assert others.header[:3] == ["arm", "box AP", "box AP50"]
    assert others.lines[1][:3] == ["R50, GN", "40.3", "61.0"]
    assert retinanet.header == ["arm", "recall of boxes", "precision of boxes"]
    assert "only the direction of differences compares" in others.words


def test_several_rows_of_one_arm_are_not_put_into_its_line(tmp_path):
    out = detector_study(tmp_path, {"GN": Arm(28.0, "gn:groups=8"), "GN ": Arm(20.0, "bn")})
    path = out / "study.json"
    manifest = json.loads(path.read_text())
    for cell in manifest["cells"]:
        arm = cell["labels"]["arm"]
        cell["labels"] = {"arm": arm.strip(), "images": 1 + len(arm)}
    path.write_text(json.dumps({**manifest, "published": ["coco-c4"]}))
    (one,) = compare_published(*read(out))
    assert one.header[:2] == ["arm", "box AP"]
