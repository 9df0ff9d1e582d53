"""The words of a report: what they claim must follow from the numbers and the spread."""

import json
from decimal import Decimal

import pytest

from groupnorm.study.report.tables import main_table_of
from groupnorm.study.report.text import describe, verdict
from groupnorm.study.results.estimates import Comparison
from groupnorm.study.results.format import rounded
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import (
    add_to_manifest,
    batch_study,
    fake_metrics,
    groups_study,
    spoil,
    write_manifest,
    write_run,
)


def words(out):
    study = load_study(out)
    return describe(study, summarize_study(study))


def study_of(out, errors):
    """A study with the given final errors: {(norm, batch): [error per seed]}."""
    cells = []
    for (norm, batch), values in errors.items():
        for seed, error in enumerate(values):
            name = f"{norm}-{batch}-{seed}"
            labels = {"norm": norm, "batch_per_worker": batch}
            cells.append({"labels": labels, "seed": seed, "run": name})
            rows = fake_metrics("gn", batch, seed, final=20.0)
            for row in rows:
                row["val_error"] = error
            write_run(out, name, {"norm": norm}, rows)
    write_manifest(out, "batch-size", cells, [])
    return out


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            Comparison(-3.1, Decimal("-3.1"), 0.4, True),
            "a is clearly ahead of b by 3.1 points, 7.8 times the spread over seeds (0.4)",
        ),
        (
            Comparison(31.0, Decimal("31.0"), 0.4, True),
            "b is clearly ahead of a by 31.0 points, 78 times the spread over seeds (0.4)",
        ),
        (
            Comparison(0.3, Decimal("0.3"), 0.4, False),
            "b is 0.3 points below a, which is within twice the spread over seeds (0.4): "
            "they cannot be told apart",
        ),
        (
            Comparison(-0.3, Decimal("-0.3"), None, None),
            "a is 0.3 points below b, with no spread to judge this by",
        ),
        (Comparison(-0.02, Decimal("0.0"), 0.0, True),
         "a is clearly ahead of b by less than 0.1 points, while seeds do not differ at all"),
        (Comparison(0.0, Decimal("0.0"), 0.1, False), "a and b have the same error"),
    ],
)  # fmt: skip
def test_verdicts(found, expected):
    assert verdict("a", "b", found) == expected


def test_what_was_measured_names_model_data_and_protocol(tmp_path):
    text = words(batch_study(tmp_path))[0]
    assert "resnet8 on digits (1,437 training images, 360 test images, 10 classes)" in text
    assert "3 normalizations at 3 batch sizes per worker, 3 seeds each" in text
    assert "fixed-step protocol" in text


def test_best_norm_at_both_ends_against_the_spread(tmp_path):
    text = words(
        study_of(tmp_path, {
            ("bn", 32): [20.0, 20.2], ("gn", 32): [20.3, 20.1],
            ("bn", 2): [30.0, 30.2], ("gn", 2): [20.3, 20.1],
        })
    )  # fmt: skip
    assert any(
        p.startswith("At 32 images per worker bn has the lowest error, 20.1% ± 0.1; bn is "
                     "0.1 points below gn, which is within twice") for p in text
    )  # fmt: skip
    assert any(
        p.startswith("At 2 images per worker gn has the lowest error, 20.2% ± 0.1; gn is "
                     "clearly ahead of bn by 9.9 points, 70 times") for p in text
    )  # fmt: skip
    assert "With two seeds the spread itself is only roughly known" in text[1]


def test_batch_norms_loss_and_what_recomputing_removes(tmp_path):
    text = " ".join(words(batch_study(tmp_path, batches=(32, 2))))
    study = load_study(tmp_path)
    rows = {(r.labels["norm"], r.labels["batch_per_worker"]): r for r in summarize_study(study)}
    large, small = rows["bn", 32], rows["bn", 2]
    loss = rounded(small.mean, 1) - rounded(large.mean, 1)
    left = rounded(small.precise_mean, 1) - rounded(large.precise_mean, 1)
    assert f"rises by {loss} points (spread" in text
    assert f"recomputing removes {loss - left} points" in text
    assert f"{100 * (loss - left) / loss:.0f}% of the loss" in text
    assert f"With recomputed statistics bn reaches {small.precise_mean:.1f}%" in text


def test_a_difference_in_words_is_that_of_the_numbers_in_the_table(tmp_path):
    """40.24 and 40.86 are 40.2 and 40.9 in the table: 0.7 apart, although 0.62 rounds to 0.6."""
    out = study_of(tmp_path, {("bn", 32): [40.86], ("gn", 32): [40.24]})
    assert "gn is 0.7 points below bn" in " ".join(words(out))
    study = load_study(out)
    _, body = main_table_of(study, summarize_study(study))
    assert [line[:2] for line in body] == [["bn", "40.9"], ["gn", "40.2"]]


def test_agreement_and_disagreement_with_the_paper_are_both_said(tmp_path):
    text = " ".join(words(study_of(tmp_path, {
        ("bn", 32): [22.0, 22.1], ("gn", 32): [20.0, 20.1],
        ("bn", 2): [30.0, 30.1], ("gn", 2): [20.0, 20.1],
    })))  # fmt: skip
    assert "The paper measured ResNet-50 on ImageNet; this is resnet8 on digits" in text
    assert "GN 0.5 points above BN; here it is 2.0 points below, which disagrees" in text
    assert "GN 10.6 points below BN; here it is 10.0 points below, which agrees" in text


def test_a_difference_inside_the_spread_neither_agrees_nor_disagrees(tmp_path):
    text = " ".join(words(study_of(tmp_path, {
        ("bn", 32): [20.0, 21.0], ("gn", 32): [20.2, 21.2], ("bn", 2): [30, 31], ("gn", 2): [20, 21]
    })))  # fmt: skip
    assert "here it is 0.2 points above, too little against the spread" in text


def test_one_seed_has_nothing_to_compare_with_and_claims_nothing(tmp_path):
    text = " ".join(words(batch_study(tmp_path, seeds=1)))
    assert "There is no spread to compare with" in text
    assert "cannot be told apart from chance" in text
    assert "0.26 to 0.59 points" in text
    assert "clearly" not in text
    assert "agrees in direction" not in text
    assert "but without a spread to judge it by" in text


def test_a_diverged_end_is_said_instead_of_a_number(tmp_path):
    out = batch_study(tmp_path, batches=(32, 2))
    for seed in range(3):
        spoil(out / f"runs/bn-n2-s{seed}", "diverged", "the loss is not finite")
    text = " ".join(words(out))
    assert "What bn loses from 32 to 2 images per worker cannot be given" in text
    assert "at 2 it has no result (diverged)" in text
    assert "Without a result there: bn (diverged)." in text
    assert "here one of the two has no result" in text
    assert "1 of 4 configurations (12 runs in all) lack seeds (diverged)" in text


def test_means_that_lack_diverged_seeds_are_called_flattering(tmp_path):
    out = batch_study(tmp_path)
    spoil(out / "runs/bn-n2-s1", "diverged", "the loss is not finite")
    assert "which flatters it" in words(out)[-1]


def test_a_study_that_has_not_begun_still_has_words(tmp_path):
    out = batch_study(tmp_path, seeds=1)
    for folder in sorted((out / "runs").iterdir()):
        spoil(folder, "missing")
    text = " ".join(words(out))
    assert "At 32 images per worker no run has finished." in text
    assert "5 of 5 configurations (5 runs in all) lack seeds (missing)" in text


def test_the_norms_study_compares_each_norm_with_the_papers_table(tmp_path):
    text = " ".join(words(batch_study(tmp_path, ("bn", "ln", "in", "gn"), (32,), 3, "norms")))
    for name, gap in (("GN", "0.5"), ("LN", "1.7"), ("IN", "4.8")):
        assert f"the paper has {name} {gap} points above BN" in text
    assert text.count("which agrees in direction") == 3


def test_the_groups_study_names_best_worst_and_the_papers_best(tmp_path):
    text = words(groups_study(tmp_path))
    groups = next(p for p in text if p.startswith("By number of groups"))
    size = next(p for p in text if p.startswith("By channels per group"))
    assert "1 group (layer norm) the highest" in groups
    assert "In the paper 32 groups is best with 24.1, 1 group (layer norm) has 25.3" in groups
    assert "1 channel per group (instance norm) the highest" in size
    assert "is seen here too" in size


def test_the_groups_study_says_when_the_extreme_wins_or_nothing_is_there(tmp_path):
    out = groups_study(tmp_path, seeds=1)
    path = out / "runs/groups1-s0/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "val_error": 1.0}) + "\n" for row in rows))
    text = " ".join(words(out))
    assert "Here, other than there, the extreme has the lowest error" in text
    for folder in sorted((out / "runs").iterdir()):
        spoil(folder, "missing")
    assert "No run has finished yet." in words(out)


def test_a_limit_of_training_images_is_told(tmp_path):
    out = batch_study(tmp_path)
    for path in out.glob("runs/*/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "train_images": 1000}))
    assert "(the first 1,000 of 1,437 training images, 360 test images" in words(out)[0]


def test_other_tables_are_named_and_compared_as_they_are(tmp_path):
    out = batch_study(tmp_path / "a", ("bn", "gn:groups=8", "in"), (32, 8))
    add_to_manifest(out, published=["cifar10-resnet56-batch-size"])
    text = " ".join(words(out))
    assert "CharlesJWC/GroupNorm-pytorch measured ResNet-56 on CIFAR-10; this is resnet8" in text
    assert "At 32 images CharlesJWC/GroupNorm-pytorch has GN 2.0 points above BN; here" in text
    assert "has IN 2.2 points above BN; here" in text
    assert "affine" not in text  # instance norm without affine is not the study's
    assert "the paper has" not in text
    out = batch_study(tmp_path / "b", ("bn", "none", "gn"), (16,), 2, "norms")
    add_to_manifest(out, published=["imagenet-vgg16"])
    text = " ".join(words(out))
    assert "At 32 images (here 16) the paper has none 1.2 points above BN; here it is" in text
    add_to_manifest(out, published=["pets-notebook"])
    assert "At 4 images (here 16) amaarora/amaarora.github.io has GN 21.6" in " ".join(words(out))


def test_the_same_model_and_data_are_said_to_be_the_same(tmp_path):
    out = batch_study(tmp_path, ("bn", "gn:groups=8"), (32, 2))
    data = {"name": "cifar10", "train": 50_000, "test": 10_000, "classes": 10}
    add_to_manifest(out, published=["cifar10-resnet20-batch-size"], data=data)
    for path in out.glob("runs/*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "model": "resnet20"}))
    text = " ".join(words(out))
    assert "BeFranke/GroupNorm measured ResNet-20 on CIFAR-10, as this study does." in text


def test_without_a_table_nothing_is_compared(tmp_path):
    for out in (batch_study(tmp_path / "a"), groups_study(tmp_path / "b")):
        text = " ".join(words(add_to_manifest(out, published=[])))
        assert "In the paper" not in text
        assert "paper has" not in text
