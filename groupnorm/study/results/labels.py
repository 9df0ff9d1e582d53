"""What the report calls things: norms, configurations, and the numbers of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from groupnorm.spec import NormSpec, NormSpecError
from groupnorm.study.results.estimates import Estimate, Interval, interval_digits
from groupnorm.study.results.format import decimal_text, rounded
from groupnorm.study.results.rows import ONCE, Row, Study
from groupnorm.study.results.wording import per_worker, with_article

NOTHING = "\u2013"
RECOMPUTED = "(recomputed statistics)"
BATCH_NORM, GROUP_NORM = NormSpec("bn"), NormSpec("gn")
FIRST_LABELS_OF_CLIPS = ("norm", "frames", "stride", "batch_per_worker")
"""What every row of a study of clips is labelled with; further labels come after them."""
_NO_NORM = NormSpec("none")


def of_kind(spec: NormSpec, norms: Iterable[str]) -> list[str]:
    """Those of `norms` that are of the same kind as `spec`, in their order."""
    return [norm for norm in norms if (found := _parsed(norm)) and found.same_kind(spec)]


def _parsed(norm: str) -> NormSpec | None:
    try:
        return NormSpec.parse(norm)
    except NormSpecError:
        return None


def is_one(spec: NormSpec, norm: str) -> bool:
    """Whether a norm is of the kind of `spec`, with weight standardization or without."""
    found = _parsed(norm)
    return found is not None and found.same_kind(replace(spec, ws=found.ws))


def standardizes_weights(norm: str) -> bool:
    """Whether a norm comes with weight standardization."""
    spec = _parsed(norm)
    return spec is not None and spec.ws


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


def read_names(texts: Iterable[str], norms: Sequence[str], what: str = "norm") -> dict[str, str]:
    """Own names of norms, written as "gn:groups=8=GN (ours)", or of arms.

    Args:
        texts: SPEC=NAME, where SPEC may have "=" of its own.
        norms: the norms, or the arms, of the study.
        what: which of the two they are.

    Raises:
        ValueError: a SPEC that the study does not have, an empty name, or one name for two norms.
    """
    names: dict[str, str] = {}
    for text in texts:
        ends = [place for place, letter in enumerate(text) if letter == "="]
        found = [(spec, end) for end in ends if (spec := _canonical(text[:end])) in norms]
        if not found:
            raise ValueError(
                f"--label takes SPEC=NAME with {with_article(what)} of this study "
                f"({', '.join(norms)}), "
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
            raise ValueError(f"--label calls two {what}s {name!r}; no reader could tell them apart")
    return names


def _canonical(norm: str) -> str:
    spec = _parsed(norm)
    return norm if spec is None else str(spec)


def label_text(labels: dict[str, Any], tuned_over: str | None = None) -> str:
    """A configuration in words, e.g. "bn, 2 images per worker" or "bn, ..., base_lr 0.1".

    Of clips "bn, 8 frames at stride 2, 4 clips per worker". Labels without images per worker stand
    one after the other.
    """
    if "frames" in labels:
        text = (
            f"{labels['norm']}, {clip_text(labels)}, {labels['batch_per_worker']} clips per worker"
        )
        known = (*FIRST_LABELS_OF_CLIPS, tuned_over)
        further = [str(labels[name]) for name in labels if name not in known]
        text = ", ".join([text, *further])
    elif "batch_per_worker" in labels:
        name = labels.get("norm", labels.get("arm", "?"))
        text = f"{name}, {per_worker(labels['batch_per_worker'])}"
    else:
        text = ", ".join(str(value) for name, value in labels.items() if name != tuned_over)
    return f"{text}, {tuned_over} {labels[tuned_over]}" if tuned_over else text


def label_of(same: Sequence[Row], tuned_over: str | None = None) -> str:
    """What the runs of some rows stand for, e.g. "gn, 32, 2 images per worker (trained once)"."""
    if "batch_per_worker" not in same[0].labels:
        return "; ".join(dict.fromkeys(label_text(row.labels, tuned_over) for row in same))
    batches = _batches(same)
    text = label_text({**same[0].labels, "batch_per_worker": ", ".join(batches)}, tuned_over)
    return f"{text} {ONCE}" if len(batches) > 1 else text


def batches_text(same: Sequence[Row]) -> str:
    """The images per worker of rows that the same runs fill, e.g. "32, 8, 2 (trained once)"."""
    batches = _batches(same)
    return ", ".join(batches) + (f" {ONCE}" if len(batches) > 1 else "")


def clip_text(labels: Mapping[str, Any]) -> str:
    """The length of a clip in words, e.g. "8 frames at stride 2"."""
    return f"{labels['frames']} frames at stride {labels['stride']}"


def label_columns(study: Study) -> list[str]:
    """The headings above what a table calls its rows: norm and batch size, or a study's labels.

    Of clips the frames stand between the two.
    """
    if study.of_clips:
        return ["norm", "frames", "clips per worker", *varied_labels(study)]
    if study.axis == "norm":
        return ["norm", heading("batch_per_worker")]
    return [heading(name) for name in label_names(study)]


def heading(label: str) -> str:
    """What a table calls a label."""
    return "images per worker" if label == "batch_per_worker" else label


def label_names(study: Study) -> list[str]:
    """The norm or the arm, and the further labels of a study, in their order."""
    every = [cell.labels for cell in study.cells]
    every += [skipped["labels"] for skipped in study.manifest.get("skipped", [])]
    names = dict.fromkeys(name for labels in ({study.axis: ""}, *every) for name in labels)
    return [name for name in names if name != study.manifest.get("tuned_over")]


def group_labels(study: Study) -> list[str]:
    """The labels besides the norm or the arm: only rows that agree in them are compared."""
    if study.of_clips:
        further = [one for one in label_names(study) if one not in FIRST_LABELS_OF_CLIPS]
        return [*FIRST_LABELS_OF_CLIPS[1:], *further]
    return ["batch_per_worker"] if study.axis == "norm" else label_names(study)[1:]


def varied_labels(study: Study) -> list[str]:
    """The further labels of a study of clips in which its rows differ."""
    found: dict[str, set[Any]] = {}
    for cell in study.cells:
        for name in group_labels(study)[3:]:
            found.setdefault(name, set()).add(cell.labels.get(name))
    return [name for name, values in found.items() if len(values) > 1]


def label_cells(study: Study, same: Sequence[Row]) -> list[str]:
    """What stands below `label_columns` for the rows that the same runs fill."""
    if study.axis == "norm":
        names = ", ".join(dict.fromkeys(study.label(row.labels) for row in same))
        if not study.of_clips:
            return [names, batches_text(same)]
        clips = dict.fromkeys(clip_text(row.labels).replace(" frames", "") for row in same)
        further = [_values(study, same, name) for name in varied_labels(study)]
        return [names, ", ".join(clips), batches_text(same), *further]
    return [_values(study, same, name) for name in label_names(study)]


def _values(study: Study, same: Sequence[Row], name: str) -> str:
    """The values of a label that some rows have."""
    return ", ".join(dict.fromkeys(_label(study, row.labels, name) for row in same))


def row_name(study: Study, row: Row) -> str:
    """What figures and sentences call a row: its norm, or its arm, and in brackets other labels.

    Of clips all labels stand one after the other.
    """
    if study.of_clips:
        named = {**row.labels, study.axis: study.label(row.labels)}
        return label_text(named, study.manifest.get("tuned_over"))
    if study.axis == "norm":
        return study.label(row.labels)
    arm, *others = label_cells(study, [row])
    return f"{arm} ({', '.join(others)})" if others else arm


def _label(study: Study, labels: dict[str, Any], name: str) -> str:
    value = str(labels.get(name, NOTHING))
    return study.called(value) if name == study.axis else value


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


def number_text(value: float | None, digits: int) -> str:
    """A number with so many decimals, or what stands for none."""
    return NOTHING if value is None else decimal_text(value, digits)


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
