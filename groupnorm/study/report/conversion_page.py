"""What a conversion leaves beside its weights: a page in Markdown and the figure of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from groupnorm.counts import counted
from groupnorm.printable import printable
from groupnorm.study.report.figures.layers import layers_figure
from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.markup import MarkedTable, escape_markdown, markdown
from groupnorm.study.results.format import decimal_text

if TYPE_CHECKING:
    from groupnorm.conversion import ConversionReport
    from groupnorm.run.conversion.comparison import Comparison

HEADER = ("", "before", "after")


def comparison_rows(found: Comparison) -> list[tuple[str, str, str]]:
    """What a network does before and after its conversion: what it is, and both values."""
    rows = []
    if found.agreement is not None and found.scores is not None:
        agreement = f"{decimal_text(100 * found.agreement)} %"
        shape = ", ".join(["N", *map(str, found.scores)])
        what = f"same largest of {found.scores[0]:,} outputs"
        if len(found.scores) > 1:
            what = f"same largest of {found.scores[0]:,} channels at each position"
        rows.append((f"{what} ({shape})", "100.0 %", agreement))
    if found.accuracy is not None:
        before, after = (f"{decimal_text(100 * share)} %" for share in found.accuracy)
        rows.append(("accuracy (top-1)", before, after))
    if found.output_error is not None:
        rows.append(("held-out output error", "0", f"{found.output_error:.2g}"))
    if found.largest_difference is not None:
        what = f"largest difference, of values up to {found.largest_output:.3g}"
        rows.append((what, "0", f"{found.largest_difference:.3g}"))
    times = [f"{decimal_text(value, 2)} ms" for value in found.milliseconds]
    rows.append(("time per image, fastest batch", times[0], times[1]))
    for what, (before_count, after_count) in (
        ("parameters", found.parameters), ("values in buffers", found.buffers),
    ):  # fmt: skip
        rows.append((what, f"{before_count:,}", f"{after_count:,}"))
    return rows


def comparison_notes(found: Comparison) -> list[str]:
    """What a reader of the table should know, in sentences."""
    notes = [
        f"Measured on {counted(found.images, 'image')} that had no part in the conversion: those "
        "held out."
    ]
    if found.output_error is None:
        notes.append("The outputs of the two networks cannot be compared value by value.")
    else:
        notes.append(
            "The held-out output error is the sum of squares of what differs in the outputs, over "
            "that of the outputs before about the mean of each channel. The calibration output "
            "error is the same on a quarter of the images to calibrate on, to which no values were "
            "fitted, but by which groups and refits were chosen."
        )
    if found.agreement is None:
        notes.append(
            "The output is neither a tensor (N, K), (N, K, H, W) or (N, K, D, H, W) with the "
            "scores of K classes nor a dict with one under out or logits: there is no class to "
            "compare. --network MODULE:FUNCTION can name a function that wraps the network and "
            "returns the scores alone."
        )
    elif found.scores is not None and len(found.scores) > 1:
        notes.append(
            f"The output has {found.scores[0]:,} channels at each position; the largest is the "
            "class there, where the network gives a class at every pixel."
        )
    else:
        notes.append(
            "The largest output of an image is its class, where the network gives classes."
        )
    return notes


def conversion_files(
    report: ConversionReport, found: Comparison, about: Mapping[str, str], code: Sequence[str]
) -> dict[str, bytes]:
    """The files `report.md` and `layers.svg`, `.pdf`, `.png`.

    Args:
        report: of the conversion.
        found: before and after.
        about: what was converted, and how: word -> value.
        code: lines of Python that load the result.
    """
    figure = layers_figure(report)
    drawn = {f"{figure.name}.{kind}": data for kind, data in render_files(figure).items()}
    rows = comparison_rows(found)
    tables = [MarkedTable("", " ".join(comparison_notes(found)).rstrip("."), HEADER, rows)]
    lines = [
        f"# {escape_markdown(report.summary())}",
        "",
        *(f"- {word}: {escape_markdown(printable(text))}" for word, text in about.items()),
        "",
        "## Before and after",
        "",
        markdown(tables),
        "## Layers",
        "",
        f"![{figure.title}]({figure.name}.svg)",
        "",
        escape_markdown(figure.caption),
        "",
        "```text",
        str(report),
        "```",
        "",
        "## Load it",
        "",
        "```python",
        *code,
        "```",
        "",
    ]
    return {"report.md": "\n".join(lines).encode("utf-8", "backslashreplace"), **drawn}
