"""What a study found: its first sentence, and the paragraphs at each batch size."""

from __future__ import annotations

from groupnorm.spec import NormSpec
from groupnorm.study.report.text.verdicts import (
    change,
    gap,
    less_than,
    percent,
    seeds_for_one_point,
    uncertainty,
    verdict,
)
from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import BATCH_NORM, GROUP_NORM, of_kind, short_names
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names


def headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: group norm against batch norm where both are there.

    Compared are the errors at the smallest batch size of a study by batch size, at the largest of
    one by norm. Without one of the two, the norm of the lowest error stands against batch norm, or
    against the next one; of a single norm the smallest batch size stands against the largest.
    """
    batches, norms = batch_sizes(rows), norm_names(rows)
    if not batches:
        return ""
    names = short_names(norms)
    if study.names:  # a short name might be the own name of another norm
        names = {norm: study.called(norm) for norm in norms}
    if len(norms) == 1 and len(batches) > 1:
        name = names[norms[0]]
        a, b = find_row(rows, norms[0], batches[-1]), find_row(rows, norms[0], batches[0])
        if not (a and b):
            return ""
        name_a, name_b = f"{name} at {batches[-1]}", f"{name} at {batches[0]} images per worker"
        return compared(rows, (name_a, a), (name_b, b), "")
    batch = batches[-1] if study.manifest["shows"] == "batch-size" else batches[0]
    here = {row.labels["norm"]: row for row in rows if row.labels["batch_per_worker"] == batch}
    where = f" at {batch} images per worker"
    pair, picked_of = _pair(here)
    if len(pair) < 2:
        results = [f"{names[n]} has an error of {percent(here[n].error)}" for n in pair]
        return f"{results[0]}{where}; there is nothing to compare it with." if results else ""
    sides = [(names[norm], here[norm]) for norm in pair]
    text = compared(rows, sides[0], sides[1], where)
    if picked_of:
        text += f" {names[pair[0]]} was picked for the lowest of {picked_of} errors, which chance "
        text += "favours."
    return text


def compared(rows: list[Row], a: tuple[str, Row], b: tuple[str, Row], where: str) -> str:
    """The comparison of two named rows as sentences: a finding, or what keeps it from being one."""
    (name_a, row_a), (name_b, row_b) = a, b
    if not (row_a.error and row_b.error):
        without = ", ".join(f"{name} ({row.status})" for name, row in (a, b) if not row.error)
        return f"{name_a} and {name_b} cannot be compared{where}: no result of {without}."
    if row_a.evaluated_on != row_b.evaluated_on:
        return (
            f"{name_a} and {name_b} are not compared{where}, because they were evaluated on "
            f"different images: {row_a.evaluated_on}, and {row_b.evaluated_on}."
        )
    found = row_difference(row_a, row_b)
    if found is None or found.pairs > 1:
        text = f"{verdict(name_a, name_b, found, where)}. {seeds_for_one_point(found)}"
        return text.rstrip()
    asked = max(row.asked for row in rows)
    seeds, remedy = "one seed", " `--seeds 3` trains three seeds of each configuration."
    if asked > 1:
        seeds, remedy = f"the one seed of {asked} that has finished for both", ""
    return (
        f"Nothing can be told from {seeds}: {name_a} has an error of "
        f"{decimal_text(row_a.error.mean)} % and {name_b} of {decimal_text(row_b.error.mean)} %"
        f"{where}, and how much of the difference is chance is not known.{remedy}"
    )


def _pair(here: dict[str, Row]) -> tuple[list[str], int]:
    """The two norms to compare first, and of how many errors the first one was picked, if it was.

    The errors are those of the norms that might have been the first one; 0 where there was nothing
    to pick from.
    """
    gn, bn = (next(iter(of_kind(spec, here)), None) for spec in (GROUP_NORM, BATCH_NORM))
    if gn and bn:
        return [gn, bn], 0
    ranked = sorted(
        (norm for norm in here if here[norm].error), key=lambda norm: here[norm].mean or 0.0
    )
    if not bn:
        return ranked[:2], len(ranked) if len(ranked) > 2 else 0
    others = [norm for norm in ranked if norm != bn]
    return [*others[:1], bn], len(others) if len(others) > 1 else 0


def at_batch(study: Study, rows: list[Row], batch: int) -> str:
    """The best norm at a batch size, and group norm against batch norm."""
    here = {
        row.labels["norm"]: row
        for row in rows
        if row.labels["batch_per_worker"] == batch and row.error
    }
    if not here:
        without = _without_result(study, rows, batch)
        return f"At {batch} images per worker no run has finished. {without}"
    ranked = sorted(here, key=lambda norm: here[norm].mean or 0.0)
    best, name = ranked[0], study.called(ranked[0])
    text = f"At {batch} images per worker {name} has the lowest error, {percent(here[best].error)}"
    if len(ranked) == 1:
        text += "; nothing else has finished there to compare it with."
        return f"{text} {_without_result(study, rows, batch)}".rstrip()
    second = ranked[1]
    text += f"{less_than(study.called(second), row_difference(here[best], here[second]))}."
    gn, bn = first_of(rows, GROUP_NORM), first_of(rows, BATCH_NORM)
    name_gn, name_bn = study.called(gn), study.called(bn)
    if gn in here and bn in here and {gn, bn} != {best, second}:
        found = row_difference(here[gn], here[bn])
        text += f" Group norm against batch norm: {verdict(name_gn, name_bn, found)}."
    if bn in here and here[bn].precise:
        text += f" With recomputed statistics {name_bn} reaches {percent(here[bn].precise)}"
        if gn in here:
            found = row_difference(here[gn], here[bn], recomputed_b=True)
            text += f"; against that, {verdict(name_gn, name_bn, found)}"
        text += "."
    return f"{text} {_without_result(study, rows, batch)}".rstrip()


def batch_norm_loss(study: Study, rows: list[Row], norm: str) -> str:
    """What a batch norm loses from the largest to the smallest batch, and where it lies."""
    batches, name = batch_sizes(rows), study.called(norm)
    large, small = find_row(rows, norm, batches[0]), find_row(rows, norm, batches[-1])
    missing = [
        f"at {batch} it has no result ({row.status if row else 'not asked for'})"
        for batch, row in ((batches[0], large), (batches[-1], small))
        if row is None or row.error is None
    ]
    if missing or not (large and small):
        return (
            f"What {name} loses from {batches[0]} to {batches[-1]} images per worker cannot be "
            f"given: {', '.join(missing)}."
        )
    found = row_difference(small, large)
    text = f"From {batches[0]} to {batches[-1]} images per worker the error of {name} "
    text += f"{change(found)} with running statistics"
    if not (large.precise and small.precise):
        return f"{text}."
    precise = row_difference(small, large, recomputed_a=True, recomputed_b=True)
    text += f" and {change(precise)} with recomputed statistics"
    if found and found.told_apart and found.mean > 0:
        text += _removed(small, large)
    return f"{text}."


def _removed(small: Row, large: Row) -> str:
    """How much of the loss from `large` to `small` recomputed statistics remove."""
    losses = [
        {seed: of_small[seed] - of_large[seed] for seed in of_small.keys() & of_large.keys()}
        for of_small, of_large in (
            (small.errors, large.errors),
            (small.precise_errors, large.precise_errors),
        )
    ]
    removed = paired_difference(*losses)
    if removed is None or removed.told_apart is None:
        return ""
    if not removed.told_apart:
        return (
            ". Whether recomputing removes a part of the loss cannot be told: the two losses are "
            f"{gap(removed)} apart ({uncertainty(removed)})"
        )
    word, size = ("less", removed) if removed.mean > 0 else ("more", removed.negated)
    return f": with these it loses {gap(removed)} {word} ({uncertainty(size)})"


def find_row(rows: list[Row], norm: str, batch: int) -> Row | None:
    """The row of a norm at a batch size."""
    wanted = (norm, batch)
    found = (r for r in rows if (r.labels["norm"], r.labels["batch_per_worker"]) == wanted)
    return next(found, None)


def first_of(rows: list[Row], spec: NormSpec) -> str:
    """The first norm of the same kind as `spec`; empty when there is none."""
    return next(iter(of_kind(spec, norm_names(rows))), "")


def _without_result(study: Study, rows: list[Row], batch: int) -> str:
    bad = [
        f"{study.called(row.labels['norm'])} ({row.status})"
        for row in rows
        if row.labels["batch_per_worker"] == batch and row.error is None
    ]
    return f"Without a result there: {', '.join(bad)}." if bad else ""
