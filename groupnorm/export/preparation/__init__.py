"""A network made ready for a runtime: what folds is folded, and norms have the runtime's form."""

from groupnorm.export.preparation.network import prepare
from groupnorm.export.preparation.report import NormRange, PreparedLayer, PrepareReport

__all__ = ["NormRange", "PrepareReport", "PreparedLayer", "prepare"]
