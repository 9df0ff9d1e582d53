"""What a conversion did to each layer: a table for readers, JSON for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from groupnorm.counts import counted
from groupnorm.files import write_atomic
from groupnorm.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

NONE_STORED = "none stored"
"""`ConvertedLayer.statistics` of a norm that takes each sample's own."""
_VERSION = 2


@dataclass(frozen=True)
class ConvertedLayer:
    """One layer that is, or would be, replaced.

    Attributes:
        name: in the network.
        aliases: its other names, where it is used in several places.
        source: the class that it had.
        target: the class that it has.
        channels: C.
        groups: of the new layer; 0 for one without groups.
        source_eps: added to the variance before.
        eps: added to the variance now.
        affine: what became of scale and shift.
        statistics: what became of the stored statistics.
        trainable: whether scale or shift require a gradient, as before.
        error: of the layer's output, the sum of squares of what differs over that about the mean of
            each channel, on data that no values were fitted to (the number of groups, and whether
            to refit, are chosen on them); None where it was not measured.
        in_front: what takes scale and offset of each channel before the norm: the name of a layer,
            "itself" for the new layer, or "" where there are none.
        refitted: whether the layer in front was fitted to give what it gave before the conversion.
        offset_share: part of a group's variance that these offsets make. Near 1 the layer hardly
            normalizes any more. None where there are none.
        hybrid: share of the group's statistics in the layer's; 1 for a group norm.
        note: what a reader should know about this layer; empty as a rule.
    """

    name: str
    aliases: list[str]
    source: str
    target: str
    channels: int
    groups: int
    source_eps: float
    eps: float
    affine: str
    statistics: str
    trainable: bool
    error: float | None
    note: str
    in_front: str = ""
    refitted: bool = False
    offset_share: float | None = None
    hybrid: float = 1.0


@dataclass(frozen=True)
class SkippedLayer:
    """One norm that is left as it is.

    Attributes:
        name: in the network.
        source: its class.
        reason: why.
    """

    name: str
    source: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did to a network, or what `preview` says that it would do.

    `print` shows it as plain text, `rich.print` as a table with colors.

    Attributes:
        to: the norm asked for.
        layers: the layers replaced, in the network's order.
        skipped: the norms left as they are.
        new_keys: of the state dict, which it did not have before.
        removed_keys: of the state dict, which it has no more.
        output_error: as `ConvertedLayer.error`, of the network's output, for `convert`; for
            `freeze_groups` on all batches. None where it was not measured, the outputs have not the
            same shapes, or those of the network before do not vary.
        notes: on the conversion as a whole, in sentences.
    """

    to: str
    layers: list[ConvertedLayer]
    skipped: list[SkippedLayer]
    new_keys: list[str]
    removed_keys: list[str]
    output_error: float | None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The table as plain text."""
        head, *rows = self._rows()
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join([self.summary(), "", *(lines if rows else ()), *self._lines_below()])

    def __rich__(self) -> Table:
        """The table for a terminal with colors."""
        from rich.table import Table

        head, *rows = self._rows()
        caption = "\n".join(self._lines_below()).strip() or None
        table = Table(*head, title=self.summary(), caption=caption, caption_justify="left")
        for row in rows:
            table.add_row(*row)
        return table

    def summary(self) -> str:
        """One sentence: how many layers, to what, how many are left."""
        left = f", {len(self.skipped)} left as they are" if self.skipped else ""
        layers = counted(len(self.layers), "layer")
        error = (
            "" if self.output_error is None
            else f"; calibration output error {self.output_error:.2g}"
        )  # fmt: skip
        return f"{layers} to {self.to}{left}{error}"

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("layer", "from", "to", "channels", "groups", "eps", "affine", "statistics",
                "in front", "refitted", "error", "offsets", "note")  # fmt: skip
        rows = [
            (
                printable(", ".join([layer.name or "(the network)", *layer.aliases])),
                layer.source,
                layer.target,
                str(layer.channels),
                str(layer.groups) if layer.groups else "-",
                f"{layer.eps:g}",
                layer.affine,
                layer.statistics,
                printable(layer.in_front),
                "yes" if layer.refitted else "",
                "" if layer.error is None else f"{layer.error:.2g}",
                "" if layer.offset_share is None else f"{layer.offset_share:.0%}",
                layer.note,
            )
            for layer in self.layers
        ]
        used = [i for i in range(len(head)) if any(row[i] for row in rows)]
        return [tuple(row[i] for i in used) for row in (head, *rows)]

    def _lines_below(self) -> list[str]:
        """What stands below the table: notes, and the norms left as they are."""
        notes = ["", *map(printable, self.notes)] if self.notes else []
        return [*notes, *self._skipped_lines()]

    def _skipped_lines(self) -> list[str]:
        """The norms left as they are, those of one reason together."""
        by_reason: dict[str, list[str]] = {}
        for layer in self.skipped:
            by_reason.setdefault(f"{layer.source}: {layer.reason}", []).append(layer.name)
        lines = []
        for reason, names in by_reason.items():
            shown = ", ".join(name or "(the network)" for name in names)
            lines.append(printable(f"  {len(names)} x {reason} ({shown})"))
        return ["", "Left as they are:", *lines] if lines else []

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values; `from_dict` reads it back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConversionReport:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        values = dict(values)
        version = values.pop("version", None)
        if version != _VERSION:
            raise ValueError(f"a report of a conversion has version {_VERSION}, got {version!r}")
        _check_fields(cls, values)
        return cls(
            to=values["to"],
            layers=[ConvertedLayer(**_checked(ConvertedLayer, v)) for v in values["layers"]],
            skipped=[SkippedLayer(**_checked(SkippedLayer, v)) for v in values["skipped"]],
            new_keys=values["new_keys"],
            removed_keys=values["removed_keys"],
            output_error=values["output_error"],
            notes=values["notes"],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, the whole file or none.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConversionReport:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds no report of a conversion.
            OSError: it cannot be read.
        """
        try:
            values = json.loads(Path(path).read_bytes())
            if not isinstance(values, dict):
                raise ValueError(f"expected an object, got {type(values).__name__}")
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path} holds no report of a conversion: {error}") from None


def raise_for_nothing(what: str, skipped: list[SkippedLayer]) -> None:
    """Raise ValueError with the reasons why no layer is changed."""
    reasons = sorted({f"{row.source}: {row.reason}" for row in skipped})
    found = "; ".join(reasons) if reasons else "The network has no norm layers"
    raise ValueError(f"0 layers {what}. {found}")


def _checked(kind: type[Any], values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    _check_fields(kind, values)
    return values


_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,), int: (int,), float: (int, float), bool: (bool,),
    float | None: (int, float, type(None)),
}  # fmt: skip


def _check_fields(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Check the names and types of a dataclass's values, which a file has."""
    known = {field.name for field in fields(kind)}
    if known != set(values):
        raise ValueError(f"expected the fields {sorted(known)}, got {sorted(map(str, values))}")
    for name, hint in get_type_hints(kind).items():
        value = values[name]
        if hint in _JSON_TYPES:
            fits = isinstance(value, _JSON_TYPES[hint]) and (
                hint is bool or not isinstance(value, bool)
            )
        else:
            strings = hint == list[str]
            fits = isinstance(value, list) and (
                not strings or all(isinstance(one, str) for one in value)
            )
        if not fits:
            raise ValueError(f"{name} has a value that does not fit: {value!r}")
