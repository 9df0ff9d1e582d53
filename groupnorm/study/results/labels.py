"""What the report calls things: norms, configurations, and the numbers of a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from groupnorm.spec import NormSpec, NormSpecError
from groupnorm.study.results.estimates import Estimate, Interval, interval_digits
from groupnorm.study.results.format import decimal_text, rounded
from groupnorm.study.results.rows import ONCE, Row

NOTHING = "\u2013"
RECOMPUTED = "(recomputed statistics)"
BATCH_NORM, GROUP_NORM = NormSpec("bn"), NormSpec("gn")
_NO_NORM = NormSpec("none")


def of_kind(spec: NormSpec, norms: Iterable[str]) -> list[str]:
    """Those of `norms` that are of the same kind as `spec`, in their order."""
    return [norm for norm in norms if (found := _parsed(norm)) and found.same_kind(spec)]


def _parsed(norm: str) -> NormSpec | None:
    try:
        return NormSpec.parse(norm)
    except NormSpecError:
        return None


def short_names(norms: Iterable[str]) -> dict[str, str]:
    """A name for each spec, as short as the others allow: "GN" for the only group norm.

    What is no spec, as the norms of places "gn stage3=ln", keeps its text.
    """
    listed = list(norms)
    specs = {norm: spec for norm in listed if (spec := _parsed(norm))}
    plain = {n: s.kind.upper() + "+WS" * s.ws + "+NF" * s.nf for n, s in specs.items()}
    names = list(plain.values())
    return (
        {norm: norm for norm in listed}
        | {
            norm: name if names.count(name) == 1 or name == norm.upper() else norm
            for norm, name in plain.items()
        }
        | {norm: norm for norm, spec in specs.items() if spec == _NO_NORM}
    )


def read_names(texts: Iterable[str], norms: Sequence[str]) -> dict[str, str]:
    """Own names of norms, written as "gn:groups=8=GN (ours)".

    Args:
        texts: SPEC=NAME, where SPEC may have "=" of its own.
        norms: the norms of the study.

    Raises:
        ValueError: a SPEC that the study does not have, an empty name, or one name for two norms.
    """
    names: dict[str, str] = {}
    for text in texts:
        ends = [place for place, letter in enumerate(text) if letter == "="]
        found = [(spec, end) for end in ends if (spec := _canonical(text[:end])) in norms]
        if not found:
            raise ValueError(
                f"--label takes SPEC=NAME with a norm of this study ({', '.join(norms)}), "
                f"got {text!r}"
            )
        norm, end = found[0]
        name = " ".join(text[end + 1 :].split())
        if not name:
            raise ValueError(f"--label {text!r} has no name after {norm}=")
        if norm in names:
            raise ValueError(f"--label names {norm} twice, {names[norm]!r} and {name!r}")
        names[norm] = name
    shown = [names.get(norm, norm) for norm in norms]
    for name in names.values():
        if shown.count(name) > 1:
            raise ValueError(f"--label calls two norms {name!r}; no reader could tell them apart")
    return names


def _canonical(norm: str) -> str:
    spec = _parsed(norm)
    return norm if spec is None else str(spec)


def label_text(labels: dict[str, Any], tuned_over: str | None = None) -> str:
    """A configuration in words, e.g. "bn, 2 images per worker" or "bn, ..., base_lr 0.1"."""
    norm, batch = labels.get("norm", "?"), labels.get("batch_per_worker")
    text = f"{norm}, {batch} images per worker" if batch is not None else str(norm)
    return f"{text}, {tuned_over} {labels[tuned_over]}" if tuned_over else text


def label_of(same: Sequence[Row], tuned_over: str | None = None) -> str:
    """What the runs of some rows stand for, e.g. "gn, 32, 2 images per worker (trained once)"."""
    batches = _batches(same)
    text = label_text({**same[0].labels, "batch_per_worker": ", ".join(batches)}, tuned_over)
    return f"{text} {ONCE}" if len(batches) > 1 else text


def batches_text(same: Sequence[Row]) -> str:
    """The images per worker of rows that the same runs fill, e.g. "32, 8, 2 (trained once)"."""
    batches = _batches(same)
    return ", ".join(batches) + (f" {ONCE}" if len(batches) > 1 else "")


def row_text(row: Row, value: Estimate | None) -> str:
    """A cell such as "27.6 ± 0.3", "27.6 ± 0.3 (1 of 3 diverged)" or "diverged"."""
    if value is None:
        return row.status if row.status != "finished" else NOTHING
    text = estimate_text(value)
    if row.status == "finished":
        return text
    return f"{text} ({row.asked - row.finished} of {row.asked} {_plain_status(row)})"


def estimate_text(value: Estimate | None, digits: int = 1) -> str:
    """Mean and spread; a spread that would round to zero keeps one more digit."""
    if value is None:
        return NOTHING
    text = decimal_text(value.mean, digits)
    if value.spread is None:
        return text
    if value.spread > 0 and not rounded(value.spread, digits):
        digits += 1
    return f"{text} ± {decimal_text(value.spread, digits)}"


def interval_text(interval: Interval) -> str:
    """Both ends, e.g. "-0.3 to 1.7"; with more digits where one would hide width or sign."""
    low, high = interval
    digits = interval_digits(interval)
    return f"{decimal_text(low, digits)} to {decimal_text(high, digits)}"


def _batches(same: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row.labels["batch_per_worker"]) for row in same))


def _plain_status(row: Row) -> str:
    """The one status of all unfinished seeds, or "unfinished" for a mixture."""
    unfinished = row.asked - row.finished
    alone = (row.reason or "").startswith(f"{unfinished} of {row.asked} seeds {row.status}")
    return row.status if alone else "unfinished"
