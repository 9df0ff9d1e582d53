"""What became of an export: the report beside each written file."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.network import Array, Check, Expected
from groupnorm.export.gate.norms import NormCheck
from groupnorm.files import write_atomic

FORMAT = 2
_KEPT_DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool",
)  # fmt: skip
MOST_KEPT = 2**24  # bytes of inputs and outputs that a report keeps for a later check
_MOST_READ = 2**28


@dataclass(frozen=True)
class ExportReport:
    """How a network was exported, and how far its file is from the network in float64.

    Attributes:
        runtime: name of the target.
        files: name -> SHA-256, the one to open first; of a folder that of its files' names and
            contents.
        dtype: of the network.
        form: of its group norms.
        refused_forms: forms that were tried before, and what was wrong with what they gave.
        dynamic: axes that may change.
        prepared: what was folded or replaced: layer, what, detail.
        ranges: of each norm `|mean| / spread` and `|x|` before and after conditioning, with images.
        checks: of the whole network; none where it was not run.
        norms: of each norm by itself, on the example's input and on the worst one; none where they
            were not run.
        not_run: why the file was not run, or None.
        tolerance: what was allowed in place of the rule, or None.
        operators: in the file, name -> how often.
        delegates: parts that another engine takes whole; None where the runtime has none.
        nbytes: of all files.
        milliseconds: of one call on one thread, of the "runtime" and, after it, of the network in
            "PyTorch", as it was given, in float32.
        notes: what else to know: what was not compared, and why.
        versions: of the packages.
        environment: processor, PyTorch and so on.
        kept: for a later check; empty where the network's are too large.
    """

    runtime: str
    files: dict[str, str]
    dtype: str
    form: str
    refused_forms: dict[str, str]
    dynamic: list[int]
    prepared: list[dict[str, Any]]
    ranges: list[dict[str, Any]]
    checks: list[Check]
    norms: list[NormCheck]
    not_run: str | None
    tolerance: float | None
    operators: dict[str, int]
    delegates: int | None
    nbytes: int
    milliseconds: dict[str, float]
    notes: list[str]
    versions: dict[str, str]
    environment: dict[str, Any]
    kept: list[Expected] = field(default_factory=list)

    @property
    def failed(self) -> list[Check | NormCheck]:
        """The checks that are above what is allowed."""
        every: list[Check | NormCheck] = [*self.checks, *self.norms]
        return [one for one in every if not one.passed]

    def to_json(self) -> str:
        """The report as JSON; numbers that are not finite are written as text."""
        values = asdict(self) | {"format": FORMAT, "kept": [_packed(one) for one in self.kept]}
        return json.dumps(_finite(values), indent=1) + "\n"


def report_path(path: Path) -> Path:
    """Where the report of a file stands."""
    return path.with_name(f"{path.name}.report.json")


def write_report(path: Path, report: ExportReport) -> None:
    """Write the report of the file `path` beside it."""
    write_atomic(report_path(path), report.to_json())


def read_report(path: Path) -> ExportReport:
    """The report of the file `path`.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    where = report_path(path)
    try:
        if where.stat().st_size > _MOST_READ:
            raise ExportError(f"{where} has more than {_MOST_READ >> 20} MB: no report")
        values = json.loads(where.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ExportError(f"{where} was written by another version; export again")
        values["files"] = dict(values["files"])
        values["checks"] = [Check(**_numbers(one)) for one in values["checks"]]
        values["norms"] = [NormCheck(**_numbers(one)) for one in values["norms"]]
        values["kept"] = [_unpacked(one) for one in values["kept"]]
        return ExportReport(**values)
    except FileNotFoundError:
        raise ExportError(f"{path} has no report: {where} is missing. Export it again") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        raise ExportError(f"{where} is damaged ({error}); export again") from error


def _packed(kept: Expected) -> dict[str, Any]:
    arrays = {key: [_array(one) for one in getattr(kept, key)] for key in ("inputs", "outputs")}
    return arrays | {key: getattr(kept, key) for key in ("name", "pytorch", "allowed")}


def _array(values: Array) -> dict[str, Any]:
    data = zlib.compress(np.ascontiguousarray(values).tobytes())
    return {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "zlib": base64.b64encode(data).decode("ascii"),
    }


def _unpacked(values: dict[str, Any]) -> Expected:
    inputs, outputs = ([_read_array(one) for one in values[key]] for key in ("inputs", "outputs"))
    pytorch, allowed = ([float(one) for one in values[key]] for key in ("pytorch", "allowed"))
    if not len(pytorch) == len(allowed) == len(outputs):
        raise ValueError(f"{len(pytorch)} errors of {len(outputs)} outputs")
    return Expected(str(values["name"]), inputs, outputs, pytorch, allowed)


def _read_array(values: dict[str, Any]) -> Array:
    if values["dtype"] not in _KEPT_DTYPES:
        raise ValueError(f"unknown dtype {values['dtype']!r}")
    dtype = np.dtype(values["dtype"])
    shape = tuple(int(size) for size in values["shape"])
    nbytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or nbytes > MOST_KEPT:
        raise ValueError(f"an array of shape {shape}")
    data = zlib.decompressobj().decompress(base64.b64decode(values["zlib"]), nbytes + 1)
    if len(data) != nbytes:
        raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Of a check: "inf" and "nan" are numbers again."""
    texts = ("name", "form", "on", "output")
    return {key: one if key in texts else float(one) for key, one in values.items()}
