"""What a study found: its first sentence, and the paragraphs at each batch size."""

from __future__ import annotations

from groupnorm.spec import NormSpec
from groupnorm.study.report.text.verdicts import (
    beyond_next,
    change,
    gap,
    mean_text,
    seeds_for_one_point,
    uncertainty,
    verdict,
)
from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.estimates import Difference, paired_difference
from groupnorm.study.results.labels import BATCH_NORM, GROUP_NORM, of_kind, short_names
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names
from groupnorm.study.results.wording import (
    best_word,
    is_better,
    noun,
    per_worker,
    plural,
    rank,
    value_text,
    with_article,
)
from groupnorm.training.metric import Metric


def headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: group norm against batch norm where both are there.

    Compared are the results at the smallest batch size of a study by batch size, at the largest of
    one by norm. Without one of the two, the best norm stands against batch norm, or against the
    next one; of a single norm the smallest batch size stands against the largest.
    """
    metric = study.metric
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
        name_a, name_b = f"{name} at {batches[-1]}", f"{name} at {per_worker(batches[0])}"
        return compared(study, rows, (name_a, a), (name_b, b), "")
    batch = batches[-1] if study.manifest["shows"] == "batch-size" else batches[0]
    here = {row.labels["norm"]: row for row in rows if row.labels["batch_per_worker"] == batch}
    where = f" at {per_worker(batch)}"
    pair, picked_of = _pair(here, metric)
    if len(pair) < 2:
        return alone(metric, [(names[norm], here[norm]) for norm in pair], where)
    sides = [(names[norm], here[norm]) for norm in pair]
    text = compared(study, rows, sides[0], sides[1], where)
    return f"{text}{picked(metric, names[pair[0]], picked_of)}" if picked_of else text


def alone(metric: Metric, found: list[tuple[str, Row]], where: str) -> str:
    """What the only row has; empty without any."""
    results = [
        f"{name} has {with_article(noun(metric))} of {mean_text(metric, row.result)}"
        for name, row in found
    ]
    return f"{results[0]}{where}; there is nothing to compare it with." if results else ""


def picked(metric: Metric, name: str, count: int) -> str:
    """Of what was picked for the best of so many results: what that means, as a sentence."""
    return (
        f" {name} was picked for the {best_word(metric)} of {count} {plural(metric)}, which chance "
        "favours."
    )


def compared(
    study: Study, rows: list[Row], a: tuple[str, Row], b: tuple[str, Row], where: str
) -> str:
    """The comparison of two named rows as sentences: a finding, or what keeps it from being one."""
    metric = study.metric
    (name_a, row_a), (name_b, row_b) = a, b
    if not (row_a.result and row_b.result):
        without = ", ".join(f"{name} ({row.status})" for name, row in (a, b) if not row.result)
        return f"{name_a} and {name_b} cannot be compared{where}: no result of {without}."
    if row_a.evaluated_on != row_b.evaluated_on:
        return (
            f"{name_a} and {name_b} are not compared{where}, because they were evaluated on "
            f"different images: {row_a.evaluated_on}, and {row_b.evaluated_on}."
        )
    found = row_difference(row_a, row_b)
    if found is None or found.pairs > 1:
        told = verdict(metric, name_a, name_b, found, where)
        by_chance = " Two pairs of seeds can agree by chance." if _of_two(found) else ""
        text = f"{told}.{by_chance} {seeds_for_one_point(metric, found)}"
        return text.rstrip()
    (seed,) = row_a.results.keys() & row_b.results.keys()
    asked = min(row_a.asked, row_b.asked)
    seeds, remedy = "one seed", " `--seeds 3` trains three seeds of each configuration."
    if asked > 1:
        seeds, remedy = f"the one seed of {asked} that has finished for both", ""
    elif max(row.asked for row in rows) > 1:
        seeds, remedy = "the one seed that both have", ""
    return (
        f"Nothing can be told from {seeds}: {name_a} has {with_article(noun(metric))} of "
        f"{value_text(metric, row_a.results[seed])} and {name_b} of "
        f"{value_text(metric, row_b.results[seed])}{where}, and how much of the difference is "
        f"chance is not known.{remedy}"
    )


def _of_two(found: Difference | None) -> bool:
    """Whether two pairs alone tell a difference: their interval may be narrow by chance."""
    return found is not None and found.pairs == 2 and bool(found.told_apart)


def _pair(here: dict[str, Row], metric: Metric) -> tuple[list[str], int]:
    """The two norms to compare first, and of how many results the first one was picked, if it was.

    The results are those of the norms that might have been the first one; 0 where there was nothing
    to pick from.
    """
    gn, bn = (next(iter(of_kind(spec, here)), None) for spec in (GROUP_NORM, BATCH_NORM))
    if gn and bn:
        return [gn, bn], 0
    ranked = best_first({norm: row for norm, row in here.items() if row.result}, metric)
    if not bn:
        return ranked[:2], len(ranked) if len(ranked) > 2 else 0
    others = [norm for norm in ranked if norm != bn]
    return [*others[:1], bn], len(others) if len(others) > 1 else 0


def best_first(rows: dict[str, Row], metric: Metric) -> list[str]:
    """The names of rows that have a result, the best one's first."""
    return sorted(rows, key=lambda name: rank(metric, rows[name].mean or 0.0))


def at_batch(study: Study, rows: list[Row], batch: int) -> str:
    """The best norm at a batch size, and group norm against batch norm."""
    metric = study.metric
    here = {
        row.labels["norm"]: row
        for row in rows
        if row.labels["batch_per_worker"] == batch and row.result
    }
    if not here:
        without = _without_result(study, rows, batch)
        return f"At {per_worker(batch)} no run has finished. {without}"
    ranked = best_first(here, metric)
    best, name = ranked[0], study.called(ranked[0])
    text = f"At {per_worker(batch)} {name} has the {best_word(metric)} {noun(metric)}, "
    text += mean_text(metric, here[best].result)
    if len(ranked) == 1:
        text += "; nothing else has finished there to compare it with."
        return f"{text} {_without_result(study, rows, batch)}".rstrip()
    second = ranked[1]
    found = row_difference(here[best], here[second])
    text += f"{beyond_next(metric, study.called(second), found)}."
    gn, bn = first_of(rows, GROUP_NORM), first_of(rows, BATCH_NORM)
    name_gn, name_bn = study.called(gn), study.called(bn)
    if gn in here and bn in here and {gn, bn} != {best, second}:
        found = row_difference(here[gn], here[bn])
        text += f" Group norm against batch norm: {verdict(metric, name_gn, name_bn, found)}."
    if bn in here and here[bn].precise:
        text += " With recomputed statistics "
        text += f"{name_bn} reaches {mean_text(metric, here[bn].precise)}"
        if gn in here:
            found = row_difference(here[gn], here[bn], recomputed_b=True)
            text += f"; against that, {verdict(metric, name_gn, name_bn, found)}"
        text += "."
    return f"{text} {_without_result(study, rows, batch)}".rstrip()


def batch_norm_loss(study: Study, rows: list[Row], norm: str) -> str:
    """What a batch norm loses from the largest to the smallest batch, and where it lies."""
    batches, name, metric = batch_sizes(rows), study.called(norm), study.metric
    large, small = find_row(rows, norm, batches[0]), find_row(rows, norm, batches[-1])
    missing = [
        f"at {batch} it has no result ({row.status if row else 'not asked for'})"
        for batch, row in ((batches[0], large), (batches[-1], small))
        if row is None or row.result is None
    ]
    if missing or not (large and small):
        return (
            f"What {name} loses from {batches[0]} to {per_worker(batches[-1])} cannot be "
            f"given: {', '.join(missing)}."
        )
    found = row_difference(small, large)
    text = f"From {batches[0]} to {per_worker(batches[-1])} the {noun(metric)} of {name} "
    text += f"{change(metric, found)} with running statistics"
    if not (large.precise and small.precise):
        return f"{text}."
    precise = row_difference(small, large, recomputed_a=True, recomputed_b=True)
    text += f" and {change(metric, precise)} with recomputed statistics"
    if found and found.told_apart and is_better(metric, -found.mean):
        text += _removed(metric, small, large)
    return f"{text}."


def _removed(metric: Metric, small: Row, large: Row) -> str:
    """How much of the loss from `large` to `small` recomputed statistics remove."""
    losses = [
        {
            seed: rank(metric, of_small[seed] - of_large[seed])
            for seed in of_small.keys() & of_large.keys()
        }
        for of_small, of_large in (
            (small.results, large.results),
            (small.precise_results, large.precise_results),
        )
    ]
    removed = paired_difference(*losses)
    if removed is None or removed.told_apart is None:
        return ""
    if not removed.told_apart:
        return (
            ". Whether recomputing removes a part of the loss cannot be told: the two losses are "
            f"{gap(metric, removed)} apart ({uncertainty(removed)})"
        )
    word, size = ("less", removed) if removed.mean > 0 else ("more", removed.negated)
    return f": with these it loses {gap(metric, removed)} {word} ({uncertainty(size)})"


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
        if row.labels["batch_per_worker"] == batch and row.result is None
    ]
    return f"Without a result there: {', '.join(bad)}." if bad else ""
