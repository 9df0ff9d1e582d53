"""The words of a report, made from the numbers.

A difference is called clear only when it exceeds twice the larger of both spreads over seeds.
Without a spread nothing is called clear, and the text says so.
"""

from __future__ import annotations

from groupnorm.study import published
from groupnorm.study.figure_style import kind_of
from groupnorm.study.figures import DIVISIONS, batch_sizes, norm_names, subject
from groupnorm.study.statistics import CLEAR, Comparison, Estimate, Row, Study, compare

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


def describe(study: Study, rows: list[Row]) -> list[str]:
    """The report's opening paragraphs, plain text."""
    paragraphs = [_what_was_measured(study, rows), _how_to_read(rows)]
    if study.manifest["study"] == "groups":
        return [*paragraphs, *_groups_text(study, rows), *_incomplete(rows)]
    batches = batch_sizes(rows)
    ends = dict.fromkeys((*batches[:1], *batches[-1:]))
    paragraphs += [_at_batch(rows, batch) for batch in ends]
    if len(batches) > 1:
        paragraphs += [_batch_norm_loss(rows, norm) for norm in norm_names(rows) if _is_bn(norm)]
        paragraphs.append(_paper_by_batch(study, rows))
    elif batches:
        paragraphs.append(_paper_by_norm(study, rows))
    return [paragraph for paragraph in [*paragraphs, *_incomplete(rows)] if paragraph]


def verdict(name_a: str, name_b: str, found: Comparison) -> str:
    """One comparison in words; `found` is a minus b, so a negative difference has `a` ahead."""
    ahead, behind = (name_a, name_b) if found.difference < 0 else (name_b, name_a)
    gap = _points(abs(found.difference))
    if found.difference == 0:
        return f"{name_a} and {name_b} have the same error"
    if found.spread is None or found.clear is None:
        return f"{ahead} is {gap} below {behind}, with no spread to judge this by"
    if found.clear:
        size = "while seeds do not differ at all"
        if found.spread:
            times = abs(found.difference) / found.spread
            count = f"{times:.0f}" if times >= 10 else f"{times:.1f}"
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
        counts[0] = f"the first {max(limits):,} of {counts[0]}"
    size = f" ({', '.join(counts)})" if counts else ""
    batches = batch_sizes(rows)
    count = len(norm_names(rows))
    kinds = f"{count} normalization{'s' if count != 1 else ''}"
    if study.manifest["study"] == "groups":
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


def _how_to_read(rows: list[Row]) -> str:
    text = "The error is the median of the last 5 epochs, as in the paper, in percent"
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
    spreads = table.data["bn_spread"] + table.data["gn:groups=8_spread"]
    return (
        f"{text}. There is no spread to compare with, because no configuration has two finished "
        "seeds: differences of the size that seeds usually make cannot be told apart from chance. "
        f"(In a published five-seed sweep of ResNet-20 on CIFAR-10, {table.source.paper}, that "
        f"standard deviation was {min(spreads)} to {max(spreads)} points.)"
    )


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
    gn, bn = _first(rows, "gn"), _first(rows, "bn")
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
    removed = found.difference - precise.difference
    if found.difference > 0 and found.clear is not False:
        share = 100 * removed / found.difference
        if removed > 0:
            text += (
                f": recomputing removes {_points(removed)}, {share:.0f}% of the loss. That part "
                "lies in the evaluation statistics, the rest in the training itself"
            )
        else:
            text += ": recomputing removes none of the loss"
    return f"{text}."


def _paper_by_batch(study: Study, rows: list[Row]) -> str:
    table = published.load("imagenet-batch-size")
    sizes: list[int] = table.data["batch_per_worker"]
    gn, bn = _first(rows, "gn"), _first(rows, "bn")
    common = [batch for batch in batch_sizes(rows) if batch in sizes]
    if not (gn and bn and common):
        return ""
    parts = []
    for batch in dict.fromkeys((common[0], common[-1])):
        place = sizes.index(batch)
        difference = table.data["gn"][place] - table.data["bn"][place]
        parts.append(_direction(rows, gn, bn, batch, difference))
    return f"{_compared(study)} {' '.join(parts)} {table.note}"


def _paper_by_norm(study: Study, rows: list[Row]) -> str:
    table = published.load("imagenet-norms")
    errors = dict(zip(table.data["norm"], table.data["error"], strict=True))
    bn = _first(rows, "bn")
    batch = batch_sizes(rows)[0]
    parts = [
        _direction(rows, norm, bn, batch, errors[kind] - errors["bn"])
        for kind in ("gn", "ln", "in")
        if bn and (norm := _first(rows, kind))
    ]
    return f"{_compared(study)} {' '.join(parts)}" if parts else ""


def _direction(rows: list[Row], norm: str, bn: str, batch: int, paper: float) -> str:
    """Does `norm` against `bn` point the way the paper's difference (norm minus BN) does?"""
    side = "below" if paper < 0 else "above"
    name = (kind_of(norm) or norm).upper()
    text = f"At {batch} images the paper has {name} {_points(abs(paper))} {side} BN"
    ours, theirs = _row(rows, norm, batch), _row(rows, bn, batch)
    if not (ours and theirs and ours.error and theirs.error):
        return f"{text}; here one of the two has no result."
    found = compare(ours.error, theirs.error)
    here = "below" if found.difference < 0 else "above"
    text += f"; here it is {_points(abs(found.difference))} {here}"
    same = (found.difference < 0) == (paper < 0)
    if found.clear:
        return f"{text}, {'which agrees' if same else 'which disagrees'} in direction."
    if found.clear is None:
        way = "the same way" if same else "the other way"
        return f"{text}: {way}, but without a spread to judge it by."
    return f"{text}, too little against the spread to agree or disagree."


def _groups_text(study: Study, rows: list[Row]) -> list[str]:
    table = published.load("imagenet-groups")
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
        name = {value: _division(division, value) for value in (*found, *_PAPER_VALUES)}
        text = f"By {words}, {name[best]} has the lowest error, {_value(found[best])}"
        if best != worst:
            text += f", and {name[worst]} the highest, {_value(found[worst])}: "
            text += verdict(name[best], name[worst], compare(found[best], found[worst]))
        text += "."
        if 1 in found and best != 1 and worst != 1:
            found_1 = compare(found[best], found[1])
            text += f" The extreme: {verdict(name[best], name[1], found_1)}."
        errors = dict(
            zip(table.data[division]["value"], table.data[division]["error"], strict=True)
        )
        top = min(errors, key=lambda value: errors[value])
        text += f" In the paper {name[top]} is best with {errors[top]}, {name[1]} has {errors[1]}."
        if best == 1:
            text += " Here, other than there, the extreme has the lowest error."
        elif 1 in found:
            text += (
                " That the extreme is worse than the best division is seen here too."
                if compare(found[1], found[best]).clear
                else " Whether the extreme is worse cannot be told from this study."
            )
        paragraphs.append(text)
    if not paragraphs:
        return ["No run has finished yet."]
    note = "The lowest of many close values is partly chance, here as in the paper's single runs."
    return [*paragraphs, f"{_compared(study)} {note}"]


_PAPER_VALUES = (64, 32, 16, 8, 4, 2, 1)


def _division(division: str, value: int) -> str:
    if division == "groups":
        return "1 group (layer norm)" if value == 1 else f"{value} groups"
    return "1 channel per group (instance norm)" if value == 1 else f"{value} channels per group"


def _incomplete(rows: list[Row]) -> list[str]:
    runs = {name for row in rows for name in row.runs}
    bad = [row for row in rows if row.status != "finished"]
    if not bad:
        return []
    statuses = sorted({row.status for row in bad})
    partly = any(row.error for row in bad)
    text = (
        f"Not everything finished: {len(bad)} of {len(rows)} configurations ({len(runs)} runs in "
        f"all) lack seeds ({', '.join(statuses)}); they are listed under Problems."
    )
    if partly:
        text += " Means of such a configuration are over the seeds that finished, which flatters it"
        text += " when the others diverged."
    return [text]


def _compared(study: Study) -> str:
    return (
        f"The paper measured ResNet-50 on ImageNet; this is {subject(study)}, so only the "
        "direction of a difference can be compared."
    )


def _change(found: Comparison) -> str:
    word = "rises" if found.difference > 0 else "falls"
    if found.clear is None:
        return f"{word} by {_points(abs(found.difference))}"
    size = f"spread {_size(found.spread or 0.0)}"
    if found.clear:
        return f"{word} by {_points(abs(found.difference))} ({size})"
    return f"{word} by {_points(abs(found.difference))} (within twice the {size})"


def _row(rows: list[Row], norm: str, batch: int) -> Row | None:
    wanted = (norm, batch)
    found = (r for r in rows if (r.labels["norm"], r.labels["batch_per_worker"]) == wanted)
    return next(found, None)


def _first(rows: list[Row], kind: str) -> str:
    """The first norm of a kind, without weight standardization; empty when there is none."""
    return next((norm for norm in norm_names(rows) if kind_of(norm) == kind), "")


def _is_bn(norm: str) -> bool:
    return kind_of(norm) == "bn"


def _value(value: Estimate) -> str:
    return f"{value.mean:.1f}%" + (f" ± {_size(value.spread)}" if value.spread is not None else "")


def _points(value: float) -> str:
    return f"{_size(value)} points"


def _size(value: float) -> str:
    """One decimal, two where one would say 0.0."""
    return f"{value:.1f}" if value >= 0.05 or value == 0 else f"{value:.2f}"
