"""Group normalization: one definition, several implementations."""

from groupnorm.ops.group_norm.api import group_norm
from groupnorm.ops.group_norm.backends import explain

__all__ = ["explain", "group_norm"]
