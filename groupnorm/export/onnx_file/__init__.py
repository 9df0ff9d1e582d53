"""Group norm in anybody's ONNX file: where it is, where it goes wrong, and writing it anew."""

from groupnorm.export.onnx_file.inspection import FoundNorm, Inspection, inspect
from groupnorm.export.onnx_file.repair import RepairReport, repair

__all__ = ["FoundNorm", "Inspection", "RepairReport", "inspect", "repair"]
