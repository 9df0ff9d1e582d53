"""Networks with group norm for other runtimes: right, fast and small, proven by running them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy

if TYPE_CHECKING:
    from groupnorm.export.errors import ExportError
    from groupnorm.export.onnx_file import inspect, repair
    from groupnorm.export.preparation import prepare
    from groupnorm.export.report import ExportReport, read_report
    from groupnorm.export.saving import save
    from groupnorm.export.targets import TARGETS
    from groupnorm.export.verification import verify

__all__ = [
    "TARGETS",
    "ExportError",
    "ExportReport",
    "inspect",
    "prepare",
    "read_report",
    "repair",
    "save",
    "verify",
]

# modules of other names than what they hold: a module would hide a function of its name
_HOMES = {
    "TARGETS": "groupnorm.export.targets",
    "ExportError": "groupnorm.export.errors",
    "ExportReport": "groupnorm.export.report",
    "inspect": "groupnorm.export.onnx_file",
    "prepare": "groupnorm.export.preparation",
    "read_report": "groupnorm.export.report",
    "repair": "groupnorm.export.onnx_file",
    "save": "groupnorm.export.saving",
    "verify": "groupnorm.export.verification",
}

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
