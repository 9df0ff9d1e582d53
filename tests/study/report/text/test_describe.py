"""The words of a report: what they claim must follow from the numbers and their intervals."""

import json
import re

import pytest

from groupnorm.study.report.tables import main_table_of
from groupnorm.study.report.text import describe
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.results.format import rounded
from groupnorm.study.results.labels import interval_text
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import (
    add_to_manifest,
    batch_study,
    configured,
    fake_metrics,
    groups_study,
    in_accuracy,
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


def test_what_was_measured_names_model_data_and_protocol(tmp_path):
    text = words(batch_study(tmp_path))[1]
    assert "resnet8 on digits (1,437 training images, 360 test images, 10 classes)" in text
    assert "3 normalizations at 3 batch sizes per worker, 3 seeds each" in text
    assert "fixed-step protocol" in text


def test_best_norm_at_both_ends_with_intervals(tmp_path):
    text = words(
        study_of(tmp_path, {
            ("bn", 32): [20.0, 20.2, 20.4], ("gn", 32): [20.3, 20.1, 20.8],
            ("bn", 2): [30.0, 30.2, 30.1], ("gn", 2): [20.3, 20.1, 20.8],
        })
    )  # fmt: skip
    assert any(
        p.startswith("At 32 images per worker bn has the lowest error, 20.2 % ± 0.2, 0.2 points "
                     "less than gn, from which it cannot be told apart (95 % interval -0.5 to "
                     "0.9, 3 seeds).") for p in text
    )  # fmt: skip
    assert any(
        p.startswith("At 2 images per worker gn has the lowest error, 20.4 % ± 0.4, 9.7 points "
                     "less than bn (95 % interval 8.7 to 10.7, 3 seeds).") for p in text
    )  # fmt: skip
    assert "Where it contains 0, the two cannot be told apart" in text[2]


def test_batch_norms_loss_and_what_recomputing_removes(tmp_path):
    text = " ".join(words(batch_study(tmp_path, batches=(32, 2))))
    study = load_study(tmp_path)
    rows = {(r.labels["norm"], r.labels["batch_per_worker"]): r for r in summarize_study(study)}
    large, small = rows["bn", 32], rows["bn", 2]
    loss = rounded(small.mean, 1) - rounded(large.mean, 1)
    assert f"rises by {loss} points (95 % interval" in text
    assert f"With recomputed statistics bn reaches {small.precise_mean:.1f} %" in text
    losses = [
        {seed: of_small[seed] - of_large[seed] for seed in (0, 1, 2)}
        for of_small, of_large in (
            (small.results, large.results), (small.precise_results, large.precise_results),
        )
    ]  # fmt: skip
    removed = paired_difference(*losses)
    sure = f"(95 % interval {interval_text(removed.interval)}, 3 seeds)"
    assert f"with these it loses {removed.shown} points less {sure}." in text
    for of_a_cause in ("lies in", "% of the loss"):
        assert of_a_cause not in text


def test_what_recomputing_removes_may_be_too_little_to_tell(tmp_path):
    """Recomputed, the errors of the three seeds change by 4, -4 and 3 points."""
    out = study_of(tmp_path, {("bn", 32): [20.0, 20.1, 20.2], ("bn", 2): [30.0, 30.3, 30.1]})
    for seed, change in enumerate((4.0, -4.0, 3.0)):
        path = out / f"runs/bn-2-{seed}/metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "precise_val_error": row["val_error"] - change} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in out.glob("runs/bn-32-*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "precise_val_error": row["val_error"]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        "Whether recomputing removes a part of the loss cannot be told: the two losses are 1.0 "
        "points apart (95 % interval -9.8 to 11.8, 3 seeds)."
    ) in " ".join(words(out))


@pytest.mark.parametrize(("last", "papers"), [(5, True), (50, False), (1, False)])
def test_only_the_median_of_five_epochs_is_the_papers(tmp_path, last, papers):
    study = configured(load_study(batch_study(tmp_path)), reported_epochs=last, epochs=100)
    text = describe(study, summarize_study(study))[2]
    assert (", as in the paper, in percent" in text) is papers


def test_a_difference_in_words_is_that_of_the_numbers_in_the_table(tmp_path):
    """40.24 and 40.86 are 40.2 and 40.9 in the table: 0.7 apart, although 0.62 rounds to 0.6."""
    out = study_of(tmp_path, {("bn", 32): [40.86], ("gn", 32): [40.24]})
    assert "gn has the lowest error, 40.2 %, 0.7 points less than bn" in " ".join(words(out))
    study = load_study(out)
    _, body = main_table_of(study, summarize_study(study))
    assert [line[:2] for line in body] == [["bn", "40.9"], ["gn", "40.2"]]


def test_agreement_and_disagreement_with_the_paper_are_both_said(tmp_path):
    text = " ".join(words(study_of(tmp_path, {
        ("bn", 32): [22.0, 22.2, 22.4], ("gn", 32): [20.1, 20.2, 20.3],
        ("bn", 2): [30.1, 30.2, 30.3], ("gn", 2): [20.1, 20.2, 20.4],
    })))  # fmt: skip
    assert "The paper measured ResNet-50 on ImageNet; this is resnet8 on digits" in text
    assert "GN 0.5 points above BN; here it is 2.0 points below, which disagrees" in text
    assert "GN 10.6 points below BN; here it is 10.0 points below, which agrees" in text


def test_a_difference_whose_interval_holds_0_neither_agrees_nor_disagrees(tmp_path):
    text = " ".join(words(study_of(tmp_path, {
        ("bn", 32): [20.0, 21.0], ("gn", 32): [20.1, 21.3], ("bn", 2): [30, 31], ("gn", 2): [20, 21]
    })))  # fmt: skip
    assert "here it is 0.2 points above, which cannot be told from no difference" in text


def test_one_seed_has_nothing_to_compare_with_and_claims_nothing(tmp_path):
    text = " ".join(words(batch_study(tmp_path, seeds=1)))
    assert text.startswith("Nothing can be told from one seed: GN has an error of")
    assert "`--seeds 3` trains three seeds of each configuration" in text
    assert "There is no interval" in text
    assert "cannot be told apart from chance" in text
    assert "0.26 to 0.59 points" in text
    for claim in ("95 %", "agrees in direction", "with these it loses", "takes about"):
        assert claim not in text
    assert ": the same way, in one seed." in text


def test_the_first_sentence_is_group_norm_against_batch_norm_with_an_interval(tmp_path):
    errors = {
        ("bn", 32): [20.0, 20.0, 20.0], ("bn", 2): [28.0, 27.0, 27.5],
        ("gn:groups=8", 32): [21.0, 21.0, 21.0], ("gn:groups=8", 2): [21.0, 21.4, 20.9],
        ("gn:groups=8+ws", 2): [19.0, 19.1, 19.2],
    }  # fmt: skip
    assert words(study_of(tmp_path, errors))[0] == (
        "GN has 6.4 points less error than BN at 2 images per worker (95 % interval 4.6 to 8.2, "
        "3 seeds). To tell a difference of one point in four studies of five takes about 7 seeds, "
        "by an estimate from the spread of these 3 pairs."
    )


def test_the_first_sentence_says_when_they_cannot_be_told_apart(tmp_path):
    errors = {("bn", 32): [20.0, 22.0, 21.0], ("gn", 32): [21.0, 21.5, 21.8]}
    assert words(study_of(tmp_path, errors))[0].startswith(
        "GN and BN cannot be told apart at 32 images per worker: BN has 0.4 points less error "
        "(95 % interval -1.6 to 2.5, 3 seeds). To tell a difference"
    )


@pytest.mark.parametrize(
    ("errors", "expected", "picked"),
    [
        ({("bn", 32): [20.0, 20.1], ("bn", 2): [30.0, 30.5]},
         "BN at 32 images per worker has 10.2 points less error than BN at 2 (95 % interval", None),
        ({("ln", 32): [20.0, 21.0], ("in", 32): [24.0, 24.1], ("frn", 32): [40.0, 41.1]},
         "LN and IN cannot be told apart at 32 images per worker: LN has 3.6 points less error",
         "LN was picked for the lowest of 3 errors, which chance favours."),
        ({("bn", 32): [22.0, 22.1], ("ln", 32): [20.0, 20.2], ("in", 32): [25, 26]},
         "LN has 2.0 points less error than BN at 32 images per worker (95 % interval",
         "LN was picked for the lowest of 2 errors, which chance favours."),
        ({("bn", 32): [22.0, 22.1], ("ln", 32): [26.0, 26.2], ("in", 32): [25, 26]},
         "IN and BN cannot be told apart at 32 images per worker: BN has 3.4 points less error",
         "IN was picked for the lowest of 2 errors, which chance favours."),
        ({("bn", 32): [22.0, 22.1], ("ln", 32): [20.0, 20.2]},
         "LN has 2.0 points less error than BN at 32 images per worker (95 % interval", None),
        ({("ln", 32): [20.0, 21.0]},
         "LN has an error of 20.5 % ± 0.7 at 32 images per worker; there is nothing to compare",
         None),
    ],
)  # fmt: skip
def test_without_group_norm_or_batch_norm_others_are_compared(tmp_path, errors, expected, picked):
    first = words(study_of(tmp_path, errors))[0]
    assert first.startswith(expected)
    assert first.endswith(picked) if picked else "picked" not in first


def test_seeds_that_did_not_finish_are_left_out_of_the_first_sentence(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(32, 2))
    spoil(out / "runs/bn-n2-s1", "diverged", "the loss is not finite")
    assert "2 seeds; 1 left out that only one of the two has)" in words(out)[0]
    spoil(out / "runs/gn-n32-s0", "failed", "killed")
    first = words(out)[0]
    assert first.startswith("Nothing can be told from the one seed of 3 that has finished for both")
    assert "--seeds" not in first
    spoil(out / "runs/gn-n32-s2", "failed", "killed")
    assert words(out)[0] == ("GN and BN share no seed to compare them by at 2 images per worker.")


def test_errors_of_other_images_and_rules_are_said(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn"), batches=(32,)))
    held_out = configured(study, validation_images=500)
    text = describe(held_out, summarize_study(held_out))
    assert "Errors are those of 500 validation images" in text[2]
    assert "95 % interval" in text[0]
    mixed = configured(study, "gn*", validation_images=500, reported_epochs=1)
    text = describe(mixed, summarize_study(mixed))
    assert text[0].endswith("images: 500 validation images, and test images.")
    assert "only runs that were evaluated on the same images are compared" in text[2]
    assert "The runs ask for the median of their last 1 or 5 epochs" in text[2]


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
    assert "This study is to train " in text
    assert "No run has begun, so there is no result yet." in text
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
    assert "(the first 1,000 of 1,437 training images, 360 test images" in words(out)[1]


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
    assert ", at another batch size." in text
    assert "agrees" not in text
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


def test_accuracies_tell_what_their_errors_tell_in_the_words_of_accuracies(tmp_path):
    """The mirror image of a study: whoever was ahead is, by as many points."""
    out = batch_study(tmp_path)
    errors = words(out)
    mirrored = words(in_accuracy(out))
    changed = [
        (r"has ([\d.]+) points less error than (\S+)", r"is \1 points better than \2 in accuracy"),
        ("has the lowest error", "has the highest accuracy"),
        (r"(?<=accuracy, )([\d.]+) %", lambda m: f"{100 - float(m[1]):.1f} %"),
        ("points less than", "points more than"), ("The error is", "The accuracy is"),
        ("the error of bn rises by", "the accuracy of bn falls by"),
        ("and rises by", "and falls by"),
        (r"reaches ([\d.]+) %", lambda m: f"reaches {100 - float(m[1]):.1f} %"),
    ]  # fmt: skip
    for number, text in enumerate(errors):
        if "arXiv" in text or "paper measured" in text.lower():
            continue
        for pattern, into in changed:
            text = re.sub(pattern, into, text)
        assert mirrored[number] == text
