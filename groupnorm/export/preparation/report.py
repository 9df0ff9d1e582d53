"""What was done to each layer of a network before its export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groupnorm.printable import printable

BAKED = "weights baked"
FOLDED = "folded"
PLAIN = "plain layer"
SCALE = "scale folded"
CONDITIONED = "conditioned"
NOT_CONDITIONED = "not conditioned"
FORM = "form"
KEPT = "kept"
MODE = "evaluation mode"
DTYPE = "computed in"


@dataclass(frozen=True)
class PreparedLayer:
    """One change of a network, or a reason for none.

    Attributes:
        layer: its name in the network; "" for the network itself.
        action: what was done: one of this module's constants.
        detail: how, or why not.
    """

    layer: str
    action: str
    detail: str


@dataclass(frozen=True)
class NormRange:
    """The input of one norm on the calibration images, before and after conditioning.

    Attributes:
        layer: name of the norm.
        offset_before: the largest |mean| / sqrt(var + eps) of a sample's group.
        offset_after: see `offset_before`.
        largest_before: the largest |x|.
        largest_after: see `largest_before`.
    """

    layer: str
    offset_before: float
    offset_after: float
    largest_before: float
    largest_after: float


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did to a network.

    Attributes:
        to: the runtime.
        form: of the group norms.
        rows: what was done, in the order in which it was done.
        ranges: of each group norm that ran, in the order of the network; None without calibration
            images.
    """

    to: str
    form: str
    rows: tuple[PreparedLayer, ...]
    ranges: tuple[NormRange, ...] | None

    def of(self, action: str) -> dict[str, str]:
        """Layer -> detail of one action."""
        return {row.layer: row.detail for row in self.rows if row.action == action}

    def __str__(self) -> str:
        """Both tables as plain text."""
        rows = [("layer", "what was done", "how, or why not")]
        rows += [(row.layer or "(the network)", row.action, row.detail) for row in self.rows]
        text = f"prepared for {self.to}, group norms in the form {self.form!r}\n\n" + _table(rows)
        if self.ranges is None:
            return text
        ranges = [("input of", "|mean|/spread", "conditioned", "largest |x|", "conditioned")]
        ranges += [
            (
                one.layer or "(the network)",
                f"{one.offset_before:.3g}",
                f"{one.offset_after:.3g}",
                f"{one.largest_before:.3g}",
                f"{one.largest_after:.3g}",
            )
            for one in self.ranges
        ]
        return f"{text}\n\n{_table(ranges)}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
