"""The operation: one definition, several implementations."""

from groupnorm.ops.backends import explain
from groupnorm.ops.group_norm import group_norm

__all__ = ["explain", "group_norm"]
