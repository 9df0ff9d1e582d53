"""The words of a report, made from the numbers: first what was found, with its uncertainty.

Two configurations are told apart only where the 95 % interval of their difference over paired seeds
leaves out 0. Without two seeds nothing is told apart, and the text says so.
"""

from __future__ import annotations

from groupnorm.counts import counted
from groupnorm.data.catalog import IMAGE_FILES, VIDEO_FILES
from groupnorm.study.report.text.arms import arms_headline, arms_text, pretraining_text
from groupnorm.study.report.text.clips import clips_headline, clips_text
from groupnorm.study.report.text.conversions import conversions_text
from groupnorm.study.report.text.divisions import groups_headline, groups_text
from groupnorm.study.report.text.findings import at_batch, batch_norm_loss, headline
from groupnorm.study.report.text.fine_tuning import (
    conversions_note,
    fine_tuning_headline,
    fine_tuning_text,
)
from groupnorm.study.report.text.published import published_by_batch, published_by_norm
from groupnorm.study.report.text.search import search_text
from groupnorm.study.results import published
from groupnorm.study.results.clips import clips_of
from groupnorm.study.results.findings import appearances, findings_sentence
from groupnorm.study.results.labels import BATCH_NORM, of_kind
from groupnorm.study.results.published import SPREAD
from groupnorm.study.results.rows import (
    LAST_EPOCHS,
    Row,
    Study,
    batch_sizes,
    by_runs,
    norm_names,
    seeds_text,
    subject,
)
from groupnorm.study.results.rules import each_result, images_note, rules_note
from groupnorm.study.results.tuning import Tuning, tuned_briefly
from groupnorm.study.results.wording import in_unit, noun, unit_in_full

PROTOCOLS = {
    "fixed-step": (
        "Under the fixed-step protocol every step sees the same number of {example}s at the same "
        "learning rate; only the number of {example}s that share batch statistics changes. A norm "
        "that does not look across the batch is therefore trained once for all batch sizes."
    ),
    "paper": (
        "Under the paper's protocol a step sees the {example}s of all workers together and the "
        "learning rate follows the {example}s per worker, so the number of steps changes with it."
    ),
}


def protocol_words(study: Study) -> str:
    """What the protocol of a study is; empty where it is unknown."""
    known = PROTOCOLS.get(study.manifest.get("protocol", ""), "")
    if study.of_conversions:  # whose networks are not compared with each other
        return ""
    return known.format(example=study.example)


def describe(study: Study, rows: list[Row], tuning: Tuning | None = None) -> list[str]:
    """The report's opening paragraphs, plain text.

    Args:
        rows: what the report shows.
        tuning: in a tuned study, what was tried.
    """
    if tuning is not None and not rows:
        return [tuned_briefly(tuning)]
    kind = study.manifest["shows"]
    if kind == "conversions":
        return conversions_text(study.conversions, study.trained)
    begins = {
        "groups": groups_headline, "arms": arms_headline, "clips": clips_headline,
        "fine-tuning": fine_tuning_headline,
    }  # fmt: skip
    if study.search is not None:
        paragraphs = [*search_text(study, rows), *_incomplete(rows)] if rows else []
        return [paragraph for paragraph in paragraphs if paragraph]
    begun = begins.get(kind, headline)
    paragraphs = [begun(study, rows), _what_was_measured(study, rows), _how_to_read(study, rows)]
    if tuning is not None:
        paragraphs.append(tuned_briefly(tuning))
    on_test = tuning is not None and tuning.validation_images is None
    incomplete = _incomplete(tuning.rows if tuning and on_test else rows)
    if kind == "groups":
        paragraphs += groups_text(study, rows)
        return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]
    if kind == "arms":
        paragraphs += [arms_text(study, rows), pretraining_text(study, rows)]
        paragraphs.append(findings_sentence(appearances(study, rows)))
        return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]
    if kind == "fine-tuning":
        paragraphs += [fine_tuning_text(study, rows), conversions_note(study)]
        paragraphs.append(pretraining_text(study, rows))
        return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]
    if kind == "clips":
        paragraphs += clips_text(study, rows)
        paragraphs.append(findings_sentence(appearances(study, rows), "norms"))
        return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]
    batches = batch_sizes(rows)
    ends = dict.fromkeys((*batches[:1], *batches[-1:]))
    paragraphs += [at_batch(study, rows, batch) for batch in ends]
    if len(batches) > 1:
        norms = of_kind(BATCH_NORM, norm_names(rows))
        paragraphs += [batch_norm_loss(study, rows, norm) for norm in norms]
    if kind == "batch-size":
        paragraphs.append(published_by_batch(study, rows))
    elif batches:
        paragraphs.append(published_by_norm(study, rows))
    return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]


def _what_was_measured(study: Study, rows: list[Row]) -> str:
    data = study.manifest.get("data", {})
    words = _VIDEO_WORDS if study.of_clips else _DATA_WORDS
    counts = [f"{data[key]:,} {word}" for key, word in words.items() if key in data]
    configs = [record.config for record in study.records.values()]
    limits = [config["train_images"] for config in configs if config.get("train_images")]
    if limits and "train" in data:
        which = "a sample of " if data.get("name") in (*IMAGE_FILES, *VIDEO_FILES) else "the first "
        counts[0] = f"{which}{max(limits):,} of {counts[0]}"
    size = f" ({', '.join(counts)})" if counts else ""
    protocol = protocol_words(study)
    trained = "trained" if study.begun else "is to train"
    return (
        f"This study {trained} {subject(study)}{size} with {_kinds(study, rows)}, "
        f"{seeds_text(rows)} each. "
        + ("" if study.axis != "norm" and not study.of_fine_tuning else protocol)
    )


def _kinds(study: Study, rows: list[Row]) -> str:
    """How many norms at which batch sizes, or how many arms."""
    if study.of_fine_tuning:
        arms, sizes = ({row.labels[name] for row in rows} for name in ("arm", "batch_per_worker"))
        return (
            f"{counted(len(arms), 'arm')} at {', '.join(map(str, sorted(sizes)))} images per worker"
        )
    if study.axis != "norm":
        return f"{len(rows)} {'arm' if len(rows) == 1 else 'arms'}"
    batches, count = batch_sizes(rows), len(norm_names(rows))
    kinds = f"{count} normalization{'s' if count != 1 else ''}"
    if study.manifest["shows"] == "groups":
        kinds = f"group norm with {len(rows)} group divisions"
    where = f"{len(batches)} batch sizes per worker" if len(batches) > 1 else ""
    if len(batches) == 1:
        where = f"{batches[0]} {study.example}s per worker"
    if study.of_clips:
        where += f" in clips of {' and of '.join(map(str, clips_of(rows)))}"
    return f"{kinds} at {where}"


_RULE_OF_THE_PAPER = f"the median of the last {LAST_EPOCHS} epochs"
_DATA_WORDS = {"train": "training images", "test": "test images", "classes": "classes"}
_VIDEO_WORDS = {"train": "training videos", "test": "test videos", "classes": "classes"}


def _how_to_read(study: Study, rows: list[Row]) -> str:
    rule, metric = each_result(study), study.metric
    if not study.begun:
        return "No run has begun, so there is no result yet."
    as_there = ", as in the paper" if rule == _RULE_OF_THE_PAPER else ""
    text = f"The {noun(metric)} is {rule}{as_there}{in_unit(metric, ', ')}"
    notes = [note for note in (rules_note(study), images_note(study)) if note]
    if any(row.spread is not None for row in rows):
        text += (
            ", averaged over seeds; ± is the standard deviation over seeds. A difference is that "
            f"of the same seeds, which see the same {study.example}s in the same order. Its 95 % "
            "interval is "
            "Student's t: of many such intervals 95 in 100 hold the difference that endless seeds "
            "would give. Where it contains 0, the two cannot be told apart. Each interval stands "
            "for itself: of twenty comparisons of equals about one leaves out 0 by chance."
        )
        return " ".join([text, *notes])
    text += (
        ". There is no interval, because no configuration has two finished seeds: differences of "
        "the size that seeds usually make cannot be told apart from chance."
    )
    table = published.load("cifar10-resnet20-batch-size")
    if table.unit == unit_in_full(metric):
        text += f" {_spread_over_seeds(table)}"
    return " ".join([text, *notes])


def _spread_over_seeds(table: published.Published) -> str:
    """How much seeds made in a published sweep, as a sentence."""
    columns = [column for name, column in table.data.items() if name.endswith(SPREAD)]
    spreads = [spread for column in columns for spread in column]
    return (
        f"(In a published {_COUNTS[table.runs]}-seed sweep of {table.model} on {table.dataset}, "
        f"{table.source.paper}, the standard deviation over seeds was {min(spreads)} to "
        f"{max(spreads)} points.)"
    )


_COUNTS = ("no", "one", "two", "three", "four", "five")


def _incomplete(rows: list[Row]) -> list[str]:
    runs = {name for row in rows for name in row.runs}
    configurations = [same[0] for same in by_runs(rows)]
    bad = [row for row in configurations if row.status != "finished"]
    if not bad:
        return []
    statuses = sorted({row.status for row in bad})
    partly = any(row.result for row in bad)
    text = (
        f"Not everything finished: {len(bad)} of {len(configurations)} configurations "
        f"({counted(len(runs), 'run')} in all) lack seeds ({', '.join(statuses)}); they are listed "
        "under Problems."
    )
    if partly:
        text += " Means of such a configuration are over the seeds that finished, which flatters it"
        text += " when the others diverged."
    return [text]
