"""The words of a report, made from the numbers.

A difference is called clear only when it exceeds twice the larger of both spreads over seeds.
Without a spread nothing is called clear, and the text says so.
"""

from __future__ import annotations

from decimal import Decimal

from groupnorm.data import IMAGE_FILES
from groupnorm.spec import NormSpec
from groupnorm.study.results import published
from groupnorm.study.results.compare import compares_in_size, find, first_table, match
from groupnorm.study.results.estimates import CLEAR, Comparison, Estimate, compare
from groupnorm.study.results.format import decimal_text, rounded
from groupnorm.study.results.labels import BATCH_NORM, GROUP_NORM, of_kind, short_names
from groupnorm.study.results.published import (
    DIVISIONS,
    SPREAD,
    Published,
    has_batches,
    has_groups,
    has_norms,
)
from groupnorm.study.results.rows import (
    Row,
    Study,
    batch_sizes,
    by_runs,
    epochs_rule,
    norm_names,
    subject,
)
from groupnorm.study.results.tuning import Tuning, tuned_briefly

BASELINE = str(BATCH_NORM)  # published tables are read as differences to it
PROTOCOLS = {
    "fixed-step": (
        "Under the fixed-step protocol every step sees the same number of images at the same "
        "learning rate; only the number of images that share batch statistics changes. A norm "
        "that does not look across the batch is therefore trained once for all batch sizes."
    ),
    "paper": (
        "Under the paper's protocol a step sees the images of all workers together and the "
        "learning rate follows the images per worker, so the number of steps changes with it."
    ),
}


def describe(study: Study, rows: list[Row], tuning: Tuning | None = None) -> list[str]:
    """The report's opening paragraphs, plain text.

    Args:
        rows: what the report shows.
        tuning: in a tuned study, what was tried.
    """
    kind = study.manifest["shows"]
    paragraphs = [_what_was_measured(study, rows), _how_to_read(study, rows)]
    if tuning is not None:
        paragraphs.append(tuned_briefly(tuning))
        if not rows:
            return paragraphs[-1:]
    on_test = tuning is not None and tuning.held_out is None
    incomplete = _incomplete(tuning.rows if tuning and on_test else rows)
    if kind == "groups":
        return [*paragraphs, *_groups_text(study, rows), *incomplete]
    batches = batch_sizes(rows)
    ends = dict.fromkeys((*batches[:1], *batches[-1:]))
    paragraphs += [_at_batch(rows, batch) for batch in ends]
    if len(batches) > 1:
        paragraphs += [
            _batch_norm_loss(rows, norm) for norm in of_kind(BATCH_NORM, norm_names(rows))
        ]
    if kind == "batch-size":
        paragraphs.append(_published_by_batch(study, rows))
    elif batches:
        paragraphs.append(_published_by_norm(study, rows))
    return [paragraph for paragraph in [*paragraphs, *incomplete] if paragraph]


def verdict(name_a: str, name_b: str, found: Comparison) -> str:
    """One comparison in words; `found` is a minus b, so a negative difference has `a` ahead."""
    ahead, behind = (name_a, name_b) if found.difference < 0 else (name_b, name_a)
    gap = _gap(found)
    if found.difference == 0:
        return f"{name_a} and {name_b} have the same error"
    if found.spread is None or found.clear is None:
        return f"{ahead} is {gap} below {behind}, with no spread to judge this by"
    if found.clear:
        size = "while seeds do not differ at all"
        if found.spread:
            times = abs(found.difference) / found.spread
            count = decimal_text(times, 0 if times >= 10 else 1)
            size = f"{count} times the spread over seeds ({_size(found.spread)})"
        return f"{ahead} is clearly ahead of {behind} by {gap}, {size}"
    return (
        f"{ahead} is {gap} below {behind}, which is within twice the spread over seeds "
        f"({_size(found.spread)}): they cannot be told apart"
    )


def _what_was_measured(study: Study, rows: list[Row]) -> str:
    data = study.manifest.get("data", {})
    counts = [f"{data[key]:,} {word}" for key, word in _DATA_WORDS.items() if key in data]
    configs = [record.config for record in study.records.values()]
    limits = [config["train_images"] for config in configs if config.get("train_images")]
    if limits and "train" in data:
        which = "a sample of " if data.get("name") in IMAGE_FILES else "the first "
        counts[0] = f"{which}{max(limits):,} of {counts[0]}"
    size = f" ({', '.join(counts)})" if counts else ""
    batches = batch_sizes(rows)
    count = len(norm_names(rows))
    kinds = f"{count} normalization{'s' if count != 1 else ''}"
    if study.manifest["shows"] == "groups":
        kinds = f"group norm with {len(rows)} group divisions"
    where = f"{len(batches)} batch sizes per worker" if len(batches) > 1 else ""
    if len(batches) == 1:
        where = f"{batches[0]} images per worker"
    seeds = max((row.asked for row in rows), default=0)
    return (
        f"This study trained {subject(study)}{size} with {kinds} at {where}, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} each. "
        + PROTOCOLS.get(study.manifest.get("protocol", ""), "")
    )


_DATA_WORDS = {"train": "training images", "test": "test images", "classes": "classes"}


def _how_to_read(study: Study, rows: list[Row]) -> str:
    rule = epochs_rule(study, length=False)
    text = f"The error is {'that' if rule.startswith('after') else 'the'} {rule}"
    text += f"{', as in the paper' if 'last' in rule else ''}, in percent"
    counts = [row.finished for row in rows]
    if any(row.spread is not None for row in rows):
        text += (
            ", averaged over seeds; ± is the standard deviation over seeds. A difference is called "
            f"clear here when it exceeds {CLEAR:g} times the larger of both spreads."
        )
        if max(counts) == 2:
            text += " With two seeds the spread itself is only roughly known."
        return text
    table = published.load("cifar10-resnet20-batch-size")
    columns = [column for name, column in table.data.items() if name.endswith(SPREAD)]
    spreads = [spread for column in columns for spread in column]
    return (
        f"{text}. There is no spread to compare with, because no configuration has two finished "
        "seeds: differences of the size that seeds usually make cannot be told apart from chance. "
        f"(In a published {_COUNTS[table.runs]}-seed sweep of {table.model} on {table.dataset}, "
        f"{table.source.paper}, that "
        f"standard deviation was {min(spreads)} to {max(spreads)} points.)"
    )


_COUNTS = ("no", "one", "two", "three", "four", "five")


def _at_batch(rows: list[Row], batch: int) -> str:
    here = {
        row.labels["norm"]: row.error
        for row in rows
        if row.labels["batch_per_worker"] == batch and row.error
    }
    if not here:
        return f"At {batch} images per worker no run has finished. {_without_result(rows, batch)}"
    ranked = sorted(here, key=lambda norm: here[norm].mean)
    best = ranked[0]
    text = f"At {batch} images per worker {best} has the lowest error, {_value(here[best])}"
    if len(ranked) == 1:
        text += "; nothing else has finished there to compare it with."
        return f"{text} {_without_result(rows, batch)}"
    second = ranked[1]
    text += f"; {verdict(best, second, compare(here[best], here[second]))}."
    gn, bn = _first(rows, GROUP_NORM), _first(rows, BATCH_NORM)
    if gn in here and bn in here and {gn, bn} != {best, second}:
        text += f" Group norm against batch norm: {verdict(gn, bn, compare(here[gn], here[bn]))}."
    recomputed = _row(rows, bn, batch)
    if recomputed and recomputed.precise and recomputed.error:
        text += f" With recomputed statistics {bn} reaches {_value(recomputed.precise)}"
        if gn in here:
            found = compare(here[gn], recomputed.precise)
            text += f"; against that, {verdict(gn, bn, found)}"
        text += "."
    return f"{text} {_without_result(rows, batch)}".rstrip()


def _without_result(rows: list[Row], batch: int) -> str:
    bad = [
        f"{row.labels['norm']} ({row.status})"
        for row in rows
        if row.labels["batch_per_worker"] == batch and row.error is None
    ]
    return f"Without a result there: {', '.join(bad)}." if bad else ""


def _batch_norm_loss(rows: list[Row], norm: str) -> str:
    batches = batch_sizes(rows)
    large, small = _row(rows, norm, batches[0]), _row(rows, norm, batches[-1])
    missing = [
        f"at {batch} it has no result ({row.status if row else 'not asked for'})"
        for batch, row in ((batches[0], large), (batches[-1], small))
        if row is None or row.error is None
    ]
    if not (large and small and large.error and small.error):
        return (
            f"What {norm} loses from {batches[0]} to {batches[-1]} images per worker cannot be "
            f"given: {', '.join(missing)}."
        )
    found = compare(small.error, large.error)
    text = f"From {batches[0]} to {batches[-1]} images per worker the error of {norm} "
    text += _change(found) + " with running statistics"
    if not (large.precise and small.precise):
        return f"{text}."
    precise = compare(small.precise, large.precise)
    text += f" and {_change(precise)} with recomputed statistics"
    removed = found.shown - precise.shown
    if found.shown > 0 and found.clear is not False:
        share = decimal_text(100 * removed / found.shown, 0)
        if removed > 0:
            text += (
                f": recomputing removes {_points(removed)}, {share}% of the loss. That part "
                "lies in the evaluation statistics, the rest in the training itself"
            )
        else:
            text += ": recomputing removes none of the loss"
    return f"{text}."


def _published_by_batch(study: Study, rows: list[Row]) -> str:
    """The table's differences to batch norm at the ends of what both have, and ours."""
    table = first_table(study, has_batches)
    common = [b for b in batch_sizes(rows) if table and b in table.data["batch_per_worker"]]
    if not (table and common):
        return ""
    norms = [norm for norm in table.data if norm != "batch_per_worker" and SPREAD not in norm]
    parts = [
        part
        for batch in dict.fromkeys((common[0], common[-1]))
        for part in _directions(table, norms, rows, batch, batch)
    ]
    return f"{_compared(table, study)} {' '.join(parts)} {table.note}".rstrip() if parts else ""


def _published_by_norm(study: Study, rows: list[Row]) -> str:
    batch = batch_sizes(rows)[0]
    table = first_table(study, lambda t: has_norms(t, batch))
    if table is None:
        return ""
    sizes = table.data.get("batch_per_worker", [table.batch_per_worker])
    their_batch = sizes[0] if len(sizes) == 1 else batch
    norms = table.data.get("norm") or [n for n in list(table.data)[1:] if SPREAD not in n]
    parts = _directions(table, norms, rows, batch, their_batch)
    return f"{_compared(table, study)} {' '.join(parts)}" if parts else ""


def _directions(
    table: Published, norms: list[str], rows: list[Row], batch: int, their_batch: int | None
) -> list[str]:
    """What the table has of each norm against batch norm at `their_batch`, and we at `batch`."""
    bn = _first(rows, BATCH_NORM)
    base = find(table, norm=BASELINE, batch_per_worker=their_batch)
    names = short_names(norms)
    parts = []
    for norm in norms:
        mine = norm_names(rows)
        ours = norm if norm in mine else next((n for n in mine if match(norm, [n])), "")
        found = find(table, norm=norm, batch_per_worker=their_batch)
        if norm != BASELINE and bn and ours and base and found:
            difference = rounded(found.error, 2) - rounded(base.error, 2)
            at = f"At {batch} images"
            if their_batch not in (None, batch):
                at = f"At {their_batch} images (here {batch})"
            text = f"{at} {table.owner} has {names[norm]}"
            parts.append(_direction(rows, ours, bn, batch, difference, text))
    return parts


def _direction(rows: list[Row], norm: str, bn: str, batch: int, paper: Decimal, begun: str) -> str:
    """Does `norm` against `bn` point the way a published difference (norm minus BN) does?"""
    text = f"{begun} {_points(abs(paper))} {'below' if paper < 0 else 'above'} BN"
    ours, theirs = _row(rows, norm, batch), _row(rows, bn, batch)
    if not (ours and theirs and ours.error and theirs.error):
        return f"{text}; here one of the two has no result."
    found = compare(ours.error, theirs.error)
    here = "below" if found.difference < 0 else "above"
    text += f"; here it is {_gap(found)} {here}"
    same = (found.difference < 0) == (paper < 0)
    if found.clear:
        return f"{text}, {'which agrees' if same else 'which disagrees'} in direction."
    if found.clear is None:
        way = "the same way" if same else "the other way"
        return f"{text}: {way}, but without a spread to judge it by."
    return f"{text}, too little against the spread to agree or disagree."


def _groups_text(study: Study, rows: list[Row]) -> list[str]:
    table = first_table(study, has_groups)
    paragraphs = []
    for division, words in DIVISIONS.items():
        found = {
            row.labels["value"]: row.error
            for row in rows
            if row.labels["division"] == division and row.error
        }
        if not found:
            continue
        best = min(found, key=lambda value: found[value].mean)
        worst = max(found, key=lambda value: found[value].mean)
        theirs = table.data.get(division, {}) if table else {}
        errors = dict(zip(theirs.get("value", ()), theirs.get("error", ()), strict=True))
        name = {value: _division(division, value) for value in (*found, *errors)}
        text = f"By {words}, {name[best]} has the lowest error, {_value(found[best])}"
        if best != worst:
            text += f", and {name[worst]} the highest, {_value(found[worst])}: "
            text += verdict(name[best], name[worst], compare(found[best], found[worst]))
        text += "."
        if 1 in found and best != 1 and worst != 1:
            found_1 = compare(found[best], found[1])
            text += f" The extreme: {verdict(name[best], name[1], found_1)}."
        top = min(errors, key=lambda value: errors[value], default=None)
        if table and top is not None:
            text += f" In {table.owner} {name[top]} is best with {errors[top]}"
            text += f", {name[1]} has {errors[1]}." if 1 in errors else "."
        if best == 1:
            text += " Here, other than there," if 1 in errors and top != 1 else " Here"
            text += " the extreme has the lowest error."
        elif 1 in found and 1 in errors:
            text += (
                " That the extreme is worse than the best division is seen here too."
                if compare(found[1], found[best]).clear
                else " Whether the extreme is worse cannot be told from this study."
            )
        paragraphs.append(text)
    if not paragraphs:
        return ["No run has finished yet."]
    note = "The lowest of many close values is partly chance"
    if table is None:
        return [*paragraphs, f"{note}."]
    owner = "the paper" if table.owner == "the paper" else "the table"
    where = f"here as in {owner}'s single runs" if table.runs == 1 else "here as there"
    return [*paragraphs, f"{_compared(table, study)} {note}, {where}."]


def _division(division: str, value: int) -> str:
    if division == "groups":
        return "1 group (layer norm)" if value == 1 else f"{value} groups"
    return "1 channel per group (instance norm)" if value == 1 else f"{value} channels per group"


def _incomplete(rows: list[Row]) -> list[str]:
    runs = {name for row in rows for name in row.runs}
    configurations = [same[0] for same in by_runs(rows)]
    bad = [row for row in configurations if row.status != "finished"]
    if not bad:
        return []
    statuses = sorted({row.status for row in bad})
    partly = any(row.error for row in bad)
    text = (
        f"Not everything finished: {len(bad)} of {len(configurations)} configurations "
        f"({len(runs)} runs in all) lack seeds ({', '.join(statuses)}); they are listed under "
        "Problems."
    )
    if partly:
        text += " Means of such a configuration are over the seeds that finished, which flatters it"
        text += " when the others diverged."
    return [text]


def _compared(table: Published, study: Study) -> str:
    owner = table.owner[0].upper() + table.owner[1:]
    text = f"{owner} measured {table.model} on {table.dataset}"
    if compares_in_size(table, study):
        return f"{text}, as this study does."
    return (
        f"{text}; this is {subject(study)}, so only the direction of a difference can be compared."
    )


def _change(found: Comparison) -> str:
    word = "rises" if found.difference > 0 else "falls"
    if found.clear is None:
        return f"{word} by {_gap(found)}"
    size = f"spread {_size(found.spread or 0.0)}"
    if found.clear:
        return f"{word} by {_gap(found)} ({size})"
    return f"{word} by {_gap(found)} (within twice the {size})"


def _row(rows: list[Row], norm: str, batch: int) -> Row | None:
    wanted = (norm, batch)
    found = (r for r in rows if (r.labels["norm"], r.labels["batch_per_worker"]) == wanted)
    return next(found, None)


def _first(rows: list[Row], spec: NormSpec) -> str:
    """The first norm of the same kind as `spec`; empty when there is none."""
    return next(iter(of_kind(spec, norm_names(rows))), "")


def _value(value: Estimate) -> str:
    spread = f" ± {_size(value.spread)}" if value.spread is not None else ""
    return f"{decimal_text(value.mean)}%{spread}"


def _gap(found: Comparison) -> str:
    """The difference of the two means as they are printed, without its sign."""
    if found.difference and not found.shown:
        return "less than 0.1 points"
    return _points(abs(found.shown))


def _points(value: float | Decimal) -> str:
    return f"{_size(value)} points"


def _size(value: float | Decimal) -> str:
    """One decimal, two where one would say 0.0."""
    return decimal_text(value, 1 if rounded(value, 1) or not value else 2)
